// SPDX-License-Identifier: GPL-2.0-or-later
//! Random bytes, taken for choices. Where there are none left, each choice is its first.

use arbitrary::{Arbitrary, Unstructured};

/// What is left of the random bytes.
pub(crate) struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    /// All of `data`.
    pub(crate) fn new(data: &'a [u8]) -> Input<'a> {
        Input(Unstructured::new(data))
    }

    /// Whether every further choice is its first.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Any value of the type.
    pub(crate) fn any<T: Arbitrary<'a> + Default>(&mut self) -> T {
        self.0.arbitrary().unwrap_or_default()
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.int_in_range(0..=end - 1).unwrap_or(0)
    }

    /// The same for those who count.
    pub(crate) fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    /// Yes once in `times`, and not when nothing is left.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == times - 1
    }

    /// One of `choices`.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// A number that is small, near a power of two, or any.
    pub(crate) fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(64),
            1 => (1 << self.below(64)) + self.below(3),
            2 => (1u64 << self.below(64)).wrapping_sub(self.below(3)),
            _ => self.any(),
        }
    }

    /// Up to `most` of the bytes themselves.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = self.index(most + 1).min(self.0.len());
        self.0.bytes(len).unwrap_or_default()
    }
}
