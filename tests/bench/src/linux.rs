// SPDX-License-Identifier: GPL-2.0-or-later
//! `bench guest`: a Linux guest gives half of its memory away, takes it back and uses it again.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use guest::bench::cpu::CpuTime;
use guest::config::VmConfig;
use guest::vm::Vm;
use guest::{Error, MIB, Result, testing};

use crate::figures::Spread;
use crate::smaps::Ram;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Guests with each device
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub runs: u32,
}

const GUEST_MIB: u64 = 2048;
const HALF_MIB: u64 = GUEST_MIB / 2;
/// All that a program can have beside the kernel.
const USED_MIB: u64 = 1700;
/// A balloon that is not where it should be after so long never will be.
const LIMIT: Duration = Duration::from_secs(120);
/// The devices: the name in tables, and as after `-device`.
const DEVICES: [(&str, &str); 2] = [("stock", testing::STOCK), ("ours", "virtio-balloon-rs")];

/// A figure's place in a run, its name in files and its title in tables.
pub const FIGURES: [(&str, &str); 12] = [
    ("inflate_ms", "inflate to half, ms"),
    ("inflate_cpu_ms", "  CPU of QEMU without the guest, ms"),
    ("deflate_ms", "deflate, ms"),
    ("deflate_cpu_ms", "  CPU of QEMU without the guest, ms"),
    ("reuse_ms", "a program uses the memory again, ms"),
    ("reuse_faults", "  page faults of QEMU"),
    ("resident_full_mib", "resident before, MiB"),
    ("resident_half_mib", "resident when inflated, MiB"),
    ("huge_before_mib", "in huge pages before, MiB"),
    ("huge_half_mib", "in huge pages when inflated, MiB"),
    ("huge_after_mib", "in huge pages when used again, MiB"),
    ("huge_back_percent", "  of those before, %"),
];

/// One guest.
#[derive(Debug, Clone)]
pub struct Run {
    /// The device's name.
    pub device: &'static str,
    /// Values in the order of [`FIGURES`].
    pub values: [f64; FIGURES.len()],
}

/// Runs guests with each device in turn.
///
/// # Errors
/// When a guest does not do what it should.
pub fn run(options: &Options, runs: &mut Vec<Run>) -> Result<()> {
    let base = testing::config("")?;
    for round in 1..=options.runs {
        for (name, device) in DEVICES {
            let config = VmConfig {
                device: Some(device.into()),
                memory_mib: GUEST_MIB,
                ..base.clone()
            };
            let values = one(&config)?;
            println!(
                "  round {round} {name:<6} inflate {:.0} ms, deflate {:.0} ms, reuse {:.0} ms, \
                 huge {:.0} -> {:.0} MiB, {:.1} %",
                values[0], values[2], values[4], values[8], values[10], values[11]
            );
            let device = name;
            runs.push(Run { device, values });
        }
    }
    Ok(())
}

fn one(config: &VmConfig) -> Result<[f64; FIGURES.len()]> {
    let mut vm = Vm::start(config)?;
    vm.touch(USED_MIB)?;
    let full = Ram::of(vm.pid())?;
    let inflate = balloon(&mut vm, HALF_MIB)?;
    let half = Ram::of(vm.pid())?;
    let deflate = balloon(&mut vm, GUEST_MIB)?;
    let faults = page_faults(vm.pid())?;
    let begun = Instant::now();
    vm.touch(USED_MIB)?;
    let reuse = begun.elapsed();
    let faults = page_faults(vm.pid())? - faults;
    let after = Ram::of(vm.pid())?;
    let mib = |bytes: u64| (bytes / MIB) as f64;
    Ok([
        inflate.0,
        inflate.1,
        deflate.0,
        deflate.1,
        ms(reuse),
        faults as f64,
        mib(full.resident),
        mib(half.resident),
        mib(full.huge),
        mib(half.huge),
        mib(after.huge),
        percent(after.huge, full.huge),
    ])
}

/// 0 where there was nothing before.
fn percent(after: u64, before: u64) -> f64 {
    match before {
        0 => 0.0,
        _ => 100.0 * after as f64 / before as f64,
    }
}

/// Has the guest go to `mib` MiB; gives the time that it took, and processor time, in ms.
fn balloon(vm: &mut Vm, mib: u64) -> Result<(f64, f64)> {
    let cpu = CpuTime::of(vm.pid())?;
    let begun = Instant::now();
    vm.set_balloon(mib)?;
    while vm.balloon_actual()? != mib * MIB {
        if begun.elapsed() > LIMIT {
            return Err(vm.explain(Error::Timeout {
                what: format!("balloon at {mib} MiB"),
                after: LIMIT,
            }));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let took = begun.elapsed();
    let cpu = CpuTime::of(vm.pid())?.since(cpu);
    Ok((ms(took), cpu.qemu_ms as f64))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Those of a process that took no disk.
fn page_faults(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(Error::io(path))?;
    minor_faults(&text).ok_or_else(|| Error::Protocol(format!("odd stat: {text}")))
}

/// Field 10; the fields behind the name in brackets begin with 3.
fn minor_faults(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_whitespace().nth(10 - 3)?.parse().ok()
}

/// A figure's median and spread with one device.
pub fn spread(runs: &[Run], device: &str, figure: usize) -> Option<Spread> {
    let mine = runs.iter().filter(|run| run.device == device);
    Spread::of(mine.map(|run| run.values[figure]))
}

/// Prints all of `bench guest`.
pub fn print(runs: &[Run]) {
    println!("\nA Linux guest of {GUEST_MIB} MiB: median (least-most)");
    println!("{:<40}{:>26}{:>26}", "", DEVICES[0].0, DEVICES[1].0);
    for (index, (_, title)) in FIGURES.iter().enumerate() {
        print!("{title:<40}");
        for (name, _) in DEVICES {
            let cell = spread(runs, name, index).map(|s| {
                let (median, least, most) = (s.median, s.least, s.most);
                let digits = if title.ends_with('%') { 1 } else { 0 };
                format!("{median:.digits$} ({least:.digits$}-{most:.digits$})")
            });
            print!("{:>26}", cell.unwrap_or("-".into()));
        }
        println!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_behind_a_name_with_spaces() {
        let line = "71 (CPU 0/TCG) S 1 2 3 0 -1 4194560 123 0 0 0 25 17";
        assert_eq!(minor_faults(line), Some(123));
    }
}
