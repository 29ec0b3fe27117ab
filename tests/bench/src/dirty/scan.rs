// SPDX-License-Identifier: GPL-2.0-or-later
//! What QEMU does for a round with KVM's dirty ring: it makes bitmaps of the size of the machine of
//! what the ring says, and walks them.
//!
//! A word of a bitmap is looked at and left alone where it is zero, as in QEMU, whose bitmaps change
//! by atomic operations where other threads may change them, too. Two things cost QEMU more than
//! this: its second bitmap lies in pieces, and on x86 with SMM it has a slot's bitmap twice, as there
//! are two address spaces. What both ways have to do is in neither: having KVM protect the pages
//! again, and setting the bits of the display.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dirty::timer::Timer;

/// Bitmaps with a bit for each page.
pub type Bitmap = Vec<u64>;
/// The same, which several threads may change.
pub type SharedBitmap = Vec<AtomicU64>;

/// The parts of a round, in order.
pub const PARTS: [(&str, &str); 4] = [
    ("harvest", "set bits of the slot's bitmap"),
    ("slot_walk", "walk it into dirty_memory"),
    ("slot_clear", "clear it"),
    (
        "memory_walk",
        "walk dirty_memory into the migration's bitmap",
    ),
];
/// Those that QEMU does once for each address space with slots.
pub const PER_ADDRESS_SPACE: [usize; 2] = [1, 2];

/// A bitmap for `pages` pages that has its memory.
pub fn bitmap(pages: u64) -> Bitmap {
    let mut words = vec![0; (pages / 64) as usize];
    // Memory that the system had filled with zeros before is given on the first write only.
    black_box(&mut words).fill(1);
    black_box(&mut words).fill(0);
    words
}

/// The same for several threads.
pub fn shared_bitmap(pages: u64) -> SharedBitmap {
    bitmap(pages).into_iter().map(AtomicU64::new).collect()
}

/// The word of a page and its bit there.
#[inline]
pub fn place(page: u64) -> (usize, u64) {
    ((page / 64) as usize, 1 << (page % 64))
}

/// The bitmaps of a machine with one slot.
#[derive(Debug)]
pub struct Scan {
    slot: Bitmap,
    memory: SharedBitmap,
    migration: Bitmap,
}

impl Scan {
    /// For a machine with so many pages, none of them dirty.
    pub fn new(pages: u64) -> Scan {
        Scan {
            slot: bitmap(pages),
            memory: shared_bitmap(pages),
            migration: bitmap(pages),
        }
    }

    /// A round in which `harvested` came from the ring; gives how many pages are newly dirty for the
    /// migration, and the time of each of [`PARTS`] in nanoseconds.
    pub fn round(&mut self, harvested: &[u64]) -> (u64, [f64; PARTS.len()]) {
        let mut timer = Timer::start();
        harvest(&mut self.slot, harvested);
        let harvest = timer.lap();
        walk_slot(&self.slot, &self.memory);
        let slot_walk = timer.lap();
        self.slot.fill(0);
        let slot_clear = timer.lap();
        let dirty = walk_memory(&self.memory, &mut self.migration);
        let memory_walk = timer.lap();
        let parts = [harvest, slot_walk, slot_clear, memory_walk];
        (dirty, timer.end(parts))
    }

    /// The migration sends these pages.
    pub fn sent(&mut self, pages: &[u64]) {
        clear(&mut self.migration, pages);
    }

    /// Pages that the migration still has to send.
    pub fn migration(&self) -> &[u64] {
        &self.migration
    }

    /// Bytes of all bitmaps.
    pub fn bytes(pages: u64) -> u64 {
        3 * pages / 8
    }
}

/// Takes pages out of a bitmap that nobody else changes.
pub fn clear(bitmap: &mut [u64], pages: &[u64]) {
    for &page in pages {
        let (word, bit) = place(page);
        bitmap[word] &= !bit;
    }
}

// Functions of their own, so that what is left of one loop does not depend on the next.

#[inline(never)]
fn harvest(slot: &mut [u64], pages: &[u64]) {
    for &page in pages {
        let (word, bit) = place(page);
        slot[word] |= bit;
    }
}

#[inline(never)]
fn walk_slot(slot: &[u64], memory: &[AtomicU64]) {
    for (bits, word) in slot.iter().zip(memory) {
        if *bits != 0 {
            word.fetch_or(*bits, Ordering::SeqCst);
        }
    }
}

#[inline(never)]
fn walk_memory(memory: &[AtomicU64], migration: &mut [u64]) -> u64 {
    let mut dirty = 0;
    for (word, sent) in memory.iter().zip(migration) {
        if word.load(Ordering::Relaxed) != 0 {
            let bits = word.swap(0, Ordering::SeqCst);
            dirty += u64::from((bits & !*sent).count_ones());
            *sent |= bits;
        }
    }
    dirty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_finds_what_was_harvested_and_not_dirty_before() {
        let mut scan = Scan::new(1 << 20);
        let pages = [0, 63, 64, 4096, (1 << 20) - 1];
        assert_eq!(scan.round(&pages).0, 5);
        assert_eq!(scan.round(&[64, 65]).0, 1);
        scan.sent(&pages);
        assert_eq!(scan.round(&[64, 65, 66]).0, 2);
        assert_eq!(scan.round(&[]).0, 0);
    }
}
