//! What one dispatch of the optimiser's passes goes over.

use super::{BLOCK, OptimParams};
use crate::error::Result;
use crate::gpu::{BufferView, Gpu};
use crate::shape::DType;

/// A segment of the arenas in which something is or was trained, or a part of one that is larger than what the device binds.
pub(super) struct Segment {
    pub(super) value: BufferView,
    /// `None` where all that was trained is frozen.
    pub(super) gradient: Option<BufferView>,
    pub(super) moments: Vec<BufferView>,
    pub(super) average: Option<BufferView>,
    pub(super) first_block: u32,
    /// Of the moments and the average.
    pub(super) elements: u32,
    /// Of the same in the parts before.
    pub(super) skipped: u32,
}

/// Elements of which parts are made: the norm's partial sums, in either family, are then those of the whole.
const UNIT: usize = 256 * BLOCK;

impl Segment {
    /// Itself, or parts that the device binds. A segment is only too large where it holds one parameter alone, which begins and ends
    /// alike in all of its memory.
    pub(super) fn parts(self, gpu: &Gpu) -> Result<Vec<Segment>> {
        if gpu.binds(self.value.size()) {
            return Ok(vec![self]);
        }
        let part = |(at, value): (u64, BufferView)| {
            let of = |view: &BufferView| view.window(at, value.size());
            let [skipped, elements] = [at, value.size()].map(|bytes| (bytes / DType::F32.size()) as u32);
            Segment {
                gradient: self.gradient.as_ref().map(of),
                moments: self.moments.iter().map(of).collect(),
                average: self.average.as_ref().map(of),
                value,
                first_block: self.first_block + skipped / BLOCK as u32,
                elements,
                skipped,
            }
        };
        Ok(gpu.windows(&self.value, UNIT as u64 * DType::F32.size())?.into_iter().map(part).collect())
    }

    /// `params` of a pass over it.
    pub(super) fn of(&self, params: OptimParams) -> OptimParams {
        let Segment { elements, first_block, skipped, ref value, .. } = *self;
        let is_packed = u32::from(u64::from(elements) * DType::F32.size() < value.size());
        OptimParams { elements, first_block, skipped, is_packed, ..params }
    }
}
