// SPDX-License-Identifier: GPL-2.0-or-later
//! All that a handler may ask of the outside.

use crate::error::HostError;
use crate::memory::BlockRange;

/// Memory operations on the host's RAM blocks.
pub trait Host {
    /// Gives the memory of `range` back to the host; the guest reads zeros there afterwards. Of
    /// memory that is backed by a file the same part of the file is given back.
    ///
    /// # Errors
    ///
    /// The errno of the system call; the memory is then as it was, or discarded in part.
    fn discard(&mut self, range: BlockRange) -> Result<(), HostError>;

    /// Lets the host take the memory of `range` when it needs some: until then, or until the guest
    /// writes to a page, the guest reads the old content there, afterwards zeros.
    ///
    /// # Errors
    ///
    /// As [`Host::discard`].
    fn free(&mut self, range: BlockRange) -> Result<(), HostError>;

    /// Says that the guest will use `range` again soon. Its content does not change.
    fn populate(&mut self, range: BlockRange);
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
