//! A linear layer and cross-entropy behind it, as one operation that never holds all logits: the head of a language model, whose
//! tens of thousands of classes would make the logits the largest tensor of a step by far.

use std::ops::Range;

use super::rows::{Criterion, Logits, Mean};
use super::settings::CrossEntropy;
use crate::autograd::{Backward, Destination, ParentGradients, record};
use crate::error::Result;
use crate::ops::item::pieces;
use crate::ops::matmul::{Epilogue, Gemm, Layer, Layout, Operand, add_to, gemm};
use crate::ops::reduce::column_sum::first_columns_sum;
use crate::ops::{reshape, shape, slice};
use crate::shape::DType;
use crate::tensor::Tensor;

const OP: &str = "linear_cross_entropy";

/// What [`linear_cross_entropy()`] finds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scores {
    /// The mean over the rows that count: `f32[]`. The one that has a gradient.
    pub loss: Tensor,
    /// Each row's own part of the sum that the mean is of, 0 where it does not count: `f32[N]`.
    pub losses: Tensor,
    /// How many rows have their largest logit at their label, as by [`super::count_correct()`]: `u32[]`.
    pub correct: Tensor,
}

/// [`super::cross_entropy()`] of the logits x·Wᵀ + bias, which are made some rows at a time and made again in backward: x `f32[N, C]`
/// or `f16[N, C]`, weight `f32[V, C]`, bias `f32[V]` and labels `u32[N]`. Logits are f32. Beside the gradients it takes up to about
/// 128 MiB for any N. V may be any number: where it is no multiple of four, rows of logits are padded, so that the products run on
/// vec4 all the same. The weight may be a parameter that is larger than what the device binds, and one that is used elsewhere.
///
/// # Errors
/// If the shapes do not fit, something other than x is not f32, or as [`super::cross_entropy()`].
pub fn linear_cross_entropy(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    labels: &Tensor,
    settings: &CrossEntropy,
) -> Result<Scores> {
    let layer = Layer::new(OP, x, weight, bias)?;
    let [rows, classes, _] = layer.size;
    let criterion = Criterion::new(OP, x, classes, labels.into(), settings)?;
    let head = Head { x: x.detach(), layer, bias: bias.map(Tensor::detach), criterion };
    let (stats, logits) = (head.criterion.new_stats()?, head.memory()?);
    let correct = Tensor::zeros(x.gpu(), DType::U32, &[])?;
    for part in head.parts() {
        head.make(&logits, part.clone())?;
        head.criterion.rows(head.logits(&logits, part.clone()), &stats)?;
        head.criterion.count(head.logits(&logits, part), &correct)?;
    }
    let Mean { loss, weight: share } = head.criterion.mean(&stats)?;
    let losses = reshape(&slice(&stats, 1, 0..1)?, &[rows])?;
    let parents: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let loss = record(loss, &parents, || Rule { head, stats, share, logits });
    Ok(Scores { loss, losses, correct })
}

/// Bytes of the logits that exist at a time.
const AT_ONCE: usize = 64 << 20;

/// The layer, and what its results are compared with.
struct Head {
    x: Tensor,
    layer: Layer,
    bias: Option<Tensor>,
    criterion: Criterion,
}

impl Head {
    /// From a row of logits to the next: V rounded up to whole vec4s.
    fn stride(&self) -> usize {
        self.layer.size[1].next_multiple_of(4)
    }

    /// The most rows of a part.
    fn most(&self) -> usize {
        let rows = self.layer.size[0];
        let most = (AT_ONCE / (self.stride() * size_of::<f32>())).max(1);
        // So that no part is much smaller than the others.
        rows.div_ceil(rows.div_ceil(most))
    }

    /// The rows in parts.
    fn parts(&self) -> Vec<Range<usize>> {
        pieces(0..self.layer.size[0], self.most()).collect()
    }

    /// Memory for the logits of a part.
    fn memory(&self) -> Result<Tensor> {
        Tensor::unwritten(self.x.gpu(), DType::F32, shape(OP, &[self.most(), self.stride()])?)
    }

    /// The logits of `rows`, as they lie in such memory.
    fn logits<'a>(&self, memory: &'a Tensor, rows: Range<usize>) -> Logits<'a> {
        Logits { view: memory.buffer(), first: rows.start, rows: rows.len(), stride: self.stride() }
    }

    /// Makes the logits of `rows`: x Wᵀ + bias.
    fn make(&self, memory: &Tensor, rows: Range<usize>) -> Result<()> {
        let epilogue = self.bias.as_ref().map_or(add_to(false), |bias| Epilogue::Bias(bias.buffer()));
        self.product(Layout::Nt, rows, [&self.x, &self.layer.weight, memory], epilogue)
    }

    /// Adds to dx, dW and db what the gradients of the logits of `rows` make, or writes it; dx has these rows from one part alone.
    fn add_gradients(
        &self,
        dlogits: &Tensor,
        rows: Range<usize>,
        dx: Option<&Tensor>,
        dw: Option<&Destination>,
        db: Option<&Destination>,
    ) -> Result<()> {
        let Layer { weight, size: [_, classes, _], .. } = &self.layer;
        if let Some(dx) = dx {
            self.product(Layout::Nn, rows.clone(), [dlogits, weight, dx], add_to(false))?;
        }
        if let Some(dw) = dw {
            self.product(Layout::Tn, rows.clone(), [dlogits, &self.x, &dw.tensor], add_to(dw.accumulate))?;
        }
        let Some(db) = db else { return Ok(()) };
        let of_rows = shape(OP, &[rows.len(), self.stride()])?;
        let dlogits = Tensor::from_view(dlogits.gpu(), DType::F32, of_rows, dlogits.buffer().clone());
        first_columns_sum(&dlogits, rows.len(), self.stride(), *classes, db)
    }

    /// C = A·B for `rows` of x, or of its gradient: logits = x Wᵀ, dx = dlogits W, dW = dlogitsᵀ x.
    fn product(
        &self,
        layout: Layout,
        rows: Range<usize>,
        [a, b, c]: [&Tensor; 3],
        epilogue: Epilogue<'_>,
    ) -> Result<()> {
        let [_, classes, channels] = self.layer.size;
        let (count, types) = (rows.len(), [a, b, c].map(Tensor::dtype));
        let logits = |matrix| Operand { row: self.stride(), ..matrix };
        let of_rows = |matrix| Operand { offset: rows.start * channels, ..matrix };
        let [a, b, c] = [a, b, c].map(|tensor| whole(tensor, channels));
        let (size, [a, b, c]) = match layout {
            Layout::Nt => ([count, classes, channels], [of_rows(a), b, logits(c)]),
            Layout::Nn => ([count, channels, classes], [logits(a), b, of_rows(c)]),
            Layout::Tn => ([classes, channels, count], [logits(a), of_rows(b), c]),
        };
        gemm(self.x.gpu(), &Gemm { layout, size, batch: [1, 1], types, a, b, c, epilogue })
    }
}

/// All rows of `width` elements of a tensor.
fn whole(tensor: &Tensor, width: usize) -> Operand<'_> {
    Operand { view: tensor.buffer(), offset: 0, row: width, step: [0; 2] }
}

/// What forward saved.
struct Rule {
    head: Head,
    /// What is kept of each row.
    stats: Tensor,
    /// 1 / the divisor: `f32[]`.
    share: Tensor,
    /// Those of the last part, which need not be made again.
    logits: Tensor,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Rule { head, stats, share, logits } = *self;
        // By itself until it is whole: x may be the weight, too.
        let dx = if parents.wants(0) { Some(head.x.empty_like()?) } else { None };
        let (mut dw, mut db) = (parents.destination(1)?, parents.destination(2)?);
        for (i, part) in head.parts().into_iter().rev().enumerate() {
            if i > 0 {
                head.make(&logits, part.clone())?;
            }
            head.criterion.backward_in_place(head.logits(&logits, part.clone()), &stats, &share, &dy)?;
            head.add_gradients(&logits, part, dx.as_ref(), dw.as_ref(), db.as_ref())?;
            [&mut dw, &mut db].into_iter().flatten().for_each(|to| to.accumulate = true);
        }
        drop((dw, db));
        dx.map_or(Ok(()), |dx| parents.give(0, dx))
    }
}
