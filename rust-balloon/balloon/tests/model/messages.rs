// SPDX-License-Identifier: GPL-2.0-or-later
//! Inflate and deflate requests in every format, beside a device that gets the same pages as PFNs.
//!
//! What a message names is told by a parser of its own, which knows nothing of parts: a page of what
//! stands before the first place that makes no sense counts, and no other. After a deflate of which
//! something did not count, no page counts as ballooned.

use std::collections::BTreeSet;

use balloon::counters::Counters;
use balloon::device::{Balloon, Options, Progress, RequestEnd, RequestPart};
use balloon::error::Error;
use balloon::features::{Features, QueueKind};
use balloon::host::Inhibit;
use balloon::memory::BlockRange;
use balloon::page::PAGE_SIZE;
use balloon::pageset::MAX_BYTES;
use balloon::state::SavedPages;
use balloon::wire::ByteOrder;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::format::{Format, MESSAGES, Run, Words, as_pfns, encode, parse, ram};
use crate::mock::{END, HUGE, LONG, MAPS, MockHost, RAM, SMALL, memory_map, sections};

/// What a request came to: what the host was asked for in each slice.
type Slices = Vec<(Vec<BlockRange>, Vec<BlockRange>)>;

struct Device {
    balloon: Balloon,
    format: Format,
}

impl Device {
    /// The runs of pages that a migration would leave out.
    fn left_out(&self) -> Vec<std::ops::Range<u64>> {
        let left_out = self.balloon.left_out();
        left_out.map_or_else(Vec::new, |balloon| balloon.pages.runs().collect())
    }

    fn new(format: Format, told: bool, map: usize) -> Device {
        let mut balloon = Balloon::new(Options::default());
        balloon.set_memory(memory_map(map));
        let mut features = format.feature();
        features.set(Features::MUST_TELL_HOST, told);
        balloon.set_features(features, false);
        Device { balloon, format }
    }

    /// A request in parts that end at `cuts`, worked off as a batch of its own.
    fn request(&mut self, queue: QueueKind, payload: &[u8], cuts: &[Index]) -> Slices {
        let unit = if self.format == Format::Pfns { 4 } else { 1 };
        let units = payload.len() / unit;
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(units + 1) * unit).collect();
        ends.push(payload.len());
        ends.sort_unstable();
        let mut at = 0;
        for (number, &end) in ends.iter().enumerate() {
            let is_last = number + 1 == ends.len();
            let part = RequestPart {
                payload: &payload[at..end],
                total: payload.len() as u64,
                order: ByteOrder::Little,
                end: is_last.then_some(RequestEnd {
                    descriptors: 1,
                    wrong_way: 0,
                }),
            };
            assert!(part.payload.len() <= self.balloon.batch_room(queue));
            assert_eq!(self.balloon.batch_add(queue, part), Ok(()));
            at = end;
        }
        self.run()
    }

    fn run(&mut self) -> Slices {
        let mut slices = Vec::new();
        loop {
            let mut host = MockHost::default();
            let progress = self.balloon.batch_run(&mut host, Inhibit::No);
            slices.push((host.discards, host.populates));
            if progress == Progress::Done {
                return slices;
            }
        }
    }

    fn counters(&self) -> Counters {
        self.balloon.counters(RAM)
    }

    /// The set of pages in the balloon, as it is saved.
    fn set(&self) -> Vec<u8> {
        let mut coded = vec![0; MAX_BYTES];
        let written = SavedPages::write(&self.balloon, &mut coded);
        coded.truncate(written.bytes);
        coded
    }
}

/// Whole pages of each kind of block and parts of them.
fn run() -> impl Strategy<Value = Run> {
    prop_oneof![
        3 => (SMALL..64, 1..20u64),
        2 => (94..160u64, 1..40u64),
        3 => (HUGE..HUGE + 2048, 1..600u64),
        4 => (0..4u64, 1..4u64).prop_map(|(at, count)| (HUGE + at * 512, count * 512)),
        2 => (LONG..END, 1..5000u64),
        1 => Just((LONG, 8192)),
        1 => (4094..4098u64).prop_map(|count| (LONG, count)),
    ]
}

fn inside(run: &Run, ram: &[Run]) -> Option<Run> {
    let &(start, pages) = ram
        .iter()
        .find(|&&(start, pages)| run.0 >= start && run.0 < start + pages)?;
    Some((run.0, run.1.min(start + pages - run.0)))
}

fn queue() -> impl Strategy<Value = QueueKind> {
    prop_oneof![3 => Just(QueueKind::Inflate), 2 => Just(QueueKind::Deflate)]
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..6)
}

/// Entries of which some make no sense.
fn words() -> impl Strategy<Value = Vec<u64>> {
    let good = run().prop_map(|(first, count)| vec![(first << 12) | (count % 4096)]);
    let long = run().prop_map(|(first, count)| vec![first << 12, count]);
    let chunk = run().prop_map(|(first, count)| vec![first << 12, count << 12]);
    let reserved =
        (run(), 1..4096u64).prop_map(|((first, count), low)| vec![first << 12 | low, count << 12]);
    let empty = run().prop_map(|(first, _)| vec![first << 12, 0]);
    let nowhere = (END - 2..END + 4, 1..4u64).prop_map(|(first, count)| vec![first << 12 | count]);
    let any = prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), Just(u64::MAX << 12)];
    let entry = prop_oneof![
        8 => good,
        8 => long,
        8 => chunk,
        1 => reserved,
        1 => empty,
        1 => nowhere,
        1 => any.prop_map(|word| vec![word]),
    ];
    prop::collection::vec(entry, 0..12).prop_map(|entries| entries.concat())
}

/// A message of which the header mostly fits, and which may be cut or go on.
fn message(format: Format) -> impl Strategy<Value = Vec<u8>> {
    let wrong = prop_oneof![12 => Just(0), 1 => -20..20i64, 1 => any::<i64>()];
    let length = prop_oneof![12 => Just(0), 2 => -20..20isize];
    let follows = any::<bool>();
    (words(), wrong, length, follows).prop_map(move |(mut words, wrong, length, follows)| {
        if format == Format::Chunks && words.len() % 2 == 1 {
            words.pop();
        }
        let (head, right) = match format {
            Format::Chunks => (0, words.len() as i64 / 2),
            _ => (4, words.len() as i64 * 8),
        };
        let mut message = vec![7; head];
        message.extend((right.wrapping_add(wrong) as u32).to_le_bytes());
        message.extend(words.into_iter().flat_map(u64::to_le_bytes));
        let len = message.len().saturating_add_signed(length);
        message.resize(len, 0);
        if format == Format::Ranges && length != 0 && follows && len >= 8 {
            message[4..8].copy_from_slice(&(len as u32 - 8).to_le_bytes());
        }
        message
    })
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// The counters without those that only messages have.
fn without_messages(counters: Counters) -> Counters {
    Counters {
        malformed_messages: 0,
        ignored_message_bytes: 0,
        ..counters
    }
}

proptest! {
    #![proptest_config(config())]

    /// The same pages in any format, cut in any parts, are the same work in the same slices.
    #[test]
    fn formats_are_ways_to_say_the_same(
        told in any::<bool>(),
        map in 0..MAPS,
        requests in prop::collection::vec(
            (queue(), prop::collection::vec(run(), 0..6), any::<bool>(), cuts()), 1..6
        ),
    ) {
        let ram = ram(&sections(map));
        let mut pfns = Device::new(Format::Pfns, told, map);
        let mut devices = MESSAGES.map(|format| Device::new(format, told, map));
        for (queue, runs, long, cuts) in requests {
            let mut room = 32768;
            let runs: Vec<Run> = runs
                .iter()
                .filter_map(|run| inside(run, &ram))
                .take_while(|&(_, count)| {
                    room -= count as i64;
                    room >= 0
                })
                .collect();
            let style = if long { Words::Long } else { Words::Short };
            // From an odd page on, a long range may be what the series' driver meant otherwise.
            let in_doubt = |count| queue == QueueKind::Deflate && (long || count >= 4096);
            let even = |(first, count)| (first & !u64::from(in_doubt(count)), count);
            let runs: Vec<Run> = runs.into_iter().map(even).collect();
            let wanted = pfns.request(queue, &encode(Format::Pfns, &runs, style), &cuts);
            for device in &mut devices {
                let payload = encode(device.format, &runs, style);
                let done = device.request(queue, &payload, &cuts);
                prop_assert_eq!(&done, &wanted, "{:?}", device.format);
                prop_assert_eq!(device.counters(), pfns.counters(), "{:?}", device.format);
                prop_assert!(device.set() == pfns.set(), "{:?}", device.format);
            }
        }
    }

    /// Whatever a message holds, only what stands before its first bad place counts, and how much does
    /// not is counted.
    #[test]
    fn what_is_behind_a_bad_place_does_not_count(
        told in any::<bool>(),
        map in 0..MAPS,
        requests in prop::collection::vec(
            (queue(), message(Format::Ranges), message(Format::Chunks), cuts()), 1..8
        ),
    ) {
        let ram = ram(&sections(map));
        for format in MESSAGES {
            let mut device = Device::new(format, told, map);
            let mut pfns = Device::new(Format::Pfns, told, map);
            let (mut malformed, mut left_out) = (0, 0);
            for (queue, ranges, chunks, cuts) in &requests {
                let message = if format == Format::Ranges { ranges } else { chunks };
                let parsed = parse(format, message, &ram);
                malformed += u64::from(parsed.left_out.is_some());
                left_out += parsed.left_out.unwrap_or(0);
                let wanted = pfns.request(*queue, &as_pfns(&parsed.runs), &[]);
                // What a deflate named and nobody understood, the guest uses again all the same.
                let is_lost = parsed.left_out.is_some() || parsed.doubtful;
                if *queue == QueueKind::Deflate && is_lost {
                    pfns.balloon.batch_abandon();
                }
                let done = device.request(*queue, message, cuts);
                prop_assert_eq!(&done, &wanted, "{:?}: {:x?}", format, message);
                let counters = device.counters();
                prop_assert_eq!(counters.malformed_messages, malformed);
                prop_assert_eq!(counters.ignored_message_bytes, left_out);
                prop_assert_eq!(without_messages(counters), pfns.counters());
                prop_assert!(device.set() == pfns.set());
            }
        }
    }
}

/// A message of any length is read to its end, a batch at a time, and nothing of it is lost.
#[test]
fn a_message_goes_on_in_the_next_batch() {
    for told in [false, true] {
        let mut device = Device::new(Format::Ranges, told, 0);
        // Every second page, so that none are merged; then again, for more than a batch.
        let pages = (0..4096u64).map(|page| (LONG + 2 * page, 1));
        let runs: Vec<Run> = pages.cycle().take(40_000).collect();
        let message = encode(Format::Ranges, &runs, Words::Short);
        let (mut at, mut batches) = (0, 0);
        let mut discarded = BTreeSet::new();
        while at < message.len() {
            let room = device.balloon.batch_room(QueueKind::Inflate);
            let end = (at + 4096.min(room)).min(message.len());
            let is_last = end == message.len();
            let part = RequestPart {
                payload: &message[at..end],
                total: message.len() as u64,
                order: ByteOrder::Little,
                end: is_last.then_some(RequestEnd::default()),
            };
            assert_eq!(device.balloon.batch_add(QueueKind::Inflate, part), Ok(()));
            at = end;
            if is_last || device.balloon.batch_room(QueueKind::Inflate) == 0 {
                for (discards, _) in device.run() {
                    discarded.extend(discards.iter().map(|range| range.offset));
                }
                batches += 1;
            }
        }
        assert_eq!(batches, 3);
        assert_eq!(discarded.len(), 4096);
        assert_eq!(device.counters().malformed_messages, 0);
        assert_eq!(device.counters().requests, 1);
    }
}

/// The series' own driver writes a run of exactly 4096 pages so that its length reads as 0. However
/// such a deflate is read, the guest has back what it meant: none of it is left out of a migration
/// or completes a huge page.
#[test]
fn a_deflate_as_the_series_driver_writes_it() {
    const RUN: Run = (LONG, 4096);
    // In use again after the deflate, behind the run in the same message.
    let rests: [&[Run]; 4] = [
        // The run's length is missing.
        &[],
        // Its length would reach out of memory.
        &[(HUGE, 8)],
        // Its length could be one: 4101 pages.
        &[(1, 5)],
        // So that what follows is read from its middle on.
        &[(1, 5), (HUGE, 8)],
    ];
    for rest in rests {
        let mut device = Device::new(Format::Ranges, true, 0);
        let inflated = [(0, 16), (HUGE, 511), RUN];
        let message = encode(Format::Ranges, &inflated, Words::Short);
        device.request(QueueKind::Inflate, &message, &[]);
        let deflated = [&[RUN], rest].concat();
        let message = encode(Format::Ranges, &deflated, Words::Series);
        device.request(QueueKind::Deflate, &message, &[]);
        assert_eq!(device.left_out(), [], "{rest:?}");
        // The rest of the huge page.
        let message = encode(Format::Ranges, &[(HUGE + 511, 1)], Words::Short);
        let slices = device.request(QueueKind::Inflate, &message, &[]);
        assert!(slices.iter().all(|(discards, _)| discards.is_empty()));
    }
}

/// Bytes that are no PFN, and buffers that are not read, may have named any page.
#[test]
fn a_deflate_in_part_is_none() {
    let bytes = |pages: std::ops::Range<u32>| pages.flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    let flaws: [(&[u8], usize); 3] = [(&[], 0), (&[7, 0], 0), (&[], 1)];
    for (behind, wrong_way) in flaws {
        let mut device = Device::new(Format::Pfns, true, 0);
        device.request(QueueKind::Inflate, &bytes(0..8), &[]);
        let payload = [&bytes(0..4), behind].concat();
        let part = RequestPart {
            payload: &payload,
            total: payload.len() as u64,
            order: ByteOrder::Little,
            end: Some(RequestEnd {
                descriptors: 2,
                wrong_way,
            }),
        };
        assert_eq!(device.balloon.batch_add(QueueKind::Deflate, part), Ok(()));
        device.run();
        let left_out = device.left_out();
        let is_whole = behind.is_empty() && wrong_way == 0;
        assert_eq!(left_out.len(), usize::from(is_whole), "{left_out:?}");
    }
}

/// Half a message of one queue is not the beginning of another queue's.
#[test]
fn a_message_is_not_finished_by_the_other_queue() {
    let mut device = Device::new(Format::Ranges, true, 0);
    let message = encode(Format::Ranges, &[(LONG, 4)], Words::Short);
    let half = |payload, end| RequestPart {
        payload,
        total: message.len() as u64,
        order: ByteOrder::Little,
        end,
    };
    let end = Some(RequestEnd::default());
    let first = device
        .balloon
        .batch_add(QueueKind::Inflate, half(&message[..8], None));
    assert_eq!(first, Ok(()));
    device.run();
    let rest = half(&message[8..], end);
    let other = device.balloon.batch_add(QueueKind::Deflate, rest);
    assert_eq!(other, Err(Error::BatchInWork));
    assert_eq!(device.balloon.batch_add(QueueKind::Inflate, rest), Ok(()));
    device.run();
    assert_eq!(device.counters().inflated_bytes, 4 * PAGE_SIZE);
    // Nor is it once the batch was given up.
    let first = half(&message[..8], None);
    assert_eq!(device.balloon.batch_add(QueueKind::Inflate, first), Ok(()));
    device.balloon.batch_abandon();
    let whole = half(&message, end);
    assert_eq!(device.balloon.batch_add(QueueKind::Deflate, whole), Ok(()));
    assert_eq!(device.counters().malformed_messages, 0);
}
