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
    /// Why the lists may lack what the archive has, if they may.
    outdated: Option<String>,
}

impl Packages {
    /// Those of this machine's apt; they are downloaded to `downloads`.
    pub(crate) fn of_machine(downloads: &Path) -> Packages {
        Packages {
            config: None,
            downloads: downloads.into(),
            outdated: None,
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
        Ok(Packages::of(Path::new(&config), downloads))
    }

    /// Those that an apt with these settings can have, with lists that are up to date.
    fn of(config: &Path, downloads: &Path) -> Packages {
        let mut packages = Packages {
            config: Some(config.into()),
            downloads: downloads.into(),
            outdated: None,
        };
        // Else apt warns of a mirror that it cannot reach, and goes on with the lists it has.
        let strict = "--error-on=any";
        let mut update = packages.apt("apt-get");
        let updated = run("read the lists", update.args(["-q", "update", strict]));
        // What the other releases have can be had all the same.
        packages.outdated = updated.err().map(|error| error.to_string());
        packages
    }

    /// An error for something that the lists do not have: only lists that are up to date
    /// tell that the archive does not have it.
    fn lacks(&self, what: &str) -> Error {
        let text = format!("the package archive has no {what}");
        match (&self.config, &self.outdated) {
            (None, _) => Error::Missing(format!(
                "{text}: run apt-get update, or add Debian's main archive"
            )),
            (_, None) => Error::Unavailable(text),
            (_, Some(why)) => Error::Tool(format!("{text}, but not all its lists are here: {why}")),
        }
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
        newest_of(&names, line).ok_or_else(|| self.lacks(&format!("cloud kernel of Linux {line}")))
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
    /// When there are none, or no such package.
    pub(crate) fn dependencies(&self, package: &str, prefixes: &[&str]) -> Result<Vec<String>> {
        let found = self.depends_on(package, prefixes)?;
        if found.is_empty() {
            let text = format!("{package} depends on no {}", prefixes.join("* and no "));
            return Err(Error::Tool(text));
        }
        Ok(found)
    }

    fn depends_on(&self, package: &str, prefixes: &[&str]) -> Result<Vec<String>> {
        self.check_listed(package)?;
        let mut command = self.apt("apt-cache");
        command.args(["depends", "--important", package]);
        let text = run(&format!("look for {package}"), &mut command)?;
        Ok(among(&text, prefixes))
    }

    /// Checks that the lists have this package.
    fn check_listed(&self, package: &str) -> Result<()> {
        let mut command = self.apt("apt-cache");
        command.args(["pkgnames", package]);
        let names = run(&format!("look for {package}"), &mut command)?;
        match names.lines().any(|name| name == package) {
            true => Ok(()),
            false => Err(self.lacks(package)),
        }
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
        self.check_listed(package)?;
        let part = downloads.join(format!("{package}.part-{}", std::process::id()));
        empty(&part)?;
        let kept = self.download_to(package, &part);
        fs::remove_dir_all(&part).map_err(Error::io("clean up after the download"))?;
        kept
    }

    /// Downloads `package` to the folder `part`, and what is whole to the others.
    fn download_to(&self, package: &str, part: &Path) -> Result<PathBuf> {
        let mut command = self.apt("apt-get");
        command
            .current_dir(part)
            // Root's own folders need not be open to apt's unprivileged user.
            .args(["-q", "-o", "APT::Sandbox::User=", "download", package]);
        run(&format!("download {package}"), &mut command)?;
        let deb = find_deb(part, package)?
            .ok_or_else(|| Error::Tool(format!("apt-get download gave no {package}")))?;
        let kept = self.downloads.join(deb.file_name().unwrap_or_default());
        fs::rename(&deb, &kept).map_err(Error::io(format!("keep {package}")))?;
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

    const RELEASE: &str = "9.8.7+deb42-cloud-amd64";

    /// An archive that lists one kernel and has lost its file, and an apt for it.
    struct Archive(PathBuf);

    impl Archive {
        /// The lists are those of this archive, and of `others`.
        fn new(name: &str, others: &str) -> Archive {
            let name = format!("vbr-packages-{}-{name}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            for part in ["archive", "lists/partial", "cache/archives/partial"] {
                create(&dir.join(part)).unwrap();
            }
            let here = dir.display();
            let kernel = format!(
                "Package: {KERNEL}{RELEASE}\nVersion: 1\nArchitecture: all\n\
                 Filename: ./lost.deb\nSize: 1\nSHA256: {}\n",
                "0".repeat(64)
            );
            let config = format!(
                "Dir::Etc::SourceList \"{here}/archive.list\";\nDir::Etc::SourceParts \"/dev/null\";\n\
                 Dir::State::Lists \"{here}/lists\";\nDir::State::status \"{here}/status\";\n\
                 Dir::Cache \"{here}/cache\";\nAPT::Sandbox::User \"root\";\n\
                 Acquire::Retries \"0\";\n"
            );
            let list = format!("deb [trusted=yes] file:{here}/archive ./\n{others}\n");
            for (file, text) in [
                ("archive/Packages", &kernel),
                ("archive.list", &list),
                ("status", &String::new()),
                ("apt.conf", &config),
            ] {
                fs::write(dir.join(file), text).unwrap();
            }
            Archive(dir)
        }

        fn packages(&self) -> Packages {
            Packages::of(&self.0.join("apt.conf"), &self.0.join("downloads"))
        }
    }

    impl Drop for Archive {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn is_unavailable<T>(result: &Result<T>) -> bool {
        matches!(result, Err(Error::Unavailable(_)))
    }

    #[test]
    fn what_the_archive_does_not_have_is_unavailable() {
        let archive = Archive::new("lacks", "");
        let packages = archive.packages();
        assert_eq!(packages.newest_of_line("9.8").unwrap(), RELEASE);
        assert!(is_unavailable(&packages.newest_of_line("9.7")));
        let headers = format!("linux-headers-{RELEASE}");
        assert!(is_unavailable(&packages.unpack(&headers, &archive.0)));
        assert!(is_unavailable(&packages.dependencies(&headers, &[])));
    }

    #[test]
    fn a_package_that_cannot_be_fetched_is_not_unavailable() {
        let archive = Archive::new("lost", "");
        let fetched = archive.packages().unpack_kernel(RELEASE, &archive.0);
        assert!(matches!(fetched, Err(Error::Tool(_))), "{fetched:?}");
        let left = fs::read_dir(archive.0.join("downloads")).unwrap();
        assert_eq!(left.count(), 0, "parts of the download are left behind");
    }

    #[test]
    fn lists_that_cannot_be_read_tell_nothing_about_the_archive() {
        // Nobody listens there.
        let archive = Archive::new("unread", "deb [trusted=yes] http://127.0.0.1:1/ ./");
        let packages = archive.packages();
        assert_eq!(packages.newest_of_line("9.8").unwrap(), RELEASE);
        let found = packages.newest_of_line("9.7");
        assert!(matches!(found, Err(Error::Tool(_))), "{found:?}");
    }

    #[test]
    fn an_apt_that_fails_tells_nothing_about_the_archive() {
        let archive = Archive::new("broken", "");
        fs::write(archive.0.join("archive.list"), "nonsense\n").unwrap();
        let found = archive.packages().newest_of_line("9.7");
        assert!(matches!(found, Err(Error::Tool(_))), "{found:?}");
    }

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
