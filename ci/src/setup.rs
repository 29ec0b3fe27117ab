// SPDX-License-Identifier: GPL-2.0-or-later

//! What the machine must have: system packages, room, and meson.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::paths::Paths;
use crate::run::{Step, output, succeeds};
use crate::series::numbers;
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
/// tools read ELF files; sparse checks it) and QEMU's firmware.
pub(crate) const GUEST: &[&str] = &[
    "busybox-static",
    "cpio",
    "ipxe-qemu",
    "kmod",
    "libelf-dev",
    "make",
    "qemu-system-data",
    "seabios",
    "sparse",
    "xz-utils",
    "zstd",
];
/// Debian packages that QEMU's own Rust takes on top.
pub(crate) const QEMU_RUST: &[&str] = &["clang", "libclang-dev"];

/// The meson that is taken from PyPI where the distribution has none that will do.
const MESON: &str = "meson==1.9.1";
/// The oldest meson that builds QEMU.
const MESON_FOR_C: (u64, u64) = (1, 5);
/// The oldest meson that builds QEMU's own Rust.
const MESON_FOR_RUST: (u64, u64) = (1, 9);
/// What to do where apt fails.
const APT_ADVICE: &str = "see what apt said; try `apt-get update` and this again";
/// The distribution's Python; others in PATH may lack its modules.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

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
    if !may_install()? {
        return Err(Error::new(
            format!("packages are missing: {list}"),
            format!("install them: sudo apt-get install {list}"),
        ));
    }
    Step {
        name: "refresh the package lists",
        log: paths.log("apt-update"),
        todo: APT_ADVICE,
    }
    .run(Command::new("apt-get").args([
        "-q",
        "-o",
        "APT::Update::Error-Mode=any",
        "update",
    ]))?;
    install(paths, &missing)
}

fn install(paths: &Paths, names: &[&str]) -> Result<()> {
    Step {
        name: &format!("install {}", names.join(" ")),
        log: paths.log("apt-install"),
        todo: APT_ADVICE,
    }
    .run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-y", "--no-install-recommends", "install"])
            .args(names),
    )
}

/// Whether packages can be installed here: as root, with apt.
fn may_install() -> Result<bool> {
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    Ok(root && succeeds(Command::new("apt-get").arg("--version")))
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

/// A Python whose meson builds QEMU, with its own Rust if `rust`: the distribution's where that
/// is new enough, else one in a virtual environment.
///
/// # Errors
/// When neither can be had.
pub(crate) fn python(paths: &Paths, rust: bool) -> Result<PathBuf> {
    let least = if rust { MESON_FOR_RUST } else { MESON_FOR_C };
    let system = Path::new(PYTHON);
    if has_meson(system, least) {
        return Ok(system.into());
    }
    if let Some(python) = installed_of_pypi(paths) {
        return Ok(python);
    }
    if may_install()? && apt_has_meson(least) {
        install(paths, &["meson"])?;
    }
    match has_meson(system, least) {
        true => Ok(system.into()),
        false => install_of_pypi(paths),
    }
}

/// Whether this Python finds a meson that is new enough.
fn has_meson(python: &Path, least: (u64, u64)) -> bool {
    let ask = "import mesonbuild.coredata as core; print(core.version)";
    let said = output(Command::new(python).args(["-c", ask]));
    said.is_ok_and(|version| is_at_least(&version, least))
}

/// Whether apt would install a meson that is new enough.
fn apt_has_meson(least: (u64, u64)) -> bool {
    let said = output(Command::new("apt-cache").args(["policy", "meson"]));
    said.is_ok_and(|policy| candidate(&policy).is_some_and(|v| is_at_least(v, least)))
}

/// The version that apt would install, in what `apt-cache policy` says of one package.
fn candidate(policy: &str) -> Option<&str> {
    let line = |line: &'_ str| line.trim().starts_with("Candidate:");
    let found = policy.lines().find(|text| line(text))?;
    Some(found.split_once(": ")?.1.trim())
}

/// Compares the first two numbers of a version; what has none is not new enough.
fn is_at_least(version: &str, least: (u64, u64)) -> bool {
    match numbers(version)[..] {
        [major, minor, ..] => (major, minor) >= least,
        _ => false,
    }
}

/// The environment of an earlier run.
fn installed_of_pypi(paths: &Paths) -> Option<PathBuf> {
    let python = venv(paths).join("bin/python3");
    let done = stamp::is_done(&venv_stamp(paths), MESON);
    (done && succeeds(Command::new(&python).arg("--version"))).then_some(python)
}

fn venv(paths: &Paths) -> PathBuf {
    paths.tools().join("meson")
}

fn venv_stamp(paths: &Paths) -> PathBuf {
    paths.tools().join("meson.stamp")
}

fn install_of_pypi(paths: &Paths) -> Result<PathBuf> {
    let venv = venv(paths);
    let python = venv.join("bin/python3");
    stamp::forget(&venv_stamp(paths))?;
    stamp::remove_dir(&venv)?;
    let system = Path::new(PYTHON);
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
    stamp::done(&venv_stamp(paths), MESON)?;
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
    fn the_distributions_meson_is_judged_by_its_version() {
        let policy = "meson:\n  Installed: (none)\n  Candidate: 1.7.0-1\n  Version table:\n";
        assert_eq!(candidate(policy), Some("1.7.0-1"));
        assert!(is_at_least("1.7.0-1", MESON_FOR_C));
        assert!(!is_at_least("1.7.0-1", MESON_FOR_RUST));
        assert!(!is_at_least("1.0.1-5", MESON_FOR_C));
        assert!(is_at_least("1.10.0\n", MESON_FOR_RUST));
        assert!(is_at_least("2.0", MESON_FOR_RUST));
        assert!(!is_at_least("(none)", MESON_FOR_C));
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn df_is_read() {
        let text = "Filesystem 1024-blocks Used Available Capacity Mounted on\n\
                    /dev/vda 1000000 1 2048000 1% /\n";
        assert_eq!(available_mib(text), Some(2000));
        assert_eq!(available_mib(""), None);
    }
}
