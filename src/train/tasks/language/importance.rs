//! How important tokens are: what each id's loss has been of late.

use crate::autograd::no_grad;
use crate::data::TokenBatch;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops;
use crate::tensor::Tensor;

/// A running average of the loss for each id, on the device.
#[derive(Clone, Debug)]
pub(super) struct Importance {
    /// `f32[V]`; the largest number for ids that are always important.
    table: Tensor,
    momentum: f32,
    /// Ascending.
    always: Vec<u32>,
}

impl Importance {
    pub(super) fn new(gpu: &Gpu, vocabulary: usize, momentum: f32, always: &[u32]) -> Result<Self> {
        const OP: &str = "importance";
        if !(0.0..1.0).contains(&momentum) {
            return Err(Error::argument(OP, "momentum", "from 0 to below 1", momentum));
        }
        let mut table = vec![(vocabulary as f32).ln(); vocabulary];
        for &id in always {
            let Some(value) = table.get_mut(id as usize) else {
                return Err(Error::argument(OP, "always", format!("ids below {vocabulary}"), id));
            };
            *value = f32::MAX;
        }
        let mut always = always.to_vec();
        always.sort_unstable();
        always.dedup();
        Ok(Importance { table: Tensor::from_slice(gpu, &[vocabulary], &table)?, momentum, always })
    }

    pub(super) fn identity(&self) -> serde_json::Value {
        serde_json::json!({ "momentum": self.momentum, "always": self.always })
    }

    pub(super) fn table(&self) -> Tensor {
        self.table.clone()
    }

    /// That of tokens `u32[B, T]`: `f32[B, T]`.
    pub(super) fn of(&self, ids: &Tensor) -> Result<Tensor> {
        no_grad(|| {
            let rows = ops::reshape(&self.table, &[self.table.numel(), 1])?;
            ops::reshape(&ops::embedding(&rows, ids)?, ids.dims())
        })
    }

    /// Follows the losses of rows with these labels: `f32[N₀]`, `f32[N₁]`, .. one after the other.
    pub(super) fn follow(&self, labels: &[u32], losses: &[&Tensor]) -> Result<()> {
        let learnt = |&label: &u32| if self.always.binary_search(&label).is_ok() { TokenBatch::IGNORED } else { label };
        let labels: Vec<u32> = labels.iter().map(learnt).collect();
        let gpu = self.table.gpu();
        no_grad(|| {
            let losses = match losses {
                [] => return Ok(()),
                [one] => (*one).clone(),
                all => ops::concat(all, 0)?,
            };
            let labels = Tensor::from_slice(gpu, &[labels.len()], &labels)?;
            let ignored = Some(TokenBatch::IGNORED);
            let updated = ops::update_means(&self.table, &labels, &losses, ignored, self.momentum)?;
            gpu.copy(updated.buffer(), self.table.buffer())
        })
    }
}
