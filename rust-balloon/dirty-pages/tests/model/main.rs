// SPDX-License-Identifier: GPL-2.0-or-later
//! Dirty lists in a machine that is tried out in every order: no write is missing in either copy.
//!
//! A guest writes, KVM keeps a ring of what it wrote, a reaper makes that known, a device writes
//! beside it. A consumer and a migration each make a copy of the memory. All of them do one step at
//! a time, and each order of their steps is gone through. In the end the guest stops, everybody
//! looks once more, and both copies are what the guest has.

mod machine;

use machine::{Course, Explorer, Mistake, Step};

const COURSE: Course = Course {
    no_dups: true,
    full: false,
    guest: &[],
    device: &[],
    reaps: 0,
    consumer: &[],
    syncs: 0,
    mistake: Mistake::None,
};

/// With NO_DUPS and without, with room and without.
const VARIANTS: [(bool, bool); 4] = [(true, false), (true, true), (false, false), (false, true)];

fn complete(course: Course, variants: &[(bool, bool)]) {
    for &(no_dups, full) in variants {
        let course = Course {
            no_dups,
            full,
            ..course
        };
        match Explorer::explore(course) {
            Ok(states) => println!("{states} states"),
            Err(path) => panic!("a write is missing in a copy after {path:?}"),
        }
    }
}

#[test]
fn a_consumer_misses_no_write() {
    let course = Course {
        guest: &[0, 1, 0],
        device: &[0],
        reaps: 2,
        consumer: &[Step::Fetch, Step::Fetch],
        ..COURSE
    };
    complete(course, &VARIANTS);
}

#[test]
fn a_start_misses_no_write() {
    let course = Course {
        guest: &[0, 0],
        device: &[0, 0],
        reaps: 2,
        consumer: &[Step::Start, Step::Fetch],
        ..COURSE
    };
    complete(course, &VARIANTS);
}

#[test]
fn a_migration_misses_no_write() {
    let with_guest = Course {
        guest: &[0, 1, 0],
        reaps: 2,
        syncs: 2,
        ..COURSE
    };
    let with_all = Course {
        guest: &[0, 0],
        device: &[0],
        ..with_guest
    };
    complete(with_guest, &VARIANTS);
    complete(with_all, &VARIANTS);
}

/// Of the pages that the consumer takes the migration is told.
#[test]
fn both_at_the_same_time_miss_no_write() {
    let with_guest = Course {
        guest: &[0, 0],
        reaps: 2,
        consumer: &[Step::Fetch],
        syncs: 2,
        ..COURSE
    };
    let with_devices = Course {
        device: &[0, 0],
        consumer: &[Step::Fetch, Step::Fetch],
        syncs: 2,
        ..COURSE
    };
    let with_all = Course {
        device: &[0],
        ..with_guest
    };
    for course in [with_guest, with_devices, with_all] {
        // Without marks a list that overflows is started anew, which is refused during a migration:
        // below.
        complete(course, &VARIANTS[..3]);
    }
}

/// The model sees what it is there for.
#[test]
fn every_mistake_is_found() {
    let course = Course {
        guest: &[0, 0],
        device: &[0, 0],
        reaps: 2,
        consumer: &[Step::Fetch],
        ..COURSE
    };
    let migration = Course {
        consumer: &[],
        syncs: 2,
        ..course
    };
    let start = Course {
        device: &[0],
        consumer: &[Step::Start],
        ..COURSE
    };
    let restart = Course {
        no_dups: false,
        full: true,
        guest: &[0, 0],
        device: &[],
        syncs: 2,
        ..course
    };
    let two_devices = Course {
        full: true,
        device: &[0, 0],
        consumer: &[Step::Fetch, Step::Fetch],
        syncs: 2,
        ..COURSE
    };
    let mistakes = [
        (course, Mistake::KnownBeforeProtected),
        (migration, Mistake::KnownBeforeProtected),
        (course, Mistake::CopyBeforeClear),
        (migration, Mistake::SendBeforeClear),
        (course, Mistake::NoteBeforeBit),
        (start, Mistake::StartWithoutLooking),
        (restart, Mistake::None),
        (two_devices, Mistake::NoLock),
    ];
    for (number, (course, mistake)) in mistakes.into_iter().enumerate() {
        let course = Course { mistake, ..course };
        let path = Explorer::explore(course).expect_err(&format!("mistake {number}"));
        println!("{mistake:?}: {path:?}");
    }
}
