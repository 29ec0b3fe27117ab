// SPDX-License-Identifier: GPL-2.0-or-later
//! What was measured, as a reader wants it.

use super::figures::{
    CPU, FIGURES, Figure, IN_USE, Run, SENT, SENT_PER_IN_USE, SENT_PER_KERNEL, Spread, TOTAL,
};
use super::plan::{Options, STOCK_HINTS, STOCK_PLAIN, Scenario, Variant};
use super::record::Machine;

const TITLE_WIDTH: usize = 34;
const WIDTH: usize = 28;
/// Above this somebody else is at work, and the figures are not to be believed.
const QUIET_LOAD: f64 = 0.5;
/// At most so much is sent for what is in use, where nothing writes meanwhile.
const AIM_SENT: f64 = 1.2;
/// At most this part of the time of stock with hints, in the first scenario.
const AIM_TIME: f64 = 0.4;

/// What is compared and where.
pub fn heading(machine: &Machine, options: &Options) {
    println!("Live migration between two processes through a unix socket");
    measured_on(machine);
    match options.max_bandwidth >> 20 {
        0 => println!("max-bandwidth=0: no limit"),
        mib => println!("max-bandwidth: {mib} MiB/s"),
    }
    if !options.kernel_args.is_empty() {
        println!("the guest's kernel: {}", options.kernel_args);
    }
    for variant in &options.variants {
        println!("  {:<14} -device {}", variant.name, variant.device);
    }
    println!();
}

/// The machine, and whether somebody else is at work on it.
pub(super) fn measured_on(machine: &Machine) {
    let Machine {
        processors,
        processor,
        memory_mib,
        ..
    } = machine;
    println!("{processors} x {processor}, {memory_mib} MiB");
    println!("QEMU {}, guests run by {}", machine.qemu, machine.accel);
    if machine.load > QUIET_LOAD {
        println!(
            "THE MACHINE IS NOT QUIET: load {:.2} before the start. Times will be too long.",
            machine.load
        );
    }
}

/// The line of progress after `run`.
pub fn line(run: &Run) -> String {
    let at = |figure: &Figure| (figure.of)(run).unwrap_or(0.0);
    format!(
        "{:<13} {:<12} {:>6.0} ms {:>6.0} MiB sent of {:>4.0} in use {:>6.0} ms CPU",
        run.scenario,
        run.variant,
        at(&TOTAL),
        at(&SENT),
        at(&IN_USE),
        at(&CPU)
    )
}

/// All tables.
pub fn print(options: &Options, runs: &[Run]) {
    let results = Results { runs };
    for scenario in &options.scenarios {
        table(&results, options, scenario);
    }
    compared(&results, options);
    aims(&results, options);
}

struct Results<'a> {
    runs: &'a [Run],
}

impl Results<'_> {
    fn spread(&self, scenario: &str, variant: &str, figure: &Figure) -> Option<Spread> {
        let of_both = |run: &&Run| run.scenario == scenario && run.variant == variant;
        Spread::of(figure, self.runs.iter().filter(of_both))
    }

    fn median(&self, scenario: &str, variant: &str, figure: &Figure) -> Option<f64> {
        Some(self.spread(scenario, variant, figure)?.median)
    }

    /// What one device takes for what another takes.
    fn ratio(&self, scenario: &str, (of, to): (&str, &str), figure: &Figure) -> Option<f64> {
        let to = self.median(scenario, to, figure)?;
        let of = self.median(scenario, of, figure)?;
        // Where a figure is below a clock's tick there is nothing to compare.
        (to > 0.0).then(|| of / to)
    }
}

fn table(results: &Results<'_>, options: &Options, scenario: &Scenario) {
    println!("\n{}: {}", scenario.name, scenario.title);
    print!("{:<TITLE_WIDTH$}", "median (least-most)");
    for variant in &options.variants {
        print!("{:>WIDTH$}", variant.name);
    }
    println!();
    for figure in &FIGURES {
        let of = |v: &Variant| results.spread(scenario.name, &v.name, figure);
        let cells: Vec<_> = options.variants.iter().map(of).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        print!("{:<TITLE_WIDTH$}", figure.title);
        for cell in cells {
            print!(
                "{:>WIDTH$}",
                cell.map_or("-".into(), |c| shown(c, figure.digits))
            );
        }
        println!();
    }
}

/// `MEDIAN (LEAST-MOST)`, or the one value.
pub(super) fn shown(spread: Spread, digits: usize) -> String {
    let Spread {
        median,
        least,
        most,
    } = spread;
    let alone = format!("{median:.digits$}");
    let (least, most) = (format!("{least:.digits$}"), format!("{most:.digits$}"));
    if least == most {
        return alone;
    }
    format!("{alone} ({least}-{most})")
}

/// The variants of ours.
fn ours(options: &Options) -> impl Iterator<Item = &Variant> {
    options.variants.iter().filter(|v| v.ours)
}

/// How many times as much stock takes.
fn compared(results: &Results<'_>, options: &Options) {
    println!("\nHow many times as much stock takes (medians)");
    println!(
        "{:<TITLE_WIDTH$}{:>10}{:>10}{:>10}",
        "", "time", "sent", "CPU"
    );
    for scenario in &options.scenarios {
        for variant in ours(options) {
            for stock in [STOCK_PLAIN, STOCK_HINTS] {
                let pair = (stock, variant.name.as_str());
                let cell = |figure| results.ratio(scenario.name, pair, figure);
                let cells = [cell(&TOTAL), cell(&SENT), cell(&CPU)];
                if cells.iter().all(Option::is_none) {
                    continue;
                }
                let what = format!("{}: {stock} / {}", scenario.name, variant.name);
                print!("{what:<TITLE_WIDTH$}");
                for cell in cells {
                    print!("{:>10}", cell.map_or("-".into(), |c| format!("{c:.2}")));
                }
                println!();
            }
        }
    }
}

fn aims(results: &Results<'_>, options: &Options) {
    println!("\nAims");
    for variant in ours(options) {
        let name = variant.name.as_str();
        for scenario in ["freed", "ballooned"] {
            for figure in [&SENT_PER_IN_USE, &SENT_PER_KERNEL] {
                if let Some(sent) = results.median(scenario, name, figure) {
                    let what = format!("{scenario}, {name}: {}", figure.title.trim());
                    aim(&what, sent, AIM_SENT);
                }
            }
        }
        if let Some(time) = results.ratio("freed", (name, STOCK_HINTS), &TOTAL) {
            aim(
                &format!("freed, {name}: time / stock with hints"),
                time,
                AIM_TIME,
            );
        }
    }
    growth(results, options);
}

/// What twice the machine costs where the balloon leaves the guest the same.
fn growth(results: &Results<'_>, options: &Options) {
    let mut told = false;
    for variant in &options.variants {
        let grown = |figure: &Figure| {
            let small = results.median("ballooned", &variant.name, figure)?;
            let large = results.median("ballooned-8g", &variant.name, figure)?;
            Some(large - small)
        };
        let all = (grown(&TOTAL), grown(&CPU), grown(&SENT), grown(&IN_USE));
        let (Some(time), Some(cpu), Some(sent), Some(in_use)) = all else {
            continue;
        };
        if !told {
            // The kernel's list of pages, 64 bytes for each, grows with the machine.
            println!("  ballooned to 512 MiB, a machine of 8 GiB against one of 4 GiB:");
            told = true;
        }
        println!(
            "    {:<12} {time:+.0} ms, {cpu:+.0} ms CPU, {sent:+.0} MiB sent, {in_use:+.0} MiB in use",
            variant.name
        );
    }
}

fn aim(what: &str, value: f64, most: f64) {
    let verdict = if value <= most {
        "reached"
    } else {
        "NOT REACHED"
    };
    println!("  {what} {value:.2}, at most {most}: {verdict}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_shown_only_where_there_is_one() {
        let spread = |least, median, most| Spread {
            median,
            least,
            most,
        };
        assert_eq!(shown(spread(1.0, 2.0, 3.0), 0), "2 (1-3)");
        assert_eq!(shown(spread(2.001, 2.002, 2.003), 2), "2.00");
    }

    #[test]
    fn ratios_are_of_medians() {
        let run = |variant: &str, total_ms| Run {
            scenario: "freed",
            variant: variant.into(),
            total_ms,
            ..Run::default()
        };
        let runs = [
            run("ours", 10),
            run("ours", 1000),
            run("ours", 20),
            run("stock", 60),
        ];
        let results = Results { runs: &runs };
        assert_eq!(results.ratio("freed", ("stock", "ours"), &TOTAL), Some(3.0));
        assert_eq!(results.ratio("busy", ("stock", "ours"), &TOTAL), None);
        assert_eq!(results.ratio("freed", ("stock", "ours"), &SENT), None);
    }
}
