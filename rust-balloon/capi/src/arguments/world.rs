// SPDX-License-Identifier: GPL-2.0-or-later
//! A device and its hints, what a correct caller does with them, and all that can be seen of them.

use crate::batch::*;
use crate::config::*;
use crate::device::*;
use crate::features::*;
use crate::guard::VbrDevice;
use crate::hints::*;
use crate::host_ops::VbrHostOps;
use crate::requests::*;
use crate::state::*;
use crate::stats::*;
use crate::status::VbrStatus;
use balloon::counters::Counters;
use balloon::features::{Features, Numbering, QueueKind};
use balloon::host::Inhibit;
use balloon::memory::{BackingFile, Owner};
use balloon::queue::Advice;
use balloon::queue::held::Flush;
use balloon::queue::hint::HintRecord;
use balloon::state::State;
use proptest::prelude::*;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::{null_mut, without_provenance, without_provenance_mut};

const PAGE: u64 = 4096;
pub(super) const RAM: u64 = 4096 * PAGE;
const HOST: usize = 1 << 40;
const QUEUES: [QueueKind; 7] = [
    QueueKind::Inflate,
    QueueKind::Deflate,
    QueueKind::Stats,
    QueueKind::Reporting,
    QueueKind::Hint,
    QueueKind::HostRequest,
    QueueKind::Misc,
];

pub(super) struct World {
    pub(super) device: *mut VbrDevice,
    pub(super) hints: *mut VbrHints,
}

impl Drop for World {
    fn drop(&mut self) {
        call!(vbr_device_free(self.device));
        call!(vbr_hints_free(self.hints));
    }
}

/// What a correct caller does.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Add(QueueKind, u32, bool),
    Report(u64),
    Run(Inhibit),
    Flush(Flush),
    Cancel,
    Abandon,
    Features(bool, bool),
    Config([u8; 16]),
    Target(u64),
    Unplug(u64),
    Stats(u8),
    Hints(VbrHintEvent),
    Hint(u64),
    Buffer,
    Reset,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let queue = prop_oneof![Just(QueueKind::Inflate), Just(QueueKind::Deflate)];
    let inhibit = prop_oneof![3 => Just(Inhibit::No), 1 => Just(Inhibit::Pinned)];
    let event = prop_oneof![
        Just(VbrHintEvent::BeforeSync),
        Just(VbrHintEvent::AfterSync),
        Just(VbrHintEvent::QueueEmpty),
        Just(VbrHintEvent::Finished),
    ];
    prop_oneof![
        6 => (queue, 0..4096u32, any::<bool>()).prop_map(|(queue, page, end)| Step::Add(queue, page, end)),
        2 => (0..4096u64).prop_map(Step::Report),
        4 => inhibit.prop_map(Step::Run),
        1 => prop_oneof![Just(Flush::Aged), Just(Flush::All)].prop_map(Step::Flush),
        1 => prop_oneof![Just(Step::Cancel), Just(Step::Abandon)],
        1 => (any::<bool>(), any::<bool>()).prop_map(|(told, ranges)| Step::Features(told, ranges)),
        1 => any::<[u8; 16]>().prop_map(Step::Config),
        1 => (0..RAM).prop_map(Step::Target),
        1 => (0..RAM).prop_map(Step::Unplug),
        1 => any::<u8>().prop_map(Step::Stats),
        3 => event.prop_map(Step::Hints),
        1 => (0..RAM).prop_map(Step::Hint),
        1 => Just(Step::Buffer),
        1 => Just(Step::Reset),
    ]
}

fn section() -> VbrSection {
    VbrSection {
        gpa: 0,
        bytes: RAM,
        block: without_provenance_mut(8),
        offset: 0,
        page_size: PAGE,
        host: without_provenance(HOST),
        host_page_size: PAGE,
        owner: Owner::Machine,
        file: BackingFile::None,
        read_only: false,
        nonvolatile: false,
        shared: false,
        guest_memfd: false,
        locked: false,
    }
}

pub(super) fn part(payload: &[u8], total: u64, last: bool) -> VbrPart {
    VbrPart {
        payload: payload.as_ptr(),
        len: payload.len(),
        total,
        big_endian: false,
        last,
        descriptors: 1,
        writable: 0,
    }
}

/// A message of one range, cut in its middle unless it is to be whole.
fn message(page: u32) -> [u8; 16] {
    let mut message = [0; 16];
    message[4] = 8;
    message[8..].copy_from_slice(&(u64::from(page) << 12 | 1).to_le_bytes());
    message
}

/// What does not go in this order is refused, and that is no matter here.
fn may_fail(_: VbrStatus) {}

impl World {
    pub(super) fn new() -> World {
        let options = VbrOptions {
            features: Features::all().bits(),
            numbering: Numbering::Private,
            reporting_advice: Advice::Discard,
            hold_bytes: 1 << 20,
            qemu_4_0_config_size: false,
        };
        let ops = VbrHostOps {
            opaque: null_mut(),
            discard: None,
            drop_private: None,
            free: None,
            populate: None,
        };
        let (mut device, mut hints) = (null_mut(), null_mut());
        assert_eq!(
            call!(vbr_device_new(&options, &ops, &mut device)),
            VbrStatus::Ok
        );
        assert_eq!(call!(vbr_hints_new(&mut hints)), VbrStatus::Ok);
        let mut world = World { device, hints };
        assert_eq!(
            call!(vbr_device_set_memory(device, &section(), 1)),
            VbrStatus::Ok
        );
        world.step(&Step::Features(true, true));
        world
    }

    /// Does it, if it goes in this order.
    pub(super) fn step(&mut self, step: &Step) {
        let (device, hints) = (self.device, self.hints);
        let mut flag = false;
        match *step {
            Step::Add(queue, page, end) => {
                let message = message(page);
                let payload = if end { &message[..] } else { &message[..12] };
                may_fail(call!(vbr_batch_add(device, queue, &part(payload, 16, end))));
            }
            Step::Report(page) => {
                let segment = VbrReported {
                    host: without_provenance(HOST + (page * PAGE) as usize),
                    bytes: PAGE,
                };
                may_fail(call!(vbr_batch_add_report(device, &segment, 1, 0)));
            }
            Step::Run(inhibit) => {
                may_fail(call!(vbr_batch_run(device, inhibit, &mut flag)));
            }
            Step::Flush(flush) => {
                may_fail(call!(vbr_held_flush(device, flush, Inhibit::No, &mut flag)));
            }
            Step::Cancel => {
                may_fail(call!(vbr_batch_cancel(device)));
            }
            Step::Abandon => {
                may_fail(call!(vbr_batch_abandon(device)));
            }
            Step::Features(told, ranges) => {
                let mut features = Features::all().difference(Features::BALLOON_CHUNKS);
                features.set(Features::MUST_TELL_HOST, told);
                features.set(Features::PAGE_RANGE, ranges);
                features.set(Features::FREE_PAGE_HINT, told);
                may_fail(call!(vbr_device_set_features(
                    device,
                    features.bits(),
                    false
                )));
                may_fail(call!(vbr_hints_negotiated(hints, device, &mut flag)));
            }
            Step::Config(image) => {
                may_fail(call!(vbr_config_write(
                    device,
                    image.as_ptr(),
                    16,
                    &mut flag
                )));
            }
            Step::Target(target) => {
                may_fail(call!(vbr_target_set(device, target, RAM, &mut 0)));
            }
            Step::Unplug(gpa) => {
                may_fail(call!(vbr_memory_unplug(device, gpa, PAGE)));
                may_fail(call!(vbr_memory_plug(device, gpa, PAGE)));
            }
            Step::Stats(value) => {
                let payload = [4, 0, value, 0, 0, 0, 0, 0, 0, 0];
                may_fail(call!(vbr_stats_receive(device, &stats(&payload))));
            }
            Step::Hints(event) => {
                may_fail(call!(vbr_hints_event(hints, event, &mut flag)));
                let wanted = self.view().wanted;
                may_fail(call!(vbr_hints_request(hints, wanted, &mut flag)));
                let id = self.view().shown_id.to_le_bytes();
                may_fail(call!(vbr_hints_receive_id(
                    hints,
                    id.as_ptr(),
                    4,
                    false,
                    &mut flag
                )));
            }
            Step::Hint(offset) => {
                let host = without_provenance(HOST + offset as usize);
                may_fail(call!(vbr_hints_receive(hints, device, host, PAGE)));
            }
            Step::Buffer => {
                let source = self.view().source;
                may_fail(call!(vbr_request_buffer(
                    hints, device, source, 16, false, &mut flag
                )));
            }
            Step::Reset => {
                may_fail(call!(vbr_device_reset(device, &mut flag)));
                may_fail(call!(vbr_hints_event(
                    hints,
                    VbrHintEvent::Reset,
                    &mut flag
                )));
            }
        }
    }

    pub(super) fn view(&self) -> VbrHintView {
        let mut view = MaybeUninit::uninit();
        assert_eq!(
            call!(vbr_hints_view(self.hints, view.as_mut_ptr())),
            VbrStatus::Ok
        );
        // SAFETY: written, as the status says.
        unsafe { view.assume_init() }
    }

    /// All that can be seen from outside.
    pub(super) fn look(&self) -> String {
        let (device, hints) = (self.device, self.hints);
        let mut text = String::new();
        macro_rules! see {
            ($kind:ty: $call:ident($($argument:expr),*)) => {
                let mut out = MaybeUninit::<$kind>::uninit();
                assert_eq!(call!($call($($argument,)* out.as_mut_ptr())), VbrStatus::Ok);
                // SAFETY: written, as the status says.
                text += &format!("{:?} ", unsafe { out.assume_init() });
            };
        }
        see!(Counters: vbr_device_counters(device, RAM));
        see!(State: vbr_state_save(device, 3));
        see!(u64: vbr_held_bytes(device));
        see!(u64: vbr_actual_get(device, RAM));
        see!(HintRecord: vbr_hints_save(hints));
        for queue in QUEUES {
            see!(usize: vbr_batch_room(device, queue));
        }
        let mut image = [0; 16];
        let (mut coded, mut used, mut complete) = (vec![0; 1 << 16], 0, false);
        let (len, out) = (coded.len(), coded.as_mut_ptr());
        let statuses = [
            call!(vbr_config_read(device, 0, image.as_mut_ptr(), 16)),
            call!(vbr_state_save_pages(
                device,
                out,
                len,
                &mut used,
                &mut complete
            )),
        ];
        assert_eq!(statuses, [VbrStatus::Ok; 2]);
        let malformed = call!(vbr_device_malformed_str(device));
        // SAFETY: static, and ends with a zero.
        let malformed = unsafe { CStr::from_ptr(malformed) };
        let view = self.view();
        text += &format!("{image:?} {:?} {complete} {malformed:?} ", &coded[..used]);
        text += &format!(
            "{:?} {:?} {} {} {} {} {} {} {:?}",
            view.source,
            view.state,
            view.shown_id,
            view.wanted,
            view.epoch,
            view.can_ask,
            view.has_pending,
            view.window_ms,
            view.counters
        );
        text
    }

    pub(super) fn room(&self, queue: QueueKind) -> usize {
        let mut room = 0;
        assert_eq!(
            call!(vbr_batch_room(self.device, queue, &mut room)),
            VbrStatus::Ok
        );
        room
    }
}

pub(super) fn stats(payload: &[u8]) -> VbrStatsBuffer {
    VbrStatsBuffer {
        payload: payload.as_ptr(),
        payload_len: payload.len(),
        len: payload.len(),
        big_endian: false,
        writable: 0,
        held: false,
        now: 7,
    }
}
