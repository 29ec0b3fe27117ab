// SPDX-License-Identifier: GPL-2.0-or-later
//! What is behind a guest's RAM on the host.

use std::fs;

use guest::{Error, Result};

/// The mapping that is a guest's RAM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ram {
    size: u64,
    /// Bytes of host memory behind it.
    pub resident: u64,
    /// Bytes of these that are transparent huge pages.
    pub huge: u64,
}

impl Ram {
    /// The largest mapping of process `pid` that may be written.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> Result<Ram> {
        largest(&read(pid)?).ok_or_else(|| Error::Missing(format!("process {pid} has no memory")))
    }
}

/// What a QEMU has for itself: everything but the guest's RAM and what it shares as a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    /// Bytes that it wrote to, so that nobody else can have them.
    pub private: u64,
    /// Bytes of these that are on the heap of its main thread.
    pub heap: u64,
    /// Bytes of host memory behind it, with the parts of programs and libraries that were used.
    pub resident: u64,
}

impl Own {
    /// Of process `pid`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> Result<Own> {
        Ok(own(&read(pid)?))
    }
}

fn read(pid: u32) -> Result<String> {
    let path = format!("/proc/{pid}/smaps");
    fs::read_to_string(&path).map_err(Error::io(path))
}

/// A mapping and those of its lines that are of use here.
#[derive(Debug, Default)]
struct Mapping {
    size: u64,
    writable: bool,
    shared: bool,
    heap: bool,
    rss: u64,
    hugetlb: u64,
    huge: u64,
    dirty: u64,
}

fn largest(text: &str) -> Option<Ram> {
    let all = mappings(text);
    let mapping = all.iter().max_by_key(|m| ram_size(m));
    mapping.filter(|m| m.writable).map(|m| Ram {
        size: m.size,
        // Rss leaves the pages of hugetlb out.
        resident: m.rss + m.hugetlb,
        huge: m.huge,
    })
}

fn own(text: &str) -> Own {
    let mut all = mappings(text);
    if let Some(ram) = (0..all.len()).max_by_key(|&n| ram_size(&all[n])) {
        all.remove(ram);
    }
    let mut own = Own::default();
    for mapping in all.iter().filter(|m| !m.shared) {
        own.private += mapping.dirty;
        own.resident += mapping.rss;
        if mapping.heap {
            own.heap += mapping.dirty;
        }
    }
    own
}

fn ram_size(mapping: &Mapping) -> u64 {
    if mapping.writable { mapping.size } else { 0 }
}

fn mappings(text: &str) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some((size, rights)) = header(line) {
            all.push(Mapping {
                size,
                writable: rights.starts_with("rw-"),
                shared: rights.ends_with('s'),
                heap: line.ends_with("[heap]"),
                ..Mapping::default()
            });
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else {
            continue;
        };
        let Some(mapping) = all.last_mut() else {
            continue;
        };
        let bytes = value.parse().unwrap_or(0) << 10;
        match name {
            "Rss:" => mapping.rss = bytes,
            "Shared_Hugetlb:" | "Private_Hugetlb:" => mapping.hugetlb += bytes,
            "AnonHugePages:" => mapping.huge = bytes,
            "Private_Dirty:" => mapping.dirty = bytes,
            _ => {}
        }
    }
    all
}

/// `START-END rw-p ...`
fn header(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    Some((end - start, words.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_largest_counts() {
        let text = "1000-9000 rw-p 0 0:0 0\nRss: 9 kB\n10000-90000 rw-s 0 0:0 0\nRss: 12 kB\n\
                    AnonHugePages: 4 kB\nShared_Hugetlb: 2 kB\n100000-900000 r-xp 0 0:0 0\nRss: 7 kB\n";
        let (size, resident, huge) = (0x80000, 14 << 10, 4 << 10);
        let ram = Ram {
            size,
            resident,
            huge,
        };
        assert_eq!(largest(text), Some(ram));
    }
    #[test]
    fn what_a_process_has_for_itself_is_neither_ram_nor_shared() {
        let text = "1000-3000 rw-p 0 0:0 0 [heap]\nRss: 8 kB\nPrivate_Dirty: 7 kB\n\
                    4000-9000 rw-p 0 0:0 0\nRss: 5 kB\nPrivate_Dirty: 4 kB\n\
                    10000-90000 rw-p 0 0:0 0\nRss: 90 kB\nPrivate_Dirty: 90 kB\n\
                    a0000-b0000 rw-s 0 0:0 0 /file\nRss: 60 kB\nPrivate_Dirty: 60 kB\n\
                    100000-900000 r-xp 0 0:0 0 /program\nRss: 3 kB\nPrivate_Dirty: 0 kB\n";
        let (private, heap, resident) = (11 << 10, 7 << 10, 16 << 10);
        let expected = Own {
            private,
            heap,
            resident,
        };
        assert_eq!(own(text), expected);
    }
}
