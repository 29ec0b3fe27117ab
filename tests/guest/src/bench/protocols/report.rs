// SPDX-License-Identifier: GPL-2.0-or-later
//! What was measured: tables, ratios, and the raw figures as a file.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::figures::{Figure, Spread, figure, mib};
use super::super::record::Machine;
use super::super::report::{measured_on, shown};
use super::measure::{Counts, Run, Way};
use super::plan::{MEMORY_MIB, Options, Pages, STOCK_NAME, TARGET_MIB, Variant, WRITTEN_MIB};
use crate::{Error, Result};

const TITLE_WIDTH: usize = 34;
const WIDTH: usize = 22;
/// What inflating cost in 2016, as the authors of the page ranges measured it.
const SERIES_SINGLE_MS: f64 = 4126.0;
const SERIES_RANGES_MS: f64 = 590.0;

const TIME: Figure<Run> = figure("inflate_ms", "inflate: time, ms", 0, |r| {
    Some(ms(r.inflate.time))
});
const CPU: Figure<Run> = figure("inflate_cpu_ms", "  CPU of QEMU and guest, ms", 0, |r| {
    cpu_ms(&r.inflate)
});
const KERNEL: Figure<Run> = figure(
    "inflate_kernel_ms",
    "  of it in the host's kernel, about",
    0,
    |r| Some(r.inflate.cpu.kernel_ms as f64),
);
const MAIN: Figure<Run> = figure(
    "inflate_main_cpu_ms",
    "  CPU of QEMU's main thread, ms",
    0,
    |r| Some(ms(r.inflate.main)),
);
const BACK: Figure<Run> = figure("deflate_ms", "deflate: time, ms", 0, |r| {
    Some(ms(r.deflate.time))
});
const BACK_CPU: Figure<Run> = figure("deflate_cpu_ms", "  CPU of QEMU and guest, ms", 0, |r| {
    cpu_ms(&r.deflate)
});

/// All figures, in the order of the tables.
const FIGURES: [Figure<Run>; 15] = [
    TIME,
    CPU,
    KERNEL,
    MAIN,
    figure("inflate_sent", "  messages, says the driver", 0, |r| {
        Some(r.inflate.sent? as f64)
    }),
    figure("inflate_requests", "  messages, says the device", 0, |r| {
        of(&r.inflate, |c| c.requests)
    }),
    figure("inflate_ranges", "  ranges", 0, |r| {
        of(&r.inflate, |c| c.ranges)
    }),
    figure("inflate_discards", "  discards", 0, |r| {
        of(&r.inflate, |c| c.discards)
    }),
    figure("resident_before_mib", "  resident before, MiB", 0, |r| {
        Some(mib(r.resident.0))
    }),
    figure("resident_after_mib", "  resident after, MiB", 0, |r| {
        Some(mib(r.resident.1))
    }),
    BACK,
    BACK_CPU,
    figure(
        "deflate_main_cpu_ms",
        "  CPU of QEMU's main thread, ms",
        0,
        |r| Some(ms(r.deflate.main)),
    ),
    figure("deflate_sent", "  messages, says the driver", 0, |r| {
        Some(r.deflate.sent? as f64)
    }),
    figure("deflate_requests", "  messages, says the device", 0, |r| {
        of(&r.deflate, |c| c.requests)
    }),
];

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn cpu_ms(way: &Way) -> Option<f64> {
    Some((way.cpu.guest_ms + way.cpu.qemu_ms) as f64)
}

fn of(way: &Way, count: fn(&Counts) -> u64) -> Option<f64> {
    Some(count(way.device.as_ref()?) as f64)
}

/// What is compared and where.
pub fn heading(machine: &Machine, options: &Options) {
    println!(
        "A guest of {MEMORY_MIB} MiB that wrote {WRITTEN_MIB} MiB, inflated to {TARGET_MIB} MiB \
         and deflated again"
    );
    measured_on(machine);
    for variant in &options.variants {
        println!(
            "  {:<13} -device {:<40} {}",
            variant.name,
            variant.device(),
            variant.title
        );
    }
    println!();
}

/// The line of progress after `run`.
pub fn line(run: &Run) -> String {
    format!(
        "{:<4} {:<13} inflated in {:>6.0} ms, {:>5.0} ms of QEMU's main thread; \
         deflated in {:>5.0} ms",
        run.pages.name(),
        run.variant,
        ms(run.inflate.time),
        ms(run.inflate.main),
        ms(run.deflate.time),
    )
}

/// All tables.
pub fn print(options: &Options, runs: &[Run]) {
    for pages in &options.pages {
        table(options, runs, *pages);
        compared(options, runs, *pages);
    }
    println!(
        "\nThe series that ranges come from quotes {SERIES_SINGLE_MS} ms by single pages and \
         {SERIES_RANGES_MS} ms by ranges, {:.2} times, for 7 of 8 GiB under KVM.",
        SERIES_SINGLE_MS / SERIES_RANGES_MS
    );
}

fn spread(runs: &[Run], pages: Pages, variant: &str, figure: &Figure<Run>) -> Option<Spread> {
    let of_both = |run: &&Run| run.pages == pages && run.variant == variant;
    Spread::of(figure, runs.iter().filter(of_both))
}

fn table(options: &Options, runs: &[Run], pages: Pages) {
    let title = match pages {
        Pages::Huge => "anonymous memory as QEMU has it by default",
        Pages::Small => "anonymous memory without transparent huge pages",
    };
    println!("\n{}: {title}", pages.name());
    print!("{:<TITLE_WIDTH$}", "median (least-most)");
    for variant in &options.variants {
        print!("{:>WIDTH$}", variant.name);
    }
    println!();
    for figure in &FIGURES {
        let of = |v: &Variant| spread(runs, pages, v.name, figure);
        let cells: Vec<_> = options.variants.iter().map(of).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        print!("{:<TITLE_WIDTH$}", figure.title);
        for cell in cells {
            let text = cell.map_or("-".into(), |c| shown(c, figure.digits));
            print!("{text:>WIDTH$}");
        }
        println!();
    }
}

/// How many times as much stock takes.
fn compared(options: &Options, runs: &[Run], pages: Pages) {
    let figures = [&TIME, &CPU, &MAIN, &BACK, &BACK_CPU];
    println!(
        "\n{:<TITLE_WIDTH$}{:>13}{:>13}{:>13}{:>13}{:>13}",
        format!("{}: medians, stock / this", pages.name()),
        "inflate",
        "its CPU",
        "main thread",
        "deflate",
        "its CPU"
    );
    for variant in &options.variants {
        if variant.name == STOCK_NAME {
            continue;
        }
        print!("{:<TITLE_WIDTH$}", variant.name);
        for figure in figures {
            let cell = ratio(runs, pages, variant.name, figure);
            print!("{:>13}", cell.map_or("-".into(), |c| format!("{c:.2}")));
        }
        println!();
    }
}

fn ratio(runs: &[Run], pages: Pages, variant: &str, figure: &Figure<Run>) -> Option<f64> {
    let stock = spread(runs, pages, STOCK_NAME, figure)?.median;
    let this = spread(runs, pages, variant, figure)?.median;
    // Where a figure is below a clock's tick there is nothing to compare.
    (this > 0.0).then(|| stock / this)
}

/// Writes all runs to `path`, as JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, machine: &Machine, options: &Options, runs: &[Run]) -> Result<()> {
    let runs: Vec<Value> = runs.iter().map(of_run).collect();
    let devices: Map<String, Value> = options
        .variants
        .iter()
        .map(|v| (v.name.into(), json!(v.device())))
        .collect();
    let all = json!({ "machine": machine.to_json(), "devices": devices, "runs": runs });
    fs::write(path, format!("{all:#}\n")).map_err(Error::io(path.display().to_string()))
}

fn of_run(run: &Run) -> Value {
    let mut map = Map::new();
    map.insert("pages".into(), json!(run.pages.name()));
    map.insert("variant".into(), json!(run.variant));
    map.insert("round".into(), json!(run.round));
    for figure in &FIGURES {
        map.insert(figure.key.into(), json!((figure.of)(run)));
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_pages() {
        let run = |pages, variant, ms| Run {
            pages,
            variant,
            inflate: Way {
                time: Duration::from_millis(ms),
                ..Way::default()
            },
            ..Run::default()
        };
        let runs = [
            run(Pages::Huge, STOCK_NAME, 70),
            run(Pages::Small, STOCK_NAME, 90),
            run(Pages::Small, "ranges", 30),
        ];
        assert_eq!(ratio(&runs, Pages::Small, "ranges", &TIME), Some(3.0));
        assert_eq!(ratio(&runs, Pages::Huge, "ranges", &TIME), None);
        assert_eq!(ratio(&runs, Pages::Small, "ranges", &KERNEL), None);
    }

    #[test]
    fn what_a_device_does_not_count_is_no_zero() {
        let value = of_run(&Run::default());
        assert!(value["inflate_requests"].is_null());
        assert_eq!(value["deflate_ms"], 0.0);
    }
}
