// SPDX-License-Identifier: GPL-2.0-or-later
//! The sweep behind a synchronization, and the beginning of postcopy.

use balloon::memory::{HostRange, MemoryMap};
use balloon::migration::arming::Arm;
use balloon::migration::skips::{Announced, DirtyChange, Hint, Skips};
use balloon::migration::sweep::{
    Ballooned, CHANGED_PART_WORDS, CHANGED_WORDS, FREED_WORDS, STEP_WORDS,
};
use sparse_bitmap::SparseBitmap;

use crate::guest::{BLOCK, GIB, Guest, HOST, SIZES, WORST, Word, random};
use crate::pieces;

/// A step goes past its bound by a part of 512 words at most.
const PART: u64 = 512;
const MOST_WORDS: u64 = STEP_WORDS as u64 + PART;
/// What a part costs of which all words change.
const CHANGED_PART: u64 = PART * (1 + CHANGED_WORDS as u64) + CHANGED_PART_WORDS as u64;
/// Bits that a step may change.
const MOST_BITS: u64 = (STEP_WORDS as u64 / CHANGED_PART + 1) * PART * 64;

/// Pieces of the memory of sets that a step may free, and a few lists besides.
const MOST_FREED: u64 = (STEP_WORDS / FREED_WORDS) as u64 + FEW;
const FEW: u64 = 32;

/// A sweep to its end, with these pages in the balloon; returns what each step changed.
pub(crate) fn sweep(
    guest: &mut Guest,
    skips: &mut Skips,
    balloon: Option<(&SparseBitmap, &MemoryMap)>,
) -> Vec<DirtyChange> {
    let balloon = balloon.map(|(pages, memory)| Ballooned { pages, memory });
    guest.synced(skips);
    let mut steps = Vec::new();
    loop {
        let mut change = DirtyChange::default();
        let more = skips.sweep(guest, balloon.as_ref(), &mut change);
        steps.push(change);
        if !more {
            return steps;
        }
    }
}

/// With `changes` the words may all be others behind it than before. Each step keeps to the bound,
/// and there are about as many as it takes: fewer would be longer ones, and with more of them a
/// migration would not come to its end.
fn are_bounded(what: &str, words: u64, changes: bool, steps: &[DirtyChange]) {
    for step in steps {
        let bits = step.set + step.cleared;
        assert!(bits <= MOST_BITS, "{what}: {bits} bits in a step");
    }
    let price = if changes { CHANGED_PART } else { PART };
    let cost = words * 9 / 8 * price / PART;
    let (fewest, most) = (words / MOST_WORDS, cost / STEP_WORDS as u64 + 2);
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
        let steps = sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
        are_bounded(&what, words, true, &steps);
        let cleared: u64 = steps.iter().map(|step| step.cleared).sum();
        assert_eq!(cleared, balloon.len(), "{what}");
        for number in 0..words {
            assert_eq!(guest.dirty[number as usize], !word(number), "{what}");
        }
        guest.dirty.fill(0);
        let steps = sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
        are_bounded(&what, words, false, &steps);
        assert!(steps.iter().all(|step| *step == DirtyChange::default()));
        let steps = sweep(&mut guest, &mut skips, None);
        are_bounded(&what, words, true, &steps);
        let set: u64 = steps.iter().map(|step| step.set).sum();
        assert_eq!(set, balloon.len(), "{what}");
        assert_eq!(skips.counters().ballooned_left_out_bytes, 0, "{what}");
    }
}

/// The sets of the migration before are not needed any more when the next one begins, or postcopy
/// has announced them, or their block is gone: their memory goes with the sweeps.
#[test]
fn memory_of_the_last_migration_is_freed_in_steps() {
    for gib in SIZES {
        let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
        let memory = guest.memory(0);
        let balloon = guest.balloon(0, random);
        let used = gib * GIB / 32768;
        sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
        let (begun, ()) = pieces(|| skips.begin());
        assert!(begun.freed <= FEW, "{begun:?}");
        assert!(are_freed(&mut guest, &mut skips) + FEW >= used);
        guest.dirty.fill(u64::MAX);
        sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
        let sets = announced(&mut guest, &mut skips);
        let (later, ()) = pieces(|| skips.free_later(sets));
        assert!(later.freed <= FEW, "{later:?}");
        assert!(are_freed(&mut guest, &mut skips) + FEW >= used);
        guest.dirty.fill(u64::MAX);
        sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
        guest.is_gone = true;
        assert!(are_freed(&mut guest, &mut skips) + FEW >= used);
    }
}

/// Pieces freed by a sweep with nothing in the balloon; no step frees more than it may.
fn are_freed(guest: &mut Guest, skips: &mut Skips) -> u64 {
    let (mut all, mut more) = (0, true);
    guest.synced(skips);
    while more {
        let mut change = DirtyChange::default();
        let (step, goes_on) = pieces(|| skips.sweep(guest, None, &mut change));
        assert!(step.freed <= MOST_FREED, "{step:?}");
        all += step.freed;
        more = goes_on;
    }
    all
}

/// Many balloons are empty, and their migrations have nothing to wait for.
#[test]
fn nothing_takes_one_step() {
    for gib in SIZES {
        let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
        let memory = guest.memory(0);
        let balloon = guest.balloon(0, |_| 0);
        assert_eq!(
            sweep(&mut guest, &mut skips, Some((&balloon, &memory))).len(),
            1
        );
        assert_eq!(sweep(&mut guest, &mut skips, None).len(), 1);
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
        let steps = sweep(&mut guest, &mut skips, None);
        are_bounded("hinted", words, true, &steps);
        assert_eq!(skips.counters().hint_left_out_bytes, 0);
    }
}

fn hint_at_all(guest: &mut Guest, skips: &mut Skips, gib: u64) {
    sweep(guest, skips, None);
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
        guest.dirty.fill(u64::MAX);
        sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
        let sets = announced(&mut guest, &mut skips);
        let left_out: u64 = sets.iter().map(|set| set.len()).sum();
        assert_eq!(left_out, balloon.len(), "{what}");
        assert!(guest.dirty.iter().all(|&word| word == u64::MAX), "{what}");
    }
}

/// Postcopy begins; returns what was left out, and no step does more than it may.
fn announced(guest: &mut Guest, skips: &mut Skips) -> Vec<SparseBitmap> {
    loop {
        let mut change = DirtyChange::default();
        let announced = skips.postcopy(guest, BLOCK, &mut change);
        assert!(change.set <= MOST_WORDS * 64, "{change:?}");
        if let Announced::All(sets) = announced {
            return sets;
        }
    }
}
