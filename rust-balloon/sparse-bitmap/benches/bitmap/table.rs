// SPDX-License-Identifier: GPL-2.0-or-later
//! What criterion measured, as a table.

use crate::data::Data;
use crate::operation::Operation;
use std::fs;
use std::path::Path;

/// An operation on a set of indices, and where to find what it takes.
pub(crate) struct Row {
    pub(crate) operation: Operation,
    title: String,
    dir: String,
    units: u64,
}

impl Row {
    pub(crate) fn new(operation: Operation, data: &Data) -> Row {
        Row {
            operation,
            title: data.title(),
            dir: data.dir(),
            units: operation.units(data),
        }
    }
}

/// The time of each of `names`, and how much longer the others take than the first.
pub(crate) fn print_times(results: &Path, names: &[&str], rows: &[Row]) {
    println!(
        "\n{:<56}{}",
        "ns, and how many times ours",
        head(names, true)
    );
    for row in rows {
        let Some(times) = names
            .iter()
            .map(|name| Some(least_ns(results, row, name)? / row.units as f64))
            .collect::<Option<Vec<f64>>>()
        else {
            // Left out by a filter on the command line.
            continue;
        };
        let what = format!("{}, per {}", row.operation.name(), row.operation.unit());
        let times_text: String = times.iter().map(|time| cell(&short(*time))).collect();
        let ratios = times[1..].iter().map(|time| short(time / times[0]));
        let ratios: String = ratios.map(|ratio| cell(&format!("x {ratio}"))).collect();
        println!("{what:<33}{:<23}{times_text}{ratios}", row.title);
    }
}

/// The bytes that each of `names` takes for a set of indices.
pub(crate) fn print_memory(names: &[&str], rows: &[(String, Vec<usize>)]) {
    println!("\n{:<56}{}", "memory", head(names, false));
    for (data, bytes) in rows {
        let sizes = bytes.iter().map(|bytes| cell(&size(*bytes)));
        println!("{:<33}{data:<23}{}", "", sizes.collect::<String>());
    }
}

fn head(names: &[&str], ratios: bool) -> String {
    let ratios = names.iter().skip(1).filter(|_| ratios);
    names.iter().chain(ratios).map(|name| cell(name)).collect()
}

fn cell(text: &str) -> String {
    format!("{text:>17}")
}

/// Three digits, or all that stand before the point.
fn short(number: f64) -> String {
    let decimals = match number {
        100.0.. => 0,
        10.0.. => 1,
        0.1.. => 2,
        _ => 4,
    };
    format!("{number:.decimals$}")
}

fn size(bytes: usize) -> String {
    const SHOWN: usize = 10 << 10;
    match (bytes, bytes >> 10) {
        (..SHOWN, _) => format!("{bytes} B"),
        (_, kib @ ..SHOWN) => format!("{kib} KiB"),
        (_, kib) => format!("{} MiB", kib >> 10),
    }
}

/// The time of the fastest sample: what else the machine does makes others slower, none faster.
fn least_ns(results: &Path, row: &Row, name: &str) -> Option<f64> {
    // Criterion makes these directories from the names that it was given.
    let group = row.operation.name();
    let dir = results.join(group).join(name).join(&row.dir);
    let text = fs::read_to_string(dir.join("new").join("sample.json")).ok()?;
    let sample: serde_json::Value = serde_json::from_str(&text).ok()?;
    let numbers = |name: &str| Some(sample[name].as_array()?.iter().filter_map(|n| n.as_f64()));
    let each = numbers("times")?.zip(numbers("iters")?);
    each.map(|(time, iters)| time / iters).reduce(f64::min)
}
