// SPDX-License-Identifier: GPL-2.0-or-later
//! Drives the whole binary over QEMU's test protocol, as a guest and an operator that do anything.
//! Nothing ends it, no sanitizer has anything to say, and the monitor goes on to answer.
//!
//! Sessions follow from a seed. What was told in one that failed is kept as a script that can be
//! told again.

mod driver;
mod machine;
mod operator;
mod session;
mod transport;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use machine::Work;
use session::{Checked, Session};

/// Drives a QEMU that was built with sanitizers.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Session after session
    Run(RunArgs),
    /// Tells again what is in a script
    Replay {
        /// QEMU's program
        #[arg(long)]
        qemu: PathBuf,
        /// The script
        script: PathBuf,
    },
}

#[derive(Args)]
struct RunArgs {
    /// QEMU's program
    #[arg(long)]
    qemu: PathBuf,
    /// For so long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The first session's
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where a script goes that shows something wrong
    #[arg(long, default_value = "target/fuzz")]
    findings: PathBuf,
}

/// One of so many sessions, at most, may end before a batch was worked off: the random driver
/// breaks its rings, or the device is gone.
const MOST_IDLE: u64 = 2;

type Ended = Result<ExitCode, Box<dyn std::error::Error>>;

fn main() -> Ended {
    match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Replay { qemu, script } => {
            let dir = scratch();
            let ended = replay(&qemu, &dir, &fs::read_to_string(script)?);
            let _ = fs::remove_dir_all(&dir);
            match ended {
                Ok(()) => println!("qemu: nothing is wrong"),
                Err(wrong) => return Err(wrong.into()),
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A short path, as a socket's may have 107 bytes.
fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("vbr-fuzz-{}", std::process::id()))
}

fn run(args: &RunArgs) -> Ended {
    fs::create_dir_all(&args.findings)?;
    let dir = scratch();
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    let (mut sessions, mut idle, mut told, mut work) = (0, 0, 0, Work::default());
    let mut longest = Duration::ZERO;
    while Instant::now() < deadline {
        let seed = args.seed.wrapping_add(sessions);
        let ended = machine::session(&args.qemu, &dir, seed);
        sessions += 1;
        idle += u64::from(ended.work.is_idle());
        told += ended.script.len();
        work.add(ended.work);
        longest = longest.max(ended.longest);
        let _ = fs::remove_dir_all(&dir);
        let all = format!("{sessions} sessions, {idle} of them idle, {told} commands, {work}");
        let longest = longest.as_millis();
        println!(
            "qemu: {all}; longest answer {longest} ms; from seed {} on",
            args.seed
        );
        if let Some(wrong) = ended.wrong {
            let path = args.findings.join(format!("qemu-{seed}"));
            fs::write(&path, ended.script.join("\n"))?;
            println!("{wrong}");
            println!("qemu: something is wrong with {}", path.display());
            return Ok(ExitCode::FAILURE);
        }
    }
    if idle > sessions / MOST_IDLE {
        println!("qemu: {idle} of {sessions} sessions had no batch worked off: nothing was tried");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn replay(qemu: &Path, dir: &Path, script: &str) -> Checked<()> {
    let mut lines = script.lines();
    let arguments = serde_json::from_str::<Vec<String>>(lines.next().unwrap_or_default());
    let arguments = arguments.map_err(|e| format!("the script's first line: {e}"))?;
    let mut session = Session::start(qemu, dir, &arguments)?;
    for line in lines {
        match line.split_once(' ') {
            Some(("q", command)) => drop(session.qtest(command)?),
            Some(("m", command)) => {
                let command = serde_json::from_str(command);
                let command = command.map_err(|e| format!("{line}: {e}"))?;
                session.monitor(&command)?;
            }
            Some(("load", changes)) => machine::load(qemu, &mut session, &arguments, changes)?,
            _ => return Err(format!("a script has no {line:?}")),
        }
    }
    session.end()
}
