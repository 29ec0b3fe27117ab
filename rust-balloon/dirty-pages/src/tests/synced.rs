// SPDX-License-Identifier: GPL-2.0-or-later
//! The migration's list beside the consumer's.

use super::*;

fn sync_fetch(list: &DirtyList, most: usize) -> Vec<u64> {
    let mut out = vec![0; most];
    let count = list.sync_fetch(&mut out).unwrap();
    out.truncate(count);
    out
}

fn synced(list: &DirtyList) -> Vec<u64> {
    assert!(list.sync_begin());
    let all = sync_fetch(list, 100_000);
    assert_eq!(sync_fetch(list, 1), []);
    all
}

#[test]
fn the_first_synchronization_starts_it() {
    let list = DirtyList::new(BASE).unwrap();
    list.note(0, 1, 1);
    assert!(!list.sync_begin());
    assert!(list.is_active() && !list.indices().active);
    assert_eq!(sync_fetch(&list, 10), []);
    note_all(&list, 0, [2, 2, 3]);
    assert_eq!(synced(&list), [2, 3]);
    assert_eq!(synced(&list), []);
    // The consumer's was not started by that.
    assert_eq!(list.fetch(&mut [0]), Err(Error::Inactive));
    list.note(0, 4, 1);
    list.sync_end();
    assert!(!list.is_active());
    assert_eq!(list.sync_fetch(&mut [0]), Err(Error::Inactive));
    list.sync_end();
    // The next migration does not get what was the last one's.
    assert!(!list.sync_begin());
    assert_eq!(sync_fetch(&list, 10), []);
    list.note(0, 4, 1);
    assert_eq!(synced(&list), [4]);
}

#[test]
fn both_get_all_and_neither_takes_from_the_other() {
    for options in [BASE, NO_DUPS] {
        let list = started(options);
        assert!(!list.sync_begin());
        note_all(&list, 0, [1, 2]);
        note_all(&list, MACHINE, [3]);
        assert_eq!(synced(&list), [1, 2, 3]);
        assert_eq!(fetch_all(&list), [1, 2, 3]);
        // The migration's has no trigger and no overflow that the consumer would see.
        list.stop();
        note_all(&list, 0, 0..RING + 1);
        assert!(!list.indices().overflow);
        assert!(!list.sync_begin());
    }
}

/// Its caller clears the bit that the migration would have found.
#[test]
fn what_the_consumer_fetches_is_the_migrations_too() {
    for options in [BASE, NO_DUPS] {
        let list = started(options);
        note_all(&list, 0, [1, 2]);
        // Nobody else wants them.
        assert_eq!(fetch_all(&list), [1, 2]);
        note_all(&list, 0, [7, 8, 200, 9]);
        assert!(!list.sync_begin());
        assert_eq!(sync_fetch(&list, 10), []);
        assert_eq!(fetch(&list, 3), [7, 8, 200]);
        assert_eq!(synced(&list), [7, 8, 200]);
        assert_eq!(fetch(&list, 3), [9]);
        assert_eq!(synced(&list), [9]);
        // They were not noted for the consumer anew.
        assert_eq!(fetch_all(&list), []);
        assert_eq!(list.indices().dirty_index, 6);
    }
}

/// Of a sweep, too, and more than the migration's ring has room for.
#[test]
fn what_the_consumer_looks_for_is_the_migrations_too() {
    let list = started(NO_DUPS);
    note_all(&list, 0, 0..4 * RING);
    assert!(!list.sync_begin());
    assert_eq!(fetch_all(&list).len() as u64, 4 * RING);
    assert_eq!(synced(&list), (0..4 * RING).collect::<Vec<_>>());
}

/// Otherwise a writer that is as fast as the migration would keep it for ever.
#[test]
fn a_synchronization_ends() {
    let list = DirtyList::new(BASE).unwrap();
    assert!(!list.sync_begin());
    note_all(&list, 0, 0..RING);
    assert!(list.sync_begin());
    note_all(&list, 1, [1000]);
    // What came after it began and before it looked is not late.
    let mut all = sync_fetch(&list, 10);
    let mut late = 2000;
    loop {
        note_all(&list, 1, [late]);
        late += 1;
        let batch = sync_fetch(&list, 10);
        if batch.is_empty() {
            break;
        }
        all.extend(batch);
        assert!(all.len() < 1000, "there is no end");
    }
    all.sort_unstable();
    let expected: Vec<u64> = (0..RING).chain([1000]).collect();
    all.retain(|page| *page < 2000);
    assert_eq!(all, expected);
    // Nothing that came meanwhile is lost, or comes twice.
    let rest = synced(&list);
    assert_eq!(rest.last(), Some(&(late - 1)));
    assert_eq!(synced(&list), []);
}

#[test]
fn a_list_that_lost_pages_says_so_once() {
    let list = DirtyList::new(BASE).unwrap();
    assert!(!list.sync_begin());
    for lost in [vec![PAGES], (0..RING + 1).collect()] {
        note_all(&list, 0, lost);
        list.note(1, 5, 1);
        assert!(!list.sync_begin(), "the bitmaps have to be looked at");
        // There 5 is found, too.
        assert_eq!(sync_fetch(&list, 10), []);
        list.note(1, 6, 1);
        assert_eq!(synced(&list), [6]);
    }
}

/// The bitmaps do not have it any more.
#[test]
fn what_the_consumer_fetched_is_not_lost_with_the_rest() {
    let list = started(NO_DUPS);
    assert!(!list.sync_begin());
    note_all(&list, 0, [3, 4]);
    assert_eq!(fetch(&list, 1), [3]);
    note_all(&list, 0, 100..100 + RING);
    assert!(!list.sync_begin());
    assert_eq!(sync_fetch(&list, 10), [3]);
    assert_eq!(synced(&list), []);
}
