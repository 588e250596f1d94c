//! A model as a part of a program's own: its parameters, and behind them those of layers that the program adds.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::autograd::{Parameter, Parameters};
#[cfg(feature = "files")]
use crate::error::Error;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::{self, Init, LoraConfig};

/// A model's parameters: first its own, then those that a program has added.
pub(super) struct Extended {
    all: Parameters,
    /// How many are the model's own.
    own: usize,
}

impl Extended {
    /// The layers that `layers` makes of a model, with adapters as `lora` says, beside which the rest is frozen; and
    /// what `added` makes behind them, which no adapter freezes.
    ///
    /// # Errors
    /// Those of both, as [`LoraConfig::freeze`], or if the device has no room.
    pub(super) fn build<L, E>(
        gpu: &Gpu,
        seed: u64,
        lora: Option<&LoraConfig>,
        layers: impl Fn(&mut Init<'_>) -> Result<L>,
        added: impl Fn(&mut Init<'_>) -> Result<E>,
    ) -> Result<(Self, L, E)> {
        let (all, (own, layers, added)) = nn::build(gpu, |parameters| {
            let layers = layers(&mut Init::new(parameters, seed).with_lora(lora))?;
            lora.map_or(Ok(()), |lora| lora.freeze(parameters))?;
            let own = parameters.len();
            Ok((own, layers, added(&mut Init::new(parameters, seed))?))
        })?;
        Ok((Extended { all, own }, layers, added))
    }

    /// All of them.
    pub(super) fn all(&self) -> &Parameters {
        &self.all
    }

    fn added(&self) -> impl Iterator<Item = &Parameter> {
        self.all.iter().skip(self.own)
    }

    /// Whether the parameter of that path is an added one.
    pub(super) fn is_added(&self, path: &str) -> bool {
        self.added().any(|parameter| parameter.path() == path)
    }

    /// The identity of a model whose configuration is `config`, a JSON object: with the shapes of what is added, if
    /// anything is.
    pub(super) fn identity(&self, config: String) -> String {
        let added: BTreeMap<_, _> = self.added().map(|p| (p.path(), p.value().dims().to_vec())).collect();
        if added.is_empty() {
            return config;
        }
        let Ok(mut object) = serde_json::from_str::<Map<String, Value>>(&config) else { return config };
        object.insert("added".to_owned(), json!(added));
        Value::Object(object).to_string()
    }

    /// Whether nothing is added: libraries that `op` writes for would miss it, or not know what it is.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first of what is added.
    #[cfg(feature = "files")]
    pub(super) fn expect_plain(&self, op: &'static str) -> Result<()> {
        match self.added().next() {
            Some(added) => {
                let expected = "the model's own alone: checkpoint::write writes all under their own names";
                Err(Error::argument(op, "parameters", expected, added.path()))
            }
            None => Ok(()),
        }
    }
}
