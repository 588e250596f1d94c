//! What compares, chooses, counts or averages: operations without a gradient, each against its reference on the CPU.

use anyhow::{Result, ensure};
use wgrad::autograd::Parameters;
use wgrad::ops::{self, Mask, TokenIndices};
use wgrad::optim::{Ema, Optimizer, Rule, Sgd};
use wgrad::{Gpu, Tensor};

use crate::check::{close, values};
use crate::variants::Named;

const SAMPLES: usize = 3;
const TOKENS: usize = 70;
const KEPT: usize = 23;

type Check = fn(&Gpu) -> Result<()>;

pub fn run(gpu: &Gpu) -> Vec<Named> {
    let checks: [(&str, Check); 6] = [
        ("comparisons", comparisons),
        ("argmax", argmax),
        ("keep_largest", keep_largest),
        ("lengths of kept tokens", kept_lengths),
        ("update_means", update_means),
        ("running average of the weights", average),
    ];
    checks.into_iter().map(|(name, check)| (name.to_owned(), check(gpu))).collect()
}

/// Of whole numbers, so that there are equals.
fn few_values(seed: u64, n: usize) -> Vec<f32> {
    values(seed, n).iter().map(|v| (v * 20.0).round()).collect()
}

fn same(what: &str, got: &[u32], expected: &[u32]) -> Result<()> {
    ensure!(got == expected, "{what}: {got:?}, not {expected:?}");
    Ok(())
}

/// Every end of the floats beside every other, in both forms, and what `where_` makes of it.
fn comparisons(gpu: &Gpu) -> Result<()> {
    type Compare = (&'static str, fn(&Tensor, &Tensor) -> wgrad::Result<Tensor>, fn(&f32, &f32) -> bool);
    let all: [Compare; 6] = [
        ("eq", ops::eq, f32::eq),
        ("ne", ops::ne, f32::ne),
        ("lt", ops::lt, f32::lt),
        ("le", ops::le, f32::le),
        ("gt", ops::gt, f32::gt),
        ("ge", ops::ge, f32::ge),
    ];
    let ends = [f32::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, f32::INFINITY, f32::NAN];
    let pairs: Vec<(f32, f32)> = ends.iter().flat_map(|&x| ends.map(|y| (x, y))).collect();
    let (of_x, of_y): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
    let n = ends.len();
    let tensor = |dims: &[usize], values: &[f32]| Tensor::from_slice(gpu, dims, values);
    let (x, y) = (tensor(&[n, n], &of_x)?, tensor(&[n, n], &of_y)?);
    let (column, row) = (tensor(&[n, 1], &ends)?, tensor(&[n], &ends)?);
    let [one, zero] = [1.0, 0.0].map(|value| Tensor::full(gpu, &[n, n], value));
    let (one, zero) = (one?, zero?);
    for (name, compare, holds) in all {
        let expected: Vec<f32> = pairs.iter().map(|(x, y)| f32::from(u8::from(holds(x, y)))).collect();
        for (what, z) in [("same shape", compare(&x, &y)?), ("broadcast", compare(&column, &row)?)] {
            close(&format!("{name}, {what}"), &z.to_vec()?, &expected)?;
            close(&format!("where_ of {name}"), &ops::where_(&z, &one, &zero)?.to_vec()?, &expected)?;
        }
    }
    let chosen: Vec<f32> = of_x.iter().map(|&x| f32::from(u8::from(x != 0.0))).collect();
    close("where_ of floats", &ops::where_(&x, &one, &zero)?.to_vec()?, &chosen)
}

fn argmax(gpu: &Gpu) -> Result<()> {
    let x = few_values(1, SAMPLES * 2000);
    let got = ops::argmax(&Tensor::from_slice(gpu, &[SAMPLES, 2000], &x)?, 1)?;
    let expected: Vec<u32> = x.chunks(2000).map(ops::reduce::reference::argmax).collect();
    same("places", &got.to_vec()?, &expected)
}

/// With equal scores, a prefix and lengths.
fn keep_largest(gpu: &Gpu) -> Result<()> {
    let (scores, lengths) = (few_values(1, SAMPLES * TOKENS), [5u32, 40, 70]);
    let tensors =
        (Tensor::from_slice(gpu, &[SAMPLES, TOKENS], &scores)?, Tensor::from_slice(gpu, &[SAMPLES], &lengths)?);
    let got = ops::keep_largest(&tensors.0, KEPT, 1, Some(&tensors.1))?;
    let places = |(row, &length): (&[f32], &u32)| ops::keep_largest::reference::places(row, KEPT, 1, length as usize);
    let expected: Vec<u32> = scores.chunks(TOKENS).zip(&lengths).flat_map(places).collect();
    same("places", &got.positions().to_vec()?, &expected)
}

fn kept_lengths(gpu: &Gpu) -> Result<()> {
    let lengths = [0u32, 31, 70];
    let positions: Vec<u32> = (0..SAMPLES * KEPT).map(|i| (i % KEPT * 3) as u32).collect();
    let kept = TokenIndices::new(gpu, [SAMPLES, KEPT], TOKENS, &positions)?;
    let mask = Mask::NONE.with_lengths(&Tensor::from_slice(gpu, &[SAMPLES], &lengths)?)?.gathered(&kept)?;
    let got = mask.lengths().map(Tensor::to_vec::<u32>).transpose()?.unwrap_or_default();
    same("lengths", &got, &ops::attention::mask::reference::gathered(&positions, KEPT, &lengths))
}

fn update_means(gpu: &Gpu) -> Result<()> {
    let (means, losses) = (values(1, TOKENS), values(2, 500));
    let ids: Vec<u32> = (0..500).map(|i| i * i % 50).collect();
    let [m, v] = [&means, &losses].map(|data| Tensor::from_slice(gpu, &[data.len()], data));
    let got = ops::update_means(&m?, &Tensor::from_slice(gpu, &[500], &ids)?, &v?, None, 0.9)?;
    close("means", &got.to_vec()?, &ops::update_means::reference::updated(&means, &ids, &losses, 0.9))
}

/// After two updates, and in the weights' place.
fn average(gpu: &Gpu) -> Result<()> {
    let (n, ema) = (3000, Ema { decay: 0.75, warmup: false });
    let start = values(1, n);
    let mut parameters = Parameters::new(gpu);
    let weight = parameters.add("weight", &[n], &start)?;
    let optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, |_, _| false)?;
    let mut optimizer = optimizer.with_ema(&parameters, ema)?;
    let mut expected: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
    for step in 0..2 {
        weight.tensor().backward_from(&Tensor::from_slice(gpu, &[n], &values(2 + step, n))?)?;
        optimizer.step(&parameters, 0.1)?;
        let decay = f64::from(ema.decay);
        let now = weight.value().to_vec::<f32>()?;
        expected.iter_mut().zip(&now).for_each(|(a, &w)| *a = decay * *a + (1.0 - decay) * f64::from(w));
    }
    let own = weight.value().to_vec::<f32>()?;
    let expected: Vec<f32> = expected.iter().map(|&v| v as f32).collect();
    close("average", &optimizer.averaged(|| weight.value().to_vec::<f32>())?, &expected)?;
    close("weights after it", &weight.value().to_vec()?, &own)
}
