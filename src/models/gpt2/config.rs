//! GPT-2's sizes.

use crate::error::{Error, Result};
use crate::identity::json;
use crate::models::settings;
use crate::nn::{LoraConfig, QKV_PARTS};
use crate::ops::Gelu;

/// What errors call it.
pub(super) const OP: &str = "GPT-2";

/// GPT-2's sizes and settings, named as in transformers' `config.json`, of which it is a part. Change what differs from a
/// preset: `Gpt2Config { vocab_size: 256, ..Gpt2Config::custom(128, 4, 4) }`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Gpt2Config {
    /// V.
    pub vocab_size: usize,
    /// The longest sequence.
    pub n_positions: usize,
    /// C.
    pub n_embd: usize,
    /// L.
    pub n_layer: usize,
    /// H; divides C.
    pub n_head: usize,
    /// F; 4·C where it is not said.
    pub n_inner: Option<usize>,
    /// The MLP's activation.
    #[serde(with = "settings::gelu")]
    pub activation_function: Gelu,
    /// Dropout after attention's projection and after the MLP.
    pub resid_pdrop: f32,
    /// Dropout after the positions are added.
    pub embd_pdrop: f32,
    /// Dropout of attention's weights.
    pub attn_pdrop: f32,
    /// Added to the variance in every norm.
    pub layer_norm_epsilon: f32,
    /// Deviation of initial weights.
    pub initializer_range: f32,
    /// The token that begins a text, if there is one.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text.
    #[serde(with = "settings::token_ids")]
    pub eos_token_id: Vec<u32>,
    /// The token that fills a batch up, if there is one.
    pub pad_token_id: Option<u32>,
    /// Adapters, beside which the rest of the model is frozen: of layers called `c_attn`, `c_proj` and `c_fc`, or paths that end
    /// so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

impl Default for Gpt2Config {
    /// [`Gpt2Config::small`], as in transformers.
    fn default() -> Self {
        Self::small()
    }
}

impl Gpt2Config {
    /// GPT-2 (`gpt2`): 768 wide, 12 deep, 12 heads, 124 M parameters.
    pub fn small() -> Self {
        Self::custom(768, 12, 12)
    }

    /// `gpt2-medium`: 1024 wide, 24 deep, 16 heads, 355 M parameters.
    pub fn medium() -> Self {
        Self::custom(1024, 24, 16)
    }

    /// `gpt2-large`: 1280 wide, 36 deep, 20 heads, 774 M parameters.
    pub fn large() -> Self {
        Self::custom(1280, 36, 20)
    }

    /// `gpt2-xl`: 1600 wide, 48 deep, 25 heads, 1.56 G parameters.
    pub fn xl() -> Self {
        Self::custom(1600, 48, 25)
    }

    /// Any width, depth and number of heads, with the presets' other settings: 50,257 tokens, 1,024 positions, dropout of 0.1. With
    /// another vocabulary, say too which of its tokens begin and end a text: transformers warns of ids that are not in it.
    pub fn custom(n_embd: usize, n_layer: usize, n_head: usize) -> Self {
        Gpt2Config {
            vocab_size: 50_257,
            n_positions: 1024,
            n_embd,
            n_layer,
            n_head,
            n_inner: None,
            activation_function: Gelu::Tanh,
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            bos_token_id: Some(50_256),
            eos_token_id: vec![50_256],
            pad_token_id: None,
            lora: None,
        }
    }

    /// F: width of the MLP's hidden layer.
    pub fn hidden(&self) -> usize {
        self.n_inner.unwrap_or_else(|| self.n_embd.saturating_mul(4))
    }

    /// Itself as JSON.
    pub fn identity(&self) -> String {
        json(self)
    }

    /// Whether the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that does not.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_inner", self.hidden()),
        ];
        settings::check_sizes(OP, &sizes)?;
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(Error::argument(OP, "n_head", format!("a divisor of n_embd {}", self.n_embd), self.n_head));
        }
        let rates =
            [("resid_pdrop", self.resid_pdrop), ("embd_pdrop", self.embd_pdrop), ("attn_pdrop", self.attn_pdrop)];
        settings::check_rates(OP, &rates)?;
        settings::check_eps(OP, "layer_norm_epsilon", self.layer_norm_epsilon)?;
        settings::check_range(OP, self.initializer_range)?;
        self.lora.as_ref().map_or(Ok(()), check_lora)
    }
}

/// As [`LoraConfig::check`]; and whether all are of whole layers, as PEFT has them.
fn check_lora(lora: &LoraConfig) -> Result<()> {
    let is_part = |target: &&String| target.rsplit('.').next().is_some_and(|end| QKV_PARTS.contains(&end));
    match lora.targets.iter().find(is_part) {
        Some(part) => {
            Err(Error::argument(OP, "lora", "adapters of whole layers, c_attn for queries, keys and values", part))
        }
        None => lora.check(),
    }
}
