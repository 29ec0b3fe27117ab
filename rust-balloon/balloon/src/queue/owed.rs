// SPDX-License-Identifier: GPL-2.0-or-later
//! No queue, but done like the work of one: pages in the balloon that could not be given back when
//! they came.
//!
//! Discards were inhibited then; or a migration brought the pages, of which some were sent before
//! the guest gave them away, so that they have memory here, which nobody asks for any more.

use super::{Work, inflate};
use crate::memory::Piece;
use crate::page::{GpaRange, PAGE_SIZE};

/// Gives such pages back for a slice; says whether it came to their end. What is forbidden stays
/// owed and is passed by, so that this comes to an end; the slice behind that one begins anew.
///
/// With MUST_TELL_HOST the device may modify a page at any time until it has seen and acknowledged
/// the deflate of it (virtio 1.3, 5.5.6.2), and a page leaves the set before its deflate is
/// acknowledged. The set is asked anew for each piece of work.
pub(crate) fn slice(work: &mut Work<'_>) -> bool {
    let inhibit = work.inhibit;
    loop {
        let owed = work
            .balloon
            .as_mut()
            .and_then(|balloon| balloon.next_owed(inhibit));
        if owed.is_none()
            && !work
                .balloon
                .as_ref()
                .is_some_and(|balloon| balloon.has_brought())
        {
            return true;
        }
        if !work.budget.is_left() {
            return false;
        }
        let Some(range) = owed else {
            bring(work);
            continue;
        };
        work.step();
        match work.front(range) {
            Piece::NotRam(part) => settle(work, part),
            Piece::Ram(_, section) if inhibit.forbids(&section.backing) => {
                // All of it at once, however many of its pages are owed.
                if let Some(balloon) = &mut work.balloon {
                    balloon.pass_owed(section.gpa.end());
                }
            }
            Piece::Ram(part, section) => {
                let part = work.take_front(&section, part);
                if section.page_size == PAGE_SIZE {
                    work.discard(&section, part);
                } else {
                    // A large page of which something is missing is completed by an inflate, if
                    // ever.
                    inflate::discard_complete_pages(work, &section, part);
                }
                settle(work, part);
            }
        }
    }
}

/// Has a part of what a migration brought be the next that is owed.
fn bring(work: &mut Work<'_>) {
    if let Some(balloon) = &mut work.balloon {
        balloon.bring();
    }
    work.step();
}

/// Notes that `part` is done, also if the host refuses: that is counted, and would be the same at
/// once.
fn settle(work: &mut Work<'_>, part: GpaRange) {
    if let Some(balloon) = &mut work.balloon {
        balloon.settle(part);
    }
}
