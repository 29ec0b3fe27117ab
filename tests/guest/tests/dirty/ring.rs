// SPDX-License-Identifier: GPL-2.0-or-later
//! Migrations with KVM's dirty ring: the list, the bitmap of the migration and the destination's
//! memory agree.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use guest::bare::Bare;
use guest::boot::Boot;
use guest::dirty::{self, Ram, Replica};
use guest::testing::slot;
use guest::{MIB, Result};

use crate::sector::{MANY, RING, boot, config, works};
use crate::{SOON, difference, go_on, run_state};

/// The machine that a machine moves to.
fn destination(boot: Boot, properties: &str) -> Result<Bare> {
    let mut config = config(RING, boot, properties)?;
    config
        .more_arguments
        .extend(["-incoming".into(), "defer".into()]);
    Bare::start(&config)
}

/// Starts to move, with `bandwidth` bytes a second.
fn begin_move(source: &mut Bare, destination: &mut Bare, bandwidth: u64) -> Result<()> {
    let uri = destination.uri();
    destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
    let parameters = json!({ "downtime-limit": 1, "max-bandwidth": bandwidth });
    source.qmp("migrate-set-parameters", parameters)?;
    source.qmp("migrate", json!({ "uri": uri })).map(drop)
}

/// Lets it end; the source's last answer to `query-migrate`.
fn end_move(source: &mut Bare, destination: &mut Bare) -> Result<Value> {
    let parameters = json!({ "downtime-limit": 2000, "max-bandwidth": 4_u64 << 30 });
    source.qmp("migrate-set-parameters", parameters)?;
    let mut state = Value::Null;
    source.wait_until("end of the migration", SOON, |source| {
        state = source.qmp("query-migrate", json!({}))?;
        assert!(state["status"] != "failed", "{state}");
        Ok(state["status"] == "completed")
    })?;
    destination.wait_until("machine that has moved", SOON, |vm| {
        Ok(run_state(vm)? != "inmigrate")
    })?;
    Ok(state)
}

/// `all of it is listed: 1, 5 pages became dirty`, for each synchronization.
fn syncs(log: &str) -> Vec<(bool, u64)> {
    let texts = log
        .lines()
        .filter_map(|line| line.split_once("all of it is listed: "));
    let numbers = texts.filter_map(|(_, text)| {
        let (all, rest) = text.split_once(", ")?;
        Some((all == "1", rest.split(' ').next()?.parse().ok()?))
    });
    numbers.collect()
}

/// The guest writes all the time, a tool makes checkpoints, and the migration has to send again
/// what the tool took off the list.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_migration_and_checkpoints_with_the_ring_of_kvm() -> Result<()> {
    if !works("a_migration_and_checkpoints_with_the_ring_of_kvm", RING)? {
        return Ok(());
    }
    let _slot = slot();
    moved_while_it_writes("max-dirty=65536", true)?;
    moved_while_it_writes("max-dirty=256,no-dups=on", false)
}

fn moved_while_it_writes(properties: &str, all_listed: bool) -> Result<()> {
    let boot_of = Boot {
        processors: 2,
        pages: MANY,
    };
    let (mut source, ram) = boot(RING, boot_of, properties)?;
    dirty::start(&mut source)?;
    let mut replica = Replica::new(Ram::of(&source)?)?;
    let mut destination = destination(boot_of, properties)?;
    go_on(&mut source)?;
    begin_move(&mut source, &mut destination, 200 * MIB)?;
    let mut fetched = 0;
    source.wait_until("rounds of the migration", SOON, |source| {
        let some = dirty::fetch(source, 3000)?;
        replica.copy(&some)?;
        fetched += some.count;
        let state = source.qmp("query-migrate", json!({}))?;
        Ok(state["ram"]["dirty-sync-count"].as_u64() >= Some(6))
    })?;
    let state = end_move(&mut source, &mut destination)?;
    assert_eq!(run_state(&mut source)?, "postmigrate");
    let rest = dirty::fetch_all(&mut source, 65536)?;
    replica.copy(&rest)?;
    assert_eq!(replica.differing()?, [0; 0], "the copy is not the source");
    let there = Ram::of(&destination)?;
    assert_eq!(
        replica.differing_from(&there)?,
        [0; 0],
        "the destination is not the source"
    );
    assert_eq!(boot_of.written(&there)?, boot_of.written(&ram)?);
    let listed = dirty::number(&mut source, "list-syncs")?;
    let scanned = dirty::number(&mut source, "scan-syncs")?;
    let log = syncs(&source.log());
    println!(
        "{properties}: {fetched} pages fetched meanwhile, {listed} + {scanned} syncs: {log:?}"
    );
    assert_eq!(log.len() as u64, listed + scanned);
    assert_eq!(
        Some(listed + scanned),
        state["ram"]["dirty-sync-count"].as_u64()
    );
    assert!(fetched > 0);
    if all_listed {
        // The first one starts the migration's list.
        assert_eq!(scanned, 1);
    } else {
        assert!(scanned > 1, "what does not fit is scanned for");
    }
    Ok(())
}

/// Nothing runs, and what devices write is known: a synchronization of the migration finds just
/// these pages, though a tool has taken them off its own list before and cleared their bits.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_synchronization_finds_what_was_fetched() -> Result<()> {
    if !works("a_synchronization_finds_what_was_fetched", RING)? {
        return Ok(());
    }
    let _slot = slot();
    found("max-dirty=65536", 123, true)?;
    // There is no room for so many, neither on the tool's list nor on the migration's.
    found("max-dirty=256,no-dups=on", 700, false)
}

fn found(properties: &str, count: u64, all_listed: bool) -> Result<()> {
    let boot_of = Boot {
        processors: 1,
        pages: MANY,
    };
    let (mut source, _) = boot(RING, boot_of, properties)?;
    dirty::start(&mut source)?;
    let mut replica = Replica::new(Ram::of(&source)?)?;
    let mut destination = destination(boot_of, properties)?;
    begin_move(&mut source, &mut destination, 4 * MIB)?;
    // RAM is sent in order, so these pages are behind it.
    source.wait_until("bytes sent", SOON, |source| {
        let state = source.qmp("query-migrate", json!({}))?;
        Ok(state["ram"]["transferred"].as_u64() >= Some(4 * MIB))
    })?;
    let written: BTreeSet<u64> = (boot_of.first(0)..).take(count as usize).collect();
    for &page in &written {
        source.fill(page, 0xa5)?;
    }
    let fetched = dirty::fetch_all(&mut source, 50)?;
    assert_eq!(difference(&fetched.pages, &written), None);
    replica.copy(&fetched)?;
    let first_syncs = syncs(&source.log()).len();
    end_move(&mut source, &mut destination)?;
    let log = syncs(&source.log()).split_off(first_syncs);
    println!("{properties}: syncs {log:?}");
    let found: u64 = log.iter().map(|(_, dirty)| dirty).sum();
    assert_eq!(found, count, "{log:?}");
    assert_eq!(log.iter().all(|(all, _)| *all), all_listed, "{log:?}");
    assert_eq!(replica.differing()?, [0; 0]);
    assert_eq!(replica.differing_from(&Ram::of(&destination)?)?, [0; 0]);
    Ok(())
}

#[test]
fn synchronizations_are_read() {
    let log = "2025@1.2:dirty_page_list_sync all of it is listed: 0, 16384 pages became dirty\n\
               other\ndirty_page_list_sync all of it is listed: 1, 7 pages became dirty";
    assert_eq!(syncs(log), [(false, 16384), (true, 7)]);
}
