// SPDX-License-Identifier: GPL-2.0-or-later

//! What QEMU's own Rust needs: bindgen, and the crates that its meson files name.
//!
//! Debian's tarball has none of the crates and meson would take them from a fixed site, so cargo
//! gets them from the registry that it is configured for; meson compares their sums.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At, Error, Result};
use crate::git::Git;
use crate::paths::Paths;
use crate::qemu_crates;
use crate::run::Step;
use crate::setup;
use crate::stamp;

/// The version of bindgen's program that is installed.
const BINDGEN: &str = "0.72.1";

/// A crate that meson wants as a file.
#[derive(Debug, PartialEq, Eq)]
struct Wrap {
    name: String,
    version: String,
    file: String,
    /// The folder of its meson file.
    directory: String,
}

/// Installs bindgen and fills the folder that meson takes crates from.
///
/// # Errors
/// When cargo cannot get them.
pub(crate) fn prepare(paths: &Paths, git: &Git) -> Result<()> {
    setup::packages(paths, &[setup::QEMU_RUST])?;
    bindgen(paths)?;
    crates(paths, git)
}

/// Lets a command of a QEMU build find both.
pub(crate) fn environment<'a>(paths: &Paths, command: &'a mut Command) -> &'a mut Command {
    let mut path = paths.tools().join("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command
        .env("PATH", path)
        .env("MESON_PACKAGE_CACHE_DIR", crate_files(paths))
}

fn crate_files(paths: &Paths) -> PathBuf {
    paths.downloads().join("crates")
}

fn bindgen(paths: &Paths) -> Result<()> {
    let stamp = paths.tools().join("bindgen.stamp");
    if stamp::is_done(&stamp, BINDGEN) {
        return Ok(());
    }
    let todo = "check the network and cargo's configuration";
    Step {
        name: "install bindgen with cargo",
        log: paths.log("bindgen"),
        todo,
    }
    .run(
        Command::new("cargo")
            .args([
                "install",
                "--locked",
                "bindgen-cli",
                "--version",
                BINDGEN,
                "--root",
            ])
            .arg(paths.tools())
            .arg("--target-dir")
            .arg(paths.tools().join("bindgen-build")),
    )?;
    stamp::remove_dir(&paths.tools().join("bindgen-build"))?;
    stamp::done(&stamp, BINDGEN)
}

fn crates(paths: &Paths, git: &Git) -> Result<()> {
    let subprojects = git.dir().join("subprojects");
    let wraps = wraps(&subprojects)?;
    for wrap in &wraps {
        let packagefile = subprojects.join("packagefiles").join(&wrap.directory);
        let unpacked = subprojects.join(format!("{}-{}", wrap.name, wrap.version));
        qemu_crates::provide(&packagefile, &unpacked, &wrap.name)?;
    }
    let files = crate_files(paths);
    if wraps.iter().all(|wrap| files.join(&wrap.file).exists()) {
        return Ok(());
    }
    let project = files.join("project");
    stamp::write_whole(&project.join("Cargo.toml"), &manifest(&wraps))?;
    stamp::write_whole(&project.join("lib.rs"), "")?;
    let todo = "check the network and cargo's configuration";
    let mut fetch = Command::new("cargo");
    fetch
        .args(["fetch", "--manifest-path"])
        .arg(project.join("Cargo.toml"));
    Step {
        name: "get the crates of QEMU's own Rust",
        log: paths.log("crates"),
        todo,
    }
    .run(&mut fetch)?;
    for wrap in &wraps {
        let from = cached(wrap)?;
        let to = files.join(&wrap.file);
        let part = to.with_added_extension("part");
        fs::copy(&from, &part).at("copy", &from)?;
        fs::rename(&part, &to).at("rename to", &to)?;
    }
    stamp::remove_dir(&project)
}

/// A project that depends on exactly these crates.
fn manifest(wraps: &[Wrap]) -> String {
    let mut text = String::from(
        "[package]\nname = \"crates\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
         [lib]\npath = \"lib.rs\"\n[workspace]\n[dependencies]\n",
    );
    for wrap in wraps {
        text += &format!("{} = \"={}\"\n", wrap.name, wrap.version);
    }
    text
}

/// The crates among meson's subprojects.
fn wraps(dir: &Path) -> Result<Vec<Wrap>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).at("read", dir)? {
        let path = entry.at("read", dir)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "wrap")
        {
            found.extend(wrap(&fs::read_to_string(&path).at("read", &path)?));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// A crate's name, version and file from a wrap file; nothing when it is not of a crate.
fn wrap(text: &str) -> Option<Wrap> {
    let field = |name: &str| {
        let value = |line: &str| {
            Some(
                line.strip_prefix(name)?
                    .trim_start()
                    .strip_prefix('=')?
                    .trim()
                    .to_owned(),
            )
        };
        text.lines().find_map(value)
    };
    if !field("source_url")?.contains("/crates/") {
        return None;
    }
    let directory = field("directory")?;
    let (name, version) = directory.rsplit_once('-')?;
    Some(Wrap {
        name: name.into(),
        version: version.into(),
        file: field("source_filename")?,
        directory: field("patch_directory")?,
    })
}

/// The file that cargo keeps of a crate that it got.
fn cached(wrap: &Wrap) -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let cache = home.unwrap_or_default().join("registry/cache");
    let name = format!("{}-{}.crate", wrap.name, wrap.version);
    let registries = fs::read_dir(&cache).at("read", &cache)?;
    let mut files = registries.filter_map(|entry| Some(entry.ok()?.path().join(&name)));
    files.find(|file| file.exists()).ok_or_else(|| {
        let what = format!("cargo did not keep {name} in {}", cache.display());
        Error::new(what, "check cargo's configuration")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrap_of_a_crate_is_read() {
        let text = "[wrap-file]\ndirectory = attrs-0.2.9\nsource_url = https://example.org/crates/a\n\
                    source_filename = attrs-0.2.9.tar.gz\npatch_directory = attrs-0.2-rs\n";
        let want = Wrap {
            name: "attrs".into(),
            version: "0.2.9".into(),
            file: "attrs-0.2.9.tar.gz".into(),
            directory: "attrs-0.2-rs".into(),
        };
        assert_eq!(wrap(text), Some(want));
        assert_eq!(
            wrap("[wrap-git]\nurl = https://example.org/dtc.git\n"),
            None
        );
    }

    #[test]
    fn the_project_wants_exact_versions() {
        let wrap = Wrap {
            name: "syn".into(),
            version: "2.0.1".into(),
            file: String::new(),
            directory: String::new(),
        };
        assert!(manifest(&[wrap]).ends_with("[dependencies]\nsyn = \"=2.0.1\"\n"));
    }
}
