// SPDX-License-Identifier: GPL-2.0-or-later
//! The guest's kernel moves pages of the balloon, in every protocol: both messages
//! of each moved page come, in order, while a program looks at its memory.

use guest::config::{Backing, VmConfig};
use guest::testing::slot;
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{Protocol, SOON, assert_agreed, assert_balloon, ours};

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn single_pages_move() -> Result<()> {
    pages_move("single_pages_move", Protocol::Classic)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn pages_of_ranges_move() -> Result<()> {
    pages_move("pages_of_ranges_move", Protocol::Ranges)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn pages_of_chunks_move() -> Result<()> {
    pages_move("pages_of_chunks_move", Protocol::Chunks)
}

fn pages_move(test: &str, protocol: Protocol) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let mut vm = Vm::start(&VmConfig {
        // What is discarded is gone at once, page by page.
        backing: Backing::Shared4k,
        ..protocol.config("")?
    })?;
    protocol.assert_spoken(&mut vm)?;
    let checked = vm.fill_with_holes(120)?;
    let ended = vm.fill_with_holes(240)?;
    // The balloon takes what is between the two programs' pieces of memory; the
    // end of one leaves free pieces all over, which compaction fills again.
    vm.balloon_to(285, SOON)?;
    vm.guest(|agent| agent.stop_worker(ended))?;
    let mut moved = 0;
    for mib in [285, 330, 300] {
        vm.balloon_to(mib, SOON)?;
        moved += vm.compact()?;
        assert_balloon(&mut vm, mib)?;
        vm.assert_intact(checked)?;
    }
    let told = vm.driver_count("moved-pages")?;
    println!("{}: {moved} pages of the balloon moved", protocol.name());
    assert!(moved > 4000, "only {moved} pages of the balloon were moved");
    // The kernel also moves some on its own account.
    assert!(told >= moved, "{told} pages were told of");
    assert_moves_told(&mut vm, told)?;
    let resident = vm.resident_mib()?;
    assert!(resident < 300, "{resident} MiB: moved pages are discarded");
    vm.balloon_to(512, SOON)?;
    vm.touch(300)?;
    vm.assert_intact(checked)?;
    assert_eq!(vm.balloon_actual()?, 512 * MIB);
    assert_agreed(&mut vm)
}

/// Each in two messages of its own: nothing is saved up.
fn assert_moves_told(vm: &mut Vm, told: u64) -> Result<()> {
    for messages in ["inflate-messages", "deflate-messages"] {
        let sent = vm.driver_count(messages)?;
        assert!(sent >= told, "{sent} {messages} for {told} moved pages");
    }
    Ok(())
}
