//! The kernels that a device may come to by tuning, by other widths of heads, or in half precision: each against the reference, or
//! against the same computation in full precision.

use anyhow::{Result, ensure};
use wgrad::models::vit::VitConfig;
use wgrad::nn::Precision;
use wgrad::ops::attention::reference::{self, Masked};
use wgrad::ops::{self, Demand, Gelu, Mask, Tuning};
use wgrad::{DType, Gpu, Tensor};

use crate::check::{values, within};
use crate::console::complain;
use crate::halves;
use crate::products::Linear;
use crate::row::Row;
use crate::steps::{Network, settings};

/// Of half precision, relative to the largest value: eleven bits, and what sums of a few dozen lose of them.
pub const HALF: f32 = 1e-2;
const FULL: f32 = 1e-4;
/// Of matrix products, beside those of matrix units.
const FORMS: [&str; 7] = ["simple", "rows64", "rows32", "rows16", "tile128", "tile64", "tile32"];
const GELUS: [Gelu; 3] = [Gelu::Erf, Gelu::Tanh, Gelu::Quick];

/// A check by name.
pub type Named = (String, Result<()>);

pub fn run(gpu: &Gpu) -> Vec<Named> {
    let precisions = [Some(Precision::F32), Some(Precision::F16).filter(|_| gpu.has_f16())];
    let mut checks = Vec::new();
    for precision in precisions.into_iter().flatten() {
        for gelu in GELUS {
            complain!("self-test, products with GELU {gelu:?}, {precision:?}");
            checks.extend(products(gpu, &FORMS, gelu, precision));
        }
        for gelu in GELUS {
            complain!("self-test, MLPs of a few rows and of odd widths with GELU {gelu:?}, {precision:?}");
            for (rows, widths) in MLPS {
                let name = format!("MLP of {rows} rows, {widths:?} wide, {gelu:?}, {precision:?}");
                checks.push((name, mlp(gpu, rows, widths, gelu, precision)));
            }
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
        complain!("self-test, functions and layers in half precision");
        checks.extend(halves::functions(gpu));
        checks.extend(halves::layers(gpu, &FORMS));
    }
    for rows in [1, 3] {
        let few = Linear { size: [rows, 48, 64] }.products("few rows", "linear");
        checks.extend(few.iter().map(|row: &Row| (row.name.clone(), (row.build)(gpu).and_then(|op| (op.check)()))));
    }
    checks
}

/// The products of the matrix units that the device was opened with, whose subgroups have `lanes` invocations.
pub fn matrix_units(gpu: &Gpu, lanes: u32) -> Vec<Named> {
    let form = format!("cooperative{lanes}");
    let mut checks = halves::layers(gpu, &[&form]);
    for gelu in GELUS {
        complain!("self-test, products by matrix units with GELU {gelu:?}");
        checks.extend(products(gpu, &[&form], gelu, Precision::F16));
    }
    checks
}

/// A small ViT's training with these forms of its products, beside the same with the forms that the rules choose in full precision.
fn products(gpu: &Gpu, forms: &[&str], act_layer: Gelu, precision: Precision) -> Vec<Named> {
    let Network::Vit(config) = Network::vit([64, 4, 4], 4, 16) else { return Vec::new() };
    let config = VitConfig { act_layer, ..config };
    let network = Network::Vit(config.clone());
    let mut checks = Vec::new();
    for kept in [None, Some(9)] {
        gpu.set_tuning(&Tuning::default());
        let (expected, demands) = match expected(gpu, &network, precision, kept) {
            Ok(found) => found,
            Err(error) => {
                checks.push((
                    format!("what training in {precision:?} is held against, {kept:?} tokens kept"),
                    Err(error),
                ));
                continue;
            }
        };
        for form in forms {
            gpu.set_tuning(&Tuning::by_form(&demands, form));
            let name = format!("training by {form}, {act_layer:?}, {precision:?}, {kept:?} tokens kept");
            let loss = last_loss(gpu, &network, precision, kept);
            checks.push((name, loss.and_then(|loss| near(loss, expected, precision))));
        }
    }
    gpu.set_tuning(&Tuning::default());
    if precision == Precision::F16 {
        // What is dropped follows from the step alone.
        let rates = VitConfig { pos_drop_rate: 0.1, proj_drop_rate: 0.1, drop_path_rate: 0.2, ..config };
        let network = Network::Vit(rates);
        let name = format!("training with dropout, {act_layer:?}, {precision:?}");
        let losses = [Precision::F32, precision].map(|precision| last_loss(gpu, &network, precision, None));
        let [expected, loss] = losses;
        checks.push((name, expected.and_then(|expected| near(loss?, expected, precision))));
    }
    checks
}

/// The loss in full precision, and the products that training in this one asks for.
fn expected(gpu: &Gpu, network: &Network, precision: Precision, kept: Option<usize>) -> Result<(f32, Vec<Demand>)> {
    let loss = last_loss(gpu, network, Precision::F32, kept)?;
    Ok((loss, network.rehearsed(gpu, BATCH, settings(precision, false)?, kept)?.products))
}

fn near(loss: f32, expected: f32, precision: Precision) -> Result<()> {
    let tolerance = if precision == Precision::F16 { 0.02 } else { 1e-3 };
    ensure!((loss - expected).abs() <= tolerance * expected.abs(), "loss {loss}, not {expected}");
    Ok(())
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

/// Rows, and the widths of input, hidden layer and output: a row by itself, a few, rows that no vector of four fits.
const MLPS: [(usize, [usize; 3]); 4] = [(1, [48, 96, 48]), (3, [48, 96, 48]), (7, [5, 7, 3]), (65, [36, 61, 36])];

/// Forward and backward, by itself and into the rows of a larger tensor.
fn mlp(gpu: &Gpu, rows: usize, [c, f, n]: [usize; 3], gelu: Gelu, precision: Precision) -> Result<()> {
    let (dtype, tolerance) = of(precision);
    let sizes = [rows * c, f * c, f, n * f, n, rows * n];
    let data: [Vec<f32>; 6] = std::array::from_fn(|i| values(1 + i as u64, sizes[i]));
    let dims = [&[1, rows, c][..], &[f, c], &[f], &[n, f], &[n], &[1, rows, n]];
    let leaf = |i: usize| Tensor::from_slice(gpu, dims[i], &data[i])?.requires_grad();
    let t: Vec<Tensor> = (0..6).map(leaf).collect::<wgrad::Result<_>>()?;
    let x = ops::cast(&t[0], dtype)?;
    let run = |into| ops::mlp(&x, (&t[1], &t[2]), (&t[3], &t[4]), gelu, &t[5], into);
    let inputs = std::array::from_fn(|i| &data[i][..]);
    let (y, dy) = (run(None)?, values(9, rows * n));
    let expected = ops::mlp::reference::forward(inputs, gelu, rows);
    within("result", &y.to_vec()?, &expected, tolerance)?;
    let gradients = y.backward_from(&Tensor::from_slice(gpu, &[1, rows, n], &dy)?)?;
    for (t, expected) in t.iter().zip(ops::mlp::reference::backward(inputs, gelu, &dy, rows)) {
        within("gradient", &crate::row::gradient(&gradients, t)?, &expected, tolerance)?;
    }
    // Every other row of one that has twice as many.
    let (kept, full) = ((0..rows as u32).map(|row| 2 * row).collect::<Vec<_>>(), values(8, 2 * rows * n));
    let indices = ops::TokenIndices::new(gpu, [1, rows], 2 * rows, &kept)?;
    let into = run(Some((Tensor::from_slice(gpu, &[1, 2 * rows, n], &full)?, &indices)))?;
    let rest = full.chunks(n).skip(1).step_by(2);
    let whole: Vec<f32> = expected.chunks(n).zip(rest).flat_map(|(own, rest)| [own, rest].concat()).collect();
    within("result in a larger tensor", &into.to_vec()?, &whole, tolerance)
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
