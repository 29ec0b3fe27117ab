// SPDX-License-Identifier: GPL-2.0-or-later
//! Processor time of a QEMU process: the guest's processors apart from the rest.

use std::fs;

use crate::{Error, Result};

/// Linux counts in these units in /proc, on every architecture that QEMU's guests run on here.
const TICK_MS: u64 = 10;

/// Processor time since a process started, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Of the threads that run the guest.
    pub guest_ms: u64,
    /// Of all other threads, those included that have ended.
    pub qemu_ms: u64,
    /// Of all threads: what the host's kernel did for them.
    pub kernel_ms: u64,
}

impl CpuTime {
    /// What process `pid` used so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> Result<CpuTime> {
        // The process counts threads that ended, as the migration's do; the list of
        // threads does not. The guest's processors stay as long as QEMU does. They are
        // read first, so that the rest is never below zero.
        let tasks = format!("/proc/{pid}/task");
        let mut guest_ms = 0;
        for task in fs::read_dir(&tasks).map_err(Error::io(tasks))? {
            let Ok(task) = task else { continue };
            // A thread may end while the list is read.
            let text = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            guest_ms += parse(&text).filter(Stat::runs_guest).map_or(0, |s| s.ms);
        }
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(Error::io(path))?;
        let whole = parse(&text).ok_or_else(|| Error::Protocol(format!("odd stat: {text}")))?;
        Ok(CpuTime {
            guest_ms,
            qemu_ms: whole.ms.saturating_sub(guest_ms),
            kernel_ms: whole.kernel_ms,
        })
    }

    /// What was used since `before`.
    pub fn since(self, before: CpuTime) -> CpuTime {
        CpuTime {
            guest_ms: self.guest_ms.saturating_sub(before.guest_ms),
            qemu_ms: self.qemu_ms.saturating_sub(before.qemu_ms),
            kernel_ms: self.kernel_ms.saturating_sub(before.kernel_ms),
        }
    }
}

struct Stat<'a> {
    name: &'a str,
    ms: u64,
    kernel_ms: u64,
}

impl Stat<'_> {
    /// QEMU's names: `CPU 0/KVM`, `CPU 0/TCG`, and `ALL CPUs/TCG` where one thread runs all.
    fn runs_guest(&self) -> bool {
        self.name.starts_with("CPU ") || self.name.starts_with("ALL CPUs")
    }
}

/// `PID (NAME) STATE ...`; the name may hold spaces and brackets.
fn parse(stat: &str) -> Option<Stat<'_>> {
    let (front, back) = stat.rsplit_once(") ")?;
    let (_, name) = front.split_once('(')?;
    // The state is field 3; user and system time are 14 and 15.
    let mut fields = back.split_whitespace().skip(14 - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Stat {
        name,
        ms: (user + system) * TICK_MS,
        kernel_ms: system * TICK_MS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "71 (CPU 0/TCG) S 1 2 3 0 -1 4194560 100 0 0 0 25 17 9 9 20 0 5 0 1 2";

    #[test]
    fn the_times_stand_behind_a_name_with_spaces() {
        let stat = parse(LINE).unwrap();
        assert_eq!((stat.name, stat.ms), ("CPU 0/TCG", 420));
        assert_eq!(stat.kernel_ms, 170);
        assert!(stat.runs_guest());
        let other = LINE.replace("CPU 0/TCG", "mig/src) main");
        let other = parse(&other).unwrap();
        assert!(!other.runs_guest());
        assert_eq!(other.ms, 420);
    }

    #[test]
    fn this_process_has_no_guest() {
        let now = CpuTime::of(std::process::id()).unwrap();
        assert_eq!(now.guest_ms, 0);
    }
}
