// SPDX-License-Identifier: GPL-2.0-or-later
//! What a call came to.

use balloon::error::Error;
use std::ffi::{CStr, c_char};

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what failed has to be dealt with"]
#[repr(C)]
pub enum VbrStatus {
    /// It did what it says.
    Ok = 0,
    /// An argument that no correct caller passes; nothing has changed, but for a map of memory that
    /// cannot be (`vbr_device_set_memory`).
    InvalidArgument = 1,
    /// The device is in the middle of another call; nothing has changed.
    Busy = 2,
    /// The library has a bug that this call, or one before it, ran into. The device answers
    /// nothing else until it is reset.
    Broken = 3,
    /// Another queue's batch, or this one's, is in work; nothing has changed.
    BatchInWork = 4,
    /// The stream's balloon target is larger than the machine's memory can ever be.
    StateTarget = 5,
    /// The stream's statistics are not valid.
    StateStats = 6,
    /// The stream's set of ballooned pages takes more than `VBR_STATE_MAX_PAGES_BYTES`.
    StatePagesSize = 7,
    /// The stream has a set of ballooned pages, but the guest did not accept MUST_TELL_HOST.
    StatePagesUntold = 8,
    /// The stream's set of ballooned pages ends in the middle of a run.
    StatePagesCut = 9,
    /// A number in the stream's set of ballooned pages is longer than it can be.
    StatePagesNumber = 10,
    /// A run in the stream's set of ballooned pages is empty, or touches the one before.
    StatePagesRun = 11,
    /// A run in the stream's set of ballooned pages reaches past the last PFN.
    StatePagesLimit = 12,
    /// The stream's free page hints are not valid.
    StateHints = 13,
    /// The historical feature bits of a founding protocol are those of another feature today.
    FoundingAndToday = 14,
    /// The historical feature bits of two founding protocols are the same.
    FoundingGenerations = 15,
    /// The stream's feature bits stand for other founding protocols here.
    StateFounding = 16,
    /// There is no such version of the dirty list.
    DirtyListVersion = 17,
    /// A dirty list has to have room for pages.
    DirtyListZero = 18,
    /// A dirty list cannot have room for so many pages.
    DirtyListSize = 19,
    /// The dirty list is active.
    DirtyListActive = 20,
    /// The dirty list has no room for as many pages as its trigger counts.
    DirtyListTrigger = 21,
    /// There is no memory for the dirty list.
    DirtyListMemory = 22,
    /// There is a dirty list already.
    DirtyListTwice = 23,
    /// Pages are missing on the dirty list.
    DirtyListOverflow = 24,
    /// The dirty list is not active.
    DirtyListInactive = 25,
    /// The stream has a value of free pages, but the guest did not accept PAGE_POISON.
    StatePoison = 26,
}

impl From<Error> for VbrStatus {
    fn from(error: Error) -> VbrStatus {
        match error {
            Error::InvalidArgument => VbrStatus::InvalidArgument,
            Error::BatchInWork => VbrStatus::BatchInWork,
            Error::FoundingAndToday => VbrStatus::FoundingAndToday,
            Error::FoundingGenerations => VbrStatus::FoundingGenerations,
            Error::StateTarget => VbrStatus::StateTarget,
            Error::StateFounding => VbrStatus::StateFounding,
            Error::StatePoison => VbrStatus::StatePoison,
            Error::StateStats => VbrStatus::StateStats,
            Error::StateHints => VbrStatus::StateHints,
            Error::StatePagesSize => VbrStatus::StatePagesSize,
            Error::StatePagesUntold => VbrStatus::StatePagesUntold,
            Error::StatePagesCut => VbrStatus::StatePagesCut,
            Error::StatePagesNumber => VbrStatus::StatePagesNumber,
            Error::StatePagesRun => VbrStatus::StatePagesRun,
            Error::StatePagesLimit => VbrStatus::StatePagesLimit,
        }
    }
}

impl From<dirty_pages::Error> for VbrStatus {
    fn from(error: dirty_pages::Error) -> VbrStatus {
        match error {
            dirty_pages::Error::Version => VbrStatus::DirtyListVersion,
            dirty_pages::Error::Zero => VbrStatus::DirtyListZero,
            dirty_pages::Error::Size => VbrStatus::DirtyListSize,
            dirty_pages::Error::Trigger => VbrStatus::DirtyListTrigger,
            dirty_pages::Error::Memory => VbrStatus::DirtyListMemory,
            dirty_pages::Error::Active => VbrStatus::DirtyListActive,
            dirty_pages::Error::Overflow => VbrStatus::DirtyListOverflow,
            dirty_pages::Error::Inactive => VbrStatus::DirtyListInactive,
        }
    }
}

/// A sentence for people, without a full stop; static, never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn vbr_status_str(status: VbrStatus) -> *const c_char {
    let text: &CStr = match status {
        VbrStatus::Ok => c"no error",
        VbrStatus::InvalidArgument => c"an invalid argument was passed to the balloon",
        VbrStatus::Busy => c"the balloon is in the middle of another call",
        VbrStatus::Broken => {
            c"the balloon ran into a bug of its own and is broken until it is reset"
        }
        VbrStatus::BatchInWork => c"a batch of requests is in work",
        VbrStatus::StateTarget => {
            c"the balloon target in the stream is larger than this machine's memory can be"
        }
        VbrStatus::StateFounding => {
            c"the stream's driver speaks other founding protocols than this device offers by the same feature bits"
        }
        VbrStatus::StatePoison => {
            c"the stream has a value of free pages, but its guest did not accept PAGE_POISON"
        }
        VbrStatus::StateStats => c"the balloon statistics in the stream are not valid",
        VbrStatus::StateHints => c"the free page hints in the stream are not valid",
        VbrStatus::FoundingAndToday => {
            c"founding-feature-bits=historical uses the feature bits of free-page-hint and page-poison: set both to off, or use private bits"
        }
        VbrStatus::FoundingGenerations => {
            c"with founding-feature-bits=historical, page-range and host-request share their bits with balloon-chunks and misc-queue: set those of one pair to off, or use private bits"
        }
        VbrStatus::StatePagesSize => {
            c"the set of ballooned pages in the stream is larger than any can be"
        }
        VbrStatus::StatePagesUntold => {
            c"the stream has a set of ballooned pages, but its guest did not accept MUST_TELL_HOST"
        }
        VbrStatus::StatePagesCut => c"the set of ballooned pages in the stream is cut short",
        VbrStatus::StatePagesNumber => {
            c"the set of ballooned pages in the stream holds a number that is too long"
        }
        VbrStatus::StatePagesRun => {
            c"the set of ballooned pages in the stream holds an empty run, or two that touch"
        }
        VbrStatus::StatePagesLimit => {
            c"the set of ballooned pages in the stream reaches past the last page there can be"
        }
        VbrStatus::DirtyListVersion => c"there is no such version of the dirty list",
        VbrStatus::DirtyListZero => c"max-dirty is 0: the list has to have room for pages",
        VbrStatus::DirtyListSize => c"max-dirty is more than a list can have room for",
        VbrStatus::DirtyListActive => c"the dirty list is active: stop it first",
        VbrStatus::DirtyListTrigger => {
            c"dirty-trigger is more than max-dirty: the list would be full before"
        }
        VbrStatus::DirtyListMemory => c"there is no memory for the dirty list",
        VbrStatus::DirtyListTwice => c"there is a dirty list already, and only one can be",
        VbrStatus::DirtyListOverflow => {
            c"the dirty list has overflowed and pages are missing: stop it, start it again and copy all memory"
        }
        VbrStatus::DirtyListInactive => c"the dirty list is not active: start it first",
    };
    text.as_ptr()
}
