// SPDX-License-Identifier: GPL-2.0-or-later
//! Migrations that do not end as they should: the guest loses nothing, and the
//! next one has hints again.

use serde_json::json;

use guest::Result;
use guest::config::VmConfig;
use guest::migrate::Way;
use guest::testing::slot;
use guest::vm::Vm;

use crate::{CHURN, SLOW, SOON, TOUCHED_MIB, hinted_move, hinting, ours, start, wait_hints, way};

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_migration_that_is_cancelled_and_tried_again() -> Result<()> {
    tried_again("a_migration_that_is_cancelled", "cancelled", |vm, _| {
        vm.qmp("migrate_cancel", json!({})).map(drop)
    })
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_destination_that_is_killed_in_the_middle() -> Result<()> {
    tried_again(
        "a_destination_that_is_killed",
        "failed",
        |_, destination| {
            drop(destination);
            Ok(())
        },
    )
}

/// `end` is done in the middle of a migration, which then has `status`. Three
/// times, then it may go on to its end.
fn tried_again(test: &str, status: &str, end: impl Fn(&mut Vm, Vm) -> Result<()>) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let config = hinting()?;
    let (mut vm, churn) = start(&config)?;
    for _ in 0..3 {
        let destination = begin(&mut vm, &config, &slow(way([])))?;
        wait_hints(&mut vm)?;
        end(&mut vm, destination)?;
        vm.wait_migration_status(status)?;
        // QEMU says that it failed before it cleans up, which ends the round.
        vm.wait_until("end of the round", SOON, |vm| {
            Ok(vm.balloon_property("free-page-hint-state")? == "done")
        })?;
        // The guest has its memory back: it could not go up and down without.
        vm.assert_churning(churn, CHURN.high_mib)?;
    }
    hinted_move(vm, churn, &config, &way([])).map(drop)
}

/// Cancelled while the first pass waits for hints, at once and a moment later.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_migration_that_is_cancelled_at_once() -> Result<()> {
    if !ours("a_migration_that_is_cancelled_at_once") {
        return Ok(());
    }
    let _slot = slot();
    let config = hinting()?;
    let (mut vm, churn) = start(&config)?;
    for looks in [0, 1, 3, 10] {
        let _destination = begin(&mut vm, &config, &slow(way([])))?;
        for _ in 0..looks {
            vm.migration()?;
        }
        vm.qmp("migrate_cancel", json!({}))?;
        vm.wait_migration_status("cancelled")?;
        let state = vm.balloon_property("free-page-hint-state")?;
        // The first may have ended before there was anything to ask for.
        assert!(state == "done" || state == "stop", "{state}");
        vm.assert_churning(churn, 20)?;
    }
    hinted_move(vm, churn, &config, &way([])).map(drop)
}

/// The connection is lost when the guest runs at the destination and a part of
/// its memory is not there.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_postcopy_that_is_paused_and_recovered() -> Result<()> {
    if !ours("a_postcopy_that_is_paused_and_recovered") {
        return Ok(());
    }
    let _slot = slot();
    let config = hinting()?;
    let (mut vm, churn) = start(&config)?;
    let mut postcopy = slow(way(["postcopy-ram"]));
    postcopy
        .parameters
        .push(("max-postcopy-bandwidth", json!(SLOW / 4)));
    let mut destination = begin(&mut vm, &config, &postcopy)?;
    wait_hints(&mut vm)?;
    vm.qmp("migrate-start-postcopy", json!({}))?;
    vm.wait_migration_status("postcopy-active")?;
    vm.qmp("migrate-pause", json!({}))?;
    vm.wait_migration_status("postcopy-paused")?;
    let again = format!("{}-again", destination.uri(&postcopy));
    recover(&mut destination, &again)?;
    vm.set_migration_parameters(json!({ "max-postcopy-bandwidth": 0 }))?;
    vm.qmp("migrate", json!({ "uri": again, "resume": true }))?;
    vm.wait_migration_status("completed")?;
    assert!(vm.counter("hint-left-out-bytes")? > 0);
    destination.wait_arrived()?;
    destination.assert_churning(churn, 2 * CHURN.high_mib)?;
    hinted_move(destination, churn, &config, &way([])).map(drop)
}

/// The guest uses what was left out as soon as it runs at the destination, long
/// before the rest of its memory is there.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hinted_memory_is_usable_in_the_middle_of_postcopy() -> Result<()> {
    if !ours("hinted_memory_is_usable_in_the_middle_of_postcopy") {
        return Ok(());
    }
    let _slot = slot();
    let config = hinting()?;
    let mut vm = Vm::start(&config)?;
    vm.touch(TOUCHED_MIB)?;
    let kept = vm.guest(|agent| agent.start_worker(100, 51, false))?;
    vm.wait_filled(kept)?;
    let mut postcopy = slow(way(["postcopy-ram"]));
    postcopy
        .parameters
        .push(("max-postcopy-bandwidth", json!(SLOW / 20)));
    let mut destination = begin(&mut vm, &config, &postcopy)?;
    wait_hints(&mut vm)?;
    vm.qmp("migrate-start-postcopy", json!({}))?;
    vm.wait_migration_status("postcopy-active")?;
    destination.touch(30)?;
    let state = vm.migration()?;
    assert_eq!(state["status"], "postcopy-active", "{state}");
    assert!(vm.counter("hint-left-out-bytes")? > 0);
    vm.set_migration_parameters(json!({ "max-postcopy-bandwidth": 0 }))?;
    vm.wait_migration_status("completed")?;
    destination.wait_arrived()?;
    destination.assert_intact(kept)
}

/// Makes a destination listen again as soon as it has noticed that it has to. Its
/// main loop may be waiting for one of the pages that are missing.
fn recover(destination: &mut Vm, uri: &str) -> Result<()> {
    destination.wait_until("destination that is paused", SOON, |vm| {
        match vm.qmp_out_of_band("migrate-recover", json!({ "uri": uri })) {
            Err(e) if e.refusal().is_some_and(|r| r.contains("paused")) => Ok(false),
            answer => answer.map(|_| true),
        }
    })
}

/// `way` at a speed that leaves time to interfere.
fn slow(way: Way) -> Way {
    Way {
        parameters: vec![("max-bandwidth", json!(SLOW))],
        ..way
    }
}

/// Begins to move the guest to a QEMU that is returned.
fn begin(vm: &mut Vm, config: &VmConfig, way: &Way) -> Result<Vm> {
    let mut destination = Vm::start_destination(config, way)?;
    let uri = destination.uri(way);
    destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
    vm.begin_migration(way, &uri)?;
    Ok(destination)
}
