// SPDX-License-Identifier: GPL-2.0-or-later
//! What the device did, for those who operate it.

use std::ops::Deref;

/// Numbers that only grow, and stop at the largest one: a guest can claim as many bytes as it
/// likes, and as often. There is no other way to add to them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally<C>(C);

impl<C> Tally<C> {
    /// Counts on from `start`.
    pub fn new(start: C) -> Tally<C> {
        Tally(start)
    }

    /// Adds `more` to one of the numbers.
    #[inline]
    pub fn add(&mut self, which: impl FnOnce(&mut C) -> &mut u64, more: u64) {
        let number = which(&mut self.0);
        *number = number.saturating_add(more);
    }

    /// Adds one to one of the numbers.
    #[inline]
    pub fn one(&mut self, which: impl FnOnce(&mut C) -> &mut u64) {
        self.add(which, 1);
    }

    /// Begins anew with one of the numbers, which does not count but says how something is now.
    pub fn set(&mut self, which: impl FnOnce(&mut C) -> &mut u64, now: u64) {
        *which(&mut self.0) = now;
    }
}

impl<C> Deref for Tally<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0
    }
}

/// Counts since the device was created; a reset does not clear them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Bytes in the balloon now: by the set of pages where the guest negotiated MUST_TELL_HOST,
    /// else what the guest says, at most the size of its memory.
    pub ballooned_bytes: u64,
    /// Of these, bytes that wait to be given back together with their neighbours.
    pub held_bytes: u64,
    /// Of these, bytes that could not be given back when they came, and are still to be.
    pub owed_bytes: u64,
    /// Bytes of guest RAM that the guest put into the balloon; a page counts once a batch.
    pub inflated_bytes: u64,
    /// Bytes of guest RAM that the guest took out of the balloon; a page counts once a batch.
    pub deflated_bytes: u64,
    /// Bytes of guest RAM reported as free.
    pub reported_bytes: u64,
    /// Bytes that were given back to the host.
    pub discarded_bytes: u64,
    /// Ranges that were left after merging.
    pub ranges: u64,
    /// Ranges that the host was asked to give back, those that it refused included.
    pub discards: u64,
    /// Batches finished.
    pub batches: u64,
    /// Inflate and deflate requests taken in.
    pub requests: u64,
    /// Messages of the founding protocols of which something was left out.
    pub malformed_messages: u64,
    /// Bytes left out of them.
    pub ignored_message_bytes: u64,
    /// Request buffers too short for a request, or sent while the device held one.
    pub ignored_request_buffers: u64,
    /// Discards that the host refused, or would have: after 16 in a row it is asked no more for that
    /// block.
    pub discard_errors: u64,
    /// Pages named in inflate and deflate requests that are not guest RAM.
    pub ignored_bad_pfns: u64,
    /// Bytes behind the last whole PFN of a request.
    pub ignored_trailing_bytes: u64,
    /// Device-writable segments in the inflate, deflate and statistics queues.
    pub ignored_writable_buffers: u64,
    /// Device-readable segments in the reporting queue.
    pub ignored_readable_buffers: u64,
    /// Bytes reported that are not guest RAM.
    pub ignored_report_bytes: u64,
    /// Bytes reported at the edges that do not fill a backing page.
    pub ignored_report_unaligned_bytes: u64,
    /// Bytes reported while free pages are filled with something else than zeros.
    pub ignored_report_poison_bytes: u64,
    /// Bytes reported of memory that would not read as zeros, but as the file behind it.
    pub ignored_report_file_bytes: u64,
    /// Statistics entries with an unknown tag, cut short, or too many.
    pub ignored_stats: u64,
    /// Statistics buffers sent while the device still held one.
    pub ignored_stats_buffers: u64,
    /// Bytes inflated without MUST_TELL_HOST by requests that cover a backing page only in part.
    pub partial_page_bytes: u64,
    /// Bytes that would have been discarded had discards not been inhibited.
    pub inhibited_bytes: u64,
    /// Ranges that the host refused to take when it needs memory, or would have, as with discards.
    pub free_errors: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_stays() {
        let mut tally = Tally::new(Counters {
            inflated_bytes: u64::MAX - 1,
            ..Counters::default()
        });
        for _ in 0..3 {
            tally.one(|counters| &mut counters.inflated_bytes);
            assert_eq!(tally.inflated_bytes, u64::MAX);
        }
        tally.add(|counters| &mut counters.deflated_bytes, u64::MAX);
        tally.add(|counters| &mut counters.deflated_bytes, u64::MAX);
        assert_eq!(tally.deflated_bytes, u64::MAX);
        tally.set(|counters| &mut counters.deflated_bytes, 3);
        assert_eq!(tally.deflated_bytes, 3);
    }
}
