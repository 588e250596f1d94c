//! Finetunes a GPT with random-LTD on any text, on any GPU.
//!
//!     cargo run --release --example gpt_finetune
//!     cargo run --release --example gpt_finetune -- --weights gpt2 --text my_letters --length 256 --compare
//!
//! With no arguments: the embedded model, which has read Shakespeare, learns Milton, with random-LTD and beside it at full length.
//! Printed are perplexity and bits per byte on held-out text before and after, and a sample. Last lines: a table of both runs with
//! time, layer tokens and memory, and the folder that holds checkpoints, curves and a report; its export/ is a folder that
//! transformers loads.

mod args;
#[path = "../common/language/beside.rs"]
mod beside;
#[path = "../common/language/embedded.rs"]
mod embedded;
#[path = "../common/language/gpt.rs"]
mod gpt;
#[path = "../common/language/mod.rs"]
mod language;
#[path = "../common/local.rs"]
mod local;
#[path = "../common/language/sampled.rs"]
mod sampled;
#[path = "../common/training/mod.rs"]
mod training;
#[path = "../common/warnings.rs"]
mod warnings;

use std::path::PathBuf;

use anyhow::{Context, Result};
use wgrad::data::{TextOptions, TokenCache};
use wgrad::models::gpt2::{self, Pretrained};
use wgrad::train::read_deepspeed;

use args::Args;
use gpt::Gpt;
use language::program::Lesson;
use language::recipe::{DropKind, Recipe, Rival};
use language::setup::{Beginning, Weights};
use language::texts::{self, Texts};
use training::given::Rule;

/// What the embedded model learns where no text is named: the first books of Paradise Lost.
const MILTON: &str = include_str!("../../assets/milton.txt");

/// Tokens of a sequence where nothing is said: memory goes by them.
const MOST_TOKENS: usize = 1024;

fn main() -> Result<()> {
    language::program::main::<Finetuning>()
}

struct Finetuning;

impl Lesson for Finetuning {
    type Args = Args;
    type Kind = Gpt;

    const TITLE: &'static str = "Finetuning a GPT";

    /// The demonstration shows both, but where a file's rate is made for one of them.
    fn settled(mut args: Args) -> Args {
        let common = &mut args.common;
        let is_alone = args.weights.is_none() && common.text.is_empty() && common.compare.is_empty();
        // A file that cannot be read is told of later.
        let config = common.ltd_config.as_ref().and_then(|path| read_deepspeed(path).ok());
        let rate = config.as_ref().and_then(|config| config.rate.as_ref());
        let recipe = common.recipe(Self::recipe());
        // By layer tokens the other would take another number of steps.
        let is_for_one =
            rate.is_some_and(|rate| rate.follows_layer_tokens() || (recipe.layer_tokens > 0 && rate.has_end()));
        let way = common.main_way(config.as_ref(), recipe.drop);
        if is_alone && way != DropKind::None && !is_for_one {
            common.compare.push(Rival::None);
        }
        args
    }

    fn recipe() -> Recipe {
        Recipe::default()
    }

    fn rules(args: &Args) -> Vec<Rule> {
        vec![(&["text_cache"], !args.common.text.is_empty(), "with --text")]
    }

    fn begin(args: &Args, known: Option<PathBuf>) -> Result<Beginning<Gpt>> {
        let common = &args.common;
        let (name, place, mut pretrained, tokenizer) = match &args.weights {
            Some(path) => {
                let naming = || format!("--weights {}", path.display());
                let place = known.map_or_else(|| local::found(path), Ok)?;
                let tokenizer = beside::tokenizer(&place, args.tokenizer.as_deref())?;
                let opened = gpt2::open(&place).with_context(naming)?;
                (path.display().to_string(), Some(place), opened, tokenizer)
            }
            None => ("the embedded checkpoint".to_owned(), None, embedded::model()?, embedded::tokenizer()?),
        };
        // New ones, if any, begin beside what those of an earlier run have made of the weights.
        pretrained.merge_adapters()?;
        let Pretrained { config, checkpoint, .. } = pretrained;
        let length = common.length.unwrap_or(config.n_positions.min(MOST_TOKENS));
        let texts = if common.text.is_empty() {
            let milton = wgrad::data::Texts::from_memory([("milton.txt", MILTON)], TextOptions::default())?;
            let name = "the embedded beginning of Paradise Lost".to_owned();
            Texts::new(common, name, &milton, &TokenCache::Memory, tokenizer, length)?
        } else {
            let texts = texts::open(common)?;
            Texts::new(common, common.text_names(), &texts, &common.token_cache(), tokenizer, length)?
        };
        Ok(Beginning { config, weights: Some(Weights { name, place, checkpoint }), texts })
    }
}
