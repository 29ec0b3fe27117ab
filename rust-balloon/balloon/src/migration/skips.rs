// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages left out of a migration, and why none of them is missed.
//!
//! # Hinted pages
//!
//! They are left out in `skips/hinted.rs`, by these rules.
//!
//! A hint says: this page was free at some time after the round of hints was asked for. The guest
//! may use it again at any time, before the hint is looked at or after. Its bit in the
//! migration's dirty bitmap is cleared only if
//!
//! 1. the dirty log of its chunk was armed before the hint could be posted, and
//! 2. no synchronization of the bitmap lies between the hint's arrival and the clearing, and no
//!    page is sent between a synchronization and the sweep behind it without that being noticed
//!    there.
//!
//! What the page held when the log was armed is not needed: the page was free later. What the guest
//! writes from then on is noted in the log, so the next synchronization sets the bit again, and
//! there is one before the guest goes on elsewhere, with the guest stopped. Between the two
//! nothing here touches the log: clearing it would forget a write that came after the hint. By 2
//! a bit that tells of such a write is never cleared. The log is armed
//!
//! - with KVM without manual clearing by the synchronization itself, which takes the noted writes
//!   and protects the pages in one step;
//! - under TCG by the synchronization, which takes the noted writes and makes the processors' TLBs
//!   note writes again;
//! - with KVM's manual clearing chunk by chunk, later, by [`DirtyBitmaps::arm`]: all chunks
//!   before the round is asked for, or, in a guest so large that this is cut short, a chunk when
//!   the first hint into it comes. That hint, and all that were posted before the queue was next
//!   seen empty, do not count; nor does any part of an answer to a request, which may have been
//!   put together before. A chunk that was trusted is not armed again before the next
//!   synchronization. One that was armed in part may be, by whoever sends a page of it: that
//!   forgets only writes that the last synchronization had taken, as QEMU clears KVM's log
//!   through its own copy of it;
//! - with KVM's dirty ring when an entry is taken from the ring, which the synchronization does
//!   for all entries. A page whose entry was not taken yet is in the ring, and so not forgotten
//!   either.
//!
//! # Ballooned pages
//!
//! With MUST_TELL_HOST a page in the balloon is not used before its deflate was acknowledged.
//! Deflates are handled under the big lock, so whoever holds that knows what is in the balloon at
//! this moment, and what the page held up to now is of no use to the guest. Its bit may be
//! cleared then, whenever that is.
//!
//! A page that was left out and is not in the balloon any more, for whatever reason, is put back
//! by the next sweep: its bit is set, and it is not one that is left out. That may come late, up
//! to the last pass: the page is sent then, with what it holds at that time. So nothing has to be
//! done when a page leaves the balloon.
//!
//! The dirty log does not do this. With KVM's manual clearing the page's chunk need not be armed,
//! so a write after the deflate is noted in no bit that was not set already; and whoever arms the
//! chunk forgets what was noted since the last synchronization. So a page is taken out of the
//! pages that are left out only together with setting its bit.
//!
//! # The sweep
//!
//! What a synchronization leaves to do grows with the guest's memory: a *sweep* goes over all
//! sets and bitmaps, in steps of [`STEP_WORDS`]. At each place it does three things, in this
//! order.
//!
//! 1. Hinted pages that are dirty are not left out any more: they were written. A page that was
//!    written and sent since the synchronization is not dirty, and must not be announced as zero
//!    in postcopy. Who sends a page arms its chunk, and the synchronization left no chunk armed:
//!    so where the chunk is armed, all of its hinted pages are doubtful, and sent. The same holds
//!    for places that the sweep before did not come to.
//! 2. Pages that left the balloon are put back.
//! 3. Pages that are in the balloon are left out.
//!
//! The sweep behind the last synchronization has to come to its end before the last pass. The
//! guest stands still then, nothing leaves the balloon, and so nothing is left out that is not in
//! it. Only a checkpoint of COLO lets others take the big lock between two steps. A reset of the
//! machine that comes there changes the balloon after the device's state was saved; what is left
//! out is right for that state, and the next checkpoint puts it back.
//!
//! # Postcopy
//!
//! Pages left out are remembered until they are dirty again. When postcopy begins, and the sweep
//! is done, they are announced to the destination as zero, without a look at them: no page may be
//! missing there.

mod hinted;

pub use hinted::Hint;

use super::arming::{Arm, Arming, Epoch, MAX_SLICES_BEFORE_ROUND};
use super::bitmaps::{BlockView, DirtyBitmaps};
use super::sweep::{BLOCK_WORDS, Ballooned, FREED_WORDS, PART_PAGES, STEP_WORDS, Sets};
use crate::counters::Tally;
use crate::memory::BlockId;
use sparse_bitmap::SparseBitmap;

/// How the number of dirty pages changes. Both grow together with the bits, so that they hold
/// whatever happens later in a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DirtyChange {
    /// Bits cleared.
    pub cleared: u64,
    /// Bits set.
    pub set: u64,
}

/// What was left out of the current or last migration, and what was refused since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SkipCounters {
    /// Bytes of hinted memory that are left out: not sent, and not written since.
    pub hint_left_out_bytes: u64,
    /// Bytes in the balloon that are left out.
    pub ballooned_left_out_bytes: u64,
    /// Bytes hinted that are not RAM.
    pub refused_not_ram_bytes: u64,
    /// Bytes hinted in RAM that is not migrated.
    pub refused_not_migrated_bytes: u64,
    /// Bytes at the ends of hints that do not fill a page.
    pub refused_partial_page_bytes: u64,
    /// Bytes hinted before the dirty log was armed for them.
    pub refused_unprotected_bytes: u64,
}

#[derive(Default)]
struct Block {
    hinted: Option<SparseBitmap>,
    ballooned: Option<SparseBitmap>,
    arming: Arming,
    /// The page from which on postcopy goes on, and sets that it is done with.
    announced: u64,
    done: Vec<SparseBitmap>,
    /// How many hinted and ballooned pages postcopy announced as zero: they count as left out.
    announced_pages: [u64; 2],
}

/// How far postcopy has come with what was left out of a block.
pub enum Announced {
    /// There is more to do.
    Part,
    /// It is done: all of these pages are announced as zero.
    All(Vec<SparseBitmap>),
}

/// Sets those bits of `word` that are not set, and says which these were.
fn set_bits(view: &mut BlockView<'_>, word: usize, bits: u64, change: &mut DirtyChange) -> u64 {
    let Some(place) = view.dirty.get_mut(word) else {
        return 0;
    };
    let new = bits & !*place;
    *place |= new;
    change.set += u64::from(new.count_ones());
    new
}

/// How far the sweep over all blocks has come: everything before is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The number of a block. There need not be one of this number.
    block: usize,
    /// The number of a part of it.
    part: u64,
}

/// The pages left out of a migration.
pub struct Skips {
    page_shift: u32,
    blocks: Vec<(BlockId, Block)>,
    /// Slices armed since the last synchronization.
    slices: u32,
    /// What the sweep behind the last synchronization does next; `None` when it is done.
    sweep: Option<Place>,
    /// From here on the sweep behind the synchronization before the last did not come.
    doubt: Option<Place>,
    /// Sets whose memory is still to be freed: a step of a sweep does a part of it.
    spent: Vec<SparseBitmap>,
    counters: Tally<SkipCounters>,
}

impl Skips {
    /// Nothing left out yet, with target pages of 2^`page_shift` bytes.
    pub fn new(page_shift: u32) -> Skips {
        Skips {
            page_shift,
            blocks: Vec::new(),
            slices: 0,
            sweep: None,
            doubt: None,
            spent: Vec::new(),
            counters: Tally::default(),
        }
    }

    /// A new migration: what was left out of the last one is forgotten.
    pub fn begin(&mut self) {
        for (_, block) in std::mem::take(&mut self.blocks) {
            let sets = block.hinted.into_iter().chain(block.ballooned);
            self.free_later(sets.chain(block.done));
        }
        self.sweep = None;
        self.doubt = None;
    }

    /// Has the memory of `sets` be freed by the sweeps to come: of a large guest it takes longer
    /// than a call may.
    pub fn free_later(&mut self, sets: impl IntoIterator<Item = SparseBitmap>) {
        for mut set in sets {
            set.remove_all();
            self.spent.push(set);
        }
    }

    /// Frees the memory of sets that are not needed any more, for as long as there are `words`
    /// left.
    fn free_spent(&mut self, words: &mut usize) {
        while let Some(set) = self.spent.last_mut()
            && *words > 0
        {
            let pieces = set.trim(words.div_ceil(FREED_WORDS));
            *words = words.saturating_sub(pieces * FREED_WORDS);
            if set.surplus() == 0 {
                self.spent.pop();
            }
        }
    }

    /// What was left out.
    pub fn counters(&self) -> SkipCounters {
        let pages = |set: &Option<SparseBitmap>| set.as_ref().map_or(0, SparseBitmap::len);
        let sum = |of: fn(&Block) -> (&Option<SparseBitmap>, u64)| {
            let counts = self.blocks.iter().map(|(_, block)| {
                let (set, announced) = of(block);
                pages(set) + announced
            });
            counts.sum::<u64>() << self.page_shift
        };
        SkipCounters {
            hint_left_out_bytes: sum(|block| (&block.hinted, block.announced_pages[0])),
            ballooned_left_out_bytes: sum(|block| (&block.ballooned, block.announced_pages[1])),
            ..*self.counters
        }
    }

    fn block(&mut self, id: BlockId) -> &mut Block {
        let index = match self.blocks.iter().position(|&(known, _)| known == id) {
            Some(index) => index,
            None => {
                self.blocks.push((id, Block::default()));
                self.blocks.len() - 1
            }
        };
        &mut self.blocks[index].1
    }

    /// The bitmaps were synchronized: the dirty log is to be armed anew, and a sweep over all
    /// that is left out begins.
    pub fn synced(&mut self) {
        self.slices = 0;
        for (_, block) in &mut self.blocks {
            block.arming.forget();
        }
        self.doubt = self.sweep;
        self.sweep = Some(Place::default());
    }

    /// Does a step of the sweep; says whether there is more to do. `balloon` is what is in the
    /// balloon at this moment, `None` for nothing.
    pub fn sweep(
        &mut self,
        bitmaps: &mut dyn DirtyBitmaps,
        balloon: Option<&Ballooned<'_>>,
        change: &mut DirtyChange,
    ) -> bool {
        self.sweep_words(STEP_WORDS, bitmaps, balloon, change)
    }

    /// The same for a step of about so many words.
    pub fn sweep_words(
        &mut self,
        mut words: usize,
        bitmaps: &mut dyn DirtyBitmaps,
        balloon: Option<&Ballooned<'_>>,
        change: &mut DirtyChange,
    ) -> bool {
        self.free_spent(&mut words);
        while let Some(place) = self.sweep {
            if words == 0 {
                return true;
            }
            let mine = self.blocks.iter().map(|&(id, _)| id.0);
            let mine = mine.filter(|&id| id >= place.block).min();
            let theirs = balloon.and_then(|balloon| balloon.memory.next_block(place.block));
            let next = mine.into_iter().chain(theirs.map(|id| id.0)).min();
            self.sweep = next.and_then(|block| {
                let part = if block == place.block { place.part } else { 0 };
                let next =
                    self.sweep_block(&mut words, BlockId(block), part, bitmaps, balloon, change);
                words = words.saturating_sub(BLOCK_WORDS);
                match next {
                    Some(part) => Some(Place { block, part }),
                    None => Some(Place {
                        block: block.checked_add(1)?,
                        part: 0,
                    }),
                }
            });
        }
        self.doubt = None;
        self.free_spent(&mut words);
        !self.spent.is_empty()
    }

    /// Does parts of a block for as long as there are `words` left; returns the part to go on
    /// with, or `None` at the end of the block.
    fn sweep_block(
        &mut self,
        words: &mut usize,
        id: BlockId,
        first: u64,
        bitmaps: &mut dyn DirtyBitmaps,
        balloon: Option<&Ballooned<'_>>,
        change: &mut DirtyChange,
    ) -> Option<u64> {
        let (shift, doubt) = (self.page_shift, self.doubt);
        let block = self.block(id);
        let Some(mut view) = bitmaps.view(id) else {
            let sets = [block.hinted.take(), block.ballooned.take()];
            self.free_later(sets.into_iter().flatten());
            return None;
        };
        let parts = view.pages.div_ceil(PART_PAGES);
        for part in first..parts {
            if *words == 0 {
                return Some(part);
            }
            let place = Place { block: id.0, part };
            let mut sets = Sets {
                hinted: &mut block.hinted,
                ballooned: &mut block.ballooned,
                balloon,
                shift,
                all_doubtful: doubt.is_some_and(|doubt| doubt <= place),
            };
            let looked_at = sets.sweep(id, &mut view, part, change);
            *words = words.saturating_sub(looked_at);
        }
        None
    }

    /// Arms the next slice of the dirty log of `block`; says whether there may be more to do.
    pub fn arm(&mut self, bitmaps: &mut dyn DirtyBitmaps, id: BlockId, which: Arm) -> bool {
        if which == Arm::All && self.slices >= MAX_SLICES_BEFORE_ROUND {
            return false;
        }
        let block = self.block(id);
        let slice = bitmaps
            .view(id)
            .and_then(|view| block.arming.next(&view, which));
        if let Some(slice) = slice.as_ref().filter(|slice| !slice.pages.is_empty()) {
            bitmaps.arm(id, slice.pages.clone(), slice.whole_chunk);
            self.slices += 1;
        }
        slice.is_some()
    }

    /// Says that all that was armed so far was armed before the end of `epoch`.
    pub fn trust(&mut self, epoch: Epoch) {
        for (_, block) in &mut self.blocks {
            block.arming.trust(epoch);
        }
    }

    /// Postcopy begins, and the sweep is done: there will be no further synchronization, and a
    /// destination that touches a page waits until it comes. So what was left out of block `id`
    /// becomes dirty again, to be announced as zero. Does a step of that.
    ///
    /// A page that was hinted or is in the balloon may hold zeros at the destination as well as
    /// anything else, and what it held there before is discarded with all that is dirty now.
    pub fn postcopy(
        &mut self,
        bitmaps: &mut dyn DirtyBitmaps,
        id: BlockId,
        change: &mut DirtyChange,
    ) -> Announced {
        self.postcopy_words(STEP_WORDS, bitmaps, id, change)
    }

    /// The same for a step of so many words.
    pub fn postcopy_words(
        &mut self,
        mut words: usize,
        bitmaps: &mut dyn DirtyBitmaps,
        id: BlockId,
        change: &mut DirtyChange,
    ) -> Announced {
        let block = self.block(id);
        let Some(mut view) = bitmaps.view(id) else {
            return Announced::All(Vec::new());
        };
        let [hinted, ballooned] = &mut block.announced_pages;
        let sets = [
            (&mut block.hinted, hinted),
            (&mut block.ballooned, ballooned),
        ];
        for (set, counted) in sets {
            let Some(pages) = set else {
                continue;
            };
            while let Some(next) = pages.next_index(block.announced) {
                if words == 0 {
                    return Announced::Part;
                }
                words -= 1;
                let word = (next / 64) as usize;
                let bits = pages.word(word);
                let new = set_bits(&mut view, word, bits, change);
                // Of those that are to be sent anyway the content may be needed.
                pages.remove_word(word, bits & !new);
                block.announced = (word as u64 + 1) * 64;
            }
            block.announced = 0;
            *counted = pages.len();
            block.done.extend(set.take());
        }
        Announced::All(std::mem::take(&mut block.done))
    }
}
