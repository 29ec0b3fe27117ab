// SPDX-License-Identifier: GPL-2.0-or-later
//! Hinted memory, a block and a chunk of the dirty log at a time: which of its pages are left out.

use super::{DirtyChange, Skips};
use crate::memory::{BlockId, HostRange};
use crate::migration::arming::Epoch;
use crate::migration::bitmaps::{BlockView, DirtyBitmaps};
use sparse_bitmap::{SparseBitmap, masks};
use std::ops::Range;

/// Memory that the guest hinted at, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The memory.
    pub range: HostRange,
    /// The epoch it came in.
    pub epoch: Epoch,
}

/// Hints are cut where no page of any size that a migration knows, of a block that the host can map
/// with its huge pages, goes across.
const BORDER: usize = 2 << 20;

impl Hint {
    /// Takes off about `bytes` of its front, so that it ends at a border; `None` if that is
    /// nothing.
    pub fn take_front(&mut self, bytes: u64) -> Option<Hint> {
        let HostRange { host, bytes: all } = self.range;
        let border = host.saturating_add(bytes as usize) & !(BORDER - 1);
        let bytes = border.checked_sub(host)? as u64;
        if bytes == 0 || bytes >= all {
            return None;
        }
        self.range = HostRange {
            host: border,
            bytes: all - bytes,
        };
        let range = HostRange { host, bytes };
        Some(Hint { range, ..*self })
    }
}

/// Clears the bits of `pages` that are set, and adds those pages to `left_out`.
///
/// The caller has seen that the log of their chunk was armed before the hint was posted, and no
/// synchronization came since the hint did: hints that wait are taken or dropped before each.
fn clear_bits(
    view: &mut BlockView<'_>,
    pages: Range<u64>,
    change: &mut DirtyChange,
    left_out: &mut SparseBitmap,
) {
    for (word, mask) in masks(pages.start..pages.end.min(view.pages)) {
        let Some(place) = view.dirty.get_mut(word) else {
            return;
        };
        let hit = *place & mask;
        if hit != 0 {
            *place &= !hit;
            change.cleared += u64::from(hit.count_ones());
            left_out.insert_word(word, hit);
        }
    }
}

/// A block that is hinted at.
struct HintedBlock<'a, 'b> {
    id: BlockId,
    /// The host address of its first byte, and how many there are.
    start: usize,
    bytes: u64,
    view: &'a mut BlockView<'b>,
    change: &'a mut DirtyChange,
    /// Set when a chunk is to be armed for later hints.
    wanted: &'a mut bool,
}

impl HintedBlock<'_, '_> {
    /// Where in the block `host` lies; `None` outside of it.
    fn offset_of(&self, host: usize) -> Option<u64> {
        let offset = host.wrapping_sub(self.start) as u64;
        (offset < self.bytes).then_some(offset)
    }
}

impl Skips {
    /// Leaves hinted memory out, as far as the rules at the top of `skips.rs` allow it. No
    /// synchronization may lie between the arrival of the hints and this call. Says whether chunks
    /// are to be armed for later hints.
    pub fn leave_out_hinted(
        &mut self,
        bitmaps: &mut dyn DirtyBitmaps,
        hints: &[Hint],
        change: &mut DirtyChange,
    ) -> bool {
        let mut wanted = false;
        let mut rest = hints.iter().copied();
        let mut next = rest.next();
        while let Some(hint) = next {
            let Some((id, offset)) = bitmaps.find(hint.range.host) else {
                self.counters
                    .add(|counts| &mut counts.refused_not_ram_bytes, hint.range.bytes);
                next = rest.next();
                continue;
            };
            let Some(mut view) = bitmaps.view(id) else {
                self.counters.add(
                    |counts| &mut counts.refused_not_migrated_bytes,
                    hint.range.bytes,
                );
                next = rest.next();
                continue;
            };
            if offset >= view.pages << self.page_shift {
                self.counters
                    .add(|counts| &mut counts.refused_not_ram_bytes, hint.range.bytes);
                next = rest.next();
                continue;
            }
            let mut of_block = HintedBlock {
                id,
                start: hint.range.host.wrapping_sub(offset as usize),
                bytes: view.pages << self.page_shift,
                view: &mut view,
                change,
                wanted: &mut wanted,
            };
            next = self.leave_out_in_block(&mut of_block, hint);
            // Neighbours mostly lie in the same block, which is not looked up for each.
            while next.is_none()
                && let Some(hint) = rest.next()
            {
                next = match of_block.offset_of(hint.range.host) {
                    Some(_) => self.leave_out_in_block(&mut of_block, hint),
                    None => Some(hint),
                };
            }
        }
        wanted
    }

    /// Does the part of `hint` that lies in a block; returns what is left of it.
    fn leave_out_in_block(&mut self, at: &mut HintedBlock<'_, '_>, hint: Hint) -> Option<Hint> {
        let HostRange {
            mut host,
            mut bytes,
        } = hint.range;
        while bytes > 0 {
            let Some(offset) = at.offset_of(host) else {
                let range = HostRange { host, bytes };
                return Some(Hint { range, ..hint });
            };
            let done = self.front_of_hint(at, offset, bytes, hint.epoch);
            host = host.saturating_add(done as usize);
            bytes -= done;
        }
        None
    }

    /// Does the part of a hint that lies in one chunk, from `offset` on; returns its length,
    /// never 0.
    fn front_of_hint(
        &mut self,
        at: &mut HintedBlock<'_, '_>,
        offset: u64,
        bytes: u64,
        epoch: Epoch,
    ) -> u64 {
        let shift = self.page_shift;
        let chunk = (offset >> shift >> at.view.chunk_shift) as usize;
        let chunk_end = at.view.chunk_pages(chunk).end << shift;
        let end = offset.saturating_add(bytes).min(chunk_end);
        let pages = offset.div_ceil(1 << shift)..end >> shift;
        let whole = pages.end.saturating_sub(pages.start) << shift;
        self.counters.add(
            |counts| &mut counts.refused_partial_page_bytes,
            (end - offset) - whole,
        );
        if whole == 0 {
            return end - offset;
        }
        let block = self.block(at.id);
        if block.arming.was_armed(chunk, epoch) {
            let limit = at.view.pages;
            let hinted = block.hinted.get_or_insert_with(|| SparseBitmap::new(limit));
            clear_bits(at.view, pages, at.change, hinted);
        } else {
            *at.wanted = true;
            self.counters
                .add(|counts| &mut counts.refused_unprotected_bytes, whole);
        }
        end - offset
    }
}
