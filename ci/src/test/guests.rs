// SPDX-License-Identifier: GPL-2.0-or-later

//! Linux guests, run by the crate `guest`.

use super::rust;
use super::tally::Tally;
use crate::error::Result;
use crate::paths::Paths;
use crate::qemu::Build;

/// Runs the tests of the crate `guest` with this QEMU, or those of them whose names contain `filter`.
///
/// # Errors
/// When they do not build, or when none ran.
pub(crate) fn test(paths: &Paths, build: &Build, filter: Option<&str>) -> Result<Tally> {
    let mut command = rust::cargo(paths);
    command.args(["test", "--locked", "--no-fail-fast", "-p", "guest"]);
    command
        .env("VBR_QEMU", build.binary())
        .env("VBR_GUEST", paths.guest());
    // They are marked as ignored because they need a QEMU, which is here now.
    command.args(["--", "--show-output", "--include-ignored"]);
    command.args(filter);
    rust::run_counted(paths, "guest", &mut command)
}
