// SPDX-License-Identifier: GPL-2.0-or-later
//! The boundary: no panic and no re-entrance passes it.

use super::host_ops::{VbrHost, VbrHostOps};
use super::status::VbrStatus;
use balloon::device::{Balloon, Options};
use balloon::error::Error;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// Something of the library's that C holds, with at most one call inside at a time.
pub(super) struct Guarded<T> {
    /// Set while a call is inside; whoever sets it owns `inner`.
    busy: AtomicBool,
    /// Set when a call panicked; `inner` is not to be trusted then.
    broken: AtomicBool,
    inner: UnsafeCell<T>,
}

/// Ends a call's hold, however the call ends.
struct Hold<'a>(&'a AtomicBool);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<T> Guarded<T> {
    pub(super) fn new(inner: T) -> Guarded<T> {
        Guarded {
            busy: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            inner: UnsafeCell::new(inner),
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

    /// Runs `body`, unless a call is inside already or an earlier one panicked.
    pub(super) fn enter(&self, body: impl FnOnce(&mut T) -> Result<(), Error>) -> VbrStatus {
        self.call(false, |inner, _| body(inner))
    }

    /// The same, but what an earlier call broke is made anew first, by `mend`.
    pub(super) fn enter_mended(
        &self,
        mend: impl FnOnce(&mut T),
        body: impl FnOnce(&mut T) -> Result<(), Error>,
    ) -> VbrStatus {
        self.call(true, |inner, is_broken| {
            if is_broken {
                mend(inner);
                self.broken.store(false, Ordering::Release);
            }
            body(inner)
        })
    }

    /// Runs `look`, unless a call is inside already. If an earlier one panicked it looks at what
    /// that left, which stays broken.
    pub(super) fn look_at_broken(&self, look: impl FnOnce(&T) -> Result<(), Error>) -> VbrStatus {
        self.call(true, |inner, _| look(inner))
    }

    /// Runs `body`, and says to it whether an earlier call panicked. If one did, only a `body` that
    /// is `for_broken` runs.
    fn call(
        &self,
        for_broken: bool,
        body: impl FnOnce(&mut T, bool) -> Result<(), Error>,
    ) -> VbrStatus {
        let Some(_hold) = self.hold() else {
            return VbrStatus::Busy;
        };
        let is_broken = self.broken.load(Ordering::Acquire);
        if is_broken && !for_broken {
            return VbrStatus::Broken;
        }
        // SAFETY: the hold makes this call the only one inside, and is dropped behind `inner`.
        let inner = unsafe { &mut *self.inner.get() };
        // What broke may panic once more when it is looked at or dropped.
        let status = guard(|| match body(inner, is_broken) {
            Ok(()) => VbrStatus::Ok,
            Err(error) => error.into(),
        });
        if status == VbrStatus::Broken {
            self.broken.store(true, Ordering::Release);
            tell("the balloon ran into a bug of its own and is broken until it is reset");
        }
        status
    }
}

/// A device. Made by `vbr_device_new`, ended by `vbr_device_free`.
pub struct VbrDevice {
    pub(super) options: Options,
    ops: VbrHostOps,
    balloon: Guarded<Balloon>,
}

impl VbrDevice {
    pub(super) fn new(options: Options, ops: VbrHostOps) -> VbrDevice {
        VbrDevice {
            options,
            ops,
            balloon: Guarded::new(Balloon::new(options)),
        }
    }

    /// Whether a call is inside.
    pub(super) fn is_busy(&self) -> bool {
        self.balloon.is_busy()
    }

    /// What a reset makes of a device that broke.
    fn mended(&self, broken: &Balloon) -> Balloon {
        let mut balloon = Balloon::new(self.options);
        balloon.inherit(broken);
        balloon
    }
}

/// Runs `body`; a panic in it becomes `BROKEN`.
pub(super) fn guard(body: impl FnOnce() -> VbrStatus) -> VbrStatus {
    // A caller that gets BROKEN knows that nothing of what `body` borrowed can be relied on.
    catch_unwind(AssertUnwindSafe(|| run(body))).unwrap_or(VbrStatus::Broken)
}

/// Runs `body`, for which there is no status to answer with; a panic ends it, and goes no further.
///
/// What `body` owns is gone behind this, even if it did not come to drop it: nobody else can free
/// what a caller handed back.
pub(super) fn contain(body: impl FnOnce()) {
    let status = guard(|| {
        body();
        VbrStatus::Ok
    });
    if status != VbrStatus::Ok {
        tell("the balloon ran into a bug of its own");
    }
}

/// Logs an error. Whoever takes it must not make things worse.
pub(super) fn tell(what: &str) {
    let told = catch_unwind(|| log::error!("{what}"));
    // The panic hook has told of that one; there is nobody else to tell.
    drop(told);
}

#[cfg(feature = "inject")]
use super::inject::run;

/// Runs `body`; in a library for tests, `inject::run` is in its place.
#[cfg(not(feature = "inject"))]
fn run(body: impl FnOnce() -> VbrStatus) -> VbrStatus {
    body()
}

/// Runs `body` on a device.
pub(super) fn with_device(
    device: Option<&VbrDevice>,
    body: impl FnOnce(&mut Balloon, &mut VbrHost<'_>) -> Result<(), Error>,
) -> VbrStatus {
    let Some(device) = device else {
        return VbrStatus::InvalidArgument;
    };
    let mut host = VbrHost::new(&device.ops);
    device.balloon.enter(|balloon| body(balloon, &mut host))
}

/// Runs `body` on a device; one that broke is made anew first.
pub(super) fn with_mended_device(
    device: Option<&VbrDevice>,
    body: impl FnOnce(&mut Balloon, &mut VbrHost<'_>) -> Result<(), Error>,
) -> VbrStatus {
    let Some(device) = device else {
        return VbrStatus::InvalidArgument;
    };
    let mut host = VbrHost::new(&device.ops);
    let mend = |balloon: &mut Balloon| *balloon = device.mended(balloon);
    device
        .balloon
        .enter_mended(mend, |balloon| body(balloon, &mut host))
}

/// Runs `body` on what a reset would make of a device that broke. The device stays as it is.
pub(super) fn with_mended_copy(
    device: Option<&VbrDevice>,
    body: impl FnOnce(&mut Balloon) -> Result<(), Error>,
) -> VbrStatus {
    let Some(device) = device else {
        return VbrStatus::InvalidArgument;
    };
    device
        .balloon
        .look_at_broken(|broken| body(&mut device.mended(broken)))
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
