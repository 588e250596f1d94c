//! What training would take, without doing it.

use anyhow::Result;
use serde::Serialize;
use wgrad::nn::Precision;
use wgrad::train::StepUse;
use wgrad::{Gpu, train};

use crate::speed::{Speed, VITS, vit};
use crate::steps::settings;

/// Samples a step.
pub const BATCH: usize = 32;
/// Pictures that the time is for.
pub const PICTURES: usize = 10_000;

/// Finetuning at 224×224, in the device's own precision, at full length.
#[derive(Serialize)]
pub struct Forecast {
    pub model: &'static str,
    /// Device memory at its peak.
    pub bytes: u64,
    /// The same where blocks are computed again in backward.
    pub bytes_recomputing: u64,
    /// For so many pictures, at the rate of the largest model that was timed.
    pub minutes: f64,
    /// Whether it fits in what is free, where the system tells.
    pub fits: Option<bool>,
}

pub fn all(gpu: &Gpu, speed: &Speed) -> Result<Vec<Forecast>> {
    let free = train::available_memory(gpu);
    let rate = |model: &str| {
        let full = vit(VITS[0].1).extent().tokens;
        let timed = speed.steps.iter().filter(|step| step.kept == full);
        let own = timed.clone().find(|step| step.model == model);
        own.or(timed.clone().next_back()).map_or(f64::NAN, |step| step.gflop_s * 1e9)
    };
    let forecast = |(model, sizes): (&'static str, [usize; 3])| -> Result<Forecast> {
        let rehearsed = |recompute| vit(sizes).rehearsed(gpu, BATCH, settings(Precision::auto(gpu), recompute)?, None);
        let plain = rehearsed(false)?;
        let flops = plain.steps.iter().map(StepUse::flops).max().unwrap_or_default() as f64;
        let bytes = plain.memory.with_evaluation();
        let bytes_recomputing = rehearsed(true)?.memory.with_evaluation();
        let minutes = flops / rate(model) * (PICTURES as f64 / BATCH as f64) / 60.0;
        Ok(Forecast { model, bytes, bytes_recomputing, minutes, fits: free.map(|free| bytes <= free) })
    };
    VITS.into_iter().map(forecast).collect()
}
