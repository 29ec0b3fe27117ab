// SPDX-License-Identifier: GPL-2.0-or-later
//! No call works longer than its bound, whatever is in the balloon and however large the guest is.
//!
//! Work is counted, not timed: in bits that a call changed, in calls that it took to look at all,
//! and in pieces of memory that were allocated or freed. `docs/bounds.md` has a line for each
//! bound, and `cargo xtask bench bounds` says what it means in time.

mod arming;
mod guest;
mod hints;
mod idle;
mod sets;
mod slices;
mod sweep;
mod warm;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
    static FREED: Cell<u64> = const { Cell::new(0) };
}

/// Allocations of this thread so far.
pub(crate) fn allocations() -> u64 {
    ALLOCATED.get()
}

/// How many pieces of memory it has allocated and freed while it did this.
pub(crate) fn pieces<R>(work: impl FnOnce() -> R) -> (Pieces, R) {
    let before = (ALLOCATED.get(), FREED.get());
    let result = work();
    let pieces = Pieces {
        allocated: ALLOCATED.get() - before.0,
        freed: FREED.get() - before.1,
    };
    (pieces, result)
}

/// Pieces of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    pub(crate) allocated: u64,
    pub(crate) freed: u64,
}

struct Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + 1);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + 1);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        FREED.set(FREED.get() + 1);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
