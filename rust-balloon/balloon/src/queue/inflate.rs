// SPDX-License-Identifier: GPL-2.0-or-later
//! The inflate queue: the guest gives pages away.

use super::{Work, held};
use crate::memory::{Piece, Section};
use crate::page::{Gpa, GpaRange, PAGE_SIZE};

/// Does the front of `range` and returns the address up to which it is done.
pub(crate) fn take(work: &mut Work<'_>, range: GpaRange) -> Gpa {
    work.step();
    match work.front(range) {
        Piece::NotRam(part) => {
            work.counters
                .add(|counts| &mut counts.ignored_bad_pfns, part.pages());
            part.end()
        }
        Piece::Ram(part, section) => {
            let part = work.take_front(&section, part);
            work.counters
                .add(|counts| &mut counts.inflated_bytes, part.bytes());
            let mut ballooned = false;
            if let Some(balloon) = &mut work.balloon {
                balloon.give(part);
                ballooned = true;
            }
            if section.page_size == PAGE_SIZE && ballooned && work.held().is_some() {
                held::inflate(work, &section, part);
            } else if section.page_size == PAGE_SIZE {
                // The device may modify a page from seeing it in a request until the request is
                // acknowledged (virtio 1.3, 5.5.6.2), and this batch is not acknowledged yet.
                work.discard(&section, part);
            } else if ballooned {
                discard_complete_pages(work, &section, part);
            } else {
                discard_covered_pages(work, &section, part);
            }
            part.end()
        }
    }
}

/// Discards those large backing pages under `part` whose 4 KiB pages are all in the balloon.
///
/// Some of them may have come with earlier requests that were acknowledged long ago. With
/// MUST_TELL_HOST the device may modify a page until it has seen and acknowledged the deflate of it
/// (virtio 1.3, 5.5.6.2), and a page leaves the set before its deflate is acknowledged, with a reset,
/// and when the memory behind its address changes. So a page that the guest uses is never in the
/// set, and a backing page that holds one is never complete.
pub(super) fn discard_complete_pages(work: &mut Work<'_>, section: &Section, part: GpaRange) {
    let Some(pages) = section.grow_to_pages(part) else {
        return;
    };
    let mut complete: Option<GpaRange> = None;
    let mut rest = Some(pages);
    while let Some(range) = rest {
        let page = section.take_front(range, section.page_size, section.page_size);
        rest = GpaRange::new(page.end(), range.end());
        let balloon = work.balloon.as_ref();
        let is_complete = balloon.is_some_and(|balloon| balloon.contains_all(page));
        complete = match (complete, is_complete) {
            (None, true) => Some(page),
            (Some(run), true) => GpaRange::new(run.start(), page.end()),
            (run, false) => {
                if let Some(run) = run {
                    work.discard(section, run);
                }
                None
            }
        };
    }
    if let Some(run) = complete {
        work.discard(section, run);
    }
}

/// Discards the large backing pages that `part` covers wholly.
///
/// Without MUST_TELL_HOST a page may be in use again, unannounced, as soon as its request is
/// acknowledged. So only pages of this one request count (the batch holds no other then), and what
/// it leaves of a backing page is left alone for good.
fn discard_covered_pages(work: &mut Work<'_>, section: &Section, part: GpaRange) {
    let covered = section.shrink_to_pages(part);
    let bytes = covered.map_or(0, GpaRange::bytes);
    work.counters.add(
        |counts| &mut counts.partial_page_bytes,
        part.bytes() - bytes,
    );
    if let Some(covered) = covered {
        work.discard(section, covered);
    }
}
