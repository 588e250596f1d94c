//! Every operation's gradient against central differences of its own forward pass.
//!
//! A row of [`ROWS`] is all that a new operation adds. The operation stands in the middle of a graph, so that a gradient
//! which ignores what comes from above, overwrites what is there, or counts on a coefficient of 1 is found:
//!
//! ```text
//! x ── scale 1.5 ── s ── operation ── · random coefficients ── sum ── scale 0.7 ─┐
//! └ or s, ── · other random coefficients ── sum ── scale 0.7 ────────────────────┴ add ── loss
//! ```
//!
//! The second use is of x, so that the operation's backward *writes* the gradient of s, and then of s, at a depth that
//! makes its gradient arrive first, so that the operation's backward *adds* to it.

use crate::common::{each_family, values};
use wgrad::ops::Mask;
use wgrad::{DType, Gpu, Result, Tensor, autograd, ops};

struct Row {
    name: &'static str,
    /// Of the inputs that are differentiated.
    shapes: &'static [&'static [usize]],
    /// Half the distance of the two points of a difference: larger where the operation is nearly linear.
    step: f32,
    /// Largest deviation, relative to the largest component of the gradient.
    tolerance: f64,
    build: fn(&[Tensor]) -> Result<Tensor>,
}

const fn row(
    name: &'static str,
    shapes: &'static [&'static [usize]],
    (step, tolerance): (f32, f64),
    build: fn(&[Tensor]) -> Result<Tensor>,
) -> Row {
    Row { name, shapes, step, tolerance, build }
}

/// Step and tolerance of operations that are linear in each input: rounding is the only error.
const LINEAR: (f32, f64) = (0.25, 1e-4);
/// Of smooth operations: an error of step² from the third derivative, and rounding.
const SMOOTH: (f32, f64) = (1e-2, 2e-3);
/// Of those that are linear between corners: a step that meets none.
const CORNERED: (f32, f64) = (1e-3, 2e-3);

const KEY: ops::RandomKey = ops::RandomKey { seed: 1, step: 2, layer: 3, first_sample: 4 };

const ROWS: &[Row] = &[
    row("add", &[&[2, 5, 12], &[2, 5, 12]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("add rows", &[&[3, 5, 12], &[12]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("add samples", &[&[3, 5, 7], &[5, 7]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("add scalar", &[&[3, 5], &[]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("attention", &[&[2, 5, 24]], SMOOTH, |x| ops::attention(&x[0], 2, Mask::None)),
    row("attention, flash", &[&[2, 5, 96]], SMOOTH, |x| ops::attention_flash(&x[0], 2, Mask::None)),
    row("attention, flash, causal", &[&[1, 6, 48]], SMOOTH, |x| ops::attention_flash(&x[0], 1, Mask::Causal)),
    row("attention, causal", &[&[1, 6, 18]], SMOOTH, |x| ops::attention(&x[0], 1, Mask::Causal)),
    row("concat_tokens", &[&[2, 3, 8], &[2, 1, 8], &[2, 4, 8]], LINEAR, |x| ops::concat_tokens(&[&x[0], &x[1], &x[2]])),
    row("cross_entropy", &[&[5, 7]], SMOOTH, |x| ops::cross_entropy(&x[0], &labels(&x[0])?, &Default::default())),
    row("cross_entropy, smoothed", &[&[5, 7]], SMOOTH, |x| {
        let settings = ops::CrossEntropy { label_smoothing: 0.2, ignore_index: Some(3), ..Default::default() };
        ops::cross_entropy(&x[0], &labels(&x[0])?, &settings)
    }),
    row("cross_entropy, mixed and weighted", &[&[5, 7]], SMOOTH, |x| {
        let class_weights = Some(vec![0.5, 2.0, 0.0, 1.0, 1.5, 0.25, 3.0]);
        let settings = ops::CrossEntropy { label_smoothing: 0.2, ignore_index: Some(1), class_weights };
        let others = Tensor::from_slice(x[0].gpu(), &[5], &[4u32, 1, 6, 2, 2])?;
        let shares = Tensor::from_slice(x[0].gpu(), &[5], &[0.25, 0.5, 0.7, 0.9, 1.0f32])?;
        let labels = labels(&x[0])?;
        ops::cross_entropy(&x[0], ops::Targets::mixed(&labels, &others, &shares), &settings)
    }),
    row("drop_path", &[&[7, 3, 4]], LINEAR, |x| ops::drop_path(&x[0], 0.4, KEY)),
    row("dropout", &[&[7, 13]], LINEAR, |x| ops::dropout(&x[0], 0.4, KEY)),
    row("embed_tokens", &[&[3, 5, 8], &[1, 2, 8], &[1, 7, 8]], LINEAR, |x| {
        ops::embed_tokens(&x[0], Some(&x[1]), &x[2])
    }),
    row("embed_tokens, no prefix", &[&[3, 5, 7], &[1, 5, 7]], LINEAR, |x| ops::embed_tokens(&x[0], None, &x[1])),
    row("gelu", &[&[7, 13]], SMOOTH, |x| ops::gelu(&x[0])),
    row("layernorm", &[&[5, 17], &[17], &[17]], SMOOTH, |x| ops::layernorm(&x[0], &x[1], &x[2], 1e-3)),
    row("layernorm of fours", &[&[5, 12], &[12], &[12]], SMOOTH, |x| ops::layernorm(&x[0], &x[1], &x[2], 1e-3)),
    row("gather_layernorm", &[&[2, 5, 8], &[8], &[8]], SMOOTH, |x| {
        let (packed, y) = ops::gather_layernorm(&x[0], &kept(x[0].gpu())?, &x[1], &x[2], 1e-3, DType::F32)?;
        ops::add(&packed, &y)
    }),
    row("linear", &[&[2, 5, 8], &[12, 8], &[12]], LINEAR, |x| ops::linear(&x[0], &x[1], Some(&x[2]))),
    row("linear, no bias", &[&[5, 7], &[3, 7]], LINEAR, |x| ops::linear(&x[0], &x[1], None)),
    row("linear_add", &[&[2, 5, 8], &[12, 8], &[12], &[2, 5, 12]], LINEAR, |x| {
        ops::linear_add(&x[0], &x[1], &x[2], &x[3])
    }),
    row("linear_add, odd width", &[&[5, 7], &[3, 7], &[3], &[5, 3]], LINEAR, |x| {
        ops::linear_add(&x[0], &x[1], &x[2], &x[3])
    }),
    row("matmul", &[&[5, 8], &[8, 12]], LINEAR, |x| ops::matmul(&x[0], &x[1])),
    row("matmul, batched", &[&[3, 5, 7], &[3, 7, 4]], LINEAR, |x| ops::matmul(&x[0], &x[1])),
    row("matmul, shared", &[&[3, 5, 8], &[8, 4]], LINEAR, |x| ops::matmul(&x[0], &x[1])),
    row("matmul_nt", &[&[5, 8], &[12, 8]], LINEAR, |x| ops::matmul_nt(&x[0], &x[1])),
    row("matmul_nt, batched", &[&[2, 5, 8], &[2, 4, 8]], LINEAR, |x| ops::matmul_nt(&x[0], &x[1])),
    row("matmul_tn", &[&[8, 12], &[8, 4]], LINEAR, |x| ops::matmul_tn(&x[0], &x[1])),
    row("matmul_tn, batched", &[&[2, 5, 3], &[2, 5, 7]], LINEAR, |x| ops::matmul_tn(&x[0], &x[1])),
    row("mean", &[&[3, 7]], LINEAR, |x| ops::mean(&x[0])),
    row("mean_tokens", &[&[3, 5, 8]], LINEAR, |x| ops::mean_tokens(&x[0], 2)),
    row("mlp", MLP, SMOOTH, |x| ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), &x[5], None)),
    row("mlp, odd width", &[&[5, 3], &[7, 3], &[7], &[5, 7], &[5], &[5, 5]], SMOOTH, |x| {
        ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), &x[5], None)
    }),
    row("mlp, scattered", MLP_INTO, SMOOTH, |x| {
        let into = (x[6].clone(), &kept(x[6].gpu())?);
        ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), &x[5], Some(into))
    }),
    row("mlp, scattered in place", MLP_INTO, SMOOTH, |x| {
        let into = (ops::scale(&x[6], 2.0)?, &kept(x[6].gpu())?);
        ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), &x[5], Some(into))
    }),
    row("mul", &[&[5, 13], &[5, 13]], LINEAR, |x| ops::mul(&x[0], &x[1])),
    row("mul by itself", &[&[5, 13]], SMOOTH, |x| ops::mul(&x[0], &x[0])),
    row("patchify", &[&[2, 3, 4, 6]], LINEAR, |x| {
        ops::patchify(&x[0], 2, Some(&ops::Normalize { mean: [0.4, 0.5, 0.6], std: [0.5, 2.0, 0.25] }))
    }),
    row("reshape", &[&[5, 12]], LINEAR, |x| ops::reshape(&x[0], &[3, 5, 4])),
    row("scale", &[&[5, 13]], LINEAR, |x| ops::scale(&x[0], -0.3)),
    row("slice_tokens", &[&[2, 7, 8]], LINEAR, |x| ops::slice_tokens(&x[0], 2..5)),
    row("softmax", &[&[5, 13]], SMOOTH, |x| ops::softmax(&x[0])),
    row("softmax of fours", &[&[2, 3, 12]], SMOOTH, |x| ops::softmax(&x[0])),
    row("sum", &[&[3, 7]], LINEAR, |x| ops::sum(&x[0])),
    row("token_gather", &[&[2, 5, 8]], LINEAR, |x| ops::token_gather(&x[0], &kept(x[0].gpu())?)),
    row("token_gather, odd width", &[&[2, 5, 3]], LINEAR, |x| ops::token_gather(&x[0], &kept(x[0].gpu())?)),
    row("token_scatter", &[&[2, 5, 8], &[2, 3, 8]], LINEAR, |x| {
        ops::token_scatter(x[0].clone(), &x[1], &kept(x[0].gpu())?)
    }),
    row("token_scatter, in place", &[&[2, 5, 3], &[2, 3, 3]], LINEAR, |x| {
        ops::token_scatter(ops::scale(&x[0], 2.0)?, &x[1], &kept(x[0].gpu())?)
    }),
    row("abs", &[&[7, 13]], SMOOTH, |x| ops::abs(&away(&x[0])?)),
    row("clamp", &[&[7, 13]], SMOOTH, |x| ops::clamp(&away(&x[0])?, -1.0, 1.5)),
    row("exp", &[&[7, 13]], SMOOTH, |x| ops::exp(&x[0])),
    row("gelu_tanh", &[&[7, 13]], SMOOTH, |x| ops::gelu_tanh(&x[0])),
    row("leaky_relu", &[&[7, 13]], SMOOTH, |x| ops::leaky_relu(&away(&x[0])?, 0.1)),
    row("log", &[&[7, 13]], SMOOTH, |x| ops::log(&positive(&x[0])?)),
    row("neg", &[&[7, 13]], LINEAR, |x| ops::neg(&x[0])),
    row("pow", &[&[7, 13]], SMOOTH, |x| ops::pow(&x[0], 3.0)),
    row("pow of a root", &[&[7, 13]], SMOOTH, |x| ops::pow(&positive(&x[0])?, 0.5)),
    row("quick_gelu", &[&[7, 13]], SMOOTH, |x| ops::quick_gelu(&x[0])),
    row("relu", &[&[7, 13]], SMOOTH, |x| ops::relu(&away(&x[0])?)),
    row("rsqrt", &[&[7, 13]], SMOOTH, |x| ops::rsqrt(&positive(&x[0])?)),
    row("sigmoid", &[&[7, 13]], SMOOTH, |x| ops::sigmoid(&x[0])),
    row("silu", &[&[7, 13]], SMOOTH, |x| ops::silu(&x[0])),
    row("softplus", &[&[7, 13]], SMOOTH, |x| ops::softplus(&x[0])),
    row("sqrt", &[&[7, 13]], SMOOTH, |x| ops::sqrt(&positive(&x[0])?)),
    row("tanh", &[&[7, 13]], SMOOTH, |x| ops::tanh(&x[0])),
    row("add, broadcast", &[&[5, 1, 3], &[4, 1]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("div", &[&[5, 13], &[5, 13]], SMOOTH, |x| ops::div(&x[0], &positive(&x[1])?)),
    row("div, broadcast", &[&[5, 1], &[1, 7]], SMOOTH, |x| ops::div(&x[0], &positive(&x[1])?)),
    row("maximum", &[&[5, 13], &[5, 13]], SMOOTH, |x| ops::maximum(&away(&x[0])?, &ops::scale(&x[1], 1e-2)?)),
    row("minimum, broadcast", &[&[5, 13], &[13]], SMOOTH, |x| ops::minimum(&away(&x[0])?, &ops::scale(&x[1], 1e-2)?)),
    row("mul, broadcast", &[&[2, 1, 5], &[3, 1]], LINEAR, |x| ops::mul(&x[0], &x[1])),
    row("sub", &[&[5, 13], &[5, 13]], LINEAR, |x| ops::sub(&x[0], &x[1])),
    row("sub, broadcast", &[&[13], &[5, 13]], LINEAR, |x| ops::sub(&x[0], &x[1])),
    row("where", &[&[5, 7], &[7]], LINEAR, |x| {
        let condition = Tensor::from_slice(x[0].gpu(), &[5, 1], &[1u32, 0, 0, 7, 1])?;
        ops::where_(&condition, &x[0], &x[1])
    }),
    row("sum_axes", &[&[2, 3, 5, 4]], LINEAR, |x| ops::sum_axes(&x[0], &[0, 2], false)),
    row("mean_axes", &[&[3, 7, 4]], LINEAR, |x| ops::mean_axes(&x[0], &[1], true)),
    row("max_axes", &[&[3, 7]], CORNERED, |x| ops::max_axes(&x[0], &[1], false)),
    row("var_axes", &[&[3, 7, 2]], SMOOTH, |x| ops::var_axes(&x[0], &[0, 1], 1, false)),
    row("permute", &[&[2, 3, 4]], LINEAR, |x| ops::permute(&x[0], &[2, 0, 1])),
    row("transpose", &[&[2, 3, 4]], LINEAR, |x| ops::transpose(&x[0], 0, 1)),
    row("slice", &[&[2, 7, 4]], LINEAR, |x| ops::slice(&x[0], 1, 2..5)),
    row("expand", &[&[3, 1, 4]], LINEAR, |x| ops::expand(&x[0], &[2, 3, 5, 4])),
    row("concat", &[&[2, 3], &[2, 1], &[2, 4]], LINEAR, |x| ops::concat(&[&x[0], &x[1], &x[2]], 1)),
    row("stack", &[&[2, 3], &[2, 3]], LINEAR, |x| ops::stack(&[&x[0], &x[1]], 1)),
    row("pad", &[&[2, 3]], LINEAR, |x| ops::pad(&x[0], &[(1, 0), (2, 1)], 0.5)),
    row("gather", &[&[3, 4]], LINEAR, |x| {
        let index = Tensor::from_slice(x[0].gpu(), &[3, 3], &[0u32, 3, 3, 1, 1, 1, 2, 0, 2])?;
        ops::gather(&x[0], 1, &index)
    }),
    row("scatter_add", &[&[3, 4], &[3, 3]], LINEAR, |x| {
        let index = Tensor::from_slice(x[0].gpu(), &[3, 3], &[0u32, 3, 3, 1, 1, 1, 2, 0, 2])?;
        ops::scatter_add(&x[0], 1, &index, &x[1])
    }),
    row("log_softmax", &[&[5, 13]], SMOOTH, |x| ops::log_softmax(&x[0])),
    row("mse_loss", &[&[5, 7], &[5, 7]], SMOOTH, |x| ops::mse_loss(&x[0], &x[1])),
    row("binary_cross_entropy_with_logits", &[&[5, 7], &[5, 7]], SMOOTH, |x| {
        ops::binary_cross_entropy_with_logits(&x[0], &x[1])
    }),
    row("rms_norm", &[&[5, 12], &[12]], SMOOTH, |x| ops::rms_norm(&x[0], &x[1], 1e-3)),
    row("conv2d", &[&[2, 3, 5, 6], &[4, 3, 3, 2], &[4]], LINEAR, |x| {
        let conv = ops::Conv2d { stride: [2, 1], padding: [1, 0], dilation: [1, 2] };
        ops::conv2d(&x[0], &x[1], Some(&x[2]), conv)
    }),
    row("max_pool2d", &[&[2, 2, 5, 4]], CORNERED, |x| {
        ops::max_pool2d(&x[0], ops::Pool2d { size: [3, 2], stride: [2, 2], padding: [1, 0] })
    }),
    row("avg_pool2d", &[&[2, 2, 5, 4]], LINEAR, |x| {
        ops::avg_pool2d(&x[0], ops::Pool2d { size: [3, 2], stride: [2, 1], padding: [1, 1] })
    }),
];

/// x, the two layers' weights and biases, and the residual.
const MLP: &[&[usize]] = &[&[2, 3, 8], &[12, 8], &[12], &[8, 12], &[8], &[2, 3, 8]];
/// The same, and the full tensor.
const MLP_INTO: &[&[usize]] = &[&[2, 3, 8], &[12, 8], &[12], &[8, 12], &[8], &[2, 3, 8], &[2, 5, 8]];

/// `x`, which is within ±1.5, moved to 1.6 to 2.8 on either side of 0, away from the corners that some functions have.
fn away(x: &Tensor) -> Result<Tensor> {
    let side: Vec<f32> = (0..x.numel()).map(|i| if i % 2 == 0 { 2.2 } else { -2.2 }).collect();
    ops::add(&ops::scale(x, 0.4)?, &Tensor::from_slice(x.gpu(), x.dims(), &side)?)
}

/// `x`, which is within ±1.5, moved above 0.
fn positive(x: &Tensor) -> Result<Tensor> {
    ops::add(x, &Tensor::from_slice(x.gpu(), &[], &[2.5f32])?)
}

/// Labels of the rows of `f32[5, V]` logits.
fn labels(logits: &Tensor) -> Result<Tensor> {
    Tensor::from_slice(logits.gpu(), &[5], &[3u32, 0, 6, 1, 3])
}

/// Three of the five tokens of two samples.
fn kept(gpu: &Gpu) -> Result<ops::TokenIndices> {
    ops::TokenIndices::new(gpu, 2, 3, 5, &[0, 2, 3, 1, 3, 4])
}

/// Factor between the leaves and the operation.
const BEFORE: f32 = 1.5;
/// Factor between the operation and the loss.
const AFTER: f32 = 0.7;
/// Components of an input's gradient that are compared, where it has more.
const SAMPLES: usize = 20;
/// More nodes than any row's operation has between its input and its output.
const DEPTH: usize = 12;

/// Where an input is used for the second time.
#[derive(Clone, Copy, Debug)]
enum SecondUse {
    /// At x: the operation is the first to write the gradient of s.
    Leaf,
    /// At s: the operation adds to the gradient of s.
    Scaled,
}

#[test]
fn gradients_agree_with_differences() {
    let mut failures = Vec::new();
    for gpu in each_family() {
        for row in ROWS {
            if let Err(failure) = check(&gpu, row) {
                failures.push(format!("{} ({:?}): {failure}", row.name, gpu.family()));
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn check(gpu: &Gpu, row: &Row) -> std::result::Result<(), String> {
    let inputs: Vec<_> = row.shapes.iter().zip(1..).map(|(dims, seed)| values(seed, numel(dims))).collect();
    let seconds: Vec<_> = row.shapes.iter().zip(100..).map(|(dims, seed)| values(seed, numel(dims))).collect();
    let y = forward(gpu, row, &inputs).map_err(|e| e.to_string())?;
    let coefficients = values(1000, y.len());
    let loss = |inputs: &[Vec<f32>]| forward(gpu, row, inputs).map(|y| f64::from(AFTER) * dot(&coefficients, &y));
    for second_use in [SecondUse::Leaf, SecondUse::Scaled] {
        let gradients = backward(gpu, row, &inputs, &coefficients, &seconds, second_use).map_err(|e| e.to_string())?;
        for (i, gradient) in gradients.iter().enumerate() {
            // The second use is linear: its share is known.
            let reach = if matches!(second_use, SecondUse::Scaled) { BEFORE } else { 1.0 };
            let share = |at: usize| f64::from(AFTER * reach) * f64::from(seconds[i][at]);
            let largest = gradient.iter().fold(1e-6, |m, v| f64::from(v.abs()).max(m));
            for at in sampled(gradient.len()) {
                let difference = difference(row, &inputs, i, at, loss).map_err(|e| e.to_string())? + share(at);
                let deviation = (f64::from(gradient[at]) - difference).abs() / largest;
                if deviation.is_nan() || deviation > row.tolerance {
                    return Err(format!(
                        "input {i} {:?}, element {at}, second use {second_use:?}: gradient {}, difference {difference}, \
                         off by {deviation:.1e} of the largest {largest}",
                        row.shapes[i], gradient[at],
                    ));
                }
            }
        }
    }
    Ok(())
}

fn numel(dims: &[usize]) -> usize {
    dims.iter().product()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// All elements of a small tensor, spread ones of a large.
fn sampled(n: usize) -> impl Iterator<Item = usize> {
    let count = n.min(SAMPLES);
    (0..count).map(move |k| k * n / count)
}

/// The slope of the loss along element `at` of input `i`.
fn difference(
    row: &Row,
    inputs: &[Vec<f32>],
    i: usize,
    at: usize,
    loss: impl Fn(&[Vec<f32>]) -> Result<f64>,
) -> Result<f64> {
    let mut moved = inputs.to_vec();
    let (up, down) = (inputs[i][at] + row.step, inputs[i][at] - row.step);
    moved[i][at] = up;
    let above = loss(&moved)?;
    moved[i][at] = down;
    Ok((above - loss(&moved)?) / (f64::from(up) - f64::from(down)))
}

/// The operation's output.
fn forward(gpu: &Gpu, row: &Row, inputs: &[Vec<f32>]) -> Result<Vec<f32>> {
    autograd::no_grad(|| {
        let scaled = |(data, dims): (&Vec<f32>, &&[usize])| ops::scale(&Tensor::from_slice(gpu, dims, data)?, BEFORE);
        let inputs = inputs.iter().zip(row.shapes).map(scaled).collect::<Result<Vec<_>>>()?;
        (row.build)(&inputs)?.to_vec()
    })
}

/// The gradients of the whole graph, by input.
fn backward(
    gpu: &Gpu,
    row: &Row,
    inputs: &[Vec<f32>],
    coefficients: &[f32],
    seconds: &[Vec<f32>],
    second_use: SecondUse,
) -> Result<Vec<Vec<f32>>> {
    let leaf = |(data, dims): (&Vec<f32>, &&[usize])| Tensor::from_slice(gpu, dims, data)?.requires_grad();
    let leaves = inputs.iter().zip(row.shapes).map(leaf).collect::<Result<Vec<_>>>()?;
    let scaled = leaves.iter().map(|x| ops::scale(x, BEFORE)).collect::<Result<Vec<_>>>()?;
    let y = (row.build)(&scaled)?;
    let mut loss = weighted(&y, &Tensor::from_slice(gpu, y.dims(), coefficients)?)?;
    for (i, second) in seconds.iter().enumerate() {
        let mut weights = leaf((second, &row.shapes[i]))?;
        let used = match second_use {
            SecondUse::Leaf => &leaves[i],
            SecondUse::Scaled => {
                // A product is as deep as its deepest factor.
                for _ in 0..DEPTH {
                    weights = ops::scale(&weights, 1.0)?;
                }
                &scaled[i]
            }
        };
        loss = ops::add(&loss, &weighted(used, &weights)?)?;
    }
    let gradients = loss.backward()?;
    leaves.iter().map(|x| gradients.get(x).expect("every input is used").to_vec()).collect()
}

fn weighted(x: &Tensor, coefficients: &Tensor) -> Result<Tensor> {
    ops::scale(&ops::sum(&ops::mul(x, coefficients)?)?, AFTER)
}
