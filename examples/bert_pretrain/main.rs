//! Trains a small BERT from scratch on one's own text, with random-LTD as it was made for pretraining, on any GPU.
//!
//!     cargo run --release --example bert_pretrain -- --text shakespeare --model 128x4x4 --length 128
//!     cargo run --release --example bert_pretrain -- --text books --tokenizer vocab.txt --whole-words
//!
//! A byte-level BPE vocabulary is made of the text, unless one is given. Last lines: perplexity of the tokens that were taken away, the
//! share of them that was found again, a table of times, layer tokens and memory, and the run's folder; its export/ is a folder that
//! transformers loads.

mod args;
#[path = "../common/language/bert.rs"]
mod bert;
#[path = "../common/language/mod.rs"]
mod language;
#[path = "../common/language/pretraining.rs"]
mod pretraining;
#[path = "../common/training/mod.rs"]
mod training;
#[path = "../common/warnings.rs"]
mod warnings;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use wgrad::data::{MaskedOptions, Special, SpecialTokens};
use wgrad::models::bert::BertConfig;

use args::Args;
use bert::OfMasks;
use language::program::Lesson;
use language::recipe::Recipe;
use language::setup::Beginning;
use language::texts::{self, Texts};
use training::given::Rule;

fn main() -> Result<()> {
    language::program::main::<Pretraining>()
}

struct Pretraining;

impl Lesson for Pretraining {
    type Args = Args;
    type Kind = OfMasks;

    const TITLE: &'static str = "Pretraining a BERT";

    fn recipe() -> Recipe {
        pretraining::recipe()
    }

    fn rules(_: &Args) -> Vec<Rule> {
        pretraining::rules()
    }

    /// With random weights, which lie nowhere.
    fn begin(args: &Args, _: Option<PathBuf>) -> Result<Beginning<OfMasks>> {
        let common = &args.common;
        ensure!(!common.text.is_empty(), "--text PATH is needed: what the model is to learn");
        let texts = texts::open(common)?;
        let tokenizer = args.vocabulary.tokenizer(&texts, SpecialTokens::Bert, common.output.resume.as_deref())?;
        let length = common.length.unwrap_or(256);
        let config = BertConfig {
            vocab_size: tokenizer.vocab_size(),
            max_position_embeddings: length,
            pad_token_id: tokenizer.special(Special::Pad),
            ..preset(&args.model)?
        };
        config.check()?;
        let reading = MaskedOptions {
            share: args.mask_share,
            whole_words: args.whole_words,
            across_documents: !args.by_document,
            ..MaskedOptions::new(length)
        };
        let texts = Texts::new(common, common.text_names(), &texts, &common.token_cache(), tokenizer, reading)?;
        Ok(Beginning { config, weights: None, texts })
    }
}

fn preset(name: &str) -> Result<BertConfig> {
    Ok(match name {
        "base" => BertConfig::base(),
        "large" => BertConfig::large(),
        _ => {
            let [width, depth, heads] = pretraining::sizes(name)?;
            BertConfig::custom(width, depth, heads)
        }
    })
}
