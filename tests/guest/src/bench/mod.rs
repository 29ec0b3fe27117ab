// SPDX-License-Identifier: GPL-2.0-or-later
//! What migration costs: QEMU's own balloon without and with hints beside ours,
//! in turn on the same QEMU.
//!
//! - [`plan`] says which guests are moved with which devices
//! - [`guests`] brings guests into the state that a scenario asks for
//! - [`warm`] keeps memory of the host at hand for them
//! - [`cpu`] reads the processor time of QEMU's threads
//! - [`migration`] moves one guest and measures
//! - [`figures`] names what is measured, with median and spread
//! - [`report`] prints tables and what came of the aims, [`record`] the raw figures
//! - [`protocols`] is another benchmark: what inflating costs, protocol by protocol

pub mod cpu;
pub mod figures;
pub mod guests;
pub mod migration;
pub mod plan;
pub mod protocols;
pub mod record;
pub mod report;
pub mod warm;

use std::time::Instant;

use crate::config::VmConfig;
use crate::testing;
use crate::{Error, Result};

use figures::Run;
use plan::{Options, Scenario, Variant};
use warm::Warm;

/// Runs the benchmark as `options` say, with progress and a report on standard output.
///
/// # Errors
/// When a guest or a migration fails, or the raw figures cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    let base = testing::config("")?;
    let machine = record::Machine::here(&base)?;
    report::heading(&machine, options);
    let mut runs = Vec::new();
    let outcome = all(&base, options, &mut runs);
    // What was measured before a failure is worth a look.
    report::print(options, &runs);
    println!("\nIt took {} s.", begun.elapsed().as_secs());
    if let Some(path) = &options.json {
        record::write(path, &machine, options, &runs)?;
    }
    outcome
}

/// All scenarios, one after the other.
fn all(base: &VmConfig, options: &Options, runs: &mut Vec<Run>) -> Result<()> {
    let mut progress = Progress::new(options);
    let mut warm = Warm::new(&base.qemu);
    for scenario in &options.scenarios {
        for round in 1..=options.runs {
            one_round(base, options, scenario, &mut warm, &mut |run| {
                let run = Run { round, ..run };
                progress.say(&run);
                runs.push(run);
            })?;
        }
    }
    Ok(())
}

/// Each device once, in the order of the plan.
fn one_round(
    base: &VmConfig,
    options: &Options,
    scenario: &Scenario,
    warm: &mut Warm,
    done: &mut dyn FnMut(Run),
) -> Result<()> {
    let each = guests::before_mib(scenario);
    let spare = guests::growth_mib(scenario);
    for group in options.variants.chunks(guests::at_once(scenario)?) {
        let configs: Vec<VmConfig> = group
            .iter()
            .map(|v| v.config(base, options, scenario))
            .collect();
        warm.hold(spare + each * group.len() as u64)?;
        warm.hold(spare)?;
        let ready = guests::prepare(&configs, scenario)?;
        for (ended, guest) in (0u64..).zip(ready) {
            let (config, variant) = (&configs[ended as usize], &group[ended as usize]);
            let make_room = || warm.hold(each * ended);
            let run = migration::measure(guest, config, options, scenario, make_room)
                .map_err(|error| named(error, scenario, variant))?;
            warm.hold(spare + each * (ended + 1))?;
            done(Run {
                scenario: scenario.name,
                variant: variant.name.clone(),
                ..run
            });
        }
    }
    Ok(())
}

fn named(error: Error, scenario: &Scenario, variant: &Variant) -> Error {
    let (scenario, variant) = (scenario.name, &variant.name);
    Error::Tool(format!("scenario {scenario} with {variant}: {error}"))
}

/// One line for each migration.
struct Progress {
    done: usize,
    all: usize,
}

impl Progress {
    fn new(options: &Options) -> Progress {
        let each = options.scenarios.len() * options.variants.len();
        Progress {
            done: 0,
            all: each * options.runs as usize,
        }
    }

    fn say(&mut self, run: &Run) {
        self.done += 1;
        println!("  [{}/{}] {}", self.done, self.all, report::line(run));
    }
}
