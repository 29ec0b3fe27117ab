// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask demo`: set-up, then a guest that gives memory back.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At, Error, Result};
use crate::paths::Paths;
use crate::qemu::{self, Wanted};

/// Builds what is missing and runs the demonstration of the crate `guest`.
///
/// # Errors
/// When a step of the set-up or the demonstration itself fails.
pub(crate) fn run(paths: &Paths, series: Option<String>, plot: Option<&Path>) -> Result<()> {
    let plot = plot.map(absolute).transpose()?;
    let build = qemu::build(
        paths,
        &Wanted {
            series,
            ..Wanted::default()
        },
    )?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths.top());
    command.args([
        "run",
        "--quiet",
        "--locked",
        "-p",
        "guest",
        "--example",
        "demo",
        "--",
    ]);
    command.args(plot);
    command
        .env("VBR_QEMU", build.binary())
        .env("VBR_GUEST", paths.guest());
    println!();
    let status = command
        .status()
        .map_err(|error| Error::new(format!("cannot start cargo: {error}"), "check PATH"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(
        "the demonstration failed",
        "see its message above",
    ))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).at("find", path)
}
