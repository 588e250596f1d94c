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

use anyhow::{Context, Result};
use wgrad::data::{TextOptions, TokenCache, Tokenizer};
use wgrad::models::gpt2::{self, Pretrained};
use wgrad::train::read_deepspeed;

use args::Args;
use gpt::Gpt;
use language::args::{Common, Rival};
use language::program::Lesson;
use language::recipe::{DropKind, Recipe};
use language::setup::Beginning;
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

    fn common(args: &Args) -> &Common {
        &args.common
    }

    fn common_mut(args: &mut Args) -> &mut Common {
        &mut args.common
    }

    /// The demonstration shows both, but where a file's rate is made for one of them.
    fn settled(mut args: Args) -> Args {
        let Common { text, compare, overrides, ltd_config, .. } = &mut args.common;
        let is_alone = args.weights.is_none() && text.is_empty() && compare.is_empty();
        // A file that cannot be read is told of later.
        let rate = ltd_config.as_ref().and_then(|path| read_deepspeed(path).ok()?.rate);
        let is_for_one = rate.is_some_and(|rate| rate.follows_layer_tokens());
        if is_alone && overrides.drop != Some(DropKind::None) && !is_for_one {
            compare.push(Rival::None);
        }
        args
    }

    fn recipe() -> Recipe {
        Recipe::default()
    }

    fn rules(args: &Args) -> Vec<Rule> {
        let is_text = !args.common.text.is_empty();
        vec![(&["text_field", "text_cache"], is_text, "with --text")]
    }

    fn begin(args: &Args) -> Result<Beginning<Gpt>> {
        let common = &args.common;
        let (name, mut pretrained, tokenizer) = match &args.weights {
            Some(path) => {
                let naming = || format!("--weights {}", path.display());
                let folder = local::found(path)?;
                let beside = if folder.is_dir() { &folder } else { folder.parent().unwrap_or(&folder) };
                let tokenizer = args.tokenizer.as_deref().unwrap_or(beside);
                let tokenizer = Tokenizer::open(tokenizer)
                    .with_context(|| format!("the tokenizer in {} (--tokenizer names another)", tokenizer.display()))?;
                (path.display().to_string(), gpt2::open(&folder).with_context(naming)?, tokenizer)
            }
            None => ("the embedded checkpoint".to_owned(), embedded::model()?, embedded::tokenizer()?),
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
        Ok(Beginning { config, weights: Some((name, checkpoint)), texts })
    }
}
