// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask`: the one door to building, testing and showing the device.

mod apt;
mod error;
mod fetch;
mod git;
mod patches;
mod paths;
mod progress;
mod qemu;
mod run;
mod series;
mod setup;
mod source;
mod stamp;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};

use crate::error::Result;
use crate::paths::Paths;

/// Builds, tests and shows the device.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Door,
}

#[derive(Subcommand)]
enum Door {
    /// Fetch, patch and build QEMU into target/qemu/<series>/{src,build}
    Qemu(QemuArgs),
}

#[derive(Args)]
struct QemuArgs {
    /// QEMU series, such as 10.2 [default: the newest that can be had]
    #[arg(long)]
    series: Option<String>,
    /// QEMU targets, with commas [default: x86_64-softmmu]
    #[arg(long, value_delimiter = ',')]
    target: Vec<String>,
    /// Use the QEMU sources in this directory; they are copied, not changed
    #[arg(long, value_name = "DIR")]
    qemu_src: Option<PathBuf>,
    /// One more argument for QEMU's configure; may be given again
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    configure_arg: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match enter(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn enter(door: Door) -> Result<()> {
    let paths = Paths::new();
    match door {
        Door::Qemu(args) => build_qemu(&paths, args),
    }
}

fn build_qemu(paths: &Paths, args: QemuArgs) -> Result<()> {
    let start = Instant::now();
    let wanted = qemu::Wanted {
        series: args.series,
        targets: args.target,
        qemu_src: args.qemu_src,
        configure_args: args.configure_arg,
        variant: None,
    };
    let build = qemu::build(paths, &wanted)?;
    let time = progress::took(start.elapsed());
    println!(
        "QEMU {} is ready in {time}: {}",
        build.series.name,
        build.binary().display()
    );
    Ok(())
}
