//! The GPT that comes with the project: pretrained on Shakespeare, see assets/README.md.

use std::collections::BTreeMap;

use anyhow::Result;
use wgrad::data::Tokenizer;
use wgrad::models::gpt2::{self, Pretrained};

const WEIGHTS: &[u8] = include_bytes!("../../../assets/gpt_shakespeare/model.safetensors");
const CONFIG: &str = include_str!("../../../assets/gpt_shakespeare/config.json");
const TOKENIZER: [(&str, &str); 2] = [
    ("tokenizer.json", include_str!("../../../assets/gpt_shakespeare/tokenizer.json")),
    ("tokenizer_config.json", include_str!("../../../assets/gpt_shakespeare/tokenizer_config.json")),
];

/// Its sizes and weights.
pub fn model() -> Result<Pretrained> {
    Ok(gpt2::from_bytes(CONFIG, WEIGHTS)?)
}

pub fn tokenizer() -> Result<Tokenizer> {
    let files = TOKENIZER.map(|(name, text)| (name.to_owned(), text.to_owned()));
    Ok(Tokenizer::from_files(BTreeMap::from(files))?)
}
