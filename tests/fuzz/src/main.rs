// SPDX-License-Identifier: GPL-2.0-or-later
//! Runs a target in a plain loop, or once with the input of a file. `cargo xtask fuzz` starts this.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fuzz::plain::{self, Plan, Until};
use fuzz::{TARGETS, Target};

/// Runs a target.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// With mutated input, again and again
    Loop(LoopArgs),
    /// With the input of a file; something is wrong if it panics
    Once {
        /// The target
        target: String,
        /// The input
        file: PathBuf,
    },
    /// Names the targets
    List,
}

#[derive(Args)]
struct LoopArgs {
    /// The target
    target: String,
    /// For so long
    #[arg(long, conflicts_with = "runs")]
    seconds: Option<u64>,
    /// So often
    #[arg(long, default_value_t = 10_000)]
    runs: u64,
    /// Where the inputs begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A folder with inputs that are mutated; may be given again
    #[arg(long)]
    corpus: Vec<PathBuf>,
    /// Where an input goes by which something is wrong
    #[arg(long, default_value = "target/fuzz")]
    findings: PathBuf,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Loop(args) => turn(args),
        Command::Once { target, file } => {
            (named(&target)?.run)(&std::fs::read(file)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::List => {
            TARGETS
                .iter()
                .for_each(|target| println!("{}", target.name));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn named(name: &str) -> Result<Target> {
    let found = TARGETS.into_iter().find(|target| target.name == name);
    found.ok_or_else(|| format!("there is no target {name}").into())
}

fn turn(args: LoopArgs) -> Result<ExitCode> {
    let mut corpus = Vec::new();
    for dir in &args.corpus {
        corpus.extend(plain::corpus(dir)?);
    }
    let time = args.seconds.map(Duration::from_secs);
    let plan = Plan {
        target: named(&args.target)?,
        until: time.map_or(Until::Count(args.runs), Until::Time),
        seed: args.seed,
        corpus,
        findings: args.findings,
    };
    let outcome = plain::run(&plan)?;
    println!("{}: {} runs, seed {}", args.target, outcome.runs, args.seed);
    let Some(finding) = outcome.finding else {
        return Ok(ExitCode::SUCCESS);
    };
    println!(
        "{}: something is wrong with {}",
        args.target,
        finding.display()
    );
    Ok(ExitCode::FAILURE)
}
