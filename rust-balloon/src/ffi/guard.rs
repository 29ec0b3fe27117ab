// SPDX-License-Identifier: GPL-2.0-or-later
//! The boundary: no panic and no re-entrance passes it.

use super::host_ops::{VbrHost, VbrHostOps};
use super::status::VbrStatus;
use crate::device::{Balloon, Options};
use crate::error::Error;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// A device. Made by `vbr_device_new`, ended by `vbr_device_free`.
pub struct VbrDevice {
    /// Set while a call is inside; whoever sets it owns `inner`.
    busy: AtomicBool,
    /// Set when a call panicked; `inner` is not to be trusted then.
    broken: AtomicBool,
    pub(super) options: Options,
    ops: VbrHostOps,
    inner: UnsafeCell<Balloon>,
}

/// Ends a call's hold on its device, however the call ends.
struct Hold<'a>(&'a AtomicBool);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl VbrDevice {
    pub(super) fn new(options: Options, ops: VbrHostOps) -> VbrDevice {
        VbrDevice {
            busy: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            options,
            ops,
            inner: UnsafeCell::new(Balloon::new(options)),
        }
    }

    fn hold(&self) -> Option<Hold<'_>> {
        let free = !self.busy.swap(true, Ordering::Acquire);
        free.then(|| Hold(&self.busy))
    }

    /// Whether a call is inside.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Puts a new device in the place of one that broke; does nothing to one that works.
    fn mend(&self, balloon: &mut Balloon) {
        if self.broken.swap(false, Ordering::AcqRel) {
            let broken = std::mem::replace(balloon, Balloon::new(self.options));
            balloon.inherit(&broken);
        }
    }
}

/// Runs `body`; a panic in it becomes `BROKEN`.
pub(super) fn guard(body: impl FnOnce() -> VbrStatus) -> VbrStatus {
    // A caller that gets BROKEN knows that nothing of what `body` borrowed can be relied on.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(VbrStatus::Broken)
}

/// Whether a call may be made on a device that broke.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Refuse,
    Mend,
}

fn enter(
    device: Option<&VbrDevice>,
    on_broken: Broken,
    body: impl FnOnce(&mut Balloon, &mut VbrHost<'_>) -> Result<(), Error>,
) -> VbrStatus {
    let Some(device) = device else {
        return VbrStatus::InvalidArgument;
    };
    let Some(_hold) = device.hold() else {
        return VbrStatus::Busy;
    };
    // SAFETY: the hold makes this call the only one inside, and is dropped behind `balloon`.
    let balloon = unsafe { &mut *device.inner.get() };
    if on_broken == Broken::Mend {
        device.mend(balloon);
    } else if device.broken.load(Ordering::Acquire) {
        return VbrStatus::Broken;
    }
    let mut host = VbrHost::new(&device.ops);
    let status = guard(|| match body(balloon, &mut host) {
        Ok(()) => VbrStatus::Ok,
        Err(error) => error.into(),
    });
    if status == VbrStatus::Broken {
        device.broken.store(true, Ordering::Release);
        guard(|| {
            log::error!("the balloon ran into a bug of its own and is broken until it is reset");
            VbrStatus::Ok
        });
    }
    status
}

/// Runs `body` on a device.
pub(super) fn with_device(
    device: Option<&VbrDevice>,
    body: impl FnOnce(&mut Balloon, &mut VbrHost<'_>) -> Result<(), Error>,
) -> VbrStatus {
    enter(device, Broken::Refuse, body)
}

/// Runs `body` on a device; one that broke is made anew first.
pub(super) fn with_mended_device(
    device: Option<&VbrDevice>,
    body: impl FnOnce(&mut Balloon, &mut VbrHost<'_>) -> Result<(), Error>,
) -> VbrStatus {
    enter(device, Broken::Mend, body)
}

/// The `len` elements at `data`; empty for 0 of them at NULL.
///
/// # Safety
///
/// `data` is NULL or points at `len` initialised elements that nothing changes while the slice lives.
pub(super) unsafe fn slice<'a, T>(data: *const T, len: usize) -> Result<&'a [T], Error> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() || !data.is_aligned() || len > isize::MAX as usize / size_of::<T>() {
        return Err(Error::InvalidArgument);
    }
    // SAFETY: not NULL, aligned, not too long; the rest is the caller's contract.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// The place for an output that may not be initialised yet.
///
/// # Safety
///
/// `out` is NULL or points at memory for a `T` that nothing else uses while the reference lives.
pub(super) unsafe fn output<'a, T>(out: *mut T) -> Result<&'a mut MaybeUninit<T>, Error> {
    if !out.is_aligned() {
        return Err(Error::InvalidArgument);
    }
    // SAFETY: aligned; the rest is the caller's contract.
    unsafe { out.cast::<MaybeUninit<T>>().as_mut() }.ok_or(Error::InvalidArgument)
}

/// The place for `len` bytes of output.
///
/// # Safety
///
/// `out` is NULL or points at `len` initialised bytes that nothing else uses while the slice lives.
pub(super) unsafe fn output_slice<'a>(out: *mut u8, len: usize) -> Result<&'a mut [u8], Error> {
    if out.is_null() || len > isize::MAX as usize {
        return Err(Error::InvalidArgument);
    }
    // SAFETY: not NULL, not too long; the rest is the caller's contract.
    Ok(unsafe { std::slice::from_raw_parts_mut(out, len) })
}
