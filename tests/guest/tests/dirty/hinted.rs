// SPDX-License-Identifier: GPL-2.0-or-later
//! Free page hints and the list agree: what a hint took out of a migration and the guest wrote
//! to after that is on the list, and arrives.

use std::collections::BTreeSet;

use serde_json::json;

use guest::config::VmConfig;
use guest::dirty::{self, Fetched};
use guest::migrate::Way;
use guest::testing::{device, is_ours, skip, slot, with_properties};
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{SOON, listing};

const GUEST_MIB: u64 = 256;
/// Written to and freed before.
const TOUCHED_MIB: u64 = 150;
/// Far more than is free while the guest's driver holds what it has hinted at.
const TAKEN_MIB: u64 = 90;
/// Of it, so much at least the driver had to give back.
const HINTED_MIB: u64 = 40;
const PAGES_A_MIB: u64 = 256;
const BATCH: u64 = 20_000;

/// A guest with a list that hints, and does not clear memory that it gives out: it would write
/// to each block before it hints at it.
pub(crate) fn hinting(properties: &str) -> Result<VmConfig> {
    Ok(VmConfig {
        memory_mib: GUEST_MIB,
        device: Some(with_properties(&device(), "free-page-hint=on")),
        kernel_args: "init_on_alloc=0".into(),
        ..listing(properties)?
    })
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn hinted_pages_that_are_used_again_are_listed_and_arrive() -> Result<()> {
    if !is_ours() {
        let test = "hinted_pages_that_are_used_again_are_listed_and_arrive";
        skip(test, "VBR_DEVICE is another device");
        return Ok(());
    }
    let _slot = slot();
    for properties in ["max-dirty=65536", "max-dirty=256,no-dups=on"] {
        used_again(properties)?;
    }
    Ok(())
}

fn used_again(properties: &str) -> Result<()> {
    let config = hinting(properties)?;
    let way = Way {
        parameters: vec![("max-bandwidth", json!(10 * MIB))],
        ..Way::default()
    };
    let mut vm = Vm::start(&config)?;
    vm.touch(TOUCHED_MIB)?;
    dirty::start(&mut vm)?;
    let mut destination = Vm::start_destination(&config, &way)?;
    let uri = destination.uri(&way);
    destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
    vm.begin_migration(&way, &uri)?;
    vm.wait_until("end of the hints", SOON, |vm| {
        let left_out = vm.counter("hint-left-out-bytes")?;
        let state = vm.balloon_property("free-page-hint-state")?;
        Ok(left_out >= TOUCHED_MIB * MIB / 2 && state != "requested" && state != "started")
    })?;
    let left_out = vm.counter("hint-left-out-bytes")?;
    let free = vm.guest(|agent| agent.meminfo("MemFree"))?;
    let before = fetch_what_there_is(&mut vm)?;
    vm.take_pages(TAKEN_MIB * PAGES_A_MIB, 5)?;
    let frames: BTreeSet<u64> = vm.frames()?.into_iter().collect();
    let fetched = fetch_what_there_is(&mut vm)?;
    println!(
        "{properties}: {} MiB hinted, {} MiB free; {} pages listed before and {} then",
        left_out / MIB,
        free / MIB,
        before.count,
        fetched.count
    );
    assert!(
        free + HINTED_MIB * MIB <= TAKEN_MIB * MIB,
        "too much was free"
    );
    let missing = frames.difference(&fetched.pages).count();
    assert_eq!(missing, 0, "pages are missing on the list");
    assert_eq!(vm.migration()?["status"], "active", "it was over too early");
    vm.set_migration_parameters(json!({ "max-bandwidth": 4_u64 << 30 }))?;
    vm.wait_migration_status("completed")?;
    let still = vm.counter("hint-left-out-bytes")?;
    assert!(
        still + HINTED_MIB * MIB <= left_out,
        "{still} of {left_out}"
    );
    destination.wait_arrived()?;
    destination.check_pages()?;
    let there: BTreeSet<u64> = destination.frames()?.into_iter().collect();
    assert_eq!(there, frames, "the guest moved its pages");
    Ok(())
}

/// Until there are few.
fn fetch_what_there_is(vm: &mut Vm) -> Result<Fetched> {
    let mut all = Fetched::default();
    loop {
        let some = dirty::fetch(vm, BATCH)?;
        all.add(&some);
        if some.count < BATCH {
            return Ok(all);
        }
    }
}
