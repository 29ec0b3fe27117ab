// SPDX-License-Identifier: GPL-2.0-or-later
//! Any course of calls, one after the other, against sets.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Step {
    Note {
        vcpu: usize,
        page: u64,
        bits: u64,
    },
    /// More than a ring has room for.
    Flood {
        vcpu: usize,
        page: u64,
        count: u64,
    },
    Fetch(usize),
    Reset,
    Stop,
    Start,
    SyncBegin,
    SyncFetch(usize),
    SyncEnd,
}

/// One list: what its reader is owed.
#[derive(Default)]
struct Expected {
    active: bool,
    started: bool,
    owed: BTreeSet<u64>,
    /// Of the migration's list: what the consumer fetched.
    fetched: BTreeSet<u64>,
    /// What of the two was there when a synchronization looked.
    looked: Option<[BTreeSet<u64>; 2]>,
    /// Notes since it was started, or lost pages.
    noted: u64,
    /// Pages were missing, which the next synchronization has to say.
    is_incomplete: bool,
    ever: BTreeSet<u64>,
}

impl Expected {
    fn start(&mut self) {
        *self = Expected {
            active: true,
            started: true,
            ..Expected::default()
        };
    }

    /// Notes a page; whether it was not owed yet.
    fn note(&mut self, page: u64) -> bool {
        self.noted += u64::from(self.active);
        self.active && self.owed.insert(page)
    }

    /// `batch` is in order, and has only what was noted at some time.
    fn synced(&mut self, batch: &[u64], is_all: bool) {
        assert!(batch.windows(2).all(|pair| pair[0] < pair[1]), "{batch:?}");
        let both = || [self.owed.clone(), self.fetched.clone()];
        let looked = self.looked.get_or_insert_with(both);
        for page in batch {
            assert!(self.ever.contains(page), "{page} was never noted");
            for set in looked.iter_mut().chain([&mut self.owed, &mut self.fetched]) {
                set.remove(page);
            }
        }
        if is_all {
            self.is_incomplete |= !looked[0].is_empty();
            assert!(looked[1].is_empty(), "{looked:?} is missing");
        }
    }

    /// `batch` is in order, and only of what is owed.
    fn took(&mut self, batch: &[u64]) {
        assert!(batch.windows(2).all(|pair| pair[0] < pair[1]), "{batch:?}");
        for page in batch {
            assert!(self.owed.remove(page), "{page} was not owed");
        }
    }
}

struct World {
    list: DirtyList,
    options: DirtyOptions,
    consumer: Expected,
    migration: Expected,
    /// Notes that each ring has room for yet; without `no_dups` what does not fit is lost.
    room: [u64; 3],
    /// Unless a part was fetched since: there is room for more then, nobody knows in which.
    is_more: bool,
    overflowed: bool,
    /// All notes, with `no_dups` those that were new.
    count: u64,
    fetched: u64,
    trigger_at: Option<u64>,
}

impl World {
    fn new(options: DirtyOptions) -> World {
        World {
            list: DirtyList::new(options).unwrap(),
            options,
            consumer: Expected::default(),
            migration: Expected::default(),
            room: [RING; 3],
            is_more: false,
            overflowed: false,
            count: 0,
            fetched: 0,
            trigger_at: None,
        }
    }

    fn note(&mut self, vcpu: usize, page: u64, bits: u64) {
        let noted = self.list.note(vcpu, page, bits);
        for page in (0..64)
            .filter(|bit| bits >> bit & 1 != 0)
            .map(|bit| page + bit)
        {
            self.migration.note(page);
            self.migration.ever.insert(page);
            let is_new = self.consumer.note(page);
            if !self.consumer.active || (self.options.no_dups && !is_new) {
                continue;
            }
            self.count += 1;
            let room = &mut self.room[vcpu.min(2)];
            self.overflowed |= *room == 0 && !self.options.no_dups;
            *room = room.saturating_sub(1);
        }
        self.overflowed &= !self.is_more || self.list.indices().overflow;
        let triggers = self.consumer.active && bits != 0 && self.triggers();
        // Only who notes a page of the consumer's can find that it was the trigger's.
        let expected = if triggers {
            Noted::Trigger
        } else {
            Noted::Done
        };
        assert_eq!(noted, expected);
    }

    fn triggers(&mut self) -> bool {
        let is_there = self.trigger_at.is_some_and(|at| self.count >= at);
        if is_there {
            self.trigger_at = None;
        }
        is_there
    }

    fn arm(&mut self, from: u64) {
        let pages = self.options.dirty_trigger as u64;
        self.trigger_at = (pages > 0).then_some(from + pages);
    }

    fn fetch(&mut self, most: usize) {
        let mut out = vec![0; most];
        let answer = self.list.fetch(&mut out);
        if !self.consumer.started {
            return assert_eq!(answer, Err(Error::Inactive));
        }
        if self.overflowed {
            return assert_eq!(answer, Err(Error::Overflow));
        }
        let batch = &out[..answer.unwrap()];
        let indices = self.list.indices();
        if self.options.no_dups {
            assert_eq!(batch.len(), most.min(self.consumer.owed.len()));
            self.consumer.took(batch);
            self.fetched += batch.len() as u64;
        } else {
            // A page may come again that was noted again before it was fetched.
            assert!(batch.windows(2).all(|pair| pair[0] < pair[1]), "{batch:?}");
            batch.iter().for_each(|page| {
                self.consumer.owed.remove(page);
            });
            self.is_more = batch.len() == most;
            if !self.is_more {
                assert_eq!(self.consumer.owed, BTreeSet::new());
                self.room = [RING; 3];
                assert_eq!(indices.fetch_index, self.count);
            }
            self.fetched = indices.fetch_index;
        }
        if self.migration.active {
            self.migration.fetched.extend(batch);
        }
    }

    fn sync_fetch(&mut self, most: usize) {
        let mut out = vec![0; most];
        let answer = self.list.sync_fetch(&mut out);
        if !self.migration.active {
            return assert_eq!(answer, Err(Error::Inactive));
        }
        let batch = &out[..answer.unwrap()];
        self.migration.synced(batch, batch.len() < most);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Note { vcpu, page, bits } => self.note(vcpu, page, bits),
            Step::Flood { vcpu, page, count } => {
                (0..count).for_each(|n| self.note(vcpu, page + n, 1));
            }
            Step::Fetch(most) => self.fetch(most),
            Step::Reset => {
                let answer = self.list.reset();
                if !self.consumer.started {
                    return assert_eq!(answer, Err(Error::Inactive));
                }
                self.arm(self.fetched);
                let triggers = self.triggers();
                assert_eq!(answer.unwrap() == Noted::Trigger, triggers);
            }
            Step::Stop => {
                self.list.stop();
                self.consumer.active = false;
            }
            Step::Start => {
                let answer = self.list.start();
                if self.consumer.active {
                    return assert_eq!(answer, Err(Error::Active));
                }
                assert_eq!(answer, Ok(()));
                self.consumer.start();
                self.room = [RING; 3];
                (self.overflowed, self.is_more) = (false, false);
                (self.count, self.fetched) = (0, 0);
                self.arm(0);
            }
            Step::SyncBegin => {
                let listed = self.list.sync_begin();
                let migration = &mut self.migration;
                if !migration.active {
                    assert!(!listed);
                    let ever = std::mem::take(&mut migration.ever);
                    migration.start();
                    migration.ever = ever;
                } else if !listed {
                    assert!(migration.noted > RING, "there was room");
                    // The caller finds them in the bitmap.
                    migration.owed.clear();
                    migration.noted = 0;
                } else {
                    assert!(!migration.is_incomplete, "pages were missing");
                }
                migration.looked = None;
                migration.is_incomplete = false;
            }
            Step::SyncFetch(most) => self.sync_fetch(most),
            Step::SyncEnd => {
                self.list.sync_end();
                self.migration.active = false;
            }
        }
        let indices = self.list.indices();
        assert_eq!(indices.active, self.consumer.active);
        assert_eq!(indices.dirty_index, self.count);
        assert_eq!(indices.fetch_index, self.fetched);
        assert_eq!(
            self.list.is_active(),
            self.consumer.active || self.migration.active
        );
        assert!(self.options.no_dups || indices.overflow == self.overflowed);
    }
}

/// Few enough to meet again, around the edges of words, chunks and tables.
fn page() -> impl Strategy<Value = u64> {
    let edge = prop_oneof![Just(0u64), Just(1 << 15), Just(1 << 28), Just(PAGES - 400)];
    (edge, 0..130u64).prop_map(|(edge, n)| (edge + n).saturating_sub(65))
}

fn bits() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(1), 2 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(0)]
}

fn most() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0usize), Just(1), 2..40usize, Just(10_000)]
}

fn step() -> impl Strategy<Value = Step> {
    let note = (0..4usize, page(), bits());
    let flood = (0..4usize, page(), 1..330u64);
    prop_oneof![
        12 => note.prop_map(|(vcpu, page, bits)| Step::Note { vcpu, page, bits }),
        2 => flood.prop_map(|(vcpu, page, count)| Step::Flood { vcpu, page, count }),
        6 => most().prop_map(Step::Fetch),
        2 => Just(Step::Reset),
        1 => Just(Step::Stop),
        2 => Just(Step::Start),
        2 => Just(Step::SyncBegin),
        4 => most().prop_map(Step::SyncFetch),
        1 => Just(Step::SyncEnd),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        // miri takes seconds for each.
        cases: if cfg!(miri) { 4 } else { 600 },
        ..ProptestConfig::default()
    })]

    #[test]
    fn lists_are_sets(
        steps in prop::collection::vec(step(), 1..60),
        no_dups: bool,
        dirty_trigger in 0..40usize,
        started: bool,
    ) {
        let mut world = World::new(DirtyOptions { no_dups, dirty_trigger, ..BASE });
        if started {
            world.step(Step::Start);
        }
        for step in steps {
            world.step(step);
        }
        world.step(Step::Fetch(100_000));
        world.step(Step::SyncBegin);
        world.step(Step::SyncFetch(100_000));
    }
}
