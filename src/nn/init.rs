//! Names and initial values of parameters.

use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

use super::{LoraConfig, Precision};
use crate::autograd::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::hash::Fnv;
use crate::shape::DType;
use crate::tensor::checked_shape;

/// Adds parameters under a path. Every parameter's random values depend on the seed and its own path alone, so that
/// adding a layer elsewhere does not change them.
pub struct Init<'a> {
    parameters: &'a mut Parameters,
    prefix: String,
    seed: u64,
    lora: Option<&'a LoraConfig>,
}

impl<'a> Init<'a> {
    /// The deviation of initial weights in transformers: of linear layers, tokens and positions.
    pub const STD: f32 = 0.02;

    /// At the root of `parameters`.
    pub fn new(parameters: &'a mut Parameters, seed: u64) -> Self {
        Init { parameters, prefix: String::new(), seed, lora: None }
    }

    /// With adapters beside the layers that `lora` names, as far as they are [`super::AdaptedLinear`]s.
    pub fn with_lora(self, lora: Option<&'a LoraConfig>) -> Self {
        Init { lora, ..self }
    }

    /// Below this path: `init.at("blocks.0").at("attn")`.
    pub fn at(&mut self, name: &str) -> Init<'_> {
        Init { prefix: self.path(name), parameters: &mut *self.parameters, seed: self.seed, lora: self.lora }
    }

    pub(super) fn lora(&self) -> Option<&'a LoraConfig> {
        self.lora
    }

    /// Where it stands.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Parameters so far.
    pub(super) fn count(&self) -> usize {
        self.parameters.len()
    }

    /// The device of its parameters: a dry run where their sizes are still to be known ([`super::build()`]).
    pub fn gpu(&self) -> &Gpu {
        self.parameters.gpu()
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// A parameter with one value everywhere.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn constant(&mut self, name: &str, shape: &[usize], value: f32) -> Result<Parameter> {
        self.add(name, DType::F32, shape, |_| value)
    }

    /// A parameter from the normal distribution of deviation `std`, truncated at ±2 as `timm.layers.trunc_normal_`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a deviation outside 0 to 100, and as [`Parameters::add`].
    pub fn trunc_normal(&mut self, name: &str, shape: &[usize], std: f32) -> Result<Parameter> {
        self.normal(name, DType::F32, shape, std)
    }

    /// The same of a weight beside which there may be adapters, stored as [`LoraConfig::base`] says where it is frozen then.
    pub(super) fn base_weight(&mut self, name: &str, shape: &[usize], std: f32) -> Result<Parameter> {
        let path = self.path(name);
        let is_half = self.lora.is_some_and(|lora| lora.base == Precision::F16 && !lora.trains(&path));
        let dtype = if is_half { DType::F16 } else { DType::F32 };
        self.normal(name, dtype, shape, std)
    }

    fn normal(&mut self, name: &str, dtype: DType, shape: &[usize], std: f32) -> Result<Parameter> {
        // Of a larger one, hardly any number would be within ±2.
        if !(0.0..=100.0).contains(&std) {
            return Err(Error::argument("Init", "std", "in 0..=100", std));
        }
        self.add(name, dtype, shape, |rng| truncated(rng, std))
    }

    /// A parameter from the uniform distribution over ±`bound`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a bound that is negative or not finite, and as [`Parameters::add`].
    pub fn uniform(&mut self, name: &str, shape: &[usize], bound: f32) -> Result<Parameter> {
        if !(bound >= 0.0 && bound.is_finite()) {
            return Err(Error::argument("Init", "bound", "finite and not negative", bound));
        }
        self.add(name, DType::F32, shape, |rng| bound * (2.0 * unit(rng) as f32 - 1.0))
    }

    fn add(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        mut value: impl FnMut(&mut Pcg32) -> f32,
    ) -> Result<Parameter> {
        let path = self.path(name);
        // The path's hash is the number of the random stream.
        let mut rng = Pcg32::new(self.seed, Fnv::of(path.as_bytes()));
        let shape = checked_shape("Init", shape)?;
        let parameter = self.parameters.reserve(path, dtype, shape)?;
        // Nobody looks at values in a dry run, and drawing them would take most of its time.
        if !self.parameters.gpu().is_dry_run() {
            let values: Vec<f32> = (0..shape.numel()).map(|_| value(&mut rng)).collect();
            parameter.set(&values)?;
        }
        Ok(parameter)
    }
}

/// Normal of deviation `std`, as often as it takes to be within ±2.
fn truncated(rng: &mut Pcg32, std: f32) -> f32 {
    loop {
        let normal: f32 = StandardNormal.sample(rng);
        let value = std * normal;
        if value.abs() <= 2.0 {
            return value;
        }
    }
}

/// Uniform in [0, 1).
fn unit(rng: &mut Pcg32) -> f64 {
    f64::from(rng.next_u32()) / 4_294_967_296.0
}
