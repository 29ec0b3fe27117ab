// SPDX-License-Identifier: GPL-2.0-or-later
//! Real threads, on as many processors as there are.

use super::*;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

/// Writers that count in pages, as QEMU does: content, bit, note. A reader fetches and clears bits
/// under the big lock, and reads the pages without it. In the end it has seen the last content of
/// each.
struct World {
    big_lock: Mutex<()>,
    content: Vec<AtomicU64>,
    bits: Vec<AtomicBool>,
    list: DirtyList,
}

const PAGES: usize = 600;
const WRITES: u64 = if cfg!(miri) { 200 } else { 60_000 };

impl World {
    fn new(options: DirtyOptions) -> World {
        World {
            big_lock: Mutex::new(()),
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

    fn clear(&self, pages: &[u64]) {
        for &page in pages {
            self.bits[page as usize].swap(false, Ordering::SeqCst);
        }
    }

    fn read(&self, pages: &[u64], copy: &mut [u64]) {
        for &page in pages {
            copy[page as usize] = self.content[page as usize].load(Ordering::SeqCst);
        }
    }

    fn fetch(&self, copy: &mut [u64]) -> usize {
        let mut out = [0; 64];
        let lock = self.big_lock.lock().unwrap();
        let count = self.list.fetch(&mut out).unwrap();
        self.clear(&out[..count]);
        drop(lock);
        self.read(&out[..count], copy);
        count
    }

    fn sync(&self, copy: &mut [u64]) {
        let mut to_send = Vec::new();
        let lock = self.big_lock.lock().unwrap();
        let listed = self.list.sync_begin();
        let mut out = [0; 64];
        loop {
            let count = self.list.sync_fetch(&mut out).unwrap();
            if count == 0 {
                break;
            }
            self.clear(&out[..count]);
            to_send.extend_from_slice(&out[..count]);
        }
        let was_set = |page: &u64| self.bits[*page as usize].swap(false, Ordering::SeqCst);
        to_send.extend((0..PAGES as u64).filter(|page| !listed && was_set(page)));
        drop(lock);
        self.read(&to_send, copy);
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
                Err(error) => assert_eq!(error, Error::Overflow),
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
