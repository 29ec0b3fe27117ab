// SPDX-License-Identifier: GPL-2.0-or-later

//! The unpatched sources of a series as a git repository, with our glue linked in.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At, Error, Result};
use crate::fetch::{self, Source};
use crate::git::Git;
use crate::paths::Paths;
use crate::progress::took;
use crate::run::{Step, output};
use crate::series::Series;
use crate::stamp;

/// The tag of the commit that holds the unpatched sources.
pub(crate) const BASE: &str = "vbr-base";
/// The tag of the last commit of the series that was applied.
pub(crate) const APPLIED: &str = "vbr-applied";
/// The file in .git that says where the sources are from.
const ORIGIN: &str = "vbr-origin";
/// The glue's place in QEMU's tree.
const LINK: &str = "hw/virtio/balloon-rs";

/// Debian's own edits that its tarball needs, as it lacks firmware and Python wheels.
const DEBIAN_EDITS: &[&str] = &[
    "skip-unpack-edk2-blobs",
    "skip-install-dtb",
    "disable-pycotap",
];

/// Makes `target/qemu/<series>/src` unless it is there.
///
/// With `given`, the sources are copied from that directory, which is only read.
///
/// # Errors
/// When the sources cannot be had, or when others are there with work in them.
pub(crate) fn prepare(paths: &Paths, series: &Series, given: Option<&Path>) -> Result<Git> {
    let src = paths.qemu_src(series.name);
    let git = Git::new(&src);
    let origin = fs::read_to_string(git.own(ORIGIN)).ok();
    let wanted = given.map(given_origin).transpose()?;
    match (&origin, &wanted) {
        // They are used until others are given.
        (Some(have), None) if is_given(have) => {
            println!("  QEMU's sources are the given ones: {}", have.trim_end());
        }
        (Some(_), None) => {}
        (Some(have), Some(want)) if have == want => {}
        _ => replace(paths, series, &git, given, wanted)?,
    }
    link_glue(paths, &git)?;
    Ok(git)
}

/// What tells one state of a given directory from another. Of a git repository it is the commit,
/// which is what is copied, else what one sees of the files without reading them.
fn given_origin(dir: &Path) -> Result<String> {
    let dir = dir.canonicalize().at("find", dir)?;
    let version = version_of(&dir)?;
    let state = if dir.join(".git").exists() {
        Git::new(&dir).find("HEAD").unwrap_or_default()
    } else {
        let mut hash = DefaultHasher::new();
        hash_files(&dir, &mut hash)?;
        format!("{:016x}", hash.finish())
    };
    Ok(format!("{} {version} {state}\n", dir.display()))
}

/// Whether an origin is that of a given directory, and not the name of what was downloaded.
fn is_given(origin: &str) -> bool {
    origin.starts_with('/')
}

/// Hashes the names, sizes and times of all files in a folder.
fn hash_files(dir: &Path, hash: &mut DefaultHasher) -> Result<()> {
    let entries = fs::read_dir(dir).at("read", dir)?;
    let entries: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = entries.at("read", dir)?;
    paths.sort();
    for path in paths {
        let about = path.symlink_metadata().at("look at", &path)?;
        (&path, about.len(), about.mtime(), about.mtime_nsec()).hash(hash);
        if about.is_dir() {
            hash_files(&path, hash)?;
        }
    }
    Ok(())
}

/// The version of the QEMU sources in a directory.
///
/// # Errors
/// When it holds no QEMU sources.
pub(crate) fn version_of(dir: &Path) -> Result<String> {
    let text = fs::read_to_string(dir.join("VERSION")).map_err(|_| {
        let what = format!("{} holds no QEMU sources (no VERSION file)", dir.display());
        Error::new(what, "give the top of a QEMU source tree")
    })?;
    Ok(text.trim().to_owned())
}

fn replace(
    paths: &Paths,
    series: &Series,
    git: &Git,
    given: Option<&Path>,
    origin: Option<String>,
) -> Result<()> {
    if git.dir().exists() && git.own(ORIGIN).exists() {
        refuse_to_lose_work(git)?;
    }
    let source = match given {
        Some(_) => None,
        None => Some(fetch::fetch(paths, series)?),
    };
    let part = git.dir().with_added_extension("part");
    stamp::remove_dir(&part)?;
    stamp::make_dir(&paths.series(series.name))?;
    let origin = match (&source, given) {
        (Some(source), _) => unpack(paths, source, &part)?,
        (None, Some(dir)) => {
            copy(paths, dir, &part)?;
            origin.unwrap_or_default()
        }
        (None, None) => String::new(),
    };
    commit_base(&Git::new(&part))?;
    stamp::write_whole(&part.join(".git").join(ORIGIN), &origin)?;
    // Files keep the dates of the archive, so an old build would not see that they changed.
    remove_builds(&paths.series(series.name))?;
    stamp::remove_dir(git.dir())?;
    fs::rename(&part, git.dir()).at("rename to", git.dir())
}

fn refuse_to_lose_work(git: &Git) -> Result<()> {
    let head = git.find("HEAD");
    let at_known = head == git.find(APPLIED) || head == git.find(&format!("{BASE}^{{commit}}"));
    if at_known && git.is_clean() {
        return Ok(());
    }
    Err(Error::new(
        format!(
            "{} holds other sources, with edits that are nowhere else",
            git.dir().display()
        ),
        "save them (`cargo xtask patches refresh`), remove that directory and run this again",
    ))
}

fn unpack(paths: &Paths, source: &Source, part: &Path) -> Result<String> {
    let todo = "remove target/downloads/qemu-* and run this again";
    let step = |name| Step {
        name,
        log: paths.log("unpack"),
        todo,
    };
    match source {
        Source::Debian(dsc) => {
            // dpkg-source compares the files with the sums in the .dsc.
            let mut command = Command::new("dpkg-source");
            command
                .args(["--no-copy", "--skip-patches", "-x"])
                .arg(dsc)
                .arg(part);
            step("unpack the sources").run(&mut command)?;
            apply_debian_edits(part)?;
        }
        Source::Tarball(tarball) => {
            stamp::make_dir(part)?;
            let mut command = Command::new("tar");
            command
                .args(["--strip-components=1", "-xJf"])
                .arg(tarball)
                .arg("-C")
                .arg(part);
            step("unpack the sources").run(&mut command)?;
        }
    }
    let (Source::Debian(file) | Source::Tarball(file)) = source;
    Ok(format!(
        "{}\n",
        file.file_name().unwrap_or_default().to_string_lossy()
    ))
}

fn apply_debian_edits(part: &Path) -> Result<()> {
    let dir = part.join("debian/patches");
    let list = fs::read_to_string(dir.join("series")).at("read", &dir.join("series"))?;
    // Within the project's own repository `git apply` would look for the files there.
    Git::new(part).run(&["init", "-q"])?;
    for name in debian_edits(&list) {
        let mut command = Git::new(part).command(&["apply"]);
        output(command.arg(Path::new("debian/patches").join(name)))?;
    }
    stamp::remove_dir(&part.join("debian"))?;
    stamp::remove_dir(&part.join(".pc"))
}

/// The needed ones of a Debian series file, in its order.
fn debian_edits(list: &str) -> Vec<&str> {
    let needed = |name: &&str| DEBIAN_EDITS.iter().any(|edit| name.starts_with(edit));
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(needed)
        .collect()
}

fn copy(paths: &Paths, dir: &Path, part: &Path) -> Result<()> {
    let step = |name| Step {
        name,
        log: paths.log("copy"),
        todo: "check the given directory",
    };
    if dir.join(".git").exists() {
        // A clone has what is committed: the history of one commit is enough here.
        let mut command = Command::new("git");
        command.args(["clone", "-q", "--depth=1"]);
        command
            .arg(format!(
                "file://{}",
                dir.canonicalize().at("find", dir)?.display()
            ))
            .arg(part);
        step("clone the given sources").run(&mut command)?;
        copy_subprojects(dir, part)?;
        return stamp::remove_dir(&part.join(".git"));
    }
    step("copy the given sources").run(Command::new("cp").args(["-a"]).arg(dir).arg(part))
}

/// Subprojects are not tracked by QEMU: those that were downloaded are worth taking along.
fn copy_subprojects(dir: &Path, part: &Path) -> Result<()> {
    let from = dir.join("subprojects");
    let Ok(entries) = fs::read_dir(&from) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry.at("read", &from)?.path();
        let to = part
            .join("subprojects")
            .join(path.file_name().unwrap_or_default());
        if path.is_dir() && !to.exists() {
            output(Command::new("cp").arg("-a").arg(&path).arg(&to))?;
        }
    }
    Ok(())
}

fn commit_base(git: &Git) -> Result<()> {
    let message = format!("base: QEMU {} as it was fetched", version_of(git.dir())?);
    let start = std::time::Instant::now();
    // By force, as the tree's own .gitignore must not leave anything out.
    for args in [
        &["init", "-q"][..],
        &["add", "-A", "-f"],
        &["commit", "-q", "-m", &message],
    ] {
        git.run(args)?;
    }
    git.run(&["tag", BASE])?;
    println!("  commit the sources: done in {}", took(start.elapsed()));
    Ok(())
}

fn remove_builds(dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let path: PathBuf = entry.at("read", dir)?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("build"))
        {
            stamp::remove_dir(&path)?;
        }
    }
    Ok(())
}

/// Links the glue to its place, hidden from git as it is not part of the patches.
pub(crate) fn link_glue(paths: &Paths, git: &Git) -> Result<()> {
    let link = git.dir().join(LINK);
    if fs::read_link(&link).is_ok_and(|to| to == paths.glue()) {
        return Ok(());
    }
    if link.is_symlink() {
        fs::remove_file(&link).at("remove", &link)?;
    }
    let exclude = PathBuf::from(git.read(&["rev-parse", "--git-path", "info/exclude"])?);
    let exclude = git.dir().join(exclude);
    stamp::write_whole(&exclude, &format!("/{LINK}\n/subprojects/packagefiles\n"))?;
    std::os::unix::fs::symlink(paths.glue(), &link).at("link", &link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_of_given_sources_is_seen() {
        let dir = std::env::temp_dir().join(format!("xtask-given-{}", std::process::id()));
        let file = dir.join("hw/virtio/virtio.c");
        stamp::write_whole(&dir.join("VERSION"), "10.2.1\n").unwrap();
        stamp::write_whole(&file, "int x;").unwrap();
        let first = given_origin(&dir).unwrap();
        assert!(is_given(&first), "{first}");
        assert_eq!(given_origin(&dir).unwrap(), first);
        fs::write(&file, "int xx;").unwrap();
        let longer = given_origin(&dir).unwrap();
        assert_ne!(longer, first);
        // Another byte in its place leaves the size as it was.
        let of = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
        fs::File::options()
            .append(true)
            .open(&file)
            .and_then(|file| file.set_modified(of))
            .unwrap();
        assert_ne!(given_origin(&dir).unwrap(), longer);
        stamp::remove_dir(&dir).unwrap();
    }

    #[test]
    fn what_was_downloaded_is_not_given() {
        assert!(!is_given("qemu_10.2.2+ds-1.dsc\n"));
    }

    #[test]
    fn only_the_needed_edits_of_debian_are_taken() {
        let list = "a.patch\nskip-unpack-edk2-blobs.patch\n# x\ndisable-pycotap.patch -p1\n";
        assert_eq!(
            debian_edits(list),
            ["skip-unpack-edk2-blobs.patch", "disable-pycotap.patch"]
        );
    }
}
