// SPDX-License-Identifier: GPL-2.0-or-later

//! QEMU's device tests: ours in its test library, and its own that could notice us.

use std::fs::Permissions;
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;
use std::thread::available_parallelism;

use super::tally::Tally;
use crate::error::{At, Error, Result};
use crate::paths::Paths;
use crate::qemu::{self, Build, Variant, Wanted};
use crate::run::{Step, output};
use crate::setup;

/// The program that runs the tests of QEMU's driver library.
const QOS: &str = "tests/qtest/qos-test";
/// What the names of our tests and devices hold.
const OURS: &str = "virtio-balloon-rs";
/// QEMU's own tests that see every device, or the balloon.
const QEMUS: &[&str] = &[
    "tests/qtest/virtio-balloon-test",
    "tests/qtest/device-introspect-test",
    "tests/qtest/qmp-cmd-test",
    "tests/qtest/qom-test",
    "tests/qtest/test-hmp",
];
/// QEMU's own tests of migration.
const MIGRATION: &str = "tests/qtest/migration-test";
/// What they start instead of QEMU, whose path is put in: the firmware of some hosts takes half a minute to
/// boot q35, which is the machine that these tests ask for, and next to nothing for pc.
const ON_PC: &str = r#"#!/bin/sh
count=$#
while [ "$count" -gt 0 ]; do
    word=$(printf %s "$1" | sed s/pc-q35-/pc-i440fx-/)
    shift
    set -- "$@" "$word"
    count=$((count - 1))
done
exec "@QEMU@" "$@"
"#;
/// Its guest fills KVM's dirty ring faster than a nested KVM lets QEMU empty it, patched or not.
const HANGS_NESTED: &str = "dirty_ring";
/// In seconds: four times what the longest of these programs takes where nothing else runs.
const LIMIT: &str = "2400";
/// The tests that have each call of the library fail, one after the other.
const FAULTS: &str = "/x86_64/virtio-balloon-rs/fault";
/// The same for these: all of them took an hour and a half where much else ran. Each part of them
/// has a limit of its own.
const FAULTS_LIMIT: &str = "14400";

/// Builds and runs our device tests.
///
/// # Errors
/// When they do not build, or when none ran.
pub(crate) fn ours(paths: &Paths, wanted: &Wanted) -> Result<Tally> {
    qemu::build(paths, wanted)?;
    let build = qemu::build_where(paths, wanted, |goal| goal == QOS || is_our_program(goal))?.0;
    let mut tally = faults_only_where_wanted(&build, wanted)?;
    let inject = wanted.variant == Some(Variant::Inject);
    let mut names = listed(paths, &build, QOS)?;
    names.retain(|name| name.contains(OURS));
    let programs = our_programs(&build);
    if names.is_empty() || programs.is_empty() {
        return Err(none_ran(if names.is_empty() { QOS } else { OURS }, &build));
    }
    tally += side_by_side(paths, &build, QOS, &names)?;
    for name in programs {
        let (faults, others): (Vec<_>, Vec<_>) = listed(paths, &build, &name)?
            .into_iter()
            .partition(|test| inject && test.starts_with(FAULTS));
        tally += side_by_side(paths, &build, &name, &others)?;
        if !faults.is_empty() {
            tally += run_faults(paths, &build, &name)?;
        }
    }
    Ok(tally)
}

/// An error for a program that ran nothing, which it takes for success.
fn none_ran(name: &str, build: &Build) -> Error {
    Error::new(
        format!("no test of {name} ran in {}", build.dir.display()),
        "check that the device and its tests are in the build",
    )
}

/// Only a build for tests has a library whose calls fail when they are told to.
fn faults_only_where_wanted(build: &Build, wanted: &Wanted) -> Result<Tally> {
    let library = build.dir.join(qemu::LIBRARY);
    let bytes = std::fs::read(&library).at("read", &library)?;
    let (found, inject) = (
        holds_faults(&bytes),
        wanted.variant == Some(Variant::Inject),
    );
    if found == inject {
        return Ok(Tally::one());
    }
    let what = format!(
        "{} {} calls that fail when they are told to",
        library.display(),
        if found { "has" } else { "lacks" }
    );
    Err(Error::new(
        what,
        "see which features of the crate it was built with",
    ))
}

/// Whether the variable's name, or a function's, is in the library.
fn holds_faults(library: &[u8]) -> bool {
    let has = |word: &[u8]| library.windows(word.len()).any(|at| at == word);
    has(b"VBR_INJECT") || has(b"vbr_inject_")
}

/// Builds and runs those of QEMU.
pub(crate) fn qemus(paths: &Paths, wanted: &Wanted) -> Result<Tally> {
    let mut tally = named(paths, wanted, QEMUS)?;
    tally += migration(paths, wanted)?;
    Ok(tally)
}

fn migration(paths: &Paths, wanted: &Wanted) -> Result<Tally> {
    let build = qemu::build_where(paths, wanted, |goal| goal == MIGRATION)?.0;
    if !build.dir.join(MIGRATION).exists() {
        return Ok(Tally::skip(format!(
            "{MIGRATION}: not for {}",
            build.target
        )));
    }
    let names = listed(paths, &build, MIGRATION)?;
    let mut tally = Tally::default();
    let mut args = Vec::new();
    for name in &names {
        if name.contains(HANGS_NESTED) {
            tally += Tally::skip(format!("{name}: hangs where KVM is nested"));
        } else {
            args.extend(["-p", name.as_str()]);
        }
    }
    let mut command = in_build(paths, &build, Path::new(MIGRATION));
    command.env("QTEST_QEMU_BINARY", on_pc(paths, &build)?);
    tally += run(
        paths,
        &build,
        MIGRATION,
        command.args(["--tap", "-k"]).args(args),
    )?;
    Ok(tally)
}

/// A program that starts QEMU with machine pc where q35 is asked for; its name tells the target.
fn on_pc(paths: &Paths, build: &Build) -> Result<PathBuf> {
    let dir = paths
        .target()
        .join("tmp")
        .join(format!("pc-{}", build.series.name));
    let qemu = build.binary();
    let at = dir.join(qemu.file_name().unwrap_or_default());
    let text = ON_PC.replace("@QEMU@", &qemu.display().to_string());
    let written = std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&at, text))
        .and_then(|()| std::fs::set_permissions(&at, Permissions::from_mode(0o755)));
    written.map_err(|error| {
        Error::new(
            format!("{} cannot be written: {error}", at.display()),
            "see that there is room",
        )
    })?;
    Ok(at)
}

/// Builds the emulator and runs QEMU's test that creates and describes every device.
///
/// # Errors
/// When it does not build, or our device is not among them.
pub(crate) fn introspect(paths: &Paths, wanted: &Wanted) -> Result<Tally> {
    let build = qemu::build(paths, wanted)?;
    let mut help = Command::new(build.binary());
    if !output(help.args(["-device", "help"]))?.contains(OURS) {
        let what = format!("{} does not have {OURS}", build.binary().display());
        return Err(Error::new(what, "see why meson left it out of this build"));
    }
    named(paths, wanted, &["tests/qtest/device-introspect-test"])
}

fn named(paths: &Paths, wanted: &Wanted, programs: &[&str]) -> Result<Tally> {
    let build = qemu::build_where(paths, wanted, |goal| programs.contains(&goal))?.0;
    let mut tally = Tally::default();
    for name in programs {
        if build.dir.join(name).exists() {
            tally += program(paths, &build, name, &[])?;
        } else {
            tally += Tally::skip(format!("{name}: not for {}", build.target));
        }
    }
    Ok(tally)
}

fn is_our_program(goal: &str) -> bool {
    goal.strip_prefix("tests/qtest/").is_some_and(|name| {
        name.starts_with(OURS) && name.ends_with("-test") && !name.contains('/')
    })
}

fn our_programs(build: &Build) -> Vec<String> {
    let entries = std::fs::read_dir(build.dir.join("tests/qtest"))
        .into_iter()
        .flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.map(|name| format!("tests/qtest/{name}")).collect();
    names.retain(|name| is_our_program(name));
    names.sort();
    names
}

/// The full names of a program's tests: it runs nothing for a part of a name, and that passes.
fn listed(paths: &Paths, build: &Build, program: &str) -> Result<Vec<String>> {
    let list = output(in_build(paths, build, Path::new(program)).arg("-l"))?;
    let names: Vec<String> = list.lines().filter_map(test_name).collect();
    match names.is_empty() {
        true => Err(Error::new(
            format!("{program} -l names no test in {}", build.dir.display()),
            "see what this GLib prints for -l",
        )),
        false => Ok(names),
    }
}

/// The name that a line of `-l` gives: newer releases of GLib write it as a comment of TAP.
fn test_name(line: &str) -> Option<String> {
    let name = line.strip_prefix("# ").unwrap_or(line);
    name.starts_with('/').then(|| name.to_owned())
}

fn in_build(paths: &Paths, build: &Build, program: &Path) -> Command {
    in_build_for(LIMIT, paths, build, program)
}

/// The same with another limit.
fn in_build_for(limit: &str, paths: &Paths, build: &Build, program: &Path) -> Command {
    let leaks = paths.top().join("ci/leaks.supp");
    let mut command = Command::new("timeout");
    command
        .arg(limit)
        .arg(build.dir.join(program))
        .current_dir(&build.dir)
        .env("QTEST_QEMU_BINARY", build.binary())
        // The migration test has it run QEMU's own script that reads streams.
        .env("PYTHON", setup::PYTHON)
        // GLib keeps no frame pointers: without this a leak does not say where it comes from.
        .env("ASAN_OPTIONS", "fast_unwind_on_malloc=0")
        .env(
            "LSAN_OPTIONS",
            format!("print_suppressions=0:suppressions={}", leaks.display()),
        );
    command
}

/// Runs one test program.
fn program(paths: &Paths, build: &Build, name: &str, args: &[&str]) -> Result<Tally> {
    let mut command = in_build(paths, build, Path::new(name));
    run(paths, build, name, command.args(["--tap", "-k"]).args(args))
}

/// Runs the tests of faults, in one process: at their end it says which functions never failed.
fn run_faults(paths: &Paths, build: &Build, name: &str) -> Result<Tally> {
    let mut command = in_build_for(FAULTS_LIMIT, paths, build, Path::new(name));
    // What QEMU leaks is looked at; the test program itself leaks its queues, and half of the time
    // would go by on saying where.
    command.env("ASAN_OPTIONS", "detect_leaks=0");
    run(
        paths,
        build,
        &format!("{name}-faults"),
        command.args(["--tap", "-k", "-p", FAULTS]),
    )
}

/// Runs these tests of one program, a part of them for each processor. What they share of the
/// host, its huge pages, they take in turn.
fn side_by_side(paths: &Paths, build: &Build, name: &str, tests: &[String]) -> Result<Tally> {
    let parts = available_parallelism().map_or(1, NonZero::get);
    let mut commands = Vec::new();
    for part in 0..parts.min(tests.len()) {
        let mut command = in_build(paths, build, Path::new(name));
        command.args(["--tap", "-k"]);
        for test in tests.iter().skip(part).step_by(parts) {
            command.args(["-p", test]);
        }
        commands.push(command);
    }
    run_all(paths, build, name, &mut commands)
}

fn run(paths: &Paths, build: &Build, name: &str, command: &mut Command) -> Result<Tally> {
    run_all(paths, build, name, slice::from_mut(command))
}

/// Runs test programs beside each other; one that ends badly counts as a failed test.
fn run_all(paths: &Paths, build: &Build, name: &str, commands: &mut [Command]) -> Result<Tally> {
    let short = name.trim_start_matches("tests/qtest/");
    let log = paths.log(&format!("{short}-{}-{}", build.series.name, build.name()));
    let mut tally = Tally::default();
    let step = Step {
        name: short,
        log,
        todo: "see its log",
    };
    let result = step.run_side_by_side(commands, &mut |line| tally.tap_line(line));
    if let Err(error) = result {
        println!("  {error}");
        tally.failed = tally.failed.max(1);
    }
    println!(
        "  {short}: {} passed, {} failed",
        tally.passed, tally.failed
    );
    match tally.is_empty() {
        true => Err(none_ran(short, build)),
        false => Ok(tally),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_in_lists_of_old_and_new_glib() {
        let old = "/x86_64/a/b\n/x86_64/a/c\n";
        let new = "TAP version 14\n# random seed: R02S1\n# starting QEMU: exec /q -qtest unix:/s\n\
                   1..2\n# Start of x86_64 tests\n# /x86_64/a/b\n# /x86_64/a/c\n# End of x86_64 tests\n";
        let names = |list: &str| list.lines().filter_map(test_name).collect::<Vec<_>>();
        assert_eq!(names(old), ["/x86_64/a/b", "/x86_64/a/c"]);
        assert_eq!(names(new), names(old));
    }

    #[test]
    fn our_programs_are_told_from_their_parts() {
        assert!(is_our_program(
            "tests/qtest/virtio-balloon-rs-migration-test"
        ));
        assert!(!is_our_program("tests/qtest/virtio-balloon-test"));
        assert!(!is_our_program(
            "tests/qtest/virtio-balloon-rs-test.p/x.c.o"
        ));
    }
}
