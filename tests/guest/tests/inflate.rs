// SPDX-License-Identifier: GPL-2.0-or-later
//! A balloon that goes where it is told, and host memory that follows.

use std::time::Duration;

use guest::config::{Backing, VmConfig};
use guest::hugepages::HugePages;
use guest::testing::{config, is_ours, skip, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(30);
/// QEMU sends the event at most once a second.
const EVENT_LIMIT: Duration = Duration::from_secs(5);
/// Host memory above the balloon's target: what was plugged or read meanwhile.
const SLACK_MIB: u64 = 24;
/// The guest's feature bit that a driver of virtio 1.0 takes.
const VERSION_1_BIT: usize = 32;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn resident_size_follows_the_balloon_to_exact_targets() -> Result<()> {
    follows(&config("")?)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn resident_size_follows_with_shared_memory_too() -> Result<()> {
    follows(&VmConfig {
        backing: Backing::Shared4k,
        ..config("")?
    })
}

/// A page of 2 MiB can be given back only when all its parts are in the balloon,
/// which a device may wait for when the guest must tell it before it takes any back.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn resident_size_follows_with_2_mib_pages() -> Result<()> {
    let name = "resident_size_follows_with_2_mib_pages";
    if !is_ours() {
        skip(name, "VBR_DEVICE is another device");
        return Ok(());
    }
    let _reserved = match HugePages::reserve(512) {
        Ok(reserved) => reserved,
        Err(why) => {
            skip(name, &why);
            return Ok(());
        }
    };
    let _slot = slot();
    let mut vm = Vm::start(&VmConfig {
        backing: Backing::Huge2m,
        ..config("")?
    })?;
    vm.touch(380)?;
    let worker = vm.guest(|agent| agent.start_worker(60, 2, false))?;
    vm.wait_filled(worker)?;
    for mib in [350, 200] {
        vm.balloon_to(mib, SOON)?;
        // Pages that are used in part stay.
        vm.wait_resident(mib + 2 * SLACK_MIB, SOON)?;
    }
    vm.assert_intact(worker)?;
    vm.balloon_to(512, SOON)?;
    vm.touch(300)?;
    vm.assert_intact(worker)
}

fn follows(config: &VmConfig) -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(config)?;
    vm.touch(380)?;
    let full = vm.resident_mib()?;
    assert!(
        full > 400,
        "{full} MiB resident after the guest used 380 MiB"
    );
    for mib in [400, 200, 150] {
        vm.balloon_to(mib, SOON)?;
        vm.wait_resident(mib + SLACK_MIB, SOON)?;
    }
    let small = vm.resident_mib()?;
    vm.balloon_to(512, SOON)?;
    let idle = vm.resident_mib()?;
    assert!(
        idle < small + SLACK_MIB,
        "deflating alone takes host memory: {small} MiB before, {idle} MiB after"
    );
    vm.touch(380)?;
    let again = vm.resident_mib()?;
    assert!(again > 400, "memory that came back is used: {again} MiB");
    if is_ours() {
        counters_agree(&mut vm)?;
    }
    Ok(())
}

fn counters_agree(vm: &mut Vm) -> Result<()> {
    let inflated = vm.counter("inflated-bytes")?;
    assert_eq!(inflated, (512 - 150) * MIB, "each page was inflated once");
    assert_eq!(vm.counter("deflated-bytes")?, inflated);
    // A part of a huge page that did not wait for long enough goes again with the whole.
    let discarded = vm.counter("discarded-bytes")?;
    assert!(
        (inflated..inflated * 3 / 2).contains(&discarded),
        "{discarded} bytes discarded of {inflated}"
    );
    assert_eq!(vm.counter("ballooned-bytes")?, 0);
    assert_eq!(vm.counter("discard-errors")?, 0);
    assert_eq!(vm.counter("ignored-bad-pfns")?, 0);
    let (ranges, discards) = (vm.counter("ranges")?, vm.counter("discards")?);
    assert!(discards < inflated / 4096 / 16, "{discards} discards");
    assert!(ranges > 0);
    Ok(())
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn the_monitor_hears_of_every_change() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    vm.set_balloon(300)?;
    loop {
        let event = vm.wait_event("BALLOON_CHANGE", EVENT_LIMIT)?;
        let actual = event["data"]["actual"].as_u64();
        let within = actual.is_some_and(|a| (300 * MIB..=512 * MIB).contains(&a));
        assert!(within, "{event}");
        if actual == Some(300 * MIB) {
            return Ok(());
        }
    }
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn targets_above_the_ram_are_cut() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    vm.balloon_to(400, SOON)?;
    vm.set_balloon(100_000)?;
    vm.wait_balloon(512, SOON)
}

/// A driver of the time before virtio 1.0, with numbers in the guest's own order.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn the_legacy_interface_works_too() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("disable-modern=on,disable-legacy=off")?)?;
    let features = vm.shell("cat /sys/bus/virtio/drivers/virtio_balloon/virtio*/features")?;
    assert_eq!(features.as_bytes()[VERSION_1_BIT], b'0', "{features}");
    vm.touch(380)?;
    vm.set_polling(1)?;
    for mib in [300, 200] {
        vm.balloon_to(mib, SOON)?;
        vm.wait_resident(mib + SLACK_MIB, SOON)?;
    }
    // The next report but one was certainly asked for after the balloon was still.
    let first = vm.stats()?.last_update;
    let next = vm.wait_stats(first, SOON)?.last_update;
    let stats = vm.wait_stats(next, SOON)?;
    let total = vm.guest(|agent| agent.meminfo("MemTotal"))?;
    assert_eq!(stats.get("stat-total-memory"), Some(total));
    vm.balloon_to(512, SOON)?;
    vm.touch(380)
}
