// SPDX-License-Identifier: GPL-2.0-or-later
//! A hundred checkpoints in a row: a copy of the guest's memory that is kept by copying what is
//! listed, and nothing else, stays the guest's memory byte for byte.

use std::thread::sleep;
use std::time::Duration;

use guest::Result;
use guest::dirty::{self, Fetched, Ram, Replica};
use guest::testing::slot;
use guest::vm::Vm;

use crate::{SOON, go_on, halt, listing, run_state};

const ROUNDS: u64 = 100;
const POLL: Duration = Duration::from_millis(2);
/// What the guest's programs write to; the rest is the kernel's.
const SCATTER_MIB: u64 = 20;

/// How checkpoints are made.
struct How {
    properties: &'static str,
    /// Asked for at a time.
    most: u64,
    /// Some pages are copied while the guest runs.
    early: bool,
    /// The guest pauses by itself.
    triggered: bool,
    /// Else it runs until so many pages are listed.
    between: u64,
}

const PLAIN: How = How {
    properties: "max-dirty=65536",
    most: 65536,
    early: false,
    triggered: false,
    between: 500,
};

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_hundred_checkpoints_keep_the_memory() -> Result<()> {
    checkpoints(&PLAIN, |_| Ok(()))
}

/// A page that is copied while the guest writes to it has to come again.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_hundred_checkpoints_of_a_guest_that_runs() -> Result<()> {
    let how = How {
        most: 300,
        early: true,
        ..PLAIN
    };
    checkpoints(&how, |_| Ok(()))
}

/// The list has no room for what is written: the rest comes from its bitmap.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_hundred_checkpoints_with_too_small_a_list() -> Result<()> {
    let how = How {
        properties: "max-dirty=256,no-dups=on",
        most: 500,
        between: 1500,
        ..PLAIN
    };
    checkpoints(&how, |vm| {
        let overflows = dirty::number(vm, "overflows")?;
        println!("{overflows} overflows");
        assert!(overflows >= ROUNDS, "{overflows} overflows");
        Ok(())
    })
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_hundred_checkpoints_at_the_dirty_trigger() -> Result<()> {
    let how = How {
        properties: "max-dirty=65536,dirty-trigger=700",
        triggered: true,
        ..PLAIN
    };
    checkpoints(&how, |vm| {
        assert_eq!(dirty::number(vm, "triggers")?, ROUNDS);
        Ok(())
    })
}

fn checkpoints(how: &How, in_the_end: impl FnOnce(&mut Vm) -> Result<()>) -> Result<()> {
    let _slot = slot();
    let mut vm = Vm::start(&listing(how.properties)?)?;
    for seed in 1..3 {
        let worker = vm.guest(|agent| agent.start_scatterer(SCATTER_MIB, seed))?;
        vm.wait_filled(worker)?;
    }
    halt(&mut vm)?;
    dirty::start(&mut vm)?;
    let mut replica = Replica::new(Ram::of(&vm)?)?;
    let mut copied = 0;
    for round in 0..ROUNDS {
        copied += run(&mut vm, how, &mut replica)?;
        let fetched = dirty::fetch_all(&mut vm, how.most)?;
        copied += fetched.count;
        if round % 10 == 0 && !how.early {
            let differing = replica.differing()?.len();
            assert!(differing > 100, "only {differing} pages changed");
        }
        replica.copy(&fetched)?;
        let differing = replica.differing()?;
        assert_eq!(differing, [0; 0], "round {round}: pages were not listed");
        dirty::reset(&mut vm)?;
    }
    let properties = how.properties;
    println!("{properties}: {} pages a round", copied / ROUNDS);
    assert_eq!(dirty::fetch_all(&mut vm, how.most)?, Fetched::default());
    in_the_end(&mut vm)
}

/// Lets the guest run until the next checkpoint, where it is stopped; how many pages were copied
/// meanwhile.
fn run(vm: &mut Vm, how: &How, replica: &mut Replica) -> Result<u64> {
    vm.clear_events();
    go_on(vm)?;
    if how.triggered {
        vm.wait_event("STOP", SOON)?;
        assert_eq!(run_state(vm)?, "dirty-trigger");
        return Ok(0);
    }
    let mut copied = 0;
    while dirty::listed(vm)? < how.between {
        if how.early {
            let fetched = dirty::fetch(vm, how.most)?;
            replica.copy(&fetched)?;
            copied += fetched.count;
        }
        sleep(POLL);
    }
    halt(vm)?;
    Ok(copied)
}
