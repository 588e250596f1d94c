//! Reverse-mode differentiation. Knows tensors, gradients and parameters, and no operation.
//!
//! The graph is eager: an operation computes its output and, where some input takes part in a graph, calls [`record`]
//! with the rule for its gradient. [`Tensor::backward`] then walks the graph from the latest to the earliest, hands each
//! rule the gradient of its output, and frees what the rule had saved as soon as it has run. The graph lives in the
//! tensors themselves: there is no tape object, and several graphs can be built at once, also on several threads.

mod checkpoint;
mod gradients;
mod parameter;

use std::any::Any;
use std::cell::Cell;
use std::collections::{BinaryHeap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

pub use checkpoint::checkpoint;
pub(crate) use gradients::KERNELS;
pub use gradients::{Destination, Gradients, ParentGradients};
pub use parameter::{Parameter, Parameters};

use checkpoint::{Met, meet};

use crate::error::{Error, Result, TensorInfo};
use crate::gpu::Gpu;
use crate::shape::DType;
use crate::tensor::{Node, Tensor};

/// The gradient of one operation: owns what forward saved.
pub trait Backward: wgpu::WasmNotSendSync {
    /// Adds to the gradients of the parents, given `dy`, the gradient of the output; `dy` is whatever the later graph
    /// made of it, never assumed to be 1.
    ///
    /// # Errors
    /// As the kernels that it dispatches.
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()>;
}

struct GraphNode {
    info: TensorInfo,
    /// One more than the highest among the parents, so that going down the levels meets every consumer first.
    level: u64,
    kind: Kind,
}

enum Kind {
    /// An input whose gradient the caller wants back.
    Leaf,
    /// A parameter: its gradient goes to its own place in the gradient arena.
    Parameter { grad: Tensor, filled: Arc<AtomicBool> },
    /// An operation; `None` once backward has passed.
    Op(Mutex<Option<Step>>),
}

struct Step {
    parents: Vec<Option<Arc<GraphNode>>>,
    rule: Box<dyn Backward>,
}

impl Node for GraphNode {
    fn as_any(self: Arc<Self>) -> Box<dyn Any> {
        Box::new(self)
    }
}

impl GraphNode {
    fn new(info: TensorInfo, level: u64, kind: Kind) -> Arc<Self> {
        Arc::new(GraphNode { info, level, kind })
    }

    /// Takes the step out, once.
    fn take_step(&self) -> Option<Step> {
        match &self.kind {
            Kind::Op(step) => step.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Kind::Leaf | Kind::Parameter { .. } => None,
        }
    }
}

/// Drops a long chain of nodes in a loop: the compiler's own recursion would overflow the stack on a deep graph.
impl Drop for GraphNode {
    fn drop(&mut self) {
        let mut rest: Vec<_> = self.take_step().into_iter().flat_map(|s| s.parents).flatten().collect();
        while let Some(node) = rest.pop() {
            if let Some(node) = Arc::into_inner(node) {
                rest.extend(node.take_step().into_iter().flat_map(|s| s.parents).flatten());
            }
        }
    }
}

thread_local! {
    /// Off inside [`no_grad`]. Per thread, so that one thread can evaluate while another trains.
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// Runs `f` without recording: outputs take part in no graph and nothing is saved.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    with_recording(false, f)
}

fn with_recording<T>(on: bool, f: impl FnOnce() -> T) -> T {
    /// Restores the flag also when `f` unwinds.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// Whether operations on this thread are being recorded.
pub fn is_recording() -> bool {
    RECORDING.get()
}

fn node_of(tensor: &Tensor) -> Option<Arc<GraphNode>> {
    tensor.node().and_then(|node| node.clone().as_any().downcast::<Arc<GraphNode>>().ok()).map(|node| *node)
}

/// Gives `output` its place in the graph of `parents`. `rule` is called, and thus anything saved, only if some parent
/// is in a graph and recording is on.
pub fn record<R: Backward + 'static>(output: Tensor, parents: &[&Tensor], rule: impl FnOnce() -> R) -> Tensor {
    if needs_grad(parents) { attach(output, parents, rule()) } else { output }
}

/// Gives `output` a place in a graph, also where none of its parents has one.
fn attach<R: Backward + 'static>(output: Tensor, parents: &[&Tensor], rule: R) -> Tensor {
    let parents: Vec<_> = parents.iter().map(|t| node_of(t)).collect();
    let level = 1 + parents.iter().flatten().map(|p| p.level).max().unwrap_or(0);
    let step = Step { parents, rule: Box::new(rule) };
    let node = GraphNode::new(output.info(), level, Kind::Op(Mutex::new(Some(step))));
    output.with_node(node)
}

/// Whether [`record`] would record an operation on these parents: lets an operation skip work that only backward needs.
pub fn needs_grad(parents: &[&Tensor]) -> bool {
    let in_graph = parents.iter().any(|t| t.node().is_some());
    if in_graph && !is_recording() {
        meet(Met::Graph);
    }
    in_graph && is_recording()
}

impl Tensor {
    /// The same memory as a leaf of a new graph, whose gradient [`Gradients::get`] returns.
    ///
    /// # Errors
    /// If the dtype is not f32.
    pub fn requires_grad(&self) -> Result<Tensor> {
        if self.dtype() != DType::F32 {
            return Err(Error::Shape { op: "requires_grad", what: "only f32 has gradients", got: self.info() });
        }
        Ok(self.detach().with_node(GraphNode::new(self.info(), 0, Kind::Leaf)))
    }

    /// Differentiates this scalar with respect to every parameter and leaf that it depends on. Parameters *accumulate*
    /// into [`Parameter::grad`]; gradients of leaves are returned. The graph is consumed.
    ///
    /// # Errors
    /// If this is not a scalar, is in no graph, or its graph has been consumed.
    pub fn backward(&self) -> Result<Gradients> {
        if self.numel() != 1 {
            return Err(Error::Shape {
                op: "backward",
                what: "needs a scalar; else use backward_from",
                got: self.info(),
            });
        }
        let one = Tensor::from_slice(self.gpu(), self.dims(), &[1.0f32])?;
        self.backward_from(&one)
    }

    /// [`Tensor::backward`] from a tensor of any shape, given the gradient `dy` of the final result with respect to it.
    ///
    /// # Errors
    /// If the shapes or devices differ, the tensor is in no graph, or its graph has been consumed.
    pub fn backward_from(&self, dy: &Tensor) -> Result<Gradients> {
        let is_here = self.gpu().same(dy.gpu());
        if self.info() != dy.info() || !is_here {
            let what = if is_here { "the gradient has another shape" } else { "the tensors are on different devices" };
            return Err(Error::Mismatch { op: "backward", what, lhs: self.info(), rhs: dy.info() });
        }
        let root = node_of(self).ok_or(Error::Graph { op: "backward", what: "the tensor is in no graph" })?;
        walk(self.gpu(), root, dy.detach())
    }
}

/// A node in the order of the walk: the highest level first.
struct Pending(Arc<GraphNode>);

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.0.level == other.0.level
    }
}
impl Eq for Pending {}
impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.level.cmp(&other.0.level)
    }
}

fn walk(gpu: &Gpu, root: Arc<GraphNode>, dy: Tensor) -> Result<Gradients> {
    let mut grads = Gradients::default();
    let mut seen = HashSet::from([Arc::as_ptr(&root)]);
    // As to a parent, since the root may itself be a parameter.
    ParentGradients::new(gpu, &[Some(root.clone())], &mut grads).give(0, dy)?;
    let mut heap = BinaryHeap::from([Pending(root)]);
    while let Some(Pending(node)) = heap.pop() {
        if !matches!(node.kind, Kind::Op(_)) {
            continue;
        }
        let step = node.take_step().ok_or(Error::Graph { op: "backward", what: "the graph has been consumed" })?;
        for parent in step.parents.iter().flatten() {
            if seen.insert(Arc::as_ptr(parent)) {
                heap.push(Pending(parent.clone()));
            }
        }
        // A branch that does not reach the root's value has no gradient, and nothing to pass on.
        if let Some(dy) = grads.take(&node) {
            let mut parents = ParentGradients::new(gpu, &step.parents, &mut grads);
            step.rule.backward(dy, &mut parents)?;
        }
    }
    Ok(grads)
}
