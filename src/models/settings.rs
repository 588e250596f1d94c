//! Settings of models: the forms in which transformers writes some, for serde, and what may be in them.

use crate::error::{Error, Result};

/// A form of GELU, by the activation's name.
pub(super) mod gelu {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::ops::Gelu;

    pub(in crate::models) fn serialize<S: Serializer>(gelu: &Gelu, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match gelu {
            Gelu::Erf => "gelu",
            Gelu::Tanh => "gelu_new",
            Gelu::Quick => "quick_gelu",
        })
    }

    /// Several names stand for each formula.
    pub(in crate::models) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Gelu, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.as_str() {
            "gelu" | "gelu_python" => Ok(Gelu::Erf),
            "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_tanh" => Ok(Gelu::Tanh),
            "quick_gelu" => Ok(Gelu::Quick),
            _ => Err(D::Error::custom(format_args!(
                "activation {name:?} is not computed here, only gelu, gelu_new and quick_gelu are"
            ))),
        }
    }
}

/// Ids of tokens: null, a number or a list.
pub(super) mod token_ids {
    use serde::de::{Deserialize, Deserializer};
    use serde::ser::{Serialize, Serializer};

    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(u32),
        Several(Vec<u32>),
    }

    pub(in crate::models) fn serialize<S: Serializer>(ids: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
        match ids {
            [] => serializer.serialize_none(),
            [id] => id.serialize(serializer),
            several => several.serialize(serializer),
        }
    }

    pub(in crate::models) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
        Ok(match Option::<Form>::deserialize(deserializer)? {
            None => Vec::new(),
            Some(Form::One(id)) => vec![id],
            Some(Form::Several(ids)) => ids,
        })
    }
}

/// Whether sizes are at least 1 and not beyond what any model has.
pub(super) fn check_sizes(op: &'static str, sizes: &[(&'static str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| !(1..=1 << 24).contains(size)) {
        Some((name, size)) => Err(Error::argument(op, name, "in 1..=16777216", size)),
        None => Ok(()),
    }
}

/// Whether these are rates of dropout.
pub(super) fn check_rates(op: &'static str, rates: &[(&'static str, f32)]) -> Result<()> {
    match rates.iter().find(|(_, rate)| !(0.0..1.0).contains(rate)) {
        Some((name, rate)) => Err(Error::argument(op, name, "in 0..1", rate)),
        None => Ok(()),
    }
}

/// Whether it may be added to a variance.
pub(super) fn check_eps(op: &'static str, name: &'static str, eps: f32) -> Result<()> {
    if eps.is_normal() && eps > 0.0 && eps < 1.0 {
        Ok(())
    } else {
        Err(Error::argument(op, name, "between 0 and 1", eps))
    }
}

/// Whether it may be the deviation of initial weights.
pub(super) fn check_range(op: &'static str, initializer_range: f32) -> Result<()> {
    if initializer_range > 0.0 && initializer_range <= 1.0 {
        return Ok(());
    }
    Err(Error::argument(op, "initializer_range", "above 0 and at most 1", initializer_range))
}
