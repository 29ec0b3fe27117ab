// SPDX-License-Identifier: GPL-2.0-or-later
//! The guest is paused when as many pages are dirty as the dirty trigger says.

use std::collections::BTreeSet;

use guest::Result;
use guest::dirty;
use guest::testing::slot;
use guest::vm::Vm;

use crate::{NOISE, SOON, go_on, halt, listing, run_state};

const TRIGGER: u64 = 1000;
const PAGES: u64 = 10_000;
const PROCESSORS: u64 = 2;
/// Pages that one access of a processor writes to: its own, and a table of each of the four
/// levels that lead to it. The emulator takes these for written to when it looks something up.
const AN_ACCESS: u64 = 5;

/// The guest writes to far more pages than the trigger allows: it is paused by itself, again and
/// again, each time within one access of each of its processors.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_guest_is_paused_at_the_dirty_trigger() -> Result<()> {
    let _slot = slot();
    paused(1, "on")?;
    paused(PROCESSORS, "off")
}

fn paused(threads: u64, no_dups: &str) -> Result<()> {
    let properties = format!("max-dirty=65536,dirty-trigger={TRIGGER},no-dups={no_dups}");
    let mut vm = Vm::start(&listing(&properties)?)?;
    vm.take_pages(PAGES, 2)?;
    let frames: BTreeSet<u64> = vm.frames()?.into_iter().collect();
    halt(&mut vm)?;
    dirty::start(&mut vm)?;
    go_on(&mut vm)?;
    vm.clear_events();
    let asked = vm.begin_store(PAGES, 7, threads)?;
    let mut seen = BTreeSet::new();
    let mut pauses = 0;
    // What is left in the end may be less than the trigger.
    while frames.difference(&seen).count() as u64 >= TRIGGER {
        let listed = wait_paused(&mut vm)?;
        pauses += 1;
        let fetched = dirty::fetch_all(&mut vm, 4096)?;
        let known = frames.intersection(&fetched.pages).count();
        println!("{threads} threads: paused at {listed} pages, {known} of them known");
        assert_eq!(fetched.count, listed);
        assert!(known + NOISE >= TRIGGER as usize, "{known} known pages");
        seen.extend(fetched.pages);
        dirty::reset(&mut vm)?;
        assert_eq!(dirty::listed(&mut vm)?, 0);
        assert_eq!(run_state(&mut vm)?, "dirty-trigger");
        go_on(&mut vm)?;
    }
    assert!(pauses >= PAGES / TRIGGER - 1, "only {pauses} pauses");
    dirty::stop(&mut vm)?;
    if run_state(&mut vm)? == "dirty-trigger" {
        pauses += 1;
        go_on(&mut vm)?;
    }
    assert_eq!(dirty::number(&mut vm, "triggers")?, pauses);
    vm.guest(|agent| agent.answer(&asked))?;
    vm.check_pages()
}

/// Waits for the pause and says how many pages are listed then.
fn wait_paused(vm: &mut Vm) -> Result<u64> {
    let event = vm.wait_event("DIRTY_PAGE_LIST_TRIGGER", SOON)?;
    vm.wait_event("STOP", SOON)?;
    assert_eq!(run_state(vm)?, "dirty-trigger");
    let listed = dirty::listed(vm)?;
    assert_eq!(event["data"]["id"], "dl0");
    assert_eq!(event["data"]["pages"], listed);
    assert!(listed >= TRIGGER, "paused at {listed} pages");
    let most = TRIGGER + PROCESSORS * AN_ACCESS;
    assert!(listed <= most, "paused at {listed} pages");
    Ok(listed)
}

/// A guest that goes on without a reset is not paused again, and one that has filled the list
/// again meanwhile is paused as soon as there is a reset.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_guest_is_not_paused_again_before_a_reset() -> Result<()> {
    let _slot = slot();
    let properties = format!("max-dirty=65536,dirty-trigger={TRIGGER}");
    let mut vm = Vm::start(&listing(&properties)?)?;
    vm.take_pages(PAGES, 2)?;
    halt(&mut vm)?;
    dirty::start(&mut vm)?;
    go_on(&mut vm)?;
    vm.clear_events();
    let asked = vm.begin_store(PAGES, 8, PROCESSORS)?;
    wait_paused(&mut vm)?;
    let fetched = dirty::fetch_all(&mut vm, 65536)?;
    assert!(fetched.count >= TRIGGER);
    go_on(&mut vm)?;
    vm.guest(|agent| agent.answer(&asked))?;
    assert!(dirty::listed(&mut vm)? > PAGES);
    assert_eq!(dirty::number(&mut vm, "triggers")?, 1);
    assert_eq!(run_state(&mut vm)?, "running");
    dirty::reset(&mut vm)?;
    vm.wait_event("DIRTY_PAGE_LIST_TRIGGER", SOON)?;
    vm.wait_event("STOP", SOON)?;
    assert_eq!(run_state(&mut vm)?, "dirty-trigger");
    assert_eq!(dirty::number(&mut vm, "triggers")?, 2);
    Ok(())
}
