// SPDX-License-Identifier: GPL-2.0-or-later
//! Real threads, on as many processors as there are.

use super::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

/// Writers that count in pages, as QEMU does: content, bit, note. The reader clears the bit and reads the
/// page. In the end it has seen the last content of each.
struct World {
    content: Vec<AtomicU64>,
    bits: Vec<AtomicBool>,
    list: DirtyList,
}

const PAGES: usize = 600;
const WRITES: u64 = if cfg!(miri) { 200 } else { 60_000 };

impl World {
    fn new(options: DirtyOptions) -> World {
        World {
            content: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
            bits: (0..PAGES).map(|_| AtomicBool::new(false)).collect(),
            list: started(options),
        }
    }

    fn write(&self, writer: usize, n: u64) {
        let page = (n * (2 * writer as u64 + 1) * 37) as usize % PAGES;
        self.content[page].fetch_add(1, Ordering::Relaxed);
        if !self.bits[page].swap(true, Ordering::SeqCst) {
            self.list.note(writer, page as u64, 1);
        }
    }

    fn copy(&self, pages: &[u64], copy: &mut [u64], early: bool) {
        for &page in pages {
            let page = page as usize;
            // What a page is set to be sent for may be sent long before or after the bit is cleared,
            // but not before it was cleared.
            self.bits[page].store(false, Ordering::SeqCst);
            if early {
                thread::yield_now();
            }
            copy[page] = self.content[page].load(Ordering::SeqCst);
        }
    }

    fn fetch(&self, copy: &mut [u64]) -> usize {
        let mut out = [0; 64];
        let count = self.list.fetch(&mut out).unwrap();
        self.copy(&out[..count], copy, false);
        count
    }

    fn sync(&self, copy: &mut [u64]) {
        let listed = self.list.sync_begin();
        let mut out = [0; 64];
        loop {
            let count = self.list.sync_fetch(&mut out).unwrap();
            if count == 0 {
                break;
            }
            self.copy(&out[..count], copy, true);
        }
        let dirty = |page: &u64| self.bits[*page as usize].load(Ordering::SeqCst);
        for page in (0..PAGES as u64).filter(|page| !listed && dirty(page)) {
            self.copy(&[page], copy, true);
        }
    }
}

/// The consumer's list and the migration's at the same time, on one dirty bitmap.
#[test]
fn both_copies_are_complete() {
    let world = World::new(DirtyOptions {
        vcpus: 3,
        ..NO_DUPS
    });
    assert!(!world.list.sync_begin());
    let (mut consumer, mut migration) = (vec![0; PAGES], vec![0; PAGES]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (world, done) = (&world, &done);
        // Two of them are no virtual CPUs, and share the machine's ring.
        let writers: Vec<_> = (0..5)
            .map(|writer| scope.spawn(move || (0..WRITES).for_each(|n| world.write(writer, n))))
            .collect();
        let (consumer, migration) = (&mut consumer, &mut migration);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                world.fetch(consumer);
                world.list.reset().unwrap();
            }
        });
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                world.sync(migration);
            }
        });
        let ends: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok));
    });
    while world.fetch(&mut consumer) > 0 {}
    world.sync(&mut migration);
    let content: Vec<u64> = world
        .content
        .iter()
        .map(|c| c.load(Ordering::Relaxed))
        .collect();
    assert_eq!(content.iter().sum::<u64>(), 5 * WRITES);
    assert!(consumer == content, "the consumer missed a write");
    assert!(migration == content, "the migration missed a write");
    let indices = world.list.indices();
    assert_eq!(indices.dirty_index, indices.fetch_index);
    assert!(!indices.overflow);
}

/// Without marks: what is noted is fetched, or the overflow is said.
#[test]
fn nothing_is_lost_without_a_word() {
    let list = started(DirtyOptions {
        max_dirty: 20_000,
        ..BASE
    });
    let mut seen = BTreeSet::new();
    thread::scope(|scope| {
        let list = &list;
        let writers: Vec<_> = (0..2u64)
            .map(|vcpu| {
                scope.spawn(move || {
                    for page in 0..WRITES {
                        list.note(vcpu as usize, vcpu << 30 | page, 1);
                        if page % 100 == 0 {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            let mut out = [0; 1000];
            match list.fetch(&mut out) {
                Ok(count) => seen.extend(out[..count].iter().copied()),
                Err(error) => assert_eq!(error, Error::DirtyListOverflow),
            }
        }
    });
    assert_eq!(list.indices().dirty_index, 2 * WRITES);
    if !list.indices().overflow {
        seen.extend(fetch_all(&list));
        assert_eq!(seen.len() as u64, 2 * WRITES);
    }
}

/// However many come to it at the same time, one pauses the machine.
#[test]
fn the_trigger_is_one_threads() {
    for _ in 0..if cfg!(miri) { 2 } else { 100 } {
        let list = started(DirtyOptions {
            dirty_trigger: 100,
            vcpus: 4,
            ..NO_DUPS
        });
        let triggered = AtomicUsize::new(0);
        thread::scope(|scope| {
            for vcpu in 0..4 {
                let (list, triggered) = (&list, &triggered);
                scope.spawn(move || {
                    for page in 0..50 {
                        let noted = list.note(vcpu, vcpu as u64 * 100 + page, 1);
                        triggered
                            .fetch_add(usize::from(noted == Noted::Trigger), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(triggered.load(Ordering::Relaxed), 1);
    }
}
