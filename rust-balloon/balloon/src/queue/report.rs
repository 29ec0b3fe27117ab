// SPDX-License-Identifier: GPL-2.0-or-later
//! The reporting queue: the guest says which memory it does not use, and waits for the answer
//! before it uses it again.

use super::{Advice, Work};
use crate::memory::Piece;
use crate::page::{Gpa, GpaRange};

/// Does the front of `range` and returns the address up to which it is done.
pub(crate) fn take(work: &mut Work<'_>, range: GpaRange) -> Gpa {
    work.step();
    let (part, section) = match work.front(range) {
        Piece::NotRam(part) => {
            work.counters
                .add(|counts| &mut counts.ignored_report_bytes, part.bytes());
            return part.end();
        }
        Piece::Ram(part, section) => (part, section),
    };
    let part = work.take_front(&section, part);
    work.counters
        .add(|counts| &mut counts.reported_bytes, part.bytes());
    if work.poison_val != 0 {
        // The guest expects poison_val in its free pages, and a discarded page reads as zeros
        // (virtio 1.3, 5.5.6.7: the device must not change such pages to anything but poison_val).
        work.counters.add(
            |counts| &mut counts.ignored_report_poison_bytes,
            part.bytes(),
        );
        return part.end();
    }
    if !section.backing.reads_zeros {
        // What comes back would be a file's content, not the zeros that the guest may rely on.
        work.counters
            .add(|counts| &mut counts.ignored_report_file_bytes, part.bytes());
        return part.end();
    }
    // Memory beside the report is the guest's: backing pages that it covers in part stay.
    let pages = section.shrink_to_pages(part);
    let bytes = pages.map_or(0, GpaRange::bytes);
    work.counters.add(
        |counts| &mut counts.ignored_report_unaligned_bytes,
        part.bytes() - bytes,
    );
    if let Some(pages) = pages {
        // The device may modify reported pages until it uses the descriptor (virtio 1.3, 5.5.6.7),
        // and this batch's descriptors are not used yet. With Advice::Free the host takes a page
        // later than that, but none that the guest wrote to in between: what a guest can see is a
        // page whose content it does not know change to zeros. An operator has to choose that.
        let advice = if section.backing.lazy {
            work.advice
        } else {
            Advice::Discard
        };
        work.give_back(&section, pages, advice);
    }
    part.end()
}
