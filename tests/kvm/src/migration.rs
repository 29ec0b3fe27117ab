// SPDX-License-Identifier: GPL-2.0-or-later
//! A migration of a machine's RAM within this process, in QEMU's steps, with the
//! library deciding what is left out.
//!
//! It keeps what QEMU keeps: a bit for each page that is still to be sent, a bit for
//! each chunk whose log was not cleared since it was last read, and the log as it was
//! read then, as no other bits of the log may be cleared.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use balloon::memory::{BlockId, HostRange};
use balloon::migration::arming::{Arm, BEFORE_ROUND, Epoch};
use balloon::migration::bitmaps::{BlockView, DirtyBitmaps};
use balloon::migration::skips::{DirtyChange, Hint, SkipCounters, Skips};

use crate::PAGE;
use crate::machine::Machine;
use crate::tracking::Tracking;

const BLOCK: BlockId = BlockId(1);
const PAGE_SHIFT: u32 = PAGE.trailing_zeros();

/// The source's bitmaps.
#[derive(Debug)]
struct Bitmaps {
    machine: Machine,
    dirty: Vec<u64>,
    unarmed: Vec<u64>,
    known: Vec<u64>,
    chunk_shift: u32,
}

/// A migration, and what has arrived of the machine's RAM: the first word of each page.
pub struct Migration {
    bitmaps: Bitmaps,
    skips: Skips,
    change: DirtyChange,
    arrived: Vec<u64>,
}

fn ones(bits: u64) -> Vec<u64> {
    let mut words = vec![u64::MAX; bits.div_ceil(64) as usize];
    if let (Some(last), used @ 1..) = (words.last_mut(), bits % 64) {
        *last = (1 << used) - 1;
    }
    words
}

fn take(words: &mut [u64], bit: u64) -> bool {
    let (word, mask) = (&mut words[bit as usize / 64], 1 << (bit % 64));
    let was = *word & mask != 0;
    *word &= !mask;
    was
}

impl Bitmaps {
    /// Clears the log of `pages`, which are whole words of it, and protects them: what
    /// KVM told of them when the log was last read, and nothing else. Without manual
    /// clearing that was done when the log was read.
    fn clear_log(&mut self, pages: Range<u64>) -> io::Result<()> {
        if self.machine.tracking() != Tracking::ManualClear {
            return Ok(());
        }
        let words = pages.start as usize / 64..pages.end.div_ceil(64) as usize;
        let count = (pages.end - pages.start) as u32;
        let known = &mut self.known[words];
        self.machine.clear_log(pages.start, count, known)?;
        known.fill(0);
        Ok(())
    }

    fn chunk_pages(&self, chunk: u64) -> Range<u64> {
        let start = chunk << self.chunk_shift;
        start..(start + (1 << self.chunk_shift)).min(self.machine.pages())
    }

    /// What QEMU does before it sends the first page of a chunk.
    fn clear_log_of_chunk_with(&mut self, page: u64) -> io::Result<()> {
        let chunk = page >> self.chunk_shift;
        if take(&mut self.unarmed, chunk) {
            self.clear_log(self.chunk_pages(chunk))?;
        }
        Ok(())
    }

    fn read_log(&mut self) -> io::Result<Vec<u64>> {
        if self.machine.tracking() != Tracking::Ring {
            return self.machine.read_log();
        }
        let mut log = vec![0; self.dirty.len()];
        while let Some(page) = self.machine.pop_ring() {
            log[page as usize / 64] |= 1 << (page % 64);
        }
        Ok(log)
    }
}

impl DirtyBitmaps for Bitmaps {
    fn view(&mut self, block: BlockId) -> Option<BlockView<'_>> {
        (block == BLOCK).then_some(BlockView {
            dirty: &mut self.dirty,
            pages: self.machine.pages(),
            unarmed: &self.unarmed,
            chunk_shift: self.chunk_shift,
        })
    }

    fn find(&mut self, host: usize) -> Option<(BlockId, u64)> {
        // The tests name a page by its place in RAM.
        Some((BLOCK, host as u64))
    }

    fn arm(&mut self, _block: BlockId, pages: Range<u64>, whole_chunk: bool) {
        let chunk = pages.start >> self.chunk_shift;
        self.clear_log(pages).expect("KVM clears its log");
        if whole_chunk {
            take(&mut self.unarmed, chunk);
        }
    }
}

/// A hint at one page.
pub fn hint(page: u64, epoch: Epoch) -> Hint {
    let range = HostRange {
        host: (page * PAGE) as usize,
        bytes: PAGE,
    };
    Hint { range, epoch }
}

impl Migration {
    /// A migration of `machine`, with 2^`chunk_shift` pages in a chunk, at least 64.
    /// All pages are to be sent; their writes are not yet told.
    pub fn new(machine: Machine, chunk_shift: u32) -> Migration {
        let pages = machine.pages();
        let chunks = pages.div_ceil(1 << chunk_shift);
        let mut skips = Skips::new(PAGE_SHIFT);
        skips.begin();
        Migration {
            bitmaps: Bitmaps {
                machine,
                dirty: ones(pages),
                unarmed: ones(chunks),
                known: vec![0; pages.div_ceil(64) as usize],
                chunk_shift,
            },
            skips,
            change: DirtyChange::default(),
            arrived: vec![0; pages as usize],
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.bitmaps.machine
    }

    /// As at the start of a migration: all pages are to be sent, and none was left out.
    pub fn start_over(&mut self) {
        self.bitmaps.dirty = ones(self.bitmaps.machine.pages());
        self.skips.begin();
    }

    /// From now on writes are told.
    ///
    /// # Errors
    /// What KVM says.
    pub fn log_on(&mut self) -> io::Result<()> {
        self.bitmaps.machine.set_logging(true)
    }

    /// The first half of a synchronization: what was written since the last one is to be
    /// sent. With a ring, its pages are not protected yet.
    ///
    /// # Errors
    /// What KVM says.
    pub fn read_log(&mut self) -> io::Result<()> {
        let bitmaps = &mut self.bitmaps;
        bitmaps.known = bitmaps.read_log()?;
        for (dirty, written) in bitmaps.dirty.iter_mut().zip(&bitmaps.known) {
            *dirty |= written;
        }
        bitmaps.unarmed = ones(bitmaps.machine.pages().div_ceil(1 << bitmaps.chunk_shift));
        Ok(())
    }

    /// The second half: the pages of a ring are protected, and the library is told.
    ///
    /// # Errors
    /// What KVM says.
    pub fn end_sync(&mut self) -> io::Result<()> {
        if self.bitmaps.machine.tracking() == Tracking::Ring {
            self.bitmaps.machine.reset_ring()?;
        }
        self.skips.synced();
        while self.skips.sweep(&mut self.bitmaps, None, &mut self.change) {}
        Ok(())
    }

    /// A synchronization, as QEMU does it.
    ///
    /// # Errors
    /// What KVM says.
    pub fn sync(&mut self) -> io::Result<()> {
        self.read_log()?;
        self.end_sync()
    }

    /// Arms the log of all chunks.
    pub fn arm_all(&mut self) {
        while self.skips.arm(&mut self.bitmaps, BLOCK, Arm::All) {}
    }

    /// Arms one slice; says whether there may be more.
    pub fn arm_slice(&mut self) -> bool {
        self.skips.arm(&mut self.bitmaps, BLOCK, Arm::All)
    }

    /// Arms the log of the chunks that refused hints came for.
    pub fn arm_wanted(&mut self) {
        while self.skips.arm(&mut self.bitmaps, BLOCK, Arm::Wanted) {}
    }

    /// What was armed so far was armed before the end of `epoch`.
    pub fn trust(&mut self, epoch: Epoch) {
        self.skips.trust(epoch);
    }

    /// What was armed so far was armed before the round began.
    pub fn trust_before_round(&mut self) {
        self.trust(BEFORE_ROUND);
    }

    /// Hints are handled by the library; says how many pages they left out.
    pub fn handle(&mut self, hints: &[Hint]) -> u64 {
        let before = self.change.cleared;
        self.skips
            .leave_out_hinted(&mut self.bitmaps, hints, &mut self.change);
        self.change.cleared - before
    }

    /// A hint is handled as QEMU's own device handles it: the log of the page's chunk is
    /// cleared with it. Says whether the page was to be sent.
    ///
    /// # Errors
    /// What KVM says.
    pub fn handle_with_log(&mut self, page: u64) -> io::Result<bool> {
        self.bitmaps.clear_log_of_chunk_with(page)?;
        Ok(take(&mut self.bitmaps.dirty, page))
    }

    /// Reads KVM's log, protects the pages, and forgets what it said.
    ///
    /// # Errors
    /// What KVM says.
    pub fn discard_log(&mut self) -> io::Result<()> {
        self.bitmaps.known = self.bitmaps.read_log()?;
        self.bitmaps.clear_log(0..self.bitmaps.machine.pages())?;
        if self.bitmaps.machine.tracking() == Tracking::Ring {
            self.bitmaps.machine.reset_ring()?;
        }
        Ok(())
    }

    /// Sends a page if it is to be sent; says whether it was.
    ///
    /// # Errors
    /// What KVM says.
    pub fn send(&mut self, page: u64) -> io::Result<bool> {
        if self.bitmaps.dirty[page as usize / 64] & (1 << (page % 64)) == 0 {
            return Ok(false);
        }
        self.bitmaps.clear_log_of_chunk_with(page)?;
        take(&mut self.bitmaps.dirty, page);
        // After the bit was cleared and the page protected, so that a later write is told.
        let word = self.bitmaps.machine.page(page).load(Ordering::SeqCst);
        self.arrived[page as usize] = word;
        Ok(true)
    }

    /// Sends all pages of `range` that are to be sent, and says how many.
    ///
    /// # Errors
    /// What KVM says.
    pub fn send_range(&mut self, range: Range<u64>) -> io::Result<u64> {
        let mut sent = 0;
        for page in range {
            sent += u64::from(self.send(page)?);
        }
        Ok(sent)
    }

    /// What the destination has of a page.
    pub fn arrived(&self, page: u64) -> u64 {
        self.arrived[page as usize]
    }

    /// The end: the guest stands still, and no hint is open.
    ///
    /// # Errors
    /// What KVM says.
    pub fn finish(&mut self) -> io::Result<()> {
        self.sync()?;
        self.send_range(0..self.bitmaps.machine.pages())?;
        Ok(())
    }

    /// The pages of which the destination has something else than the guest.
    pub fn differing(&self) -> Vec<u64> {
        let machine = &self.bitmaps.machine;
        (0..machine.pages())
            .filter(|page| machine.page(*page).load(Ordering::SeqCst) != self.arrived(*page))
            .collect()
    }

    /// What the library counted.
    pub fn counters(&self) -> SkipCounters {
        self.skips.counters()
    }
}
