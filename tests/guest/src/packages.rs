// SPDX-License-Identifier: GPL-2.0-or-later
//! Packages of Debian's archive: downloaded, checked by apt, and unpacked into
//! a folder of ours. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{create, empty, path_text, run};
use crate::{Error, Result};

const META_PACKAGE: &str = "linux-image-cloud-amd64";
const KERNEL: &str = "linux-image-";
const CLOUD: &str = "-cloud-amd64";
/// Packages that a kernel package may leave its parts to.
const PARTS: &[&str] = &["linux-binary-", "linux-modules-", "linux-base-"];
/// The file with apt's settings for the kernels of other releases; `cargo xtask` writes it.
const OTHER_RELEASES: &str = "VBR_APT_CONFIG";

/// What this machine's apt can have, or what other releases of its archive have.
#[derive(Debug)]
pub(crate) struct Packages {
    /// A file with settings for apt, or none for those of the machine.
    config: Option<PathBuf>,
    downloads: PathBuf,
}

impl Packages {
    /// Those of this machine's apt; they are downloaded to `downloads`.
    pub(crate) fn of_machine(downloads: &Path) -> Packages {
        Packages {
            config: None,
            downloads: downloads.into(),
        }
    }

    /// Those of all releases in the machine's archive, with lists that are up to date.
    ///
    /// # Errors
    /// When it is not known where they are.
    pub(crate) fn of_all_releases(downloads: &Path) -> Result<Packages> {
        let config = std::env::var_os(OTHER_RELEASES).ok_or_else(|| {
            Error::Missing(format!(
                "{OTHER_RELEASES} is not set: this machine is no Debian, or this is not run by \
                 cargo xtask"
            ))
        })?;
        let packages = Packages {
            config: Some(config.into()),
            downloads: downloads.into(),
        };
        // A release that is gone from the mirror, or whose list has expired, is no reason to
        // do without the others: what it had is not found then, and that is said.
        if let Err(error) = run(
            "read the lists",
            packages.apt("apt-get").args(["-q", "update"]),
        ) {
            eprintln!("some releases of Debian cannot be had: {error}");
        }
        Ok(packages)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(config) = &self.config {
            command.env("APT_CONFIG", config);
        }
        command
    }

    /// The release of the machine's cloud kernel, as `uname -r` says it.
    ///
    /// # Errors
    /// When the archive has none.
    pub(crate) fn newest_kernel(&self) -> Result<String> {
        let found = self.dependencies(META_PACKAGE, &[KERNEL])?;
        let first = found.first().and_then(|name| name.strip_prefix(KERNEL));
        first
            .map(str::to_string)
            .ok_or_else(|| Error::Missing(format!("{META_PACKAGE} does not name a kernel")))
    }

    /// The newest cloud kernel of a release line, such as 6.12, as `uname -r` says it.
    ///
    /// # Errors
    /// When the archive has none.
    pub(crate) fn newest_of_line(&self, line: &str) -> Result<String> {
        let mut command = self.apt("apt-cache");
        command.args(["pkgnames", &format!("{KERNEL}{line}.")]);
        let names = run(&format!("look for Linux {line}"), &mut command)?;
        newest_of(&names, line).ok_or_else(|| {
            Error::Missing(format!(
                "the package archive has no cloud kernel of Linux {line}"
            ))
        })
    }

    /// Unpacks the kernel `release` and its modules below `root`, from however many packages.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub(crate) fn unpack_kernel(&self, release: &str, root: &Path) -> Result<()> {
        let package = format!("{KERNEL}{release}");
        self.unpack(&package, root)?;
        for part in self.depends_on(&package, PARTS)? {
            if part.ends_with(release) {
                self.unpack(&part, root)?;
            }
        }
        Ok(())
    }

    /// Packages that `package` depends on and whose names begin with one of `prefixes`.
    ///
    /// # Errors
    /// When there are none.
    pub(crate) fn dependencies(&self, package: &str, prefixes: &[&str]) -> Result<Vec<String>> {
        let found = self.depends_on(package, prefixes)?;
        if found.is_empty() {
            return Err(Error::Missing(format!(
                "the package archive has no {package}: run apt-get update, or add Debian's main \
                 archive"
            )));
        }
        Ok(found)
    }

    fn depends_on(&self, package: &str, prefixes: &[&str]) -> Result<Vec<String>> {
        let mut command = self.apt("apt-cache");
        command.args(["depends", "--important", package]);
        let text = run(&format!("look for {package}"), &mut command)?;
        Ok(among(&text, prefixes))
    }

    /// Unpacks `package` below `root`; it is downloaded if it is not there.
    ///
    /// # Errors
    /// When the package cannot be had.
    pub(crate) fn unpack(&self, package: &str, root: &Path) -> Result<()> {
        let deb = self.download(package)?;
        create(root)?;
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(&deb).arg(root);
        run(&format!("unpack {package}"), &mut command).map(drop)
    }

    /// Downloads `package` unless it is there already; apt checks what it got.
    fn download(&self, package: &str) -> Result<PathBuf> {
        let downloads = &self.downloads;
        create(downloads)?;
        if let Some(deb) = find_deb(downloads, package)? {
            return Ok(deb);
        }
        let part = downloads.join(format!("{package}.part-{}", std::process::id()));
        empty(&part)?;
        let mut command = self.apt("apt-get");
        command
            .current_dir(&part)
            // Root's own folders need not be open to apt's unprivileged user.
            .args(["-q", "-o", "APT::Sandbox::User=", "download", package]);
        run(&format!("download {package}"), &mut command)?;
        let deb = find_deb(&part, package)?
            .ok_or_else(|| Error::Missing(format!("apt-get download gave no {package}")))?;
        let kept = downloads.join(deb.file_name().unwrap_or_default());
        fs::rename(&deb, &kept).map_err(Error::io(format!("keep {package}")))?;
        fs::remove_dir_all(&part).map_err(Error::io("clean up after the download"))?;
        Ok(kept)
    }
}

/// The newest release of a line among the names of kernel packages.
fn newest_of(names: &str, line: &str) -> Option<String> {
    let releases = names
        .lines()
        .filter_map(|name| name.trim().strip_prefix(KERNEL));
    let is_wanted = |release: &&str| {
        let rest = release
            .strip_prefix(line)
            .and_then(|rest| rest.strip_prefix('.'));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            && release.ends_with(CLOUD)
    };
    let newest = releases
        .filter(is_wanted)
        .max_by_key(|release| numbers(release));
    newest.map(str::to_string)
}

/// The numbers in a version, to compare versions by.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn among(text: &str, prefixes: &[&str]) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends:"))
        .map(str::trim)
        .filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
        .map(str::to_string)
        .collect()
}

fn find_deb(dir: &Path, package: &str) -> Result<Option<PathBuf>> {
    let prefix = format!("{package}_");
    for entry in fs::read_dir(dir).map_err(Error::io(path_text(dir)))? {
        let path = entry.map_err(Error::io(path_text(dir)))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&prefix) && name.ends_with(".deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_package_names_the_kernel() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n";
        let found = among(text, &["linux-image-"]);
        assert_eq!(found, ["linux-image-6.1.0-1-cloud-amd64"]);
        assert!(among("linux-image-cloud-amd64\n", &["linux-image-"]).is_empty());
    }

    #[test]
    fn the_newest_of_a_line_is_found_by_its_numbers() {
        let names = "linux-image-6.12.9+deb13-cloud-amd64\nlinux-image-6.12.10+deb13-cloud-amd64\n\
                     linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-57-cloud-amd64\n\
                     linux-image-6.12.11+deb13-cloud-amd64-unsigned\nlinux-image-6.12.77-amd64\n";
        let found = |line| newest_of(names, line);
        assert_eq!(found("6.12").as_deref(), Some("6.12.10+deb13-cloud-amd64"));
        assert_eq!(found("6.1").as_deref(), Some("6.1.0-57-cloud-amd64"));
        assert_eq!(found("6.11"), None);
        assert_eq!(found("7.3"), None);
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let text = "linux-headers-6.1.0-1-cloud-amd64\n  Depends: linux-headers-6.1.0-1-common\n  \
                    Depends: linux-kbuild-6.1\n  Depends: linux-compiler-gcc-12-x86\n";
        let found = among(text, &["linux-headers-", "linux-kbuild-"]);
        assert_eq!(found, ["linux-headers-6.1.0-1-common", "linux-kbuild-6.1"]);
    }
}
