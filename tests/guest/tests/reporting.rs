// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory that the guest's kernel has free goes back to the host by itself.

use std::time::Duration;

use guest::config::{Backing, VmConfig};
use guest::hugepages::HugePages;
use guest::testing::{config, is_ours, skip, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

/// The guest's kernel reports a part of what is free every two seconds.
const REPORT_LIMIT: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn freed_memory_is_returned_and_used_memory_is_kept() -> Result<()> {
    returned(Backing::Anonymous)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn freed_memory_in_2_mib_pages_is_returned() -> Result<()> {
    match HugePages::reserve(512) {
        Ok(_reserved) => returned(Backing::Huge2m),
        Err(why) => {
            skip("freed_memory_in_2_mib_pages_is_returned", &why);
            Ok(())
        }
    }
}

fn returned(backing: Backing) -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&VmConfig {
        backing,
        ..config("free-page-reporting=on")?
    })?;
    let kept = vm.guest(|agent| agent.start_worker(100, 7, false))?;
    vm.wait_filled(kept)?;
    let freed = vm.guest(|agent| agent.start_worker(250, 8, false))?;
    vm.wait_filled(freed)?;
    let full = vm.resident_mib()?;
    assert!(full > 370, "{full} MiB resident");
    vm.guest(|agent| agent.stop_worker(freed))?;
    vm.wait_resident(full - 200, REPORT_LIMIT)?;
    vm.assert_intact(kept)?;
    assert_eq!(vm.balloon_actual()?, 512 * MIB, "the guest keeps its size");
    if is_ours() {
        let discarded = vm.counter("discarded-bytes")?;
        assert!(vm.counter("reported-bytes")? >= discarded);
        assert!(discarded >= 200 * MIB, "{discarded}");
        assert_eq!(vm.counter("ignored-report-bytes")?, 0);
    }
    // What was given back is there when it is needed.
    vm.touch(250)?;
    vm.assert_intact(kept)
}
