// SPDX-License-Identifier: GPL-2.0-or-later
//! What a migration leaves out.
//!
//! All of these functions but `vbr_ram_new`, `vbr_ram_free` and `vbr_ram_is_left_out` are called
//! with the migration's bitmap lock held: nobody else looks at the dirty bitmaps meanwhile.

use super::guard::{Guarded, VbrDevice, contain, guard, output, with_device};
use super::hints::{VbrHints, with_hints};
use super::status::VbrStatus;
use balloon::error::Error;
use balloon::memory::BlockId;
use balloon::migration::arming::Arm;
use balloon::migration::bitmaps::{BlockView, DirtyBitmaps};
use balloon::migration::skips::{Announced, DirtyChange, SkipCounters, Skips};
use sparse_bitmap::SparseBitmap;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

/// The dirty bitmap of a RAM block: `unsigned long` words on a 64-bit host.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrRamView {
    /// A bit for each page of the block that is still to be sent.
    pub dirty: *mut u64,
    /// How many pages the block has.
    pub pages: u64,
    /// A bit for each chunk whose dirty log is not armed; NULL where the log is always armed.
    pub unarmed: *const u64,
    /// log2 of the number of pages in a chunk, at least 6 and at most 31.
    pub chunk_shift: u32,
}

/// What the library asks of the migration. Called only from inside the functions of this file, and
/// must not call back into the library.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrRamOps {
    /// Handed to each callback as it is.
    pub opaque: *mut c_void,
    /// The bitmaps of `block`; false when it is not migrated or not a block. They stay as they are
    /// until the call of the library returns, but for what `arm` does.
    pub view: Option<
        unsafe extern "C" fn(opaque: *mut c_void, block: *mut c_void, out: *mut VbrRamView) -> bool,
    >,
    /// The block that `host` lies in and where in it, in bytes; false when it is not RAM.
    pub find: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            host: *const c_void,
            block: *mut *mut c_void,
            offset: *mut u64,
        ) -> bool,
    >,
    /// Arms the dirty log of `count` pages of `block` from `first` on; with `whole_chunk` their
    /// chunk is armed with them.
    pub arm: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            block: *mut c_void,
            first: u64,
            count: u64,
            whole_chunk: bool,
        ),
    >,
}

/// What a migration leaves out. Made by `vbr_ram_new`, ended by `vbr_ram_free`.
pub struct VbrRam {
    ops: VbrRamOps,
    pub(super) skips: Guarded<Skips>,
    /// What was left out when postcopy began. Pages are sent by two threads then, one of them
    /// without the bitmap lock.
    left_out: RwLock<Vec<(BlockId, SparseBitmap)>>,
}

impl VbrRam {
    fn left_out_mut(&self) -> RwLockWriteGuard<'_, Vec<(BlockId, SparseBitmap)>> {
        self.left_out
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct Bitmaps<'a>(&'a VbrRamOps);

impl DirtyBitmaps for Bitmaps<'_> {
    fn view(&mut self, block: BlockId) -> Option<BlockView<'_>> {
        let view = self.0.view?;
        let mut raw = VbrRamView {
            dirty: std::ptr::null_mut(),
            pages: 0,
            unarmed: std::ptr::null(),
            chunk_shift: 6,
        };
        let block = block.0 as *mut c_void;
        // SAFETY: vbr_ram_new's contract: the callback takes any address that was a block once.
        if !unsafe { view(self.0.opaque, block, &raw mut raw) } || raw.dirty.is_null() {
            return None;
        }
        let chunk_shift = raw.chunk_shift.clamp(6, 31);
        let words = raw.pages.div_ceil(64) as usize;
        // SAFETY: a bitmap of that many pages by the callback's contract, which only we look at
        // while the view borrows `self`.
        let dirty = unsafe { std::slice::from_raw_parts_mut(raw.dirty, words) };
        let unarmed = if raw.unarmed.is_null() {
            &[]
        } else {
            let chunks = raw.pages.div_ceil(1 << chunk_shift);
            // SAFETY: a bitmap of that many chunks by the callback's contract; `arm`, which changes
            // it, borrows `self` too.
            unsafe { std::slice::from_raw_parts(raw.unarmed, chunks.div_ceil(64) as usize) }
        };
        Some(BlockView {
            dirty,
            pages: raw.pages,
            unarmed,
            chunk_shift,
        })
    }

    fn find(&mut self, host: usize) -> Option<(BlockId, u64)> {
        let find = self.0.find?;
        let mut block = std::ptr::null_mut();
        let mut offset = 0;
        let host = host as *const c_void;
        // SAFETY: vbr_ram_new's contract: the callback takes any address.
        let found = unsafe { find(self.0.opaque, host, &raw mut block, &raw mut offset) };
        found.then_some((BlockId(block as usize), offset))
    }

    fn arm(&mut self, block: BlockId, pages: Range<u64>, whole_chunk: bool) {
        let Some(arm) = self.0.arm else {
            return;
        };
        let (block, count) = (block.0 as *mut c_void, pages.end - pages.start);
        // SAFETY: vbr_ram_new's contract, and the pages are those of a view of the block.
        unsafe { arm(self.0.opaque, block, pages.start, count, whole_chunk) }
    }
}

fn with_ram(
    ram: Option<&VbrRam>,
    body: impl FnOnce(&mut Skips, &mut Bitmaps<'_>) -> Result<(), Error>,
) -> VbrStatus {
    let Some(ram) = ram else {
        return VbrStatus::InvalidArgument;
    };
    let mut bitmaps = Bitmaps(&ram.ops);
    ram.skips.enter(|skips| body(skips, &mut bitmaps))
}

/// Runs `body` with a place for the change of the number of dirty pages. It is right also when
/// `body` panics: it grows with every bit that changes.
fn with_change(
    ram: Option<&VbrRam>,
    change: Option<&mut DirtyChange>,
    body: impl FnOnce(&mut Skips, &mut Bitmaps<'_>, &mut DirtyChange) -> Result<(), Error>,
) -> VbrStatus {
    let Some(change) = change else {
        return VbrStatus::InvalidArgument;
    };
    with_ram(ram, |skips, bitmaps| body(skips, bitmaps, change))
}

/// Makes the account of what is left out, with target pages of 2^`page_shift` bytes, at most 2^31.
///
/// # Safety
///
/// `ops` is NULL or valid, `out` NULL or writable. The callbacks can be called with `ops->opaque`
/// during every call below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_new(
    ops: *const VbrRamOps,
    page_shift: u32,
    out: *mut *mut VbrRam,
) -> VbrStatus {
    // SAFETY: NULL or valid by contract.
    let ops = unsafe { ops.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    guard(|| {
        let (Some(&ops), Ok(out), ..32) = (ops, out, page_shift) else {
            return VbrStatus::InvalidArgument;
        };
        let skips = Guarded::new(Skips::new(page_shift));
        out.write(Box::into_raw(Box::new(VbrRam {
            ops,
            skips,
            left_out: RwLock::default(),
        })));
        VbrStatus::Ok
    })
}

/// Ends the account. NULL is allowed.
///
/// # Safety
///
/// `ram` is NULL or from `vbr_ram_new` and not freed, no call is inside, and it is not used
/// afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_free(ram: *mut VbrRam) {
    if ram.is_null() {
        return;
    }
    // SAFETY: from Box::into_raw in vbr_ram_new, and freed only once by contract.
    let ram = unsafe { Box::from_raw(ram) };
    contain(move || drop(ram));
}

/// A new migration: what was left out of the last one is forgotten.
///
/// # Safety
///
/// `ram` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_begin(ram: *mut VbrRam) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let ram = unsafe { ram.as_ref() };
    with_ram(ram, |skips, _| {
        if let Some(ram) = ram {
            let announced = std::mem::take(&mut *ram.left_out_mut());
            skips.free_later(announced.into_iter().map(|(_, set)| set));
        }
        skips.begin();
        Ok(())
    })
}

/// The dirty bitmaps were synchronized: a sweep begins, which `vbr_ram_sweep` does step by step.
/// Pages may be sent before it and between its steps, but the last pass waits for its end.
///
/// # Safety
///
/// `ram` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_synced(ram: *mut VbrRam) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let ram = unsafe { ram.as_ref() };
    with_ram(ram, |skips, _| {
        skips.synced();
        Ok(())
    })
}

/// Does a step of the sweep behind a synchronization; `more` says whether there is more to do. It
/// leaves out the pages that are in the balloon of `device`, and has those sent that were left out
/// before for that and are not in it any more; all of them if `device` is NULL, or broken. Called
/// under the device's lock, too.
///
/// When the guest stands still for the last synchronization, it has to be called until there is no
/// more to do. Before that, the rest of a sweep may come late.
///
/// # Safety
///
/// `ram` and `device` are NULL or live, `change` NULL or valid, `more` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_sweep(
    ram: *mut VbrRam,
    device: *const VbrDevice,
    change: *mut DirtyChange,
    more: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let ram = unsafe { ram.as_ref() };
    // SAFETY: NULL or live by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or valid by contract.
    let mut change = unsafe { change.as_mut() };
    // SAFETY: NULL or writable by contract.
    let Ok(more) = (unsafe { output(more) }) else {
        return VbrStatus::InvalidArgument;
    };
    let mut inner = VbrStatus::Ok;
    let outer = with_device(device, |balloon, _| {
        inner = with_change(ram, change.as_deref_mut(), |skips, bitmaps, change| {
            more.write(skips.sweep(bitmaps, balloon.left_out().as_ref(), change));
            Ok(())
        });
        Ok(())
    });
    match (inner, outer) {
        (VbrStatus::Ok, VbrStatus::Ok) => VbrStatus::Ok,
        (VbrStatus::Ok, _) => with_change(ram, change, |skips, bitmaps, change| {
            more.write(skips.sweep(bitmaps, None, change));
            Ok(())
        }),
        (broken, _) => broken,
    }
}

/// Arms the next slice of the dirty log of `block`; `more` says whether there may be more to do.
///
/// # Safety
///
/// `ram` is NULL or live, `more` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_arm(
    ram: *mut VbrRam,
    block: *mut c_void,
    which: Arm,
    more: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let ram = unsafe { ram.as_ref() };
    // SAFETY: NULL or writable by contract.
    let more = unsafe { output(more) };
    with_ram(ram, |skips, bitmaps| {
        more?.write(skips.arm(bitmaps, BlockId(block as usize), which));
        Ok(())
    })
}

/// Says that all that was armed so far was armed before hints of an epoch later than `epoch` were
/// posted:
/// 0 before the round is asked for, else what `vbr_hints_view` says after the arming.
///
/// # Safety
///
/// `ram` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_trust(ram: *mut VbrRam, epoch: u64) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let ram = unsafe { ram.as_ref() };
    with_ram(ram, |skips, _| {
        skips.trust(epoch);
        Ok(())
    })
}

/// Takes the hints that came and leaves their memory out. Called under the lock of `hints`, too, so
/// that no synchronization comes in between. `wanted` says whether chunks are to be armed for later
/// hints.
///
/// # Safety
///
/// `ram` and `hints` are NULL or live, `change` NULL or valid, `wanted` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_leave_out_hinted(
    ram: *mut VbrRam,
    hints: *mut VbrHints,
    change: *mut DirtyChange,
    wanted: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let ram = unsafe { ram.as_ref() };
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or valid by contract.
    let change = unsafe { change.as_mut() };
    // SAFETY: NULL or writable by contract.
    let wanted = unsafe { output(wanted) };
    let mut inner = VbrStatus::Ok;
    let outer = with_hints(hints, |hints| {
        let wanted = wanted?;
        inner = with_change(ram, change, |skips, bitmaps, change| {
            wanted.write(skips.leave_out_hinted(bitmaps, &hints.take(), change));
            Ok(())
        });
        Ok(())
    });
    if inner == VbrStatus::Ok { outer } else { inner }
}

/// Postcopy begins, and the sweep is done: what was left out of `block` becomes dirty again, and
/// when that is done `vbr_ram_is_left_out` says of which pages no content is needed. Does a step of
/// that; `more` says whether there is more to do.
///
/// # Safety
///
/// `ram` is NULL or live, `change` NULL or valid, `more` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_postcopy(
    ram: *mut VbrRam,
    block: *mut c_void,
    change: *mut DirtyChange,
    more: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let ram = unsafe { ram.as_ref() };
    // SAFETY: NULL or valid by contract.
    let change = unsafe { change.as_mut() };
    // SAFETY: NULL or writable by contract.
    let more = unsafe { output(more) };
    with_change(ram, change, |skips, bitmaps, change| {
        let (more, id) = (more?, BlockId(block as usize));
        let announced = skips.postcopy(bitmaps, id, change);
        more.write(matches!(announced, Announced::Part));
        if let (Announced::All(sets), Some(ram)) = (announced, ram) {
            let sets = sets.into_iter().map(|pages| (id, pages));
            ram.left_out_mut().extend(sets);
        }
        Ok(())
    })
}

/// Whether `page` of `block` was left out when postcopy began. May be called from any thread,
/// without the bitmap lock; false on any doubt.
///
/// # Safety
///
/// `ram` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_is_left_out(
    ram: *const VbrRam,
    block: *const c_void,
    page: u64,
) -> bool {
    // SAFETY: NULL or live by contract.
    let ram = unsafe { ram.as_ref() };
    let mut is_left_out = false;
    contain(|| {
        if let Some(ram) = ram {
            let left_out = ram.left_out.read().unwrap_or_else(PoisonError::into_inner);
            is_left_out = left_out
                .iter()
                .any(|(id, pages)| id.0 == block as usize && pages.contains_range(page..page + 1));
        }
    });
    is_left_out
}

/// What was left out.
///
/// # Safety
///
/// `ram` is NULL or live, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_ram_counters(ram: *const VbrRam, out: *mut SkipCounters) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let ram = unsafe { ram.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    with_ram(ram, |skips, _| {
        out?.write(skips.counters());
        Ok(())
    })
}
