// SPDX-License-Identifier: GPL-2.0-or-later
//! The configuration space, and the balloon's size as the host sees it.

use super::guard::{VbrDevice, output, output_slice, slice, with_device};
use super::status::VbrStatus;

/// Size of the device's configuration space in bytes.
///
/// # Safety
///
/// `device` is NULL or a live device, `size` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_config_size(device: *const VbrDevice, size: *mut usize) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let size = unsafe { output(size) };
    with_device(device, |balloon, _| {
        size?.write(balloon.config_size());
        Ok(())
    })
}

/// Fills `image` with the first `len` bytes of the configuration space; `hint_id` is the
/// `shown_id` of `vbr_hints_view`.
///
/// # Safety
///
/// `device` is NULL or a live device, `image` NULL or writable for `len` initialised bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_config_read(
    device: *const VbrDevice,
    hint_id: u32,
    image: *mut u8,
    len: usize,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable for `len` by contract.
    let image = unsafe { output_slice(image, len) };
    with_device(device, |balloon, _| {
        balloon.read_config(hint_id, image?);
        Ok(())
    })
}

/// Takes over what the driver wrote into the configuration space, `len` bytes of it as they are now;
/// says whether `actual` is another than before.
///
/// # Safety
///
/// `device` is NULL or a live device, `image` NULL or valid for `len`, `actual_changed` NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_config_write(
    device: *mut VbrDevice,
    image: *const u8,
    len: usize,
    actual_changed: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let actual_changed = unsafe { output(actual_changed) };
    // SAFETY: NULL or valid for `len` by contract.
    let image = unsafe { slice(image, len) };
    with_device(device, |balloon, _| {
        let (image, actual_changed) = (image?, actual_changed?);
        actual_changed.write(balloon.write_config(image));
        Ok(())
    })
}

/// Asks the guest to keep `target` bytes of its `ram`; `num_pages` gets how many pages that leaves to
/// the balloon.
///
/// # Safety
///
/// `device` is NULL or a live device, `num_pages` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_target_set(
    device: *mut VbrDevice,
    target: u64,
    ram: u64,
    num_pages: *mut u32,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let num_pages = unsafe { output(num_pages) };
    with_device(device, |balloon, _| {
        num_pages?.write(balloon.set_target(target, ram));
        Ok(())
    })
}

/// How many bytes the guest is asked to keep; all ones for all that it has, also of what it gets
/// later.
///
/// # Safety
///
/// `device` is NULL or a live device, `target` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_target_get(device: *const VbrDevice, target: *mut u64) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let target = unsafe { output(target) };
    with_device(device, |balloon, _| {
        target?.write(balloon.config().target.unwrap_or(u64::MAX));
        Ok(())
    })
}

/// Says that the guest has `ram` bytes of RAM from now on; `changed` gets whether it is asked for
/// another number of pages now, and is to be told.
///
/// # Safety
///
/// `device` is NULL or a live device, `changed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_set(
    device: *mut VbrDevice,
    ram: u64,
    changed: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let changed = unsafe { output(changed) };
    with_device(device, |balloon, _| {
        changed?.write(balloon.set_ram(ram));
        Ok(())
    })
}

/// How many of its `ram` bytes the guest says are in the balloon; never more than `ram`.
///
/// # Safety
///
/// `device` is NULL or a live device, `bytes` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_actual_get(
    device: *const VbrDevice,
    ram: u64,
    bytes: *mut u64,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let bytes = unsafe { output(bytes) };
    with_device(device, |balloon, _| {
        bytes?.write(balloon.config().actual_bytes(ram));
        Ok(())
    })
}
