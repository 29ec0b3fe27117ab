// SPDX-License-Identifier: GPL-2.0-or-later

//! The benchmarks of the crate `bench`: what the device costs.

use std::ffi::OsString;
use std::process::Command;

use clap::Args;

use crate::error::{Error, Result};
use crate::paths::Paths;
use crate::qemu::{self, Wanted};

/// The crate `bench` knows the options; `--help` shows them.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CostArgs {
    /// QEMU series; before all other options [default: the newest that can be had]
    #[arg(long)]
    series: Option<String>,
    /// Options of the benchmark; --help shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

impl CostArgs {
    /// Everything, with the figures and the page of plots in target/bench.
    pub(crate) fn all(
        paths: &Paths,
        series: Option<String>,
        runs: u32,
        flags: [(&str, bool); 2],
    ) -> CostArgs {
        let file = |name: &str| paths.target().join("bench").join(name).into_os_string();
        let mut options: Vec<OsString> = vec!["--runs".into(), runs.to_string().into()];
        options.extend(["--json".into(), file("results.json")]);
        options.extend(["--html".into(), file("report.html")]);
        let given = flags.into_iter().filter(|(_, given)| *given);
        options.extend(given.map(|(name, _)| name.into()));
        CostArgs { series, options }
    }
}

/// Builds QEMU and runs the benchmark called `name`.
///
/// # Errors
/// When a step of the set-up or the benchmark itself fails; it has said why then.
pub(crate) fn run(paths: &Paths, name: &str, args: CostArgs) -> Result<()> {
    let wanted = Wanted {
        series: args.series,
        ..Wanted::default()
    };
    let build = qemu::build(paths, &wanted)?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths.top());
    // A slow program would be part of what it measures.
    command.args(["run", "--quiet", "--locked", "--release", "-p", "bench"]);
    command.args(["--", name]).args(args.options);
    command
        .env("VBR_QEMU", build.binary())
        .env("VBR_GUEST", paths.guest());
    let status = command
        .status()
        .map_err(|error| Error::new(format!("cannot start cargo: {error}"), "check PATH"))?;
    if status.success() {
        return Ok(());
    }
    let what = format!("bench {name} failed");
    Err(Error::new(what, "see its message above"))
}
