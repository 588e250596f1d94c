//! A row of the table: an operation at one size, how to check it, and how to time it.

use std::time::Instant;

use anyhow::{Result, anyhow};
use wgrad::autograd::{Gradients, no_grad};
use wgrad::{Gpu, Tensor};

use crate::cost::Cost;
use crate::stats::median;

/// A sample lasts about this long, so that starting and waiting do not count, …
const SAMPLE_SECONDS: f64 = 0.03;
const SAMPLES: usize = 5;
/// … but what is prepared for it takes no more memory than this.
const PREPARED_BYTES: f64 = 256e6;
const MOST_CALLS: f64 = 256.0;

/// Sizes of a ViT's activations.
pub struct Shape {
    /// Of model and length: `ti/197`.
    pub name: String,
    pub batch: usize,
    pub tokens: usize,
    /// C.
    pub width: usize,
    pub heads: usize,
}

impl Shape {
    /// Rows of an activation: B·T.
    pub fn rows(&self) -> usize {
        self.batch * self.tokens
    }
}

type Build = Box<dyn Fn(&Gpu) -> Result<Op>>;

/// An operation that has not been built: building takes memory, and only rows that are asked for take it.
pub struct Row {
    pub name: String,
    pub shape: String,
    pub cost: Cost,
    pub build: Build,
}

impl Row {
    pub fn new(name: String, shape: String, cost: Cost, build: impl Fn(&Gpu) -> Result<Op> + 'static) -> Self {
        Row { name, shape, cost, build: Box::new(build) }
    }
}

/// One call, ready to be timed.
pub type Call = Box<dyn FnOnce() -> Result<()>>;

/// An operation with its inputs on the device.
pub struct Op {
    /// Compares the results with the reference.
    pub check: Box<dyn Fn() -> Result<()>>,
    /// Does all that is not to be timed, such as the forward pass before a backward pass.
    prepare: Box<dyn Fn() -> Result<Call>>,
    /// Whether two calls cannot be prepared at once.
    single: bool,
}

impl Op {
    /// A forward pass, outside any graph. `check` is given its result.
    pub fn forward(
        run: impl Fn() -> wgrad::Result<Tensor> + Clone + 'static,
        check: impl Fn(&Tensor) -> Result<()> + 'static,
    ) -> Self {
        let once = run.clone();
        let prepare = move || -> Result<Call> {
            let run = run.clone();
            Ok(Box::new(move || Ok(no_grad(run).map(drop)?)))
        };
        Op { check: Box::new(move || check(&no_grad(&once)?)), prepare: Box::new(prepare), single: false }
    }

    /// The backward pass of what `graph` makes, from `dy`. `check` is given the gradients of the graph's leaves.
    pub fn backward(
        graph: impl Fn() -> wgrad::Result<Tensor> + Clone + 'static,
        dy: Tensor,
        check: impl Fn(&Gradients) -> Result<()> + 'static,
    ) -> Self {
        let (once, from) = (graph.clone(), dy.clone());
        let prepare = move || -> Result<Call> {
            let (y, dy) = (graph()?, dy.clone());
            Ok(Box::new(move || Ok(y.backward_from(&dy).map(drop)?)))
        };
        Op { check: Box::new(move || check(&once()?.backward_from(&from)?)), prepare: Box::new(prepare), single: false }
    }

    /// Something that works in place on what it was given.
    pub fn changing(prepare: impl Fn() -> Result<Call> + 'static, check: impl Fn() -> Result<()> + 'static) -> Self {
        Op { check: Box::new(check), prepare: Box::new(prepare), single: false }
    }

    /// The same, where each call needs a preparation of its own right before it.
    pub fn stateful(prepare: impl Fn() -> Result<Call> + 'static, check: impl Fn() -> Result<()> + 'static) -> Self {
        Op { check: Box::new(check), prepare: Box::new(prepare), single: true }
    }

    /// Seconds a call: the median of several samples of many calls.
    pub fn seconds(&self, gpu: &Gpu, cost: Cost) -> Result<f64> {
        self.sample(gpu, 1)?;
        let most = if self.single { 1.0 } else { (PREPARED_BYTES / cost.bytes).clamp(1.0, MOST_CALLS) };
        let calls = (SAMPLE_SECONDS / self.sample(gpu, 1)?).ceil().clamp(1.0, most) as usize;
        Ok(median((0..SAMPLES).map(|_| self.sample(gpu, calls)).collect::<Result<Vec<_>>>()?))
    }

    fn sample(&self, gpu: &Gpu, calls: usize) -> Result<f64> {
        let prepared = (0..calls).map(|_| (self.prepare)()).collect::<Result<Vec<_>>>()?;
        gpu.wait()?;
        let started = Instant::now();
        for call in prepared {
            call()?;
        }
        gpu.wait()?;
        Ok(started.elapsed().as_secs_f64() / calls as f64)
    }
}

/// The gradient of a leaf, on the host.
pub fn gradient(gradients: &Gradients, leaf: &Tensor) -> Result<Vec<f32>> {
    let gradient = gradients.get(leaf).ok_or_else(|| anyhow!("an input has no gradient"))?;
    Ok(gradient.to_vec()?)
}
