//! What random-LTD costs and saves in pretraining, beside its rivals: the study in docs/study-language.md.
//!
//!     cargo run --release --example language_study -- --text poetry --output study-language --document docs/study-language.md
//!
//! A run takes about a minute on two CPU cores (Mesa's lavapipe 26.2); there are 60, and the time of a step at each length before them.
//!
//! Trains a small GPT and a small BERT from scratch on a folder of texts, once for each arm and seed; the runs of a seed share the order
//! and the first weights. A run's results are a line of `study-language/runs.csv` as soon as it ends, and a study that was cut off goes on
//! from there. The document is written anew after each run, with its rules at its head: `--runs 0` writes it before the first.

mod arms;
mod document;
mod kinds;
mod runs;
#[path = "../common/study/mod.rs"]
mod study;
mod times;
#[path = "../common/warnings.rs"]
mod warnings;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use wgrad::data::{SpecialTokens, TextOptions, Texts};
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions};
use wgrad::train::{Causal, Masked, Objective};

use arms::Arm;
use document::{Chapter, Head};
use kinds::{Corpus, SmallBert, SmallGpt, SmallModel};
use runs::{Plan, Study};
use study::results::Results;

/// Seeds 0 to this number less one, as fixed before the first run.
const SEEDS: u64 = 5;

#[derive(Parser)]
struct Args {
    /// Folder of texts.
    #[arg(long)]
    text: PathBuf,
    /// Folder of the results.
    #[arg(long, default_value = "study-language")]
    output: PathBuf,
    /// The document that is written [default: study-language.md in the folder of the results].
    #[arg(long)]
    document: Option<PathBuf>,
    /// The most runs of this start [default: all that are missing].
    #[arg(long)]
    runs: Option<usize>,
    /// Steps of a run at full length.
    #[arg(long, default_value_t = 250)]
    steps: u64,
    /// Adapter, by a part of its name or its number.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
}

impl Args {
    fn document(&self) -> PathBuf {
        self.document.clone().unwrap_or_else(|| self.output.join("study-language.md"))
    }
}

fn main() -> Result<()> {
    warnings::show();
    let args = Args::parse();
    ensure!(args.steps >= 20, "--steps {}: nothing to compare", args.steps);
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?;
    println!("{}", gpu.info());
    std::fs::create_dir_all(&args.output)?;
    let document = args.document();
    if let Some(folder) = document.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let texts = Texts::open(&args.text, TextOptions::default())?;
    let mut left = args.runs.unwrap_or(usize::MAX);
    let mut chapters = Vec::new();
    study::<SmallGpt, Causal>(&args, &gpu, &texts, SpecialTokens::Gpt2, &mut left, &mut chapters)?;
    study::<SmallBert, Masked>(&args, &gpu, &texts, SpecialTokens::Bert, &mut left, &mut chapters)?;
    println!("written to {} and {}", args.output.display(), document.display());
    Ok(())
}

/// The runs of one kind of model that are missing, at most as many as are left.
fn study<K: SmallModel<O>, O: Objective>(
    args: &Args,
    gpu: &Gpu,
    texts: &Texts,
    specials: SpecialTokens,
    left: &mut usize,
    chapters: &mut Vec<Chapter>,
) -> Result<()> {
    let corpus = Corpus::new(texts, specials, &args.output)?;
    let study = Study::<K, O>::new(gpu, &corpus, args.steps)?;
    let arms = arms::all();
    let mut results = Results::open(&args.output.join(format!("runs-{}.csv", K::NAME)), &study.settings())?;
    // A seed at a time: whatever slows the machine for an hour then slows all arms.
    let runs = (0..SEEDS).flat_map(|seed| arms.iter().map(move |arm| (arm, seed)));
    let missing: Vec<(&Arm, u64)> = runs.filter(|(arm, seed)| !results.has(arm.name, *seed)).take(*left).collect();
    *left -= missing.len();
    let saved = arms.iter().map(|arm| study.saved_share(arm)).collect::<Result<_>>()?;
    let head = Head { text: format!("{corpus}"), adapter: gpu.info().to_string(), seeds: SEEDS, saved };
    let (path, plan_path) = (args.document(), args.output.join(format!("plan-{}.json", K::NAME)));
    let write = |results: &Results<runs::Run>, plan: Option<&Plan>| {
        let chapter = Chapter::new(&study.describe(), &arms, results.runs(), plan);
        let all: Vec<&Chapter> = chapters.iter().chain([&chapter]).collect();
        let document = document::whole(&head, &arms, &all);
        std::fs::write(&path, document).with_context(|| format!("writing {}", path.display()))?;
        anyhow::Ok(chapter)
    };
    let mut plan = Plan::saved(&plan_path, &study.settings())?;
    if plan.is_none() && args.runs != Some(0) {
        let timed = Plan::timed(&study, &arms)?;
        timed.save(&plan_path)?;
        plan = Some(timed);
    }
    let mut chapter = write(&results, plan.as_ref())?;
    for (arm, seed) in missing {
        let plan = plan.as_ref().context("the steps have not been timed")?;
        let run = study.run(arm, seed, plan)?;
        // Kept first: a reader of what is printed may be gone.
        let told = format!("{} {run}", K::NAME);
        results.add(run)?;
        let _ = writeln!(std::io::stdout(), "{told}");
        chapter = write(&results, Some(plan))?;
    }
    chapters.push(chapter);
    Ok(())
}
