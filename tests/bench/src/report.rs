// SPDX-License-Identifier: GPL-2.0-or-later
//! The results as one page: plots, then tables. Nothing is fetched from elsewhere.

use std::fmt::Write;

use guest::Result;

use crate::cost::{self, Costs, fill, link, start};
use crate::dirty;
use crate::figures::{Case, RAW, Samples, Spread};
use crate::latency::Answers;
use crate::linux::{self, FIGURES, Run};
use crate::plan::{Backing, Device};
use crate::plot::{self, Mark, Row};
use crate::results::Results;
use crate::table;

/// Colours are variables. Those that the plots were drawn with are replaced by them.
const STYLE: &str = "
:root { color-scheme: light dark; --paper: #ffffff; --ink: #222222; --grid: #dddddd;
  --c0: #b34f00; --c1: #0072b2; --c2: #2f8fc4; --c3: #00805d; --c4: #a6548a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e6e6e6; --grid: #3a3f47;
    --c0: #ff9d5c; --c1: #5cb8f5; --c2: #a5d8f7; --c3: #3ddcae; --c4: #f0a6d2; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.45 sans-serif;
  max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { margin-top: 2.2em; } h3 { margin-bottom: .3em; }
svg { width: 100%; height: auto; }
.wide { overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid var(--grid);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
svg [fill='#222222'] { fill: var(--ink); } svg [stroke='#222222'] { stroke: var(--ink); }
svg [fill='#DDDDDD'] { fill: var(--grid); } svg [stroke='#DDDDDD'] { stroke: var(--grid); }
";

/// What is written for a value that is not there.
const NONE: &str = "-";

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(results: &Results) -> Result<String> {
    let mut style = STYLE.to_string();
    for (number, colour) in plot::COLOURS.iter().take(5).enumerate() {
        let (r, g, b) = (colour.0, colour.1, colour.2);
        let name = format!("#{r:02X}{g:02X}{b:02X}");
        for what in ["fill", "stroke"] {
            let _ = writeln!(
                style,
                "svg [{what}='{name}'] {{ {what}: var(--c{number}); }}"
            );
        }
    }
    let mut body = String::from("<h1>What the balloon costs</h1>\n<p>");
    let lines: Vec<String> = results.host.lines().iter().map(|l| escape(l)).collect();
    body += &lines.join("<br>\n");
    body += "</p>\n";
    if !results.device.0.is_empty() {
        device(&mut body, &results.device)?;
    }
    if !results.latency.is_empty() {
        latency(&mut body, &results.latency)?;
    }
    if !results.guest.is_empty() {
        guest(&mut body, &results.guest)?;
    }
    if !results.cost.is_empty() {
        cost(&mut body, &results.cost)?;
    }
    if !results.dirty.is_empty() {
        body += &dirty::page::of(&results.dirty)?;
    }
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>What the balloon costs</title>\n<style>{style}</style>\n</head>\n\
         <body>\n{body}</body>\n</html>\n"
    ))
}

fn device(body: &mut String, samples: &Samples) -> Result<()> {
    *body += "<h2>A page, on the device's side</h2>\n\
        <p>Processor time of QEMU's main thread for each page of 4 KiB, without a guest. \
        <b>raw</b> is the kernel's call alone, made for the same ranges. A line is the spread, \
        the mark is the median. The scale is logarithmic: less is better.</p>\n";
    let names: Vec<&str> = table::columns().collect();
    for backing in Backing::ALL {
        let cases: Vec<Case> = samples.cases();
        let mine: Vec<&Case> = cases.iter().filter(|c| c.backing == backing).collect();
        if mine.is_empty() {
            continue;
        }
        let row = |case: &&Case| {
            let spread = |name: &&str| samples.spread(**case, name, |s| Some(s.cpu_ns));
            let marks = names.iter().enumerate();
            let marks = marks.filter_map(|(n, name)| Some(mark(n, spread(name)?)));
            Row {
                name: format!("{} {}", case.operation.name(), case.pattern.name()),
                marks: marks.collect(),
            }
        };
        let rows: Vec<Row> = mine.iter().map(row).collect();
        let _ = writeln!(body, "<h3>{}</h3>", title(backing));
        *body += &plot::rows(&rows, &names, "ns a page", 0.5)?;
        cells(body, samples, &mine);
    }
    Ok(())
}

fn title(backing: Backing) -> &'static str {
    match backing {
        Backing::Small => "Pages of 4 KiB",
        Backing::Thp => "Transparent huge pages",
        Backing::Hugetlb => "Reserved pages of 2 MiB (hugetlb)",
        Backing::Memfd => "A shared file in memory (memfd)",
    }
}

fn mark(series: usize, spread: Spread) -> Mark {
    Mark {
        series,
        ends: (spread.least, spread.most),
        at: spread.median,
    }
}

fn cells(body: &mut String, samples: &Samples, cases: &[&Case]) {
    let names = table::columns();
    let head = names.map(String::from);
    let ratios = ["stock / ours", "ours / raw", "freed: stock", "freed: ours"];
    let head: Vec<String> = head.chain(ratios.map(String::from)).collect();
    let row = |case: &&Case| {
        let case = **case;
        let of = |name| {
            samples
                .spread(case, name, |s| Some(s.cpu_ns))
                .map(table::shown)
        };
        let ratio = |over, under| samples.ratio(case, over, under).map(|r| format!("{r:.2}"));
        let freed = |device: Device| {
            let freed = samples.spread(case, device.name(), |s| s.freed)?;
            Some(format!("{:.0} %", 100.0 * freed.median))
        };
        let name = format!("{} {}", case.operation.name(), case.pattern.name());
        let mut row: Vec<Option<String>> = table::columns().map(of).collect();
        row.extend([ratio("stock", "ours"), ratio("ours", RAW)]);
        row.extend([freed(Device::Stock), freed(Device::Ours)]);
        (name, row)
    };
    html_table(body, "ns a page", &head, cases.iter().map(row));
}

fn latency(body: &mut String, all: &[Answers]) -> Result<()> {
    *body += "<h2>The main loop, while a guest does its worst</h2>\n\
        <p>How long QEMU's monitor takes to answer. The mark is at 99.9 % of the answers, \
        the line goes from the median to the longest. Stock is given less where it would take \
        minutes.</p>\n";
    let series = ["stock", "ours"];
    let stock = Device::Stock.name();
    let row = |answers: &Answers| {
        let ms = |part| answers.percentile_ms(part);
        let is_stock = answers.device == stock;
        Row {
            name: answers.title(),
            marks: vec![Mark {
                series: usize::from(!is_stock),
                ends: (ms(0.5), ms(1.0)),
                at: ms(0.999),
            }],
        }
    };
    let rows: Vec<Row> = all.iter().map(row).collect();
    *body += &plot::rows(&rows, &series, "ms", 0.01)?;
    let head = ["device", "p50", "p99", "p99.9", "longest", "answers"];
    let row = |answers: &Answers| {
        let ms = |part| Some(format!("{:.3}", answers.percentile_ms(part)));
        let name = answers.title();
        let device = Some(answers.device.to_string());
        let count = Some(answers.ns.len().to_string());
        let row = vec![device, ms(0.5), ms(0.99), ms(0.999), ms(1.0), count];
        (name, row)
    };
    html_table(body, "ms", &head.map(String::from), all.iter().map(row));
    Ok(())
}

/// Figures that are drawn together: what they are, their unit, and their names in files and
/// beside the bars.
type Group = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

/// What is drawn of `bench guest`.
const GUEST_PLOTS: [Group; 4] = [
    (
        "Host memory behind the guest's",
        "MiB",
        &[
            ("resident_full_mib", "resident before"),
            ("resident_half_mib", "resident when inflated to half"),
            ("huge_before_mib", "in huge pages before"),
            ("huge_half_mib", "in huge pages when inflated"),
            ("huge_after_mib", "in huge pages when used again"),
        ],
    ),
    (
        "Time",
        "ms",
        &[
            ("inflate_ms", "inflate to half"),
            ("deflate_ms", "deflate"),
            ("reuse_ms", "use it again"),
        ],
    ),
    (
        "Processor time of QEMU without the guest's own",
        "ms",
        &[
            ("inflate_cpu_ms", "inflate to half"),
            ("deflate_cpu_ms", "deflate"),
        ],
    ),
    (
        "Page faults of QEMU on reuse",
        "",
        &[("reuse_faults", "use it again")],
    ),
];

fn guest(body: &mut String, runs: &[Run]) -> Result<()> {
    *body += "<h2>A Linux guest of 2 GiB</h2>\n\
        <p>It uses its memory, gives half of it away, takes it back and uses it again. Bars are \
        medians, the line in them is the spread.</p>\n";
    let devices = ["stock", "ours"];
    for (what, unit, names) in GUEST_PLOTS {
        let row = |(name, words): &(&str, &str)| {
            let index = FIGURES.iter().position(|(key, _)| key == name)?;
            let marks = devices.iter().enumerate();
            let marks = marks.filter_map(|(n, device)| {
                let spread = linux::spread(runs, device, index)?;
                Some(mark(n, spread))
            });
            Some(Row {
                name: (*words).into(),
                marks: marks.collect(),
            })
        };
        let rows: Vec<Row> = names.iter().filter_map(row).collect();
        let _ = writeln!(body, "<h3>{}</h3>", escape(what));
        *body += &plot::bars(&rows, &[("stock", 0), ("ours", 1)], unit)?;
    }
    let figures = FIGURES.iter().enumerate();
    let row = |(index, (_, name)): (usize, &(&str, &str))| {
        let cell = |device| linux::spread(runs, device, index).map(table::shown);
        (name.to_string(), devices.map(cell).to_vec())
    };
    html_table(body, "", &devices.map(String::from), figures.map(row));
    Ok(())
}

fn cost(body: &mut String, costs: &Costs) -> Result<()> {
    *body += "<h2>To have it at all</h2>\n";
    if !costs.starts.is_empty() {
        starts(body, costs)?;
    }
    if !costs.fills.is_empty() {
        *body += "<h3>Memory that QEMU takes in addition once pages were in the balloon</h3>\n\
            <p>With MUST_TELL_HOST ours knows which pages are in the balloon. \
            <b>its set alone</b> is what the set of these pages takes by the library's own \
            count.</p>\n";
        let series = [("stock", 0), ("ours", 1)];
        let row = |name: &str, of: &dyn Fn(&str) -> Option<Spread>| {
            let marks = series.iter().enumerate();
            Row {
                name: name.into(),
                marks: marks
                    .filter_map(|(n, (device, _))| Some(mark(n, of(device)?)))
                    .collect(),
            }
        };
        let mut rows = vec![row("it has worked", &|device| costs.working(device))];
        let filled = costs.ways();
        rows.extend(filled.map(|fill| row(fill.short, &|device| costs.filled(fill, device))));
        *body += &plot::bars(&rows, &series, "KiB")?;
        let cell = |spread: Option<Spread>| spread.map(table::shown);
        let mut lines = vec![(
            fill::WORKED.to_string(),
            vec![
                cell(costs.working("stock")),
                cell(costs.working("ours")),
                None,
                None,
                None,
            ],
        )];
        lines.extend(costs.ways().map(|fill| {
            let filled = |device| cell(costs.filled(fill, device));
            let set = format!("{:.0}", fill.set_bytes() as f64 / 1024.0);
            let ns = |device| {
                costs
                    .cpu_ns(fill, device)
                    .map(|s| format!("{:.0}", s.median))
            };
            let set = Some(set);
            let cells = vec![
                filled("stock"),
                filled("ours"),
                set,
                ns("stock"),
                ns("ours"),
            ];
            (fill.title.to_string(), cells)
        }));
        let head = ["stock", "ours", "its set alone", "ns a page: stock", "ours"].map(String::from);
        html_table(body, "KiB", &head, lines.into_iter());
    }
    if !costs.sets.is_empty() {
        let sets = costs.sets.iter();
        let sets = sets.map(|set| (set.title.into(), vec![Some(cost::bytes(set.bytes as f64))]));
        let head = ["by the library's own count".to_string()];
        html_table(
            body,
            "The set of pages for each TiB of guest RAM",
            &head,
            sets,
        );
    }
    match &costs.added {
        Some(Ok(added)) => {
            let _ = write!(
                body,
                "<h3>What it adds to the program</h3>\n<p>QEMU's link once more without these \
                 parts, all stripped; QEMU is {}.</p>\n",
                cost::bytes(added.whole)
            );
            let head = ["code", "data", "zeros", "sum"].map(String::from);
            let parts = [
                (link::LIBRARY, added.library),
                (link::GLUE, added.glue),
                ("both", added.both()),
            ];
            let row = |(name, part): (&str, link::Parts)| {
                let cells = [part.text, part.data, part.zeros, part.sum()];
                let cells = cells.map(|value| Some(cost::bytes(value)));
                (name.to_string(), cells.to_vec())
            };
            html_table(body, "", &head, parts.into_iter().map(row));
        }
        Some(Err(why)) => {
            let why = escape(why);
            let _ = writeln!(
                body,
                "<p>The size of the program was not measured: {why}</p>"
            );
        }
        None => {}
    }
    Ok(())
}

fn starts(body: &mut String, costs: &Costs) -> Result<()> {
    let series = [("none", 5), ("stock", 0), ("ours", 1)];
    for (what, unit, figure) in [
        ("From its start to the monitor's first answer", "ms", 0),
        ("Memory that QEMU wrote to, without the guest's", "KiB", 1),
    ] {
        let marks = series.iter().enumerate();
        let marks =
            marks.filter_map(|(n, (device, _))| Some(mark(n, costs.start(device, figure)?)));
        let row = Row {
            name: "QEMU just started".into(),
            marks: marks.collect(),
        };
        let _ = writeln!(body, "<h3>{}</h3>", escape(what));
        *body += &plot::bars(&[row], &series, unit)?;
    }
    let figures = start::FIGURES.iter().enumerate();
    let row = |(index, (_, name)): (usize, &(&str, &str))| {
        let cells = series.iter();
        let cells = cells.map(|(device, _)| costs.start(device, index).map(table::shown));
        let more = ["stock", "ours"].map(|device| costs.more(device, index));
        let more = more.map(|more| more.map(|value| format!("{value:+.1}")));
        (name.to_string(), cells.chain(more).collect())
    };
    let head = ["none", "stock", "ours", "stock adds", "ours adds"].map(String::from);
    html_table(body, "QEMU just started", &head, figures.map(row));
    Ok(())
}

/// What a line is about, and its cells.
pub(crate) type Line = (String, Vec<Option<String>>);

pub(crate) fn html_table(
    body: &mut String,
    corner: &str,
    head: &[String],
    rows: impl Iterator<Item = Line>,
) {
    let _ = write!(
        body,
        "<div class=\"wide\"><table><tr><th>{}</th>",
        escape(corner)
    );
    head.iter().for_each(|name| {
        let _ = write!(body, "<th>{}</th>", escape(name));
    });
    *body += "</tr>\n";
    for (name, cells) in rows {
        let _ = write!(body, "<tr><td>{}</td>", escape(&name));
        for cell in cells {
            let _ = write!(body, "<td>{}</td>", escape(cell.as_deref().unwrap_or(NONE)));
        }
        *body += "</tr>\n";
    }
    *body += "</table></div>\n";
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_figures_that_there_are_are_drawn() {
        let mut names = GUEST_PLOTS.iter().flat_map(|(_, _, names)| *names);
        assert!(names.all(|(name, _)| FIGURES.iter().any(|(key, _)| key == name)));
    }
}
