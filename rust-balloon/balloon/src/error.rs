// SPDX-License-Identifier: GPL-2.0-or-later
//! What can go wrong, by name.

use thiserror::Error;

/// Why a call was refused. Nothing has changed when one is returned, but where a function says
/// otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// An argument that no correct caller passes.
    #[error("invalid argument")]
    InvalidArgument,
    /// The historical feature bits of a founding protocol are those of another feature today.
    #[error(
        "founding-feature-bits=historical uses the feature bits of free-page-hint and page-poison"
    )]
    FoundingAndToday,
    /// The historical feature bits of two founding protocols are the same.
    #[error(
        "page-range and host-request have the historical feature bits of balloon-chunks and misc-queue"
    )]
    FoundingGenerations,
    /// Requests of one queue are being worked on, and this call needs another one or none.
    #[error("a batch of another queue is in work")]
    BatchInWork,
    /// A migration stream asks for a balloon larger than the machine can ever be.
    #[error("the stream's balloon target is larger than the machine's memory can ever be")]
    StateTarget,
    /// A migration stream comes from a guest that speaks other founding protocols than its feature bits
    /// say here.
    #[error("the stream's feature bits stand for other founding protocols here")]
    StateFounding,
    /// A migration stream has a value of free pages of a guest that did not say that it fills them.
    #[error("the stream has a value of free pages without PAGE_POISON")]
    StatePoison,
    /// A migration stream holds a statistics timestamp or polling interval that cannot be.
    #[error("the stream's statistics are not valid")]
    StateStats,
    /// A migration stream holds a state of free page hints that cannot be.
    #[error("the stream's free page hints are not valid")]
    StateHints,
    /// A migration stream's set of ballooned pages takes more bytes than any does.
    #[error("the stream's set of ballooned pages is too large")]
    StatePagesSize,
    /// A migration stream has a set of ballooned pages of a guest that did not promise to tell which.
    #[error("the stream has a set of ballooned pages without MUST_TELL_HOST")]
    StatePagesUntold,
    /// A migration stream's set of ballooned pages ends in the middle of a run.
    #[error("the stream's set of ballooned pages is cut short")]
    StatePagesCut,
    /// A number in a migration stream's set of ballooned pages is longer than it can be.
    #[error("the stream's set of ballooned pages holds a number that is too long")]
    StatePagesNumber,
    /// A run in a migration stream's set of ballooned pages is empty, or touches the one before.
    #[error("the stream's set of ballooned pages holds a run that is none")]
    StatePagesRun,
    /// A run in a migration stream's set of ballooned pages reaches past the last PFN.
    #[error("the stream's set of ballooned pages reaches past the last page")]
    StatePagesLimit,
}

/// The host refused a memory operation; the value is a positive errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the host refused to discard memory with errno {0}")]
pub struct HostError(pub i32);
