//! BERT's sizes.

use crate::error::{Error, Result};
use crate::identity::json;
use crate::models::settings;
use crate::nn::LoraConfig;
use crate::ops::Gelu;

/// What errors call it.
pub(super) const OP: &str = "BERT";

/// BERT's sizes and settings, named as in transformers' `config.json`. Change what differs from a preset:
/// `BertConfig { vocab_size: 4000, ..BertConfig::custom(128, 4, 4) }`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// V.
    pub vocab_size: usize,
    /// C.
    pub hidden_size: usize,
    /// L.
    pub num_hidden_layers: usize,
    /// H; divides C.
    pub num_attention_heads: usize,
    /// F.
    pub intermediate_size: usize,
    /// The activation of the MLP and of the head.
    #[serde(with = "settings::gelu")]
    pub hidden_act: Gelu,
    /// Dropout after the embeddings, after attention's projection and after the MLP.
    pub hidden_dropout_prob: f32,
    /// Dropout of attention's weights.
    pub attention_probs_dropout_prob: f32,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// How many segments are told apart.
    pub type_vocab_size: usize,
    /// Deviation of initial weights.
    pub initializer_range: f32,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f32,
    /// Dropout before the classifier; that of the embeddings where it is not said.
    pub classifier_dropout: Option<f32>,
    /// The token that fills a batch up, if there is one.
    pub pad_token_id: Option<u32>,
    /// Adapters, beside which the rest of the model is frozen: of layers called `query`, `key`, `value` and `dense`, or paths that end
    /// so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Whether the first token goes through a layer of its own (`pooler`), which a classifier reads. Of a file the weights tell
    /// it, not the settings.
    #[serde(skip)]
    pub pooler: bool,
    /// The classes of the classifier behind the pooler, 0 where there is none. As `pooler`, told by the weights.
    #[serde(skip)]
    pub num_labels: usize,
}

impl Default for BertConfig {
    /// [`BertConfig::base`], as in transformers.
    fn default() -> Self {
        Self::base()
    }
}

impl BertConfig {
    /// BERT-base: 768 wide, 12 deep, 12 heads, 110 M parameters.
    pub fn base() -> Self {
        Self::custom(768, 12, 12)
    }

    /// BERT-large: 1024 wide, 24 deep, 16 heads, 335 M parameters.
    pub fn large() -> Self {
        Self::custom(1024, 24, 16)
    }

    /// Any width, depth and number of heads, with the presets' other settings: 30,522 tokens, 512 positions, an MLP four times as
    /// wide, dropout of 0.1, no pooler.
    pub fn custom(hidden_size: usize, num_hidden_layers: usize, num_attention_heads: usize) -> Self {
        BertConfig {
            vocab_size: 30_522,
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            intermediate_size: hidden_size.saturating_mul(4),
            hidden_act: Gelu::Erf,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            classifier_dropout: None,
            pad_token_id: Some(0),
            lora: None,
            pooler: false,
            num_labels: 0,
        }
    }

    /// Itself as JSON, its heads included.
    pub fn identity(&self) -> String {
        #[derive(serde::Serialize)]
        struct Identity<'a> {
            #[serde(flatten)]
            settings: &'a BertConfig,
            pooler: bool,
            num_labels: usize,
        }
        json(&Identity { settings: self, pooler: self.pooler, num_labels: self.num_labels })
    }

    /// Whether the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that does not.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        settings::check_sizes(OP, &sizes)?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let expected = format!("a divisor of hidden_size {}", self.hidden_size);
            return Err(Error::argument(OP, "num_attention_heads", expected, self.num_attention_heads));
        }
        if self.num_labels > 0 && !self.pooler {
            return Err(Error::argument(OP, "pooler", "there where there is a classifier", "none"));
        }
        let rates = [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ];
        settings::check_rates(OP, &rates)?;
        settings::check_eps(OP, "layer_norm_eps", self.layer_norm_eps)?;
        settings::check_range(OP, self.initializer_range)?;
        self.lora.as_ref().map_or(Ok(()), LoraConfig::check)
    }
}
