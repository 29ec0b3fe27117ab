// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages in the balloon that are given back later, together with their neighbours.
//!
//! A Linux guest inflates 1 MiB at a time. To discard half of a huge page splits it, at forty times
//! the cost for each page. So the ragged ends of a request wait a little for the pages beside them.
//!
//! No page that the guest uses is ever discarded:
//!
//! - Pages are held only with MUST_TELL_HOST, and only while they are in the set of pages in the balloon.
//!   The device may modify such a page until it has seen and acknowledged the deflate of it (virtio 1.3,
//!   5.5.6.2).
//! - Whatever takes a page out of that set takes it out of this one in the same breath, and before the guest
//!   hears of it: a deflate, a reset, a batch that is given up, new features, other memory behind the address.
//! - A huge page is discarded as a whole only if all of its pages are in the set of pages in the balloon.
//!
//! A guest that starts another kernel without a reset, or another word to the device, is not seen
//! to have its pages back. PCI devices lose the bus then, which the C side takes for a reset.

use super::ballooned::Waiting;
use super::{HUGE_PAGE_SIZE, Work};
use crate::memory::{Piece, Section};
use crate::page::{GpaRange, PAGE_SIZE};
use crate::pageset::PAGE_LIMIT;

/// The most bytes that a user may let wait. All of them are given back at once when the machine
/// stops. If each page is a place of its own, that takes half a millisecond for 4 MiB of private
/// memory and three of shared memory. Less than 4 MiB is not enough for both ends of a long
/// request.
pub const MAX_HOLD_BYTES: u64 = 64 << 20;
/// The longest that a user may let them wait, in milliseconds.
pub const MAX_HOLD_MS: u32 = 1000;

/// Which of the held pages are to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Flush {
    /// Those that were held already when this was last done: asked at regular intervals, a page
    /// waits for one interval at least and for two at most. So where a guest inflates all the time,
    /// the place that it has come to is not cut.
    Aged = 0,
    /// All.
    All = 1,
}

/// The pages, and how many they may be.
pub(crate) struct Held {
    young: Waiting,
    /// Held since before the last flush of those.
    aged: Waiting,
    most: u64,
    /// More were held than there may be: all are to go.
    overflowed: bool,
}

impl Held {
    /// None, and never more than `bytes` of them; 0 to hold none at all.
    pub(crate) fn new(bytes: u64) -> Held {
        Held {
            young: Waiting::none(),
            aged: Waiting::none(),
            most: bytes / PAGE_SIZE,
            overflowed: false,
        }
    }

    /// Whether pages are to be held at all.
    pub(crate) fn is_on(&self) -> bool {
        self.most > 0
    }

    /// How many bytes are held.
    pub(crate) fn bytes(&self) -> u64 {
        (self.young.count() + self.aged.count()) * PAGE_SIZE
    }

    /// How often room was made for single pages.
    pub(crate) fn words_taken(&self) -> u64 {
        self.young.words_taken() + self.aged.words_taken()
    }

    /// Takes the pages of `range` out: they left the balloon.
    pub(crate) fn cancel(&mut self, range: GpaRange) {
        let (first, end) = range.page_indices();
        self.young.clear(first..end);
        self.aged.clear(first..end);
    }

    /// Takes all pages out.
    pub(crate) fn cancel_all(&mut self) {
        self.young.clear_all();
        self.aged.clear_all();
        self.overflowed = false;
    }

    /// Frees `pieces` pieces at most of the memory that is not needed any more; returns how many
    /// these were.
    pub(crate) fn trim(&mut self, pieces: usize) -> usize {
        let freed = self.young.trim(pieces);
        freed + self.aged.trim(pieces - freed)
    }

    /// How many such pieces there are.
    pub(crate) fn surplus(&self) -> usize {
        self.young.surplus() + self.aged.surplus()
    }

    fn add(&mut self, range: GpaRange) {
        let (first, end) = range.page_indices();
        // Whoever inflates a page twice does not make it wait longer, but counts it twice.
        self.young.add(first..end);
        self.overflowed |= self.bytes() > self.most * PAGE_SIZE;
    }

    /// The first of those that `flush` means.
    fn next(&mut self, flush: Flush) -> Option<GpaRange> {
        let run = match (self.aged.first_run(), flush) {
            (Some(run), _) => Some(run),
            (None, Flush::Aged) => None,
            (None, Flush::All) => self.young.first_run(),
        };
        run.and_then(GpaRange::of_page_indices)
    }

    /// Notes that those are gone that `flush` means.
    fn flushed(&mut self, flush: Flush) {
        match flush {
            Flush::Aged => std::mem::swap(&mut self.young, &mut self.aged),
            Flush::All => self.overflowed = false,
        }
    }
}

/// Discards of `part`, whose pages are in the balloon, all that makes whole huge pages, and holds
/// the rest.
pub(crate) fn inflate(work: &mut Work<'_>, section: &Section, part: GpaRange) {
    let inner = section.shrink_to(part, HUGE_PAGE_SIZE);
    let ends = match inner {
        Some(inner) => [
            GpaRange::new(part.start(), inner.start()),
            GpaRange::new(inner.end(), part.end()),
        ],
        None => {
            // It lies in one huge page, or in two of which it fills none.
            let head = section.take_front(part, 0, HUGE_PAGE_SIZE);
            [Some(head), GpaRange::new(head.end(), part.end())]
        }
    };
    let [head, tail] = ends.map(|end| end.and_then(|end| complete_or_hold(work, section, end)));
    let mut whole: Option<GpaRange> = None;
    for range in [head, inner, tail].into_iter().flatten() {
        if whole.as_mut().is_some_and(|last| last.try_merge(range)) {
            continue;
        }
        if let Some(last) = whole.replace(range) {
            work.discard(section, last);
        }
    }
    if let Some(last) = whole {
        work.discard(section, last);
    }
}

/// The range to discard now because of `end`, a part of one huge page: the whole of that if all of
/// it is in the balloon, or `end` itself if the section does not have the whole of it, or it lies
/// where no set of pages reaches. Else `end` is held.
fn complete_or_hold(work: &mut Work<'_>, section: &Section, end: GpaRange) -> Option<GpaRange> {
    let balloon = work.balloon.as_mut()?;
    let huge = section.grow_to(end, HUGE_PAGE_SIZE);
    let Some(huge) = huge.filter(|huge| huge.page_indices().1 <= PAGE_LIMIT) else {
        return Some(end);
    };
    let is_whole = balloon.contains_all(huge);
    let held = balloon.held_mut()?;
    if is_whole {
        held.cancel(huge);
        return Some(huge);
    }
    held.add(end);
    None
}

/// Gives all back that is held if it is too much; says whether more can be held.
pub(crate) fn make_room(work: &mut Work<'_>) -> bool {
    let is_full = work.held().is_some_and(|held| held.overflowed);
    !is_full || flush(work, Flush::All)
}

/// Gives pages that are held back to the host, for the rest of the slice; says whether none is left
/// of those that `flush` means.
pub(crate) fn flush(work: &mut Work<'_>, flush: Flush) -> bool {
    loop {
        let Some(held) = work.held() else {
            return true;
        };
        let Some(range) = held.next(flush) else {
            held.flushed(flush);
            return true;
        };
        if !work.budget.is_left() {
            return false;
        }
        work.step();
        let part = match work.front(range) {
            Piece::NotRam(part) => part,
            Piece::Ram(part, section) => {
                let part = work.take_front(&section, part);
                work.discard(&section, part);
                part
            }
        };
        if let Some(held) = work.held() {
            held.cancel(part);
        }
    }
}
