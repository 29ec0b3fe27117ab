// SPDX-License-Identifier: GPL-2.0-or-later
//! Where guest memory lies in the host's RAM blocks.
//!
//! The map holds the parts of the guest's address space that a balloon may touch: ordinary RAM that
//! the guest can write. ROM, MMIO and device memory are not in it, so no address in them ever
//! leads to a discard.

mod backing;
mod parts;
#[cfg(test)]
mod tests;

pub use backing::{Backing, BackingFile, Facts, Owner, Way};

use crate::error::Error;
use crate::page::{Gpa, GpaRange, PAGE_SIZE};
use parts::Parts;
use std::ops::Range;

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
    /// How it is dealt with.
    pub backing: Backing,
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

    /// The whole stretches of `size` bytes, a power of two, of the block inside of `range`, or
    /// `None` when it holds none.
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

    /// The whole stretches of `size` bytes of the block that `range` touches, without those that
    /// the section holds only in part; `None` when there are none.
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

/// The numbers of the 4 KiB pages that `range` touches.
fn pages(range: GpaRange) -> Range<u64> {
    let (first, end) = range.page_indices();
    first..end
}

/// The sections of guest RAM, sorted by address.
#[derive(Default)]
pub struct MemoryMap {
    sections: Vec<Section>,
    /// Indices into `sections`, sorted by host address.
    by_host: Vec<usize>,
    /// The 4 KiB pages that are there: those of all sections but the missing ones of sections that
    /// come in parts.
    there: Parts,
    /// The same as the sections, by block and offset, without overlaps.
    by_block: Vec<BlockPiece>,
}

/// A stretch of a RAM block, and where the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPiece {
    /// The block.
    pub block: BlockId,
    /// Where in the block it starts, in bytes.
    pub offset: u64,
    /// Where in the block it ends.
    pub end: u64,
    /// Where the guest sees its start.
    pub gpa: Gpa,
}

/// The sections by block and offset. Of memory that the guest sees in several places the first
/// counts.
fn by_block(sections: &[Section]) -> Vec<BlockPiece> {
    let mut pieces: Vec<BlockPiece> = sections
        .iter()
        .map(|section| BlockPiece {
            block: section.block,
            offset: section.offset,
            end: section.offset_of(section.gpa.end()),
            gpa: section.gpa.start(),
        })
        .collect();
    pieces.sort_by_key(|piece| (piece.block.0, piece.offset));
    let mut seen: Option<(BlockId, u64)> = None;
    pieces.retain_mut(|piece| {
        let covered = match seen {
            Some((block, end)) if block == piece.block => end,
            _ => 0,
        };
        let cut = covered.saturating_sub(piece.offset);
        let Some(gpa) = piece
            .gpa
            .checked_add(cut)
            .filter(|_| piece.offset + cut < piece.end)
        else {
            return false;
        };
        (piece.offset, piece.gpa) = (piece.offset + cut, gpa);
        seen = Some((piece.block, piece.end));
        true
    });
    pieces
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
        let mut there = Parts::default();
        for section in sections.iter().filter(|section| !section.backing.in_parts) {
            there.add(pages(section.gpa));
        }
        let by_block = by_block(&sections);
        Ok(MemoryMap {
            sections,
            by_host,
            there,
            by_block,
        })
    }

    /// Takes over from the map before this one which parts are there, as far as this map has the
    /// same bytes at the same place, and they come in parts in both: the borders of sections move
    /// when something is laid over them.
    pub fn take_parts_of(&mut self, old: &mut MemoryMap) {
        let mut there = std::mem::take(&mut old.there);
        for section in &old.sections {
            if section.backing.in_parts {
                self.for_each_gone_part(section, |gone| there.clear(pages(gone)));
            } else {
                there.clear(pages(section.gpa));
            }
        }
        let sections = self.sections.iter();
        for section in sections.filter(|section| !section.backing.in_parts) {
            there.add(pages(section.gpa));
        }
        self.there = there;
    }

    /// Calls `gone` for each stretch of `old` of which no section in parts has the same bytes at
    /// the same place.
    fn for_each_gone_part(&self, old: &Section, mut gone: impl FnMut(GpaRange)) {
        let mut from = old.gpa.start();
        for (section, part) in self.touched(old.gpa) {
            if section.backing.in_parts && section.block_range(part) == old.block_range(part) {
                GpaRange::new(from, part.start()).map(&mut gone);
                from = part.end();
            }
        }
        GpaRange::new(from, old.gpa.end()).map(&mut gone);
    }

    /// A part of a section that comes in parts is there now, or not any more.
    ///
    /// The pages that `range` has only in part are not there. What of it comes in no parts stays.
    pub fn set_part(&mut self, range: GpaRange, is_there: bool) {
        let mut there = std::mem::take(&mut self.there);
        let touched = self.touched(range);
        for (_, part) in touched.filter(|(section, _)| section.backing.in_parts) {
            if is_there {
                let first = part.start().0.div_ceil(PAGE_SIZE);
                let end = part.end().0 / PAGE_SIZE;
                there.add(first..end.max(first));
            } else {
                there.clear(pages(part));
            }
        }
        self.there = there;
    }

    /// Whether all of `range` is guest RAM.
    ///
    /// One look-up, of however many sections it is: a guest can ask in each entry of a message, and
    /// name all of its memory there.
    pub fn is_ram(&self, range: GpaRange) -> bool {
        self.there.contains_all(pages(range))
    }

    /// The sections that `range` touches, and what of it lies in each, in ascending order.
    fn touched(&self, range: GpaRange) -> impl Iterator<Item = (&Section, GpaRange)> {
        let next = self
            .sections
            .partition_point(|section| section.gpa.end() <= range.start());
        self.sections[next..]
            .iter()
            .map_while(move |section| Some((section, section.gpa.intersect(range)?)))
    }

    /// In how many runs the memory is: to look one up takes as many steps as that number has bits.
    pub fn runs(&self) -> usize {
        self.there.runs()
    }

    fn section_at(&self, gpa: Gpa) -> Option<&Section> {
        let next = self
            .sections
            .partition_point(|section| section.gpa.end() <= gpa);
        self.sections
            .get(next)
            .filter(|section| section.gpa.contains(gpa))
    }

    /// The sections in ascending order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// What the guest sees of `block` behind `offset`, in ascending order.
    pub fn pieces(&self, block: BlockId, offset: u64) -> impl Iterator<Item = &BlockPiece> {
        let is_before = |piece: &BlockPiece| (piece.block.0, piece.end) <= (block.0, offset);
        let first = self.by_block.partition_point(is_before);
        let behind = self.by_block[first..].iter();
        behind.take_while(move |piece| piece.block == block)
    }

    /// The first block, by its number, from number `from` on.
    pub fn next_block(&self, from: usize) -> Option<BlockId> {
        let first = self.by_block.partition_point(|piece| piece.block.0 < from);
        self.by_block.get(first).map(|piece| piece.block)
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
                Some(part) if section.backing.in_parts => self.front_part(part, section),
                Some(part) => Piece::Ram(part, *section),
                None => Piece::NotRam(range),
            },
        }
    }

    /// The first addresses of `range`, which lies in `section`, that are all there, or all not.
    fn front_part(&self, range: GpaRange, section: &Section) -> Piece {
        let asked = pages(range);
        let first = asked.start;
        let (is_there, past) = self.there.front(asked);
        let part = GpaRange::of_page_indices(first..past).and_then(|part| part.intersect(range));
        match part {
            Some(part) if is_there => Piece::Ram(part, *section),
            part => Piece::NotRam(part.unwrap_or(range)),
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
    /// same bytes of the very same block. `new` has taken over what is there of sections in parts.
    ///
    /// A section that is the same in both has lost nothing, also where it comes in parts and some
    /// are not there: those went when the host said so, and whoever kept account of their pages
    /// has taken these back then. So a change somewhere else costs nothing for each part.
    pub fn for_each_lost(&self, new: &MemoryMap, mut gone: impl FnMut(GpaRange)) {
        let stays = |old: &&Section| new.section_at(old.gpa.start()) == Some(old);
        for old in self.sections.iter().filter(|old| !stays(old)) {
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
