// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory that is plugged in counts, and can be ballooned; a target stays.

use std::time::Duration;

use guest::config::VmConfig;
use guest::testing::{config, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(30);
const SLACK_MIB: u64 = 32;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_dimm_plugged_in_between_is_ballooned_with_the_rest() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&VmConfig {
        pluggable_mib: 1024,
        // Newer kernels would take new memory into use by themselves, unseen by `plug_dimm`.
        kernel_args: "memhp_default_state=offline".into(),
        ..config("")?
    })?;
    vm.balloon_to(300, SOON)?;
    vm.plug_dimm(512)?;
    // What came does not change what the guest is asked to keep.
    assert_eq!(vm.counter("target-bytes")?, 300 * MIB);
    vm.wait_balloon(300, SOON)?;
    vm.balloon_to(1024, SOON)?;
    vm.touch(800)?;
    let full = vm.resident_mib()?;
    assert!(full > 780, "the guest uses both memories: {full} MiB");
    // Less than either memory has: pages of both must be given back.
    vm.balloon_to(256, SOON)?;
    vm.wait_resident(256 + SLACK_MIB, SOON)?;
    vm.balloon_to(1024, SOON)?;
    vm.touch(800)
}
