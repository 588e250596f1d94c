//! Operations in half precision, each beside the same in full precision, which the other checks hold against references.

use anyhow::Result;
use wgrad::ops::{self, Demand, Gelu, RandomKey, TokenIndices, Tuning};
use wgrad::{DType, Gpu, Tensor};

use crate::check::{values, within};
use crate::self_test::rows::turned;
use crate::variants::{HALF, Named};

struct Half {
    name: &'static str,
    /// Of the inputs that are differentiated. The first is of half precision in one of the two runs, and between a half and one and
    /// a half, where every function is defined; the others are within ±1.
    shapes: &'static [&'static [usize]],
    f: fn(&Tensor, &[Tensor]) -> wgrad::Result<Tensor>,
}

const fn half(
    name: &'static str,
    shapes: &'static [&'static [usize]],
    f: fn(&Tensor, &[Tensor]) -> wgrad::Result<Tensor>,
) -> Half {
    Half { name, shapes, f }
}

const PLAIN: &[&[usize]] = &[&[16, 24]];
const PACKED: &[&[usize]] = &[&[2, 3, 48]];
const KEY: RandomKey = RandomKey { seed: 1, step: 2, layer: 3, first_sample: 4 };

const FUNCTIONS: &[Half] = &[
    half("abs", PLAIN, |x, _| ops::abs(x)),
    half("clamp", PLAIN, |x, _| ops::clamp(x, 0.2, 1.4)),
    half("drop_path", PLAIN, |x, _| ops::drop_path(x, 0.4, KEY)),
    half("exp", PLAIN, |x, _| ops::exp(x)),
    half("gelu", PLAIN, |x, _| ops::gelu(x, Gelu::Erf)),
    half("gelu, quick", PLAIN, |x, _| ops::gelu(x, Gelu::Quick)),
    half("gelu, tanh", PLAIN, |x, _| ops::gelu(x, Gelu::Tanh)),
    half("leaky_relu", PLAIN, |x, _| ops::leaky_relu(x, 0.1)),
    half("linear, a few rows", &[&[3, 48], &[64, 48]], |x, rest| ops::linear(x, &rest[0], None)),
    half("linear, odd width", &[&[7, 5], &[3, 5]], |x, rest| ops::linear(x, &rest[0], None)),
    half("linear_add, odd width", &[&[7, 5], &[3, 5], &[3], &[7, 3]], |x, rest| {
        ops::linear_add(x, &rest[0], &rest[1], &rest[2])
    }),
    half("log", PLAIN, |x, _| ops::log(x)),
    half("pow", PLAIN, |x, _| ops::pow(x, 3.0)),
    half("relu", PLAIN, |x, _| ops::relu(x)),
    half("reshape, in two ways", PLAIN, |x, _| {
        let flat = |dims: &[usize]| ops::reshape(&ops::cast(&ops::reshape(x, dims)?, DType::F32)?, &[384]);
        ops::mul(&flat(&[24, 16])?, &flat(&[8, 48])?)
    }),
    half("rotary", PACKED, |x, _| turned(x, 2, 3, None)),
    half("rotary, kept", PACKED, |x, _| {
        let kept = TokenIndices::new(x.gpu(), [2, 3], 5, &[0, 2, 3, 1, 2, 4])?;
        turned(x, 2, 5, Some(&kept))
    }),
    half("rsqrt", PLAIN, |x, _| ops::rsqrt(x)),
    half("sigmoid", PLAIN, |x, _| ops::sigmoid(x)),
    half("silu", PLAIN, |x, _| ops::silu(x)),
    half("softplus", PLAIN, |x, _| ops::softplus(x)),
    half("sqrt", PLAIN, |x, _| ops::sqrt(x)),
    half("swiglu", PLAIN, |x, _| ops::swiglu(x)),
    half("tanh", PLAIN, |x, _| ops::tanh(x)),
];

/// Layers whose products every form of kernel makes: without a bias, and with one that is not trained, as adapters have it.
const LAYERS: &[Half] = &[
    half("linear", &[&[72, 64], &[48, 64]], |x, rest| ops::linear(x, &rest[0], None)),
    half("linear_add", &[&[72, 64], &[48, 64], &[72, 48]], |x, rest| {
        let bias = Tensor::from_slice(x.gpu(), &[48], &values(9, 48))?;
        ops::linear_add(x, &rest[0], &bias, &rest[1])
    }),
];

/// Every function.
pub fn functions(gpu: &Gpu) -> Vec<Named> {
    FUNCTIONS.iter().map(|half| (format!("{} in half precision", half.name), half.check(gpu))).collect()
}

/// Layers by these forms of their products.
pub fn layers(gpu: &Gpu, forms: &[&str]) -> Vec<Named> {
    let mut checks = Vec::new();
    for layer in LAYERS {
        let demands = match layer.demands(gpu) {
            Ok(demands) => demands,
            Err(error) => {
                checks.push((format!("{} in half precision, rehearsed", layer.name), Err(error)));
                continue;
            }
        };
        for form in forms {
            gpu.set_tuning(&Tuning::by_form(&demands, form));
            checks.push((format!("{} by {form} in half precision", layer.name), layer.check(gpu)));
        }
    }
    gpu.set_tuning(&Tuning::default());
    checks
}

impl Half {
    /// The products that it asks for.
    fn demands(&self, gpu: &Gpu) -> Result<Vec<Demand>> {
        let dry = gpu.dry_run()?;
        self.results(&dry, DType::F16)?;
        Ok(ops::demands(&dry))
    }

    fn check(&self, gpu: &Gpu) -> Result<()> {
        let (half, full) = (self.results(gpu, DType::F16)?, self.results(gpu, DType::F32)?);
        let names = ["result", "gradient of the first input", "of the second", "of the third", "of the fourth"];
        names.iter().zip(half.iter().zip(&full)).try_for_each(|(what, (half, full))| within(what, half, full, HALF))
    }

    /// The result and the gradients of the inputs, with the first of them as `dtype`.
    fn results(&self, gpu: &Gpu, dtype: DType) -> Result<Vec<Vec<f32>>> {
        let input = |(i, dims): (usize, &&[usize])| {
            let mut data = values(1 + i as u64, dims.iter().product());
            if i == 0 {
                data.iter_mut().for_each(|v| *v = 1.0 + 0.5 * *v);
            }
            // In full precision too, what half precision can hold.
            let tensor = Tensor::from_slice(gpu, dims, &data)?;
            let tensor = if i == 0 { ops::cast(&ops::cast(&tensor, DType::F16)?, DType::F32)? } else { tensor };
            tensor.requires_grad()
        };
        let inputs = self.shapes.iter().enumerate().map(input).collect::<wgrad::Result<Vec<_>>>()?;
        let x = ops::cast(&inputs[0], dtype)?;
        let y = ops::cast(&(self.f)(&x, &inputs[1..])?, DType::F32)?;
        let dy = Tensor::from_slice(gpu, y.dims(), &values(8, y.numel()))?;
        let gradients = y.backward_from(&dy)?;
        let gradients = inputs.iter().map(|input| crate::row::gradient(&gradients, input));
        std::iter::once(Ok(y.to_vec()?)).chain(gradients).collect()
    }
}
