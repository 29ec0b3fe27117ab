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
        let mut options: Vec<OsString> = vec!["--runs".into(), runs.to_string().into()];
        options.extend(files(paths, ["results.json", "report.html"], &[]));
        let given = flags.into_iter().filter(|(_, given)| *given);
        options.extend(given.map(|(name, _)| name.into()));
        CostArgs { series, options }
    }
}

/// All benchmarks but those that take too long.
pub(crate) const ALL: &str = "all";

/// The options for files with the figures and with a page of plots, but for those that are
/// given already.
fn files(paths: &Paths, names: [&str; 2], given: &[OsString]) -> Vec<OsString> {
    let mut options = Vec::new();
    for (option, name) in ["--json", "--html"].into_iter().zip(names) {
        let is_it = |word: &OsString| word.to_string_lossy().split('=').next() == Some(option);
        if !given.iter().any(is_it) {
            let file = paths.target().join("bench").join(name);
            options.extend([option.into(), file.into_os_string()]);
        }
    }
    options
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
    command.args(["--", name]).args(&args.options);
    if name != ALL {
        let names = [format!("{name}.json"), format!("{name}.html")];
        command.args(files(
            paths,
            names.each_ref().map(String::as_str),
            &args.options,
        ));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_benchmark_alone_draws_its_page_unless_told_where() {
        let words = |given: &[&str]| {
            let given: Vec<OsString> = given.iter().map(OsString::from).collect();
            let options = files(&Paths::new(), ["device.json", "device.html"], &given);
            let text = options
                .iter()
                .map(|word| word.to_string_lossy().into_owned());
            text.collect::<Vec<_>>().join(" ")
        };
        assert!(words(&["--runs", "1"]).ends_with("target/bench/device.html"));
        assert!(!words(&["--html", "x"]).contains("--html"));
        assert!(!words(&["--html=x"]).contains("--html"));
        assert!(words(&["--html=x"]).contains("--json"));
    }
}
