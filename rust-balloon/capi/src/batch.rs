// SPDX-License-Identifier: GPL-2.0-or-later
//! Batches of requests.
//!
//! The caller pops requests while `vbr_batch_room` says so, adds each, runs the batch slice by
//! slice until it is done, and then acknowledges its requests all together.

use super::guard::{VbrDevice, output, slice, with_device};
use super::host_ops::VbrHost;
use super::status::VbrStatus;
use balloon::batch::MAX_REQUESTS;
use balloon::device::{Balloon, Progress, RequestEnd, RequestPart};
use balloon::features::QueueKind;
use balloon::host::Inhibit;
use balloon::memory::HostRange;
use balloon::queue::held::Flush;
use balloon::wire::ByteOrder;
use std::ffi::c_void;

/// The most requests that a batch holds.
pub const VBR_BATCH_MAX_REQUESTS: usize = 128;
const _: () = assert!(VBR_BATCH_MAX_REQUESTS == MAX_REQUESTS);

/// A part of the payload of an inflate or deflate request. All parts but the last are a multiple of
/// 4 long.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrPart {
    /// The bytes, as the driver wrote them.
    pub payload: *const u8,
    /// How many they are; at most what `vbr_batch_room` said.
    pub len: usize,
    /// The length of the whole request in bytes.
    pub total: u64,
    /// Whether the driver is a legacy one on a big-endian guest.
    pub big_endian: bool,
    /// Whether the request ends here. A part may be empty.
    pub last: bool,
    /// How many segments the request has; read with the last part only.
    pub descriptors: usize,
    /// How many of them are device-writable, which these queues do not use.
    pub writable: usize,
}

/// A device-writable segment of a report, as it is mapped in the host.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrReported {
    /// Its address in the host; never followed.
    pub host: *const c_void,
    /// Its length in bytes.
    pub bytes: u64,
}

pub(super) fn byte_order(big_endian: bool) -> ByteOrder {
    if big_endian {
        ByteOrder::Big
    } else {
        ByteOrder::Little
    }
}

/// Works on a device for a slice; `done` gets whether there is no more to do.
///
/// # Safety
///
/// `device` is NULL or a live device, `done` NULL or writable.
unsafe fn work_for_a_slice(
    device: *mut VbrDevice,
    done: *mut bool,
    work: impl FnOnce(&mut Balloon, &mut VbrHost<'_>) -> Progress,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let done = unsafe { output(done) };
    with_device(device, |balloon, host| {
        let done = done?;
        done.write(work(balloon, host) == Progress::Done);
        Ok(())
    })
}

/// `bytes` gets a number of bytes that a device knows.
///
/// # Safety
///
/// `device` is NULL or a live device, `bytes` NULL or writable.
unsafe fn number_of_bytes(
    device: *const VbrDevice,
    bytes: *mut u64,
    number: impl FnOnce(&Balloon) -> u64,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let bytes = unsafe { output(bytes) };
    with_device(device, |balloon, _| {
        bytes?.write(number(balloon));
        Ok(())
    })
}

/// How many further bytes of payload the batch takes from `queue`; for reports, any number but 0
/// means that it takes another one. 0: the batch is full, in work, or another queue's, or the rest
/// of another queue's message is still to come.
///
/// # Safety
///
/// `device` is NULL or a live device, `bytes` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_batch_room(
    device: *const VbrDevice,
    queue: QueueKind,
    bytes: *mut usize,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let bytes = unsafe { output(bytes) };
    with_device(device, |balloon, _| {
        bytes?.write(balloon.batch_room(queue));
        Ok(())
    })
}

/// Adds a part of a request of the inflate or deflate queue.
///
/// # Safety
///
/// `device` is NULL or a live device, `part` NULL or valid, with its payload.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_batch_add(
    device: *mut VbrDevice,
    queue: QueueKind,
    part: *const VbrPart,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or valid by contract.
    let part = unsafe { part.as_ref() };
    let Some(part) = part else {
        return VbrStatus::InvalidArgument;
    };
    // SAFETY: valid by contract.
    let payload = unsafe { slice(part.payload, part.len) };
    with_device(device, |balloon, _| {
        let end = part.last.then_some(RequestEnd {
            descriptors: part.descriptors,
            wrong_way: part.writable,
        });
        let part = RequestPart {
            payload: payload?,
            total: part.total,
            order: byte_order(part.big_endian),
            end,
        };
        balloon.batch_add(queue, part)
    })
}

/// Adds a report: its `count` device-writable segments, and how many `readable` ones it has, which
/// the queue does not use.
///
/// # Safety
///
/// `device` is NULL or a live device, `segments` NULL or valid for `count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_batch_add_report(
    device: *mut VbrDevice,
    segments: *const VbrReported,
    count: usize,
    readable: usize,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or valid for `count` by contract.
    let segments = unsafe { slice(segments, count) };
    with_device(device, |balloon, _| {
        let ranges = segments?.iter().map(|segment| HostRange {
            host: segment.host as usize,
            bytes: segment.bytes,
        });
        let descriptors = count.saturating_add(readable);
        balloon.batch_add_report(
            ranges,
            RequestEnd {
                descriptors,
                wrong_way: readable,
            },
        )
    })
}

/// Works on the batch for one slice. `done` gets false when there is more to do: call again, after
/// letting the main loop run. Otherwise the batch is empty again, and its requests are to be
/// acknowledged.
///
/// # Safety
///
/// `device` is NULL or a live device, `done` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_batch_run(
    device: *mut VbrDevice,
    inhibit: Inhibit,
    done: *mut bool,
) -> VbrStatus {
    // SAFETY: the same contract.
    unsafe {
        work_for_a_slice(device, done, |balloon, host| {
            balloon.batch_run(host, inhibit)
        })
    }
}

/// Forgets the batch: its requests go back to their queue and come again.
///
/// # Safety
///
/// `device` is NULL or a live device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_batch_cancel(device: *mut VbrDevice) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    with_device(device, |balloon, _| {
        balloon.batch_cancel();
        Ok(())
    })
}

/// Gives up what is left of the batch, whose requests will be acknowledged now, or neither that nor
/// come again. Nothing more is discarded, and no page that the guest uses is taken for one in the
/// balloon.
///
/// # Safety
///
/// `device` is NULL or a live device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_batch_abandon(device: *mut VbrDevice) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    with_device(device, |balloon, _| {
        balloon.batch_abandon();
        Ok(())
    })
}

/// How many inflated bytes wait for their neighbours.
///
/// # Safety
///
/// `device` is NULL or a live device, `bytes` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_held_bytes(device: *const VbrDevice, bytes: *mut u64) -> VbrStatus {
    // SAFETY: the same contract.
    unsafe { number_of_bytes(device, bytes, |balloon| balloon.held_bytes()) }
}

/// Gives back, for one slice, what waits for its neighbours, all of it or what does so for long;
/// `done` gets false when there is more to do. May be called at any time, also between the slices
/// of a batch.
///
/// # Safety
///
/// `device` is NULL or a live device, `done` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_held_flush(
    device: *mut VbrDevice,
    flush: Flush,
    inhibit: Inhibit,
    done: *mut bool,
) -> VbrStatus {
    // SAFETY: the same contract.
    unsafe {
        work_for_a_slice(device, done, |balloon, host| {
            balloon.flush_held(host, flush, inhibit)
        })
    }
}

/// How many bytes in the balloon could not be given back when they came, and are still to be:
/// discards were inhibited, or a migration brought them.
///
/// # Safety
///
/// `device` is NULL or a live device, `bytes` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_owed_bytes(device: *const VbrDevice, bytes: *mut u64) -> VbrStatus {
    // SAFETY: the same contract.
    unsafe { number_of_bytes(device, bytes, |balloon| balloon.owed_bytes()) }
}

/// Gives those back to the host, for one slice, and frees some of the memory that sets of pages do
/// not need any more. `done` gets false when there is more to do: call again, after letting the
/// main loop run. Otherwise there is nothing to do, or nothing while `inhibit` lasts: ask again in
/// a while, as long as some are owed.
///
/// # Safety
///
/// `device` is NULL or a live device, `done` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_owed_discard(
    device: *mut VbrDevice,
    inhibit: Inhibit,
    done: *mut bool,
) -> VbrStatus {
    // SAFETY: the same contract.
    unsafe {
        work_for_a_slice(device, done, |balloon, host| {
            balloon.discard_owed(host, inhibit)
        })
    }
}
