// SPDX-License-Identifier: GPL-2.0-or-later
//! What the dirty list does for a round: nothing that depends on the size of the machine.
//!
//! As in QEMU, a page that was harvested gets its bit in `dirty_memory`, and is noted if that was not
//! set. A synchronization fetches in batches, clears these bits and sets those of the migration's
//! bitmap. There is one virtual CPU.

use std::hint::black_box;
use std::sync::atomic::Ordering;

use dirty_pages::{DirtyList, DirtyOptions, VERSION};
use guest::{Error, Result};

use crate::dirty::scan::{self, Bitmap, SharedBitmap, bitmap, place, shared_bitmap};
use crate::dirty::timer::Timer;
use crate::sys;

/// The parts of a round, in order.
pub const PARTS: [(&str, &str); 3] = [
    ("note", "set bits of dirty_memory and note"),
    ("fetch", "fetch from the list"),
    (
        "apply",
        "clear bits of dirty_memory, set those of the migration",
    ),
];
/// Pages that QEMU fetches at a time.
const BATCH: usize = 4096;
/// QEMU has the words of so many pages fetched from memory at the same time. Otherwise each page waits for
/// those before it.
const AHEAD: usize = 32;
/// The processor that wrote.
const VCPU: usize = 0;

/// Bitmaps of a machine that does not change between two cases.
#[derive(Debug)]
pub struct Bitmaps {
    memory: SharedBitmap,
    migration: Bitmap,
}

impl Bitmaps {
    /// For a machine with so many pages, none of them dirty.
    pub fn new(pages: u64) -> Bitmaps {
        Bitmaps {
            memory: shared_bitmap(pages),
            migration: bitmap(pages),
        }
    }

    /// The migration sends these pages.
    pub fn sent(&mut self, pages: &[u64]) {
        scan::clear(&mut self.migration, pages);
    }
}

/// A list that a migration uses.
pub struct Listed {
    list: DirtyList,
    /// Bytes that were allocated before there was a list.
    allocated_before: usize,
    batch: Vec<u64>,
}

/// What [`DirtyList`] is to be here.
pub fn options(max_dirty: usize, no_dups: bool, vcpus: usize) -> DirtyOptions {
    DirtyOptions {
        version: VERSION,
        no_dups,
        max_dirty,
        dirty_trigger: 0,
        vcpus,
    }
}

/// What the library says, in our words.
pub fn library(error: dirty_pages::Error) -> Error {
    Error::Tool(format!("the dirty list: {error}"))
}

impl Listed {
    /// With room for `max_dirty` pages. The first synchronization of a migration is done.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(max_dirty: usize) -> Result<Listed> {
        let batch = vec![0; BATCH];
        let allocated_before = sys::allocated();
        let list = DirtyList::new(options(max_dirty, true, 1)).map_err(library)?;
        list.sync_begin();
        Ok(Listed {
            list,
            allocated_before,
            batch,
        })
    }

    /// Bytes that the list has allocated.
    pub fn bytes(&self) -> u64 {
        sys::allocated().saturating_sub(self.allocated_before) as u64
    }

    /// A round in which `harvested` came from the ring; gives how many pages are newly dirty for the
    /// migration, and the time of each of [`PARTS`] in nanoseconds.
    ///
    /// # Errors
    /// When the list says that it does not have all, which must not be.
    pub fn round(
        &mut self,
        bitmaps: &mut Bitmaps,
        harvested: &[u64],
    ) -> Result<(u64, [f64; PARTS.len()])> {
        let mut timer = Timer::start();
        self.note(bitmaps, harvested);
        let note = timer.lap();
        let listed = self.list.sync_begin();
        let (mut dirty, mut fetch, mut apply) = (0, 0.0, 0.0);
        loop {
            let count = self.list.sync_fetch(&mut self.batch).map_err(library)?;
            fetch += timer.lap();
            if count == 0 {
                break;
            }
            dirty += bitmaps.apply(&self.batch[..count]);
            apply += timer.lap();
        }
        if !listed {
            return Err(Error::Tool("the dirty list lost pages".into()));
        }
        Ok((dirty, timer.end([note, fetch, apply])))
    }

    #[inline(never)]
    fn note(&self, bitmaps: &Bitmaps, pages: &[u64]) {
        for pages in pages.chunks(AHEAD) {
            for &page in pages {
                black_box(bitmaps.memory[place(page).0].load(Ordering::Relaxed));
            }
            for &page in pages {
                let (word, bit) = place(page);
                if bitmaps.memory[word].fetch_or(bit, Ordering::SeqCst) & bit == 0 {
                    self.list.note(VCPU, page, 1);
                }
            }
        }
    }
}

impl Bitmaps {
    /// `pages` are sorted, so those in one word follow each other.
    #[inline(never)]
    fn apply(&mut self, pages: &[u64]) -> u64 {
        pages
            .chunks(AHEAD)
            .map(|pages| {
                for &page in pages {
                    let (word, _) = place(page);
                    black_box(self.memory[word].load(Ordering::Relaxed));
                    black_box(self.migration[word]);
                }
                self.apply_few(pages)
            })
            .sum()
    }

    fn apply_few(&mut self, pages: &[u64]) -> u64 {
        let mut dirty = 0;
        for pages in pages.chunk_by(|a, b| a / 64 == b / 64) {
            let bits = pages.iter().fold(0, |bits, &page| bits | place(page).1);
            let (word, _) = place(pages[0]);
            self.memory[word].fetch_and(!bits, Ordering::SeqCst);
            let sent = &mut self.migration[word];
            dirty += u64::from((bits & !*sent).count_ones());
            *sent |= bits;
        }
        dirty
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::plan::{Case, Place};
    use crate::dirty::scan::Scan;

    #[test]
    fn a_round_finds_what_the_scan_finds() {
        for place in Place::ALL {
            let case = Case {
                ram_gib: 4,
                ppm: 10_000,
                place,
            };
            let mut scan = Scan::new(case.ram_pages());
            let mut bitmaps = Bitmaps::new(case.ram_pages());
            let mut listed = Listed::new(case.count() as usize).unwrap();
            for round in 0..3 {
                let pages = case.pages(round);
                let (scanned, _) = scan.round(&pages);
                let (found, _) = listed.round(&mut bitmaps, &pages).unwrap();
                assert_eq!(found, scanned, "{place:?}, round {round}");
                // Every second page stays dirty.
                let sent: Vec<u64> = pages.into_iter().step_by(2).collect();
                scan.sent(&sent);
                bitmaps.sent(&sent);
                assert_eq!(bitmaps.migration, scan.migration());
                assert!(
                    bitmaps
                        .memory
                        .iter()
                        .all(|w| w.load(Ordering::Relaxed) == 0)
                );
            }
        }
    }

    #[test]
    fn what_a_list_allocates_is_counted() {
        let listed = Listed::new(1 << 20).unwrap();
        listed.note(&Bitmaps::new(1 << 20), &[1]);
        // The ring of the virtual CPU at least. Other tests allocate, too.
        assert!(listed.bytes() >= 8 << 20);
    }
}
