// SPDX-License-Identifier: GPL-2.0-or-later
//! A processor, which may run in a thread of its own.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::{KVM_EXIT_DIRTY_RING_FULL, kvm_regs, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::PAGE;
use crate::program::{Program, mailbox};
use crate::ring::Ring;
use crate::vm::{CODE, TABLES, Vm};

/// The guest may use `in` and `out`.
const RFLAGS_IOPL3: u64 = 0x3002;

/// A processor.
#[derive(Debug)]
pub struct Cpu {
    vcpu: VcpuFd,
    mailbox: u64,
    ram: Range<u64>,
    // The processor keeps the machine in the kernel alive, and so its memory.
    vm: Arc<Vm>,
}

/// Why the guest gave control back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Its work is done.
    Done,
    /// The dirty ring must be read before it can go on.
    RingFull,
    /// It wrote to where no slot is.
    NoRam,
}

impl Cpu {
    pub(crate) fn new(vcpu: VcpuFd, vm: Arc<Vm>, mailbox: u64, ram: Range<u64>) -> Cpu {
        Cpu {
            vcpu,
            mailbox,
            ram,
            vm,
        }
    }

    /// Its dirty ring, for one reader, if its machine has them.
    ///
    /// # Errors
    /// When the host has no room.
    pub fn ring(&self) -> io::Result<Option<Ring>> {
        let map = |bytes| Ring::map(&self.vcpu, bytes);
        self.vm.ring_bytes().map(map).transpose()
    }

    fn set_mail(&self, word: u64, value: u64) {
        let word = self.vm.low_word(self.mailbox + word);
        word.store(value, Ordering::Relaxed);
    }

    /// Puts the processor at the start of a program that uses its RAM; for `argument`
    /// see [`Program`].
    ///
    /// # Errors
    /// What KVM says.
    pub fn start(&mut self, program: Program, argument: u64) -> io::Result<()> {
        self.start_in(self.ram.clone(), program, argument)
    }

    /// The same for a program that uses other addresses.
    ///
    /// # Errors
    /// What KVM says.
    pub fn start_in(&mut self, ram: Range<u64>, program: Program, argument: u64) -> io::Result<()> {
        match program {
            Program::RealMode => self.enter_real_mode()?,
            _ => self.enter_user_mode()?,
        }
        self.set_mail(mailbox::STOP, 0);
        self.ram = ram;
        Ok(self.vcpu.set_regs(&kvm_regs {
            rip: program.entry(),
            rflags: RFLAGS_IOPL3,
            rsi: self.ram.start,
            rdi: self.ram.end,
            r8: self.mailbox,
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
                Ok(VcpuExit::MmioWrite(..)) => return Ok(Stop::NoRam),
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
        self.set_mail(mailbox::ADDRESS, self.ram.start + page * PAGE);
        self.set_mail(mailbox::VALUE, value);
        match self.run()? {
            Stop::Done => Ok(()),
            other => Err(io::Error::other(format!("the guest came to {other:?}"))),
        }
    }

    /// 64-bit mode at the level of user programs.
    fn enter_user_mode(&self) -> io::Result<()> {
        let mut sregs = self.vcpu.get_sregs()?;
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
        Ok(self.vcpu.set_sregs(&sregs)?)
    }

    /// As after power-on, but for the segments: code is where all code is, and data
    /// begin 16 bytes below the second MiB.
    fn enter_real_mode(&self) -> io::Result<()> {
        let mut sregs = self.vcpu.get_sregs()?;
        sregs.cr0 = 1 << 4;
        sregs.cr4 = 0;
        sregs.efer = 0;
        let data = kvm_segment {
            base: 0xf_fff0,
            limit: 0xffff,
            selector: 0xffff,
            type_: 3,
            present: 1,
            s: 1,
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
            base: CODE,
            selector: (CODE >> 4) as u16,
            type_: 11,
            ..data
        };
        Ok(self.vcpu.set_sregs(&sregs)?)
    }
}
