// SPDX-License-Identifier: GPL-2.0-or-later
//! A host that notes what it is asked for, and the maps of memory that the tests use.

use std::collections::HashMap;

use balloon::device::{RequestEnd, RequestPart};
use balloon::error::HostError;
use balloon::features::Features;
use balloon::host::{Host, MAX_SPANS, Refused};
use balloon::memory::{Backing, BlockId, BlockRange, BlockSpan, MemoryMap, Section};
use balloon::page::{Gpa, GpaRange, PAGE_SIZE};
use balloon::wire::ByteOrder;

/// What the host was asked for, and how it answers.
#[derive(Default)]
pub(crate) struct MockHost {
    /// Discards that were done, since they were last taken.
    pub(crate) discards: Vec<BlockRange>,
    /// Pages to be used again, since they were last taken.
    pub(crate) populates: Vec<BlockRange>,
    /// Whether to refuse discards.
    pub(crate) refuse: bool,
    /// Whether to refuse to take memory later, and how often that was asked.
    pub(crate) refuse_free: bool,
    pub(crate) frees: u64,
    /// Discards done in all, and their bytes.
    pub(crate) done: u64,
    pub(crate) done_bytes: u64,
    /// Discards refused in all, and by block since the last that was done.
    pub(crate) refused: u64,
    pub(crate) refused_in_a_row: HashMap<usize, u32>,
}

impl Host for MockHost {
    fn discard(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        assert!(!spans.is_empty() && spans.len() <= MAX_SPANS);
        if self.refuse {
            self.refused += 1;
            *self.refused_in_a_row.entry(block.0).or_default() += 1;
            return Err(Refused {
                done: 0,
                error: HostError(12),
            });
        }
        self.refused_in_a_row.remove(&block.0);
        self.done += spans.len() as u64;
        self.done_bytes += spans.iter().map(|span| span.bytes).sum::<u64>();
        self.discards.extend(ranges(block, spans));
        Ok(())
    }

    fn drop_private(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        self.discard(block, spans)
    }

    fn free(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        self.frees += 1;
        if self.refuse_free {
            return Err(Refused {
                done: 0,
                error: HostError(22),
            });
        }
        self.discard(block, spans)
    }

    fn populate(&mut self, block: BlockId, spans: &[BlockSpan]) {
        self.populates.extend(ranges(block, spans));
    }
}

fn ranges(block: BlockId, spans: &[BlockSpan]) -> impl Iterator<Item = BlockRange> {
    spans
        .iter()
        .map(move |&BlockSpan { offset, bytes }| BlockRange {
            block,
            offset,
            bytes,
        })
}

/// Where the pages of the small blocks, of the one with 2 MiB pages and of the large one begin, and
/// where the guest's memory ends; page numbers.
pub(crate) const SMALL: u64 = 0;
pub(crate) const HUGE: u64 = 512;
pub(crate) const LONG: u64 = 4096;
pub(crate) const END: u64 = LONG + 8192;

/// Guest memory in bytes, for the counters.
pub(crate) const RAM: u64 = END * PAGE_SIZE;

/// Room for any set of the pages of such small machines, as it is saved: two bytes a page are more
/// than the worst set takes.
pub(crate) const SET_BYTES: usize = 2 * END as usize;

/// How many maps there are.
pub(crate) const MAPS: usize = 7;

/// `pages` pages of the guest's from `first` on, in a block of pages of `page_size` bytes from page
/// `offset` on.
pub(crate) fn section(
    block: usize,
    first: u64,
    pages: u64,
    offset: u64,
    page_size: u64,
) -> Section {
    let (start, offset) = (Gpa(first * PAGE_SIZE), offset * PAGE_SIZE);
    Section {
        gpa: GpaRange::with_len(start, pages * PAGE_SIZE).expect("a range"),
        block: BlockId(block),
        offset,
        page_size,
        // Block by block far apart, so that no address is in two.
        host: (block << 40) + offset as usize,
        backing: Backing {
            populate: block == 1,
            ..Backing::default()
        },
    }
}

const K4: u64 = 4 << 10;
const K16: u64 = 16 << 10;
const M2: u64 = 2 << 20;

/// A map of memory. The first is that of a machine which was just started, the others are what it
/// may become.
pub(crate) fn sections(map: usize) -> Vec<Section> {
    let small = section(1, SMALL, 64, 0, K4);
    // Begins and ends within a backing page.
    let medium = section(2, 96, 64, 2, K16);
    let huge = section(3, HUGE, 2048, 0, M2);
    let long = section(4, LONG, 8192, 0, K4);
    match map {
        0 => vec![long, huge, medium, small],
        // The medium block is not there, or other parts of it are.
        1 => vec![small, huge, long],
        2 => vec![small, section(2, 96, 32, 6, K16), huge, long],
        // The same memory in more sections; a backing page of 2 MiB is in two of them.
        3 => vec![
            section(1, SMALL, 30, 0, K4),
            section(1, 30, 34, 30, K4),
            medium,
            section(3, HUGE, 700, 0, M2),
            section(3, HUGE + 700, 1348, 700, M2),
            long,
        ],
        // The medium block's halves have changed places, the small block is another.
        4 => vec![
            section(5, SMALL, 64, 0, K4),
            section(2, 96, 32, 34, K16),
            section(2, 128, 32, 2, K16),
            huge,
            long,
        ],
        5 => vec![small, long],
        // Slices end within a range of large backing pages, which must not be cut.
        _ => vec![small, huge, section(6, LONG, 8192, 1, K16)],
    }
}

/// The same as the library has it.
pub(crate) fn memory_map(map: usize) -> MemoryMap {
    MemoryMap::new(sections(map)).expect("a map that can be")
}

/// The standard's features: requests hold PFNs.
pub(crate) fn standard() -> Features {
    Features::all().difference(Features::PAGE_RANGE | Features::BALLOON_CHUNKS)
}

/// All that a request has left, as one part.
pub(crate) fn part<'a>(
    payload: &'a [u8],
    order: ByteOrder,
    end: Option<RequestEnd>,
) -> RequestPart<'a> {
    RequestPart {
        payload,
        total: payload.len() as u64,
        order,
        end,
    }
}
