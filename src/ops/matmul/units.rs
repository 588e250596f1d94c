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

/// M, N, K, and how often each is tried. The first is more than one tile, and no multiple of a tile or of the units' 8. With the
/// others an Apple compiler's wrong code has shown, at nearly every first launch (docs/portability.md): a few columns and steps
/// of K, which leave most of a tile empty.
const TRIALS: [([usize; 3], usize); 4] = [([68, 44, 52], 1), ([382, 10, 1], 3), ([382, 10, 3], 3), ([4096, 14, 5], 3)];
/// Of the largest element.
const TOLERANCE: f64 = 1e-2;

/// Tries the matrix units out, once; from then on plans use them if they are right.
pub(super) fn try_out(gpu: &Gpu) {
    if gpu.matrix_units().is_some() && !gpu.is_dry_run() {
        trust_matrix_units(gpu, || are_right(gpu));
    }
}

/// Compares products of each layout with the CPU's.
fn are_right(gpu: &Gpu) -> bool {
    let layouts = [Layout::Nn, Layout::Nt, Layout::Tn];
    let trials = TRIALS.into_iter().flat_map(|(size, times)| layouts.map(|layout| (layout, size, times)));
    let right: Result<bool> =
        trials.into_iter().try_fold(true, |all, (layout, size, times)| Ok(all && agrees(gpu, layout, size, times)?));
    match &right {
        Ok(true) => {}
        Ok(false) => log::warn!("the matrix units of {} compute wrong results and are not used", gpu.info()),
        Err(error) => log::warn!("the matrix units of {} do not work and are not used: {error}", gpu.info()),
    }
    right.unwrap_or(false)
}

/// Whether a product is right as often as it is launched.
fn agrees(gpu: &Gpu, layout: Layout, size: [usize; 3], times: usize) -> Result<bool> {
    let [m, n, k] = size;
    let (a, b) = (values(m * k, 7), values(k * n, 11));
    let a_at = |i: usize, q: usize| f64::from(if layout == Layout::Tn { a[q * m + i] } else { a[i * k + q] });
    let b_at = |q: usize, j: usize| f64::from(if layout == Layout::Nt { b[j * k + q] } else { b[q * n + j] });
    let cell = |c: usize| (0..k).map(|q| a_at(c / n, q) * b_at(q, c % n)).sum::<f64>();
    let reference: Vec<f64> = (0..m * n).map(cell).collect();
    let largest = reference.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    // A NaN is not within anything.
    let within = |(got, right): (&f32, &f64)| (f64::from(*got) - right).abs() <= TOLERANCE * largest;
    (0..times).try_fold(true, |all, _| {
        let got = product(gpu, layout, size, &a, &b)?;
        Ok(all && got.len() == reference.len() && got.iter().zip(&reference).all(within))
    })
}

/// Values in −1..=1 that f16 holds exactly, with no pattern that a tile could share.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + seed) * (i + 3 * seed) * seed + i) % 129) as f32 / 64.0 - 1.0).collect()
}

/// The product by matrix units: forward and input gradient of a layer with half-precision activations, or its weight's
/// gradient.
fn product(gpu: &Gpu, layout: Layout, size: [usize; 3], a: &[f32], b: &[f32]) -> Result<Vec<f32>> {
    let Some(form) = gpu.matrix_units().and_then(matrix_form) else { return Ok(Vec::new()) };
    let [m, n, k] = size;
    let types = match layout {
        Layout::Tn => [DType::F16, DType::F16, DType::F32],
        Layout::Nn | Layout::Nt => [DType::F16, DType::F32, DType::F16],
    };
    let a = Padded::new(gpu, types[0], a, if layout == Layout::Tn { m } else { k })?;
    let b = Padded::new(gpu, types[1], b, if layout == Layout::Nt { k } else { n })?;
    let c = Padded::new(gpu, types[2], &vec![0.0; m * n], n)?;
    let product = Gemm {
        layout,
        size,
        batch: [1, 1],
        types,
        a: a.operand(),
        b: b.operand(),
        c: c.operand(),
        epilogue: Epilogue::Plain { alpha: 1.0, accumulate: false },
    };
    run_plan(gpu, &product, whole(form))?;
    let rows = cast(&c.tensor, DType::F32)?.to_vec()?;
    Ok(rows.chunks(c.stride).flat_map(|row| &row[..n]).copied().collect())
}

/// A matrix whose rows start at multiples of four elements, as the kernels read them.
struct Padded {
    tensor: Tensor,
    stride: usize,
}

impl Padded {
    /// Of rows of `width` elements without gaps. What stands in the gaps would show where it takes part.
    fn new(gpu: &Gpu, dtype: DType, data: &[f32], width: usize) -> Result<Self> {
        let stride = width.next_multiple_of(4);
        let gap = vec![7.0; stride - width];
        let padded: Vec<f32> = data.chunks(width).flat_map(|row| row.iter().chain(&gap)).copied().collect();
        Ok(Padded { tensor: cast(&Tensor::from_slice(gpu, &[padded.len()], &padded)?, dtype)?, stride })
    }

    fn operand(&self) -> Operand<'_> {
        Operand::contiguous(self.tensor.buffer(), self.stride, self.tensor.dims()[0])
    }
}
