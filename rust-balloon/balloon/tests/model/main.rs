// SPDX-License-Identifier: GPL-2.0-or-later
//! The whole device against a simple model, with guests that do anything.
//!
//! The property is the promise to the guest: a page that it has not given away, in the terms of the
//! specification, is never discarded. And the promise to the host: what was given away is discarded,
//! as far as its backing pages allow. And that the counters tell what happened.

mod edges;
mod expect;
mod format;
mod held;
mod messages;
mod mock;
mod owed;
mod world;

use balloon::features::QueueKind;
use balloon::page::PAGE_SIZE;
use balloon::wire::ByteOrder;
use proptest::prelude::*;

use format::{Format, Words};
use mock::{END, HUGE, LONG, MAPS, SMALL};
use world::{Course, End, Flaw, Request, Step, World};

/// Pages one after the other: the first, how many, and how far apart.
fn stretch() -> impl Strategy<Value = (u64, u64, u64)> {
    let small = (SMALL..170, 1..80u64, 1..3u64);
    let backing = (SMALL..44u64, 1..6u64).prop_map(|(at, count)| (at * 4 + 2, count * 4, 1));
    let huge = (HUGE..HUGE + 2100, 1..1200u64, 1..2u64);
    let whole = (0..16u64, 1..5u64).prop_map(|(at, count)| (HUGE + at * 128, count * 128, 1));
    let long = (LONG - 10..END, 1..6000u64, 1..2u64);
    let exact = (LONG..LONG + 4096, Just(4096), Just(1));
    let scattered = (LONG..END, 1..900u64, 2..5u64);
    let nowhere = (END..1 << 32, 1..20u64, 1..3u64);
    prop_oneof![
        4 => small, 6 => backing, 2 => huge, 6 => whole,
        2 => long, 2 => exact, 1 => scattered, 1 => nowhere
    ]
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![
        2 => Just(Format::Pfns),
        1 => Just(Format::Ranges),
        1 => Just(Format::Chunks),
    ]
}

/// What is wrong with a request, mostly nothing.
fn flaw() -> impl Strategy<Value = Flaw> {
    let place = any::<usize>();
    prop_oneof![
        12 => Just(Flaw::None),
        1 => (1..4usize).prop_map(Flaw::Behind),
        1 => (1..40usize, any::<bool>()).prop_map(|(bytes, fits)| Flaw::Short(bytes, fits)),
        1 => Just(Flaw::WrongWay),
        1 => place.prop_map(Flaw::NotRam),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let stretches = prop::collection::vec((stretch(), any::<bool>()), 1..4);
    let style = prop_oneof![
        2 => Just(Words::Short),
        1 => Just(Words::Long),
        1 => Just(Words::Series),
    ];
    (stretches, any::<bool>(), style, flaw()).prop_map(|(stretches, big, style, flaw)| {
        let mut pfns = Vec::new();
        for ((first, count, apart), downward) in stretches {
            let stretch = (0..count).map(|i| first + i * apart);
            let mut stretch: Vec<u32> = stretch.map_while(|page| page.try_into().ok()).collect();
            if downward {
                stretch.reverse();
            }
            pfns.extend(stretch);
        }
        let order = if big {
            ByteOrder::Big
        } else {
            ByteOrder::Little
        };
        Request {
            pfns,
            order,
            style,
            flaw,
        }
    })
}

/// A report's segment, most of them aligned as a driver's are.
fn segment() -> impl Strategy<Value = (usize, u64)> {
    let cut = prop_oneof![4 => Just(0), 1 => 0..PAGE_SIZE];
    let pages = prop_oneof![3 => 1..40u64, 1 => 1..1500u64];
    (
        1..6usize,
        prop_oneof![2 => 0..100u64, 1 => 0..9000u64],
        pages,
        cut.clone(),
        cut,
    )
        .prop_map(|(block, page, pages, before, after)| {
            let offset = page * PAGE_SIZE + before;
            (
                (block << 40) + offset as usize,
                (pages * PAGE_SIZE).saturating_sub(after),
            )
        })
}

fn course() -> impl Strategy<Value = Course> {
    let inhibited = prop_oneof![
        8 => Just(vec![]),
        1 => Just(vec![true]),
        1 => prop::collection::vec(any::<bool>(), 1..4),
    ];
    let refuse = prop::bool::weighted(0.1);
    let change = prop_oneof![8 => Just(None), 1 => (1..3u32, 0..MAPS).prop_map(Some)];
    let slices = 0..3u32;
    let end = prop_oneof![
        12 => Just(End::Done),
        1 => slices.clone().prop_map(End::Cancel),
        1 => slices.clone().prop_map(End::Abandon),
        1 => slices.prop_map(End::Reset),
    ];
    (inhibited, refuse, change, end).prop_map(|(inhibited, refuse, change, end)| Course {
        inhibited,
        refuse,
        change,
        end,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let requests = || prop::collection::vec(request(), 1..4);
    let pages = |queue| {
        (requests(), course()).prop_map(move |(list, course)| Step::Pages(queue, list, course))
    };
    let report = (prop::collection::vec(segment(), 1..5), course());
    prop_oneof![
        12 => pages(QueueKind::Inflate),
        6 => pages(QueueKind::Deflate),
        4 => report.prop_map(|(segments, course)| Step::Report(segments, course)),
        1 => Just(Step::Reset),
        2 => (prop::bool::weighted(0.8), format())
            .prop_map(|(told, format)| Step::Negotiate(told, format)),
        2 => (0..MAPS).prop_map(Step::Memory),
        2 => prop::bool::weighted(0.9).prop_map(Step::Migrate),
        2 => (prop::bool::weighted(0.1), prop::bool::weighted(0.1))
            .prop_map(|(inhibited, refuse)| Step::Loaded(inhibited, refuse)),
        1 => (any::<u32>(), prop_oneof![Just(0), any::<u32>()])
            .prop_map(|(actual, poison_val)| Step::Config(actual, poison_val)),
    ]
}

/// Half as many cases as elsewhere, as each is long; PROPTEST_CASES asks for more.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: config.cases / 2,
        failure_persistence: None,
        ..config
    }
}

proptest! {
    #![proptest_config(config())]

    /// Whatever the guest does, and whatever becomes of memory and of requests in the middle.
    #[test]
    fn only_what_was_given_away_is_discarded(
        told in any::<bool>(),
        format in format(),
        steps in prop::collection::vec(step(), 1..30)
    ) {
        let mut world = World::new(told, format);
        for step in steps {
            world.step(step);
        }
    }
}

/// A message that lacks entries and says so is a sound one: the pages that it does not name stay
/// in the balloon.
#[test]
fn a_shorter_message_takes_less_back() {
    let mut world = World::new(true, Format::Ranges);
    let step = |queue, flaw| {
        let request = Request {
            pfns: vec![SMALL as u32, SMALL as u32 + 2, SMALL as u32 + 4],
            order: ByteOrder::Little,
            style: Words::Short,
            flaw,
        };
        let course = Course {
            inhibited: vec![],
            refuse: false,
            change: None,
            end: End::Done,
        };
        Step::Pages(queue, vec![request], course)
    };
    world.step(step(QueueKind::Inflate, Flaw::None));
    world.step(step(QueueKind::Deflate, Flaw::Short(8, true)));
}
