// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest of a few instructions under the real KVM, to see what KVM's dirty
//! log and dirty ring do. It needs /dev/kvm, but no QEMU and no Linux guest.
//!
//! - [`memory`]: host memory that is the guest's RAM
//! - [`program`]: the guest's instructions
//! - [`vm`]: a virtual machine, whose slots of RAM come and go
//! - [`cpu`]: one of its processors
//! - [`machine`]: a virtual machine with one processor and one block of RAM
//! - [`tracking`]: KVM's three ways to tell which pages were written
//! - [`ring`]: the dirty ring, as its reader sees it
//! - [`migration`]: a migration in QEMU's steps, with the library's decisions
//! - [`block`]: a block of RAM with the bits of its dirty pages
//! - [`harvest`]: from the rings to the library's list of dirty pages, in QEMU's steps
//! - [`rig`]: a machine whose dirty pages are listed, and the readers of the list
//! - [`checkpoint`]: a copy of RAM that is brought up to date page by page
//! - [`turns`]: threads that wait for what another one does
//! - [`testing`]: whether a test can run here
//!
//! The program `arming` measures what it costs to have the log armed.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

pub mod block;
pub mod checkpoint;
pub mod cpu;
pub mod harvest;
pub mod machine;
pub mod memory;
pub mod migration;
pub mod program;
pub mod rig;
pub mod ring;
pub mod testing;
pub mod tracking;
pub mod turns;
pub mod vm;

/// Bytes of a page of the guest.
pub const PAGE: u64 = 4096;
/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;
