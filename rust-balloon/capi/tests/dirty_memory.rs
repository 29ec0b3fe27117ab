// SPDX-License-Identifier: GPL-2.0-or-later
//! A handle of dirty lists on a host without memory: it is made whole, or not at all.

#[path = "../../dirty-pages/tests/memory/failing.rs"]
mod failing;

use std::ptr::null_mut;

use dirty_pages::{DirtyOptions, VERSION};
use failing::{live, with_memory_for};
use virtio_balloon_rs::dirty::{vbr_dirty_free, vbr_dirty_new};
use virtio_balloon_rs::status::VbrStatus;

#[test]
fn a_list_is_made_whole_or_not_at_all() {
    let options = DirtyOptions {
        version: VERSION,
        no_dups: true,
        max_dirty: 256,
        dirty_trigger: 0,
        vcpus: 4,
    };
    let mut refused = 0;
    loop {
        let before = live();
        let mut handle = null_mut();
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
        assert_eq!(live(), before, "something was left behind");
        refused += 1;
    }
    // The list, and the marks, rings and machine's ring of both.
    assert!(refused >= 6, "{refused}");
}
