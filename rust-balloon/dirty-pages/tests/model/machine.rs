// SPDX-License-Identifier: GPL-2.0-or-later
//! Everybody who has to do with dirty pages, one step at a time, and all orders of their steps.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use dirty_pages::{DirtyList, DirtyOptions, Error, GRANULARITY, MACHINE, VERSION};

/// Pages that are looked at. Others fill rings.
const PAGES: usize = 2;
const VCPU: usize = 0;
const CONSUMER: usize = 0;
const MIGRATION: usize = 1;

/// One thing that one of them does, of which the others see nothing or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The guest writes. KVM puts the page into its ring if it is protected, and lets further
    /// writes pass.
    GuestWrites(usize),
    DeviceWrites(usize),
    /// Of `dirty_memory`. Whoever finds it clear notes the page next.
    SetBit(usize, usize),
    SetBitLate(usize),
    Note(usize, usize),
    /// The reaper takes what is in KVM's ring.
    Collect,
    /// `KVM_RESET_DIRTY_RINGS`
    Protect([bool; PAGES]),
    /// The consumer starts its list, and copies everything.
    Start,
    Fetch,
    FetchUntilEmpty,
    ClearBit(usize),
    Copy(usize, usize),
    SyncBegin,
    SyncFetch {
        listed: bool,
    },
    /// The bit of a page goes to the migration's bitmap.
    Scan(usize),
    SetToSend(usize),
    Send(usize),
    /// The end of what is done under the big lock.
    Release,
}

/// What changes a list; the rest of a state can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Start,
    Note(usize, usize),
    Fetch,
    SyncBegin,
    SyncFetch,
}

/// Ways to do it that lose writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    None,
    /// Pages are made known before they are protected.
    KnownBeforeProtected,
    /// The consumer reads a page before it clears the bit.
    CopyBeforeClear,
    /// The migration clears the bit when it has sent the page.
    SendBeforeClear,
    /// The note comes before the bit that it stands for.
    NoteBeforeBit,
    /// A start that does not look at the bits that are set.
    StartWithoutLooking,
    /// The migration synchronizes between a fetch of the consumer and its clearing of the bits.
    NoLock,
}

impl Step {
    /// Whether QEMU's big lock is taken for this and what comes next.
    fn locks(self) -> bool {
        let fetches = matches!(self, Step::Start | Step::Fetch | Step::FetchUntilEmpty);
        fetches || self == Step::SyncBegin
    }

    /// Whether this is about what the migration alone has, lets go, or does nothing.
    fn is_inner(self) -> bool {
        match self {
            Step::SetToSend(_) | Step::Send(_) | Step::Release => true,
            Step::Protect(pages) => pages == [false; PAGES],
            _ => false,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Course {
    pub(super) no_dups: bool,
    /// Rings have room for one page yet, or none, when a list is started.
    pub(super) full: bool,
    pub(super) guest: &'static [usize],
    pub(super) device: &'static [usize],
    pub(super) reaps: usize,
    pub(super) consumer: &'static [Step],
    pub(super) syncs: usize,
    pub(super) mistake: Mistake,
}

impl Course {
    /// Whether the one whose plan this is takes part.
    fn has(&self, who: usize) -> bool {
        match who {
            3 => !self.consumer.is_empty(),
            4 => self.syncs > 0,
            _ => true,
        }
    }

    /// Those that anybody writes to.
    fn pages(&self) -> Range<usize> {
        let last = self.guest.iter().chain(self.device).max();
        0..last.map_or(0, |last| last + 1)
    }
}

#[derive(Clone, Hash)]
struct State {
    memory: [u8; PAGES],
    /// A page whose writes KVM does not see.
    writable: [bool; PAGES],
    ring: Vec<usize>,
    bits: [bool; PAGES],
    is_locked: bool,
    to_send: [bool; PAGES],
    copies: [[u8; PAGES]; 2],
    /// What each of them has still to do.
    plans: [VecDeque<Step>; 5],
    /// What was done with the lists, as a place in `Explorer::known`.
    lists: usize,
}

/// Real pages that came of a call.
type Answer = Result<Vec<usize>, Error>;

/// What comes of calls after others.
#[derive(Default)]
struct Known {
    /// All calls until here.
    calls: Vec<Call>,
    answers: HashMap<Call, (Answer, usize)>,
}

pub(super) struct Explorer {
    course: Course,
    list: DirtyList,
    /// A tree: the same calls in the same order have the same answers, and need not be made again.
    known: Vec<Known>,
    /// What was done with `list`.
    calls: Vec<Call>,
    seen: HashSet<u64>,
    path: Vec<Step>,
}

fn repeat(step: Step, times: usize) -> VecDeque<Step> {
    std::iter::repeat_n(step, times).collect()
}

impl Explorer {
    fn new(course: Course) -> Explorer {
        let options = DirtyOptions {
            version: VERSION,
            no_dups: course.no_dups,
            max_dirty: GRANULARITY,
            dirty_trigger: 0,
            vcpus: 1,
        };
        let list = DirtyList::new(options).unwrap();
        let explorer = Explorer {
            course,
            list,
            known: vec![Known::default()],
            calls: Vec::new(),
            seen: HashSet::new(),
            path: Vec::new(),
        };
        explorer.begin();
        explorer
    }

    /// A path on which the copies differ from the memory, if there is one, and how many states
    /// there are.
    pub(super) fn explore(course: Course) -> Result<usize, Vec<Step>> {
        let mut explorer = Explorer::new(course);
        let writes = |pages: &[usize], step: fn(usize) -> Step| {
            pages.iter().copied().map(step).collect::<VecDeque<_>>()
        };
        let start = State {
            memory: [0; PAGES],
            writable: [false; PAGES],
            ring: Vec::new(),
            bits: [false; PAGES],
            is_locked: false,
            // A migration has all to send when it begins.
            to_send: [true; PAGES],
            copies: [[0; PAGES]; 2],
            plans: [
                writes(course.guest, Step::GuestWrites),
                writes(course.device, Step::DeviceWrites),
                repeat(Step::Collect, course.reaps),
                course.consumer.iter().copied().collect(),
                repeat(Step::SyncBegin, course.syncs),
            ],
            lists: 0,
        };
        explorer.visit(&start)?;
        Ok(explorer.seen.len())
    }

    fn visit(&mut self, state: &State) -> Result<(), Vec<Step>> {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return Ok(());
        }
        for who in 0..state.plans.len() {
            let mut next = state.clone();
            let Some(step) = next.plans[who].pop_front() else {
                continue;
            };
            if state.is_locked && step.locks() {
                continue;
            }
            let length = self.path.len();
            self.step(&mut next, who, step);
            // What nobody else can see needs no moment of its own.
            while next.plans[who].front().is_some_and(|step| step.is_inner()) {
                if let Some(step) = next.plans[who].pop_front() {
                    self.step(&mut next, who, step);
                }
            }
            self.visit(&next)?;
            self.path.truncate(length);
        }
        if state.plans.iter().all(VecDeque::is_empty) {
            self.end(state.clone())?;
        }
        Ok(())
    }

    /// Nobody writes any more; everybody looks once more.
    fn end(&mut self, state: State) -> Result<(), Vec<Step>> {
        let length = self.path.len();
        let reaper = (2, Step::Collect);
        let consumer = (3, Step::FetchUntilEmpty);
        let migration = (4, Step::SyncBegin);
        // Neither relies on the other.
        for order in [[reaper, consumer, migration], [reaper, migration, consumer]] {
            let mut state = state.clone();
            for (who, step) in order {
                if !self.course.has(who) {
                    continue;
                }
                state.plans[who].push_back(step);
                while let Some(step) = state.plans[who].pop_front() {
                    self.step(&mut state, who, step);
                }
            }
            for (copy, who) in [(CONSUMER, 3), (MIGRATION, 4)] {
                if self.course.has(who) && state.copies[copy] != state.memory {
                    return Err(self.path.clone());
                }
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn step(&mut self, state: &mut State, who: usize, step: Step) {
        let mistake = self.course.mistake;
        let mut then = Vec::new();
        self.path.push(step);
        state.is_locked |= step.locks() && mistake != Mistake::NoLock;
        match step {
            Step::GuestWrites(page) => {
                state.memory[page] += 1;
                if !state.writable[page] {
                    state.writable[page] = true;
                    state.ring.push(page);
                }
            }
            Step::DeviceWrites(page) => {
                state.memory[page] += 1;
                then.push(Step::SetBit(MACHINE, page));
            }
            Step::SetBit(_, page) if state.bits[page] => {}
            Step::SetBit(vcpu, page) if mistake == Mistake::NoteBeforeBit => {
                then.extend([Step::Note(vcpu, page), Step::SetBitLate(page)]);
            }
            Step::SetBit(vcpu, page) => {
                state.bits[page] = true;
                then.push(Step::Note(vcpu, page));
            }
            Step::SetBitLate(page) => state.bits[page] = true,
            Step::Note(vcpu, page) => {
                self.call(state, Call::Note(vcpu, page)).unwrap();
            }
            Step::Collect => {
                let pages = std::mem::take(&mut state.ring);
                let protect = Step::Protect(std::array::from_fn(|page| pages.contains(&page)));
                then.extend(pages.into_iter().map(|page| Step::SetBit(VCPU, page)));
                if mistake == Mistake::KnownBeforeProtected {
                    then.push(protect);
                } else {
                    then.insert(0, protect);
                }
            }
            Step::Protect(pages) => {
                for (page, is_writable) in state.writable.iter_mut().enumerate() {
                    *is_writable &= !pages[page];
                }
            }
            Step::Start => {
                self.call(state, Call::Start).unwrap();
                then = match mistake {
                    Mistake::StartWithoutLooking => vec![Step::Release],
                    _ => self.take(&self.course.pages().collect::<Vec<_>>()),
                };
            }
            Step::Fetch | Step::FetchUntilEmpty => match self.call(state, Call::Fetch) {
                Ok(pages) => {
                    then = self.take(&pages);
                    if step == Step::FetchUntilEmpty && !pages.is_empty() {
                        then.push(step);
                    }
                }
                Err(Error::Overflow) if !self.course.no_dups => {
                    then = vec![Step::Release, Step::Start];
                }
                Err(error) => panic!("{error}"),
            },
            Step::Release => state.is_locked = false,
            Step::ClearBit(page) => state.bits[page] = false,
            Step::Copy(copy, page) => state.copies[copy][page] = state.memory[page],
            Step::SyncBegin => {
                let listed = self
                    .call(state, Call::SyncBegin)
                    .is_ok_and(|pages| pages.is_empty());
                then.push(Step::SyncFetch { listed });
            }
            Step::SyncFetch { listed } => {
                let pages = self.call(state, Call::SyncFetch).unwrap();
                for &page in &pages {
                    then.extend(match mistake {
                        Mistake::SendBeforeClear => {
                            [Step::Copy(MIGRATION, page), Step::ClearBit(page)]
                        }
                        _ => [Step::SetToSend(page), Step::ClearBit(page)],
                    });
                }
                if !pages.is_empty() {
                    then.push(step);
                } else {
                    if !listed {
                        then.extend(self.course.pages().map(Step::Scan));
                    }
                    then.push(Step::Release);
                    then.extend(self.course.pages().map(Step::Send));
                }
            }
            Step::Scan(page) => {
                if std::mem::take(&mut state.bits[page]) {
                    then.push(Step::SetToSend(page));
                }
            }
            Step::SetToSend(page) => state.to_send[page] = true,
            Step::Send(page) => {
                if std::mem::take(&mut state.to_send[page]) {
                    then.push(Step::Copy(MIGRATION, page));
                }
            }
        }
        for step in then.into_iter().rev() {
            state.plans[who].push_front(step);
        }
    }

    /// What the consumer does with pages: all bits are cleared before the first page is read.
    fn take(&self, pages: &[usize]) -> Vec<Step> {
        let clear = pages.iter().map(|&page| Step::ClearBit(page));
        let read = pages.iter().map(|&page| Step::Copy(CONSUMER, page));
        let release = [Step::Release];
        if self.course.mistake == Mistake::CopyBeforeClear {
            read.chain(clear).chain(release).collect()
        } else {
            clear.chain(release).chain(read).collect()
        }
    }

    /// Calls the lists as they are in `state`.
    fn call(&mut self, state: &mut State, call: Call) -> Answer {
        let known = &self.known[state.lists];
        if let Some((answer, next)) = known.answers.get(&call) {
            state.lists = *next;
            return answer.clone();
        }
        if !known.calls.starts_with(&self.calls) {
            self.calls.clear();
            self.begin();
        }
        let mut calls = self.known[state.lists].calls.clone();
        for &call in &calls[self.calls.len()..] {
            let _answer = self.carry_out(call);
        }
        let answer = self.carry_out(call);
        calls.push(call);
        self.calls.clone_from(&calls);
        let next = self.known.len();
        let answers = &mut self.known[state.lists].answers;
        answers.insert(call, (answer.clone(), next));
        state.lists = next;
        self.known.push(Known {
            calls,
            ..Known::default()
        });
        answer
    }

    /// As new: everything that was on the lists is forgotten.
    fn begin(&self) {
        self.list.stop();
        self.list.sync_end();
        if self.course.has(3) && !self.course.consumer.contains(&Step::Start) {
            self.list.start().unwrap();
            self.fill(1 << 20);
        }
    }

    /// Leaves room for one page in the virtual CPU's ring of each list that is active, for none in
    /// the machine's.
    fn fill(&self, from: u64) {
        if !self.course.full {
            return;
        }
        for (vcpu, first, last) in [(VCPU, from, u64::MAX >> 1), (MACHINE, from + 256, u64::MAX)] {
            for (word, bits) in [u64::MAX, u64::MAX, u64::MAX, last].into_iter().enumerate() {
                self.list.note(vcpu, first + word as u64 * 64, bits);
            }
        }
    }

    fn carry_out(&self, call: Call) -> Answer {
        // More than there can be, with all that fills rings.
        let mut out = [0; 16 * GRANULARITY];
        let count = match call {
            Call::Start => {
                self.list.stop();
                self.list.start().unwrap();
                self.fill(1 << 20);
                0
            }
            Call::Note(vcpu, page) => {
                self.list.note(vcpu, page as u64, 1);
                0
            }
            Call::Fetch => self.list.fetch(&mut out)?,
            Call::SyncBegin if self.list.sync_begin() => 0,
            Call::SyncBegin => {
                self.fill(1 << 21);
                return Err(Error::Inactive);
            }
            Call::SyncFetch => self.list.sync_fetch(&mut out)?,
        };
        let pages = out[..count].iter().map(|&page| page as usize);
        Ok(pages.filter(|&page| page < PAGES).collect())
    }
}
