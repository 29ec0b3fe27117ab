// SPDX-License-Identifier: GPL-2.0-or-later
//! Calls of the C ABI in any order: with NULL, with places that are not aligned, with lengths that
//! have nothing behind them, before anything was made and from inside a callback.
//!
//! No call is answered with BROKEN unless some function was made to panic, and none writes an
//! output unless it says OK. Buffers have exactly the length that the call is told of, so that a
//! sanitizer of addresses sees whoever reads or writes behind them.

mod calls;
mod host;
mod migration;
mod place;

use std::ptr::null_mut;

use virtio_balloon_rs::device::{vbr_device_free, vbr_device_new};
use virtio_balloon_rs::dirty::{VbrDirtyList, vbr_dirty_free, vbr_dirty_new};
use virtio_balloon_rs::guard::VbrDevice;
use virtio_balloon_rs::hints::{VbrHints, vbr_hints_free, vbr_hints_new};
use virtio_balloon_rs::inject::vbr_inject_set;
use virtio_balloon_rs::ram::{VbrRam, vbr_ram_free, vbr_ram_new};
use virtio_balloon_rs::status::VbrStatus;

use crate::input::Input;
use host::HostState;
use place::Place;

/// Calls in a run.
const CALLS: usize = 80;

/// Functions that are made to panic at one of their next uses.
const FAULTY: [&str; 16] = [
    "vbr_batch_run",
    "vbr_batch_add",
    "vbr_batch_add_report",
    "vbr_batch_cancel",
    "vbr_held_flush",
    "vbr_config_write",
    "vbr_device_set_memory",
    "vbr_device_set_features",
    "vbr_device_reset",
    "vbr_state_load",
    "vbr_hints_event",
    "vbr_request_answer",
    "vbr_ram_synced",
    "vbr_ram_sweep",
    "vbr_ram_leave_out_hinted",
    "vbr_dirty_fetch",
];

/// What the caller holds. Each is NULL, or was made and not freed.
struct Caller {
    host: Box<HostState>,
    device: *mut VbrDevice,
    hints: *mut VbrHints,
    ram: *mut VbrRam,
    list: *mut VbrDirtyList,
    /// A panic was asked for.
    may_break: bool,
}

/// Takes the input for a course of calls.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    inject("");
    let mut caller = Caller {
        host: Box::new(HostState::new()),
        device: null_mut(),
        hints: null_mut(),
        ram: null_mut(),
        list: null_mut(),
        may_break: false,
    };
    if !input.one_in(16) {
        caller.make_all(&mut input);
    }
    for _ in 0..CALLS {
        if input.is_empty() {
            break;
        }
        if input.one_in(64) {
            caller.change_handles(&mut input);
        } else {
            caller.call(&mut input);
        }
    }
}

/// What fails next; with an empty text nothing.
fn inject(text: &str) {
    let text = std::ffi::CString::new(text).expect("names hold no zeros");
    // SAFETY: a C string.
    let status = unsafe { vbr_inject_set(text.as_ptr()) };
    assert_eq!(status, VbrStatus::Ok);
}

impl Caller {
    /// Takes note of an answer.
    fn answered(&self, status: VbrStatus) {
        assert!(status != VbrStatus::Broken || self.may_break, "a panic");
    }

    /// Makes a call with one output and looks at what became of it.
    fn with_out<T>(&self, input: &mut Input<'_>, call: impl FnOnce(*mut T) -> VbrStatus) {
        let _ = self.try_out(input, call);
    }

    /// The same for those who want to know.
    fn try_out<T>(
        &self,
        input: &mut Input<'_>,
        call: impl FnOnce(*mut T) -> VbrStatus,
    ) -> VbrStatus {
        let place = Place::<T>::new(input);
        let status = call(place.at());
        place.check(status);
        self.answered(status);
        status
    }

    fn make_all(&mut self, input: &mut Input<'_>) {
        self.make_device(input);
        self.make_others(input);
    }

    fn make_device(&mut self, input: &mut Input<'_>) {
        let (options, ops) = (host::options(input), self.host.ops(input));
        let mut device = null_mut();
        // SAFETY: all of them are valid, and the host outlives the device.
        let status = unsafe { vbr_device_new(&raw const options, &raw const ops, &raw mut device) };
        self.answered(status);
        if status == VbrStatus::Ok {
            self.free_device();
            self.device = device;
            self.host.device = device;
        }
    }

    fn make_others(&mut self, input: &mut Input<'_>) {
        let options = host::dirty_options(input);
        let ops = self.host.ram_ops();
        let (mut hints, mut ram, mut list) = (null_mut(), null_mut(), null_mut());
        let shift = input.pick(&[12, 16, 12, 0, 11, 64, u32::MAX]);
        // SAFETY: the output is writable.
        let made = unsafe { vbr_hints_new(&raw mut hints) };
        if made == VbrStatus::Ok {
            self.free_hints();
            self.hints = hints;
        }
        // SAFETY: both are valid, and the host outlives what is made.
        let made = unsafe { vbr_ram_new(&raw const ops, shift, &raw mut ram) };
        if made == VbrStatus::Ok {
            self.free_ram();
            self.ram = ram;
        }
        let there = !self.list.is_null();
        // SAFETY: both are valid.
        let made = unsafe { vbr_dirty_new(&raw const options, &raw mut list) };
        if made == VbrStatus::Ok {
            assert!(!there, "there is a list already");
            self.list = list;
        }
        self.answered(made);
    }

    fn change_handles(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0 => self.make_device(input),
            1 => self.make_others(input),
            2 => self.free_device(),
            3 => self.free_hints(),
            4 => self.free_ram(),
            5 => self.free_list(input.any()),
            6 => {
                self.may_break = true;
                let (function, uses) = (input.pick(&FAULTY), 1 + input.below(4));
                inject(&format!("{function}:{uses}"));
            }
            _ => self.make_all(input),
        }
    }

    fn free_device(&mut self) {
        self.host.device = null_mut();
        // SAFETY: NULL or from vbr_device_new, and forgotten here.
        unsafe { vbr_device_free(std::mem::replace(&mut self.device, null_mut())) }
    }

    fn free_hints(&mut self) {
        // SAFETY: NULL or from vbr_hints_new, and forgotten here.
        unsafe { vbr_hints_free(std::mem::replace(&mut self.hints, null_mut())) }
    }

    fn free_ram(&mut self) {
        // SAFETY: NULL or from vbr_ram_new, and forgotten here.
        unsafe { vbr_ram_free(std::mem::replace(&mut self.ram, null_mut())) }
    }

    fn free_list(&mut self, force: bool) {
        // SAFETY: NULL or from vbr_dirty_new, and forgotten here if it is ended.
        if unsafe { vbr_dirty_free(self.list, force) } == VbrStatus::Ok {
            self.list = null_mut();
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.free_device();
        self.free_hints();
        self.free_ram();
        self.free_list(true);
    }
}
