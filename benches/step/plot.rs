//! The picture of `--ltd-blocks`: t(R)/t(T) and the ratio of operations over R/T, a panel for each case.

use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::font;
use crate::ltd_blocks::{CaseReport, Length, Report, flop_ratio};

const WIDTH: u32 = 900;
const PANEL: u32 = 520;
const GREY: RGBColor = RGBColor(90, 90, 90);
/// A line: its name, its colour, and what it shows of each length.
type Series = (&'static str, RGBColor, fn(&Length) -> f64);

const SERIES: [Series; 3] = [
    ("forward", RGBColor(31, 90, 180), |l| l.forward_ratio),
    ("backward", RGBColor(214, 96, 20), |l| l.backward_ratio),
    ("both", RGBColor(20, 20, 20), |l| l.both_ratio),
];

pub fn draw(path: &Path, report: &Report) -> Result<()> {
    font::register()?;
    let size = (WIDTH, PANEL * report.cases.len() as u32);
    let root = BitMapBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, case) in root.split_evenly((report.cases.len(), 1)).iter().zip(&report.cases) {
        panel(area, case, &report.adapter)?;
    }
    root.present()?;
    Ok(())
}

fn panel(area: &DrawingArea<BitMapBackend<'_>, Shift>, case: &CaseReport, adapter: &str) -> Result<()> {
    let title = format!("LTD blocks, {} ({} tokens, {} wide)", case.case, case.tokens, case.width);
    let (title_area, rest) = area.split_vertically(64);
    title_area.draw_text(&title, &("sans-serif", 22).into_font().color(&BLACK), (70, 12))?;
    title_area.draw_text(adapter, &("sans-serif", 13).into_font().color(&GREY), (70, 42))?;
    let highest = case.lengths.iter().flat_map(|l| SERIES.map(|(_, _, ratio)| ratio(l))).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&rest)
        .margin(14)
        .x_label_area_size(38)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..1.04, 0.0..1.04 * highest)?;
    chart
        .configure_mesh()
        .x_desc("R/T")
        .y_desc("t(R)/t(T)")
        .label_style(("sans-serif", 15).into_font().color(&GREY))
        .axis_desc_style(("sans-serif", 15).into_font().color(&GREY))
        .x_label_formatter(&|v| format!("{v:.1}"))
        .y_label_formatter(&|v| format!("{v:.1}"))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(GREY)
        .draw()?;
    let (tokens, width) = (case.tokens as f64, case.width as f64);
    let operations = (0..=10).map(|i| f64::from(i) / 10.0).map(|x| (x, flop_ratio(x * tokens, tokens, width)));
    let grey = RGBColor(150, 150, 150).stroke_width(2);
    let line = chart.draw_series(LineSeries::new(operations, grey))?;
    line.label("floating-point operations").legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], grey));
    for (name, colour, ratio) in SERIES {
        let mut points: Vec<(f64, f64)> = case.lengths.iter().map(|l| (l.share, ratio(l))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let style = colour.mix(0.8).stroke_width(2);
        let line = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        line.label(name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(225, 225, 225))
        .draw()?;
    Ok(())
}
