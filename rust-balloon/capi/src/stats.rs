// SPDX-License-Identifier: GPL-2.0-or-later
//! Guest statistics.

use super::batch::byte_order;
use super::guard::{VbrDevice, output, slice, with_device};
use super::status::VbrStatus;
use balloon::device::StatsBuffer;
use balloon::queue::stats::MAX_ENTRIES;
use balloon::wire::{STAT_BYTES, STATS};

/// Number of statistics (virtio 1.3, 5.5.6.4), which are numbered by their tags.
pub const VBR_STATS: usize = 16;
const _: () = assert!(VBR_STATS == STATS);

/// How many bytes of a statistics buffer are read.
pub const VBR_STATS_MAX_BYTES: usize = 2560;
const _: () = assert!(VBR_STATS_MAX_BYTES == MAX_ENTRIES * STAT_BYTES);

/// A statistics buffer.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrStatsBuffer {
    /// Its first bytes, as the driver wrote them.
    pub payload: *const u8,
    /// How many of them are given.
    pub payload_len: usize,
    /// How many there are in all.
    pub len: usize,
    /// Whether the driver is a legacy one on a big-endian guest.
    pub big_endian: bool,
    /// How many of its segments are device-writable, which this queue does not use.
    pub writable: usize,
    /// Whether the device still held another buffer.
    pub held: bool,
    /// When it came, in seconds since the epoch.
    pub now: i64,
}

/// The guest's statistics.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VbrStats {
    /// By tag; all ones for "not reported".
    pub values: [u64; VBR_STATS],
    /// When they came, in seconds since the epoch; 0 for never.
    pub last_update: i64,
}

/// Takes over the statistics of a buffer.
///
/// # Safety
///
/// `device` is NULL or a live device, `buffer` NULL or valid, with its payload.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_stats_receive(
    device: *mut VbrDevice,
    buffer: *const VbrStatsBuffer,
) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or valid by contract.
    let buffer = unsafe { buffer.as_ref() };
    let Some(buffer) = buffer else {
        return VbrStatus::InvalidArgument;
    };
    // SAFETY: valid by contract.
    let payload = unsafe { slice(buffer.payload, buffer.payload_len) };
    with_device(device, |balloon, _| {
        let order = byte_order(buffer.big_endian);
        let &VbrStatsBuffer {
            len,
            writable: wrong_way,
            held,
            now,
            ..
        } = buffer;
        balloon.receive_stats(
            payload?,
            StatsBuffer {
                len,
                order,
                wrong_way,
                held,
                now,
            },
        );
        Ok(())
    })
}

/// The guest's last statistics.
///
/// # Safety
///
/// `device` is NULL or a live device, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_stats_get(device: *const VbrDevice, out: *mut VbrStats) -> VbrStatus {
    // SAFETY: NULL or a live device by contract.
    let device = unsafe { device.as_ref() };
    // SAFETY: NULL or writable by contract.
    let out = unsafe { output(out) };
    with_device(device, |balloon, _| {
        let stats = balloon.stats();
        out?.write(VbrStats {
            values: stats.values,
            last_update: stats.last_update,
        });
        Ok(())
    })
}
