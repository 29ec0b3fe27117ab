// SPDX-License-Identifier: GPL-2.0-or-later
//! Free pages by request: the founding protocols' request and misc queues.
//!
//! The guest provides a buffer, the device fills it with a request and returns it, and the guest answers in
//! messages of which the last says so. What it names was unused at some moment between the request and the
//! end of the answer, and may be in use again: the dirty log is armed before the guest is asked, so what was
//! written since is dirty. Unlike a hint, an answer is no help for memory whose log is armed later.
//!
//! One request is in flight at a time: until the last message of the answer came, the guest is not asked
//! again, whatever else happens. So all that is answered belongs to the request before it, also in the misc
//! queue, which has no ids.

use super::{HintState, Hints};
use crate::features::FreePageSource;

/// What an answer is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It belongs to the request in flight. What it names counts while the round is open.
    Asked,
    /// Nobody asked for it.
    Ignored,
}

impl Hints {
    /// Whether all is there that it takes to ask, besides an armed log.
    pub fn can_ask(&self) -> bool {
        match self.source {
            FreePageSource::None => false,
            FreePageSource::FreePageHint => true,
            FreePageSource::HostRequest | FreePageSource::MiscQueue => {
                self.has_buffer && !self.owes_stop
            }
        }
    }

    /// The guest provided a buffer for a request on this queue.
    pub fn receive_buffer(&mut self, source: FreePageSource) {
        self.has_buffer |= source == self.source;
    }

    /// The buffer went back to the guest without a request, or to its ring.
    pub fn lose_buffer(&mut self, source: FreePageSource) {
        if source == self.source {
            self.has_buffer = false;
        }
    }

    /// The driver reset this queue: the request in flight and the buffer are gone with what was in it.
    pub fn reset_queue(&mut self, source: FreePageSource) {
        if source == self.source {
            self.lose_buffer(source);
            self.is_due = false;
            self.end_answer();
        }
    }

    /// The id of the request that is to be put into the guest's buffer on this queue now, if any. The
    /// caller does so: the request is in flight from now on.
    pub fn take_request(&mut self, source: FreePageSource) -> Option<u32> {
        if source != self.source || !self.has_buffer || !std::mem::take(&mut self.is_due) {
            return None;
        }
        self.has_buffer = false;
        self.owes_stop = true;
        Some(self.id)
    }

    /// A message begins on this queue, with the low bits of a request's id where the protocol has ids.
    ///
    /// Ids count up, so those of two requests that follow each other differ in these bits.
    pub fn begin_answer(&mut self, source: FreePageSource, id: Option<u16>) -> Standing {
        let is_asked = source == self.source && self.owes_stop;
        if !is_asked || id.is_some_and(|id| id != self.id as u16) {
            self.counters.one(|counts| &mut counts.ignored_ids);
            return Standing::Ignored;
        }
        if self.state == HintState::Requested {
            self.state = HintState::Started;
        }
        Standing::Asked
    }

    /// The message that is the last of the answer was read to its end.
    pub fn end_answer(&mut self) {
        self.owes_stop = false;
        if matches!(self.state, HintState::Requested | HintState::Started) {
            self.state = HintState::Stop;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::memory::HostRange;
    use crate::queue::hint::HintRecord;
    use crate::wire::HINT_ID_MIN;

    const REQUEST: FreePageSource = FreePageSource::HostRequest;

    const RANGE: HostRange = HostRange {
        host: 0x10_0000,
        bytes: 0x1000,
    };

    /// A synchronization, and the log armed; the queue seen empty as often as it takes.
    fn open_round(hints: &mut Hints) -> bool {
        hints.before_sync();
        hints.after_sync(true);
        let wanted = hints.wanted();
        for _ in 0..3 {
            if hints.request(wanted) {
                return true;
            }
            hints.queue_empty();
        }
        false
    }

    fn asked(source: FreePageSource) -> (Hints, u32) {
        let mut hints = Hints::default();
        hints.set_source(source);
        hints.receive_buffer(source);
        assert!(open_round(&mut hints));
        let id = hints.take_request(source).unwrap();
        (hints, id)
    }

    #[test]
    fn an_answer_counts_until_its_end() {
        let (mut hints, id) = asked(REQUEST);
        assert_eq!(hints.shown_id(), 0, "the configuration space shows nothing");
        assert_eq!(hints.take_request(REQUEST), None, "it is asked once");
        for _ in 0..2 {
            assert_eq!(
                hints.begin_answer(REQUEST, Some(id as u16)),
                Standing::Asked
            );
            hints.receive_hint(RANGE);
        }
        hints.end_answer();
        assert_eq!(hints.state(), HintState::Stop);
        assert_eq!(hints.take().len(), 1);
        assert_eq!(
            hints.begin_answer(REQUEST, Some(id as u16)),
            Standing::Ignored
        );
        assert_eq!(hints.counters().ignored_ids, 1);
    }

    #[test]
    fn answers_are_as_old_as_their_request() {
        let (mut hints, id) = asked(REQUEST);
        hints.begin_answer(REQUEST, Some(id as u16));
        let asked_in = hints.epoch() - 1;
        for page in 1..4 {
            hints.queue_empty();
            hints.receive_hint(HostRange {
                host: page * 0x10_0000,
                ..RANGE
            });
        }
        assert!(hints.take().iter().all(|hint| hint.epoch == asked_in));
        assert!(hints.epoch() > asked_in + 3, "what is armed now is newer");
    }

    #[test]
    fn other_ids_and_other_queues_do_not_count() {
        let (mut hints, id) = asked(REQUEST);
        let stale = hints.begin_answer(REQUEST, Some(id as u16 - 1));
        assert_eq!(stale, Standing::Ignored);
        let other = hints.begin_answer(FreePageSource::MiscQueue, None);
        assert_eq!(other, Standing::Ignored);
        assert_eq!(hints.state(), HintState::Requested);
        hints.receive_hint(RANGE);
        assert_eq!(hints.counters().late_bytes, RANGE.bytes);
    }

    #[test]
    fn the_next_request_waits_for_the_end_and_for_a_buffer() {
        for source in [REQUEST, FreePageSource::MiscQueue] {
            let (mut hints, id) = asked(source);
            let answered = (source == REQUEST).then_some(id as u16);
            hints.receive_buffer(source);
            assert!(!open_round(&mut hints), "the answer is not at its end");
            assert_eq!(hints.begin_answer(source, answered), Standing::Asked);
            hints.receive_hint(RANGE);
            assert_eq!(
                hints.counters().late_bytes,
                RANGE.bytes,
                "its round is over"
            );
            hints.end_answer();
            hints.lose_buffer(source);
            assert!(!open_round(&mut hints), "there is no buffer");
            hints.receive_buffer(source);
            assert!(open_round(&mut hints));
            assert_eq!(hints.take_request(source), Some(id + 1));
        }
    }

    #[test]
    fn a_request_that_was_not_sent_when_its_round_ended_is_not_sent() {
        let mut hints = Hints::default();
        hints.set_source(REQUEST);
        hints.receive_buffer(REQUEST);
        assert!(open_round(&mut hints));
        hints.before_sync();
        assert_eq!(hints.take_request(REQUEST), None);
        hints.after_sync(true);
        assert!(open_round(&mut hints), "the buffer is still there");
    }

    #[test]
    fn what_is_in_flight_migrates_and_a_reset_ends_it() {
        let (hints, id) = asked(REQUEST);
        let mut loaded = Hints::default();
        loaded.set_source(REQUEST);
        loaded.load(hints.save()).unwrap();
        assert_eq!(
            loaded.begin_answer(REQUEST, Some(id as u16)),
            Standing::Asked
        );
        loaded.receive_hint(RANGE);
        assert!(!loaded.has_pending(), "its round was the source's");
        loaded.receive_buffer(REQUEST);
        assert!(!open_round(&mut loaded));
        loaded.end_answer();
        assert!(open_round(&mut loaded));
        assert_eq!(loaded.take_request(REQUEST), Some(id + 1));
        loaded.reset_queue(REQUEST);
        loaded.receive_buffer(REQUEST);
        assert!(open_round(&mut loaded), "nothing is in flight any more");
        assert_eq!(loaded.take_request(REQUEST), Some(id + 2));
        loaded.reset();
        assert!(!loaded.can_ask());
        assert_eq!(
            loaded.begin_answer(REQUEST, Some(id as u16 + 1)),
            Standing::Ignored
        );
    }

    /// What a stream says of hints is what the driver can have been asked.
    #[test]
    fn a_record_belongs_to_its_queue() {
        let sources = [
            (FreePageSource::None, 0),
            (REQUEST, 2),
            (FreePageSource::MiscQueue, 2),
            (FreePageSource::FreePageHint, 4),
        ];
        for (source, sound) in sources {
            for status in 0..5 {
                let mut hints = Hints::default();
                hints.set_source(source);
                let before = (hints.save(), hints.state());
                let record = HintRecord {
                    cmd_id: HINT_ID_MIN + 5,
                    status,
                };
                if status < sound {
                    assert_eq!(hints.load(record), Ok(()), "{source:?}");
                    assert_eq!(hints.save().cmd_id, record.cmd_id);
                } else {
                    assert_eq!(hints.load(record), Err(Error::StateHints), "{source:?}");
                    assert_eq!((hints.save(), hints.state()), before);
                }
            }
        }
    }
}
