// SPDX-License-Identifier: GPL-2.0-or-later
//! The results as the tables of docs/benchmarks.md: medians and ratios only.

use std::fmt::Write;

use crate::cost::{self, Costs, fill, start};
use crate::dirty;
use crate::figures::{RAW, Samples};
use crate::latency::Answers;
use crate::linux::{self, FIGURES, Run};
use crate::plan::Device;
use crate::results::Results;

/// What is written for a value that is not there.
pub(crate) const NONE: &str = "-";

/// Tables of all that was measured by `command`.
pub fn tables(results: &Results, command: &str) -> String {
    let mut text = format!("`{command}` on {}; medians.\n", results.host.caption());
    if !results.device.0.is_empty() {
        device(&mut text, &results.device);
    }
    if !results.latency.is_empty() {
        latency(&mut text, &results.latency);
    }
    if !results.guest.is_empty() {
        guest(&mut text, &results.guest);
    }
    if !results.cost.is_empty() {
        cost(&mut text, &results.cost);
    }
    dirty::markdown::tables(&mut text, &results.dirty);
    text
}

pub(crate) fn head(text: &mut String, cells: &[&str]) {
    let line = cells.iter().map(|_| "---|").collect::<String>();
    let _ = writeln!(text, "\n| {} |\n|{line}", cells.join(" | "));
}

pub(crate) fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn cell(value: Option<f64>) -> String {
    let digits = |value: f64| match value.abs() {
        large if large >= 100.0 => 0,
        some if some >= 10.0 => 1,
        _ => 2,
    };
    value.map_or(NONE.into(), |v| format!("{v:.0$}", digits(v)))
}

fn times(over: Option<f64>, under: Option<f64>) -> String {
    let pair = over.zip(under).filter(|(_, under)| *under > 0.0);
    cell(pair.map(|(over, under)| over / under))
}

fn device(text: &mut String, samples: &Samples) {
    let columns = [
        "ns a page, processor time",
        "stock",
        "ours",
        "ranges",
        "chunks",
        RAW,
        "stock / ours",
        "ours / raw",
    ];
    head(text, &columns);
    for case in samples.cases() {
        let names = (case.backing.name(), case.operation.name());
        let mut cells = vec![format!("{} {}, {}", names.0, names.1, case.pattern.name())];
        let of = |name| samples.cpu(case, name);
        let devices = [
            Device::Stock.name(),
            Device::Ours.name(),
            Device::Ranges.name(),
            Device::Chunks.name(),
            RAW,
        ];
        cells.extend(devices.map(|name| cell(of(name))));
        cells.push(times(of("stock"), of("ours")));
        cells.push(times(of("ours"), of(RAW)));
        row(text, &cells);
    }
}

/// What the two got is not the same, so their lines are not either.
fn latency(text: &mut String, all: &[Answers]) {
    let columns = [
        "the monitor's answers, ms",
        "",
        "p50",
        "p99",
        "p99.9",
        "longest",
        "answers",
    ];
    head(text, &columns);
    for answers in all {
        let title = answers.title();
        let mut cells = vec![title, answers.device.to_string()];
        let parts = [0.5, 0.99, 0.999, 1.0];
        cells.extend(parts.map(|part| cell(Some(answers.percentile_ms(part)))));
        cells.push(answers.ns.len().to_string());
        row(text, &cells);
    }
}

fn guest(text: &mut String, runs: &[Run]) {
    head(text, &["a Linux guest of 2 GiB", "stock", "ours"]);
    for (index, (_, title)) in FIGURES.iter().enumerate() {
        let of = |device| linux::spread(runs, device, index).map(|s| s.median);
        let title = title.trim().to_string();
        row(text, &[title, cell(of("stock")), cell(of("ours"))]);
    }
}

fn cost(text: &mut String, costs: &Costs) {
    if !costs.starts.is_empty() {
        head(text, &["QEMU just started", "no balloon", "stock", "ours"]);
        for (index, (_, title)) in start::FIGURES.iter().enumerate() {
            let mut cells = vec![title.trim().to_string()];
            let devices = [start::NONE, start::STOCK, start::OURS];
            let of = |device| costs.start(device, index).map(|s| s.median);
            cells.extend(devices.map(|device| cell(of(device))));
            row(text, &cells);
        }
    }
    if !costs.fills.is_empty() {
        let columns = ["memory in addition, KiB", "stock", "ours", "its set alone"];
        head(text, &columns);
        let both = [start::STOCK, start::OURS];
        let mut cells = vec![fill::WORKED.to_string()];
        cells.extend(both.map(|device| cell(costs.working(device).map(|s| s.median))));
        cells.push(NONE.into());
        row(text, &cells);
        for fill in costs.ways() {
            let mut cells = vec![fill.title.to_string()];
            cells.extend(both.map(|device| cell(costs.filled(fill, device).map(|s| s.median))));
            cells.push(cell(Some(fill.set_bytes() as f64 / 1024.0)));
            row(text, &cells);
        }
    }
    if !costs.sets.is_empty() {
        head(text, &["the set of pages for each TiB of guest RAM", ""]);
        for set in &costs.sets {
            row(text, &[set.title.into(), cost::bytes(set.bytes as f64)]);
        }
    }
    if let Some(Ok(added)) = &costs.added {
        let _ = writeln!(
            text,
            "\nTo QEMU\'s program, {} when stripped, it adds {}: {} for the library with what it \
             uses of Rust\'s own, {} for the C that connects it.",
            cost::bytes(added.whole),
            cost::bytes(added.both().sum()),
            cost::bytes(added.library.sum()),
            cost::bytes(added.glue.sum()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_as_many_cells_as_the_head() {
        let mut text = String::new();
        let starts = [start::NONE, start::STOCK, start::OURS].map(|device| start::Start {
            device,
            values: [23.45, 1500.0, 800.0, 3.0],
        });
        let costs = Costs {
            starts: starts.to_vec(),
            sets: vec![fill::Set {
                name: "nothing",
                title: "nothing in it",
                bytes: 48,
            }],
            ..Costs::default()
        };
        cost(&mut text, &costs);
        for table in text.split("\n\n") {
            let mut counts = table.lines().filter(|l| !l.is_empty()).map(|line| {
                let cells = line.matches('|').count();
                assert!(line.starts_with('|'), "{line}");
                cells
            });
            let first = counts.next().unwrap();
            assert!(counts.all(|count| count == first), "{table}");
        }
        assert!(text.contains("| 23.4 | 23.4 | 23.4 |"), "{text}");
        assert!(text.contains("| 1500 | 1500 | 1500 |"), "{text}");
    }
}
