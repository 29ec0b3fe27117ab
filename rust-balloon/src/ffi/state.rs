// SPDX-License-Identifier: GPL-2.0-or-later
//! Migration state.

use super::guard::{VbrDevice, output, with_device};
use super::status::VbrStatus;
use crate::error::Error;
use crate::state::State;

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

/// Goes on from a state, in a machine that can have `max_ram` bytes of memory. A state that no device
/// can have saved is refused with `STATE_TARGET` or `STATE_STATS`.
///
/// # Safety
///
/// `device` is NULL or a live device, `state` NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_state_load(
    device: *mut VbrDevice,
    state: *const State,
    max_ram: u64,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or valid by contract.
    let state = unsafe { state.as_ref() };
    with_device(device, |balloon, _| {
        state.ok_or(Error::InvalidArgument)?.load(balloon, max_ram)
    })
}
