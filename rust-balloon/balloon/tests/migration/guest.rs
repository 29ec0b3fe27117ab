// SPDX-License-Identifier: GPL-2.0-or-later
//! The guest: what it uses its pages for, and what its driver puts into the hint queue.

use std::collections::VecDeque;

use super::ram::{PAGES, SIZES, place};
use balloon::wire::{HINT_DONE, HINT_STOP};

/// What a page is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Used,
    Free,
    /// The driver holds it for the rounds of hints.
    Held,
    Ballooned,
}

/// A request in the hint queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Id(u32),
    Block { page: usize, count: usize },
}

/// The guest.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) usage: [Usage; PAGES],
    /// The page was written since it was last free: its content matters.
    pub(crate) relied: [bool; PAGES],
    pub(crate) ring: VecDeque<Request>,
    /// The round that the driver answers.
    active: bool,
    /// The command that it saw last.
    seen: u32,
}

impl Guest {
    /// A guest that uses all of its memory.
    pub(crate) fn new() -> Guest {
        Guest {
            usage: [Usage::Used; PAGES],
            relied: [true; PAGES],
            ring: VecDeque::new(),
            active: false,
            seen: HINT_STOP,
        }
    }

    fn give_back(&mut self, from: Usage) {
        for usage in self.usage.iter_mut().filter(|usage| **usage == from) {
            *usage = Usage::Free;
        }
    }

    fn stop(&mut self) {
        if std::mem::take(&mut self.active) {
            self.ring.push_back(Request::Id(HINT_STOP));
        }
    }

    /// The driver comes to look at the configuration space.
    pub(crate) fn notice(&mut self, shown: u32) {
        if shown == self.seen {
            return;
        }
        self.stop();
        self.seen = shown;
        match shown {
            HINT_STOP => {}
            HINT_DONE => self.give_back(Usage::Held),
            id => {
                // A Linux driver has one place for its ids: those that are still in the ring change.
                for request in &mut self.ring {
                    if matches!(request, Request::Id(old) if *old != HINT_STOP) {
                        *request = Request::Id(id);
                    }
                }
                self.ring.push_back(Request::Id(id));
                self.active = true;
            }
        }
    }

    /// The driver hints at the next free pages from `page` on, at most `count`; it may not have noticed
    /// that the round is over.
    pub(crate) fn post(&mut self, page: usize, count: usize) {
        let mut pages = (page..PAGES).chain(0..page);
        let Some(page) = pages.find(|&page| self.usage[page] == Usage::Free) else {
            return;
        };
        let (block, at) = place(page);
        let end = page + count.min(SIZES[block] - at);
        let free = (page..end).take_while(|&page| self.usage[page] == Usage::Free);
        let count = free.count();
        if self.active {
            self.usage[page..page + count].fill(Usage::Held);
            self.ring.push_back(Request::Block { page, count });
        }
    }

    /// The driver has no more to hint at.
    pub(crate) fn post_stop(&mut self) {
        self.stop();
    }

    /// A page is not needed any more.
    pub(crate) fn free(&mut self, page: usize) {
        if self.usage[page] == Usage::Used {
            self.usage[page] = Usage::Free;
            self.relied[page] = false;
        }
    }

    /// A page is used that was free, or that the driver held; says whether it may be written.
    pub(crate) fn reuse(&mut self, page: usize) -> bool {
        if self.usage[page] == Usage::Ballooned {
            return false;
        }
        self.usage[page] = Usage::Used;
        self.relied[page] = true;
        true
    }

    /// The machine starts anew, with another driver; memory stays as it is.
    pub(crate) fn reset(&mut self) {
        self.give_back(Usage::Held);
        self.give_back(Usage::Ballooned);
        self.ring.clear();
        self.active = false;
        self.seen = HINT_STOP;
    }
}
