// SPDX-License-Identifier: GPL-2.0-or-later
//! Batches: what it costs to sort them, and to make room for pages of a large guest, is paid for.

use balloon::batch::MAX_PFNS;
use balloon::device::{Balloon, Options, Progress, RequestEnd, RequestPart};
use balloon::features::{Features, QueueKind};
use balloon::host::Inhibit;
use balloon::wire::ByteOrder;

use crate::allocations;
use crate::guest::{GIB, Guest, SIZES, random};
use crate::idle::Idle;

/// Pieces of memory that are asked for in a slice: of those that take 2 µs each as many as fit
/// into half a millisecond; and some for lists that grow.
pub(crate) const MOST_PIECES: u64 = 250 + 40;
/// Pages that are looked up in a slice, at 250 ns each; a few of them have neighbours.
const MOST_PAGES: u64 = 2050;

fn device(gib: u64, hold_bytes: u64) -> Balloon {
    let mut balloon = Balloon::new(Options {
        hold_bytes,
        ..Options::default()
    });
    balloon.set_memory(Guest::new(gib).memory(0));
    balloon.set_features(Features::MUST_TELL_HOST, false);
    balloon
}

/// Does a batch of these pages in slices, and looks at each of them.
fn are_bounded(balloon: &mut Balloon, queue: QueueKind, pfns: &[u64], inhibit: Inhibit) {
    let payload: Vec<u8> = pfns
        .iter()
        .flat_map(|&pfn| (pfn as u32).to_le_bytes())
        .collect();
    let part = RequestPart {
        payload: &payload,
        total: payload.len() as u64,
        order: ByteOrder::Little,
        end: Some(RequestEnd {
            descriptors: 1,
            wrong_way: 0,
        }),
    };
    balloon.batch_add(queue, part).expect("room for it");
    let done = |balloon: &Balloon| {
        let counters = balloon.counters(0);
        (counters.inflated_bytes + counters.deflated_bytes) >> 12
    };
    loop {
        let (pieces, pages) = (allocations(), done(balloon));
        let progress = balloon.batch_run(&mut Idle, inhibit);
        let pieces = allocations() - pieces;
        assert!(
            pieces <= MOST_PIECES,
            "{queue:?}: {pieces} pieces of memory"
        );
        let pages = done(balloon) - pages;
        let is_scattered = pfns.windows(2).all(|pair| pair[0] + 1 != pair[1]);
        assert!(!is_scattered || pages <= MOST_PAGES, "{pages} pages");
        if progress == Progress::Done {
            return;
        }
    }
}

#[test]
fn random_pages_go_in_and_out_in_slices() {
    for gib in SIZES {
        for hold_bytes in [0, 4 << 20] {
            for inhibit in [Inhibit::No, Inhibit::Pinned] {
                let mut balloon = device(gib, hold_bytes);
                let pages = |from: u64| (from..from + MAX_PFNS as u64).map(random);
                let within = |page: u64| page % (gib * GIB);
                let pfns: Vec<u64> = pages(0).map(within).collect();
                are_bounded(&mut balloon, QueueKind::Inflate, &pfns, inhibit);
                are_bounded(&mut balloon, QueueKind::Deflate, &pfns, inhibit);
            }
        }
    }
}

/// Pieces that hold whole lines of 512 pages need no memory until a page leaves one.
#[test]
fn holes_in_lines_are_made_in_slices() {
    const LINE: u64 = 512;
    const CHUNK: u64 = 64 * LINE;
    for gib in SIZES {
        let mut balloon = device(gib, 0);
        let lines = (0..gib * GIB / CHUNK).map(|chunk| chunk * CHUNK);
        let lines: Vec<u64> = lines.collect();
        for some in lines.chunks(MAX_PFNS / LINE as usize) {
            let pfns = some.iter().flat_map(|&first| first..first + LINE);
            are_bounded(
                &mut balloon,
                QueueKind::Inflate,
                &pfns.collect::<Vec<_>>(),
                Inhibit::Pinned,
            );
        }
        let pfns: Vec<u64> = lines.iter().map(|first| first + 5).collect();
        are_bounded(&mut balloon, QueueKind::Deflate, &pfns, Inhibit::No);
    }
}
