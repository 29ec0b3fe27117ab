// SPDX-License-Identifier: GPL-2.0-or-later
//! Which bits are cleared and set, and what is counted.

use balloon::memory::{Backing, BlockId, HostRange, MemoryMap, Section};
use balloon::migration::arming::Arm;
use balloon::migration::bitmaps::{BlockView, DirtyBitmaps};
use balloon::migration::skips::{Announced, DirtyChange, Hint, Skips};
use balloon::migration::sweep::Ballooned;
use balloon::page::GpaRange;
use sparse_bitmap::SparseBitmap;

/// log2 of the bytes of a page: larger than the guest's.
const SHIFT: u32 = 14;
const PAGE: u64 = 1 << SHIFT;
/// Pages of each block, chunks of 64. The blocks lie one behind the other in the host's memory.
const PAGES: u64 = 130;
const BYTES: u64 = PAGES * PAGE;
const BASE: usize = 1 << 30;

/// The first page of the guest in the first block.
const FIRST_GUEST_PAGE: u64 = 1 << 10;

fn memory() -> MemoryMap {
    let section = |block: usize| {
        let first = FIRST_GUEST_PAGE + (block as u64) * (BYTES >> 12);
        Section {
            gpa: GpaRange::of_page_indices(first..first + (BYTES >> 12)).expect("pages"),
            block: BlockId(block),
            offset: 0,
            page_size: 4096,
            host: BASE + block * BYTES as usize,
            backing: Backing::default(),
        }
    };
    MemoryMap::new((0..3).map(section).collect()).expect("a map")
}

/// Two blocks that are migrated, and one that is not.
struct Bitmaps {
    dirty: [[u64; 3]; 2],
    unarmed: [[u64; 1]; 2],
}

impl DirtyBitmaps for Bitmaps {
    fn view(&mut self, block: BlockId) -> Option<BlockView<'_>> {
        Some(BlockView {
            dirty: self.dirty.get_mut(block.0)?,
            pages: PAGES,
            unarmed: &self.unarmed[block.0],
            chunk_shift: 6,
        })
    }

    fn find(&mut self, host: usize) -> Option<(BlockId, u64)> {
        let at = host.checked_sub(BASE)? as u64;
        (at < 3 * BYTES).then_some((BlockId((at / BYTES) as usize), at % BYTES))
    }

    fn arm(&mut self, block: BlockId, pages: std::ops::Range<u64>, whole_chunk: bool) {
        assert!(whole_chunk);
        self.unarmed[block.0][0] &= !(1 << (pages.start / 64));
    }
}

struct Case {
    bitmaps: Bitmaps,
    skips: Skips,
    dirty: u64,
}

impl Case {
    /// All is dirty, and the log is armed and trusted.
    fn new() -> Case {
        let mut case = Case {
            bitmaps: Bitmaps {
                dirty: [[u64::MAX, u64::MAX, 3]; 2],
                unarmed: [[7]; 2],
            },
            skips: Skips::new(SHIFT),
            dirty: 2 * PAGES,
        };
        for block in 0..3 {
            while case.skips.arm(&mut case.bitmaps, BlockId(block), Arm::All) {}
        }
        case.skips.trust(0);
        case
    }

    /// These words of the first block become dirty.
    fn write(&mut self, dirty: [u64; 3]) {
        for (word, new) in self.bitmaps.dirty[0].iter_mut().zip(dirty) {
            self.dirty += u64::from((new & !*word).count_ones());
            *word |= new;
        }
    }

    fn change(&mut self, body: impl FnOnce(&mut Skips, &mut Bitmaps, &mut DirtyChange)) {
        let mut change = DirtyChange::default();
        body(&mut self.skips, &mut self.bitmaps, &mut change);
        self.dirty = self.dirty + change.set - change.cleared;
        let words = self.bitmaps.dirty.iter().flatten();
        let bits: u64 = words.map(|word| u64::from(word.count_ones())).sum();
        assert_eq!(self.dirty, bits);
    }

    fn hint(&mut self, start: u64, bytes: u64) {
        let range = HostRange {
            host: BASE + start as usize,
            bytes,
        };
        self.change(|skips, bitmaps, change| {
            skips.leave_out_hinted(bitmaps, &[Hint { range, epoch: 1 }], change);
        });
    }

    /// The sweep behind a synchronization, with these pages of the first block in the balloon.
    fn balloon(&mut self, pages: &[u64]) {
        let mut set = SparseBitmap::new(1 << 20);
        for page in pages {
            let first = FIRST_GUEST_PAGE + (page << (SHIFT - 12));
            set.insert_range(first..first + (1 << (SHIFT - 12)));
        }
        // A page of the balloon alone is none of the migration.
        set.insert_range(FIRST_GUEST_PAGE + 9 * 4 + 1..FIRST_GUEST_PAGE + 10 * 4);
        let memory = memory();
        let balloon = Ballooned {
            pages: &set,
            memory: &memory,
        };
        self.bitmaps.unarmed = [[7]; 2];
        self.change(|skips, bitmaps, change| {
            skips.synced();
            while skips.sweep_words(1, bitmaps, Some(&balloon), change) {}
        });
    }

    /// A synchronization that finds these words of the first block to be dirty.
    fn sync(&mut self, dirty: [u64; 3]) {
        self.write(dirty);
        self.bitmaps.unarmed = [[7]; 2];
        self.change(|skips, bitmaps, change| {
            skips.synced();
            while skips.sweep(bitmaps, None, change) {}
        });
    }
}

#[test]
fn ends_are_clamped_inward() {
    let mut case = Case::new();
    case.hint(PAGE - 1, 2 * PAGE);
    assert_eq!(case.bitmaps.dirty[0][0], !2);
    let counters = case.skips.counters();
    assert_eq!(counters.refused_partial_page_bytes, PAGE);
    assert_eq!(counters.hint_left_out_bytes, PAGE);
    // Within a page, and nothing at all.
    case.hint(5 * PAGE + 1, PAGE - 1);
    case.hint(7 * PAGE, 0);
    assert_eq!(case.bitmaps.dirty[0][0], !2);
    assert_eq!(
        case.skips.counters().refused_partial_page_bytes,
        2 * PAGE - 1
    );
}

#[test]
fn chunks_and_blocks_are_crossed() {
    let mut case = Case::new();
    case.hint(63 * PAGE, BYTES);
    assert_eq!(case.bitmaps.dirty[0], [u64::MAX >> 1, 0, 0]);
    assert_eq!(case.bitmaps.dirty[1], [1 << 63, u64::MAX, 3]);
    assert_eq!(case.dirty, PAGES);
    // A second time there is nothing more to clear.
    case.hint(63 * PAGE, BYTES);
    assert_eq!(case.skips.counters().hint_left_out_bytes, BYTES);
}

#[test]
fn what_cannot_be_left_out_is_counted_by_reason() {
    let mut case = Case::new();
    case.hint(2 * BYTES - PAGE, 3 * PAGE);
    case.hint(3 * BYTES, 5 * PAGE);
    case.skips.trust(9);
    let counters = case.skips.counters();
    assert_eq!(counters.hint_left_out_bytes, PAGE);
    assert_eq!(counters.refused_not_migrated_bytes, 2 * PAGE);
    assert_eq!(counters.refused_not_ram_bytes, 5 * PAGE);
    case.sync([0; 3]);
    case.hint(0, 2 * PAGE);
    assert_eq!(case.skips.counters().refused_unprotected_bytes, 2 * PAGE);
    assert_eq!(case.dirty, 2 * PAGES - 1);
}

#[test]
fn a_page_that_was_written_is_not_left_out_any_more() {
    let mut case = Case::new();
    case.hint(0, 4 * PAGE);
    case.sync([1 << 2, 0, 0]);
    assert_eq!(case.skips.counters().hint_left_out_bytes, 3 * PAGE);
    case.skips.begin();
    assert_eq!(case.skips.counters().hint_left_out_bytes, 0);
}

/// The migration thread sent a page between a synchronization in the main loop and its being told.
#[test]
fn a_page_that_may_have_been_sent_is_sent() {
    let mut case = Case::new();
    case.hint(62 * PAGE, 4 * PAGE);
    case.bitmaps.unarmed = [[6]; 2];
    case.change(|skips, bitmaps, change| {
        skips.synced();
        assert!(!skips.sweep(bitmaps, None, change));
    });
    assert_eq!(case.bitmaps.dirty[0], [u64::MAX, !3, 3]);
    assert_eq!(case.skips.counters().hint_left_out_bytes, 2 * PAGE);
}

#[test]
fn what_left_the_balloon_is_sent_and_the_rest_stays_left_out() {
    let mut case = Case::new();
    case.balloon(&[0, 1, 70]);
    assert_eq!(case.bitmaps.dirty[0], [!3, !(1 << 6), 3]);
    case.write([1, 0, 0]);
    case.balloon(&[0, 1, 70]);
    assert_eq!(
        case.bitmaps.dirty[0],
        [!3, !(1 << 6), 3],
        "what is in the balloon stays left out"
    );
    case.balloon(&[1]);
    assert_eq!(case.bitmaps.dirty[0], [!2, u64::MAX, 3]);
    assert_eq!(case.skips.counters().ballooned_left_out_bytes, PAGE);
    case.sync([0; 3]);
    assert_eq!(
        case.dirty,
        2 * PAGES,
        "without a device there is no balloon"
    );
}

/// The sweep behind a synchronization was not done when the next one came: who knows what was
/// sent since.
#[test]
fn what_a_sweep_did_not_come_to_is_doubtful() {
    let mut case = Case::new();
    case.hint(62 * PAGE, 4 * PAGE);
    case.hint(BYTES, 2 * PAGE);
    case.bitmaps.unarmed = [[7]; 2];
    // The first block is done, the second is not.
    case.change(|skips, bitmaps, change| {
        skips.synced();
        assert!(skips.sweep_words(1, bitmaps, None, change));
    });
    case.sync([0; 3]);
    assert_eq!(case.bitmaps.dirty[0], [!(3 << 62), !3, 3]);
    assert_eq!(case.bitmaps.dirty[1], [u64::MAX, u64::MAX, 3]);
    // That one was done.
    case.hint(BYTES, 2 * PAGE);
    assert_eq!(case.dirty, 2 * PAGES - 4, "the log is not armed");
    case.sync([0; 3]);
    assert_eq!(case.dirty, 2 * PAGES - 4);
}

#[test]
fn postcopy_makes_all_dirty_that_was_left_out() {
    let mut case = Case::new();
    case.hint(0, 2 * PAGE);
    case.hint(70 * PAGE, PAGE);
    case.balloon(&[5]);
    // One of them is to be sent all the same.
    case.write([1, 0, 0]);
    let (mut left_out, mut steps) = (Vec::new(), 0);
    while left_out.is_empty() {
        steps += 1;
        case.change(|skips, bitmaps, change| {
            if let Announced::All(sets) = skips.postcopy_words(1, bitmaps, BlockId(0), change) {
                left_out = sets;
            }
        });
    }
    assert_eq!(steps, 3, "a word each");
    assert_eq!(case.dirty, 2 * PAGES);
    let runs = left_out.iter().flat_map(|pages| pages.runs());
    assert_eq!(runs.collect::<Vec<_>>(), [1..2, 70..71, 5..6]);
    case.change(|skips, bitmaps, change| {
        let announced = skips.postcopy(bitmaps, BlockId(2), change);
        assert!(matches!(announced, Announced::All(sets) if sets.is_empty()));
    });
}

/// A guest says how long its hints are, and a number that is as large as it can be stays.
#[test]
fn hints_of_more_than_there_is() {
    let mut case = Case::new();
    for _ in 0..2 {
        case.hint(3 * BYTES, u64::MAX);
        case.hint(2 * BYTES, u64::MAX);
    }
    let counters = case.skips.counters();
    assert_eq!(counters.refused_not_ram_bytes, u64::MAX);
    assert_eq!(counters.refused_not_migrated_bytes, u64::MAX);
}
