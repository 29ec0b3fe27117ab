// SPDX-License-Identifier: GPL-2.0-or-later
//! What the kernel does for this process itself: the limit that devices are held against.
//! The only place here with unsafe code.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::plan::Backing;

/// Huge pages fit when a mapping starts on such a boundary.
const ALIGN: usize = 2 << 20;

/// Memory of this process that is made of the same as a guest's RAM.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    mapped: NonNull<libc::c_void>,
    mapped_len: usize,
    /// Where it is a file.
    file: Option<libc::c_int>,
}

impl Region {
    /// Maps `len` bytes, a multiple of 2 MiB. Nothing is behind them until they are written.
    ///
    /// # Errors
    /// When the host has no room or no such pages.
    pub fn new(len: usize, backing: Backing) -> io::Result<Region> {
        let file = match backing {
            Backing::Small | Backing::Thp => None,
            Backing::Hugetlb => Some(memory_file(libc::MFD_HUGETLB | libc::MFD_HUGE_2MB)?),
            Backing::Memfd => Some(memory_file(0)?),
        };
        let (mapped_len, flags) = match file {
            // Hugetlb is aligned by itself, and small pages of a file need no boundary.
            Some(_) => (len, libc::MAP_SHARED),
            None => (len + ALIGN, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
        };
        if let Some(file) = file {
            // SAFETY: it is our own file; nothing maps it yet.
            check(unsafe { libc::ftruncate(file, len as libc::off_t) })?;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (none, file_number) = (std::ptr::null_mut(), file.unwrap_or(-1));
        // SAFETY: a new mapping at a place that the kernel chooses; no other memory is touched.
        let at = unsafe { libc::mmap(none, mapped_len, protection, flags, file_number, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapped = NonNull::new(at).ok_or(io::ErrorKind::OutOfMemory)?;
        let skip = match file {
            Some(_) => 0,
            None => at.cast::<u8>().align_offset(ALIGN),
        };
        // SAFETY: the boundary is within the ALIGN bytes that the mapping is longer.
        let start = unsafe { mapped.cast::<u8>().add(skip) };
        let region = Region {
            start,
            len,
            mapped,
            mapped_len,
            file,
        };
        match backing {
            Backing::Small => region.advise(0..len, libc::MADV_NOHUGEPAGE)?,
            Backing::Thp => region.advise(0..len, libc::MADV_HUGEPAGE)?,
            Backing::Hugetlb | Backing::Memfd => {}
        }
        Ok(region)
    }

    /// Writes to every page.
    pub fn fill(&mut self) {
        // SAFETY: the range is our own mapping, nobody has a reference into it.
        unsafe { self.start.write_bytes(0x5a, self.len) };
    }

    /// Gives a range of bytes back to the system, by the one call that its kind of memory takes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn discard(&mut self, range: Range<usize>) -> io::Result<()> {
        let Some(file) = self.file else {
            return self.advise(range, libc::MADV_DONTNEED);
        };
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (from, bytes) = (range.start as libc::off_t, range.len() as libc::off_t);
        // SAFETY: it changes only the content of our own file, to which there is no reference.
        check(unsafe { libc::fallocate(file, mode, from, bytes) })
    }

    /// Says that a range will be used.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn will_need(&mut self, range: Range<usize>) -> io::Result<()> {
        self.advise(range, libc::MADV_WILLNEED)
    }

    fn advise(&self, range: Range<usize>, advice: libc::c_int) -> io::Result<()> {
        assert!(range.end <= self.len, "behind the region's end");
        // SAFETY: the start of the range is inside our own mapping.
        let at = unsafe { self.start.add(range.start) };
        // SAFETY: the range is inside our own mapping, and nobody has a reference into it.
        check(unsafe { libc::madvise(at.as_ptr().cast(), range.len(), advice) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it is our own mapping, and nobody has a reference into it.
        unsafe { libc::munmap(self.mapped.as_ptr(), self.mapped_len) };
        if let Some(file) = self.file {
            // SAFETY: it is our own file, and it is not used after this.
            unsafe { libc::close(file) };
        }
    }
}

fn memory_file(flags: libc::c_uint) -> io::Result<libc::c_int> {
    // SAFETY: the name is a string that ends with zero.
    let file = unsafe { libc::memfd_create(c"bench".as_ptr(), libc::MFD_CLOEXEC | flags) };
    check(file)?;
    Ok(file)
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// While it lives, programs that this process starts get no transparent huge pages, and go on
/// without them.
#[derive(Debug)]
pub struct SmallPages(());

impl SmallPages {
    /// # Errors
    /// When the kernel knows no such setting.
    pub fn for_children() -> io::Result<SmallPages> {
        set_thp_disabled(1).map(|()| SmallPages(()))
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        // What was possible before is possible again.
        let _ = set_thp_disabled(0);
    }
}

fn set_thp_disabled(disabled: libc::c_ulong) -> io::Result<()> {
    let none: libc::c_ulong = 0;
    // SAFETY: it takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, disabled, none, none, none) })
}

/// Processor time of this thread in nanoseconds.
///
/// # Panics
/// Never on Linux: the clock exists.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes to `time` only.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "a thread has a clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, and how much it gave.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that this process has allocated and not given back. Zeros that nobody wrote to yet count,
/// too.
pub fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

// SAFETY: all is done by the system's allocator, with what it is asked for.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size, Ordering::Relaxed);
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discarded_reads_as_zeros() {
        for backing in [Backing::Small, Backing::Thp, Backing::Memfd] {
            let mut region = Region::new(4 << 20, backing).unwrap();
            region.fill();
            region.discard(4096..8192).unwrap();
            // SAFETY: inside the mapping.
            let bytes = unsafe { std::slice::from_raw_parts(region.start.as_ptr(), 12288) };
            assert!(bytes[..4096].iter().all(|&b| b == 0x5a), "{backing:?}");
            assert!(bytes[4096..8192].iter().all(|&b| b == 0), "{backing:?}");
            assert!(bytes[8192..].iter().all(|&b| b == 0x5a), "{backing:?}");
        }
    }

    #[test]
    fn what_is_allocated_counts_until_it_is_given_back() {
        // Other tests allocate less.
        const MUCH: usize = 1 << 30;
        let memory: Vec<u8> = Vec::with_capacity(MUCH);
        assert!(allocated() >= MUCH);
        drop(memory);
        assert!(allocated() < MUCH);
    }

    #[test]
    fn work_takes_processor_time() {
        let before = thread_cpu_ns();
        let mut region = Region::new(16 << 20, Backing::Small).unwrap();
        region.fill();
        assert!(thread_cpu_ns() > before);
    }
}
