// SPDX-License-Identifier: GPL-2.0-or-later
//! Packages of this machine's apt: downloaded, checked by apt, and unpacked into
//! a folder of ours. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{create, empty, path_text, run};
use crate::{Error, Result};

const META_PACKAGE: &str = "linux-image-cloud-amd64";
const KERNEL: &str = "linux-image-";

/// The release of the archive's newest cloud kernel, as `uname -r` says it.
///
/// # Errors
/// When the archive has none.
pub(crate) fn newest_kernel() -> Result<String> {
    let found = dependencies(META_PACKAGE, &[KERNEL])?;
    let first = found.first().and_then(|name| name.strip_prefix(KERNEL));
    first
        .map(str::to_string)
        .ok_or_else(|| Error::Missing(format!("{META_PACKAGE} does not name a kernel")))
}

/// Unpacks the kernel `release` and its modules below `root`.
///
/// # Errors
/// When its package cannot be had.
pub(crate) fn unpack_kernel(release: &str, downloads: &Path, root: &Path) -> Result<()> {
    unpack(&format!("{KERNEL}{release}"), downloads, root)
}

/// Packages that `package` depends on and whose names begin with one of `prefixes`.
///
/// # Errors
/// When the archive has no such package.
pub(crate) fn dependencies(package: &str, prefixes: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--important", package]);
    let text = run(&format!("look for {package}"), &mut command)?;
    let found = among(&text, prefixes);
    if found.is_empty() {
        return Err(Error::Missing(format!(
            "the package archive has no {package}: run apt-get update, or add Debian's main archive"
        )));
    }
    Ok(found)
}

fn among(text: &str, prefixes: &[&str]) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends:"))
        .map(str::trim)
        .filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
        .map(str::to_string)
        .collect()
}

/// Unpacks `package` below `root`; it is downloaded to `downloads` if it is not there.
///
/// # Errors
/// When the package cannot be had.
pub(crate) fn unpack(package: &str, downloads: &Path, root: &Path) -> Result<()> {
    let deb = download(package, downloads)?;
    create(root)?;
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(&deb).arg(root);
    run(&format!("unpack {package}"), &mut command).map(drop)
}

/// Downloads `package` unless it is there already; apt checks what it got.
fn download(package: &str, downloads: &Path) -> Result<PathBuf> {
    create(downloads)?;
    if let Some(deb) = find_deb(downloads, package)? {
        return Ok(deb);
    }
    let part = downloads.join(format!("{package}.part-{}", std::process::id()));
    empty(&part)?;
    let mut command = Command::new("apt-get");
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
    fn only_what_was_asked_for_is_taken() {
        let text = "linux-headers-6.1.0-1-cloud-amd64\n  Depends: linux-headers-6.1.0-1-common\n  \
                    Depends: linux-kbuild-6.1\n  Depends: linux-compiler-gcc-12-x86\n";
        let found = among(text, &["linux-headers-", "linux-kbuild-"]);
        assert_eq!(found, ["linux-headers-6.1.0-1-common", "linux-kbuild-6.1"]);
    }
}
