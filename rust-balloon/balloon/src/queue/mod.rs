// SPDX-License-Identifier: GPL-2.0-or-later
//! One handler per queue. Those that work on memory do the front of a range and say how far they
//! came; the device calls them until the batch is done or the slice is over.

pub(crate) mod ballooned;
pub(crate) mod deflate;
pub mod held;
pub mod hint;
pub(crate) mod inflate;
pub(crate) mod owed;
pub(crate) mod report;
pub mod stats;

use crate::batch::Budget;
use crate::counters::{Counters, Tally};
use crate::host::{Host, Inhibit, MAX_SPANS, Refused};
use crate::memory::{BlockId, BlockSpan, MemoryMap, Piece, Section, Way};
use crate::page::{Gpa, GpaRange};
use ballooned::BalloonedPages;

/// A PMD on x86 and on arm64 with 4 KiB pages. Slices end on such borders so that a huge page is
/// not split just because a slice was over.
const HUGE_PAGE_SIZE: u64 = 2 << 20;

/// Pieces of memory, 4 KiB each, of sets of pages that are freed in a slice: more than a slice can
/// make room for, so there is never more to be freed than full sets take.
pub const MAX_FREED: usize = 256;

/// How often the host may refuse in a row to discard from a block before it is asked no more: QEMU
/// prints a line for each refusal, and a guest can cause as many as it likes.
const MAX_REFUSALS: u32 = 16;

/// What the host last refused to do with which blocks, and how often in a row. One way to give
/// memory back can be refused where another is not: huge pages can be discarded, but not freed
/// lazily.
#[derive(Default)]
pub(crate) struct Refusals(Vec<Refusal>);

struct Refusal {
    block: BlockId,
    call: Call,
    in_a_row: u32,
}

impl Refusals {
    /// Whether the host refused for good to take some memory later.
    pub(crate) fn has_no_free(&self) -> bool {
        let mut known = self.0.iter();
        known.any(|known| self.is_final(known.block, Call::Free))
    }

    /// Whether the host is to be asked no more for this.
    fn is_final(&self, block: BlockId, call: Call) -> bool {
        let known = self.0.iter().find(|known| known.is(block, call));
        known.is_some_and(|known| known.in_a_row >= MAX_REFUSALS)
    }

    /// Notes a refusal; says whether it was the last that will be asked for.
    fn add(&mut self, block: BlockId, call: Call) -> bool {
        match self.0.iter_mut().find(|known| known.is(block, call)) {
            Some(known) => {
                known.in_a_row = known.in_a_row.saturating_add(1);
                known.in_a_row == MAX_REFUSALS
            }
            None => {
                let in_a_row = 1;
                self.0.push(Refusal {
                    block,
                    call,
                    in_a_row,
                });
                false
            }
        }
    }

    /// Notes that the host did it.
    fn clear(&mut self, block: BlockId, call: Call) {
        self.0.retain(|known| !known.is(block, call));
    }

    /// Forgets the blocks that are in `new` not as they were in `old`: gone, or another one under
    /// the same name.
    pub(crate) fn keep_only(&mut self, old: &MemoryMap, new: &MemoryMap) {
        self.0.retain(|known| {
            let now = backing(new, known.block);
            now.is_some() && now == backing(old, known.block)
        });
    }
}

/// What there is to know of `block` itself, wherever the guest has parts of it: as of a section
/// that shows its first byte.
fn backing(memory: &MemoryMap, block: BlockId) -> Option<Section> {
    let mut sections = memory.sections().iter();
    let section = sections.find(|section| section.block == block)?;
    Some(Section {
        gpa: GpaRange::with_len(Gpa(0), 1)?,
        offset: 0,
        host: section.host.wrapping_sub(section.offset as usize),
        ..*section
    })
}

impl Refusal {
    fn is(&self, block: BlockId, call: Call) -> bool {
        self.block == block && self.call == call
    }
}

/// How memory that the guest reported as free is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub enum Advice {
    /// At once; the guest finds zeros there, and pays for a new page when it comes back.
    #[default]
    Discard = 0,
    /// When the host needs it; a guest that comes back before pays nothing. At once where the host
    /// refuses that.
    Free = 1,
}

/// Where refusals of it are counted.
fn errors(call: Call) -> fn(&mut Counters) -> &mut u64 {
    match call {
        Call::Free => |counts| &mut counts.free_errors,
        _ => |counts| &mut counts.discard_errors,
    }
}

/// What the host can be asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Discard,
    DropPrivate,
    Free,
    Populate,
}

/// What the host was asked for in this slice and has not done yet: one call for many ranges costs
/// much less than one for each.
#[derive(Default)]
pub(crate) struct Asked {
    to: Option<(BlockId, Call)>,
    spans: Vec<BlockSpan>,
}

/// What a handler works with.
pub(crate) struct Work<'a> {
    /// Where guest RAM is.
    pub(crate) memory: &'a MemoryMap,
    /// The section that the last range lay in: the next one mostly does, too.
    pub(crate) last_section: Option<Section>,
    /// The pages in the balloon, where MUST_TELL_HOST was negotiated.
    pub(crate) balloon: Option<&'a mut BalloonedPages>,
    /// Whether discards are allowed.
    pub(crate) inhibit: Inhibit,
    /// The value that the guest expects in its free pages.
    pub(crate) poison_val: u32,
    /// How reported memory is given back.
    pub(crate) advice: Advice,
    /// The host.
    pub(crate) host: &'a mut dyn Host,
    /// What it was asked for and has not done yet.
    pub(crate) asked: &'a mut Asked,
    /// The blocks that nothing can be discarded from.
    pub(crate) refusals: &'a mut Refusals,
    /// Where it is all accounted for.
    pub(crate) counters: &'a mut Tally<Counters>,
    /// What is left of the slice.
    pub(crate) budget: Budget,
    /// How much of the room that was made in the sets of pages is paid for.
    pub(crate) room_paid: u64,
}

impl Work<'_> {
    /// What the first addresses of `range` are; see [`MemoryMap::front`].
    fn front(&mut self, range: GpaRange) -> Piece {
        // Where memory comes in parts the map knows what of the section is there.
        let last = self
            .last_section
            .filter(|section| !section.backing.in_parts && section.gpa.contains(range.start()));
        if let Some(section) = last
            && let Some(part) = section.gpa.intersect(range)
        {
            return Piece::Ram(part, section);
        }
        let piece = self.memory.front(range);
        if let Piece::Ram(_, section) = piece {
            self.last_section = Some(section);
        }
        piece
    }

    /// Accounts for handling a range, and for room that was made in the sets of pages since the
    /// last time.
    fn step(&mut self) {
        let made = self.room_made();
        self.budget.spend_step();
        self.budget.spend_room(made.saturating_sub(self.room_paid));
        self.room_paid = made;
    }

    /// How often room was made in the sets of pages so far.
    pub(crate) fn room_made(&self) -> u64 {
        self.balloon.as_ref().map_or(0, |pages| pages.words_taken())
    }

    /// The front of `part` of `section` that fits into the rest of the slice.
    fn take_front(&self, section: &Section, part: GpaRange) -> GpaRange {
        let bytes = self.budget.bytes(section.page_size);
        section.take_front(part, bytes, section.page_size.max(HUGE_PAGE_SIZE))
    }

    /// Pages in the balloon that wait for their neighbours, where some do.
    fn held(&mut self) -> Option<&mut held::Held> {
        self.balloon.as_mut()?.held_mut()
    }

    /// Discards `range`, whole backing pages of `section`. The caller has shown that the guest
    /// allows it.
    ///
    /// While discards are inhibited, what is known to be in the balloon is noted and discarded
    /// later.
    fn discard(&mut self, section: &Section, range: GpaRange) {
        if let Some(balloon) = &mut self.balloon {
            match self.inhibit.forbids(&section.backing) {
                false => balloon.settle(range),
                true => balloon.owe(range),
            }
        }
        self.give_back(section, range, Advice::Discard);
    }

    /// Gives `range` back as `advice` says.
    fn give_back(&mut self, section: &Section, range: GpaRange, advice: Advice) {
        let call = match (section.backing.way, advice) {
            (Way::Never, _) => None,
            (Way::Hole, _) => Some(Call::Discard),
            (Way::Drop, Advice::Free) => Some(Call::Free),
            (Way::Drop, Advice::Discard) => Some(Call::DropPrivate),
        };
        match call.filter(|_| !self.inhibit.forbids(&section.backing)) {
            Some(call) => {
                self.budget.spend_call(range.bytes(), section.page_size);
                self.ask(call, section, range);
            }
            None => self
                .counters
                .add(|counts| &mut counts.inhibited_bytes, range.bytes()),
        }
    }

    /// Says that the guest will use `range` of `section` again soon.
    fn populate(&mut self, section: &Section, range: GpaRange) {
        if !self.inhibit.forbids(&section.backing) {
            self.budget.spend_call(range.bytes(), section.page_size);
            self.ask(Call::Populate, section, range);
        }
    }

    /// Asks the host for something, before the slice is over at the latest.
    fn ask(&mut self, call: Call, section: &Section, range: GpaRange) {
        let to = (section.block, call);
        if self.asked.spans.len() == MAX_SPANS || self.asked.to.is_some_and(|other| other != to) {
            self.carry_out();
        }
        self.asked.to = Some(to);
        self.asked.spans.push(section.block_span(range));
    }

    /// Has the host do what it was asked for.
    ///
    /// The callers of [`Work::discard`] have shown that the guest allows the discard until the next
    /// request is acknowledged, which nobody does within a slice.
    pub(crate) fn carry_out(&mut self) {
        let Some((block, call)) = self.asked.to.take() else {
            return;
        };
        let spans = std::mem::take(&mut self.asked.spans);
        self.carry_out_spans(block, call, &spans);
        self.asked.spans = spans;
        self.asked.spans.clear();
    }

    fn carry_out_spans(&mut self, block: BlockId, mut call: Call, mut spans: &[BlockSpan]) {
        while !spans.is_empty() {
            if call == Call::Free && self.refusals.is_final(block, call) {
                // The guest allows the discard of what it reported, too: see report.rs.
                call = Call::DropPrivate;
            }
            if self.refusals.is_final(block, call) {
                self.counters.add(errors(call), spans.len() as u64);
                return;
            }
            let result = match call {
                Call::Discard => self.host.discard(block, spans),
                Call::DropPrivate => self.host.drop_private(block, spans),
                Call::Free => self.host.free(block, spans),
                Call::Populate => return self.host.populate(block, spans),
            };
            let refused = result.err();
            let done = refused.map_or(spans.len(), |refused| refused.done.min(spans.len() - 1));
            self.counters
                .add(|counts| &mut counts.discards, done as u64);
            self.counters.add(
                |counts| &mut counts.discarded_bytes,
                spans[..done].iter().map(|s| s.bytes).sum::<u64>(),
            );
            if done > 0 {
                self.refusals.clear(block, call);
            }
            spans = &spans[done..];
            if let Some(Refused { error, .. }) = refused {
                self.counters.one(|counts| &mut counts.discards);
                self.counters.one(errors(call));
                if self.refusals.add(block, call) {
                    log::warn!("{error}, {MAX_REFUSALS} times in a row; that memory stays");
                }
                spans = &spans[1..];
            }
        }
    }
}
