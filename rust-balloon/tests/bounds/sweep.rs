// SPDX-License-Identifier: GPL-2.0-or-later
//! The sweep behind a synchronization, and the beginning of postcopy.

use virtio_balloon_rs::memory::HostRange;
use virtio_balloon_rs::migration::arming::Arm;
use virtio_balloon_rs::migration::skips::{Announced, DirtyChange, Hint, Skips};
use virtio_balloon_rs::migration::sweep::STEP_WORDS;

use crate::guest::{BLOCK, GIB, Guest, HOST, SIZES, WORST, Word};

/// A step goes past its bound by a part of 512 words at most.
const MOST_WORDS: u64 = STEP_WORDS as u64 + 512;

/// Each step keeps to the bound, and there are about as many as it takes: fewer would be longer
/// ones, and with more of them a migration would not come to its end.
fn are_bounded(what: &str, words: u64, steps: &[DirtyChange]) {
    for step in steps {
        let bits = step.set + step.cleared;
        assert!(bits <= MOST_WORDS * 64, "{what}: {bits} bits in a step");
    }
    let (fewest, most) = (words / MOST_WORDS, words * 9 / 8 / STEP_WORDS as u64 + 2);
    let count = steps.len() as u64;
    assert!((fewest..=most).contains(&count), "{what}: {count} steps");
}

/// All sets in a guest of 64 GiB, and in one of 1 TiB that with the most words and the most runs.
fn cases() -> impl Iterator<Item = (u64, &'static str, Word)> {
    let [small, large] = SIZES;
    let all = WORST.map(|(name, word)| (small, name, word));
    let (name, word) = WORST[0];
    all.into_iter().chain([(large, name, word)])
}

#[test]
fn a_sweep_is_done_in_steps() {
    for (gib, name, word) in cases() {
        let what = format!("{gib} GiB, {name}");
        // The guest does not see the block where a word of a bitmap begins.
        let first = (1 << 20) + 7;
        let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
        let memory = guest.memory(first);
        let balloon = guest.balloon(first, word);
        let words = guest.words();
        // All is left out, stays so, and is put back.
        let steps = guest.sweep(&mut skips, Some((&balloon, &memory)));
        are_bounded(&what, words, &steps);
        let cleared: u64 = steps.iter().map(|step| step.cleared).sum();
        assert_eq!(cleared, balloon.count(), "{what}");
        for number in 0..words {
            assert_eq!(guest.dirty[number as usize], !word(number), "{what}");
        }
        guest.dirty.fill(0);
        let steps = guest.sweep(&mut skips, Some((&balloon, &memory)));
        are_bounded(&what, words, &steps);
        assert!(steps.iter().all(|step| *step == DirtyChange::default()));
        let steps = guest.sweep(&mut skips, None);
        are_bounded(&what, words, &steps);
        let set: u64 = steps.iter().map(|step| step.set).sum();
        assert_eq!(set, balloon.count(), "{what}");
        assert_eq!(skips.counters().ballooned_left_out_bytes, 0, "{what}");
    }
}

/// Many balloons are empty, and their migrations have nothing to wait for.
#[test]
fn nothing_takes_one_step() {
    for gib in SIZES {
        let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
        let memory = guest.memory(0);
        let balloon = guest.balloon(0, |_| 0);
        assert_eq!(guest.sweep(&mut skips, Some((&balloon, &memory))).len(), 1);
        assert_eq!(guest.sweep(&mut skips, None).len(), 1);
    }
}

/// A guest that hinted at all of its memory and used it again.
#[test]
fn what_was_hinted_is_looked_at_in_steps() {
    for gib in SIZES {
        let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
        // 256 GiB at most are armed before a guest is asked.
        let words = gib.min(256) * GIB / 64;
        hint_at_all(&mut guest, &mut skips, gib);
        assert_eq!(guest.dirty[0], 0);
        guest.dirty.fill(u64::MAX);
        let steps = guest.sweep(&mut skips, None);
        are_bounded("hinted", words, &steps);
        assert_eq!(skips.counters().hint_left_out_bytes, 0);
    }
}

fn hint_at_all(guest: &mut Guest, skips: &mut Skips, gib: u64) {
    guest.sweep(skips, None);
    while skips.arm(guest, BLOCK, Arm::All) {}
    skips.trust(0);
    let range = HostRange {
        host: HOST,
        bytes: gib << 30,
    };
    let mut change = DirtyChange::default();
    skips.leave_out_hinted(guest, &[Hint { range, epoch: 1 }], &mut change);
    let armed = gib.min(256) * GIB;
    assert_eq!(change.cleared, armed);
    assert_eq!(skips.counters().hint_left_out_bytes, armed << 12);
}

#[test]
fn postcopy_begins_in_steps() {
    for (gib, name, word) in cases() {
        let what = format!("{gib} GiB, {name}");
        let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
        let memory = guest.memory(0);
        let balloon = guest.balloon(0, word);
        guest.sweep(&mut skips, Some((&balloon, &memory)));
        let sets = loop {
            let mut change = DirtyChange::default();
            let announced = skips.postcopy(&mut guest, BLOCK, &mut change);
            assert!(change.set <= MOST_WORDS * 64, "{what}: {change:?}");
            if let Announced::All(sets) = announced {
                break sets;
            }
        };
        let left_out: u64 = sets.iter().map(|set| set.count()).sum();
        assert_eq!(left_out, balloon.count(), "{what}");
        assert!(guest.dirty.iter().all(|&word| word == u64::MAX), "{what}");
    }
}
