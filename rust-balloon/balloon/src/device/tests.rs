// SPDX-License-Identifier: GPL-2.0-or-later
//! What only the inside of a device shows.

use super::*;
use crate::counters::Tally;
use crate::features::FreePageSource;
use crate::host::Refused;
use crate::memory::{Backing, BlockId, BlockSpan, HostRange, Section, Way};
use crate::page::Gpa;
use crate::pageset::PAGE_LIMIT;
use crate::queue::hint::Hints;
use crate::wire::founding::GET_UNUSED_PAGES;
use sparse_bitmap::SparseBitmap;

const GIB: u64 = 1 << 30;

/// Refuses every other call of each kind.
#[derive(Default)]
struct Whim {
    discards: bool,
    frees: bool,
}

fn every_other(last: &mut bool) -> Result<(), Refused> {
    *last = !*last;
    let error = crate::error::HostError(12);
    last.then_some(()).ok_or(Refused { done: 0, error })
}

impl Host for Whim {
    fn discard(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
        every_other(&mut self.discards)
    }

    fn drop_private(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
        every_other(&mut self.discards)
    }

    fn free(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
        every_other(&mut self.frees)
    }

    fn populate(&mut self, _: BlockId, _: &[BlockSpan]) {}
}

/// Where the host has memory with a file behind it that others run on.
const TEMPLATE: usize = 1 << 45;

/// A device of a guest with so much memory from address 0 on, and a little more.
fn device(features: Features, ram: u64, page_size: u64) -> Balloon {
    let mut balloon = Balloon::new(Options {
        features: Features::all(),
        reporting_advice: Advice::Free,
        ..Options::default()
    });
    let section = Section {
        gpa: GpaRange::with_len(Gpa(0), ram).unwrap(),
        block: BlockId(1),
        offset: 0,
        page_size,
        host: 1 << 44,
        backing: Backing {
            way: Way::Drop,
            populate: true,
            lazy: true,
            ..Backing::default()
        },
    };
    let template = Section {
        gpa: GpaRange::with_len(Gpa(2 * ram), 4 << 20).unwrap(),
        block: BlockId(2),
        host: TEMPLATE,
        backing: Backing {
            reads_zeros: false,
            ..Backing::default()
        },
        ..section
    };
    balloon.set_memory(MemoryMap::new(vec![section, template]).unwrap());
    balloon.set_features(features, false);
    balloon
}

/// Each counter at `number`.
fn all(number: u64) -> Counters {
    Counters {
        ballooned_bytes: number,
        held_bytes: number,
        owed_bytes: number,
        inflated_bytes: number,
        deflated_bytes: number,
        reported_bytes: number,
        discarded_bytes: number,
        ranges: number,
        discards: number,
        batches: number,
        requests: number,
        malformed_messages: number,
        ignored_message_bytes: number,
        ignored_request_buffers: number,
        discard_errors: number,
        ignored_bad_pfns: number,
        ignored_trailing_bytes: number,
        ignored_writable_buffers: number,
        ignored_readable_buffers: number,
        ignored_report_bytes: number,
        ignored_report_unaligned_bytes: number,
        ignored_report_poison_bytes: number,
        ignored_report_file_bytes: number,
        ignored_stats: number,
        ignored_stats_buffers: number,
        partial_page_bytes: number,
        inhibited_bytes: number,
        free_errors: number,
    }
}

/// The counters as a list of numbers, which is what they are.
fn numbers(counters: &Counters) -> Vec<u64> {
    let text = format!("{counters:?}");
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// A driver with these features does everything that is counted, right and wrong.
fn everything(features: Features, start: Counters) -> Counters {
    let mut balloon = device(features, GIB, 2 << 20);
    balloon.counters = Tally::new(start);
    let mut host = Whim::default();
    let end = RequestEnd {
        descriptors: 3,
        wrong_way: 2,
    };
    for round in 0..4 {
        // Whole large pages and parts of them, pages that are none, and bytes that are no PFN.
        let pages = (round * 2048..round * 2048 + 600).chain([1 << 20]);
        let mut payload: Vec<u8> = pages.flat_map(|page: u32| page.to_le_bytes()).collect();
        payload.push(9);
        let inhibits = [Inhibit::No, Inhibit::Pinned];
        for (queue, inhibit) in [QueueKind::Inflate, QueueKind::Deflate]
            .into_iter()
            .flat_map(|queue| inhibits.map(|inhibit| (queue, inhibit)))
        {
            let part = RequestPart {
                payload: &payload,
                total: payload.len() as u64,
                order: ByteOrder::Little,
                end: Some(end),
            };
            balloon.batch_add(queue, part).unwrap();
            while balloon.batch_run(&mut host, inhibit) == Progress::More {}
        }
        let reported = [(1 << 44) + 4096, (1 << 44) + GIB as usize - 4096, TEMPLATE];
        let reported = reported.map(|host| HostRange {
            host,
            bytes: 4 << 20,
        });
        for poison_val in [0, 1] {
            balloon.config.poison_val = poison_val;
            balloon.batch_add_report(reported, end).unwrap();
            while balloon.batch_run(&mut host, Inhibit::No) == Progress::More {}
        }
        balloon.receive_stats(
            &[0xff; 10],
            StatsBuffer {
                len: 30,
                wrong_way: 1,
                held: true,
                ..StatsBuffer::default()
            },
        );
        balloon.ignore_request_buffer();
    }
    *balloon.counters
}

/// A guest can have each of them counted as often as it likes, and most by as much as it likes.
#[test]
fn no_counter_overflows() {
    let features = [
        Features::empty(),
        Features::MUST_TELL_HOST,
        Features::PAGE_RANGE,
    ];
    let mut counted = vec![false; numbers(&Counters::default()).len()];
    for features in features {
        let from_zero = everything(features, Counters::default());
        let at_the_end = everything(features, all(u64::MAX - 1));
        let both = numbers(&from_zero).into_iter().zip(numbers(&at_the_end));
        for (seen, (first, last)) in counted.iter_mut().zip(both) {
            assert!(last >= u64::MAX - 1, "{at_the_end:?}");
            *seen |= first > 1 && last == u64::MAX;
        }
    }
    // All but `ballooned_bytes`, `held_bytes` and `owed_bytes`, which are not counted.
    let never = counted.iter().filter(|seen| !**seen).count();
    assert_eq!(never, 3, "{counted:?}");
}

/// The longest answers that there can be, each naming all of a guest of 1 TiB in each of its words.
#[test]
fn hints_of_more_than_there_is() {
    let mut balloon = device(Features::HOST_REQUEST, 1024 * GIB, PAGE_SIZE);
    let mut hints = Hints::default();
    let source = FreePageSource::HostRequest;
    hints.set_source(source);
    hints.receive_buffer(source);
    hints.after_sync(true);
    let wanted = hints.wanted();
    while !hints.request(wanted) {
        hints.queue_empty();
    }
    let id = hints.take_request(source).unwrap() as u16;
    let all = [0u64, 1024 * GIB / PAGE_SIZE]
        .map(u64::to_le_bytes)
        .concat();
    let entries = all.repeat(4096);
    let mut message = [GET_UNUSED_PAGES as u8, 0].to_vec();
    message.extend(id.to_le_bytes());
    message.extend((entries.len() as u32).to_le_bytes());
    message.extend(entries);
    let part = AnswerPart {
        payload: &message,
        total: message.len() as u64,
        first: true,
        last: true,
    };
    balloon.receive_answer(&mut hints, source, part);
    let each = 4096 * 1024 * GIB;
    assert_eq!(hints.counters().hinted_bytes, each);
    // As many of them as it takes to come near the end: 255 MiB.
    hints.receive_hint(HostRange {
        host: 0,
        bytes: u64::MAX - 2 * each - 1,
    });
    for last in [u64::MAX - 1, u64::MAX, u64::MAX] {
        balloon.receive_answer(&mut hints, source, part);
        assert_eq!(hints.counters().hinted_bytes, last);
    }
    assert_eq!(balloon.counters.malformed_messages, 0);
}

/// Over the hint queue a guest says how long each is, and needs no round.
#[test]
fn late_hints_of_more_than_there_is() {
    let mut hints = Hints::default();
    for _ in 0..2 {
        hints.receive_hint(HostRange {
            host: 0,
            bytes: u64::MAX,
        });
    }
    assert_eq!(hints.counters().late_bytes, u64::MAX);
}

/// What is plugged again in the place of a page was never in the balloon, nor reported.
#[test]
fn what_is_unplugged_is_forgotten() {
    let mut balloon = device(Features::MUST_TELL_HOST, GIB, PAGE_SIZE);
    let mut section = balloon.memory.sections()[0];
    section.backing.in_parts = true;
    let map = || MemoryMap::new(vec![section]).unwrap();
    let part = GpaRange::with_len(Gpa(2 << 20), 2 << 20).unwrap();
    let (first, end) = part.page_indices();
    let set = |pages| {
        let mut set = SparseBitmap::new(PAGE_LIMIT);
        set.insert_range(pages);
        set
    };
    balloon.set_memory(map());
    assert!(!balloon.memory.is_ram(part));

    balloon.plug(part);
    assert!(balloon.memory.is_ram(part));
    balloon.balloon.begin(set(first..end), true);
    let range = HostRange {
        host: section.host + (2 << 20),
        bytes: 2 << 20,
    };
    let end_of_request = RequestEnd::default();
    balloon.batch_add_report([range], end_of_request).unwrap();
    balloon.set_memory(map());
    assert_eq!(balloon.balloon.set().len(), end - first, "the same memory");
    assert!(balloon.memory.is_ram(part));

    balloon.unplug(part);
    assert_eq!(balloon.balloon.set().len(), 0);
    balloon.plug(part);
    let mut host = Whim::default();
    while balloon.batch_run(&mut host, Inhibit::No) == Progress::More {}
    assert_eq!(balloon.counters(GIB).reported_bytes, 0, "reported before");

    balloon.set_memory(MemoryMap::default());
    balloon.set_memory(map());
    assert!(
        !balloon.memory.is_ram(part),
        "the host has not said it again"
    );
}

/// Beside a vhost-user device, large pages stay, or everything.
#[test]
fn large_pages_may_be_all_that_is_inhibited() {
    let large = Backing {
        large: true,
        ..Backing::default()
    };
    for (inhibit, small_stays, large_stays) in [
        (Inhibit::No, false, false),
        (Inhibit::VhostUserLargePages, false, true),
        (Inhibit::VhostUser, true, true),
        (Inhibit::Pinned, true, true),
    ] {
        for (backing, stays) in [(Backing::default(), small_stays), (large, large_stays)] {
            let mut balloon = device(Features::empty(), GIB, PAGE_SIZE);
            let mut section = balloon.memory.sections()[0];
            section.backing = backing;
            balloon.set_memory(MemoryMap::new(vec![section]).unwrap());
            let reported = HostRange {
                host: section.host,
                bytes: PAGE_SIZE,
            };
            let end = RequestEnd::default();
            balloon.batch_add_report([reported], end).unwrap();
            let mut host = Whim::default();
            while balloon.batch_run(&mut host, inhibit) == Progress::More {}
            let counters = balloon.counters(GIB);
            assert_eq!(counters.inhibited_bytes > 0, stays, "{inhibit:?}");
            assert_eq!(counters.discards == 0, stays, "{inhibit:?}");
        }
    }
}
