// SPDX-License-Identifier: GPL-2.0-or-later
//! Live guests move between QEMU's own balloon and ours, in both directions.

use std::time::Duration;

use guest::agent::Worker;
use guest::config::VmConfig;
use guest::testing::{STOCK, config, device, is_ours, machine_before, skip, slot, with_properties};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(30);
const SLACK_MIB: u64 = 40;
/// Large enough to stay clear of the checking program.
const INFLATED_MIB: u64 = 280;

/// With this the guest's driver takes PAGE_POISON.
const CLEARS_FREED_PAGES: &str = "init_on_free=1";
/// The guest's feature bit 4: PAGE_POISON, in the driver's `features` file.
const POISON_BIT: usize = 4;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn from_stock_to_ours_and_back() -> Result<()> {
    there_and_back(STOCK, &device(), "pc", false)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn from_ours_to_stock_and_back() -> Result<()> {
    there_and_back(&like_stock(), STOCK, "pc", false)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn from_stock_to_ours_and_back_with_page_poison() -> Result<()> {
    there_and_back(STOCK, &like_stock(), "pc", true)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn from_stock_to_ours_and_back_on_a_machine_of_9_2() -> Result<()> {
    on_machine_before("a machine of 9.2", (9, 3), |machine| {
        there_and_back(STOCK, &like_stock(), machine, true)
    })
}

/// There page-poison is off by the machine type.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn from_ours_to_stock_and_back_on_a_machine_before_5_1() -> Result<()> {
    on_machine_before("a machine before 5.1", (5, 1), |machine| {
        there_and_back(&like_stock(), STOCK, machine, true)
    })
}

/// Ours with exactly the feature bits of stock.
fn like_stock() -> String {
    if is_ours() {
        with_properties(&device(), "must-tell-host=off")
    } else {
        device()
    }
}

fn on_machine_before(
    what: &str,
    version: (u32, u32),
    test: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    match machine_before(version)? {
        Some(machine) => test(&machine),
        None => {
            skip(what, "this QEMU has none so old");
            Ok(())
        }
    }
}

/// Moves a guest with an inflated balloon and polling on from device `first` to
/// `second` and back.
fn there_and_back(first: &str, second: &str, machine: &str, poison: bool) -> Result<()> {
    let _slot = slot();
    let on = |device: &str| -> Result<VmConfig> {
        Ok(VmConfig {
            device: Some(device.into()),
            machine: machine.into(),
            kernel_args: if poison { CLEARS_FREED_PAGES } else { "" }.into(),
            ..config("")?
        })
    };
    let mut vm = Vm::start(&on(first)?)?;
    let negotiated = vm.shell("cat /sys/bus/virtio/drivers/virtio_balloon/virtio*/features")?;
    let offers_poison = poison && machine_has_poison(machine);
    assert_eq!(negotiated.as_bytes()[POISON_BIT] == b'1', offers_poison);
    let worker = ballooned(&mut vm)?;
    let mut vm = vm.migrate_to(&on(second)?)?;
    goes_on(&mut vm, worker)?;
    let mut vm = vm.migrate_to(&on(first)?)?;
    goes_on(&mut vm, worker)
}

fn machine_has_poison(machine: &str) -> bool {
    let version = machine.strip_prefix("pc-i440fx-");
    version.is_none_or(|v| !v.starts_with(['2', '3', '4']) && v != "5.0")
}

/// A guest with a program that checks its memory, an inflated balloon and
/// polling on.
fn ballooned(vm: &mut Vm) -> Result<Worker> {
    vm.touch(350)?;
    let worker = vm.guest(|agent| agent.start_worker(100, 21, false))?;
    vm.wait_filled(worker)?;
    vm.set_polling(1)?;
    vm.balloon_to(INFLATED_MIB, SOON)?;
    vm.wait_stats(0, SOON)?;
    Ok(worker)
}

/// After a migration all is as before, and the balloon still works.
fn goes_on(vm: &mut Vm, worker: Worker) -> Result<()> {
    assert_eq!(vm.balloon_actual()?, INFLATED_MIB * MIB);
    vm.wait_resident(INFLATED_MIB + SLACK_MIB, SOON)?;
    vm.assert_intact(worker)?;
    vm.set_polling(1)?;
    let known = vm.stats()?.last_update;
    vm.wait_stats(known, SOON)?;
    vm.balloon_to(400, SOON)?;
    vm.touch(200)?;
    vm.balloon_to(INFLATED_MIB, SOON)?;
    vm.wait_resident(INFLATED_MIB + SLACK_MIB, SOON)?;
    vm.assert_intact(worker)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn from_ours_to_ours_statistics_and_polling_move_too() -> Result<()> {
    if !is_ours() {
        skip("from_ours_to_ours", "VBR_DEVICE is another device");
        return Ok(());
    }
    let _slot = slot();
    let config = config("")?;
    let mut vm = Vm::start(&config)?;
    let worker = ballooned(&mut vm)?;
    vm.set_polling(3)?;
    let before = vm.stats()?;
    let mut vm = vm.migrate_to(&config)?;
    let after = vm.stats()?;
    assert!(after.last_update >= before.last_update);
    assert_eq!(after.reported().len(), before.reported().len());
    assert_eq!(vm.counter("guest-stats-polling-interval")?, 3);
    vm.wait_stats(after.last_update, SOON)?;
    assert_eq!(vm.counter("ballooned-bytes")?, (512 - INFLATED_MIB) * MIB);
    goes_on(&mut vm, worker)
}

/// Another target each time, before the last one can be reached.
fn always_in_motion() -> impl FnMut(&mut Vm) -> Result<()> {
    let mut targets = [INFLATED_MIB, 500].into_iter().cycle();
    move |vm| vm.set_balloon(targets.next().unwrap_or(INFLATED_MIB))
}

/// What the device holds when it stops goes back to the ring, and the other
/// device finds it there.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn with_a_balloon_in_motion() -> Result<()> {
    let _slot = slot();
    let ours = config("")?;
    let like_stock = VmConfig {
        device: Some(like_stock()),
        ..config("")?
    };
    let stock = VmConfig {
        device: Some(STOCK.into()),
        ..config("")?
    };
    for (from, to) in [(&ours, &ours), (&stock, &ours), (&like_stock, &stock)] {
        let mut vm = Vm::start(from)?;
        let worker = vm.guest(|agent| agent.start_worker(100, 22, false))?;
        vm.wait_filled(worker)?;
        let mut vm = vm.migrate_to_while(to, always_in_motion())?;
        vm.balloon_to(INFLATED_MIB, SOON)?;
        let mut vm = vm.migrate_to_while(from, always_in_motion())?;
        vm.balloon_to(512, SOON)?;
        vm.touch(250)?;
        vm.assert_intact(worker)?;
    }
    Ok(())
}
