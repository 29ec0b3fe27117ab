// SPDX-License-Identifier: GPL-2.0-or-later
//! A sparse bitmap of 64-bit indices, for sets that consist of long runs.
//!
//! Bits live in chunks of 32768 bits, each of 64 lines of 512. A chunk in which each line is full
//! or empty takes 24 bytes. Any other takes a buffer of 4 KiB besides, until it is full or empty.
//! So an empty bitmap costs nothing, one of long runs little, and no bitmap more than an eighth of
//! a byte per bit and those 24 bytes per chunk.
//!
//! Each operation does its work in words of 64 bits, and says how many indices it changed. None of
//! them frees buffers, which could take much longer than the change itself: those that are not
//! needed any more are used again, and [`SparseBitmap::trim`] frees them.
//!
//! ```
//! use sparse_bitmap::SparseBitmap;
//!
//! let mut set = SparseBitmap::new(1 << 32);
//! assert_eq!(set.insert_range(10..1_000_000), 999_990);
//! assert_eq!(set.remove_range(20..30), 10);
//! assert_eq!(set.remove_range(20..30), 0, "they were not there any more");
//!
//! assert_eq!(set.len(), 999_980);
//! assert!(set.contains_range(10..20) && !set.contains_range(10..21));
//! assert_eq!(set.next_index(20), Some(30));
//! assert!(set.runs().eq([10..20, 30..1_000_000]));
//! ```

#![forbid(unsafe_code)]

mod bitmap;
mod chunk;
mod runs;

pub use bitmap::SparseBitmap;
use std::ops::Range;

const WORD_BITS: u64 = u64::BITS as u64;

/// The words that the bits of `bits` lie in, in ascending order, each with a mask of these bits.
/// For an empty range there are none, or one with a mask of 0.
///
/// ```
/// let masks = sparse_bitmap::masks(60..130);
/// assert!(masks.eq([(0, 0xf << 60), (1, u64::MAX), (2, 0b11)]));
/// ```
pub fn masks(bits: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let first = bits.start / WORD_BITS;
    let last = bits.end.div_ceil(WORD_BITS);
    (first..last).map(move |word| {
        let low = bits.start.saturating_sub(word * WORD_BITS);
        let high = (bits.end - word * WORD_BITS).min(WORD_BITS);
        (
            word as usize,
            (u64::MAX << low) & (u64::MAX >> (WORD_BITS - high)),
        )
    })
}
