// SPDX-License-Identifier: GPL-2.0-or-later
//! Tables on the terminal.

use crate::cost;
use crate::dirty::migration::{FIGURES, Migrations, RAM_GIB};
use crate::dirty::notes::{Note, Threads, Way};
use crate::dirty::plan::{self, AIM, Place};
use crate::dirty::rounds::{self, Round};
use crate::dirty::{Dirty, list, scan};
use crate::table;

/// Prints all of `bench dirty`.
pub fn print(dirty: &Dirty) {
    if !dirty.rounds.is_empty() {
        rounds(&dirty.rounds);
        parts(&dirty.rounds);
        crossovers(&dirty.rounds);
        aim(&dirty.rounds);
    }
    if !dirty.notes.is_empty() {
        notes(&dirty.notes);
    }
    migrations(&dirty.migrations);
}

/// `4 GiB`, `1 TiB`.
pub fn ram(gib: u64) -> String {
    match gib {
        tib if tib >= 1024 => format!("{} TiB", tib / 1024),
        gib => format!("{gib} GiB"),
    }
}

/// A share of a million, in percent.
pub fn percent(ppm: f64) -> String {
    let percent = ppm / 10_000.0;
    let digits = if percent > 0.0 {
        1 - percent.log10().floor() as i32
    } else {
        0
    };
    let text = format!("{percent:.0$}", digits.max(0) as usize);
    match text.contains('.') {
        true => format!("{} %", text.trim_end_matches('0').trim_end_matches('.')),
        false => format!("{text} %"),
    }
}

/// Nanoseconds in microseconds.
pub fn us(ns: f64) -> String {
    let us = ns / 1000.0;
    let digits = usize::from(us < 100.0) + usize::from(us < 10.0);
    format!("{us:.digits$}")
}

fn rounds(all: &[Round]) {
    println!("\nA round, us: median (least-most); the scan with one address space");
    println!(
        "{:<8}{:>10}{:>11}  {:<10}{:>28}{:>28}{:>11}{:>12}{:>12}",
        "", "dirty", "pages", "", "scan", "list", "scan/list", "bitmaps", "the list"
    );
    for round in all {
        let case = round.case;
        let cell = |s: crate::figures::Spread| {
            format!("{} ({}-{})", us(s.median), us(s.least), us(s.most))
        };
        println!(
            "{:<8}{:>10}{:>11}  {:<10}{:>28}{:>28}{:>11.1}{:>12}{:>12}",
            ram(case.ram_gib),
            percent(case.ppm as f64),
            case.count(),
            case.place.name(),
            cell(round.scan_ns()),
            cell(round.list_ns()),
            round.times(),
            cost::bytes(scan::Scan::bytes(case.ram_pages()) as f64),
            cost::bytes(round.list_bytes.1 as f64),
        );
    }
    println!(
        "The list's memory is what it allocated; it needs two of the three bitmaps, too, and the third \
         one for when it overflows."
    );
    println!("Left out: more than {} dirty pages.", plan::MOST_PAGES);
}

fn parts(all: &[Round]) {
    let mut some = rounds::aim(all).peekable();
    if some.peek().is_none() {
        return;
    }
    println!("\nParts of a round, us, medians: {}", aim_title());
    for round in some {
        println!("{}", round.case.place.title());
        let scan = scan::PARTS.iter().zip(round.scan_parts());
        let list = list::PARTS.iter().zip(round.list_parts());
        for (how, ((_, title), ns)) in scan.map(|p| ("scan", p)).chain(list.map(|p| ("list", p))) {
            println!("  {how}: {title:<60}{:>12}", us(ns));
        }
    }
}

/// Cases that differ by share only, in order.
pub fn series(all: &[Round], ram_gib: u64, place: Place) -> Vec<&Round> {
    let mine = all.iter();
    mine.filter(|r| r.case.ram_gib == ram_gib && r.case.place == place)
        .collect()
}

/// From which share on the list is dearer than the scan; in words.
pub fn crossover(series: &[&Round]) -> String {
    let Some(last) = series.last() else {
        return "-".into();
    };
    match rounds::crossover(series) {
        Some(ppm) => percent(ppm),
        None if last.times() >= 1.0 => format!("above {}", percent(last.case.ppm as f64)),
        None => format!("below {}", percent(series[0].case.ppm as f64)),
    }
}

fn crossovers(all: &[Round]) {
    println!("\nFrom which share of dirty pages on a scan is cheaper");
    print!("{:<8}", "");
    Place::ALL
        .iter()
        .for_each(|place| print!("{:>16}", place.name()));
    println!();
    for ram_gib in plan::RAM_GIB {
        let cells = Place::ALL.map(|place| crossover(&series(all, ram_gib, place)));
        if cells.iter().any(|cell| cell != "-") {
            print!("{:<8}", ram(ram_gib));
            cells.iter().for_each(|cell| print!("{cell:>16}"));
            println!();
        }
    }
}

/// The case of the aim.
pub fn aim_title() -> String {
    let (ram_gib, ppm, _) = AIM;
    format!("{} with {} dirty", ram(ram_gib), percent(ppm as f64))
}

/// What came of the aim, a line for each place.
pub fn aim_lines(all: &[Round]) -> Vec<String> {
    let (_, _, aim) = AIM;
    let line = |round: &Round| {
        let times = round.times();
        let twice = round.scan_twice_ns().median / round.list_ns().median;
        let word = if times >= aim { "reached" } else { "missed" };
        format!(
            "{}, {}: scan {} us, list {} us, {times:.1} times; with the slots of two address spaces \
             {twice:.1} times. The aim of {aim} times is {word}.",
            aim_title(),
            round.case.place.title(),
            us(round.scan_ns().median),
            us(round.list_ns().median),
        )
    };
    rounds::aim(all).map(line).collect()
}

fn aim(all: &[Round]) {
    println!();
    aim_lines(all).iter().for_each(|line| println!("{line}"));
}

fn notes(all: &[Note]) {
    println!("\nns a note of a page: median (least-most)");
    print!("{:<22}", "");
    Threads::ALL
        .iter()
        .for_each(|threads| print!("{:>26}", threads.name()));
    println!();
    for way in Way::ALL {
        print!("{:<22}", way.name());
        for threads in Threads::ALL {
            let note = all.iter().find(|n| (n.way, n.threads) == (way, threads));
            let cell = note.map(|note| table::shown(note.ns));
            print!("{:>26}", cell.unwrap_or("-".into()));
        }
        println!();
    }
}

fn migrations(all: &Migrations) {
    if !all.moved.is_empty() {
        println!("\nA migration by QEMU, us: median (least-most)");
        println!("{:<68}{:>28}{:>28}", "", "without the list", "with it");
    }
    for ram_gib in RAM_GIB {
        if !all.moved.iter().any(|m| m.ram_gib == ram_gib) {
            continue;
        }
        println!("{}", ram(ram_gib));
        for (_, title, of) in FIGURES {
            print!("  {title:<66}");
            for listed in [false, true] {
                let cell = all.spread(ram_gib, listed, of).map(table::shown);
                print!("{:>28}", cell.unwrap_or("-".into()));
            }
            println!();
        }
    }
    if let Some(why) = &all.left_out {
        println!("\n{why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_digits_as_they_need() {
        let shares = [1.0, 10.0, 1000.0, 2345.0, 100_000.0, 1_000_000.0];
        let texts = ["0.0001 %", "0.001 %", "0.1 %", "0.23 %", "10 %", "100 %"];
        assert_eq!(shares.map(percent), texts);
        assert_eq!([4, 256, 4096].map(ram), ["4 GiB", "256 GiB", "4 TiB"]);
        assert_eq!(
            [1234.0, 12_340.0, 1_234_000.0].map(us),
            ["1.23", "12.3", "1234"]
        );
    }
}
