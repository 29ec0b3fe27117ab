// SPDX-License-Identifier: GPL-2.0-or-later
//! One guest, inflated and deflated.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::super::cpu::CpuTime;
use super::super::guests::fill_and_free;
use super::plan::{KEPT_MIB, MEMORY_MIB, Pages, TARGET_MIB, WRITTEN_MIB};
use crate::config::VmConfig;
use crate::vm::Vm;
use crate::{Error, MIB, Result};

/// A guest that was busy has some work left behind it.
const SETTLE: Duration = Duration::from_millis(500);
/// What the time can be wrong by; each look costs QEMU's main thread some 50 us.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Far more than a slow machine takes.
const LIMIT: Duration = Duration::from_secs(300);

/// One guest, there and back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// What its memory is made of.
    pub pages: Pages,
    /// The variant's name.
    pub variant: &'static str,
    /// Counted from 1.
    pub round: u32,
    /// Host memory behind the guest's RAM before and after inflating, in bytes.
    pub resident: (u64, u64),
    /// To the target.
    pub inflate: Way,
    /// Back again.
    pub deflate: Way,
}

/// The way to one target.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way {
    /// From the monitor's command until the balloon has that size.
    pub time: Duration,
    /// Processor time of QEMU.
    pub cpu: CpuTime,
    /// The part of its main thread.
    pub main: Duration,
    /// What the device counts, where it is ours.
    pub device: Option<Counts>,
    /// Messages as our driver counts them, where the guest uses it.
    pub sent: Option<u64>,
}

/// What our device counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages answered.
    pub requests: u64,
    /// Ranges that they were merged to.
    pub ranges: u64,
    /// System calls to give memory back.
    pub discards: u64,
}

impl Counts {
    /// `None` where the device counts nothing.
    fn of(vm: &mut Vm) -> Option<Counts> {
        Some(Counts {
            requests: vm.counter("requests").ok()?,
            ranges: vm.counter("ranges").ok()?,
            discards: vm.counter("discards").ok()?,
        })
    }

    fn since(self, before: Counts) -> Counts {
        Counts {
            requests: self.requests - before.requests,
            ranges: self.ranges - before.ranges,
            discards: self.discards - before.discards,
        }
    }
}

/// Inflates and deflates a guest that is started as `config` says. A program of the
/// guest has some memory meanwhile, which is checked in the end.
///
/// # Errors
/// When the guest does not get there, or its memory is not what it was.
pub fn measure(config: &VmConfig) -> Result<Run> {
    let mut vm = Vm::start(config)?;
    let kept = vm.guest(|agent| agent.start_worker(KEPT_MIB, 51, false))?;
    vm.wait_filled(kept)?;
    // It shares its processor with the driver, so it waits.
    vm.guest(|agent| agent.hold_worker(kept))?;
    fill_and_free(&mut vm, WRITTEN_MIB)?;
    thread::sleep(SETTLE);
    let before = vm.resident()?;
    let inflate = go(&mut vm, TARGET_MIB)?;
    thread::sleep(SETTLE);
    let after = vm.resident()?;
    let deflate = go(&mut vm, MEMORY_MIB)?;
    vm.guest(|agent| agent.release_worker(kept))?;
    vm.assert_intact(kept)?;
    Ok(Run {
        resident: (before, after),
        inflate,
        deflate,
        ..Run::default()
    })
}

fn go(vm: &mut Vm, mib: u64) -> Result<Way> {
    // Where the guest has its own driver there is nothing to read.
    let sent = |vm: &mut Vm| {
        let inflate = vm.driver_count("inflate-messages").ok()?;
        Some(inflate + vm.driver_count("deflate-messages").ok()?)
    };
    let (counts, sent_before) = (Counts::of(vm), sent(vm));
    let (cpu, main) = (CpuTime::of(vm.pid())?, main_thread(vm.pid())?);
    let begun = Instant::now();
    vm.set_balloon(mib)?;
    while vm.balloon_actual()? != mib * MIB {
        if begun.elapsed() > LIMIT {
            return Err(vm.explain(Error::Timeout {
                what: format!("guest of {mib} MiB"),
                after: LIMIT,
            }));
        }
        thread::sleep(LOOK_EVERY);
    }
    let time = begun.elapsed();
    // What is left in slices belongs to the cost.
    thread::sleep(SETTLE);
    Ok(Way {
        time,
        cpu: CpuTime::of(vm.pid())?.since(cpu),
        main: main_thread(vm.pid())?.saturating_sub(main),
        device: Counts::of(vm)
            .zip(counts)
            .map(|(now, then)| now.since(then)),
        sent: sent(vm).zip(sent_before).map(|(now, then)| now - then),
    })
}

/// Processor time of the main thread of process `pid`.
fn main_thread(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let nanoseconds = text.split_whitespace().next().and_then(|n| n.parse().ok());
    let odd = || Error::Protocol(format!("odd {path}: {text}"));
    Ok(Duration::from_nanos(nanoseconds.ok_or_else(odd)?))
}
