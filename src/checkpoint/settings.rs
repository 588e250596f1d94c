//! The settings in transformers' `config.json`, against those that a model computes: one that is neither is refused by its name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{parse_json, quoted};
use crate::error::{Error, Result};

/// What a model makes of the settings in its `config.json`.
pub(crate) struct Settings {
    /// Those that its configuration has.
    pub(crate) read: &'static [&'static str],
    /// Those of which it computes one value alone, with that value.
    pub(crate) fixed: &'static [(&'static str, &'static str)],
    /// Those that change nothing of what is computed here.
    pub(crate) ignored: &'static [&'static str],
}

/// The same for the settings that any model of transformers has: how to train, generate, cut or print.
const OF_ANY: Settings = Settings {
    read: &[],
    fixed: &[("is_encoder_decoder", "false"), ("pruned_heads", ""), ("tie_encoder_decoder", "false")],
    ignored: &[
        "architectures",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "label2id",
        "language",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_scores",
        "pad_token_id",
        "prefix",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "use_bfloat16",
        "use_cache",
    ],
};

impl Settings {
    /// Whether the text, that of `path`, says nothing that the model would pass over.
    ///
    /// # Errors
    /// [`Error::File`] naming the first setting that is unknown or of another value than the one that is computed; otherwise as
    /// [`parse_json`].
    pub(crate) fn check(&self, path: &Path, text: &[u8]) -> Result<()> {
        let settings: BTreeMap<String, Value> = parse_json(path, text)?;
        for (name, value) in &settings {
            self.check_one(name, value).map_err(|what| Error::file(path, what))?;
        }
        Ok(())
    }

    /// What is wrong with a setting.
    fn check_one(&self, name: &str, value: &Value) -> Result<(), String> {
        let tables = [self, &OF_ANY];
        let fixed = tables.iter().flat_map(|table| table.fixed).find(|(fixed, _)| *fixed == name);
        if let Some((_, computed)) = fixed {
            return match value {
                Value::Null | Value::Empty => Ok(()),
                Value::Plain(text) if text == computed => Ok(()),
                other => Err(format!("{name} {other} is not computed here, only {computed:?} is")),
            };
        }
        // What begins so is a note of transformers to itself.
        let is_note = name.starts_with('_');
        let is_known = tables.iter().any(|table| table.read.contains(&name) || table.ignored.contains(&name));
        // What is not set cannot make it another model.
        if is_note || is_known || matches!(value, Value::Null) {
            return Ok(());
        }
        Err(format!("the setting {} ({value}) is not known here, and may make it another model", quoted(name)))
    }
}

/// A setting's value, as far as it matters.
enum Value {
    Null,
    /// A text, number or truth value, as text.
    Plain(String),
    /// An empty list or object.
    Empty,
    /// Any other list or object.
    Compound,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Plain(text) => f.write_str(&quoted(text)),
            Value::Empty => f.write_str("of nothing"),
            Value::Compound => f.write_str("of several values"),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Plain(text.to_owned()))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Plain(value.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Plain(value.to_string()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Plain(value.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Plain(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut value = Value::Empty;
        while items.next_element::<IgnoredAny>()?.is_some() {
            value = Value::Compound;
        }
        Ok(value)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut value = Value::Empty;
        while items.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            value = Value::Compound;
        }
        Ok(value)
    }
}
