//! curves.png: loss, score and kept tokens over the steps, one line a run.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use super::canvas::{self, BLUE, Canvas, GREY, ORANGE, PALE};
use super::history::{History, Row};
use super::words::Score;

const SIZE: (u32, u32) = (1000, 1100);
/// For as many runs as a reader can tell apart.
const COLOURS: [RGBColor; 6] =
    [BLUE, ORANGE, RGBColor(34, 140, 80), RGBColor(150, 70, 160), RGBColor(150, 110, 30), RGBColor(20, 140, 150)];

/// One curve: a name, a colour, and points over steps.
struct Curve {
    name: String,
    colour: RGBColor,
    points: Points,
    /// Single measurements get dots, a line of every step does not.
    dots: bool,
}

/// By step.
type Points = Vec<(f64, f64)>;

/// Draws what has been measured so far; nothing if nothing has.
pub fn draw(path: &Path, history: &History, score: &Score) -> Result<()> {
    if history.rows.is_empty() {
        return Ok(());
    }
    canvas::register()?;
    let mut runs: Vec<&str> = history.rows.iter().map(|r| &*r.run).collect();
    runs.dedup();
    let each = |value: &dyn Fn(&[&Row]) -> Points, dots: bool| -> Vec<Curve> {
        let curve = |(i, run): (usize, &&str)| {
            let rows: Vec<&Row> = history.rows.iter().filter(|r| &*r.run == *run).collect();
            Curve { name: (*run).to_owned(), colour: COLOURS[i % COLOURS.len()], points: value(&rows), dots }
        };
        runs.iter().enumerate().map(curve).collect()
    };
    let root = BitMapBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((3, 1));
    let mut losses = each(&|rows| smoothed(rows, |r| r.loss.map(f64::from)), false);
    losses.extend(each(&|rows| measured(rows, |r| r.validation_loss), true));
    panel(&areas[0], "Loss: training, and validation (dots)", &losses, SeriesLabelPosition::UpperRight)?;
    let mut scores = each(&|rows| smoothed(rows, |r| score.shown(r.training())), false);
    scores.extend(each(&|rows| measured(rows, |r| score.shown(r.validation())), true));
    let title = format!("{}: training, and validation (dots)", score.title);
    panel(&areas[1], &title, &scores, SeriesLabelPosition::LowerRight)?;
    let kept = each(&stairs, false);
    panel(&areas[2], "Kept tokens R", &kept, SeriesLabelPosition::LowerRight)?;
    root.present()?;
    Ok(())
}

/// A running mean over a twentieth of the run, of what there is: a step that half precision left out has no loss.
fn smoothed(rows: &[&Row], value: impl Fn(&Row) -> Option<f64>) -> Vec<(f64, f64)> {
    let window = (rows.len() / 20).max(1);
    let mean = |i: usize| {
        let from = i.saturating_sub(window - 1);
        let values: Vec<f64> = rows[from..=i].iter().filter_map(|r| value(r)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    (0..rows.len()).filter_map(|i| Some((rows[i].step as f64, mean(i)?))).collect()
}

/// R as it is: constant until the step that changes it.
fn stairs(rows: &[&Row]) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::with_capacity(rows.len());
    for row in rows {
        let (step, kept) = (row.step as f64, row.kept as f64);
        if let Some(&(_, before)) = points.last().filter(|point| point.1 != kept) {
            points.push((step, before));
        }
        points.push((step, kept));
    }
    points
}

fn measured(rows: &[&Row], value: impl Fn(&Row) -> Option<f64>) -> Vec<(f64, f64)> {
    rows.iter().filter_map(|r| value(r).map(|v| (r.step as f64, v))).collect()
}

fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = ((high - low) * 0.06).max(1e-3 * high.abs()).max(1e-6);
    low - margin..high + margin
}

fn panel(area: &Canvas<'_>, title: &str, curves: &[Curve], legend: SeriesLabelPosition) -> Result<()> {
    let points = || curves.iter().flat_map(|c| &c.points);
    let steps = 0.0..points().map(|p| p.0).fold(1.0, f64::max);
    let values = range(points().map(|p| p.1));
    // Whole numbers where they tell the grid lines apart.
    let digits = if values.end - values.start > 8.0 { 0 } else { 2 };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 22).into_font().color(&BLACK))
        .margin(14)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(steps, values)?;
    chart
        .configure_mesh()
        .x_desc("optimiser step")
        .label_style(("sans-serif", 15).into_font().color(&GREY))
        .axis_desc_style(("sans-serif", 15).into_font().color(&GREY))
        .x_label_formatter(&|v| format!("{v:.0}"))
        .y_label_formatter(&|v| format!("{v:.digits$}"))
        .light_line_style(WHITE)
        .bold_line_style(PALE)
        .axis_style(GREY)
        .draw()?;
    for curve in curves {
        let style = curve.colour.mix(if curve.dots { 1.0 } else { 0.6 }).stroke_width(2);
        let line = chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
        let colour = curve.colour;
        if curve.dots {
            chart.draw_series(curve.points.iter().map(|&p| Circle::new(p, 4, colour.filled())))?;
        } else {
            line.label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        }
    }
    chart
        .configure_series_labels()
        .position(legend)
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.85))
        .border_style(PALE)
        .draw()?;
    Ok(())
}
