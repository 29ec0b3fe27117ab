// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask demo`: set-up, then a guest that gives memory back.

use std::ffi::OsString;
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
    let plot = plot.map(|path| path.into_os_string());
    example(paths, &build.binary(), "demo", plot)
}

/// Runs an example of the crate `guest` with this QEMU; its output goes to the user.
///
/// # Errors
/// When it does not succeed; it has said why then.
pub(crate) fn example(
    paths: &Paths,
    qemu: &Path,
    name: &str,
    args: impl IntoIterator<Item = OsString>,
) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths.top());
    command.args(["run", "--quiet", "--locked", "-p", "guest"]);
    command.args(["--example", name, "--"]).args(args);
    command
        .env("VBR_QEMU", qemu)
        .env("VBR_GUEST", paths.guest());
    println!();
    let status = command
        .status()
        .map_err(|error| Error::new(format!("cannot start cargo: {error}"), "check PATH"))?;
    if status.success() {
        return Ok(());
    }
    let what = format!("the {name} failed");
    Err(Error::new(what, "see its message above"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).at("find", path)
}
