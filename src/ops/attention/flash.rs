//! Attention without stored scores (Dao et al., 2022): every pass computes them again, a block of keys or queries at a time.

use std::ops::Range;

use super::dropout::Dropout;
use super::mask::Mask;
use super::packed::Dims;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::lib::philox_rounds;
use crate::gpu::{Access, BufferView, Gpu, Grid, Kernel, Params, Rounds, Source, looped, params, rounds, wgsl};
use crate::ops::item::{longest, pieces};
use crate::ops::random::Draws;
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
    padded: u32,
    key_low: u32,
    key_high: u32,
    layer: u32,
    first_low: u32,
    first_high: u32,
    threshold: u32,
    keep_scale: f32,
});

impl FlashParams {
    /// Rows of the other side.
    fn met(&self) -> u32 {
        self.end.saturating_sub(self.first)
    }
}

/// The three passes of one form.
struct Passes {
    forward: Kernel,
    /// dQ, and out · dy of each row for the other pass.
    backward_q: Kernel,
    /// dK and dV.
    backward_kv: Kernel,
}

/// A form, with the rows that a workgroup makes.
struct Form {
    /// For samples with all their keys, and without dropout.
    plain: Passes,
    /// For any.
    masked: Passes,
    rows: usize,
}

/// Bindings of the passes, after qkv.
type Bindings = [&'static [Access]; 3];

const PLAIN: Bindings = {
    const R: Access = Access::Read;
    const W: Access = Access::Write;
    [&[R, W, W], &[R, R, R, W, W, R], &[R, R, R, W, R]]
};

/// The same with lengths behind qkv.
const MASKED: Bindings = {
    const R: Access = Access::Read;
    const W: Access = Access::Write;
    [&[R, R, W, W], &[R, R, R, R, W, W, R], &[R, R, R, R, W, R]]
};

/// The names are the passes' in the order above.
const fn passes(
    names: [&'static str; 3],
    sources: &'static [Source],
    bindings: Bindings,
    rounds: [Rounds; 3],
) -> Passes {
    const fn pass(
        name: &'static str,
        sources: &'static [Source],
        entry: &'static str,
        bindings: &'static [Access],
        rounds: Rounds,
    ) -> Kernel {
        Kernel { name, sources, entry, bindings, params: FlashParams::FIELDS, constants: &[], rounds }
    }
    Passes {
        forward: pass(names[0], sources, "forward", bindings[0], rounds[0]),
        backward_q: pass(names[1], sources, "backward_q", bindings[1], rounds[1]),
        backward_kv: pass(names[2], sources, "backward_kv", bindings[2], rounds[2]),
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

/// The passes of a kernel's files, for a width and a precision: `$act` is the precision's tile and `$suffix` their part of the
/// names. Behind it stand the files and the rounds that masks need.
macro_rules! passes {
    ($name:literal, $files:expr, $of:ident, $width:literal, $head:literal, $act:expr, $suffix:expr,
     [$($mask:expr),+], $bindings:expr, $draws:expr) => {
        passes(
            [
                concat!($name, ".forward.", $width, $suffix),
                concat!($name, ".backward_q.", $width, $suffix),
                concat!($name, ".backward_kv.", $width, $suffix),
            ],
            &[$files[0], $files[1], wgsl!("lib/flash.wgsl"), wgsl!("lib/grid.wgsl"), $act, wgsl!($head), $($mask),+],
            $bindings,
            [
                rounds!(FlashParams, |p, _| $of(0, p.met(), $width / 4) + $draws),
                rounds!(FlashParams, |p, _| $of(1, p.met(), $width / 4) + $draws),
                rounds!(FlashParams, |p, _| $of(2, p.met(), $width / 4) + $draws),
            ],
        )
    };
}

macro_rules! form {
    ($name:literal, $files:expr, $rows:literal, $of:ident, $width:literal, $head:literal, $act:expr, $suffix:literal) => {
        Form {
            plain: passes!(
                $name,
                $files,
                $of,
                $width,
                $head,
                $act,
                $suffix,
                [wgsl!("tiles/weights_plain.wgsl")],
                PLAIN,
                0
            ),
            masked: passes!(
                $name,
                $files,
                $of,
                $width,
                $head,
                $act,
                concat!(".masked", $suffix),
                [wgsl!("tiles/weights_masked.wgsl"), wgsl!("lib/draws.wgsl"), wgsl!("lib/philox.wgsl")],
                MASKED,
                philox_rounds()
            ),
            rows: $rows,
        }
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
    let of_form = |form: &'static Form| [&form.plain, &form.masked];
    let of_passes = |passes: &'static Passes| [&passes.forward, &passes.backward_q, &passes.backward_kv];
    let forms = HEADS.iter().flat_map(|head| head.forms.both()).flat_map(ByPrecision::both);
    forms.flat_map(of_form).flat_map(of_passes).collect()
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
pub fn attention_flash(qkv: &Tensor, heads: usize, mask: &Mask, dropout: Option<Dropout>) -> Result<Tensor> {
    const OP: &str = "attention";
    let dims = Dims::of(OP, qkv, heads)?;
    let gpu = qkv.gpu();
    let Some(head) = HEADS.iter().find(|head| head.width == dims.width) else {
        return Err(Error::Shape { op: OP, what: "flash has no form for this width of a head", got: qkv.info() });
    };
    let call = Call {
        form: head.pick(gpu, qkv.dtype()),
        dims,
        is_causal: mask.is_causal(),
        lengths: mask.lengths_for(OP, qkv, dims.batch)?,
        draws: Dropout::draws(OP, dropout)?,
        qkv: qkv.detach(),
    };
    let out = Tensor::unwritten(gpu, qkv.dtype(), shape(OP, &[dims.batch, dims.tokens, dims.channels()])?)?;
    let lse = Tensor::unwritten(gpu, DType::F32, shape(OP, &[dims.batch, dims.heads, dims.tokens])?)?;
    call.run(&call.passes().forward, 0, &[out.buffer(), lse.buffer()], 2)?;
    let saved = out.detach();
    Ok(record(out, &[qkv], || Rule { out: saved, lse, call }))
}

/// What the passes have in common.
struct Call {
    form: &'static Form,
    dims: Dims,
    is_causal: bool,
    /// `u32[B]`
    lengths: Option<Tensor>,
    draws: Option<Draws>,
    /// `[B, T, 3·C]`
    qkv: Tensor,
}

impl Call {
    fn passes(&self) -> &'static Passes {
        if self.is_masked() { &self.form.masked } else { &self.form.plain }
    }

    fn is_masked(&self) -> bool {
        self.lengths.is_some() || self.draws.is_some()
    }

    /// Records a pass that makes `products` products of T·T·D for each head: at once, or, where T is more than
    /// [`Call::part`], for equal parts of the other side. `own` are its bindings behind those that all passes have.
    fn run(&self, pass: &'static Kernel, accumulate: u32, own: &[&BufferView], products: u64) -> Result<()> {
        self.run_in_parts(pass, accumulate, own, products, self.part(pass))
    }

    /// Rows of the other side that a dispatch meets: no more than the kernel's loops can run through or one sum should
    /// take. Halves are rounded with each part, so that they come in no more of them than the loops need.
    fn part(&self, pass: &'static Kernel) -> usize {
        let most = if self.qkv.dtype() == DType::F32 { LONGEST_SUM } else { usize::MAX };
        let fits = |rows: usize| rows <= most && pass.fits(&self.params(0..rows, 0), self.grid());
        longest(self.dims.tokens, PART, fits)
    }

    /// The same with at most `most` rows a part, a multiple of [`PART`].
    fn run_in_parts(
        &self,
        pass: &'static Kernel,
        accumulate: u32,
        own: &[&BufferView],
        products: u64,
        most: usize,
    ) -> Result<()> {
        let Dims { batch, heads, tokens, width } = self.dims;
        let mut buffers = vec![self.qkv.buffer()];
        if self.is_masked() {
            // Where samples have no lengths, something must be bound.
            buffers.push(self.lengths.as_ref().unwrap_or(&self.qkv).buffer());
        }
        buffers.extend(own);
        for part in pieces(0..tokens, most) {
            // Masked ones included.
            let flops = [batch, heads, tokens, part.len(), width].into_iter().map(|v| v as u64).product::<u64>();
            let accumulate = if part.start == 0 { accumulate } else { 1 };
            let grid = self.grid().with_flops(2 * products * flops);
            self.qkv.gpu().dispatch(pass, &self.params(part, accumulate), &buffers, grid)?;
        }
        Ok(())
    }

    /// Those of a dispatch that meets the rows `part` of the other side.
    fn params(&self, part: Range<usize>, accumulate: u32) -> FlashParams {
        let Dims { batch, heads, tokens, .. } = self.dims;
        let draws = self.draws.unwrap_or_default();
        FlashParams {
            tokens: tokens as u32,
            heads: heads as u32,
            matrices: (batch * heads) as u32,
            tiles: tokens.div_ceil(self.form.rows) as u32,
            causal: u32::from(self.is_causal),
            first: part.start as u32,
            end: part.end as u32,
            accumulate,
            scale: self.dims.scale(),
            padded: u32::from(self.lengths.is_some()),
            key_low: draws.key[0],
            key_high: draws.key[1],
            layer: draws.layer,
            first_low: draws.first[0],
            first_high: draws.first[1],
            threshold: draws.threshold,
            keep_scale: draws.keep_scale,
        }
    }

    fn grid(&self) -> Grid {
        let Dims { batch, heads, tokens, .. } = self.dims;
        Grid::linear(tokens.div_ceil(self.form.rows) * batch * heads, 1)
    }
}

/// Parts of the other side begin at multiples of so many rows: the blocks in which the kernels of GPUs meet them.
const PART: usize = 32;
/// Rows of the other side that a sum takes at most: each is added to it by itself, and a longer sum of terms of one
/// sign would lose digits.
const LONGEST_SUM: usize = 4096;

struct Rule {
    /// `[B, T, C]`
    out: Tensor,
    /// log Σ exp of each row of scores: `f32[B, H, T]`
    lse: Tensor,
    call: Call,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(to) = parents.destination(0)? else { return Ok(()) };
        let Rule { out, lse, call } = *self;
        let (passes, add) = (call.passes(), to.flag());
        let delta = lse.empty_like()?;
        let (dy, lse, dqkv, delta) = (dy.buffer(), lse.buffer(), to.tensor.buffer(), delta.buffer());
        call.run(&passes.backward_q, add, &[dy, lse, dqkv, delta, out.buffer()], 3)?;
        call.run(&passes.backward_kv, add, &[dy, lse, dqkv, delta], 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, GpuOptions, KernelFamily};
    use crate::ops::RandomKey;

    const TOKENS: usize = 131;

    /// out, lse and dqkv of two samples' heads of 16, with at most `most` rows of the other side in a dispatch.
    fn results(gpu: &Gpu, mask: &Mask, dropout: Option<Dropout>, most: usize) -> Result<[Vec<f32>; 3]> {
        let dims = Dims { batch: 2, heads: 1, tokens: TOKENS, width: 16 };
        let Some(head) = HEADS.iter().find(|head| head.width == dims.width) else { return Ok(Default::default()) };
        let wave = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by).sin()).collect::<Vec<_>>();
        let call = Call {
            form: head.pick(gpu, DType::F32),
            dims,
            is_causal: mask.is_causal(),
            lengths: mask.lengths().cloned(),
            draws: Dropout::draws("attention", dropout)?,
            qkv: Tensor::from_slice(gpu, &[TOKENS * 96], &wave(TOKENS * 96, 0.7))?,
        };
        let dy = Tensor::from_slice(gpu, &[TOKENS * 32], &wave(TOKENS * 32, 0.3))?;
        let nan = |n: usize| Tensor::from_slice(gpu, &[n], &vec![f32::NAN; n]);
        let (out, lse, delta, dqkv) = (nan(TOKENS * 32)?, nan(TOKENS * 2)?, nan(TOKENS * 2)?, nan(TOKENS * 96)?);
        let [dy, o, l, e, d] = [&dy, &out, &lse, &delta, &dqkv].map(Tensor::buffer);
        let passes = call.passes();
        call.run_in_parts(&passes.forward, 0, &[o, l], 2, most)?;
        call.run_in_parts(&passes.backward_q, 0, &[dy, l, d, e, o], 3, most)?;
        call.run_in_parts(&passes.backward_kv, 0, &[dy, l, d, e], 4, most)?;
        Ok([out.to_vec()?, lse.to_vec()?, dqkv.to_vec()?])
    }

    /// No sum takes more rows than [`LONGEST_SUM`], and up to those a pass is one dispatch, as far as its loops reach.
    #[test]
    fn long_sums_go_in_parts() -> Result<()> {
        for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
            let gpu = Gpu::with_options(&GpuOptions { family: Some(family), ..Default::default() })?;
            for (tokens, group) in [(197, 197), (2048, 2048), (4096, 4096), (8192, 4096), (50_000, 3872)] {
                let Some(head) = HEADS.iter().find(|head| head.width == 64) else { return Ok(()) };
                let call = Call {
                    form: head.pick(&gpu, DType::F32),
                    dims: Dims { batch: 1, heads: 1, tokens, width: 64 },
                    is_causal: false,
                    lengths: None,
                    draws: None,
                    qkv: Tensor::zeros(&gpu, DType::F32, &[4])?,
                };
                let passes = call.passes();
                for pass in [&passes.forward, &passes.backward_q, &passes.backward_kv] {
                    let part = call.part(pass);
                    let is_right = part == group || (family == KernelFamily::Lane && part < group);
                    assert!(is_right, "{} of {tokens}: {part}", pass.name);
                }
            }
        }
        Ok(())
    }

    /// More keys and queries than a kernel's loops can run through go in parts, in both forms.
    #[test]
    fn parts_give_what_the_whole_gives() -> Result<()> {
        for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
            let gpu = Gpu::with_options(&GpuOptions { family: Some(family), ..Default::default() })?;
            let key = RandomKey { seed: 1, step: 2, layer: 3, first_sample: 4 };
            let dropout = Some(Dropout { p: 0.3, key });
            let lengths = |lengths: [u32; 2]| Tensor::from_slice(&gpu, &[2], &lengths);
            let cases = [
                (Mask::NONE, None),
                (Mask::CAUSAL, None),
                (Mask::NONE.with_lengths(&lengths([0, 33])?)?, None),
                (Mask::CAUSAL.with_lengths(&lengths([64, 200])?)?, dropout),
            ];
            for (mask, dropout) in cases {
                let whole = results(&gpu, &mask, dropout, TOKENS)?;
                for most in [32, 96] {
                    let parts = results(&gpu, &mask, dropout, most)?;
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
                    let same = |(a, b): (&Vec<f32>, &Vec<f32>)| a.len() == b.len() && a.iter().zip(b).all(near);
                    assert!(whole.iter().zip(&parts).all(same), "{family:?} {mask:?} {dropout:?} {most}");
                }
            }
        }
        Ok(())
    }
}
