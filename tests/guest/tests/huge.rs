// SPDX-License-Identifier: GPL-2.0-or-later
//! The host's transparent huge pages, which a balloon can split for good.

use std::time::Duration;

use guest::config::VmConfig;
use guest::testing::{config, is_ours, skip, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

const GUEST_MIB: u64 = 1024;
/// All that a program can have beside the kernel.
const USED_MIB: u64 = 760;
const SOON: Duration = Duration::from_secs(60);

/// A guest gives memory away in pieces of 1 MiB at most. A huge page is given back as a whole
/// only if the halves wait for each other, and only then comes back as one.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn huge_pages_come_back_after_inflate_deflate_and_reuse() -> Result<()> {
    let name = "huge_pages_come_back_after_inflate_deflate_and_reuse";
    if !is_ours() {
        skip(name, "VBR_DEVICE is another device");
        return Ok(());
    }
    let _slot = slot();
    let mut vm = Vm::start(&VmConfig {
        memory_mib: GUEST_MIB,
        ..config("")?
    })?;
    vm.touch(USED_MIB)?;
    let before = vm.backing()?;
    if before.huge == 0 {
        skip(name, "the host has no transparent huge pages for who asks");
        return Ok(());
    }
    assert!(before.huge > USED_MIB * MIB, "{before:?}");
    vm.balloon_to(GUEST_MIB / 2, SOON)?;
    let half = vm.backing()?;
    assert!(half.bytes < GUEST_MIB / 2 * MIB, "{half:?}");
    vm.balloon_to(GUEST_MIB, SOON)?;
    vm.touch(USED_MIB)?;
    let after = vm.backing()?;
    assert!(
        after.huge >= before.huge / 100 * 95,
        "before {before:?}, after {after:?}"
    );
    Ok(())
}
