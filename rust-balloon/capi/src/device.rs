// SPDX-License-Identifier: GPL-2.0-or-later
//! Making, resetting and ending a device; the map of memory.

use super::guard::{VbrDevice, contain, guard, output, slice, with_device, with_mended_device};
use super::host_ops::VbrHostOps;
use super::status::VbrStatus;
use balloon::counters::Counters;
use balloon::device::Options;
use balloon::error::Error;
use balloon::features::{Features, Numbering};
use balloon::memory::{BackingFile, BlockId, Facts, MemoryMap, Owner, Section};
use balloon::page::{Gpa, GpaRange};
use balloon::queue::Advice;
use std::ffi::c_void;

/// The version of this interface: it changes with every incompatible change of the header.
pub const VBR_ABI_VERSION: u32 = 6;

/// What the user of the device chose.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrOptions {
    /// The feature bits to offer (virtio 1.3, 5.5.3); 60 to 63 for those of the founding protocols, also
    /// where these are negotiated by other bits. Others are ignored.
    pub features: u64,
    /// The bits by which founding protocols are negotiated.
    pub numbering: Numbering,
    /// How reported memory is given back, where it can be so.
    pub reporting_advice: Advice,
    /// How many bytes of inflated memory may wait for their neighbours before they are given back; 0 for
    /// none. The caller sees to it that none waits for long: `vbr_held_flush`.
    pub hold_bytes: u64,
    /// Whether the configuration space has the size that QEMU 4.0 gave it.
    pub qemu_4_0_config_size: bool,
}

impl From<VbrOptions> for Options {
    fn from(options: VbrOptions) -> Options {
        Options {
            features: Features::from_bits_truncate(options.features),
            numbering: options.numbering,
            reporting_advice: options.reporting_advice,
            hold_bytes: options.hold_bytes,
            qemu_4_0_config_size: options.qemu_4_0_config_size,
        }
    }
}

/// A contiguous piece of memory inside one RAM block that the guest sees, of whatever kind, and
/// what is known of it. The library decides whether it is the guest's to give, and how.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrSection {
    /// The guest physical address of its first byte.
    pub gpa: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The block that backs it; handed to the callbacks as it is, and never followed.
    pub block: *mut c_void,
    /// Where in the block it starts, in bytes.
    pub offset: u64,
    /// The host's virtual address of its first byte; never followed.
    pub host: *const c_void,
    /// The size of the block's backing pages in bytes.
    pub page_size: u64,
    /// The size of the host's smallest pages in bytes.
    pub host_page_size: u64,
    /// What it belongs to. Of what belongs to virtio-mem only those parts are there that
    /// `vbr_memory_plug` says.
    pub owner: Owner,
    /// The file behind it.
    pub file: BackingFile,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// It keeps its content when the machine is switched off.
    pub nonvolatile: bool,
    /// It is mapped so that others see what the guest writes.
    pub shared: bool,
    /// It has a second, private half (KVM's guest_memfd).
    pub guest_memfd: bool,
    /// It is locked into the host's memory.
    pub locked: bool,
}

impl VbrSection {
    /// The section, or `None` when it is not the guest's to give.
    fn to_section(self) -> Result<Option<Section>, Error> {
        let Some(backing) = self.facts().backing() else {
            return Ok(None);
        };
        let gpa = GpaRange::with_len(Gpa(self.gpa), self.bytes).ok_or(Error::InvalidArgument)?;
        Ok(Some(Section {
            gpa,
            block: BlockId(self.block as usize),
            offset: self.offset,
            page_size: self.page_size,
            host: self.host as usize,
            backing,
        }))
    }

    fn facts(&self) -> Facts {
        Facts {
            owner: self.owner,
            read_only: self.read_only,
            nonvolatile: self.nonvolatile,
            shared: self.shared,
            file: self.file,
            guest_memfd: self.guest_memfd,
            locked: self.locked,
            page_size: self.page_size,
            host_page_size: self.host_page_size,
        }
    }
}

/// The version of the interface that the library was built with.
#[unsafe(no_mangle)]
pub extern "C" fn vbr_abi_version() -> u32 {
    VBR_ABI_VERSION
}

/// Makes a device; `FOUNDING_AND_TODAY` or `FOUNDING_GENERATIONS` when its features cannot be negotiated by
/// the bits that were chosen.
///
/// # Safety
///
/// `options` and `ops` are NULL or valid; `out` is NULL or writable. The callbacks in `ops` can be
/// called with `ops->opaque` and any block of the map of memory until the device is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_new(
    options: *const VbrOptions,
    ops: *const VbrHostOps,
    out: *mut *mut VbrDevice,
) -> VbrStatus {
    // SAFETY: NULL or valid by contract.
    let options = unsafe { options.as_ref() };
    // SAFETY: NULL or valid by contract.
    let ops = unsafe { ops.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    guard(|| {
        let (Some(options), Some(ops), Ok(out)) = (options, ops, out) else {
            return VbrStatus::InvalidArgument;
        };
        let options = Options::from(*options);
        if let Err(error) = options.numbering.check(options.features) {
            return error.into();
        }
        let device = Box::new(VbrDevice::new(options, *ops));
        out.write(Box::into_raw(device));
        VbrStatus::Ok
    })
}

/// Ends a device. NULL is allowed. A device that is in the middle of a call, which a correct caller
/// does not do, is left as it is and never freed.
///
/// # Safety
///
/// `device` is NULL or from `vbr_device_new` and not freed, and not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_free(device: *mut VbrDevice) {
    // SAFETY: NULL or a live device by contract.
    if unsafe { device.as_ref() }.is_none_or(VbrDevice::is_busy) {
        return;
    }
    // SAFETY: from Box::into_raw in vbr_device_new, and freed only once by contract.
    let device = unsafe { Box::from_raw(device) };
    contain(move || drop(device));
}

/// A device reset (virtio 1.3, 2.4): negotiation, batch and balloon are forgotten, the host's target
/// stays. A broken device works again afterwards, once it was told where guest memory is.
///
/// # Safety
///
/// `device` is NULL or a live device; `actual_changed` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_reset(
    device: *mut VbrDevice,
    actual_changed: *mut bool,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let actual_changed = unsafe { output(actual_changed) };
    let Ok(actual_changed) = actual_changed else {
        return VbrStatus::InvalidArgument;
    };
    with_mended_device(device, |balloon, _| {
        actual_changed.write(balloon.reset());
        Ok(())
    })
}

/// Takes over the map of guest memory: all `count` sections of it, in any order.
///
/// Unlike elsewhere something changes on `INVALID_ARGUMENT`, be it for sections that cannot be or
/// for `sections` that is NULL or not aligned: the device is left without any memory. The old map
/// is not true any more either, and would have memory discarded that is somebody else's.
///
/// # Safety
///
/// `device` is NULL or a live device, `sections` NULL or valid for `count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_set_memory(
    device: *mut VbrDevice,
    sections: *const VbrSection,
    count: usize,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or valid for `count` by contract.
    let sections = unsafe { slice(sections, count) };
    with_device(device, |balloon, _| {
        let map = sections.and_then(|sections| {
            let sections = sections
                .iter()
                .filter_map(|section| section.to_section().transpose());
            MemoryMap::new(sections.collect::<Result<Vec<_>, _>>()?)
        });
        let refused = map.as_ref().err().copied();
        balloon.set_memory(map.unwrap_or_default());
        refused.map_or(Ok(()), Err)
    })
}

/// These `bytes` of guest memory from `gpa` on, which belong to virtio-mem, are there from now on.
///
/// # Safety
///
/// `device` is NULL or a live device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_memory_plug(
    device: *mut VbrDevice,
    gpa: u64,
    bytes: u64,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    with_device(device, |balloon, _| {
        balloon.plug(GpaRange::with_len(Gpa(gpa), bytes).ok_or(Error::InvalidArgument)?);
        Ok(())
    })
}

/// They are not there any more: what was known of their pages is forgotten.
///
/// # Safety
///
/// `device` is NULL or a live device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_memory_unplug(
    device: *mut VbrDevice,
    gpa: u64,
    bytes: u64,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    with_device(device, |balloon, _| {
        balloon.unplug(GpaRange::with_len(Gpa(gpa), bytes).ok_or(Error::InvalidArgument)?);
        Ok(())
    })
}

/// What the device did, for a guest with `ram` bytes of memory.
///
/// # Safety
///
/// `device` is NULL or a live device, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_device_counters(
    device: *const VbrDevice,
    ram: u64,
    out: *mut Counters,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    with_device(device, |balloon, _| {
        out?.write(balloon.counters(ram));
        Ok(())
    })
}

/// A reset of the whole machine, unlike a wake-up: the statistics are forgotten, and a host that refused
/// to discard is asked again.
///
/// # Safety
///
/// `device` is NULL or a live device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_machine_reset(device: *mut VbrDevice) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    with_device(device, |balloon, _| {
        balloon.machine_reset();
        Ok(())
    })
}
