// SPDX-License-Identifier: GPL-2.0-or-later
//! Real Linux guests for tests and for the demonstration.
//!
//! - [`image`] builds the kernel and initramfs of a guest, [`driver`] our driver for it
//! - [`vm`] runs a guest in QEMU as [`config`] says, [`accel`] with which accelerator
//! - [`qmp`] is QEMU's monitor, [`agent`] the program inside the guest,
//!   [`lines`] the sockets both speak over
//! - [`founding`] reads what our driver counts and tells it what to do
//! - [`balloon`] is what a user does with a balloon, [`migrate`] moves guests
//! - [`churn`] is the program in a guest that checks memory while it uses it
//! - [`bare`] is a machine without Linux, [`boot`] the few instructions that it runs
//! - [`dirty`] is a list of dirty pages and the checkpoints that are made with it,
//!   [`pages`] are pages of a guest whose place is known
//! - [`resident`] says how much host memory a guest uses, [`hugepages`] reserves huge pages
//! - [`testing`] is what the integration tests share
//! - [`demo`] shows the device at work, [`plot`] draws it
//! - [`bench`] measures migrations and protocols

#![forbid(unsafe_code)]

pub mod accel;
pub mod agent;
pub mod balloon;
pub mod bare;
pub mod bench;
pub mod boot;
pub mod churn;
pub mod config;
pub mod demo;
pub mod dirty;
pub mod driver;
pub mod error;
pub mod founding;
pub mod hugepages;
pub mod image;
mod kernel;
pub mod lines;
pub mod migrate;
mod packages;
pub mod pages;
pub mod plot;
pub mod qmp;
pub mod resident;
pub mod testing;
mod tools;
pub mod vm;

pub use error::{Error, Result};

/// Limits are what something may take on a quiet machine. So many times as long is waited before
/// it is taken for a failure, as other programs may use the processors.
pub const PATIENCE: u32 = 8;

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
