// SPDX-License-Identifier: GPL-2.0-or-later
//! The host's memory operations as C functions.

use balloon::error::HostError;
use balloon::host::{Host, MAX_SPANS, Refused};
use balloon::memory::{BlockId, BlockSpan};
use std::ffi::{c_int, c_void};

/// The most spans that a callback is given at a time.
pub const VBR_MAX_SPANS: usize = 512;
const _: () = assert!(VBR_MAX_SPANS == MAX_SPANS);

/// Does something to `count` spans of `block`, in their order up to the first that cannot be done. Returns 0,
/// or the negative errno of that one, with `done`, which was 0, set to how many were before it.
pub type VbrSpansCallback = Option<
    unsafe extern "C" fn(
        opaque: *mut c_void,
        block: *mut c_void,
        spans: *const BlockSpan,
        count: usize,
        done: *mut usize,
    ) -> c_int,
>;

/// What the library may ask of the host. All are called only from inside `vbr_batch_run`,
/// `vbr_held_flush` and `vbr_owed_discard`, and must not call back into the device.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrHostOps {
    /// Handed to each callback as it is.
    pub opaque: *mut c_void,
    /// Gives spans of `block` back to the host, and the same parts of the file behind it; called
    /// only for sections that are shared. Their offsets and lengths are multiples of the block's
    /// page size.
    pub discard: VbrSpansCallback,
    /// Gives back what a private mapping has of its own of spans of `block`, and does not touch a
    /// file behind it; called only for sections that are not shared. Multiples of the block's page
    /// size.
    pub drop_private: VbrSpansCallback,
    /// Lets the host take these bytes when it needs memory; called only for private anonymous
    /// memory that is not locked, else as `drop_private`.
    pub free: VbrSpansCallback,
    /// Says that the guest will soon use spans of `block`; multiples of 4096.
    pub populate: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            block: *mut c_void,
            spans: *const BlockSpan,
            count: usize,
        ),
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

impl VbrHost<'_> {
    fn call(
        &self,
        callback: VbrSpansCallback,
        block: BlockId,
        spans: &[BlockSpan],
    ) -> Result<(), Refused> {
        let mut done = 0;
        let error = match callback {
            // SAFETY: vbr_device_new's contract: the callback takes any block that the caller put into
            // the map of memory. The spans and `done` outlive the call.
            Some(callback) => unsafe {
                let block = block.0 as *mut c_void;
                callback(
                    self.ops.opaque,
                    block,
                    spans.as_ptr(),
                    spans.len(),
                    &raw mut done,
                )
            },
            None => -libc::ENOSYS,
        };
        match error {
            0 => Ok(()),
            error => Err(Refused {
                done,
                error: HostError(error.saturating_neg()),
            }),
        }
    }
}

impl Host for VbrHost<'_> {
    fn discard(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        self.call(self.ops.discard, block, spans)
    }

    fn drop_private(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        self.call(self.ops.drop_private, block, spans)
    }

    fn free(&mut self, block: BlockId, spans: &[BlockSpan]) -> Result<(), Refused> {
        self.call(self.ops.free, block, spans)
    }

    fn populate(&mut self, block: BlockId, spans: &[BlockSpan]) {
        let Some(populate) = self.ops.populate else {
            return;
        };
        let block = block.0 as *mut c_void;
        // SAFETY: as for the others.
        unsafe { populate(self.ops.opaque, block, spans.as_ptr(), spans.len()) }
    }
}
