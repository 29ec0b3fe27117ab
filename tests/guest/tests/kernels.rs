// SPDX-License-Identifier: GPL-2.0-or-later
//! A short life with the balloon for guests of several releases of Linux, over each kind of
//! ring that a virtio device can have.

use std::time::Duration;

use guest::config::VmConfig;
use guest::image::Kernel;
use guest::testing::{config_on, has_property, skip, slot};
use guest::vm::Vm;
use guest::{Error, MIB, Result};

const SOON: Duration = Duration::from_secs(60);
const GUEST_MIB: u64 = 384;
const SMALL_MIB: u64 = 256;
/// What is used and freed: the guest's kernel reports it in pieces of at least 2 MiB.
const FREED_MIB: u64 = 128;
/// Host memory above the balloon's target: what was plugged or read meanwhile.
const SLACK_MIB: u64 = 40;

const OLDEST: &str = "6.1";
const NEWEST: &str = "7.3";

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_life_with_linux_6_1() -> Result<()> {
    lives("a_life_with_linux_6_1", "6.1", "")
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_life_with_linux_6_12() -> Result<()> {
    lives("a_life_with_linux_6_12", "6.12", "")
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_life_with_linux_6_18() -> Result<()> {
    lives("a_life_with_linux_6_18", "6.18", "")
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_life_with_linux_7_2() -> Result<()> {
    lives("a_life_with_linux_7_2", "7.2", "")
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_life_with_linux_7_3() -> Result<()> {
    lives("a_life_with_linux_7_3", "7.3", "")
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_life_over_packed_rings() -> Result<()> {
    oldest_and_newest("a_life_over_packed_rings", ",packed=on")
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_life_over_rings_in_order() -> Result<()> {
    oldest_and_newest("a_life_over_rings_in_order", ",in_order=on")
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_life_over_rings_without_an_event_index() -> Result<()> {
    let name = "a_life_over_rings_without_an_event_index";
    oldest_and_newest(name, ",event_idx=off")
}

/// From Linux 7.2 on a report is as many descriptors as a reporting queue has.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_life_over_packed_rings_in_order() -> Result<()> {
    let name = "a_life_over_packed_rings_in_order";
    oldest_and_newest(name, ",packed=on,in_order=on,event_idx=on")
}

fn oldest_and_newest(name: &str, ring: &str) -> Result<()> {
    if ring.contains("in_order") && !has_property("in_order")? {
        skip(name, "this QEMU has no property in_order");
        return Ok(());
    }
    for kernel in [OLDEST, NEWEST] {
        lives(name, kernel, ring)?;
    }
    Ok(())
}

/// Boots, balloons, reports, tells statistics and moves, if there is such a kernel.
fn lives(name: &str, line: &str, ring: &str) -> Result<()> {
    let kernel = Kernel::Line(line.into());
    let config = match config_on(&kernel, &format!("free-page-reporting=on{ring}")) {
        Err(Error::Unavailable(why)) => {
            skip(name, &why);
            return Ok(());
        }
        made => made?,
    };
    let config = VmConfig {
        memory_mib: GUEST_MIB,
        ..config
    };
    let _slot = slot();
    let mut vm = Vm::start(&config)?;
    let release = vm.shell("uname -r")?;
    assert!(release.starts_with(&format!("{line}.")), "{release}");
    spoken(&mut vm, ring)?;
    let kept = vm.guest(|agent| agent.start_worker(32, 1, false))?;
    vm.wait_filled(kept)?;
    balloons(&mut vm)?;
    reports(&mut vm)?;
    let mut vm = vm.migrate_to(&config)?;
    spoken(&mut vm, ring)?;
    balloons(&mut vm)?;
    reports(&mut vm)?;
    vm.assert_intact(kept)
}

/// The driver and the device have agreed on the kind of ring that was asked for.
fn spoken(vm: &mut Vm, ring: &str) -> Result<()> {
    const RINGS: [(usize, &str, bool); 3] = [
        (29, "event_idx", true),
        (34, "packed", false),
        (35, "in_order", false),
    ];
    let features = vm.shell("cat /sys/bus/virtio/drivers/virtio_balloon/virtio*/features")?;
    for (bit, name, by_default) in RINGS {
        let asked = |how: &str| ring.contains(&format!(",{name}={how}"));
        let wanted = asked("on") || (by_default && !asked("off"));
        // No driver of Linux 6.1 takes IN_ORDER.
        let known = name != "in_order" || !vm.shell("uname -r")?.starts_with("6.");
        assert_eq!(features.as_bytes()[bit] == b'1', wanted && known, "{name}");
    }
    Ok(())
}

/// Inflates and deflates, and hears of it in the statistics.
fn balloons(vm: &mut Vm) -> Result<()> {
    vm.set_polling(1)?;
    vm.balloon_to(SMALL_MIB, SOON)?;
    vm.wait_resident(SMALL_MIB + SLACK_MIB, SOON)?;
    let known = vm.stats()?.last_update;
    vm.wait_stats(known, SOON)?;
    vm.balloon_to(GUEST_MIB, SOON)
}

/// Memory that is used and freed goes back to the host.
fn reports(vm: &mut Vm) -> Result<()> {
    let before = vm.counter("reported-bytes")?;
    vm.touch(FREED_MIB)?;
    let what = "reports of freed memory";
    vm.wait_until(what, SOON, |vm| {
        Ok(vm.counter("reported-bytes")? >= before + FREED_MIB / 2 * MIB)
    })
}
