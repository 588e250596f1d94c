//! Whole optimiser steps of a ViT on random pictures that stay on the device.

use std::time::Instant;

use anyhow::Result;
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::{Mode, Model, Precision, Span};
use wgrad::ops::{self, CrossEntropy, RandomKey, TokenIndices};
use wgrad::optim::{AdamW, LossScale, Optimizer, Rule, decays};
use wgrad::{Gpu, Tensor};

/// A model with its optimiser and one batch on the device.
pub struct Workload {
    pub model: Vit,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    drop: TokenDrop,
    precision: Precision,
    /// Keep each block's input alone, and compute the rest again in backward.
    pub checkpoint_blocks: bool,
    step: u64,
}

/// What one step took.
pub struct Step {
    /// From the first command to the loss on the host.
    pub total_ms: f64,
    /// Until the last command was recorded, with whatever submitting waits for.
    pub host_ms: f64,
    pub dispatches: u64,
}

impl Workload {
    /// A model of `config` and a batch; in half precision the loss is scaled.
    pub fn new(gpu: &Gpu, config: VitConfig, batch: usize, precision: Precision) -> Result<Self> {
        let model = Vit::new(gpu, config, 0)?;
        let optimizer = Optimizer::new(model.parameters(), Rule::AdamW(AdamW::default()), None, decays)?;
        let optimizer = match precision {
            Precision::F32 => optimizer,
            Precision::F16 => optimizer.with_loss_scale(LossScale::default())?,
        };
        let (height, width) = model.config().img_size;
        // Any spread of values does: time does not depend on them.
        let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 16) as u8;
        let bytes: Vec<u8> = (0..batch * 3 * height * width).map(byte).collect();
        let images = Tensor::from_slice(gpu, &[batch, 3, height, width], &bytes)?;
        let labels: Vec<u32> = (0..batch).map(|i| (i % model.config().num_classes) as u32).collect();
        let labels = Tensor::from_slice(gpu, &[batch], &labels)?;
        Ok(Workload {
            model,
            optimizer,
            images,
            labels,
            drop: TokenDrop::None,
            precision,
            checkpoint_blocks: false,
            step: 0,
        })
    }

    /// From now on keeps this many tokens in all blocks but the first and last; `None` and the full length are the plain
    /// model.
    pub fn keep(&mut self, kept: Option<usize>) -> Result<()> {
        let depth = self.model.config().depth;
        self.drop = kept.map(|kept| RandomLtd::new(depth, Schedule::constant(kept)?)).transpose()?.into();
        Ok(())
    }

    /// One step, waiting for its loss.
    pub fn step(&mut self) -> Result<Step> {
        let (started, gpu) = (Instant::now(), self.model.gpu().clone());
        let before = gpu.stats().dispatches;
        let loss = self.forward(&self.draw()?)?;
        self.backward(&loss)?;
        self.update()?;
        let host_ms = started.elapsed().as_secs_f64() * 1e3;
        loss.item()?;
        let total_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(Step { total_ms, host_ms, dispatches: gpu.stats().dispatches - before })
    }

    /// This step's kept tokens for each block, on the device.
    pub fn draw(&self) -> Result<Vec<Span<TokenIndices>>> {
        let (extent, batch) = (self.model.extent(), self.labels.numel());
        let kept = self.drop.kept_length(self.step, extent.tokens);
        let upload = |rows: Vec<u32>| TokenIndices::new(self.model.gpu(), batch, kept, extent.tokens, &rows);
        let drawn = self.drop.draw(self.step, extent, 0, batch)?;
        Ok(drawn.into_iter().map(|span| span.try_map(upload)).collect::<wgrad::Result<_>>()?)
    }

    /// The loss, in its graph.
    pub fn forward(&self, spans: &[Span<TokenIndices>]) -> Result<Tensor> {
        let key = RandomKey { seed: 0, step: self.step, layer: 0, first_sample: 0 };
        let mode = Mode::training(key).checkpointed(self.checkpoint_blocks).with_precision(self.precision);
        let logits = self.model.forward(&self.images, spans, &mode)?;
        Ok(ops::cross_entropy(&logits, &self.labels, &CrossEntropy::default())?)
    }

    /// Leaves the gradients of the loss, times its scale, in the parameters.
    pub fn backward(&self, loss: &Tensor) -> Result<()> {
        match self.optimizer.loss_scale() {
            Some(scale) => loss.backward_from(scale)?,
            None => loss.backward()?,
        };
        Ok(())
    }

    /// Lets the optimiser use the gradients, which ends the step.
    pub fn update(&mut self) -> Result<()> {
        self.optimizer.step(self.model.parameters(), 1e-4)?;
        self.step += 1;
        Ok(())
    }
}
