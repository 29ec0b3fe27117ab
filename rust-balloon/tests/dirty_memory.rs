// SPDX-License-Identifier: GPL-2.0-or-later
//! A dirty list on a host without memory: it says so, loses no page without a word, and leaves nothing behind.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

use virtio_balloon_rs::error::Error;
use virtio_balloon_rs::ffi::dirty::{vbr_dirty_free, vbr_dirty_new};
use virtio_balloon_rs::ffi::status::VbrStatus;
use virtio_balloon_rs::migration::dirty::{DirtyList, DirtyOptions, MACHINE, Noted, VERSION};

thread_local! {
    /// How many allocations of this thread succeed before all fail.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    /// How many there are of this thread that were not freed.
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

struct Failing;

// SAFETY: what is not refused is done by the system's allocator.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if LEFT.get() == 0 {
            return null_mut();
        }
        if LEFT.get() != u64::MAX {
            LEFT.set(LEFT.get() - 1);
        }
        LIVE.set(LIVE.get() + 1);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - 1);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static FAILING: Failing = Failing;

/// What `act` answers when all allocations but the first `left` fail.
fn with_memory_for<T>(left: u64, act: impl FnOnce() -> T) -> T {
    LEFT.set(left);
    let answer = act();
    LEFT.set(u64::MAX);
    answer
}

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
        let live = LIVE.get();
        let made = with_memory_for(refused, || DirtyList::new(options(true)));
        match made {
            Ok(list) => drop(list),
            Err(error) => assert_eq!(error, Error::DirtyListMemory),
        }
        assert_eq!(LIVE.get(), live, "something was left behind");
        let mut handle = null_mut();
        let options = options(true);
        // SAFETY: valid options and a writable place.
        let make = || unsafe { vbr_dirty_new(&options, &raw mut handle) };
        match with_memory_for(refused, make) {
            VbrStatus::Ok => {
                // SAFETY: made above, and not used afterwards.
                assert_eq!(unsafe { vbr_dirty_free(handle, false) }, VbrStatus::Ok);
                break;
            }
            status => assert_eq!(status, VbrStatus::DirtyListMemory, "after {refused}"),
        }
        assert!(handle.is_null());
        assert_eq!(LIVE.get(), live, "something was left behind");
        refused += 1;
    }
    // The list, and the marks, rings and machine's ring of both.
    assert!(refused >= 6, "{refused}");
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
        assert_eq!(fetch(&list), Err(Error::DirtyListOverflow));
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
        assert_eq!(answer, Err(Error::DirtyListMemory));
        if no_dups {
            // They are still owed.
            assert_eq!(fetch(&list), Ok(pages));
            assert_eq!(fetch(&list), Ok(vec![]));
            assert!(list.sync_begin());
            let mut out = [0; 400];
            assert_eq!(list.sync_fetch(&mut out), Ok(300));
        } else {
            assert_eq!(fetch(&list), Err(Error::DirtyListOverflow));
        }
    }
}
