// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest that frees, hints, reuses and writes pages while it migrates, against the real code that
//! leaves pages out.
//!
//! The property is the promise to the guest: what it relies on arrives as it was written last,
//! whatever the threads do in whatever order. And that of postcopy: who asks for a page gets it, and
//! no page is sent twice. Where one of the rules is broken, the model has to find out.

mod answers;
mod arming;
mod asking;
mod guest;
mod moves;
mod ram;
mod rounds;
mod seen;
mod skips;
mod syncs;
mod world;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use balloon::features::FreePageSource;

use ram::{LOGS, Log, MIGRATED, PAGES, Ram};
use seen::Seen;
use world::{Broken, Checked, Step, World};

fn step() -> impl Strategy<Value = Step> {
    let guest = prop_oneof![
        4 => (0..PAGES).prop_map(Step::Write),
        8 => (0..PAGES).prop_map(Step::WriteHeld),
        6 => (0..PAGES, 1..6usize).prop_map(|(page, count)| Step::Free(page, count)),
        8 => Just(Step::Notice),
        12 => (0..PAGES, 1..4usize).prop_map(|(page, count)| Step::Post(page, count)),
        1 => Just(Step::PostStop),
        2 => (0..PAGES).prop_map(Step::Inflate),
        2 => (0..PAGES).prop_map(Step::Deflate),
    ];
    let device = prop_oneof![
        6 => (1..4usize).prop_map(Step::Pop),
        4 => Just(Step::Pop(99)),
        2 => Just(Step::SayEmpty),
    ];
    let migration = prop_oneof![
        24 => (1..8usize).prop_map(Step::Migrate),
        5 => (1..4usize).prop_map(Step::Send),
        2 => Just(Step::SyncEarly),
        2 => Just(Step::CutArming),
        2 => (1..8usize).prop_map(Step::MainSync),
        4 => (1..1000usize).prop_map(Step::Settle),
        1 => Just(Step::Collect),
        2 => Just(Step::Reap),
        2 => Just(Step::ResetRing),
    ];
    let rare = prop_oneof![Just(Step::Cancel), Just(Step::Reset)];
    prop_oneof![60 => guest, 30 => device, 40 => migration, 1 => rare]
}

/// What happens after the switch to the destination.
fn step_after() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..PAGES).prop_map(Step::Touch),
        4 => (1..3usize).prop_map(Step::Migrate),
        3 => Just(Step::Deliver),
        1 => Just(Step::Interrupt),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let after = prop::option::of(prop::collection::vec(step_after(), 0..30));
    (prop::collection::vec(step(), 20..150), after).prop_map(|(mut steps, after)| {
        if let Some(after) = after {
            steps.push(Step::Switch);
            steps.extend(after);
        }
        steps
    })
}

fn run(log: Log, sliced: bool, broken: Broken, steps: &[Step]) -> Result<Seen, String> {
    run_over(FreePageSource::FreePageHint, log, sliced, broken, steps)
}

fn run_over(
    source: FreePageSource,
    log: Log,
    sliced: bool,
    broken: Broken,
    steps: &[Step],
) -> Result<Seen, String> {
    let mut world = World::new(source, Ram::new(log, sliced), broken);
    steps.iter().try_for_each(|step| world.step(step))?;
    world.end()?;
    Ok(world.seen)
}

/// A round that is asked for with little or none of the log armed, as in a guest that is very large.
fn late_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..PAGES).prop_map(Step::WriteHeld),
        2 => (0..PAGES, 1..3usize).prop_map(|(page, count)| Step::Free(page, count)),
        4 => (0..MIGRATED, 1..3usize).prop_map(|(page, count)| Step::Post(page, count)),
        6 => (1..4usize).prop_map(Step::Pop),
        2 => Just(Step::SayEmpty),
        6 => (1..3usize).prop_map(Step::Migrate),
        1 => Just(Step::Send(1)),
    ];
    (0..3usize, prop::collection::vec(step, 10..60)).prop_map(|(armed, steps)| {
        let mut all = vec![Step::Free(0, 8), Step::Migrate(7), Step::Settle(1 << 20)];
        all.extend([Step::Migrate(1 + armed), Step::CutArming, Step::Notice]);
        all.extend(steps);
        all
    })
}

/// A device that seldom looks at its queue, so that what is in it is old.
fn slow_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..PAGES).prop_map(Step::WriteHeld),
        4 => (0..PAGES, 1..6usize).prop_map(|(page, count)| Step::Free(page, count)),
        6 => Just(Step::Notice),
        8 => (0..MIGRATED, 1..4usize).prop_map(|(page, count)| Step::Post(page, count)),
        12 => (1..8usize).prop_map(Step::Migrate),
        3 => Just(Step::SyncEarly),
        1 => Just(Step::Pop(99)),
    ];
    prop::collection::vec(step, 20..150)
}

/// Pages that come into the balloon and leave it, up to the switch.
fn ballooning_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..PAGES, 1..6usize).prop_map(|(page, count)| Step::Free(page, count)),
        4 => (0..PAGES).prop_map(Step::Inflate),
        4 => (0..PAGES).prop_map(Step::Deflate),
        8 => (0..PAGES).prop_map(Step::Write),
        12 => (1..8usize).prop_map(Step::Migrate),
        6 => (1..4usize).prop_map(Step::Send),
        2 => (1..8usize).prop_map(Step::MainSync),
    ];
    prop::collection::vec(step, 20..100).prop_map(|mut steps| {
        steps.push(Step::Switch);
        steps
    })
}

/// Runs the same random cases each time; stops at the first that finds something.
fn explore(
    steps: impl Strategy<Value = Vec<Step>>,
    cases: u32,
    mut look: impl FnMut(&[Step]) -> Checked,
) -> Checked {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for _ in 0..cases {
        let tree = steps.new_tree(&mut runner).expect("steps");
        look(&tree.current())?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::default()
    })]

    /// With each kind of log, and with chunks that are armed at once or in slices.
    #[test]
    fn what_the_guest_relies_on_arrives(steps in steps()) {
        for log in LOGS {
            for sliced in [false, true] {
                if let Err(wrong) = run(log, sliced, Broken::No, &steps) {
                    return Err(TestCaseError::fail(format!("{log:?}, {sliced}: {wrong}")));
                }
            }
        }
    }

    /// The same where much is left in the queue when a round is over.
    #[test]
    fn what_is_left_in_the_queue_does_not_count(steps in slow_steps()) {
        for log in LOGS {
            if let Err(wrong) = run(log, false, Broken::No, &steps) {
                return Err(TestCaseError::fail(format!("{log:?}: {wrong}")));
            }
        }
    }

    /// The same where pages come into the balloon and leave it all the time.
    #[test]
    fn what_left_the_balloon_arrives(steps in ballooning_steps()) {
        for log in LOGS {
            for sliced in [false, true] {
                if let Err(wrong) = run(log, sliced, Broken::No, &steps) {
                    return Err(TestCaseError::fail(format!("{log:?}, {sliced}: {wrong}")));
                }
            }
        }
    }

    /// The same where hints come before their chunk was armed.
    #[test]
    fn a_log_that_is_armed_late_is_trusted_late(steps in late_steps()) {
        for sliced in [false, true] {
            if let Err(wrong) = run(Log::KvmManual, sliced, Broken::No, &steps) {
                return Err(TestCaseError::fail(format!("{sliced}: {wrong}")));
            }
        }
    }
}

/// The model would find nothing if nothing happened in it.
#[test]
fn everything_happens() {
    for log in LOGS {
        let mut seen = Seen::default();
        let mut late = Seen::default();
        let looked = explore(steps(), 200, |steps| {
            seen.add(run(log, false, Broken::No, steps)?);
            Ok(())
        });
        let looked = looked.and(explore(late_steps(), 100, |steps| {
            late.add(run(log, true, Broken::No, steps)?);
            Ok(())
        }));
        assert_eq!(looked, Ok(()), "{log:?}");
        assert!(seen.rounds > 50 && seen.hinted > 50, "{log:?}: {seen:?}");
        assert!(seen.hinted_in_postcopy > 5, "{log:?}: {seen:?}");
        assert!(seen.ballooned > 5 && seen.zero > 5, "{log:?}: {seen:?}");
        assert!(
            late.wanted > 5 && late.unprotected > 50,
            "{log:?}: {late:?}"
        );
    }
}

/// Within these cases a broken rule has to be found.
const CASES: u32 = 5000;

fn is_found(broken: Broken, log: Log) {
    let found = match broken {
        Broken::TrustLateArming => explore(late_steps(), CASES, |steps| {
            run(log, false, broken, steps).map(drop)
        }),
        Broken::AskBeforeEmpty => explore(slow_steps(), CASES, |steps| {
            run(log, false, broken, steps).map(drop)
        }),
        Broken::KeepDeflated => explore(ballooning_steps(), CASES, |steps| {
            run(log, false, broken, steps).map(drop)
        }),
        _ => explore(steps(), CASES, |steps| {
            run(log, false, broken, steps).map(drop)
        }),
    };
    let wrong = found.expect_err("a broken rule that does no harm");
    assert!(
        wrong.contains("and should be"),
        "{broken:?}, {log:?}: {wrong}"
    );
}

/// Only KVM's manual clearing arms the log apart from the synchronization.
#[test]
fn a_request_before_the_log_is_armed_loses_writes() {
    is_found(Broken::RequestBeforeProtect, Log::KvmManual);
}

/// What QEMU's C device does.
#[test]
fn clearing_the_log_on_a_hint_loses_writes() {
    LOGS.into_iter()
        .for_each(|log| is_found(Broken::ClearLogOnHint, log));
}

#[test]
fn applying_hints_behind_a_synchronization_loses_writes() {
    LOGS.into_iter()
        .for_each(|log| is_found(Broken::HintsAfterSync, log));
}

#[test]
fn trusting_a_chunk_that_was_armed_behind_the_hint_loses_writes() {
    is_found(Broken::TrustLateArming, Log::KvmManual);
}

/// A Linux driver's ids that are still in the queue become the new one.
#[test]
fn asking_before_the_queue_was_seen_empty_loses_writes() {
    LOGS.into_iter()
        .for_each(|log| is_found(Broken::AskBeforeEmpty, log));
}

#[test]
fn leaving_out_what_left_the_balloon_loses_writes() {
    LOGS.into_iter()
        .for_each(|log| is_found(Broken::ForgetDeflated, log));
}

/// Postcopy would announce them as zero.
#[test]
fn not_putting_back_what_left_the_balloon_loses_writes() {
    LOGS.into_iter()
        .for_each(|log| is_found(Broken::KeepDeflated, log));
}

/// A page that is written and sent between a synchronization and the sweep behind it.
#[test]
fn what_was_sent_before_the_sweep_is_not_announced_as_zero() {
    use Step::{Free, MainSync, Migrate, Notice, Pop, Post, Send, Settle, Switch, WriteHeld};
    let mut steps = vec![Migrate(15), Notice, Send(1), Free(4, 1), Post(0, 1), Pop(2)];
    steps.extend([
        Send(3),
        WriteHeld(0),
        MainSync(5),
        Send(1),
        Settle(1),
        Switch,
    ]);
    for log in LOGS {
        for sliced in [false, true] {
            let arrived = run(log, sliced, Broken::No, &steps).map(drop);
            assert_eq!(arrived, Ok(()), "{log:?}, {sliced}");
        }
    }
}
