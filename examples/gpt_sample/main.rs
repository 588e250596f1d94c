//! Writes on from a prompt with a GPT: one that was trained here, one of transformers' folders, or the embedded one.
//!
//!     cargo run --release --example gpt_sample -- --prompt "To be, or not to be"
//!     cargo run --release --example gpt_sample -- --weights runs/1 --temperature 0.7 --top-p 0.9 --tokens 500
//!
//! The text comes token by token. It depends on the seed alone, on a device and its driver.

#[path = "../common/adapters.rs"]
mod adapters;
#[path = "../common/language/beside.rs"]
mod beside;
#[path = "../common/console.rs"]
mod console;
#[path = "../common/language/embedded.rs"]
mod embedded;
#[path = "../common/hub.rs"]
mod hub;
#[path = "../common/language/sampled.rs"]
mod sampled;
#[path = "../common/warnings.rs"]
mod warnings;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use wgrad::checkpoint::{MatchOptions, load_parameters};
use wgrad::data::Tokenizer;
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions};
use wgrad::models::gpt2::{self, Gpt2, Pretrained};
use wgrad::nn::Sampling;

use console::{complain, printable};
use sampled::{beginning, is_text};

/// Write on from a prompt with a GPT.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Model; the embedded one by default. A run's folder or a checkpoint in it, or a folder as transformers saves it
    /// (config.json, model.safetensors and the tokenizer's files); in a build with the feature hub, hub:OWNER/MODEL.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Its tokenizer, where that is not in the same folder: a folder, or one of its files.
    #[arg(long, requires = "weights")]
    tokenizer: Option<PathBuf>,
    /// What the text begins with [default: the token that begins texts, or else a line's end].
    #[arg(long)]
    prompt: Option<String>,
    /// The most tokens that are added.
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// Below 1 likely tokens become likelier; 0 always takes the likeliest.
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Draw from so many of the likeliest tokens; 0 draws from all.
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Draw from the fewest of the likeliest tokens whose probabilities reach this together.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Seeds the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Texts, with the seeds from --seed on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    samples: u64,
    /// Go on when the model has ended its text.
    #[arg(long)]
    no_end: bool,
    /// Adapter, by number or a part of its name.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
    /// List the adapters and end.
    #[arg(long)]
    list_adapters: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    warnings::show();
    if args.list_adapters {
        adapters::list();
        return Ok(());
    }
    let (mut pretrained, tokenizer) = match &args.weights {
        Some(path) => {
            let path = hub::found(path)?;
            let model = gpt2::open(&path).with_context(|| format!("--weights {}", path.display()))?;
            (model, beside::tokenizer(&path, args.tokenizer.as_deref())?)
        }
        None => (embedded::model()?, embedded::tokenizer()?),
    };
    pretrained.merge_adapters()?;
    let Pretrained { config, checkpoint, .. } = pretrained;
    let (tokens, vocabulary) = (tokenizer.vocab_size(), config.vocab_size);
    ensure!(tokens <= vocabulary, "the tokenizer has {tokens} tokens, the model only {vocabulary}");
    let prompt = prompt(args.prompt.as_deref(), &tokenizer)?;
    let ends = if args.no_end { Vec::new() } else { config.eos_token_id.clone() };
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?;
    let model = Gpt2::new(&gpu, config, 0)?;
    load_parameters(model.parameters(), &checkpoint, &MatchOptions::default())?;
    for seed in (0..args.samples).map(|i| args.seed.wrapping_add(i)) {
        if args.samples > 1 {
            complain!("seed {seed}:");
        }
        write_on(&model, &tokenizer, &prompt, &args, seed, &ends)?;
    }
    Ok(())
}

fn prompt(text: Option<&str>, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let Some(text) = text else {
        return beginning(tokenizer)?.context("the vocabulary has no token to begin with: give a --prompt");
    };
    let prompt = tokenizer.encode(text)?;
    ensure!(!prompt.is_empty(), "--prompt: has no token");
    Ok(prompt)
}

/// Prints the prompt, and then each token as soon as it is certain.
fn write_on(model: &Gpt2, tokenizer: &Tokenizer, prompt: &[u32], args: &Args, seed: u64, ends: &[u32]) -> Result<()> {
    let Args { temperature, top_k, top_p, tokens, .. } = *args;
    let sampling = Sampling { temperature, top_k: (top_k > 0).then_some(top_k), top_p, seed };
    let mut text = tokenizer.stream();
    let (started, mut count) = (Instant::now(), 0);
    let show = |text: &str| -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.split('\n').map(printable).collect::<Vec<_>>().join("\n").as_bytes())?;
        out.flush()
    };
    for &token in prompt.iter().filter(|&&token| is_text(tokenizer, token)) {
        show(&text.push(token)?)?;
    }
    for token in model.generate(prompt, sampling)?.take(tokens) {
        let token = token?;
        count += 1;
        if ends.contains(&token) {
            break;
        }
        if is_text(tokenizer, token) {
            show(&text.push(token)?)?;
        }
    }
    show(&text.finish()?)?;
    show("\n")?;
    let seconds = started.elapsed().as_secs_f64();
    complain!("{count} tokens in {seconds:.1} s, {:.0} a second", f64::from(count) / seconds.max(1e-9));
    Ok(())
}
