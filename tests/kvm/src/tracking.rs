// SPDX-License-Identifier: GPL-2.0-or-later
//! KVM's three ways to tell which pages were written.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VmFd};

/// `_IO(KVMIO, 0x03)`: what a capability's value is.
const KVM_CHECK_EXTENSION: libc::c_ulong = 0xae03;
/// `_IOWR(KVMIO, 0xc0, struct kvm_clear_dirty_log)`, 24 bytes.
const KVM_CLEAR_DIRTY_LOG: libc::c_ulong = 0xc018_aec0;
/// `_IO(KVMIO, 0xc7)`.
const KVM_RESET_DIRTY_RINGS: libc::c_ulong = 0xaec7;

/// How a machine's writes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// A bitmap that is cleared, and its pages protected again, by a call of its
    /// own; all bits are set at first. QEMU's choice where KVM has it.
    ManualClear,
    /// A bitmap that is cleared, and its pages protected again, when it is read.
    ReadClears,
    /// A ring with an entry for each first write.
    Ring,
}

impl Tracking {
    /// All of them.
    pub const ALL: [Tracking; 3] = [Tracking::ManualClear, Tracking::ReadClears, Tracking::Ring];

    /// Whether this host's KVM has it; else what it lacks.
    ///
    /// # Errors
    /// With the name of the capability that is missing.
    pub fn check(self, kvm: &Kvm) -> Result<(), String> {
        let lacks = |name: &str| Err(format!("this KVM has no {name}"));
        match self {
            Tracking::ManualClear => {
                let wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
                match capability(kvm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & wanted == wanted {
                    true => Ok(()),
                    false => lacks("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 with INITIALLY_SET"),
                }
            }
            Tracking::ReadClears => Ok(()),
            Tracking::Ring => match ring_capability(kvm) {
                Some(_) => Ok(()),
                None => lacks("KVM_CAP_DIRTY_LOG_RING"),
            },
        }
    }

    /// Sets a machine up for it, before its first processor is made.
    pub(crate) fn enable(self, kvm: &Kvm, vm: &VmFd, ring_bytes: u32) -> io::Result<()> {
        let (cap, value) = match self {
            Tracking::ManualClear => (
                KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
            ),
            Tracking::ReadClears => return Ok(()),
            Tracking::Ring => {
                let cap = ring_capability(kvm).ok_or(io::ErrorKind::Unsupported)?;
                (cap, ring_bytes)
            }
        };
        let mut wanted = kvm_enable_cap {
            cap,
            ..Default::default()
        };
        wanted.args[0] = value.into();
        Ok(vm.enable_cap(&wanted)?)
    }
}

/// The kernel offers the one that fits the processor's memory order; on x86 both.
fn ring_capability(kvm: &Kvm) -> Option<u32> {
    [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING]
        .into_iter()
        .find(|cap| capability(kvm, *cap) > 0)
}

fn capability(kvm: &Kvm, cap: u32) -> u32 {
    // SAFETY: the call takes a number and touches no memory.
    let value = unsafe {
        libc::ioctl(
            kvm.as_raw_fd(),
            KVM_CHECK_EXTENSION,
            libc::c_ulong::from(cap),
        )
    };
    u32::try_from(value).unwrap_or(0)
}

/// Clears the bits of `bitmap` in the log of `slot` from page `first` on, and
/// protects those of its pages that had them set. Bit 0 is page `first`, a multiple
/// of 64; `pages` is one, too, or reaches the end of the slot.
///
/// # Errors
/// What KVM says.
///
/// # Panics
/// When `bitmap` is too short.
pub(crate) fn clear_log(
    vm: &VmFd,
    slot: u32,
    first: u64,
    pages: u32,
    bitmap: &[u64],
) -> io::Result<()> {
    assert!(bitmap.len() as u64 * 64 >= u64::from(pages));
    let wanted = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page: first,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: bitmap.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY: KVM reads `wanted` and, as was checked, not more than `bitmap`.
    let result = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_CLEAR_DIRTY_LOG, &raw const wanted) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Protects the pages of all entries that were marked as read, in all rings, and
/// gives their number.
pub(crate) fn reset_rings(vm: &VmFd) -> io::Result<u32> {
    // SAFETY: the call takes nothing; KVM writes to its own rings only.
    let result = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_RESET_DIRTY_RINGS, 0) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}
