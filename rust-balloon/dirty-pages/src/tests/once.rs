// SPDX-License-Identifier: GPL-2.0-or-later
//! NO_DUPS: once until it is fetched, and never lost.

use super::*;

#[test]
fn a_page_is_on_the_list_once_until_it_is_fetched() {
    let list = started(NO_DUPS);
    for _ in 0..100 {
        for vcpu in [0, 1, MACHINE] {
            note_all(&list, vcpu, [5, 6]);
        }
    }
    assert_eq!(list.indices().dirty_index, 2);
    assert_eq!(fetch_all(&list), [5, 6]);
    list.note(1, 5, 1);
    assert_eq!(fetch_all(&list), [5]);
    assert_eq!(fetch_all(&list), []);
}

/// Repeated writes do not bring the trigger nearer.
#[test]
fn the_trigger_counts_pages() {
    let list = started(DirtyOptions {
        dirty_trigger: 2,
        ..NO_DUPS
    });
    for _ in 0..10 {
        assert_eq!(list.note(0, 5, 1), Noted::Done);
    }
    assert_eq!(list.note(1, 5, 0b11), Noted::Trigger);
}

#[test]
fn a_full_ring_loses_nothing() {
    let list = started(NO_DUPS);
    // Miri takes long to look through marks that are far apart, again for each batch.
    let (apart, most) = if cfg!(miri) {
        (1_009, 600)
    } else {
        (1_000_003, 77)
    };
    let pages: Vec<u64> = (0..1000).map(|n| n * apart).collect();
    note_all(&list, 0, pages.iter().copied());
    let indices = list.indices();
    assert_eq!((indices.overflow, indices.overflows), (true, 1));
    assert_eq!(indices.dirty_index, 1000);
    // In batches: those of the ring first, then those that are looked for.
    let mut all = Vec::new();
    loop {
        let batch = fetch(&list, most);
        if batch.is_empty() {
            break;
        }
        assert!(batch.is_sorted());
        assert!(all.len() + batch.len() == 1000 || list.indices().overflow);
        all.extend(batch);
    }
    all.sort_unstable();
    assert_eq!(all, pages);
    let indices = list.indices();
    assert_eq!((indices.overflow, indices.overflows), (false, 1));
    assert_eq!(indices.fetch_index, 1000);
    // All may be noted again, and overflow again.
    note_all(&list, 0, pages.iter().copied());
    assert_eq!(list.indices().overflows, 2);
    assert_eq!(fetch_all(&list), pages);
}

/// What is marked behind a sweep that stopped for lack of room is found by the next one.
#[test]
fn a_sweep_does_not_miss_what_comes_behind_it() {
    let list = started(NO_DUPS);
    let far = 10 * RING;
    note_all(&list, 0, far..far + RING + 20);
    assert_eq!(fetch(&list, GRANULARITY + 10).len(), GRANULARITY + 10);
    // Before the place where the sweep is, and again more than fit.
    note_all(&list, 0, 0..RING + 20);
    let mut all: Vec<u64> = fetch(&list, 300);
    all.extend(fetch_all(&list));
    all.sort_unstable();
    let rest = far + RING + 10..far + RING + 20;
    assert_eq!(all, (0..RING + 20).chain(rest).collect::<Vec<_>>());
    assert!(!list.indices().overflow);
}

#[test]
fn far_pages_have_their_place() {
    let edges = [64, 1 << 15, 1 << 28, PAGES - 64, 1 << 39];
    for edge in edges {
        let list = started(NO_DUPS);
        let first = edge - 5;
        for _ in 0..2 {
            assert_eq!(list.note(0, first, 0b1111_0101_1001), Noted::Done);
        }
        let expected: Vec<u64> = [0, 3, 4, 6, 8, 9, 10, 11].map(|n| first + n).to_vec();
        assert_eq!(list.indices().dirty_index, 8);
        assert_eq!(fetch_all(&list), expected);
        // The same by a sweep.
        note_all(&list, 0, 0..RING);
        list.note(0, first, 0b1111_0101_1001);
        fetch(&list, GRANULARITY);
        let swept = fetch_all(&list);
        assert!(expected.iter().filter(|page| **page >= RING).eq(&swept));
    }
    let list = started(NO_DUPS);
    list.note(0, PAGES - 64, u64::MAX);
    assert_eq!(fetch_all(&list), (PAGES - 64..PAGES).collect::<Vec<_>>());
}

/// There is no mark for it, so it would not be found.
#[test]
fn a_page_that_cannot_be_is_missing() {
    for options in [BASE, NO_DUPS] {
        for (page, bits) in [(PAGES, 1), (PAGES - 1, 0b11), (u64::MAX, 0b11)] {
            let list = started(options);
            list.note(0, page, bits);
            assert!(list.indices().overflow);
            assert_eq!(list.fetch(&mut [0]), Err(Error::Overflow));
        }
        // Bits that are not set name nothing.
        let list = started(options);
        list.note(0, u64::MAX, 0);
        list.note(0, PAGES - 1, 1);
        assert_eq!(fetch_all(&list), [PAGES - 1]);
    }
}

#[test]
fn a_start_forgets_marks_and_sweeps() {
    let list = started(NO_DUPS);
    note_all(&list, 0, 0..2 * RING);
    assert_eq!(fetch(&list, GRANULARITY + 1).len(), GRANULARITY + 1);
    list.stop();
    list.start().unwrap();
    assert!(!list.indices().overflow);
    assert_eq!(fetch_all(&list), []);
    list.note(1, 2 * RING - 1, 1);
    assert_eq!(fetch_all(&list), [2 * RING - 1]);
    // Also one that had not begun.
    note_all(&list, 0, 0..2 * RING);
    list.stop();
    list.start().unwrap();
    assert!(!list.indices().overflow);
}
