// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;
use crate::device::Options;
use crate::features::Numbering;
use crate::memory::{Backing, BlockId, MemoryMap, Section};
use crate::page::Gpa;
use std::ops::Range;

const RAM: u64 = 1 << 30;
/// Pages of guest RAM: there is a hole in it.
const PAGES: [Range<u64>; 2] = [0..0xa0, 0x100..0x1000];
const RUN: Range<u64> = 3..7;

fn state() -> State {
    let mut balloon = Balloon::new(Options::default());
    balloon.set_target(RAM / 2, RAM);
    State::save(&balloon, 10)
}

#[test]
fn what_was_saved_loads() {
    let mut balloon = told(Features::PAGE_POISON);
    let saved = State {
        actual: u32::MAX,
        poison_val: 7,
        stats_last_update: 99,
        ..state()
    };
    saved.load(&mut balloon, None, RAM).unwrap();
    let again = State::save(&balloon, 10);
    assert_eq!(
        (again.num_pages, again.actual, again.poison_val),
        (1 << 17, u32::MAX, 7)
    );
    assert_eq!(again.stats_last_update, 99);
}

/// The source's target, as a stream with these fields brings it to a machine with `ram` bytes.
fn arrived(source: &Balloon, ram: u64, with_subsection: bool) -> (Option<u64>, u32, bool) {
    let mut saved = State::save(source, 10);
    let sent = saved.has_target;
    saved.has_target &= with_subsection;
    let mut to = Balloon::new(Options::default());
    to.set_ram(ram);
    saved.load(&mut to, None, 4 * RAM).unwrap();
    assert_eq!(to.config().num_pages, saved.num_pages);
    to.set_ram(ram);
    (to.config().target, to.config().num_pages, sent)
}

#[test]
fn the_target_comes_along_and_is_sent_only_where_pages_do_not_say_it() {
    let mut from = Balloon::new(Options::default());
    from.set_ram(RAM);
    assert_eq!(arrived(&from, RAM, true), (None, 0, false));
    from.set_target(RAM / 2, RAM);
    let pages = (RAM / 2 / PAGE_SIZE) as u32;
    assert_eq!(arrived(&from, RAM, true), (Some(RAM / 2), pages, false));
    // A part of a page is asked for by nobody, but said.
    from.set_target(RAM / 2 + 1, RAM);
    let whole = Some(RAM / 2 + PAGE_SIZE);
    assert_eq!(
        arrived(&from, RAM, true),
        (Some(RAM / 2 + 1), pages - 1, true)
    );
    assert_eq!(arrived(&from, RAM, false), (whole, pages - 1, true));
    // Memory went, and may come back.
    from.set_target(RAM / 2, RAM);
    from.set_ram(RAM / 4);
    assert_eq!(arrived(&from, RAM / 4, true), (Some(RAM / 2), 0, true));
    assert_eq!(arrived(&from, RAM / 4, false), (None, 0, true));
    from.set_target(RAM, RAM);
    assert_eq!(arrived(&from, RAM, true), (None, 0, false));
}

#[test]
fn pages_of_a_larger_machine_become_what_this_one_has() {
    let mut from = Balloon::new(Options::default());
    from.set_target(RAM / 4, 2 * RAM);
    let pages = (RAM / PAGE_SIZE) as u32;
    assert_eq!(arrived(&from, RAM, false), (Some(0), pages, false));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut balloon = Balloon::new(Options::default());
    let bad = [
        (
            State {
                num_pages: (RAM / PAGE_SIZE) as u32 + 1,
                ..state()
            },
            Error::StateTarget,
        ),
        (
            State {
                poison_val: 7,
                ..state()
            },
            Error::StatePoison,
        ),
        (
            State {
                stats_polling_interval: -1,
                ..state()
            },
            Error::StateStats,
        ),
        (
            State {
                stats_polling_interval: 1 << 32,
                ..state()
            },
            Error::StateStats,
        ),
        (
            State {
                stats_last_update: -5,
                ..state()
            },
            Error::StateStats,
        ),
    ];
    for (state, error) in bad {
        assert_eq!(state.load(&mut balloon, None, RAM), Err(error));
        assert_eq!(
            (balloon.config().num_pages, balloon.config().poison_val),
            (0, 0)
        );
    }
}

#[test]
fn historical_bits_mean_on_both_ends_the_same() {
    let device = |features| {
        let mut balloon = Balloon::new(Options {
            features,
            numbering: Numbering::Historical,
            ..Options::default()
        });
        let accepted = balloon.features_of(1 << 3);
        balloon.set_features(accepted, false);
        balloon
    };
    let saved = State::save(&device(Features::PAGE_RANGE), 10);
    let loaded = |features| saved.load(&mut device(features), None, RAM);
    assert_eq!(loaded(Features::PAGE_RANGE), Ok(()));
    assert_eq!(loaded(Features::BALLOON_CHUNKS), Err(Error::StateFounding));
    // The same protocol by other bits, which mean something else to the destination.
    let mut private = Balloon::new(Options::default());
    assert_eq!(
        saved.load(&mut private, None, RAM),
        Err(Error::StateFounding)
    );
    // From a device to which bit 3 is free page hints.
    let today = State::save(&Balloon::new(Options::default()), 10);
    let loaded = today.load(&mut device(Features::PAGE_RANGE), None, RAM);
    assert_eq!(loaded, Err(Error::StateFounding));
}

#[test]
fn a_stream_without_statistics_leaves_them() {
    let mut balloon = Balloon::new(Options::default());
    State {
        has_stats: false,
        stats_polling_interval: -1,
        ..state()
    }
    .load(&mut balloon, None, RAM)
    .unwrap();
    assert_eq!(balloon.stats().last_update, 0);
}

/// A device with memory, whose driver accepted these features.
fn told(features: Features) -> Balloon {
    let section = |pages: Range<u64>| Section {
        gpa: GpaRange::of_page_indices(pages.clone()).unwrap(),
        block: BlockId(1),
        offset: Gpa(pages.start * PAGE_SIZE).0,
        page_size: PAGE_SIZE,
        host: 0x10_0000_0000 + (pages.start * PAGE_SIZE) as usize,
        backing: Backing::default(),
    };
    let mut balloon = Balloon::new(Options::default());
    balloon.set_memory(MemoryMap::new(PAGES.map(section).to_vec()).unwrap());
    balloon.set_features(features, false);
    balloon
}

fn with_pages(runs: &[Range<u64>], complete: bool) -> Balloon {
    let mut balloon = told(Features::MUST_TELL_HOST);
    let mut pages = SparseBitmap::new(PAGE_LIMIT);
    for run in runs {
        pages.insert_range(run.clone());
    }
    let config = ConfigState {
        actual: 9,
        ..ConfigState::default()
    };
    balloon.restore(config, None, Some(Ballooned { pages, complete }));
    balloon
}

fn runs(balloon: &Balloon) -> Vec<Range<u64>> {
    balloon.ballooned().pages.runs().collect()
}

fn ballooned_pages(balloon: &Balloon) -> u64 {
    balloon.counters(RAM).ballooned_bytes / PAGE_SIZE
}

fn written(balloon: &Balloon, room: usize) -> (Vec<u8>, bool) {
    let mut out = vec![0; room];
    let written = SavedPages::write(balloon, &mut out);
    out.truncate(written.bytes);
    (out, written.complete)
}

fn load(balloon: &mut Balloon, coded: &[u8], complete: bool) -> Result<(), Error> {
    let pages = SavedPages { coded, complete };
    let state = State {
        actual: 9,
        ..state()
    };
    state.load(balloon, Some(pages), RAM)
}

#[test]
fn the_set_of_pages_comes_along() {
    let set = [RUN, 0x100..0x234];
    let (coded, complete) = written(&with_pages(&set, true), MAX_BYTES);
    assert!(complete);
    // What the destination knew before is replaced.
    let mut to = with_pages(&[0..2, 0x150..0x400], false);
    load(&mut to, &coded, complete).unwrap();
    assert_eq!(runs(&to), set);
    assert_eq!(ballooned_pages(&to), 4 + 0x134);
}

#[test]
fn a_set_that_is_not_complete_stays_so() {
    let set = [RUN, 0x100..0x234];
    let (coded, complete) = written(&with_pages(&set, false), MAX_BYTES);
    assert!(!complete);
    let mut to = told(Features::MUST_TELL_HOST);
    load(&mut to, &coded, complete).unwrap();
    assert_eq!((runs(&to), ballooned_pages(&to)), (set.to_vec(), 9));

    // There is room for the first run only.
    let (coded, complete) = written(&with_pages(&set, true), 4);
    assert!(!complete);
    load(&mut to, &coded, complete).unwrap();
    assert_eq!((runs(&to), ballooned_pages(&to)), (vec![RUN], 9));
}

#[test]
fn pages_that_are_not_ram_here_are_left_out() {
    // One run over the hole in guest RAM and past its end, and one where nothing is.
    let (coded, _) = written(
        &with_pages(&[0x90..0x1100, 0x2000..0x2001], true),
        MAX_BYTES,
    );
    let mut to = told(Features::MUST_TELL_HOST);
    load(&mut to, &coded, true).unwrap();
    assert_eq!(runs(&to), [0x90..0xa0, 0x100..0x1000]);
    assert_eq!(ballooned_pages(&to), 9, "some pages are missing");
    // All pages there can be: the set takes no more than those that there are.
    load(&mut to, &[0, 0x80, 0x80, 0x80, 0x80, 0x10], true).unwrap();
    assert_eq!(runs(&to), PAGES);
}

#[test]
fn without_a_set_nothing_is_known() {
    let mut to = with_pages(&[RUN], true);
    State {
        actual: 9,
        ..state()
    }
    .load(&mut to, None, RAM)
    .unwrap();
    assert_eq!((runs(&to), ballooned_pages(&to)), (vec![], 9));
    state().load(&mut to, None, RAM).unwrap();
    assert_eq!(ballooned_pages(&to), 0);
}

#[test]
fn a_set_that_cannot_be_is_refused_and_changes_nothing() {
    let mut balloon = with_pages(&[RUN], true);
    let long = vec![1; MAX_BYTES + 2];
    let bad: [(&[u8], Error); 5] = [
        (&[5, 1, 1], Error::StatePagesCut),
        (&[5, 0x81, 0], Error::StatePagesNumber),
        (&[5, 0], Error::StatePagesRun),
        (&[5, 0x80, 0x80, 0x80, 0x80, 0x10], Error::StatePagesLimit),
        (&long, Error::StatePagesSize),
    ];
    for (coded, error) in bad {
        assert_eq!(load(&mut balloon, coded, true), Err(error));
        assert_eq!(runs(&balloon), [RUN]);
        assert_eq!(balloon.config().num_pages, 0);
    }
    // At the edge of what can be.
    assert_eq!(load(&mut balloon, &long[..MAX_BYTES], true), Ok(()));
}

/// Without its promise the guest uses pages of the balloon unannounced.
#[test]
fn a_set_without_the_promise_to_tell_is_refused() {
    let others = !(Features::MUST_TELL_HOST | FOUNDING);
    for features in [Features::empty(), others] {
        let mut balloon = told(features);
        assert_eq!(
            load(&mut balloon, &[3, 4], true),
            Err(Error::StatePagesUntold)
        );
        assert_eq!(load(&mut balloon, &[], true), Err(Error::StatePagesUntold));
        assert_eq!((runs(&balloon), balloon.config().num_pages), (vec![], 0));
    }
}
