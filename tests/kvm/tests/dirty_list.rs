// SPDX-License-Identifier: GPL-2.0-or-later
//! The library's list of dirty pages, fed from KVM's dirty rings: it holds the pages that
//! the guest wrote and no other, whatever the size of the rings and of the list.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dirty_pages::{Error, Noted};
use kvm::block::Block;
use kvm::cases;
use kvm::checkpoint::Checkpoint;
use kvm::cpu::{Cpu, Stop};
use kvm::harvest::Signals;
use kvm::program::{Program, mailbox};
use kvm::rig::{Rig, Setup};
use kvm::testing::Case;
use kvm::vm::ring_sizes;
use kvm_ioctls::Kvm;

const SLOT: u32 = 1;
const BASE: u64 = 1 << 30;
/// The number of the first page of RAM: not that of its address, so that nobody takes
/// the one for the other.
const FIRST: u64 = 12345 * 64;

struct World {
    rig: Rig,
    block: Arc<Block>,
    cpu: Cpu,
}

impl World {
    /// A machine with `pages` pages of RAM, and its list, which is started.
    fn new(kvm: &Kvm, setup: Setup, pages: u64) -> io::Result<World> {
        let rig = Rig::new(kvm, setup)?;
        let block = Block::new(FIRST..FIRST + pages)?;
        rig.plug(SLOT, BASE, &block)?;
        let cpu = rig.cpu(0, BASE..BASE + pages * kvm::PAGE)?;
        rig.start()?;
        Ok(World { rig, block, cpu })
    }

    /// The guest writes to the pages with these numbers, each once. Says how often the
    /// ring was full, and the trigger was reached, the last harvest included.
    fn sweep(&mut self, pages: Range<u64>) -> io::Result<(u64, u64)> {
        let address = |page| BASE + (page - FIRST) * kvm::PAGE;
        let ram = address(pages.start)..address(pages.end);
        self.cpu.start_in(ram, Program::Sweep, 1)?;
        let ran = self.rig.run(&mut self.cpu)?;
        Ok((ran.full, ran.triggers + self.rig.harvest()?.triggers))
    }

    /// From here on the guest writes to one page at a time.
    fn step(&mut self) -> io::Result<()> {
        let pages = self.block.pages();
        let ram = BASE..BASE + (pages.end - pages.start) * kvm::PAGE;
        self.cpu.start_in(ram, Program::Step, 0)
    }

    /// It writes to this page.
    fn write(&mut self, page: u64, value: u64) -> io::Result<()> {
        self.cpu.write(page - FIRST, value)
    }

    /// The same, and the ring is read; says whether the trigger was reached.
    fn write_and_harvest(&mut self, page: u64) -> io::Result<bool> {
        self.write(page, 1)?;
        Ok(self.rig.harvest()?.triggers > 0)
    }
}

fn run(case: Case, test: fn(&Kvm) -> io::Result<()>) {
    if let Some(kvm) = case.kvm() {
        test(&kvm).expect("KVM does what it is asked for");
    }
}

fn setup(no_dups: bool) -> Setup {
    let mut setup = Setup::default();
    setup.list.no_dups = no_dups;
    setup
}

/// Without NO_DUPS a page may come more than once: KVM tells of a page before the guest
/// has written to it, and again if the ring was read in between.
fn distinct(mut pages: Vec<u64>) -> Vec<u64> {
    pages.dedup();
    pages
}

fn numbers(pages: Range<u64>) -> Vec<u64> {
    pages.collect()
}

fn the_list_has_the_pages_written_and_no_other(kvm: &Kvm) -> io::Result<()> {
    let sizes = ring_sizes(kvm)?;
    let (least, most) = (sizes[0], sizes[sizes.len() - 1]);
    for (ring_entries, no_dups) in [
        (least, false),
        (least, true),
        (2 * least, true),
        (4096, false),
        (most, true),
    ] {
        let mut setup = setup(no_dups);
        setup.ring_entries = ring_entries;
        let written = FIRST + 77..FIRST + 77 + u64::from(ring_entries) + 500;
        let pages = (written.end - FIRST).next_multiple_of(64) + 64;
        let mut world = World::new(kvm, setup, pages)?;
        let (full, _) = world.sweep(written.clone())?;
        assert!(full > 0, "a ring of {ring_entries} entries was never full");
        let mut listed = world.rig.fetch().unwrap();
        if !no_dups {
            listed = distinct(listed);
        }
        assert_eq!(listed, numbers(written), "{setup:?}");
        // What was fetched is not there again, and what is written again is.
        world.rig.harvest()?;
        assert_eq!(world.rig.fetch(), Ok(vec![]), "{setup:?}");
        let again = FIRST + 70..FIRST + 80;
        world.sweep(again.clone())?;
        assert_eq!(world.rig.fetch(), Ok(numbers(again)), "{setup:?}");
        assert!(!world.rig.list.indices().overflow, "{setup:?}");
    }
    Ok(())
}

fn a_guest_in_real_mode_is_seen(kvm: &Kvm) -> io::Result<()> {
    for ring_entries in ring_sizes(kvm)? {
        let rig = Rig::new(
            kvm,
            Setup {
                ring_entries,
                ..setup(false)
            },
        )?;
        let block = Block::new(FIRST..FIRST + 64)?;
        rig.plug(SLOT, 1 << 20, &block)?;
        let mut cpu = rig.cpu(0, 0..0)?;
        rig.start()?;
        cpu.start(Program::RealMode, 11)?;
        for page in FIRST..FIRST + 11 {
            assert_eq!(cpu.run()?, Stop::Done);
            rig.harvest()?;
            assert_eq!(rig.fetch(), Ok(vec![page]));
        }
    }
    Ok(())
}

/// What the harvester has no room for goes through the slot's bitmap.
fn a_small_collection_loses_nothing(kvm: &Kvm) -> io::Result<()> {
    for room in [0, 64] {
        let mut world = World::new(kvm, setup(true), 2048)?;
        world.rig.harvester().set_room(room);
        let written = FIRST + 1..FIRST + 1500;
        world.sweep(written.clone())?;
        assert_eq!(world.rig.fetch(), Ok(numbers(written)));
    }
    Ok(())
}

/// A list of 256 pages, and a guest that writes to a thousand before anybody looks.
fn small(no_dups: bool) -> Setup {
    let mut setup = setup(no_dups);
    setup.list.max_dirty = 256;
    setup
}

fn an_overflow_is_said_and_the_bits_have_all(kvm: &Kvm) -> io::Result<()> {
    let mut world = World::new(kvm, small(false), 1024)?;
    let fits = FIRST..FIRST + 256;
    world.sweep(fits.clone())?;
    assert_eq!(world.rig.fetch(), Ok(numbers(fits)));
    let written = FIRST + 3..FIRST + 1003;
    world.sweep(written.clone())?;
    assert!(world.rig.list.indices().overflow);
    for _ in 0..2 {
        assert_eq!(world.rig.fetch(), Err(Error::Overflow));
    }
    assert_eq!(world.rig.scan(), numbers(written));
    world.rig.list.stop();
    world.rig.start()?;
    let again = FIRST + 1..FIRST + 9;
    world.sweep(again.clone())?;
    assert_eq!(world.rig.fetch(), Ok(numbers(again)));
    assert!(!world.rig.list.indices().overflow);
    Ok(())
}

fn an_overflow_without_duplicates_loses_nothing(kvm: &Kvm) -> io::Result<()> {
    let mut world = World::new(kvm, small(true), 1024)?;
    let written = FIRST + 3..FIRST + 1003;
    for _ in 0..2 {
        world.sweep(written.clone())?;
        let indices = world.rig.list.indices();
        assert!(indices.overflow && indices.overflows > 0, "{indices:?}");
        assert_eq!(world.rig.fetch(), Ok(numbers(written.clone())));
        assert!(!world.rig.list.indices().overflow);
    }
    Ok(())
}

fn without_duplicates_a_page_is_listed_once_until_it_is_fetched(kvm: &Kvm) -> io::Result<()> {
    // More often than a list of 256 pages could have it.
    for (no_dups, times, count) in [(false, 100, 100), (true, 100, 1), (true, 300, 1)] {
        let mut world = World::new(kvm, small(no_dups), 64)?;
        world.step()?;
        let page = FIRST + 9;
        for _ in 0..times {
            world.write_and_harvest(page)?;
        }
        assert_eq!(world.rig.list.indices().dirty_index, count);
        assert_eq!(world.rig.fetch(), Ok(vec![page]));
        world.write_and_harvest(page)?;
        assert_eq!(world.rig.fetch(), Ok(vec![page]));
    }
    let mut world = World::new(kvm, small(false), 64)?;
    world.step()?;
    for _ in 0..300 {
        world.write_and_harvest(FIRST)?;
    }
    assert_eq!(world.rig.fetch(), Err(Error::Overflow));
    Ok(())
}

fn trigger(pages: usize, no_dups: bool) -> Setup {
    let mut setup = setup(no_dups);
    setup.list.dirty_trigger = pages;
    setup
}

fn the_trigger_comes_with_its_page_and_once_a_cycle(kvm: &Kvm) -> io::Result<()> {
    let mut world = World::new(kvm, trigger(10, true), 1024)?;
    world.step()?;
    let write = |world: &mut World, pages: Range<u64>| -> io::Result<Vec<u64>> {
        let mut at = Vec::new();
        for page in pages {
            // The second write counts only where duplicates do.
            if world.write_and_harvest(FIRST + page)? | world.write_and_harvest(FIRST + page)? {
                at.push(page);
            }
        }
        Ok(at)
    };
    assert_eq!(write(&mut world, 0..15)?, [9]);
    assert_eq!(world.rig.fetch().unwrap().len(), 15);
    assert_eq!(write(&mut world, 0..12)?, [0; 0], "not reset yet");
    // Twelve are there that were not fetched.
    assert_eq!(world.rig.list.reset(), Ok(Noted::Trigger));
    assert_eq!(write(&mut world, 20..40)?, [0; 0], "it came already");
    world.rig.fetch().unwrap();
    assert_eq!(world.rig.list.reset(), Ok(Noted::Done));
    assert_eq!(write(&mut world, 40..60)?, [49]);
    Ok(())
}

fn the_trigger_counts_duplicates_where_they_are_listed(kvm: &Kvm) -> io::Result<()> {
    for (no_dups, triggers) in [(false, 1), (true, 0)] {
        let mut world = World::new(kvm, trigger(10, no_dups), 64)?;
        world.step()?;
        let mut seen = 0;
        for _ in 0..15 {
            seen += u64::from(world.write_and_harvest(FIRST)?);
        }
        assert_eq!(seen, triggers);
    }
    Ok(())
}

fn the_trigger_comes_once_in_a_harvest_of_many(kvm: &Kvm) -> io::Result<()> {
    let mut setup = trigger(700, true);
    setup.ring_entries = ring_sizes(kvm)?[0];
    let mut world = World::new(kvm, setup, 2048)?;
    let (_, triggers) = world.sweep(FIRST..FIRST + 2000)?;
    assert_eq!(triggers, 1);
    world.rig.fetch().unwrap();
    assert_eq!(world.rig.list.reset(), Ok(Noted::Done));
    let (_, triggers) = world.sweep(FIRST..FIRST + 699)?;
    assert_eq!(triggers, 0);
    Ok(())
}

/// The guest writes between the steps of a harvest to the page that is being harvested.
/// It can do so without a new entry until KVM has protected the page.
struct Between {
    world: World,
    checkpoint: Checkpoint,
}

const PAGE: u64 = FIRST + 5;

impl Between {
    fn new(kvm: &Kvm) -> io::Result<Between> {
        let mut world = World::new(kvm, setup(true), 64)?;
        world.step()?;
        let mut checkpoint = Checkpoint::default();
        checkpoint.add(&world.block);
        Ok(Between { world, checkpoint })
    }

    fn copy(&mut self) -> usize {
        let pages = self.world.rig.fetch().unwrap();
        self.checkpoint.copy(&pages);
        pages.len()
    }
}

/// The page is known before KVM has protected it: its consumer copies it, and nobody tells
/// of the write that follows. That it is protected then comes too late.
fn what_is_known_before_it_is_protected_is_lost(kvm: &Kvm) -> io::Result<()> {
    let mut between = Between::new(kvm)?;
    between.world.write(PAGE, 1)?;
    between.world.rig.harvester().collect();
    between.world.rig.harvester().publish();
    assert_eq!(between.copy(), 1);
    between.world.write(PAGE, 2)?;
    between.world.rig.harvester().protect()?;
    between.world.rig.harvest()?;
    assert_eq!(between.copy(), 0, "the write was told");
    assert_eq!(between.checkpoint.differing(), [PAGE]);
    Ok(())
}

/// The same writes with the steps in their order: whatever comes before the page is
/// protected is there when it is copied, and whatever comes after it is told.
fn what_is_known_after_it_is_protected_arrives(kvm: &Kvm) -> io::Result<()> {
    let mut between = Between::new(kvm)?;
    between.world.write(PAGE, 1)?;
    between.world.rig.harvester().collect();
    between.world.write(PAGE, 2)?;
    between.world.rig.harvester().protect()?;
    between.world.write(PAGE, 3)?;
    between.world.rig.harvester().publish();
    assert_eq!(between.copy(), 1);
    assert_eq!(between.checkpoint.differing(), [0; 0]);
    between.world.write(PAGE, 4)?;
    assert_eq!(between.checkpoint.differing(), [PAGE]);
    between.world.rig.harvest()?;
    assert_eq!(between.copy(), 1);
    assert_eq!(between.checkpoint.differing(), [0; 0]);
    Ok(())
}

/// Calls `call` while signals come to this thread all the time.
fn under_signals<T>(call: impl FnOnce() -> T) -> T {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler = nothing as extern "C" fn(libc::c_int);
    // SAFETY: the handler does nothing, which is allowed at any time.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    // SAFETY: the call takes and changes nothing.
    let me = unsafe { libc::pthread_self() };
    let (over, begun) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // SAFETY: that thread waits for this one to end.
                unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                begun.store(true, Ordering::Relaxed);
                (0..100).for_each(|_| std::hint::spin_loop());
            }
        });
        while !begun.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        let result = call();
        over.store(true, Ordering::Relaxed);
        result
    })
}

/// KVM stops for a signal while it protects pages, and leaves some as they are that it
/// counts as done: see [`Signals`].
fn signals_in_a_harvest_lose_nothing(kvm: &Kvm) -> io::Result<()> {
    const WRITTEN: u64 = 500;
    for signals in [Signals::Held, Signals::Let] {
        let mut world = World::new(kvm, setup(true), 1024)?;
        world.rig.harvester().set_signals(signals);
        let mut checkpoint = Checkpoint::default();
        checkpoint.add(&world.block);
        // Every second page, backwards and forwards, so that KVM has much to do.
        for at in 0..WRITTEN {
            let page = if at % 2 == 0 { at } else { 1023 - at };
            let entry = world.rig.vm.mail(0, mailbox::LIST + at * 8);
            entry.store(BASE + page * kvm::PAGE, Ordering::Relaxed);
        }
        for _ in 0..30 {
            world.cpu.start(Program::List, WRITTEN)?;
            world.rig.run(&mut world.cpu)?;
            let harvest = under_signals(|| world.rig.harvest())?;
            let listed = world.rig.fetch().unwrap();
            let all = harvest.all > 0;
            assert!(!all || signals == Signals::Let, "a signal came");
            assert_eq!(listed.len() as u64, if all { 1024 } else { WRITTEN });
            checkpoint.copy(&listed);
        }
        assert_eq!(checkpoint.differing(), [0; 0]);
    }
    Ok(())
}

cases!(run, dirty_ring, Ring:
    the_list_has_the_pages_written_and_no_other
    a_guest_in_real_mode_is_seen
    a_small_collection_loses_nothing
    an_overflow_is_said_and_the_bits_have_all
    an_overflow_without_duplicates_loses_nothing
    without_duplicates_a_page_is_listed_once_until_it_is_fetched
    the_trigger_comes_with_its_page_and_once_a_cycle
    the_trigger_counts_duplicates_where_they_are_listed
    the_trigger_comes_once_in_a_harvest_of_many
    what_is_known_before_it_is_protected_is_lost
    what_is_known_after_it_is_protected_arrives
    signals_in_a_harvest_lose_nothing
);
