// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages left out of a migration, and why none of them is missed.
//!
//! # Hinted pages
//!
//! A hint says: this page was free at some time after the round of hints was asked for. The guest may
//! use it again at any time, before the hint is looked at or after. Its bit in the migration's dirty
//! bitmap is cleared only if
//!
//! 1. the dirty log of its chunk was armed before the hint could be posted, and
//! 2. no synchronization of the bitmap lies between the hint's arrival and the clearing, and no page is
//!    sent between a synchronization and [`Skips::synced`] without that being noticed there.
//!
//! What the page held when the log was armed is not needed: the page was free later. What the guest
//! writes from then on is noted in the log, so the next synchronization sets the bit again, and there
//! is one before the guest goes on elsewhere, with the guest stopped. Between the two nothing
//! here touches the log: clearing it would forget a write that came after the hint. By 2 a bit that
//! tells of such a write is never cleared. The log is armed
//!
//! - with KVM without manual clearing by the synchronization itself, which takes the noted writes and
//!   protects the pages in one step;
//! - under TCG by the synchronization, which takes the noted writes, and what follows it: the processors'
//!   TLBs are made to note writes again. QEMU's own synchronization does the latter only where it found
//!   a page that was not dirty before, so the device does it each time;
//! - with KVM's manual clearing chunk by chunk, later, by [`DirtyBitmaps::arm`]: all chunks before the
//!   round is asked for, or, in a guest so large that this is cut short, a chunk when the first hint
//!   into it comes. That hint, and all that were posted before the queue was next seen empty, do not
//!   count; nor does any part of an answer to a request, which may have been put together before. A chunk that was trusted is not armed again before the next synchronization. One that was
//!   armed in part may be, by whoever sends a page of it: that forgets only writes that the last
//!   synchronization had taken, as QEMU clears KVM's log through its own copy of it;
//! - with KVM's dirty ring when an entry is taken from the ring, which the synchronization does for all
//!   entries. A page whose entry was not taken yet is in the ring, and so not forgotten either.
//!
//! # Ballooned pages
//!
//! With MUST_TELL_HOST a page in the balloon is not used before its deflate was acknowledged. At each
//! synchronization, if the balloon is not as it was at the last one, the bits of all pages that were
//! left out before for this reason are set, and then those of all pages that are in the balloon now are
//! cleared. So a page that left the balloon, for whatever reason, is sent after the next
//! synchronization, and again there is one with the guest stopped.
//!
//! # Postcopy
//!
//! Pages left out are remembered until they are dirty again. When postcopy begins they are announced
//! to the destination as zero, without a look at them: no page may be missing there.

use super::arming::{Arm, Arming, Epoch, MAX_SLICES_BEFORE_ROUND};
use super::bitmaps::{BlockView, DirtyBitmaps};
use crate::bitmap::{PageBitmap, masks};
use crate::counters::Tally;
use crate::memory::{BlockId, BlockRange, HostRange};
use std::ops::Range;

/// Memory that the guest hinted at, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The memory.
    pub range: HostRange,
    /// The epoch it came in.
    pub epoch: Epoch,
}

/// How the number of dirty pages changes. Both grow together with the bits, so that they hold
/// whatever happens later in a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DirtyChange {
    /// Bits cleared.
    pub cleared: u64,
    /// Bits set.
    pub set: u64,
}

/// What was left out of the current or last migration, and what was refused since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SkipCounters {
    /// Bytes of hinted memory that are left out: not sent, and not written since.
    pub hint_left_out_bytes: u64,
    /// Bytes in the balloon that are left out.
    pub ballooned_left_out_bytes: u64,
    /// Bytes hinted that are not RAM.
    pub refused_not_ram_bytes: u64,
    /// Bytes hinted in RAM that is not migrated.
    pub refused_not_migrated_bytes: u64,
    /// Bytes at the ends of hints that do not fill a page.
    pub refused_partial_page_bytes: u64,
    /// Bytes hinted before the dirty log was armed for them.
    pub refused_unprotected_bytes: u64,
}

#[derive(Default)]
struct Block {
    hinted: Option<PageBitmap>,
    ballooned: Option<PageBitmap>,
    arming: Arming,
}

/// Clears the bits of `pages` that are set, and adds those pages to `left_out`.
fn clear_bits(
    view: &mut BlockView<'_>,
    pages: Range<u64>,
    change: &mut DirtyChange,
    left_out: &mut PageBitmap,
) {
    for (word, mask) in masks(pages.start..pages.end.min(view.pages)) {
        let Some(place) = view.dirty.get_mut(word) else {
            return;
        };
        let hit = *place & mask;
        if hit != 0 {
            *place &= !hit;
            change.cleared += u64::from(hit.count_ones());
            left_out.add_word(word, hit);
        }
    }
}

/// Sets those bits of `word` that are not set.
fn set_bits(view: &mut BlockView<'_>, word: usize, bits: u64, change: &mut DirtyChange) -> u64 {
    let Some(place) = view.dirty.get_mut(word) else {
        return 0;
    };
    let new = bits & !*place;
    *place |= new;
    change.set += u64::from(new.count_ones());
    new
}

/// Takes the pages that are dirty out of `set`.
fn settle(set: &mut Option<PageBitmap>, view: &BlockView<'_>) {
    let Some(set) = set else {
        return;
    };
    let dirty: Vec<(usize, u64)> = set
        .words()
        .map(|(word, bits)| {
            (
                word,
                bits & view.dirty.get(word).copied().unwrap_or(u64::MAX),
            )
        })
        .filter(|&(_, bits)| bits != 0)
        .collect();
    for (word, bits) in dirty {
        set.clear_word(word, bits);
    }
}

/// Has those pages of `set` sent that may have been sent since the synchronization: a page that was
/// written and is sent is not dirty any more, and to be announced as zero it must not have been
/// written. A synchronization in the main loop does not keep the migration thread from sending until
/// this is told of it. It leaves no chunk armed, and who sends a page arms its chunk.
fn send_doubtful(set: &mut Option<PageBitmap>, view: &mut BlockView<'_>, change: &mut DirtyChange) {
    let Some(set) = set else {
        return;
    };
    for chunk in 0..view.chunks() {
        if set.count() > 0 && view.is_armed(chunk) {
            for (word, mask) in masks(view.chunk_pages(chunk)) {
                let bits = set.word(word) & mask;
                set.clear_word(word, bits);
                set_bits(view, word, bits, change);
            }
        }
    }
}

/// The pages left out of a migration.
pub struct Skips {
    page_shift: u32,
    blocks: Vec<(BlockId, Block)>,
    /// Slices armed since the last synchronization.
    slices: u32,
    /// The version of the ballooned pages that are left out.
    ballooned: Option<u64>,
    counters: Tally<SkipCounters>,
}

impl Skips {
    /// Nothing left out yet, with target pages of 2^`page_shift` bytes.
    pub fn new(page_shift: u32) -> Skips {
        Skips {
            page_shift,
            blocks: Vec::new(),
            slices: 0,
            ballooned: None,
            counters: Tally::default(),
        }
    }

    /// A new migration: what was left out of the last one is forgotten.
    pub fn begin(&mut self) {
        self.blocks.clear();
        self.ballooned = None;
    }

    /// What was left out.
    pub fn counters(&self) -> SkipCounters {
        let pages = |set: &Option<PageBitmap>| set.as_ref().map_or(0, PageBitmap::count);
        let sum = |of: fn(&Block) -> &Option<PageBitmap>| {
            let pages: u64 = self.blocks.iter().map(|(_, block)| pages(of(block))).sum();
            pages << self.page_shift
        };
        SkipCounters {
            hint_left_out_bytes: sum(|block| &block.hinted),
            ballooned_left_out_bytes: sum(|block| &block.ballooned),
            ..*self.counters
        }
    }

    fn block(&mut self, id: BlockId) -> &mut Block {
        let index = match self.blocks.iter().position(|&(known, _)| known == id) {
            Some(index) => index,
            None => {
                self.blocks.push((id, Block::default()));
                self.blocks.len() - 1
            }
        };
        &mut self.blocks[index].1
    }

    /// The bitmap of `block` was synchronized. Hinted pages that were written since are not left out any
    /// more, and the dirty log is to be armed anew.
    pub fn synced(
        &mut self,
        bitmaps: &mut dyn DirtyBitmaps,
        id: BlockId,
        change: &mut DirtyChange,
    ) {
        self.slices = 0;
        let block = self.block(id);
        block.arming.forget();
        let Some(mut view) = bitmaps.view(id) else {
            (block.hinted, block.ballooned) = (None, None);
            return;
        };
        settle(&mut block.hinted, &view);
        send_doubtful(&mut block.hinted, &mut view, change);
    }

    /// Leaves out what is in the balloon now, `ranges` in the state `version`; all that was left out before
    /// for this reason is sent, unless it is left out again. The ranges are not looked at while the
    /// version is the same. Called behind [`Skips::synced`] of all blocks.
    pub fn leave_out_ballooned(
        &mut self,
        bitmaps: &mut dyn DirtyBitmaps,
        version: Option<u64>,
        ranges: impl Iterator<Item = BlockRange>,
        change: &mut DirtyChange,
    ) {
        if version.is_some() && version == self.ballooned {
            return self.leave_out_ballooned_again(bitmaps, change);
        }
        self.send_ballooned(bitmaps, change);
        self.ballooned = version;
        let mut ranges = ranges.peekable();
        while let Some(&BlockRange { block: id, .. }) = ranges.peek() {
            let shift = self.page_shift;
            let same_block = std::iter::from_fn(|| ranges.next_if(|range| range.block == id));
            let Some(mut view) = bitmaps.view(id) else {
                same_block.for_each(drop);
                continue;
            };
            let limit = view.pages;
            let ballooned = &mut self.block(id).ballooned;
            let ballooned = ballooned.get_or_insert_with(|| PageBitmap::new(limit));
            for range in same_block {
                let start = range.offset.div_ceil(1 << shift);
                let end = range.offset.saturating_add(range.bytes) >> shift;
                clear_bits(&mut view, start..end.max(start), change, ballooned);
            }
        }
    }

    /// The balloon is what it was. Some of its pages can be dirty again: where the log was not armed, the
    /// synchronization takes all of them for dirty.
    fn leave_out_ballooned_again(
        &mut self,
        bitmaps: &mut dyn DirtyBitmaps,
        change: &mut DirtyChange,
    ) {
        for (id, block) in &mut self.blocks {
            let (Some(ballooned), Some(view)) = (&block.ballooned, bitmaps.view(*id)) else {
                continue;
            };
            for (word, bits) in ballooned.words() {
                if let Some(place) = view.dirty.get_mut(word) {
                    change.cleared += u64::from((*place & bits).count_ones());
                    *place &= !bits;
                }
            }
        }
    }

    fn send_ballooned(&mut self, bitmaps: &mut dyn DirtyBitmaps, change: &mut DirtyChange) {
        for (id, block) in &mut self.blocks {
            let (Some(ballooned), Some(mut view)) = (block.ballooned.take(), bitmaps.view(*id))
            else {
                continue;
            };
            for (word, bits) in ballooned.words() {
                set_bits(&mut view, word, bits, change);
            }
        }
    }

    /// Arms the next slice of the dirty log of `block`; says whether there may be more to do.
    pub fn arm(&mut self, bitmaps: &mut dyn DirtyBitmaps, id: BlockId, which: Arm) -> bool {
        if which == Arm::All && self.slices >= MAX_SLICES_BEFORE_ROUND {
            return false;
        }
        let block = self.block(id);
        let slice = bitmaps
            .view(id)
            .and_then(|view| block.arming.next(&view, which));
        if let Some(slice) = &slice {
            bitmaps.arm(id, slice.pages.clone(), slice.whole_chunk);
            self.slices += 1;
        }
        slice.is_some()
    }

    /// Says that all that was armed so far was armed before the end of `epoch`.
    pub fn trust(&mut self, epoch: Epoch) {
        for (_, block) in &mut self.blocks {
            block.arming.trust(epoch);
        }
    }

    /// Leaves hinted memory out, as far as the rules above allow it. No synchronization may lie
    /// between the arrival of the hints and this call. Says whether chunks are to be armed for later
    /// hints.
    pub fn leave_out_hinted(
        &mut self,
        bitmaps: &mut dyn DirtyBitmaps,
        hints: &[Hint],
        change: &mut DirtyChange,
    ) -> bool {
        let mut wanted = false;
        for hint in hints {
            let mut rest = hint.range;
            while rest.bytes > 0 {
                let done = self.front_of_hint(bitmaps, rest, hint.epoch, change, &mut wanted);
                rest.host = rest.host.saturating_add(done as usize);
                rest.bytes -= done;
            }
        }
        wanted
    }

    /// Does the part of `range` that lies in one chunk, or is not RAM; returns its length, never 0.
    fn front_of_hint(
        &mut self,
        bitmaps: &mut dyn DirtyBitmaps,
        range: HostRange,
        epoch: Epoch,
        change: &mut DirtyChange,
        wanted: &mut bool,
    ) -> u64 {
        let shift = self.page_shift;
        let Some((id, offset)) = bitmaps.find(range.host) else {
            self.counters
                .add(|counts| &mut counts.refused_not_ram_bytes, range.bytes);
            return range.bytes;
        };
        let Some(mut view) = bitmaps.view(id) else {
            self.counters
                .add(|counts| &mut counts.refused_not_migrated_bytes, range.bytes);
            return range.bytes;
        };
        let block_bytes = view.pages << shift;
        if offset >= block_bytes {
            self.counters
                .add(|counts| &mut counts.refused_not_ram_bytes, range.bytes);
            return range.bytes;
        }
        let chunk = (offset >> shift >> view.chunk_shift) as usize;
        let chunk_end = view.chunk_pages(chunk).end << shift;
        let end = offset.saturating_add(range.bytes).min(chunk_end);
        let pages = offset.div_ceil(1 << shift)..end >> shift;
        let whole = pages.end.saturating_sub(pages.start) << shift;
        self.counters.add(
            |counts| &mut counts.refused_partial_page_bytes,
            (end - offset) - whole,
        );
        if whole == 0 {
            return end - offset;
        }
        let block = self.block(id);
        if block.arming.was_armed(chunk, epoch) {
            let limit = view.pages;
            let hinted = block.hinted.get_or_insert_with(|| PageBitmap::new(limit));
            clear_bits(&mut view, pages, change, hinted);
        } else {
            *wanted = true;
            self.counters
                .add(|counts| &mut counts.refused_unprotected_bytes, whole);
        }
        end - offset
    }

    /// Postcopy begins: there will be no further synchronization, and a destination that touches a
    /// page waits until it comes. So what was left out becomes dirty again, to be announced as zero;
    /// returns which pages that are.
    ///
    /// A page that was hinted or is in the balloon may hold zeros at the destination as well as
    /// anything else, and what it held there before is discarded with all that is dirty now.
    pub fn postcopy(
        &mut self,
        bitmaps: &mut dyn DirtyBitmaps,
        id: BlockId,
        change: &mut DirtyChange,
    ) -> Option<PageBitmap> {
        let block = self.block(id);
        let mut view = bitmaps.view(id)?;
        let mut left_out = PageBitmap::new(view.pages);
        for set in [&block.hinted, &block.ballooned].into_iter().flatten() {
            for (word, bits) in set.words() {
                let new = set_bits(&mut view, word, bits, change);
                left_out.add_word(word, new);
            }
        }
        Some(left_out)
    }
}
