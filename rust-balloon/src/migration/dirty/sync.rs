// SPDX-License-Identifier: GPL-2.0-or-later
//! What threads share, and memory for it.

use crate::error::Error;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use zerocopy::FromZeros;

/// On cache lines of its own, so that those who change it do not slow down those who do not.
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// `len` zeros. Memory that is not written to costs nothing.
///
/// # Errors
///
/// [`Error::DirtyListMemory`] when there is none; nothing is left behind then.
pub(super) fn zeroed(len: usize) -> Result<Box<[AtomicU64]>, Error> {
    <[AtomicU64]>::new_box_zeroed_with_elems(len).map_err(|_| Error::DirtyListMemory)
}

/// `len` of what `make` makes.
///
/// # Errors
///
/// As of [`zeroed`].
pub(super) fn filled<T>(len: usize, make: impl Fn() -> T) -> Result<Box<[T]>, Error> {
    let mut all = Vec::new();
    all.try_reserve_exact(len)
        .map_err(|_| Error::DirtyListMemory)?;
    all.extend((0..len).map(|_| make()));
    Ok(all.into_boxed_slice())
}
