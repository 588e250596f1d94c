//! Attention without stored scores (Dao et al., 2022): every pass computes them again, a block of keys or queries at a time.

use super::attention::{Dims, Mask};
use super::shape;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, Gpu, Grid, Kernel, KernelFamily, Params, Source, params, wgsl};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(FlashParams { tokens: u32, heads: u32, matrices: u32, tiles: u32, causal: u32, accumulate: u32, scale: f32 });

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
const fn form(names: [&'static str; 3], sources: &'static [Source], rows: usize) -> Form {
    const FORWARD: &[Access] = &[Access::Read, Access::Write, Access::Write];
    const BACKWARD_Q: &[Access] =
        &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Write, Access::Read];
    const BACKWARD_KV: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Read];
    const fn pass(
        name: &'static str,
        sources: &'static [Source],
        entry: &'static str,
        bindings: &'static [Access],
    ) -> Kernel {
        Kernel { name, sources, entry, bindings, params: FlashParams::FIELDS, constants: &[] }
    }
    Form {
        forward: pass(names[0], sources, "forward", FORWARD),
        backward_q: pass(names[1], sources, "backward_q", BACKWARD_Q),
        backward_kv: pass(names[2], sources, "backward_kv", BACKWARD_KV),
        rows,
    }
}

/// The forms for one width of heads.
struct Forms {
    width: usize,
    lane: Form,
    lane_f16: Form,
    group: Form,
    group_f16: Form,
}

impl Forms {
    fn pick(&self, gpu: &Gpu, dtype: DType) -> &Form {
        match (gpu.family(), dtype) {
            (KernelFamily::Lane, DType::F16) => &self.lane_f16,
            (KernelFamily::Lane, _) => &self.lane,
            (KernelFamily::Workgroup, DType::F16) => &self.group_f16,
            (KernelFamily::Workgroup, _) => &self.group,
        }
    }
}

/// The form of a kernel's files, for a width and a precision; `$act` is the precision's tile, `$suffix` its part of the
/// names.
macro_rules! form {
    ($name:literal, $files:expr, $rows:literal, $width:literal, $head:literal, $act:expr, $suffix:literal) => {
        form(
            [
                concat!($name, ".forward.", $width, $suffix),
                concat!($name, ".backward_q.", $width, $suffix),
                concat!($name, ".backward_kv.", $width, $suffix),
            ],
            &[$files[0], $files[1], wgsl!("lib/flash.wgsl"), wgsl!("lib/grid.wgsl"), $act, wgsl!($head)],
            $rows,
        )
    };
}

macro_rules! forms {
    ($width:literal, $head:literal) => {
        Forms {
            width: $width,
            lane: form!("flash_lane", LANE, 24, $width, $head, F32, ""),
            lane_f16: form!("flash_lane", LANE, 24, $width, $head, F16, ".f16"),
            group: form!("flash_group", GROUP, 32, $width, $head, F32, ""),
            group_f16: form!("flash_group", GROUP, 32, $width, $head, F16, ".f16"),
        }
    };
}

const LANE: [Source; 2] = [wgsl!("flash_lane.wgsl"), wgsl!("lib/flash_rows.wgsl")];
const GROUP: [Source; 2] = [wgsl!("flash_group.wgsl"), wgsl!("lib/flash_blocks.wgsl")];
const F32: Source = wgsl!("tiles/act_f32.wgsl");
const F16: Source = wgsl!("tiles/act_f16.wgsl", enable "f16");

static FORMS: [Forms; 7] = [
    forms!(16, "tiles/head_16.wgsl"),
    forms!(32, "tiles/head_32.wgsl"),
    forms!(48, "tiles/head_48.wgsl"),
    forms!(64, "tiles/head_64.wgsl"),
    forms!(80, "tiles/head_80.wgsl"),
    forms!(96, "tiles/head_96.wgsl"),
    forms!(128, "tiles/head_128.wgsl"),
];

/// Every kernel of this file.
pub(super) fn kernels() -> Vec<&'static Kernel> {
    let of_form = |form: &'static Form| [&form.forward, &form.backward_q, &form.backward_kv];
    FORMS.iter().flat_map(|f| [&f.lane, &f.lane_f16, &f.group, &f.group_f16]).flat_map(of_form).collect()
}

/// Whether there are kernels for heads of `width`.
pub(super) fn has_form(width: usize) -> bool {
    FORMS.iter().any(|forms| forms.width == width)
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
    let Some(forms) = FORMS.iter().find(|forms| forms.width == dims.width) else {
        return Err(Error::Shape { op: OP, what: "flash has no form for this width of a head", got: qkv.info() });
    };
    let form = forms.pick(gpu, qkv.dtype());
    let out = Tensor::empty(gpu, qkv.dtype(), shape(OP, &[dims.batch, dims.tokens, dims.channels()])?)?;
    let lse = Tensor::empty(gpu, DType::F32, shape(OP, &[dims.batch, dims.heads, dims.tokens])?)?;
    let call = Call { form, dims, mask };
    let buffers = [qkv.buffer(), out.buffer(), lse.buffer()];
    gpu.dispatch(&form.forward, &call.params(0), &buffers, call.grid(2))?;
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
    fn params(&self, accumulate: u32) -> FlashParams {
        let Dims { batch, heads, tokens, .. } = self.dims;
        FlashParams {
            tokens: tokens as u32,
            heads: heads as u32,
            matrices: (batch * heads) as u32,
            tiles: tokens.div_ceil(self.form.rows) as u32,
            causal: u32::from(self.mask == Mask::Causal),
            accumulate,
            scale: self.dims.scale(),
        }
    }

    /// The grid of a pass that makes `products` products of T·T·D for each head, masked ones included.
    fn grid(&self, products: usize) -> Grid {
        let Dims { batch, heads, tokens, width } = self.dims;
        let flops = [2, products, batch, heads, tokens, tokens, width].into_iter().map(|v| v as u64).product();
        Grid::linear(tokens.div_ceil(self.form.rows) * batch * heads, 1).with_flops(flops)
    }
}

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
        let (gpu, params) = (dy.gpu(), call.params(to.flag()));
        let delta = lse.empty_like()?;
        let (qkv, dy, lse, dqkv, delta) = (qkv.buffer(), dy.buffer(), lse.buffer(), to.tensor.buffer(), delta.buffer());
        gpu.dispatch(&call.form.backward_q, &params, &[qkv, dy, lse, dqkv, delta, out.buffer()], call.grid(3))?;
        gpu.dispatch(&call.form.backward_kv, &params, &[qkv, dy, lse, dqkv, delta], call.grid(4))
    }
}
