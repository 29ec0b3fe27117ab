// SPDX-License-Identifier: GPL-2.0-or-later
//! What the device costs, beside QEMU's own and the kernel alone.
//!
//! - [`plan`] names what is measured: devices, kinds of memory, orders of pages
//! - [`machine`] is a QEMU without a guest, driven over [`qtest`]: its balloon on the bus is
//!   [`pci`], its queues are [`ring`], what is put in is [`request`]
//! - [`raw`] is the limit: the system calls alone, made by [`sys`]
//! - [`smaps`] says what is behind a guest's RAM
//! - [`device`] measures what a page costs
//! - [`latency`] measures how long the monitor waits for [`hostile`] input
//! - [`linux`] measures a Linux guest's way into the balloon and back
//! - [`cost`] measures what it costs to have the device
//! - [`dirty`] measures what it costs to find the pages that a guest wrote
//! - [`figures`] holds what was measured, [`results`] all of it with the [`host`]
//! - [`table`] prints it, [`report`] makes a page of it with [`plot`], [`markdown`]
//!   makes tables of docs/benchmarks.md, [`floors`] says what fell

pub mod cost;
pub mod device;
pub mod dirty;
pub mod figures;
pub mod floors;
pub mod host;
pub mod hostile;
pub mod latency;
pub mod linux;
pub mod machine;
pub mod markdown;
pub mod pci;
pub mod plan;
pub mod plot;
pub mod qtest;
pub mod raw;
pub mod report;
pub mod request;
pub mod results;
pub mod ring;
pub mod smaps;
pub mod sys;
pub mod table;
