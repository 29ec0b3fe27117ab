// SPDX-License-Identifier: GPL-2.0-or-later
//! The bytes that guest and device exchange.

pub mod founding;

use zerocopy::byteorder::{BigEndian, LittleEndian, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The byte order of what a driver sends: little-endian, except that a legacy driver uses its
/// guest's own (virtio 1.3, 5.5.6.0.1 and 5.5.6.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    /// Every modern driver, and legacy drivers on little-endian guests.
    #[default]
    Little,
    /// Legacy drivers on big-endian guests.
    Big,
}

/// The size of one PFN in an inflate or deflate request, in bytes.
pub const PFN_BYTES: usize = 4;

/// The whole PFNs of `payload` (virtio 1.3, 5.5.6: an array of 32-bit values); up to three bytes
/// behind the last one are left out.
#[inline]
pub fn pfns(payload: &[u8], order: ByteOrder) -> impl Iterator<Item = u32> {
    payload.chunks_exact(PFN_BYTES).map(move |bytes| {
        let raw = [bytes[0], bytes[1], bytes[2], bytes[3]];
        match order {
            ByteOrder::Little => u32::from_le_bytes(raw),
            ByteOrder::Big => u32::from_be_bytes(raw),
        }
    })
}

/// How many PFNs are compared at once: a few of the processor's vectors.
const PFN_BLOCK: usize = 32;

/// The same, given to `each` as the lowest PFN of some neighbours and how many they are. Drivers list
/// neighbours one after the other, upward or downward, so most come in blocks; not every neighbour is found.
#[inline]
pub fn pfn_blocks(payload: &[u8], order: ByteOrder, mut each: impl FnMut(u32, u32)) {
    let (blocks, rest) = payload.as_chunks::<{ PFN_BLOCK * PFN_BYTES }>();
    for block in blocks {
        let mut listed = [0; PFN_BLOCK];
        let bytes = block.as_chunks().0;
        listed
            .iter_mut()
            .zip(bytes)
            .for_each(|(pfn, bytes)| *pfn = u32::from_le_bytes(*bytes));
        if order == ByteOrder::Big {
            listed = listed.map(u32::swap_bytes);
        }
        let (first, last) = (listed[0], listed[PFN_BLOCK - 1]);
        // Every lane is looked at, so that it takes no branch for each.
        let lanes = || (0..PFN_BLOCK as u32).zip(&listed);
        let off_up = lanes().fold(0, |off, (n, &pfn)| off | (pfn ^ first.wrapping_add(n)));
        let off_down = lanes().fold(0, |off, (n, &pfn)| off | (pfn ^ first.wrapping_sub(n)));
        if off_up == 0 && first < last {
            each(first, PFN_BLOCK as u32);
        } else if off_down == 0 && last < first {
            each(last, PFN_BLOCK as u32);
        } else {
            listed.iter().for_each(|&pfn| each(pfn, 1));
        }
    }
    pfns(rest, order).for_each(|pfn| each(pfn, 1));
}

/// Number of statistics (virtio 1.3, 5.5.6.4).
pub const STATS: usize = 16;

/// One entry of the statistics buffer; virtio 1.3, 5.5.6.3: packed, 10 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StatEntry {
    tag: [u8; 2],
    value: [u8; 8],
}
const _: () = assert!(size_of::<StatEntry>() == STAT_BYTES);

/// The size of one statistics entry in bytes.
pub const STAT_BYTES: usize = 10;

/// The whole entries (tag, value) of a statistics buffer; bytes behind the last one are left out.
pub fn stats(payload: &[u8], order: ByteOrder) -> impl Iterator<Item = (u16, u64)> {
    let whole = &payload[..payload.len() - payload.len() % STAT_BYTES];
    let entries = <[StatEntry]>::ref_from_bytes(whole).unwrap_or(&[]);
    entries.iter().map(move |entry| match order {
        ByteOrder::Little => (
            U16::<LittleEndian>::from_bytes(entry.tag).get(),
            U64::<LittleEndian>::from_bytes(entry.value).get(),
        ),
        ByteOrder::Big => (
            U16::<BigEndian>::from_bytes(entry.tag).get(),
            U64::<BigEndian>::from_bytes(entry.value).get(),
        ),
    })
}

/// The size of an id in the free page hint queue, in bytes.
pub const HINT_ID_BYTES: usize = 4;
/// The id that ends a round of hints; virtio 1.3, 5.5.6.5.
pub const HINT_STOP: u32 = 0;
/// The id by which the device says that hinted pages may be used again.
pub const HINT_DONE: u32 = 1;
/// The first id of a round. The specification allows all from 2 on; QEMU's C device uses these.
pub const HINT_ID_MIN: u32 = 0x8000_0000;

/// The id at the start of `payload`; `None` when that is too short.
pub fn hint_id(payload: &[u8], order: ByteOrder) -> Option<u32> {
    pfns(payload, order).next()
}

/// The configuration space; virtio 1.3, 5.5.4: little-endian, for legacy drivers too.
#[derive(
    Clone,
    Copy,
    Default,
    Debug,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Config {
    /// Pages that the host asks the guest to put into the balloon.
    pub num_pages: U32<LittleEndian>,
    /// Pages that the guest says are in it.
    pub actual: U32<LittleEndian>,
    /// Command of the free page hint queue.
    pub free_page_hint_cmd_id: U32<LittleEndian>,
    /// The value that the guest fills free pages with.
    pub poison_val: U32<LittleEndian>,
}
const _: () = assert!(size_of::<Config>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pfns_in_both_byte_orders() {
        let bytes = [0x45, 0x23, 0x01, 0x00, 0xff, 0xff, 0xff, 0xff, 9, 9, 9];
        assert_eq!(
            pfns(&bytes, ByteOrder::Little).collect::<Vec<_>>(),
            [0x12345, u32::MAX]
        );
        assert_eq!(
            pfns(&bytes, ByteOrder::Big).collect::<Vec<_>>(),
            [0x4523_0100, u32::MAX]
        );
        assert_eq!(pfns(&[], ByteOrder::Little).count(), 0);
    }

    /// Upward, downward, past both ends of what a PFN can be, and in no order.
    #[test]
    fn blocks_hold_the_pfns_that_are_listed() {
        let count = 3 * PFN_BLOCK as u32 + 5;
        let lists: [Vec<u32>; 6] = [
            (7..7 + count).collect(),
            (7..7 + count).rev().collect(),
            (0..count).map(|n| u32::MAX.wrapping_add(n)).collect(),
            (0..count).map(|n| 5u32.wrapping_sub(n)).collect(),
            (0..count).map(|n| n * 29 % count).collect(),
            vec![9; count as usize],
        ];
        for list in lists {
            let bytes: Vec<u8> = list.iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
            let swapped: Vec<u8> = list.iter().flat_map(|pfn| pfn.to_be_bytes()).collect();
            for (bytes, order) in [(bytes, ByteOrder::Little), (swapped, ByteOrder::Big)] {
                let mut found = Vec::new();
                pfn_blocks(&bytes, order, |first, count| {
                    found.extend((0..count).map(|n| u64::from(first) + u64::from(n)));
                });
                found.sort_unstable();
                let mut listed: Vec<u64> = list.iter().map(|&pfn| pfn.into()).collect();
                listed.sort_unstable();
                assert_eq!(found, listed);
            }
        }
    }

    #[test]
    fn stats_in_both_byte_orders() {
        let mut bytes = vec![4, 0, 1, 2, 0, 0, 0, 0, 0, 0];
        bytes.extend([7, 7, 7]);
        assert_eq!(
            stats(&bytes, ByteOrder::Little).collect::<Vec<_>>(),
            [(4, 0x201)]
        );
        let big = [0, 4, 0, 0, 0, 0, 0, 0, 2, 1];
        assert_eq!(
            stats(&big, ByteOrder::Big).collect::<Vec<_>>(),
            [(4, 0x201)]
        );
    }
}
