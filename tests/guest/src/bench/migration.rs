// SPDX-License-Identifier: GPL-2.0-or-later
//! One migration, measured on both sides.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::cpu::CpuTime;
use super::figures::{Hints, Run};
use super::guests::Ready;
use super::plan::{Options, Scenario};
use crate::config::VmConfig;
use crate::vm::Vm;
use crate::{Error, MIB, Result};

/// A guest that goes on after a stop has some timers to catch up with.
const SETTLE: Duration = Duration::from_millis(500);
/// A guest that writes faster than the link sends never moves.
const MIGRATION_LIMIT: Duration = Duration::from_secs(120);
/// Until the guest runs on the other side, or says that it does.
const RESUME_LIMIT: Duration = Duration::from_secs(30);

/// Moves `ready` to a new QEMU that is started as `config` says, and measures. Both
/// end. `make_room` is called just before the guest's memory is needed there.
///
/// # Errors
/// When the migration fails or the guest does not go on as before.
pub fn measure(
    ready: Ready,
    config: &VmConfig,
    options: &Options,
    scenario: &Scenario,
    make_room: impl FnOnce() -> Result<()>,
) -> Result<Run> {
    let Ready {
        vm: mut source,
        rewriter,
    } = ready;
    let incoming = VmConfig {
        incoming: true,
        ..config.clone()
    };
    let mut destination = Vm::start(&incoming)?;
    let uri = connect(&mut source, &mut destination, options)?;
    source.qmp("cont", json!({}))?;
    thread::sleep(SETTLE);
    let in_use = InUse::of(&mut source, scenario)?;
    destination.clear_events();
    make_room()?;
    let before = [CpuTime::of(source.pid())?, CpuTime::of(destination.pid())?];

    source.qmp("migrate", json!({ "uri": uri }))?;
    wait_completed(&mut source)?;
    destination.wait_event("RESUME", RESUME_LIMIT)?;
    // What either side still does behind the migration belongs to its cost.
    thread::sleep(SETTLE);

    let source_cpu = CpuTime::of(source.pid())?.since(before[0]);
    let destination_cpu = CpuTime::of(destination.pid())?.since(before[1]);
    let resident = destination.resident()?;
    let info = source.qmp("query-migrate", json!({}))?;
    let run = Run {
        in_use: in_use.with_reserved,
        in_use_by_kernel: in_use.by_kernel,
        total_ms: figure(&info, "/total-time")?,
        down_ms: figure(&info, "/downtime")?,
        sent: figure(&info, "/ram/transferred")?,
        pages: figure(&info, "/ram/normal")? + figure(&info, "/ram/duplicate")?,
        zero_pages: figure(&info, "/ram/duplicate")?,
        passes: figure(&info, "/ram/dirty-sync-count")?,
        source_cpu,
        destination_cpu,
        resident,
        hints: hints(&mut source),
        ..Run::default()
    };
    goes_on(&mut destination, rewriter)?;
    Ok(run)
}

/// Makes both sides ready; gives the address.
fn connect(source: &mut Vm, destination: &mut Vm, options: &Options) -> Result<String> {
    let uri = format!("unix:{}", destination.dir().join("migration").display());
    destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
    // Waiting for the end by an event takes no time from the main loop.
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    source.qmp("migrate-set-capabilities", events)?;
    let limits = json!({ "max-bandwidth": options.max_bandwidth });
    source.qmp("migrate-set-parameters", limits)?;
    Ok(uri)
}

fn wait_completed(source: &mut Vm) -> Result<()> {
    loop {
        let event = source.wait_event("MIGRATION", MIGRATION_LIMIT)?;
        match event["data"]["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                let info = source.qmp("query-migrate", json!({}))?;
                return Err(source.explain(Error::Tool(format!("migration failed: {info}"))));
            }
            _ => {}
        }
    }
}

/// How much of a guest's memory holds something.
struct InUse {
    /// All RAM, without what is free or in the balloon: what the kernel took at boot
    /// for itself, its list of pages above all, is in use as well.
    with_reserved: u64,
    /// MemTotal - MemFree: the same without what the kernel took at boot.
    by_kernel: u64,
}

impl InUse {
    /// What the guest says; a Linux guest takes ballooned memory out of MemTotal itself.
    fn of(vm: &mut Vm, scenario: &Scenario) -> Result<InUse> {
        let free = vm.guest(|agent| agent.meminfo("MemFree"))?;
        let total = vm.guest(|agent| agent.meminfo("MemTotal"))?;
        let actual = vm.balloon_actual()?.min(scenario.memory_mib * MIB);
        Ok(InUse {
            with_reserved: actual.saturating_sub(free),
            by_kernel: total.saturating_sub(free),
        })
    }
}

fn figure(info: &Value, pointer: &str) -> Result<u64> {
    let value = info.pointer(pointer).and_then(Value::as_u64);
    value.ok_or_else(|| Error::Protocol(format!("query-migrate has no {pointer}: {info}")))
}

/// What our device says about its hints; `None` for QEMU's own.
fn hints(source: &mut Vm) -> Option<Hints> {
    let mut counter = |name: &str| source.counter(name).ok();
    Some(Hints {
        wait_ms: counter("hint-wait-ms")?,
        left_out: counter("hint-left-out-bytes")?,
        ballooned_left_out: counter("ballooned-left-out-bytes")?,
    })
}

/// A guest that does not answer, or does not write any more, was not moved.
fn goes_on(destination: &mut Vm, rewriter: Option<crate::agent::Worker>) -> Result<()> {
    destination.shell("true")?;
    let Some(rewriter) = rewriter else {
        return Ok(());
    };
    let from = destination.guest(|agent| agent.worker(rewriter))?.passes;
    destination.wait_until("write of the guest", RESUME_LIMIT, |vm| {
        let now = vm.guest(|agent| agent.worker(rewriter))?;
        if !now.mismatch.is_empty() || now.state != "checking" {
            let text = format!("the guest's memory changed: {now:?}");
            return Err(vm.explain(Error::Protocol(text)));
        }
        Ok(now.passes > from)
    })
}
