//! A running average of the weights, which often does better than the weights themselves.

use super::pass::{EXCHANGE, FOLLOW};
use super::segment::Segment;
use super::state::Table;
use super::{BLOCK, OptimParams};
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Grid};
use crate::tensor::Tensor;

/// An exponential moving average of the weights: a ← d·a + (1 − d)·w after every update, from the weights at the start on.
/// Source: timm's `ModelEmaV3`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ema {
    /// d; the average looks back on about 1/(1 − d) updates.
    pub decay: f32,
    /// Lets d rise with the t-th step, from 0: d = min(decay, 1 − (1 + t)^(−2/3)). So a short run's average forgets the
    /// weights that it started from.
    pub warmup: bool,
}

impl Default for Ema {
    fn default() -> Self {
        Ema { decay: 0.9999, warmup: true }
    }
}

impl Ema {
    /// d at optimiser step `step`, from 0.
    pub fn decay_at(&self, step: u64) -> f32 {
        if !self.warmup {
            return self.decay;
        }
        let rising = 1.0 - (1.0 + step as f64).powf(-2.0 / 3.0);
        (rising as f32).min(self.decay)
    }

    pub(super) fn check(&self) -> Result<()> {
        let ok = (0.0..1.0).contains(&self.decay);
        if ok { Ok(()) } else { Err(Error::argument("EMA", "decay", "in 0..1", self.decay)) }
    }

    /// Lets the average follow the update of step `step`, unless it was skipped.
    pub(super) fn follow(
        &self,
        segments: &[Segment],
        table: &Table,
        state: &Tensor,
        params: OptimParams,
        step: u64,
    ) -> Result<()> {
        let share = 1.0 - f64::from(self.decay_at(step));
        for (segment, average) in with_averages(segments) {
            let params = OptimParams { ema_share: share as f32, ..segment.of(params) };
            let buffers = [table.owner(), table.rows(), average, state.buffer(), &segment.value];
            state.gpu().dispatch(&FOLLOW, &params, &buffers, grid(segment.elements))?;
        }
        Ok(())
    }
}

/// The segments with their averages.
fn with_averages(segments: &[Segment]) -> impl Iterator<Item = (&Segment, &BufferView)> {
    segments.iter().filter_map(|segment| Some((segment, segment.average.as_ref()?)))
}

/// The average in the place of the weights, and the weights in its own, until this is put back or dropped.
pub(super) struct Exchanged<'a> {
    gpu: &'a Gpu,
    table: &'a Table,
    params: OptimParams,
    /// Weights and average of the segments that are exchanged.
    segments: Vec<(&'a Segment, &'a BufferView)>,
}

impl<'a> Exchanged<'a> {
    pub(super) fn new(segments: &'a [Segment], table: &'a Table, gpu: &'a Gpu, params: OptimParams) -> Result<Self> {
        let mut exchanged = Exchanged { gpu, table, params, segments: Vec::with_capacity(segments.len()) };
        for pair in with_averages(segments) {
            exchanged.exchange(pair)?;
            exchanged.segments.push(pair);
        }
        Ok(exchanged)
    }

    /// Exchanges a segment's contents; twice is exactly nothing.
    fn exchange(&self, (weights, average): (&Segment, &BufferView)) -> Result<()> {
        let buffers = [self.table.owner(), self.table.rows(), average, &weights.value];
        self.gpu.dispatch(&EXCHANGE, &weights.of(self.params), &buffers, grid(weights.elements))?;
        weights.value.overwritten();
        Ok(())
    }

    /// Puts weights and average back in their places.
    pub(super) fn put_back(&mut self) -> Result<()> {
        while let Some(&pair) = self.segments.last() {
            self.exchange(pair)?;
            self.segments.pop();
        }
        Ok(())
    }
}

/// Where something failed or unwound in between.
impl Drop for Exchanged<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.put_back() {
            log::error!("the weights are left exchanged with their average: {error}");
        }
    }
}

/// 64 invocations with four elements each.
fn grid(elements: u32) -> Grid {
    Grid::linear(elements as usize, 4 * BLOCK)
}
