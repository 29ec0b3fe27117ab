// SPDX-License-Identifier: GPL-2.0-or-later
//! One handler per queue. Those that work on memory do the front of a range and say how far they
//! came; the device calls them until the batch is done or the slice is over.

pub mod deflate;
pub mod inflate;
pub mod report;
pub mod stats;

use crate::batch::Budget;
use crate::bitmap::PageBitmap;
use crate::counters::Counters;
use crate::host::{Host, Inhibit};
use crate::memory::{MemoryMap, Section};
use crate::page::GpaRange;

/// A PMD on x86 and on arm64 with 4 KiB pages. Slices end on such borders so that a huge page is
/// not split just because a slice was over.
const HUGE_PAGE_SIZE: u64 = 2 << 20;

/// Discards that the host may refuse one after the other before it is asked no more, until the next
/// reset or change of the map of memory: QEMU prints a line for each, and a guest can cause as many as
/// it likes.
const MAX_REFUSALS: u32 = 16;

/// What a handler works with.
pub struct Work<'a> {
    /// Where guest RAM is.
    pub memory: &'a MemoryMap,
    /// The pages in the balloon, where MUST_TELL_HOST was negotiated.
    pub balloon: Option<&'a mut PageBitmap>,
    /// Whether discards are allowed.
    pub inhibit: Inhibit,
    /// The value that the guest expects in its free pages.
    pub poison_val: u32,
    /// The host.
    pub host: &'a mut dyn Host,
    /// How often the host refused to discard since it last did.
    pub refusals: &'a mut u32,
    /// Where it is all accounted for.
    pub counters: &'a mut Counters,
    /// What is left of the slice.
    pub budget: Budget,
}

impl Work<'_> {
    /// The front of `part` of `section` that fits into the rest of the slice.
    fn take_front(&self, section: &Section, part: GpaRange) -> GpaRange {
        let bytes = self.budget.bytes(section.page_size);
        section.take_front(part, bytes, section.page_size.max(HUGE_PAGE_SIZE))
    }

    /// Discards `range`, whole backing pages of `section`, unless discards are inhibited. The
    /// caller has shown that the guest allows it.
    fn discard(&mut self, section: &Section, range: GpaRange) {
        if self.inhibit != Inhibit::No {
            self.counters.inhibited_bytes += range.bytes();
            return;
        }
        self.counters.discards += 1;
        if *self.refusals >= MAX_REFUSALS {
            self.counters.discard_errors += 1;
            return;
        }
        self.budget.spend_call(range.bytes(), section.page_size);
        match self.host.discard(section.block_range(range)) {
            Ok(()) => {
                *self.refusals = 0;
                self.counters.discarded_bytes += range.bytes();
            }
            Err(error) => {
                *self.refusals += 1;
                self.counters.discard_errors += 1;
                if *self.refusals == MAX_REFUSALS {
                    log::warn!(
                        "the host discards no memory ({error}); it is not asked again until the next reset"
                    );
                }
            }
        }
    }
}
