// SPDX-License-Identifier: GPL-2.0-or-later
//! A balloon that goes where it is told, and host memory that follows.

use std::time::Duration;

use guest::balloon::NOT_REPORTED;
use guest::testing::{config, is_ours, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(30);

/// Host memory may lag behind by what the guest's kernel does meanwhile.
const SLACK_MIB: u64 = 24;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn resident_size_follows_the_balloon_to_exact_targets() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("")?)?;
    vm.touch(380)?;
    let full = vm.resident_mib()?;
    assert!(
        full > 400,
        "the guest used its memory, but {full} MiB are resident"
    );
    for mib in [400, 200, 150] {
        vm.balloon_to(mib, SOON)?;
        let resident = vm.resident_mib()?;
        assert!(resident <= mib + SLACK_MIB, "{resident} MiB at {mib} MiB");
    }
    vm.balloon_to(512, SOON)?;
    let idle = vm.resident_mib()?;
    assert!(
        idle < 300,
        "deflating alone costs no host memory, but {idle} MiB"
    );
    vm.touch(380)?;
    let again = vm.resident_mib()?;
    assert!(
        again > 400,
        "memory that came back can be used: {again} MiB"
    );
    Ok(())
}
