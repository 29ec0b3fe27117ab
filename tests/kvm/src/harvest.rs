// SPDX-License-Identifier: GPL-2.0-or-later
//! From the dirty rings to the list of dirty pages, in QEMU's steps: collect, protect,
//! and only then make known.
//!
//! An entry stands for a page that the guest can write to without a new entry, until
//! KVM has protected it again. Whoever hears of the page before that may copy it, and
//! nobody tells of the write after the copy. `protect` before `publish` is therefore not
//! a matter of taste; the steps are functions of their own so that a test can swap them.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;

use dirty_pages::{DirtyList, MACHINE, Noted};

use crate::block::Block;
use crate::ring::Ring;
use crate::vm::Vm;

/// What is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noting {
    /// Each entry of a ring.
    Entries,
    /// An entry whose page was not dirty yet, as QEMU's bits have it.
    NewBits,
}

/// Whether signals wait while KVM protects pages.
///
/// KVM stops for a signal since Linux 6.17, and says how many entries it has done with.
/// It counts those that it has only gathered, up to 64, and their pages are not protected
/// then, nor ever will be: who asks again for the rest loses their writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signals {
    /// They wait.
    Held,
    /// They come.
    Let,
}

/// What came of a harvest.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Harvest {
    /// Entries of slots that are there.
    pub pages: u64,
    /// Entries of slots, or of places in them, that are not there.
    pub dropped: u64,
    /// How many notes were those of the dirty trigger.
    pub triggers: u64,
    /// How often all pages were made known, as KVM had stopped early.
    pub all: u64,
}

/// A page that was found in a ring.
#[derive(Debug)]
struct Found {
    cpu: usize,
    block: Arc<Block>,
    offset: u64,
}

/// A slot as the harvester knows it.
#[derive(Debug)]
struct Slot {
    block: Arc<Block>,
    /// Pages for which the collection had no room.
    bits: Vec<u64>,
}

/// The reader of all rings of a machine.
pub struct Harvester {
    vm: Arc<Vm>,
    list: Arc<DirtyList>,
    noting: Noting,
    signals: Signals,
    room: usize,
    /// By the number of their processor.
    rings: BTreeMap<usize, Ring>,
    slots: BTreeMap<u32, Slot>,
    found: Vec<Found>,
    unprotected: u32,
    harvest: Harvest,
}

impl Harvester {
    /// One without rings and slots.
    pub fn new(vm: Arc<Vm>, list: Arc<DirtyList>, noting: Noting) -> Harvester {
        Harvester {
            vm,
            list,
            noting,
            signals: Signals::Held,
            room: usize::MAX,
            rings: BTreeMap::new(),
            slots: BTreeMap::new(),
            found: Vec::new(),
            unprotected: 0,
            harvest: Harvest::default(),
        }
    }

    /// From now on it collects so many pages at a time; what is more goes through the
    /// bitmap of the slot.
    pub fn set_room(&mut self, pages: usize) {
        self.room = pages;
    }

    /// From now on signals are treated so.
    pub fn set_signals(&mut self, signals: Signals) {
        self.signals = signals;
    }

    /// From now on the ring of processor `cpu` is read, too.
    pub fn add_ring(&mut self, cpu: usize, ring: Ring) {
        self.rings.insert(cpu, ring);
    }

    /// From now on entries of this slot are pages of `block`.
    pub fn add_slot(&mut self, slot: u32, block: Arc<Block>) {
        let bits = vec![0; block.pages().count().div_ceil(64)];
        self.slots.insert(slot, Slot { block, bits });
    }

    /// From now on entries of this slot are nobody's.
    pub fn forget_slot(&mut self, slot: u32) {
        self.slots.remove(&slot);
    }

    /// Collect, protect, publish.
    ///
    /// # Errors
    /// What KVM says.
    pub fn harvest(&mut self) -> io::Result<Harvest> {
        self.harvest_slowly(|| ())
    }

    /// The same, with `pause` between the steps.
    ///
    /// # Errors
    /// What KVM says.
    pub fn harvest_slowly(&mut self, pause: impl Fn()) -> io::Result<Harvest> {
        self.collect();
        pause();
        self.protect()?;
        pause();
        Ok(self.publish())
    }

    /// Takes all entries. Nobody hears of them yet.
    pub fn collect(&mut self) {
        for (cpu, ring) in &mut self.rings {
            while let Some((slot, offset)) = ring.pop() {
                self.unprotected += 1;
                let slot = self.slots.get_mut(&slot);
                // A slot that is gone, or a smaller one than it was.
                let Some(slot) = slot.filter(|slot| offset < slot.block.pages().count() as u64)
                else {
                    self.harvest.dropped += 1;
                    continue;
                };
                self.harvest.pages += 1;
                if self.found.len() < self.room {
                    let block = slot.block.clone();
                    let cpu = *cpu;
                    self.found.push(Found { cpu, block, offset });
                } else {
                    slot.bits[(offset / 64) as usize] |= 1 << (offset % 64);
                }
            }
        }
    }

    /// Has KVM protect all pages that were collected.
    ///
    /// # Errors
    /// What KVM says.
    pub fn protect(&mut self) -> io::Result<()> {
        let collected = std::mem::take(&mut self.unprotected);
        if collected == 0 {
            return Ok(());
        }
        let done = match self.signals {
            Signals::Held => held(|| self.vm.reset_rings())?,
            Signals::Let => self.vm.reset_rings()?,
        };
        if done < collected {
            held(|| self.vm.reset_rings())?;
            self.protect_all()?;
        }
        Ok(())
    }

    /// The way out when KVM stopped early: nobody knows which pages it left as they were.
    /// So all are protected, and as a write in between was not told, all are dirty.
    fn protect_all(&mut self) -> io::Result<()> {
        for (number, slot) in &mut self.slots {
            self.vm.set_logging(*number, false)?;
            self.vm.set_logging(*number, true)?;
            slot.bits.fill(u64::MAX);
        }
        self.harvest.all += 1;
        Ok(())
    }

    /// Makes known what was collected.
    pub fn publish(&mut self) -> Harvest {
        let mut triggers = 0;
        let mut note = |cpu, block: &Block, word, bits| {
            let new = block.set_dirty(word, bits);
            let bits = match self.noting {
                Noting::Entries => bits,
                Noting::NewBits => new,
            };
            let first = block.pages().start + word as u64 * 64;
            triggers += u64::from(self.list.note(cpu, first, bits) == Noted::Trigger);
        };
        for Found { cpu, block, offset } in self.found.drain(..) {
            note(cpu, &block, (offset / 64) as usize, 1 << (offset % 64));
        }
        for slot in self.slots.values_mut() {
            let some = slot.bits.iter_mut().enumerate();
            for (word, bits) in some.filter(|(_, bits)| **bits != 0) {
                note(MACHINE, &slot.block, word, std::mem::take(bits));
            }
        }
        self.harvest.triggers = triggers;
        std::mem::take(&mut self.harvest)
    }
}

/// Calls `call` with no signal coming to this thread before it has returned.
fn held<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call writes a set of signals to where `all` has room for one.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: it reads the set that was just made, and writes one to `before`.
    let result =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    let value = call();
    // SAFETY: it reads the set that the first call wrote.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    value
}
