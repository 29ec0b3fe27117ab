// SPDX-License-Identifier: GPL-2.0-or-later
//! Which chunks of a RAM block had their dirty log armed before a hint into them could be posted.

use super::bitmaps::BlockView;
use std::ops::Range;

/// Counts how often the hint queue was seen empty. A hint of an epoch was posted after the end of
/// the one before it.
pub type Epoch = u64;

/// The epoch of what was there before a round of hints was asked for: hints of that round are all
/// of a later one.
pub const BEFORE_ROUND: Epoch = 0;

/// Pages to arm at a time. KVM holds its MMU lock meanwhile, and a guest that faults waits for
/// it: about
/// 0.1 ms for 64 MiB of 4 KiB pages.
pub const SLICE_PAGES: u64 = 1 << 14;
/// Slices armed before a round is asked for: 256 GiB of 4 KiB pages, which take about 0.4 s. The
/// link stands idle meanwhile, so what is left of a larger guest is armed when hints come for it.
pub const MAX_SLICES_BEFORE_ROUND: u32 = 4096;

/// Chunks that a call may look at to find one to arm. There is one for each GiB, unless the user
/// asks for smaller ones: then a TiB can have four millions.
pub const MAX_LOOKS: usize = 1 << 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// Nothing is known.
    Unknown,
    /// A hint came for it: it is to be armed.
    Wanted,
    /// Armed since the call of [`Arming::trust`] of this number, or before it where that is still
    /// to come.
    Armed(u32),
}

/// The chunks of a RAM block since the last synchronization of the dirty bitmap.
#[derive(Debug, Default)]
pub struct Arming {
    chunks: Vec<Chunk>,
    /// How far the first chunk that is not armed yet has come, in pages.
    progress: u64,
    /// No chunk below is to be armed with all of them.
    all_from: usize,
    /// Those that hints came for, the last one first; some may have been armed since.
    wanted: Vec<usize>,
    /// The epochs of the calls of [`Arming::trust`], without those that nothing was armed before.
    trusted: Vec<Epoch>,
    /// Something was armed since the last of them.
    untrusted: bool,
}

/// Which chunks to arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Arm {
    /// All of them.
    All = 0,
    /// Those that hints came for.
    Wanted = 1,
}

/// A slice of arming.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// The pages to arm now.
    pub pages: Range<u64>,
    /// Whether their chunk is armed with them.
    pub whole_chunk: bool,
}

impl Arming {
    /// A synchronization of the dirty bitmap: every write from here on has to be noticed anew.
    pub fn forget(&mut self) {
        *self = Arming::default();
    }

    /// The next pages to arm, which the caller does; none if it is to come again; `None` when
    /// there are none left.
    pub fn next(&mut self, view: &BlockView<'_>, which: Arm) -> Option<Slice> {
        self.chunks.resize(view.chunks(), Chunk::Unknown);
        for _ in 0..MAX_LOOKS {
            let number = self.candidate(which)?;
            if matches!(self.chunks[number], Chunk::Armed(_)) || view.is_armed(number) {
                self.note_armed(number);
                self.pass(which);
                continue;
            }
            let all = view.chunk_pages(number);
            if !all.contains(&self.progress) {
                self.progress = all.start;
            }
            let pages = self.progress..all.end.min(self.progress + SLICE_PAGES);
            self.progress = pages.end;
            let whole_chunk = pages.end == all.end;
            if whole_chunk {
                self.note_armed(number);
                self.pass(which);
            }
            return Some(Slice { pages, whole_chunk });
        }
        Some(Slice {
            pages: 0..0,
            whole_chunk: false,
        })
    }

    /// The chunk to look at next.
    fn candidate(&self, which: Arm) -> Option<usize> {
        match which {
            Arm::All => (self.all_from < self.chunks.len()).then_some(self.all_from),
            Arm::Wanted => self.wanted.last().copied(),
        }
    }

    /// Goes on to the one behind it.
    fn pass(&mut self, which: Arm) {
        match which {
            Arm::All => self.all_from += 1,
            Arm::Wanted => drop(self.wanted.pop()),
        }
    }

    fn note_armed(&mut self, number: usize) {
        if !matches!(self.chunks[number], Chunk::Armed(_)) {
            self.chunks[number] = Chunk::Armed(self.trusted.len() as u32);
            self.untrusted = true;
        }
    }

    /// Says that the chunks armed so far were armed before the end of `epoch`.
    pub fn trust(&mut self, epoch: Epoch) {
        if std::mem::take(&mut self.untrusted) {
            self.trusted.push(epoch);
        }
    }

    /// Whether `chunk` was armed before a hint of `epoch` was posted. If not, it becomes one to be
    /// armed.
    pub fn was_armed(&mut self, chunk: usize, epoch: Epoch) -> bool {
        if self.chunks.len() <= chunk {
            self.chunks.resize(chunk + 1, Chunk::Unknown);
        }
        match self.chunks[chunk] {
            Chunk::Armed(call) => {
                let trusted = self.trusted.get(call as usize);
                trusted.is_some_and(|&armed| armed < epoch)
            }
            Chunk::Unknown => {
                self.chunks[chunk] = Chunk::Wanted;
                self.wanted.push(chunk);
                false
            }
            Chunk::Wanted => false,
        }
    }
}
