//! The picture: what is held and what a step takes over the steps, with the ends of cycles.

use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::{CYCLE, Row, font, least};

const WIDTH: u32 = 1000;
const PANEL: u32 = 250;
const HEAD: u32 = 70;
const GREY: RGBColor = RGBColor(90, 90, 90);
const COLOUR: RGBColor = RGBColor(31, 90, 180);

/// A panel: its title, how many steps are a point, and what it shows of them.
type Panel = (&'static str, usize, fn(&[Row]) -> f64);

const PANELS: [Panel; 4] = [
    ("device memory, MB", 20, |rows| highest(rows, |row| row.allocated as f64 / 1e6)),
    ("bind groups held", 20, |rows| highest(rows, |row| row.bind_groups as f64)),
    ("memory of the process, MB", 20, |rows| highest(rows, |row| row.resident.unwrap_or(0) as f64 / 1e6)),
    ("host, ms a step, the least of a cycle", CYCLE, |rows| least(rows, |row| row.host_ms)),
];

fn highest(rows: &[Row], of: impl Fn(&Row) -> f64) -> f64 {
    rows.iter().map(of).fold(0.0, f64::max)
}

pub fn draw(path: &Path, rows: &[Row], adapter: &str) -> Result<()> {
    font::register()?;
    let size = (WIDTH, HEAD + PANEL * PANELS.len() as u32);
    let root = BitMapBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, rest) = root.split_vertically(HEAD);
    let title = format!("{} steps, in cycles of {CYCLE} in which the kept length rises and falls", rows.len());
    head.draw_text(&title, &("sans-serif", 22).into_font().color(&BLACK), (70, 12))?;
    head.draw_text(adapter, &("sans-serif", 13).into_font().color(&GREY), (70, 44))?;
    for (area, panel) in rest.split_evenly((PANELS.len(), 1)).iter().zip(PANELS) {
        draw_panel(area, panel, rows)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(area: &DrawingArea<BitMapBackend<'_>, Shift>, (title, together, of): Panel, rows: &[Row]) -> Result<()> {
    let points: Vec<(f64, f64)> =
        rows.chunks(together).enumerate().map(|(i, rows)| ((i * together) as f64, of(rows))).collect();
    let top = points.iter().map(|point| point.1).fold(0.0, f64::max).max(1e-9);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(40)
        .caption(title, ("sans-serif", 16))
        .x_label_area_size(28)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..rows.len() as f64, 0.0..1.1 * top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .label_style(("sans-serif", 14).into_font().color(&GREY))
        .x_label_formatter(&|v| format!("{v:.0}"))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(GREY)
        .draw()?;
    let ends = (1..=rows.len() / CYCLE).map(|number| (number * CYCLE) as f64);
    chart.draw_series(ends.map(|x| PathElement::new([(x, 0.0), (x, 1.1 * top)], RGBColor(235, 235, 235))))?;
    chart.draw_series(LineSeries::new(points, COLOUR.stroke_width(2)))?;
    Ok(())
}
