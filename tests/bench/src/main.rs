// SPDX-License-Identifier: GPL-2.0-or-later
//! The benchmarks with a QEMU that is already built, which `VBR_QEMU` names; the arguments are
//! those of `cargo xtask bench`.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench::host::Host;
use bench::results::Results;
use bench::{cost, device, dirty, floors, latency, linux, markdown};
use clap::{Args, Parser, Subcommand};
use guest::{Result, testing};

/// Measures what the balloon costs.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    command: Door,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
struct Output {
    /// Write every single figure to this file
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write tables and plots to this file
    #[arg(long, global = true, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print the tables of docs/benchmarks.md, too: medians and ratios in Markdown
    #[arg(long, alias = "readme", global = true)]
    markdown: bool,
    /// Hold the ratios against tests/bench/floors.json
    #[arg(long, global = true)]
    check: bool,
}

#[derive(Subcommand)]
enum Door {
    /// Device, latency, guest and cost
    All {
        /// How often each thing is measured
        #[arg(long, value_name = "N", default_value_t = 3)]
        runs: u32,
    },
    /// What a page costs on the device's side, without a guest
    Device(device::Options),
    /// How long QEMU's monitor waits while a guest does its worst
    Latency(latency::Options),
    /// A Linux guest: inflate to half, deflate, use the memory again
    Guest(linux::Options),
    /// What it costs to have the device: memory, time to start, size of the program
    Cost(cost::Options),
    /// What it costs to find the pages that a guest wrote: bitmaps and the dirty list
    Dirty(dirty::Options),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let qemu = testing::qemu()?;
    let mut results = Results::new(Host::here(&qemu)?);
    let outcome = measure(&qemu, cli.command, &mut results);
    // What was measured before a failure is worth a look.
    results.print();
    if let Some(path) = &cli.output.json {
        results.write_json(path)?;
    }
    if let Some(path) = &cli.output.html {
        results.write_html(path)?;
        println!("\nTables and plots are in {}", path.display());
    }
    outcome?;
    if cli.output.markdown {
        println!("\n{}", markdown::tables(&results, &command()));
    }
    if cli.output.check && !floors::print(&floors::check(floors::FLOORS, &results)?) {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// How this was started by `cargo xtask`, without what only says where figures go.
fn command() -> String {
    let mut words = vec!["cargo xtask bench".to_string()];
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" | "--html" => drop(args.next()),
            "all" | "--markdown" | "--readme" | "--check" => {}
            _ => words.push(arg),
        }
    }
    words.join(" ")
}

fn measure(qemu: &Path, door: Door, results: &mut Results) -> Result<()> {
    match door {
        Door::All { runs } => {
            let device = device::Options {
                runs,
                ..device::Options::default()
            };
            device::run(qemu, &device, &mut results.device)?;
            let latency = latency::Options {
                runs,
                ..latency::Options::default()
            };
            latency::run(qemu, &latency, &mut results.latency)?;
            linux::run(&linux::Options { runs }, &mut results.guest)?;
            let cost = cost::Options {
                runs,
                ..cost::Options::default()
            };
            cost::run(qemu, &cost, &mut results.cost)
        }
        Door::Device(options) => device::run(qemu, &options, &mut results.device),
        Door::Latency(options) => latency::run(qemu, &options, &mut results.latency),
        Door::Guest(options) => linux::run(&options, &mut results.guest),
        Door::Cost(options) => cost::run(qemu, &options, &mut results.cost),
        Door::Dirty(options) => dirty::run(qemu, &options, &mut results.dirty),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    /// `cargo xtask bench` hands the options of these benchmarks on without a look at them.
    #[test]
    fn options_in_the_documents_are_there() {
        let page = include_str!("../../../docs/benchmarks.md").replace("\\\n", "");
        let cli = Cli::command();
        let mut options = 0;
        for line in page.lines().filter(|l| l.contains("cargo xtask bench ")) {
            let is_sign = |c: char| c.is_whitespace() || "[]|`".contains(c);
            let words = line.split(is_sign);
            for command in words.clone().filter_map(|name| cli.find_subcommand(name)) {
                let longs: Vec<_> = command
                    .get_arguments()
                    .chain(cli.get_arguments())
                    .filter_map(|argument| argument.get_long())
                    .collect();
                for option in words.clone().filter_map(|word| word.strip_prefix("--")) {
                    assert!(
                        option == "help" || longs.contains(&option),
                        "{line}: {option}"
                    );
                    options += 1;
                }
            }
        }
        assert!(options > 5, "only {options} options");
    }
}
