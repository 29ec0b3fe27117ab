// SPDX-License-Identifier: GPL-2.0-or-later
//! Migrations without hints: the guest has no driver or a dead one, or QEMU
//! could not use any. All of them go on.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use guest::config::VmConfig;
use guest::migrate::Way;
use guest::testing::slot;
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{CHURN, GUEST_MIB, Scratch, hinted_move, hinting, ours, start, way};

const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_balloon";

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_guest_without_a_driver() -> Result<()> {
    if !ours("a_guest_without_a_driver") {
        return Ok(());
    }
    let _slot = slot();
    let config = hinting()?;
    let (mut vm, churn) = start(&config)?;
    let device = vm.shell(&format!("cd {DRIVER}; echo virtio*"))?;
    vm.guest(|agent| agent.call(&format!("write {DRIVER}/unbind {device}")))?;
    assert_eq!(vm.balloon_property("free-page-hint-state")?, "off");
    let mut moved = vm.move_to(&config, &way([]), |_| Ok(()))?;
    assert_eq!(moved.source.counter("hint-rounds")?, 0);
    assert_eq!(moved.source.counter("hint-left-out-bytes")?, 0);
    let mut vm = moved.destination;
    vm.assert_churning(churn, CHURN.high_mib)?;
    vm.guest(|agent| agent.call(&format!("write {DRIVER}/bind {device}")))?;
    hinted_move(vm, churn, &config, &way([])).map(drop)
}

/// The driver is bound, and nobody is there to answer.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_guest_with_a_dead_driver() -> Result<()> {
    if !ours("a_guest_with_a_dead_driver") {
        return Ok(());
    }
    let _slot = slot();
    let config = hinting()?;
    let mut vm = Vm::start(&config)?;
    vm.guest(|agent| agent.call("write /proc/sys/kernel/panic 0"))?;
    vm.shell("(sleep 0.3; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")?;
    vm.wait_until("panic of the guest", crate::SOON, |vm| {
        Ok(vm.console().contains("end Kernel panic"))
    })?;
    let mut moved = vm.move_to(&config, &way([]), |_| Ok(()))?;
    let source = &mut moved.source;
    println!("waited {} ms", source.counter("hint-wait-ms")?);
    assert!(source.counter("hint-rounds")? > 0, "the guest was asked");
    assert_eq!(source.counter("hinted-bytes")?, 0);
    assert_eq!(source.counter("hint-left-out-bytes")?, 0);
    assert_eq!(source.balloon_property("free-page-hint-state")?, "done");
    Ok(())
}

/// The snapshot is of the guest's memory as it was at the start, which a hint of
/// later says nothing about.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_background_snapshot() -> Result<()> {
    if !ours("a_background_snapshot") {
        return Ok(());
    }
    let _slot = slot();
    let config = hinting()?;
    let (mut vm, churn) = start(&config)?;
    let file = Scratch::new("snapshot");
    let snapshot = Way {
        file: Some(file.0.clone()),
        ..way(["background-snapshot"])
    };
    let uri = vm.uri(&snapshot);
    vm.begin_migration(&snapshot, &uri)?;
    let mut reasons = BTreeSet::new();
    let note = |vm: &mut Vm| {
        reasons.insert(vm.balloon_property("free-page-hint-inhibited")?.to_string());
        Ok(())
    };
    vm.wait_migration("snapshot", note, |state| state["status"] == "completed")?;
    println!("inhibited: {reasons:?}");
    assert!(reasons.contains("\"background snapshot\""), "{reasons:?}");
    assert_eq!(vm.counter("hint-left-out-bytes")?, 0);
    // The guest ran on meanwhile, and its copy goes on from the snapshot.
    vm.assert_churning(churn, CHURN.high_mib)?;
    let mut copy = Vm::start_destination(&config, &way([]))?;
    copy.qmp("migrate-incoming", json!({ "uri": uri }))?;
    copy.wait_arrived()?;
    copy.assert_churning(churn, CHURN.high_mib)?;
    drop(copy);
    vm.set_way(&way([]))?;
    assert_eq!(vm.balloon_property("free-page-hint-inhibited")?, "no");
    hinted_move(vm, churn, &config, &way([])).map(drop)
}

/// Both sides have the same file as memory, so none of it is sent, and there is
/// nothing that a hint could clear. QEMU's own device ends the machine here.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn memory_that_both_sides_share() -> Result<()> {
    if !ours("memory_that_both_sides_share") {
        return Ok(());
    }
    let _slot = slot();
    let file = Scratch::new("shared");
    let path = file.0.display();
    let mut config = VmConfig {
        machine: "pc,memory-backend=ram0".into(),
        ..hinting()?
    };
    config.more_arguments.extend([
        "-object".into(),
        format!("memory-backend-file,id=ram0,size={GUEST_MIB}M,mem-path={path},share=on"),
    ]);
    let (mut vm, churn) = start(&config)?;
    for _ in 0..2 {
        let mut moved = vm.move_to(&config, &way(["x-ignore-shared"]), |_| Ok(()))?;
        let sent = moved.ram("transferred") / MIB;
        let refused = moved.source.counter("refused-hint-not-migrated-bytes")? / MIB;
        println!("{sent} MiB sent, {refused} MiB of hints refused");
        assert!(sent < 30, "{sent} MiB sent");
        assert_eq!(moved.source.counter("hint-left-out-bytes")?, 0);
        vm = moved.destination;
        vm.assert_churning(churn, CHURN.high_mib)?;
    }
    let size = fs::metadata(&file.0).map_or(0, |m| m.len());
    assert_eq!(size, GUEST_MIB * MIB);
    Ok(())
}
