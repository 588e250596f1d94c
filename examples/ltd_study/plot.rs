//! The picture: accuracy against time, a point for each arm with the interval of its difference to full length.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::arms::{Arm, FULL, Kind};
use crate::costs::Costs;
use crate::font;
use crate::runs::Run;
use crate::study::results::of;
use crate::study::spread::Spread;
use crate::table::{share_of_full, to_full};

const SIZE: (u32, u32) = (1000, 640);
const GREY: RGBColor = RGBColor(90, 90, 90);

/// An arm's place in the picture.
struct Point {
    name: String,
    colour: RGBColor,
    /// Time over full length's.
    time: f64,
    /// Points of accuracy less full length's.
    difference: f64,
    half_width: f64,
}

fn colour(arm: &Arm) -> RGBColor {
    match arm.kind {
        _ if arm.adapters => RGBColor(20, 130, 90),
        Kind::Full { .. } => RGBColor(30, 30, 30),
        Kind::Probe { .. } => RGBColor(20, 130, 90),
        Kind::Ltd(_) => RGBColor(31, 90, 180),
        Kind::PatchDrop { .. } => RGBColor(214, 96, 20),
        Kind::LowResolution { .. } | Kind::SubBatch { .. } => RGBColor(120, 60, 160),
    }
}

pub fn draw(path: &Path, arms: &[Arm], runs: &[Run], costs: &Costs) -> Result<()> {
    font::register()?;
    let points: Vec<Point> =
        arms.iter().filter(|arm| !of(runs, arm.name).is_empty()).filter_map(|arm| point(arm, runs, costs)).collect();
    let low = points.iter().map(|p| p.difference - p.half_width).fold(-1.0, f64::min);
    let high = points.iter().map(|p| p.difference + p.half_width).fold(1.0, f64::max);
    let [fastest, slowest] = [f64::min, f64::max].map(|of| points.iter().map(|p| p.time).fold(1.0, of));
    let root = BitMapBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Test accuracy less full length's, against training time",
            ("sans-serif", 22).into_font().color(&BLACK),
        )
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(fastest - 0.06..slowest + 0.1, low - 0.3..high + 0.3)?;
    chart
        .configure_mesh()
        .x_desc("time over full length's")
        .y_desc("points; bars: 95 % of the mean")
        .label_style(("sans-serif", 15).into_font().color(&GREY))
        .axis_desc_style(("sans-serif", 15).into_font().color(&GREY))
        .x_label_formatter(&|v| format!("{v:.1}"))
        .y_label_formatter(&|v| format!("{v:.1}"))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(GREY)
        .draw()?;
    for (i, Point { name, colour, time, difference, half_width }) in points.iter().enumerate() {
        // Arms of the same time would lie on each other.
        let time = time + 0.004 * (i % 3) as f64;
        let bar = [(time, difference - half_width), (time, difference + half_width)];
        chart.draw_series(LineSeries::new(bar, colour.stroke_width(2)))?;
        chart.draw_series([Circle::new((time, *difference), 5, colour.filled())])?;
        let font = ("sans-serif", 14).into_font().color(colour);
        let font = font.pos(Pos::new(HPos::Left, VPos::Center));
        chart.draw_series([Text::new(name.clone(), (time + 0.008, *difference), font)])?;
    }
    root.present()?;
    Ok(())
}

/// None for an arm that is not timed.
fn point(arm: &Arm, runs: &[Run], costs: &Costs) -> Option<Point> {
    let spread = Spread::of(&to_full(runs, arm.name));
    let half_width = if arm.name == FULL { 0.0 } else { spread.half_width().unwrap_or_default() };
    let difference = if spread.mean.is_nan() { 0.0 } else { spread.mean };
    let time = share_of_full(arm, costs)?;
    Some(Point { name: arm.name.to_owned(), colour: colour(arm), time, difference, half_width })
}
