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
        let path = format!("/proc/{pid}/smaps");
        let text = fs::read_to_string(&path).map_err(Error::io(path))?;
        largest(&text).ok_or_else(|| Error::Missing(format!("process {pid} has no memory")))
    }
}

fn largest(text: &str) -> Option<Ram> {
    let mut all: Vec<Ram> = Vec::new();
    let mut counts = false;
    for line in text.lines() {
        if let Some((size, rights)) = header(line) {
            counts = rights.starts_with("rw-");
            if counts {
                let (resident, huge) = (0, 0);
                all.push(Ram {
                    size,
                    resident,
                    huge,
                });
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else {
            continue;
        };
        let bytes = value.parse().unwrap_or(0) << 10;
        match (name, all.last_mut().filter(|_| counts)) {
            // Rss leaves the pages of hugetlb out.
            ("Rss:" | "Shared_Hugetlb:" | "Private_Hugetlb:", Some(ram)) => ram.resident += bytes,
            ("AnonHugePages:", Some(ram)) => ram.huge += bytes,
            _ => {}
        }
    }
    all.into_iter().max_by_key(|ram| ram.size)
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
}
