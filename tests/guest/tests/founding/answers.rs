// SPDX-License-Identifier: GPL-2.0-or-later
//! A driver that answers nonsense, late, or not at all. Each migration ends, and the
//! guest has all its memory.

use guest::agent::Worker;
use guest::config::VmConfig;
use guest::migrate::{Moved, Way};
use guest::testing::slot;
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::faults::{Fault, OF_BOTH, OF_CHUNKS, OF_RANGES, assert_happened, misbehave};
use crate::migrated::{Source, postcopy};
use crate::ours;

const GUEST_MIB: u64 = 256;
const KEPT_MIB: u64 = 80;
/// What an answer can do wrong that an inflate message cannot.
const OF_ANSWERS: [Fault; 2] = [
    ("unknown-command", "unknown command"),
    ("unknown-flag", "unknown flag"),
];

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn nonsense_for_host_requests() -> Result<()> {
    let faults = [&OF_BOTH[..], &OF_RANGES, &OF_ANSWERS].concat();
    nonsense("nonsense_for_host_requests", Source::HostRequest, &faults)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn nonsense_for_the_misc_queue() -> Result<()> {
    let faults = [&OF_BOTH[..], &OF_CHUNKS, &OF_ANSWERS].concat();
    nonsense("nonsense_for_the_misc_queue", Source::Misc, &faults)
}

/// A message of nonsense stands before each good one. Every third guest moves by
/// postcopy.
fn nonsense(test: &str, source: Source, faults: &[Fault]) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let (setup, mut vm) = Setup::start(source)?;
    for (nth, &(fault, reason)) in faults.iter().enumerate() {
        let way = if nth % 3 == 2 {
            postcopy()
        } else {
            Way::default()
        };
        let mut moved = setup.move_with(vm, fault, &way)?;
        let source = &mut moved.source;
        assert_eq!(source.counter("malformed-messages")?, 1, "{fault}");
        let said = source.balloon_property("malformed-message-reason")?;
        assert_eq!(said, reason, "{fault}");
        let left_out = source.counter("hint-left-out-bytes")? / MIB;
        assert!(left_out > 50, "{fault}: {left_out} MiB left out");
        vm = setup.arrived(moved)?;
    }
    Ok(())
}

/// They name memory that is in use: half of the guest, or all of it.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn answers_that_nobody_asked_for() -> Result<()> {
    if !ours("answers_that_nobody_asked_for") {
        return Ok(());
    }
    let _slot = slot();
    for source in Source::BOTH {
        let (setup, mut vm) = Setup::start(source)?;
        let faults: &[&str] = match source {
            Source::HostRequest => &["stale-id", "late-answer"],
            // It has no ids.
            Source::Misc => &["late-answer"],
        };
        for fault in faults {
            for way in [Way::default(), postcopy()] {
                let mut moved = setup.move_with(vm, fault, &way)?;
                let source = &mut moved.source;
                assert_eq!(source.counter("ignored-hint-ids")?, 1, "{fault}");
                let left_out = source.counter("hint-left-out-bytes")? / MIB;
                assert!(left_out > 50, "{fault}: {left_out} MiB left out");
                assert_eq!(source.counter("malformed-messages")?, 0);
                vm = setup.arrived(moved)?;
            }
        }
    }
    Ok(())
}

/// Whether there is a new buffer or not: the guest is not asked again before it has
/// answered, or its driver was reset.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn no_answer_at_all() -> Result<()> {
    if !ours("no_answer_at_all") {
        return Ok(());
    }
    let _slot = slot();
    for (source, fault) in Source::BOTH
        .into_iter()
        .zip(["no-answer", "no-answer-but-buffer"])
    {
        let (setup, mut vm) = Setup::start(source)?;
        let mut moved = setup.move_with(vm, fault, &Way::default())?;
        println!("waited {} ms", moved.source.counter("hint-wait-ms")?);
        assert_eq!(moved.source.counter("hint-left-out-bytes")?, 0);
        vm = setup.arrived(moved)?;
        let mut moved = setup.move_on(vm, &postcopy())?;
        assert_eq!(moved.source.counter("hint-left-out-bytes")?, 0, "{fault}");
        vm = setup.arrived(moved)?;
        assert_eq!(vm.driver_count("requests")?, 1, "{fault}");
        let device = vm.unbind_driver()?;
        vm.bind_driver(&device)?;
        setup.assert_asked(vm)?;
    }
    Ok(())
}

/// Too short, too long, two of them: the device goes on with what it can use.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn odd_buffers_for_requests() -> Result<()> {
    if !ours("odd_buffers_for_requests") {
        return Ok(());
    }
    let _slot = slot();
    for source in Source::BOTH {
        let (setup, mut vm) = Setup::start(source)?;
        for (fault, ignored) in [("buffer-short", 1), ("buffer-long", 0), ("buffer-twice", 1)] {
            let before = vm.counter("ignored-request-buffers")?;
            misbehave(&mut vm, fault, "answer")?;
            // The driver provides a buffer when it comes.
            let device = vm.unbind_driver()?;
            vm.bind_driver(&device)?;
            assert_happened(&mut vm, fault)?;
            vm.shell("true")?;
            let now = vm.counter("ignored-request-buffers")?;
            assert_eq!(now, before + ignored, "{fault}");
            vm = setup.assert_asked(vm)?;
        }
        assert_eq!(vm.driver_count("bad-requests")?, 0);
    }
    Ok(())
}

/// What the guest checks, and what the next QEMU is started with.
struct Setup {
    kept: Worker,
    config: VmConfig,
}

impl Setup {
    /// A guest that has written most of its memory and uses a part.
    fn start(source: Source) -> Result<(Setup, Vm)> {
        let config = source.config(GUEST_MIB)?;
        let mut vm = source.start(&config)?;
        vm.touch(150)?;
        let kept = vm.guest(|agent| agent.start_worker(KEPT_MIB, 72, false))?;
        vm.wait_filled(kept)?;
        Ok((Setup { kept, config }, vm))
    }

    /// Moves the guest while its driver does this once.
    fn move_with(&self, mut vm: Vm, fault: &str, way: &Way) -> Result<Moved> {
        misbehave(&mut vm, fault, "answer")?;
        let mut moved = self.move_on(vm, way)?;
        assert_happened(&mut moved.destination, fault)?;
        Ok(moved)
    }

    fn move_on(&self, vm: Vm, way: &Way) -> Result<Moved> {
        vm.move_to(&self.config, way, |_| Ok(()))
    }

    /// The guest is where it was sent, with all its memory.
    fn arrived(&self, moved: Moved) -> Result<Vm> {
        let mut vm = moved.destination;
        vm.assert_intact(self.kept)?;
        Ok(vm)
    }

    /// A driver that behaves can be asked.
    fn assert_asked(&self, mut vm: Vm) -> Result<Vm> {
        vm.set_driver_parameter("fault", "none")?;
        let mut moved = self.move_on(vm, &Way::default())?;
        let left_out = moved.source.counter("hint-left-out-bytes")? / MIB;
        assert!(left_out > 50, "{left_out} MiB left out");
        self.arrived(moved)
    }
}
