// SPDX-License-Identifier: GPL-2.0-or-later
//! What can go wrong, by name.

use thiserror::Error;

/// Why a call was refused. Nothing has changed when one is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// An argument that no correct caller passes.
    #[error("invalid argument")]
    InvalidArgument,
    /// Requests of one queue are being worked on, and this call needs another one or none.
    #[error("a batch of another queue is in work")]
    BatchInWork,
    /// A migration stream asks for a balloon larger than the machine can ever be.
    #[error("the stream's balloon target is larger than the machine's memory can ever be")]
    StateTarget,
    /// A migration stream holds a statistics timestamp or polling interval that cannot be.
    #[error("the stream's statistics are not valid")]
    StateStats,
}

/// The host refused a memory operation; the value is a positive errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the host refused to discard memory with errno {0}")]
pub struct HostError(pub i32);
