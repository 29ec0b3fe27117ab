// SPDX-License-Identifier: GPL-2.0-or-later
//! Where guest memory lies in the host's RAM blocks.
//!
//! The map holds the parts of the guest's address space that a balloon may touch: ordinary RAM that
//! the guest can write. ROM, MMIO and device memory are not in it, so no address in them ever
//! leads to a discard.

use crate::error::Error;
use crate::page::{Gpa, GpaRange, PAGE_SIZE};

/// A RAM block of the host, as the host names it. Only compared and handed back, never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockId(pub usize);

/// A range of memory that the guest gave as a buffer, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRange {
    /// Its address in the host. Only compared, never followed.
    pub host: usize,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A contiguous piece of guest RAM inside one RAM block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Where the guest sees it.
    pub gpa: GpaRange,
    /// The block that backs it.
    pub block: BlockId,
    /// Where in the block it starts, in bytes.
    pub offset: u64,
    /// The size of the block's backing pages in bytes: a power of two, at least 4096.
    pub page_size: u64,
    /// The host's virtual address of its first byte. Only compared, never followed.
    pub host: usize,
    /// Whether the host gains from being told that a part of it will be used again.
    pub populate: bool,
    /// Whether the host can take its pages back when it needs them, instead of at once.
    pub lazy: bool,
}

/// What a stretch of guest addresses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Nothing that a balloon may touch.
    NotRam(GpaRange),
    /// Guest RAM, all of it in one section.
    Ram(GpaRange, Section),
}

/// Where something lies in a RAM block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockSpan {
    /// Where it starts, in bytes from the start of the block.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A range of bytes inside one RAM block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// The block.
    pub block: BlockId,
    /// Where in the block it starts, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Section {
    /// Whether the section can be at all.
    fn is_sound(&self) -> bool {
        self.page_size.is_power_of_two()
            && self.page_size >= PAGE_SIZE
            && self.offset.checked_add(self.gpa.bytes()).is_some()
            && (self.host as u64).checked_add(self.gpa.bytes()).is_some()
    }

    /// The section without the 4 KiB pages at its ends that it holds only in part; `None` when
    /// nothing is left, or pages of the guest do not begin where pages of the block do.
    fn whole_pages(&self) -> Option<Section> {
        let start = Gpa(self.gpa.start().0.checked_next_multiple_of(PAGE_SIZE)?);
        let end = self.gpa.end().0;
        let gpa = GpaRange::new(start, Gpa(end - end % PAGE_SIZE))?;
        let cut = start.saturating_since(self.gpa.start());
        let offset = self.offset + cut;
        let host = self.host + cut as usize;
        offset.is_multiple_of(PAGE_SIZE).then_some(Section {
            gpa,
            offset,
            host,
            ..*self
        })
    }

    /// Where in the block `gpa` lies. `gpa` must be in the section, or at its end.
    fn offset_of(&self, gpa: Gpa) -> u64 {
        self.offset + gpa.saturating_since(self.gpa.start())
    }

    /// The address that lies at `offset` of the block, or `None` outside of the section (its end
    /// is allowed).
    fn gpa_at(&self, offset: u64) -> Option<Gpa> {
        let gpa = self
            .gpa
            .start()
            .checked_add(offset.checked_sub(self.offset)?)?;
        (gpa <= self.gpa.end()).then_some(gpa)
    }

    /// The bytes of the block behind `range`, which must lie in the section.
    pub fn block_range(&self, range: GpaRange) -> BlockRange {
        BlockRange {
            block: self.block,
            offset: self.offset_of(range.start()),
            bytes: range.bytes(),
        }
    }

    /// The same, for those who know the block.
    pub fn block_span(&self, range: GpaRange) -> BlockSpan {
        BlockSpan {
            offset: self.offset_of(range.start()),
            bytes: range.bytes(),
        }
    }

    /// The whole backing pages inside of `range`, or `None` when it holds none.
    pub fn shrink_to_pages(&self, range: GpaRange) -> Option<GpaRange> {
        self.shrink_to(range, self.page_size)
    }

    /// The whole stretches of `size` bytes, a power of two, of the block inside of `range`, or `None` when it
    /// holds none.
    pub fn shrink_to(&self, range: GpaRange, size: u64) -> Option<GpaRange> {
        let start = self.offset_of(range.start()).checked_add(size - 1)? & !(size - 1);
        let end = self.offset_of(range.end()) & !(size - 1);
        GpaRange::new(self.gpa_at(start)?, self.gpa_at(end)?)
    }

    /// The whole backing pages that `range` touches, without those that the section holds only in
    /// part; `None` when there are none.
    pub fn grow_to_pages(&self, range: GpaRange) -> Option<GpaRange> {
        self.grow_to(range, self.page_size)
    }

    /// The whole stretches of `size` bytes of the block that `range` touches, without those that the section
    /// holds only in part; `None` when there are none.
    pub fn grow_to(&self, range: GpaRange, size: u64) -> Option<GpaRange> {
        let start = self.offset_of(range.start());
        let end = self.offset_of(range.end()).checked_add(size - 1)? & !(size - 1);
        let start = self.offset.max(start & !(size - 1));
        let end = end.min(self.offset_of(self.gpa.end()));
        self.shrink_to(GpaRange::new(self.gpa_at(start)?, self.gpa_at(end)?)?, size)
    }

    /// The start of `range`, cut so that it holds at most about `bytes` and ends between two
    /// stretches of `align` bytes of the block, a power of two; at least one such stretch is taken.
    pub fn take_front(&self, range: GpaRange, bytes: u64, align: u64) -> GpaRange {
        let start = self.offset_of(range.start());
        let wanted = start.saturating_add(bytes);
        let mut end = wanted & !(align - 1);
        if end <= start {
            end = start
                .checked_add(align)
                .map_or(u64::MAX, |past| past & !(align - 1));
        }
        let end = self
            .gpa_at(end)
            .map_or(range.end(), |gpa| gpa.min(range.end()));
        GpaRange::new(range.start(), end).unwrap_or(range)
    }
}

/// The sections of guest RAM, sorted by address.
#[derive(Default)]
pub struct MemoryMap {
    sections: Vec<Section>,
    /// Indices into `sections`, sorted by host address.
    by_host: Vec<usize>,
    /// What the sections cover, merged: a guest may ask often whether a long range is RAM.
    spans: Vec<GpaRange>,
}

impl MemoryMap {
    /// A map of `sections`, in any order. They are cut down to whole 4 KiB pages, and left out
    /// when the guest's pages are not pages of the block.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when sections overlap in the guest's address space, a page size
    /// is not a power of two of at least 4096, or an offset or host address overflows.
    pub fn new(sections: Vec<Section>) -> Result<MemoryMap, Error> {
        if !sections.iter().all(Section::is_sound) {
            return Err(Error::InvalidArgument);
        }
        let mut sections: Vec<Section> = sections.iter().filter_map(Section::whole_pages).collect();
        sections.sort_unstable_by_key(|section| section.gpa.start());
        if sections
            .windows(2)
            .any(|pair| pair[0].gpa.end() > pair[1].gpa.start())
        {
            return Err(Error::InvalidArgument);
        }
        let mut by_host: Vec<usize> = (0..sections.len()).collect();
        by_host.sort_unstable_by_key(|&index| sections[index].host);
        let mut spans: Vec<GpaRange> = sections.iter().map(|section| section.gpa).collect();
        spans.dedup_by(|next, last| last.try_merge(*next));
        Ok(MemoryMap {
            sections,
            by_host,
            spans,
        })
    }

    /// Whether all of `range` is guest RAM.
    pub fn is_ram(&self, range: GpaRange) -> bool {
        let next = self
            .spans
            .partition_point(|span| span.end() <= range.start());
        let span = self.spans.get(next);
        span.is_some_and(|span| span.intersect(range) == Some(range))
    }

    /// The sections in ascending order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Whether any section's backing pages are larger than the balloon's.
    pub fn has_large_pages(&self) -> bool {
        self.sections
            .iter()
            .any(|section| section.page_size > PAGE_SIZE)
    }

    /// What the first addresses of `range` are: one section's part of it, or the part before the
    /// next section.
    pub fn front(&self, range: GpaRange) -> Piece {
        let next = self
            .sections
            .partition_point(|section| section.gpa.end() <= range.start());
        let Some(section) = self.sections.get(next) else {
            return Piece::NotRam(range);
        };
        match GpaRange::new(range.start(), section.gpa.start().min(range.end())) {
            Some(gap) => Piece::NotRam(gap),
            None => match section.gpa.intersect(range) {
                Some(part) => Piece::Ram(part, *section),
                None => Piece::NotRam(range),
            },
        }
    }

    /// Where the guest sees the `bytes` of host memory from `host` on, cut at the end of the
    /// section; `None` when `host` is not guest RAM or `bytes` is 0.
    ///
    /// This is how addresses that the guest gave as a buffer are looked up: the virtqueue code has
    /// mapped them already, through an IOMMU if there is one, so their numbers need not be guest
    /// physical addresses.
    pub fn at_host(&self, host: usize, bytes: u64) -> Option<GpaRange> {
        let after = self
            .by_host
            .partition_point(|&index| self.sections[index].host <= host);
        // The same memory may be seen at several guest addresses, so the nearest is not always it.
        self.by_host[..after].iter().rev().find_map(|&index| {
            let section = self.sections[index];
            let offset = (host - section.host) as u64;
            let start = section.gpa.start().checked_add(offset)?;
            GpaRange::new(start, start.checked_add(bytes)?.min(section.gpa.end()))
        })
    }

    /// Calls `gone` for each stretch of this map's addresses that `new` does not map to the very
    /// same bytes of the very same block.
    pub fn for_each_lost(&self, new: &MemoryMap, mut gone: impl FnMut(GpaRange)) {
        for old in &self.sections {
            let mut rest = Some(old.gpa);
            while let Some(range) = rest {
                let (part, kept) = match new.front(range) {
                    Piece::NotRam(part) => (part, false),
                    Piece::Ram(part, now) => {
                        let same = now.block_range(part) == old.block_range(part);
                        (part, same && now.page_size == old.page_size)
                    }
                };
                if !kept {
                    gone(part);
                }
                rest = GpaRange::new(part.end(), range.end());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB2: u64 = 2 << 20;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa(start), Gpa(end)).unwrap()
    }

    fn section(start: u64, end: u64, offset: u64, page_size: u64) -> Section {
        Section {
            gpa: range(start, end),
            block: BlockId(1),
            offset,
            page_size,
            host: 0x7000_0000 + offset as usize,
            populate: false,
            lazy: false,
        }
    }

    #[test]
    fn a_map_refuses_what_cannot_be() {
        let low = section(0, 0x10000, 0, 4096);
        let over = section(0xf000, 0x20000, 0xf000, 4096);
        assert!(MemoryMap::new(vec![low, over]).is_err());
        assert!(MemoryMap::new(vec![section(0, 4096, 0, 1000)]).is_err());
        assert!(MemoryMap::new(vec![section(0, 4096, 0, 2048)]).is_err());
        let overflowing = Section {
            offset: u64::MAX - 10,
            ..low
        };
        assert!(MemoryMap::new(vec![overflowing]).is_err());
    }

    #[test]
    fn a_range_is_cut_at_every_border() {
        let low = section(0, 0xa_0000, 0, 4096);
        let high = section(0x10_0000, 0x20_0000, 0x10_0000, 4096);
        let map = MemoryMap::new(vec![high, low]).unwrap();
        let all = range(0x9_0000, 0x30_0000);
        assert_eq!(map.front(all), Piece::Ram(range(0x9_0000, 0xa_0000), low));
        let gap = range(0xa_0000, 0x10_0000);
        assert_eq!(map.front(range(0xa_0000, 0x30_0000)), Piece::NotRam(gap));
        assert_eq!(
            map.front(range(0xb_0000, 0xc_0000)),
            Piece::NotRam(range(0xb_0000, 0xc_0000))
        );
        assert_eq!(
            map.front(range(0x1f_f000, 0x30_0000)),
            Piece::Ram(range(0x1f_f000, 0x20_0000), high)
        );
        assert_eq!(
            map.front(range(0x20_0000, 0x30_0000)),
            Piece::NotRam(range(0x20_0000, 0x30_0000))
        );
        assert_eq!(MemoryMap::default().front(all), Piece::NotRam(all));
    }

    #[test]
    fn a_range_is_ram_when_all_of_it_is() {
        let low = section(0, 0xa_0000, 0, 4096);
        let next = section(0x10_0000, 0x20_0000, 0x10_0000, 4096);
        let behind = section(0x20_0000, 0x30_0000, 0x80_0000, 4096);
        let map = MemoryMap::new(vec![behind, low, next]).unwrap();
        for ram in [
            (0, 0xa_0000),
            (0x10_0000, 0x30_0000),
            (0x1f_f000, 0x20_1000),
        ] {
            assert!(map.is_ram(range(ram.0, ram.1)), "{ram:x?}");
        }
        for other in [
            (0, 0xa_1000),
            (0x9_f000, 0x10_1000),
            (0xa_0000, 0x10_0000),
            (0x2f_f000, 0x30_1000),
            (0x30_0000, 0x30_1000),
            (0, u64::MAX),
        ] {
            assert!(!map.is_ram(range(other.0, other.1)), "{other:x?}");
        }
        assert!(!MemoryMap::default().is_ram(range(0, 4096)));
    }

    #[test]
    fn pages_are_those_of_the_block_not_of_the_guest() {
        // The guest sees the block's second half page first: pages start at guest address 1 MiB.
        let section = section(0, 8 << 20, 1 << 20, MIB2);
        let all = section.gpa;
        assert_eq!(section.shrink_to_pages(all), Some(range(1 << 20, 7 << 20)));
        assert_eq!(
            section.shrink_to_pages(range(0, 3 << 20)),
            Some(range(1 << 20, 3 << 20))
        );
        assert_eq!(section.shrink_to_pages(range(1 << 20, (3 << 20) - 1)), None);
        assert_eq!(section.shrink_to_pages(range(4096, 8192)), None);
        assert_eq!(
            section.grow_to_pages(range(2 << 20, (2 << 20) + 1)),
            Some(range(1 << 20, 3 << 20))
        );
        assert_eq!(
            section.grow_to_pages(range(0, 4096)),
            None,
            "half of the page is elsewhere"
        );
        assert_eq!(section.grow_to_pages(range(7 << 20, 8 << 20)), None);
        assert_eq!(section.grow_to_pages(all), Some(range(1 << 20, 7 << 20)));
    }

    #[test]
    fn a_front_ends_between_pages() {
        let section = section(0, 8 << 20, 1 << 20, MIB2);
        let all = section.gpa;
        assert_eq!(section.take_front(all, 4 << 20, MIB2), range(0, 3 << 20));
        assert_eq!(section.take_front(all, 1, MIB2), range(0, 1 << 20));
        assert_eq!(
            section.take_front(range(1 << 20, 8 << 20), 5, MIB2),
            range(1 << 20, 3 << 20)
        );
        assert_eq!(section.take_front(all, u64::MAX, MIB2), all);
        assert_eq!(section.take_front(range(0, 10), 4096, 4096), range(0, 10));
    }

    #[test]
    fn host_addresses_lead_back_to_the_guest() {
        let low = section(0, 0xa_0000, 0, 4096);
        let high = Section {
            host: 0x1000,
            ..section(0x10_0000, 0x20_0000, 0, 4096)
        };
        let map = MemoryMap::new(vec![high, low]).unwrap();
        assert_eq!(map.at_host(0x7000_1000, 4096), Some(range(0x1000, 0x2000)));
        assert_eq!(map.at_host(0x1000, 10), Some(range(0x10_0000, 0x10_000a)));
        assert_eq!(map.at_host(0xfff, 10), None);
        assert_eq!(
            map.at_host(0x7009_f000, 1 << 30),
            Some(range(0x9_f000, 0xa_0000))
        );
        assert_eq!(map.at_host(0x700a_0000, 1), None);
        assert_eq!(map.at_host(0x7000_0000, 0), None);
    }

    #[test]
    fn what_moved_or_went_is_lost() {
        let old = MemoryMap::new(vec![section(0, 0x10_0000, 0, 4096)]).unwrap();
        let shorter = section(0x1000, 0x8_0000, 0x1000, 4096);
        let other = Section {
            block: BlockId(2),
            ..section(0x9_0000, 0x10_0000, 0x9_0000, 4096)
        };
        let mut lost = Vec::new();
        old.for_each_lost(&MemoryMap::new(vec![shorter, other]).unwrap(), |r| {
            lost.push(r)
        });
        assert_eq!(
            lost,
            [
                range(0, 0x1000),
                range(0x8_0000, 0x9_0000),
                range(0x9_0000, 0x10_0000)
            ]
        );
        old.for_each_lost(&old, |r| panic!("{r:?} is still there"));
    }

    proptest! {
        /// Shrinking never reaches outside of the range, growing never outside of the section, and
        /// both end at page borders of the block.
        #[test]
        fn clamps_keep_to_their_side(
            start in 0..64u64, len in 1..64u64, offset in 0..16u64, cut in 0..64u64, bytes in 1..64u64,
            shift in 12..16u32,
        ) {
            let section = section(start << 12, (start + len) << 12, offset << 12, 1 << shift);
            let part = range((start + cut.min(len - 1)) << 12, (start + (cut + bytes).min(len)) << 12);
            if let Some(inner) = section.shrink_to_pages(part) {
                prop_assert_eq!(inner.intersect(part), Some(inner));
                let block = section.block_range(inner);
                prop_assert_eq!((block.offset | block.bytes) % section.page_size, 0);
            }
            if let Some(outer) = section.grow_to_pages(part) {
                prop_assert_eq!(outer.intersect(section.gpa), Some(outer));
                let block = section.block_range(outer);
                prop_assert_eq!((block.offset | block.bytes) % section.page_size, 0);
            }
        }
    }
}
