// SPDX-License-Identifier: GPL-2.0-or-later
//! A virtual machine: what its processors need to run at all, and slots of RAM that
//! come and go.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};

use crate::cpu::Cpu;
use crate::memory::{Backing, Memory};
use crate::program;
use crate::tracking::{Tracking, clear_log, reset_rings};
use crate::{MIB, PAGE};

/// Code, page tables and mailboxes, whose writes are not told.
const LOW_SLOT: u32 = 0;
const LOW_BYTES: u64 = MIB;
pub(crate) const CODE: u64 = 0x4_0000;
pub(crate) const TABLES: u64 = 0x1000;
const MAILBOXES: u64 = 0x8_0000;
/// A mailbox is somewhat smaller.
const MAILBOX_STEP: u64 = 0x1_0000;
/// So many processors have a mailbox.
pub const CPUS: u64 = (LOW_BYTES - MAILBOXES) / MAILBOX_STEP;

/// No ring is larger.
const MAX_RING_SHIFT: u32 = 20;

/// The guest's page tables reach that far.
pub const MAPPED_GIB: u64 = 16;
/// Present, writable, for user programs, accessed, and with PAGE_SIZE also dirty.
const TABLE_ENTRY: u64 = 0x27;
const PAGE_ENTRY: u64 = 0xe7;

#[derive(Debug, Clone)]
struct Slot {
    base: u64,
    memory: Arc<Memory>,
}

impl Slot {
    fn set(&self, vm: &VmFd, slot: u32, flags: u32) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: self.base,
            memory_size: self.memory.len(),
            userspace_addr: self.memory.host_address(),
        };
        // SAFETY: the mapping is `memory_size` bytes long, and the machine, which each of
        // its processors keeps, keeps it until KVM has let go of the slot.
        Ok(unsafe { vm.set_user_memory_region(region) }?)
    }
}

/// How many entries a dirty ring may have, in steps of two, from the fewest to the most.
/// The fewest depend on what the processor keeps to itself at first.
///
/// # Errors
/// What KVM says, and when there is no such number.
pub fn ring_sizes(kvm: &Kvm) -> io::Result<Vec<u32>> {
    let mut sizes = Vec::new();
    for entries in (0..=MAX_RING_SHIFT).map(|shift| 1 << shift) {
        match Vm::new(kvm, Tracking::Ring, entries) {
            Ok(_) => sizes.push(entries),
            Err(error) if is_refusal(&error) => {}
            Err(error) => return Err(error),
        }
    }
    match sizes.is_empty() {
        true => Err(io::Error::other("KVM allows no dirty ring of any size")),
        false => Ok(sizes),
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::E2BIG))
}

/// A virtual machine. Its processors keep it.
#[derive(Debug)]
pub struct Vm {
    // KVM lets go of the memory when this is closed, so it comes first.
    fd: VmFd,
    low: Arc<Memory>,
    slots: Mutex<BTreeMap<u32, Slot>>,
    /// Of each processor's dirty ring.
    ring_bytes: Option<u32>,
}

impl Vm {
    /// A machine without RAM and processors. With a dirty ring, that has `ring_entries`.
    ///
    /// # Errors
    /// What KVM says.
    pub fn new(kvm: &Kvm, tracking: Tracking, ring_entries: u32) -> io::Result<Arc<Vm>> {
        let ring_bytes = ring_entries * crate::ring::ENTRY_BYTES;
        let fd = kvm.create_vm()?;
        tracking.enable(kvm, &fd, ring_bytes)?;
        let low = Arc::new(Memory::new(LOW_BYTES, Backing::Small)?);
        low.load(CODE, program::code());
        write_tables(&low);
        let vm = Vm {
            fd,
            low: low.clone(),
            slots: Mutex::default(),
            ring_bytes: (tracking == Tracking::Ring).then_some(ring_bytes),
        };
        vm.plug(LOW_SLOT, 0, low, false)?;
        Ok(Arc::new(vm))
    }

    /// Makes processor `index`, below [`CPUS`]. Programs that are not told otherwise use
    /// the addresses of `ram`.
    ///
    /// # Errors
    /// What KVM says.
    pub fn cpu(self: &Arc<Vm>, index: u64, ram: Range<u64>) -> io::Result<Cpu> {
        if index >= CPUS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mailbox = MAILBOXES + index * MAILBOX_STEP;
        let vcpu = self.fd.create_vcpu(index)?;
        Ok(Cpu::new(vcpu, self.clone(), mailbox, ram))
    }

    /// A word of the mailbox of processor `index`.
    pub fn mail(&self, index: u64, word: u64) -> &AtomicU64 {
        self.low_word(MAILBOXES + index * MAILBOX_STEP + word)
    }

    pub(crate) fn low_word(&self, address: u64) -> &AtomicU64 {
        self.low.word(address)
    }

    pub(crate) fn ring_bytes(&self) -> Option<u32> {
        self.ring_bytes
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<u32, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a slot: guest addresses from `base` on are `memory` from now on, and with
    /// `logged` their writes are told.
    ///
    /// # Errors
    /// What KVM says, and a slot that is in use.
    pub fn plug(&self, slot: u32, base: u64, memory: Arc<Memory>, logged: bool) -> io::Result<()> {
        let mut slots = self.slots();
        if slots.contains_key(&slot) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let new = Slot { base, memory };
        new.set(&self.fd, slot, flags(logged))?;
        slots.insert(slot, new);
        Ok(())
    }

    /// From here on a slot's writes are told, or no longer.
    ///
    /// # Errors
    /// What KVM says.
    pub fn set_logging(&self, slot: u32, logged: bool) -> io::Result<()> {
        match self.slots().get(&slot) {
            Some(found) => found.set(&self.fd, slot, flags(logged)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Takes a slot away. No processor uses its memory when this has returned.
    ///
    /// # Errors
    /// What KVM says.
    pub fn unplug(&self, slot: u32) -> io::Result<()> {
        let mut slots = self.slots();
        let gone = kvm_userspace_memory_region {
            slot,
            ..Default::default()
        };
        // SAFETY: a size of 0 takes the slot away; KVM uses no memory for it.
        unsafe { self.fd.set_user_memory_region(gone) }?;
        slots.remove(&slot);
        Ok(())
    }

    /// KVM's bitmap of the pages of a slot that were written.
    ///
    /// # Errors
    /// What KVM says; a machine with a ring has no bitmap.
    pub fn read_log(&self, slot: u32, bytes: u64) -> io::Result<Vec<u64>> {
        Ok(self.fd.get_dirty_log(slot, bytes as usize)?)
    }

    /// Clears the bits of `bitmap` in KVM's log of a slot, from page `first` on (see
    /// KVM's documentation of KVM_CLEAR_DIRTY_LOG), and protects those pages.
    ///
    /// # Errors
    /// What KVM says.
    ///
    /// # Panics
    /// When `bitmap` is too short.
    pub fn clear_log(&self, slot: u32, first: u64, pages: u32, bitmap: &[u64]) -> io::Result<()> {
        clear_log(&self.fd, slot, first, pages, bitmap)
    }

    /// Protects the pages of the entries that were taken from all rings; gives their
    /// number.
    ///
    /// # Errors
    /// What KVM says.
    pub fn reset_rings(&self) -> io::Result<u32> {
        reset_rings(&self.fd)
    }
}

fn flags(logged: bool) -> u32 {
    if logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 }
}

/// Page tables that map the first 16 GiB to themselves, in pages of 2 MiB.
fn write_tables(low: &Memory) {
    let set = |offset: u64, value| low.word(offset).store(value, Ordering::Relaxed);
    let (level3, level2) = (TABLES + PAGE, TABLES + 2 * PAGE);
    set(TABLES, level3 | TABLE_ENTRY);
    for gib in 0..MAPPED_GIB {
        let table = level2 + gib * PAGE;
        set(level3 + gib * 8, table | TABLE_ENTRY);
        for part in 0..512 {
            set(
                table + part * 8,
                (gib << 30) | (part * 2 * MIB) | PAGE_ENTRY,
            );
        }
    }
}
