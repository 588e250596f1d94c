//! Reverse-mode differentiation. Knows tensors, gradients and parameters, and no operation.
//!
//! The graph is eager: an operation computes its output and, where some input takes part in a graph, calls [`record`]
//! with the rule for its gradient. [`Tensor::backward`] then walks the graph from the latest to the earliest, hands each
//! rule the gradient of its output, and frees what the rule had saved as soon as it has run. The graph lives in the
//! tensors themselves: there is no tape object, and several graphs can be built at once, also on several threads; their
//! backward passes take turns.

#[cfg(not(target_arch = "wasm32"))]
mod check;
mod gradients;
mod memory;
mod parameter;
mod recompute;
mod reduce;
mod turns;

use std::any::Any;
use std::cell::Cell;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashSet;

#[cfg(not(target_arch = "wasm32"))]
pub use check::{Check, check};
pub(crate) use gradients::KERNELS;
pub use gradients::{Destination, Gradients, ParentGradients};
pub use parameter::{Parameter, Parameters};
pub use recompute::recompute;
pub use reduce::{GradientSegment, Reduce};

use memory::Frozen;
use recompute::{Met, meet};
use reduce::Watch;
use turns::Turns;

use crate::error::{Error, Result, TensorInfo};
use crate::gpu::{Gpu, Stamp};
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

    /// Whether the rule reads what the operation's `i`-th parent held. If that is a parameter's memory and has been
    /// overwritten by then, backward is an error instead of a wrong gradient.
    fn reads(&self, _i: usize) -> bool {
        true
    }
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
    Parameter(Parameter),
    /// An operation; `None` once backward has passed.
    Op(Mutex<Option<Step>>),
}

struct Step {
    parents: Vec<Option<Arc<GraphNode>>>,
    /// The parameters' memory that the rule reads, as it was.
    stamps: Vec<Stamp>,
    /// Parameters besides the parents that the rule adds to: those within a recomputed part.
    inside: Vec<Parameter>,
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
            Kind::Leaf | Kind::Parameter(_) => None,
        }
    }

    /// What `f` sees in the step, if there is one yet.
    fn with_step<T>(&self, f: impl FnOnce(&Step) -> T) -> Option<T> {
        match &self.kind {
            Kind::Op(step) => step.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(f),
            Kind::Leaf | Kind::Parameter(_) => None,
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
    if needs_grad(parents) { attach_part(output, parents, Vec::new(), Vec::new(), rule()) } else { output }
}

/// Gives `output` a place in a graph, also where none of the parents has one. The rule may read more than the parents'
/// memory (`stamps`), and add to the gradients of more parameters (`inside`).
fn attach_part<R: Backward + 'static>(
    output: Tensor,
    parents: &[&Tensor],
    mut stamps: Vec<Stamp>,
    inside: Vec<Parameter>,
    rule: R,
) -> Tensor {
    let read = parents.iter().enumerate().filter(|(i, _)| rule.reads(*i));
    stamps.extend(read.filter_map(|(_, tensor)| tensor.buffer().stamp()));
    let parents: Vec<_> = parents.iter().map(|t| node_of(t)).collect();
    let level = 1 + parents.iter().flatten().map(|p| p.level).max().unwrap_or(0);
    let step = Step { parents, stamps, inside, rule: Box::new(rule) };
    let node = GraphNode::new(output.info(), level, Kind::Op(Mutex::new(Some(step))));
    output.with_node(node)
}

/// `x` itself, as the result of an operation that has nothing to do to it: with its place in the graph where an operation would get
/// one, and outside any graph where nothing is recorded.
pub(crate) fn unchanged(x: &Tensor) -> Tensor {
    if needs_grad(&[x]) { x.clone() } else { x.detach() }
}

/// Whether [`record`] would record an operation on these parents: lets an operation skip work that only backward needs.
pub fn needs_grad(parents: &[&Tensor]) -> bool {
    let in_graph = parents.iter().any(|t| t.node().is_some());
    if is_recording() {
        return in_graph;
    }
    if in_graph {
        meet(Met::Graph);
    }
    parents.iter().for_each(|t| meet(Met::Memory(t)));
    false
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
    /// If this is not a scalar, is in no graph, or (a part of) its graph has been consumed; [`Error::Parameter`] if a
    /// parameter has changed since the forward pass whose old value a gradient needs. Nothing is written then.
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
    /// As [`Tensor::backward`], or if the shapes or devices differ.
    pub fn backward_from(&self, dy: &Tensor) -> Result<Gradients> {
        self.start(dy, None)
    }

    /// [`Tensor::backward_from`], which tells `reduce` of each segment of the gradients of `parameters` as soon as it is whole, and
    /// of the end. For training on several devices, each with a replica of the model and a part of the batch: `reduce` adds up
    /// what they have found. Of several passes that add up to one update, the last alone goes this way.
    ///
    /// # Errors
    /// As [`Tensor::backward_from`], and those of `reduce`.
    pub fn backward_reduced(&self, dy: &Tensor, parameters: &Parameters, reduce: &mut dyn Reduce) -> Result<Gradients> {
        self.start(dy, Some((parameters, reduce)))
    }

    fn start(&self, dy: &Tensor, reduced: Option<(&Parameters, &mut dyn Reduce)>) -> Result<Gradients> {
        let is_here = self.gpu().same(dy.gpu());
        if self.info() != dy.info() || !is_here {
            let what = if is_here { "the gradient has another shape" } else { "the tensors are on different devices" };
            return Err(Error::Mismatch { op: "backward", what, lhs: self.info(), rhs: dy.info() });
        }
        let root = node_of(self).ok_or(Error::Graph { op: "backward", what: "the tensor is in no graph" })?;
        // A leaf's gradient may be `dy` itself: a number that its owner overwrites, as a loss scale, is copied. A parameter's gradient lies
        // in one buffer with those that this walk writes, and nothing is bound for reading and writing at once: it is copied too, unless
        // it is too large to be bound, and so has a buffer of its own.
        let is_apart = dy.numel() > 1 && (dy.buffer().is_whole() || !self.gpu().binds(dy.buffer().size()));
        let dy = if is_apart { dy.detach() } else { dy.copied()? };
        walk(self.gpu(), root, dy, reduced)
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

fn walk(
    gpu: &Gpu,
    root: Arc<GraphNode>,
    dy: Tensor,
    reduced: Option<(&Parameters, &mut dyn Reduce)>,
) -> Result<Gradients> {
    let turns = gpu.attachment::<Turns>();
    let _turn = turns.take();
    let order = order_of(&root)?;
    let mut watch = match reduced {
        None => None,
        Some((parameters, reduce)) => {
            // What replicas have frozen before must not tell in the size of their segments.
            parameters.memory().lay_out(Frozen::Leaves)?;
            Some(Watch::new(reduce, parameters.memory(), &order))
        }
    };
    let mut grads = Gradients::default();
    // As to a parent, since the root may itself be a parameter.
    let as_parent = [Some(root)];
    let mut parents = ParentGradients::new(gpu, &as_parent, &mut grads);
    let given = parents.give(0, dy);
    parents.settle(given)?;
    drop(as_parent);
    for node in order {
        let step = node.take_step().ok_or(CONSUMED)?;
        let adds_to = watch.as_ref().map(|watch| watch.segments_of(&step));
        // A branch that does not reach the root's value has no gradient, and nothing to pass on.
        if let Some(dy) = grads.take(&node) {
            let mut parents = ParentGradients::new(gpu, &step.parents, &mut grads);
            let done = step.rule.backward(dy, &mut parents);
            parents.settle(done)?;
        }
        if let (Some(watch), Some(segments)) = (&mut watch, adds_to) {
            watch.passed(segments)?;
        }
    }
    watch.map_or(Ok(()), Watch::finish)?;
    Ok(grads)
}

const CONSUMED: Error = Error::Graph { op: "backward", what: "the graph has been consumed" };

/// The operations between `root` and the leaves, each before those that it depends on. Looks at them all before any is run,
/// so that a graph that cannot be walked to its end leaves no gradient behind; and makes room for the gradients of parameters.
fn order_of(root: &Arc<GraphNode>) -> Result<Vec<Arc<GraphNode>>> {
    let (mut order, mut without_room) = (Vec::new(), Vec::new());
    let mut seen = FxHashSet::from_iter([Arc::as_ptr(root)]);
    let mut heap = BinaryHeap::from([Pending(root.clone())]);
    while let Some(Pending(node)) = heap.pop() {
        let step = match &node.kind {
            Kind::Op(step) => step,
            Kind::Parameter(parameter) if !parameter.has_room() => {
                without_room.push(parameter.clone());
                continue;
            }
            Kind::Parameter(_) | Kind::Leaf => continue,
        };
        let step = step.lock().unwrap_or_else(PoisonError::into_inner);
        let Step { parents, stamps, .. } = step.as_ref().ok_or(CONSUMED)?;
        stamps.iter().try_for_each(Stamp::check)?;
        for parent in parents.iter().flatten() {
            if seen.insert(Arc::as_ptr(parent)) {
                heap.push(Pending(parent.clone()));
            }
        }
        drop(step);
        order.push(node);
    }
    // Mostly the first lays out all that is trained.
    without_room.iter().try_for_each(|parameter| parameter.memory().lay_out(Frozen::Stays))?;
    Ok(order)
}
