// SPDX-License-Identifier: GPL-2.0-or-later
//! The program in the guest that fills, frees, refills and checks memory all the time.

use std::time::Duration;

use crate::agent::Worker;
use crate::vm::Vm;
use crate::{Error, Result};

/// A look of all threads at all their memory takes a second or two under emulation.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// How much the program holds, and how many threads it has.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    /// At low tide, in MiB.
    pub low_mib: u64,
    /// At high tide, in MiB.
    pub high_mib: u64,
    /// Threads; the last one keeps files of a tmpfs.
    pub threads: u64,
}

/// What the program did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pieces of memory filled.
    pub fills: u64,
    /// Pieces freed.
    pub frees: u64,
    /// Pages written anew.
    pub rewrites: u64,
    /// MiB checked.
    pub checked_mib: u64,
}

impl Vm {
    /// Starts the program and waits until it has looked at all of its memory once.
    ///
    /// # Errors
    /// When it does not start, or finds a wrong word at once.
    pub fn start_churn(&mut self, churn: Churn) -> Result<Worker> {
        let Churn {
            low_mib,
            high_mib,
            threads,
        } = churn;
        let arguments = format!("{low_mib} {high_mib} 1 {threads}");
        let worker = self.guest(|agent| agent.start("churn", &arguments))?;
        self.wait_filled(worker)?;
        Ok(worker)
    }

    /// Asks whether it has found a wrong word; does not wait for a new look.
    ///
    /// # Errors
    /// When it has, with what it found, or when it ended.
    pub fn assert_no_mismatch(&mut self, churn: Worker) -> Result<Counts> {
        let now = self.guest(|agent| agent.worker(churn))?;
        if !now.mismatch.is_empty() || now.state != "checking" {
            let text = format!("the guest's memory changed: {now:?}");
            return Err(self.explain(Error::Protocol(text)));
        }
        self.churn_counts(churn)
    }

    /// Waits until it has checked `mib` more MiB, and that all of them are right.
    ///
    /// # Errors
    /// When a word is wrong, or it does not go on.
    pub fn assert_churning(&mut self, churn: Worker, mib: u64) -> Result<Counts> {
        let from = self.assert_no_mismatch(churn)?.checked_mib;
        let mut now = Counts::default();
        self.wait_until("check of the guest's memory", LOOK_LIMIT, |vm| {
            now = vm.assert_no_mismatch(churn)?;
            Ok(now.checked_mib >= from + mib)
        })?;
        Ok(now)
    }

    fn churn_counts(&mut self, churn: Worker) -> Result<Counts> {
        let text = self.guest(|agent| agent.counts(churn))?;
        Ok(counts(&text))
    }
}

/// `N fills N frees ...`
fn counts(text: &str) -> Counts {
    let words: Vec<&str> = text.split_whitespace().collect();
    let number = |name: &str| {
        let pair = words.chunks(2).find(|pair| pair.get(1) == Some(&name));
        pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
    };
    Counts {
        fills: number("fills"),
        frees: number("frees"),
        rewrites: number("rewrites"),
        checked_mib: number("checked-mib"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_by_name() {
        let expected = Counts {
            fills: 5,
            frees: 3,
            rewrites: 0,
            checked_mib: 70,
        };
        assert_eq!(counts("5 fills 3 frees 70 checked-mib"), expected);
        assert_eq!(counts(""), Counts::default());
    }
}
