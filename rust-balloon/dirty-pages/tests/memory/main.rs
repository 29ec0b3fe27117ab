// SPDX-License-Identifier: GPL-2.0-or-later
//! A dirty list on a host without memory: it says so, loses no page without a word, and leaves
//! nothing behind.

mod failing;

use dirty_pages::{DirtyList, DirtyOptions, Error, MACHINE, Noted, VERSION};
use failing::{live, with_memory_for};

fn options(no_dups: bool) -> DirtyOptions {
    DirtyOptions {
        version: VERSION,
        no_dups,
        max_dirty: 256,
        dirty_trigger: 0,
        vcpus: 4,
    }
}

fn started(no_dups: bool) -> DirtyList {
    let list = DirtyList::new(options(no_dups)).unwrap();
    list.start().unwrap();
    list
}

fn fetch(list: &DirtyList) -> Result<Vec<u64>, Error> {
    let mut out = [0; 600];
    let count = list.fetch(&mut out)?;
    Ok(out[..count].to_vec())
}

#[test]
fn a_list_is_made_whole_or_not_at_all() {
    let mut refused = 0;
    loop {
        let before = live();
        match with_memory_for(refused, || DirtyList::new(options(true))) {
            Ok(_) => break,
            Err(error) => assert_eq!(error, Error::Memory, "after {refused}"),
        }
        assert_eq!(live(), before, "something was left behind");
        refused += 1;
    }
    // The marks, rings and machine's ring of both.
    assert!(refused >= 5, "{refused}");
}

#[test]
fn without_a_ring_of_its_own_a_processor_uses_the_machines() {
    for no_dups in [false, true] {
        let list = started(no_dups);
        list.note(MACHINE, 70, 1);
        with_memory_for(0, || list.note(1, 7, 0b11));
        assert_eq!(fetch(&list), Ok(vec![7, 8, 70]));
        list.note(1, 7, 1);
        assert_eq!(fetch(&list), Ok(vec![7]));
    }
}

#[test]
fn a_page_without_a_place_for_its_mark_is_missing() {
    // Far away two parts are missing, beside another page one.
    let beside = (1 << 15, 1);
    let across = ((1 << 15) - 1, 0b11);
    let far = (1 << 30, 1);
    for ((page, bits), left) in [(beside, 0), (across, 0), (far, 0), (far, 1)] {
        let list = started(true);
        assert!(!list.sync_begin());
        list.note(0, 5, 1);
        with_memory_for(left, || list.note(0, page, bits));
        assert_eq!(list.note(0, 6, 1), Noted::Done);
        assert!(list.indices().overflow);
        assert_eq!(fetch(&list), Err(Error::Overflow));
        // The migration's has no need of one.
        let mut out = [0; 9];
        assert!(list.sync_begin());
        let count = list.sync_fetch(&mut out).unwrap();
        assert!(out[..count].contains(&page));
        list.stop();
        list.start().unwrap();
        list.note(0, page, bits);
        assert!(fetch(&list).unwrap().contains(&page));
    }
}

/// The caller would clear bits of pages that the migration then never sees.
#[test]
fn what_the_migration_cannot_take_the_consumer_does_not_get() {
    for no_dups in [false, true] {
        let list = started(no_dups);
        let pages: Vec<u64> = (0..300).map(|n| n << 16).collect();
        for page in &pages[..250] {
            list.note(MACHINE, *page, 1);
        }
        for page in &pages[250..] {
            list.note(2, *page, 1);
        }
        assert!(!list.sync_begin());
        let mut out = [0; 100];
        let answer = with_memory_for(3, || list.fetch(&mut out));
        assert_eq!(answer, Err(Error::Memory));
        if no_dups {
            // They are still owed.
            assert_eq!(fetch(&list), Ok(pages));
            assert_eq!(fetch(&list), Ok(vec![]));
            assert!(list.sync_begin());
            let mut out = [0; 400];
            assert_eq!(list.sync_fetch(&mut out), Ok(300));
        } else {
            assert_eq!(fetch(&list), Err(Error::Overflow));
        }
    }
}
