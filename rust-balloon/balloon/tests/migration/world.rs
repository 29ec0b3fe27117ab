// SPDX-License-Identifier: GPL-2.0-or-later
//! The machine: guest, device, the source's side of the migration and its destination. Steps of
//! different threads come in any order; a step is what one of them does under a lock.

use std::collections::{BTreeSet, VecDeque};

use super::answers::Asker;
use super::guest::{Guest, Request, Usage};
use super::ram::{MIGRATED, PAGE_SHIFT, PAGES, Ram, block_id};
use super::seen::Seen;
use balloon::features::FreePageSource;
use balloon::memory::MemoryMap;
use balloon::migration::skips::{DirtyChange, Hint, Skips};
use balloon::queue::hint::Hints;
use balloon::wire::ByteOrder;
use sparse_bitmap::SparseBitmap;

/// What the model finds to be wrong.
pub(crate) type Checked = Result<(), String>;

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// All rules are kept.
    No,
    /// The guest is asked before the log is armed.
    RequestBeforeProtect,
    /// Handling a hint clears the log, too.
    ClearLogOnHint,
    /// Hints are applied after the synchronization that follows their arrival.
    HintsAfterSync,
    /// A chunk is trusted that was armed when the hint was in the queue already.
    TrustLateArming,
    /// Pages that left the balloon are left out again behind the next synchronization.
    ForgetDeflated,
    /// Pages that left the balloon stay among those that are left out.
    KeepDeflated,
    /// The guest is asked again before its answer came to an end.
    SecondRequest,
    /// It is asked although there may be something of the last round in its queue.
    AskBeforeEmpty,
}

/// What one of the threads does next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The guest uses a page and writes to it.
    Write(usize),
    /// The guest uses one of the pages that its driver holds or named, and writes to it.
    WriteHeld(usize),
    /// The guest frees pages from the first on.
    Free(usize, usize),
    /// The guest's driver looks at the command.
    Notice,
    /// The driver hints at free pages from the first on, or writes them down for its answer.
    Post(usize, usize),
    /// The driver has hinted at all that it wants to.
    PostStop,
    /// It sends that, or the buffer for the next request.
    Submit,
    OfferBuffer,
    /// Their queue is reset, what the device has of it goes back, the machine goes on elsewhere.
    ResetQueue,
    GiveBack,
    Move,
    /// The device takes up to so many requests.
    Pop(usize),
    /// The device says that it saw the queue empty.
    SayEmpty,
    Inflate(usize),
    Deflate(usize),
    Reset,
    /// The accelerator's log is taken for other reasons.
    Collect,
    /// Entries are taken from KVM's ring, and their places given back later.
    Reap,
    ResetRing,
    /// The migration thread goes on with what it is about, so many parts of it.
    Migrate(usize),
    /// It sends up to so many pages before it looks at hints again.
    Send(usize),
    /// It does not wait for all pages to be sent before it synchronizes.
    SyncEarly,
    /// The main loop synchronizes, or goes on with that, so many parts of it.
    MainSync(usize),
    /// The log is armed for long enough.
    CutArming,
    /// The migration fails or is cancelled.
    Cancel,
    /// A step of what a synchronization left to do, of so many words.
    Settle(usize),
    /// The destination takes over, and what it does then.
    Switch,
    Touch(usize),
    Deliver,
    Interrupt,
}

/// How far the migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Idle,
    Precopy,
    Postcopy,
}

/// What the migration thread is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Pass,
    /// Arms the log for this round.
    Ask(u64),
    ArmWanted,
    /// The next part of a synchronization.
    Sync(u32),
}

/// The machine.
pub(crate) struct World {
    pub(crate) broken: Broken,
    pub(crate) ram: Ram,
    pub(crate) guest: Guest,
    pub(crate) hints: Hints,
    /// The queue of requests; `None` with that of hints. Whether the guest could not be asked last.
    pub(crate) asker: Option<Asker>,
    pub(crate) refused: bool,
    pub(crate) skips: Skips,
    pub(crate) balloon: SparseBitmap,
    /// What the device knew to be in the balloon before pages left it, where that rule is broken;
    /// and the pages that left it.
    pub(crate) stale: SparseBitmap,
    pub(crate) left: BTreeSet<usize>,
    pub(crate) memory: MemoryMap,
    /// The last synchronization left something to do.
    pub(crate) unsettled: bool,
    /// It was the main loop's.
    pub(crate) main_synced: bool,
    /// The device saw its queue empty and did not say so yet.
    empty: bool,
    pub(crate) running: bool,
    versions: u32,
    pub(crate) phase: Phase,
    pub(crate) task: Task,
    pub(crate) main_sync: Option<u32>,
    /// The next synchronization begins a new migration.
    pub(crate) begin: bool,
    /// Wanted chunks were armed in this round.
    pub(crate) late_arming: bool,
    /// The migration's count of dirty pages.
    pub(crate) dirty: i64,
    /// Hints that were taken and not applied, where that rule is broken.
    pub(crate) kept: Vec<Hint>,
    pub(crate) destination: [Option<u32>; PAGES],
    /// Backing pages, by their first page, that the destination waits for.
    pub(crate) waiting: BTreeSet<usize>,
    /// What postcopy announces as zero, by block.
    pub(crate) left_out: Vec<(usize, SparseBitmap)>,
    /// Those requests that the source did not look at yet.
    pub(crate) asked: VecDeque<usize>,
    /// Pages on their way, by backing page.
    pub(crate) flight: VecDeque<Vec<(usize, u32)>>,
    pub(crate) seen: Seen,
}

/// More pages than the guest sees.
const GUEST_LIMIT: u64 = 1 << 20;

impl World {
    pub(crate) fn new(source: FreePageSource, ram: Ram, broken: Broken) -> World {
        let mut hints = Hints::default();
        hints.set_source(source);
        let by_request = source != FreePageSource::FreePageHint;
        World {
            broken,
            asker: by_request.then(|| Asker::new(source, &ram)),
            refused: false,
            memory: ram.memory(),
            ram,
            guest: Guest::new(),
            hints,
            skips: Skips::new(PAGE_SHIFT),
            balloon: SparseBitmap::new(GUEST_LIMIT),
            stale: SparseBitmap::new(GUEST_LIMIT),
            left: BTreeSet::new(),
            unsettled: false,
            main_synced: false,
            empty: false,
            running: true,
            versions: PAGES as u32,
            phase: Phase::Idle,
            task: Task::Pass,
            main_sync: None,
            begin: true,
            late_arming: false,
            dirty: 0,
            kept: Vec::new(),
            destination: [None; PAGES],
            waiting: BTreeSet::new(),
            left_out: Vec::new(),
            asked: VecDeque::new(),
            flight: VecDeque::new(),
            seen: Seen::default(),
        }
    }

    /// Does a step, or nothing where it cannot be; then looks at the count of dirty pages.
    pub(crate) fn step(&mut self, step: &Step) -> Checked {
        match *step {
            Step::Migrate(count) => (0..count).try_for_each(|_| self.migrate())?,
            Step::Send(pages) if self.phase == Phase::Precopy && self.task == Task::Pass => {
                // The migration thread sends before it settles only what the main loop
                // synchronized.
                if self.unsettled && !self.main_synced {
                    self.settle(pages);
                } else {
                    self.send(pages);
                }
            }
            Step::SyncEarly if self.may_sync() => self.task = Task::Sync(0),
            Step::MainSync(parts) if self.phase == Phase::Precopy => {
                (0..parts).for_each(|_| self.main_sync());
            }
            Step::CutArming => self.cut_arming(),
            Step::Settle(words) if self.phase == Phase::Precopy => self.settle(words),
            Step::Cancel if self.phase == Phase::Precopy => self.cancel(),
            Step::Switch if self.phase == Phase::Precopy => self.switch()?,
            Step::Touch(page) => self.touch(page),
            Step::Deliver => self.deliver(),
            Step::Interrupt if self.phase == Phase::Postcopy => self.interrupt(),
            Step::Collect => self.ram.collect(),
            Step::Reap => self.ram.reap(),
            Step::ResetRing => self.ram.reset_ring(),
            _ if self.running => self.step_of_guest(step),
            _ => {}
        }
        if self.phase != Phase::Idle && self.dirty != self.ram.dirty_bits() {
            return Err(format!(
                "{} dirty pages are counted, {} are there",
                self.dirty,
                self.ram.dirty_bits()
            ));
        }
        Ok(())
    }

    fn step_of_guest(&mut self, step: &Step) {
        if self.step_of_asker(step) {
            return;
        }
        match *step {
            Step::Write(page) => self.write(page),
            Step::WriteHeld(number) => {
                let held = (0..PAGES).filter(|&page| self.guest.usage[page] == Usage::Held);
                self.write_one_of(&held.collect::<Vec<_>>(), number);
            }
            Step::Free(page, count) => {
                for page in page..(page + count).min(PAGES) {
                    self.guest.free(page);
                }
            }
            Step::Notice => self.guest.notice(self.hints.shown_id()),
            Step::Post(page, count) => self.guest.post(page, count),
            Step::PostStop => self.guest.post_stop(),
            Step::Pop(count) => self.pop(count),
            Step::SayEmpty => self.say_empty(),
            Step::Inflate(page) if self.guest.usage[page] == Usage::Free => {
                self.guest.usage[page] = Usage::Ballooned;
                self.balloon.insert_range(self.ram.guest_pages(page));
                self.stale.insert_range(self.ram.guest_pages(page));
                self.left.remove(&page);
                self.ram.discard(page);
            }
            Step::Deflate(page) if self.is_ballooned(page) => {
                self.guest.usage[page] = Usage::Free;
                self.balloon.remove_range(self.ram.guest_pages(page));
                self.left.insert(page);
            }
            Step::Reset => {
                self.guest.reset();
                let left: Vec<usize> = (0..PAGES).filter(|&page| self.is_ballooned(page)).collect();
                self.left.extend(left);
                self.balloon.remove_all();
                let source = self.hints.source();
                self.hints.reset();
                self.hints.set_source(source);
            }
            _ => {}
        }
    }

    pub(crate) fn write_one_of(&mut self, pages: &[usize], number: usize) {
        if !pages.is_empty() {
            self.write(pages[number % pages.len()]);
        }
    }

    fn write(&mut self, page: usize) {
        if self.guest.reuse(page) {
            self.versions += 1;
            self.ram.write(page, self.versions);
        }
    }

    /// The device takes requests; one thread does so, which says that there are no more before it
    /// looks again.
    fn pop(&mut self, count: usize) {
        self.say_empty();
        if let Some(empty) = self.pop_answers(count) {
            self.empty = empty;
            return;
        }
        for _ in 0..count {
            match self.guest.ring.pop_front() {
                Some(Request::Id(id)) => {
                    self.hints.receive_id(&id.to_le_bytes(), ByteOrder::Little);
                }
                Some(Request::Block { page, count }) => {
                    self.hints.receive_hint(self.ram.host_range(page, count));
                }
                None => {
                    self.empty = true;
                    return;
                }
            }
        }
    }

    fn say_empty(&mut self) {
        if std::mem::take(&mut self.empty) {
            self.hints.queue_empty();
        }
    }

    pub(crate) fn count(&mut self, change: DirtyChange) {
        self.dirty += change.set as i64 - change.cleared as i64;
    }

    fn is_ballooned(&self, page: usize) -> bool {
        self.balloon.contains_range(self.ram.guest_pages(page))
    }

    /// Leaves out what was hinted; says whether chunks are to be armed.
    pub(crate) fn take(&mut self) -> bool {
        let mut hints = std::mem::take(&mut self.kept);
        hints.extend(self.hints.take());
        if self.broken == Broken::ClearLogOnHint {
            for page in self.pages_of(&hints) {
                self.ram.forget_writes(page);
            }
        }
        let before = self.skips.counters();
        let mut change = DirtyChange::default();
        let wanted = self
            .skips
            .leave_out_hinted(&mut self.ram, &hints, &mut change);
        self.count(change);
        let after = self.skips.counters();
        self.seen.hinted += change.cleared;
        self.seen.wanted += if self.late_arming { change.cleared } else { 0 };
        let refused = after.refused_unprotected_bytes - before.refused_unprotected_bytes;
        self.seen.unprotected += refused >> PAGE_SHIFT;
        wanted
    }

    fn pages_of(&self, hints: &[Hint]) -> Vec<usize> {
        let holds = |hint: &Hint, page| {
            let host = self.ram.host_range(page, 1).host;
            (hint.range.host..hint.range.host + hint.range.bytes as usize).contains(&host)
        };
        let hinted = |&page: &usize| hints.iter().any(|hint| holds(hint, page));
        (0..MIGRATED).filter(hinted).collect()
    }

    /// The arming before a round is cut short, as it is in a guest that is very large.
    fn cut_arming(&mut self) {
        if let Task::Ask(wanted) = self.task {
            self.ask(wanted);
        }
    }

    /// What was armed is trusted, and the guest is asked.
    pub(crate) fn ask(&mut self, wanted: u64) {
        self.skips.trust(balloon::migration::arming::BEFORE_ROUND);
        self.task = Task::Pass;
        self.request(wanted);
    }

    pub(crate) fn request(&mut self, wanted: u64) {
        if self.broken == Broken::SecondRequest {
            self.hints.end_answer();
        }
        for _ in 0..4 {
            if self.hints.request(wanted) {
                self.seen.rounds += 1;
                return;
            }
            // The device is made to look at its queue.
            match self.broken {
                Broken::AskBeforeEmpty => self.hints.queue_empty(),
                _ => self.pop(usize::MAX),
            }
        }
        self.refused = true;
    }

    /// The next part of what the migration thread is about, when it is not just sending.
    pub(crate) fn go_on(&mut self, task: Task) {
        use balloon::migration::arming::Arm;
        let mut arm =
            |which| (0..3).any(|block| self.skips.arm(&mut self.ram, block_id(block), which));
        match task {
            Task::Pass => {}
            Task::Sync(part) => self.thread_sync(part),
            Task::Ask(wanted) => {
                if !arm(Arm::All) {
                    self.ask(wanted);
                }
            }
            Task::ArmWanted => {
                if !arm(Arm::Wanted) {
                    let late = self.broken == Broken::TrustLateArming;
                    self.skips.trust(if late { 0 } else { self.hints.epoch() });
                    self.late_arming = true;
                    self.task = Task::Pass;
                }
            }
        }
    }

    pub(crate) fn cancel(&mut self) {
        while self.main_sync.is_some() {
            self.main_sync();
        }
        self.hints.finish();
        self.unsettled = false;
        self.begin = true;
        self.phase = Phase::Idle;
        self.task = Task::Pass;
        self.destination = [None; PAGES];
        self.kept.clear();
    }
}
