//! Curves of the training, and the device's time in the last frames.

use eframe::egui::{Color32, Ui, Vec2};
use egui_plot::{Corner, HLine, Legend, Line, Plot, PlotPoint, PlotPoints, PlotUi, Points};

use crate::curve::Curve;
use crate::progress::Progress;
use crate::times::{SHOWN, Share, Times, milliseconds, recent};

const PALE: Color32 = Color32::from_rgb(110, 130, 160);
const BLUE: Color32 = Color32::from_rgb(70, 140, 230);
const ORANGE: Color32 = Color32::from_rgb(235, 140, 50);
const GREEN: Color32 = Color32::from_rgb(90, 180, 110);

/// Space between two charts.
const GAP: f32 = 10.0;
const TITLE: f32 = 20.0;

/// Four charts, two and two.
pub fn show(ui: &mut Ui, height: f32, progress: &Progress, tokens: Option<usize>, times: &Times, budget: f32) {
    let size = Vec2::new((ui.available_width() - GAP) / 2.0, (height - GAP) / 2.0 - TITLE);
    ui.spacing_mut().item_spacing.x = GAP;
    ui.horizontal(|ui| {
        chart(
            ui,
            "Loss",
            Corner::RightTop,
            size,
            |plot| plot.include_y(0.0),
            |ui| {
                ui.line(line("each batch", &progress.loss, PALE).width(1.0));
                ui.line(line("smoothed", &progress.smooth_loss, BLUE));
            },
        );
        chart(ui, "Right answers, in percent", Corner::RightBottom, size, percent, |ui| {
            ui.line(line("while training", &progress.accuracy, BLUE));
            let points = PlotPoints::Borrowed(progress.examined.points());
            ui.line(line("pictures kept aside", &progress.examined, ORANGE));
            ui.points(Points::new("pictures kept aside", points).radius(2.5).color(ORANGE));
        });
    });
    ui.horizontal(|ui| {
        let all = tokens.unwrap_or_default() as f64;
        chart(
            ui,
            "Kept tokens R",
            Corner::RightBottom,
            size,
            |plot| plot.include_y(0.0).include_y(all),
            |ui| {
                ui.line(line("R", &progress.kept, GREEN));
                if tokens.is_some() {
                    ui.hline(HLine::new("all tokens", all).color(PALE).width(1.0));
                }
            },
        );
        let title = "Device time of training in each of the last frames, in ms";
        chart(
            ui,
            title,
            Corner::RightTop,
            size,
            |plot| plot.include_x(SHOWN as f64),
            |ui| {
                // One that took much longer leaves the chart, and the others can be told apart.
                ui.set_plot_bounds_y(0.0..=3.0 * f64::from(budget));
                ui.line(Line::new("taken", taken(times)).color(BLUE).width(1.0));
                ui.hline(HLine::new("budget", f64::from(budget)).color(ORANGE).width(1.5));
            },
        );
    });
}

fn percent(plot: Plot<'_>) -> Plot<'_> {
    plot.include_y(0.0).include_y(100.0)
}

fn line<'a>(name: &str, curve: &'a Curve, color: Color32) -> Line<'a> {
    Line::new(name, PlotPoints::Borrowed(curve.points())).color(color).width(1.8)
}

fn taken(times: &Times) -> PlotPoints<'static> {
    let point = |(frame, share): (usize, Share)| PlotPoint::new(frame as f64, milliseconds(share.taken));
    PlotPoints::Owned(recent(&times.shares).enumerate().map(point).collect())
}

/// One chart with its title. It shows what there is, and cannot be moved.
fn chart<'a>(
    ui: &mut Ui,
    title: &'a str,
    legend: Corner,
    size: Vec2,
    bounds: impl FnOnce(Plot<'a>) -> Plot<'a>,
    draw: impl FnOnce(&mut PlotUi<'a>) + 'a,
) {
    ui.vertical(|ui| {
        ui.strong(title);
        let plot = Plot::new(title)
            .width(size.x)
            .height(size.y)
            .allow_drag(false)
            .allow_zoom(false)
            .allow_scroll(false)
            .allow_boxed_zoom(false)
            .legend(Legend::default().position(legend))
            .include_x(0.0)
            .include_x(10.0);
        bounds(plot).show(ui, draw);
    });
}
