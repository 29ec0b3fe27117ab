// SPDX-License-Identifier: GPL-2.0-or-later
//! What a panic in the device, in the hints, in the account of what a migration leaves out, or in
//! the dirty list costs: that, and no more.

use super::config::*;
use super::dirty::*;
use super::features::vbr_device_set_features;
use super::guard::{Guarded, VbrDevice, with_device};
use super::hints::*;
use super::host_ops::VbrHostOps;
use super::ram::*;
use super::requests::*;
use super::state::*;
use super::status::VbrStatus;
use balloon::device::Options;
use balloon::features::{Features, FreePageSource};
use balloon::migration::arming::Arm;
use balloon::migration::skips::{DirtyChange, SkipCounters};
use balloon::queue::hint::{HintRecord, HintState, Hints};
use balloon::state::State;
use dirty_pages::{DirtyIndices, DirtyOptions, VERSION};
use std::ptr::{null, null_mut, without_provenance_mut};

const SOURCE: FreePageSource = FreePageSource::HostRequest;
/// What outputs hold before a call, and after one that fails.
const CHANGE: DirtyChange = DirtyChange { cleared: 5, set: 6 };

/// Calls with pointers that are valid or NULL, all of which answer `$expected`.
macro_rules! all {
    ($expected:ident: $($call:expr,)*) => {
        $(
            // SAFETY: all pointers are NULL, or to locals and live handles of the right kind.
            assert_eq!(unsafe { $call }, VbrStatus::$expected, "{}", stringify!($call));
        )*
    };
}

fn hints() -> VbrHints {
    let mut hints = Hints::default();
    hints.set_source(SOURCE);
    VbrHints {
        inner: Guarded::new(hints),
    }
}

fn device() -> VbrDevice {
    let ops = VbrHostOps {
        opaque: null_mut(),
        discard: None,
        drop_private: None,
        free: None,
        populate: None,
    };
    let options = Options {
        features: Features::all(),
        ..Options::default()
    };
    let device = VbrDevice::new(options, ops);
    let source = Features::HOST_REQUEST.bits();
    all!(Ok: vbr_device_set_features(at(&device), source, false),);
    device
}

/// Where C has it.
fn at<T>(handle: &T) -> *mut T {
    (&raw const *handle).cast_mut()
}

/// An account of a host that migrates nothing.
fn ram() -> *mut VbrRam {
    let ops = VbrRamOps {
        opaque: null_mut(),
        view: None,
        find: None,
        arm: None,
    };
    let mut ram = null_mut();
    all!(Ok: vbr_ram_new(&ops, 12, &mut ram),);
    ram
}

/// A request in flight, after which the hints panic.
fn broken_hints() -> VbrHints {
    let hints = hints();
    let status = hints.inner.enter(|hints| {
        hints.receive_buffer(SOURCE);
        hints.after_sync(true);
        let wanted = hints.wanted();
        while !hints.request(wanted) {
            hints.queue_empty();
        }
        hints.take_request(SOURCE).expect("a request");
        panic!("a panic was asked for")
    });
    assert_eq!(status, VbrStatus::Broken);
    hints
}

/// What broke may panic once more when it is made anew, or dropped.
#[test]
fn a_mending_that_panics_leaves_it_broken() {
    let guarded = Guarded::new(1);
    let status = guarded.enter(|_| panic!("a panic was asked for"));
    assert_eq!(status, VbrStatus::Broken);
    let mend = |_: &mut i32| panic!("another panic was asked for");
    assert_eq!(guarded.enter_mended(mend, |_| Ok(())), VbrStatus::Broken);
    assert_eq!(guarded.enter(|_| Ok(())), VbrStatus::Broken);
    let body = |inner: &mut i32| {
        assert_eq!(*inner, 2);
        Ok(())
    };
    assert_eq!(guarded.enter_mended(|i| *i = 2, body), VbrStatus::Ok);
    assert_eq!(guarded.enter(body), VbrStatus::Ok);
}

#[test]
fn broken_hints_answer_nothing_but_a_reset() {
    let (hints, device, ram) = (broken_hints(), device(), ram());
    let (mut flag, mut wait, mut len) = (true, 77u64, 77usize);
    let (mut change, mut bytes) = (CHANGE, [7u8; VBR_REQUEST_MAX_BYTES]);
    let mut record = HintRecord::default();
    let mut view = std::mem::MaybeUninit::<VbrHintView>::uninit();
    let payload = [7u8; 8];
    let answer = VbrAnswer {
        payload: payload.as_ptr(),
        len: 8,
        total: 8,
        first: true,
        last: true,
    };
    let h = at(&hints);
    all! {
        Broken:
        vbr_hints_view(h, view.as_mut_ptr()),
        vbr_hints_set_window(h, 5),
        vbr_hints_event(h, VbrHintEvent::BeforeSync, &mut flag),
        vbr_hints_event(h, VbrHintEvent::AfterSync, &mut flag),
        vbr_hints_event(h, VbrHintEvent::AfterSyncStopped, &mut flag),
        vbr_hints_event(h, VbrHintEvent::Finished, &mut flag),
        vbr_hints_event(h, VbrHintEvent::QueueEmpty, &mut flag),
        vbr_hints_request(h, 1, &mut flag),
        vbr_hints_receive_id(h, bytes.as_ptr(), 4, false, &mut flag),
        vbr_hints_receive(h, at(&device), bytes.as_ptr().cast(), 4096),
        vbr_hints_memory_changed(h),
        vbr_hints_hold(h, 1, 2, 3, &mut wait),
        vbr_hints_save(h, &mut record),
        vbr_hints_load(h, &record),
        vbr_hints_negotiated(h, at(&device), &mut flag),
        vbr_request_buffer(h, at(&device), SOURCE, 16, false, &mut flag),
        vbr_request_buffer(h, at(&device), SOURCE, 1, false, &mut flag),
        vbr_request_lost(h, SOURCE),
        vbr_request_queue_reset(h, SOURCE),
        vbr_request_take(h, SOURCE, bytes.as_mut_ptr(), &mut len),
        vbr_request_answer(h, at(&device), SOURCE, &answer),
        vbr_request_give_up_answer(h, at(&device)),
        vbr_ram_leave_out_hinted(ram, h, &mut change, &mut flag),
    }
    assert!(flag);
    assert_eq!((wait, len, bytes), (77, 77, [7; 16]));
    assert_eq!((change, record), (CHANGE, HintRecord::default()));
    // The device and the account are as good as before.
    let mut skips = SkipCounters::default();
    all! {
        Ok:
        vbr_ram_begin(ram),
        vbr_ram_counters(ram, &mut skips),
        super::features::vbr_device_features(at(&device), &mut wait),
    }
    // SAFETY: from vbr_ram_new, and not used any more.
    unsafe { vbr_ram_free(ram) };
}

/// What a device that broke saves is what another one loads, whatever it broke in.
#[test]
fn the_state_of_a_broken_device_can_be_loaded() {
    const FOUNDING: Features = Features::PAGE_RANGE.union(Features::HOST_REQUEST);
    let accepted = (Features::MUST_TELL_HOST | FOUNDING).bits();
    let device = device();
    let (mut pages, mut changed) = (0, false);
    let image = [0, 0, 0, 0, 7, 0, 0, 0];
    all! {
        Ok:
        vbr_target_set(at(&device), 3 << 20, 4 << 20, &mut pages),
        vbr_config_write(at(&device), image.as_ptr(), image.len(), &mut changed),
    }
    // It does not even know what the driver accepts.
    let status = with_device(Some(&device), |_, _| panic!("a panic was asked for"));
    assert_eq!(status, VbrStatus::Broken);
    let mut state = std::mem::MaybeUninit::<State>::uninit();
    let out = state.as_mut_ptr();
    all! {
        Broken:
        vbr_device_set_features(at(&device), accepted, false),
        vbr_state_save(at(&device), 5, out),
    }
    all!(Ok: vbr_state_save_broken(at(&device), accepted, false, 5, out),);
    // SAFETY: written, as the status says.
    let state = unsafe { state.assume_init() };
    assert_eq!(
        (state.num_pages, state.actual, state.poison_val),
        (256, 7, 0)
    );
    assert_eq!(state.founding, FOUNDING.bits());
    assert_eq!(state.stats_polling_interval, 5);
    let to = self::device();
    all! {
        Ok:
        vbr_device_set_features(at(&to), accepted, false),
        vbr_ram_set(at(&to), 4 << 20, &mut changed),
        vbr_state_load(at(&to), &state, null(), 4 << 20),
    }
    all!(Broken: vbr_state_save(at(&device), 5, &mut { state }),);
    // By these bits a legacy driver speaks nothing of the kind.
    let mut legacy = state;
    all!(Ok: vbr_state_save_broken(at(&device), accepted, true, 5, &mut legacy),);
    assert_eq!(legacy.founding, 0);
}

/// The other end waits for an answer that may be on its way, and a guest that hints has its pages
/// back.
#[test]
fn the_record_of_broken_hints_can_be_loaded() {
    for source in [
        SOURCE,
        FreePageSource::MiscQueue,
        FreePageSource::FreePageHint,
    ] {
        let broken = hints();
        let status = broken.inner.enter(|hints| {
            hints.set_source(source);
            panic!("a panic was asked for")
        });
        assert_eq!(status, VbrStatus::Broken);
        let mut record = HintRecord::default();
        all! {
            Broken: vbr_hints_save(at(&broken), &mut record),
        }
        all! {
            Ok: vbr_hints_save_broken(at(&broken), &mut record),
        }
        let to = hints();
        let status = to.inner.enter(|hints| {
            hints.set_source(source);
            hints.load(record)?;
            hints.after_sync(true);
            hints.receive_buffer(source);
            assert_eq!(hints.can_ask(), source == FreePageSource::FreePageHint);
            Ok(())
        });
        assert_eq!(status, VbrStatus::Ok, "{source:?}");
    }
}

/// They keep no more than what a driver may still remember, and what was counted.
#[test]
fn a_reset_makes_hints_anew() {
    let hints = broken_hints();
    let (h, mut flag) = (at(&hints), true);
    all!(Ok: vbr_hints_event(h, VbrHintEvent::Reset, &mut flag),);
    assert!(!flag, "the guest sees the same command");
    let mended = hints.inner.enter(|hints| {
        assert_eq!(hints.state(), HintState::Off);
        assert_eq!(hints.source(), FreePageSource::None);
        assert_eq!(hints.counters().rounds, 1);
        assert_eq!(
            hints.wanted(),
            1,
            "the log may still be armed for that round"
        );
        hints.set_source(SOURCE);
        hints.receive_buffer(SOURCE);
        assert!(hints.can_ask(), "the next driver owes nothing");
        hints.after_sync(true);
        let wanted = hints.wanted();
        while !hints.request(wanted) {
            hints.queue_empty();
        }
        let id = hints.take_request(SOURCE).expect("a request");
        assert_eq!(id, 0x8000_0002, "an id is not used again");
        Ok(())
    });
    assert_eq!(mended, VbrStatus::Ok);
}

/// Whoever has it makes a new one: it is not known any more what was left out.
#[test]
fn a_broken_account_answers_nothing() {
    let (ram, hints, device) = (ram(), hints(), device());
    // SAFETY: from vbr_ram_new and not freed.
    let skips = unsafe { &(*ram).skips };
    assert_eq!(
        skips.enter(|_| panic!("a panic was asked for")),
        VbrStatus::Broken
    );
    let block = without_provenance_mut(8);
    let (mut change, mut flag, mut counters) = (CHANGE, true, SkipCounters::default());
    counters.hint_left_out_bytes = 9;
    all! {
        Broken:
        vbr_ram_begin(ram),
        vbr_ram_synced(ram),
        vbr_ram_sweep(ram, at(&device), &mut change, &mut flag),
        vbr_ram_sweep(ram, null_mut(), &mut change, &mut flag),
        vbr_ram_arm(ram, block, Arm::All, &mut flag),
        vbr_ram_trust(ram, 0),
        vbr_ram_leave_out_hinted(ram, at(&hints), &mut change, &mut flag),
        vbr_ram_postcopy(ram, block, &mut change, &mut flag),
        vbr_ram_counters(ram, &mut counters),
    }
    assert_eq!(
        (change, flag, counters.hint_left_out_bytes),
        (CHANGE, true, 9)
    );
    // SAFETY: as above.
    assert!(!unsafe { vbr_ram_is_left_out(ram, block, 0) });
    // Hints that could not be taken are there for the next one, and the device is of use.
    let mut features = 0;
    all! {
        Ok:
        super::features::vbr_device_features(at(&device), &mut features),
        vbr_hints_set_window(at(&hints), 5),
    }
    // SAFETY: from vbr_ram_new, and not used any more.
    unsafe { vbr_ram_free(ram) };
}

/// The migration takes it for what it is, and sends all pages again; writers are not kept up.
#[test]
fn a_broken_list_answers_nothing() {
    let options = DirtyOptions {
        version: VERSION,
        no_dups: false,
        max_dirty: 1,
        dirty_trigger: 0,
        vcpus: 1,
    };
    let (mut list, mut flag, mut page, mut count) = (null_mut(), true, 55, 77);
    let mut indices = DirtyIndices::default();
    all! {
        Ok:
        vbr_dirty_new(&options, &mut list),
        vbr_dirty_start(list),
    }
    // SAFETY: from vbr_dirty_new and not freed.
    let status = with_list(unsafe { list.as_ref() }, |_| {
        panic!("a panic was asked for")
    });
    assert_eq!(status, VbrStatus::Broken);
    all! {
        Broken:
        vbr_dirty_start(list),
        vbr_dirty_stop(list),
        vbr_dirty_note(list, 0, 1, 1, &mut flag),
        vbr_dirty_fetch(list, &mut page, 1, &mut count),
        vbr_dirty_reset(list, &mut flag),
        vbr_dirty_indices(list, &mut indices),
        vbr_dirty_sync_begin(list, &mut flag),
        vbr_dirty_sync_fetch(list, &mut page, 1, &mut count),
        vbr_dirty_sync_end(list),
    }
    assert_eq!((flag, page, count), (true, 55, 77));
    assert_eq!(indices, DirtyIndices::default());
    // SAFETY: as above.
    assert!(!unsafe { vbr_dirty_is_active(list) });
    // Another one can take its place.
    all! {
        Ok:
        vbr_dirty_free(list, false),
        vbr_dirty_new(&options, &mut list),
        vbr_dirty_free(list, false),
    }
}
