// SPDX-License-Identifier: GPL-2.0-or-later
//! What a device saved, damaged, and loaded in another machine: refused with nothing changed, or
//! taken over as it is, and in no case with pages in the balloon that the guest did not give away.

use std::ops::Range;

use balloon::device::{Balloon, Options, Progress, RequestEnd, RequestPart};
use balloon::features::{Features, QueueKind};
use balloon::host::Inhibit;
use balloon::page::PAGE_SIZE;
use balloon::pageset;
use balloon::queue::hint::{HintRecord, Hints};
use balloon::state::{SavedPages, State};
use balloon::wire::ByteOrder;

use crate::input::Input;
use crate::message::{self, Layout};
use crate::traffic::{self, Kind};
use crate::worlds::model::mock::{MAPS, MockHost, RAM, memory_map, sections, standard};

/// Room for the sets of such small machines.
const ROOM: usize = 1 << 16;
/// Slices in which all of a set is given back.
const SLICES: usize = 2000;

/// A stream, as far as it is this device's.
#[derive(Clone, Debug)]
struct Stream {
    state: State,
    pages: Option<(Vec<u8>, bool)>,
    hints: HintRecord,
}

/// Takes the input for what a source did, what became of its stream, and for the destination.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let source_map = input.index(MAPS);
    let source = source(&mut input, source_map);
    let sound = save(&source, input.any());
    let mut stream = sound.clone();
    // Most of what a Linux guest gave away is not there in these small machines.
    let is_foreign = input.one_in(4);
    if is_foreign {
        recorded(&mut input, &mut stream);
    }
    let is_damaged = input.any();
    if is_damaged {
        damage(&mut input, &mut stream);
    }
    let same_map = input.any();
    let map = match same_map {
        true => source_map,
        false => input.index(MAPS),
    };
    let mut to = source_like(&mut input, source.negotiated(), map);
    let before = save(&to, 0);
    let answer = load(&stream, &mut to);
    let after = save(&to, stream.state.stats_polling_interval);
    match answer {
        Err(error) => {
            assert!(
                is_damaged || is_foreign,
                "{error:?}: a sound stream was refused"
            );
            assert_eq!(text(&before), text(&save(&to, 0)), "{error:?}");
        }
        Ok(()) => {
            assert_eq!(stream.state.num_pages, after.state.num_pages);
            assert_eq!(stream.state.actual, after.state.actual);
            if !is_damaged && !is_foreign && same_map {
                assert_eq!(runs_of(&sound), runs_of(&after));
            }
            check_loaded(&mut to, &stream, map);
        }
    }
    check_hints(stream.hints);
}

/// A device whose guest did this and that.
fn source(input: &mut Input<'_>, map: usize) -> Balloon {
    let mut features = standard();
    features.set(Features::MUST_TELL_HOST, !input.one_in(5));
    source_like(input, features, map)
}

fn source_like(input: &mut Input<'_>, features: Features, map: usize) -> Balloon {
    let mut balloon = Balloon::new(Options::default());
    balloon.set_memory(memory_map(map));
    balloon.set_features(features, false);
    balloon.write_config(input.bytes(16));
    balloon.set_target(input.below(RAM), RAM);
    for _ in 0..input.below(6) {
        let queue = match input.one_in(3) {
            true => QueueKind::Deflate,
            false => QueueKind::Inflate,
        };
        let payload = message::request(input, Layout::Pfns);
        let part = RequestPart {
            payload: &payload,
            total: payload.len() as u64,
            order: ByteOrder::Little,
            end: Some(RequestEnd::default()),
        };
        assert_eq!(balloon.batch_add(queue, part), Ok(()));
        let mut host = MockHost::default();
        while balloon.batch_run(&mut host, Inhibit::No) == Progress::More {}
    }
    balloon
}

/// What moved with a Linux guest.
fn recorded(input: &mut Input<'_>, stream: &mut Stream) {
    let numbers = traffic::any(input, Kind::State).chunks_exact(4);
    let mut numbers = numbers.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let state = &mut stream.state;
    for field in [
        &mut state.num_pages,
        &mut state.actual,
        &mut state.poison_val,
    ] {
        *field = numbers.next().unwrap_or_default();
    }
    let pages = traffic::mostly(input, Kind::Pages);
    stream.pages = Some((pages, input.any()));
}

fn save(balloon: &Balloon, interval: i64) -> Stream {
    let told = balloon.negotiated().contains(Features::MUST_TELL_HOST);
    let mut coded = vec![0; ROOM];
    let written = SavedPages::write(balloon, &mut coded);
    coded.truncate(written.bytes);
    Stream {
        state: State::save(balloon, interval & 0xffff_ffff),
        pages: told.then_some((coded, written.complete)),
        hints: Hints::default().save(),
    }
}

fn load(stream: &Stream, to: &mut Balloon) -> Result<(), balloon::error::Error> {
    let pages = stream.pages.as_ref().map(|(coded, complete)| SavedPages {
        coded,
        complete: *complete,
    });
    stream.state.load(to, pages, RAM)
}

fn text(stream: &Stream) -> String {
    format!("{stream:?}")
}

fn damage(input: &mut Input<'_>, stream: &mut Stream) {
    for _ in 0..1 + input.below(3) {
        match input.below(12) {
            0 => stream.state.num_pages = input.number() as u32,
            1 => stream.state.actual = input.any(),
            2 => stream.state.poison_val = input.any(),
            3 => stream.state.has_stats = input.any(),
            4 => stream.state.stats_last_update = input.any(),
            5 => stream.state.stats_polling_interval = input.number() as i64,
            6 => stream.state.founding = input.any(),
            7 => stream.hints.cmd_id = input.any(),
            8 => stream.hints.status = input.number() as u32,
            9 => stream.pages = None,
            10 => stream.pages = Some((input.bytes(64).to_vec(), input.any())),
            _ => damage_pages(input, stream),
        }
    }
}

fn damage_pages(input: &mut Input<'_>, stream: &mut Stream) {
    let Some((coded, complete)) = &mut stream.pages else {
        return;
    };
    if coded.is_empty() {
        *complete = input.any();
        return;
    }
    let at = input.index(coded.len());
    match input.below(4) {
        0 => coded[at] ^= 1 << input.below(8),
        1 => coded.truncate(at),
        2 => coded.insert(at, input.any()),
        _ => drop(coded.remove(at)),
    }
}

fn runs_of(stream: &Stream) -> Vec<Range<u64>> {
    let coded = stream.pages.as_ref().map_or(&[][..], |(coded, _)| coded);
    let runs: Result<_, _> = pageset::decode(coded).collect();
    runs.expect("what the library coded")
}

/// Whether runs that follow each other hold a page.
fn holds(runs: &[Range<u64>], page: u64) -> bool {
    let next = runs.partition_point(|run| run.end <= page);
    runs.get(next).is_some_and(|run| run.start <= page)
}

/// The set that was taken over is the stream's without what is not RAM here, and no other page is
/// given back to the host.
fn check_loaded(to: &mut Balloon, stream: &Stream, map: usize) {
    let told = runs_of(stream);
    let sections = sections(map);
    let is_ram = |page| {
        let mut pages = sections.iter().map(|section| section.gpa.page_indices());
        pages.any(|(first, end)| (first..end).contains(&page))
    };
    let saved = save(to, 0);
    let taken = runs_of(&saved);
    for page in taken.iter().cloned().flatten() {
        assert!(holds(&told, page) && is_ram(page), "{page:#x}");
    }
    check_counts(
        to,
        &saved,
        taken.iter().map(|run| run.end - run.start).sum(),
    );
    let mut host = MockHost::default();
    let slices =
        (0..SLICES).take_while(|_| to.discard_owed(&mut host, Inhibit::No) == Progress::More);
    assert!(slices.count() < SLICES, "giving back comes to no end");
    assert_eq!(to.owed_bytes(), 0, "some is still to be given back");
    for range in &host.discards {
        let offsets = range.offset..range.offset + range.bytes;
        for offset in offsets.step_by(PAGE_SIZE as usize) {
            let mut pages = sections.iter().filter_map(|section| {
                let at = offset.checked_sub(section.offset)?;
                let inside = section.block == range.block && at < section.gpa.bytes();
                inside.then(|| (section.gpa.start().0 + at) / PAGE_SIZE)
            });
            assert!(pages.any(|page| holds(&taken, page)), "{range:x?}");
        }
    }
}

/// What the device says of its `pages` is what they are: all of them are still to be given back,
/// and where the set is complete they are the balloon.
fn check_counts(to: &Balloon, saved: &Stream, pages: u64) {
    let counters = to.counters(RAM);
    assert_eq!(counters.owed_bytes, pages * PAGE_SIZE);
    assert_eq!(counters.held_bytes, 0);
    if let Some((_, true)) = saved.pages {
        assert_eq!(counters.ballooned_bytes, pages * PAGE_SIZE);
    }
}

fn check_hints(record: HintRecord) {
    let mut hints = Hints::default();
    let before = hints.save();
    match hints.load(record) {
        Ok(()) => assert_eq!(hints.save().cmd_id, record.cmd_id),
        Err(_) => assert_eq!(hints.save(), before),
    }
}
