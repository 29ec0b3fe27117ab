// SPDX-License-Identifier: GPL-2.0-or-later
//! Which chunks are armed, in which slices, and which are trusted.

use balloon::migration::arming::{Arm, Arming, SLICE_PAGES};
use balloon::migration::bitmaps::BlockView;

/// A block of two chunks of three slices, and one of one page.
const CHUNK: u64 = 4 * SLICE_PAGES;
const PAGES: u64 = 2 * CHUNK + 1;

fn view(unarmed: &[u64]) -> BlockView<'_> {
    BlockView {
        dirty: &mut [],
        pages: PAGES,
        unarmed,
        chunk_shift: CHUNK.trailing_zeros(),
    }
}

/// The slices that are armed, as first and last page and whether they end a chunk.
fn slices(arming: &mut Arming, unarmed: &mut u64, which: Arm) -> Vec<(u64, u64, bool)> {
    let mut slices = Vec::new();
    while let Some(slice) = arming.next(&view(&[*unarmed]), which) {
        if slice.whole_chunk {
            *unarmed &= !(1 << (slice.pages.start / CHUNK));
        }
        slices.push((slice.pages.start, slice.pages.end, slice.whole_chunk));
    }
    slices
}

fn chunk(number: u64) -> Vec<(u64, u64, bool)> {
    let start = number * CHUNK;
    let slice = |i| {
        let first = start + i * SLICE_PAGES;
        (first, first + SLICE_PAGES, i == 3)
    };
    (0..4).map(slice).collect()
}

#[test]
fn all_chunks_are_armed_in_slices() {
    let (mut arming, mut unarmed) = (Arming::default(), 0b111);
    let mut expected = [chunk(0), chunk(1)].concat();
    expected.push((2 * CHUNK, PAGES, true));
    assert_eq!(slices(&mut arming, &mut unarmed, Arm::All), expected);
    assert_eq!(slices(&mut arming, &mut unarmed, Arm::All), []);
    assert!(
        (0..3).all(|chunk| !arming.was_armed(chunk, 1)),
        "not said to be trusted"
    );
    arming.trust(0);
    assert!((0..3).all(|chunk| arming.was_armed(chunk, 1)));
    assert!((0..3).all(|chunk| !arming.was_armed(chunk, 0)));
    arming.forget();
    assert!((0..3).all(|chunk| !arming.was_armed(chunk, 9)));
}

#[test]
fn a_chunk_that_was_armed_elsewhere_is_not_armed_again() {
    let (mut arming, mut unarmed) = (Arming::default(), 0b101);
    let armed = slices(&mut arming, &mut unarmed, Arm::All);
    assert_eq!(armed, [chunk(0), vec![(2 * CHUNK, PAGES, true)]].concat());
    arming.trust(3);
    assert!(arming.was_armed(1, 4) && !arming.was_armed(1, 3));
    // A log that is always armed.
    let mut arming = Arming::default();
    assert_eq!(arming.next(&view(&[]), Arm::All), None);
    arming.trust(0);
    assert!((0..3).all(|chunk| arming.was_armed(chunk, 1)));
}

#[test]
fn a_hint_has_its_chunk_armed_for_later_ones() {
    let (mut arming, mut unarmed) = (Arming::default(), 0b111);
    assert_eq!(slices(&mut arming, &mut unarmed, Arm::Wanted), []);
    arming.trust(0);
    assert!(!arming.was_armed(1, 1));
    assert_eq!(slices(&mut arming, &mut unarmed, Arm::Wanted), chunk(1));
    assert!(!arming.was_armed(1, u64::MAX), "armed, but since when?");
    arming.trust(5);
    assert!(!arming.was_armed(1, 5));
    assert!(arming.was_armed(1, 6));
    arming.trust(9);
    assert!(arming.was_armed(1, 6), "it is as old as it was");
    assert_eq!(slices(&mut arming, &mut unarmed, Arm::Wanted), []);
}

#[test]
fn a_synchronization_within_a_chunk_begins_it_anew() {
    let mut arming = Arming::default();
    let first = arming
        .next(&view(&[0b111]), Arm::All)
        .map(|slice| slice.pages);
    assert_eq!(first, Some(0..SLICE_PAGES));
    arming.forget();
    let again = arming
        .next(&view(&[0b111]), Arm::All)
        .map(|slice| slice.pages);
    assert_eq!(again, Some(0..SLICE_PAGES));
}
