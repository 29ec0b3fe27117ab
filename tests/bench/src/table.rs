// SPDX-License-Identifier: GPL-2.0-or-later
//! Tables on the terminal.

use crate::figures::{Of, RAW, Samples, Spread};
use crate::plan::{Device, Operation};

const WIDTH: usize = 20;
const RATIO_WIDTH: usize = 12;

/// The columns: devices, and the limit.
pub fn columns() -> impl Iterator<Item = &'static str> {
    Device::ALL.map(Device::name).into_iter().chain([RAW])
}

/// Prints all of `bench device`.
pub fn device(samples: &Samples) {
    block(samples, "processor time of the main thread", |s| {
        Some(s.cpu_ns)
    });
    block(samples, "time from notification to answer", |s| {
        Some(s.wall_ns)
    });
    freed(samples);
}

fn block(samples: &Samples, what: &str, of: Of) {
    println!("\nns/page, {what}: median (least-most)");
    print!("{:<28}", "");
    columns().for_each(|name| print!("{name:>WIDTH$}"));
    for name in ["stock/ours", "ours/raw", "ranges/raw", "chunks/raw"] {
        print!("{name:>RATIO_WIDTH$}");
    }
    println!();
    for case in samples.cases() {
        let names = (case.backing.name(), case.operation.name());
        print!("{:<8} {:<8} {:<10}", names.0, names.1, case.pattern.name());
        for name in columns() {
            let cell = samples.spread(case, name, of).map(shown);
            print!("{:>WIDTH$}", cell.unwrap_or("-".into()));
        }
        let median = |name| samples.spread(case, name, of).map(|s| s.median);
        for (over, under) in [
            ("stock", "ours"),
            ("ours", RAW),
            ("ranges", RAW),
            ("chunks", RAW),
        ] {
            let pair = median(over).zip(median(under));
            // Below a tenth of a nanosecond there is nothing left to compare.
            let cell = pair.map(|(a, b)| format!("{:.2}", a.max(0.1) / b.max(0.1)));
            print!("{:>RATIO_WIDTH$}", cell.unwrap_or("-".into()));
        }
        println!();
    }
}

fn freed(samples: &Samples) {
    println!("\n% of the memory that the host got back (and, where THP, % that was huge before)");
    for case in samples.cases() {
        if case.operation == Operation::Deflate {
            continue;
        }
        let names = (case.backing.name(), case.operation.name());
        print!("{:<8} {:<8} {:<10}", names.0, names.1, case.pattern.name());
        for device in Device::ALL {
            let median = |of: Of| samples.spread(case, device.name(), of).map(|s| s.median);
            let Some(freed) = median(|s| s.freed) else {
                print!("{:>WIDTH$}", "-");
                continue;
            };
            let huge = median(|s| s.huge).map(|h| format!(" ({:.0})", 100.0 * h));
            let cell = format!("{:.0}{}", 100.0 * freed, huge.unwrap_or_default());
            print!("{cell:>WIDTH$}");
        }
        println!();
    }
}

/// A median with its spread.
pub fn shown(spread: Spread) -> String {
    let digits = if spread.median.abs() < 100.0 { 1 } else { 0 };
    let Spread {
        median,
        least,
        most,
    } = spread;
    format!("{median:.digits$} ({least:.digits$}-{most:.digits$})")
}
