// SPDX-License-Identifier: GPL-2.0-or-later

//! Getting QEMU's sources: Debian's source package through the machine's own mirror, or a
//! release tarball from QEMU's own site.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{self, Apt, Archive, Kind};
use crate::error::{At, Error, Result};
use crate::paths::Paths;
use crate::run::{Step, output};
use crate::series::{Series, numbers};
use crate::stamp;

/// Sources that are on this disk, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A Debian source package, by its .dsc.
    Debian(PathBuf),
    /// A release tarball.
    Tarball(PathBuf),
}

/// Downloads the sources of a series unless they are there.
///
/// # Errors
/// When they can be had in neither way.
pub(crate) fn fetch(paths: &Paths, series: &Series) -> Result<Source> {
    if let Some(there) = downloaded(paths, series) {
        return Ok(there);
    }
    match apt::configured() {
        Some(archive) => from_debian(paths, series, &archive),
        None => from_qemu_site(paths, series),
    }
}

/// Sources of this series that an earlier run downloaded; only whole ones have these names.
fn downloaded(paths: &Paths, series: &Series) -> Option<Source> {
    let entries = fs::read_dir(paths.downloads()).ok()?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(numbers(&path.to_string_lossy())));
    found.iter().find_map(|path| {
        let name = path.file_name()?.to_str()?;
        let is_ours = |version: &str| series.has(version);
        if let Some(version) = name.strip_prefix("qemu-")?.strip_suffix(".tar.xz") {
            return is_ours(version).then(|| Source::Tarball(path.clone()));
        }
        let version = name.strip_prefix("qemu-")?.strip_suffix(".debian")?;
        is_ours(version)
            .then(|| dsc_in(path))
            .flatten()
            .map(Source::Debian)
    })
}

fn dsc_in(dir: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
}

fn from_debian(paths: &Paths, series: &Series, archive: &Archive) -> Result<Source> {
    let todo = "check the network and the mirror in /etc/apt, or give sources with --qemu-src DIR";
    let list = archive.list(Kind::Source, series.suites);
    let apt = Apt::new(paths, "apt", &list)?;
    Step {
        name: "read the mirror's list of sources",
        log: paths.log("apt-sources"),
        todo,
    }
    // Without the option a mirror that does not answer is only a warning.
    .run(
        apt.command("apt-get")
            .args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]),
    )?;
    let shown = output(
        apt.command("apt-cache")
            .args(["showsrc", "--only-source", "qemu"]),
    )?;
    let mut last = Error::new(
        format!(
            "the mirror has no QEMU {} in {}",
            series.name,
            series.suites.join(" or ")
        ),
        "give sources with --qemu-src DIR",
    );
    for version in versions(&shown, series) {
        match download(paths, &apt, &version, todo) {
            Ok(source) => return Ok(source),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The versions of a series in `apt-cache showsrc`, newest first.
fn versions(shown: &str, series: &Series) -> Vec<String> {
    let mut found: Vec<String> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("Version: "))
        .filter(|version| series.has(version))
        .map(str::to_owned)
        .collect();
    found.sort_by_key(|version| std::cmp::Reverse(numbers(version)));
    found.dedup();
    found
}

/// Downloads one version; apt checks its files against the signed list.
fn download(paths: &Paths, apt: &Apt, version: &str, todo: &str) -> Result<Source> {
    let plain = version
        .split_once(':')
        .map_or(version, |(_epoch, rest)| rest);
    let whole = paths.downloads().join(format!("qemu-{plain}.debian"));
    let part = whole.with_added_extension("part");
    stamp::make_dir(&part)?;
    let name = format!("download QEMU {plain} (Debian source package, 40 MB)");
    Step {
        name: &name,
        log: paths.log("apt-download"),
        todo,
    }
    .run(
        apt.command("apt-get")
            .args(["-q", "source", "--download-only", "--only-source"])
            .arg(format!("qemu={version}"))
            .current_dir(&part),
    )?;
    fs::rename(&part, &whole).at("rename to", &whole)?;
    let none = || {
        Error::new(
            format!("no .dsc in {}", whole.display()),
            "remove it and try again",
        )
    };
    Ok(Source::Debian(dsc_in(&whole).ok_or_else(none)?))
}

fn from_qemu_site(paths: &Paths, series: &Series) -> Result<Source> {
    let whole = paths
        .downloads()
        .join(format!("qemu-{}.tar.xz", series.release));
    let part = whole.with_added_extension("part");
    stamp::make_dir(&paths.downloads())?;
    let url = format!("https://download.qemu.org/qemu-{}.tar.xz", series.release);
    let name = format!("download QEMU {} from qemu.org (130 MB)", series.release);
    let todo = "check the network, or give sources with --qemu-src DIR";
    Step {
        name: &name,
        log: paths.log("download"),
        todo,
    }
    .run(
        Command::new("curl")
            .args([
                "--fail",
                "--location",
                "--silent",
                "--show-error",
                "--retry",
                "3",
                "-o",
            ])
            .arg(&part)
            .arg(&url),
    )?;
    fs::rename(&part, &whole).at("rename to", &whole)?;
    Ok(Source::Tarball(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_the_series_comes_first() {
        let shown = "Package: qemu\nVersion: 1:11.1.3+ds-1\n\nPackage: qemu\nVersion: 1:10.2.2+ds-1\n\n\
                     Version: 1:10.2.10+ds-1\nVersion: 1:10.2.2+ds-1\n";
        let series = Series::named("10.2").unwrap();
        assert_eq!(versions(shown, series), ["1:10.2.10+ds-1", "1:10.2.2+ds-1"]);
        assert!(versions(shown, Series::named("10.0").unwrap()).is_empty());
    }
}
