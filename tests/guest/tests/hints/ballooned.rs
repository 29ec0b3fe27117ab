// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages in the balloon are left out of every pass, whether the guest runs or not.

use serde_json::json;

use guest::agent::Worker;
use guest::config::{Backing, VmConfig};
use guest::migrate::Way;
use guest::testing::{config, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{SOON, hinting, ours, way};

const GUEST_MIB: u64 = 512;
/// Enough for what Linux 7.3 has beside.
const BALLOONED_TO_MIB: u64 = 176;
const KEPT_MIB: u64 = 40;
/// QEMU's own: firmware, the display's memory and what the stream says beside pages.
const SLACK_MIB: u64 = 16;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn ballooned_pages_are_not_sent() -> Result<()> {
    let without_hints = config("")?;
    not_sent(
        "ballooned_pages_are_not_sent",
        &without_hints,
        &way([]),
        false,
    )
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn ballooned_pages_are_not_sent_with_hints_either() -> Result<()> {
    let test = "ballooned_pages_are_not_sent_with_hints_either";
    not_sent(test, &hinting()?, &way([]), false)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn ballooned_pages_of_a_stopped_guest_are_not_sent() -> Result<()> {
    let test = "ballooned_pages_of_a_stopped_guest_are_not_sent";
    not_sent(test, &hinting()?, &way([]), true)
}

/// Memory that is read is populated with this backing.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn ballooned_pages_of_shared_memory_are_not_sent() -> Result<()> {
    let shared = VmConfig {
        backing: Backing::Shared4k,
        ..config("")?
    };
    let test = "ballooned_pages_of_shared_memory_are_not_sent";
    not_sent(test, &shared, &way([]), false)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn ballooned_pages_are_not_sent_with_postcopy() -> Result<()> {
    let postcopy = Way {
        parameters: vec![("max-bandwidth", json!(100 * MIB))],
        postcopy_after: Some(4 * MIB),
        ..way(["postcopy-ram"])
    };
    let test = "ballooned_pages_are_not_sent_with_postcopy";
    not_sent(test, &hinting()?, &postcopy, false)
}

/// Twice, as the second source knows the balloon only from the stream.
fn not_sent(test: &str, config: &VmConfig, way: &Way, stopped: bool) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let config = VmConfig {
        memory_mib: GUEST_MIB,
        ..config.clone()
    };
    let mut vm = Vm::start(&config)?;
    vm.touch(380)?;
    let kept = vm.guest(|agent| agent.start_worker(KEPT_MIB, 41, false))?;
    vm.wait_filled(kept)?;
    vm.balloon_to(BALLOONED_TO_MIB, SOON)?;
    for _ in 0..2 {
        vm = not_sent_once(vm, &config, way, stopped)?;
        vm.assert_intact(kept)?;
        assert_eq!(vm.balloon_actual()?, BALLOONED_TO_MIB * MIB);
    }
    deflated_memory_is_usable(&mut vm, kept)
}

fn not_sent_once(mut vm: Vm, config: &VmConfig, way: &Way, stopped: bool) -> Result<Vm> {
    if stopped {
        vm.qmp("stop", json!({}))?;
    }
    let mut moved = vm.move_to(config, way, |_| Ok(()))?;
    let most = BALLOONED_TO_MIB + SLACK_MIB;
    let sent = moved.ram("transferred") / MIB;
    let scanned = moved.pages_scanned() * 4096 / MIB;
    let left_out = moved.source.counter("ballooned-left-out-bytes")? / MIB;
    let resident = moved.destination.resident_mib()?;
    println!("{sent} MiB sent, {scanned} scanned, {left_out} left out, {resident} resident");
    assert!(sent <= most, "{sent} MiB were sent");
    // In postcopy what was left out is announced as zero, which counts as a look.
    assert!(
        way.postcopy_after.is_some() || scanned <= most,
        "{scanned} MiB were looked at"
    );
    // A page that was sent before compaction moved the balloon to it counts as sent.
    let least = GUEST_MIB - BALLOONED_TO_MIB - SLACK_MIB;
    assert!(left_out >= least, "only {left_out} MiB were left out");
    assert!(resident <= most, "{resident} MiB at the destination");
    if stopped {
        moved.destination.qmp("cont", json!({}))?;
    }
    Ok(moved.destination)
}

fn deflated_memory_is_usable(vm: &mut Vm, kept: Worker) -> Result<()> {
    vm.balloon_to(GUEST_MIB, SOON)?;
    let checked = vm.guest(|agent| agent.start_worker(330, 42, false))?;
    vm.wait_filled(checked)?;
    assert!(vm.resident_mib()? > 370, "{} MiB", vm.resident_mib()?);
    vm.assert_intact(checked)?;
    vm.assert_intact(kept)
}

/// What was given back during the migration is sent like any other memory.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn pages_that_leave_the_balloon_during_a_migration_are_sent() -> Result<()> {
    if !ours("pages_that_leave_the_balloon_during_a_migration_are_sent") {
        return Ok(());
    }
    let _slot = slot();
    let config = config("")?;
    let mut vm = Vm::start(&config)?;
    vm.touch(380)?;
    vm.balloon_to(BALLOONED_TO_MIB, SOON)?;
    let slow = Way {
        parameters: vec![("max-bandwidth", json!(crate::SLOW))],
        ..way([])
    };
    let mut destination = Vm::start_destination(&config, &slow)?;
    let uri = destination.uri(&slow);
    destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
    vm.begin_migration(&slow, &uri)?;
    vm.balloon_to(GUEST_MIB, SOON)?;
    let checked = vm.guest(|agent| agent.start_worker(250, 43, false))?;
    vm.wait_filled(checked)?;
    let state = vm.migration()?;
    assert_eq!(state["status"], "active", "{state}");
    let fast = json!({ "max-bandwidth": 1000 * MIB });
    vm.set_migration_parameters(fast)?;
    let state = vm.wait_migration_status("completed")?;
    assert!(
        state["ram"]["transferred"].as_u64() > Some(250 * MIB),
        "{state}"
    );
    destination.wait_arrived()?;
    destination.assert_intact(checked)
}
