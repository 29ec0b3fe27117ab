// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest that runs out of memory while it is ballooned.

use std::time::Duration;

use guest::testing::{config, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(60);

/// Small enough for the kernel, too small for what the program wants.
const SMALL_MIB: u64 = 200;
const WANTED_MIB: u64 = 280;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn with_deflate_on_oom_the_program_lives() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("deflate-on-oom=on")?)?;
    vm.balloon_to(SMALL_MIB, SOON)?;
    let worker = vm.guest(|agent| agent.start_worker(WANTED_MIB, 3, false))?;
    vm.wait_filled(worker)?;
    vm.assert_intact(worker)?;
    let actual = vm.balloon_actual()?;
    assert!(actual > WANTED_MIB * MIB, "the balloon gave way: {actual}");
    Ok(())
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn without_it_the_program_is_killed_and_the_balloon_stays() -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&config("deflate-on-oom=off")?)?;
    vm.balloon_to(SMALL_MIB, SOON)?;
    let worker = vm.guest(|agent| agent.start_worker(WANTED_MIB, 3, false))?;
    vm.wait_until("kill of the program", SOON, |vm| {
        let now = vm.guest(|agent| agent.worker(worker))?;
        assert_ne!(now.state, "checking", "the memory cannot be there");
        Ok(now.state == "killed-9")
    })?;
    assert!(vm.guest(|agent| agent.vmstat("oom_kill"))? >= 1);
    assert_eq!(vm.balloon_actual()?, SMALL_MIB * MIB);
    Ok(())
}
