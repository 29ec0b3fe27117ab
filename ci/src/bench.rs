// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask bench`: what things cost, QEMU's own balloon beside ours.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::costs::{self, CostArgs};
use crate::demo;
use crate::error::{At, Result};
use crate::paths::Paths;
use crate::qemu::{self, Wanted};
use crate::run::Step;
use crate::test::rust;

/// How the line before the tables of a benchmark of the library begins.
const TABLES: &str = "Measured on ";

/// One benchmark, or what the device costs in all respects.
#[derive(Args)]
pub(crate) struct Benches {
    #[command(subcommand)]
    one: Option<Bench>,
    /// How often each thing is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,
    /// Hold the ratios against tests/bench/floors.json
    #[arg(long)]
    check: bool,
    /// Print the tables of docs/benchmarks.md, too: medians and ratios in Markdown
    #[arg(long, alias = "readme")]
    markdown: bool,
    /// QEMU series [default: the newest that can be had]
    #[arg(long)]
    series: Option<String>,
}

/// The benchmarks.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Live migration: QEMU's balloon without and with free page hints, and ours
    Migration(MigrationArgs),
    /// Inflating and deflating by single pages, ranges and chunks, QEMU's balloon beside ours
    Protocols(ProtocolsArgs),
    /// What a page costs on the device's side, without a guest; the kernel alone is the limit
    Device(CostArgs),
    /// How long QEMU's monitor waits while a guest does its worst
    Latency(CostArgs),
    /// A Linux guest gives half of its memory away, takes it back and uses it again
    Guest(CostArgs),
    /// What it costs to have the device: memory, time to start, size of the program
    Cost(CostArgs),
    /// What it costs to find the pages that a guest wrote: bitmaps of the size of the machine and
    /// the dirty page list; takes five minutes
    Dirty(CostArgs),
    /// The bitmap of pages beside fixedbitset and roaring; takes two minutes
    Bitmap,
    /// The longest call of each kind, with the worst set of pages of guests of 64 GiB and 1 TiB:
    /// the figures of docs/bounds.md; takes two minutes
    Bounds(BoundsArgs),
}

/// The benchmark knows the rows.
#[derive(Args)]
pub(crate) struct BoundsArgs {
    /// Only rows that have one of these words in their name
    #[arg(value_name = "WORD")]
    words: Vec<OsString>,
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
    /// These devices [default: stock, stock+hints, ours]; also host-request, misc-queue: ours
    /// asks our driver for free pages
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

/// The crate `guest` checks what is in the lists.
#[derive(Args)]
pub(crate) struct ProtocolsArgs {
    /// Guests of each variant with each kind of pages
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,
    /// Only these variants: stock, stock-driver, classic, ranges, chunks
    #[arg(long, value_name = "NAME[,NAME..]")]
    variant: Option<String>,
    /// Only with these pages: thp, 4k
    #[arg(long, value_name = "NAME[,NAME..]")]
    pages: Option<String>,
    /// Write the figures of every single guest to this file
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
pub(crate) fn run(paths: &Paths, benches: Benches) -> Result<()> {
    let Some(bench) = benches.one else {
        let flags = [("--check", benches.check), ("--markdown", benches.markdown)];
        let args = CostArgs::all(paths, benches.series, benches.runs, flags);
        return costs::run(paths, costs::ALL, args);
    };
    match bench {
        Bench::Migration(args) => migration(paths, args),
        Bench::Protocols(args) => protocols(paths, args),
        Bench::Device(args) => costs::run(paths, "device", args),
        Bench::Latency(args) => costs::run(paths, "latency", args),
        Bench::Guest(args) => costs::run(paths, "guest", args),
        Bench::Cost(args) => costs::run(paths, "cost", args),
        Bench::Dirty(args) => costs::run(paths, "dirty", args),
        Bench::Bitmap => library(paths, "sparse-bitmap", "bitmap", &[]),
        Bench::Bounds(args) => library(paths, "balloon", "bounds", &args.words),
    }
}

fn migration(paths: &Paths, args: MigrationArgs) -> Result<()> {
    let given = [
        ("--runs", Some(args.runs.to_string().into())),
        (
            "--max-bandwidth",
            Some(args.max_bandwidth.to_string().into()),
        ),
        ("--scenario", args.scenario.map(OsString::from)),
        ("--variant", args.variant.map(OsString::from)),
        ("--window", args.window.map(OsString::from)),
        ("--kernel-args", args.kernel_args.map(OsString::from)),
        ("--json", file(args.json)?),
    ];
    guests(paths, args.series, "bench", given)
}

fn protocols(paths: &Paths, args: ProtocolsArgs) -> Result<()> {
    let given = [
        ("--runs", Some(args.runs.to_string().into())),
        ("--variant", args.variant.map(OsString::from)),
        ("--pages", args.pages.map(OsString::from)),
        ("--json", file(args.json)?),
    ];
    guests(paths, args.series, "protocols", given)
}

/// Criterion has a lot to say; only the tables that come last are shown.
fn library(paths: &Paths, package: &str, bench: &str, words: &[OsString]) -> Result<()> {
    let name = format!("bench {bench}");
    let mut tables = Vec::new();
    let mut command = rust::cargo(paths);
    command.args(["bench", "--locked", "-p", package]);
    command
        .args(["--bench", bench, "--", "--quiet"])
        .args(words);
    Step {
        name: &name,
        log: paths.log(&format!("bench-{bench}")),
        todo: "see its message and run this again",
    }
    .run_lines(&mut command, &mut |line| {
        if !tables.is_empty() || line.starts_with(TABLES) {
            tables.push(line.to_owned());
        }
    })?;
    tables.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// The program that writes it is started in another folder.
fn file(path: Option<PathBuf>) -> Result<Option<OsString>> {
    let path = path.map(|path| std::path::absolute(&path).at("find", &path));
    Ok(path.transpose()?.map(OsString::from))
}

/// Builds QEMU and runs a benchmark of the crate `guest` with those options that have a value.
fn guests<const N: usize>(
    paths: &Paths,
    series: Option<String>,
    name: &str,
    options: [(&str, Option<OsString>); N],
) -> Result<()> {
    let wanted = Wanted {
        series,
        ..Wanted::default()
    };
    let build = qemu::build(paths, &wanted)?;
    let given = options
        .into_iter()
        .filter_map(|(name, value)| Some([name.into(), value?]));
    demo::example(paths, &build.binary(), name, given.flatten())
}
