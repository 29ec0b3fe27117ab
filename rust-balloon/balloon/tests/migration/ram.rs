// SPDX-License-Identifier: GPL-2.0-or-later
//! The source's memory: what pages hold, the log of writes in the ways that accelerators keep one, and
//! the migration's bitmaps.
//!
//! A page of the model is the first of `stride` pages of the bitmaps; the others are never dirty. So
//! a few pages can lie in chunks that are armed in several slices.

use std::ops::Range;

use balloon::memory::{Backing, BlockId, BlockRange, HostRange, MemoryMap, Section};
use balloon::migration::bitmaps::{BlockView, DirtyBitmaps};
use balloon::page::GpaRange;

/// How writes are noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// A bitmap of QEMU's own; taking it protects the pages anew.
    Tcg,
    /// KVM's bitmap; getting it protects the pages anew.
    Kvm,
    /// KVM's bitmap, all set at first; pages are protected when their part of it is cleared.
    KvmManual,
    /// KVM's ring; a page is protected when its entry was taken and the ring reset.
    Ring,
}

/// All ways.
pub(crate) const LOGS: [Log; 4] = [Log::Tcg, Log::Kvm, Log::KvmManual, Log::Ring];

/// Pages of each block. The second has backing pages of two pages, the third is not migrated.
pub(crate) const SIZES: [usize; 3] = [8, 6, 2];
/// All pages, numbered through.
pub(crate) const PAGES: usize = 16;
/// Those in blocks that are migrated.
pub(crate) const MIGRATED: usize = SIZES[0] + SIZES[1];
/// log2 of the bytes of a page of the bitmaps.
pub(crate) const PAGE_SHIFT: u32 = 12;
/// The first page that the guest sees.
const GUEST_BASE: u64 = 37;
/// log2 of the pages of the model in a chunk.
const CHUNK_SHIFT: u32 = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    content: u32,
    /// The next write is noticed.
    protected: bool,
    /// The accelerator knows of a write: in KVM's bitmap, or in its ring.
    logged: bool,
    /// The entry was taken from the ring, which was not reset yet.
    taken: bool,
    /// QEMU knows of a write that the migration's bitmap does not show yet.
    collected: bool,
    /// In QEMU's copy of KVM's bitmap, which says what may be cleared there; or of what came from its
    /// ring.
    copied: bool,
}

#[derive(Clone, Debug)]
struct Bits {
    dirty: Vec<u64>,
    unarmed: Vec<u64>,
}

/// The source's memory.
#[derive(Clone, Debug)]
pub(crate) struct Ram {
    log: Log,
    /// log2 of the stride.
    stride: u32,
    pages: [Page; PAGES],
    bits: [Bits; 2],
}

/// The block that page `page` lies in, and where in it.
pub(crate) fn place(page: usize) -> (usize, usize) {
    match page {
        0..8 => (0, page),
        8..14 => (1, page - 8),
        _ => (2, page - 14),
    }
}

/// The page that is `at` in `block`.
fn page_of(block: usize, at: usize) -> usize {
    SIZES[..block].iter().sum::<usize>() + at
}

/// The pages that share a backing page with `page`.
pub(crate) fn backing(page: usize) -> Range<usize> {
    match place(page) {
        (1, at) => {
            let start = page_of(1, at / 2 * 2);
            start..start + 2
        }
        _ => page..page + 1,
    }
}

/// Blocks are named by numbers that are no indices.
pub(crate) fn block_id(block: usize) -> BlockId {
    BlockId(block + 70)
}

impl Ram {
    /// Pages that hold their own numbers, with no log kept. Slices are parts of a chunk when `sliced`.
    pub(crate) fn new(log: Log, sliced: bool) -> Ram {
        let stride = if sliced { 13 } else { 0 };
        let bits = [0, 1].map(|block| {
            let bits = SIZES[block] << stride;
            Bits {
                dirty: vec![0; bits.div_ceil(64)],
                unarmed: vec![0],
            }
        });
        let mut pages = [Page::default(); PAGES];
        for (number, page) in pages.iter_mut().enumerate() {
            page.content = number as u32 + 1;
        }
        Ram {
            log,
            stride,
            pages,
            bits,
        }
    }

    /// What page `page` holds.
    pub(crate) fn content(&self, page: usize) -> u32 {
        self.pages[page].content
    }

    /// The guest writes to a page.
    pub(crate) fn write(&mut self, page: usize, content: u32) {
        let page = &mut self.pages[page];
        page.content = content;
        if page.protected {
            page.protected = false;
            match self.log {
                Log::Tcg => page.collected = true,
                Log::Kvm | Log::KvmManual | Log::Ring => page.logged = true,
            }
        }
    }

    /// The device discards a page, which no log notes.
    pub(crate) fn discard(&mut self, page: usize) {
        self.pages[page].content = 0;
    }

    /// A migration begins: all is to be sent, and the log is started.
    pub(crate) fn start(&mut self) {
        for page in &mut self.pages {
            let (content, log) = (page.content, self.log);
            *page = Page {
                content,
                protected: matches!(log, Log::Kvm | Log::Ring),
                logged: log == Log::KvmManual,
                collected: log == Log::Tcg,
                ..Page::default()
            };
        }
        for bits in &mut self.bits {
            bits.dirty.fill(0);
            bits.unarmed.fill(0);
        }
        for page in 0..MIGRATED {
            self.set_dirty(page, true);
        }
    }

    /// QEMU takes the accelerator's log, which it may do at any time.
    pub(crate) fn collect(&mut self) {
        self.reap();
        self.reset_ring();
        for page in &mut self.pages {
            match self.log {
                Log::Tcg => {}
                Log::Ring => page.collected |= std::mem::take(&mut page.copied),
                Log::Kvm => {
                    page.collected |= page.logged;
                    page.protected |= page.logged;
                    page.logged = false;
                }
                Log::KvmManual => {
                    page.copied = page.logged;
                    page.collected |= page.logged;
                }
            }
        }
    }

    /// Entries are taken from KVM's ring.
    pub(crate) fn reap(&mut self) {
        if self.log == Log::Ring {
            for page in &mut self.pages {
                page.copied |= page.logged;
                page.taken |= page.logged;
                page.logged = false;
            }
        }
    }

    /// The places of taken entries are given back to KVM, which protects their pages.
    pub(crate) fn reset_ring(&mut self) {
        for page in &mut self.pages {
            page.protected |= page.taken;
            page.taken = false;
        }
    }

    /// The migration's bitmap takes over what was collected; returns how many bits are new.
    pub(crate) fn merge(&mut self) -> i64 {
        let before = self.dirty_bits();
        for page in 0..MIGRATED {
            if std::mem::take(&mut self.pages[page].collected) {
                self.set_dirty(page, true);
            }
            self.pages[page].protected |= self.log == Log::Tcg;
        }
        for bits in &mut self.bits {
            bits.unarmed.fill(u64::MAX);
        }
        self.dirty_bits() - before
    }

    /// What QEMU does before it sends a page: arms the page's chunk, unless that was done before.
    pub(crate) fn arm_chunk(&mut self, page: usize) {
        let (block, at) = place(page);
        let chunk = at >> CHUNK_SHIFT;
        if self.bits[block].unarmed[0] & (1 << chunk) != 0 {
            let end = ((chunk + 1) << CHUNK_SHIFT).min(SIZES[block]);
            self.clear_log(block, chunk << CHUNK_SHIFT..end);
            self.bits[block].unarmed[0] &= !(1 << chunk);
        }
    }

    /// Clears KVM's bitmap, but only what is known to QEMU.
    fn clear_log(&mut self, block: usize, pages: Range<usize>) {
        for at in pages {
            let page = &mut self.pages[page_of(block, at)];
            if self.log == Log::KvmManual && std::mem::take(&mut page.copied) {
                page.logged = false;
                page.protected = true;
            }
        }
    }

    /// Clears the log of a page, whatever it notes.
    pub(crate) fn forget_writes(&mut self, page: usize) {
        let page = &mut self.pages[page];
        (page.logged, page.collected, page.copied) = (false, false, false);
        page.protected = true;
    }

    /// Whether a page is still to be sent.
    pub(crate) fn is_dirty(&self, page: usize) -> bool {
        let (block, at) = place(page);
        let bit = at << self.stride;
        self.bits[block].dirty[bit / 64] & (1 << (bit % 64)) != 0
    }

    /// Changes whether a page is still to be sent.
    pub(crate) fn set_dirty(&mut self, page: usize, dirty: bool) {
        let (block, at) = place(page);
        let bit = at << self.stride;
        let word = &mut self.bits[block].dirty[bit / 64];
        *word &= !(1 << (bit % 64));
        *word |= u64::from(dirty) << (bit % 64);
    }

    /// How many bits of the migration's bitmaps are set. Nearly all words are zero where slices are
    /// parts of a chunk, and to compare many words takes less time than to count their bits.
    pub(crate) fn dirty_bits(&self) -> i64 {
        const NONE: [u64; 64] = [0; 64];
        let words = self.bits.iter().flat_map(|bits| bits.dirty.chunks(64));
        let words = words.filter(|words| **words != NONE[..words.len()]);
        let bits = words.flatten().map(|word| i64::from(word.count_ones()));
        bits.sum()
    }

    /// `count` pages from `page` on, in one block, as a hint names them.
    pub(crate) fn host_range(&self, page: usize, count: usize) -> HostRange {
        let range = self.block_range(page, count);
        let (block, _) = place(page);
        HostRange {
            host: ((block + 1) << 40) + range.offset as usize,
            bytes: range.bytes,
        }
    }

    /// Where they lie in their block.
    pub(crate) fn block_range(&self, page: usize, count: usize) -> BlockRange {
        let (block, at) = place(page);
        let shift = self.stride + PAGE_SHIFT;
        BlockRange {
            block: block_id(block),
            offset: (at as u64) << shift,
            bytes: (count as u64) << shift,
        }
    }

    /// The pages of the balloon that a page consists of. The guest sees the blocks one behind the
    /// other, not where a word of a bitmap begins.
    pub(crate) fn guest_pages(&self, page: usize) -> Range<u64> {
        let first = GUEST_BASE + ((page as u64) << self.stride);
        first..first + (1 << self.stride)
    }

    /// Where the guest sees the blocks.
    pub(crate) fn memory(&self) -> MemoryMap {
        let sections = (0..3).map(|block| {
            let first = self.guest_pages(page_of(block, 0)).start;
            let pages = first..first + ((SIZES[block] as u64) << self.stride);
            Section {
                gpa: GpaRange::of_page_indices(pages).expect("addresses of pages"),
                block: block_id(block),
                offset: 0,
                page_size: 4096,
                host: (block + 1) << 40,
                backing: Backing::default(),
            }
        });
        MemoryMap::new(sections.collect()).expect("a map of blocks")
    }

    /// The bit of a page, in the bitmaps of its block.
    pub(crate) fn bitmap_page(&self, page: usize) -> u64 {
        let (_, at) = place(page);
        (at as u64) << self.stride
    }
}

fn index(id: BlockId) -> Option<usize> {
    (0..2).find(|&block| block_id(block) == id)
}

impl DirtyBitmaps for Ram {
    fn view(&mut self, id: BlockId) -> Option<BlockView<'_>> {
        let block = index(id)?;
        let bits = &mut self.bits[block];
        // QEMU syncs some blocks page by page; they are armed with that.
        let always_armed = self.log == Log::Tcg && block == 1;
        Some(BlockView {
            dirty: &mut bits.dirty,
            pages: (SIZES[block] << self.stride) as u64,
            unarmed: if always_armed { &[] } else { &bits.unarmed },
            chunk_shift: CHUNK_SHIFT + self.stride,
        })
    }

    fn find(&mut self, host: usize) -> Option<(BlockId, u64)> {
        let block = (host >> 40).checked_sub(1).filter(|&block| block < 3)?;
        Some((block_id(block), (host & ((1 << 40) - 1)) as u64))
    }

    fn arm(&mut self, id: BlockId, pages: Range<u64>, whole_chunk: bool) {
        let Some(block) = index(id) else { return };
        let of_model = |page: u64| (page >> self.stride) as usize;
        let pages = of_model(pages.start)..of_model(pages.end);
        let chunk = pages.start >> CHUNK_SHIFT;
        self.clear_log(block, pages);
        if whole_chunk {
            self.bits[block].unarmed[0] &= !(1 << chunk);
        }
    }
}
