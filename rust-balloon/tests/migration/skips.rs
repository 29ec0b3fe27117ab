// SPDX-License-Identifier: GPL-2.0-or-later
//! Which bits are cleared and set, and what is counted.

use virtio_balloon_rs::memory::{BlockId, BlockRange, HostRange};
use virtio_balloon_rs::migration::arming::Arm;
use virtio_balloon_rs::migration::bitmaps::{BlockView, DirtyBitmaps};
use virtio_balloon_rs::migration::skips::{DirtyChange, Hint, Skips};

/// log2 of the bytes of a page: larger than the guest's.
const SHIFT: u32 = 14;
const PAGE: u64 = 1 << SHIFT;
/// Pages of each block, chunks of 64. The blocks lie one behind the other in the host's memory.
const PAGES: u64 = 130;
const BYTES: u64 = PAGES * PAGE;
const BASE: usize = 1 << 30;

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

    fn balloon(&mut self, version: u64, pages: &[u64]) {
        let ranges = pages.iter().map(|page| BlockRange {
            block: BlockId(0),
            offset: page * PAGE,
            bytes: PAGE,
        });
        self.change(|skips, bitmaps, change| {
            skips.leave_out_ballooned(bitmaps, Some(version), ranges, change);
        });
    }

    /// A synchronization that finds these words of the first block to be dirty.
    fn sync(&mut self, dirty: [u64; 3]) {
        for (word, new) in self.bitmaps.dirty[0].iter_mut().zip(dirty) {
            self.dirty += u64::from((new & !*word).count_ones());
            *word |= new;
        }
        self.bitmaps.unarmed = [[7]; 2];
        self.change(|skips, bitmaps, change| {
            for block in 0..3 {
                skips.synced(bitmaps, BlockId(block), change);
            }
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
    case.change(|skips, bitmaps, change| skips.synced(bitmaps, BlockId(0), change));
    assert_eq!(case.bitmaps.dirty[0], [u64::MAX, !3, 3]);
    assert_eq!(case.skips.counters().hint_left_out_bytes, 2 * PAGE);
}

#[test]
fn what_left_the_balloon_is_sent_and_the_rest_stays_left_out() {
    let mut case = Case::new();
    case.balloon(1, &[0, 1, 70]);
    assert_eq!(case.bitmaps.dirty[0], [!3, !(1 << 6), 3]);
    case.sync([1, 0, 0]);
    case.balloon(1, &[]);
    assert_eq!(
        case.bitmaps.dirty[0],
        [!3, !(1 << 6), 3],
        "the same version"
    );
    case.sync([0; 3]);
    case.balloon(2, &[1]);
    assert_eq!(case.bitmaps.dirty[0], [!2, u64::MAX, 3]);
    assert_eq!(case.skips.counters().ballooned_left_out_bytes, PAGE);
}

#[test]
fn postcopy_makes_all_dirty_that_was_left_out() {
    let mut case = Case::new();
    case.hint(0, 2 * PAGE);
    case.balloon(1, &[5]);
    let mut left_out = None;
    case.change(|skips, bitmaps, change| {
        left_out = skips.postcopy(bitmaps, BlockId(0), change);
    });
    assert_eq!(case.dirty, 2 * PAGES);
    let left_out = left_out.expect("a block that is migrated");
    assert_eq!(left_out.runs().collect::<Vec<_>>(), [0..2, 5..6]);
    case.change(|skips, bitmaps, change| {
        assert!(skips.postcopy(bitmaps, BlockId(2), change).is_none());
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
