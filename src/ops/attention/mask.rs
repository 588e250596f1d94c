//! Which keys a query sees.

use crate::error::{Error, Result};
use crate::gpu::{Access, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::item::LANES;
use crate::ops::{TokenIndices, expect_match};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(KeptLengthsParams { samples: u32, kept: u32, half: u32 });

static KEPT_LENGTHS: Kernel = Kernel {
    name: "kept_lengths",
    sources: &[wgsl!("kept_lengths.wgsl"), wgsl!("lib/grid.wgsl")],
    entry: "kept_lengths",
    bindings: &[Access::Read, Access::Read, Access::Write],
    params: KeptLengthsParams::FIELDS,
    constants: &[],
    rounds: rounds!(KeptLengthsParams, |p, _| looped(u32::BITS - p.half.leading_zeros(), 0)),
};

pub(super) const KERNELS: &[&Kernel] = &[&KEPT_LENGTHS];

/// Which keys a query sees. A key must be visible by all that a mask says.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    is_causal: bool,
    lengths: Option<Tensor>,
}

impl Mask {
    /// All of them.
    pub const NONE: Mask = Mask { is_causal: false, lengths: None };

    /// Those at its own position and before.
    pub const CAUSAL: Mask = Mask { is_causal: true, lengths: None };

    /// The mask for samples that are padded at their end: of each, of the keys that the mask lets through only those in
    /// front of its length, `u32[B]`, are seen, all of them where it is longer than the sample. Padded queries see what
    /// they would see without padding, and a query that sees no key gets zeros.
    ///
    /// # Errors
    /// If `lengths` is not `u32[B]`. That B is the batch's is looked at where the mask is used.
    pub fn with_lengths(self, lengths: &Tensor) -> Result<Self> {
        if lengths.dtype() != DType::U32 || lengths.shape().rank() != 1 {
            return Err(Error::Shape { op: "Mask", what: "lengths must be u32[B]", got: lengths.info() });
        }
        Ok(Mask { lengths: Some(lengths.detach()), ..self })
    }

    /// Whether queries see no later keys.
    pub fn is_causal(&self) -> bool {
        self.is_causal
    }

    /// How many keys of each sample are seen, `u32[B]`; `None` if all are.
    pub fn lengths(&self) -> Option<&Tensor> {
        self.lengths.as_ref()
    }

    /// The mask among `kept` tokens: their order is that of all tokens, so that causal stays causal, and a sample's length becomes
    /// the number of kept positions below it.
    ///
    /// # Errors
    /// If the lengths are of another batch than `kept`.
    pub fn gathered(&self, kept: &TokenIndices) -> Result<Self> {
        let Some(lengths) = &self.lengths else { return Ok(self.clone()) };
        let (gpu, positions) = (lengths.gpu(), kept.positions());
        let fits = lengths.dims() == [kept.batch()];
        expect_match("Mask", lengths, positions, fits, "lengths u32[B] and indices u32[B, R] differ in B")?;
        let below = lengths.empty_like()?;
        let params = KeptLengthsParams {
            samples: kept.batch() as u32,
            kept: kept.kept() as u32,
            half: kept.kept().checked_ilog2().map_or(0, |bits| 1 << bits),
        };
        let buffers = [positions.buffer(), lengths.buffer(), below.buffer()];
        gpu.dispatch(&KEPT_LENGTHS, &params, &buffers, Grid::linear(kept.batch(), LANES))?;
        Ok(Mask { lengths: Some(below), ..self.clone() })
    }

    /// The lengths, if the mask is one for `batch` samples of `x`.
    pub(super) fn lengths_for(&self, op: &'static str, x: &Tensor, batch: usize) -> Result<Option<Tensor>> {
        let Some(lengths) = &self.lengths else { return Ok(None) };
        expect_match(op, x, lengths, lengths.dims() == [batch], "the mask's lengths must be u32[B]")?;
        Ok(Some(lengths.clone()))
    }
}

/// The same on the CPU.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// How many of each sample's `kept` ascending positions are below its length.
    pub fn gathered(positions: &[u32], kept: usize, lengths: &[u32]) -> Vec<u32> {
        let below = |(row, length): (&[u32], &u32)| row.iter().filter(|position| *position < length).count() as u32;
        positions.chunks(kept).zip(lengths).map(below).collect()
    }
}
