// SPDX-License-Identifier: GPL-2.0-or-later
//! Dirty pages as a list.
//!
//! Unlike elsewhere calls may come from several threads at the same time: of `vbr_dirty_note` one for each
//! virtual CPU, and any others besides.

use super::guard::{guard, output};
use super::status::VbrStatus;
use crate::error::Error;
use crate::migration::dirty::{DirtyIndices, DirtyList, DirtyOptions, Noted};
use std::sync::atomic::{AtomicBool, Ordering};

/// A list of dirty pages. Made by `vbr_dirty_new`, ended by `vbr_dirty_free`.
pub struct VbrDirtyList {
    list: DirtyList,
    /// Set when a call panicked; the list is not to be trusted then.
    broken: AtomicBool,
}

fn with_list(
    list: Option<&VbrDirtyList>,
    body: impl FnOnce(&DirtyList) -> Result<(), Error>,
) -> VbrStatus {
    let Some(list) = list else {
        return VbrStatus::InvalidArgument;
    };
    if list.broken.load(Ordering::Acquire) {
        return VbrStatus::Broken;
    }
    let status = guard(|| body(&list.list).map_or_else(VbrStatus::from, |()| VbrStatus::Ok));
    if status == VbrStatus::Broken {
        list.broken.store(true, Ordering::Release);
    }
    status
}

/// Makes an empty list that nothing is noted on yet.
///
/// Returns `DIRTY_LIST_VERSION`, `DIRTY_LIST_ZERO` or `DIRTY_LIST_SIZE` when there cannot be such a list.
///
/// # Safety
///
/// `options` is NULL or valid, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_new(
    options: *const DirtyOptions,
    out: *mut *mut VbrDirtyList,
) -> VbrStatus {
    // SAFETY: NULL or valid by contract.
    let options = unsafe { options.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    guard(|| {
        let (Some(options), Ok(out)) = (options, out) else {
            return VbrStatus::InvalidArgument;
        };
        match DirtyList::new(*options) {
            Ok(list) => {
                let broken = AtomicBool::new(false);
                out.write(Box::into_raw(Box::new(VbrDirtyList { list, broken })));
                VbrStatus::Ok
            }
            Err(error) => error.into(),
        }
    })
}

/// Ends a list. NULL is allowed. Returns `DIRTY_LIST_ACTIVE`, and ends nothing, while pages are noted, unless
/// `force` says that nobody will call any more.
///
/// # Safety
///
/// `list` is NULL or from `vbr_dirty_new` and not freed. If it is ended, no call is inside and it is not used
/// afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_free(list: *mut VbrDirtyList, force: bool) -> VbrStatus {
    guard(|| {
        // SAFETY: NULL or live by contract.
        let Some(live) = (unsafe { list.as_ref() }) else {
            return VbrStatus::Ok;
        };
        if live.list.is_active() && !force {
            return VbrStatus::DirtyListActive;
        }
        // SAFETY: from Box::into_raw in vbr_dirty_new, and freed only once by contract.
        drop(unsafe { Box::from_raw(list) });
        VbrStatus::Ok
    })
}

/// Begins to note pages, with nothing on the list. Returns `DIRTY_LIST_ACTIVE` when that has begun already.
///
/// # Safety
///
/// `list` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_start(list: *const VbrDirtyList) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, DirtyList::start)
}

/// Notes no more pages. What is on the list can still be fetched.
///
/// # Safety
///
/// `list` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_stop(list: *const VbrDirtyList) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, |list| {
        list.stop();
        Ok(())
    })
}

/// Notes that `vcpu` wrote to `page`, once that was logged and the page is protected again. One call at a
/// time for each virtual CPU. `trigger` gets true when the machine is to be paused.
///
/// # Safety
///
/// `list` is NULL or live, `trigger` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_note(
    list: *const VbrDirtyList,
    vcpu: usize,
    page: u64,
    trigger: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or writable by contract.
    let trigger = unsafe { output(trigger) };
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, |list| {
        trigger?.write(list.note(vcpu, page) == Noted::Trigger);
        Ok(())
    })
}

/// Hands out the next pages, at most `most` of them; `count` gets how many.
///
/// # Safety
///
/// `list` is NULL or live, `pages` NULL or writable for `most`, `count` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_fetch(
    list: *const VbrDirtyList,
    pages: *mut u64,
    most: usize,
    count: *mut usize,
) -> VbrStatus {
    // SAFETY: NULL or writable by contract.
    let count = unsafe { output(count) };
    if pages.is_null() {
        return VbrStatus::InvalidArgument;
    }
    // SAFETY: writable for `most` by contract; any bytes are numbers.
    let pages = unsafe { std::slice::from_raw_parts_mut(pages, most) };
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, |list| {
        count?.write(list.fetch(pages));
        Ok(())
    })
}

/// Gives back the room of all pages that were handed out. `trigger` gets true when so many are there already
/// that the machine is to be paused.
///
/// # Safety
///
/// `list` is NULL or live, `trigger` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_reset(
    list: *const VbrDirtyList,
    trigger: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or writable by contract.
    let trigger = unsafe { output(trigger) };
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, |list| {
        trigger?.write(list.reset() == Noted::Trigger);
        Ok(())
    })
}

/// How far the list has come.
///
/// # Safety
///
/// `list` is NULL or live, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_indices(
    list: *const VbrDirtyList,
    out: *mut DirtyIndices,
) -> VbrStatus {
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, |list| {
        out?.write(list.indices());
        Ok(())
    })
}
