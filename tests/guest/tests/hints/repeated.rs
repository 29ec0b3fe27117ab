// SPDX-License-Identifier: GPL-2.0-or-later
//! Migration after migration, while the guest churns.

use serde_json::json;

use guest::agent::Worker;
use guest::churn::Churn;
use guest::migrate::{Moved, Way};
use guest::testing::{is_ours, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{GUEST_MIB, hinting, way};

const MIGRATIONS: usize = 50;
/// At high tide little memory is free, and less with the balloon inflated.
const CHURN: Churn = Churn {
    low_mib: 25,
    high_mib: 145,
    threads: 4,
};
const INFLATED_MIB: u64 = GUEST_MIB - 20;
/// The guest's kernel notes here what each of its shrinkers freed.
const SHRINKERS: &str = "/sys/kernel/tracing/events/vmscan/mm_shrink_slab_end";
const SHRINKER: &str = "virtio_balloon_shrinker_scan";

/// Precopy and postcopy in turn. The guest's shrinker takes hinted blocks back,
/// and the balloon moves between and during the migrations.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn fifty_migrations_in_a_row() -> Result<()> {
    let _slot = slot();
    let mut config = hinting()?;
    config.more_arguments.extend(["-smp".into(), "2".into()]);
    let mut vm = Vm::start(&config)?;
    watch_shrinkers(&mut vm)?;
    let churn = vm.start_churn(CHURN)?;
    let mut tallies = [Tally::default(); 2];
    for nth in 0..MIGRATIONS {
        let postcopy = nth % 2 == 1;
        let mut moved = vm.move_to(&config, &way_of(nth), always_in_motion())?;
        tallies[usize::from(postcopy)].add(&mut moved)?;
        vm = moved.destination;
        check(&mut vm, churn, nth)?;
    }
    let counts = vm.assert_churning(churn, CHURN.high_mib)?;
    let taken_back = blocks_taken_back(&mut vm)?;
    println!("precopy and postcopy: {tallies:#?}");
    println!("{counts:?}, {taken_back} pages taken back");
    assert!(counts.fills > 500 && counts.frees > 500, "{counts:?}");
    assert!(taken_back > 0, "the shrinker never took a hinted block");
    if is_ours() {
        for tally in tallies {
            assert_eq!(tally.moves, MIGRATIONS / 2);
            assert!(tally.hinted * 2 > tally.moves, "{tally:?}");
        }
    }
    Ok(())
}

fn way_of(nth: usize) -> Way {
    // Slow ones give the guest time to use what it has hinted.
    let bandwidth = if nth % 5 < 2 { 150 * MIB } else { 1000 * MIB };
    let parameters = vec![
        ("max-bandwidth", json!(bandwidth)),
        ("downtime-limit", json!(150)),
    ];
    if nth % 2 == 1 {
        Way {
            parameters,
            postcopy_after: Some(4 * MIB),
            ..way(["postcopy-ram"])
        }
    } else {
        Way {
            parameters,
            ..way([])
        }
    }
}

/// Another target each time, before the last one can be reached.
fn always_in_motion() -> impl FnMut(&mut Vm) -> Result<()> {
    let mut nth = 0;
    move |vm| {
        nth += 1;
        match nth % 6 {
            2 => vm.set_balloon(INFLATED_MIB),
            5 => vm.set_balloon(GUEST_MIB),
            _ => Ok(()),
        }
    }
}

/// A look at what the guest found out so far; the balloon moves on.
fn check(vm: &mut Vm, churn: Worker, nth: usize) -> Result<()> {
    vm.set_balloon(if nth.is_multiple_of(3) {
        INFLATED_MIB
    } else {
        GUEST_MIB
    })?;
    vm.assert_churning(churn, 10).map(drop)
}

/// What the migrations of one kind did.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    moves: usize,
    /// Of them, those that left something out because of hints.
    hinted: usize,
    left_out_mib: u64,
    sent_mib: u64,
    refused_mib: u64,
    late_mib: u64,
}

impl Tally {
    fn add(&mut self, moved: &mut Moved) -> Result<()> {
        self.moves += 1;
        self.sent_mib += moved.ram("transferred") / MIB;
        if is_ours() {
            let left_out = moved.source.counter("hint-left-out-bytes")?;
            self.hinted += usize::from(left_out > 0);
            self.left_out_mib += left_out / MIB;
            let refused = moved.source.counter("refused-hint-unprotected-bytes")?;
            self.refused_mib += refused / MIB;
            self.late_mib += moved.source.counter("late-hint-bytes")? / MIB;
        }
        Ok(())
    }
}

fn watch_shrinkers(vm: &mut Vm) -> Result<()> {
    vm.shell(&format!(
        "mount -t tracefs none /sys/kernel/tracing && \
         echo 'hist:keys=shrink.sym:vals=retval' >{SHRINKERS}/trigger"
    ))?;
    Ok(())
}

/// Pages that the balloon's shrinker freed.
fn blocks_taken_back(vm: &mut Vm) -> Result<u64> {
    let table = vm.shell(&format!("cat {SHRINKERS}/hist"))?;
    Ok(freed_by(&table, SHRINKER))
}

/// `{ shrink: [ADDRESS] NAME } hitcount: N retval: PAGES`
fn freed_by(table: &str, shrinker: &str) -> u64 {
    let line = table.lines().find(|line| line.contains(shrinker));
    let pages = line.and_then(|line| line.split("retval:").nth(1));
    pages.and_then(|p| p.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn the_shrinkers_line_is_found() {
    let table = "# event histogram\n\
                 { shrink: [f0] super_cache_scan } hitcount: 10  retval:  0\n\
                 { shrink: [f8] virtio_balloon_shrinker_scan [virtio_balloon] } hitcount:  \
                 10  retval:       2048\n";
    assert_eq!(freed_by(table, SHRINKER), 2048);
    assert_eq!(freed_by("Totals:", SHRINKER), 0);
}
