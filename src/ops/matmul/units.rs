//! Whether a device's matrix units compute what they should. Some drivers' do not, silently.

use super::gemm::run_plan;
use super::operands::{Epilogue, Gemm, Operand};
use super::plan::{matrix_form, whole};
use super::product::Layout;
use super::table::trust_matrix_units;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::cast::cast;
use crate::shape::DType;
use crate::tensor::Tensor;

/// M, N, K: more than one tile of 32, and no multiple of a tile or of the units' 8.
const SIZE: [usize; 3] = [68, 44, 52];
/// Of the largest element.
const TOLERANCE: f64 = 1e-2;

/// Tries the matrix units out, once; from then on plans use them if they are right.
pub(super) fn try_out(gpu: &Gpu) {
    if gpu.matrix_units().is_some() && !gpu.is_dry_run() {
        trust_matrix_units(gpu, || are_right(gpu));
    }
}

/// Compares a product of each layout with the CPU's.
fn are_right(gpu: &Gpu) -> bool {
    let layouts = [Layout::Nn, Layout::Nt, Layout::Tn];
    let right: Result<bool> = layouts.into_iter().try_fold(true, |all, layout| Ok(all && agrees(gpu, layout)?));
    match &right {
        Ok(true) => {}
        Ok(false) => log::warn!("the matrix units of {} compute wrong results and are not used", gpu.info()),
        Err(error) => log::warn!("the matrix units of {} do not work and are not used: {error}", gpu.info()),
    }
    right.unwrap_or(false)
}

fn agrees(gpu: &Gpu, layout: Layout) -> Result<bool> {
    let [m, n, k] = SIZE;
    let (a, b) = (values(m * k, 7), values(k * n, 11));
    let got = product(gpu, layout, &a, &b)?;
    let a_at = |i: usize, q: usize| f64::from(if layout == Layout::Tn { a[q * m + i] } else { a[i * k + q] });
    let b_at = |q: usize, j: usize| f64::from(if layout == Layout::Nt { b[j * k + q] } else { b[q * n + j] });
    let cell = |c: usize| (0..k).map(|q| a_at(c / n, q) * b_at(q, c % n)).sum::<f64>();
    let reference: Vec<f64> = (0..m * n).map(cell).collect();
    let largest = reference.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    // A NaN is not within anything.
    Ok(got.iter().zip(&reference).all(|(got, right)| (f64::from(*got) - right).abs() <= TOLERANCE * largest))
}

/// Values in −1..=1 that f16 holds exactly, with no pattern that a tile could share.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + seed) * (i + 3 * seed) * seed + i) % 129) as f32 / 64.0 - 1.0).collect()
}

/// The product by matrix units: forward and input gradient of a layer with half-precision activations, or its weight's
/// gradient.
fn product(gpu: &Gpu, layout: Layout, a: &[f32], b: &[f32]) -> Result<Vec<f32>> {
    let Some(form) = gpu.matrix_units().and_then(matrix_form) else { return Ok(Vec::new()) };
    let [m, n, k] = SIZE;
    let types = match layout {
        Layout::Tn => [DType::F16, DType::F16, DType::F32],
        Layout::Nn | Layout::Nt => [DType::F16, DType::F32, DType::F16],
    };
    let a = cast(&Tensor::from_slice(gpu, &[a.len()], a)?, types[0])?;
    let b = cast(&Tensor::from_slice(gpu, &[b.len()], b)?, types[1])?;
    let c = Tensor::zeros(gpu, types[2], &[m, n])?;
    let (lda, ldb) = (if layout == Layout::Tn { m } else { k }, if layout == Layout::Nt { k } else { n });
    let product = Gemm {
        layout,
        size: SIZE,
        batch: [1, 1],
        types,
        a: Operand::contiguous(a.buffer(), lda, m * k),
        b: Operand::contiguous(b.buffer(), ldb, k * n),
        c: Operand::contiguous(c.buffer(), n, m * n),
        epilogue: Epilogue::Plain { alpha: 1.0, accumulate: false },
    };
    run_plan(gpu, &product, whole(form))?;
    cast(&c, DType::F32)?.to_vec()
}
