// SPDX-License-Identifier: GPL-2.0-or-later
//! Hints, from a guest that hints at single pages all over its memory, or at all of it again and
//! again.

use balloon::features::FreePageSource;
use balloon::memory::HostRange;
use balloon::migration::arming::Arm;
use balloon::migration::skips::{DirtyChange, Skips};
use balloon::queue::hint::{Hints, MAX_TAKEN, MAX_TAKEN_HINTS};
use balloon::wire::ByteOrder;

use crate::guest::{BLOCK, GIB, Guest, HOST, SIZES, random};
use crate::sweep::sweep;

/// A round of hints that the guest has begun to answer.
fn started() -> Hints {
    let mut hints = Hints::default();
    hints.set_source(FreePageSource::FreePageHint);
    hints.after_sync(true);
    let wanted = hints.wanted();
    while !hints.request(wanted) {
        hints.queue_empty();
    }
    hints.receive_id(&hints.shown_id().to_le_bytes(), ByteOrder::Little);
    hints
}

/// A guest whose log is armed as far as it is before hints come.
fn armed(gib: u64) -> (Guest, Skips) {
    let (mut guest, mut skips) = (Guest::new(gib), Skips::new(12));
    sweep(&mut guest, &mut skips, None);
    while skips.arm(&mut guest, BLOCK, Arm::All) {}
    skips.trust(0);
    (guest, skips)
}

#[test]
fn single_pages_are_taken_in_turns() {
    for gib in SIZES {
        let (mut guest, mut skips) = armed(gib);
        let mut hints = started();
        for number in 0..65536u64 {
            // The log of 256 GiB at most is armed.
            let page = random(number) % (gib.min(256) * GIB);
            hints.receive_hint(HostRange {
                host: HOST + ((page as usize) << 12),
                bytes: 4096,
            });
        }
        let mut turns = 0;
        while hints.has_pending() {
            let looked_up = guest.looked_up;
            let mut change = DirtyChange::default();
            let taken = hints.take();
            skips.leave_out_hinted(&mut guest, &taken, &mut change);
            assert!(taken.len() <= MAX_TAKEN_HINTS);
            assert!(change.cleared <= MAX_TAKEN_HINTS as u64);
            assert_eq!(guest.looked_up - looked_up, 2, "a block is looked up once");
            turns += 1;
        }
        assert_eq!(turns, 65536 / MAX_TAKEN_HINTS);
        assert!(skips.counters().hint_left_out_bytes > 65000 << 12);
    }
}

#[test]
fn all_of_memory_is_taken_in_turns() {
    for gib in SIZES {
        let (mut guest, mut skips) = armed(gib);
        let mut hints = started();
        let range = HostRange {
            host: HOST,
            bytes: gib << 30,
        };
        for _ in 0..3 {
            hints.receive_hint(range);
        }
        let mut turns = 0;
        while hints.has_pending() {
            let taken = hints.take();
            let bytes: u64 = taken.iter().map(|hint| hint.range.bytes).sum();
            assert!(bytes <= MAX_TAKEN);
            let mut change = DirtyChange::default();
            skips.leave_out_hinted(&mut guest, &taken, &mut change);
            assert!(change.cleared <= MAX_TAKEN >> 12);
            turns += 1;
        }
        assert_eq!(turns, 3 * (gib << 30).div_ceil(MAX_TAKEN));
    }
}
