//! Recomputing instead of storing: a part of a network keeps its input alone, and runs again when backward reaches it
//! (Chen et al., 2016, "Training deep nets with sublinear memory cost").

use std::cell::RefCell;
use std::sync::Arc;

use super::{
    Backward, GraphNode, Kind, Parameter, ParentGradients, attach_part, is_recording, no_grad, node_of, unchanged,
    walk, with_recording,
};
use crate::error::{Error, Result};
use crate::gpu::Stamp;
use crate::tensor::Tensor;

/// What the pass of a recomputed part has met, that a recorded one would have recorded.
#[derive(Default)]
struct Meetings {
    /// Those that are trained.
    parameters: Vec<Parameter>,
    graph: bool,
    /// Parameters' memory, as it was.
    stamps: Vec<Stamp>,
}

/// One such thing.
pub(super) enum Met<'a> {
    /// A parameter that is trained.
    Parameter(&'a Parameter),
    /// A tensor that is in a graph.
    Graph,
    /// What an operation reads.
    Memory(&'a Tensor),
}

thread_local! {
    /// `None` outside such passes.
    static MEETINGS: RefCell<Option<Meetings>> = const { RefCell::new(None) };
}

/// Notes what a pass that is not recorded has met, if it is a recomputed part's.
pub(super) fn meet(met: Met<'_>) {
    MEETINGS.with_borrow_mut(|meetings| {
        let Some(meetings) = meetings else { return };
        match met {
            Met::Parameter(parameter) => meetings.parameters.push(parameter.clone()),
            Met::Graph => meetings.graph = true,
            Met::Memory(tensor) => meetings.stamps.extend(tensor.buffer().stamp()),
        }
    });
}

/// What `f` returns without being recorded, and what it has met.
fn observed<T>(f: impl FnOnce() -> T) -> (T, Meetings) {
    /// Ends the observation also when `f` unwinds.
    struct Restore(Option<Meetings>);
    impl Drop for Restore {
        fn drop(&mut self) {
            MEETINGS.replace(self.0.take());
        }
    }
    let _restore = Restore(MEETINGS.replace(Some(Meetings::default())));
    let result = no_grad(f);
    (result, MEETINGS.take().unwrap_or_default())
}

/// `f(x)`, of which only `x` is kept: backward calls `f` a second time, recorded, and goes back through that, for one
/// more forward pass and the memory of one `f` at a time. The gradients are those of `f(x)`: bit for bit where nothing
/// else uses `x` or the parameters of `f`, else to the rounding of sums, whose terms then come in another order.
///
/// `f` must compute the same each time, so what it draws must come from a key ([`crate::ops::RandomKey`]), and backward is an
/// error if a parameter that it uses has changed meanwhile. It may use parameters and tensors outside any graph; its one
/// differentiable input is `x`. Where neither `x` is in a graph nor any parameter that `f` uses is trained, or inside
/// [`no_grad`], this is `f(x)` and nothing is kept.
///
/// # Errors
/// Those of `f`, and [`Error::Graph`] if `f` uses or returns another tensor that is in a graph: no gradient would reach it.
pub fn recompute<F>(x: Tensor, f: F) -> Result<Tensor>
where
    F: Fn(Tensor) -> Result<Tensor> + wgpu::WasmNotSendSync + 'static,
{
    if !is_recording() {
        return f(x).map(|y| unchanged(&y));
    }
    let (y, met) = observed(|| f(x.detach()));
    let y = y?;
    // Nothing gets a place in a graph here: what has one had it before.
    if met.graph || y.node().is_some() {
        return Err(Error::Graph { op: "recompute", what: "the function uses a tensor of a graph besides its input" });
    }
    if x.node().is_none() && met.parameters.is_empty() {
        return Ok(y);
    }
    let rule = Recompute { x: x.detach(), f };
    Ok(attach_part(y, &[&x], met.stamps, met.parameters, rule))
}

struct Recompute<F> {
    x: Tensor,
    f: F,
}

impl<F> Backward for Recompute<F>
where
    F: Fn(Tensor) -> Result<Tensor> + wgpu::WasmNotSendSync,
{
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Recompute { x, f } = *self;
        let gpu = x.gpu().clone();
        let leaf = parents.wants(0).then(|| GraphNode::new(x.info(), 0, Kind::Leaf));
        let x = match &leaf {
            Some(node) => x.with_node(node.clone()),
            None => x,
        };
        // By value: this was the last handle, so that `f` may work in its memory.
        let y = with_recording(true, || f(x))?;
        let Some(root) = node_of(&y) else { return Ok(()) };
        // Only its place in the graph is needed.
        drop(y);
        let mut grads = walk(&gpu, root, dy, None)?;
        match leaf.and_then(|node: Arc<GraphNode>| grads.take(&node)) {
            Some(dx) => parents.give(0, dx),
            None => Ok(()),
        }
    }
}
