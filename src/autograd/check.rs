//! Gradients against central differences of their functions.

use super::{Backward, ParentGradients, no_grad, record, with_recording};
use crate::error::{Error, Result};
use crate::hash::absorb;
use crate::shape::DType;
use crate::tensor::Tensor;

const OP: &str = "check";

/// How [`check`] compares. The names are those of PyTorch's `gradcheck`, the values such as f32 allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Check {
    /// Half the distance of the two points of a difference: small, as the error grows with its square; but of a function that is
    /// nearly linear large, so that rounding matters less.
    pub eps: f32,
    /// How far a component of a gradient may be from the difference in any case, …
    pub atol: f64,
    /// … and besides, as a share of the largest component of that input's gradient. Not of each component, as in PyTorch, where
    /// values are f64: the rounding of f32 is in proportion to the whole.
    pub rtol: f64,
    /// Components that are compared of each input, spread over it where it has more. Each costs two forward passes.
    pub samples: usize,
    /// Of the random gradients that come from above.
    pub seed: u64,
}

impl Default for Check {
    fn default() -> Self {
        Check { eps: 1e-2, atol: 1e-5, rtol: 2e-3, samples: 20, seed: 0 }
    }
}

impl Check {
    fn check(&self) -> Result<()> {
        let is_positive = |v: f64| v > 0.0 && v.is_finite();
        if !is_positive(self.eps.into()) {
            return Err(Error::argument(OP, "eps", "positive", self.eps));
        }
        for (name, tolerance) in [("atol", self.atol), ("rtol", self.rtol)] {
            if !is_positive(tolerance) && tolerance != 0.0 {
                return Err(Error::argument(OP, name, "finite and not negative", tolerance));
            }
        }
        if self.samples == 0 { Err(Error::argument(OP, "samples", "at least 1", 0)) } else { Ok(()) }
    }
}

/// Compares the gradients of `f` with respect to `inputs`, all f32, at the values that these have, with central differences of
/// `f`. Like PyTorch's `gradcheck`; for tests of operations with a rule of their own.
///
/// The function stands in the middle of a graph, below random coefficients, once as the first to write the gradients of its
/// inputs and once as one that adds to them. So a rule is found out that counts on an incoming gradient of 1, that ignores it,
/// or that overwrites what is there. `f` must compute the same each time. It may use other tensors of any dtype, but no
/// parameters: those would gather gradients.
///
/// # Errors
/// [`Error::Gradient`] for the first component that differs; [`Error::Argument`] for settings out of range, or an `eps` that an input is
/// too large for; [`Error::Graph`] if what `f` returns depends on no input by a graph;
/// if an input or what `f` returns is not f32, or of `f`.
pub fn check(f: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[Tensor], settings: &Check) -> Result<()> {
    settings.check()?;
    for input in inputs {
        expect_f32(input, "inputs must be f32")?;
    }
    let probe = Probe::new(&f, inputs, settings)?;
    let others: Vec<_> = (1..).zip(&probe.values).map(|(i, x)| random(settings.seed, i, x.len())).collect();
    let written = probe.gradients(None)?;
    let added = probe.gradients(Some(&others))?;
    for (input, others) in others.iter().enumerate() {
        for at in spread(others.len(), settings.samples) {
            let difference = probe.difference(input, at)?;
            probe.compare("written", input, at, &written[input], difference)?;
            probe.compare("added to another", input, at, &added[input], difference + f64::from(others[at]))?;
        }
    }
    Ok(())
}

fn expect_f32(x: &Tensor, what: &'static str) -> Result<()> {
    if x.dtype() == DType::F32 { Ok(()) } else { Err(Error::Shape { op: OP, what, got: x.info() }) }
}

/// Repeatable values in −1..1, the `stream`-th of them.
fn random(seed: u64, stream: u64, n: usize) -> Vec<f32> {
    let key = absorb(absorb(0, seed), stream);
    (0..n).map(|i| (absorb(key, i as u64) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// At most `most` of 0..n, evenly.
fn spread(n: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = n.min(most);
    (0..count).map(move |k| k * n / count)
}

/// A function at a point, below random coefficients.
struct Probe<'a, F> {
    f: &'a F,
    settings: &'a Check,
    inputs: Vec<Tensor>,
    /// Of the inputs.
    values: Vec<Vec<f32>>,
    /// The gradient of the function's result, on the host and on the device.
    coefficients: Vec<f32>,
    above: Tensor,
}

impl<'a, F: Fn(&[Tensor]) -> Result<Tensor>> Probe<'a, F> {
    fn new(f: &'a F, inputs: &[Tensor], settings: &'a Check) -> Result<Self> {
        let inputs: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
        let values = Tensor::to_vecs(&inputs.iter().collect::<Vec<_>>())?;
        let y = no_grad(|| f(&inputs))?;
        expect_f32(&y, "the function must return f32")?;
        let coefficients = random(settings.seed, 0, y.numel());
        let above = Tensor::from_slice(y.gpu(), y.dims(), &coefficients)?;
        Ok(Probe { f, settings, inputs, values, coefficients, above })
    }

    /// The gradients by backward, which are added to `others` where those are given.
    fn gradients(&self, others: Option<&[Vec<f32>]>) -> Result<Vec<Vec<f32>>> {
        let leaves = self.inputs.iter().map(Tensor::requires_grad).collect::<Result<Vec<_>>>()?;
        let uploaded = leaves.iter().zip(others.into_iter().flatten());
        let others =
            uploaded.map(|(x, other)| Tensor::from_slice(x.gpu(), x.dims(), other)).collect::<Result<Vec<_>>>()?;
        let grads = with_recording(true, || {
            let middle = |x: &Tensor| record(x.detach(), &[x], || Fork { others: Vec::new() });
            let inputs: Vec<Tensor> = leaves.iter().map(middle).collect();
            let y = (self.f)(&inputs)?;
            if y.node().is_none() {
                let what = "what the function returns depends on no input by a graph";
                return Err(Error::Graph { op: OP, what });
            }
            let parents: Vec<&Tensor> = std::iter::once(&y).chain(&inputs).collect();
            record(y.detach(), &parents, || Fork { others }).backward_from(&self.above)
        })?;
        let gradient = |x: &Tensor| grads.get(x).map_or_else(|| Ok(vec![0.0; x.numel()]), Tensor::to_vec);
        leaves.iter().map(gradient).collect()
    }

    /// The slope of Σ coefficients · y along element `at` of an input.
    fn difference(&self, input: usize, at: usize) -> Result<f64> {
        let x = self.values[input][at];
        let (up, down) = (x + self.settings.eps, x - self.settings.eps);
        if up - down <= self.settings.eps {
            let expected = format!("enough to change an input of {x}");
            return Err(Error::argument(OP, "eps", expected, self.settings.eps));
        }
        let rise = self.sum_with(input, at, up)? - self.sum_with(input, at, down)?;
        Ok(rise / (f64::from(up) - f64::from(down)))
    }

    /// Σ coefficients · y, with another value at one place.
    fn sum_with(&self, input: usize, at: usize, value: f32) -> Result<f64> {
        let mut values = self.values[input].clone();
        values[at] = value;
        let mut inputs = self.inputs.clone();
        inputs[input] = Tensor::from_slice(inputs[input].gpu(), inputs[input].dims(), &values)?;
        let y = no_grad(|| (self.f)(&inputs))?;
        if y.info() != self.above.info() {
            let what = "the function's result changes its shape";
            return Err(Error::Mismatch { op: OP, what, lhs: self.above.info(), rhs: y.info() });
        }
        let products = self.coefficients.iter().zip(y.to_vec::<f32>()?).map(|(&c, y)| f64::from(c) * f64::from(y));
        Ok(products.sum())
    }

    fn compare(&self, how: &'static str, input: usize, at: usize, gradient: &[f32], difference: f64) -> Result<()> {
        let finite = gradient.iter().copied().map(f64::from).filter(|v| v.is_finite());
        let largest = finite.fold(0.0, |m: f64, v| m.max(v.abs()));
        let allowed = self.settings.atol + self.settings.rtol * largest;
        let backward = gradient[at];
        // What is not finite is not near anything.
        if (f64::from(backward) - difference).abs() <= allowed {
            return Ok(());
        }
        let element = place(self.inputs[input].dims(), at);
        Err(Error::Gradient { input, element, how, backward, difference, allowed })
    }
}

/// The indices of the `at`-th element.
fn place(dims: &[usize], mut at: usize) -> Vec<usize> {
    let mut indices = vec![0; dims.len()];
    for (index, size) in indices.iter_mut().zip(dims).rev() {
        (*index, at) = (at % size, at / size);
    }
    indices
}

/// Gives the gradient of its result, which is its first parent's value, to that parent, and `others` to the rest.
struct Fork {
    others: Vec<Tensor>,
}

impl Backward for Fork {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        parents.give(0, dy)?;
        self.others.into_iter().zip(1..).try_for_each(|(other, i)| parents.give(i, other))
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}
