// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages that wait for their neighbours: never the guest's, never for ever, and whole in the end.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges are meant, also of one"
)]

pub(crate) mod world;

use std::ops::Range;
use std::slice;

use balloon::device::{Balloon, Progress, RequestEnd};
use balloon::features::QueueKind;
use balloon::host::Inhibit;
use balloon::page::PAGE_SIZE;
use balloon::queue::held::Flush;
use balloon::wire::ByteOrder;
use proptest::prelude::*;

use crate::mock::{MockHost, part};
use world::{HOLD_BYTES, HUGE, PAGES, SECOND, Step, World, device, guest_page};

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
        world.end();
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
