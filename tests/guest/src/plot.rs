// SPDX-License-Identifier: GPL-2.0-or-later
//! A drawing of host memory and guest memory over time.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::{Error, MIB, Result};

const SIZE: (u32, u32) = (960, 540);
const GUEST: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const HOST: RGBColor = RGBColor(0xc8, 0x4b, 0x16);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const FONT: &str = "sans-serif";

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Since the start.
    pub seconds: f64,
    /// The guest's size in bytes, as the balloon device reports it.
    pub guest: u64,
    /// Host memory behind the guest's RAM in bytes.
    pub resident: u64,
}

/// All measurements, in order of time.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// The measurements.
    pub samples: Vec<Sample>,
    /// When each step began, and its name.
    pub marks: Vec<(f64, &'static str)>,
}

/// Writes `series` to `path` as SVG.
///
/// # Errors
/// When there is nothing to draw or the file cannot be written.
pub fn draw(path: &Path, series: &Series) -> Result<()> {
    let text = svg(series).map_err(|e| Error::Tool(format!("cannot draw: {e}")))?;
    std::fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
}

type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn svg(series: &Series) -> Drawn<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        draw_on(&root, series)?;
        root.present()?;
    }
    Ok(text)
}

fn draw_on(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    series: &Series,
) -> Drawn<()> {
    let last = series.samples.last().ok_or("nothing was measured")?;
    let most = series.samples.iter().map(|s| s.guest.max(s.resident)).max();
    // Room above the lines for the names of the steps.
    let top = mib(most.unwrap_or(MIB)) * 1.28;
    let mut chart = ChartBuilder::on(root)
        .margin(16)
        .caption(
            "A Linux guest gives memory back to the host",
            (FONT, 20).into_font().color(&INK),
        )
        .x_label_area_size(44)
        .y_label_area_size(68)
        .build_cartesian_2d(0.0..last.seconds, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 14).into_font().color(&INK))
        .x_desc("time in seconds")
        .y_desc("memory in MiB")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .y_labels(8)
        .draw()?;
    for (number, &(from, name)) in series.marks.iter().enumerate() {
        let line = vec![(from, 0.0), (from, top)];
        chart.draw_series(DashedLineSeries::new(line, 3, 4, GRID.stroke_width(1)))?;
        let label = (FONT, 13).into_font().color(&INK);
        let label = label.pos(Pos::new(HPos::Left, VPos::Top));
        // Alternating heights: two short steps next to each other stay readable.
        let height = top * (0.99 - 0.05 * (number % 3) as f64);
        let beside = from + last.seconds * 0.005;
        chart.draw_series([Text::new(name, (beside, height), label)])?;
    }
    let guest = series.samples.iter().map(|s| (s.seconds, mib(s.guest)));
    chart
        .draw_series(LineSeries::new(guest, GUEST.stroke_width(3)))?
        .label("the guest's memory")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 24, y)], GUEST.stroke_width(3)));
    let host = series.samples.iter().map(|s| (s.seconds, mib(s.resident)));
    chart
        .draw_series(LineSeries::new(host, HOST.stroke_width(3)))?
        .label("host memory behind it (resident)")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 24, y)], HOST.stroke_width(3)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .legend_area_size(34)
        .margin(12)
        .label_font((FONT, 14).into_font().color(&INK))
        .background_style(WHITE.mix(0.9))
        .border_style(GRID)
        .draw()?;
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_has_axes_with_units_and_a_legend() {
        let sample = |seconds, resident| Sample {
            seconds,
            guest: 512 * MIB,
            resident,
        };
        let series = Series {
            samples: vec![sample(0.0, MIB), sample(1.0, 300 * MIB)],
            marks: vec![(0.5, "a step")],
        };
        let text = svg(&series).unwrap();
        for part in ["seconds", "MiB", "a step", "resident", "</svg>"] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    }

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(svg(&Series::default()).is_err());
    }
}
