// SPDX-License-Identifier: GPL-2.0-or-later
//! Synchronizations of the bitmap, by the migration thread and by the main loop, and what they
//! leave to do.

use super::ram::MIGRATED;
use super::world::{Broken, Phase, Task, World};
use balloon::migration::skips::DirtyChange;
use balloon::migration::sweep::Ballooned;

/// Parts of a synchronization.
const SYNC_PARTS: u32 = 6;

impl World {
    /// Whether the migration thread may begin to synchronize.
    pub(crate) fn may_sync(&self) -> bool {
        self.phase == Phase::Precopy && self.task == Task::Pass && self.main_sync.is_none()
    }

    /// The main loop and the migration thread never synchronize at the same time.
    pub(crate) fn main_sync(&mut self) {
        if matches!(self.task, Task::Sync(_)) {
            return;
        }
        let part = self.main_sync.unwrap_or(0);
        self.sync(part);
        self.main_synced = true;
        self.main_sync = Some(part + 1).filter(|&part| part < SYNC_PARTS);
    }

    /// The migration thread does a part of its synchronization.
    pub(crate) fn thread_sync(&mut self, part: u32) {
        self.sync(part);
        self.main_synced = false;
        self.task = match part + 1 {
            SYNC_PARTS => Task::Pass,
            part => Task::Sync(part),
        };
    }

    /// One part of a synchronization of the bitmap.
    fn sync(&mut self, part: u32) {
        match part {
            0 if self.broken == Broken::HintsAfterSync => self.kept.extend(self.hints.take()),
            0 => {
                self.take();
            }
            1 => self.hints.before_sync(),
            2 => self.ram.collect(),
            3 => self.dirty += self.ram.merge(),
            4 => self.synced(),
            _ => {
                self.late_arming = false;
                self.hints.after_sync(self.running);
            }
        }
    }

    fn synced(&mut self) {
        if std::mem::take(&mut self.begin) {
            self.skips.begin();
        }
        self.skips.synced();
        self.unsettled = true;
    }

    /// A step of what a synchronization leaves to do.
    pub(crate) fn settle(&mut self, words: usize) {
        if !self.unsettled {
            return;
        }
        let mut change = DirtyChange::default();
        let is_stale = matches!(self.broken, Broken::ForgetDeflated | Broken::KeepDeflated);
        let balloon = Ballooned {
            pages: if is_stale { &self.stale } else { &self.balloon },
            memory: &self.memory,
        };
        let left = self.left.iter().copied().filter(|&page| page < MIGRATED);
        let left: Vec<usize> = left.collect();
        let dirty: Vec<bool> = left.iter().map(|&page| self.ram.is_dirty(page)).collect();
        self.unsettled = self
            .skips
            .sweep_words(words, &mut self.ram, Some(&balloon), &mut change);
        self.count(change);
        if self.broken == Broken::KeepDeflated {
            // Nothing is left out that is not in the balloon, but what left it is not put back.
            for (page, dirty) in left.into_iter().zip(dirty) {
                if dirty && !self.ram.is_dirty(page) {
                    self.ram.set_dirty(page, true);
                    self.dirty += 1;
                }
            }
        }
    }

    /// All of that.
    pub(crate) fn settle_all(&mut self) {
        while self.unsettled {
            self.settle(1);
        }
    }

    /// The guest stops, and what is left of synchronizations is done, and one more.
    pub(crate) fn stop(&mut self) {
        while self.main_sync.is_some() {
            self.main_sync();
        }
        while let Task::Sync(part) = self.task {
            self.thread_sync(part);
        }
        if !self.main_synced {
            // Before it was decided to stop the guest.
            self.settle_all();
        }
        self.running = false;
        self.task = Task::Pass;
        (0..SYNC_PARTS).for_each(|part| self.sync(part));
        self.settle_all();
    }
}
