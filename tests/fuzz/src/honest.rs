// SPDX-License-Identifier: GPL-2.0-or-later
//! Guests that keep to the protocol: no page that one uses is discarded, or left out of a migration
//! and not sent again. The models are those of the library's tests.

use std::ops::Range;

use balloon::features::{FreePageSource, QueueKind};
use balloon::page::PAGE_SIZE;
use balloon::queue::held::Flush;
use balloon::wire::ByteOrder;

use crate::input::Input;
use crate::traffic::{self, Kind};
use crate::worlds::migration::ram::{LOGS, MIGRATED, PAGES, Ram};
use crate::worlds::migration::world::{Broken, Step as Move, World as Migration};
use crate::worlds::model::format::{Format, Words};
use crate::worlds::model::held::world::{
    HUGE as HUGE_PAGE, PAGES as HELD_PAGES, Step as HeldStep, World as Held,
};
use crate::worlds::model::mock::{END, HUGE, LONG, MAPS, SMALL};
use crate::worlds::model::world::{Course, End, Flaw, Request, Step, World};

/// Steps of a run in the device's model, which looks at each page.
const STEPS: usize = 12;
/// Steps of a run with pages that wait for their neighbours.
const HELD_STEPS: usize = 40;
/// Steps of a run in the migration's model, which has few pages.
const MOVES: usize = 400;

/// Takes the input for what a guest, a host and a migration do.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        0 => device(&mut input),
        1 => held(&mut input),
        _ => migration(&mut input),
    }
}

fn device(input: &mut Input<'_>) {
    let mut world = World::new(input.any(), format(input));
    for _ in 0..STEPS {
        if input.is_empty() {
            return;
        }
        world.step(step(input));
    }
}

fn step(input: &mut Input<'_>) -> Step {
    match input.below(30) {
        0..12 => pages(input, QueueKind::Inflate),
        12..18 => pages(input, QueueKind::Deflate),
        18..22 => {
            let count = 1 + input.below(4);
            let segments = (0..count).map(|_| segment(input)).collect();
            Step::Report(segments, course(input))
        }
        22 => Step::Reset,
        23 => Step::Negotiate(!input.one_in(5), format(input)),
        24 | 25 => Step::Memory(input.index(MAPS)),
        26 => Step::Migrate(!input.one_in(10)),
        27 | 28 => Step::Loaded(input.one_in(10), input.one_in(10)),
        _ => Step::Config(input.any(), input.pick(&[0, 0xaaaa_aaaa])),
    }
}

fn format(input: &mut Input<'_>) -> Format {
    input.pick(&[Format::Pfns, Format::Pfns, Format::Ranges, Format::Chunks])
}

/// What is wrong with a request, mostly nothing.
fn flaw(input: &mut Input<'_>) -> Flaw {
    match input.below(16) {
        12 => Flaw::Behind(1 + input.index(3)),
        13 => Flaw::Short(1 + input.index(39), input.any()),
        14 => Flaw::WrongWay,
        15 => Flaw::NotRam(input.index(1000)),
        _ => Flaw::None,
    }
}

fn pages(input: &mut Input<'_>, queue: QueueKind) -> Step {
    let count = 1 + input.below(3);
    let requests = (0..count).map(|_| request(input)).collect();
    Step::Pages(queue, requests, course(input))
}

fn request(input: &mut Input<'_>) -> Request {
    let mut pfns = Vec::new();
    for _ in 0..=input.below(3) {
        let (first, count, apart) = stretch(input);
        let stretch = (0..count).map(|i| first + i * apart);
        let mut stretch: Vec<u32> = stretch.map_while(|page| page.try_into().ok()).collect();
        if input.any() {
            stretch.reverse();
        }
        pfns.extend(stretch);
    }
    if input.one_in(8) {
        pfns = recorded_pfns(input);
    }
    let order = input.pick(&[ByteOrder::Little, ByteOrder::Big]);
    Request {
        pfns,
        order,
        style: input.pick(&[Words::Short, Words::Long, Words::Series]),
        flaw: flaw(input),
    }
}

/// Page numbers in the order in which a guest sent them, moved to where these machines have memory.
fn recorded_pfns(input: &mut Input<'_>) -> Vec<u32> {
    let queue = input.pick(&[Kind::Inflate, Kind::Deflate]);
    let (room, base) = (END as u32, input.below(END) as u32);
    let numbers = traffic::any(input, queue).chunks_exact(4);
    let pfns = numbers.map(|pfn| u32::from_le_bytes([pfn[0], pfn[1], pfn[2], pfn[3]]));
    pfns.map(|pfn| (pfn % room + base) % room).collect()
}

/// Pages one after the other: the first, how many, and how far apart.
fn stretch(input: &mut Input<'_>) -> (u64, u64, u64) {
    match input.below(8) {
        0 | 1 => (
            SMALL + input.below(170),
            1 + input.below(80),
            1 + input.below(2),
        ),
        2 | 3 => (input.below(44) * 4 + 2, 4 * (1 + input.below(5)), 1),
        4 if input.any() => (LONG + input.below(4096), 4096, 1),
        4 => (HUGE + input.below(2100), 1 + input.below(1200), 1),
        5 => (HUGE + input.below(16) * 128, 128 * (1 + input.below(4)), 1),
        6 => (
            LONG + input.below(END - LONG),
            1 + input.below(900),
            1 + input.below(4),
        ),
        _ => (END + input.below((1 << 32) - END), 1 + input.below(20), 1),
    }
}

/// A report's segment, most of them aligned as a driver's are.
fn segment(input: &mut Input<'_>) -> (usize, u64) {
    let mut cut = || match input.one_in(5) {
        true => input.below(PAGE_SIZE),
        false => 0,
    };
    let (before, after) = (cut(), cut());
    let block = 1 + input.index(5);
    let offset = input.below(9000) * PAGE_SIZE + before;
    let bytes = (1 + input.below(700)) * PAGE_SIZE;
    ((block << 40) + offset as usize, bytes.saturating_sub(after))
}

fn course(input: &mut Input<'_>) -> Course {
    let inhibited = match input.below(10) {
        8 => vec![true],
        9 => (0..3).map(|_| input.any()).collect(),
        _ => vec![],
    };
    let after = |input: &mut Input<'_>| input.below(3) as u32;
    let end = match input.below(15) {
        12 => End::Cancel(after(input)),
        13 => End::Abandon(after(input)),
        14 => End::Reset(after(input)),
        _ => End::Done,
    };
    let change = input.one_in(9);
    Course {
        inhibited,
        refuse: input.one_in(10),
        change: change.then(|| (1 + input.below(2) as u32, input.index(MAPS))),
        end,
    }
}

fn held(input: &mut Input<'_>) {
    let mut world = Held::new();
    for _ in 0..HELD_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(held_step(input));
    }
    world.end();
}

fn held_step(input: &mut Input<'_>) -> HeldStep {
    match input.below(32) {
        0..8 => HeldStep::Inflate(held_ranges(input)),
        8..13 => HeldStep::Deflate(held_ranges(input)),
        13 => HeldStep::DeflateInPart(held_range(input), held_range(input)),
        14..22 => {
            let flush = input.pick(&[Flush::Aged, Flush::Aged, Flush::All]);
            HeldStep::Flush(flush, input.pick(&[u32::MAX, 1, 2, 3]))
        }
        22 => {
            let queue = input.pick(&[QueueKind::Inflate, QueueKind::Deflate]);
            HeldStep::GiveUp(queue, held_range(input), input.pick(&[0, 1, 2]))
        }
        23 => HeldStep::Reset,
        24 => HeldStep::Migrate,
        25 | 26 => HeldStep::Inhibit(input.any()),
        27 | 28 => HeldStep::Owed(input.pick(&[u32::MAX, 1, 2, 3])),
        29 => HeldStep::Replug,
        _ => HeldStep::Write(held_range(input)),
    }
}

fn held_ranges(input: &mut Input<'_>) -> Vec<Range<u64>> {
    (0..1 + input.below(3)).map(|_| held_range(input)).collect()
}

/// Any pages, half a huge page, or a few.
fn held_range(input: &mut Input<'_>) -> Range<u64> {
    let half = HUGE_PAGE / 2;
    let (first, count) = match input.below(3) {
        0 => (input.below(HELD_PAGES), 1 + input.below(699)),
        1 => (input.below(HELD_PAGES / half) * half, half),
        _ => (input.below(HELD_PAGES - 4), 1 + input.below(3)),
    };
    first..(first + count).min(HELD_PAGES)
}

fn migration(input: &mut Input<'_>) {
    let source = input.pick(&[
        FreePageSource::FreePageHint,
        FreePageSource::HostRequest,
        FreePageSource::MiscQueue,
    ]);
    let ram = Ram::new(input.pick(&LOGS), input.any());
    let mut world = Migration::new(source, ram, Broken::No);
    for _ in 0..MOVES {
        if input.is_empty() {
            break;
        }
        let step = next_move(input);
        if let Err(wrong) = world.step(&step) {
            panic!("{step:?}: {wrong}");
        }
    }
    if let Err(wrong) = world.end() {
        panic!("{wrong}");
    }
}

fn next_move(input: &mut Input<'_>) -> Move {
    let page = input.index(PAGES);
    let count = 1 + input.index(5);
    match input.below(64) {
        0..3 => Move::Write(page),
        3..10 => Move::WriteHeld(page),
        10..15 => Move::Free(page, count),
        15..21 => Move::Notice,
        21..30 => Move::Post(page % MIGRATED, count),
        30 => Move::PostStop,
        31..33 => Move::Inflate(page),
        33..35 => Move::Deflate(page),
        35..39 => Move::Pop(count),
        39 => Move::Pop(99),
        40 => Move::SayEmpty,
        41..48 => Move::Migrate(count),
        48 => Move::Migrate(20),
        49..52 => Move::Send(count),
        52 => Move::SyncEarly,
        53 => Move::CutArming,
        54 => Move::MainSync(count),
        55 => Move::Collect,
        56 => Move::Reap,
        57 => Move::ResetRing,
        58 => Move::Submit,
        59 => Move::OfferBuffer,
        60 => match count {
            1 => Move::Cancel,
            2 => Move::Reset,
            3 => Move::ResetQueue,
            4 => Move::GiveBack,
            _ => Move::Move,
        },
        61 if count == 1 => Move::Switch,
        61 | 62 => Move::Touch(page),
        _ if count == 1 => Move::Interrupt,
        _ => Move::Deliver,
    }
}
