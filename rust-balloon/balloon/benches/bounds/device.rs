// SPDX-License-Identifier: GPL-2.0-or-later
//! What the device does, under the big lock.

use crate::guest::{GIB, Guest, random};
use crate::idle::Idle;
use crate::{Calls, Row, row, timed};
use balloon::batch::MAX_PFNS;
use balloon::device::{Balloon, Options, Progress, RequestEnd, RequestPart};
use balloon::features::{Features, QueueKind};
use balloon::host::Inhibit;
use balloon::memory::MemoryMap;
use balloon::pageset::{self, MAX_BYTES};
use balloon::queue::held::{Flush, MAX_HOLD_BYTES};
use balloon::state::{SavedPages, State};
use balloon::wire::ByteOrder;

/// Pages of a piece of a set of pages.
const CHUNK: u64 = 32768;

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = vec![
        row("save: as many runs as fit", |gib| {
            let mut balloon = device(gib, 0);
            load(&mut balloon, &every_second(gib));
            save(&balloon)
        }),
        row("save: a page in each 128 MiB", |gib| {
            let mut balloon = device(gib, 0);
            load(&mut balloon, &scattered(gib));
            save(&balloon)
        }),
        row("load: as many runs as fit", |gib| {
            load(&mut device(gib, 0), &every_second(gib))
        }),
        row("load: as many runs as fit, far apart", |gib| {
            load(&mut device(gib, 0), &apart(gib))
        }),
        row("load: a page in each 128 MiB", |gib| {
            load(&mut device(gib, 0), &scattered(gib))
        }),
        row("load: all pages", |gib| {
            load(&mut device(gib, 0), &coded(std::iter::once(0..gib * GIB)))
        }),
        row("what a migration brought is given back", |gib| {
            let mut balloon = device(gib, 0);
            load(&mut balloon, &apart(gib));
            discard_owed(&mut balloon)
        }),
        row("the set is forgotten, and what is owed", |gib| {
            let mut balloon = device(gib, 0);
            load(&mut balloon, &apart(gib));
            let mut calls = Calls::new();
            timed(&mut calls, || balloon.batch_abandon());
            calls.extend(discard_owed(&mut balloon));
            calls
        }),
        row("reset", |gib| {
            let mut balloon = device(gib, 0);
            load(&mut balloon, &apart(gib));
            let mut calls = Calls::new();
            timed(&mut calls, || balloon.reset());
            calls.extend(discard_owed(&mut balloon));
            calls
        }),
        row("all memory goes", |gib| {
            let mut balloon = device(gib, 0);
            load(&mut balloon, &apart(gib));
            let mut calls = Calls::new();
            timed(&mut calls, || balloon.set_memory(MemoryMap::default()));
            calls.extend(discard_owed(&mut balloon));
            calls
        }),
        row("what is held is given back, 64 MiB", |gib| {
            let mut balloon = device(gib, MAX_HOLD_BYTES);
            let pages = MAX_HOLD_BYTES / 4096;
            let pages: Vec<u64> = (0..pages).map(|n| random(n) % (gib * GIB)).collect();
            batch(&mut balloon, QueueKind::Inflate, &pages, Inhibit::No);
            let (mut calls, mut more) = (Calls::new(), true);
            while more {
                let done = timed(&mut calls, || {
                    balloon.flush_held(&mut Idle, Flush::All, Inhibit::No)
                });
                more = done == Progress::More;
            }
            calls
        }),
    ];
    for (name, inhibit) in [("", Inhibit::No), (", discards inhibited", Inhibit::Pinned)] {
        for hold in [0, 4 << 20] {
            let what = format!("{}{name}", if hold > 0 { ", held" } else { "" });
            rows.push(row(format!("inflate random pages{what}"), move |gib| {
                let mut balloon = device(gib, hold);
                batch(&mut balloon, QueueKind::Inflate, &pages(gib, 0), inhibit)
            }));
            rows.push(row(format!("deflate random pages{what}"), move |gib| {
                let mut balloon = device(gib, hold);
                for first in 0..32 {
                    let pages = pages(gib, first);
                    batch(&mut balloon, QueueKind::Inflate, &pages, inhibit);
                }
                batch(&mut balloon, QueueKind::Deflate, &pages(gib, 31), inhibit)
            }));
        }
    }
    rows.push(row("deflate: holes in lines", |gib| {
        let mut balloon = device(gib, 0);
        // Pieces that hold whole lines of 512 pages need no memory until a page leaves one.
        let lines = (0..gib * GIB / CHUNK).map(|chunk| chunk * CHUNK..chunk * CHUNK + 512);
        load(&mut balloon, &coded(lines));
        let pages: Vec<u64> = (0..gib * GIB / CHUNK)
            .map(|chunk| chunk * CHUNK + 5)
            .collect();
        batch(&mut balloon, QueueKind::Deflate, &pages, Inhibit::No)
    }));
    rows
}

fn device(gib: u64, hold_bytes: u64) -> Balloon {
    let mut balloon = Balloon::new(Options {
        hold_bytes,
        ..Options::default()
    });
    balloon.set_memory(Guest::new(gib).memory(0));
    balloon.set_features(Features::MUST_TELL_HOST, false);
    balloon
}

/// A batch full of random pages.
fn pages(gib: u64, first: u64) -> Vec<u64> {
    let numbers = first * MAX_PFNS as u64..(first + 1) * MAX_PFNS as u64;
    numbers.map(|n| random(n) % (gib * GIB)).collect()
}

/// Takes pages in or out; a call is what a slice is, and adding all requests is one of its own.
fn batch(balloon: &mut Balloon, queue: QueueKind, pages: &[u64], inhibit: Inhibit) -> Calls {
    let payload: Vec<u8> = pages
        .iter()
        .flat_map(|&pfn| (pfn as u32).to_le_bytes())
        .collect();
    let part = RequestPart {
        payload: &payload,
        total: payload.len() as u64,
        order: ByteOrder::Little,
        end: Some(RequestEnd::default()),
    };
    let (mut calls, mut more) = (Calls::new(), true);
    timed(&mut calls, || balloon.batch_add(queue, part)).expect("room for it");
    while more {
        let progress = timed(&mut calls, || balloon.batch_run(&mut Idle, inhibit));
        more = progress == Progress::More;
    }
    calls
}

fn discard_owed(balloon: &mut Balloon) -> Calls {
    let (mut calls, mut more) = (Calls::new(), true);
    while more {
        let progress = timed(&mut calls, || balloon.discard_owed(&mut Idle, Inhibit::No));
        more = progress == Progress::More;
    }
    calls
}

fn coded(runs: impl IntoIterator<Item = std::ops::Range<u64>>) -> Vec<u8> {
    let mut out = vec![0; MAX_BYTES];
    let written = pageset::encode(runs, &mut out);
    out.truncate(written.bytes);
    out
}

/// As many runs as a stream can hold: those of every second page.
fn every_second(gib: u64) -> Vec<u8> {
    coded((0..gib * GIB / 2).map(|n| 2 * n..2 * n + 1))
}

/// As many runs as a stream can hold if they lie in all of memory.
fn apart(gib: u64) -> Vec<u8> {
    let step = ((gib * GIB) >> 20).max(2);
    coded((0..gib * GIB / step).map(|n| n * step..n * step + 1))
}

fn scattered(gib: u64) -> Vec<u8> {
    coded((0..gib * GIB / CHUNK).map(|n| n * CHUNK + 7..n * CHUNK + 8))
}

fn load(balloon: &mut Balloon, coded: &[u8]) -> Calls {
    let state = State::save(balloon, 0);
    let pages = SavedPages {
        coded,
        complete: true,
    };
    let mut calls = Calls::new();
    timed(&mut calls, || state.load(balloon, Some(pages), u64::MAX)).expect("a stream");
    calls
}

fn save(balloon: &Balloon) -> Calls {
    let mut calls = Calls::new();
    let mut out = vec![0; MAX_BYTES];
    timed(&mut calls, || SavedPages::write(balloon, &mut out));
    calls
}
