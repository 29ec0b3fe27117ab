// SPDX-License-Identifier: GPL-2.0-or-later
//! Migrations that leave out what the guest calls unused when it is asked, on the
//! request queue and on the misc queue.

use serde_json::json;

use guest::churn::Churn;
use guest::config::VmConfig;
use guest::migrate::{Moved, Way};
use guest::testing::{config, slot};
use guest::vm::Vm;
use guest::{MIB, Result};

use crate::{GUEST_MIB, Protocol, SLACK_MIB, SOON, assert_balloon, assert_sane, ours};

const MIGRATIONS: usize = 12;
const CHURNING_MIB: u64 = 256;
const CHURN: Churn = Churn {
    low_mib: 20,
    high_mib: 100,
    threads: 3,
};

/// How the guest is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    HostRequest,
    Misc,
}

impl Source {
    pub(crate) const BOTH: [Source; 2] = [Source::HostRequest, Source::Misc];

    /// What the device says.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Source::HostRequest => "host-request",
            Source::Misc => "misc-queue",
        }
    }

    /// The protocol of the same series, for the balloon.
    fn protocol(self) -> Protocol {
        match self {
            Source::HostRequest => Protocol::Ranges,
            Source::Misc => Protocol::Chunks,
        }
    }

    /// A guest of `mib` that can be asked so.
    pub(crate) fn config(self, mib: u64) -> Result<VmConfig> {
        self.config_with(mib, "", "")
    }

    /// The same with more properties of the device and more parameters of the driver.
    fn config_with(self, mib: u64, properties: &str, parameters: &str) -> Result<VmConfig> {
        let protocol = self.protocol();
        let name = self.name();
        let device = format!("{},{name}=on{properties}", protocol.property());
        let source = name.trim_end_matches("-queue");
        let driver = format!(
            "protocol={} free_pages={source} {parameters}",
            protocol.name()
        );
        let config = VmConfig {
            memory_mib: mib,
            ..config(&device)?
        };
        Ok(config.founding_driver(&driver))
    }

    /// The same guest, running.
    pub(crate) fn start(self, config: &VmConfig) -> Result<Vm> {
        let mut vm = Vm::start(config)?;
        self.protocol().assert_spoken(&mut vm)?;
        assert_eq!(vm.balloon_property("free-page-source")?, self.name());
        Ok(vm)
    }
}

/// Quick, so that there is something to leave out when the answer comes.
pub(crate) fn postcopy() -> Way {
    Way {
        capabilities: vec!["postcopy-ram"],
        parameters: vec![("max-bandwidth", json!(100 * MIB))],
        postcopy_after: Some(8 * MIB),
        ..Way::default()
    }
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn migrations_in_a_row_by_host_requests() -> Result<()> {
    in_a_row("migrations_in_a_row_by_host_requests", Source::HostRequest)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn migrations_in_a_row_by_the_misc_queue() -> Result<()> {
    in_a_row("migrations_in_a_row_by_the_misc_queue", Source::Misc)
}

/// Precopy and postcopy in turn, some of them slow, while the guest uses, frees and
/// checks memory and the balloon moves.
fn in_a_row(test: &str, source: Source) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let mut config = source.config(CHURNING_MIB)?;
    config.more_arguments.extend(["-smp".into(), "2".into()]);
    let mut vm = source.start(&config)?;
    vm.touch(150)?;
    let churn = vm.start_churn(CHURN)?;
    let mut hinted = 0;
    for nth in 0..MIGRATIONS {
        let mut moved = vm.move_to(&config, &way_of(nth), in_motion(nth))?;
        let left_out = moved.source.counter("hint-left-out-bytes")?;
        let sent = moved.ram("transferred") / MIB;
        println!("{nth}: {} MiB left out, {sent} MiB sent", left_out / MIB);
        hinted += usize::from(left_out > 0);
        assert_eq!(moved.source.counter("malformed-messages")?, 0);
        assert_eq!(moved.source.counter("ignored-hint-ids")?, 0);
        vm = moved.destination;
        vm.assert_churning(churn, 20)?;
    }
    let counts = vm.assert_churning(churn, CHURN.high_mib)?;
    println!("{hinted} of {MIGRATIONS} left something out; {counts:?}");
    assert!(hinted * 4 > MIGRATIONS * 3, "only {hinted} were helped");
    // The guest was asked each time, and never twice at once.
    let asked = vm.driver_count("requests")?;
    assert!(asked >= hinted as u64, "asked {asked} times");
    assert_eq!(vm.driver_count("bad-requests")?, 0);
    vm.balloon_to(CHURNING_MIB - 60, SOON)?;
    vm.balloon_to(CHURNING_MIB, SOON)?;
    vm.assert_churning(churn, CHURN.high_mib).map(drop)
}

fn way_of(nth: usize) -> Way {
    // Slow ones give the guest time to use what it has called unused.
    let bandwidth = if nth.is_multiple_of(3) {
        150 * MIB
    } else {
        1000 * MIB
    };
    let parameters = vec![
        ("max-bandwidth", json!(bandwidth)),
        ("downtime-limit", json!(150)),
    ];
    match nth % 2 {
        0 => Way {
            parameters,
            ..Way::default()
        },
        _ => Way {
            parameters,
            postcopy_after: Some(4 * MIB),
            ..postcopy()
        },
    }
}

/// Another size every now and then, before the last one can be reached.
fn in_motion(start: usize) -> impl FnMut(&mut Vm) -> Result<()> {
    let mut nth = start;
    move |vm| {
        nth += 1;
        match nth % 4 {
            1 => vm.set_balloon(CHURNING_MIB - 30),
            3 => vm.set_balloon(CHURNING_MIB),
            _ => Ok(()),
        }
    }
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn what_is_in_use_is_sent_by_host_requests() -> Result<()> {
    what_is_in_use_is_sent("by_host_requests", Source::HostRequest)
}

#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn what_is_in_use_is_sent_by_the_misc_queue() -> Result<()> {
    what_is_in_use_is_sent("by_the_misc_queue", Source::Misc)
}

/// Nothing happens in the guest: what it does not use is neither sent nor there. Its
/// kernel clears the memory that it gives out, as Debian's does by default.
fn what_is_in_use_is_sent(test: &str, source: Source) -> Result<()> {
    if !ours(test) {
        return Ok(());
    }
    let _slot = slot();
    let config = source.config(GUEST_MIB)?;
    let mut vm = source.start(&config)?;
    let kept = vm.guest(|agent| agent.start_worker(60, 71, false))?;
    vm.wait_filled(kept)?;
    for way in [Way::default(), postcopy()] {
        vm.touch(350)?;
        let before = vm.resident_mib()?;
        let free = vm.guest(|agent| agent.meminfo("MemFree"))? / MIB;
        let used = GUEST_MIB - free;
        let mut moved = vm.move_to(&config, &way, |_| Ok(()))?;
        assert_moved_well(&mut moved, before, used)?;
        vm = moved.destination;
        vm.assert_intact(kept)?;
    }
    // What was left out is there when it is used.
    vm.touch(350)?;
    vm.assert_intact(kept)
}

fn assert_moved_well(moved: &mut Moved, before: u64, used: u64) -> Result<()> {
    let source = &mut moved.source;
    let left_out = source.counter("hint-left-out-bytes")? / MIB;
    let waited = source.counter("hint-wait-ms")?;
    assert_eq!(source.balloon_property("free-page-hint-state")?, "done");
    assert_eq!(source.counter("hint-rounds")?, 1);
    let sent = moved.ram("transferred") / MIB;
    let after = moved.destination.resident_mib()?;
    println!(
        "{used} MiB in use, {sent} MiB sent, {left_out} MiB left out, resident {before} -> \
         {after} MiB, waited {waited} ms"
    );
    assert!(before > 400, "{before} MiB");
    assert!(left_out >= 300, "{left_out} MiB left out");
    assert!(sent <= used * 6 / 5, "{sent} MiB sent, {used} MiB in use");
    assert!(after <= used * 5 / 4, "{after} MiB, {used} MiB in use");
    Ok(())
}

/// The driver goes while it answers, and comes back; the guest is asked again later.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn a_driver_that_goes_in_the_middle_of_an_answer() -> Result<()> {
    if !ours("a_driver_that_goes_in_the_middle_of_an_answer") {
        return Ok(());
    }
    let _slot = slot();
    for source in Source::BOTH {
        let config = source.config(CHURNING_MIB)?;
        let mut vm = source.start(&config)?;
        vm.touch(150)?;
        let churn = vm.start_churn(CHURN)?;
        vm.set_driver_parameter("answer_delay", "60000")?;
        let slow = Way {
            parameters: vec![("max-bandwidth", json!(20 * MIB))],
            ..Way::default()
        };
        let mut gone = None;
        let mut moved = vm.move_to(&config, &slow, |vm| {
            if gone.is_none() && vm.driver_count("requests")? > 0 {
                gone = Some(vm.unbind_driver()?);
                let fast = json!({ "max-bandwidth": 1000 * MIB });
                vm.set_migration_parameters(fast)?;
            }
            Ok(())
        })?;
        assert_eq!(moved.source.counter("hint-left-out-bytes")?, 0);
        let mut vm = moved.destination;
        vm.assert_churning(churn, 20)?;
        vm.set_driver_parameter("answer_delay", "0")?;
        vm.bind_driver(&gone.unwrap_or_default())?;
        let mut moved = vm.move_to(&config, &Way::default(), |_| Ok(()))?;
        assert!(moved.source.counter("hint-left-out-bytes")? > 0);
        moved.destination.assert_churning(churn, CHURN.high_mib)?;
    }
    Ok(())
}

/// Device and driver agree by the bits and queue numbers of the series, too.
#[test]
#[ignore = "needs a patched QEMU: run cargo xtask test"]
fn the_feature_bits_of_the_series() -> Result<()> {
    if !ours("the_feature_bits_of_the_series") {
        return Ok(());
    }
    let _slot = slot();
    for source in Source::BOTH {
        // The standard has given one of these bits to page poison since.
        let properties = ",founding-feature-bits=historical,page-poison=off";
        let parameters = "feature_bits=historical";
        let config = source.config_with(GUEST_MIB, properties, parameters)?;
        let mut vm = source.start(&config)?;
        vm.touch(330)?;
        let kept = vm.guest(|agent| agent.start_worker(60, 73, false))?;
        vm.wait_filled(kept)?;
        vm.balloon_to(200, SOON)?;
        assert_balloon(&mut vm, 200)?;
        vm.wait_resident(200 + SLACK_MIB, SOON)?;
        vm.balloon_to(GUEST_MIB, SOON)?;
        vm.touch(330)?;
        let mut moved = vm.move_to(&config, &Way::default(), |_| Ok(()))?;
        let left_out = moved.source.counter("hint-left-out-bytes")? / MIB;
        assert!(left_out > 250, "{left_out} MiB left out");
        assert_sane(&mut moved.source)?;
        moved.destination.assert_intact(kept)?;
    }
    Ok(())
}
