// SPDX-License-Identifier: GPL-2.0-or-later
//! The library's list of dirty pages while memory and processors come and go under it, with
//! KVM's dirty rings.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use kvm::PAGE;
use kvm::block::Block;
use kvm::cases;
use kvm::checkpoint::Checkpoint;
use kvm::cpu::{Cpu, Stop};
use kvm::program::{Program, mailbox};
use kvm::rig::{Rig, Setup};
use kvm::testing::Case;
use kvm_ioctls::Kvm;

const BASE: u64 = 1 << 30;
/// Where memory is plugged in and out.
const PLUG_BASE: u64 = 5 << 30;
const SLOT: u32 = 1;
const PLUG_SLOT: u32 = 2;
/// The machine's first memory, and blocks to plug, one of them as far as pages go.
const MAIN: Range<u64> = 1 << 20..(1 << 20) + 1024;
const PLUGGED: Range<u64> = (1 << 40) - 512..1 << 40;
const OTHER: Range<u64> = 1 << 30..(1 << 30) + 512;
const SMALLER: Range<u64> = 1 << 25..(1 << 25) + 64;

struct World {
    rig: Rig,
    main: Arc<Block>,
    cpu: Cpu,
}

impl World {
    fn new(kvm: &Kvm) -> io::Result<World> {
        let mut setup = Setup::default();
        setup.list.no_dups = true;
        let rig = Rig::new(kvm, setup)?;
        let main = Block::new(MAIN)?;
        rig.plug(SLOT, BASE, &main)?;
        let cpu = rig.cpu(0, addresses(BASE, &main))?;
        rig.start()?;
        Ok(World { rig, main, cpu })
    }

    /// A block that is plugged in where memory comes and goes.
    fn plug(&self, pages: Range<u64>) -> io::Result<Arc<Block>> {
        let block = Block::new(pages)?;
        self.rig.plug(PLUG_SLOT, PLUG_BASE, &block)?;
        Ok(block)
    }

    /// The guest writes to the first `pages` pages from `base` on.
    fn sweep(&mut self, base: u64, pages: u64) -> io::Result<()> {
        let ram = base..base + pages * PAGE;
        self.cpu.start_in(ram, Program::Sweep, 1)?;
        self.rig.run(&mut self.cpu).map(|_| ())
    }

    fn harvest_and_fetch(&self) -> io::Result<Vec<u64>> {
        self.rig.harvest()?;
        Ok(self.rig.fetch().unwrap())
    }
}

fn addresses(base: u64, block: &Block) -> Range<u64> {
    base..base + block.memory().len()
}

fn first(count: u64, block: &Block) -> Vec<u64> {
    block.pages().take(count as usize).collect()
}

/// Stops the first processor when it goes, also when a test fails: its thread is waited for.
struct Stopper<'a>(&'a Rig);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        let stop = self.0.vm.mail(0, mailbox::STOP);
        stop.store(1, Ordering::SeqCst);
    }
}

fn run(case: Case, test: fn(&Kvm) -> io::Result<()>) {
    if let Some(kvm) = case.kvm() {
        test(&kvm).expect("KVM does what it is asked for");
    }
}

fn memory_plugged_in_after_the_start_is_listed(kvm: &Kvm) -> io::Result<()> {
    let mut world = World::new(kvm)?;
    world.sweep(BASE, 10)?;
    let plugged = world.plug(PLUGGED)?;
    world.sweep(PLUG_BASE, 512)?;
    let mut expected = first(10, &world.main);
    expected.extend(plugged.pages());
    assert_eq!(world.harvest_and_fetch()?, expected);
    world.sweep(PLUG_BASE, 3)?;
    assert_eq!(world.harvest_and_fetch()?, first(3, &plugged));
    assert!(!world.rig.list.indices().overflow);
    Ok(())
}

/// Entries of memory that was unplugged are still in the ring when its slot goes.
fn what_was_written_before_an_unplug_is_listed_as_that(kvm: &Kvm) -> io::Result<()> {
    let mut world = World::new(kvm)?;
    let plugged = world.plug(PLUGGED)?;
    world.sweep(PLUG_BASE, 100)?;
    world.rig.unplug(PLUG_SLOT)?;
    // Another block has its number and its addresses.
    let other = world.plug(OTHER)?;
    assert_eq!(world.harvest_and_fetch()?, first(100, &plugged));
    world.sweep(PLUG_BASE, 7)?;
    assert_eq!(world.harvest_and_fetch()?, first(7, &other));
    // And the first one is back.
    world.rig.unplug(PLUG_SLOT)?;
    world.rig.plug(PLUG_SLOT, PLUG_BASE, &plugged)?;
    world.sweep(PLUG_BASE, 9)?;
    assert_eq!(world.harvest_and_fetch()?, first(9, &plugged));
    Ok(())
}

/// A harvester that forgets a slot too early loses its entries, and that is all.
fn entries_of_a_slot_that_is_gone_are_dropped(kvm: &Kvm) -> io::Result<()> {
    let mut world = World::new(kvm)?;
    world.plug(PLUGGED)?;
    world.sweep(PLUG_BASE, 100)?;
    world.sweep(BASE, 5)?;
    world.rig.harvester().forget_slot(PLUG_SLOT);
    world.rig.vm.unplug(PLUG_SLOT)?;
    let harvest = world.rig.harvest()?;
    assert_eq!((harvest.pages, harvest.dropped), (5, 100));
    assert_eq!(world.rig.fetch(), Ok(first(5, &world.main)));
    let other = world.plug(OTHER)?;
    world.sweep(PLUG_BASE, 7)?;
    assert_eq!(world.harvest_and_fetch()?, first(7, &other));
    Ok(())
}

/// Why the rings are read before the number of a slot is used again: an entry has nothing
/// but the number. What lies in the new slot is taken for it; what does not is dropped.
fn a_number_used_again_too_early_takes_over_the_entries(kvm: &Kvm) -> io::Result<()> {
    let mut world = World::new(kvm)?;
    world.plug(PLUGGED)?;
    world.sweep(PLUG_BASE, 100)?;
    world.rig.vm.unplug(PLUG_SLOT)?;
    let smaller = world.plug(SMALLER)?;
    let harvest = world.rig.harvest()?;
    assert_eq!((harvest.pages, harvest.dropped), (64, 36));
    assert_eq!(world.rig.fetch(), Ok(first(64, &smaller)));
    // Nobody wrote there; it is as it was, and writes are told.
    world.sweep(PLUG_BASE, 3)?;
    assert_eq!(world.harvest_and_fetch()?, first(3, &smaller));
    Ok(())
}

/// The guest writes once more when the rings were read, and before its memory is gone.
/// QEMU reads them before it takes a slot away, and forgets the slot then.
fn rings_read_before_an_unplug_are_read_too_early(kvm: &Kvm) -> io::Result<()> {
    let mut world = World::new(kvm)?;
    let plugged = world.plug(PLUGGED)?;
    let mut checkpoint = Checkpoint::default();
    checkpoint.add(&plugged);
    world.sweep(PLUG_BASE, 3)?;
    checkpoint.copy(&world.harvest_and_fetch()?);
    world.sweep(PLUG_BASE, 5)?;
    world.rig.harvester().forget_slot(PLUG_SLOT);
    world.rig.vm.unplug(PLUG_SLOT)?;
    assert_eq!(world.harvest_and_fetch()?, [0; 0]);
    assert_eq!(checkpoint.differing(), first(5, &plugged)[3..]);
    Ok(())
}

/// Memory is unplugged while the guest writes to it: all that it wrote is known, up to the
/// last write.
fn a_write_up_to_the_unplug_is_listed(kvm: &Kvm) -> io::Result<()> {
    let World { rig, mut cpu, .. } = World::new(kvm)?;
    let plugged = Block::new(PLUGGED)?;
    let mut checkpoint = Checkpoint::default();
    checkpoint.add(&plugged);
    let written = rig.vm.mail(0, mailbox::COUNT);
    for round in 1..=100 {
        rig.plug(PLUG_SLOT, PLUG_BASE, &plugged)?;
        thread::scope(|scope| {
            cpu.start_in(addresses(PLUG_BASE, &plugged), Program::Pulse, 0)?;
            let begin = written.load(Ordering::Relaxed);
            let guest = scope.spawn(|| {
                loop {
                    match cpu.run()? {
                        Stop::RingFull => rig.harvest().map(|_| ())?,
                        other => return io::Result::Ok(other),
                    }
                }
            });
            let _stopper = Stopper(&rig);
            while written.load(Ordering::Relaxed) - begin < 20 + round && !guest.is_finished() {
                checkpoint.copy(&rig.fetch().unwrap());
                rig.harvest()?;
            }
            rig.unplug(PLUG_SLOT)?;
            let end = guest.join().expect("the guest's thread lives")?;
            assert_eq!(end, Stop::NoRam);
            io::Result::Ok(())
        })?;
        checkpoint.copy(&rig.fetch().unwrap());
        assert_eq!(checkpoint.differing(), [0; 0]);
    }
    Ok(())
}

/// Memory comes and goes while a processor writes to other memory.
fn slots_that_come_and_go_disturb_no_other(kvm: &Kvm) -> io::Result<()> {
    let World { rig, main, mut cpu } = World::new(kvm)?;
    let mut plugger = rig.cpu(1, PLUG_BASE..PLUG_BASE)?;
    let mut checkpoint = Checkpoint::default();
    checkpoint.add(&main);
    let blocks = [
        Block::new(PLUGGED)?,
        Block::new(OTHER)?,
        Block::new(SMALLER)?,
    ];
    blocks.iter().for_each(|block| checkpoint.add(block));
    rig.vm
        .mail(0, mailbox::RANDOM)
        .store(4711, Ordering::Relaxed);
    cpu.start(Program::Scatter, u64::MAX)?;
    thread::scope(|scope| {
        let guest = scope.spawn(|| rig.run(&mut cpu));
        let stopper = Stopper(&rig);
        for (round, block) in (1u64..).zip(blocks.iter().cycle().take(60)) {
            rig.plug(PLUG_SLOT, PLUG_BASE, block)?;
            let written = 1 + round * 7 % 60;
            let ram = PLUG_BASE..PLUG_BASE + written * PAGE;
            plugger.start_in(ram, Program::Sweep, 1)?;
            rig.run(&mut plugger)?;
            rig.unplug(PLUG_SLOT)?;
            let listed = rig.fetch().unwrap();
            let others = listed.iter().copied().filter(|page| !MAIN.contains(page));
            assert_eq!(others.collect::<Vec<_>>(), first(written, block));
            checkpoint.copy(&listed);
        }
        drop(stopper);
        guest.join().expect("the guest's thread lives")
    })?;
    rig.harvest()?;
    checkpoint.copy(&rig.fetch().unwrap());
    assert_eq!(checkpoint.differing(), [0; 0]);
    Ok(())
}

/// Processors that are made after the list was started, one more than it was told of.
fn a_processor_that_comes_later_is_listed(kvm: &Kvm) -> io::Result<()> {
    let mut world = World::new(kvm)?;
    for (index, count) in [(1, 20), (2, 30), (5, 40)] {
        let mut cpu = world.rig.cpu(index, BASE..BASE + count * PAGE)?;
        cpu.start(Program::Sweep, 1)?;
        world.rig.run(&mut cpu)?;
        assert_eq!(world.harvest_and_fetch()?, first(count, &world.main));
        world.sweep(BASE, 10)?;
        assert_eq!(world.harvest_and_fetch()?, first(10, &world.main));
    }
    Ok(())
}

cases!(run, dirty_ring, Ring:
    memory_plugged_in_after_the_start_is_listed
    what_was_written_before_an_unplug_is_listed_as_that
    entries_of_a_slot_that_is_gone_are_dropped
    a_number_used_again_too_early_takes_over_the_entries
    rings_read_before_an_unplug_are_read_too_early
    a_write_up_to_the_unplug_is_listed
    slots_that_come_and_go_disturb_no_other
    a_processor_that_comes_later_is_listed
);
