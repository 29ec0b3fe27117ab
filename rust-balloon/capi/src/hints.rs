// SPDX-License-Identifier: GPL-2.0-or-later
//! Free page hints: the state of a round, and what the guest said in it.
//!
//! These functions may be called from several threads, one at a time: the caller has a lock for it.

use super::guard::{Guarded, VbrDevice, contain, guard, output, slice};
use super::requests::with_both;
use super::status::VbrStatus;
use balloon::error::Error;
use balloon::features::FreePageSource;
use balloon::memory::HostRange;
use balloon::queue::hint::{HintCounters, HintRecord, HintState, Hints};
use balloon::wire::ByteOrder;
use std::ffi::c_void;

/// The state of free page hints. Made by `vbr_hints_new`, ended by `vbr_hints_free`.
pub struct VbrHints {
    pub(super) inner: Guarded<Hints>,
}

/// What an operator and the guest see of the hints.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrHintView {
    /// Where the guest is asked.
    pub source: FreePageSource,
    /// Where the round is.
    pub state: HintState,
    /// The command in the configuration space.
    pub shown_id: u32,
    /// The number of the round that is wanted while the state is ARMING.
    pub wanted: u64,
    /// The last epoch that may have begun by now.
    pub epoch: u64,
    /// Whether the guest can be asked once the log is armed.
    pub can_ask: bool,
    /// Whether there are hints for `vbr_ram_leave_out_hinted` to take.
    pub has_pending: bool,
    /// How long the first pass may be held back, in milliseconds.
    pub window_ms: u32,
    /// What came of hints.
    pub counters: HintCounters,
}

/// What happens to the hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum VbrHintEvent {
    /// The device was reset.
    Reset = 2,
    /// A synchronization of the dirty bitmap is next.
    BeforeSync = 3,
    /// The dirty bitmap was synchronized, and the guest runs.
    AfterSync = 4,
    /// The dirty bitmap was synchronized, and the guest does not run.
    AfterSyncStopped = 5,
    /// The migration is over.
    Finished = 6,
    /// The queue was seen empty.
    QueueEmpty = 7,
}

pub(super) fn with_hints(
    hints: Option<&VbrHints>,
    body: impl FnOnce(&mut Hints) -> Result<(), Error>,
) -> VbrStatus {
    match hints {
        Some(hints) => hints.inner.enter(body),
        None => VbrStatus::InvalidArgument,
    }
}

/// Makes the state of free page hints of a device that no driver has seen yet.
///
/// # Safety
///
/// `out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_new(out: *mut *mut VbrHints) -> VbrStatus {
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    guard(|| {
        let Ok(out) = out else {
            return VbrStatus::InvalidArgument;
        };
        let inner = Guarded::new(Hints::default());
        out.write(Box::into_raw(Box::new(VbrHints { inner })));
        VbrStatus::Ok
    })
}

/// Ends the state of free page hints. NULL is allowed.
///
/// # Safety
///
/// `hints` is NULL or from `vbr_hints_new` and not freed, no call is inside, and it is not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_free(hints: *mut VbrHints) {
    if hints.is_null() {
        return;
    }
    // SAFETY: from Box::into_raw in vbr_hints_new, and freed only once by contract.
    let hints = unsafe { Box::from_raw(hints) };
    contain(move || drop(hints));
}

/// What there is to see of the hints.
///
/// # Safety
///
/// `hints` is NULL or live, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_view(
    hints: *const VbrHints,
    out: *mut VbrHintView,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    with_hints(hints, |hints| {
        out?.write(VbrHintView {
            source: hints.source(),
            state: hints.state(),
            shown_id: hints.shown_id(),
            wanted: hints.wanted(),
            epoch: hints.epoch(),
            can_ask: hints.can_ask(),
            has_pending: hints.has_pending(),
            window_ms: hints.window_ms(),
            counters: hints.counters(),
        });
        Ok(())
    })
}

/// Sets how long a migration's first pass may be held back for hints, in milliseconds; 0 for not at all.
///
/// # Safety
///
/// `hints` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_set_window(hints: *mut VbrHints, window_ms: u32) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    with_hints(hints, |hints| {
        hints.set_window_ms(window_ms);
        Ok(())
    })
}

/// Takes over what happened; a reset makes hints that broke anew. `changed` says whether the guest sees another command in its configuration
/// space now.
///
/// # Safety
///
/// `hints` is NULL or live, `changed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_event(
    hints: *mut VbrHints,
    event: VbrHintEvent,
    changed: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or writable by contract.
    let changed = unsafe { output(changed) };
    // Before hints that broke are made anew: a call with wrong arguments does nothing.
    let (Some(guarded), Ok(changed)) = (hints, changed) else {
        return VbrStatus::InvalidArgument;
    };
    let body = |hints: &mut Hints| {
        let before = hints.shown_id();
        match event {
            VbrHintEvent::Reset => hints.reset(),
            VbrHintEvent::BeforeSync => hints.before_sync(),
            VbrHintEvent::AfterSync => hints.after_sync(true),
            VbrHintEvent::AfterSyncStopped => hints.after_sync(false),
            VbrHintEvent::Finished => hints.finish(),
            VbrHintEvent::QueueEmpty => hints.queue_empty(),
        }
        changed.write(hints.shown_id() != before);
        Ok(())
    };
    match event {
        VbrHintEvent::Reset => guarded.inner.enter_mended(mend, body),
        _ => guarded.inner.enter(body),
    }
}

/// Puts new hints in the place of those that broke.
fn mend(hints: &mut Hints) {
    let broken = std::mem::take(hints);
    hints.inherit(&broken);
}

/// The dirty log was armed for round `wanted`: the guest is to be asked. `asked` says whether it is; not
/// so when the dirty bitmap was synchronized since, and not before the queue was seen empty twice since
/// this was called first: the first time may have been before that.
///
/// # Safety
///
/// `hints` is NULL or live, `asked` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_request(
    hints: *mut VbrHints,
    wanted: u64,
    asked: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or writable by contract.
    let asked = unsafe { output(asked) };
    with_hints(hints, |hints| {
        asked?.write(hints.request(wanted));
        Ok(())
    })
}

/// Takes over the first bytes of a device-readable buffer of the hint queue, at most 8 of them; `changed`
/// says whether the guest sees another command now.
///
/// # Safety
///
/// `hints` is NULL or live, `payload` NULL or valid for `len`, `changed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_receive_id(
    hints: *mut VbrHints,
    payload: *const u8,
    len: usize,
    big_endian: bool,
    changed: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or valid for `len` by contract.
    let payload = unsafe { slice(payload, len) };
    // SAFETY: NULL or writable by contract.
    let changed = unsafe { output(changed) };
    with_hints(hints, |hints| {
        let (payload, changed) = (payload?, changed?);
        let order = if big_endian {
            ByteOrder::Big
        } else {
            ByteOrder::Little
        };
        let before = hints.shown_id();
        hints.receive_id(payload, order);
        changed.write(hints.shown_id() != before);
        Ok(())
    })
}

/// Takes over a device-writable segment of the hint queue: `bytes` bytes of free memory at `host`, which
/// is never followed. Only what is guest RAM to `device` counts.
///
/// # Safety
///
/// `hints` is NULL or live, `device` NULL or a live device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_receive(
    hints: *mut VbrHints,
    device: *const VbrDevice,
    host: *const c_void,
    bytes: u64,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    with_both(hints, device, |hints, balloon| {
        let host = host as usize;
        balloon.receive_hint(hints, HostRange { host, bytes });
        Ok(())
    })
}

/// Memory was unmapped, or other memory is where it was: hints that were not taken yet are dropped,
/// as their addresses may mean something else now.
///
/// # Safety
///
/// `hints` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_memory_changed(hints: *mut VbrHints) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    with_hints(hints, |hints| {
        hints.drop_pending();
        Ok(())
    })
}

/// How long the pass over RAM that is about to begin is to wait for hints, in milliseconds; 0 when it is
/// to go on. `now_ms` comes from a clock that does not go back; `left_out` bytes were left out so far;
/// `bandwidth` is the link's in bytes per second, 0 for unlimited.
///
/// # Safety
///
/// `hints` is NULL or live, `wait_ms` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_hold(
    hints: *mut VbrHints,
    now_ms: u64,
    left_out: u64,
    bandwidth: u64,
    wait_ms: *mut u64,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or writable by contract.
    let wait_ms = unsafe { output(wait_ms) };
    with_hints(hints, |hints| {
        wait_ms?.write(hints.hold_ms(now_ms, left_out, bandwidth));
        Ok(())
    })
}

/// What a migration stream is to carry.
///
/// # Safety
///
/// `hints` is NULL or live, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_save(hints: *const VbrHints, out: *mut HintRecord) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    with_hints(hints, |hints| {
        out?.write(hints.save());
        Ok(())
    })
}

/// What it is to carry where the hints broke: the guest has its pages back, and may owe an answer.
///
/// # Safety
///
/// `hints` is NULL or live, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_save_broken(
    hints: *const VbrHints,
    out: *mut HintRecord,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    let Some(hints) = hints else {
        return VbrStatus::InvalidArgument;
    };
    hints.inner.look_at_broken(|hints| {
        out?.write(hints.save_broken());
        Ok(())
    })
}

/// Goes on from what a migration stream carried, after `vbr_hints_negotiated`; `STATE_HINTS` when
/// no device can have saved it, and nothing has changed then.
///
/// # Safety
///
/// `hints` is NULL or live, `record` NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_hints_load(
    hints: *mut VbrHints,
    record: *const HintRecord,
) -> VbrStatus {
    // SAFETY: NULL or live by contract.
    let hints = unsafe { hints.as_ref() };
    // SAFETY: NULL or valid by contract.
    let record = unsafe { record.as_ref() };
    with_hints(hints, |hints| {
        hints.load(*record.ok_or(Error::InvalidArgument)?)
    })
}
