//! Products whose K is more than a kernel's loops can run through ([`crate::gpu::MAX_ROUNDS`]), or whose matrix is cut, and whose epilogue
//! needs the whole sum: the sum first, in shares, then what follows it, by kernels of its own. (Where the epilogue adds, the shares of the product
//! do: `run_rows` in `gemm.rs`.)

use super::operands::{Epilogue, Gemm, Operand};
use super::plan::Plan;
use crate::error::Result;
use crate::gpu::{Fault, Gpu};
use crate::ops::shape;
use crate::ops::tokens::TokenRows;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Whether [`run_apart`] must make it.
pub(super) fn is_apart(gpu: &Gpu, g: &Gemm<'_>, plan: &Plan) -> bool {
    let forms = [Some(plan.body), plan.rest].into_iter().flatten();
    let needs_whole =
        matches!(g.epilogue, Epilogue::Gelu { .. } | Epilogue::GeluBackward(_) | Epilogue::Scatter { .. });
    needs_whole && forms.into_iter().any(|form| g.share_of_k(gpu, form) < g.size[2])
}

/// Records the product, by `make`, and what follows it one after the other. As the operations ask for such epilogues, there is
/// one matrix, and C is all of its buffer.
pub(super) fn run_apart(gpu: &Gpu, g: &Gemm<'_>, make: impl Fn(&Gemm<'_>) -> Result<()>) -> Result<()> {
    let [m, n, _] = g.size;
    let scratch = |dtype| Tensor::unwritten(gpu, dtype, shape("matmul", &[m, n])?);
    match g.epilogue {
        Epilogue::Gelu { bias, h, gelu } => {
            make(&Gemm { c: Operand { view: h, ..g.c }, epilogue: Epilogue::Bias(bias), ..*g })?;
            gelu.forward(gpu, g.types[2], [h, g.c.view], m * n)
        }
        Epilogue::GeluBackward(gelu) => {
            let (dy, h) = (scratch(g.types[2])?, scratch(g.types[2])?);
            let c = Operand::contiguous(dy.buffer(), n, m * n);
            make(&Gemm { c, epilogue: Epilogue::Plain { alpha: 1.0, accumulate: false }, ..*g })?;
            gpu.copy(&g.c.view.part(0, h.buffer().size()), h.buffer())?;
            gelu.backward(gpu, g.types[2], [h.buffer(), dy.buffer(), g.c.view], m * n, 0)
        }
        Epilogue::Scatter { bias, residual, indices } => {
            let packed = scratch(DType::F32)?;
            let c = Operand::contiguous(packed.buffer(), n, m * n);
            make(&Gemm { c, epilogue: Epilogue::Residual { bias, residual }, ..*g })?;
            let full = shape("matmul", &[indices.batch(), indices.tokens(), n])?;
            let full = Tensor::from_view(gpu, DType::F32, full, g.c.view.clone());
            TokenRows::new(indices, n, Fault::ScatterIndex).scatter(&packed, &full, false)
        }
        _ => make(g),
    }
}
