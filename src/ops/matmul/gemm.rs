//! Makes the product beneath [`super::linear`], [`crate::ops::mlp`] and [`crate::ops::attention`], strided and batched, by the
//! kernels of its plan.

use std::ops::Range;

use super::forms::Form;
use super::operands::{Epilogue, Gemm, Operand};
use super::params::GemmParams;
use super::plan::Plan;
use super::{cut, deep, table};
use crate::autograd::Destination;
use crate::error::{Error, Result};
use crate::gpu::{Fault, Gpu, Grid};
use crate::ops::item::pieces;
use crate::ops::reduce::column_sum::column_sum;
use crate::ops::shape;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Records the product.
pub(in crate::ops) fn gemm(gpu: &Gpu, g: &Gemm<'_>) -> Result<()> {
    if cut::is_cut(gpu, g) {
        // GELU takes the whole of what it follows: a part's columns are not.
        if let Epilogue::Gelu { .. } = g.epilogue {
            return deep::run_apart(gpu, g, |part| gemm(gpu, part));
        }
        return cut::run_cut(gpu, g, |part| gemm(gpu, part));
    }
    run_plan(gpu, g, table::plan(gpu, g.product()))
}

/// Records the product as `plan` says, which is one of [`super::plan::plans`]'s for it.
pub(super) fn run_plan(gpu: &Gpu, g: &Gemm<'_>, plan: Plan) -> Result<()> {
    if deep::is_apart(gpu, g, &plan) {
        return deep::run_apart(gpu, g, |part| gemm(gpu, part));
    }
    let Plan { body, rest, split } = plan;
    if split > 1 {
        return run_split(gpu, g, body, split);
    }
    let rows = g.size[0];
    let whole = if rest.is_some() { rows - rows % body.rows } else { rows };
    run_rows(gpu, g, body, 0..whole)?;
    rest.map_or(Ok(()), |form| run_rows(gpu, g, form, whole..rows))
}

/// Records a product of few tiles and a large K: `split` products of a share of K each, then their sum, always in the same
/// order.
fn run_split(gpu: &Gpu, g: &Gemm<'_>, form: &Form, split: usize) -> Result<()> {
    let Epilogue::Plain { alpha, accumulate } = g.epilogue else { return run_rows(gpu, g, form, 0..g.size[0]) };
    let [m, n, k] = g.size;
    let share = k / split;
    let partial = Tensor::unwritten(gpu, DType::F32, shape("matmul", &[split, m, n])?)?;
    let parts = Gemm {
        size: [m, n, share],
        batch: [split, 1],
        // The rows of both are steps of K.
        a: Operand { step: [share * g.a.row, 0], ..g.a },
        b: Operand { step: [share * g.b.row, 0], ..g.b },
        c: Operand::contiguous(partial.buffer(), n, m * n),
        epilogue: Epilogue::Plain { alpha, accumulate: false },
        ..*g
    };
    run_rows(gpu, &parts, form, 0..m)?;
    let c = Tensor::from_view(gpu, DType::F32, shape("matmul", &[m, n])?, g.c.view.clone());
    column_sum(&partial, split, m * n, &Destination { tensor: c, accumulate })
}

/// Records the product's rows in `range`: in as many dispatches as the largest grid needs, and, where K is more than the
/// kernel's loops can run through or one sum should take, once for each share of it, the later ones added to the first (in C's
/// type: an f16 is rounded as often).
fn run_rows(gpu: &Gpu, g: &Gemm<'_>, form: &Form, range: Range<usize>) -> Result<()> {
    let [_, n, k] = g.size;
    let Some(kernel) = g.kernel(form) else {
        let got = format!("{:?} {:?} of {:?} in {}", g.layout, g.epilogue.kind(g.layout), g.types, form.name);
        return Err(Error::argument("gemm", "element types", "a combination that has a kernel", got));
    };
    let faults = match &g.epilogue {
        Epilogue::Scatter { indices, .. } => indices.fault_place(Fault::ScatterIndex)?,
        _ => gpu.no_fault(Fault::ScatterIndex),
    };
    let buffers = g.buffers(&faults.table);
    let params = GemmParams { fault: faults.code, ..g.params() };
    let share = g.share_of_k(gpu, form);
    let most = gpu.most_groups();
    for matrices in pieces(0..g.batch[0] * g.batch[1], most) {
        for columns in pieces(0..n, most * form.columns) {
            for rows in pieces(range.clone(), most * form.rows) {
                let groups = (columns.len().div_ceil(form.columns), rows.len().div_ceil(form.rows), matrices.len());
                let first = [rows.start, columns.start, matrices.start].map(|first| first as u32);
                for steps in pieces(0..k, share) {
                    let flops = [2, rows.len(), columns.len(), steps.len(), matrices.len()];
                    let flops = flops.into_iter().map(|v| v as u64).product();
                    let grid = Grid::new(groups.0, groups.1, groups.2).with_flops(flops);
                    gpu.dispatch(kernel, &g.part(params, first, steps), &buffers, grid)?;
                }
            }
        }
    }
    Ok(())
}
