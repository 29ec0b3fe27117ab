// SPDX-License-Identifier: GPL-2.0-or-later
//! The dirty page list: what its commands do under the big lock, and a synchronization under the
//! bitmap lock, too.

use crate::guest::GIB;
use crate::{Calls, Row, row, timed};
use dirty_pages::{DirtyList, DirtyOptions, MACHINE, VERSION};

/// The most pages that a command hands out, and a synchronization takes at a time.
const MOST_PAGES: usize = 65536;
const SYNC_PAGES: usize = 4096;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row("dirty list: starts, every page had a mark", |gib| {
            let list = list(4096);
            list.start().expect("a start");
            for word in 0..gib * GIB / 64 {
                list.note(MACHINE, word * 64, u64::MAX);
            }
            list.stop();
            let mut calls = Calls::new();
            timed(&mut calls, || list.start()).expect("another start");
            calls
        }),
        row("dirty list: 65536 pages are fetched, all over", |gib| {
            let list = marked(gib);
            let mut out = vec![0; MOST_PAGES];
            let (mut calls, mut count) = (Calls::new(), MOST_PAGES);
            while count > 0 {
                count = timed(&mut calls, || list.fetch(&mut out)).expect("pages");
            }
            calls
        }),
        row("dirty list: the last page is fetched", |gib| {
            let list = marked(gib);
            let mut out = vec![0; MOST_PAGES];
            while list.fetch(&mut out).expect("pages") > 0 {}
            // More than there is room for, so that they are looked for.
            list.note(MACHINE, gib * GIB - 8192, u64::MAX);
            for page in (gib * GIB - 4096..gib * GIB).step_by(64) {
                list.note(MACHINE, page, u64::MAX);
            }
            let mut calls = Calls::new();
            timed(&mut calls, || list.fetch(&mut out)).expect("pages");
            calls
        }),
        row("dirty list: 4096 pages are synchronized", |gib| {
            let list = list(MOST_PAGES);
            list.sync_begin();
            for page in (0..gib * GIB).step_by((gib * GIB) as usize / MOST_PAGES) {
                list.note(MACHINE, page, 1);
            }
            let mut out = vec![0; SYNC_PAGES];
            let (mut calls, mut count) = (Calls::new(), SYNC_PAGES);
            timed(&mut calls, || list.sync_begin());
            while count > 0 {
                count = timed(&mut calls, || list.sync_fetch(&mut out)).expect("pages");
            }
            calls
        }),
    ]
}

fn list(max_dirty: usize) -> DirtyList {
    DirtyList::new(DirtyOptions {
        version: VERSION,
        no_dups: true,
        max_dirty,
        dirty_trigger: 0,
        vcpus: 1,
    })
    .expect("a list")
}

/// Every piece of memory has a page with a mark; there is room for few of them in the ring.
fn marked(gib: u64) -> DirtyList {
    let list = list(256);
    list.start().expect("a start");
    for page in (0..gib * GIB).step_by(1024) {
        list.note(MACHINE, page, 1);
    }
    list
}
