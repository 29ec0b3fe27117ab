// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU's side of the callbacks, and what it makes things with.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use balloon::features::Numbering;
use balloon::memory::{BackingFile, BlockSpan, Owner};
use balloon::queue::Advice;
use dirty_pages::DirtyOptions;
use virtio_balloon_rs::batch::vbr_batch_cancel;
use virtio_balloon_rs::device::{VbrOptions, VbrSection};
use virtio_balloon_rs::guard::VbrDevice;
use virtio_balloon_rs::host_ops::VbrHostOps;
use virtio_balloon_rs::ram::{VbrRamOps, VbrRamView};
use virtio_balloon_rs::status::VbrStatus;

use crate::bitmaps::{BLOCK, BYTES};
use crate::input::Input;
use crate::worlds::model::mock::{MAPS, sections};

/// Pages of the block that is migrated, and log2 of those in a chunk.
const PAGES: usize = 1 << 14;
const CHUNK_SHIFT: u32 = 9;

/// What the callbacks work with.
pub(super) struct HostState {
    pub(super) device: *mut VbrDevice,
    /// How the next callbacks answer, in turn.
    answers: [u8; 8],
    turn: usize,
    dirty: Vec<u64>,
    unarmed: Vec<u64>,
}

impl HostState {
    pub(super) fn new() -> HostState {
        HostState {
            device: null_mut(),
            answers: [0; 8],
            turn: 0,
            dirty: vec![u64::MAX; PAGES / 64],
            unarmed: vec![u64::MAX],
        }
    }

    pub(super) fn ops(&mut self, input: &mut Input<'_>) -> VbrHostOps {
        self.answers = std::array::from_fn(|_| input.any());
        let given = !input.one_in(16);
        VbrHostOps {
            opaque: (&raw mut *self).cast(),
            discard: given.then_some(give_back),
            drop_private: given.then_some(give_back),
            free: given.then_some(give_back),
            populate: given.then_some(populate),
        }
    }

    pub(super) fn ram_ops(&mut self) -> VbrRamOps {
        VbrRamOps {
            opaque: (&raw mut *self).cast(),
            view: Some(view),
            find: Some(find),
            arm: Some(arm),
        }
    }

    /// Sets bits of the dirty bitmap, as a synchronization does.
    pub(super) fn dirty(&mut self, word: u8, bits: u64) {
        self.dirty[usize::from(word)] |= bits;
        self.unarmed.fill(u64::MAX);
    }

    fn next_answer(&mut self) -> u8 {
        self.turn += 1;
        self.answers[self.turn % self.answers.len()]
    }
}

/// # Safety
///
/// `opaque` is a live `HostState`, and nothing else uses it meanwhile.
unsafe fn state<'a>(opaque: *mut c_void) -> &'a mut HostState {
    // SAFETY: by contract.
    unsafe { &mut *opaque.cast::<HostState>() }
}

/// Who is asked by a device calls it back, which is refused.
fn call_back(device: *mut VbrDevice) {
    // SAFETY: NULL or live, as it is asking.
    let status = unsafe { vbr_batch_cancel(device) };
    assert_eq!(status, VbrStatus::Busy, "from inside a callback");
}

unsafe extern "C" fn give_back(
    opaque: *mut c_void,
    _block: *mut c_void,
    spans: *const BlockSpan,
    count: usize,
    done: *mut usize,
) -> c_int {
    // SAFETY: what `ops` said is opaque.
    let state = unsafe { state(opaque) };
    call_back(state.device);
    // SAFETY: the library gives so many spans.
    let spans = unsafe { std::slice::from_raw_parts(spans, count) };
    assert!(spans.iter().all(|span| span.bytes > 0));
    let (error, how_many) = match state.next_answer() {
        0..200 => (0, 0),
        200..220 => (-12, count / 2),
        220..240 => (c_int::MIN, count),
        _ => (7, usize::MAX),
    };
    // SAFETY: the library gives a place for it.
    unsafe { done.write(how_many) };
    error
}

unsafe extern "C" fn populate(
    opaque: *mut c_void,
    _block: *mut c_void,
    _spans: *const BlockSpan,
    count: usize,
) {
    // SAFETY: what `ops` said is opaque.
    call_back(unsafe { state(opaque) }.device);
    assert!(count > 0);
}

unsafe extern "C" fn view(opaque: *mut c_void, block: *mut c_void, out: *mut VbrRamView) -> bool {
    // SAFETY: what `ram_ops` said is opaque.
    let state = unsafe { state(opaque) };
    if block as usize != BLOCK {
        return false;
    }
    let view = VbrRamView {
        dirty: state.dirty.as_mut_ptr(),
        pages: PAGES as u64,
        unarmed: state.unarmed.as_ptr(),
        chunk_shift: CHUNK_SHIFT,
    };
    // SAFETY: the library gives a place for it.
    unsafe { out.write(view) };
    true
}

unsafe extern "C" fn find(
    _opaque: *mut c_void,
    host: *const c_void,
    block: *mut *mut c_void,
    offset: *mut u64,
) -> bool {
    let Some(number) = (host as usize >> 40).checked_sub(1) else {
        return false;
    };
    // SAFETY: the library gives a place for it.
    unsafe { block.write(number as *mut c_void) };
    // SAFETY: as before.
    unsafe { offset.write(host as u64 & ((1 << 40) - 1)) };
    true
}

unsafe extern "C" fn arm(
    opaque: *mut c_void,
    block: *mut c_void,
    first: u64,
    count: u64,
    whole_chunk: bool,
) {
    // SAFETY: what `ram_ops` said is opaque.
    let state = unsafe { state(opaque) };
    assert!(block as usize == BLOCK && count > 0 && first + count <= PAGES as u64);
    if whole_chunk {
        state.unarmed[0] &= !(1 << (first >> CHUNK_SHIFT));
    }
}

pub(super) fn options(input: &mut Input<'_>) -> VbrOptions {
    VbrOptions {
        features: input.pick(&[u64::MAX, u64::MAX, 0, 2])
            & !(input.any::<u64>() & input.any::<u64>()),
        numbering: input.pick(&[
            Numbering::Private,
            Numbering::Private,
            Numbering::Historical,
        ]),
        reporting_advice: input.pick(&[Advice::Discard, Advice::Free]),
        hold_bytes: input.pick(&[4 << 20, 0, u64::MAX, 1]),
        qemu_4_0_config_size: input.any(),
    }
}

pub(super) fn dirty_options(input: &mut Input<'_>) -> DirtyOptions {
    DirtyOptions {
        version: input.pick(&[1, 1, 1, 1, 1, 0, 2]),
        no_dups: input.any(),
        max_dirty: input.pick(&[256, 1, 0, usize::MAX]),
        dirty_trigger: input.pick(&[0, 10, 257]),
        vcpus: input.pick(&[2, 0, 1, usize::MAX]),
    }
}

/// Guest RAM of no size, with a file behind it or without.
fn ram(file: bool) -> VbrSection {
    VbrSection {
        gpa: 0,
        bytes: 0,
        block: std::ptr::null_mut(),
        offset: 0,
        host: std::ptr::null(),
        page_size: 4096,
        host_page_size: 4096,
        owner: Owner::Machine,
        file: if file {
            BackingFile::Some
        } else {
            BackingFile::None
        },
        read_only: false,
        nonvolatile: false,
        shared: false,
        guest_memfd: false,
        locked: false,
    }
}

/// A map of memory that can be, or one of any numbers.
pub(super) fn map(input: &mut Input<'_>) -> Vec<VbrSection> {
    let mut map: Vec<VbrSection> = sections(input.index(MAPS))
        .iter()
        .map(|section| VbrSection {
            gpa: section.gpa.start().0,
            bytes: section.gpa.bytes(),
            block: section.block.0 as *mut c_void,
            offset: section.offset,
            page_size: section.page_size,
            host: section.host as *const c_void,
            shared: section.block.0 % 2 == 0,
            ..ram(section.backing.populate)
        })
        .collect();
    if input.any() {
        map.push(VbrSection {
            gpa: 1 << 40,
            bytes: BYTES,
            block: BLOCK as *mut c_void,
            offset: 0,
            page_size: 4096,
            host: ((BLOCK + 1) << 40) as *const c_void,
            shared: true,
            ..ram(true)
        });
    }
    if input.one_in(6) {
        map.push(VbrSection {
            gpa: input.number(),
            bytes: input.number(),
            block: input.index(9) as *mut c_void,
            offset: input.number(),
            page_size: input.pick(&[4096, 0, 4095, 2 << 20, 1 << 63]),
            host: input.number() as *const c_void,
            owner: input.pick(&[Owner::Machine, Owner::Dimm, Owner::VirtioMem, Owner::Other]),
            read_only: input.one_in(6),
            nonvolatile: input.one_in(6),
            shared: input.any(),
            guest_memfd: input.one_in(6),
            locked: input.any(),
            ..ram(input.any())
        });
    }
    map
}
