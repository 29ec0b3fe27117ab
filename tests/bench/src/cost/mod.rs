// SPDX-License-Identifier: GPL-2.0-or-later
//! `bench cost`: what it costs to have the device: memory, time to start, size of the program.
//!
//! - [`start`] starts QEMU without a balloon, with QEMU's own, with ours
//! - [`fill`] puts pages into balloons and sees what keeping account of them takes
//! - [`link`] links QEMU without ours

pub mod fill;
pub mod link;
pub mod start;

use std::path::Path;

use clap::Args;
use guest::Result;

use crate::figures::Spread;
use crate::table;
use fill::{Fill, Filled, Set};
use link::Added;
use start::{FIGURES, NONE, OURS, STOCK, Start};

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Balloons that are filled in each way with each device
    #[arg(long, value_name = "N", default_value_t = RUNS)]
    pub runs: u32,
    /// Starts without a balloon, with stock and with ours
    #[arg(long, value_name = "N", default_value_t = STARTS)]
    pub starts: u32,
    /// Also put every second page of 256 GiB into a balloon of ours, once; takes minutes
    #[arg(long)]
    pub quarter: bool,
}

const RUNS: u32 = 3;
const STARTS: u32 = 31;

impl Default for Options {
    /// All of it.
    fn default() -> Options {
        Options {
            runs: RUNS,
            starts: STARTS,
            quarter: false,
        }
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Costs {
    /// QEMU just started.
    pub starts: Vec<Start>,
    /// Balloons with pages in them.
    pub fills: Vec<Filled>,
    /// What a set of pages takes for each TiB of guest RAM, by the library's own count.
    pub sets: Vec<Set>,
    /// What the device adds to the program, or why that is not known.
    pub added: Option<std::result::Result<Added, String>>,
}

impl Costs {
    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty() && self.fills.is_empty() && self.added.is_none()
    }

    /// One of [`FIGURES`] of QEMU just started.
    pub fn start(&self, device: &str, figure: usize) -> Option<Spread> {
        let mine = self.starts.iter().filter(|start| start.device == device);
        Spread::of(mine.map(|start| start.values[figure]))
    }

    /// How much more one of [`FIGURES`] is with `device` than without a balloon: medians.
    pub fn more(&self, device: &str, figure: usize) -> Option<f64> {
        let median = |device| Some(self.start(device, figure)?.median);
        Some(median(device)? - median(NONE)?)
    }

    /// KiB that QEMU takes in addition when it is filled so.
    pub fn filled(&self, fill: &Fill, device: &str) -> Option<Spread> {
        self.of_fills(device, |f| (f.fill == fill.name).then_some(f.filled_kib))
    }

    /// Nanoseconds of processor time for each page of a filling.
    pub fn cpu_ns(&self, fill: &Fill, device: &str) -> Option<Spread> {
        self.of_fills(device, |f| (f.fill == fill.name).then_some(f.cpu_ns))
    }

    /// The ways in which balloons were filled.
    pub fn ways(&self) -> impl Iterator<Item = &'static Fill> {
        let all = fill::FILLS.iter();
        all.filter(|fill| self.fills.iter().any(|f| f.fill == fill.name))
    }

    /// KiB that a device takes in addition once it has worked.
    pub fn working(&self, device: &str) -> Option<Spread> {
        self.of_fills(device, |f| Some(f.work_kib))
    }

    fn of_fills(&self, device: &str, of: impl Fn(&Filled) -> Option<f64>) -> Option<Spread> {
        let mine = self.fills.iter().filter(|f| f.device == device);
        Spread::of(mine.filter_map(of))
    }
}

/// Measures all of it.
///
/// # Errors
/// When QEMU or a device does not do what it should.
pub fn run(qemu: &Path, options: &Options, costs: &mut Costs) -> Result<()> {
    costs.added = Some(link::added(qemu).map_err(|why| why.to_string()));
    start::run(qemu, options.starts, &mut costs.starts)?;
    costs.sets = fill::sets();
    fill::run(qemu, options.runs, options.quarter, &mut costs.fills)
}

/// Prints all of `bench cost`.
pub fn print(costs: &Costs) {
    if !costs.starts.is_empty() {
        starts(costs);
    }
    if !costs.fills.is_empty() {
        fills(costs);
    }
    if !costs.sets.is_empty() {
        println!("\nThe set of pages for each TiB of guest RAM, by the library's own count");
        for set in &costs.sets {
            println!("{:<56}{:>12}", set.title, bytes(set.bytes as f64));
        }
    }
    match &costs.added {
        Some(Ok(added)) => print_added(added),
        Some(Err(why)) => println!("\nThe size of the program was not measured: {why}"),
        None => {}
    }
}

fn starts(costs: &Costs) {
    let count = costs.starts.iter().filter(|s| s.device == OURS).count();
    println!("\nQEMU just started, without a guest: median (least-most) of {count} starts");
    print!("{:<44}", "");
    [NONE, STOCK, OURS]
        .iter()
        .for_each(|name| print!("{name:>24}"));
    println!("{:>14}{:>14}", "stock adds", "ours adds");
    for (index, (_, title)) in FIGURES.iter().enumerate() {
        print!("{title:<44}");
        for device in [NONE, STOCK, OURS] {
            let cell = costs.start(device, index).map(table::shown);
            print!("{:>24}", cell.unwrap_or("-".into()));
        }
        for device in [STOCK, OURS] {
            let cell = costs.more(device, index).map(|more| format!("{more:+.1}"));
            print!("{:>14}", cell.unwrap_or("-".into()));
        }
        println!();
    }
}

fn fills(costs: &Costs) {
    println!("\nMemory that QEMU takes in addition to that, KiB: median (least-most)");
    println!(
        "{:<64}{STOCK:>20}{OURS:>20}{:>14}{:>16}{:>16}",
        "", "its set alone", "stock, ns/page", "ours, ns/page"
    );
    let cells = |of: &dyn Fn(&str) -> Option<Spread>| {
        for device in [STOCK, OURS] {
            let cell = of(device).map(table::shown);
            print!("{:>20}", cell.unwrap_or("-".into()));
        }
    };
    print!("{:<64}", fill::WORKED);
    cells(&|device| costs.working(device));
    println!();
    for fill in costs.ways() {
        print!("{:<64}", fill.title);
        cells(&|device| costs.filled(fill, device));
        print!("{:>14.0}", fill.set_bytes() as f64 / 1024.0);
        for device in [STOCK, OURS] {
            let ns = costs
                .cpu_ns(fill, device)
                .map(|s| format!("{:.0}", s.median));
            print!("{:>16}", ns.unwrap_or("-".into()));
        }
        println!();
    }
}

fn print_added(added: &Added) {
    println!(
        "\nWhat ours adds to QEMU's program: its link once more, without the library and the C"
    );
    println!("that connects it, both stripped; of {}", bytes(added.whole));
    println!(
        "{:<36}{:>12}{:>12}{:>12}{:>12}",
        "", "code", "data", "zeros", "sum"
    );
    for (name, part) in [
        (link::LIBRARY, added.library),
        (link::GLUE, added.glue),
        ("both", added.both()),
    ] {
        print!("{name:<36}");
        [part.text, part.data, part.zeros, part.sum()]
            .iter()
            .for_each(|value| print!("{:>12}", bytes(*value)));
        println!();
    }
}

/// So many bytes, in words.
pub fn bytes(count: f64) -> String {
    const KIB: f64 = 1024.0;
    match count.abs() {
        small if small < KIB => format!("{count:.0} bytes"),
        some if some < 1024.0 * KIB => format!("{:.1} KiB", count / KIB),
        _ => format!("{:.2} MiB", count / KIB / KIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_adds_is_a_difference_of_medians() {
        let start = |device, ms| Start {
            device,
            values: [ms, 0.0, 0.0, 0.0],
        };
        let starts = vec![
            start(NONE, 10.0),
            start(OURS, 13.0),
            start(NONE, 11.0),
            start(OURS, 12.0),
            start(OURS, 99.0),
            start(NONE, 1.0),
        ];
        let costs = Costs {
            starts,
            ..Costs::default()
        };
        assert_eq!(costs.more(OURS, 0), Some(3.0));
        assert_eq!(costs.more(STOCK, 0), None);
    }

    #[test]
    fn bytes_are_readable() {
        assert_eq!(bytes(72.0), "72 bytes");
        assert_eq!(bytes(-1536.0), "-1.5 KiB");
        assert_eq!(bytes(33.0 * 1024.0 * 1024.0), "33.00 MiB");
    }
}
