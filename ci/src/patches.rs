// SPDX-License-Identifier: GPL-2.0-or-later

//! Applying a series to the sources, and writing it back from them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};
use crate::git::Git;
use crate::paths::Paths;
use crate::run::output;
use crate::series::{Series, patch_files};
use crate::source::{APPLIED, BASE};
use crate::stamp;

/// The file in .git that holds the series that was applied.
const RECORD: &str = "vbr-series";
/// The file in .git that is there while a series is being applied.
const APPLYING: &str = "vbr-applying";

/// Brings the sources to the series in `qemu-patches`.
///
/// Work in the sources that is not in the series (commits or edits) is never thrown away: as
/// long as the series itself is unchanged it is built as it is.
///
/// # Errors
/// When a patch does not apply, or when the series changed and the sources hold other work.
pub(crate) fn apply(paths: &Paths, series: &Series, git: &Git) -> Result<()> {
    let files = patch_files(paths, series.name)?;
    let wanted = contents(&files)?;
    clean_up(git)?;
    let record = git.own(RECORD);
    if stamp::is_done(&record, &wanted) {
        mention_own_work(git);
        return Ok(());
    }
    if holds_own_work(git) {
        return adopt(git, &files, &wanted, series);
    }
    println!("  apply {} patches to QEMU {}", files.len(), series.name);
    stamp::forget(&record)?;
    stamp::write_whole(&git.own(APPLYING), "")?;
    let result = apply_all(git, &files);
    if result.is_err() {
        clean_up(git)?;
        return result;
    }
    finish(git, &wanted)
}

/// The tree that the series gives on top of the base, without touching the work tree.
///
/// # Errors
/// When a patch does not apply; the line names it.
pub(crate) fn tree_of(git: &Git, files: &[PathBuf]) -> Result<String> {
    let index = git.own("vbr-index");
    let with_index = |args: &[&str]| {
        let mut command = git.command(args);
        command.env("GIT_INDEX_FILE", &index);
        command
    };
    output(&mut with_index(&["read-tree", BASE]))?;
    for file in files {
        output(with_index(&["apply", "--cached"]).arg(file))
            .map_err(|_| not_applying(git, file))?;
    }
    Ok(output(&mut with_index(&["write-tree"]))?.trim().to_owned())
}

/// Writes the commits on top of the base to `qemu-patches/<series>`.
///
/// # Errors
/// When there are edits that are not committed.
pub(crate) fn refresh(paths: &Paths, series: &Series, git: &Git) -> Result<()> {
    if git.find("HEAD").is_none() || git.find(BASE).is_none() {
        let what = format!("{} holds no QEMU sources yet", git.dir().display());
        return Err(Error::new(what, "run `cargo xtask qemu` first"));
    }
    if !git.is_clean() {
        return Err(Error::new(
            format!("{} has edits that are not committed", git.dir().display()),
            "commit them (one commit for each patch) and run this again",
        ));
    }
    let dir = paths.patches().join(series.name);
    let part = dir.with_added_extension("part");
    stamp::remove_dir(&part)?;
    let range = format!("{BASE}..HEAD");
    let mut command = git.command(&[
        "format-patch",
        "-q",
        "-N",
        "--zero-commit",
        "--no-signature",
    ]);
    output(
        command
            .arg("--diff-algorithm=myers")
            .arg("-o")
            .arg(&part)
            .arg(&range),
    )?;
    stamp::make_dir(&part)?;
    for old in patch_paths(&dir)? {
        fs::remove_file(&old).at("remove", &old)?;
    }
    for new in patch_paths(&part)? {
        let to = dir.join(new.file_name().unwrap_or_default());
        fs::rename(&new, &to).at("rename to", &to)?;
    }
    stamp::remove_dir(&part)?;
    let files = patch_files(paths, series.name)?;
    println!("wrote {} patches to {}", files.len(), dir.display());
    finish(git, &contents(&files)?)
}

fn patch_paths(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).at("read", dir)? {
        let path = entry.at("read", dir)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "patch")
        {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn contents(files: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    for file in files {
        text += &fs::read_to_string(file).at("read", file)?;
    }
    Ok(text)
}

/// Undoes what an interrupted run left; only that run's own work can be there then.
fn clean_up(git: &Git) -> Result<()> {
    let marker = git.own(APPLYING);
    if !marker.exists() {
        return Ok(());
    }
    if git.own("rebase-apply").exists() {
        git.run(&["am", "--abort"])?;
    }
    git.run(&["reset", "-q", "--hard", BASE])?;
    stamp::forget(&marker)
}

fn holds_own_work(git: &Git) -> bool {
    let head = git.find("HEAD");
    let known = [APPLIED, BASE].map(|tag| git.find(&format!("{tag}^{{commit}}")));
    !known.contains(&head) || !git.is_clean()
}

fn mention_own_work(git: &Git) {
    if holds_own_work(git) {
        println!(
            "  note: {} has work of its own; it is built as it is",
            git.dir().display()
        );
    }
}

/// Takes the work in the sources as the series, if it is the same.
fn adopt(git: &Git, files: &[PathBuf], wanted: &str, series: &Series) -> Result<()> {
    let same = || Some(tree_of(git, files).ok()? == git.find("HEAD^{tree}")?);
    if git.is_clean() && same() == Some(true) {
        return finish(git, wanted);
    }
    Err(Error::new(
        format!(
            "qemu-patches/{} changed, and {} has work that is not in it",
            series.name,
            git.dir().display()
        ),
        format!(
            "write it to the series (`cargo xtask patches refresh --series {}`) or drop it \
             (`git -C {} reset --hard {BASE}`)",
            series.name,
            git.dir().display()
        ),
    ))
}

fn apply_all(git: &Git, files: &[PathBuf]) -> Result<()> {
    git.run(&["reset", "-q", "--hard", BASE])?;
    for file in files {
        let mut command = git.command(&["am", "-q", "--keep-non-patch"]);
        // git's own message would name a file in .git, not the patch.
        output(command.arg(file)).map_err(|_| not_applying(git, file))?;
    }
    Ok(())
}

/// Says which patch it was, and where in which file.
fn not_applying(git: &Git, file: &Path) -> Error {
    let check = git.command(&["apply", "--check"]).arg(file).output();
    let said = check.map(|out| String::from_utf8_lossy(&out.stderr).into_owned());
    let said = said.unwrap_or_default();
    let first = said.lines().find_map(|line| line.strip_prefix("error: "));
    Error::new(
        format!(
            "{} does not apply: {}",
            file.display(),
            first.unwrap_or("see git am")
        ),
        "rebase it on this QEMU release and run `cargo xtask patches refresh`",
    )
}

fn finish(git: &Git, wanted: &str) -> Result<()> {
    git.run(&["tag", "-f", APPLIED])?;
    stamp::done(&git.own(RECORD), wanted)?;
    stamp::forget(&git.own(APPLYING))
}
