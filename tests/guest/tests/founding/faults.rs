// SPDX-License-Identifier: GPL-2.0-or-later
//! A driver that sends nonsense to inflate and deflate. The device takes what makes
//! sense, counts the rest and says why; the guest's programs notice nothing.

use guest::agent::Worker;
use guest::testing::slot;
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{GUEST_MIB, Protocol, SLACK_MIB, SOON, assert_balloon, ours};

const DATA_LENGTH: &str = "data length is not that of the message";
const NOT_RAM: &str = "a range is not RAM";
const OVERFLOW: &str = "a range overflows";
const RESERVED: &str = "reserved bits are set";

/// What the driver does wrong, and what the device calls it.
pub(crate) type Fault = (&'static str, &'static str);

/// In ranges and in chunks.
pub(crate) const OF_BOTH: [Fault; 9] = [
    ("length-long", DATA_LENGTH),
    ("length-short", DATA_LENGTH),
    ("length-odd", DATA_LENGTH),
    ("header-short", "header too short"),
    ("header-only", DATA_LENGTH),
    ("huge-count", OVERFLOW),
    ("past-ram", NOT_RAM),
    ("overflow", OVERFLOW),
    ("empty-range", "a range is empty"),
];

/// In ranges only. A run of 4096 pages in the short form looks like the long one: what
/// follows is taken for its length.
pub(crate) const OF_RANGES: [Fault; 2] = [
    ("cut-short", "a range is cut short"),
    ("off-by-one", NOT_RAM),
];

/// In chunks only.
pub(crate) const OF_CHUNKS: [Fault; 3] = [
    ("reserved-base", RESERVED),
    ("reserved-size", RESERVED),
    ("too-many", "too many chunks"),
];

/// Small enough to be one message.
const INFLATED_MIB: u64 = 52;
const KEPT_MIB: u64 = 130;
/// Enough for that and the guest's kernel.
const SMALL_MIB: u64 = 250;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn nonsense_in_ranges() -> Result<()> {
    let faults = [&OF_BOTH[..], &OF_RANGES].concat();
    nonsense("nonsense_in_ranges", Protocol::Ranges, &faults)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn nonsense_in_chunks() -> Result<()> {
    let faults = [&OF_BOTH[..], &OF_CHUNKS].concat();
    nonsense("nonsense_in_chunks", Protocol::Chunks, &faults)
}

fn nonsense(test: &str, protocol: Protocol, faults: &[Fault]) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let (mut vm, kept) = start(protocol)?;
    for &(fault, reason) in faults {
        for (place, mib) in places() {
            let malformed = vm.counter("malformed-messages")?;
            let dropped = vm.counter("ignored-message-bytes")?;
            misbehave(&mut vm, fault, place)?;
            vm.balloon_to(mib, SOON)?;
            assert_happened(&mut vm, fault)?;
            let said = vm.balloon_property("malformed-message-reason")?;
            assert_eq!(said, reason, "{fault} in {place}");
            let now = vm.counter("malformed-messages")?;
            assert_eq!(now, malformed + 1, "{fault} in {place}");
            let now = vm.counter("ignored-message-bytes")?;
            assert!(now > dropped, "{fault} in {place}");
        }
        vm.assert_intact(kept)?;
        assert_balloon(&mut vm, GUEST_MIB)?;
    }
    still_good(vm, kept)
}

/// Page numbers that are no memory, and one that is cut short.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn nonsense_in_single_pages() -> Result<()> {
    if !ours("nonsense_in_single_pages") {
        return Ok(());
    }
    let _slot = slot();
    let (mut vm, kept) = start(Protocol::Classic)?;
    for (fault, counter, by) in [
        ("length-odd", "ignored-trailing-bytes", 3),
        ("huge-count", "ignored-bad-pfns", 1),
        ("past-ram", "ignored-bad-pfns", 1),
    ] {
        for (place, mib) in places() {
            let before = vm.counter(counter)?;
            misbehave(&mut vm, fault, place)?;
            vm.balloon_to(mib, SOON)?;
            assert_happened(&mut vm, fault)?;
            assert_eq!(vm.counter(counter)?, before + by, "{fault} in {place}");
        }
        vm.assert_intact(kept)?;
        assert_balloon(&mut vm, GUEST_MIB)?;
    }
    assert_eq!(vm.counter("malformed-messages")?, 0);
    still_good(vm, kept)
}

/// A guest that has written most of its memory, and a program that looks at some of it.
fn start(protocol: Protocol) -> Result<(Vm, Worker)> {
    let mut vm = protocol.start("")?;
    vm.touch(300)?;
    let kept = vm.guest(|agent| agent.start_worker(KEPT_MIB, 68, false))?;
    vm.wait_filled(kept)?;
    Ok((vm, kept))
}

/// Which messages are wrong, and where the balloon goes with them.
fn places() -> [(&'static str, u64); 2] {
    [
        ("inflate", GUEST_MIB - INFLATED_MIB),
        ("deflate", GUEST_MIB),
    ]
}

/// The next message of this kind is wrong.
pub(crate) fn misbehave(vm: &mut Vm, fault: &str, place: &str) -> Result<()> {
    vm.set_driver_parameter("fault", "none")?;
    vm.set_driver_parameter("fault_on", place)?;
    vm.set_driver_parameter("fault_count", "1")?;
    vm.set_driver_parameter("fault", fault)
}

/// The driver was asked to misbehave once, and did.
pub(crate) fn assert_happened(vm: &mut Vm, fault: &str) -> Result<()> {
    assert_eq!(vm.driver_parameter("fault_count")?, "0", "{fault}");
    Ok(())
}

/// After all that, everything is as it should be.
fn still_good(mut vm: Vm, kept: Worker) -> Result<()> {
    vm.set_driver_parameter("fault", "none")?;
    vm.touch(280)?;
    vm.balloon_to(SMALL_MIB, SOON)?;
    assert_balloon(&mut vm, SMALL_MIB)?;
    vm.wait_resident(SMALL_MIB + SLACK_MIB, SOON)?;
    vm.balloon_to(GUEST_MIB, SOON)?;
    assert_balloon(&mut vm, GUEST_MIB)?;
    vm.touch(280)?;
    vm.assert_intact(kept)?;
    assert_eq!(vm.balloon_actual()?, GUEST_MIB * MIB);
    assert_eq!(vm.counter("discard-errors")?, 0);
    Ok(())
}
