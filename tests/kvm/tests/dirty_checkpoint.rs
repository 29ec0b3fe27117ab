// SPDX-License-Identifier: GPL-2.0-or-later
//! Checkpoints by the library's list of dirty pages, with KVM's dirty rings: a copy that
//! takes the listed pages and no other is the guest's memory, byte for byte, also when
//! guest, harvest and copy go on at once.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use dirty_pages::Error;
use kvm::PAGE;
use kvm::block::Block;
use kvm::cases;
use kvm::checkpoint::Checkpoint;
use kvm::cpu::Cpu;
use kvm::harvest::Noting;
use kvm::program::{Program, mailbox};
use kvm::rig::{Rig, Setup};
use kvm::testing::Case;
use kvm::turns::{End, Turns};
use kvm::vm::ring_sizes;
use kvm_ioctls::Kvm;

const BASE: u64 = 1 << 30;
const SLOT: u32 = 1;
const FIRST: u64 = 1 << 20;
const ROUNDS: u64 = 100;
/// So few that the guest writes to each of them again and again.
const PAGES: u64 = 256;
/// So many pages are copied while the guest runs.
const COPIES: usize = 4 * PAGES as usize;
/// So often is looked for them: a list that has nothing any more fails, and does not hang.
const LOOKS: u32 = 300_000;
/// So many looks in a row; then the guest is let run for a moment, which it needs where it has no
/// processor for itself.
const LOOKS_IN_A_ROW: u32 = 64;
const MOMENT: Duration = Duration::from_millis(1);

/// Both ways to note, with and without duplicates on the list.
const KINDS: [(Noting, bool); 4] = [
    (Noting::Entries, false),
    (Noting::Entries, true),
    (Noting::NewBits, false),
    (Noting::NewBits, true),
];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % limit
    }
}

struct World {
    rig: Rig,
    block: Arc<Block>,
    cpus: Vec<Cpu>,
    checkpoint: Checkpoint,
}

impl World {
    fn new(kvm: &Kvm, setup: Setup, pages: u64) -> io::Result<World> {
        let rig = Rig::new(kvm, setup)?;
        let block = Block::new(FIRST..FIRST + pages)?;
        rig.plug(SLOT, BASE, &block)?;
        let cpus = (0..2)
            .map(|index| {
                let (random, written) = (0x9e37_79b9_7f4a_7c15 + index, (index + 1) << 60);
                let set = |word, value| rig.vm.mail(index, word).store(value, Ordering::Relaxed);
                set(mailbox::RANDOM, random);
                set(mailbox::WRITTEN, written);
                rig.cpu(index, BASE..BASE + pages * PAGE)
            })
            .collect::<io::Result<_>>()?;
        Ok(World {
            rig,
            block,
            cpus,
            checkpoint: Checkpoint::default(),
        })
    }

    /// The list is started, and then everything is copied once.
    fn begin(&mut self) -> io::Result<()> {
        self.rig.start()?;
        self.checkpoint.add(&self.block);
        Ok(())
    }

    /// The guest stands still: after one more harvest the copy must be what it has.
    fn assert_complete(&mut self) -> io::Result<()> {
        self.rig.harvest()?;
        self.checkpoint.copy(&self.rig.fetch().unwrap());
        assert_eq!(self.checkpoint.differing(), [0; 0]);
        Ok(())
    }
}

/// What the readers want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    GoOn,
    /// The guest is to stop.
    Enough,
}

fn enough(is: bool) -> Wish {
    if is { Wish::Enough } else { Wish::GoOn }
}

fn fetch(rig: &Rig) -> io::Result<Vec<u64>> {
    rig.fetch().map_err(io::Error::other)
}

/// Whether the guest waits for whoever reads the list.
#[derive(Clone, Copy)]
enum Pace {
    /// It does when the list is half full.
    Room,
    /// It does not: the list may overflow.
    Free,
}

impl Pace {
    fn wait(self, rig: &Rig) {
        let is_stopped = || rig.vm.mail(0, mailbox::STOP).load(Ordering::SeqCst) != 0;
        match self {
            Pace::Room => rig.wait_for_room(is_stopped),
            Pace::Free => {}
        }
    }
}

/// Stops the processors when it goes, also when a test fails: their threads are waited for.
struct Stopper<'a>(&'a Rig);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        let stop = |cpu| self.0.vm.mail(cpu, mailbox::STOP);
        (0..2).for_each(|cpu| stop(cpu).store(1, Ordering::SeqCst));
    }
}

/// Runs all processors, each in a thread, and `meanwhile` over and over until it has enough
/// or they have come to the ends of their programs. It is an error if neither happens.
fn together(
    rig: &Rig,
    cpus: &mut [Cpu],
    pace: Pace,
    mut meanwhile: impl FnMut() -> io::Result<Wish>,
) -> io::Result<()> {
    thread::scope(|scope| {
        let guests: Vec<_> = cpus
            .iter_mut()
            .map(|cpu| scope.spawn(move || rig.run_paced(cpu, || pace.wait(rig))))
            .collect();
        let stopper = Stopper(rig);
        let mut is_over = false;
        for look in 1..=LOOKS {
            let ended = guests.iter().all(ScopedJoinHandle::is_finished);
            is_over = ended || meanwhile()? == Wish::Enough;
            if is_over {
                break;
            }
            if look % LOOKS_IN_A_ROW == 0 {
                thread::sleep(MOMENT);
            }
        }
        drop(stopper);
        for guest in guests {
            guest.join().expect("its thread lives")?;
        }
        match is_over {
            true => Ok(()),
            false => Err(io::Error::other("what was looked for never came")),
        }
    })
}

fn run(case: Case, test: fn(&Kvm) -> io::Result<()>) {
    if let Some(kvm) = case.kvm() {
        test(&kvm).expect("KVM does what it is asked for");
    }
}

fn setup((noting, no_dups): (Noting, bool)) -> Setup {
    let mut setup = Setup {
        noting,
        ..Setup::default()
    };
    setup.list.no_dups = no_dups;
    setup
}

/// A guest writes to pages that are known, some of them often, then stands still.
fn each_round_lists_what_was_written_and_no_other(kvm: &Kvm) -> io::Result<()> {
    for kind in KINDS {
        let mut world = World::new(kvm, setup(kind), PAGES)?;
        world.begin()?;
        let mut random = Random(4711);
        for _ in 0..ROUNDS {
            let count = 1 + random.below(PAGES);
            let spread = 1 + random.below(PAGES);
            let mut expected = BTreeSet::new();
            for at in 0..count {
                let page = random.below(spread);
                expected.insert(FIRST + page);
                let address = BASE + page * PAGE + random.below(PAGE / 8) * 8;
                let entry = world.rig.vm.mail(0, mailbox::LIST + at * 8);
                entry.store(address, Ordering::Relaxed);
            }
            let cpu = &mut world.cpus[0];
            cpu.start(Program::List, count)?;
            world.rig.run(cpu)?;
            world.rig.harvest()?;
            let mut listed = world.rig.fetch().unwrap();
            if kind == (Noting::Entries, false) {
                listed.dedup();
            }
            assert!(listed.iter().eq(&expected), "{kind:?}");
            world.checkpoint.copy(&listed);
            assert_eq!(world.checkpoint.differing(), [0; 0], "{kind:?}");
        }
    }
    Ok(())
}

/// Two processors write to pages of their own and to some that both write to, while a third
/// thread reads the rings and the list.
fn two_processors_list_what_they_wrote_and_no_other(kvm: &Kvm) -> io::Result<()> {
    let least = ring_sizes(kvm)?[0];
    for kind in KINDS {
        for ring_entries in [least, 4096] {
            let setup = Setup {
                ring_entries,
                ..setup(kind)
            };
            let mut world = World::new(kvm, setup, 1024)?;
            world.begin()?;
            let wrote: [Range<u64>; 2] = [50..600, 400..950];
            for (cpu, pages) in world.cpus.iter_mut().zip(&wrote) {
                let ram = BASE + pages.start * PAGE..BASE + pages.end * PAGE;
                cpu.start_in(ram, Program::Sweep, 2)?;
            }
            let mut listed = BTreeSet::new();
            let (rig, checkpoint) = (&world.rig, &mut world.checkpoint);
            let mut look = || -> io::Result<Wish> {
                rig.harvest()?;
                let pages = fetch(rig)?;
                checkpoint.copy(&pages);
                listed.extend(pages);
                Ok(Wish::GoOn)
            };
            together(rig, &mut world.cpus, Pace::Room, &mut look)?;
            look()?;
            assert!(listed.into_iter().eq(FIRST + 50..FIRST + 950), "{kind:?}");
            world.assert_complete()?;
        }
    }
    Ok(())
}

/// Both processors write at random until they are told to stop.
fn scatter(cpus: &mut [Cpu]) -> io::Result<()> {
    cpus.iter_mut()
        .try_for_each(|cpu| cpu.start(Program::Scatter, u64::MAX))
}

/// Everything at once, on few pages: while some thread is between two steps of a harvest,
/// the guest writes to the pages of that harvest, and what is on the list is copied.
fn a_copy_made_while_the_guest_runs_is_complete(kvm: &Kvm) -> io::Result<()> {
    for kind in KINDS {
        let mut world = World::new(kvm, setup(kind), PAGES)?;
        world.begin()?;
        for _ in 0..3 {
            scatter(&mut world.cpus)?;
            let (rig, checkpoint) = (&world.rig, &mut world.checkpoint);
            let (copies, mut copied) = (Turns::default(), 0);
            thread::scope(|scope| {
                let reaper = scope.spawn(|| -> io::Result<()> {
                    while !copies.are_over() {
                        rig.harvester().harvest_slowly(|| copies.wait())?;
                    }
                    Ok(())
                });
                let end = End(&copies);
                let result = together(rig, &mut world.cpus, Pace::Room, || {
                    copied += checkpoint.copy(&fetch(rig)?);
                    copies.add();
                    Ok(enough(copied >= COPIES || reaper.is_finished()))
                });
                drop(end);
                reaper.join().expect("its thread lives").and(result)
            })?;
            world.assert_complete()?;
        }
    }
    Ok(())
}

/// The same with rings that are full all the time, which the processors' threads read then.
fn a_copy_made_while_rings_are_full_is_complete(kvm: &Kvm) -> io::Result<()> {
    let least = ring_sizes(kvm)?[0];
    for kind in KINDS {
        let setup = Setup {
            ring_entries: least,
            ..setup(kind)
        };
        let pages = 4 * u64::from(least);
        let mut world = World::new(kvm, setup, pages)?;
        world.begin()?;
        scatter(&mut world.cpus)?;
        let (rig, checkpoint) = (&world.rig, &mut world.checkpoint);
        let mut copied = 0;
        together(rig, &mut world.cpus, Pace::Room, || {
            copied += checkpoint.copy(&fetch(rig)?);
            Ok(enough(copied >= COPIES))
        })?;
        world.assert_complete()?;
    }
    Ok(())
}

/// Pages that were written before the list was started are on it or not, but no write after
/// the start is lost.
fn a_list_started_while_the_guest_runs_is_complete(kvm: &Kvm) -> io::Result<()> {
    for kind in KINDS {
        let mut world = World::new(kvm, setup(kind), PAGES)?;
        for _ in 0..3 {
            world.rig.list.stop();
            world.checkpoint = Checkpoint::default();
            scatter(&mut world.cpus)?;
            let (rig, block) = (&world.rig, &world.block);
            let checkpoint = &mut world.checkpoint;
            let (harvests, mut begun, mut copied) = (Turns::default(), false, 0);
            thread::scope(|scope| {
                let reaper = scope.spawn(|| -> io::Result<()> {
                    // If it fails there are no more harvests to be waited for.
                    let _end = End(&harvests);
                    while !harvests.are_over() {
                        rig.wait_for_room(|| harvests.are_over());
                        rig.harvest()?;
                        harvests.add();
                    }
                    Ok(())
                });
                let end = End(&harvests);
                let result = together(rig, &mut world.cpus, Pace::Room, || {
                    if begun {
                        copied += checkpoint.copy(&fetch(rig)?);
                    } else {
                        harvests.wait();
                        rig.start_slowly(|| harvests.wait())?;
                        checkpoint.add(block);
                        begun = true;
                    }
                    Ok(enough(copied >= COPIES || reaper.is_finished()))
                });
                drop(end);
                reaper.join().expect("its thread lives").and(result)
            })?;
            world.assert_complete()?;
        }
    }
    Ok(())
}

/// Copies what is dirty, by the bits if the list has lost pages.
fn fetch_or_scan(rig: &Rig, checkpoint: &mut Checkpoint) -> io::Result<()> {
    let pages = match rig.fetch() {
        Err(Error::Overflow) => {
            rig.list.stop();
            // What comes before the bits are taken is among them, the rest is noted.
            rig.list.start().map_err(io::Error::other)?;
            rig.scan()
        }
        fetched => fetched.map_err(io::Error::other)?,
    };
    checkpoint.copy(&pages);
    Ok(())
}

/// A list of 256 pages under a guest that writes to many more: without duplicates it finds
/// them by its marks, and else the consumer finds them by the bits.
fn an_overflow_while_the_guest_runs_loses_nothing(kvm: &Kvm) -> io::Result<()> {
    for kind in KINDS {
        let mut setup = setup(kind);
        setup.list.max_dirty = 256;
        let mut world = World::new(kvm, setup, 4 * PAGES)?;
        world.begin()?;
        scatter(&mut world.cpus)?;
        let (rig, checkpoint) = (&world.rig, &mut world.checkpoint);
        let mut overflows = 0;
        together(rig, &mut world.cpus, Pace::Free, || {
            rig.harvest()?;
            // A consumer that is slow.
            if rig.list.indices().overflow {
                overflows += 1;
                fetch_or_scan(rig, checkpoint)?;
            }
            Ok(enough(overflows == 5))
        })?;
        assert_eq!(overflows, 5);
        // They may have gone on writing for a while.
        rig.harvest()?;
        fetch_or_scan(rig, checkpoint)?;
        world.assert_complete()?;
    }
    Ok(())
}

/// A migration and a tool that makes checkpoints, each with its list and its copy. If the
/// migration is slow its list has lost pages, and it looks at the bits: those of pages that
/// the tool took in between are clear, and the list has these.
fn a_migration_beside_it_is_complete(kvm: &Kvm) -> io::Result<()> {
    const ROOM: usize = 256;
    let more_than_two_rings = 2 * ROOM as u64 + 1;
    for (max_dirty, pages, rest) in [(1 << 17, PAGES, 1), (ROOM, 8 * PAGES, more_than_two_rings)] {
        let mut setup = setup((Noting::NewBits, true));
        setup.list.max_dirty = max_dirty;
        let mut world = World::new(kvm, setup, pages)?;
        world.begin()?;
        let (rig, block) = (&world.rig, &world.block);
        let mut destination = Checkpoint::default();
        // Its first synchronization, with all pages to be sent.
        assert!(!rig.list.sync_begin());
        rig.sync_fetch().unwrap();
        destination.add(block);
        let mut synchronize = || -> io::Result<bool> {
            rig.harvest()?;
            let listed = rig.list.sync_begin();
            let mut pages = rig.sync_fetch().map_err(io::Error::other)?;
            if !listed {
                pages.extend(rig.scan());
            }
            destination.copy(&pages);
            Ok(listed)
        };
        scatter(&mut world.cpus)?;
        let checkpoint = &mut world.checkpoint;
        let noted = || rig.list.indices().dirty_index;
        let (mut copied, mut seen, mut syncs) = (0, noted(), 0);
        together(rig, &mut world.cpus, Pace::Room, || {
            rig.harvest()?;
            copied += checkpoint.copy(&fetch(rig)?);
            if noted() - seen >= rest {
                assert_eq!(synchronize()?, rest == 1, "whether the list had all");
                (seen, syncs) = (noted(), syncs + 1);
            }
            Ok(enough(copied >= COPIES && syncs > 3))
        })?;
        assert!(
            copied >= COPIES && syncs > 3,
            "{copied} copies, {syncs} synchronizations"
        );
        synchronize()?;
        rig.list.sync_end();
        assert_eq!(destination.differing(), [0; 0]);
        world.assert_complete()?;
    }
    Ok(())
}

cases!(run, dirty_ring, Ring:
    each_round_lists_what_was_written_and_no_other
    two_processors_list_what_they_wrote_and_no_other
    a_copy_made_while_the_guest_runs_is_complete
    a_copy_made_while_rings_are_full_is_complete
    a_list_started_while_the_guest_runs_is_complete
    an_overflow_while_the_guest_runs_loses_nothing
    a_migration_beside_it_is_complete
);
