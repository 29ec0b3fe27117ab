// SPDX-License-Identifier: GPL-2.0-or-later
//! The set of pages in the balloon as a whole: a stream brings it, it is saved, given back, and
//! forgotten.

use balloon::device::{Balloon, Options, Progress};
use balloon::features::Features;
use balloon::host::Inhibit;
use balloon::memory::{BlockId, MemoryMap, Section};
use balloon::page::GpaRange;
use balloon::pageset::{self, MAX_BYTES};
use balloon::queue::MAX_FREED;
use balloon::state::{SavedPages, State};

use crate::guest::{GIB, Guest, SIZES};
use crate::idle::Idle;
use crate::slices::MOST_PIECES;
use crate::{Pieces, pieces};

/// Pages for which a set allocates a piece of memory of its own.
const PIECE: u64 = 32768;
/// Lists that grow, and what a call needs besides.
const FEW: u64 = 64;

fn device(gib: u64) -> Balloon {
    let mut balloon = Balloon::new(Options::default());
    balloon.set_memory(Guest::new(gib).memory(0));
    balloon.set_features(Features::MUST_TELL_HOST, false);
    balloon
}

fn coded(pages: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut out = vec![0; MAX_BYTES];
    let written = pageset::encode(pages.map(|page| page..page + 1), &mut out);
    out.truncate(written.bytes);
    out
}

/// As many single pages as a stream can hold, in all of memory: each piece of the set needs memory.
fn scattered(gib: u64) -> Vec<u8> {
    let step = ((gib * GIB) >> 20).max(2);
    coded((0..gib * GIB).step_by(step as usize))
}

fn load(balloon: &mut Balloon, coded: &[u8]) -> Pieces {
    let saved = SavedPages {
        coded,
        complete: true,
    };
    let state = State::save(balloon, 0);
    let (pieces, loaded) = pieces(|| state.load(balloon, Some(saved), u64::MAX));
    loaded.expect("a stream");
    pieces
}

/// A device whose set, and what is owed of it, takes as much memory as there can be.
fn loaded(gib: u64) -> Balloon {
    let mut balloon = device(gib);
    load(&mut balloon, &scattered(gib));
    // Nothing goes, and all of it is noted.
    while balloon.discard_owed(&mut Idle, Inhibit::Pinned) == Progress::More {}
    balloon
}

/// Slices until nothing is left to do; none allocates or frees more than it may. Returns what they
/// did together.
fn in_slices(balloon: &mut Balloon) -> Pieces {
    let mut all = Pieces {
        allocated: 0,
        freed: 0,
    };
    loop {
        let (pieces, progress) = pieces(|| balloon.discard_owed(&mut Idle, Inhibit::No));
        assert!(pieces.allocated <= MOST_PIECES, "{pieces:?}");
        assert!(pieces.freed <= MAX_FREED as u64 + FEW, "{pieces:?}");
        all.allocated += pieces.allocated;
        all.freed += pieces.freed;
        if progress == Progress::Done {
            return all;
        }
    }
}

/// What it takes of a large guest's balloon is what its set takes, and once only: what is owed is
/// noted later.
#[test]
fn a_stream_is_taken_over_without_a_copy() {
    for gib in SIZES {
        let mut balloon = device(gib);
        let used = gib * GIB / PIECE;
        let pieces = load(&mut balloon, &scattered(gib));
        assert!(pieces.allocated <= used + FEW, "{pieces:?}");
        assert!(pieces.freed <= FEW, "{pieces:?}");
        assert!(balloon.owed_bytes() > 0);
        in_slices(&mut balloon);
        assert_eq!(balloon.owed_bytes(), 0);
        assert!(balloon.counters(0).discarded_bytes >= (gib << 30).min(1 << 31) / 4096);
    }
}

/// No more than a stream can hold, and nothing besides.
#[test]
fn as_many_runs_are_saved_as_there_is_room_for() {
    for gib in SIZES {
        let mut balloon = device(gib);
        let mut out = vec![0; MAX_BYTES];
        for pages in [scattered(gib), coded((0..gib * GIB).step_by(2))] {
            load(&mut balloon, &pages);
            let (pieces, written) = pieces(|| SavedPages::write(&balloon, &mut out));
            assert!(written.bytes <= MAX_BYTES && written.complete);
            assert!(pieces.allocated + pieces.freed == 0, "{pieces:?}");
            assert_eq!(out[..written.bytes], pages[..]);
        }
    }
}

/// Whatever empties the set in one call leaves its memory to the slices that come after.
#[test]
fn memory_of_the_set_is_freed_in_slices() {
    type Empties = fn(&mut Balloon);
    let ways: [(&str, Empties); 5] = [
        ("reset", |balloon| {
            balloon.reset();
        }),
        ("given up", Balloon::batch_abandon),
        ("other features", |balloon| {
            balloon.set_features(Features::empty(), false);
        }),
        ("no memory", |balloon| {
            balloon.set_memory(MemoryMap::default());
        }),
        ("another stream", |balloon| {
            load(balloon, &[]);
        }),
    ];
    for gib in SIZES {
        for (way, empty) in ways {
            let mut balloon = loaded(gib);
            // Of the set, and of what is owed.
            let used = 2 * gib * GIB / PIECE;
            let (at_once, ()) = pieces(|| empty(&mut balloon));
            assert!(at_once.freed <= FEW, "{way}: {at_once:?}");
            let later = in_slices(&mut balloon);
            assert!(later.freed + FEW >= used, "{way}: {later:?} of {used}");
            assert_eq!(balloon.owed_bytes(), 0, "{way}");
        }
    }
}

/// A guest that fills its balloon and resets the device, again and again, does not make it keep
/// more than full sets take.
#[test]
fn what_is_not_freed_yet_is_used_again() {
    let gib = SIZES[0];
    let mut balloon = loaded(gib);
    balloon.reset();
    balloon.set_features(Features::MUST_TELL_HOST, false);
    let used = gib * GIB / PIECE;
    let again = load(&mut balloon, &scattered(gib));
    assert!(again.allocated <= used + FEW, "{again:?}");
    let slices = in_slices(&mut balloon);
    assert!(slices.allocated <= FEW, "{slices:?}");
    assert!(slices.freed + FEW >= used, "{slices:?}");
}

/// Whether a range over all of them is RAM is found by one look, however many sections there are: a
/// guest may ask in each entry of a message.
#[test]
fn memory_in_many_sections_is_one_run() {
    let sections = |page| Section {
        gpa: GpaRange::of_page_indices(page * GIB..(page + 1) * GIB).expect("pages"),
        block: BlockId(page as usize),
        offset: 0,
        page_size: 4096,
        host: (page as usize) << 30,
        backing: balloon::memory::Backing {
            in_parts: page % 2 == 1,
            ..Default::default()
        },
    };
    let mut map = MemoryMap::new((0..1024).map(sections).collect()).expect("a map");
    assert_eq!(map.runs(), 512);
    for page in (1..1024).step_by(2) {
        map.set_part(sections(page).gpa, true);
    }
    assert_eq!(map.runs(), 1);
    assert!(map.is_ram(GpaRange::of_page_indices(0..1024 * GIB).expect("pages")));
}
