// SPDX-License-Identifier: GPL-2.0-or-later
//! A virtual machine with one processor and one block of RAM.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kvm_ioctls::Kvm;

pub use crate::cpu::{Cpu, Stop};
use crate::memory::{Backing, Memory};
use crate::ring::Ring;
use crate::tracking::Tracking;
use crate::vm::{MAPPED_GIB, Vm};
use crate::{MIB, PAGE};

/// Entries of the dirty ring; more pages than any test writes between two readings.
const RING_ENTRIES: u32 = 65536;
const RAM_SLOT: u32 = 1;
/// Where RAM starts for the guest; code and page tables are below.
const RAM_BASE: u64 = 1 << 30;

/// What a machine is made of.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Its RAM, a multiple of 2 MiB, at most 15 GiB.
    pub ram_bytes: u64,
    /// The host's pages behind it.
    pub backing: Backing,
    /// How its writes are told.
    pub tracking: Tracking,
}

/// The machine without its processor: what a migration sees of it.
#[derive(Debug)]
pub struct Machine {
    vm: Arc<Vm>,
    ram: Arc<Memory>,
    tracking: Tracking,
    ring: Option<Ring>,
}

/// Makes a machine.
///
/// # Errors
/// What KVM says, and a size that is not allowed.
pub fn build(kvm: &Kvm, config: Config) -> io::Result<(Machine, Cpu)> {
    let Config {
        ram_bytes,
        backing,
        tracking,
    } = config;
    if !ram_bytes.is_multiple_of(2 * MIB) || ram_bytes > (MAPPED_GIB << 30) - RAM_BASE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let vm = Vm::new(kvm, tracking, RING_ENTRIES)?;
    let ram = Arc::new(Memory::new(ram_bytes, backing)?);
    let cpu = vm.cpu(0, RAM_BASE..RAM_BASE + ram_bytes)?;
    let ring = cpu.ring()?;
    vm.plug(RAM_SLOT, RAM_BASE, ram.clone(), false)?;
    let machine = Machine {
        vm,
        ram,
        tracking,
        ring,
    };
    Ok((machine, cpu))
}

impl Machine {
    /// The pages of its RAM.
    pub fn pages(&self) -> u64 {
        self.ram.len() / PAGE
    }

    /// The first word of a page, as a migration reads it.
    pub fn page(&self, page: u64) -> &AtomicU64 {
        self.ram.word(page * PAGE)
    }

    /// A word of the mailbox.
    pub fn mail(&self, word: u64) -> &AtomicU64 {
        self.vm.mail(0, word)
    }

    /// How its writes are told.
    pub fn tracking(&self) -> Tracking {
        self.tracking
    }

    /// From here on writes are told, or no longer.
    ///
    /// # Errors
    /// What KVM says.
    pub fn set_logging(&self, on: bool) -> io::Result<()> {
        self.vm.set_logging(RAM_SLOT, on)
    }

    /// KVM's bitmap of the pages that were written.
    ///
    /// # Errors
    /// What KVM says; a machine with a ring has no bitmap.
    pub fn read_log(&self) -> io::Result<Vec<u64>> {
        self.vm.read_log(RAM_SLOT, self.ram.len())
    }

    /// Clears the bits of `bitmap` in KVM's log, from page `first` on (see KVM's
    /// documentation of KVM_CLEAR_DIRTY_LOG), and protects those pages.
    ///
    /// # Errors
    /// What KVM says.
    ///
    /// # Panics
    /// When `bitmap` is too short.
    pub fn clear_log(&self, first: u64, pages: u32, bitmap: &[u64]) -> io::Result<()> {
        self.vm.clear_log(RAM_SLOT, first, pages, bitmap)
    }

    /// Takes an entry of the dirty ring: a page that was written. None without one.
    pub fn pop_ring(&mut self) -> Option<u64> {
        let (slot, page) = self.ring.as_mut()?.pop()?;
        // No other slot is told of.
        assert_eq!(slot, RAM_SLOT);
        Some(page)
    }

    /// Protects the pages of the entries that were taken; gives their number.
    ///
    /// # Errors
    /// What KVM says.
    pub fn reset_ring(&self) -> io::Result<u32> {
        self.vm.reset_rings()
    }
}
