// SPDX-License-Identifier: GPL-2.0-or-later
//! Every way to move works with a list that is in use, and the list works where the guest has
//! moved to.

use std::collections::BTreeSet;

use serde_json::json;

use guest::churn::Churn;
use guest::migrate::Way;
use guest::testing::slot;
use guest::vm::Vm;
use guest::{MIB, Result, dirty};

use crate::hinted::hinting;
use crate::{difference, go_on, halt};

/// Leaves more than half of the guest's memory free, most of it written before.
const CHURN: Churn = Churn {
    low_mib: 20,
    high_mib: 60,
    threads: 3,
};
const TOUCHED_MIB: u64 = 150;
const PAGES: u64 = 1000;

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_list_in_use_and_precopy() -> Result<()> {
    let rounds = Way {
        parameters: vec![
            ("max-bandwidth", json!(300 * MIB)),
            ("downtime-limit", json!(300)),
        ],
        ..Way::default()
    };
    moves("max-dirty=65536", &rounds)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_list_in_use_and_multifd() -> Result<()> {
    let way = Way {
        capabilities: vec!["multifd"],
        parameters: vec![("multifd-channels", json!(2))],
        ..Way::default()
    };
    moves("max-dirty=256,no-dups=on", &way)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_list_in_use_and_postcopy() -> Result<()> {
    let way = Way {
        capabilities: vec!["postcopy-ram"],
        parameters: vec![("max-bandwidth", json!(100 * MIB))],
        postcopy_after: Some(8 * MIB),
        ..Way::default()
    };
    moves("max-dirty=65536", &way)
}

/// Moves a guest that checks its memory all the time, while its pages are taken off the list.
fn moves(properties: &str, way: &Way) -> Result<()> {
    let _slot = slot();
    let config = hinting(properties)?;
    let mut vm = Vm::start(&config)?;
    vm.touch(TOUCHED_MIB)?;
    let churn = vm.start_churn(CHURN)?;
    for nth in 0..2 {
        dirty::start(&mut vm)?;
        let mut fetched = 0;
        let mut moved = vm.move_to(&config, way, |vm| {
            fetched += dirty::fetch(vm, 1000)?.count;
            Ok(())
        })?;
        let source = &mut moved.source;
        let listed = dirty::number(source, "list-syncs")?;
        let scanned = dirty::number(source, "scan-syncs")?;
        println!("{properties}: {fetched} pages fetched; {listed} + {scanned} syncs");
        assert_eq!(
            Some(listed + scanned),
            moved.state["ram"]["dirty-sync-count"].as_u64()
        );
        dirty::stop(&mut moved.source)?;
        vm = moved.destination;
        vm.assert_churning(churn, 2 * CHURN.high_mib)?;
        lists(&mut vm, nth)?;
    }
    Ok(())
}

/// The list where the guest has moved to has what is written there.
fn lists(vm: &mut Vm, nth: u64) -> Result<()> {
    vm.take_pages(PAGES, nth)?;
    let frames: BTreeSet<u64> = vm.frames()?.into_iter().collect();
    halt(vm)?;
    dirty::start(vm)?;
    go_on(vm)?;
    vm.store(PAGES, nth, 2)?;
    halt(vm)?;
    let fetched = dirty::fetch_all(vm, 65536)?;
    dirty::stop(vm)?;
    go_on(vm)?;
    let still: BTreeSet<u64> = vm.frames()?.into_iter().collect();
    assert_eq!(
        difference(&still, &frames),
        None,
        "the guest moved its pages"
    );
    let known = frames.intersection(&fetched.pages).copied().collect();
    assert_eq!(difference(&known, &frames), None);
    Ok(())
}
