// SPDX-License-Identifier: GPL-2.0-or-later
//! What inflating and deflating cost: by single pages, ranges and chunks, with our
//! driver; and with the guest's own driver on QEMU's balloon and on ours.
//!
//! - [`plan`] says which drivers and devices are compared
//! - [`measure`] inflates and deflates one guest
//! - [`report`] prints the tables and writes the raw figures

pub mod measure;
pub mod plan;
pub mod report;

use std::time::Instant;

use super::record::Machine;
use crate::config::VmConfig;
use crate::{Error, Result, testing};

use measure::Run;
use plan::{Options, Pages};

/// Runs the benchmark as `options` say, with progress and a report on standard output.
///
/// # Errors
/// When a guest fails, or the raw figures cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    let base = testing::config("")?;
    let machine = Machine::here(&base)?;
    report::heading(&machine, options);
    let mut runs = Vec::new();
    let outcome = all(&base, options, &mut runs);
    // What was measured before a failure is worth a look.
    report::print(options, &runs);
    println!("\nIt took {} s.", begun.elapsed().as_secs());
    if let Some(path) = &options.json {
        report::write(path, &machine, options, &runs)?;
    }
    outcome
}

/// All guests, one at a time; the drivers and devices take turns.
fn all(base: &VmConfig, options: &Options, runs: &mut Vec<Run>) -> Result<()> {
    for round in 1..=options.runs {
        for pages in &options.pages {
            let _small = (*pages == Pages::Small)
                .then(SmallPages::only)
                .transpose()?;
            for variant in &options.variants {
                let run = measure::measure(&variant.config(base)).map_err(|error| {
                    let (name, pages) = (variant.name, pages.name());
                    Error::Tool(format!("{name} with {pages} pages: {error}"))
                })?;
                let run = Run {
                    pages: *pages,
                    variant: variant.name,
                    round,
                    ..run
                };
                println!("  {}", report::line(&run));
                runs.push(run);
            }
        }
    }
    Ok(())
}

/// While it lives, this process and those it starts have no transparent huge pages.
struct SmallPages(());

impl SmallPages {
    fn only() -> Result<SmallPages> {
        let disabled = rustix::thread::disable_transparent_huge_pages(true);
        let what = "do without transparent huge pages";
        disabled.map_err(|e| Error::io(what)(e.into()))?;
        Ok(SmallPages(()))
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        // What was allowed once is allowed again.
        let _ = rustix::thread::disable_transparent_huge_pages(false);
    }
}
