// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask bench`: what things cost, QEMU's own balloon beside ours.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::demo;
use crate::error::{At, Result};
use crate::paths::Paths;
use crate::qemu::{self, Wanted};

/// The benchmarks.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Live migration: QEMU's balloon without and with free page hints, and ours
    Migration(MigrationArgs),
}

/// The crate `guest` checks what is in the lists.
#[derive(Args)]
pub(crate) struct MigrationArgs {
    /// Migrations of each scenario with each device
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,
    /// Only these scenarios: freed, ballooned, ballooned-8g, busy
    #[arg(long, value_name = "NAME[,NAME..]")]
    scenario: Option<String>,
    /// Only these devices: stock, stock+hints, ours
    #[arg(long, value_name = "NAME[,NAME..]")]
    variant: Option<String>,
    /// Ours once with each of these values of free-page-hint-window
    #[arg(long, value_name = "MS[,MS..]")]
    window: Option<String>,
    /// QEMU's max-bandwidth, in MiB/s; 0 for no limit
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    max_bandwidth: u64,
    /// More words for the guest kernel's command line, such as init_on_alloc=0
    #[arg(long, value_name = "WORDS")]
    kernel_args: Option<String>,
    /// Write the figures of every single migration to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// QEMU series [default: the newest that can be had]
    #[arg(long)]
    series: Option<String>,
}

/// Builds what is missing and runs a benchmark.
///
/// # Errors
/// When a step of the set-up or the benchmark itself fails.
pub(crate) fn run(paths: &Paths, bench: Bench) -> Result<()> {
    match bench {
        Bench::Migration(args) => migration(paths, args),
    }
}

fn migration(paths: &Paths, args: MigrationArgs) -> Result<()> {
    let wanted = Wanted {
        series: args.series.clone(),
        ..Wanted::default()
    };
    let build = qemu::build(paths, &wanted)?;
    demo::example(paths, &build.binary(), "bench", passed_on(args)?)
}

/// The arguments of the program that does it.
fn passed_on(args: MigrationArgs) -> Result<Vec<OsString>> {
    let json = args
        .json
        .map(|path| std::path::absolute(&path).at("find", &path));
    let all = [
        ("--runs", Some(args.runs.to_string().into())),
        (
            "--max-bandwidth",
            Some(args.max_bandwidth.to_string().into()),
        ),
        ("--scenario", args.scenario.map(OsString::from)),
        ("--variant", args.variant.map(OsString::from)),
        ("--window", args.window.map(OsString::from)),
        ("--kernel-args", args.kernel_args.map(OsString::from)),
        ("--json", json.transpose()?.map(OsString::from)),
    ];
    let given = all
        .into_iter()
        .filter_map(|(name, value)| Some([name.into(), value?]));
    Ok(given.flatten().collect())
}
