// SPDX-License-Identifier: GPL-2.0-or-later
//! What threads share, and memory for it.

use super::Error;
#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub(super) use loom::sync::{Mutex, MutexGuard};
pub(super) use std::sync::PoisonError;
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(loom))]
pub(super) use std::sync::{Mutex, MutexGuard};

/// On cache lines of its own, so that those who change it do not slow down those who do not.
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// `len` zeros. Memory that is not written to costs nothing.
///
/// # Errors
///
/// [`Error::Memory`] when there is none; nothing is left behind then.
#[cfg(not(loom))]
pub(super) fn zeroed(len: usize) -> Result<Box<[AtomicU64]>, Error> {
    use zerocopy::FromZeros;

    <[AtomicU64]>::new_box_zeroed_with_elems(len).map_err(|_| Error::Memory)
}

/// Those of loom are more than their bytes.
#[cfg(loom)]
pub(super) fn zeroed(len: usize) -> Result<Box<[AtomicU64]>, Error> {
    filled(len, || AtomicU64::new(0))
}

/// `len` of what `make` makes.
///
/// # Errors
///
/// As of [`zeroed`].
pub(super) fn filled<T>(len: usize, make: impl Fn() -> T) -> Result<Box<[T]>, Error> {
    let mut all = Vec::new();
    all.try_reserve_exact(len).map_err(|_| Error::Memory)?;
    all.extend((0..len).map(|_| make()));
    Ok(all.into_boxed_slice())
}
