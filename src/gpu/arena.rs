//! Long-lived tensors side by side in few large buffers, so that one dispatch can pass over many of them.

use std::sync::Arc;

use super::{BufferView, Fit, Gpu};
use crate::error::Result;

/// Every tensor starts at a multiple of this many bytes: WebGPU's largest offset alignment, 64 floats.
pub(crate) const ALIGN: u64 = 256;

const FIRST_SEGMENT: u64 = 1 << 20;
const LARGEST_SEGMENT: u64 = 64 << 20;

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: usize,
    /// Bytes from the segment's start.
    pub(crate) offset: u64,
    /// Bytes, without the alignment.
    pub(crate) size: u64,
}

/// A list of buffers that grows; each no larger than the device can bind.
#[derive(Debug)]
pub(crate) struct Arena {
    gpu: Gpu,
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    view: BufferView,
    used: u64,
}

impl Arena {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        Arena { gpu: gpu.clone(), segments: Vec::new() }
    }

    /// Takes `size` bytes for the parameter `name`: from the last segment where they fit, else from a new one, each twice as
    /// large as the last.
    pub(crate) fn take(&mut self, name: &Arc<str>, size: u64) -> Result<(Place, BufferView)> {
        let aligned = size.next_multiple_of(ALIGN);
        let fits = self.segments.last().is_some_and(|s| s.used + aligned <= s.view.size());
        if !fits {
            let last = self.segments.last().map_or(FIRST_SEGMENT / 2, |s| s.view.size());
            let length = (2 * last).clamp(FIRST_SEGMENT, LARGEST_SEGMENT);
            let limit = self.gpu.0.limits.max_storage_buffer_binding_size;
            let view = self.gpu.alloc(length.min(limit / ALIGN * ALIGN).max(aligned), Fit::Exact)?;
            // The gaps between tensors are read by passes over whole segments: they must hold zeros, not garbage.
            self.gpu.clear(&view)?;
            self.segments.push(Segment { view, used: 0 });
        }
        let segment = self.segments.len() - 1;
        let Segment { view, used } = &mut self.segments[segment];
        let place = Place { segment, offset: *used, size };
        *used += aligned;
        Ok((place, view.named_part(place.offset, size.next_multiple_of(16), Some(name.clone()))))
    }

    /// Takes back what [`Arena::take`] gave last.
    pub(crate) fn untake(&mut self, place: Place) {
        self.segments.truncate(place.segment + 1);
        match self.segments.last_mut() {
            Some(segment) if place.offset > 0 => segment.used = place.offset,
            _ => drop(self.segments.pop()),
        }
    }

    /// A second arena of the same layout, all zeros: gradients beside weights.
    pub(crate) fn twin(&self) -> Result<Self> {
        let mut segments = Vec::with_capacity(self.segments.len());
        for Segment { view, used } in &self.segments {
            // Twins do not grow: what is still free at a segment's end is left out.
            let twin = self.gpu.alloc((*used).min(view.size()), Fit::Exact)?;
            self.gpu.clear(&twin)?;
            segments.push(Segment { view: twin, used: *used });
        }
        Ok(Arena { gpu: self.gpu.clone(), segments })
    }

    /// The used part of each segment.
    pub(crate) fn segments(&self) -> impl Iterator<Item = BufferView> + '_ {
        self.segments.iter().map(|s| s.view.part(0, s.used))
    }
}
