// SPDX-License-Identifier: GPL-2.0-or-later
//! The results as a part of the page of plots.

use guest::Result;

use crate::dirty::Dirty;
use crate::dirty::migration::{FIGURES, RAM_GIB};
use crate::dirty::notes::{Threads, Way};
use crate::dirty::plan::Place;
use crate::dirty::table::{percent, ram};
use crate::figures::Spread;
use crate::plot::{self, Mark, Row};
use crate::report::{Line, html_table};
use crate::table;

/// Plots and tables of what was measured.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn of(dirty: &Dirty) -> Result<String> {
    let mut body = String::from("<h2>To find the pages that a guest wrote</h2>\n");
    for place in Place::ALL {
        let mine = dirty.rounds.iter().filter(|r| r.case.place == place);
        let row = |round: &crate::dirty::rounds::Round| Row {
            name: format!(
                "{}, {} dirty",
                ram(round.case.ram_gib),
                percent(round.case.ppm as f64)
            ),
            marks: vec![mark(0, round.scan_ns()), mark(1, round.list_ns())],
        };
        let rows: Vec<Row> = mine.map(row).collect();
        if !rows.is_empty() {
            body += &format!(
                "<h3>A round by bitmaps of the size of the machine, and by list: {}</h3>\n",
                place.title()
            );
            body += &plot::rows(&rows, &["scan", "list"], "us", 0.1)?;
        }
    }
    if !dirty.notes.is_empty() {
        let cells = |way: Way| {
            let ns = Threads::ALL.map(|threads| {
                let mut all = dirty.notes.iter();
                let note = all.find(|n| (n.way, n.threads) == (way, threads))?;
                Some(table::shown(note.ns))
            });
            (way.name().to_string(), ns.to_vec())
        };
        let head = Threads::ALL.map(|threads| threads.name().to_string());
        html_table(
            &mut body,
            "ns a note of a page",
            &head,
            Way::ALL.into_iter().map(cells),
        );
    }
    if !dirty.migrations.moved.is_empty() {
        let head = ["without the list", "with it"].map(String::from);
        let lines = RAM_GIB.into_iter().flat_map(|ram_gib| {
            FIGURES.map(|(_, title, of)| -> Line {
                let cell = |listed| {
                    dirty
                        .migrations
                        .spread(ram_gib, listed, of)
                        .map(table::shown)
                };
                let name = format!("{}, {}", ram(ram_gib), title.trim());
                (name, vec![cell(false), cell(true)])
            })
        });
        html_table(&mut body, "a migration by QEMU, us", &head, lines);
    }
    Ok(body)
}

/// In microseconds.
fn mark(series: usize, ns: Spread) -> Mark {
    Mark {
        series,
        ends: (ns.least / 1000.0, ns.most / 1000.0),
        at: ns.median / 1000.0,
    }
}
