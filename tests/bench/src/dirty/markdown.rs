// SPDX-License-Identifier: GPL-2.0-or-later
//! The results as tables of docs/benchmarks.md.

use crate::cost;
use crate::dirty::Dirty;
use crate::dirty::migration::{FIGURES, Migrations, RAM_GIB};
use crate::dirty::notes::{Note, Threads, Way};
use crate::dirty::plan::{AIM, Place, RAM_GIB as ALL_RAM_GIB, SHARES_PPM};
use crate::dirty::rounds::Round;
use crate::dirty::scan::Scan;
use crate::dirty::table::{aim_lines, crossover, percent, ram, series, us};
use crate::markdown::{NONE, head, row};

/// Adds tables of what was measured.
pub fn tables(text: &mut String, dirty: &Dirty) {
    if !dirty.rounds.is_empty() {
        times(text, &dirty.rounds);
        details(text, &dirty.rounds);
        aim_lines(&dirty.rounds).iter().for_each(|line| {
            *text += "\n";
            *text += line;
            *text += "\n";
        });
    }
    if !dirty.notes.is_empty() {
        notes(text, &dirty.notes);
    }
    if !dirty.migrations.moved.is_empty() {
        migrations(text, &dirty.migrations);
    }
}

fn few(value: f64) -> String {
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$}")
}

/// How many times as long the scan takes.
fn times(text: &mut String, all: &[Round]) {
    let shares = SHARES_PPM.map(|ppm| percent(ppm as f64));
    let mut columns = vec!["scan / list", "dirty pages"];
    columns.extend(shares.iter().map(String::as_str));
    columns.push("equal at");
    head(text, &columns);
    for place in Place::ALL {
        for ram_gib in ALL_RAM_GIB {
            let series = series(all, ram_gib, place);
            if series.is_empty() {
                continue;
            }
            let mut cells = vec![ram(ram_gib), place.name().to_string()];
            cells.extend(SHARES_PPM.map(|ppm| {
                let round = series.iter().find(|r| r.case.ppm == ppm);
                round.map_or(NONE.into(), |r| few(r.times()))
            }));
            cells.push(crossover(&series));
            row(text, &cells);
        }
    }
}

/// Times and memory of the guest that the aim is about.
fn details(text: &mut String, all: &[Round]) {
    let (ram_gib, ..) = AIM;
    let scattered = series(all, ram_gib, Place::Scattered);
    let Some(first) = scattered.first() else {
        return;
    };
    let title = format!("{}, a round, us", ram(ram_gib));
    let columns = [
        &title,
        "pages",
        "scan",
        "list, scattered",
        "the same pages",
        "runs",
        "the list's memory, scattered",
        "runs",
    ];
    head(text, &columns);
    for round in &scattered {
        let ppm = round.case.ppm;
        let of = |place| {
            let series = series(all, ram_gib, place);
            series.into_iter().find(|r| r.case.ppm == ppm)
        };
        let list = |place| of(place).map_or(NONE.into(), |r| us(r.list_ns().median));
        let bytes = |place| of(place).map_or(NONE.into(), |r| cost::bytes(r.list_bytes.1 as f64));
        let mut cells = vec![percent(ppm as f64), round.case.count().to_string()];
        cells.push(us(round.scan_ns().median));
        cells.extend(Place::ALL.map(list));
        cells.extend([bytes(Place::Scattered), bytes(Place::Runs)]);
        row(text, &cells);
    }
    let bitmaps = cost::bytes(Scan::bytes(first.case.ram_pages()) as f64);
    *text += &format!("\nThe three bitmaps of the scan take {bitmaps}.\n");
}

fn notes(text: &mut String, all: &[Note]) {
    let mut columns = vec!["ns a note of a page"];
    columns.extend(Threads::ALL.map(Threads::name));
    head(text, &columns);
    for way in Way::ALL {
        let mut cells = vec![way.name().to_string()];
        cells.extend(Threads::ALL.map(|threads| {
            let note = all.iter().find(|n| (n.way, n.threads) == (way, threads));
            note.map_or(NONE.into(), |note| format!("{:.1}", note.ns.median))
        }));
        row(text, &cells);
    }
}

fn migrations(text: &mut String, all: &Migrations) {
    head(
        text,
        &[
            "migration by QEMU, us",
            "guest RAM",
            "without the list",
            "with it",
        ],
    );
    for (_, title, of) in FIGURES {
        for ram_gib in RAM_GIB {
            let cell = |listed| {
                let spread = all.spread(ram_gib, listed, of);
                spread.map_or(NONE.into(), |s| format!("{:.0}", s.median))
            };
            let title = title.trim().to_string();
            row(text, &[title, ram(ram_gib), cell(false), cell(true)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::plan::Case;

    #[test]
    fn every_row_has_as_many_cells_as_the_head() {
        let (ram_gib, ppm, _) = AIM;
        let case = |place| Case {
            ram_gib,
            ppm,
            place,
        };
        let round = |place| Round {
            case: case(place),
            scan: vec![[1e6; 4]],
            list: vec![[1e3; 3]],
            list_bytes: (1 << 20, 2 << 20),
        };
        let mut text = String::new();
        let dirty = Dirty {
            rounds: vec![round(Place::Scattered), round(Place::Runs)],
            ..Dirty::default()
        };
        tables(&mut text, &dirty);
        for table in text.split("\n\n").filter(|part| part.contains('|')) {
            let lines = table.lines().filter(|line| line.starts_with('|'));
            let counts: Vec<usize> = lines.map(|line| line.matches('|').count()).collect();
            assert!(counts.iter().all(|count| *count == counts[0]), "{table}");
        }
        assert!(
            text.contains("| 1 TiB | scattered | - | 1333 | - |"),
            "{text}"
        );
        assert!(
            text.contains("scan 4000 us, list 3.00 us, 1333.3 times"),
            "{text}"
        );
    }
}
