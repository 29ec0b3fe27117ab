// SPDX-License-Identifier: GPL-2.0-or-later
//! Host memory that is the guest's RAM.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use crate::MIB;

/// A mapping starts on such a boundary, so that huge pages fit.
const ALIGN: u64 = 2 * MIB;

/// The pages behind a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Pages of 4 KiB.
    Small,
    /// Transparent huge pages, where the host has any.
    Huge,
}

/// Anonymous memory, zero at first. The guest and several threads may write to
/// it at once, so it is only read and written as atomic words.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    len: u64,
    /// What mmap gave; `start` is the first boundary in it.
    mapped: NonNull<libc::c_void>,
    mapped_len: usize,
}

// SAFETY: the memory belongs to no thread, and all access is by atomic words.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `len` bytes, a multiple of 4 KiB. Nothing is behind them until they
    /// are written.
    ///
    /// # Errors
    /// When the host has no room.
    pub fn new(len: u64, backing: Backing) -> io::Result<Memory> {
        let mapped_len = usize::try_from(len + ALIGN).map_err(io::Error::other)?;
        // SAFETY: a new anonymous mapping; no other memory is touched.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapped = NonNull::new(at).ok_or(io::ErrorKind::OutOfMemory)?;
        let skip = at.cast::<u8>().align_offset(ALIGN as usize);
        // SAFETY: the boundary lies within the first ALIGN bytes of the mapping,
        // which is `len + ALIGN` bytes long.
        let start = unsafe { mapped.cast::<u8>().add(skip) };
        let memory = Memory {
            start,
            len,
            mapped,
            mapped_len,
        };
        memory.advise(match backing {
            Backing::Small => libc::MADV_NOHUGEPAGE,
            Backing::Huge => libc::MADV_HUGEPAGE,
        })?;
        Ok(memory)
    }

    fn advise(&self, advice: i32) -> io::Result<()> {
        let start = self.start.as_ptr().cast();
        // SAFETY: the range is that of our own mapping, and neither advice changes
        // what is in it.
        match unsafe { libc::madvise(start, self.len as usize, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it lies in this process, as KVM wants to know it.
    pub fn host_address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    /// The word at `offset`.
    ///
    /// # Panics
    /// When `offset` is not a multiple of 8 or lies outside.
    pub fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.len);
        // SAFETY: `offset` is inside the mapping, as was just checked.
        let at = unsafe { self.start.add(offset as usize) };
        // SAFETY: it is aligned, lives as long as `self`, and whoever else writes
        // to it, the guest included, does so by aligned words.
        unsafe { at.cast::<AtomicU64>().as_ref() }
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn load(&self, offset: u64, bytes: &[u8]) {
        for (at, chunk) in (offset..).step_by(8).zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let value = u64::from_le_bytes(word);
            self.word(at)
                .store(value, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it is our own mapping, and every reference into it borrowed from
        // `self`. A machine keeps its memory until KVM has let go of it.
        unsafe { libc::munmap(self.mapped.as_ptr(), self.mapped_len) };
    }
}
