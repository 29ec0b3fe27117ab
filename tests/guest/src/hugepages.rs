// SPDX-License-Identifier: GPL-2.0-or-later
//! Reserved pages of 2 MiB on the host.

use std::fs::{self, File};

/// How many there are, and what whoever changes that has locked: the qtests do so, too.
const COUNT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Reserved huge pages; they are given up when this is dropped.
#[derive(Debug)]
pub struct HugePages {
    added: u64,
    /// Nobody else counts on the pool's size meanwhile.
    _locked: File,
}

impl HugePages {
    /// Reserves `mib` MiB of huge pages, beside those that others have; where
    /// that is not allowed, free ones that are there already do. Waits for other
    /// tests that have reserved some; so a test takes its slot after that.
    ///
    /// # Errors
    /// Why not, in words, when this user may not or memory is too fragmented.
    pub fn reserve(mib: u64) -> Result<HugePages, String> {
        if meminfo("Hugepagesize:")? != 2048 {
            return Err("the host's huge pages are not of 2 MiB".into());
        }
        let lock = |file: File| file.lock().map(|()| file);
        let locked = File::open(COUNT).and_then(lock);
        let locked = locked.map_err(|e| format!("cannot lock {COUNT}: {e}"))?;
        let wanted = mib / 2;
        let before = meminfo("HugePages_Total:")?;
        if let Err(e) = fs::write(COUNT, (before + wanted).to_string()) {
            return match meminfo("HugePages_Free:")? >= wanted {
                true => Ok(HugePages {
                    added: 0,
                    _locked: locked,
                }),
                false => Err(format!("cannot reserve huge pages: {e}")),
            };
        }
        let added = meminfo("HugePages_Total:")?.saturating_sub(before);
        let reserved = HugePages {
            added,
            _locked: locked,
        };
        if added < wanted {
            return Err(format!("only {added} of {wanted} huge pages can be had"));
        }
        Ok(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if self.added == 0 {
            return;
        }
        if let Ok(total) = meminfo("HugePages_Total:") {
            // Without it they stay reserved, which costs memory but no test.
            let _ = fs::write(COUNT, total.saturating_sub(self.added).to_string());
        }
    }
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
