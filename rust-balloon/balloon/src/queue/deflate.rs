// SPDX-License-Identifier: GPL-2.0-or-later
//! The deflate queue: the guest takes pages back.

use super::Work;
use crate::memory::Piece;
use crate::page::{Gpa, GpaRange};

/// Does the front of `range` and returns the address up to which it is done.
///
/// A discarded page comes back by itself when the guest touches it, so there is nothing to do but
/// to forget that it was in the balloon, before the guest is told that it may use it.
pub(crate) fn take(work: &mut Work<'_>, range: GpaRange) -> Gpa {
    work.step();
    let piece = work.front(range);
    let part = match piece {
        Piece::NotRam(part) => {
            work.counters
                .add(|counts| &mut counts.ignored_bad_pfns, part.pages());
            part
        }
        Piece::Ram(part, section) => {
            let part = work.take_front(&section, part);
            work.counters
                .add(|counts| &mut counts.deflated_bytes, part.bytes());
            if section.backing.populate {
                work.populate(&section, part);
            }
            part
        }
    };
    if let Some(balloon) = &mut work.balloon {
        balloon.take_back(part);
    }
    part.end()
}
