// SPDX-License-Identifier: GPL-2.0-or-later
//! Guests with our own driver, which speaks the founding protocols: sizes, moved
//! pages, migrations, a driver that goes, and one that misbehaves.

mod answers;
mod coming;
mod faults;
mod migrated;
mod moved;
mod sizes;

use std::time::Duration;

use guest::config::VmConfig;
use guest::testing::{config, is_ours, skip};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(60);
/// Host memory above the balloon's target: what was plugged or read meanwhile.
const SLACK_MIB: u64 = 24;
const GUEST_MIB: u64 = 512;

/// How memory is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Classic,
    Ranges,
    Chunks,
}

impl Protocol {
    const ALL: [Protocol; 3] = [Protocol::Classic, Protocol::Ranges, Protocol::Chunks];

    /// As our driver has it.
    fn name(self) -> &'static str {
        match self {
            Protocol::Classic => "classic",
            Protocol::Ranges => "ranges",
            Protocol::Chunks => "chunks",
        }
    }

    /// The device's property for it.
    fn property(self) -> &'static str {
        match self {
            Protocol::Classic => "",
            Protocol::Ranges => "page-range=on",
            Protocol::Chunks => "balloon-chunks=on",
        }
    }

    /// A guest that speaks it, with more `parameters` of the driver.
    fn config(self, parameters: &str) -> Result<VmConfig> {
        let parameters = format!("protocol={} {parameters}", self.name());
        Ok(config(self.property())?.founding_driver(&parameters))
    }

    /// The same guest, running.
    fn start(self, parameters: &str) -> Result<Vm> {
        let mut vm = Vm::start(&self.config(parameters)?)?;
        self.assert_spoken(&mut vm)?;
        Ok(vm)
    }

    /// The driver falls back to single pages where it is not offered what it wants.
    fn assert_spoken(self, vm: &mut Vm) -> Result<()> {
        let agreed = vm.driver_parameter("in_force")?;
        let wanted = format!("protocol={} ", self.name());
        assert!(agreed.starts_with(&wanted), "{agreed}");
        Ok(())
    }
}

/// Whether the device under test is ours.
fn ours(test: &str) -> bool {
    if !is_ours() {
        skip(test, "VBR_DEVICE is another device");
    }
    is_ours()
}

/// What the driver sent is what the device took, and nothing of it was odd.
fn assert_agreed(vm: &mut Vm) -> Result<()> {
    let moved = vm.driver_count("moved-pages")?;
    for (pages, bytes) in [
        ("inflate-pages", "inflated-bytes"),
        ("deflate-pages", "deflated-bytes"),
    ] {
        let told = (vm.driver_count(pages)? + moved) * 4096;
        assert_eq!(vm.counter(bytes)?, told, "{bytes}, {moved} pages moved");
    }
    let messages = vm.driver_count("inflate-messages")? + vm.driver_count("deflate-messages")?;
    assert_eq!(vm.counter("requests")?, messages);
    assert_sane(vm)
}

/// Nothing that the guest said made no sense, and the host refused nothing.
fn assert_sane(vm: &mut Vm) -> Result<()> {
    for counter in [
        "malformed-messages",
        "ignored-message-bytes",
        "ignored-bad-pfns",
        "ignored-trailing-bytes",
        "discard-errors",
    ] {
        assert_eq!(vm.counter(counter)?, 0, "{counter}");
    }
    Ok(())
}

/// The device knows how much is in the balloon, and so does everybody else.
fn assert_balloon(vm: &mut Vm, left_mib: u64) -> Result<()> {
    assert_eq!(vm.balloon_actual()?, left_mib * MIB);
    let ballooned = vm.counter("ballooned-bytes")?;
    assert_eq!(ballooned, (GUEST_MIB - left_mib) * MIB);
    Ok(())
}
