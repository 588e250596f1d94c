//! Which tokens of each sample are kept.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::{Fault, FaultPlace, FaultSource, Gpu};
use crate::ops::shape;
use crate::shape::DType;
use crate::tensor::Tensor;

const OP: &str = "TokenIndices";

/// Kept token positions on the device: `u32[B, R]`, in each sample ascending, distinct and below the number of tokens.
/// Clones share memory.
#[derive(Clone, Debug)]
pub struct TokenIndices {
    positions: Tensor,
    batch: usize,
    kept: usize,
    tokens: usize,
    /// What the host has looked at.
    on_host: Option<Arc<[u32]>>,
    /// `None` where they are known to be right.
    unchecked: Option<Arc<FaultSource>>,
}

impl TokenIndices {
    /// Checks and uploads the positions of `batch` samples of `tokens` tokens, `kept` for each, row after row.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are `batch`·`kept` positions, in each row ascending, distinct and below
    /// `tokens`; it names the sample and the place of the first offence. Also if the device has no room.
    pub fn new(gpu: &Gpu, [batch, kept]: [usize; 2], tokens: usize, positions: &[u32]) -> Result<Self> {
        let shape = shape(OP, &[batch, kept])?;
        check_kept(kept, tokens)?;
        if shape.numel() != positions.len() {
            let expected = format!("{} for shape [{batch}, {kept}]", shape.numel());
            return Err(Error::argument(OP, "number of positions", expected, positions.len()));
        }
        for (sample, row) in positions.chunks(kept).enumerate() {
            check_row(sample, row, tokens)?;
        }
        let on_device = Tensor::from_slice(gpu, &[batch, kept], positions)?;
        let on_host = Some(positions.into());
        Ok(TokenIndices { positions: on_device, batch, kept, tokens, on_host, unchecked: None })
    }

    /// Takes `u32[B, R]` positions that are on the device already, for samples of `tokens` tokens. The host cannot look at
    /// them: every kernel that uses them checks that they are below `tokens`, leaves memory alone where they are not, and the
    /// first read of what comes of it returns [`Error::OutOfRange`]. That they are ascending and distinct is the caller's
    /// promise: of several rows for one position any may win in a scatter, and in a gather's gradient.
    ///
    /// # Errors
    /// If `positions` is not `u32[B, R]` with R up to `tokens`.
    pub fn from_tensor(positions: &Tensor, tokens: usize) -> Result<Self> {
        let dims = positions.shape().to_array::<2>().filter(|_| positions.dtype() == DType::U32);
        let Some([batch, kept]) = dims else {
            return Err(Error::Shape { op: OP, what: "needs u32[B, R]", got: positions.info() });
        };
        check_kept(kept, tokens)?;
        let (positions, unchecked) = (positions.detach(), Some(Arc::default()));
        Ok(TokenIndices { positions, batch, kept, tokens, on_host: None, unchecked })
    }

    /// Positions `u32[B, R]` that a kernel of this crate writes as they must be, for samples of `tokens` tokens.
    pub(super) fn of_device(positions: Tensor, tokens: usize) -> Result<Self> {
        Ok(TokenIndices { unchecked: None, ..Self::from_tensor(&positions, tokens)? })
    }

    /// Where a kernel that uses them leaves a bad one.
    pub(in crate::ops) fn fault_place(&self, fault: Fault) -> Result<FaultPlace> {
        let gpu = self.positions.gpu();
        match &self.unchecked {
            Some(source) => gpu.fault_place(fault, source),
            None => Ok(gpu.no_fault(fault)),
        }
    }

    /// B, the number of samples.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// R, the tokens kept in each sample.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// T, the tokens of a sample before.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The positions, `u32[B, R]`, where they came from the host ([`TokenIndices::new`]).
    pub fn on_host(&self) -> Option<&[u32]> {
        self.on_host.as_deref()
    }

    /// The positions, `u32[B, R]`.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }
}

fn check_kept(kept: usize, tokens: usize) -> Result<()> {
    if kept > tokens {
        return Err(Error::argument(OP, "kept", format!("at most {tokens}, the number of tokens"), kept));
    }
    Ok(())
}

fn check_row(sample: usize, row: &[u32], tokens: usize) -> Result<()> {
    let offence = |place: usize, expected: String| {
        let got = format!("{} in sample {sample} at position {place}", row[place]);
        Err(Error::argument(OP, "token index", expected, got))
    };
    for place in 0..row.len() {
        if row[place] as usize >= tokens {
            return offence(place, format!("below {tokens}, the number of tokens"));
        }
        if place > 0 && row[place] <= row[place - 1] {
            return offence(place, format!("above the one before it, {}", row[place - 1]));
        }
    }
    Ok(())
}
