// SPDX-License-Identifier: GPL-2.0-or-later
//! A machine whose dirty pages are listed: its processors, the reader of its rings, and
//! the readers of the list.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use dirty_pages::{DirtyList, DirtyOptions, Error, VERSION};
use kvm_ioctls::Kvm;

use crate::block::Block;
use crate::cpu::{Cpu, Stop};
use crate::harvest::{Harvest, Harvester, Noting};
use crate::tracking::Tracking;
use crate::vm::Vm;

/// How many pages are asked for at a time.
const BATCH: usize = 1000;
/// No test has so many pages.
const ENDLESS: usize = 1 << 24;
/// So often in a row may a ring be full and nothing be found in any.
const FRUITLESS: u32 = 1000;

/// What a machine and its list are made of.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Of the dirty ring of each processor.
    pub ring_entries: u32,
    /// The list.
    pub list: DirtyOptions,
    /// What is noted.
    pub noting: Noting,
}

impl Default for Setup {
    /// Everything is larger than what most tests need.
    fn default() -> Setup {
        Setup {
            ring_entries: 4096,
            list: DirtyOptions {
                version: VERSION,
                no_dups: false,
                max_dirty: 1 << 17,
                dirty_trigger: 0,
                vcpus: 2,
            },
            noting: Noting::Entries,
        }
    }
}

/// A machine with its list.
pub struct Rig {
    /// The machine.
    pub vm: Arc<Vm>,
    /// The list.
    pub list: Arc<DirtyList>,
    harvester: Mutex<Harvester>,
    blocks: Mutex<Vec<Arc<Block>>>,
}

/// How a program came to its end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// How often its processor's ring was full.
    pub full: u64,
    /// How often the harvests that this led to came to the page of the dirty trigger.
    pub triggers: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rig {
    /// A machine without RAM and processors, and its list, which is not started.
    ///
    /// # Errors
    /// What KVM and the library say.
    pub fn new(kvm: &Kvm, setup: Setup) -> io::Result<Rig> {
        let vm = Vm::new(kvm, Tracking::Ring, setup.ring_entries)?;
        let list = Arc::new(DirtyList::new(setup.list).map_err(io::Error::other)?);
        let harvester = Harvester::new(vm.clone(), list.clone(), setup.noting);
        Ok(Rig {
            vm,
            list,
            harvester: Mutex::new(harvester),
            blocks: Mutex::default(),
        })
    }

    /// Starts the list. The bits of earlier writes are cleared after that, as a page whose
    /// bit is set is not noted.
    ///
    /// # Errors
    /// What KVM and the library say.
    pub fn start(&self) -> io::Result<()> {
        self.start_slowly(|| ())
    }

    /// The same, with `pause` between the steps.
    ///
    /// # Errors
    /// What KVM and the library say.
    pub fn start_slowly(&self, pause: impl Fn()) -> io::Result<()> {
        self.harvest()?;
        self.list.start().map_err(io::Error::other)?;
        pause();
        self.blocks().iter().for_each(|block| block.clear_all());
        Ok(())
    }

    /// Makes a slot of `block`, whose writes are told.
    ///
    /// # Errors
    /// What KVM says.
    pub fn plug(&self, slot: u32, base: u64, block: &Arc<Block>) -> io::Result<()> {
        // Before the first entry can come.
        self.harvester().add_slot(slot, block.clone());
        let mut blocks = self.blocks();
        if !blocks.iter().any(|known| Arc::ptr_eq(known, block)) {
            blocks.push(block.clone());
        }
        self.vm.plug(slot, base, block.memory().clone(), true)
    }

    /// Takes a slot away, and makes known what the rings still have of it. Not before KVM
    /// has taken it away, as more entries could come; and not after its number was used
    /// again, as they would be taken for the other's.
    ///
    /// # Errors
    /// What KVM says.
    pub fn unplug(&self, slot: u32) -> io::Result<Harvest> {
        let mut harvester = self.harvester();
        self.vm.unplug(slot)?;
        let harvest = harvester.harvest()?;
        harvester.forget_slot(slot);
        Ok(harvest)
    }

    /// Makes a processor, whose ring is read from now on.
    ///
    /// # Errors
    /// What KVM says.
    pub fn cpu(&self, index: u64, ram: Range<u64>) -> io::Result<Cpu> {
        let cpu = self.vm.cpu(index, ram)?;
        if let Some(ring) = cpu.ring()? {
            self.harvester().add_ring(index as usize, ring);
        }
        Ok(cpu)
    }

    /// The reader of the rings.
    pub fn harvester(&self) -> MutexGuard<'_, Harvester> {
        lock(&self.harvester)
    }

    fn blocks(&self) -> MutexGuard<'_, Vec<Arc<Block>>> {
        lock(&self.blocks)
    }

    /// Reads all rings.
    ///
    /// # Errors
    /// What KVM says.
    pub fn harvest(&self) -> io::Result<Harvest> {
        self.harvester().harvest()
    }

    /// Runs a processor until its program ends; reads all rings when its own is full, as
    /// QEMU does in the processor's thread.
    ///
    /// # Errors
    /// What KVM says, and a write to where no slot is.
    pub fn run(&self, cpu: &mut Cpu) -> io::Result<Ran> {
        self.run_paced(cpu, || ())
    }

    /// The same, with `pause` before each harvest.
    ///
    /// # Errors
    /// As of [`Rig::run`].
    pub fn run_paced(&self, cpu: &mut Cpu, pause: impl Fn()) -> io::Result<Ran> {
        let (mut ran, mut fruitless) = (Ran::default(), 0);
        loop {
            match cpu.run()? {
                Stop::Done => return Ok(ran),
                Stop::NoRam => return Err(io::Error::other("the guest wrote to no RAM")),
                Stop::RingFull => {}
            }
            pause();
            let harvest = self.harvest()?;
            ran.full += 1;
            ran.triggers += harvest.triggers;
            // Another thread may have read it in between, but not for ever.
            let found = harvest.pages + harvest.dropped > 0;
            fruitless = if found { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS {
                return Err(io::Error::other("the ring stays full"));
            }
        }
    }

    /// Waits while the consumer's list is half full, unless it is stopped or `over`. So it
    /// cannot overflow, however slow its reader is: what several threads harvest at once fits
    /// into the other half.
    pub fn wait_for_room(&self, over: impl Fn() -> bool) {
        let is_half_full = || {
            let at = self.list.indices();
            let listed = at.dirty_index.saturating_sub(at.fetch_index);
            at.active && listed > at.max_dirty as u64 / 2
        };
        while is_half_full() && !over() {
            thread::yield_now();
        }
    }

    /// What the consumer fetches, batch by batch until there is no more, sorted. The bits of
    /// its pages are cleared: who reads a page after this sees all that its bit stood for.
    ///
    /// # Errors
    /// What the library says.
    pub fn fetch(&self) -> Result<Vec<u64>, Error> {
        self.take(|pages| self.list.fetch(pages))
    }

    /// The same for a migration, whose synchronization has begun.
    ///
    /// # Errors
    /// What the library says.
    pub fn sync_fetch(&self) -> Result<Vec<u64>, Error> {
        self.take(|pages| self.list.sync_fetch(pages))
    }

    fn take(&self, next: impl Fn(&mut [u64]) -> Result<usize, Error>) -> Result<Vec<u64>, Error> {
        let mut all = Vec::new();
        let mut batch = [0; BATCH];
        loop {
            let count = next(&mut batch)?;
            if count == 0 {
                break;
            }
            all.extend_from_slice(&batch[..count]);
            assert!(all.len() < ENDLESS, "the list has no end");
        }
        all.sort_unstable();
        for block in self.blocks().iter() {
            let of_block = block.pages();
            let mine = all.iter().filter(|page| of_block.contains(page));
            mine.for_each(|page| block.clear(*page));
        }
        Ok(all)
    }

    /// The pages whose bits are set, for those for whom the list is not all. The bits are
    /// cleared.
    pub fn scan(&self) -> Vec<u64> {
        let blocks = self.blocks();
        let mut pages: Vec<u64> = blocks.iter().flat_map(|block| block.take_all()).collect();
        pages.sort_unstable();
        pages
    }
}
