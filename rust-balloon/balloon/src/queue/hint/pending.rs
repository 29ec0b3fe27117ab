// SPDX-License-Identifier: GPL-2.0-or-later
//! Hints that wait for the migration thread to take them.

use crate::memory::HostRange;
use crate::migration::skips::Hint;
use std::collections::VecDeque;

/// Hints kept until the migration thread takes them; it comes at least every 50 ms while it sends.
/// A Linux guest's hints are 4 MiB each, so this is room for 256 GiB of them; its answers name
/// blocks down to a single page, whose number depends on how its memory is fragmented.
const MAX_PENDING: usize = 65536;

/// Bytes of hints taken at a time: a guest may hint at all of its memory again and again, and who
/// takes hints holds locks that the main loop waits for. In one hint so many take 0.6 ms, and half
/// of them 1.1 in hints of 4 MiB all over a guest of 1 TiB.
pub const MAX_TAKEN: u64 = 16 << 30;
/// Hints taken at a time, for the same reason: where each of them lies alone in a guest of 1 TiB,
/// so many take 0.7 ms.
pub const MAX_TAKEN_HINTS: usize = 2048;

/// Those hints, as they came.
#[derive(Default)]
pub(super) struct Pending(VecDeque<Hint>);

impl Pending {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes they name together.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = self.0.iter().map(|hint| hint.range.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// Drops them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Keeps `hint`; says whether there is room for it.
    pub(super) fn add(&mut self, hint: Hint) -> bool {
        if self.merge_with_last(hint) {
            return true;
        }
        if self.0.len() >= MAX_PENDING {
            return false;
        }
        self.0.push_back(hint);
        true
    }

    /// Buddy allocators hand out neighbouring blocks in ascending or descending order.
    fn merge_with_last(&mut self, hint: Hint) -> bool {
        let Hint { range, epoch } = hint;
        let Some(last) = self.0.back_mut().filter(|last| last.epoch == epoch) else {
            return false;
        };
        let end = |range: HostRange| range.host.checked_add(range.bytes as usize);
        let (low, high) = if end(last.range) == Some(range.host) {
            (last.range, range)
        } else if end(range) == Some(last.range.host) {
            (range, last.range)
        } else {
            return false;
        };
        let Some(bytes) = low.bytes.checked_add(high.bytes) else {
            return false;
        };
        last.range = HostRange {
            host: low.host,
            bytes,
        };
        true
    }

    /// The first of them, sorted by address and merged: at most
    /// [`MAX_TAKEN_HINTS`], and [`MAX_TAKEN`] bytes.
    pub(super) fn take(&mut self) -> Vec<Hint> {
        let mut room = MAX_TAKEN;
        let whole = self.0.iter().take(MAX_TAKEN_HINTS);
        let whole = whole.take_while(|hint| match room.checked_sub(hint.range.bytes) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        });
        let whole = whole.count();
        let mut hints: Vec<Hint> = self.0.drain(..whole).collect();
        if whole < MAX_TAKEN_HINTS
            && let Some(next) = self.0.front_mut()
            && let Some(front) = next.take_front(room)
        {
            hints.push(front);
        }
        hints.sort_unstable_by_key(|hint| (hint.epoch, hint.range.host));
        hints.dedup_by(|next, last| {
            if next.epoch != last.epoch {
                return false;
            }
            let gap = (next.range.host - last.range.host) as u64;
            let touches = gap <= last.range.bytes;
            if touches {
                let end = gap.saturating_add(next.range.bytes);
                last.range.bytes = last.range.bytes.max(end);
            }
            touches
        });
        hints
    }
}
