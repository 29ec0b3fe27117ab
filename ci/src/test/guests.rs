// SPDX-License-Identifier: GPL-2.0-or-later

//! Linux guests, run by the crate `guest`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::rust;
use super::tally::Tally;
use crate::apt::{self, Apt, Kind};
use crate::error::{At, Error, Result};
use crate::paths::Paths;
use crate::qemu::{self, Build, Wanted};
use crate::run::{Step, output};
use crate::stamp::{make_dir, write_whole};

/// The package with the tests.
pub(super) const PACKAGE: &str = "guest";
/// Releases of Debian whose kernels guests are run with.
const RELEASES: &[&str] = &["bookworm", "trixie", "trixie-backports", "forky", "sid"];
/// The tests of our own driver, which a kernel without headers cannot have.
const OF_OUR_DRIVER: &str = "founding";
/// The test of a device that breaks, which needs a QEMU for tests.
const OF_A_FAULT: &str = "a_guest_whose_device_broke";
/// The newest line of Linux that guests are run with.
const NEWEST: &str = "7.3";

/// What a guest does while it is recorded, beside the life of its line: it moves with hints, and
/// with pages in the balloon, and tells statistics.
const RECORDED: [&str; 3] = [
    "ways::hints_with_multifd",
    "ballooned::ballooned_pages_are_not_sent",
    "statistics_are_those_of_proc_meminfo",
];

/// Without MUST_TELL_HOST no set of pages moves.
const RECORDED_DEVICE: &str = "virtio-balloon-rs,must-tell-host=on";

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
    let image = image(paths, build, line)?;
    if let Image::None(why) = &image {
        return Err(Error::new(
            format!("there is no guest of Linux {line}: {why}"),
            "take another line",
        ));
    }
    of_line(paths, build, line, &image, options.filter)
}

/// Runs all of them with the newest kernel, if it can be had.
///
/// # Errors
/// When they do not build, or when none ran.
pub(crate) fn newest(paths: &Paths, build: &Build) -> Result<Tally> {
    match image(paths, build, NEWEST)? {
        Image::None(why) => Ok(Tally::skip(format!("guests of Linux {NEWEST}: {why}"))),
        image => of_line(paths, build, NEWEST, &image, None),
    }
}

/// Runs those that this image has the drivers for.
fn of_line(
    paths: &Paths,
    build: &Build,
    line: &str,
    image: &Image,
    filter: Option<&str>,
) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut command = command(paths, build, "test")?;
    command.arg("--no-fail-fast").env("VBR_KERNEL", line);
    if let Image::WithoutDriver(why) = image {
        tally += Tally::skip(format!("{OF_OUR_DRIVER} with Linux {line}: {why}"));
        for test in tests_without(paths, OF_OUR_DRIVER)? {
            command.args(["--test", &test]);
        }
    }
    let name = format!("guest of Linux {line}");
    tally += counted(paths, &name, &mut command, filter)?;
    Ok(tally)
}

/// Runs guests of this line with QEMU under gdb, which writes to `file` what they send through the
/// balloon.
///
/// # Errors
/// When there is no gdb or no such guest.
pub(crate) fn record(paths: &Paths, build: &Build, line: &str, file: &Path) -> Result<()> {
    let dir = paths.target().join("fuzz");
    make_dir(&dir)?;
    let script = paths.top().join("tests/fuzz/traffic/record.py");
    let qemu = dir.join("recorded-qemu");
    let text = format!(
        "#!/bin/sh\nexec gdb -nx -batch -x {} --args {} \"$@\"\n",
        script.display(),
        build.binary().display()
    );
    write_whole(&qemu, &text)?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&qemu, mode).at("make executable", &qemu)?;
    let mut command = command(paths, build, "test")?;
    for program in ["kernels", "hints", "statistics"] {
        command.args(["--test", program]);
    }
    let life = format!("a_life_with_linux_{}", line.replace('.', "_"));
    command.args(["--no-fail-fast", "--", "--include-ignored", "--exact"]);
    // One after the other, as they write to one file.
    command
        .args(["--test-threads", "1"])
        .arg(life)
        .args(RECORDED);
    command.env("VBR_QEMU", &qemu).env("VBR_KERNEL", line);
    command
        .env("VBR_DEVICE", RECORDED_DEVICE)
        .env("VBR_RECORD", file);
    let ran = Step {
        name: &format!("record a guest of Linux {line}"),
        log: paths.log(&format!("fuzz-record-{line}")),
        todo: "see its log; gdb is needed, too",
    }
    .run(&mut command);
    match ran {
        // QEMU is slow under gdb, and a guest may not get as far as its test wants.
        Err(error) if file.exists() => println!("  {error}"),
        ran => return ran,
    }
    Ok(())
}

/// Runs the test of a device that breaks, with a QEMU in which it can be made to.
///
/// # Errors
/// When it does not build, or when it did not run.
pub(crate) fn broken(paths: &Paths, wanted: &Wanted) -> Result<Tally> {
    let build = qemu::build(paths, wanted)?;
    let mut command = command(paths, &build, "test")?;
    // QEMU does not free all that is its own when it ends.
    command.env("ASAN_OPTIONS", "detect_leaks=0");
    let tally = counted(paths, "guest-broken", &mut command, Some(OF_A_FAULT))?;
    match tally.skipped.first() {
        None => Ok(tally),
        Some(why) => Err(Error::new(
            why.clone(),
            "see whether the build can make calls of the library fail",
        )),
    }
}

fn of_machine(paths: &Paths, build: &Build, filter: Option<&str>) -> Result<Tally> {
    let mut command = command(paths, build, "test")?;
    counted(paths, "guest", command.arg("--no-fail-fast"), filter)
}

/// cargo with the crate `guest`, this QEMU, and the kernels of other releases of Debian.
fn command(paths: &Paths, build: &Build, what: &str) -> Result<Command> {
    let mut command = rust::cargo(paths);
    command.args([what, "--locked", "-p", PACKAGE]);
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

/// Which guest there is of a line of Linux.
#[derive(Debug, PartialEq, Eq)]
enum Image {
    /// One with our own driver.
    Whole,
    /// One without it, and why.
    WithoutDriver(String),
    /// None, as neither this machine nor its archive has what it takes.
    None(String),
}

/// Makes the image of a guest with this kernel.
///
/// # Errors
/// When it cannot be made, for whatever other reason than that there is no such kernel.
fn image(paths: &Paths, build: &Build, line: &str) -> Result<Image> {
    let mut command = command(paths, build, "run")?;
    command.args(["--quiet", "--example", "image"]);
    let said = output(command.env("VBR_KERNEL", line))?;
    image_of(&said).ok_or_else(|| {
        Error::new(
            format!("it is not known which guest of Linux {line} was made: {said}"),
            "see tests/guest/examples/image.rs",
        )
    })
}

/// What the example `image` of the crate `guest` said.
fn image_of(said: &str) -> Option<Image> {
    let (first, rest) = said.trim_end().split_once('\n').unwrap_or((said, ""));
    match (first.split_once(": ")?, rest.strip_prefix("no driver: ")) {
        (("no kernel", why), _) => Some(Image::None(why.trim_end().into())),
        (("kernel", _), Some(why)) => Some(Image::WithoutDriver(why.into())),
        (("kernel", _), None) if rest.is_empty() => Some(Image::Whole),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_example_says_is_understood() {
        let without = Image::WithoutDriver("no gcc-99".into());
        let none = Image::None("the archive has no such kernel".into());
        for (said, image) in [
            ("kernel: /a/vmlinuz\n", Some(Image::Whole)),
            ("kernel: /a/vmlinuz\nno driver: no gcc-99\n", Some(without)),
            ("no kernel: the archive has no such kernel\n", Some(none)),
            ("kernel: /a/vmlinuz\nwhat else\n", None),
            ("/a/vmlinuz\n", None),
            ("", None),
        ] {
            assert_eq!(image_of(said), image, "{said}");
        }
    }
}
