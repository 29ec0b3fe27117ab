// SPDX-License-Identifier: GPL-2.0-or-later
//! A part of a RAM block at a time: what its bits have to be behind a synchronization.

use super::bitmaps::BlockView;
use super::skips::DirtyChange;
use crate::memory::{BlockId, BlockPiece, MemoryMap};
use crate::page::PAGE_SHIFT;
use sparse_bitmap::SparseBitmap;
use std::ops::Range;

/// Words that a step may look at, of 64 pages each: 32 GiB of guest memory in pages of 4 KiB. The
/// migration thread holds the big lock, the migration lock and the bitmap lock meanwhile. A look
/// takes 6 ns, and 10 where the bitmaps of a guest of 1 TiB are in no cache, so a step about a
/// millisecond. What takes longer counts as more words: see `docs/bounds.md`.
pub const STEP_WORDS: usize = 1 << 17;

/// What it costs besides, in words, where the bits of a word change: 20 ns, in the bitmap and in a
/// set.
pub const CHANGED_WORDS: usize = 3;
/// What it costs besides where anything of a part changes: a set may need memory for it, or have
/// some to free. The bitmap and that memory are in no cache then: 10 µs.
pub const CHANGED_PART_WORDS: usize = 1024;
/// What it costs, in words, to free a piece of the memory of a set, which the kernel takes back:
/// 1.2 µs.
pub const FREED_WORDS: usize = 192;
/// What it costs, in words, to look for a block.
pub(super) const BLOCK_WORDS: usize = 64;

/// Words of a part, 128 MiB of guest memory in pages of 4 KiB. A step ends between two parts.
pub(super) const PART_WORDS: usize = 512;
/// Pages of a part.
pub(super) const PART_PAGES: u64 = PART_WORDS as u64 * 64;

/// What a part costs that no set has pages of, in words: a look at each set, and at the words that
/// say that nothing of it is in the balloon.
const EMPTY_WORDS: usize = 11;
/// What a piece of the memory map costs, in words.
const PIECE_WORDS: usize = 4;

type Words = [u64; PART_WORDS];

/// The pages in the balloon, of a guest that accepted MUST_TELL_HOST, and where they lie.
pub struct Ballooned<'a> {
    /// The pages, by guest address.
    pub pages: &'a SparseBitmap,
    /// Where they lie in RAM blocks.
    pub memory: &'a MemoryMap,
}

impl Ballooned<'_> {
    /// Sets the bits of those of `pages` of `block` that are in the balloon in `out`, which is 0;
    /// `shift` is log2 of their size. Says what it costs besides a part's words.
    fn gather(&self, block: BlockId, pages: &Range<u64>, shift: u32, out: &mut Words) -> usize {
        let (start, end) = (pages.start << shift, pages.end << shift);
        let pieces = self.memory.pieces(block, start);
        let pieces = pieces.take_while(|piece| piece.offset < end);
        pieces.fold(0, |words, piece| {
            // Only pages that lie wholly in the piece.
            let first = piece.offset.max(start).div_ceil(1 << shift);
            let past = piece.end.min(end) >> shift;
            let more = if first >= past {
                0
            } else if shift == PAGE_SHIFT {
                self.gather_words(piece, first..past, pages.start, out);
                0
            } else {
                self.gather_pages(piece, first..past, pages.start, shift, out)
            };
            words + PIECE_WORDS + more
        })
    }

    /// The same for pages as large as the balloon's.
    fn gather_words(&self, piece: &BlockPiece, pages: Range<u64>, base: u64, out: &mut Words) {
        let guest = (piece.gpa.0 + (pages.start << PAGE_SHIFT) - piece.offset) >> PAGE_SHIFT;
        let count = pages.end - pages.start;
        if self.pages.first_in(guest..guest + count).is_none() {
            return;
        }
        // The part begins at a word, the piece need not.
        let at = pages.start - base;
        let mut copied = [0; PART_WORDS];
        let copied = &mut copied[..count.div_ceil(64) as usize];
        self.pages.copy_bits(guest, copied);
        if let Some(last) = copied.last_mut()
            && !count.is_multiple_of(64)
        {
            *last &= u64::MAX >> (64 - count % 64);
        }
        let (word, shift) = ((at / 64) as usize, at % 64);
        for (number, bits) in copied.iter().enumerate() {
            out[word + number] |= bits << shift;
            if shift != 0
                && let Some(next) = out.get_mut(word + number + 1)
            {
                *next |= bits >> (64 - shift);
            }
        }
    }

    /// The same for pages of another size, one by one.
    fn gather_pages(
        &self,
        piece: &BlockPiece,
        pages: Range<u64>,
        base: u64,
        shift: u32,
        out: &mut Words,
    ) -> usize {
        let guest_page = |offset: u64| (piece.gpa.0 + offset - piece.offset) >> PAGE_SHIFT;
        let all = guest_page(pages.start << shift)..guest_page((pages.end << shift) - 1) + 1;
        if self.pages.first_in(all.clone()).is_none() {
            return 0;
        }
        for page in pages {
            let first = guest_page(page << shift);
            let last = guest_page(((page + 1) << shift) - 1);
            if self.pages.contains_range(first..last + 1) {
                let at = page - base;
                out[(at / 64) as usize] |= 1 << (at % 64);
            }
        }
        // To ask for a page is as much as to look at some words, and large ones have several.
        PART_PAGES as usize / 8 + ((all.end - all.start) / 64) as usize
    }
}

/// What is left out of a block, and what is known of it.
pub(super) struct Sets<'a> {
    pub(super) hinted: &'a mut Option<SparseBitmap>,
    pub(super) ballooned: &'a mut Option<SparseBitmap>,
    /// What is in the balloon now; `None` for nothing.
    pub(super) balloon: Option<&'a Ballooned<'a>>,
    /// log2 of the bytes of a page.
    pub(super) shift: u32,
    /// Any hinted page may have been sent since it was last looked at.
    pub(super) all_doubtful: bool,
}

fn words_of(set: &Option<SparseBitmap>, first: usize) -> Option<Words> {
    let set = set.as_ref()?;
    let start = first as u64 * 64;
    set.first_in(start..start + PART_PAGES)?;
    let mut words = [0; PART_WORDS];
    set.copy_bits(start, &mut words);
    Some(words)
}

impl Sets<'_> {
    /// Looks at part number `part` of the block and changes its bits; says how many words that was.
    pub(super) fn sweep(
        &mut self,
        id: BlockId,
        view: &mut BlockView<'_>,
        part: u64,
        change: &mut DirtyChange,
    ) -> usize {
        let start = part * PART_PAGES;
        let pages = start..(start + PART_PAGES).min(view.pages);
        let first = part as usize * PART_WORDS;
        let mut inside = [0; PART_WORDS];
        let gathered = self.balloon.map_or(0, |balloon| {
            balloon.gather(id, &pages, self.shift, &mut inside)
        });
        let hinted = words_of(self.hinted, first);
        let left_out = words_of(self.ballooned, first);
        if hinted.is_none() && left_out.is_none() && inside == [0; PART_WORDS] {
            return EMPTY_WORDS + gathered;
        }
        let all_armed = self.all_doubtful || hinted.is_none();
        let none = [0; PART_WORDS];
        let (hinted, left_out) = (hinted.unwrap_or(none), left_out.unwrap_or(none));
        let mut changed = 0;
        for word in 0..(pages.end - start).div_ceil(64) as usize {
            let number = first + word;
            let armed = if all_armed {
                u64::MAX
            } else {
                view.armed_pages(number)
            };
            let Some(place) = view.dirty.get_mut(number) else {
                break;
            };
            let dirty = *place;
            // A hinted page that was written since is not left out any more, nor is one that may
            // have been written and sent since: to be announced as zero it must not have been.
            let written = hinted[word] & (armed | dirty);
            // This line alone has pages sent that left the balloon: see `skips`.
            let deflated = left_out[word] & !inside[word];
            // In the balloon at this moment, as the caller holds the big lock, so what they hold is
            // of no use. They are added to those left out below, so that they can be put back.
            let inflated = inside[word] & (dirty | written);
            if written | deflated | inflated == 0 {
                continue;
            }
            changed += 1;
            let now = (dirty | written | deflated) & !inflated;
            *place = now;
            change.set += u64::from((now & !dirty).count_ones());
            change.cleared += u64::from((dirty & !now).count_ones());
            take_out(self.hinted, number, written);
            take_out(self.ballooned, number, deflated);
            if inflated != 0 {
                let limit = view.pages;
                let ballooned = self
                    .ballooned
                    .get_or_insert_with(|| SparseBitmap::new(limit));
                ballooned.insert_word(number, inflated);
            }
        }
        let changes = match changed {
            0 => 0,
            _ => CHANGED_PART_WORDS + CHANGED_WORDS * changed,
        };
        // Less than a piece of memory of each set came free.
        for set in [&mut *self.hinted, &mut *self.ballooned]
            .into_iter()
            .flatten()
        {
            set.trim(1);
        }
        PART_WORDS + gathered + changes
    }
}

fn take_out(set: &mut Option<SparseBitmap>, word: usize, bits: u64) {
    if let Some(set) = set
        && bits != 0
    {
        set.remove_word(word, bits);
    }
}
