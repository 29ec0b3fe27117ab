// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages of a program in the guest whose place in the guest's memory is known.

use std::collections::BTreeSet;

use crate::agent::Asked;
use crate::vm::Vm;
use crate::{Error, Result};

impl Vm {
    /// Has the guest's program fill `count` pages and lock them. It is root in the guest
    /// and so may know their frames.
    ///
    /// # Errors
    /// When the guest has not that much memory.
    pub fn take_pages(&mut self, count: u64, seed: u64) -> Result<()> {
        let request = format!("pages {count} {seed}");
        self.guest(|agent| agent.call(&request)).map(drop)
    }

    /// The numbers of their frames, in the order of the pages.
    ///
    /// # Errors
    /// When the guest's kernel does not say.
    pub fn frames(&mut self) -> Result<Vec<u64>> {
        let text = self.guest(|agent| agent.call("frames"))?;
        frames(&text).ok_or_else(|| Error::Protocol(format!("frames {text:?}")))
    }

    /// Begins to store `value` to the first `count` of them, one store a page, from as many
    /// threads, each on a processor of its own. [`crate::agent::Agent::answer`] waits for
    /// the end.
    ///
    /// # Errors
    /// When the line to the guest is closed.
    pub fn begin_store(&mut self, count: u64, value: u64, threads: u64) -> Result<Asked> {
        let request = format!("store {count} {value} {threads}");
        self.guest(|agent| agent.ask(&request))
    }

    /// The same, to the end.
    ///
    /// # Errors
    /// When the guest cannot do it.
    pub fn store(&mut self, count: u64, value: u64, threads: u64) -> Result<()> {
        let asked = self.begin_store(count, value, threads)?;
        self.guest(|agent| agent.answer(&asked)).map(drop)
    }

    /// Has the guest look at every word of these pages.
    ///
    /// # Errors
    /// At the first wrong one.
    pub fn check_pages(&mut self) -> Result<()> {
        self.guest(|agent| agent.call("check")).map(drop)
    }
}

/// `FRAME+COUNT ...`, in hexadecimal; no frame comes twice.
fn frames(text: &str) -> Option<Vec<u64>> {
    let mut frames = Vec::new();
    for run in text.split_whitespace() {
        let (first, count) = run.split_once('+')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (first, count) = (number(first)?, number(count)?);
        frames.extend(first..first + count);
    }
    let all: BTreeSet<&u64> = frames.iter().collect();
    (all.len() == frames.len()).then_some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_in_their_order() {
        assert_eq!(frames("1f+2 3+1"), Some(vec![0x1f, 0x20, 3]));
        assert_eq!(frames(""), Some(vec![]));
        assert_eq!(frames("1f+2 20+1"), None);
        assert_eq!(frames("1f"), None);
    }
}
