// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask`: the one door to building, testing and showing the device.

#![forbid(unsafe_code)]

mod apt;
mod bench;
mod check;
mod costs;
mod demo;
#[cfg(test)]
mod docs;
mod error;
mod fetch;
mod fresh;
mod fuzz;
mod git;
mod header;
mod house;
mod patches;
mod paths;
mod progress;
mod qemu;
mod qemu_crates;
mod qemu_rust;
mod run;
mod series;
mod setup;
mod source;
mod stamp;
mod steps;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};

use crate::error::Result;
use crate::git::Git;
use crate::paths::Paths;
use crate::series::Series;

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
    /// Show a Linux guest giving memory back to the host
    Demo(DemoArgs),
    /// Measure what things cost, QEMU's own balloon beside ours
    #[command(args_conflicts_with_subcommands = true)]
    Bench(bench::Benches),
    /// Run all tests; the last line is `N passed, N failed`
    Test(TestArgs),
    /// Run only our device tests in QEMU's test library
    Qtest(QemuArgs),
    /// Run only the tests with Linux guests, or some of them
    Guest {
        /// Only those whose names contain this, such as migrated:: or checkpoints
        filter: Option<String>,
        /// The line of the guest's kernel, such as 7.3 [default: that of this Debian]
        #[arg(long, value_parser = ["6.1", "6.12", "6.18", "7.2", "7.3"])]
        kernel: Option<String>,
    },
    /// Give random input to the library, its C ABI and the whole binary, and see what breaks
    Fuzz(fuzz::FuzzArgs),
    /// Look after the patch series in qemu-patches
    #[command(subcommand)]
    Patches(Patches),
    /// Write the C header anew from the crate
    Header,
}

#[derive(Subcommand)]
enum Patches {
    /// Check form, size and style of the patches, and that they apply
    Check {
        /// Only this series [default: all]
        #[arg(long)]
        series: Option<String>,
        /// Also build QEMU after each patch
        #[arg(long)]
        build: bool,
    },
    /// Write the series from the commits in target/qemu/<series>/src
    Refresh {
        /// Only this series [default: all whose sources are there]
        #[arg(long)]
        series: Option<String>,
    },
}

#[derive(Args)]
struct DemoArgs {
    /// Draw resident size and guest memory over time
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// QEMU series [default: the newest that can be had]
    #[arg(long)]
    series: Option<String>,
}

#[derive(Args)]
struct TestArgs {
    /// Only what takes no QEMU
    #[arg(long, conflicts_with = "all")]
    quick: bool,
    /// Also other targets, QEMU's own Rust, sanitizers, and every series in full
    #[arg(long)]
    all: bool,
    /// QEMU series whose guests are run [default: the newest that can be had]
    #[arg(long)]
    series: Option<String>,
    /// Run both commands of the README on a new Debian of this number; with --quick the second
    /// one is quick, too
    #[arg(long, value_name = "12|13", conflicts_with_all = ["all", "series"])]
    fresh: Option<String>,
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
    /// A special build, in a build directory of its own
    #[arg(long)]
    variant: Option<qemu::Variant>,
}

impl QemuArgs {
    fn wanted(self) -> qemu::Wanted {
        qemu::Wanted {
            series: self.series,
            targets: self.target,
            qemu_src: self.qemu_src,
            configure_args: self.configure_arg,
            variant: self.variant,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match enter(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked; gives whether all was well, where that has been said already.
fn enter(door: Door) -> Result<bool> {
    let paths = Paths::new();
    match door {
        Door::Qemu(args) => build_qemu(&paths, args)?,
        Door::Demo(args) => demo::run(&paths, args.series, args.plot.as_deref())?,
        Door::Bench(bench) => bench::run(&paths, bench)?,
        Door::Test(TestArgs {
            quick,
            fresh: Some(number),
            ..
        }) => return fresh::run(&paths, &number, quick),
        Door::Test(TestArgs {
            quick, all, series, ..
        }) => {
            return test::run(&paths, &test::Options { quick, all, series });
        }
        Door::Qtest(args) => return test::device_tests(&paths, &args.wanted()),
        Door::Guest { filter, kernel } => {
            let (filter, kernel) = (filter.as_deref(), kernel.as_deref());
            return test::guest_tests(&paths, test::guests::Options { filter, kernel });
        }
        Door::Fuzz(args) => return fuzz::run(&paths, &args),
        Door::Patches(Patches::Check { series, build }) => check_patches(&paths, series, build)?,
        Door::Patches(Patches::Refresh { series }) => refresh_patches(&paths, series)?,
        Door::Header => header::write(&paths)?,
    }
    Ok(true)
}

/// The one series that was asked for, or all.
fn asked(paths: &Paths, series: Option<String>) -> Result<Vec<&'static Series>> {
    match series {
        Some(name) => Ok(vec![Series::named(&name)?]),
        None => Ok(Series::newest_first(paths)),
    }
}

fn check_patches(paths: &Paths, series: Option<String>, build: bool) -> Result<()> {
    for series in asked(paths, series)? {
        let git = qemu::sources_of(paths, series)?;
        check::check(paths, series, &git)?;
        if build {
            steps::build_each(paths, series, &git)?;
        }
    }
    Ok(())
}

fn refresh_patches(paths: &Paths, series: Option<String>) -> Result<()> {
    let all = series.is_none();
    for series in asked(paths, series)? {
        let git = Git::new(&paths.qemu_src(series.name));
        if !all || git.dir().exists() {
            patches::refresh(paths, series, &git)?;
            check::say(paths, series)?;
        }
    }
    Ok(())
}

fn build_qemu(paths: &Paths, args: QemuArgs) -> Result<()> {
    let start = Instant::now();
    let build = qemu::build(paths, &args.wanted())?;
    let time = progress::took(start.elapsed());
    println!(
        "QEMU {} is ready in {time}: {}",
        build.series.name,
        build.binary().display()
    );
    Ok(())
}
