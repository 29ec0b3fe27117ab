// SPDX-License-Identifier: GPL-2.0-or-later
//! The guest's kernel moves pages of the balloon while a program keeps looking
//! whether its memory is what it wrote.

use std::time::Duration;

use guest::config::{Backing, VmConfig};
use guest::hugepages::HugePages;
use guest::testing::{config, is_ours, skip, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn moved_pages_with_transparent_huge_pages() -> Result<()> {
    moved_pages(Backing::Anonymous)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn moved_pages_with_4_kib_pages() -> Result<()> {
    moved_pages(Backing::Shared4k)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn moved_pages_with_2_mib_pages() -> Result<()> {
    match HugePages::reserve(512) {
        Ok(_reserved) => moved_pages(Backing::Huge2m),
        Err(why) => {
            skip("moved_pages_with_2_mib_pages", &why);
            Ok(())
        }
    }
}

fn moved_pages(backing: Backing) -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&VmConfig {
        backing,
        ..config("")?
    })?;
    let checked = vm.fill_with_holes(120)?;
    let ended = vm.fill_with_holes(240)?;
    // The balloon takes what is between the two programs' pieces of memory; the
    // end of one leaves free pieces all over, which compaction fills again.
    vm.balloon_to(285, SOON)?;
    vm.guest(|agent| agent.stop_worker(ended))?;
    let mut total = 0;
    for mib in [285, 330, 300] {
        vm.balloon_to(mib, SOON)?;
        total += vm.compact()?;
        vm.assert_intact(checked)?;
    }
    println!("{backing:?}: {total} pages of the balloon moved");
    assert!(total > 4000, "only {total} pages of the balloon were moved");
    assert_eq!(vm.balloon_actual()?, 300 * MIB, "moving changes no size");
    if is_ours() {
        let ballooned = vm.counter("ballooned-bytes")?;
        assert_eq!(ballooned, (512 - 300) * MIB, "each moved page counts once");
        assert!(vm.counter("deflated-bytes")? >= total * 4096);
    }
    vm.balloon_to(512, SOON)?;
    vm.touch(300)?;
    vm.assert_intact(checked)
}
