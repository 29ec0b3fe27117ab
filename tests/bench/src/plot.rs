// SPDX-License-Identifier: GPL-2.0-or-later
//! Plots: one row for each case; in it one mark for each device on a logarithmic scale, or one bar
//! for each.
//!
//! The page that shows them replaces the colours by others where it is dark; see
//! [`crate::report`]. No two devices differ by colour alone.

use guest::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The colours of devices, in their order: those of Okabe and Ito, which nobody confuses.
pub const COLOURS: [RGBColor; 6] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    INK,
];
/// Text and axes.
pub const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Lines behind the marks.
pub const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

const WIDTH: u32 = 1000;
const ROW: u32 = 34;
const LEFT: u32 = 330;
const TOP: u32 = 34;
const BOTTOM: u32 = 46;
/// Height of a bar with the space to the next.
const BAR: u32 = 20;
const BAR_GAP: u32 = 14;
/// Room for what is written at the end of a bar.
const BAR_TEXT: u32 = 190;
/// The colour of the one whose bars are full; those of others are only drawn around.
const FULL: usize = 1;
const FONT: &str = "sans-serif";

/// What one device got in one row.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// Which one: an index into the names of all series.
    pub series: usize,
    /// The ends of the line.
    pub ends: (f64, f64),
    /// Where the mark is.
    pub at: f64,
}

/// A row of marks.
#[derive(Debug, Clone)]
pub struct Row {
    /// On its left.
    pub name: String,
    /// Its marks.
    pub marks: Vec<Mark>,
}

/// Draws `rows` as SVG; values below `least` are drawn there.
///
/// # Errors
/// When there is nothing to draw.
pub fn rows(rows: &[Row], series: &[&str], unit: &str, least: f64) -> Result<String> {
    let height = TOP + ROW * rows.len() as u32 + BOTTOM;
    svg(height, |root| draw(root, rows, (series, unit, least)))
}

/// Draws `rows` as bars that begin at zero, each with its device and its value at the end. A
/// series is a device's name and the number of its colour in [`COLOURS`].
///
/// # Errors
/// When it cannot be drawn.
pub fn bars(rows: &[Row], series: &[(&str, usize)], unit: &str) -> Result<String> {
    let bars: u32 = rows.iter().map(|row| row.marks.len() as u32).sum();
    let height = 2 * BAR_GAP + bars * BAR + rows.len() as u32 * BAR_GAP;
    svg(height, |root| draw_bars(root, rows, series, unit))
}

fn svg(height: u32, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        let drawn = draw(&root);
        drawn.map_err(|e| Error::Tool(format!("cannot draw: {e}")))?;
        let ended = root.present();
        ended.map_err(|e| Error::Tool(format!("cannot draw: {e}")))?;
    }
    // The page sets the width; the height follows.
    let size = format!("width=\"{WIDTH}\" height=\"{height}\"");
    Ok(text.replacen(&size, "role=\"img\"", 1))
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(root: &Area<'_>, rows: &[Row], (series, unit, least): (&[&str], &str, f64)) -> Drawn {
    let marks = || rows.iter().flat_map(|row| &row.marks);
    let most = marks().map(|mark| mark.ends.1).fold(least * 10.0, f64::max);
    let bottom = 0.5 - rows.len() as f64;
    let mut chart = ChartBuilder::on(root)
        .margin_top(TOP)
        .margin_right(20)
        .x_label_area_size(BOTTOM)
        .margin_left(LEFT)
        .build_cartesian_2d((least..most * 1.5).log_scale(), bottom..0.5)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 14).into_font().color(&INK))
        .x_desc(unit)
        .x_label_formatter(&|x| format!("{x}"))
        .draw()?;
    // Beside each other in a row, so that none hides another.
    let step = 0.7 / series.len() as f64;
    let place = |row: usize, mark: &Mark| {
        if rows[row].marks.len() == 1 {
            return -(row as f64);
        }
        -(row as f64) - (mark.series as f64 - (series.len() - 1) as f64 / 2.0) * step
    };
    for (number, row) in rows.iter().enumerate() {
        let (_, y) = chart
            .plotting_area()
            .map_coordinate(&(least, -(number as f64)));
        let style = label().pos(Pos::new(HPos::Right, VPos::Center));
        root.draw(&Text::new(row.name.clone(), (LEFT as i32 - 12, y), style))?;
        for mark in &row.marks {
            let colour = COLOURS[mark.series % COLOURS.len()];
            let (from, to) = (mark.ends.0.max(least), mark.ends.1.max(least));
            let y = place(number, mark);
            let line = vec![(from, y), (to, y)];
            chart.draw_series([PathElement::new(line, colour.stroke_width(2))])?;
            let (x, y) = chart
                .plotting_area()
                .map_coordinate(&(mark.at.max(least), y));
            shape(root, mark.series, (x, y))?;
        }
    }
    let mut x = LEFT as i32;
    for (number, name) in series.iter().enumerate() {
        shape(root, number, (x + 6, 14))?;
        let style = label().pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new((*name).to_string(), (x + 16, 14), style))?;
        x += 40 + 8 * name.len() as i32;
    }
    Ok(())
}

fn draw_bars(root: &Area<'_>, rows: &[Row], series: &[(&str, usize)], unit: &str) -> Drawn {
    let marks = || rows.iter().flat_map(|row| &row.marks);
    let most = marks()
        .map(|mark| mark.ends.1)
        .fold(f64::MIN_POSITIVE, f64::max);
    let left = LEFT as i32;
    let width = f64::from(WIDTH - LEFT - BAR_TEXT);
    let x = |value: f64| left + (value.max(0.0) / most * width).round() as i32;
    let beside = |at| label().pos(Pos::new(at, VPos::Center));
    let half = BAR as i32 / 2 - 3;
    let top = BAR_GAP as i32;
    let mut y = top + BAR as i32 / 2;
    for row in rows {
        let middle = y + (row.marks.len() as i32 - 1) * BAR as i32 / 2;
        let name = Text::new(row.name.clone(), (left - 12, middle), beside(HPos::Right));
        root.draw(&name)?;
        for mark in &row.marks {
            let (device, colour) = series[mark.series];
            let rgb = COLOURS[colour % COLOURS.len()];
            let style = match colour {
                FULL => rgb.filled(),
                _ => rgb.stroke_width(2),
            };
            root.draw(&Rectangle::new(
                [(left, y - half), (x(mark.at), y + half)],
                style,
            ))?;
            let (from, to) = (x(mark.ends.0), x(mark.ends.1));
            // The spread, in the colour of text: it is seen on a full bar, too.
            let line = PathElement::new(vec![(from, y), (to, y)], INK.stroke_width(1));
            root.draw(&line)?;
            let digits = if mark.at.abs() < 100.0 { 1 } else { 0 };
            let text = format!("{device} {:.digits$} {unit}", mark.at);
            let end = x(mark.at).max(to) + 8;
            root.draw(&Text::new(text, (end, y), beside(HPos::Left)))?;
            y += BAR as i32;
        }
        y += BAR_GAP as i32;
    }
    let axis = vec![(left, top / 2), (left, y - BAR as i32 / 2 - top / 2)];
    root.draw(&PathElement::new(axis, INK.stroke_width(1)))?;
    Ok(())
}

fn label() -> TextStyle<'static> {
    (FONT, 14).into_font().color(&INK)
}

/// The mark of a device: no two have the same.
fn shape(root: &Area<'_>, series: usize, at: (i32, i32)) -> Drawn {
    let colour = COLOURS[series % COLOURS.len()];
    let full = colour.filled();
    let (x, y) = at;
    let square = |r: i32| [(x - r, y - r), (x + r, y + r)];
    match series {
        0 => root.draw(&TriangleMarker::new(at, 6, full))?,
        1 => root.draw(&Circle::new(at, 5, full))?,
        2 => root.draw(&Circle::new(at, 4, colour.stroke_width(2)))?,
        3 => root.draw(&Rectangle::new(square(4), full))?,
        4 => root.draw(&Rectangle::new(square(4), colour.stroke_width(2)))?,
        _ => root.draw(&Cross::new(at, 5, colour.stroke_width(2)))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_names_its_rows_devices_and_unit() {
        let mark = |series| Mark {
            series,
            ends: (1.0, 30.0),
            at: 2.0,
        };
        let row = Row {
            name: "a row".into(),
            marks: (0..3).map(mark).collect(),
        };
        let text = rows(&[row], &["stock", "ours", "raw"], "ns/page", 0.5).unwrap();
        for part in [
            "a row", "stock", "ours", "raw", "ns/page", "#0072B2", "</svg>",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    }

    #[test]
    fn bars_say_whose_they_are_and_how_much() {
        let mark = |series, at| Mark {
            series,
            ends: (at, at),
            at,
        };
        let row = Row {
            name: "a row".into(),
            marks: vec![mark(0, 40.0), mark(1, 20.0)],
        };
        let text = bars(&[row], &[("stock", 0), ("ours", FULL)], "MiB").unwrap();
        for part in ["a row", "stock 40.0 MiB", "ours 20.0 MiB", "</svg>"] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        let widths = text.split("<rect ").skip(1);
        let widths = widths.filter_map(|rect| {
            let (_, rest) = rect.split_once("width=\"")?;
            rest.split_once('"')?.0.parse::<u32>().ok()
        });
        let widths: Vec<u32> = widths.collect();
        assert_eq!(widths.len(), 2);
        assert!(widths[0].abs_diff(2 * widths[1]) <= 2, "{widths:?}");
    }
}
