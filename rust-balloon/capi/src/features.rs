// SPDX-License-Identifier: GPL-2.0-or-later
//! Features, the queues that follow from them, and what is in force of what the user chose.

use super::device::VbrOptions;
use super::guard::{VbrDevice, guard, output, with_device};
use super::status::VbrStatus;
use balloon::device::{AdviceInForce, Options};
use balloon::features::{MAX_QUEUES, QueueKind, can_accept, queues};
use balloon::message::Malformed;
use std::ffi::{CStr, c_char};

/// The most queues that a device can have.
pub const VBR_MAX_QUEUES: usize = 7;
const _: () = assert!(VBR_MAX_QUEUES == MAX_QUEUES);

/// A queue that a device has.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrQueueSpec {
    /// What it is for.
    pub kind: QueueKind,
    /// How many descriptors it has.
    pub size: u16,
}

/// The queues of a device with these options, in the order of their numbers: `queues` has room for
/// `VBR_MAX_QUEUES`, `count` gets how many there are.
///
/// # Safety
///
/// `options` is NULL or valid, `out` NULL or writable for `VBR_MAX_QUEUES`, `count` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_options_queues(
    options: *const VbrOptions,
    out: *mut VbrQueueSpec,
    count: *mut usize,
) -> VbrStatus {
    // SAFETY: NULL or valid by contract.
    let options = unsafe { options.as_ref() };
    // SAFETY: NULL or writable for VBR_MAX_QUEUES by contract.
    let out = unsafe { output(out.cast::<[VbrQueueSpec; VBR_MAX_QUEUES]>()) };
    // SAFETY: NULL or writable by contract.
    let count = unsafe { output(count) };
    guard(|| {
        let (Some(options), Ok(out), Ok(count)) = (options, out, count) else {
            return VbrStatus::InvalidArgument;
        };
        let none = VbrQueueSpec {
            kind: QueueKind::Inflate,
            size: 0,
        };
        let out = out.write([none; VBR_MAX_QUEUES]);
        let options = Options::from(*options);
        let queues = queues(options.features, options.numbering);
        let filled = out.iter_mut().zip(queues).map(|(place, queue)| {
            *place = VbrQueueSpec {
                kind: queue.kind,
                size: queue.size,
            };
        });
        count.write(filled.count());
        VbrStatus::Ok
    })
}

/// The bits of the features that the device offers.
///
/// # Safety
///
/// `device` is NULL or a live device, `features` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_features(
    device: *const VbrDevice,
    features: *mut u64,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let features = unsafe { output(features) };
    with_device(device, |balloon, _| {
        features?.write(balloon.wire_features());
        Ok(())
    })
}

/// Whether a driver may accept these bits together.
///
/// # Safety
///
/// `device` is NULL or a live device, `accepted` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_can_accept(
    device: *const VbrDevice,
    features: u64,
    accepted: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let accepted = unsafe { output(accepted) };
    with_device(device, |balloon, _| {
        accepted?.write(can_accept(balloon.features_of(features)));
        Ok(())
    })
}

/// Takes over the bits of the features that the driver accepted; `legacy` is a driver that did not accept
/// VERSION_1.
///
/// # Safety
///
/// `device` is NULL or a live device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_set_features(
    device: *mut VbrDevice,
    features: u64,
    legacy: bool,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    with_device(device, |balloon, _| {
        let features = balloon.features_of(features);
        balloon.set_features(features, legacy);
        Ok(())
    })
}

/// How reported memory is given back.
///
/// # Safety
///
/// `device` is NULL or a live device, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_reporting_advice(
    device: *const VbrDevice,
    out: *mut AdviceInForce,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    with_device(device, |balloon, _| {
        out?.write(balloon.advice_in_force());
        Ok(())
    })
}

/// Why something was left out of a message last: static, never NULL, empty when nothing was.
///
/// # Safety
///
/// `device` is NULL or a live device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_malformed_str(device: *const VbrDevice) -> *const c_char {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    let mut text = c"";
    let status = with_device(device, |balloon, _| {
        text = balloon.malformed().map_or(c"", malformed_str);
        Ok(())
    });
    match status {
        VbrStatus::Ok => text.as_ptr(),
        _ => c"".as_ptr(),
    }
}

fn malformed_str(reason: Malformed) -> &'static CStr {
    match reason {
        Malformed::Header => c"header too short",
        Malformed::DataLength => c"data length is not that of the message",
        Malformed::Count => c"too many chunks",
        Malformed::Reserved => c"reserved bits are set",
        Malformed::Cut => c"a range is cut short",
        Malformed::Empty => c"a range is empty",
        Malformed::Overflow => c"a range overflows",
        Malformed::NotRam => c"a range is not RAM",
        Malformed::Command => c"unknown command",
        Malformed::Flag => c"unknown flag",
    }
}
