// SPDX-License-Identifier: GPL-2.0-or-later
//! The same guest, asked for its unused pages over the request or the misc queue.

use proptest::prelude::*;

use crate::ram::{LOGS, Log, MIGRATED, PAGES, SIZES};
use crate::seen::Seen;
use crate::world::{Broken, Checked, Step};
use crate::{explore, run_over, step_after};
use balloon::features::FreePageSource;

const SOURCES: [FreePageSource; 2] = [FreePageSource::HostRequest, FreePageSource::MiscQueue];

fn step() -> impl Strategy<Value = Step> {
    let guest = prop_oneof![
        4 => (0..PAGES).prop_map(Step::Write),
        8 => (0..PAGES).prop_map(Step::WriteHeld),
        6 => (0..PAGES, 1..6usize).prop_map(|(page, count)| Step::Free(page, count)),
        10 => Just(Step::Notice),
        12 => (0..MIGRATED, 1..4usize).prop_map(|(page, count)| Step::Post(page, count)),
        8 => Just(Step::Submit),
        3 => Just(Step::PostStop),
        4 => Just(Step::OfferBuffer),
        1 => (0..PAGES).prop_map(Step::Inflate),
        1 => (0..PAGES).prop_map(Step::Deflate),
    ];
    let device = prop_oneof![
        12 => Just(Step::Pop(99)),
        4 => (1..6usize).prop_map(Step::Pop),
        2 => Just(Step::SayEmpty),
    ];
    let migration = prop_oneof![
        20 => (1..8usize).prop_map(Step::Migrate),
        2 => (1..4usize).prop_map(Step::Send),
        5 => Just(Step::SyncEarly),
        1 => Just(Step::CutArming),
        1 => (1..8usize).prop_map(Step::MainSync),
        1 => Just(Step::Collect),
        1 => Just(Step::Reap),
        1 => Just(Step::ResetRing),
    ];
    let rare = prop_oneof![
        1 => Just(Step::Cancel),
        1 => Just(Step::Reset),
        2 => Just(Step::ResetQueue),
        2 => Just(Step::GiveBack),
        2 => Just(Step::Move),
    ];
    prop_oneof![60 => guest, 30 => device, 30 => migration, 2 => rare]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let after = prop::option::of(prop::collection::vec(step_after(), 0..30));
    (prop::collection::vec(step(), 20..200), after).prop_map(|(mut steps, after)| {
        if let Some(after) = after {
            steps.push(Step::Switch);
            steps.extend(after);
        }
        steps
    })
}

/// The guest was asked with little or none of the log armed, as one that is very large. Pages of one
/// block.
fn late_steps() -> impl Strategy<Value = Vec<Step>> {
    let page = || 0..SIZES[0];
    let step = prop_oneof![
        4 => page().prop_map(Step::WriteHeld),
        1 => page().prop_map(|page| Step::Free(page, 1)),
        5 => page().prop_map(|page| Step::Post(page, 1)),
        4 => Just(Step::Submit),
        5 => Just(Step::Pop(99)),
        2 => Just(Step::SayEmpty),
        6 => (1..4usize).prop_map(Step::Migrate),
    ];
    (0..3usize, prop::collection::vec(step, 20..60)).prop_map(|(armed, steps)| {
        let mut all = vec![Step::Free(0, 8), Step::Pop(9), Step::Migrate(8 + armed)];
        all.extend([Step::CutArming, Step::Pop(9), Step::Notice]);
        all.extend(steps);
        all
    })
}

/// A driver that takes long to answer, and offers its buffer early.
fn slow_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..PAGES).prop_map(Step::WriteHeld),
        4 => (0..PAGES, 1..6usize).prop_map(|(page, count)| Step::Free(page, count)),
        6 => Just(Step::Notice),
        10 => (0..MIGRATED, 1..4usize).prop_map(|(page, count)| Step::Post(page, count)),
        5 => Just(Step::Submit),
        1 => Just(Step::PostStop),
        6 => Just(Step::OfferBuffer),
        10 => Just(Step::Pop(99)),
        14 => (1..8usize).prop_map(Step::Migrate),
        5 => Just(Step::SyncEarly),
        1 => Just(Step::GiveBack),
        1 => Just(Step::Move),
    ];
    prop::collection::vec(step, 20..150).prop_map(|steps| {
        let mut all = vec![Step::Free(0, PAGES), Step::Pop(9)];
        all.extend(steps);
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::default()
    })]

    /// With each kind of log, and with chunks that are armed at once or in slices.
    #[test]
    fn what_a_guest_that_is_asked_relies_on_arrives(steps in steps()) {
        for source in SOURCES {
            for (log, sliced) in LOGS.into_iter().flat_map(|log| [(log, false), (log, true)]) {
                if let Err(wrong) = run_over(source, log, sliced, Broken::No, &steps) {
                    let found = format!("{source:?}, {log:?}, {sliced}: {wrong}");
                    return Err(TestCaseError::fail(found));
                }
            }
        }
    }

    /// What belongs to one request is never taken for the next one's, here or where the machine moves.
    #[test]
    fn an_answer_that_takes_long_does_not_count_for_the_next(steps in slow_steps()) {
        for source in SOURCES {
            for log in LOGS {
                if let Err(wrong) = run_over(source, log, false, Broken::No, &steps) {
                    return Err(TestCaseError::fail(format!("{source:?}, {log:?}: {wrong}")));
                }
            }
        }
    }

    /// A page may have been in use again long before its name was sent: only a log that was armed
    /// before the guest was asked tells.
    #[test]
    fn an_answer_does_not_count_where_the_log_was_armed_later(steps in late_steps()) {
        for source in SOURCES {
            for sliced in [false, true] {
                if let Err(wrong) = run_over(source, Log::KvmManual, sliced, Broken::No, &steps) {
                    let found = format!("{source:?}, {sliced}: {wrong}");
                    return Err(TestCaseError::fail(found));
                }
            }
        }
    }
}

fn see(source: FreePageSource, log: Log, broken: Broken, cases: u32) -> (Seen, Checked) {
    let mut seen = Seen::default();
    let looked = explore(steps(), cases, |steps| {
        seen.add(run_over(source, log, false, broken, steps)?);
        Ok(())
    });
    (seen, looked)
}

/// The model would find nothing if nothing happened in it.
#[test]
fn everything_happens_to_a_guest_that_is_asked() {
    for source in SOURCES {
        for log in LOGS {
            let (seen, looked) = see(source, log, Broken::No, 400);
            assert_eq!(looked, Ok(()), "{source:?}, {log:?}");
            let about = format!("{source:?}, {log:?}: {seen:?}");
            assert!(seen.rounds > 200 && seen.hinted > 40, "{about}");
            assert!(seen.hinted_in_postcopy > 5 && seen.moved > 40, "{about}");
        }
    }
}

/// Within these cases a broken rule has to be found.
const CASES: u32 = 5000;

fn is_found(source: FreePageSource, log: Log, broken: Broken) {
    let (_, found) = see(source, log, broken, CASES);
    let wrong = found.expect_err("a broken rule that does no harm");
    assert!(
        wrong.contains("and should be"),
        "{source:?}, {broken:?}, {log:?}: {wrong}"
    );
}

#[test]
fn a_request_before_the_log_is_armed_loses_writes() {
    for source in SOURCES {
        is_found(source, Log::KvmManual, Broken::RequestBeforeProtect);
    }
}

#[test]
fn answers_behind_a_synchronization_lose_writes() {
    for source in SOURCES {
        for log in LOGS {
            is_found(source, log, Broken::HintsAfterSync);
        }
    }
}

/// Nothing in the misc queue says which request an answer belongs to.
#[test]
fn a_second_request_before_the_answer_is_over_loses_writes() {
    for log in LOGS {
        is_found(FreePageSource::MiscQueue, log, Broken::SecondRequest);
    }
}

/// Where answers have ids, the old one is known by its own.
#[test]
fn ids_tell_the_answers_of_two_requests_apart() {
    for log in LOGS {
        let (seen, looked) = see(FreePageSource::HostRequest, log, Broken::SecondRequest, 500);
        assert_eq!(looked, Ok(()), "{log:?}");
        assert!(seen.rounds > 500, "{log:?}: {seen:?}");
    }
}
