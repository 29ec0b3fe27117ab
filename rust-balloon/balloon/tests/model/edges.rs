// SPDX-License-Identifier: GPL-2.0-or-later
//! The edges of each handler, one by one.

use balloon::device::{AdviceInForce, Balloon, Options, Progress, RequestEnd, StatsBuffer};
use balloon::error::Error;
use balloon::features::{Features, QueueKind};
use balloon::host::Inhibit;
use balloon::memory::{Backing, BlockId, BlockRange, HostRange, MemoryMap, Section, Way};
use balloon::page::PAGE_SIZE;
use balloon::queue::Advice;
use balloon::queue::stats::NOT_REPORTED;
use balloon::wire::ByteOrder;

use crate::mock::{MockHost, RAM, memory_map, part, section, standard};

const ONE: Option<RequestEnd> = Some(RequestEnd {
    descriptors: 1,
    wrong_way: 0,
});
const M2: u64 = 2 << 20;

fn balloon(told: bool, map: MemoryMap) -> Balloon {
    let mut balloon = Balloon::new(Options::default());
    balloon.set_memory(map);
    let mut features = standard();
    features.set(Features::MUST_TELL_HOST, told);
    balloon.set_features(features, false);
    balloon
}

fn map(sections: &[Section]) -> MemoryMap {
    MemoryMap::new(sections.to_vec()).unwrap()
}

fn add(balloon: &mut Balloon, queue: QueueKind, pfns: impl IntoIterator<Item = u32>) {
    let payload: Vec<u8> = pfns.into_iter().flat_map(u32::to_le_bytes).collect();
    let added = balloon.batch_add(queue, part(&payload, ByteOrder::Little, ONE));
    assert_eq!(added, Ok(()));
}

/// Runs to the end; the discards as (block, first page, pages), and the slices.
fn run(balloon: &mut Balloon) -> (Vec<(usize, u64, u64)>, u32) {
    let mut host = MockHost::default();
    let mut slices = 1;
    while balloon.batch_run(&mut host, Inhibit::No) == Progress::More {
        slices += 1;
    }
    let list = host.discards.into_iter().map(
        |BlockRange {
             block: BlockId(block),
             offset,
             bytes,
         }| (block, offset / PAGE_SIZE, bytes / PAGE_SIZE),
    );
    (list.collect(), slices)
}

fn inflate(balloon: &mut Balloon, pfns: impl IntoIterator<Item = u32>) -> Vec<(usize, u64, u64)> {
    add(balloon, QueueKind::Inflate, pfns);
    run(balloon).0
}

fn deflate(balloon: &mut Balloon, pfns: impl IntoIterator<Item = u32>) {
    add(balloon, QueueKind::Deflate, pfns);
    assert_eq!(run(balloon).0, []);
}

fn report(balloon: &mut Balloon, host: usize, bytes: u64) -> Vec<(usize, u64, u64)> {
    let ranges = [HostRange { host, bytes }];
    let added = balloon.batch_add_report(ranges, RequestEnd::default());
    assert_eq!(added, Ok(()));
    run(balloon).0
}

#[test]
fn a_request_may_name_nothing() {
    let mut balloon = balloon(true, memory_map(0));
    for queue in [QueueKind::Inflate, QueueKind::Deflate] {
        add(&mut balloon, queue, []);
        assert_eq!(run(&mut balloon), (vec![], 1));
    }
    assert_eq!(report(&mut balloon, 1 << 40, 0), []);
    let counters = balloon.counters(RAM);
    assert_eq!((counters.batches, counters.ranges), (3, 0));
}

/// The highest page that a PFN can name is RAM like any other; beyond it reports go on.
#[test]
fn the_end_of_what_pfns_can_name() {
    let last = u64::from(u32::MAX);
    let mut balloon = balloon(true, map(&[section(1, last - 1, 4, 0, PAGE_SIZE)]));
    let pfns = [u32::MAX, u32::MAX - 1, u32::MAX - 2, 0];
    assert_eq!(inflate(&mut balloon, pfns), [(1, 0, 2)]);
    let counters = balloon.counters(u64::MAX);
    assert_eq!(counters.ballooned_bytes, 2 * PAGE_SIZE);
    assert_eq!(counters.ignored_bad_pfns, 2);
    let all = report(&mut balloon, 1 << 40, 4 * PAGE_SIZE);
    assert_eq!(all, [(1, 0, 4)]);
    deflate(&mut balloon, [u32::MAX]);
    assert_eq!(balloon.counters(u64::MAX).ballooned_bytes, PAGE_SIZE);
}

/// A large page of which PFNs can name a half only is never complete.
#[test]
fn a_large_page_at_the_end_of_what_pfns_can_name() {
    for told in [true, false] {
        let first = u64::from(u32::MAX) - 255;
        let mut balloon = balloon(told, map(&[section(1, first, 512, 0, M2)]));
        assert_eq!(inflate(&mut balloon, u32::MAX - 255..=u32::MAX), []);
        assert_eq!(balloon.counters(u64::MAX).inflated_bytes, 1 << 20);
    }
}

/// What other machines have: backing pages of 64 KiB, and a block that begins within one.
#[test]
fn pages_of_other_sizes() {
    let mut balloon = balloon(true, map(&[section(7, 100, 64, 5, 64 << 10)]));
    // Block pages 5 to 68: of 16 each, those from 16 on are whole, up to 63.
    assert_eq!(inflate(&mut balloon, 100..164), [(7, 16, 48)]);
    deflate(&mut balloon, [111, 163]);
    assert_eq!(inflate(&mut balloon, [112]), [], "page 111 is the guest's");
    assert_eq!(inflate(&mut balloon, [128]), [(7, 32, 16)]);
    assert_eq!(inflate(&mut balloon, [111]), [(7, 16, 16)]);
    assert_eq!(
        inflate(&mut balloon, [163]),
        [],
        "in a page that is not all here"
    );
}

/// Neighbours in a block that are not neighbours to the guest are different ranges to it.
#[test]
fn a_large_page_in_two_places_is_never_whole() {
    let parts = [section(1, 0, 256, 0, M2), section(1, 1000, 768, 256, M2)];
    for told in [true, false] {
        let mut balloon = balloon(told, map(&parts));
        let mut pfns: Vec<u32> = (0..256).collect();
        pfns.extend(1000..1768);
        assert_eq!(inflate(&mut balloon, pfns), [(1, 512, 512)]);
        let (start, bytes) = (1 << 40, 1024 * PAGE_SIZE);
        assert_eq!(report(&mut balloon, start, bytes), [(1, 512, 512)]);
        let unaligned = balloon.counters(RAM).ignored_report_unaligned_bytes;
        assert_eq!(unaligned, M2);
    }
}

/// The oldest case of all: B completes a page of which A is the guest's again.
#[test]
fn inflate_a_deflate_a_inflate_b() {
    for told in [true, false] {
        let mut balloon = balloon(told, map(&[section(1, 0, 512, 0, M2)]));
        assert_eq!(inflate(&mut balloon, 0..256), []);
        deflate(&mut balloon, 0..256);
        assert_eq!(inflate(&mut balloon, 256..512), []);
        let discarded = inflate(&mut balloon, 0..256);
        assert_eq!(discarded, if told { vec![(1, 0, 512)] } else { vec![] });
    }
}

/// An acknowledged deflate that was not carried out leaves nothing that could complete a page.
#[test]
fn an_abandoned_deflate_forgets() {
    let mut balloon = balloon(true, map(&[section(1, 0, 512, 0, M2)]));
    assert_eq!(inflate(&mut balloon, 0..511), []);
    add(&mut balloon, QueueKind::Deflate, [7]);
    balloon.batch_abandon();
    assert_eq!(inflate(&mut balloon, [511]), []);
    // A cancelled one was not acknowledged: the pages are in the balloon until it comes again.
    assert_eq!(inflate(&mut balloon, 0..512), [(1, 0, 512)]);
    add(&mut balloon, QueueKind::Deflate, [7]);
    balloon.batch_cancel();
    assert_eq!(inflate(&mut balloon, [8]), [(1, 0, 512)]);
    deflate(&mut balloon, [7]);
    assert_eq!(inflate(&mut balloon, [8]), []);
}

/// Refusals count only in a row; after too many the host is left in peace until the machine is reset.
#[test]
fn a_host_that_refuses_is_left_in_peace() {
    let mut balloon = balloon(true, memory_map(0));
    let mut host = MockHost::default();
    for round in 0..3 {
        for pfn in 0..10 {
            host.refuse = pfn < 9;
            add(&mut balloon, QueueKind::Inflate, [pfn]);
            balloon.batch_run(&mut host, Inhibit::No);
        }
        assert_eq!((host.refused, host.done), (9 * (round + 1), round + 1));
    }
    host.refuse = true;
    add(&mut balloon, QueueKind::Inflate, (0..64).step_by(2));
    balloon.batch_run(&mut host, Inhibit::No);
    assert_eq!(host.refused, 27 + 16);
    assert_eq!(balloon.counters(RAM).discard_errors, 27 + 32);
    assert_eq!(balloon.counters(RAM).discards, 3 + 27 + 16);
    assert_eq!(balloon.counters(RAM).inflated_bytes, 62 * PAGE_SIZE);
    assert_eq!(inflate(&mut balloon, [1]), []);
    balloon.reset();
    assert_eq!(
        inflate(&mut balloon, [1]),
        [],
        "a driver cannot have it asked again"
    );
    assert_eq!(
        inflate(&mut balloon, [crate::mock::LONG as u32]),
        [(4, 0, 1)],
        "another block is another matter"
    );
    balloon.machine_reset();
    assert_eq!(inflate(&mut balloon, [1]), [(1, 1, 1)]);
}

/// A host that cannot take memory later can still take it now, and the other way round.
#[test]
fn a_host_is_left_in_peace_with_what_it_refused() {
    let lazy = |block, host| Section {
        backing: Backing {
            way: Way::Drop,
            lazy: true,
            ..Backing::default()
        },
        host,
        ..section(block, 0, 64, 0, PAGE_SIZE)
    };
    let old = lazy(1, 1 << 40);
    let mut balloon = Balloon::new(Options {
        reporting_advice: Advice::Free,
        ..Options::default()
    });
    balloon.set_memory(map(&[old]));
    balloon.set_features(standard(), false);
    let mut host = MockHost {
        refuse_free: true,
        ..MockHost::default()
    };
    let report = |balloon: &mut Balloon, host: &mut MockHost, from: usize| {
        let pages = (0..20).map(|page| HostRange {
            host: from + 2 * page * PAGE_SIZE as usize,
            bytes: PAGE_SIZE,
        });
        let added = balloon.batch_add_report(pages, RequestEnd::default());
        assert_eq!(added, Ok(()));
        balloon.batch_run(host, Inhibit::No);
        std::mem::take(&mut host.frees)
    };
    let at = old.host;
    assert_eq!(balloon.advice_in_force(), AdviceInForce::Free);
    assert_eq!(report(&mut balloon, &mut host, at), 16);
    assert_eq!(host.done, 4, "the rest of them at once");
    assert_eq!(balloon.advice_in_force(), AdviceInForce::Refused);
    assert_eq!(report(&mut balloon, &mut host, at), 0);
    assert_eq!(host.done, 4 + 20);
    let counters = balloon.counters(RAM);
    assert_eq!((counters.free_errors, counters.discard_errors), (16, 0));
    assert_eq!(counters.discarded_bytes, 24 * PAGE_SIZE);
    assert_eq!(inflate(&mut balloon, [1, 3]), [(1, 1, 1), (1, 3, 1)]);
    assert_eq!(
        report(&mut balloon, &mut host, at),
        0,
        "a discard says nothing of it"
    );

    // The same memory elsewhere is the same; another block of the same name is not.
    let moved = Section {
        gpa: section(1, 64, 64, 0, PAGE_SIZE).gpa,
        ..old
    };
    balloon.set_memory(map(&[moved]));
    assert_eq!(report(&mut balloon, &mut host, at), 0);
    let at = 2 << 40;
    balloon.set_memory(map(&[lazy(1, at)]));
    assert_eq!(report(&mut balloon, &mut host, at), 16);
    balloon.set_memory(map(&[]));
    balloon.set_memory(map(&[lazy(1, at)]));
    assert_eq!(report(&mut balloon, &mut host, at), 16);
    balloon.machine_reset();
    assert_eq!(report(&mut balloon, &mut host, at), 16);

    // The other way round.
    balloon.machine_reset();
    assert_eq!(balloon.advice_in_force(), AdviceInForce::Free);
    (host.refuse, host.refuse_free) = (true, false);
    add(&mut balloon, QueueKind::Inflate, (0..40).step_by(2));
    balloon.batch_run(&mut host, Inhibit::No);
    host.refuse = false;
    assert_eq!(report(&mut balloon, &mut host, at), 1);
}

#[test]
fn deflating_what_was_never_inflated_is_harmless() {
    let mut balloon = balloon(true, memory_map(0));
    deflate(&mut balloon, (0..64).chain(5_000_000..5_000_010));
    let counters = balloon.counters(RAM);
    assert_eq!(counters.deflated_bytes, 64 * PAGE_SIZE);
    assert_eq!(counters.ignored_bad_pfns, 10);
    assert_eq!(counters.ballooned_bytes, 0);
}

/// However a guest chooses its pages, a slice asks the host only so often.
#[test]
fn slices_are_short() {
    let mut balloon = balloon(true, map(&[section(4, 0, 1 << 17, 0, PAGE_SIZE)]));
    add(&mut balloon, QueueKind::Inflate, (0..1 << 16).step_by(2));
    let mut host = MockHost::default();
    let mut before = 0;
    while balloon.batch_run(&mut host, Inhibit::No) == Progress::More {
        assert!((1..=512).contains(&(host.done - before)), "{}", host.done);
        before = host.done;
    }
    assert_eq!(host.done, 1 << 15);
    // Pages that are not there cost less, and still end a slice.
    add(
        &mut balloon,
        QueueKind::Deflate,
        (1 << 20..(1 << 20) + (1 << 16)).step_by(2),
    );
    let (_, slices) = run(&mut balloon);
    assert!((2..20).contains(&slices), "{slices}");
}

/// A slice that is over in the middle of a large page would lose it: neither side holds all of it.
#[test]
fn slices_end_between_large_pages() {
    let pages = 1 << 15;
    let section = section(1, 0, u64::from(pages), 1, 16 << 10);
    for told in [true, false] {
        let mut balloon = balloon(told, map(&[section]));
        add(&mut balloon, QueueKind::Inflate, 0..pages);
        let (discards, slices) = run(&mut balloon);
        assert!(slices > 1);
        assert!(
            discards
                .windows(2)
                .all(|two| two[0].1 + two[0].2 == two[1].1)
        );
        let all: u64 = discards.iter().map(|(_, _, pages)| pages).sum();
        // All but the incomplete ones at both ends.
        assert_eq!((discards[0].1, all), (4, u64::from(pages) - 3 - 1));
    }
}

#[test]
fn batches_of_two_queues_do_not_mix() {
    let mut balloon = balloon(true, memory_map(0));
    add(&mut balloon, QueueKind::Deflate, [1]);
    let inflate = balloon.batch_add(QueueKind::Inflate, part(&[0; 4], ByteOrder::Little, ONE));
    assert_eq!(inflate, Err(Error::BatchInWork));
    let ranges = [HostRange {
        host: 1 << 40,
        bytes: 1,
    }];
    let report = balloon.batch_add_report(ranges, RequestEnd::default());
    assert_eq!(report, Err(Error::BatchInWork));
    let stats = balloon.batch_add(QueueKind::Stats, part(&[0; 4], ByteOrder::Little, ONE));
    assert_eq!(stats, Err(Error::InvalidArgument));
    let counters = balloon.counters(RAM);
    assert_eq!(
        counters.ignored_report_bytes, 0,
        "what is refused changes nothing"
    );
    run(&mut balloon);
    assert_eq!(balloon.counters(RAM).deflated_bytes, PAGE_SIZE);
}

/// A report beyond the room that was announced is the caller's fault, and nothing else changes.
#[test]
fn a_full_batch_takes_no_report() {
    let mut balloon = balloon(true, memory_map(0));
    let mut reports = 0;
    while balloon.batch_room(QueueKind::Reporting) > 0 {
        let added = balloon.batch_add_report([], RequestEnd::default());
        assert_eq!(added, Ok(()));
        reports += 1;
    }
    assert_eq!(reports, 128);
    let elsewhere = [HostRange { host: 0, bytes: 1 }];
    let added = balloon.batch_add_report(elsewhere, RequestEnd::default());
    assert_eq!(added, Err(Error::InvalidArgument));
    assert_eq!(balloon.counters(RAM).ignored_report_bytes, 0);
}

/// Reports of parts of a page that make it whole together: none of them is acknowledged before all
/// are done, so the page may go.
#[test]
fn reports_of_one_batch_complete_each_other() {
    let mut balloon = balloon(true, memory_map(0));
    let host = 1 << 40;
    let halves = [
        HostRange {
            host: host + 2048,
            bytes: 2048,
        },
        HostRange { host, bytes: 2048 },
    ];
    assert_eq!(
        balloon.batch_add_report(halves, RequestEnd::default()),
        Ok(())
    );
    assert_eq!(run(&mut balloon).0, [(1, 0, 1)]);
    // In two batches they do not.
    assert_eq!(report(&mut balloon, host, 2048), []);
    assert_eq!(report(&mut balloon, host + 2048, 2048), []);
    let unaligned = balloon.counters(RAM).ignored_report_unaligned_bytes;
    assert_eq!(unaligned, PAGE_SIZE);
}

/// A legacy driver's first statistics mean nothing, and a reset in between is a new first time.
#[test]
fn first_statistics_of_legacy_drivers() {
    let mut balloon = Balloon::new(Options::default());
    let entry = [4, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let buffer = StatsBuffer {
        len: entry.len(),
        now: 5,
        ..StatsBuffer::default()
    };
    for legacy in [true, false, true] {
        balloon.reset();
        balloon.machine_reset();
        balloon.set_features(Features::STATS_VQ, legacy);
        balloon.receive_stats(&entry, buffer);
        let expected = if legacy { NOT_REPORTED } else { 9 };
        assert_eq!(balloon.stats().values[4], expected);
        balloon.receive_stats(&entry, buffer);
        assert_eq!(balloon.stats().values[4], 9);
    }
}

/// A driver that promises to tell only once pages are in the balloon never told which.
#[test]
fn a_promise_in_the_middle() {
    let told = standard();
    let untold = standard().difference(Features::MUST_TELL_HOST);
    let new = || {
        let mut balloon = Balloon::new(Options::default());
        balloon.set_memory(memory_map(0));
        balloon
    };
    let size = |balloon: &Balloon| balloon.counters(RAM).ballooned_bytes / PAGE_SIZE;
    let set_actual = |balloon: &mut Balloon, pages: u8| {
        balloon.write_config(&[0, 0, 0, 0, pages, 0, 0, 0]);
    };

    // A legacy driver may write to the configuration space before it says what it accepts.
    let mut balloon = new();
    set_actual(&mut balloon, 9);
    balloon.set_features(told, true);
    assert_eq!(size(&balloon), 9);
    inflate(&mut balloon, [1]);
    assert_eq!(size(&balloon), 9);

    // It inflates, and has not said so in `actual`; or said so, and takes a part back.
    let mut balloon = new();
    balloon.set_features(untold, true);
    inflate(&mut balloon, [1, 2]);
    balloon.set_features(told, true);
    set_actual(&mut balloon, 2);
    assert_eq!(size(&balloon), 2);
    deflate(&mut balloon, [1]);
    set_actual(&mut balloon, 1);
    assert_eq!(size(&balloon), 1);

    // It takes its promise back for a while.
    let mut balloon = new();
    balloon.set_features(told, false);
    inflate(&mut balloon, [1, 2]);
    assert_eq!(size(&balloon), 2);
    balloon.set_features(untold, false);
    balloon.set_features(told, false);
    set_actual(&mut balloon, 2);
    assert_eq!(size(&balloon), 2);

    // To promise it again changes nothing, and a reset is a new beginning.
    let mut balloon = new();
    balloon.set_features(told, false);
    inflate(&mut balloon, [1, 2]);
    balloon.set_features(told, false);
    set_actual(&mut balloon, 9);
    assert_eq!(size(&balloon), 2);
    balloon.reset();
    balloon.set_features(told, false);
    assert_eq!(size(&balloon), 0);
}

/// What a driver fills free pages with means nothing once it does not say that it does.
#[test]
fn a_value_of_free_pages_goes_with_its_feature() {
    let mut balloon = balloon(true, memory_map(0));
    balloon.write_config(&[7; 16]);
    assert_eq!(balloon.config().poison_val, 0x0707_0707);
    balloon.set_features(standard().difference(Features::PAGE_POISON), false);
    assert_eq!(balloon.config().poison_val, 0);
    assert_eq!(report(&mut balloon, 1 << 40, PAGE_SIZE), [(1, 0, 1)]);
}
