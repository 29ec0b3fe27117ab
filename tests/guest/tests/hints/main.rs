// SPDX-License-Identifier: GPL-2.0-or-later
//! What a migration leaves out is never missed: free page hints and ballooned
//! pages, in guests that use, free and check their memory all the time.

mod ballooned;
mod repeated;
mod trouble;
mod unusual;
mod ways;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use guest::agent::Worker;
use guest::churn::Churn;
use guest::config::VmConfig;
use guest::migrate::{Moved, Way};
use guest::testing::{config, device, is_ours, skip, with_properties};
use guest::vm::Vm;
use guest::{MIB, Result};

const SOON: Duration = Duration::from_secs(30);
const GUEST_MIB: u64 = 256;
/// Leaves more than half of the guest's memory free, most of it written before.
const CHURN: Churn = Churn {
    low_mib: 20,
    high_mib: 60,
    threads: 3,
};
/// What a guest of this size can fill and free before it churns.
const TOUCHED_MIB: u64 = 150;
/// Slow enough to do something while the first pass is under way.
const SLOW: u64 = 20 * MIB;

/// Whether the device under test has the counters that a test reads.
fn ours(test: &str) -> bool {
    if !is_ours() {
        skip(test, "VBR_DEVICE is another device");
    }
    is_ours()
}

/// A guest whose device takes hints in a thread of its own.
///
/// Its kernel leaves memory as it is when it gives it out. With `init_on_alloc=1`
/// it writes zeroes to each block right before the driver hints at it: the device
/// may not forget that write, so that little is left out in the end.
fn hinting() -> Result<VmConfig> {
    let device = with_properties(&device(), "free-page-hint=on,iothread=thread0");
    Ok(VmConfig {
        memory_mib: GUEST_MIB,
        device: Some(device),
        kernel_args: "init_on_alloc=0".into(),
        more_arguments: vec!["-object".into(), "iothread,id=thread0".into()],
        ..config("")?
    })
}

/// A guest that churns, and that has written most of its free memory before.
fn start(config: &VmConfig) -> Result<(Vm, Worker)> {
    let mut vm = Vm::start(config)?;
    vm.touch(TOUCHED_MIB)?;
    let churn = vm.start_churn(CHURN)?;
    Ok((vm, churn))
}

/// A way with capabilities and parameters.
fn way<const C: usize>(capabilities: [&'static str; C]) -> Way {
    Way {
        capabilities: capabilities.to_vec(),
        ..Way::default()
    }
}

/// Moves the guest by `way` and sees that hints were used and that nothing is missing.
fn hinted_move(vm: Vm, churn: Worker, config: &VmConfig, way: &Way) -> Result<Vm> {
    let mut moved = vm.move_to(config, way, |_| Ok(()))?;
    assert_hinted(&mut moved, 1)?;
    let mut vm = moved.destination;
    vm.assert_churning(churn, 2 * CHURN.high_mib)?;
    Ok(vm)
}

/// At least `mib` MiB were left out because of hints, and the guest has its memory again.
fn assert_hinted(moved: &mut Moved, mib: u64) -> Result<()> {
    let source = &mut moved.source;
    let left_out = source.counter("hint-left-out-bytes")?;
    let (transferred, scanned) = (moved.ram("transferred") / MIB, moved.pages_scanned() / 256);
    let source = &mut moved.source;
    println!(
        "hints: {} MiB left out, waited {} ms; {transferred} MiB sent, {scanned} MiB scanned",
        left_out / MIB,
        source.counter("hint-wait-ms")?
    );
    assert!(left_out >= mib * MIB, "only {left_out} bytes were left out");
    assert_eq!(source.balloon_property("free-page-hint-state")?, "done");
    Ok(())
}

/// Waits until some of the guest's memory was left out of a migration that goes on.
fn wait_hints(vm: &mut Vm) -> Result<()> {
    vm.wait_until("free page hints", SOON, |vm| {
        Ok(vm.counter("hint-left-out-bytes")? > 0)
    })
}

/// A file that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("vbr-{name}-{}", std::process::id());
        Scratch(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
