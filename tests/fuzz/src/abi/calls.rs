// SPDX-License-Identifier: GPL-2.0-or-later
//! One call of each function of the C ABI, with what the input says.

use std::ffi::c_void;
use std::ptr::null_mut;

use balloon::counters::Counters;
use balloon::device::AdviceInForce;
use balloon::features::QueueKind;
use balloon::host::Inhibit;
use balloon::queue::held::Flush;
use balloon::state::State;
use virtio_balloon_rs::batch::*;
use virtio_balloon_rs::config::*;
use virtio_balloon_rs::device::*;
use virtio_balloon_rs::features::*;
use virtio_balloon_rs::requests::vbr_hints_negotiated;
use virtio_balloon_rs::state::*;
use virtio_balloon_rs::stats::*;
use virtio_balloon_rs::status::VbrStatus;

use super::Caller;
use super::host;
use super::place::{Elements, Place, or_null};
use crate::input::Input;
use crate::message::{self, Layout};

const QUEUES: [QueueKind; 7] = [
    QueueKind::Inflate,
    QueueKind::Deflate,
    QueueKind::Reporting,
    QueueKind::Stats,
    QueueKind::Hint,
    QueueKind::HostRequest,
    QueueKind::Misc,
];
const INHIBITS: [Inhibit; 5] = [
    Inhibit::No,
    Inhibit::No,
    Inhibit::Pinned,
    Inhibit::IncomingPostcopy,
    Inhibit::BackgroundSnapshot,
];
pub(super) const LAYOUTS: [Layout; 5] = [
    Layout::Pfns,
    Layout::Ranges,
    Layout::Chunks,
    Layout::Response,
    Layout::MiscChunks,
];

// SAFETY of all blocks below: handles are NULL or live; what a place or elements give is NULL, not
// aligned, or valid for what the call is told; a length without end is one that no slice can have.
// That is what the contracts ask for, but for alignment, which the library looks at itself where it
// takes a place or elements.

impl Caller {
    /// Any call.
    pub(super) fn call(&mut self, input: &mut Input<'_>) {
        match input.below(10) {
            0..3 => self.batch(input),
            3 => self.device(input),
            4 => self.config(input),
            5 => self.hints(input),
            6 => self.requests(input),
            7 => self.ram(input),
            8 => self.dirty(input),
            _ => self.state(input),
        }
    }

    fn batch(&mut self, input: &mut Input<'_>) {
        let device = self.device;
        let queues = if input.one_in(4) { 7 } else { 2 };
        let queue = input.pick(&QUEUES[..queues]);
        let inhibit = input.pick(&INHIBITS);
        match input.below(10) {
            0 => {
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_batch_room(device, queue, out) });
            }
            1..5 => self.batch_add(input, queue),
            5 => self.batch_add_report(input),
            6 | 7 => {
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_batch_run(device, inhibit, out) });
            }
            8 => {
                let flush = input.pick(&[Flush::All, Flush::Aged]);
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_held_flush(device, flush, inhibit, out)
                });
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_held_bytes(device, out) });
            }
            // SAFETY: see above.
            _ if input.any() => self.answered(unsafe { vbr_batch_cancel(device) }),
            // SAFETY: see above.
            _ => self.answered(unsafe { vbr_batch_abandon(device) }),
        }
    }

    fn batch_add(&mut self, input: &mut Input<'_>, queue: QueueKind) {
        let layout = input.pick(&LAYOUTS);
        let payload = message::request(input, layout);
        let payload = Elements::new(input, payload);
        let part = VbrPart {
            payload: payload.at(),
            len: payload.len(),
            total: input.pick(&[payload.len() as u64, 0, u64::MAX]),
            big_endian: input.one_in(8),
            last: !input.one_in(6),
            descriptors: input.pick(&[1, 0, usize::MAX]),
            writable: input.pick(&[0, 1, usize::MAX]),
        };
        let part = or_null(input, &part);
        // SAFETY: see above.
        let status = unsafe { vbr_batch_add(self.device, queue, part) };
        assert!(status != VbrStatus::Ok || payload.is_sound());
        self.answered(status);
    }

    fn batch_add_report(&mut self, input: &mut Input<'_>) {
        let count = input.below(5);
        let segments = (0..count).map(|_| VbrReported {
            host: ((1 + input.index(8)) << 40 | input.index(64) << 12) as *const c_void,
            bytes: input.number(),
        });
        let segments = segments.collect();
        let segments = Elements::new(input, segments);
        let (count, readable) = (segments.len(), input.pick(&[0, 1, usize::MAX]));
        // SAFETY: see above.
        let status = unsafe { vbr_batch_add_report(self.device, segments.at(), count, readable) };
        assert!(status != VbrStatus::Ok || segments.is_sound());
        self.answered(status);
    }

    fn device(&mut self, input: &mut Input<'_>) {
        let device = self.device;
        match input.below(8) {
            0 => {
                let map = host::map(input);
                let map = Elements::new(input, map);
                // SAFETY: see above.
                let status = unsafe { vbr_device_set_memory(device, map.at(), map.len()) };
                assert!(status != VbrStatus::Ok || map.is_sound());
                self.answered(status);
            }
            1 | 2 => {
                let features = input.pick(&[0x3f, u64::MAX, 2, 1 << 60, 1 << 62]);
                let features = features & !(input.any::<u64>() & input.any::<u64>());
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_device_can_accept(device, features, out)
                });
                // SAFETY: see above.
                self.answered(unsafe {
                    vbr_device_set_features(device, features, input.one_in(6))
                });
                let hints = self.hints;
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_hints_negotiated(hints, device, out)
                });
            }
            3 => {
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_device_features(device, out) });
                // SAFETY: see above.
                self.with_out::<AdviceInForce>(input, |out| unsafe {
                    vbr_device_reporting_advice(device, out)
                });
                // SAFETY: see above.
                let _ = unsafe { vbr_device_malformed_str(device) };
            }
            4 => {
                let ram = input.number();
                // SAFETY: see above.
                self.with_out::<Counters>(input, |out| unsafe {
                    vbr_device_counters(device, ram, out)
                });
            }
            5 => {
                let options = host::options(input);
                let options = or_null(input, &options);
                let mut queues = Elements::new(input, vec![unused_queue(); VBR_MAX_QUEUES]);
                let is_there = queues.len() == VBR_MAX_QUEUES && queues.is_sound();
                let queues = if is_there {
                    queues.at_mut()
                } else {
                    null_mut()
                };
                // SAFETY: see above; there is room for all of them.
                self.with_out(input, |out| unsafe {
                    vbr_options_queues(options, queues, out)
                });
            }
            // SAFETY: see above.
            6 => self.answered(unsafe { vbr_machine_reset(device) }),
            _ => {
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_device_reset(device, out) });
            }
        }
    }

    fn config(&mut self, input: &mut Input<'_>) {
        let device = self.device;
        match input.below(4) {
            0 => {
                let mut image = Elements::new(input, vec![0; 24]);
                let (at, len) = (image.at_mut(), image.len());
                // SAFETY: see above.
                self.answered(unsafe { vbr_config_read(device, input.any(), at, len) });
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_config_size(device, out) });
            }
            1 | 2 => {
                let image = input.bytes(20).to_vec();
                let image = Elements::new(input, image);
                let (at, len) = (image.at(), image.len());
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_config_write(device, at, len, out)
                });
            }
            _ => {
                let (target, ram) = (input.number(), input.number());
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_target_set(device, target, ram, out)
                });
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_actual_get(device, ram, out) });
            }
        }
    }

    fn state(&mut self, input: &mut Input<'_>) {
        let device = self.device;
        match input.below(5) {
            0 => self.reload(input),
            1 => {
                let inhibit = input.pick(&INHIBITS);
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_owed_discard(device, inhibit, out)
                });
            }
            2 => {
                // SAFETY: see above.
                self.with_out::<VbrStats>(input, |out| unsafe { vbr_stats_get(device, out) });
            }
            _ => {
                let payload = input.bytes(200).to_vec();
                let payload = Elements::new(input, payload);
                let buffer = VbrStatsBuffer {
                    payload: payload.at(),
                    payload_len: payload.len(),
                    len: input.pick(&[payload.len(), 0, usize::MAX]),
                    big_endian: input.any(),
                    writable: input.pick(&[0, 1, usize::MAX]),
                    held: input.any(),
                    now: input.any(),
                };
                let buffer = or_null(input, &buffer);
                // SAFETY: see above.
                self.answered(unsafe { vbr_stats_receive(device, buffer) });
            }
        }
    }

    /// What was saved is loaded again, as it is or with other numbers.
    fn reload(&mut self, input: &mut Input<'_>) {
        let device = self.device;
        let state = Place::<State>::new(input);
        // SAFETY: see above.
        let status = unsafe { vbr_state_save(device, input.number() as i64, state.at()) };
        state.check(status);
        self.answered(status);
        let (accepted, legacy, interval) = (input.any(), input.one_in(2), input.number() as i64);
        // SAFETY: see above.
        self.with_out::<State>(input, |out| unsafe {
            vbr_state_save_broken(device, accepted, legacy, interval, out)
        });
        let mut coded = Elements::new(input, vec![0; 200]);
        let used = Place::<usize>::new(input);
        let (at, len, out) = (coded.at_mut(), coded.len(), used.at());
        // SAFETY: see above.
        let saved = self.try_out(input, |complete| unsafe {
            vbr_state_save_pages(device, at, len, out, complete)
        });
        used.check(saved);
        if status != VbrStatus::Ok {
            return;
        }
        let mut state = state.value();
        if input.one_in(3) {
            state.num_pages = input.any();
            state.founding = input.any();
        }
        let pages = VbrSavedPages {
            coded: coded.at(),
            len: match saved {
                VbrStatus::Ok => used.value(),
                _ => coded.len(),
            },
            complete: input.any(),
        };
        let pages = or_null(input, &pages);
        let state = or_null(input, &state);
        // SAFETY: see above.
        self.answered(unsafe { vbr_state_load(device, state, pages, 1 << 40) });
    }
}

fn unused_queue() -> VbrQueueSpec {
    VbrQueueSpec {
        kind: QueueKind::Inflate,
        size: 0,
    }
}
