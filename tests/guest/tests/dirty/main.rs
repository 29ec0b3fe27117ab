// SPDX-License-Identifier: GPL-2.0-or-later
//! The list of dirty pages, seen from outside: guests whose writes are known, copies of their
//! memory that are kept by copying what is listed, and migrations while it is in use.

mod checkpoint;
mod exact;
mod hinted;
mod known;
mod moved;
mod ring;
mod sector;
mod trigger;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use guest::Result;
use guest::accel::Accel;
use guest::config::{Backing, VmConfig};
use guest::dirty::{self, Machine};
use guest::testing::config;

const SOON: Duration = Duration::from_secs(30);
/// A guest with two processors has few pages of its own that are ever written to: so many
/// at most while a program runs for a second. Its kernel's clock, scheduler and serial line,
/// page tables, and the stacks and buffers of the program and of its threads.
const NOISE: usize = 400;

/// An emulated Linux guest with two processors and an object with `properties`, no balloon.
fn listing(properties: &str) -> Result<VmConfig> {
    let mut more: Vec<String> = vec!["-smp".into(), "2".into()];
    more.extend(dirty::object(properties));
    Ok(VmConfig {
        memory_mib: 128,
        backing: Backing::Shared4k,
        device: None,
        accel: Some(Accel::Tcg),
        more_arguments: more,
        ..config("")?
    })
}

fn halt(vm: &mut impl Machine) -> Result<()> {
    vm.run("stop", json!({})).map(drop)
}

fn go_on(vm: &mut impl Machine) -> Result<()> {
    vm.run("cont", json!({})).map(drop)
}

fn run_state(vm: &mut impl Machine) -> Result<String> {
    let answer = vm.run("query-status", json!({}))?;
    Ok(answer["status"].as_str().unwrap_or_default().into())
}

/// What is in only one of two sets of pages, some of each.
fn difference(got: &BTreeSet<u64>, expected: &BTreeSet<u64>) -> Option<String> {
    let some = |of: &BTreeSet<u64>, other: &BTreeSet<u64>| {
        let only: Vec<u64> = of.difference(other).copied().collect();
        format!("{} ({:x?})", only.len(), &only[..only.len().min(20)])
    };
    let (missing, more) = (some(expected, got), some(got, expected));
    (got != expected).then(|| format!("missing: {missing}; not expected: {more}"))
}
