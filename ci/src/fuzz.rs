// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask fuzz`: random input for the library, its C ABI and the whole binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::error::{At, Error, Result};
use crate::paths::Paths;
use crate::qemu::{self, Variant, Wanted};
use crate::run::{Step, succeeds};
use crate::stamp::{self, make_dir};
use crate::test::tally::Tally;
use crate::test::{guests, rust};

/// The package with the targets, and with tests of what is in their corpora.
pub(crate) const PACKAGE: &str = "fuzz";
/// The targets of the crate `fuzz`.
const TARGETS: [&str; 6] = ["hostile", "honest", "state", "pageset", "dirty", "abi"];
/// The whole binary, which is driven by the crate `fuzz-qemu`.
const QEMU: &str = "qemu";
/// The target of the toolchain: build scripts must not be built with the flags below.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// A sanitizer of addresses sees all of a target's program.
const FLAGS: &str = "-Zsanitizer=address -Cdebug-assertions -Ccodegen-units=1";
/// The coverage that libFuzzer goes by is the library's: what a model of guests does is nothing to
/// look for, and to count it takes more time than the library does. Comparisons are not traced, as
/// input is taken for choices, not for numbers that the library compares.
const COVERAGE: [&str; 4] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
];
/// Memory that was freed is kept from use for long by default, and then each run begins with memory
/// that no cache has.
const SANITIZER: &str = "detect_leaks=1:quarantine_size_mb=16:thread_local_quarantine_size_kb=64";
/// A plain loop keeps the memory that it had: to give it back to the kernel after each run, and to
/// get it anew, takes as long as many a run.
const KEEP_MEMORY: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
    ("MALLOC_TRIM_THRESHOLD_", "1073741824"),
    ("MALLOC_TOP_PAD_", "16777216"),
];
/// How often each target runs among all the other tests: so often that it takes a processor about
/// ten seconds.
const TEST_RUNS: [(&str, u64); 6] = [
    ("hostile", 60_000),
    ("honest", 15_000),
    ("state", 60_000),
    ("pageset", 8_000_000),
    ("dirty", 60_000),
    ("abi", 300_000),
];
/// How long the whole binary runs where it is built with sanitizers anyway.
const TEST_QEMU_SECONDS: u64 = 60;
/// Among all the other tests a target runs the same inputs each time, so that a failure is not
/// chance. (The whole binary runs for a time, and so as many of them as the machine is quick.)
const TEST_SEED: u64 = 1;

#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// Only this target: hostile, honest, state, pageset, dirty, abi, qemu
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 1)]
    minutes: u64,
    /// In a plain loop, as without a nightly toolchain
    #[arg(long)]
    plain: bool,
    /// Where the inputs of a plain loop begin [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Once with the input in this file, of one target
    #[arg(long, value_name = "FILE", requires = "target")]
    once: Option<PathBuf>,
    /// Record what guests of this line of Linux send, such as 7.3, for the targets to begin with
    #[arg(long, value_name = "LINE", conflicts_with = "target")]
    record: Option<String>,
}

/// Runs what was asked for; gives whether nothing was found.
///
/// # Errors
/// When something cannot be built or started.
pub(crate) fn run(paths: &Paths, args: &FuzzArgs) -> Result<bool> {
    if let Some(line) = &args.record {
        return record(paths, line).map(|()| true);
    }
    let names = match &args.target {
        None => [&TARGETS[..], &[QEMU]].concat(),
        Some(name) => vec![known(name)?],
    };
    if let Some(file) = &args.once {
        return once(paths, names[0], file);
    }
    let seconds = args.minutes * 60;
    let seed = args.seed.unwrap_or_else(any_seed);
    let coverage = !args.plain && args.seed.is_none() && has_nightly(paths);
    if !coverage {
        println!("In a plain loop, from seed {seed} on.");
    }
    let mut all_well = true;
    for name in names {
        all_well &= match name {
            QEMU => with_qemu(paths, seconds, seed)?,
            _ if coverage => libfuzzer(paths, name, seconds)?,
            _ => plain(paths, name, Until::Seconds(seconds), seed)?,
        };
    }
    Ok(all_well)
}

/// What is in the corpus, and a short run of the library's targets, in the plain loop.
///
/// # Errors
/// When something cannot be built or started.
pub(crate) fn short(paths: &Paths) -> Result<Tally> {
    let mut tests = rust::cargo(paths);
    tests.args(["test", "--locked", "--profile", "fuzz", "-p", PACKAGE]);
    let mut tally = rust::run_counted(paths, PACKAGE, &mut tests)?;
    for (name, runs) in TEST_RUNS {
        tally += count(plain(paths, name, Until::Runs(runs), TEST_SEED)?);
    }
    Ok(tally)
}

/// A short run of the whole binary.
///
/// # Errors
/// When something cannot be built or started.
pub(crate) fn short_qemu(paths: &Paths) -> Result<Tally> {
    Ok(count(with_qemu(paths, TEST_QEMU_SECONDS, TEST_SEED)?))
}

fn count(is_well: bool) -> Tally {
    if is_well {
        Tally::one()
    } else {
        Tally::failure()
    }
}

fn known(name: &str) -> Result<&'static str> {
    let mut all = TARGETS.into_iter().chain([QEMU]);
    all.find(|known| *known == name).ok_or_else(|| {
        let all = [&TARGETS[..], &[QEMU]].concat().join(", ");
        Error::new(
            format!("there is no target {name}"),
            format!("take one of {all}"),
        )
    })
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(TEST_SEED, |now| now.as_micros() as u64)
}

fn has_nightly(paths: &Paths) -> bool {
    succeeds(rust::nightly(paths).arg("--version"))
}

/// Where inputs go by which something is wrong.
fn findings(paths: &Paths) -> Result<PathBuf> {
    let dir = paths.target().join("fuzz").join("findings");
    make_dir(&dir)?;
    Ok(dir)
}

/// The inputs that are in the project.
fn corpus(paths: &Paths, name: &str) -> PathBuf {
    paths.top().join("tests/fuzz/corpus").join(name)
}

fn reproduce(name: &str, file: &Path) {
    println!("  Something is wrong. To see it again:");
    println!("  cargo xtask fuzz {name} --once {}", file.display());
}

/// When a plain loop ends.
#[derive(Clone, Copy)]
enum Until {
    Seconds(u64),
    Runs(u64),
}

impl Until {
    /// As the program takes it.
    fn args(self) -> [String; 2] {
        match self {
            Self::Seconds(count) => ["--seconds".into(), count.to_string()],
            Self::Runs(count) => ["--runs".into(), count.to_string()],
        }
    }
}

fn plain(paths: &Paths, name: &str, until: Until, seed: u64) -> Result<bool> {
    let findings = findings(paths)?;
    // The loop keeps its input here, for the case that the process ends.
    let current = findings.join(format!("current-{name}"));
    stamp::forget(&current)?;
    let mut command = program(paths, PACKAGE);
    command.args(["loop", name]).args(until.args());
    command.arg("--seed").arg(seed.to_string());
    command.arg("--corpus").arg(corpus(paths, name));
    command.arg("--findings").arg(&findings);
    command.envs(KEEP_MEMORY);
    let said = format!("{name}: something is wrong with ");
    let watched = watch(paths, name, &mut command, |line| {
        line.strip_prefix(&said).map(PathBuf::from)
    });
    match watched {
        Err(error) if current.exists() => {
            println!("  {error}");
            let ended = findings.join(format!("ended-{name}"));
            fs::rename(&current, &ended).at("rename to", &ended)?;
            reproduce(name, &ended);
            Ok(false)
        }
        watched => watched,
    }
}

/// The program of a package of ours, built quick and with all checks.
fn program(paths: &Paths, package: &str) -> Command {
    let mut command = rust::cargo(paths);
    command.args(["run", "--locked", "--profile", "fuzz", "-p", package]);
    command.args(["--bin", package, "--"]);
    command
}

/// Runs a program that looks for faults; `finding` reads the name of a file from what it says.
fn watch(
    paths: &Paths,
    name: &str,
    command: &mut Command,
    finding: impl Fn(&str) -> Option<PathBuf>,
) -> Result<bool> {
    let mut found = None;
    let mut last = String::new();
    let ran = Step {
        name: &format!("fuzz {name}"),
        log: paths.log(&format!("fuzz-{name}")),
        todo: "see its log",
    }
    .run_lines(command, &mut |line| {
        found = finding(line).or_else(|| found.take());
        if line.starts_with(name) || line.starts_with("stat::number_of_executed_units") {
            line.clone_into(&mut last);
        }
    });
    println!("  {last}");
    match (found, ran) {
        (Some(file), _) => {
            reproduce(name, &file);
            Ok(false)
        }
        (None, ran) => ran.map(|()| true),
    }
}

fn libfuzzer(paths: &Paths, name: &str, seconds: u64) -> Result<bool> {
    let built = paths.target().join("fuzz").join("coverage");
    let mut build = rust::nightly(paths);
    build.args(["build", "--locked", "--profile", "fuzz"]);
    build.args(["-p", "fuzz", "--features", "libfuzzer", "--bin", name]);
    build.args(["--target", TRIPLE, "--target-dir"]).arg(&built);
    let coverage = COVERAGE.map(|flag| format!("\"{flag}\"")).join(", ");
    build.arg("-Zprofile-rustflags");
    for package in rust::LIBRARY {
        let flags = format!("profile.fuzz.package.{package}.rustflags = [{coverage}]");
        build.args(["--config", &flags]);
    }
    build.env("RUSTFLAGS", FLAGS);
    Step {
        name: &format!("build {name} for libFuzzer"),
        log: paths.log(&format!("fuzz-build-{name}")),
        todo: "see its log, or run this with --plain",
    }
    .run(&mut build)?;
    let grown = paths.target().join("fuzz").join("corpus").join(name);
    make_dir(&grown)?;
    let prefix = format!("{}/{name}-", findings(paths)?.display());
    let mut command = Command::new(built.join(TRIPLE).join("fuzz").join(name));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={prefix}"));
    command.args(["-print_final_stats=1", "-timeout=60", "-rss_limit_mb=4096"]);
    command.arg(&grown);
    let seeds = corpus(paths, name);
    if seeds.exists() {
        command.arg(seeds);
    }
    command.env("ASAN_OPTIONS", SANITIZER);
    watch(paths, name, &mut command, |line| {
        let (_, file) = line.split_once("Test unit written to ")?;
        Some(PathBuf::from(file))
    })
}

fn once(paths: &Paths, name: &str, file: &Path) -> Result<bool> {
    let file = std::path::absolute(file).at("find", file)?;
    let mut command = match name {
        QEMU => {
            let mut command = program(paths, "fuzz-qemu");
            command.arg("replay").arg("--qemu").arg(asan(paths)?);
            command
        }
        _ => {
            let mut command = program(paths, PACKAGE);
            command.args(["once", name]);
            command
        }
    };
    let status = command.arg(&file).status().at("run it with", &file)?;
    Ok(status.success())
}

/// Writes anew what the targets know of guests of this line.
fn record(paths: &Paths, line: &str) -> Result<()> {
    let file = paths.top().join(format!("tests/fuzz/traffic/linux-{line}"));
    if file.exists() {
        fs::remove_file(&file).at("remove", &file)?;
    }
    let build = qemu::build(paths, &Wanted::default())?;
    guests::record(paths, &build, line, &file)?;
    println!("  {}", file.display());
    Ok(())
}

/// QEMU with sanitizers.
fn asan(paths: &Paths) -> Result<PathBuf> {
    let wanted = Wanted {
        variant: Some(Variant::Asan),
        ..Wanted::default()
    };
    Ok(qemu::build(paths, &wanted)?.binary())
}

fn with_qemu(paths: &Paths, seconds: u64, seed: u64) -> Result<bool> {
    let qemu = asan(paths)?;
    let mut command = program(paths, "fuzz-qemu");
    command.arg("run").arg("--qemu").arg(qemu);
    command.arg("--seconds").arg(seconds.to_string());
    command.arg("--seed").arg(seed.to_string());
    command.arg("--findings").arg(findings(paths)?);
    watch(paths, QEMU, &mut command, |line| {
        line.strip_prefix("qemu: something is wrong with ")
            .map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_are_those_of_the_crate() {
        let paths = Paths::new();
        let lib = fs::read_to_string(paths.top().join("tests/fuzz/src/lib.rs")).unwrap();
        for name in TARGETS {
            assert!(lib.contains(&format!("name: \"{name}\"")), "{name}");
            let file = format!("tests/fuzz/fuzz_targets/{name}.rs");
            assert!(paths.top().join(file).exists(), "{name}");
        }
        assert_eq!(lib.matches("        name: \"").count(), TARGETS.len());
        assert_eq!(TEST_RUNS.map(|(name, _)| name), TARGETS);
    }

    #[test]
    fn a_target_that_is_not_there_is_named() {
        assert_eq!(known("qemu").unwrap(), "qemu");
        let error = known("nothing").unwrap_err().to_string();
        assert!(error.contains("there is no target nothing; take one of hostile"));
    }
}
