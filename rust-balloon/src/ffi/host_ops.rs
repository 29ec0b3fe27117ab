// SPDX-License-Identifier: GPL-2.0-or-later
//! The host's memory operations as C functions.

use crate::error::HostError;
use crate::host::Host;
use crate::memory::BlockRange;
use std::ffi::{c_int, c_void};

/// What the library may ask of the host. All are called only from inside `vbr_batch_run` and
/// `vbr_loaded_discard`, and must not call back into the device.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrHostOps {
    /// Handed to each callback as it is.
    pub opaque: *mut c_void,
    /// Gives `bytes` bytes from `offset` of `block` back to the host. Offset and length are multiples
    /// of the block's page size. Returns 0 or a negative errno.
    pub discard: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            block: *mut c_void,
            offset: u64,
            bytes: u64,
        ) -> c_int,
    >,
    /// Lets the host take these bytes when it needs memory; called only for `lazy` sections, else as
    /// `discard`.
    pub free: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            block: *mut c_void,
            offset: u64,
            bytes: u64,
        ) -> c_int,
    >,
    /// Says that the guest will soon use `bytes` bytes from `offset` of `block`; multiples of 4096.
    pub populate: Option<
        unsafe extern "C" fn(opaque: *mut c_void, block: *mut c_void, offset: u64, bytes: u64),
    >,
}

/// The host behind the callbacks.
pub(super) struct VbrHost<'a> {
    ops: &'a VbrHostOps,
}

impl<'a> VbrHost<'a> {
    pub(super) fn new(ops: &'a VbrHostOps) -> VbrHost<'a> {
        VbrHost { ops }
    }
}

/// What a callback came to that returns 0 or a negative errno.
fn result(error: c_int) -> Result<(), HostError> {
    match error {
        0 => Ok(()),
        error => Err(HostError(error.saturating_neg())),
    }
}

impl Host for VbrHost<'_> {
    fn discard(&mut self, range: BlockRange) -> Result<(), HostError> {
        let Some(discard) = self.ops.discard else {
            return Err(HostError(libc::ENOSYS));
        };
        let block = range.block.0 as *mut c_void;
        // SAFETY: vbr_device_new's contract: the callback takes any block that the caller put into
        // the map of memory.
        result(unsafe { discard(self.ops.opaque, block, range.offset, range.bytes) })
    }

    fn free(&mut self, range: BlockRange) -> Result<(), HostError> {
        let Some(free) = self.ops.free else {
            return Err(HostError(libc::ENOSYS));
        };
        let block = range.block.0 as *mut c_void;
        // SAFETY: as for discard.
        result(unsafe { free(self.ops.opaque, block, range.offset, range.bytes) })
    }

    fn populate(&mut self, range: BlockRange) {
        let Some(populate) = self.ops.populate else {
            return;
        };
        let block = range.block.0 as *mut c_void;
        // SAFETY: as for discard.
        unsafe { populate(self.ops.opaque, block, range.offset, range.bytes) }
    }
}
