// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages that wait for their neighbours: never the guest's, never for ever, and whole in the end.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges are meant, also of one"
)]

use std::ops::Range;
use std::slice;

use proptest::prelude::*;
use virtio_balloon_rs::device::{Balloon, Options, Progress, RequestEnd};
use virtio_balloon_rs::features::{Features, QueueKind};
use virtio_balloon_rs::host::Inhibit;
use virtio_balloon_rs::memory::{MemoryMap, Section};
use virtio_balloon_rs::page::PAGE_SIZE;
use virtio_balloon_rs::pageset::MAX_BYTES;
use virtio_balloon_rs::queue::held::Flush;
use virtio_balloon_rs::state::{SavedPages, State};
use virtio_balloon_rs::wire::ByteOrder;

use crate::mock::{MockHost, part, section};

/// 4 KiB pages of a huge page.
const HUGE: u64 = 512;
/// Pages of the guest. Huge pages of the first block begin where the guest's do, those of the second
/// do not.
const PAGES: u64 = 8 * HUGE;
const SECOND: u64 = 5 * HUGE;
const HOLD_BYTES: u64 = 2 * HUGE * PAGE_SIZE;

fn sections() -> Vec<Section> {
    vec![
        section(1, 0, SECOND, 0, PAGE_SIZE),
        section(2, SECOND, PAGES - SECOND, 100, PAGE_SIZE),
    ]
}

fn device(hold_bytes: u64) -> Balloon {
    let mut balloon = Balloon::new(Options {
        hold_bytes,
        ..Options::default()
    });
    balloon.set_memory(MemoryMap::new(sections()).unwrap());
    balloon.set_features(Features::MUST_TELL_HOST, false);
    balloon
}

/// The guest page behind a page of a block.
fn guest_page(block: usize, page: u64) -> u64 {
    match block {
        1 => page,
        _ => SECOND + page - 100,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Inflate(Vec<Range<u64>>),
    Deflate(Vec<Range<u64>>),
    /// A deflate of both, of which the second range is written so that nobody understands it.
    DeflateInPart(Range<u64>, Range<u64>),
    /// So many slices; what the guest may do in between comes as other steps.
    Flush(Flush, u32),
    /// A request of which so many slices are done before its queue is reset.
    GiveUp(QueueKind, Range<u64>, u32),
    Reset,
    Migrate,
    /// From now on discards are inhibited, or not any more.
    Inhibit(bool),
    /// So many slices of giving back what could not be given back before.
    Owed(u32),
    /// Other memory behind the pages of the second block, and back.
    Replug,
    Write(Range<u64>),
}

/// Who may do what with a page, and whether the host has memory for it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    is_given: bool,
    /// The device must have given its memory back when nothing waits any more, and before so many flushes
    /// of what waits for long, two at most.
    owed_since: Option<u32>,
    is_resident: bool,
}

struct World {
    balloon: Balloon,
    pages: Vec<Page>,
    inhibit: Inhibit,
}

impl World {
    fn new() -> World {
        let page = Page {
            is_given: false,
            owed_since: None,
            is_resident: true,
        };
        World {
            balloon: device(HOLD_BYTES),
            pages: vec![page; PAGES as usize],
            inhibit: Inhibit::No,
        }
    }

    fn of(&mut self, ranges: &[Range<u64>], mut change: impl FnMut(&mut Page)) {
        for page in ranges.iter().cloned().flatten() {
            change(&mut self.pages[page as usize]);
        }
    }

    /// What the host was asked for may only be what the guest gave away.
    fn discarded(&mut self, host: &mut MockHost) {
        for range in std::mem::take(&mut host.discards) {
            assert_eq!(self.inhibit, Inhibit::No);
            let first = range.offset / PAGE_SIZE;
            for page in first..first + range.bytes / PAGE_SIZE {
                let number = guest_page(range.block.0, page);
                let page = &mut self.pages[number as usize];
                assert!(page.is_given, "page {number:#x} is the guest's");
                page.is_resident = false;
            }
        }
    }

    /// One batch, at most `slices` of it; says whether that was all.
    fn request(&mut self, queue: QueueKind, ranges: &[Range<u64>], slices: u32) -> bool {
        self.send(queue, &payload(ranges), slices)
    }

    fn send(&mut self, queue: QueueKind, payload: &[u8], slices: u32) -> bool {
        let end = Some(RequestEnd {
            descriptors: 1,
            wrong_way: 0,
        });
        let added = self
            .balloon
            .batch_add(queue, part(payload, ByteOrder::Little, end));
        assert_eq!(added, Ok(()));
        let mut host = MockHost::default();
        for _ in 0..slices {
            let progress = self.balloon.batch_run(&mut host, self.inhibit);
            self.discarded(&mut host);
            if progress == Progress::Done {
                return true;
            }
        }
        false
    }

    fn flush(&mut self, flush: Flush, slices: u32) {
        let mut host = MockHost::default();
        for _ in 0..slices {
            let progress = self.balloon.flush_held(&mut host, flush, self.inhibit);
            self.discarded(&mut host);
            if progress == Progress::Done {
                // Of what was inhibited nothing is left to be done, either, unless it still is.
                self.owed(u32::MAX);
                let is_inhibited = self.inhibit != Inhibit::No;
                let waits_too_long = |page: &Page| match (flush, page.owed_since) {
                    (_, None) => false,
                    _ if is_inhibited => false,
                    (Flush::Aged, Some(age)) => page.is_resident && age > 0,
                    (Flush::All, Some(_)) => page.is_resident,
                };
                assert_eq!(self.pages.iter().position(waits_too_long), None);
                match flush {
                    Flush::Aged => self.of(&[0..PAGES], |page| {
                        page.owed_since = page.owed_since.map(|age| age + 1);
                    }),
                    Flush::All => assert_eq!(self.balloon.held_bytes(), 0),
                }
                return;
            }
        }
    }

    fn owed(&mut self, slices: u32) {
        let mut host = MockHost::default();
        for _ in 0..slices {
            let progress = self.balloon.discard_owed(&mut host, self.inhibit);
            self.discarded(&mut host);
            if progress == Progress::Done {
                assert!(self.balloon.owed_bytes() == 0 || self.inhibit != Inhibit::No);
                return;
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Inflate(ranges) => {
                self.of(&ranges, |page| page.is_given = true);
                assert!(self.request(QueueKind::Inflate, &ranges, u32::MAX));
                self.of(&ranges, |page| {
                    page.owed_since = page.owed_since.or(Some(0));
                });
                assert!(self.balloon.held_bytes() <= HOLD_BYTES);
            }
            Step::Deflate(ranges) => {
                assert!(self.request(QueueKind::Deflate, &ranges, u32::MAX));
                self.of(&ranges, |page| {
                    (page.is_given, page.owed_since) = (false, None)
                });
            }
            Step::DeflateInPart(understood, lost) => {
                let mut payload = payload(slice::from_ref(&understood));
                payload.push(lost.start as u8);
                assert!(self.send(QueueKind::Deflate, &payload, u32::MAX));
                self.of(&[understood, lost], |page| page.is_given = false);
                // What waits is forgotten: any of it may be the guest's.
                self.of(&[0..PAGES], |page| page.owed_since = None);
                assert_eq!(
                    (self.balloon.held_bytes(), self.balloon.owed_bytes()),
                    (0, 0)
                );
            }
            Step::Flush(flush, slices) => self.flush(flush, slices),
            Step::GiveUp(queue, range, slices) => {
                let ranges = [range];
                let before = self.pages.clone();
                if queue == QueueKind::Inflate {
                    self.of(&ranges, |page| page.is_given = true);
                }
                self.request(queue, &ranges, slices);
                self.balloon.batch_abandon();
                // An inflate that was not acknowledged gave nothing away; of a deflate the guest has
                // the pages back.
                let is_deflate = queue == QueueKind::Deflate;
                for page in ranges[0].clone() {
                    let before = before[page as usize].is_given;
                    self.pages[page as usize].is_given = before && !is_deflate;
                }
                self.of(&[0..PAGES], |page| page.owed_since = None);
            }
            Step::Reset => {
                self.balloon.reset();
                self.balloon.set_features(Features::MUST_TELL_HOST, false);
                self.of(&[0..PAGES], |page| {
                    (page.is_given, page.owed_since) = (false, None)
                });
            }
            Step::Migrate => self.migrate(),
            Step::Inhibit(true) => self.inhibit = Inhibit::BackgroundSnapshot,
            Step::Inhibit(false) => self.inhibit = Inhibit::No,
            Step::Owed(slices) => self.owed(slices),
            Step::Replug => {
                let other = vec![sections()[0], section(9, SECOND, 64, 0, PAGE_SIZE)];
                self.balloon.set_memory(MemoryMap::new(other).unwrap());
                self.balloon.set_memory(MemoryMap::new(sections()).unwrap());
                self.of(&[SECOND..PAGES], |page| {
                    (page.is_given, page.owed_since) = (false, None)
                });
            }
            Step::Write(range) => {
                self.of(&[range], |page| page.is_resident |= !page.is_given);
            }
        }
    }

    /// The destination has memory for all pages, as if all had been sent.
    fn migrate(&mut self) {
        let mut coded = vec![0; MAX_BYTES];
        let written = SavedPages::write(&self.balloon, &mut coded);
        let pages = SavedPages {
            coded: &coded[..written.bytes],
            complete: written.complete,
        };
        let mut to = device(HOLD_BYTES);
        State::save(&self.balloon, 0)
            .load(&mut to, Some(pages), PAGES * PAGE_SIZE)
            .unwrap();
        self.balloon = to;
        self.of(&[0..PAGES], |page| page.is_resident = true);
    }
}

fn payload(ranges: &[Range<u64>]) -> Vec<u8> {
    let pfns = ranges.iter().cloned().flatten();
    pfns.flat_map(|pfn| (pfn as u32).to_le_bytes()).collect()
}

fn range() -> impl Strategy<Value = Range<u64>> {
    let any = (0..PAGES, 1..700u64).prop_map(|(at, count)| at..(at + count).min(PAGES));
    let half = (0..2 * PAGES / HUGE).prop_map(|at| at * HUGE / 2..(at + 1) * HUGE / 2);
    let few = (0..PAGES - 4, 1..4u64).prop_map(|(at, count)| at..at + count);
    prop_oneof![any, half, few]
}

fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
    prop::collection::vec(range(), 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    let flush = prop_oneof![2 => Just(Flush::Aged), 1 => Just(Flush::All)];
    let queue = prop_oneof![Just(QueueKind::Inflate), Just(QueueKind::Deflate)];
    prop_oneof![
        8 => ranges().prop_map(Step::Inflate),
        6 => ranges().prop_map(Step::Deflate),
        1 => (range(), range()).prop_map(|(seen, lost)| Step::DeflateInPart(seen, lost)),
        4 => (flush.clone(), 1..4u32).prop_map(|(flush, slices)| Step::Flush(flush, slices)),
        4 => flush.prop_map(|flush| Step::Flush(flush, u32::MAX)),
        1 => (queue, range(), 0..3u32).prop_map(|(queue, range, n)| Step::GiveUp(queue, range, n)),
        1 => Just(Step::Reset),
        1 => Just(Step::Migrate),
        3 => any::<bool>().prop_map(Step::Inhibit),
        3 => prop_oneof![1..4u32, Just(u32::MAX)].prop_map(Step::Owed),
        1 => Just(Step::Replug),
        4 => range().prop_map(Step::Write),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_held_is_never_the_guests(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.inhibit = Inhibit::No;
        world.flush(Flush::All, u32::MAX);
    }
}

/// What was discarded, in calls, when these requests came one after the other.
fn discards(hold_bytes: u64, requests: &[Range<u64>]) -> (Vec<Range<u64>>, Balloon) {
    let mut world = World::new();
    world.balloon = device(hold_bytes);
    let mut host = MockHost::default();
    for request in requests {
        let payload: Vec<u8> = request
            .clone()
            .flat_map(|pfn| (pfn as u32).to_le_bytes())
            .collect();
        let end = Some(RequestEnd::default());
        let added = world
            .balloon
            .batch_add(QueueKind::Inflate, part(&payload, ByteOrder::Little, end));
        assert_eq!(added, Ok(()));
        while world.balloon.batch_run(&mut host, Inhibit::No) == Progress::More {}
    }
    let pages = host.discards.iter().map(|range| {
        let first = guest_page(range.block.0, range.offset / PAGE_SIZE);
        first..first + range.bytes / PAGE_SIZE
    });
    (pages.collect(), world.balloon)
}

#[test]
fn two_halves_make_a_whole() {
    let halves = [0..256, 256..512];
    assert_eq!(discards(HOLD_BYTES, &halves).0, [0..512]);
    let downward = [256..512, 0..256];
    assert_eq!(discards(HOLD_BYTES, &downward).0, [0..512]);
    assert_eq!(
        discards(0, &halves).0,
        halves,
        "none are held unless asked for"
    );
}

#[test]
fn a_page_of_the_guests_keeps_a_huge_page_whole() {
    for missing in [0, 1, 255, 510, 511] {
        let (calls, balloon) = discards(HOLD_BYTES, &[0..missing, missing + 1..512]);
        assert_eq!(calls, [], "without page {missing}");
        assert_eq!(balloon.held_bytes(), 511 * PAGE_SIZE);
    }
}

#[test]
fn ends_join_the_middle() {
    let requests = [300..512, 512 + 1024..512 + 1100, 512..512 + 1024, 0..300];
    let (calls, balloon) = discards(HOLD_BYTES, &requests);
    assert_eq!(calls, [512..512 + 1024, 0..512]);
    assert_eq!(balloon.held_bytes(), 76 * PAGE_SIZE);
}

#[test]
fn huge_pages_are_those_of_the_block() {
    // The second block's pages begin 100 pages into a huge page, which the guest cannot fill.
    let edge = SECOND..SECOND + 412;
    let (calls, _) = discards(HOLD_BYTES, slice::from_ref(&edge));
    assert_eq!(calls, slice::from_ref(&edge));
    let next = edge.end..edge.end + 512;
    let halves = [next.start..next.start + 200, next.start + 200..next.end];
    assert_eq!(discards(HOLD_BYTES, &halves).0, [next]);
}

#[test]
fn no_more_is_held_than_there_may_be() {
    // One page of each second.
    let odd: Vec<_> = (0..1280).map(|i| 2 * i..2 * i + 1).collect();
    let (calls, balloon) = discards(HOLD_BYTES, &odd);
    assert_eq!(calls.len(), HOLD_BYTES as usize / PAGE_SIZE as usize + 1);
    assert_eq!(
        balloon.held_bytes(),
        (1280 - calls.len() as u64) * PAGE_SIZE
    );
}
