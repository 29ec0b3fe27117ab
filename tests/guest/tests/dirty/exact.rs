// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest without an operating system writes to pages that are known exactly: just these are
//! listed, with each accelerator.

use std::collections::BTreeSet;
use std::thread::sleep;

use guest::Result;
use guest::boot::Boot;
use guest::dirty::{self, Ram, Replica};
use guest::testing::slot;

use crate::sector::{LOG, MANY, MOMENT, RING, TCG, boot, exact, works};
use crate::{SOON, difference, go_on, halt, run_state};

const TRIGGER: u64 = 1000;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn the_list_is_exact_with_emulation() -> Result<()> {
    exactly("the_list_is_exact_with_emulation", TCG)
}

/// The ring is too small for what is written in a round.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn the_list_is_exact_with_the_ring_of_kvm() -> Result<()> {
    exactly("the_list_is_exact_with_the_ring_of_kvm", RING)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn the_list_is_exact_with_the_log_of_kvm() -> Result<()> {
    exactly("the_list_is_exact_with_the_log_of_kvm", LOG)
}

/// One processor and two, and a list that has room for all or leaves the rest to its bitmap.
fn exactly(test: &str, accel: &str) -> Result<()> {
    if !works(test, accel)? {
        return Ok(());
    }
    let _slot = slot();
    for (processors, pages, properties) in [
        (1, 300, "max-dirty=65536"),
        (2, MANY, "max-dirty=65536"),
        (2, MANY, "max-dirty=256,no-dups=on"),
    ] {
        let boot = Boot { processors, pages };
        exact(accel, boot, properties)?;
    }
    Ok(())
}

/// Nothing runs; what a device writes is listed with the ring, too.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn the_list_with_kvm_has_writes_of_devices() -> Result<()> {
    if !works("the_list_with_kvm_has_writes_of_devices", RING)? {
        return Ok(());
    }
    let _slot = slot();
    let boot_of = Boot {
        processors: 1,
        pages: 300,
    };
    let (mut vm, ram) = boot(RING, boot_of, "max-dirty=65536")?;
    dirty::start(&mut vm)?;
    let mut replica = Replica::new(Ram::of(&vm)?)?;
    for round in 0..3 {
        let expected: BTreeSet<u64> = (0..200).map(|n| 600 + 7 * n + round).collect();
        for &page in &expected {
            vm.fill(page, round as u8 + 1)?;
        }
        let fetched = dirty::fetch_all(&mut vm, 90)?;
        assert_eq!(difference(&fetched.pages, &expected), None);
        assert_eq!(fetched.count, 200);
        replica.copy(&fetched)?;
        assert_eq!(replica.differing()?, [0; 0]);
    }
    // With what processors write meanwhile.
    let before = boot_of.written(&ram)?;
    go_on(&mut vm)?;
    vm.fill(9000, 1)?;
    sleep(MOMENT);
    halt(&mut vm)?;
    let mut expected = boot_of.between(&before, &boot_of.written(&ram)?);
    expected.insert(9000);
    let fetched = dirty::fetch_all(&mut vm, 65536)?;
    assert_eq!(difference(&fetched.pages, &expected), None);
    Ok(())
}

/// Each processor is stopped before it writes to a second page after the trigger.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn the_dirty_trigger_is_exact_with_emulation() -> Result<()> {
    for processors in 1..=2 {
        let listed = triggered(TCG, processors)?;
        let most = TRIGGER + processors;
        assert!(listed.iter().all(|&n| n <= most), "{listed:?}");
    }
    Ok(())
}

/// KVM does not say at once what is written to. The machine is paused some time after as many
/// pages are dirty.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn the_dirty_trigger_with_the_ring_of_kvm() -> Result<()> {
    if works("the_dirty_trigger_with_the_ring_of_kvm", RING)? {
        triggered(RING, 2)?;
    }
    Ok(())
}

/// The guest is paused by itself again and again, and what is listed then is exactly what was
/// written; how many pages that was each time.
fn triggered(accel: &str, processors: u64) -> Result<Vec<u64>> {
    let _slot = slot();
    let boot_of = Boot {
        processors,
        pages: MANY,
    };
    let properties = format!("max-dirty=65536,dirty-trigger={TRIGGER}");
    let (mut vm, ram) = boot(accel, boot_of, &properties)?;
    dirty::start(&mut vm)?;
    let mut before = boot_of.written(&ram)?;
    let mut listed = Vec::new();
    for round in 1..=20 {
        go_on(&mut vm)?;
        let event = vm.wait_event("DIRTY_PAGE_LIST_TRIGGER", SOON)?;
        vm.wait_until("paused machine", SOON, |vm| {
            Ok(run_state(vm)? == "dirty-trigger")
        })?;
        let fetched = dirty::fetch_all(&mut vm, 65536)?;
        let now = boot_of.written(&ram)?;
        let expected = boot_of.between(&before, &now);
        assert_eq!(difference(&fetched.pages, &expected), None);
        assert!(event["data"]["pages"].as_u64() >= Some(TRIGGER));
        listed.push(fetched.count);
        before = now;
        dirty::reset(&mut vm)?;
        assert_eq!(dirty::number(&mut vm, "triggers")?, round);
    }
    println!("{accel}, {processors} processors: paused at {listed:?}");
    Ok(listed)
}
