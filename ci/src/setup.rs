// SPDX-License-Identifier: GPL-2.0-or-later

//! What the machine must have: system packages, room, and meson.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::paths::Paths;
use crate::run::{Step, output, succeeds};
use crate::stamp;

/// Debian packages that the Rust and C parts of the project take.
pub(crate) const BASE: &[&str] = &["ca-certificates", "g++", "gcc", "git", "libc6-dev"];
/// Debian packages that building QEMU takes on top.
pub(crate) const QEMU: &[&str] = &[
    "bison",
    "bzip2",
    "curl",
    "diffutils",
    "dpkg-dev",
    "flex",
    "libfdt-dev",
    "libglib2.0-dev",
    "make",
    "ninja-build",
    "perl",
    "pkg-config",
    "python3",
    "python3-venv",
    "xz-utils",
];
/// Debian packages that running guests takes: their image, a driver for their kernel (its
/// tools read ELF files) and QEMU's firmware.
pub(crate) const GUEST: &[&str] = &[
    "busybox-static",
    "cpio",
    "ipxe-qemu",
    "kmod",
    "libelf-dev",
    "make",
    "qemu-system-data",
    "seabios",
    "xz-utils",
];
/// Debian packages that QEMU's own Rust takes on top.
pub(crate) const QEMU_RUST: &[&str] = &["clang", "libclang-dev"];

/// The meson that drives QEMU's build; any from 1.9 on does for both series.
const MESON: &str = "meson==1.9.1";

/// Room for the sources and one build of a series, in MiB.
const SERIES_MIB: u64 = 6 * 1024;

/// Makes sure that these packages are there.
///
/// # Errors
/// When some are missing and this is not root on a Debian; the line holds the command to type.
pub(crate) fn packages(paths: &Paths, wanted: &[&[&str]]) -> Result<()> {
    let names: BTreeSet<&str> = wanted
        .iter()
        .flat_map(|list| list.iter().copied())
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    let missing = missing(&names)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    if !root || !succeeds(Command::new("apt-get").arg("--version")) {
        return Err(Error::new(
            format!("packages are missing: {list}"),
            format!("install them: sudo apt-get install {list}"),
        ));
    }
    let log = paths.log("apt-install");
    let todo = "see what apt said; try `apt-get update` and this again";
    Step {
        name: "refresh the package lists",
        log: paths.log("apt-update"),
        todo,
    }
    .run(Command::new("apt-get").args([
        "-q",
        "-o",
        "APT::Update::Error-Mode=any",
        "update",
    ]))?;
    Step {
        name: &format!("install {list}"),
        log,
        todo,
    }
    .run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-y", "--no-install-recommends", "install"])
            .args(&missing),
    )
}

/// The packages of this list that are not installed; elsewhere than on Debian none is known
/// to be missing, and the steps that need something say so.
fn missing<'a>(names: &[&'a str]) -> Result<Vec<&'a str>> {
    if !succeeds(Command::new("dpkg-query").arg("--version")) {
        return Ok(Vec::new());
    }
    let mut query = Command::new("dpkg-query");
    query
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(names);
    // dpkg-query fails when one name is unknown, yet lists the others.
    let out = query.output().map_err(|error| {
        Error::new(
            format!("cannot start dpkg-query: {error}"),
            "check the dpkg package",
        )
    })?;
    let installed = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(not_installed(&installed, names))
}

fn not_installed<'a>(installed: &str, names: &[&'a str]) -> Vec<&'a str> {
    let has = |name: &str| {
        installed
            .lines()
            .any(|line| line == format!("{name} installed"))
    };
    let missing: Vec<&str> = names.iter().copied().filter(|name| !has(name)).collect();
    missing
}

/// Checks that there is room for one more series.
///
/// # Errors
/// When there is less than a series takes.
pub(crate) fn room(target: &Path) -> Result<()> {
    stamp::make_dir(target)?;
    let text = output(Command::new("df").args(["-Pk"]).arg(target))?;
    match available_mib(&text) {
        Some(free) if free < SERIES_MIB => Err(Error::new(
            format!(
                "only {free} MiB free for {}, {SERIES_MIB} needed",
                target.display()
            ),
            "free some space, or make target/ a link to a larger disk",
        )),
        _ => Ok(()),
    }
}

fn available_mib(df: &str) -> Option<u64> {
    let kib: u64 = df.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kib / 1024)
}

/// A Python with meson, in a virtual environment of its own.
pub(crate) fn python(paths: &Paths) -> Result<PathBuf> {
    let venv = paths.tools().join("meson");
    let stamp = paths.tools().join("meson.stamp");
    let python = venv.join("bin/python3");
    if stamp::is_done(&stamp, MESON) && succeeds(Command::new(&python).arg("--version")) {
        return Ok(python);
    }
    stamp::forget(&stamp)?;
    stamp::remove_dir(&venv)?;
    // Debian's own, as others in PATH may lack the modules.
    let system = Path::new("/usr/bin/python3");
    let system = if system.exists() {
        system
    } else {
        Path::new("python3")
    };
    output(Command::new(system).args(["-m", "venv"]).arg(&venv))?;
    Step {
        name: "install meson from the Python package index",
        log: paths.log("meson"),
        todo: "check the network and pip's configuration (`pip config list`)",
    }
    .run(Command::new(&python).args(["-m", "pip", "install", MESON]))?;
    stamp::done(&stamp, MESON)?;
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_are_found() {
        let installed = "git installed\nflex not-installed\n";
        assert_eq!(
            not_installed(installed, &["git", "flex", "bison"]),
            ["flex", "bison"]
        );
    }

    #[test]
    fn df_is_read() {
        let text = "Filesystem 1024-blocks Used Available Capacity Mounted on\n\
                    /dev/vda 1000000 1 2048000 1% /\n";
        assert_eq!(available_mib(text), Some(2000));
        assert_eq!(available_mib(""), None);
    }
}
