// SPDX-License-Identifier: GPL-2.0-or-later
//! At how many dirty pages the machine is to be paused.

use super::Noted;
use super::sync::{AtomicU64, Ordering};

/// A trigger that is not armed.
const NEVER: u64 = u64::MAX;

pub(super) struct Trigger {
    /// 0 for none.
    pages: u64,
    /// Pages noted since the list was started.
    count: AtomicU64,
    /// At which count it goes off.
    at: AtomicU64,
}

impl Trigger {
    pub(super) fn new(pages: usize) -> Trigger {
        Trigger {
            pages: pages as u64,
            count: AtomicU64::new(0),
            at: AtomicU64::new(NEVER),
        }
    }

    /// Counts from 0. Notes of before may still be under way, and be counted until the end of this.
    /// They are forgotten after the trigger was armed: so it does not go off here, where nobody
    /// would hear of it. It may go off too early in a late note: its caller hears of that, and has
    /// the machine paused.
    pub(super) fn start(&self) {
        if self.pages == 0 {
            return;
        }
        self.count.store(0, Ordering::Release);
        self.at.store(self.pages, Ordering::Release);
        self.count.swap(0, Ordering::AcqRel);
    }

    /// Counts from `from` on. Whoever notes a page after the count is read here sees the new `at`:
    /// both change the count, so one of them sees what the other did before.
    pub(super) fn arm(&self, from: u64) -> Noted {
        if self.pages == 0 {
            return Noted::Done;
        }
        self.at
            .store(from.saturating_add(self.pages), Ordering::Release);
        self.look_at(self.count.fetch_add(0, Ordering::AcqRel))
    }

    /// Counts pages. Without a trigger this is nothing that threads would have to share.
    pub(super) fn count(&self, pages: u32) -> Noted {
        if self.pages == 0 {
            return Noted::Done;
        }
        let pages = u64::from(pages);
        self.look_at(self.count.fetch_add(pages, Ordering::AcqRel) + pages)
    }

    /// Whoever comes first at the page of the trigger, or past it, is the one to say so.
    fn look_at(&self, count: u64) -> Noted {
        let at = self.at.load(Ordering::Acquire);
        let (yes, no) = (Ordering::AcqRel, Ordering::Relaxed);
        let is_there = count >= at && self.at.compare_exchange(at, NEVER, yes, no).is_ok();
        if is_there {
            Noted::Trigger
        } else {
            Noted::Done
        }
    }
}
