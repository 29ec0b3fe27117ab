// SPDX-License-Identifier: GPL-2.0-or-later
//! All that a handler may ask of the outside.

use crate::error::HostError;
#[cfg(doc)]
use crate::memory::Way;
use crate::memory::{Backing, BlockId, BlockSpan};

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
    /// Gives the memory of `spans` back to the host, and the same part of the file behind it; the
    /// guest reads zeros there afterwards. Only for memory that is shared ([`Way::Hole`]).
    ///
    /// # Errors
    ///
    /// [`Refused`] with the errno of the system call; what is behind the refused span was not tried.
    fn discard(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused>;

    /// Gives back what the mapping has of its own of `spans`; the guest reads the file's content
    /// there afterwards, or zeros where there is none. Only for memory that is private
    /// ([`Way::Drop`]).
    ///
    /// # Errors
    ///
    /// As [`Host::discard`].
    fn drop_private(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused>;

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
    /// A vhost-user device is there, and the user wants nothing to be given back then.
    VhostUser = 4,
    /// The same for memory whose pages are larger than the host's: who uses a device from outside
    /// of QEMU may have pinned them.
    VhostUserLargePages = 5,
}

impl Inhibit {
    /// Whether memory that is dealt with like this must not be discarded.
    pub fn forbids(self, backing: &Backing) -> bool {
        match self {
            Inhibit::No => false,
            Inhibit::VhostUserLargePages => backing.large,
            _ => true,
        }
    }
}
