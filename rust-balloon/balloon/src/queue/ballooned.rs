// SPDX-License-Identifier: GPL-2.0-or-later
//! The pages in the balloon, as far as MUST_TELL_HOST makes the guest say so, and which of them are
//! still to be given back to the host.
//!
//! The device may modify such a page until it has seen and acknowledged the deflate of it (virtio
//! 1.3, 5.5.6.2). So a page can be given back at any time while it is in the set. Nothing else may
//! be: so the two sets of what is given back later are part of this one, and whatever takes a page
//! out of the balloon takes it out of all three.

use super::held::Held;
use crate::host::Inhibit;
use crate::page::{Gpa, GpaRange, PAGE_SIZE};
use crate::pageset::PAGE_LIMIT;
use sparse_bitmap::SparseBitmap;
use std::ops::Range;

/// Pages that are given back later.
pub(super) struct Waiting {
    set: SparseBitmap,
    /// None of them is below this page, so that nobody looks for them there: guests can be large.
    from: u64,
}

impl Waiting {
    pub(super) fn none() -> Waiting {
        Waiting {
            set: SparseBitmap::new(PAGE_LIMIT),
            from: PAGE_LIMIT,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.set.len()
    }

    pub(super) fn words_taken(&self) -> u64 {
        self.set.buffers_taken()
    }

    pub(super) fn add(&mut self, pages: Range<u64>) {
        self.from = self.from.min(pages.start);
        self.set.insert_range(pages);
    }

    pub(super) fn clear(&mut self, pages: Range<u64>) {
        if !self.set.is_empty() {
            self.set.remove_range(pages);
        }
    }

    /// Takes all pages out.
    pub(super) fn clear_all(&mut self) {
        self.set.remove_all();
        self.from = PAGE_LIMIT;
    }

    /// Makes the pages around `page` the same as in `set`; returns where those behind them begin.
    fn copy_piece(&mut self, set: &SparseBitmap, page: u64) -> u64 {
        self.from = self.from.min(page);
        self.set.copy_chunk(set, page)
    }

    /// See [`SparseBitmap::trim`].
    pub(super) fn trim(&mut self, pieces: usize) -> usize {
        self.set.trim(pieces)
    }

    /// See [`SparseBitmap::surplus`].
    pub(super) fn surplus(&self) -> usize {
        self.set.surplus()
    }

    pub(super) fn first_run(&mut self) -> Option<Range<u64>> {
        let run = self.set.next_run(self.from);
        self.from = run.as_ref().map_or(PAGE_LIMIT, |run| run.start);
        run
    }

    /// The first run none of which is below `page`.
    fn next_run(&self, page: u64) -> Option<Range<u64>> {
        self.set.next_run(page.max(self.from))
    }
}

/// The pages.
///
/// # Invariants
///
/// What is in `held` or `owed` is in `set`. `brought` is the number of pages of `set` from
/// `brought_from` on, and none of `owed` is there.
pub(crate) struct BalloonedPages {
    set: SparseBitmap,
    /// Whether `set` holds all pages in the balloon: not after a migration that carried no set or a
    /// part of it, nor after a batch was given up.
    complete: bool,
    /// Those that wait for their neighbours.
    held: Held,
    /// Those that could not be given back when they came: discards were inhibited, or a migration
    /// brought them.
    owed: Waiting,
    /// From this page on all that is in `set` is owed, too: a migration brought it, and so much
    /// cannot be copied at once. A page that came later, and was given back then, is so once more,
    /// which does no harm: it is in the balloon.
    brought_from: u64,
    /// How many pages that are.
    brought: u64,
    /// Those of them below this page were passed by: they are forbidden while others are not.
    owed_passed: u64,
}

impl BalloonedPages {
    /// None, of which never more than `hold_bytes` wait for their neighbours.
    pub(crate) fn new(hold_bytes: u64) -> BalloonedPages {
        BalloonedPages {
            set: SparseBitmap::new(PAGE_LIMIT),
            complete: true,
            held: Held::new(hold_bytes),
            owed: Waiting::none(),
            brought_from: PAGE_LIMIT,
            brought: 0,
            owed_passed: 0,
        }
    }

    /// Begins anew with `set`, which a migration brought.
    ///
    /// All of it is still to be given back here: what the source gave back, and what was sent
    /// before the guest gave it away.
    pub(crate) fn begin(&mut self, set: SparseBitmap, complete: bool) {
        self.forget(complete);
        self.brought_from = 0;
        self.brought = set.len();
        self.end_if_all_is_noted();
        let old = std::mem::replace(&mut self.set, set);
        self.set.reuse(old);
    }

    /// The pages.
    pub(crate) fn set(&self) -> &SparseBitmap {
        &self.set
    }

    /// How often room was made for single pages, in any of the sets.
    pub(super) fn words_taken(&self) -> u64 {
        self.set.buffers_taken() + self.held.words_taken() + self.owed.words_taken()
    }

    /// Whether all pages in the balloon are known.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Pages that wait for their neighbours.
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// The same, to work on, if any are to wait at all.
    pub(super) fn held_mut(&mut self) -> Option<&mut Held> {
        self.held.is_on().then_some(&mut self.held)
    }

    /// How many pages are still to be given back, besides those that are held.
    pub(crate) fn owed(&self) -> u64 {
        self.owed.count() + self.brought
    }

    /// Whether some of what a migration brought is not noted as owed page by page yet.
    pub(super) fn has_brought(&self) -> bool {
        self.brought > 0
    }

    /// Notes the next piece of that.
    pub(super) fn bring(&mut self) {
        if let Some(first) = self.set.next_index(self.brought_from) {
            let before = self.owed.count();
            self.brought_from = self.owed.copy_piece(&self.set, first);
            self.brought -= self.owed.count() - before;
        }
        self.end_if_all_is_noted();
    }

    /// What comes from now on was not brought.
    fn end_if_all_is_noted(&mut self) {
        if self.brought == 0 {
            self.brought_from = PAGE_LIMIT;
        }
    }

    /// Frees `pieces` pieces at most of the memory that the sets do not need any more; returns how
    /// many these were.
    pub(crate) fn trim(&mut self, pieces: usize) -> usize {
        let mut freed = self.set.trim(pieces);
        freed += self.owed.trim(pieces - freed);
        freed + self.held.trim(pieces - freed)
    }

    /// Whether there is such memory.
    pub(crate) fn is_trimmed(&self) -> bool {
        self.set.surplus() + self.owed.surplus() + self.held.surplus() == 0
    }

    /// The next of them that were not passed by; `None` where they end, and then, or when nothing
    /// is forbidden, the next to look at are the first again.
    pub(super) fn next_owed(&mut self, inhibit: Inhibit) -> Option<GpaRange> {
        if inhibit == Inhibit::No {
            self.owed_passed = 0;
        }
        let run = match self.owed_passed {
            0 => self.owed.first_run(),
            passed => self.owed.next_run(passed),
        };
        if run.is_none() {
            self.owed_passed = 0;
        }
        run.and_then(GpaRange::of_page_indices)
    }

    /// Those below `end` are not to be given back now, but stay owed.
    pub(super) fn pass_owed(&mut self, end: Gpa) {
        self.owed_passed = end.0.div_ceil(PAGE_SIZE);
    }

    /// Whether all pages of `range` are in the balloon.
    pub(super) fn contains_all(&self, range: GpaRange) -> bool {
        let (first, end) = range.page_indices();
        self.set.contains_range(first..end)
    }

    /// The guest gives `range` away.
    pub(super) fn give(&mut self, range: GpaRange) {
        let (first, end) = range.page_indices();
        let border = self.brought_from.clamp(first, end);
        self.set.insert_range(first..border);
        self.brought += self.set.insert_range(border..end);
    }

    /// The guest gets `range` back, or it is not the same memory any more.
    pub(crate) fn take_back(&mut self, range: GpaRange) {
        let (first, end) = range.page_indices();
        let border = self.brought_from.clamp(first, end);
        self.set.remove_range(first..border);
        self.brought -= self.set.remove_range(border..end);
        self.end_if_all_is_noted();
        self.held.cancel(range);
        self.owed.clear(first..end);
    }

    /// `range` cannot be given back now: it is when that is allowed again, as far as it is in the
    /// balloon.
    pub(super) fn owe(&mut self, range: GpaRange) {
        let (mut from, end) = range.page_indices();
        // Behind that they are owed already.
        let end = end.min(self.brought_from);
        while from < end {
            let (is_in, to) = self.set.front(from..end);
            if is_in {
                self.owed.add(from..to);
            }
            from = to;
        }
    }

    /// `range` was given back, or is not to be tried again.
    pub(super) fn settle(&mut self, range: GpaRange) {
        let (first, end) = range.page_indices();
        self.owed.clear(first..end);
    }

    /// Pages are put into the balloon of which nobody keeps account.
    pub(crate) fn miss(&mut self) {
        self.complete = false;
    }

    /// Forgets all pages; `complete` says that the balloon is empty, and not that nothing is known
    /// of it.
    pub(crate) fn forget(&mut self, complete: bool) {
        self.set.remove_all();
        self.complete = complete;
        self.held.cancel_all();
        self.owed.clear_all();
        self.brought_from = PAGE_LIMIT;
        self.brought = 0;
        self.owed_passed = 0;
    }
}
