// SPDX-License-Identifier: GPL-2.0-or-later
//! Dirty pages as a list. A page is the number of a page of 4 KiB in the host's numbering of guest RAM, below
//! 2^40.
//!
//! Unlike elsewhere calls may come from several threads at the same time: of `vbr_dirty_note` one for each
//! virtual CPU, and any others besides. A list in which one panicked is broken until it is freed.

use super::claim::Claim;
use super::guard::{guard, output, tell};
use super::status::VbrStatus;
use balloon::error::Error;
use dirty_pages::{DirtyIndices, DirtyList, DirtyOptions, Noted};
use std::mem::MaybeUninit;
use std::ptr::slice_from_raw_parts_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The list of dirty pages of a machine: one for a consumer, one for the migration. Made by `vbr_dirty_new`,
/// ended by `vbr_dirty_free`.
pub struct VbrDirtyList {
    list: DirtyList,
    /// Set when a call panicked; the list is not to be trusted then.
    broken: AtomicBool,
    /// Where a batch is made before it is handed out: the caller's memory need not be initialised,
    /// and is written to only as far as `count` says.
    batch: Mutex<Vec<u64>>,
    _claim: Claim,
}

fn make(options: DirtyOptions) -> Result<*mut VbrDirtyList, VbrStatus> {
    options.check()?;
    let claim = Claim::new().ok_or(VbrStatus::DirtyListTwice)?;
    // A box alone would end the process when there is no memory.
    let mut place = Vec::new();
    place
        .try_reserve_exact(1)
        .map_err(|_| VbrStatus::DirtyListMemory)?;
    place.push(VbrDirtyList {
        list: DirtyList::new(options)?,
        broken: AtomicBool::new(false),
        batch: Mutex::default(),
        _claim: claim,
    });
    Ok(Box::into_raw(place.into_boxed_slice()).cast())
}

pub(super) fn with_list(
    list: Option<&VbrDirtyList>,
    body: impl FnOnce(&DirtyList) -> Result<(), VbrStatus>,
) -> VbrStatus {
    let Some(list) = list else {
        return VbrStatus::InvalidArgument;
    };
    if list.broken.load(Ordering::Acquire) {
        return VbrStatus::Broken;
    }
    let status = guard(|| body(&list.list).err().unwrap_or(VbrStatus::Ok));
    if status == VbrStatus::Broken {
        list.broken.store(true, Ordering::Release);
        tell("the dirty list ran into a bug of its own and is broken for good");
    }
    status
}

/// The place for `most` pages.
///
/// # Safety
///
/// `pages` is NULL or points at room for `most` numbers that nothing else uses while the slice
/// lives.
unsafe fn room<'a>(pages: *mut u64, most: usize) -> Result<&'a mut [MaybeUninit<u64>], Error> {
    if pages.is_null() || !pages.is_aligned() || most > isize::MAX as usize / size_of::<u64>() {
        return Err(Error::InvalidArgument);
    }
    // SAFETY: not NULL, aligned, not too long; the rest is the caller's contract.
    Ok(unsafe { std::slice::from_raw_parts_mut(pages.cast(), most) })
}

/// Has `fetch` make a batch as long as `pages` at most, and hands it out.
fn hand_out(
    list: Option<&VbrDirtyList>,
    pages: Result<&mut [MaybeUninit<u64>], Error>,
    count: Result<&mut MaybeUninit<usize>, Error>,
    fetch: impl FnOnce(&DirtyList, &mut [u64]) -> Result<usize, dirty_pages::Error>,
) -> VbrStatus {
    let batch = list.map(|list| list.batch.lock().unwrap_or_else(PoisonError::into_inner));
    with_list(list, |list| {
        let (pages, count) = (pages?, count?);
        let mut batch = batch.ok_or(VbrStatus::InvalidArgument)?;
        let missing = pages.len().saturating_sub(batch.len());
        // Without room nothing is fetched, so nothing is lost.
        batch
            .try_reserve_exact(missing)
            .map_err(|_| VbrStatus::DirtyListMemory)?;
        if missing > 0 {
            batch.resize(pages.len(), 0);
        }
        let fetched = fetch(list, &mut batch[..pages.len()])?;
        for (page, fetched) in pages.iter_mut().zip(&batch[..fetched]) {
            page.write(*fetched);
        }
        count.write(fetched);
        Ok(())
    })
}

/// Makes empty lists that nothing is noted on yet.
///
/// Returns `DIRTY_LIST_VERSION`, `DIRTY_LIST_ZERO`, `DIRTY_LIST_SIZE` or `DIRTY_LIST_TRIGGER` when there cannot be such
/// lists, `DIRTY_LIST_TWICE` when there are lists already, and `DIRTY_LIST_MEMORY`.
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
        match make(*options) {
            Ok(list) => {
                out.write(list);
                VbrStatus::Ok
            }
            Err(status) => status,
        }
    })
}

/// Ends the lists. NULL is allowed. Returns `DIRTY_LIST_ACTIVE`, and ends nothing, while pages are noted, unless
/// `force` says that nobody will call any more.
///
/// # Safety
///
/// `list` is NULL or from `vbr_dirty_new` and not freed. If it is ended, no call is inside and it is not used
/// afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_free(list: *mut VbrDirtyList, force: bool) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    if !force && unsafe { vbr_dirty_is_active(list) } {
        return VbrStatus::DirtyListActive;
    }
    if list.is_null() {
        return VbrStatus::Ok;
    }
    // SAFETY: from Box::into_raw in make(), and freed only once by contract.
    let list = unsafe { Box::from_raw(slice_from_raw_parts_mut(list, 1)) };
    guard(move || {
        drop(list);
        VbrStatus::Ok
    })
}

/// Begins to note pages for the consumer, with nothing on its list. Pages whose bit is set already are not
/// noted: behind this the caller clears all bits, or notes their pages. Not while a migration is under way.
/// Returns `DIRTY_LIST_ACTIVE` when that has begun already.
///
/// # Safety
///
/// `list` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_start(list: *const VbrDirtyList) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, |list| Ok(list.start()?))
}

/// Notes no more pages for the consumer. What is on its list can still be fetched.
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

/// Notes `page` + i for each bit i of `bits` on the lists that are active, once they are protected again and
/// their dirty bits are set. `vcpu` is the virtual CPU that wrote to them, for which there is one call at a time, or
/// any number that is none. `trigger` gets true when the machine is to be paused.
///
/// # Safety
///
/// `list` is NULL or live, `trigger` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_note(
    list: *const VbrDirtyList,
    vcpu: usize,
    page: u64,
    bits: u64,
    trigger: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or writable by contract.
    let trigger = unsafe { output(trigger) };
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, |list| {
        trigger?.write(list.note(vcpu, page, bits) == Noted::Trigger);
        Ok(())
    })
}

/// Hands out the consumer's next pages, sorted, each once, at most `most` of them; `count` gets how many. Fewer
/// than `most` say that there was no more. The caller clears the dirty bits of all of them before the next
/// `vbr_dirty_sync_begin` (one lock for both), and reads the pages then.
///
/// Returns `DIRTY_LIST_INACTIVE` before the first start, `DIRTY_LIST_OVERFLOW` when pages are missing, until the
/// next start, and `DIRTY_LIST_MEMORY` when the migration's list could not take the pages.
///
/// # Safety
///
/// `list` is NULL or live, `pages` NULL or room for `most`, `count` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_fetch(
    list: *const VbrDirtyList,
    pages: *mut u64,
    most: usize,
    count: *mut usize,
) -> VbrStatus {
    // SAFETY: NULL or valid by contract.
    let pages = unsafe { room(pages, most) };
    // SAFETY: NULL or writable by contract.
    let count = unsafe { output(count) };
    // SAFETY: NULL or live by contract.
    hand_out(unsafe { list.as_ref() }, pages, count, |list, pages| {
        list.fetch(pages)
    })
}

/// The consumer is done with all that it fetched: the dirty trigger counts from here on. `trigger` gets true when
/// so many pages are there already that the machine is to be paused. Returns `DIRTY_LIST_INACTIVE` before the
/// first start.
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
        let trigger = trigger?;
        trigger.write(list.reset()? == Noted::Trigger);
        Ok(())
    })
}

/// How far the consumer's list has come.
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

/// Whether any of the lists wants pages. Cheap, and false on any doubt. If this is asked to spare a call of
/// `vbr_dirty_note`, then after the dirty bit was set.
///
/// # Safety
///
/// `list` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_is_active(list: *const VbrDirtyList) -> bool {
    // SAFETY: NULL or live by contract.
    let list = unsafe { list.as_ref() };
    list.is_some_and(|list| !list.broken.load(Ordering::Acquire) && list.list.is_active())
}

/// A synchronization of the migration's bitmap begins. `listed` gets whether the migration's list has every page
/// whose dirty bit became set since the last one. If not, because it is started here or has lost pages, the caller
/// looks at all dirty bits itself, after it fetched what there is.
///
/// A migration that begins has all pages still to be sent: one that the consumer fetched before, and whose
/// bit is cleared after this, is noted for nobody.
///
/// When this or `vbr_dirty_sync_fetch` returns `BROKEN`, pages may be missing whose dirty bits the consumer cleared:
/// the migration sends all pages again.
///
/// # Safety
///
/// `list` is NULL or live, `listed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_sync_begin(
    list: *const VbrDirtyList,
    listed: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or writable by contract.
    let listed = unsafe { output(listed) };
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, |list| {
        listed?.write(list.sync_begin());
        Ok(())
    })
}

/// Hands out the migration's next pages, as `vbr_dirty_fetch` does, until `count` is 0: these are all that were
/// there at the first call since `vbr_dirty_sync_begin`. Those that come meanwhile are for the next one. For
/// each page the caller sets the migration's bit, and clears the dirty bit then. Returns `DIRTY_LIST_INACTIVE`
/// without a synchronization.
///
/// # Safety
///
/// `list` is NULL or live, `pages` NULL or room for `most`, `count` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_sync_fetch(
    list: *const VbrDirtyList,
    pages: *mut u64,
    most: usize,
    count: *mut usize,
) -> VbrStatus {
    // SAFETY: NULL or valid by contract.
    let pages = unsafe { room(pages, most) };
    // SAFETY: NULL or writable by contract.
    let count = unsafe { output(count) };
    // SAFETY: NULL or live by contract.
    hand_out(unsafe { list.as_ref() }, pages, count, |list, pages| {
        list.sync_fetch(pages)
    })
}

/// The migration is over: its list notes no more pages.
///
/// # Safety
///
/// `list` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_dirty_sync_end(list: *const VbrDirtyList) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    with_list(unsafe { list.as_ref() }, |list| {
        list.sync_end();
        Ok(())
    })
}
