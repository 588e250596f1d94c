//! Gradients on their way to other replicas of a model, while backward goes on.

use std::sync::Arc;

use super::gradients::{Destination, add_or_copy};
use super::memory::GradientMemory;
use super::{GraphNode, Kind, Parameter, Step};
use crate::error::{Error, Result};
use crate::gpu::BufferView;
use crate::shape::DType;
use crate::tensor::{Tensor, checked_shape};

/// What is done with gradients between backward and the update, by whoever shares a batch with other replicas of the model:
/// see [`Tensor::backward_reduced`].
///
/// Gradients lie in segments of 1 to 64 MiB (one that is larger has a segment of its own). A segment is whole when nothing more
/// will be added to any gradient in it, and those of a model's last layers mostly are so first. So their exchange can begin while
/// the rest of backward is recorded and computed.
pub trait Reduce {
    /// A segment's gradients are whole: what is recorded from now on may change them, and what is read comes after them. Segments
    /// are numbered in the order of the parameters. Each in which something is trained comes once. Of models that are alike, trained
    /// in the same parts and computed alike, they come in the same order and sizes.
    ///
    /// The device's turn is taken: to wait here for another thread's backward pass or update on the same device is to wait for
    /// ever.
    ///
    /// # Errors
    /// Ends the backward pass. The gradients are then of no use.
    fn ready(&mut self, segment: usize, gradients: &GradientSegment) -> Result<()>;

    /// All segments have come. What has begun is to be recorded when this returns: the update comes next.
    ///
    /// # Errors
    /// As [`Reduce::ready`].
    fn finish(&mut self) -> Result<()>;
}

/// The gradients in a segment: the very memory that the optimiser reads.
#[derive(Clone, Debug)]
pub struct GradientSegment {
    tensor: Tensor,
}

impl GradientSegment {
    /// `f32[n]`: the gradients of what is trained, one after the other, each from a multiple of 64 elements on. Where backward has
    /// not reached a parameter stand zeros, and in the gaps between them anything. Such a parameter has no gradient, whatever is written
    /// here, and an optimiser leaves it alone: replicas must reach the same parameters, or they drift apart.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Adds `other`, `f32[n]` of the same device: the segment of another replica.
    ///
    /// # Errors
    /// If the shapes or the devices differ, or the device fails.
    pub fn add(&self, other: &Tensor) -> Result<()> {
        let is_here = self.tensor.gpu().same(other.gpu());
        if self.tensor.info() != other.info() || !is_here {
            let what = if is_here { "the segments differ" } else { "the segments are on different devices" };
            return Err(Error::Mismatch {
                op: "GradientSegment::add",
                what,
                lhs: self.tensor.info(),
                rhs: other.info(),
            });
        }
        add_or_copy(other, &Destination { tensor: self.tensor.clone(), accumulate: true })
    }

    /// Replaces all of it.
    ///
    /// # Errors
    /// If the number of values differs, or the device fails.
    pub fn set(&self, values: &[f32]) -> Result<()> {
        let n = self.tensor.numel();
        if values.len() != n {
            return Err(Error::argument("GradientSegment::set", "values", n.to_string(), values.len()));
        }
        self.tensor.gpu().upload(bytemuck::cast_slice(values), self.tensor.buffer())
    }
}

/// A walk's account of what each segment still waits for.
pub(super) struct Watch<'a> {
    reduce: &'a mut dyn Reduce,
    memory: Arc<GradientMemory>,
    segments: Vec<Segment>,
}

/// A segment that is not told of yet.
struct Segment {
    view: Option<BufferView>,
    /// How many rules have yet to add to it.
    left: usize,
}

impl<'a> Watch<'a> {
    /// Before the walk that visits the nodes in `order`.
    pub(super) fn new(reduce: &'a mut dyn Reduce, memory: &Arc<GradientMemory>, order: &[Arc<GraphNode>]) -> Self {
        let beside = memory.beside();
        let count = beside.packing().sizes().count();
        let view = |i| beside.segment(i).map(|view| view.part(0, view.size()));
        let segments = (0..count).map(|i| Segment { view: view(i), left: 0 }).collect();
        let mut watch = Watch { reduce, memory: memory.clone(), segments };
        for node in order {
            let adds_to = node.with_step(|step| watch.segments_of(step)).unwrap_or_default();
            adds_to.into_iter().for_each(|i| watch.segments[i].left += 1);
        }
        watch
    }

    /// The segments that a rule adds to, as often as it does.
    pub(super) fn segments_of(&self, step: &Step) -> Vec<usize> {
        let parameters = step.parents.iter().flatten().filter_map(|node| match &node.kind {
            Kind::Parameter(parameter) => Some(parameter),
            Kind::Leaf | Kind::Op(_) => None,
        });
        let own = |p: &&Parameter| Arc::ptr_eq(p.memory(), &self.memory);
        let segments = parameters.chain(&step.inside).filter(own).map(|p| p.place().segment);
        segments.filter(|&i| i < self.segments.len()).collect()
    }

    /// The rule that adds to these has run, or will not.
    pub(super) fn passed(&mut self, segments: Vec<usize>) -> Result<()> {
        for i in segments {
            self.segments[i].left -= 1;
            if self.segments[i].left == 0 {
                self.tell(i)?;
            }
        }
        Ok(())
    }

    /// Ends the walk: what it has not reached is whole, too.
    pub(super) fn finish(mut self) -> Result<()> {
        (0..self.segments.len()).try_for_each(|i| self.tell(i))?;
        self.reduce.finish()
    }

    fn tell(&mut self, segment: usize) -> Result<()> {
        let Some(view) = self.segments[segment].view.take() else { return Ok(()) };
        self.memory.clear_empty(segment)?;
        let shape = checked_shape("Reduce", &[(view.size() / DType::F32.size()) as usize])?;
        let tensor = Tensor::from_view(self.memory.gpu(), DType::F32, shape, view);
        self.reduce.ready(segment, &GradientSegment { tensor })
    }
}
