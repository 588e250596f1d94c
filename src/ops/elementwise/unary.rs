//! Functions of one tensor, element by element.

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::ops::item::vec4_grid;
use crate::ops::variants::ByPrecision;
use crate::ops::{expect_float, scale};
use crate::tensor::Tensor;

params!(UnaryParams { n: u32, accumulate: u32, a: f32, b: f32 });

/// The kernels of a function, in both precisions.
struct Unary {
    op: &'static str,
    forward: ByPrecision<Kernel>,
    backward: ByPrecision<Kernel>,
}

/// Declares the kernels of functions, each in a file of its own below `shaders/unary/`.
macro_rules! unaries {
    ($($function:ident $op:literal $file:literal;)+) => {
        $(static $function: Unary = Unary {
            op: $op,
            forward: ByPrecision {
                full: unaries!(kernel concat!("unary.", $op, ".forward"), "forward", $file, "tiles/act_f32.wgsl", None),
                half: unaries!(kernel concat!("unary.", $op, ".forward.f16"), "forward", $file, "tiles/act_f16.wgsl", Some("f16")),
            },
            backward: ByPrecision {
                full: unaries!(kernel concat!("unary.", $op, ".backward"), "backward", $file, "tiles/act_f32.wgsl", None),
                half: unaries!(kernel concat!("unary.", $op, ".backward.f16"), "backward", $file, "tiles/act_f16.wgsl", Some("f16")),
            },
        };)+
        const ALL: &[&Unary] = &[$(&$function),+];
    };
    (kernel $name:expr, $entry:literal, $file:literal, $act:literal, $enable:expr) => {
        Kernel {
            name: $name,
            sources: &[
                wgsl!("unary.wgsl"),
                wgsl!("lib/grid.wgsl"),
                wgsl!("lib/nan.wgsl"),
                wgsl!("lib/sigmoid.wgsl"),
                wgsl!($file),
                wgsl!("tiles/vec4.wgsl"),
                wgsl!($act, $enable),
            ],
            entry: $entry,
            bindings: bindings($entry),
            params: UnaryParams::FIELDS,
            constants: &[],
            rounds: NO_LOOPS,
        }
    };
}

/// What an entry point of a function of one tensor reads, then what it writes.
pub(super) const fn bindings(entry: &str) -> &'static [Access] {
    match entry.as_bytes() {
        b"forward" => &[Access::Read, Access::Write],
        _ => &[Access::Read, Access::Read, Access::Write],
    }
}

unaries! {
    ABS "abs" "unary/abs.wgsl";
    CLAMP "clamp" "unary/clamp.wgsl";
    EXP "exp" "unary/exp.wgsl";
    LEAKY_RELU "leaky_relu" "unary/leaky_relu.wgsl";
    LOG "log" "unary/log.wgsl";
    POW "pow" "unary/pow.wgsl";
    RELU "relu" "unary/relu.wgsl";
    RSQRT "rsqrt" "unary/rsqrt.wgsl";
    SIGMOID "sigmoid" "unary/sigmoid.wgsl";
    SILU "silu" "unary/silu.wgsl";
    SOFTPLUS "softplus" "unary/softplus.wgsl";
    SQRT "sqrt" "unary/sqrt.wgsl";
    TANH "tanh" "unary/tanh.wgsl";
}

pub(super) fn kernels() -> Vec<&'static Kernel> {
    ALL.iter().flat_map(|function| [function.forward.both(), function.backward.both()].into_iter().flatten()).collect()
}

impl Unary {
    fn apply(&'static self, x: &Tensor, a: f32, b: f32) -> Result<Tensor> {
        expect_float(self.op, x)?;
        let y = x.empty_like()?;
        let params = UnaryParams { n: x.numel() as u32, accumulate: 0, a, b };
        x.gpu().dispatch(self.forward.pick(x.dtype()), &params, &[x.buffer(), y.buffer()], vec4_grid(x.numel()))?;
        Ok(record(y, &[x], || Rule { function: self, x: x.detach(), params }))
    }
}

struct Rule {
    function: &'static Unary,
    x: Tensor,
    params: UnaryParams,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        let params = UnaryParams { accumulate: dx.flag(), ..self.params };
        let buffers = [self.x.buffer(), dy.buffer(), dx.tensor.buffer()];
        dy.gpu().dispatch(self.function.backward.pick(dy.dtype()), &params, &buffers, vec4_grid(dy.numel()))
    }
}

/// −x: `f32[..]` to the same shape.
///
/// # Errors
/// If `x` is not f32.
pub fn neg(x: &Tensor) -> Result<Tensor> {
    scale(x, -1.0)
}

/// |x|: `f32[..]` or `f16[..]` to the same. The slope at 0 is 0.
///
/// # Errors
/// If `x` is neither f32 nor f16, as for the other functions here.
pub fn abs(x: &Tensor) -> Result<Tensor> {
    ABS.apply(x, 0.0, 0.0)
}

/// x, but at least `min` and at most `max`, `f32[..]` or `f16[..]` to the same; for one bound give an infinity for the other. The
/// slope is 1 from `min` to `max`, both included, and 0 of a NaN, which stays NaN.
///
/// # Errors
/// If `min` is above `max` or one of them is NaN, or `x` is neither f32 nor f16.
pub fn clamp(x: &Tensor, min: f32, max: f32) -> Result<Tensor> {
    if min.is_nan() || max.is_nan() || min > max {
        return Err(Error::argument(
            "clamp",
            "bounds",
            "numbers, the first not above the second",
            format!("{min}, {max}"),
        ));
    }
    CLAMP.apply(x, min, max)
}

/// eˣ: `f32[..]` or `f16[..]` to the same.
///
/// # Errors
/// As [`abs`].
pub fn exp(x: &Tensor) -> Result<Tensor> {
    EXP.apply(x, 0.0, 0.0)
}

/// x, or `negative_slope`·x where x is below 0 (PyTorch's default is 0.01): `f32[..]` or `f16[..]` to the same.
///
/// # Errors
/// If the slope is not finite, or as [`abs`].
pub fn leaky_relu(x: &Tensor, negative_slope: f32) -> Result<Tensor> {
    if !negative_slope.is_finite() {
        return Err(Error::argument("leaky_relu", "negative_slope", "finite", negative_slope));
    }
    LEAKY_RELU.apply(x, negative_slope, 0.0)
}

/// ln x, `f32[..]` or `f16[..]` to the same: minus infinity at 0, NaN below.
///
/// # Errors
/// As [`abs`].
pub fn log(x: &Tensor) -> Result<Tensor> {
    LOG.apply(x, 0.0, 0.0)
}

/// x to the power `exponent`, `f32[..]` or `f16[..]` to the same: of a negative x NaN, unless the exponent is a whole number.
///
/// # Errors
/// If the exponent is not finite, or as [`abs`].
pub fn pow(x: &Tensor, exponent: f32) -> Result<Tensor> {
    if !exponent.is_finite() {
        return Err(Error::argument("pow", "exponent", "finite", exponent));
    }
    let sign = match exponent.rem_euclid(2.0) {
        0.0 => 1.0,
        1.0 => -1.0,
        _ => f32::NAN,
    };
    POW.apply(x, exponent, sign)
}

/// x, or 0 where x is below 0: `f32[..]` or `f16[..]` to the same. The slope at 0 is 0.
///
/// # Errors
/// As [`abs`].
pub fn relu(x: &Tensor) -> Result<Tensor> {
    RELU.apply(x, 0.0, 0.0)
}

/// 1/√x: `f32[..]` or `f16[..]` to the same.
///
/// # Errors
/// As [`abs`].
pub fn rsqrt(x: &Tensor) -> Result<Tensor> {
    rsqrt_above(x, 0.0)
}

/// 1/√(x + eps).
pub(in crate::ops) fn rsqrt_above(x: &Tensor, eps: f32) -> Result<Tensor> {
    RSQRT.apply(x, eps, 0.0)
}

/// σ(x) = 1/(1 + e⁻ˣ): `f32[..]` or `f16[..]` to the same.
///
/// # Errors
/// As [`abs`].
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    SIGMOID.apply(x, 0.0, 0.0)
}

/// x·σ(x), also called swish (Elfwing et al., 2017): `f32[..]` or `f16[..]` to the same.
///
/// # Errors
/// As [`abs`].
pub fn silu(x: &Tensor) -> Result<Tensor> {
    SILU.apply(x, 0.0, 0.0)
}

/// ln(1 + eˣ): `f32[..]` or `f16[..]` to the same.
///
/// # Errors
/// As [`abs`].
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    SOFTPLUS.apply(x, 0.0, 0.0)
}

/// √x: `f32[..]` or `f16[..]` to the same.
///
/// # Errors
/// As [`abs`].
pub fn sqrt(x: &Tensor) -> Result<Tensor> {
    SQRT.apply(x, 0.0, 0.0)
}

/// tanh x: `f32[..]` or `f16[..]` to the same.
///
/// # Errors
/// As [`abs`].
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    TANH.apply(x, 0.0, 0.0)
}

/// The same on the CPU, in f64: the value and the slope at x.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// |x|
    pub fn abs(x: f64) -> [f64; 2] {
        [x.abs(), if x == 0.0 { 0.0 } else { x.signum() }]
    }

    /// x between two bounds.
    pub fn clamp(x: f64, min: f64, max: f64) -> [f64; 2] {
        [x.clamp(min, max), f64::from(u8::from(x >= min && x <= max))]
    }

    /// eˣ
    pub fn exp(x: f64) -> [f64; 2] {
        [x.exp(), x.exp()]
    }

    /// x, or slope·x below 0.
    pub fn leaky_relu(x: f64, slope: f64) -> [f64; 2] {
        if x > 0.0 { [x, 1.0] } else { [slope * x, slope] }
    }

    /// ln x
    pub fn log(x: f64) -> [f64; 2] {
        [x.ln(), 1.0 / x]
    }

    /// xᵉ
    pub fn pow(x: f64, exponent: f64) -> [f64; 2] {
        [x.powf(exponent), if exponent == 0.0 { 0.0 } else { exponent * x.powf(exponent - 1.0) }]
    }

    /// max(x, 0)
    pub fn relu(x: f64) -> [f64; 2] {
        leaky_relu(x, 0.0)
    }

    /// 1/√x
    pub fn rsqrt(x: f64) -> [f64; 2] {
        [1.0 / x.sqrt(), -0.5 / (x * x.sqrt())]
    }

    /// 1/(1 + e⁻ˣ)
    pub fn sigmoid(x: f64) -> [f64; 2] {
        let s = 1.0 / (1.0 + (-x).exp());
        [s, s * (1.0 - s)]
    }

    /// x·σ(x)
    pub fn silu(x: f64) -> [f64; 2] {
        let [s, ds] = sigmoid(x);
        [x * s, s + x * ds]
    }

    /// ln(1 + eˣ)
    pub fn softplus(x: f64) -> [f64; 2] {
        [x.max(0.0) + (-x.abs()).exp().ln_1p(), sigmoid(x)[0]]
    }

    /// √x
    pub fn sqrt(x: f64) -> [f64; 2] {
        [x.sqrt(), 0.5 / x.sqrt()]
    }

    /// tanh x
    pub fn tanh(x: f64) -> [f64; 2] {
        [x.tanh(), 1.0 - x.tanh().powi(2)]
    }
}
