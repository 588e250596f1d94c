//! Trains a small GPT from scratch on one's own text, with random-LTD as it was made for pretraining, on any GPU.
//!
//!     cargo run --release --example gpt_pretrain -- --text shakespeare --model 128x4x4 --length 128
//!     cargo run --release --example gpt_pretrain -- --text books --ltd-interval 2000000 --lr-schedule layer-token
//!
//! A byte-level BPE vocabulary is made of the text, unless one is given. Last lines: perplexity and bits per byte on held-out text, a
//! sample, a table of times, layer tokens and memory, and the run's folder; its export/ is a folder that transformers loads.

mod args;
#[path = "../common/language/gpt.rs"]
mod gpt;
#[path = "../common/language/mod.rs"]
mod language;
#[path = "../common/language/pretraining.rs"]
mod pretraining;
#[path = "../common/language/sampled.rs"]
mod sampled;
#[path = "../common/training/mod.rs"]
mod training;
#[path = "../common/warnings.rs"]
mod warnings;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use wgrad::data::{Special, SpecialTokens};
use wgrad::models::gpt2::Gpt2Config;

use args::Args;
use gpt::Gpt;
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
    type Kind = Gpt;

    const TITLE: &'static str = "Pretraining a GPT";

    fn recipe() -> Recipe {
        pretraining::recipe()
    }

    fn rules(_: &Args) -> Vec<Rule> {
        pretraining::rules()
    }

    /// With random weights, which lie nowhere.
    fn begin(args: &Args, _: Option<PathBuf>) -> Result<Beginning<Gpt>> {
        let common = &args.common;
        ensure!(!common.text.is_empty(), "--text PATH is needed: what the model is to learn");
        let texts = texts::open(common)?;
        let tokenizer = args.vocabulary.tokenizer(&texts, SpecialTokens::Gpt2, common.output.resume.as_deref())?;
        let length = common.length.unwrap_or(256);
        let end = tokenizer.special(Special::Eos);
        let config = Gpt2Config {
            vocab_size: tokenizer.vocab_size(),
            n_positions: length,
            bos_token_id: tokenizer.special(Special::Bos),
            eos_token_id: end.into_iter().collect(),
            ..preset(&args.model)?
        };
        config.check()?;
        let texts = Texts::new(common, common.text_names(), &texts, &common.token_cache(), tokenizer, length)?;
        Ok(Beginning { config, weights: None, texts })
    }
}

fn preset(name: &str) -> Result<Gpt2Config> {
    Ok(match name {
        "small" => Gpt2Config::small(),
        "medium" => Gpt2Config::medium(),
        "large" => Gpt2Config::large(),
        "xl" => Gpt2Config::xl(),
        _ => {
            let [width, depth, heads] = pretraining::sizes(name)?;
            Gpt2Config::custom(width, depth, heads)
        }
    })
}
