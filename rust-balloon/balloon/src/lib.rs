// SPDX-License-Identifier: GPL-2.0-or-later
//! The logic of a virtio-balloon device.
//!
//! The map, from the bottom up; a module uses only those above it in this list:
//!
//! - [`page`]: guest physical addresses, page frame numbers and ranges of them.
//! - [`error`]: what can go wrong, by name.
//! - `runs`: the addresses of a batch, made into sorted disjoint ranges.
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
//!
//! A guest gives four pages away, and the host takes them in one call:
//!
//! ```
//! use balloon::device::{Balloon, Options, Progress, RequestEnd, RequestPart};
//! use balloon::features::{Features, QueueKind};
//! use balloon::host::{Host, Inhibit, Refused};
//! use balloon::memory::{Backing, BlockId, BlockSpan, MemoryMap, Section, Way};
//! use balloon::page::{Gpa, GpaRange};
//! use balloon::wire::ByteOrder;
//!
//! /// Keeps what it was asked to discard.
//! #[derive(Default)]
//! struct Recorder(Vec<BlockSpan>);
//!
//! impl Host for Recorder {
//!     fn discard(&mut self, _: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
//!         self.0.extend(spans);
//!         Ok(())
//!     }
//! #   fn drop_private(&mut self, _: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
//! #       self.0.extend(spans);
//! #       Ok(())
//! #   }
//! #   fn free(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
//! #       Ok(())
//! #   }
//! #   fn populate(&mut self, _: BlockId, _: &[BlockSpan]) {}
//!     // Likewise `drop_private`, `free` and `populate`.
//! }
//!
//! // 16 MiB of RAM from guest physical address 0 on, in one block of the host's.
//! let memory = MemoryMap::new(vec![Section {
//!     gpa: GpaRange::with_len(Gpa(0), 16 << 20).unwrap(),
//!     block: BlockId(1),
//!     offset: 0,
//!     page_size: 4096,
//!     host: 1 << 40,
//!     backing: Backing {
//!         way: Way::Drop,
//!         ..Backing::default()
//!     },
//! }])?;
//! let mut device = Balloon::new(Options::default());
//! device.set_memory(memory);
//! device.set_features(Features::MUST_TELL_HOST, false);
//!
//! // Linux lists the pages of a request from the highest to the lowest.
//! let payload: Vec<u8> = [7u32, 6, 5, 4].iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
//! let request = RequestPart {
//!     payload: &payload,
//!     total: payload.len() as u64,
//!     order: ByteOrder::Little,
//!     end: Some(RequestEnd::default()),
//! };
//! let mut host = Recorder::default();
//! device.batch_add(QueueKind::Inflate, request)?;
//! while device.batch_run(&mut host, Inhibit::No) == Progress::More {}
//!
//! assert_eq!(host.0.len(), 1);
//! assert_eq!((host.0[0].offset, host.0[0].bytes), (4 * 4096, 4 * 4096));
//! # Ok::<(), balloon::error::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod batch;
pub mod config;
pub mod counters;
pub mod device;
pub mod error;
pub mod features;
pub mod host;
pub mod memory;
pub mod message;
pub mod migration;
pub mod page;
pub mod pageset;
pub mod queue;
pub(crate) mod runs;
pub mod state;
pub mod wire;
