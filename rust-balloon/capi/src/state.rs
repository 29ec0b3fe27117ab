// SPDX-License-Identifier: GPL-2.0-or-later
//! Migration state.

use super::guard::{VbrDevice, output, output_slice, slice, with_device, with_mended_copy};
use super::status::VbrStatus;
use balloon::error::Error;
use balloon::pageset::MAX_BYTES;
use balloon::state::{SavedPages, State};

/// The most bytes that the set of ballooned pages takes in a stream.
pub const VBR_STATE_MAX_PAGES_BYTES: usize = 4194304;
const _: () = assert!(VBR_STATE_MAX_PAGES_BYTES == MAX_BYTES);

/// The set of ballooned pages in a migration stream.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrSavedPages {
    /// The bytes that `vbr_state_save_pages` wrote.
    pub coded: *const u8,
    /// How many they are.
    pub len: usize,
    /// Whether all pages in the balloon are among them.
    pub complete: bool,
}

/// The device's state, with the polling interval (in seconds) that the caller keeps.
///
/// # Safety
///
/// `device` is NULL or a live device, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_state_save(
    device: *const VbrDevice,
    polling_interval: i64,
    out: *mut State,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    with_device(device, |balloon, _| {
        out?.write(State::save(balloon, polling_interval));
        Ok(())
    })
}

/// The state of a device that broke, for a stream whose driver accepted the feature bits
/// `accepted`, as in `vbr_device_set_features`: the host's target, the guest's `actual` and the
/// statistics, and of what protocols the bits are. `vbr_state_save_pages` does not answer then: no
/// page is known to be in the balloon.
///
/// # Safety
///
/// `device` is NULL or a live device, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_state_save_broken(
    device: *const VbrDevice,
    accepted: u64,
    legacy: bool,
    polling_interval: i64,
    out: *mut State,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    with_mended_copy(device, |balloon| {
        // The other end does the same with the bits. Those that the device knew are not to be
        // relied on: it may have broken while it took them over.
        balloon.set_features(balloon.features_of(accepted), legacy);
        out?.write(State::save(balloon, polling_interval));
        Ok(())
    })
}

/// Writes the set of ballooned pages to the `len` bytes at `out`, and says how many of them it `used` and
/// whether the set is `complete`. What does not fit is left out; `VBR_STATE_MAX_PAGES_BYTES` are the most
/// that `vbr_state_load` takes. Only for guests with MUST_TELL_HOST.
///
/// # Safety
///
/// `device` is NULL or a live device, `out` NULL or writable for `len` initialised bytes, `used` and
/// `complete` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_state_save_pages(
    device: *const VbrDevice,
    out: *mut u8,
    len: usize,
    used: *mut usize,
    complete: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable for `len` by contract.
    let out = unsafe { output_slice(out, len) };
    // SAFETY: NULL or writable by contract.
    let used = unsafe { output(used) };
    // SAFETY: NULL or writable by contract.
    let complete = unsafe { output(complete) };
    with_device(device, |balloon, _| {
        let (used, complete) = (used?, complete?);
        let written = SavedPages::write(balloon, out?);
        used.write(written.bytes);
        complete.write(written.complete);
        Ok(())
    })
}

/// Goes on from a state, in a machine that can have `max_ram` bytes of memory. `pages` is NULL for a
/// stream without the set of ballooned pages. The stream's features, and the map of memory, come before.
/// A state that no device can have saved is refused with `STATE_TARGET`, `STATE_POISON`,
/// `STATE_STATS` or one of `STATE_PAGES_*`; one of a driver that speaks something else by these
/// feature bits with `STATE_FOUNDING`.
///
/// # Safety
///
/// `device` is NULL or a live device, `state` NULL or valid, `pages` NULL or valid, with its bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_state_load(
    device: *mut VbrDevice,
    state: *const State,
    pages: *const VbrSavedPages,
    max_ram: u64,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or valid by contract.
    let state = unsafe { state.as_ref() };
    // SAFETY: NULL or valid by contract.
    let pages = unsafe { pages.as_ref() };
    let pages = pages.map(|pages| {
        // SAFETY: valid by contract.
        let coded = unsafe { slice(pages.coded, pages.len) };
        coded.map(|coded| SavedPages {
            coded,
            complete: pages.complete,
        })
    });
    with_device(device, |balloon, _| {
        let pages = pages.transpose()?;
        state
            .ok_or(Error::InvalidArgument)?
            .load(balloon, pages, max_ram)
    })
}
