// SPDX-License-Identifier: GPL-2.0-or-later
//! `bench device`: what a page costs on the device's side, without a guest.

use std::path::Path;

use clap::Args;
use guest::hugepages::HugePages;
use guest::{MIB, Result};

use crate::figures::{Case, Sample, Samples};
use crate::machine::{Config, Machine, QueueName};
use crate::plan::{Backing, Device, Operation, PFNS_A_KICK, Pattern, Run};
use crate::raw;
use crate::request::Desk;
use crate::smaps::Ram;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How often each case is measured with each device
    #[arg(long, value_name = "N", default_value_t = RUNS)]
    pub runs: u32,
    /// Memory that is given away, in MiB; a kick is of 128 MiB
    #[arg(long, value_name = "MIB", default_value_t = REGION_MIB)]
    pub region: u64,
    /// Only these kinds of memory
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub backing: Vec<Backing>,
    /// Only these orders of pages
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub pattern: Vec<Pattern>,
    /// Only these devices
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub device: Vec<Device>,
    /// Only these operations; a deflate is measured behind its inflate
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub operation: Vec<Operation>,
}

const RUNS: u32 = 3;
const REGION_MIB: u64 = 512;

impl Default for Options {
    /// All of it.
    fn default() -> Options {
        Options {
            runs: RUNS,
            region: REGION_MIB,
            backing: Vec::new(),
            pattern: Vec::new(),
            device: Vec::new(),
            operation: Vec::new(),
        }
    }
}

/// What is done before the measurement uses these pages, at this address.
const WARM: (u64, u32) = (16 << 20, PFNS_A_KICK as u32);
/// Here begins the memory that is measured.
const BASE: u64 = 256 << 20;
/// No RAM is there.
const NO_RAM: u64 = 1 << 40;
/// How often the cost of a kick alone is measured.
const EMPTY_KICKS: u32 = 16;
/// A report has so many blocks.
const BLOCKS_A_REPORT: usize = 32;
/// Pages of the largest block of a Linux guest.
const BLOCK_PAGES: u32 = 1024;
/// Room for rings and requests, in MiB.
const WINDOW_MIB: u64 = 4;

/// Whether `item` was asked for.
fn wanted<T: PartialEq>(list: &[T], item: &T) -> bool {
    list.is_empty() || list.contains(item)
}

/// Measures all that `options` ask for.
///
/// # Errors
/// When QEMU or a device does not do what it should.
pub fn run(qemu: &Path, options: &Options, samples: &mut Samples) -> Result<()> {
    for backing in Backing::ALL {
        if !wanted(&options.backing, &backing) {
            continue;
        }
        let _reserved = match backing {
            // For a machine, and for the raw calls after it ended.
            Backing::Hugetlb => match HugePages::reserve(ram_mib(options)) {
                Ok(pages) => Some(pages),
                Err(why) => {
                    println!("hugetlb is left out: {why}");
                    continue;
                }
            },
            _ => None,
        };
        for round in 1..=options.runs {
            for pattern in Pattern::ALL {
                if wanted(&options.pattern, &pattern) {
                    one(qemu, options, backing, pattern, round, samples)?;
                }
            }
        }
    }
    Ok(())
}

fn ram_mib(options: &Options) -> u64 {
    BASE / MIB + options.region
}

/// Each device once.
fn one(
    qemu: &Path,
    options: &Options,
    backing: Backing,
    pattern: Pattern,
    round: u32,
    samples: &mut Samples,
) -> Result<()> {
    let pages = (options.region * MIB / 4096) as u32;
    for operation in [Operation::Inflate, Operation::Report] {
        let report = operation == Operation::Report;
        let only_deflate = !report && wanted(&options.operation, &Operation::Deflate);
        if !wanted(&options.operation, &operation) && !only_deflate
            || report && !pattern.is_of_blocks()
        {
            continue;
        }
        let work = match report {
            false => Work::of_pages(pattern, pages, round),
            true => Work::of_blocks(pattern, pages, round),
        };
        let case = Case {
            backing,
            operation,
            pattern,
        };
        let kicks = work.kicks();
        let deflated = Case {
            operation: Operation::Deflate,
            ..case
        };
        let mut new = vec![raw::measure(case, pages, &kicks, round)?];
        if !report {
            new.push(raw::measure(deflated, pages, &kicks, round)?);
        }
        let mut new: Vec<Sample> = new.into_iter().flatten().collect();
        for device in Device::ALL {
            let fits = wanted(&options.device, &device) && (!report || device.can_report());
            if !fits {
                continue;
            }
            let config = Config {
                qemu: qemu.into(),
                device,
                backing,
                ram_mib: ram_mib(options),
                window_mib: WINDOW_MIB,
            };
            let mut bench = Bench::start(&config, report)?;
            new.push(bench.measure(case, &work, round)?);
            if !report {
                new.push(bench.measure(deflated, &work, round)?);
            }
        }
        new.retain(|s| wanted(&options.operation, &s.case.operation));
        progress(&new);
        samples.0.extend(new);
    }
    Ok(())
}

/// Pages in the order in which they are given away.
struct Work {
    pages: Vec<u32>,
    /// Where blocks are reported: one run for each.
    blocks: Vec<Run>,
    pages_a_kick: usize,
}

impl Work {
    fn of_pages(pattern: Pattern, pages: u32, round: u32) -> Work {
        Work {
            pages: pattern.pages(pages, round.into()),
            blocks: Vec::new(),
            pages_a_kick: PFNS_A_KICK,
        }
    }

    fn of_blocks(pattern: Pattern, pages: u32, round: u32) -> Work {
        let half = pattern == Pattern::Alternate;
        // Every second block that is half as large: the order of pages becomes one of blocks.
        let size = if half { BLOCK_PAGES / 2 } else { BLOCK_PAGES };
        let order = match pattern {
            Pattern::Blocks => Pattern::Shuffled,
            other => other,
        };
        let order = order.pages(pages / size, round.into());
        let blocks: Vec<Run> = order.iter().map(|&b| (b * size, size)).collect();
        Work {
            pages: blocks.iter().flat_map(|&(b, n)| b..b + n).collect(),
            blocks,
            pages_a_kick: BLOCKS_A_REPORT * size as usize,
        }
    }

    fn kicks(&self) -> Vec<&[u32]> {
        self.pages.chunks(self.pages_a_kick).collect()
    }
}

/// A machine that is warm, and what driving it costs by itself.
struct Bench {
    machine: Machine,
    desk: Desk,
    device: Device,
    kick_wall_ns: f64,
    kick_cpu_ns: f64,
    settle_cpu_ns: f64,
}

impl Bench {
    fn start(config: &Config, report: bool) -> Result<Bench> {
        let (mut machine, _) = Machine::start(config)?;
        let mut bench = Bench {
            desk: Desk::new(&mut machine)?,
            machine,
            device: config.device,
            kick_wall_ns: 0.0,
            kick_cpu_ns: 0.0,
            settle_cpu_ns: 0.0,
        };
        bench.warm_up(report)?;
        bench.weigh(report)?;
        Ok(bench)
    }

    /// What a device does only once is done: these pages have nothing behind them.
    fn warm_up(&mut self, report: bool) -> Result<()> {
        let (base, count) = WARM;
        let pages: Vec<u32> = (0..count).collect();
        if report {
            Desk::put_report(&mut self.machine, base, &[(0, BLOCK_PAGES)])?;
            self.machine.kick(QueueName::Report)?;
        }
        for queue in [QueueName::Inflate, QueueName::Deflate] {
            self.put(queue, (base, &pages))?;
            self.machine.kick(queue)?;
        }
        Ok(())
    }

    fn put(&mut self, queue: QueueName, pages: (u64, &[u32])) -> Result<()> {
        self.desk.put(&mut self.machine, queue, self.device, pages)
    }

    /// Kicks with one page that does not exist, and a machine that has nothing to do.
    fn weigh(&mut self, report: bool) -> Result<()> {
        self.machine.settle()?;
        let before = self.machine.cpu_ns()?;
        self.machine.settle()?;
        let settled = self.machine.cpu_ns()?;
        let mut walls = Vec::new();
        for _ in 0..EMPTY_KICKS {
            let queue = match report {
                // One page at the start of the machine's memory, which has nothing behind it.
                true => {
                    Desk::put_report(&mut self.machine, WARM.0, &[(0, 1)])?;
                    QueueName::Report
                }
                false => {
                    self.put(QueueName::Inflate, (NO_RAM, &[0]))?;
                    QueueName::Inflate
                }
            };
            walls.push(self.machine.kick(queue)?.as_nanos() as f64);
        }
        self.machine.wait_idle()?;
        let kicked = self.machine.cpu_ns()?;
        walls.sort_by(f64::total_cmp);
        self.kick_wall_ns = walls[walls.len() / 2];
        self.kick_cpu_ns = (kicked - settled) as f64 / f64::from(EMPTY_KICKS);
        self.settle_cpu_ns = (settled - before) as f64;
        Ok(())
    }

    fn measure(&mut self, case: Case, work: &Work, round: u32) -> Result<Sample> {
        let queue = match case.operation {
            Operation::Inflate => QueueName::Inflate,
            Operation::Deflate => QueueName::Deflate,
            Operation::Report => QueueName::Report,
        };
        let gives = queue != QueueName::Deflate;
        if gives {
            // All of it, also the pages between those that are given away.
            let end = work.pages.iter().max().map_or(0, |&last| last + 1);
            self.machine.fill(BASE, u64::from(end) * 4096)?;
        }
        let ram = Ram::of(self.machine.pid())?;
        self.machine.wait_idle()?;
        let cpu = self.machine.cpu_ns()?;
        let mut wall_ns = 0.0;
        for (number, kick) in work.kicks().into_iter().enumerate() {
            if queue == QueueName::Report {
                let first = number * BLOCKS_A_REPORT;
                let blocks = &work.blocks[first..][..kick.len() / (work.blocks[0].1 as usize)];
                Desk::put_report(&mut self.machine, BASE, blocks)?;
            } else {
                self.put(queue, (BASE, kick))?;
            }
            wall_ns += self.machine.kick(queue)?.as_nanos() as f64 - self.kick_wall_ns;
        }
        self.machine.settle()?;
        let kicks = work.kicks().len() as f64;
        let cpu_ns =
            (self.machine.cpu_ns()? - cpu) as f64 - self.settle_cpu_ns - kicks * self.kick_cpu_ns;
        let after = Ram::of(self.machine.pid())?;
        let pages = work.pages.len() as f64;
        let freed = ram.resident as f64 - after.resident as f64;
        Ok(Sample {
            case,
            device: self.device.name(),
            round,
            wall_ns: wall_ns / pages,
            cpu_ns: cpu_ns / pages,
            freed: gives.then_some(freed / (pages * 4096.0)),
            huge: (case.backing == Backing::Thp && gives)
                .then(|| ram.huge as f64 / ram.resident as f64),
        })
    }
}

fn progress(samples: &[Sample]) {
    let Some(first) = samples.first() else {
        return;
    };
    let case = first.case;
    print!(
        "  {:<8}{:<11} round {}:",
        case.backing.name(),
        case.pattern.name(),
        first.round
    );
    for sample in samples {
        let operation = sample.case.operation.name();
        print!(" {}-{} {:.0}", operation, sample.device, sample.cpu_ns);
    }
    println!(" ns/page");
}
