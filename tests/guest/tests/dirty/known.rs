// SPDX-License-Identifier: GPL-2.0-or-later
//! A program writes to pages whose frames it knows: these are listed, and little else.

use std::collections::BTreeSet;

use guest::Result;
use guest::dirty::{self, Fetched};
use guest::testing::slot;
use guest::vm::Vm;

use crate::{NOISE, go_on, halt, listing};

const PAGES: u64 = 4000;

/// A guest that holds its pages, with a list that is empty while it is stopped.
fn start(properties: &str) -> Result<(Vm, BTreeSet<u64>)> {
    let mut vm = Vm::start(&listing(properties)?)?;
    vm.take_pages(PAGES, 1)?;
    let frames = vm.frames()?.into_iter().collect();
    halt(&mut vm)?;
    dirty::start(&mut vm)?;
    dirty::fetch_all(&mut vm, 65536)?;
    dirty::reset(&mut vm)?;
    Ok((vm, frames))
}

/// Lets the guest store to the first pages and stops it.
fn store(vm: &mut Vm, count: u64, value: u64, threads: u64) -> Result<()> {
    go_on(vm)?;
    vm.store(count, value, threads)?;
    halt(vm)
}

fn first(frames: &[u64], count: u64) -> BTreeSet<u64> {
    frames[..count as usize].iter().copied().collect()
}

/// All of `expected` is there, and little else.
fn assert_known(got: &BTreeSet<u64>, expected: &BTreeSet<u64>, how: &str) {
    let missing = expected.difference(got).count();
    let others = got.difference(expected).count();
    println!("{how}: {} pages, {others} others", expected.len());
    assert_eq!(missing, 0, "{how}: pages are missing");
    assert!(others <= NOISE, "{how}: {others} other pages");
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn known_pages_are_listed_and_little_else() -> Result<()> {
    let _slot = slot();
    let (mut vm, all) = start("max-dirty=65536")?;
    let frames = vm_frames(&mut vm)?;
    for (count, threads) in [(PAGES, 1), (PAGES, 2), (1000, 2), (3, 1)] {
        store(&mut vm, count, 100 + count + threads, threads)?;
        let fetched = dirty::fetch_all(&mut vm, 65536)?;
        let how = format!("{threads} threads");
        assert_known(&fetched.pages, &first(&frames, count), &how);
        assert_eq!(fetched.count, fetched.pages.len() as u64, "a page twice");
        assert_eq!(fetched.others, BTreeSet::new());
        dirty::reset(&mut vm)?;
    }
    // Nothing is written to while nothing runs.
    assert_eq!(dirty::fetch_all(&mut vm, 65536)?, Fetched::default());
    go_on(&mut vm)?;
    vm.check_pages()?;
    let still: BTreeSet<u64> = vm.frames()?.into_iter().collect();
    assert_eq!(still, all, "the guest moved its pages");
    Ok(())
}

/// The stopped guest goes on for a moment to say where its pages are, in their order.
fn vm_frames(vm: &mut Vm) -> Result<Vec<u64>> {
    go_on(vm)?;
    let frames = vm.frames()?;
    halt(vm)?;
    dirty::fetch_all(vm, 65536)?;
    dirty::reset(vm)?;
    Ok(frames)
}

/// A few at a time, as numbers of frames; a page that is written to again after it was taken
/// off comes again.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn known_pages_come_as_frames_in_batches() -> Result<()> {
    let _slot = slot();
    for properties in ["max-dirty=65536", "max-dirty=256,no-dups=on"] {
        let (mut vm, frames) = start(properties)?;
        for value in 0..3 {
            store(&mut vm, PAGES, value, 2)?;
            let mut got = BTreeSet::new();
            loop {
                let batch = dirty::fetch_frames(&mut vm, 700)?;
                assert!(batch.len() <= 700);
                if batch.is_empty() {
                    break;
                }
                assert!(got.is_disjoint(&batch), "a page twice");
                got.extend(batch);
            }
            assert_known(&got, &frames, properties);
            dirty::reset(&mut vm)?;
        }
        let overflows = dirty::number(&mut vm, "overflows")?;
        assert_eq!(overflows > 0, properties.contains("no-dups"));
    }
    Ok(())
}

/// What is on the list when it is stopped stays there, what is written after that is not
/// listed, and a list that is started again is empty.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn known_pages_are_not_listed_after_stop() -> Result<()> {
    let _slot = slot();
    let (mut vm, frames) = start("max-dirty=65536")?;
    store(&mut vm, PAGES, 1, 1)?;
    dirty::stop(&mut vm)?;
    store(&mut vm, PAGES, 2, 1)?;
    let fetched = dirty::fetch_all(&mut vm, 65536)?;
    assert_known(&fetched.pages, &frames, "before it was stopped");
    store(&mut vm, PAGES, 3, 1)?;
    assert_eq!(dirty::fetch_all(&mut vm, 65536)?, Fetched::default());
    dirty::start(&mut vm)?;
    assert_eq!(dirty::fetch_all(&mut vm, 65536)?, Fetched::default());
    store(&mut vm, PAGES, 4, 1)?;
    let fetched = dirty::fetch_all(&mut vm, 65536)?;
    assert_known(&fetched.pages, &frames, "started again");
    Ok(())
}
