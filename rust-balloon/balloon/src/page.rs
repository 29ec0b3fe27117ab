// SPDX-License-Identifier: GPL-2.0-or-later
//! Guest physical addresses, page frame numbers and ranges of them.
//!
//! None of the types has operators: what happens at the edge of the address
//! space is part of each method's contract.

/// log2 of the balloon's page size; virtio 1.3, 5.5.6: PFNs count 4096-byte pages whatever the
/// guest's own page size is.
pub const PAGE_SHIFT: u32 = 12;
/// The balloon's page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A page frame number as it stands in an inflate or deflate request: 32 bits, in units of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pfn(pub u32);

impl Pfn {
    /// The page's address; 32 + 12 bits, so it always fits.
    pub fn gpa(self) -> Gpa {
        Gpa(u64::from(self.0) << PAGE_SHIFT)
    }
}

/// A guest physical address in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The address `bytes` further on, or `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Gpa> {
        self.0.checked_add(bytes).map(Gpa)
    }

    /// The number of bytes from `earlier` to here, or 0 when `earlier` lies behind this address.
    pub fn saturating_since(self, earlier: Gpa) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A half-open, never empty range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpaRange {
    start: Gpa,
    end: Gpa,
}

impl GpaRange {
    /// `[start, end)`, or `None` when that is empty.
    pub fn new(start: Gpa, end: Gpa) -> Option<GpaRange> {
        (start < end).then_some(GpaRange { start, end })
    }

    /// `len` bytes from `start`; `None` when `len` is 0 or the end does not fit into 64 bits.
    pub fn with_len(start: Gpa, len: u64) -> Option<GpaRange> {
        GpaRange::new(start, start.checked_add(len)?)
    }

    /// The first address.
    pub fn start(self) -> Gpa {
        self.start
    }

    /// The address behind the last one.
    pub fn end(self) -> Gpa {
        self.end
    }

    /// Length in bytes, never 0.
    pub fn bytes(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether `gpa` is an address of the range.
    pub fn contains(self, gpa: Gpa) -> bool {
        self.start <= gpa && gpa < self.end
    }

    /// What both ranges cover, or `None` when they have nothing in common.
    pub fn intersect(self, other: GpaRange) -> Option<GpaRange> {
        GpaRange::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The numbers of the 4 KiB pages that the range touches, first and one past the last.
    pub fn page_indices(self) -> (u64, u64) {
        (self.start.0 >> PAGE_SHIFT, self.end.0.div_ceil(PAGE_SIZE))
    }

    /// The 4 KiB pages of these numbers; `None` when there are none, or they lie past 2^64 bytes.
    pub fn of_page_indices(pages: std::ops::Range<u64>) -> Option<GpaRange> {
        let start = Gpa(pages.start.checked_mul(PAGE_SIZE)?);
        GpaRange::new(start, Gpa(pages.end.checked_mul(PAGE_SIZE)?))
    }

    /// How many 4 KiB pages the range touches.
    pub fn pages(self) -> u64 {
        let (first, end) = self.page_indices();
        end - first
    }

    /// Makes the range cover `other` as well, if they overlap or touch; says whether it did.
    #[inline]
    pub fn try_merge(&mut self, other: GpaRange) -> bool {
        let apart = other.end < self.start || self.end < other.start;
        if !apart {
            self.start = self.start.min(other.start);
            self.end = self.end.max(other.end);
        }
        !apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa(start), Gpa(end)).unwrap()
    }

    #[test]
    fn the_last_pfn_does_not_wrap() {
        assert_eq!(Pfn(u32::MAX).gpa(), Gpa(0xfff_ffff_f000));
    }

    #[test]
    fn empty_and_overflowing_ranges_do_not_exist() {
        assert_eq!(GpaRange::with_len(Gpa(0), 0), None);
        assert_eq!(GpaRange::with_len(Gpa(u64::MAX), 2), None);
        assert_eq!(GpaRange::new(Gpa(2), Gpa(1)), None);
    }

    #[test]
    fn ranges_that_touch_merge_in_both_directions() {
        let mut low = range(0, 4096);
        assert!(low.try_merge(range(4096, 8192)));
        assert_eq!(low, range(0, 8192));
        let mut high = range(4096, 8192);
        assert!(high.try_merge(range(0, 4096)));
        assert_eq!(high, range(0, 8192));
        assert!(!high.try_merge(range(8193, 9000)));
        assert_eq!(high, range(0, 8192));
    }
}
