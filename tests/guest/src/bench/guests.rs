// SPDX-License-Identifier: GPL-2.0-or-later
//! Guests that have done what a scenario asks for, and wait.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::plan::Scenario;
use crate::config::VmConfig;
use crate::vm::Vm;
use crate::{Error, Result};

/// Guests that are made ready side by side: it costs time, and none of it is measured.
const MOST_AT_ONCE: u64 = 3;
/// What a guest takes of the host besides the memory that it uses, in MiB.
const OTHER_MIB: u64 = 500;
/// The rest of the machine's memory is left to others.
const MOST_USED_PERCENT: u64 = 75;
/// Far more than any step takes on a slow machine.
const STEP_LIMIT: Duration = Duration::from_secs(240);

/// A guest that was made ready, and stopped.
#[derive(Debug)]
pub struct Ready {
    /// The guest.
    pub vm: Vm,
    /// The program that writes all the time, where the scenario has one.
    pub rewriter: Option<crate::agent::Worker>,
}

/// What a guest of `scenario` takes of the host before it is moved, in MiB.
pub fn before_mib(scenario: &Scenario) -> u64 {
    scenario.freed_mib + scenario.rewritten_mib + OTHER_MIB
}

/// What both sides take besides while it is moved, in MiB: the destination what the guest
/// used, and the source the rest of its RAM, which a guest that hints may write first.
pub fn growth_mib(scenario: &Scenario) -> u64 {
    match scenario.balloon_mib {
        None => scenario.memory_mib + OTHER_MIB,
        Some(mib) => mib + OTHER_MIB,
    }
}

/// How many guests of `scenario` this machine holds side by side, and moves one of.
///
/// # Errors
/// When there is no room for one.
pub fn at_once(scenario: &Scenario) -> Result<usize> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let (each, growth) = (before_mib(scenario), growth_mib(scenario));
    let room = total_mib(&text) * MOST_USED_PERCENT / 100;
    match room.saturating_sub(growth) / each {
        0 => Err(Error::Missing(format!(
            "scenario {} takes {} MiB, too much for this machine",
            scenario.name,
            each + growth
        ))),
        guests => Ok(guests.min(MOST_AT_ONCE) as usize),
    }
}

fn total_mib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}

/// Starts a guest of each configuration and does with it what `scenario` says; they
/// are stopped then, so that one does not take time from another's migration.
///
/// # Errors
/// When one does not get there.
pub fn prepare(configs: &[VmConfig], scenario: &Scenario) -> Result<Vec<Ready>> {
    thread::scope(|scope| {
        let all: Vec<_> = configs
            .iter()
            .map(|config| scope.spawn(move || make_ready(config, scenario)))
            .collect();
        let ended = all.into_iter().map(|each| {
            let panicked = || Err(Error::Protocol("a guest's thread panicked".into()));
            each.join().unwrap_or_else(|_| panicked())
        });
        ended.collect()
    })
}

fn make_ready(config: &VmConfig, scenario: &Scenario) -> Result<Ready> {
    let mut vm = Vm::start(config)?;
    fill_and_free(&mut vm, scenario.freed_mib)?;
    if let Some(mib) = scenario.balloon_mib {
        vm.balloon_to(mib, STEP_LIMIT)?;
    }
    let rewriter = match scenario.rewritten_mib {
        0 => None,
        mib => Some(vm.guest(|agent| agent.start_rewriter(mib, 7))?),
    };
    vm.qmp("stop", json!({}))?;
    Ok(Ready { vm, rewriter })
}

/// Has the guest write `mib` MiB once and give them back to its kernel.
///
/// # Errors
/// When the guest has not that much.
pub(super) fn fill_and_free(vm: &mut Vm, mib: u64) -> Result<()> {
    let filler = vm.guest(|agent| agent.start_rewriter(mib, 1))?;
    vm.wait_until("filled memory in the guest", STEP_LIMIT, |vm| {
        Ok(vm.guest(|agent| agent.worker(filler))?.state != "filling")
    })?;
    let state = vm.guest(|agent| agent.worker(filler))?.state;
    if state != "checking" {
        let text = format!("the guest's memory could not be filled: its program {state}");
        return Err(vm.explain(Error::Protocol(text)));
    }
    vm.guest(|agent| agent.stop_worker(filler))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_mib() {
        let text = "MemTotal:   2097152 kB\nMemFree: 24 kB\n";
        assert_eq!(total_mib(text), 2048);
        assert_eq!(total_mib(""), 0);
    }
}
