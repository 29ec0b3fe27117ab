// SPDX-License-Identifier: GPL-2.0-or-later
//! The order of protecting, asking and handling, under the real KVM: which orders
//! keep a write that the guest makes between posting a hint and its handling, and
//! which lose it. The latter show that a loss would be seen.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::io;

use kvm::machine::{self, Config, Cpu};
use kvm::memory::Backing;
use kvm::migration::{Migration, hint};
use kvm::program::Program;
use kvm::testing::Case;
use kvm::{MIB, cases};

/// Pages in a chunk: 64, the least that KVM can clear.
const CHUNK_SHIFT: u32 = 6;
/// The page that is hinted, and one in its chunk that the guest leaves alone.
const PAGE: u64 = 70;
const NEIGHBOUR: u64 = 71;
/// The first epoch of a round.
const FIRST: u64 = 1;

/// A guest that has written the two pages, and its migration, before its first step.
struct World {
    cpu: Cpu,
    migration: Migration,
}

impl World {
    fn write(&mut self, value: u64) -> io::Result<()> {
        self.cpu.write(PAGE, value)
    }

    /// The right order: the log is on, armed, and then hints are asked for.
    fn ask(&mut self) -> io::Result<()> {
        self.migration.sync()?;
        self.migration.arm_all();
        self.migration.trust_before_round();
        Ok(())
    }

    fn start(&mut self) -> io::Result<()> {
        self.migration.log_on()?;
        self.ask()
    }

    /// The hint at the page is handled, and counts.
    fn handle(&mut self) {
        assert_eq!(self.migration.handle(&[hint(PAGE, FIRST)]), 1);
    }

    fn assert_arrives(&mut self, value: u64) -> io::Result<()> {
        self.migration.finish()?;
        assert_eq!(self.migration.arrived(PAGE), value);
        assert_eq!(self.migration.differing(), [0; 0]);
        Ok(())
    }

    fn assert_lost(&mut self) -> io::Result<()> {
        self.migration.finish()?;
        assert_eq!(self.migration.differing(), [PAGE], "the write arrived");
        Ok(())
    }
}

fn run(case: Case, test: fn(&mut World) -> io::Result<()>) {
    run_in(case, 2 * MIB, CHUNK_SHIFT, test);
}

/// In chunks of 512 MiB, which take eight slices each to arm. QEMU's have 1 GiB.
fn run_in_large_chunks(case: Case, test: fn(&mut World) -> io::Result<()>) {
    run_in(case, 1024 * MIB, 17, test);
}

fn run_in(case: Case, ram_bytes: u64, chunk_shift: u32, test: fn(&mut World) -> io::Result<()>) {
    let Some(kvm) = case.kvm() else {
        return;
    };
    let world = || -> io::Result<World> {
        let config = Config {
            ram_bytes,
            backing: Backing::Huge,
            tracking: case.tracking,
        };
        let (machine, mut cpu) = machine::build(&kvm, config)?;
        cpu.start(Program::Step, 0)?;
        for page in [PAGE, NEIGHBOUR] {
            cpu.write(page, 1)?;
        }
        let migration = Migration::new(machine, chunk_shift);
        Ok(World { cpu, migration })
    };
    let mut world = world().expect("a guest runs under KVM");
    test(&mut world).expect("KVM does what it is asked for");
}

fn a_write_between_post_and_handling_arrives(world: &mut World) -> io::Result<()> {
    world.start()?;
    // The hint is in the queue; the guest takes the page back and uses it.
    world.write(5)?;
    world.handle();
    world.assert_arrives(5)
}

fn a_write_after_the_handling_arrives(world: &mut World) -> io::Result<()> {
    world.start()?;
    world.handle();
    world.write(5)?;
    world.assert_arrives(5)
}

fn a_free_page_is_not_sent(world: &mut World) -> io::Result<()> {
    world.start()?;
    world.handle();
    world.migration.finish()?;
    assert_eq!(world.migration.differing(), [PAGE]);
    assert_eq!(world.migration.counters().hint_left_out_bytes, kvm::PAGE);
    Ok(())
}

fn a_write_arrives_though_its_neighbour_is_sent_before_the_handling(
    world: &mut World,
) -> io::Result<()> {
    world.start()?;
    world.write(5)?;
    assert!(world.migration.send(NEIGHBOUR)?);
    world.handle();
    world.assert_arrives(5)
}

fn a_write_in_the_second_round_arrives(world: &mut World) -> io::Result<()> {
    world.start()?;
    world.handle();
    world.write(5)?;
    // The first round ends, with nothing left to handle; the page is to be sent again.
    world.ask()?;
    world.write(6)?;
    world.handle();
    world.assert_arrives(6)
}

fn a_write_between_reading_and_protecting_arrives(world: &mut World) -> io::Result<()> {
    world.migration.log_on()?;
    world.migration.read_log()?;
    world.write(5)?;
    world.migration.end_sync()?;
    world.migration.arm_all();
    world.migration.trust_before_round();
    world.write(6)?;
    world.handle();
    world.assert_arrives(6)
}

fn asking_before_the_log_is_on_loses_the_write(world: &mut World) -> io::Result<()> {
    // The guest was asked already: it posts, and uses the page again.
    world.write(5)?;
    world.start()?;
    world.handle();
    world.assert_lost()
}

fn a_round_left_open_over_a_synchronization_loses_the_write(world: &mut World) -> io::Result<()> {
    world.start()?;
    world.write(5)?;
    world.ask()?;
    // Now the bit says that the page was written after the hint.
    world.handle();
    world.assert_lost()
}

fn throwing_the_log_away_loses_the_write(world: &mut World) -> io::Result<()> {
    world.start()?;
    world.write(5)?;
    world.migration.discard_log()?;
    world.handle();
    world.assert_lost()
}

fn a_hint_posted_before_its_chunk_was_armed_does_not_count(world: &mut World) -> io::Result<()> {
    world.migration.log_on()?;
    world.migration.sync()?;
    world.write(5)?;
    // The neighbour's sending arms the chunk, too late for the hint.
    assert!(world.migration.send(NEIGHBOUR)?);
    assert_eq!(world.migration.handle(&[hint(PAGE, FIRST)]), 0);
    assert_eq!(
        world.migration.counters().refused_unprotected_bytes,
        kvm::PAGE
    );
    // From the next time on that the queue was empty, hints into the chunk count.
    world.migration.arm_wanted();
    world.migration.trust(FIRST);
    world.write(6)?;
    assert_eq!(world.migration.handle(&[hint(PAGE, FIRST)]), 0);
    assert_eq!(world.migration.handle(&[hint(PAGE, FIRST + 1)]), 1);
    world.assert_arrives(6)
}

fn arming_after_the_post_loses_the_write(world: &mut World) -> io::Result<()> {
    world.migration.log_on()?;
    world.migration.sync()?;
    world.write(5)?;
    world.migration.arm_all();
    world.migration.trust_before_round();
    world.handle();
    world.assert_lost()
}

fn clearing_the_log_on_handling_loses_the_write(world: &mut World) -> io::Result<()> {
    world.migration.log_on()?;
    world.migration.sync()?;
    world.write(5)?;
    assert!(world.migration.handle_with_log(PAGE)?);
    world.assert_lost()
}

/// Without manual clearing QEMU has no log to clear, and its own device loses nothing.
fn with_no_log_to_clear_on_handling_the_write_arrives(world: &mut World) -> io::Result<()> {
    world.migration.log_on()?;
    world.migration.sync()?;
    world.write(5)?;
    assert!(world.migration.handle_with_log(PAGE)?);
    world.assert_arrives(5)
}

/// The guest wrote the page before: its entry is in the ring, and a second write
/// makes none until the ring was reset.
fn asking_before_the_ring_was_reset_loses_the_write(world: &mut World) -> io::Result<()> {
    world.migration.log_on()?;
    world.write(5)?;
    world.migration.read_log()?;
    world.write(6)?;
    world.migration.end_sync()?;
    world.migration.arm_all();
    world.migration.trust_before_round();
    world.handle();
    world.assert_lost()
}

/// A page is sent while its chunk is armed in part: that clears the log of the rest.
fn a_write_arrives_though_its_chunk_was_armed_by_a_send(world: &mut World) -> io::Result<()> {
    world.migration.log_on()?;
    world.migration.sync()?;
    assert!(world.migration.arm_slice());
    // Armed by the first slice already; the rest must not forget it.
    world.write(5)?;
    assert!(world.migration.send(NEIGHBOUR)?);
    world.migration.arm_all();
    world.migration.trust_before_round();
    world.handle();
    world.assert_arrives(5)
}

fn a_hint_into_a_chunk_armed_in_part_does_not_count(world: &mut World) -> io::Result<()> {
    world.migration.log_on()?;
    world.migration.sync()?;
    assert!(world.migration.arm_slice());
    world.migration.trust_before_round();
    world.write(5)?;
    assert_eq!(world.migration.handle(&[hint(PAGE, FIRST)]), 0);
    world.migration.arm_all();
    world.assert_arrives(5)
}

cases!(run, manual_clear, ManualClear:
    a_write_between_post_and_handling_arrives
    a_write_after_the_handling_arrives
    a_free_page_is_not_sent
    a_write_arrives_though_its_neighbour_is_sent_before_the_handling
    a_write_in_the_second_round_arrives
    a_write_between_reading_and_protecting_arrives
    asking_before_the_log_is_on_loses_the_write
    a_round_left_open_over_a_synchronization_loses_the_write
    throwing_the_log_away_loses_the_write
    a_hint_posted_before_its_chunk_was_armed_does_not_count
    arming_after_the_post_loses_the_write
    clearing_the_log_on_handling_loses_the_write
);

cases!(run, read_clears, ReadClears:
    a_write_between_post_and_handling_arrives
    a_write_after_the_handling_arrives
    a_free_page_is_not_sent
    a_write_arrives_though_its_neighbour_is_sent_before_the_handling
    a_write_in_the_second_round_arrives
    a_write_between_reading_and_protecting_arrives
    asking_before_the_log_is_on_loses_the_write
    a_round_left_open_over_a_synchronization_loses_the_write
    throwing_the_log_away_loses_the_write
    a_hint_posted_before_its_chunk_was_armed_does_not_count
    with_no_log_to_clear_on_handling_the_write_arrives
);

cases!(run, ring, Ring:
    a_write_between_post_and_handling_arrives
    a_write_after_the_handling_arrives
    a_free_page_is_not_sent
    a_write_arrives_though_its_neighbour_is_sent_before_the_handling
    a_write_in_the_second_round_arrives
    a_write_between_reading_and_protecting_arrives
    asking_before_the_log_is_on_loses_the_write
    a_round_left_open_over_a_synchronization_loses_the_write
    throwing_the_log_away_loses_the_write
    a_hint_posted_before_its_chunk_was_armed_does_not_count
    with_no_log_to_clear_on_handling_the_write_arrives
    asking_before_the_ring_was_reset_loses_the_write
);

cases!(run_in_large_chunks, manual_clear_in_large_chunks, ManualClear:
    a_write_arrives_though_its_chunk_was_armed_by_a_send
    a_hint_into_a_chunk_armed_in_part_does_not_count
);

cases!(run_in_large_chunks, read_clears_in_large_chunks, ReadClears:
    a_write_arrives_though_its_chunk_was_armed_by_a_send
    a_hint_into_a_chunk_armed_in_part_does_not_count
);

cases!(run_in_large_chunks, ring_in_large_chunks, Ring:
    a_write_arrives_though_its_chunk_was_armed_by_a_send
    a_hint_into_a_chunk_armed_in_part_does_not_count
);
