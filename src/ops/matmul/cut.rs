//! Products with a matrix that is larger than what the device binds at once, as a tied table and its gradient are on many: one
//! product for each part of its rows.

use super::operands::{Epilogue, Gemm, Operand};
use super::product::Layout;
use crate::autograd::Destination;
use crate::error::Result;
use crate::gpu::{BufferView, Gpu};
use crate::ops::parts::{Part, row_parts};
use crate::ops::shape;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Whether [`run_cut`] can make it and a dispatch cannot: where a weight is too large, or a weight's gradient.
pub(super) fn is_cut(gpu: &Gpu, g: &Gemm<'_>) -> bool {
    let large = match (g.layout, g.epilogue) {
        // What follows these cannot be done part by part.
        (Layout::Nt, Epilogue::Scatter { .. }) | (Layout::Nn, Epilogue::GeluBackward(_)) => return false,
        (Layout::Nt | Layout::Nn, _) => &g.b,
        (Layout::Tn, _) => &g.c,
    };
    !gpu.binds(large.view.size()) && g.batch == [1, 1]
}

/// Records the product in parts, by `make`; one that GELU follows comes without it. The matrix that is cut is all of its buffer, and f32.
pub(super) fn run_cut(gpu: &Gpu, g: &Gemm<'_>, make: impl Fn(&Gemm<'_>) -> Result<()>) -> Result<()> {
    let [m, n, k] = g.size;
    match g.layout {
        // y = x Wᵀ: a part of W makes some columns of y.
        Layout::Nt => row_parts(gpu, g.b.view, n, g.b.row)?.iter().try_for_each(|Part { rows, view }| {
            let columns = |bias: &BufferView| bias.window(bytes(rows.start), bytes(rows.len()).next_multiple_of(16));
            let bias = match g.epilogue {
                Epilogue::Bias(bias) | Epilogue::Residual { bias, .. } => columns(bias),
                _ => g.b.view.clone(),
            };
            let epilogue = match g.epilogue {
                Epilogue::Bias(_) => Epilogue::Bias(&bias),
                Epilogue::Residual { residual, .. } => Epilogue::Residual { bias: &bias, residual },
                other => other,
            };
            let c = Operand { offset: g.c.offset + rows.start, ..g.c };
            make(&Gemm { size: [m, rows.len(), k], b: Operand { view, ..g.b }, c, epilogue, ..*g })
        }),
        // dx = dy W: a part of W takes some columns of dy, and all but the first are added.
        Layout::Nn => row_parts(gpu, g.b.view, k, g.b.row)?.iter().try_for_each(|Part { rows, view }| {
            let a = Operand { offset: g.a.offset + rows.start, ..g.a };
            let epilogue = match g.epilogue {
                Epilogue::Plain { alpha, accumulate } => {
                    Epilogue::Plain { alpha, accumulate: accumulate || rows.start > 0 }
                }
                other => other,
            };
            make(&Gemm { size: [m, n, rows.len()], a, b: Operand { view, ..g.b }, epilogue, ..*g })
        }),
        // dW = dyᵀ x: some columns of dy make a part of dW.
        Layout::Tn => row_parts(gpu, g.c.view, m, g.c.row)?.iter().try_for_each(|Part { rows, view }| {
            let a = Operand { offset: g.a.offset + rows.start, ..g.a };
            let part = Gemm { size: [rows.len(), n, k], a, c: Operand { view, ..g.c }, ..*g };
            let Epilogue::Sums { accumulate, sums } = g.epilogue else { return make(&part) };
            let shape = shape("matmul", &[rows.len()])?;
            let view = sums.tensor.buffer().window(bytes(rows.start), bytes(rows.len()).next_multiple_of(16));
            let tensor = Tensor::from_view(gpu, DType::F32, shape, view);
            let sums = &Destination { tensor, accumulate: sums.accumulate };
            make(&Gemm { epilogue: Epilogue::Sums { accumulate, sums }, ..part })
        }),
    }
}

fn bytes(elements: usize) -> u64 {
    elements as u64 * DType::F32.size()
}
