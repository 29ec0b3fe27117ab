// SPDX-License-Identifier: GPL-2.0-or-later
//! The driver goes in the middle of something, and comes back.

use serde_json::json;

use guest::driver::MODULE;
use guest::testing::{config, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{GUEST_MIB, Protocol, SLACK_MIB, SOON, assert_balloon, assert_sane, ours};

/// Enough for the guest's kernel and what its program keeps.
const SMALL_MIB: u64 = 210;

/// On its way there and on its way back; nothing is left in the balloon.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_driver_that_is_unbound_in_the_middle() -> Result<()> {
    if !ours("a_driver_that_is_unbound_in_the_middle") {
        return Ok(());
    }
    let _slot = slot();
    let all = config("page-range=on,balloon-chunks=on")?;
    // Small batches, so that there is a middle.
    let mut vm = Vm::start(&all.founding_driver("batch=512"))?;
    let kept = vm.guest(|agent| agent.start_worker(80, 65, false))?;
    vm.wait_filled(kept)?;
    let total = vm.guest(|agent| agent.meminfo("MemTotal"))?;
    let mut in_the_middle = 0;
    for protocol in Protocol::ALL {
        vm.set_driver_parameter("protocol", protocol.name())?;
        for (from, to) in [(GUEST_MIB, SMALL_MIB), (SMALL_MIB, GUEST_MIB)] {
            let device = vm.unbind_driver()?;
            vm.bind_driver(&device)?;
            protocol.assert_spoken(&mut vm)?;
            vm.balloon_to(from, SOON)?;
            vm.set_balloon(to)?;
            vm.wait_until("change of the balloon", SOON, |vm| {
                Ok(vm.balloon_actual()? != from * MIB)
            })?;
            in_the_middle += u32::from(vm.balloon_actual()? != to * MIB);
            let device = vm.unbind_driver()?;
            assert_balloon(&mut vm, GUEST_MIB)?;
            let now = vm.guest(|agent| agent.meminfo("MemTotal"))?;
            assert_eq!(now, total, "no driver, no balloon");
            vm.bind_driver(&device)?;
            vm.wait_balloon(to, SOON)?;
            vm.assert_intact(kept)?;
        }
    }
    println!("{in_the_middle} of 6 were unbound on their way");
    assert!(in_the_middle > 0, "none was on its way");
    vm.touch(300)?;
    vm.balloon_to(SMALL_MIB, SOON)?;
    vm.wait_resident(SMALL_MIB + SLACK_MIB, SOON)?;
    vm.balloon_to(GUEST_MIB, SOON)?;
    vm.touch(300)?;
    vm.assert_intact(kept)?;
    assert_sane(&mut vm)
}

/// The guest's own driver takes over, and gives way again.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_driver_that_is_unloaded_for_another() -> Result<()> {
    if !ours("a_driver_that_is_unloaded_for_another") {
        return Ok(());
    }
    let _slot = slot();
    let mut vm = Protocol::Ranges.start("batch=512")?;
    let kept = vm.guest(|agent| agent.start_worker(80, 66, false))?;
    vm.wait_filled(kept)?;
    for _ in 0..2 {
        vm.set_balloon(SMALL_MIB)?;
        vm.shell(&format!("rmmod {MODULE}"))?;
        assert_balloon(&mut vm, GUEST_MIB)?;
        vm.shell("modprobe virtio_balloon")?;
        vm.wait_balloon(SMALL_MIB, SOON)?;
        assert_balloon(&mut vm, SMALL_MIB)?;
        vm.shell("rmmod virtio_balloon")?;
        vm.shell(&format!("modprobe {MODULE} protocol=ranges batch=512"))?;
        Protocol::Ranges.assert_spoken(&mut vm)?;
        vm.wait_balloon(SMALL_MIB, SOON)?;
        vm.balloon_to(GUEST_MIB, SOON)?;
        vm.assert_intact(kept)?;
    }
    vm.touch(300)?;
    assert_sane(&mut vm)
}

/// A kernel that knows nothing of the balloon of the one before.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_guest_that_boots_again() -> Result<()> {
    if !ours("a_guest_that_boots_again") {
        return Ok(());
    }
    let _slot = slot();
    let mut vm = Protocol::Chunks.start("")?;
    vm.touch(380)?;
    vm.balloon_to(200, SOON)?;
    for reset_by_host in [false, true] {
        // In the middle of something.
        vm.set_balloon(300)?;
        if reset_by_host {
            vm.qmp("system_reset", json!({}))?;
        } else {
            vm.guest(|agent| agent.call("reboot"))?;
        }
        vm.wait_ready()?;
        Protocol::Chunks.assert_spoken(&mut vm)?;
        vm.wait_balloon(300, SOON)?;
        assert_balloon(&mut vm, 300)?;
        vm.balloon_to(200, SOON)?;
        vm.wait_resident(200 + SLACK_MIB, SOON)?;
    }
    vm.balloon_to(GUEST_MIB, SOON)?;
    let again = vm.guest(|agent| agent.start_worker(380, 67, false))?;
    vm.wait_filled(again)?;
    vm.assert_intact(again)?;
    assert_sane(&mut vm)
}
