// SPDX-License-Identifier: GPL-2.0-or-later
//! The calls that a migration or a checkpoint makes: free page hints and requests for them, what is
//! left out, and the list of dirty pages.

use std::ffi::c_void;
use std::ptr::null_mut;

use balloon::features::FreePageSource;
use balloon::migration::arming::Arm;
use balloon::migration::skips::{DirtyChange, SkipCounters};
use balloon::queue::hint::HintRecord;
use dirty_pages::{DirtyIndices, MACHINE};
use virtio_balloon_rs::dirty::*;
use virtio_balloon_rs::hints::*;
use virtio_balloon_rs::ram::*;
use virtio_balloon_rs::requests::*;
use virtio_balloon_rs::status::VbrStatus;

use super::Caller;
use super::calls::LAYOUTS;
use super::place::{Elements, Place, or_null};
use crate::bitmaps::BLOCK;
use crate::input::Input;
use crate::message;

const SOURCES: [FreePageSource; 4] = [
    FreePageSource::FreePageHint,
    FreePageSource::HostRequest,
    FreePageSource::MiscQueue,
    FreePageSource::None,
];
const EVENTS: [VbrHintEvent; 6] = [
    VbrHintEvent::QueueEmpty,
    VbrHintEvent::BeforeSync,
    VbrHintEvent::AfterSync,
    VbrHintEvent::AfterSyncStopped,
    VbrHintEvent::Finished,
    VbrHintEvent::Reset,
];

// SAFETY of all blocks below: as in `calls.rs`, handles are NULL or live; what a place or elements
// give is NULL, not aligned, or valid for what the call is told; a length without end is one that
// no slice can have.

impl Caller {
    pub(super) fn hints(&mut self, input: &mut Input<'_>) {
        let hints = self.hints;
        match input.below(8) {
            0 | 1 => {
                let event = input.pick(&EVENTS);
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_hints_event(hints, event, out) });
            }
            2 => self.ask(input),
            3 => {
                let id = match input.one_in(4) {
                    true => input.bytes(6).to_vec(),
                    false => self.shown_id().to_le_bytes().to_vec(),
                };
                let id = Elements::new(input, id);
                let (at, len) = (id.at(), id.len());
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_hints_receive_id(hints, at, len, false, out)
                });
            }
            4 | 5 => {
                let host = ((BLOCK + 1) << 40 | input.index(1 << 14) << 12) as *const c_void;
                // SAFETY: see above.
                self.answered(unsafe {
                    vbr_hints_receive(hints, self.device, host, input.number())
                });
            }
            6 => {
                let (now, left_out, speed) = (input.number(), input.number(), input.number());
                // SAFETY: see above.
                self.answered(unsafe { vbr_hints_set_window(hints, input.any()) });
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_hints_hold(hints, now, left_out, speed, out)
                });
            }
            _ => {
                // SAFETY: see above.
                self.with_out::<HintRecord>(input, |out| unsafe { vbr_hints_save(hints, out) });
                // SAFETY: see above.
                self.with_out::<HintRecord>(input, |out| unsafe {
                    vbr_hints_save_broken(hints, out)
                });
                let record = HintRecord {
                    cmd_id: input.pick(&[1 << 31, u32::MAX, 0]),
                    status: input.below(5) as u32,
                };
                let record = or_null(input, &record);
                // SAFETY: see above.
                self.answered(unsafe { vbr_hints_load(hints, record) });
            }
        }
    }

    fn view(&self) -> Option<VbrHintView> {
        let place = Place::new(&mut Input::new(&[]));
        // SAFETY: see above.
        let status = unsafe { vbr_hints_view(self.hints, place.at()) };
        (status == VbrStatus::Ok).then(|| place.value())
    }

    fn shown_id(&self) -> u32 {
        self.view().map_or(0, |view| view.shown_id)
    }

    fn ask(&self, input: &mut Input<'_>) {
        let hints = self.hints;
        let wanted = match input.one_in(4) {
            true => input.number(),
            false => self.view().map_or(0, |view| view.wanted),
        };
        // SAFETY: see above.
        self.with_out(input, |out| unsafe {
            vbr_hints_request(hints, wanted, out)
        });
    }

    pub(super) fn requests(&mut self, input: &mut Input<'_>) {
        let (hints, device, source) = (self.hints, self.device, input.pick(&SOURCES));
        match input.below(8) {
            0 | 1 => {
                let bytes = input.pick(&[16, 0, 4, usize::MAX]);
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_request_buffer(hints, device, source, bytes, false, out)
                });
            }
            // SAFETY: see above.
            2 => self.answered(unsafe { vbr_request_lost(hints, source) }),
            // SAFETY: see above.
            3 => self.answered(unsafe { vbr_request_give_up_answer(hints, device) }),
            // SAFETY: see above.
            4 => self.answered(unsafe { vbr_request_queue_reset(hints, source) }),
            5 => {
                let room = Place::<[u8; VBR_REQUEST_MAX_BYTES]>::new(input);
                let at = room.at().cast();
                // SAFETY: see above.
                let status = self.try_out(input, |out| unsafe {
                    vbr_request_take(hints, source, at, out)
                });
                room.check(status);
            }
            _ => {
                let layout = input.pick(&LAYOUTS);
                let payload = message::request(input, layout);
                let payload = Elements::new(input, payload);
                let part = VbrAnswer {
                    payload: payload.at(),
                    len: payload.len(),
                    total: input.pick(&[payload.len() as u64, 0, u64::MAX]),
                    first: !input.one_in(4),
                    last: !input.one_in(4),
                };
                let part = or_null(input, &part);
                // SAFETY: see above.
                self.answered(unsafe { vbr_request_answer(hints, device, source, part) });
            }
        }
    }

    pub(super) fn ram(&mut self, input: &mut Input<'_>) {
        let (ram, hints) = (self.ram, self.hints);
        let block = input.pick(&[BLOCK, BLOCK, BLOCK, 1, 0]) as *mut c_void;
        let mut change = DirtyChange::default();
        let change: *mut DirtyChange = match input.one_in(24) {
            true => null_mut(),
            false => &raw mut change,
        };
        match input.below(9) {
            // SAFETY: see above.
            0 => self.answered(unsafe { vbr_ram_begin(ram) }),
            1 => {
                self.host.dirty(input.any(), input.any());
                // SAFETY: see above.
                self.answered(unsafe { vbr_ram_synced(ram) });
            }
            2 => {
                let device = self.device;
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_ram_sweep(ram, device, change, out)
                });
            }
            3 => {
                let which = input.pick(&[Arm::All, Arm::Wanted]);
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_ram_arm(ram, block, which, out) });
            }
            4 => {
                let epoch = match input.any() {
                    true => input.number(),
                    false => self.view().map_or(0, |view| view.epoch),
                };
                // SAFETY: see above.
                self.answered(unsafe { vbr_ram_trust(ram, epoch) });
            }
            5 => {
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_ram_leave_out_hinted(ram, hints, change, out)
                });
            }
            6 => {
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_ram_postcopy(ram, block, change, out)
                });
            }
            7 => {
                // SAFETY: see above.
                let _ = unsafe { vbr_ram_is_left_out(ram, block, input.number()) };
            }
            _ => {
                // SAFETY: see above.
                self.with_out::<SkipCounters>(input, |out| unsafe { vbr_ram_counters(ram, out) });
            }
        }
    }

    pub(super) fn dirty(&mut self, input: &mut Input<'_>) {
        let list = self.list;
        match input.below(8) {
            // SAFETY: see above.
            0 => self.answered(unsafe { vbr_dirty_start(list) }),
            // SAFETY: see above.
            1 => self.answered(unsafe { vbr_dirty_stop(list) }),
            2 | 3 => {
                let vcpu = input.pick(&[0, 1, MACHINE, 2]);
                let (page, bits) = (input.number(), input.any());
                // SAFETY: see above.
                self.with_out(input, |out| unsafe {
                    vbr_dirty_note(list, vcpu, page, bits, out)
                });
            }
            4 | 5 => {
                let mut pages = Elements::new(input, vec![0; 40]);
                let (at, most, sync) = (pages.at_mut(), pages.len(), input.any());
                self.with_out(input, |out| {
                    let call = if sync {
                        vbr_dirty_sync_fetch
                    } else {
                        vbr_dirty_fetch
                    };
                    // SAFETY: see above.
                    unsafe { call(list, at, most, out) }
                });
            }
            6 => {
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_dirty_reset(list, out) });
                // SAFETY: see above.
                self.with_out::<DirtyIndices>(input, |out| unsafe { vbr_dirty_indices(list, out) });
            }
            // SAFETY: see above.
            _ if input.any() => self.answered(unsafe { vbr_dirty_sync_end(list) }),
            _ => {
                // SAFETY: see above.
                self.with_out(input, |out| unsafe { vbr_dirty_sync_begin(list, out) });
            }
        }
    }
}
