//! Attention without stored scores (Dao et al., 2022): every pass computes them again, a block of keys or queries at a time.

use std::ops::Range;

use super::packed::{Dims, Mask};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, BufferView, Gpu, Grid, Kernel, Params, Rounds, Source, looped, params, rounds, wgsl};
use crate::ops::item::{longest, pieces};
use crate::ops::shape;
use crate::ops::variants::{ByFamily, ByPrecision};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(FlashParams {
    tokens: u32,
    heads: u32,
    matrices: u32,
    tiles: u32,
    causal: u32,
    first: u32,
    end: u32,
    accumulate: u32,
    scale: f32,
});

impl FlashParams {
    /// Rows of the other side.
    fn met(&self) -> u32 {
        self.end.saturating_sub(self.first)
    }
}

/// The three passes of one form, with the rows that a workgroup makes.
struct Form {
    forward: Kernel,
    /// dQ, and out · dy of each row for the other pass.
    backward_q: Kernel,
    /// dK and dV.
    backward_kv: Kernel,
    rows: usize,
}

/// The names are the passes' in the order above.
const fn form(names: [&'static str; 3], sources: &'static [Source], rows: usize, rounds: [Rounds; 3]) -> Form {
    const FORWARD: &[Access] = &[Access::Read, Access::Write, Access::Write];
    const BACKWARD_Q: &[Access] =
        &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Write, Access::Read];
    const BACKWARD_KV: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Read];
    const fn pass(
        name: &'static str,
        sources: &'static [Source],
        entry: &'static str,
        bindings: &'static [Access],
        rounds: Rounds,
    ) -> Kernel {
        Kernel { name, sources, entry, bindings, params: FlashParams::FIELDS, constants: &[], rounds }
    }
    Form {
        forward: pass(names[0], sources, "forward", FORWARD, rounds[0]),
        backward_q: pass(names[1], sources, "backward_q", BACKWARD_Q, rounds[1]),
        backward_kv: pass(names[2], sources, "backward_kv", BACKWARD_KV, rounds[2]),
        rows,
    }
}

/// The forms for heads of one width.
struct Head {
    width: usize,
    forms: ByFamily<ByPrecision<Form>>,
}

impl Head {
    fn pick(&'static self, gpu: &Gpu, dtype: DType) -> &'static Form {
        self.forms.pick(gpu.family()).pick(dtype)
    }
}

/// The rounds of the three passes of the lane form, for `t` rows on the other side and rows of `row` vec4s: two rows in a round,
/// which runs along them two, three and four times; before and after, a lane's own three rows are read and stored.
fn lane_rounds(pass: usize, t: u32, row: u64) -> u64 {
    let along = looped(row, 0);
    let (inside, outside) = [(2, 6), (3, 9), (4, 12)][pass];
    looped(t.div_ceil(2), inside * along) + outside * along
}

/// The same of the group form: 32 rows in a round, by chunks of eight vec4s.
fn group_rounds(pass: usize, t: u32, row: u64) -> u64 {
    let (chunks, eight) = (row.div_ceil(8), looped(8u64, 0));
    let (products, both, add) = (looped(chunks, eight), looped(chunks, 2 * eight), chunks * eight);
    let blocks = t.div_ceil(32);
    match pass {
        0 => looped(blocks, products + eight + add) + eight,
        1 => looped(chunks, 0) + eight + looped(blocks, both + add),
        _ => looped(blocks, both + 2 * add),
    }
}

/// The form of a kernel's files, for a width and a precision; `$act` is the precision's tile, `$suffix` its part of the
/// names.
macro_rules! form {
    ($name:literal, $files:expr, $rows:literal, $of:ident, $width:literal, $head:literal, $act:expr, $suffix:literal) => {
        form(
            [
                concat!($name, ".forward.", $width, $suffix),
                concat!($name, ".backward_q.", $width, $suffix),
                concat!($name, ".backward_kv.", $width, $suffix),
            ],
            &[$files[0], $files[1], wgsl!("lib/flash.wgsl"), wgsl!("lib/grid.wgsl"), $act, wgsl!($head)],
            $rows,
            [
                rounds!(FlashParams, |p, _| $of(0, p.met(), $width / 4)),
                rounds!(FlashParams, |p, _| $of(1, p.met(), $width / 4)),
                rounds!(FlashParams, |p, _| $of(2, p.met(), $width / 4)),
            ],
        )
    };
}

macro_rules! head {
    ($width:literal, $head:literal) => {
        Head {
            width: $width,
            forms: ByFamily {
                lane: ByPrecision {
                    full: form!("flash_lane", LANE, 24, lane_rounds, $width, $head, F32, ""),
                    half: form!("flash_lane", LANE, 24, lane_rounds, $width, $head, F16, ".f16"),
                },
                group: ByPrecision {
                    full: form!("flash_group", GROUP, 32, group_rounds, $width, $head, F32, ""),
                    half: form!("flash_group", GROUP, 32, group_rounds, $width, $head, F16, ".f16"),
                },
            },
        }
    };
}

const LANE: [Source; 2] = [wgsl!("flash_lane.wgsl"), wgsl!("lib/flash_rows.wgsl")];
const GROUP: [Source; 2] = [wgsl!("flash_group.wgsl"), wgsl!("lib/flash_blocks.wgsl")];
const F32: Source = wgsl!("tiles/act_f32.wgsl");
const F16: Source = wgsl!("tiles/act_f16.wgsl", enable "f16");

static HEADS: [Head; 7] = [
    head!(16, "tiles/head_16.wgsl"),
    head!(32, "tiles/head_32.wgsl"),
    head!(48, "tiles/head_48.wgsl"),
    head!(64, "tiles/head_64.wgsl"),
    head!(80, "tiles/head_80.wgsl"),
    head!(96, "tiles/head_96.wgsl"),
    head!(128, "tiles/head_128.wgsl"),
];

/// Every kernel of this file.
pub(in crate::ops) fn kernels() -> Vec<&'static Kernel> {
    let of_form = |form: &'static Form| [&form.forward, &form.backward_q, &form.backward_kv];
    HEADS.iter().flat_map(|head| head.forms.both()).flat_map(ByPrecision::both).flat_map(of_form).collect()
}

/// Whether there are kernels for heads of `width`.
pub(super) fn has_form(width: usize) -> bool {
    HEADS.iter().any(|head| head.width == width)
}

/// [`super::attention()`] in memory that grows with T, not T²: forward keeps `qkv`, its output and the log-sum-exp of each
/// row of scores, `f32[B, H, T]`. For heads of width 16, 32, 48, 64, 80, 96 and 128.
///
/// # Errors
/// As [`super::attention()`], and for another width.
pub fn attention_flash(qkv: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    const OP: &str = "attention";
    let dims = Dims::of(qkv, heads)?;
    let gpu = qkv.gpu();
    let Some(head) = HEADS.iter().find(|head| head.width == dims.width) else {
        return Err(Error::Shape { op: OP, what: "flash has no form for this width of a head", got: qkv.info() });
    };
    let form = head.pick(gpu, qkv.dtype());
    let out = Tensor::unwritten(gpu, qkv.dtype(), shape(OP, &[dims.batch, dims.tokens, dims.channels()])?)?;
    let lse = Tensor::unwritten(gpu, DType::F32, shape(OP, &[dims.batch, dims.heads, dims.tokens])?)?;
    let call = Call { form, dims, mask };
    let buffers = [qkv.buffer(), out.buffer(), lse.buffer()];
    call.run(gpu, &form.forward, 0, &buffers, 2)?;
    let saved = out.detach();
    Ok(record(out, &[qkv], || Rule { qkv: qkv.detach(), out: saved, lse, call }))
}

/// What the passes have in common.
struct Call {
    form: &'static Form,
    dims: Dims,
    mask: Mask,
}

impl Call {
    /// Records a pass that makes `products` products of T·T·D for each head: at once, or, where T is more than the kernel's loops
    /// can run through, for equal parts of the other side.
    fn run(
        &self,
        gpu: &Gpu,
        kernel: &'static Kernel,
        accumulate: u32,
        buffers: &[&BufferView],
        products: u64,
    ) -> Result<()> {
        let most = longest(self.dims.tokens, PART, |rows| kernel.fits(&self.params(0..rows, 0), self.grid()));
        self.run_in_parts(gpu, kernel, accumulate, buffers, products, most)
    }

    /// The same with at most `most` rows a part, a multiple of [`PART`].
    fn run_in_parts(
        &self,
        gpu: &Gpu,
        kernel: &'static Kernel,
        accumulate: u32,
        buffers: &[&BufferView],
        products: u64,
        most: usize,
    ) -> Result<()> {
        let Dims { batch, heads, tokens, width } = self.dims;
        for part in pieces(0..tokens, most) {
            // Masked ones included.
            let flops = [batch, heads, tokens, part.len(), width].into_iter().map(|v| v as u64).product::<u64>();
            let accumulate = if part.start == 0 { accumulate } else { 1 };
            let grid = self.grid().with_flops(2 * products * flops);
            gpu.dispatch(kernel, &self.params(part, accumulate), buffers, grid)?;
        }
        Ok(())
    }

    /// Those of a dispatch that meets the rows `part` of the other side.
    fn params(&self, part: Range<usize>, accumulate: u32) -> FlashParams {
        let Dims { batch, heads, tokens, .. } = self.dims;
        FlashParams {
            tokens: tokens as u32,
            heads: heads as u32,
            matrices: (batch * heads) as u32,
            tiles: tokens.div_ceil(self.form.rows) as u32,
            causal: u32::from(self.mask == Mask::Causal),
            first: part.start as u32,
            end: part.end as u32,
            accumulate,
            scale: self.dims.scale(),
        }
    }

    fn grid(&self) -> Grid {
        let Dims { batch, heads, tokens, .. } = self.dims;
        Grid::linear(tokens.div_ceil(self.form.rows) * batch * heads, 1)
    }
}

/// Parts of the other side begin at multiples of so many rows: the blocks in which the kernels of GPUs meet them.
const PART: usize = 32;

struct Rule {
    /// `[B, T, 3·C]`
    qkv: Tensor,
    /// `[B, T, C]`
    out: Tensor,
    /// log Σ exp of each row of scores: `f32[B, H, T]`
    lse: Tensor,
    call: Call,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(to) = parents.destination(0)? else { return Ok(()) };
        let Rule { qkv, out, lse, call } = *self;
        let (gpu, add) = (dy.gpu(), to.flag());
        let delta = lse.empty_like()?;
        let (qkv, dy, lse, dqkv, delta) = (qkv.buffer(), dy.buffer(), lse.buffer(), to.tensor.buffer(), delta.buffer());
        call.run(gpu, &call.form.backward_q, add, &[qkv, dy, lse, dqkv, delta, out.buffer()], 3)?;
        call.run(gpu, &call.form.backward_kv, add, &[qkv, dy, lse, dqkv, delta], 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{GpuOptions, KernelFamily};

    const TOKENS: usize = 131;

    /// out, lse and dqkv of two heads of 16, with at most `most` rows of the other side in a dispatch.
    fn passes(gpu: &Gpu, mask: Mask, most: usize) -> Result<[Vec<f32>; 3]> {
        let dims = Dims { batch: 1, heads: 2, tokens: TOKENS, width: 16 };
        let Some(head) = HEADS.iter().find(|head| head.width == dims.width) else { return Ok(Default::default()) };
        let call = Call { form: head.pick(gpu, DType::F32), dims, mask };
        let wave = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by).sin()).collect::<Vec<_>>();
        let qkv = Tensor::from_slice(gpu, &[TOKENS * 96], &wave(TOKENS * 96, 0.7))?;
        let dy = Tensor::from_slice(gpu, &[TOKENS * 32], &wave(TOKENS * 32, 0.3))?;
        let [out, lse, delta, dqkv] =
            [TOKENS * 32, TOKENS * 2, TOKENS * 2, TOKENS * 96].map(|n| Tensor::zeros(gpu, DType::F32, &[n]));
        let (out, lse, delta, dqkv) = (out?, lse?, delta?, dqkv?);
        let [q, dy, o, l, e, d] = [&qkv, &dy, &out, &lse, &delta, &dqkv].map(Tensor::buffer);
        call.run_in_parts(gpu, &call.form.forward, 0, &[q, o, l], 2, most)?;
        call.run_in_parts(gpu, &call.form.backward_q, 0, &[q, dy, l, d, e, o], 3, most)?;
        call.run_in_parts(gpu, &call.form.backward_kv, 0, &[q, dy, l, d, e], 4, most)?;
        Ok([out.to_vec()?, lse.to_vec()?, dqkv.to_vec()?])
    }

    /// More keys and queries than a kernel's loops can run through go in parts, in both forms.
    #[test]
    fn parts_give_what_the_whole_gives() -> Result<()> {
        for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
            let gpu = Gpu::with_options(&GpuOptions { family: Some(family), ..Default::default() })?;
            for mask in [Mask::None, Mask::Causal] {
                let whole = passes(&gpu, mask, TOKENS)?;
                for most in [32, 96] {
                    let parts = passes(&gpu, mask, most)?;
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
                    let same = |(a, b): (&Vec<f32>, &Vec<f32>)| a.len() == b.len() && a.iter().zip(b).all(near);
                    assert!(whole.iter().zip(&parts).all(same), "{family:?} {mask:?} {most}");
                }
            }
        }
        Ok(())
    }
}
