// SPDX-License-Identifier: GPL-2.0-or-later
//! The logic of a virtio-balloon device.
//!
//! The map, from the bottom up; a module uses only those above it in this list:
//!
//! - [`page`]: guest physical addresses, page frame numbers and ranges of them.
//! - [`error`]: what can go wrong, by name.
//! - [`runs`]: the addresses of a batch, made into sorted disjoint ranges.
//! - [`pageset`]: the bytes that carry a set of pages in a migration stream.
//! - [`wire`]: the bytes that guest and device exchange.
//! - [`features`]: feature bits, and the queues that follow from them.
//! - [`message`]: the messages of the founding protocols, read part by part.
//! - [`memory`]: where guest memory lies in the host's RAM blocks.
//! - [`config`]: the configuration space as one image.
//! - [`host`]: all that a handler may ask of the outside.
//! - [`counters`]: what the device did, for those who operate it.
//! - [`batch`]: the requests taken from a queue, and how much of them is done at a time.
//! - [`migration`]: what live migration need not read and send.
//! - [`queue`]: one handler per queue.
//! - [`device`]: the device: state, negotiation, queue to handler.
//! - [`state`]: what a migration stream carries, validated.
//! - [`ffi`]: the C ABI, and the only place where `unsafe` compiles.

#![deny(unsafe_code)]

pub mod batch;
pub mod config;
pub mod counters;
pub mod device;
pub mod error;
pub mod features;
#[allow(
    unsafe_code,
    reason = "the C ABI is the one place that handles raw pointers"
)]
pub mod ffi;
pub mod host;
pub mod memory;
pub mod message;
pub mod migration;
pub mod page;
pub mod pageset;
pub mod queue;
pub mod runs;
pub mod state;
pub mod wire;
