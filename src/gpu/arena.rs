//! Long-lived tensors side by side in few large buffers, so that one dispatch can pass over many of them.

use std::fmt;
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
    /// Bytes of the segments to come, where they are known.
    planned: Vec<u64>,
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    view: BufferView,
    used: u64,
}

impl Arena {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        Arena { gpu: gpu.clone(), planned: Vec::new(), segments: Vec::new() }
    }

    /// An empty arena for what `other` holds: it will lie alike, in segments without free ends.
    pub(crate) fn like(gpu: &Gpu, other: &Arena) -> Self {
        Arena { planned: other.segments.iter().map(|s| s.used).collect(), ..Arena::new(gpu) }
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Takes `size` bytes for the parameter `name`: from the last segment where they fit, else from a new one, each twice as
    /// large as the last.
    pub(crate) fn take(&mut self, name: &Arc<str>, size: u64) -> Result<(Place, BufferView)> {
        let aligned = size.next_multiple_of(ALIGN);
        let fits = self.segments.last().is_some_and(|s| s.used + aligned <= s.view.size());
        if !fits {
            let limit = self.gpu.0.limits.max_storage_buffer_binding_size;
            let length = self.next_length().min(limit / ALIGN * ALIGN).max(aligned);
            let view = zeroed(&self.gpu, length, format_args!("parameters, from {name} on"))?;
            self.segments.push(Segment { view, used: 0 });
        }
        let segment = self.segments.len() - 1;
        let Segment { view, used } = &mut self.segments[segment];
        let place = Place { segment, offset: *used, size };
        *used += aligned;
        Ok((place, view.named_part(place.offset, padded(size), Some(name.clone()))))
    }

    /// Bytes of the next segment.
    fn next_length(&self) -> u64 {
        let last = self.segments.last().map_or(FIRST_SEGMENT / 2, |s| s.view.size());
        let grown = (2 * last).clamp(FIRST_SEGMENT, LARGEST_SEGMENT);
        self.planned.get(self.segments.len()).copied().unwrap_or(grown)
    }

    /// Takes back what [`Arena::take`] gave last.
    pub(crate) fn untake(&mut self, place: Place) {
        self.segments.truncate(place.segment + 1);
        match self.segments.last_mut() {
            Some(segment) if place.offset > 0 => segment.used = place.offset,
            _ => drop(self.segments.pop()),
        }
    }

    /// The used part of each segment.
    pub(crate) fn segments(&self) -> impl Iterator<Item = BufferView> + '_ {
        self.segments.iter().map(|s| s.view.part(0, s.used))
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.view.size()).sum()
    }
}

/// The gaps between tensors are read by passes over whole segments: they must hold zeros, not garbage.
fn zeroed(gpu: &Gpu, size: u64, what: impl fmt::Display) -> Result<BufferView> {
    let view = gpu.alloc(size, Fit::Exact, what)?;
    gpu.clear(&view)?;
    Ok(view)
}

/// What a tensor's binding takes, which the alignment leaves room for.
fn padded(size: u64) -> u64 {
    size.next_multiple_of(16)
}

/// Which of an arena's tensors have a place in another, *beside* it: in the segment of the same number, one after the other,
/// without the others. So a part of a model has gradients and moments of its own size, and one dispatch still passes over all
/// that lies in a segment of either.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    segments: Vec<Vec<Packed>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed {
    /// The tensor's number.
    index: usize,
    offset: u64,
    size: u64,
}

impl Packing {
    /// Of the tensors of these numbers and places, in the order in which they lie.
    pub(crate) fn new(places: impl Iterator<Item = (usize, Place)>) -> Self {
        let mut segments: Vec<Vec<Packed>> = Vec::new();
        for (index, Place { segment, size, .. }) in places {
            segments.resize_with(segments.len().max(segment + 1), Vec::new);
            let offset = end(&segments[segment]);
            segments[segment].push(Packed { index, offset, size });
        }
        Packing { segments }
    }

    /// Where the tensor of that number and place in the arena lies beside it, if it does.
    pub(crate) fn place(&self, index: usize, place: Place) -> Option<Place> {
        let packed = self.packed(place.segment);
        let at = packed.binary_search_by_key(&index, |packed| packed.index).ok()?;
        Some(Place { offset: packed[at].offset, ..place })
    }

    /// How many bytes lie beside each segment.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> + '_ {
        self.segments.iter().map(|packed| end(packed))
    }

    fn packed(&self, segment: usize) -> &[Packed] {
        self.segments.get(segment).map_or(&[], Vec::as_slice)
    }
}

fn end(packed: &[Packed]) -> u64 {
    packed.last().map_or(0, |last| last.offset + last.size.next_multiple_of(ALIGN))
}

/// Memory beside an arena.
#[derive(Clone, Debug)]
pub(crate) struct Beside {
    gpu: Gpu,
    packing: Arc<Packing>,
    /// `None` where nothing lies.
    segments: Vec<Option<BufferView>>,
}

impl Beside {
    /// None yet.
    pub(crate) fn new(gpu: &Gpu) -> Self {
        Beside { gpu: gpu.clone(), packing: Arc::default(), segments: Vec::new() }
    }

    /// The same memory where the same tensors lie, and zeros in new memory where others do.
    pub(crate) fn repacked(&self, packing: &Arc<Packing>) -> Result<Self> {
        let segment = |(i, size)| match size {
            0 => Ok(None),
            _ if self.packing.packed(i) == packing.packed(i) => Ok(self.segment(i).cloned()),
            _ => zeroed(&self.gpu, size, "gradients, moments or an average of parameters").map(Some),
        };
        let segments = packing.sizes().enumerate().map(segment).collect::<Result<_>>()?;
        Ok(Beside { gpu: self.gpu.clone(), packing: packing.clone(), segments })
    }

    /// Copies each tensor that lies elsewhere in `to`.
    pub(crate) fn copy_to(&self, to: &Beside) -> Result<()> {
        for (i, packed) in to.packing.segments.iter().enumerate().filter(|(i, _)| !self.is_as(to, *i)) {
            for Packed { index, offset, size } in packed {
                let place = Place { segment: i, offset: *offset, size: *size };
                if let (Some(from), Some(to)) = (self.view(*index, place), to.view(*index, place)) {
                    self.gpu.copy(&from, &to)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the same tensors lie in a segment of `other`, in the same memory.
    pub(crate) fn is_as(&self, other: &Beside, segment: usize) -> bool {
        self.packing.packed(segment) == other.packing.packed(segment)
    }

    pub(crate) fn packing(&self) -> &Packing {
        &self.packing
    }

    pub(crate) fn segment(&self, segment: usize) -> Option<&BufferView> {
        self.segments.get(segment)?.as_ref()
    }

    /// Memory of the tensor of that number and place in the arena, if it lies here.
    pub(crate) fn view(&self, index: usize, place: Place) -> Option<BufferView> {
        let Place { segment, offset, size } = self.packing.place(index, place)?;
        Some(self.segment(segment)?.part(offset, padded(size)))
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().flatten().map(BufferView::size).sum()
    }
}
