//! What a run that nobody watches leaves: its report, and a picture of its last frame.

use std::path::Path;

use anyhow::{Context, Result};
use eframe::egui::ColorImage;
use serde::Serialize;
use wgrad::Gpu;

use crate::asking::Mark;
use crate::progress::Progress;
use crate::times::{Summary, Times, milliseconds};

/// The report. Times are in milliseconds, and those of the frames in which the model learnt.
#[derive(Debug, Serialize)]
pub struct Report {
    adapter: String,
    budget: f32,
    steps: u64,
    smooth_loss: Option<f64>,
    examined: Option<Examined>,
    summary: Summary,
    frames: Vec<f64>,
    own: Vec<f64>,
    slices: Vec<Slice>,
}

#[derive(Debug, Serialize)]
struct Slice {
    expected: f64,
    taken: f64,
}

#[derive(Debug, Serialize)]
struct Examined {
    steps: u64,
    loss: f64,
    accuracy: f64,
}

impl Report {
    pub fn new(gpu: &Gpu, budget: f32, steps: u64, progress: &Progress, mark: Option<&Mark>, times: &Times) -> Self {
        Report {
            adapter: gpu.info().to_string(),
            budget,
            steps,
            smooth_loss: progress.smooth_loss.last(),
            examined: mark.map(|&Mark { steps, loss, accuracy }| Examined { steps, loss, accuracy }),
            summary: Summary::all(times),
            frames: times.frames.iter().copied().map(milliseconds).collect(),
            own: times.own.iter().copied().map(milliseconds).collect(),
            slices: times
                .slices
                .iter()
                .map(|slice| Slice { expected: milliseconds(slice.expected), taken: milliseconds(slice.took) })
                .collect(),
        }
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }
}

/// Saves a frame as a PNG.
pub fn write_screenshot(file: &Path, frame: &ColorImage) -> Result<()> {
    let [width, height] = frame.size.map(|side| side as u32);
    let bytes = frame.as_raw();
    image::save_buffer_with_format(file, bytes, width, height, image::ExtendedColorType::Rgba8, image::ImageFormat::Png)
        .with_context(|| format!("writing {}", file.display()))
}
