// SPDX-License-Identifier: GPL-2.0-or-later

//! Linux guests, run by the crate `guest`.

use std::fs;
use std::process::Command;

use super::rust;
use super::tally::Tally;
use crate::apt::{self, Apt, Kind};
use crate::error::{At, Result};
use crate::paths::Paths;
use crate::qemu::Build;
use crate::run::output;

/// Releases of Debian whose kernels guests are run with.
const RELEASES: &[&str] = &["bookworm", "trixie", "trixie-backports", "forky", "sid"];
/// The tests of our own driver, which a kernel without headers cannot have.
const OF_OUR_DRIVER: &str = "founding";
/// The newest line of Linux that guests are run with.
const NEWEST: &str = "7.3";

/// Which guests to run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options<'a> {
    /// Those tests whose names contain this.
    pub(crate) filter: Option<&'a str>,
    /// The line of the guest's kernel, such as 7.3, or that of the machine's own apt.
    pub(crate) kernel: Option<&'a str>,
}

/// Runs the tests of the crate `guest` with this QEMU, or some of them.
///
/// # Errors
/// When there is no such guest, when they do not build, or when none ran.
pub(crate) fn test(paths: &Paths, build: &Build, options: Options<'_>) -> Result<Tally> {
    let Some(line) = options.kernel else {
        return of_machine(paths, build, options.filter);
    };
    let mut tally = Tally::default();
    let mut command = command(paths, build, "test")?;
    command.arg("--no-fail-fast").env("VBR_KERNEL", line);
    if let Some(why) = without_driver(paths, build, line)? {
        tally += Tally::skip(format!("{OF_OUR_DRIVER} with Linux {line}: {why}"));
        for test in tests_without(paths, OF_OUR_DRIVER)? {
            command.args(["--test", &test]);
        }
    }
    tally += counted(
        paths,
        &format!("guest of Linux {line}"),
        &mut command,
        options.filter,
    )?;
    Ok(tally)
}

/// Runs all of them with the newest kernel, if it can be had.
///
/// # Errors
/// When they do not build, or when none ran.
pub(crate) fn newest(paths: &Paths, build: &Build) -> Result<Tally> {
    if let Err(why) = without_driver(paths, build, NEWEST) {
        return Ok(Tally::skip(format!("guests of Linux {NEWEST}: {why}")));
    }
    let kernel = Some(NEWEST);
    test(
        paths,
        build,
        Options {
            filter: None,
            kernel,
        },
    )
}

fn of_machine(paths: &Paths, build: &Build, filter: Option<&str>) -> Result<Tally> {
    let mut command = command(paths, build, "test")?;
    counted(paths, "guest", command.arg("--no-fail-fast"), filter)
}

/// cargo with the crate `guest`, this QEMU, and the kernels of other releases of Debian.
fn command(paths: &Paths, build: &Build, what: &str) -> Result<Command> {
    let mut command = rust::cargo(paths);
    command.args([what, "--locked", "-p", "guest"]);
    command
        .env("VBR_QEMU", build.binary())
        .env("VBR_GUEST", paths.guest());
    if let Some(archive) = apt::configured() {
        let apt = Apt::new(paths, "kernels", &archive.list(Kind::Binary, RELEASES))?;
        command.env("VBR_APT_CONFIG", apt.config());
    }
    Ok(command)
}

fn counted(
    paths: &Paths,
    name: &str,
    command: &mut Command,
    filter: Option<&str>,
) -> Result<Tally> {
    // They are marked as ignored because they need a QEMU, which is here now.
    command.args(["--", "--show-output", "--include-ignored"]);
    rust::run_counted(paths, name, command.args(filter))
}

/// Makes the image of a guest with this kernel; why it is without our own driver, if it is.
///
/// # Errors
/// When this kernel cannot be had.
fn without_driver(paths: &Paths, build: &Build, line: &str) -> Result<Option<String>> {
    let mut command = command(paths, build, "run")?;
    command.args(["--quiet", "--example", "image"]);
    let said = output(command.env("VBR_KERNEL", line))?;
    let why = said.lines().skip(1).collect::<Vec<_>>().join(" ");
    Ok((!why.is_empty()).then_some(why))
}

/// The names of all test programs of the crate `guest` but one.
fn tests_without(paths: &Paths, left_out: &str) -> Result<Vec<String>> {
    let dir = paths.top().join("tests/guest/tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).at("read", &dir)? {
        let name = entry.at("read", &dir)?.file_name();
        let name = name.to_string_lossy().trim_end_matches(".rs").to_owned();
        if name != left_out {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
