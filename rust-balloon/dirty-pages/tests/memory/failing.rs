// SPDX-License-Identifier: GPL-2.0-or-later
//! An allocator that has memory for a number of allocations of a thread, and then for none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

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
pub(crate) fn with_memory_for<T>(left: u64, act: impl FnOnce() -> T) -> T {
    LEFT.set(left);
    let answer = act();
    LEFT.set(u64::MAX);
    answer
}

/// How many allocations of this thread were not freed.
pub(crate) fn live() -> i64 {
    LIVE.get()
}
