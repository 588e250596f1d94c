//! The tokens that a ViT's first block sees: class token and registers, then the patches, all with their positions.

use super::rows::token_sizes;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, Kernel, Params, params, rounds, wgsl};
use crate::ops::item::{sample_grid, sample_rounds};
use crate::ops::reduce::column_sum::{column_sum, first_columns_sum};
use crate::ops::strided::{View, copy_view, sizes};
use crate::ops::variants::ByItem;
use crate::ops::{expect_f32, expect_match, shape};
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

params!(EmbedParams { samples: u32, items: u32, prefix_items: u32 });

static VEC4: Kernel = Kernel {
    name: "embed_tokens.vec4",
    sources: &[wgsl!("embed_tokens.wgsl"), wgsl!("tiles/vec4.wgsl")],
    entry: "embed_tokens",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
    params: EmbedParams::FIELDS,
    constants: &[],
    rounds: rounds!(EmbedParams, |p, groups| sample_rounds(p.items, p.samples, groups, 0)),
};

static SCALAR: Kernel =
    Kernel { name: "embed_tokens.scalar", sources: &[wgsl!("embed_tokens.wgsl"), wgsl!("tiles/scalar.wgsl")], ..VEC4 };

const FORMS: ByItem = ByItem::new(&VEC4, &SCALAR);

pub(crate) const KERNELS: &[&Kernel] = &[&VEC4, &SCALAR];

const OP: &str = "embed_tokens";

/// Puts `prefix`, `f32[1, P, C]` (class token and registers), before each sample of `patches`, `f32[B, N, C]`, and adds
/// `pos`, `f32[1, T, C]` with T = P + N, to every sample. Returns `f32[B, T, C]`.
///
/// # Errors
/// If the shapes are not those.
pub fn embed_tokens(patches: &Tensor, prefix: Option<&Tensor>, pos: &Tensor) -> Result<Tensor> {
    let sizes = Sizes::new(patches, prefix, pos)?;
    let y = Tensor::unwritten(patches.gpu(), DType::F32, shape(OP, &[sizes.batch, sizes.tokens(), sizes.width])?)?;
    let (kernel, item) = FORMS.pick(sizes.width);
    let items = sizes.tokens() * sizes.width / item;
    let params = EmbedParams {
        samples: sizes.batch as u32,
        items: items as u32,
        prefix_items: (sizes.prefix * sizes.width / item) as u32,
    };
    // Without a prefix the binding still needs a buffer; none of it is read.
    let buffers = [patches.buffer(), prefix.unwrap_or(pos).buffer(), pos.buffer(), y.buffer()];
    patches.gpu().dispatch(kernel, &params, &buffers, sample_grid(items, sizes.batch))?;
    let parents: Vec<_> = [patches, pos].into_iter().chain(prefix).collect();
    Ok(record(y, &parents, || sizes))
}

/// Of one call: B, P, N, C.
struct Sizes {
    batch: usize,
    prefix: usize,
    patches: usize,
    width: usize,
}

impl Sizes {
    fn new(patches: &Tensor, prefix: Option<&Tensor>, pos: &Tensor) -> Result<Self> {
        let [batch, count, width] = token_sizes(OP, patches)?;
        let mut sizes = Sizes { batch, prefix: 0, patches: count, width };
        if let Some(prefix) = prefix {
            let [one, rows, columns] = token_sizes(OP, prefix)?;
            let fits = one == 1 && columns == width;
            expect_match(OP, patches, prefix, fits, "prefix must be f32[1, P, C] with patches' C")?;
            sizes.prefix = rows;
        }
        expect_f32(OP, pos)?;
        let fits = pos.dims() == [1, sizes.tokens(), width];
        expect_match(OP, patches, pos, fits, "pos must be f32[1, P + N, C] with patches' N and C")?;
        Ok(sizes)
    }

    /// T.
    fn tokens(&self) -> usize {
        self.prefix + self.patches
    }
}

impl Backward for Sizes {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Sizes { batch, prefix, patches, width } = *self;
        let sample = self.tokens() * width;
        if let Some(to) = parents.destination(0)? {
            const TOKENS: usize = Shape::MAX_RANK - 2;
            let behind_prefix = View::all(sizes(dy.shape())).part(TOKENS, prefix, patches);
            copy_view(&dy, behind_prefix, &to, View::all(behind_prefix.sizes))?;
        }
        if let Some(to) = parents.destination(1)? {
            column_sum(&dy, batch, sample, &to)?;
        }
        if let Some(to) = parents.destination(2)? {
            first_columns_sum(&dy, batch, sample, prefix * width, &to)?;
        }
        Ok(())
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use crate::ops::reduce::column_sum::reference::column_sum;

    /// y of `batch` samples; without a prefix `prefix` is empty.
    pub fn forward(patches: &[f32], prefix: &[f32], pos: &[f32], batch: usize) -> Vec<f32> {
        let tokens = patches.chunks(patches.len() / batch).flat_map(|sample| prefix.iter().chain(sample));
        tokens.zip(pos.iter().cycle()).map(|(token, pos)| token + pos).collect()
    }

    /// (dpatches, dprefix, dpos), with `prefix` floats in the prefix and `sample` in a sample of dy.
    pub fn backward(dy: &[f32], prefix: usize, sample: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let dpatches = dy.chunks(sample).flat_map(|sample| &sample[prefix..]).copied().collect();
        let dpos = column_sum(dy, sample);
        (dpatches, dpos[..prefix].to_vec(), dpos)
    }
}
