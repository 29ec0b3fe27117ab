// SPDX-License-Identifier: GPL-2.0-or-later
//! `bench latency`: how long QEMU's monitor waits while a guest does its worst.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use guest::qmp::Qmp;
use guest::{Error, MIB, Result};
use serde_json::json;

use crate::hostile::{self, Hostile, Work};
use crate::machine::{Config, Machine, QueueName};
use crate::plan::{Backing, Device, PFNS_A_KICK};

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How often each input is given to each device; all answers count as one set
    #[arg(long, value_name = "N", default_value_t = RUNS)]
    pub runs: u32,
    /// For how long the monitor is asked, at most, in seconds
    #[arg(long, value_name = "S", default_value_t = SECONDS)]
    pub seconds: u64,
    /// Only these inputs
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub input: Vec<Hostile>,
    /// RAM of the guest that migrates, in GiB: nothing of it is touched
    #[arg(long, value_name = "N", default_value_t = MIGRATED_GIB)]
    pub migrated_gib: u64,
}

const RUNS: u32 = 3;
const SECONDS: u64 = 4;
const MIGRATED_GIB: u64 = 64;

impl Default for Options {
    /// All of it.
    fn default() -> Options {
        Options {
            runs: RUNS,
            seconds: SECONDS,
            input: Vec::new(),
            migrated_gib: MIGRATED_GIB,
        }
    }
}

/// RAM of the machine, all of it filled where the input is about memory.
pub const RAM_MIB: u64 = 1024;
/// The next kick comes so soon after the last one was answered.
const PAUSE: Duration = Duration::from_micros(100);
/// To migrate takes so many times as long as the other inputs may take.
const MIGRATION_FACTOR: u64 = 30;
/// An input begins after so many quiet answers.
const BEFORE: usize = 50;

/// The answers of the monitor while one input was worked on.
#[derive(Debug, Clone)]
pub struct Answers {
    /// What the guest did.
    pub input: Hostile,
    /// To which device.
    pub device: &'static str,
    /// How long each took, sorted.
    pub ns: Vec<u64>,
    /// Whether all of the input was done in the time.
    pub ended: bool,
    /// RAM of the guest, if it migrated.
    pub migrated_gib: Option<u64>,
}

impl Answers {
    /// In tables.
    pub fn title(&self) -> String {
        let title = self.input.title(self.device == Device::Stock.name());
        match self.migrated_gib {
            Some(gib) => format!("{gib} GiB: {title}"),
            None => title,
        }
    }

    /// The time within which `part` (from 0 to 1) of the answers came, in milliseconds.
    pub fn percentile_ms(&self, part: f64) -> f64 {
        let index = (part * self.ns.len() as f64).ceil() as usize;
        let ns = self.ns.get(index.saturating_sub(1)).copied();
        ns.unwrap_or(0) as f64 / 1e6
    }
}

/// Gives each input to stock and to ours.
///
/// # Errors
/// When QEMU or a device does not do what it should.
pub fn run(qemu: &Path, options: &Options, all: &mut Vec<Answers>) -> Result<()> {
    for input in Hostile::ALL {
        if !options.input.is_empty() && !options.input.contains(&input) {
            continue;
        }
        let devices = input.devices();
        let mut of_devices: Vec<Answers> = devices
            .iter()
            .map(|device| Answers {
                input,
                device: device.name(),
                ns: Vec::new(),
                ended: true,
                migrated_gib: input.migrates().then_some(options.migrated_gib),
            })
            .collect();
        // In turn, so that all devices have the same share of what else the machine does.
        for _ in 0..options.runs {
            for (device, answers) in devices.iter().zip(&mut of_devices) {
                let (ns, ended) = match input.migrates() {
                    true => migration(qemu, options, input, *device)?,
                    false => one(qemu, options, input, *device)?,
                };
                answers.ns.extend(ns);
                answers.ended &= ended;
            }
        }
        for mut answers in of_devices {
            answers.ns.sort_unstable();
            println!("  {}", line(&answers));
            all.push(answers);
        }
    }
    Ok(())
}

/// One input to one machine, which is ended in the midst of it if it takes too long.
fn one(qemu: &Path, options: &Options, input: Hostile, device: Device) -> Result<(Vec<u64>, bool)> {
    let config = Config {
        qemu: qemu.into(),
        device,
        backing: Backing::Small,
        ram_mib: RAM_MIB,
        window_mib: hostile::WINDOW_MIB,
    };
    let (mut machine, mut qmp) = Machine::start(&config)?;
    if input.is_about_memory() {
        machine.fill(MIB, (RAM_MIB - 1) * MIB)?;
    }
    let mut work = Work::new(&mut machine, input, device)?;
    let mut next = work.put(&mut machine)?;
    machine.wait_idle()?;
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let begun = Instant::now();
        let limit = Duration::from_secs(options.seconds);
        let prober = scope.spawn(|| ask(&mut qmp, input.question(), &ready, &stop));
        while !ready.load(Ordering::Acquire) && begun.elapsed() < limit {
            thread::sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        let worked = (|| {
            while let Some(queue) = next {
                machine.notify(queue)?;
                while input == Hostile::Nothing || !machine.is_answered(queue)? {
                    if begun.elapsed() >= limit {
                        return Ok(false);
                    }
                    thread::sleep(PAUSE);
                }
                next = work.put(&mut machine)?;
            }
            Ok(true)
        })();
        stop.store(true, Ordering::Release);
        let asked = prober.join();
        let ns = asked.map_err(|_| Error::Tool("the thread that asks has failed".into()))??;
        let work: Result<bool> = worked;
        // Those from before the notification are not about the input.
        let during = ns.iter().filter(|(at, took)| *at + *took >= begun);
        Ok((
            during.map(|(_, took)| took.as_nanos() as u64).collect(),
            work?,
        ))
    })
}

/// A machine with the worst balloon migrates to nowhere, or one with an empty one.
fn migration(
    qemu: &Path,
    options: &Options,
    input: Hostile,
    device: Device,
) -> Result<(Vec<u64>, bool)> {
    let config = Config {
        qemu: qemu.into(),
        device,
        backing: Backing::Small,
        ram_mib: options.migrated_gib << 10,
        window_mib: hostile::WINDOW_MIB,
    };
    let (mut machine, mut qmp) = Machine::start(&config)?;
    let work = Work::new(&mut machine, input, device)?;
    let offsets = (MIB..options.migrated_gib << 30).step_by(2 * 4096);
    let pages = offsets.map(|offset| (config.address(offset) >> 12) as u32);
    let pages: Vec<u32> = pages.collect();
    let is_full = input == Hostile::Migration;
    let inflated = if is_full { &pages[..] } else { &[] };
    for some in inflated.chunks(PFNS_A_KICK) {
        work.put_pages_of(&mut machine, QueueName::Inflate, some)?;
        machine.kick(QueueName::Inflate)?;
    }
    qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 0 }))?;
    qmp.execute("migrate", json!({ "uri": "exec:cat > /dev/null" }))?;
    let stop = AtomicBool::new(false);
    let limit = Duration::from_secs(MIGRATION_FACTOR * options.seconds);
    thread::scope(|scope| {
        let prober = scope.spawn(|| {
            let asked = ask_until_migrated(&mut qmp, limit);
            stop.store(true, Ordering::Release);
            asked
        });
        let page = &pages[..1];
        let queues = [QueueName::Deflate, QueueName::Inflate];
        for queue in queues.into_iter().cycle() {
            if !is_full {
                break;
            }
            work.put_pages_of(&mut machine, queue, page)?;
            machine.notify(queue)?;
            // A machine that has migrated answers nothing more.
            while !machine.is_answered(queue)? && !stop.load(Ordering::Acquire) {
                thread::sleep(PAUSE);
            }
            if stop.load(Ordering::Acquire) {
                break;
            }
        }
        let asked = prober.join();
        asked.map_err(|_| Error::Tool("the thread that asks has failed".into()))?
    })
}

/// Asks how the migration is until it is over; says how long the answers took, and whether it is.
fn ask_until_migrated(qmp: &mut Qmp, limit: Duration) -> Result<(Vec<u64>, bool)> {
    let (mut all, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < limit {
        let sent = Instant::now();
        let answer = qmp.execute(Hostile::Migration.question(), json!({}))?;
        all.push(sent.elapsed().as_nanos() as u64);
        match answer["status"].as_str() {
            Some("completed") => return Ok((all, true)),
            Some("failed") => return Err(Error::Tool("the migration failed".into())),
            _ => {}
        }
    }
    Ok((all, false))
}

/// Asks again and again; gives when each question was sent and how long its answer took.
fn ask(
    qmp: &mut Qmp,
    question: &str,
    ready: &AtomicBool,
    stop: &AtomicBool,
) -> Result<Vec<(Instant, Duration)>> {
    let mut all = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let begun = Instant::now();
        let answer = qmp.execute(question, json!({}));
        all.push((begun, begun.elapsed()));
        match answer {
            // So long at least; whoever asks has given up.
            Err(Error::Timeout { .. }) => break,
            other => other?,
        };
        if all.len() == BEFORE {
            ready.store(true, Ordering::Release);
        }
    }
    Ok(all)
}

/// Prints all of `bench latency`.
pub fn print(all: &[Answers]) {
    println!("\nAnswer times of QEMU's monitor, ms, while the device works on what a guest does");
    println!(
        "{:<54}{:<8}{:>9}{:>9}{:>9}{:>10}{:>9}",
        "", "", "p50", "p99", "p99.9", "max", "answers"
    );
    all.iter().for_each(|answers| println!("{}", line(answers)));
    println!(
        "\nThe slowest in a thousand: stock / ours, and ours / what is there without the input"
    );
    for input in Hostile::ALL {
        let ratios = ratios(all, input);
        if ratios.iter().any(Option::is_some) {
            let cell = |ratio: Option<f64>| ratio.map_or("-".into(), |r| format!("{r:.2}"));
            let [to_stock, to_limit] = ratios.map(cell);
            println!("{:<62}{to_stock:>9}{to_limit:>9}", input.title(false));
        }
    }
}

/// How many times as long as ours stock makes the monitor wait, and ours as long as a device that
/// does nothing: by the answers of which one in a thousand is slower.
pub fn ratios(all: &[Answers], input: Hostile) -> [Option<f64>; 2] {
    let of = |input: Hostile, device: Device| {
        let mut all = all.iter();
        let answers = all.find(|a| a.input == input && a.device == device.name())?;
        Some(answers.percentile_ms(0.999)).filter(|ms| *ms > 0.0)
    };
    let ratio = |over: Option<f64>, under: Option<f64>| Some(over? / under?);
    let ours = of(input, Device::Ours);
    let limit = input.limit().and_then(|limit| of(limit, Device::Ours));
    [ratio(of(input, Device::Stock), ours), ratio(ours, limit)]
}

fn line(answers: &Answers) -> String {
    let ms = |part| answers.percentile_ms(part);
    format!(
        "{:<54}{:<8}{:>9.3}{:>9.3}{:>9.3}{:>10.3}{:>9}{}",
        answers.title(),
        answers.device,
        ms(0.5),
        ms(0.99),
        ms(0.999),
        ms(1.0),
        answers.ns.len(),
        if answers.ended { "" } else { "  (stopped)" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_stock_and_to_what_nothing_takes() {
        let answers = |input, device: Device, ms: u64| Answers {
            input,
            device: device.name(),
            ns: vec![ms * 1_000_000],
            ended: true,
            migrated_gib: None,
        };
        let all = [
            answers(Hostile::Migration, Device::Stock, 60),
            answers(Hostile::Migration, Device::Ours, 6),
            answers(Hostile::EmptyMigration, Device::Ours, 2),
        ];
        let [to_stock, to_limit] = ratios(&all, Hostile::Migration);
        assert_eq!((to_stock, to_limit), (Some(10.0), Some(3.0)));
        assert_eq!(ratios(&all, Hostile::EmptyMigration), [None, None]);
        assert_eq!(ratios(&all[..1], Hostile::Migration), [None, None]);
    }

    #[test]
    fn a_percentile_is_one_of_the_answers() {
        let mut answers = Answers {
            input: Hostile::Nothing,
            device: "ours",
            ns: (1..=1000).map(|n| n * 1_000_000).collect(),
            ended: true,
            migrated_gib: None,
        };
        let parts = [0.5, 0.99, 0.999, 1.0].map(|part| answers.percentile_ms(part));
        assert_eq!(parts, [500.0, 990.0, 999.0, 1000.0]);
        answers.ns.clear();
        assert_eq!(answers.percentile_ms(0.5), 0.0);
    }
}
