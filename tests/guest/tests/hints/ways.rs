// SPDX-License-Identifier: GPL-2.0-or-later
//! Hints with each way that a guest can move.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use guest::config::VmConfig;
use guest::migrate::Way;
use guest::testing::{device, slot, with_properties};
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{SLOW, Scratch, assert_hinted, hinted_move, hinting, ours, start, way};

/// Room for more than the guest uses, and less than it ever used.
const IN_USE_MIB: u64 = 160;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hints_with_multifd() -> Result<()> {
    let channels = Way {
        parameters: vec![("multifd-channels", json!(2))],
        ..way(["multifd"])
    };
    twice("hints_with_multifd", &hinting()?, &channels)
}

/// Slow enough for pages to be sent again.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hints_with_xbzrle() -> Result<()> {
    let slow = Way {
        parameters: vec![
            ("xbzrle-cache-size", json!(64 * MIB)),
            ("max-bandwidth", json!(100 * MIB)),
            ("downtime-limit", json!(300)),
        ],
        ..way(["xbzrle"])
    };
    twice("hints_with_xbzrle", &hinting()?, &slow)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hints_with_postcopy_and_preempt() -> Result<()> {
    let preempt = Way {
        parameters: vec![("max-bandwidth", json!(100 * MIB))],
        postcopy_after: Some(8 * MIB),
        ..way(["postcopy-ram", "postcopy-preempt"])
    };
    twice("hints_with_postcopy_and_preempt", &hinting()?, &preempt)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hints_without_an_iothread() -> Result<()> {
    let config = VmConfig {
        more_arguments: Vec::new(),
        device: Some(with_properties(&device(), "free-page-hint=on")),
        ..hinting()?
    };
    twice("hints_without_an_iothread", &config, &way([]))
}

/// The guest's kernel writes to each block before the driver hints at it. What is
/// left out then is another matter; nothing may be missing.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hints_of_a_kernel_that_clears_what_it_gives_out() -> Result<()> {
    if !ours("hints_of_a_kernel_that_clears_what_it_gives_out") {
        return Ok(());
    }
    let _slot = slot();
    let config = VmConfig {
        kernel_args: "init_on_alloc=1".into(),
        ..hinting()?
    };
    let (mut vm, churn) = start(&config)?;
    for _ in 0..3 {
        let mut moved = vm.move_to(&config, &way([]), |_| Ok(()))?;
        assert!(moved.source.counter("hinted-bytes")? > 0);
        assert_hinted(&mut moved, 0)?;
        vm = moved.destination;
        vm.assert_churning(churn, 120)?;
    }
    Ok(())
}

/// Two migrations in a row.
fn twice(test: &str, config: &VmConfig, way: &Way) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let (vm, churn) = start(config)?;
    let vm = hinted_move(vm, churn, config, way)?;
    hinted_move(vm, churn, config, way).map(drop)
}

/// The guest is slowed down until its memory can be sent.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hints_with_auto_converge() -> Result<()> {
    if !ours("hints_with_auto_converge") {
        return Ok(());
    }
    let _slot = slot();
    let config = hinting()?;
    let (vm, churn) = start(&config)?;
    let slow = Way {
        parameters: vec![
            ("max-bandwidth", json!(SLOW)),
            ("downtime-limit", json!(10)),
            ("throttle-trigger-threshold", json!(1)),
            ("cpu-throttle-initial", json!(60)),
        ],
        ..way(["auto-converge"])
    };
    let mut throttled = false;
    let mut moved = vm.move_to(&config, &slow, |vm| {
        let percentage = vm.migration()?["cpu-throttle-percentage"].as_u64();
        if !throttled && percentage.is_some_and(|p| p > 0) {
            throttled = true;
            let fast = json!({ "max-bandwidth": 1000 * MIB, "downtime-limit": 2000 });
            vm.set_migration_parameters(fast)?;
        }
        Ok(())
    })?;
    assert!(throttled, "the guest was never slowed down");
    assert_hinted(&mut moved, 1)?;
    moved.destination.assert_churning(churn, 120).map(drop)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hints_with_a_file() -> Result<()> {
    through_a_file("hints_with_a_file", &way([]), |file| Ok(file.len()))
}

/// Each page has its place in the file; what was left out is a hole.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hints_with_a_mapped_file() -> Result<()> {
    let mapped = way(["mapped-ram"]);
    through_a_file("hints_with_a_mapped_file", &mapped, |file| {
        Ok(file.blocks() * 512)
    })
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hints_with_a_mapped_file_and_multifd() -> Result<()> {
    let mapped = Way {
        parameters: vec![("multifd-channels", json!(2))],
        ..way(["mapped-ram", "multifd"])
    };
    through_a_file("hints_with_a_mapped_file_and_multifd", &mapped, |file| {
        Ok(file.blocks() * 512)
    })
}

/// Twice, so that the second one overwrites a guest's memory that is in the file.
fn through_a_file(
    test: &str,
    way: &Way,
    size: impl Fn(&fs::Metadata) -> Result<u64>,
) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let config = hinting()?;
    let (mut vm, churn) = start(&config)?;
    for nth in 0..2 {
        let file = Scratch::new(&format!("{test}-{nth}"));
        let through = Way {
            file: Some(file.0.clone()),
            ..way.clone()
        };
        vm = hinted_move(vm, churn, &config, &through)?;
        let metadata = fs::metadata(&file.0).map_err(guest::Error::io("look at the file"))?;
        let mib = size(&metadata)? / MIB;
        println!("{test}: {mib} MiB in the file");
        assert!(mib < IN_USE_MIB, "{mib} MiB are in the file");
    }
    Ok(())
}

/// Nothing happens in the guest: what it does not use is neither sent nor there.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hinted_memory_is_not_populated_at_the_destination() -> Result<()> {
    let test = "hinted_memory_is_not_populated_at_the_destination";
    not_populated(test, "init_on_alloc=0", 9)
}

/// In the end all of it is zeroes that the guest wrote, which cost little.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hinted_memory_that_was_cleared_is_not_populated_either() -> Result<()> {
    let test = "hinted_memory_that_was_cleared_is_not_populated_either";
    not_populated(test, "init_on_alloc=1", 0)
}

/// At least so many tenths of what the guest calls free are left out.
fn not_populated(test: &str, kernel_args: &str, tenths: u64) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let config = VmConfig {
        memory_mib: 512,
        kernel_args: kernel_args.into(),
        ..hinting()?
    };
    for way in [
        way([]),
        Way {
            parameters: vec![("max-bandwidth", json!(100 * MIB))],
            postcopy_after: Some(8 * MIB),
            ..way(["postcopy-ram"])
        },
    ] {
        let mut vm = Vm::start(&config)?;
        let kept = vm.guest(|agent| agent.start_worker(60, 31, false))?;
        vm.wait_filled(kept)?;
        vm.touch(350)?;
        let before = vm.resident_mib()?;
        let used = in_use_mib(&mut vm)?;
        let mut moved = vm.move_to(&config, &way, |_| Ok(()))?;
        assert_hinted(&mut moved, (512 - used) * tenths / 10)?;
        let sent = moved.ram("transferred") / MIB;
        let after = moved.destination.resident_mib()?;
        println!("{used} MiB in use, {sent} MiB sent, resident {before} -> {after} MiB");
        assert!(before > 400);
        assert!(sent <= used * 6 / 5, "{sent} MiB sent, {used} MiB in use");
        assert!(after <= used * 5 / 4, "{after} MiB, {used} MiB in use");
        // What was left out is there when it is used.
        moved.destination.touch(350)?;
        moved.destination.assert_intact(kept)?;
    }
    Ok(())
}

/// What the guest does not call free, the kernel's own memory included.
fn in_use_mib(vm: &mut Vm) -> Result<u64> {
    let free = vm.guest(|agent| agent.meminfo("MemFree"))? / MIB;
    Ok(512 - free)
}
