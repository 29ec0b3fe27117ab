// SPDX-License-Identifier: GPL-2.0-or-later
//! Reserved pages of 2 MiB on the host.

use std::fs;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";

/// Reserved huge pages; what was reserved before is restored when this is dropped.
#[derive(Debug)]
pub struct HugePages {
    before: Option<u64>,
}

impl HugePages {
    /// Makes sure that `mib` MiB of huge pages are free.
    ///
    /// # Errors
    /// Why not, in words, when this user may not or memory is too fragmented.
    pub fn reserve(mib: u64) -> Result<HugePages, String> {
        if size_kib()? != 2048 {
            return Err("the host's huge pages are not of 2 MiB".into());
        }
        let missing = (mib / 2).saturating_sub(meminfo("HugePages_Free:")?);
        if missing == 0 {
            return Ok(HugePages { before: None });
        }
        let before = meminfo("HugePages_Total:")?;
        fs::write(COUNT, (before + missing).to_string())
            .map_err(|e| format!("cannot reserve huge pages: {e}"))?;
        let reserved = HugePages {
            before: Some(before),
        };
        let free = meminfo("HugePages_Free:")?;
        if free < mib / 2 {
            return Err(format!("only {free} of {} huge pages can be had", mib / 2));
        }
        Ok(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Without it they stay reserved, which the next run makes use of.
            let _ = fs::write(COUNT, before.to_string());
        }
    }
}

fn size_kib() -> Result<u64, String> {
    meminfo("Hugepagesize:")
}

fn meminfo(name: &str) -> Result<u64, String> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|e| e.to_string())?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .ok_or_else(|| "the host's kernel has no huge pages".into())
}
