// SPDX-License-Identifier: GPL-2.0-or-later
//! No queue, but done like the work of one: what a migration brought of pages in the balloon is given
//! back to the host.
//!
//! A page that was sent before the guest gave it away has its memory at the destination, too, and
//! nobody asks for it any more.

use super::Work;
use crate::memory::Piece;
use crate::page::{Gpa, GpaRange, PAGE_SHIFT};

/// Does a slice of the pages in the balloon from page `from` on; returns the page to go on with, or
/// `None` when there are no more.
pub fn slice(work: &mut Work<'_>, mut from: u64) -> Option<u64> {
    while work.budget.is_left() {
        let run = work.balloon.as_ref()?.next_run(from)?;
        let done = take(work, GpaRange::of_page_indices(run)?);
        from = done.0 >> PAGE_SHIFT;
    }
    Some(from)
}

/// Does the front of `range`, a run of pages in the balloon; returns the address up to which it is
/// done.
///
/// With MUST_TELL_HOST the device may modify a page at any time until it has seen and acknowledged
/// the deflate of it (virtio 1.3, 5.5.6.2), and a page leaves the set before its deflate is
/// acknowledged. The set is asked anew in every slice.
fn take(work: &mut Work<'_>, range: GpaRange) -> Gpa {
    work.budget.spend_step();
    match work.front(range) {
        Piece::NotRam(part) => part.end(),
        Piece::Ram(part, section) => {
            let part = work.take_front(&section, part);
            // A large page that is not wholly in the run is completed by an inflate, if ever.
            if let Some(pages) = section.shrink_to_pages(part) {
                work.discard(&section, pages);
            }
            part.end()
        }
    }
}
