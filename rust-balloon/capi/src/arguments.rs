// SPDX-License-Identifier: GPL-2.0-or-later
//! A call that no correct caller makes changes nothing, whatever was done before.
//!
//! `tests/abi` offers NULL for every pointer. Here are pointers that are not aligned, lengths that
//! cannot be, and calls that come in the wrong order, in the middle of each kind of work.

/// A call with pointers that are valid; or NULL, not aligned, or too short for any length, each of
/// which the function says that it refuses.
macro_rules! call {
    ($call:expr) => {
        // SAFETY: as above.
        unsafe { $call }
    };
}

mod world;

use super::batch::*;
use super::config::*;
use super::device::*;
use super::features::*;
use super::hints::*;
use super::requests::*;
use super::state::*;
use super::stats::*;
use super::status::VbrStatus;
use balloon::features::{FreePageSource, QueueKind};
use balloon::host::Inhibit;
use balloon::queue::held::Flush;
use balloon::queue::hint::HintRecord;
use balloon::state::State;
use proptest::prelude::*;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut, without_provenance};

use world::{RAM, World, part, stats, step};

/// What a caller may write to, and nobody does. A call may have several pointers into it.
struct Place(Box<UnsafeCell<[u64; 64]>>);

impl Place {
    fn new() -> Place {
        Place(Box::new(UnsafeCell::new([0x5555_5555_5555_5555; 64])))
    }

    fn unaligned<T>(&self) -> *mut T {
        self.0.get().wrapping_byte_add(1).cast()
    }

    fn is_untouched(&mut self) -> bool {
        self.0
            .get_mut()
            .iter()
            .all(|word| *word == 0x5555_5555_5555_5555)
    }
}

impl World {
    /// Calls that nobody should make, each with what is wrong.
    fn wrong(&self, place: &Place) -> Vec<(&'static str, VbrStatus)> {
        let (device, hints) = (self.device, self.hints);
        let bytes = [0u8; 64];
        let too_long = isize::MAX as usize + 1;
        let (mut flag, mut len, mut view) = (false, 0usize, self.view());
        let good = part(&bytes[..4], 4, true);
        let room = self
            .room(QueueKind::Inflate)
            .max(self.room(QueueKind::Deflate));
        let more = vec![0u8; room + 1];
        let mut state = MaybeUninit::uninit();
        assert_eq!(
            call!(vbr_state_save(device, 0, state.as_mut_ptr())),
            VbrStatus::Ok
        );
        // SAFETY: written, as the status says.
        let state: State = unsafe { state.assume_init() };
        let beyond = State {
            num_pages: u32::MAX,
            ..state
        };
        let interval = State {
            stats_polling_interval: -1,
            has_stats: true,
            ..state
        };
        let coded = VbrSavedPages {
            coded: bytes.as_ptr(),
            len: 63,
            complete: true,
        };
        let endless = VbrSavedPages {
            len: too_long,
            ..coded
        };
        let record = HintRecord {
            cmd_id: 1,
            status: 0,
        };
        view.source = FreePageSource::HostRequest;
        let answer = VbrAnswer {
            payload: bytes.as_ptr(),
            len: too_long,
            total: 8,
            first: true,
            last: true,
        };
        let nothing: *const u8 = null();
        macro_rules! table {
            ($($call:expr,)*) => { vec![$((stringify!($call), call!($call)),)*] };
        }
        table! {
            // Outputs that are not aligned.
            vbr_batch_room(device, QueueKind::Inflate, place.unaligned()),
            vbr_held_bytes(device, place.unaligned()),
            vbr_config_size(device, place.unaligned()),
            vbr_target_set(device, 0, RAM, place.unaligned()),
            vbr_actual_get(device, RAM, place.unaligned()),
            vbr_target_get(device, place.unaligned()),
            vbr_device_counters(device, RAM, place.unaligned()),
            vbr_device_features(device, place.unaligned()),
            vbr_device_reporting_advice(device, place.unaligned()),
            vbr_state_save(device, 0, place.unaligned()),
            vbr_state_save_broken(device, 0, false, 0, place.unaligned()),
            vbr_state_save_pages(device, more.as_ptr().cast_mut(), 0, place.unaligned(), &mut flag),
            vbr_stats_get(device, place.unaligned()),
            vbr_hints_view(hints, place.unaligned()),
            vbr_hints_hold(hints, 1, 2, 3, place.unaligned()),
            vbr_hints_save(hints, place.unaligned()),
            vbr_hints_save_broken(hints, place.unaligned()),
            vbr_request_take(hints, view.source, place.unaligned(), place.unaligned()),
            // No place for the answer.
            vbr_device_reset(device, null_mut()),
            vbr_hints_event(hints, VbrHintEvent::Reset, null_mut()),
            vbr_hints_event(hints, VbrHintEvent::AfterSync, null_mut()),
            vbr_hints_request(hints, view.wanted, null_mut()),
            vbr_hints_negotiated(hints, device, null_mut()),
            vbr_batch_run(device, Inhibit::No, null_mut()),
            vbr_held_flush(device, Flush::All, Inhibit::No, null_mut()),
            vbr_owed_bytes(device, null_mut()),
            vbr_ram_set(device, RAM / 2, null_mut()),
            vbr_owed_discard(device, Inhibit::No, null_mut()),
            vbr_config_write(device, bytes.as_ptr(), 16, null_mut()),
            vbr_request_buffer(hints, device, view.source, 16, false, null_mut()),
            vbr_request_take(hints, view.source, place.unaligned(), null_mut()),
            // Lengths that cannot be.
            vbr_batch_add(device, QueueKind::Inflate, &VbrPart { len: too_long, ..good }),
            vbr_batch_add(device, QueueKind::Deflate, &VbrPart { payload: nothing, ..good }),
            vbr_batch_add_report(device, without_provenance(8), too_long, 0),
            vbr_batch_add_report(device, without_provenance(1), 1, 0),
            vbr_config_write(device, bytes.as_ptr(), too_long, &mut flag),
            vbr_config_read(device, 0, null_mut(), 16),
            vbr_state_save_pages(device, null_mut(), 8, &mut len, &mut flag),
            vbr_hints_receive_id(hints, bytes.as_ptr(), too_long, false, &mut flag),
            vbr_stats_receive(device, &VbrStatsBuffer { payload_len: too_long, ..stats(&bytes) }),
            vbr_request_answer(hints, device, view.source, &answer),
            vbr_state_load(device, &state, &endless, RAM),
            // More than there is room for, and queues that have no such requests.
            vbr_batch_add(device, QueueKind::Inflate, &part(&more, 1 << 20, false)),
            vbr_batch_add(device, QueueKind::Deflate, &part(&more, 1 << 20, true)),
            vbr_batch_add(device, QueueKind::Reporting, &good),
            vbr_batch_add(device, QueueKind::Misc, &good),
            // What no device has saved.
            vbr_state_load(device, &beyond, null(), RAM),
            vbr_state_load(device, &interval, null(), RAM),
            vbr_state_load(device, &State { founding: 1, ..state }, null(), RAM),
            vbr_state_load(device, &state, &coded, RAM),
            vbr_hints_load(hints, &record),
            vbr_hints_load(hints, &HintRecord { cmd_id: u32::MAX, status: 4 }),
            // Half of the two.
            vbr_request_give_up_answer(null_mut(), device),
            vbr_request_give_up_answer(hints, null_mut()),
            vbr_request_buffer(null_mut(), device, view.source, 1, false, &mut flag),
            vbr_request_buffer(hints, null_mut(), view.source, 16, false, &mut flag),
        }
        .into_iter()
        .chain(self.wrong_order(&good))
        .collect()
    }

    /// Requests of a queue that has no room: the batch is another queue's, or in work, or a message
    /// of another queue was begun.
    fn wrong_order(&self, good: &VbrPart) -> Vec<(&'static str, VbrStatus)> {
        let mut wrong = Vec::new();
        for queue in [QueueKind::Inflate, QueueKind::Deflate] {
            if self.room(queue) == 0 {
                let status = call!(vbr_batch_add(self.device, queue, good));
                wrong.push(("a request where there is no room", status));
            }
        }
        if self.room(QueueKind::Reporting) == 0 {
            let status = call!(vbr_batch_add_report(self.device, null(), 0, 0));
            wrong.push(("a report where there is no room", status));
        }
        wrong
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wrong_calls_change_nothing(steps in prop::collection::vec(step(), 0..40)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        let before = world.look();
        let mut place = Place::new();
        for (call, status) in world.wrong(&place) {
            prop_assert_ne!(status, VbrStatus::Ok, "{}", call);
            prop_assert_ne!(status, VbrStatus::Broken, "{}", call);
        }
        prop_assert!(place.is_untouched());
        prop_assert_eq!(world.look(), before);
    }
}

/// Broken hints stay so, until they are reset in earnest.
#[test]
fn a_reset_without_a_place_for_its_answer_mends_nothing() {
    let world = World::new();
    // SAFETY: from vbr_hints_new and not freed.
    let hints = unsafe { &(*world.hints).inner };
    assert_eq!(
        hints.enter(|_| panic!("a panic was asked for")),
        VbrStatus::Broken
    );
    let reset = |out| call!(vbr_hints_event(world.hints, VbrHintEvent::Reset, out));
    assert_eq!(reset(null_mut()), VbrStatus::InvalidArgument);
    assert_eq!(
        call!(vbr_hints_set_window(world.hints, 5)),
        VbrStatus::Broken
    );
    let mut changed = false;
    assert_eq!(reset(&mut changed), VbrStatus::Ok);
    assert_eq!(call!(vbr_hints_set_window(world.hints, 5)), VbrStatus::Ok);
}
