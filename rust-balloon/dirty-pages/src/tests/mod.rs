// SPDX-License-Identifier: GPL-2.0-or-later

mod once;
mod property;
mod synced;
mod threads;

use super::*;

/// Two virtual CPUs, and 256 pages in a ring.
const BASE: DirtyOptions = DirtyOptions {
    version: VERSION,
    no_dups: false,
    max_dirty: 200,
    dirty_trigger: 0,
    vcpus: 2,
};
const NO_DUPS: DirtyOptions = DirtyOptions {
    no_dups: true,
    ..BASE
};
const RING: u64 = GRANULARITY as u64;

fn started(options: DirtyOptions) -> DirtyList {
    let list = DirtyList::new(options).unwrap();
    list.start().unwrap();
    list
}

fn note_all(list: &DirtyList, vcpu: usize, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        list.note(vcpu, page, 1);
    }
}

/// One batch.
fn fetch(list: &DirtyList, most: usize) -> Vec<u64> {
    let mut out = vec![0; most];
    let count = list.fetch(&mut out).unwrap();
    out.truncate(count);
    out
}

fn fetch_all(list: &DirtyList) -> Vec<u64> {
    fetch(list, 100_000)
}

#[test]
fn a_list_that_cannot_be_is_refused_by_name() {
    let refused = |options| DirtyList::new(options).err();
    let version = DirtyOptions { version: 2, ..BASE };
    assert_eq!(refused(version), Some(Error::Version));
    let max_dirty = |max_dirty| DirtyOptions { max_dirty, ..BASE };
    assert_eq!(refused(max_dirty(0)), Some(Error::Zero));
    assert_eq!(refused(max_dirty(MOST + 1)), Some(Error::Size));
    assert_eq!(refused(max_dirty(usize::MAX)), Some(Error::Size));
    let trigger = |dirty_trigger| DirtyOptions {
        dirty_trigger,
        ..BASE
    };
    assert_eq!(refused(trigger(257)), Some(Error::Trigger));
    assert_eq!(refused(trigger(256)), None);
    let vcpus = DirtyOptions {
        vcpus: usize::MAX,
        ..BASE
    };
    assert_eq!(refused(vcpus), Some(Error::Memory));
}

#[test]
fn room_is_rounded_up() {
    for (asked, rounded) in [(1, 256), (256, 256), (257, 512), (MOST - 1, MOST)] {
        let options = DirtyOptions {
            max_dirty: asked,
            ..BASE
        };
        let list = DirtyList::new(options).unwrap();
        assert_eq!(list.indices().max_dirty, rounded);
    }
}

#[test]
fn there_is_nothing_before_the_first_start() {
    let list = DirtyList::new(BASE).unwrap();
    assert!(!list.is_active());
    assert_eq!(list.note(0, 5, 1), Noted::Done);
    assert_eq!(list.fetch(&mut [0]), Err(Error::Inactive));
    assert_eq!(list.reset(), Err(Error::Inactive));
    assert_eq!(list.sync_fetch(&mut [0]), Err(Error::Inactive));
    list.stop();
    list.start().unwrap();
    assert!(list.is_active() && list.indices().active);
    assert_eq!(list.start(), Err(Error::Active));
    assert_eq!(fetch_all(&list), []);
}

#[test]
fn what_was_noted_can_be_fetched_after_the_stop() {
    for options in [BASE, NO_DUPS] {
        let list = started(options);
        note_all(&list, 0, [3, 4, 5]);
        list.stop();
        assert!(!list.is_active() && !list.indices().active);
        list.note(0, 6, 1);
        assert_eq!(fetch(&list, 2), [3, 4]);
        assert_eq!(list.reset(), Ok(Noted::Done));
        // What was left is not the next start's, and is noted there like any other.
        list.start().unwrap();
        assert_eq!(list.indices().dirty_index, 0);
        list.note(0, 5, 1);
        assert_eq!(fetch_all(&list), [5]);
    }
}

#[test]
fn batches_are_sorted_and_indices_count() {
    for options in [BASE, NO_DUPS] {
        let list = started(options);
        note_all(&list, 0, [9, 7, 5]);
        note_all(&list, 1, [4, 6, 1 << 39]);
        list.note(MACHINE, 128, 0b101);
        let mut all = Vec::new();
        for _ in 0..3 {
            let batch = fetch(&list, 3);
            assert!(batch.is_sorted());
            all.extend(batch);
        }
        all.sort_unstable();
        assert_eq!(all, [4, 5, 6, 7, 9, 128, 130, 1 << 39]);
        let indices = |list: &DirtyList| {
            let indices = list.indices();
            (
                indices.dirty_index,
                indices.fetch_index,
                indices.reset_index,
            )
        };
        assert_eq!(indices(&list), (8, 8, 0));
        list.reset().unwrap();
        assert_eq!(indices(&list), (8, 8, 8));
        assert_eq!(fetch_all(&list), []);
        assert_eq!(fetch(&list, 0), []);
    }
}

#[test]
fn what_was_noted_twice_is_in_a_batch_once() {
    let list = started(BASE);
    for vcpu in [0, 1, 1, MACHINE] {
        note_all(&list, vcpu, [8, 9, 8]);
    }
    note_all(&list, 1, [10]);
    // A batch is filled as long as there are others.
    assert_eq!(fetch(&list, 4), [8, 9, 10]);
    assert_eq!(fetch_all(&list), []);
    let indices = list.indices();
    assert_eq!((indices.dirty_index, indices.fetch_index), (13, 13));
}

/// Nobody waits for those who are always there first.
#[test]
fn no_ring_starves() {
    let list = started(BASE);
    note_all(&list, 1, [1 << 20]);
    note_all(&list, MACHINE, [1 << 21]);
    let mut seen = Vec::new();
    for round in 0..4u64 {
        note_all(&list, 0, round * 50..(round + 1) * 50);
        seen.extend(fetch(&list, 8));
    }
    assert!(seen.contains(&(1 << 20)) && seen.contains(&(1 << 21)));
}

#[test]
fn what_does_not_fit_is_said_until_the_next_start() {
    let list = started(BASE);
    note_all(&list, 0, 0..RING);
    assert!(!list.indices().overflow);
    list.note(0, 3, 0b11);
    let indices = list.indices();
    assert_eq!((indices.overflow, indices.overflows), (true, 1));
    for _ in 0..2 {
        assert_eq!(list.fetch(&mut [0; 300]), Err(Error::Overflow));
    }
    list.reset().unwrap();
    note_all(&list, 0, 0..5);
    assert_eq!(list.indices().overflows, 1);
    list.stop();
    assert_eq!(list.fetch(&mut [0; 300]), Err(Error::Overflow));
    list.start().unwrap();
    let empty = DirtyIndices {
        max_dirty: 256,
        active: true,
        ..DirtyIndices::default()
    };
    assert_eq!(list.indices(), empty);
    list.note(0, 7, 1);
    assert_eq!(fetch_all(&list), [7]);
}

/// Each ring has room for all of them, the machine's and those of processors that came later, too.
#[test]
fn every_writer_has_room_of_its_own() {
    let options = DirtyOptions { vcpus: 4, ..BASE };
    let list = started(options);
    note_all(&list, 0, 0..RING);
    note_all(&list, 3, RING..2 * RING);
    // One that nobody had thought of goes to the machine's.
    note_all(&list, 4, 2 * RING..3 * RING);
    assert!(!list.indices().overflow);
    assert_eq!(fetch_all(&list), (0..3 * RING).collect::<Vec<_>>());
    note_all(&list, 4, 0..RING);
    list.note(MACHINE, 0, 1);
    assert!(list.indices().overflow);
}

#[test]
fn no_processors_is_no_special_case() {
    let list = started(DirtyOptions { vcpus: 0, ..BASE });
    note_all(&list, 0, [2, 1]);
    assert_eq!(fetch_all(&list), [1, 2]);
}

/// A ring that was full and drained at every place takes as many again.
#[test]
fn rings_go_round() {
    let list = started(BASE);
    let mut next = 0;
    for count in [1, 255, 256, 100, 200, 256, 3].into_iter().cycle().take(70) {
        note_all(&list, 0, next..next + count);
        assert_eq!(
            fetch_all(&list),
            (next..next + count).collect::<Vec<_>>(),
            "from {next} on"
        );
        next += count;
    }
    assert!(!list.indices().overflow);
    note_all(&list, 0, 0..RING + 1);
    assert!(list.indices().overflow);
}

#[test]
fn the_trigger_comes_once_a_cycle() {
    for options in [BASE, NO_DUPS] {
        let list = started(DirtyOptions {
            dirty_trigger: 3,
            ..options
        });
        let note = |page| list.note(0, page, 1);
        let (no, yes) = (Noted::Done, Noted::Trigger);
        assert_eq!([1, 2, 3, 4].map(note), [no, no, yes, no]);
        assert_eq!(fetch_all(&list).len(), 4);
        // Fetching is not enough.
        assert_eq!([5, 6, 7].map(note), [no, no, no]);
        // Three are there that were not handed out.
        assert_eq!(list.reset(), Ok(yes));
        assert_eq!(list.reset(), Ok(yes));
        assert_eq!(note(8), no);
        assert_eq!(fetch_all(&list).len(), 4);
        assert_eq!(list.reset(), Ok(no));
        assert_eq!(list.note(MACHINE, 64, 0b11), no);
        assert_eq!(list.note(1, 70, 0b11), yes);
        // A start arms it, too.
        list.stop();
        list.start().unwrap();
        assert_eq!([1, 2, 3, 4].map(note), [no, no, yes, no]);
    }
}

#[test]
fn without_a_trigger_nothing_triggers() {
    let list = started(BASE);
    for page in 0..2 * RING {
        assert_eq!(list.note(0, page, 1), Noted::Done);
    }
    assert_eq!(list.reset(), Ok(Noted::Done));
}
