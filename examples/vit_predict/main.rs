//! Says what is in pictures, by a model that `vit_finetune` trained or that timm or transformers saved.
//!
//!     cargo run --release --example vit_predict -- cat.jpg --weights runs/1
//!     cargo run --release --example vit_predict -- my_photos --weights vit_base_patch16_224/ --csv photos.csv
//!
//! For each picture: its path, then the likeliest classes with their probabilities. Without --weights, the embedded
//! checkpoint, which knows CIFAR-100's classes. Pictures that cannot be read are reported and left out; the exit code is 1
//! if that is all of them.

#[path = "../common/adapters.rs"]
mod adapters;
#[path = "../common/console.rs"]
mod console;
#[path = "../common/hub.rs"]
mod hub;
mod output;
mod pictures;
#[path = "../common/size.rs"]
mod size;
mod source;
#[path = "../common/warnings.rs"]
mod warnings;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use wgrad::Gpu;
use wgrad::checkpoint::{MatchOptions, load_parameters};
use wgrad::data::{ImageOptions, ImageSource, Loader, LoaderOptions, Split};
use wgrad::gpu::{AdapterChoice, GpuOptions};
use wgrad::models::vit::{OpenOptions, Vit};
use wgrad::train::{Classify, predict};

use console::{complain, printable};
use output::Output;
use size::Size;
use source::Source;

/// Pictures whose probabilities are held in memory at once.
const PART: usize = 4096;

/// Say what is in pictures.
#[derive(Parser, Clone, Debug)]
#[command(version, about)]
struct Args {
    /// Pictures, and folders, which are searched for pictures.
    #[arg(required_unless_present = "list_adapters")]
    images: Vec<PathBuf>,
    /// A run's folder (its best.safetensors), a safetensors file (this project's, or with timm's names), or a folder as timm
    /// or transformers save it; in a build with the feature hub, hub:OWNER/MODEL [default: the embedded checkpoint].
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Folder with an adapter (LoRA) of that checkpoint's model, as PEFT saves it.
    #[arg(long, value_name = "FOLDER", requires = "weights")]
    lora: Option<PathBuf>,
    /// Heads of that checkpoint's model, where no file beside it tells.
    #[arg(long, requires = "weights")]
    heads: Option<usize>,
    /// Pictures that it was trained on, as SIDE or HEIGHTxWIDTH, where no file beside it tells [default: square ones].
    #[arg(long, value_name = "SIZE", requires = "weights")]
    trained_on: Option<Size>,
    /// Classes shown of each picture, the likeliest first.
    #[arg(long, default_value_t = 5)]
    top: usize,
    /// Write them to this file too, a line a picture: path, then each class with its probability.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Pictures that go through the model together.
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// Share of a picture's short side that the model sees, from the middle [default: the checkpoint's; 0.875 where it does
    /// not tell].
    #[arg(long)]
    crop: Option<f64>,
    /// Threads that decode pictures; 0 takes as many as there are cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Adapter, by number or a part of its name.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
    /// List the adapters and end.
    #[arg(long)]
    list_adapters: bool,
}

fn main() -> Result<ExitCode> {
    warnings::show();
    let args = Args::parse();
    if args.list_adapters {
        adapters::list();
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(args.top > 0, "--top must be at least 1");
    let (mut unreadable, mut unused) = (Vec::new(), Vec::new());
    let files = pictures::collect(&args.images, &mut unreadable, &mut unused);
    for line in &unused {
        complain!("not used: {}", printable(line));
    }
    // What is wrong with the weights is told before a device is opened.
    let options = OpenOptions { heads: args.heads, trained_on: args.trained_on.map(Into::into) };
    let source = Source::open(args.weights.as_deref(), args.lora.as_deref(), &options, args.crop)?;
    complain!("{source}");
    let mut output = Output::create(args.csv.as_deref(), &source, args.top)?;
    if !files.is_empty() {
        let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?;
        complain!("adapter: {}", gpu.info());
        let model = Vit::new(&gpu, source.pretrained.config.clone(), 0)?;
        load_parameters(model.parameters(), &source.pretrained.checkpoint, &MatchOptions::default())?;
        for part in files.chunks(PART) {
            run(&args, &source, &model, part, &mut output, &mut unreadable)?;
        }
    }
    for line in &unreadable {
        complain!("not read: {}", printable(line));
    }
    if output.pictures() == 0 {
        // A file that is there keeps what it says.
        complain!("no picture could be read");
        return Ok(ExitCode::FAILURE);
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Predicts and prints some of the pictures.
fn run(
    args: &Args,
    source: &Source,
    model: &Vit,
    files: &[PathBuf],
    output: &mut Output<'_>,
    unreadable: &mut Vec<String>,
) -> Result<()> {
    // Nobody knows their classes; the labels are not looked at.
    let split = Split::from_files(files.to_vec(), vec![0; files.len()])?;
    let options = ImageOptions { threads: args.threads, ..ImageOptions::default() };
    let pictures = ImageSource::new(&split, source.transform()?, options).context("--crop or --threads")?;
    let loader = Loader::new(pictures, LoaderOptions::evaluation(args.batch_size)).context("--batch-size")?;
    let predictions = loader.epoch(0).and_then(|batches| predict(&Classify::new(model), batches));
    let skipped = loader.source().skipped();
    let all_failed = skipped.len() == files.len();
    unreadable.extend(skipped.into_iter().map(|skipped| skipped.reason));
    // A loader without a single readable picture is an error, which is said better by its list.
    if all_failed {
        return Ok(());
    }
    let predictions = predictions?;
    for (row, &sample) in predictions.samples().iter().enumerate() {
        output.picture(&files[sample as usize], &predictions.top(row, args.top))?;
    }
    Ok(())
}
