// SPDX-License-Identifier: GPL-2.0-or-later
//! Free pages in a migration: what is asked of the guest, and what it answers.
//!
//! A guest is asked over one of three queues, see [`FreePageSource`]; the two of the founding
//! protocols are in `asked.rs`. What the migration thread did not take yet is in `pending.rs`.
//!
//! Over the free page hint queue (virtio 1.3, 5.5.6.5) it goes like this. A round: the dirty bitmap
//! was synchronized, its log is armed, the guest sees a new id in its configuration space, puts
//! that id into the queue, then blocks of free memory, then STOP. A hint counts only between the id
//! and STOP. Before the next synchronization the round is over, whatever the guest does. When the
//! migration needs no more hints, the guest sees DONE and may take the blocks back.

mod asked;
mod pending;

pub use asked::Standing;
pub use pending::{MAX_TAKEN, MAX_TAKEN_HINTS};

use crate::counters::Tally;
use crate::error::Error;
use crate::features::FreePageSource;
use crate::memory::HostRange;
use crate::migration::arming::{BEFORE_ROUND, Epoch};
use crate::migration::skips::Hint;
use crate::migration::window::{DEFAULT_WINDOW_MS, Heard, Window};
use crate::wire::{ByteOrder, HINT_DONE, HINT_ID_BYTES, HINT_ID_MIN, HINT_STOP, hint_id};
use pending::Pending;

/// Where a round of hints is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub enum HintState {
    /// The driver did not accept free page hints.
    #[default]
    Off = 0,
    /// None is wanted.
    Stop = 1,
    /// One is wanted, and the dirty log is being armed for it.
    Arming = 2,
    /// The guest was asked.
    Requested = 3,
    /// The guest answers.
    Started = 4,
    /// The migration needs no more hints: the guest may take hinted pages back.
    Done = 5,
}

/// What came of hints since the device was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HintCounters {
    /// Rounds asked for.
    pub rounds: u64,
    /// Bytes hinted in an open round.
    pub hinted_bytes: u64,
    /// Bytes hinted while no round was open.
    pub late_bytes: u64,
    /// Bytes hinted that are not guest RAM.
    pub refused_not_ram_bytes: u64,
    /// Bytes hinted faster than they could be taken.
    pub refused_overflow_bytes: u64,
    /// Ids that are not 4 bytes long, or not current; answers that nobody asked for.
    pub ignored_ids: u64,
    /// How long the first pass of the current or last migration was held back, in milliseconds.
    pub wait_ms: u64,
}

/// What a migration stream carries of the hints; the numbers are those of QEMU's C device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HintRecord {
    /// The last id.
    pub cmd_id: u32,
    /// 0 for stop, 1 for requested, 2 for started, 3 for done.
    pub status: u32,
}

/// The state of free page hints.
pub struct Hints {
    source: FreePageSource,
    state: HintState,
    /// The last id that the guest was shown.
    id: u32,
    /// Whether the guest owes a STOP for an id, or the end of its answer to a request.
    owes_stop: bool,
    /// Whether the guest provided a buffer to ask it in.
    has_buffer: bool,
    /// Whether the request is to be put into that buffer.
    is_due: bool,
    /// Which round is wanted; a round that was armed for another one is not asked for.
    wanted: u64,
    epoch: Epoch,
    /// The epoch that has to be over before the guest is asked.
    drained: Option<Epoch>,
    pending: Pending,
    limit_ms: u32,
    /// The first pass of this migration is still to come, or held back.
    first_pass: bool,
    window: Option<Window>,
    counters: Tally<HintCounters>,
}

impl Default for Hints {
    fn default() -> Hints {
        Hints {
            source: FreePageSource::None,
            state: HintState::Off,
            id: HINT_ID_MIN,
            owes_stop: false,
            has_buffer: false,
            is_due: false,
            wanted: 0,
            epoch: BEFORE_ROUND,
            drained: None,
            pending: Pending::default(),
            limit_ms: DEFAULT_WINDOW_MS,
            first_pass: true,
            window: None,
            counters: Tally::default(),
        }
    }
}

impl Hints {
    /// Takes over what of hints that broke is worth keeping for these new ones, which are reset
    /// next: ids are not used again, nor is the number of a round that the dirty log is still being
    /// armed for.
    pub fn inherit(&mut self, broken: &Hints) {
        self.id = broken.id;
        self.wanted = broken.wanted;
        self.limit_ms = broken.limit_ms;
        self.counters = broken.counters;
    }

    /// Where the round is.
    pub fn state(&self) -> HintState {
        self.state
    }

    /// What came of hints so far.
    pub fn counters(&self) -> HintCounters {
        *self.counters
    }

    /// The number of the round that is wanted, for [`Hints::request`].
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// How long the first pass may be held back, in milliseconds; 0 for not at all.
    pub fn window_ms(&self) -> u32 {
        self.limit_ms
    }

    /// Sets how long the first pass may be held back.
    pub fn set_window_ms(&mut self, limit_ms: u32) {
        self.limit_ms = limit_ms;
    }

    /// The field of the configuration space: what the guest is asked for (virtio 1.3, 5.5.6.5.1).
    pub fn shown_id(&self) -> u32 {
        match self.state {
            _ if self.source != FreePageSource::FreePageHint => HINT_STOP,
            HintState::Off | HintState::Stop | HintState::Arming => HINT_STOP,
            HintState::Requested | HintState::Started => self.id,
            HintState::Done => HINT_DONE,
        }
    }

    /// Where the guest is asked.
    pub fn source(&self) -> FreePageSource {
        self.source
    }

    /// A driver accepted features by which it can be asked, or none.
    pub fn set_source(&mut self, source: FreePageSource) {
        if source != self.source {
            // What was asked over the other queue is answered there, if at all.
            self.has_buffer = false;
            self.is_due = false;
            self.owes_stop = false;
        }
        self.source = source;
        match (source, self.state) {
            (FreePageSource::None, _) => self.end_round(HintState::Off),
            (_, HintState::Off) => self.state = HintState::Stop,
            _ => {}
        }
    }

    /// The device was reset: the driver that was to answer is gone. Its hints are of no use, and the
    /// next driver owes nothing.
    pub fn reset(&mut self) {
        self.end_round(HintState::Off);
        self.source = FreePageSource::None;
        self.owes_stop = false;
        self.has_buffer = false;
    }

    /// A synchronization of the dirty bitmap is next: hints that come from now on are late. Those
    /// that were not taken yet are dropped, which is always safe, and counted. The caller takes
    /// some first; it has no time for more.
    pub fn before_sync(&mut self) {
        let dropped = self.pending.bytes();
        self.counters
            .add(|counts| &mut counts.refused_overflow_bytes, dropped);
        match self.state {
            HintState::Off | HintState::Done => self.pending.clear(),
            _ => self.end_round(HintState::Stop),
        }
    }

    /// The dirty bitmap was synchronized. A guest that runs is to be asked for hints; one that does not
    /// is told that they are DONE, so that the state that is saved next says so.
    pub fn after_sync(&mut self, running: bool) {
        match self.state {
            HintState::Off => {}
            _ if !running => self.end_round(HintState::Done),
            _ => {
                self.wanted += 1;
                self.state = HintState::Arming;
                self.drained = None;
            }
        }
    }

    /// The migration is over, whatever came of it.
    pub fn finish(&mut self) {
        self.first_pass = true;
        self.window = None;
        if self.state != HintState::Off {
            self.end_round(HintState::Done);
        }
    }

    /// The dirty log was armed for round `wanted`: the guest is to be asked, with a new id. Says
    /// whether it is; not so when a synchronization came in between, or no id is free, or the queue was
    /// not seen empty since this was called first.
    ///
    /// A Linux driver keeps its ids in one place: an id of the last round that is still in the queue would
    /// be read as the new one, and what was hinted behind it, before the log was armed, would count. So
    /// nothing that was posted before may be left in the queue.
    pub fn request(&mut self, wanted: u64) -> bool {
        if self.state != HintState::Arming || self.wanted != wanted {
            return false;
        }
        let drained = *self.drained.get_or_insert(self.epoch + 1);
        if self.epoch <= drained || !self.can_ask() {
            return false;
        }
        let next = self.id.checked_add(1).unwrap_or(HINT_ID_MIN);
        if next == HINT_ID_MIN && self.owes_stop {
            // Ids start over. One that the guest may still answer must not be used again (virtio
            // 1.3, 5.5.6.5.2), so this round is left out.
            self.state = HintState::Stop;
            return false;
        }
        self.id = next;
        if self.source == FreePageSource::FreePageHint {
            self.owes_stop = true;
        } else {
            self.is_due = true;
        }
        self.state = HintState::Requested;
        self.epoch = BEFORE_ROUND + 1;
        self.counters.one(|counts| &mut counts.rounds);
        true
    }

    /// The guest put `payload` into the queue as an id.
    ///
    /// What follows an id that makes no sense is not known to belong to the round, so the round is over.
    pub fn receive_id(&mut self, payload: &[u8], order: ByteOrder) {
        let id = hint_id(payload, order).filter(|_| payload.len() == HINT_ID_BYTES);
        match (id, self.state) {
            (Some(HINT_STOP), state) => {
                self.owes_stop = false;
                // In a round that has not begun it is the last one's.
                if state == HintState::Started {
                    self.state = HintState::Stop;
                }
            }
            (Some(id), HintState::Requested | HintState::Started) if id == self.id => {
                self.state = HintState::Started;
            }
            (_, state) => {
                self.counters.one(|counts| &mut counts.ignored_ids);
                if state == HintState::Started {
                    self.end_round(HintState::Stop);
                }
            }
        }
    }

    /// The guest hinted at `range`.
    pub fn receive_hint(&mut self, range: HostRange) {
        if self.state != HintState::Started {
            self.counters
                .add(|counts| &mut counts.late_bytes, range.bytes);
            return;
        }
        self.counters
            .add(|counts| &mut counts.hinted_bytes, range.bytes);
        let epoch = self.hint_epoch();
        if !self.pending.add(Hint { range, epoch }) {
            self.counters
                .add(|counts| &mut counts.refused_overflow_bytes, range.bytes);
        }
    }

    /// Takes note of `bytes` bytes that were hinted and are not guest RAM.
    pub fn refuse(&mut self, bytes: u64) {
        if self.state != HintState::Started {
            self.counters.add(|counts| &mut counts.late_bytes, bytes);
            return;
        }
        self.counters.add(|counts| &mut counts.hinted_bytes, bytes);
        self.counters
            .add(|counts| &mut counts.refused_not_ram_bytes, bytes);
    }

    /// Drops what was not taken yet, as if it had come too late.
    pub fn drop_pending(&mut self) {
        let dropped = self.pending.bytes();
        self.counters.add(|counts| &mut counts.late_bytes, dropped);
        self.pending.clear();
    }

    /// When what comes now was free.
    ///
    /// A hinted page stays allocated for the hint, so it was free of use when it was posted: behind the
    /// moment at which the queue was last seen empty. An answer is older than its messages: it is known
    /// only that a page was unused at some time since the request. So for answers a part of the log that
    /// is armed in the middle of a round comes too late.
    fn hint_epoch(&self) -> Epoch {
        match self.source {
            FreePageSource::FreePageHint => self.epoch,
            _ => BEFORE_ROUND + 1,
        }
    }

    /// The queue was seen empty since this was said last: what comes from now on was posted after that,
    /// but not always after this is said.
    pub fn queue_empty(&mut self) {
        self.epoch += 1;
    }

    /// The last epoch that may have begun by now: the queue may have been seen empty, which is not said
    /// yet.
    pub fn epoch(&self) -> Epoch {
        self.epoch + 1
    }

    /// Whether there are hints to take.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The first of the hints that are not taken yet, sorted by address and merged: at most
    /// [`MAX_TAKEN_HINTS`], and [`MAX_TAKEN`] bytes.
    pub fn take(&mut self) -> Vec<Hint> {
        self.pending.take()
    }

    /// How long the pass that is about to begin is to wait for hints, in milliseconds; 0 when it is to
    /// go on. Only a migration's first pass waits. `left_out` bytes were left out so far, whatever the
    /// guest claims; `bandwidth` is the link's, in bytes per second, 0 for unlimited.
    pub fn hold_ms(&mut self, now_ms: u64, left_out: u64, bandwidth: u64) -> u64 {
        if !self.first_pass {
            return 0;
        }
        let (state, limit) = (self.state, u64::from(self.limit_ms));
        let cannot_ask = state == HintState::Arming && !self.can_ask();
        let heard = Heard {
            bytes: left_out,
            answered: state == HintState::Started,
            over: cannot_ask
                || !matches!(
                    state,
                    HintState::Arming | HintState::Requested | HintState::Started
                ),
        };
        let window = self
            .window
            .get_or_insert_with(|| Window::new(limit, bandwidth, now_ms));
        let wait = window.wait_ms(now_ms, heard);
        let elapsed = window.elapsed_ms(now_ms);
        self.counters.set(|counts| &mut counts.wait_ms, elapsed);
        self.first_pass = wait.is_some();
        wait.unwrap_or(0)
    }

    /// What is saved.
    pub fn save(&self) -> HintRecord {
        let status = match self.state {
            _ if self.source != FreePageSource::FreePageHint => u32::from(self.owes_stop),
            HintState::Off | HintState::Stop | HintState::Arming => 0,
            HintState::Requested => 1,
            HintState::Started => 2,
            HintState::Done => 3,
        };
        HintRecord {
            cmd_id: self.id,
            status,
        }
    }

    /// The same for hints that broke. A guest that hints has its pages back; one that answers may
    /// be in the middle of an answer, which must not be taken for that to another request.
    pub fn save_broken(&self) -> HintRecord {
        let status = match self.source {
            FreePageSource::FreePageHint => 3,
            FreePageSource::None | FreePageSource::HostRequest | FreePageSource::MiscQueue => 1,
        };
        HintRecord {
            cmd_id: self.id.max(HINT_ID_MIN),
            status,
        }
    }

    /// Goes on from what a migration brought; the source is known by then. Rounds of the source are
    /// over: a guest that was in one gets its pages back.
    ///
    /// # Errors
    ///
    /// [`Error::StateHints`] when no device can have saved this; nothing has changed then.
    pub fn load(&mut self, record: HintRecord) -> Result<(), Error> {
        let most = match self.source {
            // Of a driver that cannot be asked nothing is saved.
            FreePageSource::None => return Err(Error::StateHints),
            FreePageSource::FreePageHint => 3,
            // Whether an answer is owed.
            FreePageSource::HostRequest | FreePageSource::MiscQueue => 1,
        };
        if record.cmd_id < HINT_ID_MIN || record.status > most {
            return Err(Error::StateHints);
        }
        self.id = record.cmd_id;
        self.owes_stop = record.status != 0;
        self.end_round(match record.status {
            0 => HintState::Stop,
            _ => HintState::Done,
        });
        Ok(())
    }

    fn end_round(&mut self, state: HintState) {
        self.state = state;
        self.is_due = false;
        self.pending.clear();
    }
}
