// SPDX-License-Identifier: GPL-2.0-or-later
//! The dirty ring, as its reader sees it.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};
use kvm_ioctls::VcpuFd;

use crate::PAGE;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: u32 = size_of::<kvm_dirty_gfn>() as u32;
/// An entry was written by KVM.
const DIRTY: u32 = 1;
/// An entry was read, and its page may be protected again.
const RESET: u32 = 2;

/// One processor's ring.
#[derive(Debug)]
pub struct Ring {
    entries: NonNull<kvm_dirty_gfn>,
    count: u32,
    next: u32,
}

// SAFETY: the mapping belongs to no thread; `&mut self` guards the place of reading.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring of `vcpu`, whose machine was set up for one of `bytes`.
    pub(crate) fn map(vcpu: &VcpuFd, bytes: u32) -> io::Result<Ring> {
        // SAFETY: a new mapping of KVM's own memory; nothing else is touched.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE as i64,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Ring {
            entries: NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            count: bytes / ENTRY_BYTES,
            next: 0,
        })
    }

    /// Takes the next entry, as (slot, page); it is marked as read.
    pub fn pop(&mut self) -> Option<(u32, u64)> {
        // SAFETY: `next` is below `count`, the number of entries in the mapping.
        let entry = unsafe { self.entries.add(self.next as usize) };
        // SAFETY: `flags` is the first field, aligned, and KVM changes it as a whole.
        let flags = unsafe { entry.cast::<AtomicU32>().as_ref() };
        // The rest of the entry was written before its flag.
        if flags.load(Ordering::Acquire) & DIRTY == 0 {
            return None;
        }
        // SAFETY: KVM leaves an entry alone from its DIRTY flag to its reset.
        let found = unsafe { entry.read_volatile() };
        flags.store(RESET, Ordering::Release);
        self.next = (self.next + 1) % self.count;
        Some((found.slot, found.offset))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let bytes = (self.count * ENTRY_BYTES) as usize;
        // SAFETY: it is our own mapping, and no reference into it outlives a call.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), bytes) };
    }
}
