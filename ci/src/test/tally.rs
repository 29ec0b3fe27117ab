// SPDX-License-Identifier: GPL-2.0-or-later

//! Counting tests, whoever ran them.

use std::ops::AddAssign;

/// How many tests passed and failed, and which were skipped and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: u32,
    /// Tests that failed, or that did not come to an end.
    pub(crate) failed: u32,
    /// A line for each test that was not run.
    pub(crate) skipped: Vec<String>,
    /// Skipped tests of a `cargo test` binary whose result line is still to come.
    pending: u32,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }
}

impl Tally {
    /// One test that passed.
    pub(crate) fn one() -> Self {
        Self::passed(1)
    }

    /// Tests that passed.
    pub(crate) fn passed(count: usize) -> Self {
        let passed = u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            passed,
            ..Self::default()
        }
    }

    /// One test that failed.
    pub(crate) fn failure() -> Self {
        Self {
            failed: 1,
            ..Self::default()
        }
    }

    /// One test that was not run.
    pub(crate) fn skip(why: impl Into<String>) -> Self {
        Self {
            skipped: vec![why.into()],
            ..Self::default()
        }
    }

    /// Whether no test ran or was skipped.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed + self.failed == 0 && self.skipped.is_empty()
    }

    /// Takes a line that `cargo test` printed.
    ///
    /// A test that finds it cannot run prints `skipped: NAME: REASON`; it passes then, as Rust's
    /// test harness knows nothing else, and is not counted as passed here.
    pub(crate) fn cargo_line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += number_before(counts, " passed").saturating_sub(self.pending);
            self.pending = 0;
            self.failed += number_before(counts, " failed");
            let ignored = number_before(counts, " ignored");
            if ignored > 0 {
                self.skipped
                    .push(format!("{ignored} tests are marked as ignored"));
            }
        } else if let Some(why) = skipped(line) {
            self.skipped.push(why.to_owned());
            self.pending += 1;
        }
    }

    /// Takes a line of the Test Anything Protocol, which QEMU's tests speak.
    pub(crate) fn tap_line(&mut self, line: &str) {
        let line = line.trim_start();
        if line.starts_with("not ok ") {
            self.failed += 1;
        } else if let Some(rest) = line.strip_prefix("ok ") {
            match rest.split_once("# SKIP") {
                Some((name, why)) => self.skipped.push(format!("{}:{why}", name.trim())),
                None => self.passed += 1,
            }
        }
    }
}

/// What was skipped and why, if a line says that. Where tests run one after another, the harness
/// has begun the line with the test's name.
fn skipped(line: &str) -> Option<&str> {
    let (before, why) = line.split_once("skipped: ")?;
    let is_begun = before.starts_with("test ") && before.ends_with(" ... ");
    (before.is_empty() || is_begun).then_some(why)
}

fn number_before(text: &str, word: &str) -> u32 {
    text.split(word)
        .next()
        .filter(|head| head.len() < text.len())
        .and_then(|head| head.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_results_are_summed() {
        let mut tally = Tally::default();
        tally.cargo_line("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered");
        tally.cargo_line("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured;");
        tally.cargo_line("test a::b ... ok");
        assert_eq!(
            (tally.passed, tally.failed, tally.skipped.len()),
            (15, 2, 1)
        );
        tally.cargo_line("skipped: c: no huge pages");
        tally.cargo_line("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured");
        assert_eq!(
            (tally.passed, tally.failed, tally.skipped.len()),
            (16, 2, 2)
        );
    }

    #[test]
    fn what_was_skipped_is_found_in_a_line_that_the_harness_began() {
        let mut tally = Tally::default();
        tally.cargo_line("test a ... skipped: a: no huge pages");
        tally.cargo_line("a word of the test: skipped: nothing");
        tally.cargo_line("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured");
        assert_eq!(tally.skipped, ["a: no huge pages"]);
        assert_eq!(tally.passed, 1);
    }

    #[test]
    fn tap_lines_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "TAP version 14",
            "ok 1 /a/b",
            "not ok 2 /a/c",
            "ok 3 /a/d # SKIP no kvm",
            "1..3",
        ] {
            tally.tap_line(line);
        }
        assert_eq!((tally.passed, tally.failed), (1, 1));
        assert_eq!(tally.skipped, ["3 /a/d: no kvm"]);
    }
}
