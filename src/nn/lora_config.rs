//! Which layers of a model have low-rank adapters.

use serde::{Deserialize, Serialize};

use super::Precision;
use crate::autograd::{Parameter, Parameters};
use crate::error::{Error, Result};

/// Low-rank adapters beside linear layers (E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv
/// 2106.09685), with PEFT's settings and the names that it gives parameters: a layer computes x·Wᵀ + b + α/r · (x·Aᵀ)·Bᵀ with A
/// `f32[r, in]`, the parameter `lora_A.weight` below the layer's path, and B `f32[out, r]`, `lora_B.weight`.
///
/// B begins as zeros, so that the model begins as it was, and A uniform in ±1/√in. What was there before is frozen
/// ([`LoraConfig::freeze`]): it has no gradients and no moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// r, at least 1: PEFT's `r`.
    pub rank: usize,
    /// α: `lora_alpha`.
    pub alpha: f32,
    /// Dropout of what the adapters see, in training: `lora_dropout`.
    pub dropout: f32,
    /// The layers that have one (`target_modules`), by their paths or ends of these: `qkv` is `blocks.0.attn.qkv` and all its like. Of
    /// packed queries, keys and values `query`, `key` and `value` have their own, and so have `gate` and `up` of a gated MLP's first layer.
    pub targets: Vec<String>,
    /// What is trained as a whole beside them, named in the same way: mostly the head. Of all these settings this one alone has PEFT's name.
    pub modules_to_save: Vec<String>,
    /// How the frozen weights of layers that may have adapters are stored on the device. f16 halves their memory: values are rounded
    /// once, and files that are written later hold the rounded ones. Products read a copy in the precision that they have anyway, of one
    /// layer at a time. Layer scale multiplies weights in full precision, which backward keeps.
    #[serde(default, skip_serializing_if = "is_full")]
    pub base: Precision,
}

/// What the identity of adapters without the setting does not mention.
fn is_full(base: &Precision) -> bool {
    *base == Precision::F32
}

/// The ends of an adapter's parameters.
pub(crate) const A: &str = "lora_A.weight";
/// As [`A`].
pub(crate) const B: &str = "lora_B.weight";

impl LoraConfig {
    /// Without dropout, beside the layers of these names.
    pub fn new(rank: usize, alpha: f32, targets: &[&str]) -> Self {
        let targets = targets.iter().map(|&target| target.to_owned()).collect();
        LoraConfig { rank, alpha, dropout: 0.0, targets, modules_to_save: Vec::new(), base: Precision::F32 }
    }

    /// α/r, by which the product of an adapter's matrices is multiplied.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// Whether the layer of that path has an adapter.
    pub fn targets(&self, path: &str) -> bool {
        self.targets.iter().any(|target| is_end(path, target))
    }

    /// Whether the parameter of that path is trained: an adapter's, or one of what is trained as a whole.
    pub fn trains(&self, path: &str) -> bool {
        if Self::is_adapter(path) {
            return true;
        }
        let modules = path.char_indices().filter(|(_, c)| *c == '.').map(|(at, _)| &path[..at]);
        modules.into_iter().any(|module| self.modules_to_save.iter().any(|saved| is_end(module, saved)))
    }

    /// Whether the parameter of that path is one of an adapter's matrices.
    pub fn is_adapter(path: &str) -> bool {
        is_end(path, A) || is_end(path, B)
    }

    /// Whether the settings are possible.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that is not.
    pub fn check(&self) -> Result<()> {
        const MOST: usize = 1 << 16;
        if !(1..=MOST).contains(&self.rank) {
            return Err(Error::argument(OP, "rank", format!("in 1..={MOST}"), self.rank));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::argument(OP, "alpha", "above 0 and finite", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::argument(OP, "dropout", "in 0..1", self.dropout));
        }
        if self.targets.is_empty() {
            return Err(Error::argument(OP, "targets", "at least one layer", "none"));
        }
        Ok(())
    }

    /// Freezes all parameters of a model but those that are trained. For the end of the model's constructor.
    ///
    /// # Errors
    /// [`Error::Argument`] if a target or a module to save is none of the model's.
    pub fn freeze(&self, parameters: &Parameters) -> Result<()> {
        let paths = || parameters.iter().map(Parameter::path);
        for target in &self.targets {
            let mut adapted = paths().filter_map(|path| path.strip_suffix(A)?.strip_suffix('.'));
            if !adapted.any(|layer| is_end(layer, target)) {
                return Err(none_of(parameters, "targets", target));
            }
        }
        for saved in &self.modules_to_save {
            let alone = LoraConfig { modules_to_save: vec![saved.clone()], ..self.clone() };
            if !paths().any(|path| !Self::is_adapter(path) && alone.trains(path)) {
                return Err(none_of(parameters, "modules_to_save", saved));
            }
        }
        let frozen = parameters.iter().filter(|parameter| !self.trains(parameter.path()));
        frozen.for_each(|parameter| parameter.set_trainable(false));
        Ok(())
    }
}

/// What errors call it.
pub(super) const OP: &str = "LoRA";

/// Whether `path` is `end`, or ends with it behind a point.
fn is_end(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The error for a name that no layer has, with what layers are called: the last part of each matrix's path.
fn none_of(parameters: &Parameters, setting: &'static str, name: &str) -> Error {
    let matrices = parameters.iter().filter(|p| p.value().shape().rank() == 2 && !LoraConfig::is_adapter(p.path()));
    let layers = matrices.filter_map(|p| p.path().strip_suffix(".weight")?.rsplit('.').next().map(str::to_owned));
    let mut names: Vec<String> = layers.collect();
    names.sort_unstable();
    names.dedup();
    Error::argument(OP, setting, format!("ends of layers' paths, such as {}", names.join(", ")), format!("{name:?}"))
}
