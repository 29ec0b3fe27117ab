// SPDX-License-Identifier: GPL-2.0-or-later
//! A virtual machine with one processor and one block of RAM.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_MEM_LOG_DIRTY_PAGES, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::memory::{Backing, Memory};
use crate::program::{self, Program, mailbox};
use crate::ring::Ring;
use crate::tracking::{Tracking, clear_log, reset_rings};
use crate::{MIB, PAGE};

/// Entries of the dirty ring; more pages than any test writes between two readings.
const RING_BYTES: u32 = 65536 * 16;
/// The slots of KVM: code and page tables, whose writes are not told, and RAM.
const LOW_SLOT: u32 = 0;
const RAM_SLOT: u32 = 1;
const LOW_BYTES: u64 = MIB;
/// Where RAM starts for the guest; code and page tables are below.
const RAM_BASE: u64 = 1 << 30;
/// The guest's page tables reach that far.
const MAPPED_GIB: u64 = 16;
const MAILBOX: u64 = 0x8_0000;
const CODE: u64 = 0x4_0000;
const TABLES: u64 = 0x1000;

/// Present, writable, for user programs, accessed, and with PAGE_SIZE also dirty.
const TABLE_ENTRY: u64 = 0x27;
const PAGE_ENTRY: u64 = 0xe7;
/// The guest may use `in` and `out`.
const RFLAGS_IOPL3: u64 = 0x3002;

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
    // KVM lets go of the memory when this is closed, so it comes first.
    vm: VmFd,
    low: Arc<Memory>,
    ram: Arc<Memory>,
    tracking: Tracking,
    ring: Option<Ring>,
}

/// The processor, which may run in a thread of its own.
#[derive(Debug)]
pub struct Cpu {
    vcpu: VcpuFd,
    // The processor keeps the machine in the kernel alive, and so its memory.
    low: Arc<Memory>,
    ram: Arc<Memory>,
}

/// Why the guest gave control back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Its work is done.
    Done,
    /// The dirty ring must be read before it can go on.
    RingFull,
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
    let vm = kvm.create_vm()?;
    tracking.enable(kvm, &vm, RING_BYTES)?;
    let low = Arc::new(Memory::new(LOW_BYTES, Backing::Small)?);
    let ram = Arc::new(Memory::new(ram_bytes, backing)?);
    low.load(CODE, program::code());
    write_tables(&low);
    let mut vcpu = vm.create_vcpu(0)?;
    let ring = match tracking {
        Tracking::Ring => Some(Ring::map(&vcpu, RING_BYTES)?),
        _ => None,
    };
    enter_user_mode(&mut vcpu)?;
    let machine = Machine {
        vm,
        low: low.clone(),
        ram: ram.clone(),
        tracking,
        ring,
    };
    machine.map(LOW_SLOT, 0, &low, 0)?;
    machine.map(RAM_SLOT, RAM_BASE, &ram, 0)?;
    Ok((machine, Cpu { vcpu, low, ram }))
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

/// 64-bit mode at the level of user programs.
fn enter_user_mode(vcpu: &mut VcpuFd) -> io::Result<()> {
    let mut sregs = vcpu.get_sregs()?;
    sregs.cr3 = TABLES;
    // PAE; then paging, protection, and what goes with them; then long mode.
    sregs.cr4 = 1 << 5;
    sregs.cr0 = (1 << 31) | (1 << 5) | (1 << 4) | 1;
    sregs.efer = (1 << 10) | (1 << 8);
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x13,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.cs = kvm_segment {
        selector: 0x0b,
        type_: 11,
        db: 0,
        l: 1,
        ..data
    };
    Ok(vcpu.set_sregs(&sregs)?)
}

impl Machine {
    fn map(&self, slot: u32, base: u64, memory: &Memory, flags: u32) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: base,
            memory_size: memory.len(),
            userspace_addr: memory.host_address(),
        };
        // SAFETY: the mapping is `memory.len()` bytes long, and the machine and its
        // processor each keep it until KVM has let go of it.
        Ok(unsafe { self.vm.set_user_memory_region(region) }?)
    }

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
        self.low.word(MAILBOX + word)
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
        let flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        self.map(RAM_SLOT, RAM_BASE, &self.ram, flags)
    }

    /// KVM's bitmap of the pages that were written.
    ///
    /// # Errors
    /// What KVM says; a machine with a ring has no bitmap.
    pub fn read_log(&self) -> io::Result<Vec<u64>> {
        Ok(self.vm.get_dirty_log(RAM_SLOT, self.ram.len() as usize)?)
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
        clear_log(&self.vm, RAM_SLOT, first, pages, bitmap)
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
        reset_rings(&self.vm)
    }
}

impl Cpu {
    /// Puts the processor at the start of a program; `argument` is the number of
    /// passes, at least 1, of [`Program::Sweep`], and the number of pages, a power of
    /// two, less one for [`Program::Churn`].
    ///
    /// # Errors
    /// What KVM says.
    pub fn start(&mut self, program: Program, argument: u64) -> io::Result<()> {
        self.low
            .word(MAILBOX + mailbox::STOP)
            .store(0, Ordering::Relaxed);
        Ok(self.vcpu.set_regs(&kvm_regs {
            rip: CODE + program.offset(),
            rflags: RFLAGS_IOPL3,
            rsi: RAM_BASE,
            rdi: RAM_BASE + self.ram.len(),
            r8: MAILBOX,
            rcx: argument,
            ..Default::default()
        })?)
    }

    /// Runs the program until it gives control back.
    ///
    /// # Errors
    /// What KVM says, and any other way to leave the guest.
    pub fn run(&mut self) -> io::Result<Stop> {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(..)) => return Ok(Stop::Done),
                Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => return Ok(Stop::RingFull),
                Ok(VcpuExit::Intr) => {}
                Ok(other) => return Err(io::Error::other(format!("the guest left: {other:?}"))),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets [`Program::Step`] write `value` to the first word of a page.
    ///
    /// # Errors
    /// As [`Cpu::run`].
    pub fn write(&mut self, page: u64, value: u64) -> io::Result<()> {
        let set = |word, value| {
            self.low
                .word(MAILBOX + word)
                .store(value, Ordering::Relaxed)
        };
        set(mailbox::ADDRESS, RAM_BASE + page * PAGE);
        set(mailbox::VALUE, value);
        match self.run()? {
            Stop::Done => Ok(()),
            Stop::RingFull => Err(io::Error::other("the ring is full")),
        }
    }
}
