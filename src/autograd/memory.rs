//! Memory for gradients: of what is trained, and of nothing else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Parameter;
use super::parameter::Inner;
use crate::error::Result;
use crate::gpu::{Beside, Gpu, Packing};

/// The gradients' arena of a collection of parameters, beside that of the values.
///
/// It is laid out when an optimiser is made, for exactly what is trained then, and when backward meets something trained that
/// has no room, which is given some. What is frozen in between keeps its room, since it may be thawed a step later; unless
/// segments are told of, which are of what is trained alone.
pub(super) struct GradientMemory {
    gpu: Gpu,
    layout: Mutex<Layout>,
}

struct Layout {
    /// By their numbers. Weak, since each of them knows this memory.
    parameters: Vec<Weak<Inner>>,
    beside: Beside,
    /// How often it was laid out.
    generation: u64,
}

/// What becomes of the room of what is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frozen {
    /// It is kept.
    Stays,
    /// It is given back.
    Leaves,
}

impl GradientMemory {
    pub(super) fn new(gpu: &Gpu) -> Arc<Self> {
        let layout = Layout { parameters: Vec::new(), beside: Beside::new(gpu), generation: 0 };
        Arc::new(GradientMemory { gpu: gpu.clone(), layout: Mutex::new(layout) })
    }

    pub(super) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn layout(&self) -> MutexGuard<'_, Layout> {
        // A layout is replaced as a whole.
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the parameter of the next number, without room as yet.
    pub(super) fn add(&self, parameter: &Parameter) {
        self.layout().parameters.push(Arc::downgrade(&parameter.0));
    }

    /// Takes out the parameter of the last number.
    pub(super) fn withdraw(&self) {
        self.layout().parameters.pop();
    }

    /// Makes room for the gradient of all that is trained. Gradients that are there are kept, perhaps elsewhere. Only for who has
    /// the device's turn: a rule may be about to write where something lies now.
    ///
    /// # Errors
    /// If the device has no room. Nothing is changed then.
    pub(super) fn lay_out(&self, frozen: Frozen) -> Result<()> {
        let mut layout = self.layout();
        let parameters = layout.parameters();
        let has_place = |p: &Parameter| p.is_trainable() || (frozen == Frozen::Stays && p.has_room());
        if parameters.iter().all(|(_, p)| has_place(p) == p.has_room()) {
            return Ok(());
        }
        let placed = parameters.iter().filter(|(_, p)| has_place(p));
        let packing = Packing::new(placed.map(|(i, p)| (*i, p.place())));
        let beside = layout.beside.repacked(&Arc::new(packing))?;
        let moved = parameters.iter().filter(|(_, p)| !layout.beside.is_as(&beside, p.place().segment));
        let moved: Vec<_> =
            moved.map(|(i, p)| (p, beside.view(*i, p.place()).map(|view| p.gradient_at(view)))).collect();
        for (parameter, to) in &moved {
            if let (Some(from), Some(to), true) = (parameter.room(), to, !parameter.filled().is_empty()) {
                self.gpu.copy(from.buffer(), to.buffer())?;
            }
        }
        moved.into_iter().for_each(|(parameter, to)| parameter.set_room(to));
        layout.beside = beside;
        layout.generation += 1;
        Ok(())
    }

    /// A number that grows with each new layout.
    pub(super) fn generation(&self) -> u64 {
        self.layout().generation
    }

    /// The memory as it is laid out now.
    pub(super) fn beside(&self) -> Beside {
        self.layout().beside.clone()
    }

    /// Clears what has no gradient in a segment.
    pub(super) fn clear_empty(&self, segment: usize) -> Result<()> {
        let parameters = self.layout().parameters();
        let empty = parameters.iter().filter(|(_, p)| p.place().segment == segment && p.filled().is_empty());
        empty.filter_map(|(_, p)| p.room()).try_for_each(|room| self.gpu.clear(room.buffer()))
    }
}

impl Layout {
    /// Those that are there yet, with their numbers.
    fn parameters(&self) -> Vec<(usize, Parameter)> {
        let list = self.parameters.iter().enumerate();
        list.filter_map(|(i, inner)| Some((i, Parameter(inner.upgrade()?)))).collect()
    }
}
