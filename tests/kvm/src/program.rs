// SPDX-License-Identifier: GPL-2.0-or-later
//! The guest's instructions.
//!
//! All but one run in 64-bit mode at the level of user programs: there a KVM that is
//! itself in a virtual machine without help from the processor lets the code run
//! by itself, with page tables whose write protection is seen at work. A guest's
//! kernel, and real mode, are emulated there, instruction by instruction.
//!
//! An `out` ends each piece of work and gives control back to the host.

use std::arch::global_asm;

use crate::vm::CODE;

/// Where the guest's registers point to: words through which the guest and the
/// host talk.
pub mod mailbox {
    /// The host wants a program that goes on by itself to stop.
    pub const STOP: u64 = 0x00;
    /// [`super::Program::Step`]: the address to write to.
    pub const ADDRESS: u64 = 0x08;
    /// [`super::Program::Step`]: what to write there.
    pub const VALUE: u64 = 0x10;
    /// [`super::Program::Pulse`]: the longest time between two writes, in ticks
    /// of the processor's clock; the host may set it back to 0.
    pub const LONGEST: u64 = 0x18;
    /// [`super::Program::Pulse`]: how many writes there were.
    pub const COUNT: u64 = 0x20;
    /// [`super::Program::Churn`]: the round of hints that is asked for, 0 for none.
    pub const ROUND: u64 = 0x28;
    /// [`super::Program::Churn`]: how many hints the guest has posted, ever.
    pub const POSTED: u64 = 0x30;
    /// [`super::Program::Churn`]: how many of them the host has taken.
    pub const TAKEN: u64 = 0x38;
    /// [`super::Program::Churn`], [`super::Program::Scatter`]: its random number, not 0;
    /// kept from run to run.
    pub const RANDOM: u64 = 0x40;
    /// [`super::Program::Churn`], [`super::Program::Scatter`], [`super::Program::List`]:
    /// what it wrote last; kept from run to run.
    pub const WRITTEN: u64 = 0x48;
    /// [`super::Program::Churn`]: the hints, each its round * 2^32 + its page.
    pub const HINTS: u64 = 0x1000;
    /// How many of them there is room for.
    pub const HINTS_LEN: u64 = 4096;
    /// [`super::Program::List`]: the addresses to write to.
    pub const LIST: u64 = 0x1000;
    /// How many of them there is room for.
    pub const LIST_LEN: u64 = 4096;
}

// RSI: first byte of RAM; RDI: its end; R8: the mailbox; RCX: the argument.
global_asm!(
    ".globl vbr_kvm_step, vbr_kvm_sweep, vbr_kvm_pulse, vbr_kvm_churn",
    ".globl vbr_kvm_list, vbr_kvm_scatter, vbr_kvm_real_mode, vbr_kvm_end",
    // The next number at random, in R9.
    ".macro vbr_kvm_random",
    "mov rax, r9",
    "shl rax, 13",
    "xor r9, rax",
    "mov rax, r9",
    "shr rax, 7",
    "xor r9, rax",
    "mov rax, r9",
    "shl rax, 17",
    "xor r9, rax",
    ".endm",
    // One word at a time, as the host says.
    "vbr_kvm_step:",
    "mov rax, [r8 + 0x08]",
    "mov rbx, [r8 + 0x10]",
    "mov [rax], rbx",
    "out 0x10, al",
    "jmp vbr_kvm_step",
    // A word in each page, RCX times over.
    "vbr_kvm_sweep:",
    "mov rax, rsi",
    "1:",
    "mov [rax], rcx",
    "add rax, 4096",
    "cmp rax, rdi",
    "jb 1b",
    "dec rcx",
    "jnz vbr_kvm_sweep",
    "out 0x10, al",
    // A word in each page for ever, with a look at the clock each time.
    "vbr_kvm_pulse:",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov r9, rax",
    "2:",
    "mov r10, rsi",
    "3:",
    "mov [r10], r9",
    "inc qword ptr [r8 + 0x20]",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov rbx, rax",
    "sub rbx, r9",
    "mov r9, rax",
    "cmp rbx, [r8 + 0x18]",
    "jbe 4f",
    "mov [r8 + 0x18], rbx",
    "4:",
    "cmp qword ptr [r8], 0",
    "jne 5f",
    "add r10, 4096",
    "cmp r10, rdi",
    "jb 3b",
    "jmp 2b",
    "5:",
    "out 0x10, al",
    // A page at random: hint at it if hints are asked for, wait, use it again.
    "vbr_kvm_churn:",
    "mov r9, [r8 + 0x40]",
    "mov r10, [r8 + 0x48]",
    "mov r11, [r8 + 0x30]",
    "6:",
    "vbr_kvm_random",
    "mov rbx, r9",
    "and rbx, rcx",
    "mov rax, [r8 + 0x28]",
    "test rax, rax",
    "jz 7f",
    "mov rdx, r11",
    "sub rdx, [r8 + 0x38]",
    "cmp rdx, 4096",
    "jae 7f",
    "shl rax, 32",
    "or rax, rbx",
    "mov rdx, r11",
    "and edx, 4095",
    "mov [r8 + rdx * 8 + 0x1000], rax",
    "inc r11",
    "mov [r8 + 0x30], r11",
    "7:",
    "mov rdx, r9",
    "shr rdx, 50",
    "8:",
    "dec rdx",
    "jns 8b",
    "inc r10",
    "shl rbx, 12",
    "mov [rsi + rbx], r10",
    "cmp qword ptr [r8], 0",
    "je 6b",
    "mov [r8 + 0x40], r9",
    "mov [r8 + 0x48], r10",
    "out 0x10, al",
    // A word to each address of the list.
    "vbr_kvm_list:",
    "mov r10, [r8 + 0x48]",
    "lea rdx, [r8 + 0x1000]",
    "9:",
    "mov rax, [rdx]",
    "inc r10",
    "mov [rax], r10",
    "add rdx, 8",
    "dec rcx",
    "jnz 9b",
    "mov [r8 + 0x48], r10",
    "out 0x10, al",
    // Words at random.
    "vbr_kvm_scatter:",
    "mov r9, [r8 + 0x40]",
    "mov r10, [r8 + 0x48]",
    "mov r11, rdi",
    "sub r11, rsi",
    "sub r11, 8",
    "2:",
    "vbr_kvm_random",
    "mov rbx, r9",
    "and rbx, r11",
    "inc r10",
    "mov [rsi + rbx], r10",
    "cmp qword ptr [r8], 0",
    "jne 3f",
    "dec rcx",
    "jnz 2b",
    "3:",
    "mov [r8 + 0x40], r9",
    "mov [r8 + 0x48], r10",
    "out 0x10, al",
    // A word in each page of the second MiB, and control back after each.
    ".code16",
    "vbr_kvm_real_mode:",
    "mov bx, 0x10",
    "4:",
    "mov [bx], cx",
    "out 0x10, al",
    "add bx, 4096",
    "loop 4b",
    "5:",
    "out 0x10, al",
    "jmp 5b",
    ".code64",
    "vbr_kvm_end:",
);

unsafe extern "C" {
    static vbr_kvm_step: u8;
    static vbr_kvm_sweep: u8;
    static vbr_kvm_pulse: u8;
    static vbr_kvm_churn: u8;
    static vbr_kvm_list: u8;
    static vbr_kvm_scatter: u8;
    static vbr_kvm_real_mode: u8;
    static vbr_kvm_end: u8;
}

/// What the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Writes one word where the mailbox says, then ends; again at each run.
    Step,
    /// Writes a word to each page, as often as the argument says, at least once, then
    /// ends.
    Sweep,
    /// Writes a word to each page, over and over, until the host says stop, and
    /// notes the longest time between two writes.
    Pulse,
    /// Takes pages at random until the host says stop: posts a hint if one is asked
    /// for, and writes the page a little later. So what it hinted is always used again.
    /// The argument is the number of pages, a power of two, less one.
    Churn,
    /// Writes a word to each of the addresses in the mailbox, of which the argument says
    /// the number, at least 1, then ends.
    List,
    /// Writes as many words as the argument says, at least 1, at random in its RAM, whose
    /// size is a power of two; then, or when the host says stop, it ends.
    Scatter,
    /// In real mode: writes a word to each of the first pages from the second MiB on, as
    /// many as the argument says, at most 16. It ends after each, and goes on at the next
    /// run.
    RealMode,
}

impl Program {
    /// Where it starts for the guest: code is one segment in real mode.
    pub(crate) fn entry(self) -> u64 {
        match self {
            Program::RealMode => self.offset(),
            _ => CODE + self.offset(),
        }
    }

    /// Where it starts within [`code`].
    fn offset(self) -> u64 {
        let start = match self {
            Program::Step => &raw const vbr_kvm_step,
            Program::Sweep => &raw const vbr_kvm_sweep,
            Program::Pulse => &raw const vbr_kvm_pulse,
            Program::Churn => &raw const vbr_kvm_churn,
            Program::List => &raw const vbr_kvm_list,
            Program::Scatter => &raw const vbr_kvm_scatter,
            Program::RealMode => &raw const vbr_kvm_real_mode,
        };
        (start.addr() - (&raw const vbr_kvm_step).addr()) as u64
    }
}

/// All programs, one after the other. Their place does not matter.
pub(crate) fn code() -> &'static [u8] {
    let start = &raw const vbr_kvm_step;
    let len = (&raw const vbr_kvm_end).addr() - start.addr();
    // SAFETY: the two labels are in one piece of code above, which is `len` bytes
    // long and is never written.
    unsafe { std::slice::from_raw_parts(start, len) }
}
