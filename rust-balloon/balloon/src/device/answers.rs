// SPDX-License-Identifier: GPL-2.0-or-later
//! The guest's answers to requests for unused pages.

use super::Balloon;
use crate::features::{FreePageSource, QueueKind};
use crate::memory::{HostRange, MemoryMap, Piece};
use crate::message::{Format, Head, Item, Malformed, Reader};
use crate::page::GpaRange;
use crate::queue::hint::{Hints, Standing};
use crate::wire::founding::{FLAG_DONE, GET_UNUSED_PAGES};

/// A part of a message of the request or misc queue.
#[derive(Clone, Copy, Debug)]
pub struct AnswerPart<'a> {
    /// Its bytes.
    pub payload: &'a [u8],
    /// The length of the whole message in bytes.
    pub total: u64,
    /// Whether the message begins here.
    pub first: bool,
    /// Whether it ends here.
    pub last: bool,
}

/// A message of an answer, while it is being read.
pub(super) struct Answer {
    reader: Reader,
    /// Of what its header says; nothing before that was read.
    standing: Standing,
    /// Whether it is the last of the answer.
    is_last: bool,
}

impl Balloon {
    /// Takes over a part of a message of this queue. What it names is hinted where the host has it.
    ///
    /// Entries are in units of 4096 bytes, as everywhere else in the balloon.
    pub fn receive_answer(
        &mut self,
        hints: &mut Hints,
        source: FreePageSource,
        part: AnswerPart<'_>,
    ) {
        let (queue, format) = match source {
            FreePageSource::HostRequest => (QueueKind::HostRequest, Format::Ranges),
            FreePageSource::MiscQueue => (QueueKind::Misc, Format::MiscChunks),
            FreePageSource::None | FreePageSource::FreePageHint => return,
        };
        if source != hints.source() {
            // Nobody asks over that queue. Its message must not get between the parts of another one.
            if part.first {
                hints.begin_answer(source, None);
            }
            return;
        }
        if part.first {
            self.answer = Some(Answer {
                reader: Reader::new(format, part.total),
                standing: Standing::Ignored,
                is_last: false,
            });
        }
        // Without one, the first part came before a reset: nobody waits for the rest.
        let Some(mut answer) = self.answer.take() else {
            return;
        };
        let (standing, is_last) = (&mut answer.standing, &mut answer.is_last);
        let memory = &self.memory;
        answer.reader.read(part.payload, |item| match item {
            Item::Head(head) => {
                let is_done = check(head)?;
                *standing = hints.begin_answer(source, head.id);
                *is_last = is_done && *standing == Standing::Asked;
                Ok(())
            }
            Item::Range(_) if *standing == Standing::Ignored => Ok(()),
            Item::Range(range) if memory.is_ram(range) => {
                hint(memory, hints, range);
                Ok(())
            }
            Item::Range(_) => Err(Malformed::NotRam),
        });
        if !part.last {
            self.answer = Some(answer);
            return;
        }
        if answer.is_last {
            hints.end_answer();
        }
        self.note_left_out(queue, answer.reader.end());
    }

    /// The rest of the message that is being read will not come, nor will the message come again: if it
    /// was the last of its answer, the answer is over.
    pub fn give_up_answer(&mut self, hints: &mut Hints) {
        if self.answer.take().is_some_and(|answer| answer.is_last) {
            hints.end_answer();
        }
    }

    /// A buffer of the request or misc queue is of no use: too short, or one is held already.
    pub fn ignore_request_buffer(&mut self) {
        self.counters
            .one(|counts| &mut counts.ignored_request_buffers);
    }
}

impl Balloon {
    /// Takes over a hint of the free page hint queue, as far as it names guest RAM.
    ///
    /// A migration leaves nothing else out: storage, and memory that others share, are migrated as
    /// they are, whatever a guest says of them.
    pub fn receive_hint(&self, hints: &mut Hints, range: HostRange) {
        let HostRange {
            mut host,
            bytes: mut left,
        } = range;
        while let Some(gpa) = self.memory.at_host(host, left) {
            let bytes = gpa.bytes();
            hints.receive_hint(HostRange { host, bytes });
            left -= bytes;
            host = host.saturating_add(bytes as usize);
        }
        hints.refuse(left);
    }
}

/// Whether this is the last message of an answer.
fn check(head: Head) -> Result<bool, Malformed> {
    if head.cmd != GET_UNUSED_PAGES {
        return Err(Malformed::Command);
    }
    match head.flags {
        0 => Ok(false),
        FLAG_DONE => Ok(true),
        _ => Err(Malformed::Flag),
    }
}

/// Hints at `range`, which is guest RAM, wherever the host has it.
fn hint(memory: &MemoryMap, hints: &mut Hints, range: GpaRange) {
    let mut rest = Some(range);
    while let Some(range) = rest {
        let part = match memory.front(range) {
            Piece::NotRam(part) => part,
            Piece::Ram(part, section) => {
                let offset = part.start().saturating_since(section.gpa.start());
                hints.receive_hint(HostRange {
                    host: section.host + offset as usize,
                    bytes: part.bytes(),
                });
                part
            }
        };
        rest = GpaRange::new(part.end(), range.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Options;

    /// Half a message, and between its halves all of one that nobody asked for on the other queue.
    #[test]
    fn a_message_of_the_other_queue_does_not_come_between() {
        let source = FreePageSource::HostRequest;
        let mut balloon = Balloon::new(Options::default());
        let mut hints = Hints::default();
        hints.set_source(source);
        hints.receive_buffer(source);
        hints.after_sync(true);
        let wanted = hints.wanted();
        while !hints.request(wanted) {
            hints.queue_empty();
        }
        let id = hints.take_request(source).unwrap() as u16;
        let [low, high] = id.to_le_bytes();
        let done = [0, 1, low, high, 0, 0, 0, 0];
        let part = |payload, total, first, last| AnswerPart {
            payload,
            total,
            first,
            last,
        };
        balloon.receive_answer(&mut hints, source, part(&done[..4], 8, true, false));
        let other = part(&[0, 0, 1, 0, 0, 0, 0, 0], 8, true, true);
        balloon.receive_answer(&mut hints, FreePageSource::MiscQueue, other);
        balloon.receive_answer(&mut hints, source, part(&done[4..], 8, false, true));
        assert_eq!(hints.counters().ignored_ids, 1);
        hints.receive_buffer(source);
        assert!(hints.can_ask(), "the answer came to its end");
    }
}
