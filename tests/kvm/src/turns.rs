// SPDX-License-Identifier: GPL-2.0-or-later
//! Threads that wait for what another one does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// What one thread did, for another that waits for it.
#[derive(Debug, Default)]
pub struct Turns {
    done: AtomicU64,
    over: AtomicBool,
}

impl Turns {
    /// One more is done.
    pub fn add(&self) {
        self.done.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether no more will be done.
    pub fn are_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Waits for one that began after this was called, unless they are over.
    pub fn wait(&self) {
        let end = self.done.load(Ordering::SeqCst) + 2;
        while self.done.load(Ordering::SeqCst) < end && !self.are_over() {
            thread::yield_now();
        }
    }
}

/// Ends them when it goes, also when a test fails.
#[derive(Debug)]
pub struct End<'a>(pub &'a Turns);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}
