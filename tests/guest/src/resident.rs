// SPDX-License-Identifier: GPL-2.0-or-later
//! How much host memory backs a guest's RAM.

use std::fs;

use crate::{Error, Result};

/// Bytes of host memory behind a guest's RAM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// All, pages of hugetlbfs included.
    pub bytes: u64,
    /// Those of them that are in transparent huge pages.
    pub huge: u64,
}

/// Host memory in the mappings of process `pid` that are `sizes` bytes
/// long: a guest's RAM is one mapping of its size. A
/// neighbour that the kernel merged with it makes it longer, so when none has
/// the exact size the largest mapping that can be written is taken.
///
/// # Errors
/// When the process is gone.
pub fn of_mappings(pid: u32, sizes: &[u64]) -> Result<Resident> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).map_err(Error::io(path))?;
    let mappings: Vec<Mapping> = mappings(&text).filter(|m| m.data).collect();
    let exact: Vec<&Mapping> = mappings
        .iter()
        .filter(|m| sizes.contains(&m.size))
        .collect();
    if exact.is_empty() {
        return mappings
            .iter()
            .max_by_key(|m| m.size)
            .map(|m| m.resident)
            .ok_or_else(|| Error::Missing(format!("process {pid} has no memory")));
    }
    Ok(Resident {
        bytes: exact.iter().map(|m| m.resident.bytes).sum(),
        huge: exact.iter().map(|m| m.resident.huge).sum(),
    })
}

struct Mapping {
    size: u64,
    resident: Resident,
    /// May be read and written, not run: not the emulator's own code buffer.
    data: bool,
}

fn mappings(text: &str) -> impl Iterator<Item = Mapping> + '_ {
    let mut lines = text.lines().peekable();
    std::iter::from_fn(move || {
        let mut mapping = loop {
            if let Some(found) = header(lines.next()?) {
                break found;
            }
        };
        while let Some(line) = lines.next_if(|l| header(l).is_none()) {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or_default();
            // Rss leaves huge pages of hugetlbfs out.
            let resident = match name {
                "Rss:" | "Shared_Hugetlb:" | "Private_Hugetlb:" => &mut mapping.resident.bytes,
                "AnonHugePages:" => &mut mapping.resident.huge,
                _ => continue,
            };
            let kib: u64 = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
            *resident += kib << 10;
        }
        Some(mapping)
    })
}

/// `START-END rw-p ...`
fn header(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let rights = words.next()?;
    Some(Mapping {
        size: end - start,
        resident: Resident::default(),
        data: rights.starts_with("rw-"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "7f00-9f00 rw-p 00000000 00:00 0\nSize: 8 kB\nRss: 4 kB\n\
                        AnonHugePages: 3 kB\n\
                        Shared_Hugetlb: 0 kB\nPrivate_Hugetlb: 2 kB\n\
                        9f00-bf00 rwxp 00000000 00:00 0\nRss: 9 kB\n";

    #[test]
    fn resident_and_huge_pages_are_added_up() {
        let found: Vec<Mapping> = mappings(TEXT).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].size, 0x2000);
        let resident = Resident {
            bytes: 6 << 10,
            huge: 3 << 10,
        };
        assert_eq!(found[0].resident, resident);
        assert!(found[0].data && !found[1].data);
    }
}
