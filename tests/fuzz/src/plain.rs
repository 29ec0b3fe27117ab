// SPDX-License-Identifier: GPL-2.0-or-later
//! A loop that runs a target with mutated input, for toolchains without libFuzzer. The same seed
//! and the same corpus give the same inputs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Target;
use crate::random::Random;

/// When a loop ends that found nothing.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many runs of the target.
    Count(u64),
    /// After this time.
    Time(Duration),
}

/// What a loop is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is run.
    pub target: Target,
    /// When it ends.
    pub until: Until,
    /// Where the inputs begin.
    pub seed: u64,
    /// The inputs that are mutated.
    pub corpus: Vec<Vec<u8>>,
    /// Where an input goes by which something is wrong.
    pub findings: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How often the target ran.
    pub runs: u64,
    /// The file with the input that failed.
    pub finding: Option<PathBuf>,
}

/// An input that takes more than this of the processor's time is a finding too.
const STUCK: Duration = Duration::from_secs(20);
/// How often somebody is told how far it is.
const EACH: Duration = Duration::from_secs(10);
/// Clock ticks in a second, as Linux shows them to programs.
const TICKS: u64 = 100;

/// Runs the loop.
///
/// The input that is being run is in the file `current` beside the findings, for the case that the
/// whole process ends, where the target may do that.
///
/// # Errors
///
/// When a file cannot be written.
pub fn run(plan: &Plan) -> io::Result<Outcome> {
    fs::create_dir_all(&plan.findings)?;
    let path = plan.findings.join(format!("current-{}", plan.target.name));
    let current = plan.target.may_end.then(|| File::create(&path));
    let current = current.transpose()?;
    let begun = Instant::now();
    let runs = AtomicU64::new(0);
    thread::scope(|scope| {
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let runs = &runs;
        scope.spawn(move || watch(plan, &path, runs, &ended));
        // What a target says of its panics is not shown: some that the library catches are asked for.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let outcome = turns(plan, current.as_ref(), begun, runs);
        std::panic::set_hook(hook);
        drop(done);
        outcome
    })
}

fn turns(
    plan: &Plan,
    current: Option<&File>,
    begun: Instant,
    runs: &AtomicU64,
) -> io::Result<Outcome> {
    let mut input = Vec::new();
    loop {
        let number = runs.load(Ordering::Relaxed);
        let is_over = match plan.until {
            Until::Count(count) => number >= count,
            // The clock costs more than a run of the quick targets.
            Until::Time(time) => number.is_multiple_of(64) && begun.elapsed() >= time,
        };
        if is_over {
            return Ok(Outcome {
                runs: number,
                finding: None,
            });
        }
        next_input(plan, number, &mut input);
        if let Some(current) = current {
            current.set_len(input.len() as u64)?;
            current.write_all_at(&input, 0)?;
        }
        if !is_sound(plan.target, &input) {
            let finding = keep(plan, &shorten(plan.target, input))?;
            return Ok(Outcome {
                runs: number + 1,
                finding: Some(finding),
            });
        }
        runs.store(number + 1, Ordering::Relaxed);
    }
}

fn is_sound(target: Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok()
}

/// The input of a turn depends on the seed, the corpus and the turn's number alone. The corpus as
/// it is comes first.
fn next_input(plan: &Plan, number: u64, input: &mut Vec<u8>) {
    input.clear();
    if let Some(whole) = plan.corpus.get(number as usize) {
        input.extend(whole);
        return;
    }
    let mut random = Random::new(plan.seed.wrapping_add(number));
    let most = plan.target.most;
    match random.pick(&plan.corpus) {
        Some(whole) if !random.one_in(4) => input.extend(whole),
        _ => {
            let len = random.below(most + 1);
            input.extend((0..len).map(|_| random.byte()));
        }
    }
    for _ in 0..=random.below(6) {
        mutate(plan, &mut random, input);
    }
    input.truncate(most);
}

fn mutate(plan: &Plan, random: &mut Random, input: &mut Vec<u8>) {
    let at = random.below(input.len() + 1);
    let end = (at + 1 + random.below(16)).min(input.len());
    match random.below(8) {
        0 => input.insert(at, random.byte()),
        1 if at < end => drop(input.drain(at..end)),
        2 if at < end => input.extend_from_within(at..end),
        3 => {
            if let Some(other) = random.pick(&plan.corpus) {
                input.truncate(at);
                input.extend(&other[random.below(other.len() + 1)..]);
            }
        }
        4 if at < end => input[at..end].fill(random.byte()),
        5 if at < input.len() => input[at] = random.interesting(),
        6 => input.truncate(at),
        _ if at < input.len() => input[at] ^= 1 << random.below(8),
        _ => input.push(random.byte()),
    }
}

/// Leaves out what is not needed for the finding.
fn shorten(target: Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut piece = input.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..(at + piece).min(input.len()));
            if is_sound(target, &shorter) {
                at += piece;
            } else {
                input = shorter;
            }
        }
        piece /= 2;
    }
    input
}

fn keep(plan: &Plan, input: &[u8]) -> io::Result<PathBuf> {
    let name = format!("{}-{:016x}", plan.target.name, hash(input));
    let path = plan.findings.join(name);
    fs::write(&path, input)?;
    Ok(path)
}

/// FNV-1a: the same input has the same name everywhere.
fn hash(input: &[u8]) -> u64 {
    input.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Says how far it is, and ends the process when one input takes all of its time.
fn watch(plan: &Plan, path: &Path, runs: &AtomicU64, ended: &std::sync::mpsc::Receiver<()>) {
    let (mut last, mut since) = (u64::MAX, Duration::ZERO);
    loop {
        match ended.recv_timeout(EACH) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        let (now, used) = (runs.load(Ordering::Relaxed), processor_time());
        println!("{}: {now} runs", plan.target.name);
        if now != last {
            (last, since) = (now, used);
        } else if used.saturating_sub(since) > STUCK {
            let mut input = Vec::new();
            next_input(plan, now, &mut input);
            let _ = fs::write(path, input);
            println!(
                "{} does not come to an end: {}",
                plan.target.name,
                path.display()
            );
            std::process::exit(3);
        }
    }
}

/// What this process used of the processors so far: on a busy machine it does not run all the time.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|number| number.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// The files of a folder, sorted by name; none where there is no folder.
///
/// # Errors
///
/// When one cannot be read.
pub fn corpus(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TARGETS;

    fn plan(run: fn(&[u8])) -> Plan {
        Plan {
            target: Target { run, ..TARGETS[0] },
            until: Until::Count(20_000),
            seed: 1,
            corpus: vec![b"some corpus".to_vec()],
            findings: std::env::temp_dir().join(format!("fuzz-plain-{}", std::process::id())),
        }
    }

    #[test]
    fn what_is_found_is_kept_as_short_as_it_can_be() {
        let plan = plan(|data| assert!(!data.contains(&b'x'), "found"));
        let outcome = super::run(&plan).unwrap();
        let finding = outcome.finding.expect("one of the inputs has it");
        assert_eq!(fs::read(&finding).unwrap(), b"x");
        fs::remove_dir_all(&plan.findings).unwrap();
    }

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let plan = plan(|_| {});
        let inputs = |number| {
            let mut input = Vec::new();
            next_input(&plan, number, &mut input);
            input
        };
        assert_eq!(inputs(0), b"some corpus");
        for number in 1..100 {
            assert_eq!(inputs(number), inputs(number));
            assert_ne!(inputs(number), inputs(number + 1));
        }
    }
}
