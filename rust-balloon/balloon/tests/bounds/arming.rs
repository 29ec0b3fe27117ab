// SPDX-License-Identifier: GPL-2.0-or-later
//! Arming a log whose chunks are as small as a user may ask for: four millions of them in 1 TiB.

use balloon::migration::arming::{Arm, Arming, MAX_LOOKS};
use balloon::migration::bitmaps::BlockView;

const CHUNKS: usize = 1 << 22;
const CHUNK_SHIFT: u32 = 6;

fn view(unarmed: &[u64]) -> BlockView<'_> {
    BlockView {
        dirty: &mut [],
        pages: (CHUNKS as u64) << CHUNK_SHIFT,
        unarmed,
        chunk_shift: CHUNK_SHIFT,
    }
}

/// Chunks are not looked at again in each call: this would not come to its end.
#[test]
fn a_chunk_is_looked_at_once() {
    let unarmed = vec![u64::MAX; CHUNKS / 64];
    let mut arming = Arming::default();
    let mut armed = 0;
    while let Some(slice) = arming.next(&view(&unarmed), Arm::All) {
        assert_eq!(slice.pages.start, armed << CHUNK_SHIFT);
        armed += 1;
    }
    assert_eq!(armed, CHUNKS as u64);
    arming.trust(3);
    assert!(arming.was_armed(CHUNKS - 1, 4) && !arming.was_armed(0, 3));
}

/// Nor are those that somebody else armed looked at in one call.
#[test]
fn a_search_is_done_in_steps() {
    let unarmed = vec![0; CHUNKS / 64];
    let mut arming = Arming::default();
    let mut calls = 0;
    while let Some(slice) = arming.next(&view(&unarmed), Arm::All) {
        assert!(slice.pages.is_empty());
        calls += 1;
    }
    assert_eq!(calls, CHUNKS / MAX_LOOKS);
}

#[test]
fn chunks_that_hints_came_for_are_found_at_once() {
    let unarmed = vec![u64::MAX; CHUNKS / 64];
    let mut arming = Arming::default();
    for chunk in (0..CHUNKS).rev() {
        assert!(!arming.was_armed(chunk, 1));
        let slice = arming.next(&view(&unarmed), Arm::Wanted).expect("a slice");
        assert_eq!(slice.pages.start, (chunk as u64) << CHUNK_SHIFT);
        assert_eq!(arming.next(&view(&unarmed), Arm::Wanted), None);
    }
}
