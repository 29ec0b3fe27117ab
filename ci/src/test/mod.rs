// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask test`: everything, in order, counted.

pub(crate) mod guests;
mod qtest;
pub(crate) mod rust;
pub(crate) mod tally;
mod variants;

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::paths::Paths;
use crate::progress::took;
use crate::qemu::{self, Wanted};
use crate::series::Series;
use crate::{check, fuzz, header, house, setup};
use tally::Tally;

/// Packages whose tests need nothing but cargo.
const UNIT: &[&str] = &[
    "balloon",
    "bench",
    "capi",
    "dirty-pages",
    "guest-agent",
    "sparse-bitmap",
    "xtask",
];
/// The package with the C program.
const C: &[&str] = &["abi"];
/// The package whose guests KVM runs.
const KVM: &[&str] = &["kvm"];

/// How much to test.
pub(crate) struct Options {
    /// Without QEMU.
    pub(crate) quick: bool,
    /// Also other targets, QEMU's own Rust, sanitizers, and every series in full.
    pub(crate) all: bool,
    /// The series whose guests are run.
    pub(crate) series: Option<String>,
}

/// Runs the tests and prints their account, `N passed, N failed` last; gives whether none failed.
///
/// # Errors
/// When the tests could not begin.
pub(crate) fn run(paths: &Paths, options: &Options) -> Result<bool> {
    let mut run = Run::since(Instant::now());
    setup::packages(paths, &[setup::BASE])?;
    quick(paths, &mut run);
    if !options.quick {
        with_qemu(paths, options, &mut run);
    }
    Ok(run.account())
}

/// Builds QEMU as wanted and runs our device tests in it; gives whether none failed.
///
/// # Errors
/// When it does not build, or no test ran.
pub(crate) fn device_tests(paths: &Paths, wanted: &Wanted) -> Result<bool> {
    let start = Instant::now();
    let mut run = Run::since(start);
    run.tally = qtest::ours(paths, wanted)?;
    Ok(run.account())
}

/// Builds QEMU and runs the tests with Linux guests, or some of them; gives whether none failed.
///
/// # Errors
/// When it does not build, or no test ran.
pub(crate) fn guest_tests(paths: &Paths, options: guests::Options<'_>) -> Result<bool> {
    let start = Instant::now();
    let build = qemu::build(paths, &Wanted::default())?;
    let mut run = Run::since(start);
    run.tally = guests::test(paths, &build, options)?;
    Ok(run.account())
}

fn quick(paths: &Paths, run: &mut Run) {
    run.section("Rust is formatted", || rust::format(paths));
    run.section("clippy has nothing to say", || rust::clippy(paths));
    run.section("house rules", || house::check(paths).map(|()| Tally::one()));
    run.section("the C header is that of the crate", || {
        header::verify(paths).map(|()| Tally::one())
    });
    run.section("unit and property tests", || rust::test(paths, UNIT));
    run.section("orders of memory accesses of the dirty list", || {
        rust::orders(paths)
    });
    run.section("a C program on the C interface", || rust::test(paths, C));
    run.section("random input for the library", || fuzz::short(paths));
    run.section("writes that KVM's dirty log and ring tell of", || {
        rust::test(paths, KVM)
    });
}

fn with_qemu(paths: &Paths, options: &Options, run: &mut Run) {
    let wanted = Wanted {
        series: options.series.clone(),
        ..Wanted::default()
    };
    let mut build = None;
    run.section("build QEMU", || {
        build = Some(qemu::build(paths, &wanted)?);
        Ok(Tally::one())
    });
    for series in Series::newest_first(paths) {
        run.section(&format!("patches for QEMU {}", series.name), || {
            patches(paths, series)
        });
    }
    let Some(build) = build else {
        run.tally += Tally::skip("QEMU's tests and guests: there is no QEMU");
        return;
    };
    for series in Series::newest_first(paths)
        .iter()
        .filter(|s| s.name != build.series.name)
    {
        let heading = format!("the device compiles in QEMU {}", series.name);
        run.section(&heading, || compiles(paths, series));
    }
    run.section("QEMU's device tests: ours", || qtest::ours(paths, &wanted));
    run.section("QEMU's device tests: its own", || {
        qtest::qemus(paths, &wanted)
    });
    run.section("Linux guests", || {
        guests::test(paths, &build, guests::Options::default())
    });
    if options.all {
        variants::all(paths, &build, run);
    } else {
        run.tally += Tally::skip("fault/*: --all".to_owned());
    }
}

fn patches(paths: &Paths, series: &'static Series) -> Result<Tally> {
    let git = qemu::sources_of(paths, series)?;
    let count = check::check(paths, series, &git)?;
    // One for the series as a whole, and one for each patch.
    Ok(Tally::passed(1 + count))
}

/// Compiles what is ours in a series that is not built as a whole.
fn compiles(paths: &Paths, series: &Series) -> Result<Tally> {
    let wanted = Wanted {
        series: Some(series.name.to_owned()),
        ..Wanted::default()
    };
    let built = qemu::build_where(paths, &wanted, |goal| {
        goal.contains("balloon-rs")
            || goal.contains("balloon_rs")
            || goal.contains("/vbr-")
            || goal.ends_with("/migration_ram.c.o")
    })?;
    println!("  {} objects", built.1);
    match built.1 {
        0 => Err(Error::new(
            format!("QEMU {} has nothing of ours to compile", series.name),
            "see why meson left the device out of its build",
        )),
        _ => Ok(Tally::one()),
    }
}

/// The line of the account above what was not run, each with two spaces before it.
pub(crate) const NOT_RUN: &str = "Not run:";

/// How many of the sections that took longest are named at the end.
const LONGEST: usize = 5;

/// A run of tests: its time and its count.
struct Run {
    start: Instant,
    tally: Tally,
    sections: Vec<(Duration, String)>,
}

impl Run {
    fn since(start: Instant) -> Self {
        Self {
            start,
            tally: Tally::default(),
            sections: Vec::new(),
        }
    }

    /// Runs one section under a heading; an error counts as a failed test.
    fn section(&mut self, name: &str, test: impl FnOnce() -> Result<Tally>) {
        println!("\n== {name}");
        let start = Instant::now();
        let tally = test().unwrap_or_else(|error| {
            println!("  error: {error}");
            Tally::failure()
        });
        let elapsed = start.elapsed();
        let time = took(elapsed);
        println!(
            "   {} passed, {} failed, {time}",
            tally.passed, tally.failed
        );
        self.sections.push((elapsed, name.to_owned()));
        self.tally += tally;
    }

    /// Prints the count, last; gives whether nothing failed.
    fn account(self) -> bool {
        let Tally {
            passed,
            failed,
            skipped,
            ..
        } = self.tally;
        println!("\nAll of it took {}.", took(self.start.elapsed()));
        let mut sections = self.sections;
        sections.sort_by(|a, b| b.cmp(a));
        for (time, name) in sections.iter().take(LONGEST) {
            println!("  {}: {name}", took(*time));
        }
        if !skipped.is_empty() {
            println!("{NOT_RUN}");
            skipped.iter().for_each(|why| println!("  {why}"));
        }
        if failed > 0 {
            println!("What failed is in the sections above and in target/log.");
        }
        println!("{passed} passed, {failed} failed");
        failed == 0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The value of the first line `name = "..."` of a Cargo.toml.
    fn package(manifest: &str) -> &str {
        let line = manifest
            .lines()
            .find_map(|line| line.strip_prefix("name = "));
        line.unwrap().trim_matches('"')
    }

    /// Whether there are tests in this folder, but for other packages in it.
    fn has_tests(dir: &Path) -> bool {
        fs::read_dir(dir).unwrap().any(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                return !path.join("Cargo.toml").exists() && has_tests(&path);
            }
            path.extension().is_some_and(|end| end == "rs")
                && fs::read_to_string(&path).unwrap().contains("#[test]")
        })
    }

    #[test]
    fn the_tests_of_all_packages_are_run() {
        let run = [UNIT, C, KVM, &[fuzz::PACKAGE, guests::PACKAGE]].concat();
        let top = Paths::new().top().to_path_buf();
        let workspace = fs::read_to_string(top.join("Cargo.toml")).unwrap();
        let members = workspace
            .lines()
            .find(|line| line.starts_with("members = "));
        for member in members.unwrap().split('"').skip(1).step_by(2) {
            let dir = top.join(member);
            let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap();
            let name = package(&manifest);
            assert!(
                run.contains(&name) || !has_tests(&dir),
                "nothing runs those of {name}"
            );
        }
    }
}
