//! GELU (Hendrycks and Gimpel, 2016), in its three forms.

use super::unary::bindings;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{BufferView, Gpu, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::ops::expect_float;
use crate::ops::item::vec4_grid;
use crate::ops::variants::ByPrecision;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Which form of GELU: PyTorch's `approximate`, and CLIP's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Gelu {
    /// The exact one, x·Φ(x), with Φ the normal distribution's cumulative function: PyTorch's `"none"`; of ViTs and BERT.
    #[default]
    Erf,
    /// x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2: PyTorch's `"tanh"`; of GPT-2, where transformers calls it `gelu_new`.
    Tanh,
    /// x·σ(1.702·x): of OpenAI's CLIP, where timm and transformers call it `quick_gelu`.
    Quick,
}

params!(GeluParams { n: u32, accumulate: u32 });

/// The kernels of a form, in both precisions.
struct Form {
    forward: ByPrecision<Kernel>,
    backward: ByPrecision<Kernel>,
}

/// The form of a library below `shaders/lib/`.
macro_rules! form {
    ($name:literal, $library:literal) => {
        Form {
            forward: ByPrecision {
                full: form!(kernel concat!($name, ".forward"), "forward", $library, "tiles/act_f32.wgsl", None),
                half: form!(kernel concat!($name, ".forward.f16"), "forward", $library, "tiles/act_f16.wgsl", Some("f16")),
            },
            backward: ByPrecision {
                full: form!(kernel concat!($name, ".backward"), "backward", $library, "tiles/act_f32.wgsl", None),
                half: form!(kernel concat!($name, ".backward.f16"), "backward", $library, "tiles/act_f16.wgsl", Some("f16")),
            },
        }
    };
    (kernel $name:expr, $entry:literal, $library:literal, $act:literal, $enable:expr) => {
        Kernel {
            name: $name,
            sources: &[
                wgsl!("gelu.wgsl"),
                wgsl!("lib/grid.wgsl"),
                wgsl!($library),
                wgsl!("tiles/vec4.wgsl"),
                wgsl!($act, $enable),
            ],
            entry: $entry,
            bindings: bindings($entry),
            params: GeluParams::FIELDS,
            constants: &[],
            rounds: NO_LOOPS,
        }
    };
}

static ERF: Form = form!("gelu", "lib/gelu.wgsl");
static TANH: Form = form!("gelu_tanh", "lib/gelu_tanh.wgsl");
static QUICK: Form = form!("gelu_quick", "lib/gelu_quick.wgsl");

pub(crate) fn kernels() -> Vec<&'static Kernel> {
    let of = |form: &'static Form| [form.forward.both(), form.backward.both()].concat();
    [of(&ERF), of(&TANH), of(&QUICK)].concat()
}

impl Gelu {
    fn form(self) -> &'static Form {
        match self {
            Gelu::Erf => &ERF,
            Gelu::Tanh => &TANH,
            Gelu::Quick => &QUICK,
        }
    }

    /// y = GELU(x), `n` elements.
    pub(in crate::ops) fn forward(self, gpu: &Gpu, dtype: DType, [x, y]: [&BufferView; 2], n: usize) -> Result<()> {
        let params = GeluParams { n: n as u32, accumulate: 0 };
        gpu.dispatch(self.form().forward.pick(dtype), &params, &[x, y], vec4_grid(n))
    }

    /// dx = dy ⊙ GELU'(x), or += it, `n` elements; `buffers` are x, dy and dx.
    pub(in crate::ops) fn backward(
        self,
        gpu: &Gpu,
        dtype: DType,
        buffers: [&BufferView; 3],
        n: usize,
        accumulate: u32,
    ) -> Result<()> {
        let params = GeluParams { n: n as u32, accumulate };
        gpu.dispatch(self.form().backward.pick(dtype), &params, &buffers, vec4_grid(n))
    }
}

/// GELU of every element, `f32[..]` or `f16[..]` to the same shape and dtype.
///
/// # Errors
/// If `x` is neither f32 nor f16.
pub fn gelu(x: &Tensor, approximate: Gelu) -> Result<Tensor> {
    expect_float("gelu", x)?;
    let y = x.empty_like()?;
    approximate.forward(x.gpu(), x.dtype(), [x.buffer(), y.buffer()], x.numel())?;
    Ok(record(y, &[x], || Rule { x: x.detach(), approximate }))
}

struct Rule {
    x: Tensor,
    approximate: Gelu,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        let buffers = [self.x.buffer(), dy.buffer(), dx.tensor.buffer()];
        self.approximate.backward(dy.gpu(), dy.dtype(), buffers, self.x.numel(), dx.flag())
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use super::Gelu;

    /// Φ(x) by the series Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/15 + …), which converges for every x.
    fn normal_cdf(x: f64) -> f64 {
        if x.abs() > 12.0 {
            return if x > 0.0 { 1.0 } else { 0.0 };
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= x * x / (2 * n + 1) as f64;
            sum += term;
        }
        0.5 + sum * normal_density(x)
    }

    fn normal_density(x: f64) -> f64 {
        (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    /// The value and the slope at x.
    pub fn at(x: f64, approximate: Gelu) -> [f64; 2] {
        match approximate {
            // Φ(x) + x·φ(x)
            Gelu::Erf => [x * normal_cdf(x), normal_cdf(x) + x * normal_density(x)],
            Gelu::Tanh => {
                let scale = (2.0 / std::f64::consts::PI).sqrt();
                let t = (scale * (x + 0.044715 * x.powi(3))).tanh();
                let du = scale * (1.0 + 3.0 * 0.044715 * x * x);
                [0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du]
            }
            Gelu::Quick => {
                let s = 1.0 / (1.0 + (-1.702 * x).exp());
                [x * s, s + 1.702 * x * s * (1.0 - s)]
            }
        }
    }

    /// y = GELU(x).
    pub fn forward(x: &[f32], approximate: Gelu) -> Vec<f32> {
        x.iter().map(|&x| at(x.into(), approximate)[0] as f32).collect()
    }

    /// dx = dy times the slope at x.
    pub fn backward(x: &[f32], dy: &[f32], approximate: Gelu) -> Vec<f32> {
        x.iter().zip(dy).map(|(&x, &dy)| (f64::from(dy) * at(x.into(), approximate)[1]) as f32).collect()
    }
}
