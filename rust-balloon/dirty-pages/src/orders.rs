// SPDX-License-Identifier: GPL-2.0-or-later
//! Every order in which the memory accesses of two or three threads can be seen, as the memory
//! model has it.
//!
//! Writers do as QEMU does: content, bit, note. A reader fetches, clears the bit, and reads the
//! content. Content is relaxed: what is seen of it is what the list and the bit make seen. Bits are
//! atomic exchanges there.

use super::list::{List, MACHINE, Marked};
use super::ring::Ring;
use super::sync::{AtomicBool, AtomicU64, Ordering};
use super::{Error, Noted};
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

/// More changes from one thread to another than this are not tried: an error needs few.
const MOST_CHANGES: usize = 3;

fn all_orders(test: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(MOST_CHANGES);
    builder.check(test);
}

struct World {
    list: List,
    content: [AtomicU64; 2],
    bits: [AtomicBool; 2],
}

/// What a reader copied.
type Copies = [u64; 2];

impl World {
    /// Rings of so many places, which exist already.
    fn new(places: usize, marked: Marked, trigger: usize) -> Arc<World> {
        let list = List::new(places, marked, trigger, 2).unwrap();
        list.start().unwrap();
        for vcpu in [0, 1] {
            list.note(vcpu, 40, 1);
            list.fetch(&mut [0; 4], |_| Ok(())).unwrap();
        }
        list.stop();
        list.start().unwrap();
        Arc::new(World {
            list,
            content: [0, 0].map(AtomicU64::new),
            bits: [false, false].map(AtomicBool::new),
        })
    }

    fn write(&self, vcpu: usize, page: usize) -> Noted {
        self.content[page].fetch_add(1, Ordering::Relaxed);
        if self.bits[page].swap(true, Ordering::AcqRel) {
            return Noted::Done;
        }
        self.list.note(vcpu, page as u64, 1)
    }

    fn take(&self, page: usize, copies: &mut Copies) {
        self.bits[page].swap(false, Ordering::AcqRel);
        copies[page] = self.content[page].load(Ordering::Relaxed);
    }

    fn fetch(&self, copies: &mut Copies) -> Result<usize, Error> {
        let mut out = [0; 4];
        let count = self.list.fetch(&mut out, |_| Ok(()))?;
        for page in &out[..count] {
            self.take(*page as usize, copies);
        }
        Ok(count)
    }

    fn sync(&self, copies: &mut Copies) {
        let listed = self.list.sync_begin();
        let mut out = [0; 4];
        loop {
            let count = self.list.sync_fetch(&mut out).unwrap();
            if count == 0 {
                break;
            }
            for page in &out[..count] {
                self.take(*page as usize, copies);
            }
        }
        for page in [0, 1] {
            if !listed && self.bits[page].load(Ordering::Acquire) {
                self.take(page, copies);
            }
        }
    }

    /// Nobody else is there any more.
    fn is_copied(&self, mut copies: Copies) {
        while self.fetch(&mut copies).unwrap() > 0 {}
        assert_eq!(copies, self.content(), "a write is missing");
        // And no page is kept off the list.
        for page in [0, 1] {
            self.write(0, page);
            assert_eq!(self.fetch(&mut copies), Ok(1));
        }
        assert_eq!(copies, self.content());
    }

    fn content(&self) -> Copies {
        [0, 1].map(|page| self.content[page].load(Ordering::Relaxed))
    }
}

#[test]
fn a_ring_hands_over_what_fits() {
    all_orders(|| {
        let ring = Arc::new(Ring::new(2).unwrap());
        let writer = Arc::clone(&ring);
        let writer = thread::spawn(move || {
            let left = [writer.push(10, 0b111), writer.push(20, 1)];
            left.map(u64::count_ones)
        });
        let mut taken = Vec::new();
        let mut take = || {
            let mut out = [0; 4];
            ring.look();
            let count = ring.take(&mut out);
            taken.extend_from_slice(&out[..count]);
        };
        take();
        take();
        let left = writer.join().unwrap();
        take();
        // The first two always fit, the third never does.
        assert_eq!(left[0], 1);
        assert_eq!(taken[..2], [10, 11]);
        assert_eq!(taken[2..], [20][left[1] as usize..]);
        assert_eq!(ring.noted(), 4);
    });
}

fn one_writer_and_its_reader(places: usize, pages: [usize; 3]) {
    all_orders(move || {
        let world = World::new(places, Marked::Listed, 0);
        let writer = Arc::clone(&world);
        let writer = thread::spawn(move || {
            for page in pages {
                writer.write(0, page);
            }
        });
        let mut copies = [0; 2];
        world.fetch(&mut copies).unwrap();
        world.fetch(&mut copies).unwrap();
        writer.join().unwrap();
        world.is_copied(copies);
    });
}

#[test]
fn a_page_is_written_again_while_it_is_fetched() {
    one_writer_and_its_reader(2, [0, 0, 0]);
}

#[test]
fn a_full_ring_is_swept_while_it_fills() {
    one_writer_and_its_reader(1, [0, 1, 0]);
}

/// Each of them writes to its page.
fn two_writers_and_a_reader(marked: Marked, places: usize, writers: [(usize, usize); 2]) {
    all_orders(move || {
        let world = World::new(places, marked, 0);
        let writers = writers.map(|(vcpu, page)| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.write(vcpu, page))
        });
        let mut copies = [0; 2];
        world.fetch(&mut copies).unwrap();
        for writer in writers {
            writer.join().unwrap();
        }
        world.is_copied(copies);
    });
}

#[test]
fn two_processors_write_a_page() {
    two_writers_and_a_reader(Marked::Listed, 1, [(0, 0), (1, 0)]);
    two_writers_and_a_reader(Marked::No, 2, [(0, 0), (1, 0)]);
}

#[test]
fn two_devices_take_turns() {
    two_writers_and_a_reader(Marked::Listed, 1, [(MACHINE, 0), (MACHINE, 1)]);
    two_writers_and_a_reader(Marked::No, 2, [(MACHINE, 0), (MACHINE, 1)]);
}

/// Without bits: who fetches a page sees what was written before each note that its mark left out.
#[test]
fn a_mark_is_enough() {
    all_orders(|| {
        let world = World::new(1, Marked::Listed, 0);
        let writers = [0, 1].map(|vcpu| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.content[0].fetch_add(1, Ordering::Relaxed);
                world.list.note(vcpu, 0, 1);
            })
        });
        let mut copy = 0;
        let mut fetch = || {
            let count = world.list.fetch(&mut [0; 4], |_| Ok(())).unwrap();
            if count > 0 {
                copy = world.content[0].load(Ordering::Relaxed);
            }
            count
        };
        fetch();
        for writer in writers {
            writer.join().unwrap();
        }
        while fetch() > 0 {}
        assert_eq!(copy, 2, "a write is missing");
    });
}

/// The list of a migration, with places that do not suffice.
#[test]
fn a_list_without_room_leaves_pages_to_the_bits() {
    all_orders(|| {
        let world = World::new(1, Marked::Owed, 0);
        let writer = Arc::clone(&world);
        let writer = thread::spawn(move || {
            for page in [0, 1, 0] {
                writer.write(0, page);
            }
        });
        let mut copies = [0; 2];
        world.sync(&mut copies);
        writer.join().unwrap();
        world.sync(&mut copies);
        assert_eq!(copies, world.content(), "a write is missing");
    });
}

/// Of what a consumer takes off meanwhile, under a lock as the module says.
#[test]
fn what_is_owed_is_seen() {
    all_orders(|| {
        let world = World::new(1, Marked::Owed, 0);
        let consumer = Arc::clone(&world);
        world.content[1].fetch_add(1, Ordering::Relaxed);
        world.bits[1].store(true, Ordering::Release);
        let consumer = thread::spawn(move || {
            consumer.list.owe(&[1]).unwrap();
            consumer.bits[1].swap(false, Ordering::AcqRel);
        });
        let mut copies = [0; 2];
        world.sync(&mut copies);
        consumer.join().unwrap();
        world.sync(&mut copies);
        assert_eq!(copies, world.content(), "a write is missing");
    });
}

/// A note that is under way since before the list was stopped does it no harm.
#[test]
fn a_start_meets_late_notes() {
    all_orders(|| {
        let world = World::new(1, Marked::Listed, 0);
        let writer = Arc::clone(&world);
        let writer = thread::spawn(move || {
            writer.write(0, 0);
            writer.write(0, 1);
        });
        world.list.stop();
        world.list.start().unwrap();
        let mut copies = [0; 2];
        for page in [0, 1] {
            world.take(page, &mut copies);
        }
        writer.join().unwrap();
        world.is_copied(copies);
    });
}

/// Nor does it take the trigger away from those that come after the start.
#[test]
fn a_late_note_leaves_the_trigger() {
    all_orders(|| {
        let world = World::new(2, Marked::No, 1);
        assert_eq!(world.list.note(0, 5, 1), Noted::Trigger);
        let late = Arc::clone(&world);
        let late = thread::spawn(move || late.list.note(0, 0, 1));
        world.list.stop();
        world.list.start().unwrap();
        let late = late.join().unwrap();
        let next = world.list.note(1, 1, 1);
        assert!(
            late == Noted::Trigger || next == Noted::Trigger,
            "it is lost"
        );
    });
}

#[test]
fn the_trigger_goes_off_once() {
    all_orders(|| {
        let world = World::new(2, Marked::Listed, 2);
        let writers = [0, 1].map(|vcpu| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.write(vcpu, vcpu))
        });
        let noted = writers.map(|writer| writer.join().unwrap());
        assert!(noted == [Noted::Done, Noted::Trigger] || noted == [Noted::Trigger, Noted::Done]);
    });
}

/// Either of a reset and a note at the same time sees that the other came first.
#[test]
fn a_reset_misses_no_trigger() {
    all_orders(|| {
        let world = World::new(2, Marked::Listed, 1);
        assert_eq!(world.write(0, 0), Noted::Trigger);
        let mut copies = [0; 2];
        assert_eq!(world.fetch(&mut copies), Ok(1));
        let writer = Arc::clone(&world);
        let writer = thread::spawn(move || writer.write(1, 1));
        let reset = world.list.reset().unwrap();
        let noted = writer.join().unwrap();
        assert!(reset != noted, "{reset:?} and {noted:?}");
    });
}
