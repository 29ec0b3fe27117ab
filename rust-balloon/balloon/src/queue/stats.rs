// SPDX-License-Identifier: GPL-2.0-or-later
//! The statistics queue: the guest's memory statistics.
//!
//! The driver hands the device one buffer; the device keeps it and returns it to ask for new values.

use crate::counters::{Counters, Tally};
use crate::wire::{self, ByteOrder, STAT_BYTES, STATS};

/// A statistic that the guest has not reported.
pub const NOT_REPORTED: u64 = u64::MAX;

/// Entries read of one buffer. A driver sends each tag once; there are 16.
pub const MAX_ENTRIES: usize = 256;

/// The values of the last buffer.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// By tag; [`NOT_REPORTED`] where the last buffer had none.
    pub values: [u64; STATS],
    /// When it came, in seconds since the epoch; 0 for never.
    pub last_update: i64,
}

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            values: [NOT_REPORTED; STATS],
            last_update: 0,
        }
    }
}

impl Stats {
    /// Replaces all values by those of `payload`, the start of a buffer of `len` bytes that came
    /// at `now`. A tag that comes twice has its last value; unknown tags are ignored, as virtio 1.3,
    /// 5.5.6.3 demands, and counted.
    pub fn receive(
        &mut self,
        payload: &[u8],
        len: usize,
        order: ByteOrder,
        now: i64,
        counters: &mut Tally<Counters>,
    ) {
        *self = Stats {
            last_update: now,
            ..Stats::default()
        };
        let payload = &payload[..payload.len().min(MAX_ENTRIES * STAT_BYTES)];
        let mut read = 0;
        for (tag, value) in wire::stats(payload, order) {
            read += STAT_BYTES;
            match self.values.get_mut(usize::from(tag)) {
                Some(slot) => *slot = value,
                None => counters.one(|counts| &mut counts.ignored_stats),
            }
        }
        let left = len.saturating_sub(read).div_ceil(STAT_BYTES);
        counters.add(|counts| &mut counts.ignored_stats, left as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u16, value: u64) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &value.to_le_bytes()[..]].concat()
    }

    fn receive(stats: &mut Stats, payload: &[u8], counters: &mut Tally<Counters>) {
        stats.receive(payload, payload.len(), ByteOrder::Little, 5, counters);
    }

    #[test]
    fn old_values_do_not_stay() {
        let (mut stats, mut counters) = (Stats::default(), Tally::default());
        receive(
            &mut stats,
            &[entry(4, 10), entry(5, 20)].concat(),
            &mut counters,
        );
        receive(&mut stats, &entry(5, 30), &mut counters);
        assert_eq!((stats.values[4], stats.values[5]), (NOT_REPORTED, 30));
        assert_eq!((stats.last_update, counters.ignored_stats), (5, 0));
    }

    #[test]
    fn what_is_not_understood_is_counted() {
        let (mut stats, mut counters) = (Stats::default(), Tally::default());
        let mut bytes = [entry(16, 1), entry(0xffff, 2), entry(15, 3)].concat();
        bytes.extend([1, 2, 3]);
        receive(&mut stats, &bytes, &mut counters);
        assert_eq!((stats.values[15], counters.ignored_stats), (3, 3));
    }

    #[test]
    fn a_huge_buffer_is_read_in_part() {
        let (mut stats, mut counters) = (Stats::default(), Tally::default());
        let mut bytes = entry(1, 7).repeat(MAX_ENTRIES);
        bytes.extend(entry(2, 8));
        stats.receive(&bytes, 1 << 30, ByteOrder::Little, 1, &mut counters);
        assert_eq!((stats.values[1], stats.values[2]), (7, NOT_REPORTED));
        let left = (1u64 << 30) - (MAX_ENTRIES * STAT_BYTES) as u64;
        assert_eq!(counters.ignored_stats, left.div_ceil(STAT_BYTES as u64));
    }
}
