// SPDX-License-Identifier: GPL-2.0-or-later
//! The device goes away, sleeps or breaks under a live guest, and comes back.

use std::time::Duration;

use serde_json::{Map, Value, json};

use guest::testing::{config, device, is_ours, skip, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(30);
const SLACK_MIB: u64 = 24;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn an_unplugged_device_gives_all_back_and_another_takes_its_place() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    let worker = vm.guest(|agent| agent.start_worker(100, 9, false))?;
    vm.wait_filled(worker)?;
    vm.set_polling(1)?;
    for at_rest in [true, false] {
        vm.set_balloon(250)?;
        if at_rest {
            vm.wait_balloon(250, SOON)?;
        }
        vm.qmp("device_del", json!({ "id": "balloon0" }))?;
        while vm.wait_event("DEVICE_DELETED", SOON)?["data"]["device"] != "balloon0" {}
        let gone = vm.qmp("query-balloon", json!({}));
        assert!(
            gone.is_err_and(|e| e.refusal().is_some()),
            "no balloon is left"
        );
        // The guest has its memory again: the program needs more than was left.
        vm.touch(300)?;
        vm.qmp("device_add", Value::Object(replugged()))?;
        vm.wait_until("driver of the new device", SOON, |vm| {
            let bound = vm.shell("ls /sys/bus/virtio/drivers/virtio_balloon")?;
            Ok(bound.lines().any(|name| name.starts_with("virtio")))
        })?;
        assert_eq!(vm.balloon_actual()?, 512 * MIB);
        vm.set_polling(1)?;
        vm.wait_stats(0, SOON)?;
    }
    vm.balloon_to(300, SOON)?;
    vm.wait_resident(300 + SLACK_MIB, SOON)?;
    vm.assert_intact(worker)
}

/// The device as it was on the command line.
fn replugged() -> Map<String, Value> {
    let place = json!({ "driver": device(), "id": "balloon0", "addr": "4" });
    place.as_object().cloned().unwrap_or_default()
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_guest_that_slept_has_its_balloon_and_its_statistics() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    let worker = vm.guest(|agent| agent.start_worker(100, 10, false))?;
    vm.wait_filled(worker)?;
    vm.set_polling(1)?;
    vm.balloon_to(300, SOON)?;
    let before = vm.wait_stats(0, SOON)?;
    vm.shell("(sleep 0.3; echo mem >/sys/power/state) >/dev/null 2>&1 &")?;
    vm.wait_event("SUSPEND", SOON)?;
    let asleep = vm.stats()?;
    assert_eq!(asleep.reported().len(), before.reported().len());
    vm.qmp("system_wakeup", json!({}))?;
    vm.wait_event("WAKEUP", SOON)?;
    let awake = vm.stats()?;
    assert_eq!(awake.reported().len(), before.reported().len());
    vm.wait_balloon(300, SOON)?;
    vm.wait_stats(awake.last_update, SOON)?;
    vm.wait_resident(300 + SLACK_MIB, SOON)?;
    vm.balloon_to(512, SOON)?;
    vm.assert_intact(worker)
}

/// A panic in the device's code breaks the device, not the machine.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_guest_whose_device_broke_lives_and_a_reset_heals() -> Result<()> {
    if !is_ours() {
        skip("a_guest_whose_device_broke", "VBR_DEVICE is another device");
        return Ok(());
    }
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    let panic = json!({ "path": "/machine/peripheral/balloon0",
                        "property": "x-inject", "value": "vbr_batch_run:1" });
    if vm.qmp("qom-set", panic).is_err() {
        skip(
            "a_guest_whose_device_broke",
            "no build for tests (--all has one)",
        );
        return Ok(());
    }
    let worker = vm.guest(|agent| agent.start_worker(100, 12, false))?;
    vm.wait_filled(worker)?;
    vm.set_balloon(300)?;
    vm.assert_intact(worker)?;
    assert_eq!(vm.balloon_actual()?, 512 * MIB, "nothing was inflated");
    vm.qmp("system_reset", json!({}))?;
    vm.wait_ready()?;
    vm.wait_balloon(300, SOON)?;
    vm.wait_resident(300 + SLACK_MIB, SOON)
}
