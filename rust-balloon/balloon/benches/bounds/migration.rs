// SPDX-License-Identifier: GPL-2.0-or-later
//! What a migration does, under the bitmap lock and mostly the big lock.

use crate::guest::{BLOCK, GIB, Guest, HOST, WORST, random};
use crate::{Calls, Row, row, timed};
use balloon::features::FreePageSource;
use balloon::memory::{HostRange, MemoryMap};
use balloon::migration::arming::Arm;
use balloon::migration::skips::{Announced, DirtyChange, Hint, Skips};
use balloon::migration::sweep::Ballooned;
use balloon::queue::hint::Hints;
use balloon::wire::ByteOrder;
use sparse_bitmap::SparseBitmap;

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, word) in WORST {
        rows.push(row(format!("sweep: {name}, left out"), move |gib| {
            let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
            let (memory, balloon) = (guest.memory(7), guest.balloon(7, word));
            sweep(&mut guest, &mut skips, Some((&balloon, &memory)))
        }));
        rows.push(row(format!("sweep: {name}, stays"), move |gib| {
            let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
            let (memory, balloon) = (guest.memory(7), guest.balloon(7, word));
            sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
            sweep(&mut guest, &mut skips, Some((&balloon, &memory)))
        }));
        rows.push(row(format!("sweep: {name}, put back"), move |gib| {
            let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
            let (memory, balloon) = (guest.memory(7), guest.balloon(7, word));
            sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
            sweep(&mut guest, &mut skips, None)
        }));
        rows.push(row(format!("postcopy begins: {name}"), move |gib| {
            let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
            let (memory, balloon) = (guest.memory(7), guest.balloon(7, word));
            sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
            postcopy(&mut guest, &mut skips)
        }));
    }
    rows.push(row("a new migration: random pages were left out", |gib| {
        let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
        let (memory, balloon) = (guest.memory(7), guest.balloon(7, random));
        sweep(&mut guest, &mut skips, Some((&balloon, &memory)));
        let mut calls = Calls::new();
        timed(&mut calls, || skips.begin());
        calls.extend(sweep(&mut guest, &mut skips, None));
        calls
    }));
    rows.push(row("hints: single pages all over", |gib| {
        hints(gib, |number| {
            // The log of 256 GiB at most is armed.
            (random(number) % (gib.min(256) * GIB), 1)
        })
    }));
    rows.push(row("hints: 4 MiB each", |gib| {
        hints(gib, |number| {
            let all = gib.min(256) * GIB / 1024;
            (random(number) % all * 1024, 1024)
        })
    }));
    rows.push(row("hints: all of memory", |gib| {
        hints(gib, |number| (number % 2, gib * GIB - 1))
    }));
    rows.push(row("hints are told of a synchronization", |gib| {
        let mut hints = Hints::default();
        fill(&mut hints, |number| (random(number) % (gib * GIB), 1));
        let mut calls = Calls::new();
        timed(&mut calls, || hints.before_sync());
        calls
    }));
    rows
}

fn sweep(
    guest: &mut Guest,
    skips: &mut Skips,
    balloon: Option<(&SparseBitmap, &MemoryMap)>,
) -> Calls {
    let balloon = balloon.map(|(pages, memory)| Ballooned { pages, memory });
    let (mut calls, mut more) = (Calls::new(), true);
    guest.synced(skips);
    while more {
        let mut change = DirtyChange::default();
        more = timed(&mut calls, || {
            skips.sweep(guest, balloon.as_ref(), &mut change)
        });
    }
    calls
}

fn postcopy(guest: &mut Guest, skips: &mut Skips) -> Calls {
    let (mut calls, mut more) = (Calls::new(), true);
    while more {
        let mut change = DirtyChange::default();
        let announced = timed(&mut calls, || skips.postcopy(guest, BLOCK, &mut change));
        more = matches!(announced, Announced::Part);
    }
    calls
}

/// As many hints as are kept, at so many pages from a page on, in a round that has begun.
fn fill(hints: &mut Hints, pages: impl Fn(u64) -> (u64, u64)) {
    hints.set_source(FreePageSource::FreePageHint);
    hints.after_sync(true);
    let wanted = hints.wanted();
    while !hints.request(wanted) {
        hints.queue_empty();
    }
    hints.receive_id(&hints.shown_id().to_le_bytes(), ByteOrder::Little);
    for number in 0..65536 {
        let (page, count) = pages(number);
        hints.receive_hint(HostRange {
            host: HOST + ((page as usize) << 12),
            bytes: count << 12,
        });
    }
}

fn hints(gib: u64, pages: impl Fn(u64) -> (u64, u64)) -> Calls {
    let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
    sweep(&mut guest, &mut skips, None);
    while skips.arm(&mut guest, BLOCK, Arm::All) {}
    skips.trust(0);
    let mut hints = Hints::default();
    fill(&mut hints, pages);
    let mut calls = Calls::new();
    // As many as are taken before a pass.
    for _ in 0..32 {
        let mut change = DirtyChange::default();
        timed(&mut calls, || {
            let taken: Vec<Hint> = hints.take();
            skips.leave_out_hinted(&mut guest, &taken, &mut change)
        });
    }
    calls
}
