// SPDX-License-Identifier: GPL-2.0-or-later
//! The device: state, negotiation, queue to handler.

mod answers;
mod gather;
mod life;

pub use answers::AnswerPart;
pub use gather::{RequestEnd, RequestPart};

use crate::batch::{Batch, Budget};
use crate::config::{self, ConfigState};
use crate::counters::{Counters, Tally};
use crate::features::{Features, Numbering, QueueKind};
use crate::host::{Host, Inhibit};
use crate::memory::MemoryMap;
use crate::message::{Malformed, Reader};
use crate::migration::sweep;
use crate::page::{GpaRange, PAGE_SIZE};
use crate::queue::ballooned::BalloonedPages;
use crate::queue::held::Flush;
use crate::queue::stats::Stats;
use crate::queue::{
    Advice, Asked, MAX_FREED, Refusals, Work, deflate, held, inflate, owed, report,
};
use crate::wire::ByteOrder;
use answers::Answer;
use sparse_bitmap::SparseBitmap;

/// What the user of the device chose; it stays the same for the device's life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The features offered.
    pub features: Features,
    /// The bits that stand for them where they are negotiated.
    pub numbering: Numbering,
    /// How reported memory is given back, where it can be so.
    pub reporting_advice: Advice,
    /// How many bytes of inflated memory may wait for their neighbours before they are given back;
    /// 0 for none.
    pub hold_bytes: u64,
    /// Whether the configuration space has the size that QEMU 4.0 gave it.
    pub qemu_4_0_config_size: bool,
}

/// How reported memory is given back, as chosen and as it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum AdviceInForce {
    /// At once, as was chosen.
    Discard = 0,
    /// When the host needs it, as was chosen.
    Free = 1,
    /// When the host needs it where memory is private and anonymous, else at once.
    FreeInPart = 2,
    /// At once, because no memory is private and anonymous.
    NotLazy = 3,
    /// Not at all, because the guest fills free pages with something else than zeros.
    Poisoned = 4,
    /// At once where the host refused too often to take memory later, else when it needs it.
    Refused = 5,
}

/// How far a slice came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do; no request of the batch may be acknowledged yet.
    More,
    /// The batch is done and its requests are to be acknowledged.
    Done,
}

impl Progress {
    fn of(done: bool) -> Progress {
        match done {
            true => Progress::Done,
            false => Progress::More,
        }
    }
}

/// The set of pages in the balloon.
pub(crate) struct Ballooned<P> {
    /// The pages.
    pub(crate) pages: P,
    /// Whether all of them are known.
    pub(crate) complete: bool,
}

/// The device.
pub struct Balloon {
    options: Options,
    negotiated: Features,
    /// Whether the values of the next statistics buffer mean nothing.
    skip_stats: bool,
    config: ConfigState,
    memory: MemoryMap,
    /// The pages in the balloon, as far as MUST_TELL_HOST makes the guest say so.
    balloon: BalloonedPages,
    batch: Batch,
    /// The inflate or deflate message whose rest is still to come.
    message: Option<(QueueKind, Reader)>,
    /// The answer that is being read.
    answer: Option<Answer>,
    stats: Stats,
    counters: Tally<Counters>,
    malformed: Option<Malformed>,
    refusals: Refusals,
    /// Empty between slices.
    asked: Asked,
}

impl Balloon {
    /// A device that no driver has seen yet.
    pub fn new(options: Options) -> Balloon {
        Balloon {
            options,
            negotiated: Features::empty(),
            skip_stats: false,
            config: ConfigState::default(),
            memory: MemoryMap::default(),
            balloon: BalloonedPages::new(options.hold_bytes),
            batch: Batch::default(),
            message: None,
            answer: None,
            stats: Stats::default(),
            counters: Tally::default(),
            malformed: None,
            refusals: Refusals::default(),
            asked: Asked::default(),
        }
    }

    /// Size of the configuration space in bytes.
    pub fn config_size(&self) -> usize {
        config::size(self.options.features, self.options.qemu_4_0_config_size)
    }

    /// The bits of the features offered.
    pub fn wire_features(&self) -> u64 {
        self.options.numbering.to_wire(self.options.features)
    }

    /// The features that these bits stand for.
    pub fn features_of(&self, wire: u64) -> Features {
        let Options {
            numbering,
            features,
            ..
        } = self.options;
        // Statistics are always offered.
        numbering.from_wire(wire, features | Features::STATS_VQ)
    }

    /// The features that the driver accepted.
    pub fn negotiated(&self) -> Features {
        self.negotiated
    }

    /// Takes over a new map of guest memory.
    ///
    /// Pages whose memory is not the same any more are forgotten: what is mapped there now was
    /// never in the balloon. Reports that are not worked off are dropped for the same reason: they
    /// were looked up in the old map.
    pub fn set_memory(&mut self, mut memory: MemoryMap) {
        memory.take_parts_of(&mut self.memory);
        let balloon = &mut self.balloon;
        self.memory
            .for_each_lost(&memory, |range| balloon.take_back(range));
        let changed = self.memory.sections() != memory.sections();
        if changed && self.batch.queue() == Some(QueueKind::Reporting) {
            self.batch.drop_ranges();
        }
        self.refusals.keep_only(&self.memory, &memory);
        self.memory = memory;
    }

    /// A part of memory that comes in parts is there now.
    pub fn plug(&mut self, range: GpaRange) {
        self.memory.set_part(range, true);
    }

    /// A part of memory that comes in parts is not there any more.
    ///
    /// Its pages are forgotten, and reports that are not worked off: what comes back in its place
    /// was never in the balloon, and never reported.
    pub fn unplug(&mut self, range: GpaRange) {
        self.memory.set_part(range, false);
        self.balloon.take_back(range);
        if self.batch.queue() == Some(QueueKind::Reporting) {
            self.batch.drop_ranges();
        }
    }

    /// Fills `image` with the configuration space, with `hint_id` as the command of the hint queue.
    pub fn read_config(&self, hint_id: u32, image: &mut [u8]) {
        self.config.read(hint_id, image);
    }

    /// Takes over what a driver wrote into the configuration space; says whether `actual` changed.
    pub fn write_config(&mut self, image: &[u8]) -> bool {
        self.config.write(image, self.negotiated)
    }

    /// Asks the guest to keep `target` of its `ram` bytes; returns the pages to inflate.
    pub fn set_target(&mut self, target: u64, ram: u64) -> u32 {
        self.config.set_target(target, ram);
        self.config.num_pages
    }

    /// The guest has `ram` bytes of RAM from now on. Says whether the host asks for another number
    /// of pages now, of which the guest is to be told.
    pub fn set_ram(&mut self, ram: u64) -> bool {
        self.config.set_ram(ram)
    }

    /// The values behind the configuration space.
    pub fn config(&self) -> &ConfigState {
        &self.config
    }

    /// Where guest memory is.
    pub(crate) fn memory(&self) -> &MemoryMap {
        &self.memory
    }

    /// The pages in the balloon, as far as MUST_TELL_HOST makes the guest say so.
    pub(crate) fn ballooned(&self) -> Ballooned<&SparseBitmap> {
        Ballooned {
            pages: self.balloon.set(),
            complete: self.balloon.is_complete(),
        }
    }

    /// How reported memory is given back.
    pub fn advice_in_force(&self) -> AdviceInForce {
        let mut sections = self.memory.sections().iter();
        let lazy = sections
            .clone()
            .filter(|section| section.backing.lazy)
            .count();
        match self.options.reporting_advice {
            Advice::Discard => AdviceInForce::Discard,
            Advice::Free if self.config.poison_val != 0 => AdviceInForce::Poisoned,
            Advice::Free if lazy == 0 => AdviceInForce::NotLazy,
            Advice::Free if self.refusals.has_no_free() => AdviceInForce::Refused,
            Advice::Free if sections.all(|section| section.backing.lazy) => AdviceInForce::Free,
            Advice::Free => AdviceInForce::FreeInPart,
        }
    }

    /// Works on the batch for one slice. An empty batch is done at once.
    pub fn batch_run(&mut self, host: &mut dyn Host, inhibit: Inhibit) -> Progress {
        let Some(queue) = self.batch.queue() else {
            return Progress::Done;
        };
        if queue == QueueKind::Inflate && !self.negotiated.contains(Features::MUST_TELL_HOST) {
            // Nobody keeps account of these, also if the driver promises to tell later.
            self.balloon.miss();
        }
        let begun = self.batch.begin();
        self.counters
            .add(|counts| &mut counts.ranges, begun.ranges as u64);
        let take = match queue {
            QueueKind::Inflate => inflate::take,
            QueueKind::Deflate => deflate::take,
            QueueKind::Reporting => report::take,
            QueueKind::Stats | QueueKind::Hint | QueueKind::HostRequest | QueueKind::Misc => {
                return Progress::Done;
            }
        };
        self.slice(host, inhibit, |work, batch| {
            work.budget.spend_sort(begun.sorted);
            while held::make_room(work)
                && let Some(range) = batch.next()
            {
                if !work.budget.is_left() {
                    return Progress::More;
                }
                let done = take(work, range);
                batch.advance(done);
            }
            if batch.next().is_some() || !held::make_room(work) {
                return Progress::More;
            }
            work.counters.one(|counts| &mut counts.batches);
            batch.clear();
            Progress::Done
        })
    }

    /// How many bytes in the balloon could not be given back when they came and are still to be.
    pub fn owed_bytes(&self) -> u64 {
        self.balloon.owed() * PAGE_SIZE
    }

    /// Gives those back to the host that `inhibit` does not forbid, for one slice. What it forbids
    /// stays, and is looked at again by the next slice behind the one that is done.
    pub fn discard_owed(&mut self, host: &mut dyn Host, inhibit: Inhibit) -> Progress {
        let done = self.slice(host, inhibit, |work, _| owed::slice(work));
        // Memory of the sets themselves goes in the same slices.
        Progress::of(done && self.balloon.is_trimmed())
    }

    /// Gives back to the host, for one slice, pages that wait for their neighbours.
    pub fn flush_held(&mut self, host: &mut dyn Host, flush: Flush, inhibit: Inhibit) -> Progress {
        let done = self.slice(host, inhibit, |work, _| held::flush(work, flush));
        Progress::of(done)
    }

    /// How many bytes wait for their neighbours.
    pub fn held_bytes(&self) -> u64 {
        self.balloon.held().bytes()
    }

    /// Does a slice of work: calls `handle` with what handlers need and the batch, and then has the
    /// host do what it was asked for.
    fn slice<R>(
        &mut self,
        host: &mut dyn Host,
        inhibit: Inhibit,
        handle: impl FnOnce(&mut Work<'_>, &mut Batch) -> R,
    ) -> R {
        let told = self.negotiated.contains(Features::MUST_TELL_HOST);
        let mut budget = Budget::slice();
        budget.spend_free(self.balloon.trim(MAX_FREED));
        let mut work = Work {
            memory: &self.memory,
            last_section: None,
            balloon: told.then_some(&mut self.balloon),
            inhibit,
            poison_val: self.config.poison_val,
            advice: self.options.reporting_advice,
            host,
            asked: &mut self.asked,
            refusals: &mut self.refusals,
            counters: &mut self.counters,
            budget,
            room_paid: 0,
        };
        work.room_paid = work.room_made();
        let result = handle(&mut work, &mut self.batch);
        work.carry_out();
        result
    }

    /// Forgets the batch; its requests go back to their queue and come again.
    ///
    /// What was done of it does no harm: discards and the set of pages are the same after a second
    /// time.
    pub fn batch_cancel(&mut self) {
        self.batch.clear();
        self.message = None;
    }

    /// Gives up what is left of the batch, and knows no more which pages are in the balloon.
    ///
    /// Its requests will either be acknowledged although they were not carried out, or never be,
    /// and not come again; that holds too for a request of which a part is still to come. A deflate
    /// could then leave pages in the set that the guest uses from now on, and so could an inflate
    /// that the guest does not know of. Pages that are not in the set are never discarded by
    /// mistake, so the whole of it is forgotten.
    pub fn batch_abandon(&mut self) {
        self.forget_pages();
        self.batch.clear();
        self.message = None;
    }

    /// Knows no more which pages are in the balloon: the guest may have some of them back. What is
    /// not in the set is never discarded by mistake, nor left out of a migration.
    fn forget_pages(&mut self) {
        self.balloon.forget(false);
    }

    /// Takes over a statistics buffer that begins with `payload`.
    pub fn receive_stats(&mut self, payload: &[u8], buffer: StatsBuffer) {
        self.counters.add(
            |counts| &mut counts.ignored_writable_buffers,
            buffer.wrong_way as u64,
        );
        self.counters.add(
            |counts| &mut counts.ignored_stats_buffers,
            u64::from(buffer.held),
        );
        if std::mem::take(&mut self.skip_stats) {
            return;
        }
        let StatsBuffer {
            len, order, now, ..
        } = buffer;
        self.stats
            .receive(payload, len, order, now, &mut self.counters);
    }

    /// The guest's statistics.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// A reset of the whole machine, unlike a wake-up: the statistics are forgotten, and a host
    /// that refused to discard is asked again. A driver cannot have that as often as it likes.
    pub fn machine_reset(&mut self) {
        self.stats = Stats::default();
        self.refusals = Refusals::default();
    }

    /// What the device did, for a guest with `ram` bytes of memory.
    pub fn counters(&self, ram: u64) -> Counters {
        let told = self.negotiated.contains(Features::MUST_TELL_HOST);
        let ballooned_bytes = if told && self.balloon.is_complete() {
            self.balloon.set().len() * PAGE_SIZE
        } else {
            self.config.actual_bytes(ram)
        };
        Counters {
            ballooned_bytes,
            held_bytes: self.held_bytes(),
            owed_bytes: self.owed_bytes(),
            ..*self.counters
        }
    }

    /// The pages in the balloon as far as MUST_TELL_HOST makes the guest say so, for a migration:
    /// the guest may not use them before their deflate was acknowledged (virtio 1.3, 5.5.6.1).
    /// `None` while it need not say so.
    pub fn left_out(&self) -> Option<sweep::Ballooned<'_>> {
        let told = self.negotiated.contains(Features::MUST_TELL_HOST);
        told.then_some(sweep::Ballooned {
            pages: self.balloon.set(),
            memory: &self.memory,
        })
    }
}

/// What is known of a statistics buffer besides its payload.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatsBuffer {
    /// Its length in bytes.
    pub len: usize,
    /// The driver's byte order.
    pub order: ByteOrder,
    /// How many of its descriptors were device-writable.
    pub wrong_way: usize,
    /// Whether the device still held another buffer.
    pub held: bool,
    /// When it came, in seconds since the epoch.
    pub now: i64,
}

#[cfg(test)]
mod tests;
