// SPDX-License-Identifier: GPL-2.0-or-later
//! Statistics that agree with what the guest itself says.

use std::time::Duration;

use guest::balloon::NOT_REPORTED;
use serde_json::json;

use guest::config::VmConfig;
use guest::testing::{config, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(20);

const NAMES: [&str; 16] = [
    "stat-alloc-stalls",
    "stat-async-reclaims",
    "stat-async-scans",
    "stat-available-memory",
    "stat-direct-reclaims",
    "stat-direct-scans",
    "stat-disk-caches",
    "stat-free-memory",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-oom-kills",
    "stat-swap-in",
    "stat-swap-out",
    "stat-total-memory",
];

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn statistics_are_those_of_proc_meminfo() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&VmConfig {
        paused: true,
        ..config("")?
    })?;
    all_unset(&mut vm)?;
    vm.qmp("cont", json!({}))?;
    vm.wait_ready()?;
    vm.set_polling(1)?;
    agrees(&mut vm)?;
    // Moves free memory by far more than the tolerance.
    let worker = vm.guest(|agent| agent.start_worker(200, 1, false))?;
    vm.wait_filled(worker)?;
    agrees(&mut vm)?;
    vm.balloon_to(400, SOON)?;
    agrees(&mut vm)
}

/// No guest has reported anything yet.
fn all_unset(vm: &mut Vm) -> Result<()> {
    let unset = vm.stats()?;
    assert_eq!(unset.names(), NAMES);
    assert!(unset.reported().is_empty(), "{unset:?}");
    Ok(())
}

/// Compares the next report but one with the guest's own files: one might be
/// on its way already.
fn agrees(vm: &mut Vm) -> Result<()> {
    let first = vm.stats()?.last_update;
    let next = vm.wait_stats(first, SOON)?.last_update;
    let stats = vm.wait_stats(next, SOON)?;
    assert_eq!(stats.names(), NAMES);
    for (name, file) in [
        ("stat-total-memory", "MemTotal"),
        ("stat-free-memory", "MemFree"),
        ("stat-available-memory", "MemAvailable"),
        ("stat-disk-caches", "Cached"),
    ] {
        let there = vm.guest(|agent| agent.meminfo(file))?;
        let here = stats.get(name).unwrap_or(NOT_REPORTED);
        let apart = here.abs_diff(there);
        assert!(apart < 12 * MIB, "{name} is {here}, {file} is {there}");
    }
    let faults = vm.guest(|agent| agent.vmstat("pgfault"))?;
    let told = stats.get("stat-minor-faults").unwrap_or(NOT_REPORTED);
    assert!(told <= faults, "{told} faults told, {faults} happened");
    Ok(())
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn polling_stops_when_told_and_outlives_a_reset() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    vm.set_polling(1)?;
    vm.wait_stats(0, SOON)?;
    vm.set_polling(0)?;
    // What was asked for before may still come.
    std::thread::sleep(Duration::from_secs(2));
    let last = vm.stats()?.last_update;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(vm.stats()?.last_update, last, "nobody asked");

    vm.set_polling(1)?;
    vm.qmp("stop", json!({}))?;
    vm.qmp("system_reset", json!({}))?;
    vm.wait_event("RESET", SOON)?;
    all_unset(&mut vm)?;
    vm.qmp("cont", json!({}))?;
    vm.wait_ready()?;
    agrees(&mut vm)
}
