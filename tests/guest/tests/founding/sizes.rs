// SPDX-License-Identifier: GPL-2.0-or-later
//! A balloon that goes where it is told, in every protocol.

use guest::config::{Backing, VmConfig};
use guest::hugepages::HugePages;
use guest::testing::{config, skip, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{
    GUEST_MIB, Protocol, SLACK_MIB, SOON, assert_agreed, assert_balloon, assert_sane, ours,
};

/// Of all pages that went in and out, most were neighbours.
const PAGES_PER_RUN: u64 = 8;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn single_pages() -> Result<()> {
    there_and_back("single_pages", Protocol::Classic)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn page_ranges() -> Result<()> {
    there_and_back("page_ranges", Protocol::Ranges)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn chunks() -> Result<()> {
    there_and_back("chunks", Protocol::Chunks)
}

fn there_and_back(test: &str, protocol: Protocol) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let mut vm = protocol.start("")?;
    vm.touch(380)?;
    let kept = vm.guest(|agent| agent.start_worker(60, 61, false))?;
    vm.wait_filled(kept)?;
    let full = vm.resident_mib()?;
    assert!(full > 400, "{full} MiB resident after the guest used them");
    for mib in [400, 220, 260, 190] {
        vm.balloon_to(mib, SOON)?;
        assert_balloon(&mut vm, mib)?;
    }
    vm.wait_resident(190 + SLACK_MIB, SOON)?;
    vm.assert_intact(kept)?;
    vm.balloon_to(GUEST_MIB, SOON)?;
    assert_balloon(&mut vm, GUEST_MIB)?;
    assert_agreed(&mut vm)?;
    assert_few_messages(&mut vm, protocol)?;
    // What came back is written, read and right.
    let again = vm.guest(|agent| agent.start_worker(320, 62, false))?;
    vm.wait_filled(again)?;
    assert!(vm.resident_mib()? > 400, "what came back is used");
    vm.assert_intact(again)?;
    vm.assert_intact(kept)
}

/// Single pages take a message for 256 of them; the others are here to do better.
fn assert_few_messages(vm: &mut Vm, protocol: Protocol) -> Result<()> {
    let pages = vm.driver_count("inflate-pages")? + vm.driver_count("deflate-pages")?;
    let runs = vm.driver_count("inflate-runs")? + vm.driver_count("deflate-runs")?;
    let messages = vm.counter("requests")?;
    let discards = vm.counter("discards")?;
    let name = protocol.name();
    println!("{name}: {pages} pages, {runs} runs, {messages} messages, {discards} discards");
    if protocol == Protocol::Classic {
        assert!(messages >= pages / 256, "{messages} messages");
    } else {
        assert!(messages * 256 * 8 < pages, "{messages} messages");
        assert!(runs * PAGES_PER_RUN < pages, "{runs} runs");
    }
    assert!(discards * PAGES_PER_RUN < pages, "{discards} discards");
    Ok(())
}

/// The driver is unbound and bound again to speak the next protocol, with the
/// memory of the one before.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn every_protocol_without_must_tell_host() -> Result<()> {
    if !ours("every_protocol_without_must_tell_host") {
        return Ok(());
    }
    let _slot = slot();
    let all = config("page-range=on,balloon-chunks=on")?;
    let mut vm = Vm::start(&all.founding_driver("must_tell_host=0"))?;
    let kept = vm.guest(|agent| agent.start_worker(80, 63, false))?;
    vm.wait_filled(kept)?;
    for protocol in Protocol::ALL {
        let device = vm.unbind_driver()?;
        vm.set_driver_parameter("protocol", protocol.name())?;
        vm.bind_driver(&device)?;
        protocol.assert_spoken(&mut vm)?;
        let agreed = vm.driver_parameter("in_force")?;
        assert!(agreed.contains("must_tell_host=0"), "{agreed}");
        vm.touch(330)?;
        vm.balloon_to(200, SOON)?;
        vm.wait_resident(200 + SLACK_MIB, SOON)?;
        // It is the driver's word then.
        assert_balloon(&mut vm, 200)?;
        vm.balloon_to(GUEST_MIB, SOON)?;
        assert_balloon(&mut vm, GUEST_MIB)?;
        vm.assert_intact(kept)?;
    }
    assert_sane(&mut vm)
}

/// A page of 2 MiB goes back when all of its parts are in the balloon.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn every_protocol_with_2_mib_pages() -> Result<()> {
    let test = "every_protocol_with_2_mib_pages";
    if !ours(test) {
        return Ok(());
    }
    let _reserved = match HugePages::reserve(GUEST_MIB) {
        Ok(reserved) => reserved,
        Err(why) => {
            skip(test, &why);
            return Ok(());
        }
    };
    let _slot = slot();
    let config = VmConfig {
        backing: Backing::Huge2m,
        ..config("page-range=on,balloon-chunks=on")?
    };
    let mut vm = Vm::start(&config.founding_driver(""))?;
    let kept = vm.guest(|agent| agent.start_worker(60, 64, false))?;
    vm.wait_filled(kept)?;
    for protocol in Protocol::ALL {
        let device = vm.unbind_driver()?;
        vm.set_driver_parameter("protocol", protocol.name())?;
        vm.bind_driver(&device)?;
        protocol.assert_spoken(&mut vm)?;
        vm.touch(330)?;
        let full = vm.resident_mib()?;
        vm.balloon_to(200, SOON)?;
        // Pages that are used in part stay.
        vm.wait_resident(200 + 2 * SLACK_MIB, SOON)?;
        let small = vm.resident_mib()?;
        println!("{}: {full} MiB, then {small} MiB", protocol.name());
        assert_eq!(small % 2, 0, "whole pages only");
        vm.assert_intact(kept)?;
        vm.balloon_to(GUEST_MIB, SOON)?;
    }
    vm.touch(330)?;
    vm.assert_intact(kept)?;
    assert_eq!(vm.counter("partial-page-bytes")?, 0);
    assert!(vm.counter("discarded-bytes")? > 3 * 200 * MIB);
    assert_sane(&mut vm)
}
