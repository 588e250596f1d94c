//! The kernels that a device may come to by tuning, by other widths of heads, or in half precision: each against the reference, or
//! against the same computation in full precision.

use anyhow::{Result, ensure};
use wgrad::models::vit::VitConfig;
use wgrad::nn::Precision;
use wgrad::ops::attention::reference::{self, Masked};
use wgrad::ops::{self, Gelu, Mask, Tuning};
use wgrad::{DType, Gpu, Tensor};

use crate::check::{values, within};
use crate::console::complain;
use crate::products::Linear;
use crate::row::Row;
use crate::steps::{Network, settings};

/// Of half precision, relative to the largest value: eleven bits, and what sums of a few dozen lose of them.
const HALF: f32 = 1e-2;
const FULL: f32 = 1e-4;
/// Of matrix products, beside those of matrix units.
const FORMS: [&str; 7] = ["simple", "rows64", "rows32", "rows16", "tile128", "tile64", "tile32"];
const GELUS: [Gelu; 3] = [Gelu::Erf, Gelu::Tanh, Gelu::Quick];

/// A check by name.
pub type Named = (String, Result<()>);

pub fn run(gpu: &Gpu) -> Result<Vec<Named>> {
    let precisions = [Some(Precision::F32), Some(Precision::F16).filter(|_| gpu.has_f16())];
    let mut checks = Vec::new();
    for precision in precisions.into_iter().flatten() {
        for gelu in GELUS {
            complain!("self-test, products with GELU {gelu:?}, {precision:?}");
            checks.extend(products(gpu, gelu, precision)?);
        }
        for width in [16, 32, 48, 64, 80, 96, 128] {
            complain!("self-test, flash attention of heads {width} wide, {precision:?}");
            for mask in ["none", "causal", "lengths"] {
                let name = format!("flash attention, heads {width} wide, mask {mask}, {precision:?}");
                checks.push((name, attention(gpu, width, mask, precision)));
            }
        }
    }
    if gpu.has_f16() {
        checks.extend(FUNCTIONS.iter().map(|(name, f)| (format!("{name} in half precision"), halves(gpu, *f))));
    }
    for rows in [1, 3] {
        let few = Linear { size: [rows, 48, 64] }.products("few rows", "linear");
        checks.extend(few.iter().map(|row: &Row| (row.name.clone(), (row.build)(gpu).and_then(|op| (op.check)()))));
    }
    Ok(checks)
}

/// A small ViT's training with every form of its products, beside the same with the forms that the rules choose in full precision.
fn products(gpu: &Gpu, act_layer: Gelu, precision: Precision) -> Result<Vec<Named>> {
    let Network::Vit(config) = Network::vit([64, 4, 4], 4, 16) else { return Ok(Vec::new()) };
    let network = Network::Vit(VitConfig { act_layer, ..config });
    gpu.set_tuning(&Tuning::default());
    let expected = last_loss(gpu, &network, Precision::F32, None)?;
    let demands = network.rehearsed(gpu, BATCH, settings(precision, false)?, None)?.products;
    let mut checks = Vec::new();
    for form in FORMS {
        gpu.set_tuning(&Tuning::by_form(&demands, form));
        for kept in [None, Some(9)] {
            let expected = if kept.is_some() { last_loss(gpu, &network, Precision::F32, kept)? } else { expected };
            let near = |loss: f32| -> Result<()> {
                let tolerance = if precision == Precision::F16 { 0.02 } else { 1e-3 };
                ensure!((loss - expected).abs() <= tolerance * expected.abs(), "loss {loss}, not {expected}");
                Ok(())
            };
            let name = format!("training by {form}, {act_layer:?}, {precision:?}, {kept:?} tokens kept");
            checks.push((name, last_loss(gpu, &network, precision, kept).and_then(near)));
        }
    }
    gpu.set_tuning(&Tuning::default());
    Ok(checks)
}

/// Samples a step.
const BATCH: usize = 8;

/// After three steps.
fn last_loss(gpu: &Gpu, network: &Network, precision: Precision, kept: Option<usize>) -> Result<f32> {
    let mut steps = network.steps(gpu, BATCH, settings(precision, false)?)?;
    steps.keep(kept)?;
    let mut loss = f32::NAN;
    for _ in 0..3 {
        loss = steps.record()?.0.wait()?.loss;
    }
    Ok(loss)
}

/// Forward and backward, of two samples of nine tokens and two heads.
fn attention(gpu: &Gpu, width: usize, mask: &str, precision: Precision) -> Result<()> {
    let sizes = [2, 9, 2, width];
    let lengths = [4u32, 9];
    let (masked, device_mask) = match mask {
        "causal" => (Masked { causal: true, ..Masked::default() }, Mask::CAUSAL),
        "lengths" => {
            let device = Tensor::from_slice(gpu, &[2], &lengths)?;
            (Masked { lengths: Some(&lengths), ..Masked::default() }, Mask::NONE.with_lengths(&device)?)
        }
        _ => (Masked::default(), Mask::NONE),
    };
    let (dtype, tolerance) = of(precision);
    let x = Tensor::from_slice(gpu, &[2, 9, 6 * width], &values(1, 2 * 9 * 6 * width))?;
    let x = ops::cast(&ops::cast(&x, dtype)?, DType::F32)?.requires_grad()?;
    let dy = Tensor::from_slice(gpu, &[2, 9, 2 * width], &values(2, 2 * 9 * 2 * width))?;
    let y = ops::cast(&ops::attention_flash(&ops::cast(&x, dtype)?, 2, &device_mask, None)?, DType::F32)?;
    let gradients = y.backward_from(&dy)?;
    let (x_host, dy_host) = (x.to_vec::<f32>()?, dy.to_vec::<f32>()?);
    within("result", &y.to_vec()?, &reference::forward(&x_host, sizes, &masked), tolerance)?;
    let dx = crate::row::gradient(&gradients, &x)?;
    within("gradient", &dx, &reference::backward(&x_host, &dy_host, sizes, &masked), tolerance)
}

fn of(precision: Precision) -> (DType, f32) {
    if precision == Precision::F16 { (DType::F16, HALF) } else { (DType::F32, FULL) }
}

type Function = fn(&Tensor) -> wgrad::Result<Tensor>;

/// Of one element, on values between a half and one and a half.
const FUNCTIONS: &[(&str, Function)] = &[
    ("abs", ops::abs),
    ("clamp", |x| ops::clamp(x, 0.2, 1.4)),
    ("exp", ops::exp),
    ("gelu", |x| ops::gelu(x, Gelu::Erf)),
    ("gelu, quick", |x| ops::gelu(x, Gelu::Quick)),
    ("gelu, tanh", |x| ops::gelu(x, Gelu::Tanh)),
    ("leaky_relu", |x| ops::leaky_relu(x, 0.1)),
    ("log", ops::log),
    ("pow", |x| ops::pow(x, 3.0)),
    ("quick_gelu", ops::quick_gelu),
    ("relu", ops::relu),
    ("rsqrt", ops::rsqrt),
    ("sigmoid", ops::sigmoid),
    ("silu", ops::silu),
    ("softplus", ops::softplus),
    ("sqrt", ops::sqrt),
    ("swiglu", ops::swiglu),
    ("tanh", ops::tanh),
];

/// A function of halves, and its gradient, beside the same of floats.
fn halves(gpu: &Gpu, f: Function) -> Result<()> {
    let x: Vec<f32> = values(1, 16 * 24).iter().map(|v| 1.0 + 0.5 * v).collect();
    let x = ops::cast(&Tensor::from_slice(gpu, &[16, 24], &x)?, DType::F16)?;
    let at = |dtype: DType| -> Result<[Vec<f32>; 2]> {
        let x = ops::cast(&x, DType::F32)?.requires_grad()?;
        let y = ops::cast(&f(&ops::cast(&x, dtype)?)?, DType::F32)?;
        let dy = Tensor::from_slice(gpu, y.dims(), &values(2, y.numel()))?;
        let gradients = y.backward_from(&dy)?;
        Ok([y.to_vec()?, crate::row::gradient(&gradients, &x)?])
    };
    let ([half, d_half], [full, d_full]) = (at(DType::F16)?, at(DType::F32)?);
    within("result", &half, &full, HALF)?;
    within("gradient", &d_half, &d_full, HALF)
}
