// SPDX-License-Identifier: GPL-2.0-or-later
//! Every state of a round of hints with everything that can happen to it.

use HintState::{Arming, Done, Off, Requested, Started, Stop};
use balloon::features::FreePageSource;
use balloon::memory::HostRange;
use balloon::queue::hint::{HintRecord, HintState, Hints, MAX_TAKEN, MAX_TAKEN_HINTS};
use balloon::wire::{ByteOrder, HINT_DONE, HINT_ID_MIN, HINT_STOP};

const STATES: [HintState; 6] = [Off, Stop, Arming, Requested, Started, Done];
const FIRST: u32 = HINT_ID_MIN + 1;

fn id(hints: &mut Hints, id: u32) {
    hints.receive_id(&id.to_le_bytes(), ByteOrder::Little);
}

fn hint(hints: &mut Hints, page: usize, pages: u64) {
    hints.receive_hint(HostRange {
        host: page << 12,
        bytes: pages << 12,
    });
}

fn ask(hints: &mut Hints) {
    hints.after_sync(true);
    let wanted = hints.wanted();
    assert!(request(hints, wanted));
}

/// Asks for a round, with a queue that turns out to be empty.
fn request(hints: &mut Hints, wanted: u64) -> bool {
    for _ in 0..2 {
        assert!(
            !hints.request(wanted),
            "something may still be in the queue"
        );
        hints.queue_empty();
    }
    hints.request(wanted)
}

/// Hints in `state`, with one pending where there can be.
fn in_state(state: HintState) -> Hints {
    let mut hints = Hints::default();
    if state != Off {
        hints.set_source(FreePageSource::FreePageHint);
    }
    match state {
        Off | Stop => {}
        Arming => hints.after_sync(true),
        Requested => ask(&mut hints),
        Started => {
            ask(&mut hints);
            id(&mut hints, FIRST);
            hint(&mut hints, 1, 1);
        }
        Done => hints.after_sync(false),
    }
    assert_eq!(hints.state(), state);
    hints
}

/// What each state becomes by an event, in the order of `STATES`.
fn becomes(event: impl Fn(&mut Hints), expected: [HintState; 6]) {
    for (from, to) in STATES.into_iter().zip(expected) {
        let mut hints = in_state(from);
        event(&mut hints);
        assert_eq!(hints.state(), to, "from {from:?}");
        let shown = match to {
            Off | Stop | Arming => HINT_STOP,
            Requested | Started => hints.save().cmd_id,
            Done => HINT_DONE,
        };
        assert_eq!(hints.shown_id(), shown, "from {from:?}");
    }
}

#[test]
fn every_state_and_every_event() {
    let same = STATES;
    becomes(
        |hints| hints.set_source(FreePageSource::FreePageHint),
        [Stop, Stop, Arming, Requested, Started, Done],
    );
    becomes(|hints| hints.set_source(FreePageSource::None), [Off; 6]);
    becomes(Hints::reset, [Off; 6]);
    becomes(Hints::before_sync, [Off, Stop, Stop, Stop, Stop, Done]);
    becomes(
        |hints| hints.after_sync(true),
        [Off, Arming, Arming, Arming, Arming, Arming],
    );
    becomes(
        |hints| hints.after_sync(false),
        [Off, Done, Done, Done, Done, Done],
    );
    becomes(Hints::finish, [Off, Done, Done, Done, Done, Done]);
    becomes(Hints::queue_empty, same);
    becomes(|hints| hint(hints, 5, 1), same);
    becomes(
        |hints| {
            let wanted = hints.wanted();
            request(hints, wanted);
        },
        [Off, Stop, Requested, Requested, Started, Done],
    );
    becomes(
        |hints| {
            let wanted = hints.wanted() + 1;
            request(hints, wanted);
        },
        same,
    );
    becomes(
        |hints| id(hints, HINT_STOP),
        [Off, Stop, Arming, Requested, Stop, Done],
    );
    becomes(
        |hints| id(hints, FIRST),
        [Off, Stop, Arming, Started, Started, Done],
    );
    for other in [HINT_DONE, FIRST - 1, FIRST + 1, u32::MAX] {
        becomes(
            |hints| id(hints, other),
            [Off, Stop, Arming, Requested, Stop, Done],
        );
    }
    for length in [0, 1, 2, 3, 5, 8] {
        let bytes = [FIRST.to_le_bytes(), [0; 4]].concat();
        becomes(
            |hints| hints.receive_id(&bytes[..length], ByteOrder::Little),
            [Off, Stop, Arming, Requested, Stop, Done],
        );
    }
}

#[test]
fn hints_count_in_an_open_round_only() {
    for state in STATES {
        let mut hints = in_state(state);
        let before = hints.counters();
        hint(&mut hints, 9, 2);
        let after = hints.counters();
        let (hinted, late) = if state == Started { (2, 0) } else { (0, 2) };
        assert_eq!(
            after.hinted_bytes - before.hinted_bytes,
            hinted << 12,
            "{state:?}"
        );
        assert_eq!(
            after.late_bytes - before.late_bytes,
            late << 12,
            "{state:?}"
        );
        assert_eq!(hints.has_pending(), state == Started);
    }
}

#[test]
fn what_was_not_taken_before_a_synchronization_is_forgotten() {
    let mut hints = in_state(Started);
    hints.before_sync();
    assert!(hints.take().is_empty());
    let mut hints = in_state(Started);
    id(&mut hints, HINT_STOP);
    assert_eq!(hints.take().len(), 1, "STOP ends the round, not its hints");
}

#[test]
fn neighbours_are_merged_and_epochs_are_not() {
    let mut hints = in_state(Started);
    for page in [2, 0, 8, 7, 3] {
        hint(&mut hints, page, 1);
    }
    hints.queue_empty();
    hint(&mut hints, 4, 1);
    let taken: Vec<_> = hints
        .take()
        .into_iter()
        .map(|hint| (hint.epoch, hint.range.host >> 12, hint.range.bytes >> 12))
        .collect();
    assert_eq!(taken, [(1, 0, 4), (1, 7, 2), (2, 4, 1)]);
    assert!(!hints.has_pending());
}

#[test]
fn too_many_hints_are_refused_and_counted() {
    let mut hints = in_state(Started);
    for page in 0..80_000 {
        hint(&mut hints, 10 + 2 * page, 1);
    }
    let refused = hints.counters().refused_overflow_bytes >> 12;
    assert!(refused > 0);
    let mut taken = 0;
    while hints.has_pending() {
        let some = hints.take().len();
        assert!(some > 0 && some <= MAX_TAKEN_HINTS);
        taken += some as u64;
    }
    assert_eq!(taken + refused, 80_001);
    hint(&mut hints, 1, 1);
    assert_eq!(hints.take().len(), 1, "there is room again");
}

/// There is no time for all of them then, and to drop some is safe.
#[test]
fn what_is_not_taken_before_a_synchronization_is_counted() {
    let mut hints = in_state(Started);
    for page in 0..5000 {
        hint(&mut hints, 10 + 2 * page, 1);
    }
    let taken = hints.take().len() as u64;
    hints.before_sync();
    assert!(!hints.has_pending());
    let refused = hints.counters().refused_overflow_bytes >> 12;
    assert_eq!(taken + refused, 5001);
}

/// A guest may hint at all of a large memory at once, more than once.
#[test]
fn a_long_hint_is_taken_in_parts() {
    let mut hints = in_state(Started);
    hints.take();
    let pages = (5 * MAX_TAKEN / 2) >> 12;
    hint(&mut hints, 3, pages);
    hint(&mut hints, 1, 1);
    let mut next = 3 << 12;
    for part in 0..3 {
        let taken = hints.take();
        let (last, range) = (part == 2, taken[taken.len() - 1].range);
        assert_eq!(taken.len(), if last { 2 } else { 1 });
        assert_eq!(range.host, next);
        assert!(range.bytes <= MAX_TAKEN);
        assert!(last || range.bytes > MAX_TAKEN - (2 << 20));
        next = range.host + range.bytes as usize;
        assert!(
            last || next.is_multiple_of(2 << 20),
            "pages are cut nowhere"
        );
    }
    assert_eq!(next as u64 >> 12, 3 + pages);
    assert!(!hints.has_pending());
}

#[test]
fn ids_start_over_only_when_none_is_owed() {
    let last = HintRecord {
        cmd_id: u32::MAX,
        status: 2,
    };
    let mut hints = in_state(Stop);
    hints.load(last).expect("a state that can be");
    hints.after_sync(true);
    let wanted = hints.wanted();
    assert!(!request(&mut hints, wanted), "the guest may still answer");
    assert_eq!((hints.state(), hints.shown_id()), (Stop, HINT_STOP));
    id(&mut hints, HINT_STOP);
    ask(&mut hints);
    assert_eq!(hints.shown_id(), HINT_ID_MIN);
}

#[test]
fn streams_that_cannot_be_change_nothing() {
    for (cmd_id, status) in [
        (0, 0),
        (HINT_ID_MIN - 1, 3),
        (HINT_ID_MIN, 4),
        (FIRST, u32::MAX),
    ] {
        for state in STATES {
            let mut hints = in_state(state);
            let before = (hints.save(), hints.has_pending());
            assert!(hints.load(HintRecord { cmd_id, status }).is_err());
            assert_eq!((hints.save(), hints.has_pending()), before);
        }
    }
    for (status, state) in [(0, Stop), (1, Done), (2, Done), (3, Done)] {
        let mut hints = in_state(Stop);
        hints
            .load(HintRecord {
                cmd_id: FIRST,
                status,
            })
            .expect("a state that can be");
        assert_eq!(hints.state(), state);
    }
}
