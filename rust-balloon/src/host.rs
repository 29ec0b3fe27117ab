// SPDX-License-Identifier: GPL-2.0-or-later
//! All that a handler may ask of the outside.

use crate::error::HostError;
use crate::memory::{BlockId, BlockSpan};

/// The most spans that the host is asked for at once: as many as make the way into the kernel cheap
/// beside the work, and no more than Linux takes (`UIO_MAXIOV`, 1024).
pub const MAX_SPANS: usize = 512;

/// The host did no more than the first `done` of the spans that it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How many were done.
    pub done: usize,
    /// Why the next one was not; its memory is as it was, or done in part.
    pub error: HostError,
}

/// Memory operations on the host's RAM blocks, on at most [`MAX_SPANS`] spans of one block at a time.
pub trait Host {
    /// Gives the memory of `spans` back to the host; the guest reads zeros there afterwards. Of
    /// memory that is backed by a file the same part of the file is given back.
    ///
    /// # Errors
    ///
    /// [`Refused`] with the errno of the system call; what is behind the refused span was not tried.
    fn discard(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused>;

    /// Lets the host take the memory of `spans` when it needs some: until then, or until the guest
    /// writes to a page, the guest reads the old content there, afterwards zeros.
    ///
    /// # Errors
    ///
    /// As [`Host::discard`].
    fn free(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused>;

    /// Says that the guest will use `spans` again soon. Their content does not change.
    fn populate(&mut self, block: BlockId, spans: &[BlockSpan]);
}

/// Why nothing may be discarded at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Inhibit {
    /// Discards are allowed.
    No = 0,
    /// A user of the memory outside of the CPUs holds on to its pages: VFIO, RDMA and the like.
    Pinned = 1,
    /// The memory is arriving by postcopy, which tells missing pages from present ones.
    IncomingPostcopy = 2,
    /// A background snapshot reads the memory as it was when it began.
    BackgroundSnapshot = 3,
}
