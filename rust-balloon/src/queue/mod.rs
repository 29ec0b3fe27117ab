// SPDX-License-Identifier: GPL-2.0-or-later
//! One handler per queue. Those that work on memory do the front of a range and say how far they
//! came; the device calls them until the batch is done or the slice is over.

pub mod ballooned;
pub mod deflate;
pub mod held;
pub mod hint;
pub mod inflate;
pub mod owed;
pub mod report;
pub mod stats;

use crate::batch::Budget;
use crate::counters::{Counters, Tally};
use crate::host::{Host, Inhibit, MAX_SPANS, Refused};
use crate::memory::{BlockId, BlockSpan, MemoryMap, Piece, Section};
use crate::page::{Gpa, GpaRange};
use ballooned::BalloonedPages;

/// A PMD on x86 and on arm64 with 4 KiB pages. Slices end on such borders so that a huge page is
/// not split just because a slice was over.
const HUGE_PAGE_SIZE: u64 = 2 << 20;

/// How often the host may refuse in a row to discard from a block before it is asked no more: QEMU
/// prints a line for each refusal, and a guest can cause as many as it likes.
const MAX_REFUSALS: u32 = 16;

/// What the host last refused to do with which blocks, and how often in a row. One way to give
/// memory back can be refused where another is not: huge pages can be discarded, but not freed
/// lazily.
#[derive(Default)]
pub struct Refusals(Vec<Refusal>);

struct Refusal {
    block: BlockId,
    advice: Advice,
    in_a_row: u32,
}

impl Refusals {
    /// Whether the host is to be asked no more for this.
    fn is_final(&self, block: BlockId, advice: Advice) -> bool {
        let known = self.0.iter().find(|known| known.is(block, advice));
        known.is_some_and(|known| known.in_a_row >= MAX_REFUSALS)
    }

    /// Notes a refusal; says whether it was the last that will be asked for.
    fn add(&mut self, block: BlockId, advice: Advice) -> bool {
        match self.0.iter_mut().find(|known| known.is(block, advice)) {
            Some(known) => {
                known.in_a_row = known.in_a_row.saturating_add(1);
                known.in_a_row == MAX_REFUSALS
            }
            None => {
                let in_a_row = 1;
                self.0.push(Refusal {
                    block,
                    advice,
                    in_a_row,
                });
                false
            }
        }
    }

    /// Notes that the host did it.
    fn clear(&mut self, block: BlockId, advice: Advice) {
        self.0.retain(|known| !known.is(block, advice));
    }

    /// Forgets the blocks that are in `new` not as they were in `old`: gone, or another one under
    /// the same name.
    pub fn keep_only(&mut self, old: &MemoryMap, new: &MemoryMap) {
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
    fn is(&self, block: BlockId, advice: Advice) -> bool {
        self.block == block && self.advice == advice
    }
}

/// How memory that the guest reported as free is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub enum Advice {
    /// At once; the guest finds zeros there, and pays for a new page when it comes back.
    #[default]
    Discard = 0,
    /// When the host needs it; a guest that comes back before pays nothing.
    Free = 1,
}

/// Where refusals of it are counted.
fn errors(advice: Advice) -> fn(&mut Counters) -> &mut u64 {
    match advice {
        Advice::Discard => |counts| &mut counts.discard_errors,
        Advice::Free => |counts| &mut counts.free_errors,
    }
}

/// What the host can be asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    GiveBack(Advice),
    Populate,
}

/// What the host was asked for in this slice and has not done yet: one call for many ranges costs much less
/// than one for each.
#[derive(Default)]
pub struct Asked {
    to: Option<(BlockId, Call)>,
    spans: Vec<BlockSpan>,
}

/// What a handler works with.
pub struct Work<'a> {
    /// Where guest RAM is.
    pub memory: &'a MemoryMap,
    /// The section that the last range lay in: the next one mostly does, too.
    pub last_section: Option<Section>,
    /// The pages in the balloon, where MUST_TELL_HOST was negotiated.
    pub balloon: Option<&'a mut BalloonedPages>,
    /// Whether discards are allowed.
    pub inhibit: Inhibit,
    /// The value that the guest expects in its free pages.
    pub poison_val: u32,
    /// How reported memory is given back.
    pub advice: Advice,
    /// The host.
    pub host: &'a mut dyn Host,
    /// What it was asked for and has not done yet.
    pub asked: &'a mut Asked,
    /// The blocks that nothing can be discarded from.
    pub refusals: &'a mut Refusals,
    /// Where it is all accounted for.
    pub counters: &'a mut Tally<Counters>,
    /// What is left of the slice.
    pub budget: Budget,
}

impl Work<'_> {
    /// What the first addresses of `range` are; see [`MemoryMap::front`].
    fn front(&mut self, range: GpaRange) -> Piece {
        let last = self
            .last_section
            .filter(|section| section.gpa.contains(range.start()));
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
            match self.inhibit {
                Inhibit::No => balloon.settle(range),
                _ => balloon.owe(range),
            }
        }
        self.give_back(section, range, Advice::Discard);
    }

    /// Gives `range` back as `advice` says.
    fn give_back(&mut self, section: &Section, range: GpaRange, advice: Advice) {
        if self.inhibit != Inhibit::No {
            self.counters
                .add(|counts| &mut counts.inhibited_bytes, range.bytes());
            return;
        }
        self.budget.spend_call(range.bytes(), section.page_size);
        self.ask(Call::GiveBack(advice), section, range);
    }

    /// Says that the guest will use `range` of `section` again soon.
    fn populate(&mut self, section: &Section, range: GpaRange) {
        if self.inhibit == Inhibit::No {
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
    /// The callers of [`Work::discard`] have shown that the guest allows the discard until the next request is
    /// acknowledged, which nobody does within a slice.
    pub fn carry_out(&mut self) {
        let Some((block, call)) = self.asked.to.take() else {
            return;
        };
        let spans = std::mem::take(&mut self.asked.spans);
        match call {
            Call::Populate => self.host.populate(block, &spans),
            Call::GiveBack(advice) => self.give_back_spans(block, advice, &spans),
        }
        self.asked.spans = spans;
        self.asked.spans.clear();
    }

    fn give_back_spans(&mut self, block: BlockId, advice: Advice, mut spans: &[BlockSpan]) {
        while !spans.is_empty() {
            if self.refusals.is_final(block, advice) {
                self.counters.add(errors(advice), spans.len() as u64);
                return;
            }
            let result = match advice {
                Advice::Discard => self.host.discard(block, spans),
                Advice::Free => self.host.free(block, spans),
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
                self.refusals.clear(block, advice);
            }
            spans = &spans[done..];
            if let Some(Refused { error, .. }) = refused {
                self.counters.one(|counts| &mut counts.discards);
                self.counters.one(errors(advice));
                if self.refusals.add(block, advice) {
                    log::warn!("{error}, {MAX_REFUSALS} times in a row; that memory stays");
                }
                spans = &spans[1..];
            }
        }
    }
}
