//! Recomputing instead of storing: a part of a network keeps its input alone, and runs again when backward reaches it
//! (Chen et al., 2016, "Training deep nets with sublinear memory cost").

use std::cell::Cell;
use std::sync::Arc;

use super::{Backward, GraphNode, Kind, ParentGradients, attach, is_recording, no_grad, node_of, walk, with_recording};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What a pass that is not recorded has met, that a recorded one would have recorded.
#[derive(Clone, Copy, Debug, Default)]
struct Meetings {
    parameter: bool,
    graph: bool,
}

/// One such thing.
#[derive(Clone, Copy)]
pub(super) enum Met {
    /// A parameter that is trained.
    Parameter,
    /// A tensor that is in a graph.
    Graph,
}

thread_local! {
    static MEETINGS: Cell<Meetings> = const { Cell::new(Meetings { parameter: false, graph: false }) };
}

/// Notes what a pass that is not recorded has met.
pub(super) fn meet(met: Met) {
    let mut meetings = MEETINGS.get();
    match met {
        Met::Parameter => meetings.parameter = true,
        Met::Graph => meetings.graph = true,
    }
    MEETINGS.set(meetings);
}

/// `f(x)`, of which only `x` is kept: backward calls `f` a second time, recorded, and goes back through that. The gradients
/// are those of `f(x)` bit for bit, for one more forward pass and the memory of one `f` at a time.
///
/// `f` must compute the same each time, so what it draws must come from a key ([`crate::ops::RandomKey`]). It may use
/// parameters and tensors outside any graph; its one differentiable input is `x`. Where neither `x` is in a graph nor any
/// parameter that `f` uses is trained, or inside [`no_grad`], this is `f(x)` and nothing is kept.
///
/// # Errors
/// Those of `f`, and [`Error::Graph`] if `f` uses another tensor that is in a graph: no gradient would reach it.
pub fn checkpoint<F>(x: Tensor, f: F) -> Result<Tensor>
where
    F: Fn(Tensor) -> Result<Tensor> + wgpu::WasmNotSendSync + 'static,
{
    if !is_recording() {
        return f(x);
    }
    let outer = MEETINGS.take();
    let y = no_grad(|| f(x.detach()));
    let met = MEETINGS.replace(outer);
    let y = y?;
    if met.graph {
        return Err(Error::Graph { op: "checkpoint", what: "the function uses a tensor of a graph besides its input" });
    }
    if x.node().is_none() && !met.parameter {
        return Ok(y);
    }
    let rule = Recompute { x: x.detach(), f };
    Ok(attach(y, &[&x], rule))
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
        let mut grads = walk(&gpu, root, dy)?;
        match leaf.and_then(|node: Arc<GraphNode>| grads.take(&node)) {
            Some(dx) => parents.give(0, dx),
            None => Ok(()),
        }
    }
}
