// SPDX-License-Identifier: GPL-2.0-or-later
//! The migration: passes over the pages, the switch to the destination, and what has to hold at the
//! end.

use super::ram::{MIGRATED, PAGE_SHIFT, backing, block_id, place};
use super::world::{Broken, Checked, Phase, Task, World};
use balloon::migration::skips::{Announced, DirtyChange};
use balloon::queue::hint::HintState;
use sparse_bitmap::SparseBitmap;

impl World {
    /// The migration thread goes on.
    pub(crate) fn migrate(&mut self) -> Checked {
        match (self.phase, self.task) {
            (Phase::Idle, _) => {
                self.ram.start();
                self.dirty = self.ram.dirty_bits();
                self.phase = Phase::Precopy;
                self.task = Task::Sync(0);
            }
            (Phase::Precopy, Task::Pass) => self.before_pass(),
            (Phase::Precopy, task) => self.go_on(task),
            (Phase::Postcopy, _) => match self.asked.pop_front() {
                Some(page) => self.answer(page)?,
                None => self.send_next()?,
            },
        }
        Ok(())
    }

    /// Asks for hints or takes them, and synchronizes when all is sent.
    fn before_pass(&mut self) {
        if self.unsettled {
            return self.settle(1);
        }
        // A guest that cannot be asked yet does not keep the migration from going on.
        let refused = std::mem::take(&mut self.refused);
        if self.hints.state() == HintState::Arming && !refused {
            let wanted = self.hints.wanted();
            if self.broken == Broken::RequestBeforeProtect {
                self.request(wanted);
                self.hints.queue_empty();
                self.hints.queue_empty();
                self.request(wanted);
            }
            self.task = Task::Ask(wanted);
        } else if self.hints.has_pending() {
            if self.take() {
                self.task = Task::ArmWanted;
            }
        } else if self.ram.dirty_bits() == 0 && self.main_sync.is_none() {
            self.task = Task::Sync(0);
        }
    }

    /// Sends dirty pages, at most `count` of them.
    pub(crate) fn send(&mut self, count: usize) {
        let dirty = (0..MIGRATED).filter(|&page| self.ram.is_dirty(page));
        for page in dirty.take(count).collect::<Vec<_>>() {
            if self.running {
                self.ram.arm_chunk(page);
            }
            self.ram.set_dirty(page, false);
            self.dirty -= 1;
            self.destination[page] = Some(self.ram.content(page));
        }
    }

    /// The destination takes over. It forgets what it has of pages that are dirty again; backing
    /// pages that are dirty in part become so as a whole.
    pub(crate) fn switch(&mut self) -> Checked {
        self.stop();
        let counters = self.skips.counters();
        self.seen.hinted_in_postcopy += counters.hint_left_out_bytes >> PAGE_SHIFT;
        self.seen.ballooned += counters.ballooned_left_out_bytes >> PAGE_SHIFT;
        self.postcopy()?;
        for page in 0..MIGRATED {
            if backing(page).any(|page| self.ram.is_dirty(page)) {
                self.dirty += i64::from(!self.ram.is_dirty(page));
                self.ram.set_dirty(page, true);
                self.destination[page] = None;
            }
        }
        self.hints.finish();
        self.phase = Phase::Postcopy;
        Ok(())
    }

    /// What was left out is dirty again.
    fn postcopy(&mut self) -> Checked {
        for block in 0..3 {
            let mut change = DirtyChange::default();
            let id = block_id(block);
            let sets = loop {
                let announced = self.skips.postcopy_words(1, &mut self.ram, id, &mut change);
                if let Announced::All(sets) = announced {
                    break sets;
                }
            };
            self.count(change);
            let count: u64 = sets.iter().map(SparseBitmap::len).sum();
            if change.cleared != 0 || change.set != count {
                return Err(format!("{change:?} for {count} pages left out"));
            }
            let sets = sets.into_iter().map(|pages| (block, pages));
            self.left_out.extend(sets);
        }
        Ok(())
    }

    /// Whether a page is announced as zero.
    fn is_left_out(&self, page: usize) -> bool {
        let (block, _) = place(page);
        let bit = self.ram.bitmap_page(page);
        let mut of_block = self.left_out.iter().filter(|(of, _)| *of == block);
        of_block.any(|(_, pages)| pages.contains_range(bit..bit + 1))
    }

    /// Whether the destination has the backing page around `page`. It maps them as a whole.
    fn is_there(&self, page: usize) -> bool {
        backing(page).any(|page| self.destination[page].is_some())
    }

    fn is_in_flight(&self, page: usize) -> bool {
        let start = backing(page).start;
        self.flight.iter().any(|pages| pages[0].0 == start)
    }

    /// The guest at the destination touches a page.
    pub(crate) fn touch(&mut self, page: usize) {
        let start = backing(page).start;
        if self.phase == Phase::Postcopy && page < MIGRATED && !self.is_there(page) {
            // The guest's threads wait for a page together, but each may ask.
            self.waiting.insert(start);
            self.asked.push_back(start);
        }
    }

    /// The source answers a request.
    fn answer(&mut self, page: usize) -> Checked {
        if self.ram.is_dirty(page) {
            self.send_backing(page)
        } else if self.is_there(page) || self.is_in_flight(page) {
            Ok(())
        } else {
            Err(format!("page {page} is asked for and never sent"))
        }
    }

    fn send_next(&mut self) -> Checked {
        match (0..MIGRATED).find(|&page| self.ram.is_dirty(page)) {
            Some(page) => self.send_backing(page),
            None => Ok(()),
        }
    }

    fn send_backing(&mut self, page: usize) -> Checked {
        if self.is_there(page) || self.is_in_flight(page) {
            return Err(format!("page {page} is sent a second time"));
        }
        let mut sent = Vec::new();
        for page in backing(page) {
            if !self.ram.is_dirty(page) {
                return Err(format!("the backing page around {page} is sent in part"));
            }
            self.ram.set_dirty(page, false);
            self.dirty -= 1;
            let zero = self.is_left_out(page);
            self.seen.zero += u64::from(zero);
            sent.push((page, if zero { 0 } else { self.ram.content(page) }));
        }
        self.flight.push_back(sent);
        Ok(())
    }

    /// What was sent first arrives.
    pub(crate) fn deliver(&mut self) {
        for (page, content) in self.flight.pop_front().unwrap_or_default() {
            self.destination[page] = Some(content);
            self.waiting.remove(&page);
        }
    }

    /// The connection breaks and is made again: the destination says what it has, and asks again for
    /// what it waits for.
    pub(crate) fn interrupt(&mut self) {
        self.flight.clear();
        for page in 0..MIGRATED {
            self.ram.set_dirty(page, self.destination[page].is_none());
        }
        self.dirty = self.ram.dirty_bits();
        self.asked = self.waiting.iter().copied().collect();
    }

    /// Brings the migration to its end, and looks at the destination.
    pub(crate) fn end(&mut self) -> Checked {
        match self.phase {
            Phase::Idle => return Ok(()),
            Phase::Precopy => {
                self.stop();
                let counters = self.skips.counters();
                self.seen.ballooned += counters.ballooned_left_out_bytes >> PAGE_SHIFT;
                self.send(MIGRATED);
                self.hints.finish();
            }
            Phase::Postcopy => {
                while self.dirty > 0 || !self.asked.is_empty() || !self.flight.is_empty() {
                    self.migrate()?;
                    self.deliver();
                }
            }
        }
        if self.dirty != 0 || self.ram.dirty_bits() != 0 {
            return Err(format!("{} pages are left", self.dirty));
        }
        for page in (0..MIGRATED).filter(|&page| self.guest.relied[page]) {
            let (has, wants) = (self.destination[page], self.ram.content(page));
            if has != Some(wants) {
                return Err(format!("page {page} is {has:?} and should be {wants}"));
            }
        }
        if self.phase == Phase::Postcopy
            && let Some(page) = (0..MIGRATED).find(|&page| !self.is_there(page))
        {
            return Err(format!(
                "page {page} is missing, and who touches it waits for ever"
            ));
        }
        if let Some(page) = self.waiting.first() {
            return Err(format!("the destination waits for page {page}"));
        }
        Ok(())
    }
}
