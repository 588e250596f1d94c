//! `layer_token_lr_schedule`: DeepSpeed has its keys, and refuses to work by them.

use super::choice;
use super::section::Section;
use crate::error::Result;
use crate::ltd::{RandomLtd, TokenDrop};
use crate::nn::Extent;
use crate::optim::{AfterWarmup, DeepSpeedRate, LayerTokenRate, LrSchedule, LrShape};

/// The section's keys, where it is enabled.
#[derive(Clone, Copy)]
pub(super) struct LayerToken {
    /// `total_layer_tokens` and `warmup_layer_tokens`.
    tokens: Option<(u64, u64)>,
    /// The full length: `max_value` of random-LTD's schedule.
    full: usize,
}

impl LayerToken {
    pub(super) fn read(section: &Section<'_>, full: usize) -> Result<Option<Self>> {
        let total = section.integer("total_layer_tokens")?;
        let warmup = section.integer("warmup_layer_tokens")?;
        if choice(section, "warmup_type", ["log", "linear"])? == Some(0) {
            section.warn("warmup_type", "is not used: the rate rises in a straight line");
        }
        let is_enabled = section.flag("enabled")?.unwrap_or(false);
        section.warn_of_unknown();
        if !is_enabled {
            return Ok(None);
        }
        let tokens = match (total, warmup) {
            (None, None) => None,
            (total, warmup) => {
                Some((section.required("total_layer_tokens", total)?, section.required("warmup_layer_tokens", warmup)?))
            }
        };
        Ok(Some(LayerToken { tokens, full }))
    }

    /// The rate, which has its height and its shape from the scheduler or else is the optimiser's and falls to 0 in a straight
    /// line. Where the section does not say the layer tokens, they follow from the scheduler's steps of `batch` samples.
    pub(super) fn rate(
        self,
        root: &Section<'_>,
        scheduler: Option<DeepSpeedRate>,
        constant: Option<f32>,
        (ltd, batch): (&RandomLtd, usize),
    ) -> Result<LrSchedule> {
        let (max, min, shape, steps) = match scheduler {
            Some(DeepSpeedRate { max, min, steps, after: AfterWarmup::Linear { total }, .. }) => {
                (max, min, LrShape::Linear, Some((total, steps)))
            }
            Some(DeepSpeedRate { max, steps, after: AfterWarmup::Cosine { total, floor }, .. }) => {
                (max, floor, LrShape::Cosine, Some((total, steps)))
            }
            Some(DeepSpeedRate { after: AfterWarmup::Constant, .. }) => {
                let expected = "must be WarmupDecayLR or WarmupCosineLR where layer_token_lr_schedule is enabled";
                return Err(root.error("scheduler.type", expected));
            }
            None => {
                let missing = || root.error("optimizer", "is missing, whose lr layer_token_lr_schedule needs");
                (constant.ok_or_else(missing)?, 0.0, LrShape::Linear, None)
            }
        };
        warn_of_warmup(root, scheduler);
        let (total, warmup) = match (self.tokens, steps) {
            (Some((total, warmup)), steps) => {
                if steps.is_some() {
                    root.warn(
                        "scheduler",
                        "says its steps to no effect: layer_token_lr_schedule says the layer tokens",
                    );
                }
                (total as f64, warmup as f64)
            }
            (None, Some((total, warmup))) => {
                let raw = |steps: u64| steps.saturating_mul(batch as u64).saturating_mul(self.full as u64);
                let extent = Extent { depth: ltd.total_blocks(), tokens: self.full, prefix: 0 };
                let drop = TokenDrop::from(ltd.clone());
                let plan = drop.layer_token_plan(raw(total), raw(warmup), batch as u64, extent);
                let plan = plan.map_err(|error| root.refused(&error))?;
                (plan.total, plan.warmup)
            }
            (None, None) => {
                let what = "is missing, whose steps layer_token_lr_schedule needs unless it has total_layer_tokens";
                return Err(root.error("scheduler", what));
            }
        };
        let rate = LayerTokenRate { max, min, shape, total, warmup };
        LrSchedule::layer_token(rate).map_err(|error| root.refused(&error))
    }
}

/// Names what of a scheduler's warm-up the LayerToken rate has otherwise: it rises from 0, in a straight line.
fn warn_of_warmup(root: &Section<'_>, scheduler: Option<DeepSpeedRate>) {
    let Some(rate) = scheduler else { return };
    let is_cosine = matches!(rate.after, AfterWarmup::Cosine { .. });
    if rate.min > 0.0 && is_cosine {
        root.warn("scheduler.params.warmup_min_ratio", "is not used: the LayerToken rate rises from 0");
    } else if rate.min > 0.0 {
        root.warn("scheduler.params.warmup_min_lr", "is the rate at the end alone: the LayerToken rate rises from 0");
    }
    if !rate.is_linear {
        root.warn("scheduler.params.warmup_type", "is not used: the LayerToken rate rises in a straight line");
    }
}
