// SPDX-License-Identifier: GPL-2.0-or-later
//! The target outlives the guest's driver.

use std::time::Duration;

use serde_json::json;

use guest::config::VmConfig;
use guest::testing::{config, is_ours, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(30);
const SLACK_MIB: u64 = 24;
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_balloon";

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_rebooted_guest_inflates_again() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    vm.touch(380)?;
    vm.balloon_to(300, SOON)?;
    for reset_by_host in [false, true] {
        if reset_by_host {
            vm.qmp("system_reset", json!({}))?;
        } else {
            vm.guest(|agent| agent.call("reboot"))?;
        }
        vm.wait_ready()?;
        vm.wait_balloon(300, SOON)?;
        vm.wait_resident(300 + SLACK_MIB, SOON)?;
    }
    // The new kernel has all its memory when it is asked to.
    vm.balloon_to(512, SOON)?;
    vm.touch(380)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_driver_that_is_bound_again_inflates_again() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    let worker = vm.guest(|agent| agent.start_worker(100, 5, false))?;
    vm.wait_filled(worker)?;
    vm.balloon_to(300, SOON)?;
    let device = vm.shell(&format!("cd {DRIVER}; echo virtio*"))?;
    for _ in 0..3 {
        vm.guest(|agent| agent.call(&format!("write {DRIVER}/unbind {device}")))?;
        assert_eq!(vm.balloon_actual()?, 512 * MIB, "no driver, no balloon");
        if is_ours() {
            assert_eq!(vm.counter("ballooned-bytes")?, 0);
        }
        vm.guest(|agent| agent.call(&format!("write {DRIVER}/bind {device}")))?;
        vm.wait_balloon(300, SOON)?;
    }
    vm.wait_resident(300 + SLACK_MIB, SOON)?;
    vm.assert_intact(worker)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_target_from_before_the_boot_is_reached() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&VmConfig {
        paused: true,
        ..config("")?
    })?;
    vm.set_balloon(256)?;
    vm.qmp("cont", json!({}))?;
    vm.wait_ready()?;
    vm.wait_balloon(256, SOON)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn stopping_in_the_middle_loses_nothing() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    let worker = vm.guest(|agent| agent.start_worker(100, 6, false))?;
    vm.wait_filled(worker)?;
    vm.set_balloon(250)?;
    for _ in 0..20 {
        vm.qmp("stop", json!({}))?;
        vm.qmp("cont", json!({}))?;
        std::thread::sleep(Duration::from_millis(20));
    }
    vm.wait_balloon(250, SOON)?;
    vm.balloon_to(512, SOON)?;
    vm.assert_intact(worker)
}
