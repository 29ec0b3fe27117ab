// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages in the balloon, and what keeping account of them takes.

use std::path::Path;

use guest::{MIB, Result};
use sparse_bitmap::SparseBitmap;

use crate::cost::start::{OURS, STOCK};
use crate::machine::{Config, Machine, QueueName};
use crate::plan::{Backing, Device, PFNS_A_KICK};
use crate::request::Desk;
use crate::smaps::Own;

/// The title of what a device takes once it has worked.
pub const WORKED: &str = "after 32768 pages went in and out, in a run and one by one";

const DEVICES: [(&str, Device); 2] = [(STOCK, Device::Stock), (OURS, Device::Ours)];
const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;
/// Pages for each TiB.
const TIB_PAGES: u64 = (1 << 40) / PAGE;
/// What is done before the measurement uses these pages.
const WARM: u64 = 16 * MIB;
/// Room for rings and requests, in MiB.
const WINDOW_MIB: u64 = 4;

/// A way to fill a balloon.
#[derive(Debug)]
pub struct Fill {
    /// In files.
    pub name: &'static str,
    /// In tables.
    pub title: &'static str,
    /// In plots.
    pub short: &'static str,
    ram_gib: u64,
    from_gib: u64,
    len_gib: u64,
    /// Of so many pages one is given away.
    step: u64,
}

/// All of them. Nothing is behind the guests' RAM, so that 1 TiB can be had.
pub const FILLS: [Fill; 4] = [
    Fill {
        name: "half",
        title: "half of 4 GiB, in one run",
        short: "half of 4 GiB",
        ram_gib: 4,
        from_gib: 1,
        len_gib: 2,
        step: 1,
    },
    Fill {
        name: "alternate",
        title: "every second page of 16 GiB, in a guest of 32 GiB",
        short: "every 2nd page of 16 of 32 GiB",
        ram_gib: 32,
        from_gib: 8,
        len_gib: 16,
        step: 2,
    },
    Fill {
        name: "far",
        title: "every second page of the last 16 GiB, in a guest of 1 TiB",
        short: "every 2nd page of the last 16 GiB of 1 TiB",
        ram_gib: 1024,
        from_gib: 1008,
        len_gib: 16,
        step: 2,
    },
    Fill {
        name: "quarter",
        title: "every second page of the last 256 GiB, in a guest of 1 TiB",
        short: "every 2nd page of the last 256 GiB of 1 TiB",
        ram_gib: 1024,
        from_gib: 768,
        len_gib: 256,
        step: 2,
    },
];
/// The one that takes minutes, and is left out for stock, which keeps no account of pages.
const QUARTER: &str = "quarter";

/// A balloon that was filled.
#[derive(Debug, Clone)]
pub struct Filled {
    /// How: the name of a [`Fill`].
    pub fill: &'static str,
    /// The device's name.
    pub device: &'static str,
    /// KiB that QEMU took in addition when the device had worked, before it was filled.
    pub work_kib: f64,
    /// The same when it was filled: also what it works with, part of which holds the set then.
    pub filled_kib: f64,
    /// Processor time of the main thread for each page: the same in small guests and in large.
    pub cpu_ns: f64,
}

/// A set of pages.
#[derive(Debug, Clone)]
pub struct Set {
    /// In files.
    pub name: &'static str,
    /// In tables.
    pub title: &'static str,
    /// What it takes.
    pub bytes: usize,
}

impl Fill {
    /// The guest addresses of the pages that are given away.
    fn pages(&self, config: &Config) -> impl Iterator<Item = u64> + use<> {
        let first = config.address(self.from_gib * GIB);
        let count = self.len_gib * GIB / PAGE;
        (0..count)
            .step_by(self.step as usize)
            .map(move |n| first + n * PAGE)
    }

    /// What a set of these pages takes, by the library's own count.
    pub fn set_bytes(&self) -> usize {
        let config = self.config(Path::new(""), Device::Ours);
        let limit = config.address(self.ram_gib * GIB) / PAGE;
        set(limit, self.pages(&config).map(|address| address / PAGE))
    }

    fn config(&self, qemu: &Path, device: Device) -> Config {
        Config {
            qemu: qemu.into(),
            device,
            backing: Backing::Small,
            ram_mib: self.ram_gib * 1024,
            window_mib: WINDOW_MIB,
        }
    }
}

fn set(limit: u64, pages: impl Iterator<Item = u64>) -> usize {
    let mut set = SparseBitmap::new(limit);
    pages.for_each(|page| {
        set.insert_range(page..page + 1);
    });
    set.memory_bytes()
}

/// Sets of pages of 1 TiB.
pub fn sets() -> Vec<Set> {
    let half = {
        let mut set = SparseBitmap::new(TIB_PAGES);
        set.insert_range(0..TIB_PAGES / 2);
        set.memory_bytes()
    };
    let every_second = set(TIB_PAGES, (0..TIB_PAGES).step_by(2));
    [
        ("nothing", "nothing in the balloon", set(TIB_PAGES, 0..0)),
        ("half", "half of it, in one run", half),
        (
            "alternate",
            "every second page of it, the most there can be",
            every_second,
        ),
    ]
    .map(|(name, title, bytes)| Set { name, title, bytes })
    .to_vec()
}

/// Fills balloons of stock and of ours in all ways.
///
/// # Errors
/// When QEMU or a device does not do what it should.
pub fn run(qemu: &Path, runs: u32, quarter: bool, fills: &mut Vec<Filled>) -> Result<()> {
    for fill in &FILLS {
        let long = fill.name == QUARTER;
        let count = match (long, quarter) {
            (true, false) => 0,
            (true, true) => 1,
            _ => runs,
        };
        for _ in 0..count {
            for (name, device) in DEVICES {
                if long && name == STOCK {
                    continue;
                }
                let (work_kib, filled_kib, cpu_ns) = one(&fill.config(qemu, device), fill)?;
                println!(
                    "  {}, {name}: {filled_kib:.0} KiB, {cpu_ns:.0} ns/page",
                    fill.title
                );
                fills.push(Filled {
                    fill: fill.name,
                    device: name,
                    work_kib,
                    filled_kib,
                    cpu_ns,
                });
            }
        }
    }
    Ok(())
}

fn one(config: &Config, fill: &Fill) -> Result<(f64, f64, f64)> {
    let (mut machine, _) = Machine::start(config)?;
    let desk = Desk::new(&mut machine)?;
    let kib = |own: Own| own.private as f64 / 1024.0;
    let fresh = kib(Own::of(machine.pid())?);
    for step in [1, 2] {
        let warm: Vec<u32> = (0..PFNS_A_KICK as u32).map(|n| step * n).collect();
        for queue in [QueueName::Inflate, QueueName::Deflate] {
            desk.put(&mut machine, queue, config.device, (WARM, &warm))?;
            machine.kick(queue)?;
        }
    }
    // What was held back for a while is done then.
    machine.settle()?;
    let worked = kib(Own::of(machine.pid())?);
    let first = config.address(fill.from_gib * GIB);
    let cpu = machine.cpu_ns()?;
    let mut count = 0;
    let mut pages = fill.pages(config);
    loop {
        let kick = pages.by_ref().take(PFNS_A_KICK);
        let kick: Vec<u32> = kick.map(|at| ((at - first) / PAGE) as u32).collect();
        if kick.is_empty() {
            break;
        }
        count += kick.len();
        let inflate = QueueName::Inflate;
        desk.put(&mut machine, inflate, config.device, (first, &kick))?;
        machine.kick(inflate)?;
    }
    machine.settle()?;
    let filled = kib(Own::of(machine.pid())?);
    let cpu_ns = (machine.cpu_ns()? - cpu) as f64 / count as f64;
    Ok((worked - fresh, filled - fresh, cpu_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_never_larger_than_a_bit_a_page_and_a_little() {
        let small = FILLS.iter().filter(|fill| fill.name != QUARTER);
        let most = small.map(|fill| {
            let pages = (fill.ram_gib + 1) * GIB / PAGE;
            (fill.set_bytes() as u64, pages / 8 + pages / 1024)
        });
        most.for_each(|(bytes, most)| assert!((1..=most).contains(&bytes), "{bytes} of {most}"));
    }

    #[test]
    fn pages_are_within_ram_and_not_in_its_gap() {
        // The last one has so many that it would take seconds here.
        for fill in FILLS.iter().filter(|fill| fill.name != QUARTER) {
            let config = fill.config(Path::new(""), Device::Ours);
            let first = fill.pages(&config).next().unwrap();
            let last = fill.pages(&config).last().unwrap();
            assert_eq!(last, first + fill.len_gib * GIB - fill.step * PAGE);
            let end = config.address(fill.ram_gib * GIB);
            assert!(last < end, "{}", fill.name);
            let low = 3 * GIB;
            assert_eq!(first < low, last < low, "{}", fill.name);
        }
    }
}
