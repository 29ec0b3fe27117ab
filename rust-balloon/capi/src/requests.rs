// SPDX-License-Identifier: GPL-2.0-or-later
//! Free pages by request: the request and misc queues of the founding protocols.
//!
//! As in `hints.rs`, the caller has a lock for the hints; the device is used by one thread anyway.

use super::guard::{VbrDevice, output, slice, with_device};
use super::hints::{VbrHints, with_hints};
use super::status::VbrStatus;
use balloon::device::{AnswerPart, Balloon};
use balloon::error::Error;
use balloon::features::FreePageSource;
use balloon::queue::hint::Hints;
use balloon::wire::founding::{GET_UNUSED_PAGES, MiscHeader, RequestHeader};
use zerocopy::IntoBytes;

/// The size of the longest request in bytes.
pub const VBR_REQUEST_MAX_BYTES: usize = 16;
const _: () = assert!(VBR_REQUEST_MAX_BYTES == size_of::<RequestHeader>());

/// A part of a message of the request or misc queue.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrAnswer {
    /// The bytes, as the driver wrote them.
    pub payload: *const u8,
    /// How many they are.
    pub len: usize,
    /// The length of the whole message in bytes.
    pub total: u64,
    /// Whether the message begins here.
    pub first: bool,
    /// Whether it ends here.
    pub last: bool,
}

/// The size of a request on this queue in bytes; 0 for a queue that has none.
fn request_size(source: FreePageSource) -> usize {
    match source {
        FreePageSource::None | FreePageSource::FreePageHint => 0,
        FreePageSource::HostRequest => size_of::<RequestHeader>(),
        FreePageSource::MiscQueue => size_of::<MiscHeader>(),
    }
}

/// Runs `body` on a device and its hints. A panic in it breaks the hints; of the device, all that `body`
/// may leave half done is the answer that is being read, which is taken out for that time.
pub(super) fn with_both(
    hints: Option<&VbrHints>,
    device: Option<&VbrDevice>,
    body: impl FnOnce(&mut Hints, &mut Balloon) -> Result<(), Error>,
) -> VbrStatus {
    let mut inner = VbrStatus::Ok;
    let outer = with_device(device, |balloon, _| {
        inner = with_hints(hints, |hints| body(hints, balloon));
        Ok(())
    });
    if outer == VbrStatus::Ok { inner } else { outer }
}

/// The driver accepted features, which `vbr_device_set_features` was told, or was reset. `changed` says
/// whether the guest sees another command in its configuration space now.
///
/// # Safety
///
/// `hints` is NULL or live, `device` NULL or a live device, `changed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_negotiated(
    hints: *mut VbrHints,
    device: *const VbrDevice,
    changed: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let changed = unsafe { output(changed) };
    let mut source = FreePageSource::None;
    let status = with_device(device, |balloon, _| {
        source = FreePageSource::of(balloon.negotiated());
        Ok(())
    });
    // A device that is broken asks for nothing.
    if !matches!(status, VbrStatus::Ok | VbrStatus::Broken) {
        return status;
    }
    with_hints(hints, |hints| {
        let changed = changed?;
        let before = hints.shown_id();
        hints.set_source(source);
        changed.write(hints.shown_id() != before);
        Ok(())
    })
}

/// The guest provided a buffer of `bytes` bytes for a request on the queue of `source`; `hold` says whether
/// to keep it for `vbr_request_take`, or to return it with nothing in it. `held` says whether one is kept.
///
/// # Safety
///
/// `hints` is NULL or live, `device` NULL or a live device, `hold` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_request_buffer(
    hints: *mut VbrHints,
    device: *mut VbrDevice,
    source: FreePageSource,
    bytes: usize,
    held: bool,
    hold: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let hold = unsafe { output(hold) };
    with_both(hints, device, |hints, balloon| {
        let hold = hold?;
        let hold = hold.write(!held && bytes >= request_size(source));
        if *hold {
            hints.receive_buffer(source);
        } else {
            balloon.ignore_request_buffer();
        }
        Ok(())
    })
}

/// The buffer of this queue is not held any more.
///
/// # Safety
///
/// `hints` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_request_lost(
    hints: *mut VbrHints,
    source: FreePageSource,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    with_hints(hints, |hints| {
        hints.lose_buffer(source);
        Ok(())
    })
}

/// The message of this queue that was read in part went back to the driver and will not come again.
///
/// # Safety
///
/// `hints` is NULL or live, `device` NULL or a live device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_request_give_up_answer(
    hints: *mut VbrHints,
    device: *mut VbrDevice,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    with_both(hints, device, |hints, balloon| {
        balloon.give_up_answer(hints);
        Ok(())
    })
}

/// The driver reset this queue: nothing is in flight or held there any more.
///
/// # Safety
///
/// `hints` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_request_queue_reset(
    hints: *mut VbrHints,
    source: FreePageSource,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    with_hints(hints, |hints| {
        hints.reset_queue(source);
        Ok(())
    })
}

/// The request that is to be put into the buffer of this queue now: `out` has room for
/// `VBR_REQUEST_MAX_BYTES`, `len` gets how many of them to return to the guest, 0 for no request.
///
/// # Safety
///
/// `hints` is NULL or live, `out` NULL or writable for `VBR_REQUEST_MAX_BYTES`, `len` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_request_take(
    hints: *mut VbrHints,
    source: FreePageSource,
    out: *mut u8,
    len: *mut usize,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or writable for VBR_REQUEST_MAX_BYTES by contract.
    let out = unsafe { output(out.cast::<[u8; VBR_REQUEST_MAX_BYTES]>()) };
    // SAFETY: NULL or writable by contract.
    let len = unsafe { output(len) };
    with_hints(hints, |hints| {
        let (out, len) = (out?, len?);
        let out = out.write([0; VBR_REQUEST_MAX_BYTES]);
        let Some(id) = hints.take_request(source) else {
            len.write(0);
            return Ok(());
        };
        let size = *len.write(request_size(source));
        let misc = MiscHeader {
            cmd: GET_UNUSED_PAGES.into(),
            flags: 0.into(),
        };
        let request = RequestHeader {
            cmd: GET_UNUSED_PAGES.into(),
            reserved: [0; 6],
            param: u64::from(id).into(),
        };
        let bytes = match source {
            FreePageSource::MiscQueue => misc.as_bytes(),
            _ => request.as_bytes(),
        };
        out[..size].copy_from_slice(&bytes[..size]);
        Ok(())
    })
}

/// Takes over a part of a message on this queue.
///
/// # Safety
///
/// `hints` is NULL or live, `device` NULL or a live device, `part` NULL or valid, with its payload.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_request_answer(
    hints: *mut VbrHints,
    device: *mut VbrDevice,
    source: FreePageSource,
    part: *const VbrAnswer,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or valid by contract.
    let part = unsafe { part.as_ref() };
    let Some(part) = part else {
        return VbrStatus::InvalidArgument;
    };
    // SAFETY: valid by contract.
    let payload = unsafe { slice(part.payload, part.len) };
    with_both(hints, device, |hints, balloon| {
        let part = AnswerPart {
            payload: payload?,
            total: part.total,
            first: part.first,
            last: part.last,
        };
        balloon.receive_answer(hints, source, part);
        Ok(())
    })
}
