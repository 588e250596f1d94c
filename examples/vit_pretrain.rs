//! Trains the small checkpoint in assets/ from scratch on CIFAR-100.
//!
//!     cargo run --release --example vit_pretrain -- --data-dir cifar-100-binary --epochs 16 --ltd-start 33
//!
//! Last lines: the validation accuracy of each epoch, then
//!
//!     test accuracy 0.2824 (loss 2.9215), written to vit_cifar100.safetensors

#[path = "common/say.rs"]
mod say;
#[path = "common/warnings.rs"]
mod warnings;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use wgrad::data::{Crop, ImageOptions, ImageSource, Loader, LoaderOptions, Transform, cifar100};
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions};
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::models::vit::{Vit, VitConfig, save};
use wgrad::ops::CrossEntropy;
use wgrad::optim::{AdamW, LrSchedule, LrShape, Rule, ShapedRate};
use wgrad::train::{Classify, EpochMetrics, FitData, FitOptions, Observer, StepMetrics, TrainSettings, evaluate, fit};

use say::say;

#[derive(Parser)]
struct Args {
    /// Folder with CIFAR-100 in its official binary layout.
    #[arg(long)]
    data_dir: PathBuf,
    /// Where the checkpoint goes.
    #[arg(long, default_value = "vit_cifar100.safetensors")]
    output: PathBuf,
    #[arg(long, default_value_t = 64)]
    width: usize,
    #[arg(long, default_value_t = 6)]
    depth: usize,
    #[arg(long, default_value_t = 4)]
    heads: usize,
    #[arg(long, default_value_t = 16)]
    epochs: u64,
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    #[arg(long, default_value_t = 2e-3)]
    lr: f32,
    /// Smallest share of a picture's area that is shown in training.
    #[arg(long, default_value_t = 0.5)]
    crop_scale: f64,
    /// Tokens kept in the middle blocks at first, rising to all of them; 0 trains at full length.
    #[arg(long, default_value_t = 0)]
    ltd_start: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Adapter, by a part of its name or its number.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
}

/// Prints a line now and then, and one for each epoch.
struct Progress {
    started: Instant,
}

impl Observer for Progress {
    fn step(&mut self, m: &StepMetrics) -> ControlFlow<()> {
        // From 1, as vit_finetune counts.
        let step = m.step + 1;
        if step == 1 || step.is_multiple_of(100) {
            let seconds = self.started.elapsed().as_secs_f64();
            say!("{seconds:7.0} s  step {step:6}  loss {:.4}  rate {:.2e}  R {}", m.loss, m.rate, m.kept);
        }
        ControlFlow::Continue(())
    }

    fn epoch(&mut self, m: &EpochMetrics) -> ControlFlow<()> {
        let EpochMetrics { epoch, train_loss, train_accuracy, validation, .. } = m;
        say!(
            "epoch {}: train loss {train_loss:.4} accuracy {train_accuracy:.4}, validation loss {:.4} accuracy {:.4}",
            epoch + 1,
            validation.loss,
            validation.accuracy
        );
        ControlFlow::Continue(())
    }
}

fn main() -> Result<()> {
    warnings::show();
    let args = Args::parse();
    // Before hours of training, at whose end it is written.
    ensure!(!args.output.exists(), "--output {}: is there already", args.output.display());
    if let Some(folder) = args.output.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter, ..Default::default() })?;
    say!("{}", gpu.info());
    let data = cifar100(&args.data_dir)?;
    let config = VitConfig {
        img_size: (32, 32),
        patch_size: 4,
        num_classes: data.class_names.len(),
        normalize: data.normalize,
        ..VitConfig::custom(args.width, args.depth, args.heads)
    };
    let model = Vit::new(&gpu, config, args.seed)?;
    say!("{} parameters, {} tokens", model.parameters().numel(), model.config().tokens());

    let crop = Crop::RandomResized { scale: (args.crop_scale, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0) };
    let transform = Transform { crop, ..data.train_transform(32) };
    let pictures = ImageSource::new(&data.train, transform, ImageOptions::default())?;
    let train = Loader::new(pictures, LoaderOptions::training(args.batch_size, args.seed))?;
    let held_out = |split| {
        let pictures = ImageSource::new(split, data.eval_transform(32), ImageOptions::default())?;
        Loader::new(pictures, LoaderOptions::evaluation(128))
    };
    let steps = args.epochs * train.batches_per_epoch() as u64;
    let ltd = (args.ltd_start > 0).then(|| {
        let schedule = Schedule::linear(args.ltd_start, model.config().tokens(), steps * 4 / 5, 8)?;
        Ok::<_, wgrad::Error>(RandomLtd::new(args.depth, schedule)?.with_keep_prefix(1)?.with_seed(args.seed))
    });
    let rate = LrSchedule::new(ShapedRate {
        base: args.lr,
        min: args.lr / 100.0,
        warmup: steps / 20,
        total: steps,
        shape: LrShape::Cosine,
    })?;
    let settings = TrainSettings {
        max_norm: Some(1.0),
        drop: ltd.transpose()?.into(),
        seed: args.seed,
        ..TrainSettings::new(Rule::AdamW(AdamW::default()), rate)
    };
    let validation = held_out(&data.validation)?;
    let fit_data = FitData { train: &train, validation: &validation, steps, folder: None };
    let task = Classify::with_loss(&model, CrossEntropy { label_smoothing: 0.1, ..Default::default() });
    fit(&task, &fit_data, settings, FitOptions::default(), &mut Progress { started: Instant::now() })?;

    let test = evaluate(&task, held_out(&data.test)?.epoch(0)?)?;
    save(&args.output, &model, &data.class_names)?;
    say!("test accuracy {:.4} (loss {:.4}), written to {}", test.accuracy, test.loss, args.output.display());
    Ok(())
}
