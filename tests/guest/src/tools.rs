// SPDX-License-Identifier: GPL-2.0-or-later
//! Programs and files, with errors that say what was tried.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// Runs a program to its end and returns what it printed.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<String> {
    run_to(what, command.stdout(Stdio::piped()))
}

/// The same, with the program's output where the caller sent it.
pub(crate) fn run_to(what: &str, command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| Error::Missing(format!("cannot {what}: cannot run {program}: {e}")))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let last: Vec<&str> = said.trim().lines().rev().take(20).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return Err(Error::Tool(format!(
            "cannot {what}: {program} failed: {}",
            last.join("\n")
        )));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

pub(crate) fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io(path_text(dir)))
}

pub(crate) fn empty(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(Error::io(path_text(dir)))?;
    }
    create(dir)
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .map_err(Error::io(format!("copy {}", from.display())))
}

pub(crate) fn path_text(path: &Path) -> String {
    path.display().to_string()
}
