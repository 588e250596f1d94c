//! Where gradients go: a table for leaves and intermediate values, the gradient arena for parameters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustc_hash::FxHashMap;

use super::{GraphNode, Kind, node_of};
use crate::error::{Error, Result};
use crate::gpu::{Access, Gpu, Grid, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::shape::DType;
use crate::tensor::Tensor;

/// Whether a parameter's gradient holds anything; if not, its memory is stale and the next backward overwrites it.
#[derive(Debug, Default)]
pub(super) struct Filled(AtomicU8);

const EMPTY: u8 = 0;
/// A rule is about to write it.
const BEGUN: u8 = 1;
const FULL: u8 = 2;

impl Filled {
    pub(super) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) == FULL
    }

    /// Whether it does not, and no rule is about to write it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == EMPTY
    }

    pub(super) fn empty(&self) {
        self.0.store(EMPTY, Ordering::Relaxed);
    }

    /// Whether what is about to be written must be added to what is there.
    fn begin(&self) -> bool {
        self.0.compare_exchange(EMPTY, BEGUN, Ordering::Relaxed, Ordering::Relaxed).is_err()
    }

    /// What a rule has begun is there once it has succeeded.
    fn settle(&self, succeeded: bool) {
        let now = if succeeded { FULL } else { EMPTY };
        // Unless it was full before, or has been emptied meanwhile.
        let _ = self.0.compare_exchange(BEGUN, now, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The gradients of a backward pass that do not belong to parameters.
#[derive(Default)]
pub struct Gradients {
    /// By the addresses of their nodes, which live as long as the table.
    table: FxHashMap<usize, (Arc<GraphNode>, Tensor)>,
}

fn address(node: &Arc<GraphNode>) -> usize {
    Arc::as_ptr(node).addr()
}

impl Gradients {
    /// The gradient of a leaf made by [`Tensor::requires_grad`]; `None` if the result did not depend on it.
    pub fn get(&self, leaf: &Tensor) -> Option<&Tensor> {
        let node = node_of(leaf)?;
        self.table.get(&address(&node)).map(|(_, grad)| grad)
    }

    pub(super) fn put(&mut self, node: &Arc<GraphNode>, grad: Tensor) {
        self.table.insert(address(node), (node.clone(), grad));
    }

    pub(super) fn take(&mut self, node: &Arc<GraphNode>) -> Option<Tensor> {
        self.table.remove(&address(node)).map(|(_, grad)| grad)
    }
}

/// Where a kernel writes a parent's gradient.
#[derive(Debug)]
#[non_exhaustive]
pub struct Destination {
    /// The memory, of the parent's shape.
    pub tensor: Tensor,
    /// Whether to add to what is there. If false the memory is uninitialised and every element must be written.
    pub accumulate: bool,
}

impl Destination {
    /// `accumulate` as the flag that kernels take.
    pub fn flag(&self) -> u32 {
        u32::from(self.accumulate)
    }

    /// Fills it with zeros where nothing is yet: for rules that add to some elements and leave the others.
    pub(crate) fn zeroed(&self) -> Result<()> {
        if self.accumulate { Ok(()) } else { self.tensor.gpu().clear(self.tensor.buffer()) }
    }
}

/// The parents of an operation, as its backward rule sees them.
pub struct ParentGradients<'a> {
    gpu: &'a Gpu,
    parents: &'a [Option<Arc<GraphNode>>],
    grads: &'a mut Gradients,
}

impl<'a> ParentGradients<'a> {
    pub(super) fn new(gpu: &'a Gpu, parents: &'a [Option<Arc<GraphNode>>], grads: &'a mut Gradients) -> Self {
        ParentGradients { gpu, parents, grads }
    }

    /// The `i`-th parent if it wants a gradient.
    fn parent(&self, i: usize) -> Option<&'a Arc<GraphNode>> {
        let node = self.parents.get(i)?.as_ref()?;
        match &node.kind {
            // Frozen since the forward pass.
            Kind::Parameter(parameter) if !parameter.has_room() => None,
            _ => Some(node),
        }
    }

    /// Ends a rule: the parameters' gradients that it has begun are there if it has succeeded.
    pub(super) fn settle(self, done: Result<()>) -> Result<()> {
        self.settle_all(done.is_ok());
        done
    }

    fn settle_all(&self, succeeded: bool) {
        for node in self.parents.iter().flatten() {
            if let Kind::Parameter(parameter) = &node.kind {
                parameter.filled().settle(succeeded && parameter.is_trainable());
            }
        }
    }

    /// Whether the `i`-th parent is in the graph and not frozen since; if not, its gradient need not be computed.
    pub fn wants(&self, i: usize) -> bool {
        self.parent(i).is_some()
    }

    /// Where to write the gradient of the `i`-th parent, or `None` if nobody wants it. Fill it and drop it before asking
    /// for the next: two parents may be the same tensor, whose second destination would add to what the first has yet to
    /// write. Only those of parents that cannot be one tensor, such as a weight `f32[N, K]` and a bias `f32[N]`, may be held at once.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn destination(&mut self, i: usize) -> Result<Option<Destination>> {
        let Some(node) = self.parent(i) else { return Ok(None) };
        if let Kind::Parameter(parameter) = &node.kind {
            let Some(tensor) = parameter.room() else { return Ok(None) };
            let accumulate = parameter.filled().begin();
            if !accumulate {
                tensor.buffer().forget_faults();
            }
            return Ok(Some(Destination { tensor, accumulate }));
        }
        let Some(existing) = self.grads.take(node) else {
            let tensor = Tensor::unwritten(self.gpu, node.info.dtype, node.info.shape)?;
            self.grads.put(node, tensor.clone());
            return Ok(Some(Destination { tensor, accumulate: false }));
        };
        // Memory that is shared with another gradient must not be added to in place.
        let tensor = if existing.buffer().is_sole() { existing } else { existing.copied()? };
        self.grads.put(node, tensor.clone());
        Ok(Some(Destination { tensor, accumulate: true }))
    }

    /// Makes `grad` (part of) the gradient of the `i`-th parent without copying where it is the first. For operations
    /// whose gradient is `dy` itself, or a view of it.
    ///
    /// # Errors
    /// If the shape is not the parent's, or the device has no room.
    pub fn give(&mut self, i: usize, grad: Tensor) -> Result<()> {
        let Some(node) = self.parent(i) else { return Ok(()) };
        if node.info != grad.info() {
            let what = "a gradient differs from its value";
            return Err(Error::Mismatch { op: "backward", what, lhs: node.info, rhs: grad.info() });
        }
        if matches!(node.kind, Kind::Parameter(_)) || self.grads.table.contains_key(&address(node)) {
            if let Some(to) = self.destination(i)? {
                add_or_copy(&grad, &to)?;
            }
        } else {
            self.grads.put(node, grad);
        }
        Ok(())
    }
}

/// A rule that unwinds has not succeeded.
impl Drop for ParentGradients<'_> {
    fn drop(&mut self) {
        self.settle_all(false);
    }
}

params!(AccumulateParams { n: u32 });

static ACCUMULATE: Kernel = Kernel {
    name: "accumulate",
    sources: &[wgsl!("accumulate.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("tiles/act_f32.wgsl")],
    entry: "accumulate",
    bindings: &[Access::Read, Access::Write],
    params: AccumulateParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static ACCUMULATE_F16: Kernel = Kernel {
    name: "accumulate.f16",
    sources: &[wgsl!("accumulate.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("tiles/act_f16.wgsl", enable "f16")],
    ..ACCUMULATE
};

pub(crate) const KERNELS: &[&Kernel] = &[&ACCUMULATE, &ACCUMULATE_F16];

pub(super) fn add_or_copy(grad: &Tensor, to: &Destination) -> Result<()> {
    let gpu = grad.gpu();
    if !to.accumulate {
        return gpu.copy(grad.buffer(), to.tensor.buffer());
    }
    let kernel = if grad.dtype() == DType::F16 { &ACCUMULATE_F16 } else { &ACCUMULATE };
    let end = grad.numel() as u64 * grad.dtype().size();
    for (at, from) in gpu.windows(grad.buffer(), 256)? {
        let onto = to.tensor.buffer().window(at, from.size());
        let n = (from.size().min(end - at) / grad.dtype().size()) as usize;
        let params = AccumulateParams { n: n as u32 };
        gpu.dispatch(kernel, &params, &[&from, &onto], Grid::linear(n.div_ceil(4), 64))?;
    }
    Ok(())
}
