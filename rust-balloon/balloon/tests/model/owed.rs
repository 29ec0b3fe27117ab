// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages in the balloon that could not be given back when they came go back to the host.

use std::ops::Range;

use balloon::device::{Balloon, Options, Progress, RequestEnd};
use balloon::features::{Features, QueueKind};
use balloon::host::Inhibit;
use balloon::memory::MemoryMap;
use balloon::page::PAGE_SIZE;
use balloon::pageset;
use balloon::state::{SavedPages, State};
use balloon::wire::ByteOrder;

use crate::mock::{END, HUGE, LONG, MockHost, RAM, SMALL, memory_map, part, sections};

/// The size of the huge block's pages.
const HUGE_BYTES: u64 = 2 << 20;

/// The pages of the long block: several slices of work.
const ALL: Range<u64> = LONG..END;

/// A range of 4 KiB pages of a block.
type BlockPages = (usize, Range<u64>);

/// A device that went on with these pages in the balloon.
fn loaded(set: &[Range<u64>]) -> Balloon {
    let mut balloon = Balloon::new(Options::default());
    balloon.set_memory(memory_map(0));
    balloon.set_features(Features::MUST_TELL_HOST, false);
    let mut coded = [0; 64];
    let written = pageset::encode(set.iter().cloned(), &mut coded);
    let pages = SavedPages {
        coded: &coded[..written.bytes],
        complete: written.complete,
    };
    let state = State::save(&balloon, 0);
    state.load(&mut balloon, Some(pages), RAM).unwrap();
    balloon
}

/// One slice; what was discarded in it.
fn slice(balloon: &mut Balloon, inhibit: Inhibit) -> (Progress, Vec<BlockPages>) {
    let mut host = MockHost::default();
    let progress = balloon.discard_owed(&mut host, inhibit);
    let discards = host.discards.iter().map(|range| {
        let first = range.offset / PAGE_SIZE;
        (range.block.0, first..first + range.bytes / PAGE_SIZE)
    });
    (progress, discards.collect())
}

/// Runs to the end; what was discarded, neighbours joined, and the slices.
fn run(balloon: &mut Balloon) -> (Vec<BlockPages>, u32) {
    let mut all: Vec<BlockPages> = Vec::new();
    let mut slices = 0;
    loop {
        let (progress, discards) = slice(balloon, Inhibit::No);
        slices += 1;
        for (block, pages) in discards {
            match all.last_mut() {
                Some(last) if last.0 == block && last.1.end == pages.start => {
                    last.1.end = pages.end
                }
                _ => all.push((block, pages)),
            }
        }
        if progress == Progress::Done {
            return (all, slices);
        }
    }
}

fn send(balloon: &mut Balloon, queue: QueueKind, pages: Range<u64>) -> u64 {
    send_while(balloon, queue, pages, Inhibit::No)
}

fn send_while(balloon: &mut Balloon, queue: QueueKind, pages: Range<u64>, inhibit: Inhibit) -> u64 {
    let pfns = pages.flat_map(|page| (page as u32).to_le_bytes());
    let end = Some(RequestEnd {
        descriptors: 1,
        wrong_way: 0,
    });
    let payload: Vec<u8> = pfns.collect();
    let added = balloon.batch_add(queue, part(&payload, ByteOrder::Little, end));
    assert_eq!(added, Ok(()));
    let mut host = MockHost::default();
    while balloon.batch_run(&mut host, inhibit) == Progress::More {}
    host.done_bytes / PAGE_SIZE
}

#[test]
fn whole_backing_pages_of_the_set_are_discarded() {
    let mut balloon = loaded(&[
        // Over the end of a block into nothing.
        SMALL + 3..SMALL + 5,
        SMALL + 60..SMALL + 70,
        // Large pages, the first and the last of them in part.
        HUGE + 511..HUGE + 3 * 512 + 1,
        LONG + 7..LONG + 8,
    ]);
    let (discards, _) = run(&mut balloon);
    let expected = [(1, 3..5), (1, 60..64), (3, 512..3 * 512), (4, 7..8)];
    assert_eq!(discards, expected);
    assert_eq!(run(&mut balloon), (vec![], 1), "once is enough");
    // A page in part is completed by the guest.
    assert_eq!(
        send(&mut balloon, QueueKind::Inflate, HUGE..HUGE + 511),
        512
    );
}

#[test]
fn slices_are_short_and_go_on() {
    let mut balloon = loaded(&[ALL]);
    let (discards, slices) = run(&mut balloon);
    assert_eq!(discards, [(4, 0..8192)]);
    assert!((5..10).contains(&slices), "{slices} slices");
}

#[test]
fn pages_that_left_the_balloon_meanwhile_are_the_guests() {
    let mut balloon = loaded(&[ALL]);
    let (progress, first) = slice(&mut balloon, Inhibit::No);
    assert_eq!(progress, Progress::More);
    let end = first.last().unwrap().1.end;
    send(&mut balloon, QueueKind::Deflate, LONG + end..LONG + 8000);
    let (discards, _) = run(&mut balloon);
    assert_eq!(discards, [(4, 8000..8192)]);
}

#[test]
fn what_is_inhibited_waits() {
    let mut balloon = loaded(&[SMALL + 3..SMALL + 5, SMALL + 9..SMALL + 10]);
    for inhibit in [Inhibit::IncomingPostcopy, Inhibit::Pinned] {
        assert_eq!(slice(&mut balloon, inhibit), (Progress::Done, vec![]));
    }
    assert_eq!(balloon.counters(RAM).inhibited_bytes, 0);
    assert_eq!(run(&mut balloon).0, [(1, 3..5), (1, 9..10)]);
}

/// The map of memory, of which what is in pages of the size of the huge block's is forbidden beside
/// a vhost-user device.
fn map_of_large_pages() -> MemoryMap {
    let mut sections = sections(0);
    for section in &mut sections {
        section.backing.large = section.page_size == HUGE_BYTES;
    }
    MemoryMap::new(sections).unwrap()
}

/// Slices until one has nothing left to do; what was discarded in them, in 4 KiB pages.
fn pass(balloon: &mut Balloon, inhibit: Inhibit) -> u64 {
    let mut discarded = 0;
    for _ in 0..50 {
        let (progress, discards) = slice(balloon, inhibit);
        let pages = discards.iter().map(|(_, pages)| pages.end - pages.start);
        discarded += pages.sum::<u64>();
        if progress == Progress::Done {
            return discarded;
        }
    }
    panic!("it does not end");
}

#[test]
fn what_is_not_forbidden_goes_beside_a_vhost_user_device() {
    let beside = Inhibit::VhostUserLargePages;
    let mut balloon = new();
    balloon.set_memory(map_of_large_pages());
    let inflate = QueueKind::Inflate;
    let (small, huge) = (SMALL + 3..SMALL + 5, HUGE..HUGE + 1024);
    for pages in [small.clone(), huge.clone(), ALL] {
        send_while(&mut balloon, inflate, pages, SNAPSHOT);
    }
    assert_eq!(balloon.owed_bytes(), (2 + 1024 + 8192) * PAGE_SIZE);

    // What lies behind the large pages goes, too, and these stay owed.
    assert_eq!(pass(&mut balloon, beside), 2 + 8192);
    assert_eq!(balloon.owed_bytes(), 1024 * PAGE_SIZE);
    assert_eq!(pass(&mut balloon, beside), 0, "they are still forbidden");

    // Each time it is looked anew, and what came meanwhile is found before them and behind.
    for pages in [small, LONG..LONG + 9] {
        send_while(&mut balloon, inflate, pages, SNAPSHOT);
    }
    assert_eq!(pass(&mut balloon, beside), 2 + 9);
    assert_eq!(pass(&mut balloon, SNAPSHOT), 0);
    assert_eq!(
        balloon.counters(RAM).discarded_bytes,
        (2 + 8192 + 11) * PAGE_SIZE
    );
    assert_eq!(run(&mut balloon).0, [(3, 0..1024)]);
    assert_eq!(balloon.owed_bytes(), 0);
}

/// When nothing is forbidden any more in the middle of a pass, the pages that it left come first.
#[test]
fn what_was_forbidden_is_not_forgotten() {
    let mut balloon = new();
    balloon.set_memory(map_of_large_pages());
    let inflate = QueueKind::Inflate;
    for pages in [HUGE..HUGE + 512, ALL] {
        send_while(&mut balloon, inflate, pages, SNAPSHOT);
    }
    let (progress, _) = slice(&mut balloon, Inhibit::VhostUserLargePages);
    assert_eq!(progress, Progress::More);
    let (discards, _) = run(&mut balloon);
    assert_eq!(discards.first(), Some(&(3, 0..512)));
    assert_eq!(balloon.owed_bytes(), 0);
}

#[test]
fn a_reset_ends_it() {
    let mut balloon = loaded(&[ALL]);
    balloon.reset();
    balloon.set_features(Features::MUST_TELL_HOST, false);
    assert_eq!(send(&mut balloon, QueueKind::Inflate, LONG..LONG + 9), 9);
    assert_eq!(run(&mut balloon), (vec![], 1));
}

fn new() -> Balloon {
    loaded(&[])
}

const SNAPSHOT: Inhibit = Inhibit::BackgroundSnapshot;

#[test]
fn what_was_inflated_while_inhibited_goes_when_that_ends() {
    let mut balloon = new();
    let inflate = QueueKind::Inflate;
    assert_eq!(send_while(&mut balloon, inflate, ALL, SNAPSHOT), 0);
    assert_eq!(balloon.owed_bytes(), 8192 * PAGE_SIZE);
    assert_eq!(balloon.counters(RAM).owed_bytes, 8192 * PAGE_SIZE);
    assert_eq!(slice(&mut balloon, SNAPSHOT), (Progress::Done, vec![]));
    // What the guest has back is its own, and what it gives once more is given back with that.
    send_while(
        &mut balloon,
        QueueKind::Deflate,
        LONG + 5..LONG + 9,
        SNAPSHOT,
    );
    assert_eq!(send(&mut balloon, inflate, LONG + 16..LONG + 32), 16);
    assert_eq!(balloon.owed_bytes(), (8192 - 4 - 16) * PAGE_SIZE);
    let (discards, slices) = run(&mut balloon);
    assert_eq!(discards, [(4, 0..5), (4, 9..16), (4, 32..8192)]);
    assert!((5..10).contains(&slices), "{slices} slices");
    assert_eq!(balloon.owed_bytes(), 0);
    assert_eq!(run(&mut balloon), (vec![], 1), "once is enough");
}

#[test]
fn a_large_page_goes_only_as_a_whole() {
    let mut balloon = new();
    let two = HUGE..HUGE + 1024;
    assert_eq!(
        send_while(&mut balloon, QueueKind::Inflate, two, SNAPSHOT),
        0
    );
    assert_eq!(balloon.owed_bytes(), 1024 * PAGE_SIZE);
    send_while(
        &mut balloon,
        QueueKind::Deflate,
        HUGE + 7..HUGE + 8,
        SNAPSHOT,
    );
    assert_eq!(run(&mut balloon).0, [(3, 512..1024)]);
    assert_eq!(balloon.owed_bytes(), 0);
    let missing = HUGE + 7..HUGE + 8;
    assert_eq!(send(&mut balloon, QueueKind::Inflate, missing), 512);
}

/// Without that promise the guest may use the pages again as soon as their request is acknowledged.
#[test]
fn without_the_promise_to_tell_nothing_is_owed() {
    let mut balloon = new();
    balloon.set_features(Features::empty(), false);
    assert_eq!(
        send_while(&mut balloon, QueueKind::Inflate, ALL, SNAPSHOT),
        0
    );
    assert_eq!(balloon.owed_bytes(), 0);
    assert_eq!(run(&mut balloon), (vec![], 1));
}

#[test]
fn a_host_that_refuses_is_asked_once() {
    let mut balloon = new();
    send_while(&mut balloon, QueueKind::Inflate, ALL, SNAPSHOT);
    let mut host = MockHost {
        refuse: true,
        ..MockHost::default()
    };
    let mut slices = 0;
    while balloon.discard_owed(&mut host, Inhibit::No) == Progress::More {
        slices += 1;
        assert!(slices < 20);
    }
    assert_eq!(balloon.owed_bytes(), 0);
    assert!(balloon.counters(RAM).discard_errors > 0);
}

#[test]
fn other_memory_is_not_owed() {
    let mut balloon = new();
    send_while(&mut balloon, QueueKind::Inflate, ALL, SNAPSHOT);
    balloon.set_memory(MemoryMap::default());
    balloon.set_memory(memory_map(0));
    assert_eq!((balloon.owed_bytes(), run(&mut balloon)), (0, (vec![], 1)));
}

#[test]
fn what_was_given_up_is_not_owed() {
    let mut balloon = new();
    send_while(&mut balloon, QueueKind::Inflate, ALL, SNAPSHOT);
    balloon.batch_abandon();
    assert_eq!(run(&mut balloon), (vec![], 1));
}

#[test]
fn without_a_load_there_is_nothing_to_do() {
    let mut balloon = Balloon::new(Options::default());
    balloon.set_memory(memory_map(0));
    balloon.set_features(Features::MUST_TELL_HOST, false);
    assert_eq!(send(&mut balloon, QueueKind::Inflate, LONG..LONG + 9), 9);
    assert_eq!(run(&mut balloon), (vec![], 1));
}
