// SPDX-License-Identifier: GPL-2.0-or-later

//! The QEMU series that are supported, and their patch files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};
use crate::paths::Paths;

/// Where a series comes from.
#[derive(Debug)]
pub(crate) struct Series {
    /// The first two numbers of its version.
    pub(crate) name: &'static str,
    /// Debian suites whose source package is of this series, in order of preference.
    pub(crate) suites: &'static [&'static str],
    /// The release to take from QEMU's own site where there is no Debian.
    pub(crate) release: &'static str,
}

/// One line for each series.
pub(crate) const ALL: &[Series] = &[
    Series {
        name: "10.0",
        suites: &["trixie"],
        release: "10.0.13",
    },
    Series {
        name: "10.2",
        suites: &["forky", "sid"],
        release: "10.2.2",
    },
];

impl Series {
    /// The series of this name.
    ///
    /// # Errors
    /// When it is not one of those supported.
    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        ALL.iter()
            .find(|series| series.name == name)
            .ok_or_else(|| {
                let names: Vec<&str> = ALL.iter().map(|series| series.name).collect();
                let what = format!("QEMU series {name} is not supported");
                Error::new(what, format!("use one of: {}", names.join(", ")))
            })
    }

    /// Those with a directory of patches, newest first.
    pub(crate) fn newest_first(paths: &Paths) -> Vec<&'static Self> {
        let mut found: Vec<&Self> = ALL
            .iter()
            .filter(|s| paths.patches().join(s.name).is_dir())
            .collect();
        found.sort_by_key(|series| std::cmp::Reverse(numbers(series.name)));
        found
    }

    /// Whether a version (`10.2.2`) is one of this series.
    pub(crate) fn has(&self, version: &str) -> bool {
        of_version(version).as_deref() == Some(self.name)
    }
}

/// The series of a version: `10.2` for `10.2.2` and for `10.2.2+ds-1`.
pub(crate) fn of_version(version: &str) -> Option<String> {
    let version = version
        .split_once(':')
        .map_or(version, |(_epoch, rest)| rest);
    let mut parts = version.split(['.', '+', '-', '~']);
    let (major, minor) = (parts.next()?, parts.next()?);
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (number(major) && number(minor)).then(|| format!("{major}.{minor}"))
}

/// The numbers of a version, to compare by.
pub(crate) fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// The patch files of a series, in order.
///
/// # Errors
/// When the directory cannot be read, or the files are not numbered 0001, 0002 and so on.
pub(crate) fn patch_files(paths: &Paths, series: &str) -> Result<Vec<PathBuf>> {
    let dir = paths.patches().join(series);
    let entries = fs::read_dir(&dir).at("read", &dir)?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.at("read", &dir)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "patch")
        {
            files.push(path);
        }
    }
    files.sort();
    check_numbers(&dir, &files)?;
    Ok(files)
}

fn check_numbers(dir: &Path, files: &[PathBuf]) -> Result<()> {
    for (index, file) in files.iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let wanted = format!("{:04}-", index + 1);
        if !name.starts_with(&wanted) {
            return Err(Error::new(
                format!(
                    "{} holds {name} where a file {wanted}*.patch belongs",
                    dir.display()
                ),
                "number the patches 0001, 0002, ... without gaps",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_version() {
        assert_eq!(of_version("10.2.2").as_deref(), Some("10.2"));
        assert_eq!(of_version("1:10.2.2+ds-1").as_deref(), Some("10.2"));
        assert_eq!(of_version("10.2").as_deref(), Some("10.2"));
        assert_eq!(of_version("11.0-rc1").as_deref(), Some("11.0"));
        assert_eq!(of_version("ten"), None);
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("10.10") > numbers("10.2"));
        assert!(numbers("1:10.0.13+ds-0") > numbers("1:10.0.2+ds-9"));
    }

    #[test]
    fn a_gap_in_the_numbers_is_an_error() {
        let file = |name: &str| PathBuf::from(name);
        assert!(
            check_numbers(
                Path::new("d"),
                &[file("0001-a.patch"), file("0002-b.patch")]
            )
            .is_ok()
        );
        let error = check_numbers(
            Path::new("d"),
            &[file("0001-a.patch"), file("0003-b.patch")],
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("0003-b.patch where a file 0002-")
        );
    }
}
