//! What runs leave behind and read again: their state, their folder, the tuning table; and DeepSpeed's configurations.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wgrad::Error;
use wgrad::checkpoint::{Checkpoint, HostTensor};
use wgrad::data::{ImageOptions, ImageSource, Loader, LoaderOptions, digits};
use wgrad::gpu::Gpu;
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::Extent;
use wgrad::optim::{AdamW, LrSchedule, Rule};
use wgrad::train::{
    self, Classify, EpochMetrics, FitData, FitOptions, Observer, RunFolder, RunState, STATE_FILE, Snapshot,
    StepMetrics, TUNING_BUDGET, Task, TrainSettings, Trainer, TuningStore, Workload, fit, read_deepspeed, rehearse,
    write_weights,
};

use super::{Reader, Set, gpu};
use crate::shared::training::device::Device;
use crate::shared::training::files::read_json;
use crate::shared::training::folder::{saved_args, saved_recipe};
use crate::shared::training::history::History;
use crate::shared::training::ltd::{LtdOptions, LtdSettings};
use crate::shared::training::optimisation::{Optimisation, OptimisationOptions, Plan};
use crate::shared::training::output::Output;
use crate::shared::training::report::{Course, Run, Which};
use crate::shared::training::{resume, start};

const DEPTH: usize = 3;
/// Patches, and the class token.
const TOKENS: usize = 17;

fn config() -> VitConfig {
    VitConfig { img_size: (16, 16), patch_size: 4, num_classes: 10, ..VitConfig::custom(8, DEPTH, 2) }
}

fn settings() -> TrainSettings {
    let ltd = RandomLtd::new(DEPTH, Schedule::linear(5, TOKENS, 8, 4).unwrap()).unwrap();
    let rate = LrSchedule::constant(1e-3).unwrap();
    TrainSettings { drop: ltd.into(), ..TrainSettings::new(Rule::AdamW(AdamW::default()), rate) }
}

/// Sees nothing and stops nothing.
struct Blind;

impl Observer for Blind {
    fn step(&mut self, _: &StepMetrics) -> std::ops::ControlFlow<()> {
        std::ops::ControlFlow::Continue(())
    }

    fn epoch(&mut self, _: &EpochMetrics) -> std::ops::ControlFlow<()> {
        std::ops::ControlFlow::Continue(())
    }
}

/// A run of two steps that goes on to its third.
fn run_state() -> Reader {
    let (gpu, data) = (gpu(), digits().unwrap());
    let loader = move |options| {
        let few = data.train.subset(&[0, 1, 2, 3, 4, 5]).unwrap();
        let pictures = ImageOptions { threads: 1, ..Default::default() };
        Loader::new(ImageSource::new(&few, data.eval_transform(16), pictures).unwrap(), options).unwrap()
    };
    let (train, validation) = (loader(LoaderOptions::training(2, 1)), loader(LoaderOptions::evaluation(6)));
    let steps = move |steps, folder: Option<&Path>, resume| {
        let folder = folder.map(|path| RunFolder::new(path, write_weights));
        let data = FitData { train: &train, validation: &validation, steps, folder };
        let options = FitOptions { save_state: data.folder.is_some(), resume, ..FitOptions::default() };
        let task = Classify::new(Vit::new(&gpu, config(), 0)?);
        fit(task, &data, settings(), options, &mut Blind).map(drop)
    };
    let folder = tempfile::tempdir().unwrap();
    steps(2, Some(folder.path()), None).unwrap();
    let bytes = fs::read(folder.path().join(STATE_FILE)).unwrap();
    let read = move |folder: &Path, _| steps(3, None, Some(RunState::read(folder.join(STATE_FILE))?));
    let sets = vec![Set::new([(STATE_FILE, bytes)], &[])];
    Reader { name: "run's state", share: 25, sets, read: Box::new(read), memory: [4 << 20, 64] }
}

/// A trainer's snapshot, from which another goes on for a step.
fn snapshot() -> Reader {
    const SNAPSHOT: &str = "snapshot.safetensors";
    let gpu = gpu();
    let trainer = move || Trainer::new(Classify::new(Vit::new(&gpu, config(), 0)?), settings());
    let step = |trainer: &mut Trainer<Classify<Vit>>| {
        let batch = trainer.task().blank(2)?;
        trainer.step(&batch)?;
        trainer.finish().map(drop)
    };
    let mut first = trainer().unwrap();
    step(&mut first).unwrap();
    let bytes = first.snapshot().unwrap().to_bytes().unwrap();
    let read = move |folder: &Path, _| {
        let path = folder.join(SNAPSHOT);
        let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
        let mut trainer = trainer()?;
        trainer.restore(&Snapshot::from_bytes(&bytes, SNAPSHOT)?)?;
        step(&mut trainer)
    };
    let sets = vec![Set::new([(SNAPSHOT, bytes)], &[])];
    Reader { name: "trainer's snapshot", share: 25, sets, read: Box::new(read), memory: [4 << 20, 64] }
}

/// What was settled is asked for by a rehearsal, on a handle whose table begins empty.
fn tuning_table() -> Reader {
    let gpu = gpu();
    let make = |gpu: &Gpu| Ok(Classify::new(Vit::new(gpu, config(), 0)?));
    let tune = move |gpu: &Gpu, folder: &Path, budget| {
        let settings = settings();
        let work = Workload { make: &make, settings: &settings, batch: 2, steps: 1 };
        train::tune(gpu, &work, &TuningStore::Folder(folder.to_owned()), budget)?;
        rehearse(gpu, &work).map(drop)
    };
    let folder = tempfile::tempdir().unwrap();
    tune(&gpu, folder.path(), TUNING_BUDGET).unwrap();
    let made = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
    let (name, bytes) = (made.file_name().into_string().unwrap(), fs::read(made.path()).unwrap());
    let read = move |folder: &Path, _| tune(&gpu.dry_run()?, folder, Duration::ZERO);
    let sets = vec![Set::new([(name, bytes)], &[])];
    Reader { name: "tuning table", share: 20, sets, read: Box::new(read), memory: [8 << 20, 64] }
}

fn deepspeed() -> Reader {
    let configs = [
        r#"{"train_batch_size": 8, "gradient_accumulation_steps": 2, "gradient_clipping": 1.0,
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.999], "weight_decay": 0.01}},
            "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 10, "total_num_steps": 100}},
            "fp16": {"enabled": true, "initial_scale_power": 12, "loss_scale_window": 100},
            "data_efficiency": {"enabled": true, "data_routing": {"enabled": true, "random_ltd": {"enabled": true,
                "total_layer_num": 12, "random_ltd_layer_num": 10, "random_ltd_layer_id": [1,2,3,4,5,6,7,8,9,10],
                "model_mask_name": null, "model_type": "encoder", "hidden_state_order": "batch_seq_dim",
                "random_ltd_schedule": {"min_value": 64, "max_value": 197, "schedule_type": "fixed_linear",
                    "schedule_config": {"require_steps": 100, "seq_per_step": 16}}}}}}"#,
        r#"{"train_micro_batch_size_per_gpu": 4, "optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}},
            "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": 0, "warmup_max_lr": 0.1}}}"#,
    ];
    let sets = configs.map(|text| Set::new([("ds.json", text.as_bytes().to_vec())], &[])).into();
    let read = |folder: &Path, _| {
        let config = read_deepspeed(folder.join("ds.json"))?;
        let settings = config.apply(settings());
        // Whatever it says can be asked for at any step.
        for step in [0, 1, 99, u64::MAX / 4] {
            settings.drop.kept_length(step, 197);
        }
        Ok(())
    };
    Reader { name: "DeepSpeed's JSON", share: 60, sets, read: Box::new(read), memory: [1 << 20, 64] }
}

/// Arguments, as programs have them.
#[derive(Serialize, Deserialize)]
struct Arguments {
    seed: u64,
    #[serde(flatten)]
    output: Output,
    #[serde(flatten)]
    device: Device,
    #[serde(flatten)]
    options: OptimisationOptions,
    #[serde(flatten)]
    ltd: LtdOptions,
}

/// What of recipe.json a program reads again.
#[derive(Deserialize)]
struct Recipe {
    #[serde(rename = "drop")]
    _drop: String,
}

#[derive(Serialize, Deserialize)]
struct Results {
    #[serde(flatten)]
    which: Which,
    #[serde(flatten)]
    course: Course,
}

impl Run for Results {
    fn which(&self) -> &Which {
        &self.which
    }

    fn course(&self) -> &Course {
        &self.course
    }

    fn course_mut(&mut self) -> &mut Course {
        &mut self.course
    }

    fn score(&self) -> f64 {
        0.5
    }

    fn speed(&self) -> f64 {
        self.course.speed(8.0)
    }
}

const ARGS: &str = r#"{"seed": 0, "save_every": 3, "tensorboard": false, "json": false, "recompute_blocks": false, "tune": "off",
    "matrix_units": false, "epochs": 3, "min_steps": 10, "batch_size": 8, "accumulate": 2, "precision": "f32",
    "optimizer": "adamw", "lr": 0.001, "lr_schedule": "cosine", "warmup": 0.1, "freeze": "blocks=2", "ltd_start": "0.5",
    "ltd_end": "17", "ltd_ramp": 0.7, "ltd_granularity": 2, "ltd_blocks": "1,2", "ltd_keep_prefix": 1}"#;
const RECIPE: &str = r#"{"drop": "random-ltd", "epochs": 3}"#;
const METRICS: &str = "run,step,epoch,loss,accuracy,kept,tokens,rate,grad_norm,validation_loss,validation_accuracy\n\
    random-ltd,1,1,2.3,0.1,9,17,0.001,1.5,,\nrandom-ltd,2,1,,0.2,9,17,0.001,,2.2,0.3\n";
const REPORT: &str = r#"{"runs": [{"name": "random-ltd", "arm": "random-ltd", "seed": 0, "steps": 2, "stopped": false,
    "resumed_at": 0, "out_of_patience": false, "wall_seconds": 1.5, "data_wait_seconds": 0.1, "host_seconds": 0.2,
    "evaluation_seconds": 0.3, "checkpoint_seconds": 0.1, "compilation_seconds": 0.1, "layer_tokens": 100,
    "layer_tokens_saved": 0.2, "peak_device_bytes": 1000}]}"#;

/// Of [`weights`].
const START: &str = r#"{"place": "/models/vit/model.safetensors", "crc32c": 1718623331}"#;

/// Those that the run began with.
fn weights() -> Checkpoint {
    let tensor = HostTensor { shape: vec![2, 2], data: vec![0.0, 1.0, 2.0, 3.0] };
    Checkpoint { tensors: [("head.weight".to_owned(), tensor)].into(), ..Checkpoint::default() }
}

/// The programs' part of a run's folder.
fn run_folder() -> Reader {
    let files = [("args.json", ARGS), ("recipe.json", RECIPE), ("metrics.csv", METRICS), ("report.json", REPORT)];
    let files = files.into_iter().chain([("steps.json", "12"), ("start.json", START)]);
    let files = files.map(|(name, text)| (name, text.as_bytes().to_vec()));
    let gpu = gpu();
    let read = move |folder: &Path, _| {
        go_on(&gpu, folder).map_err(|error| match error.downcast() {
            Ok(error) => error,
            Err(error) => Error::file(folder, format!("{error:#}")),
        })
    };
    Reader {
        name: "run's folder",
        share: 70,
        sets: vec![Set::new(files, &[])],
        read: Box::new(read),
        memory: [1 << 20, 64],
    }
}

/// Reads all that a program reads to go on, as far as to the settings of its run.
fn go_on(gpu: &Gpu, folder: &Path) -> anyhow::Result<()> {
    let Arguments { seed, output, device, options, ltd } = saved_args(folder)?;
    saved_recipe::<Recipe>(folder)?;
    start::place(folder)?;
    start::check(folder, &weights())?;
    for run in resume::finished::<Results>(folder)? {
        run.speed();
    }
    read_json::<u64>(&folder.join("steps.json"))?;
    History::resume(folder);

    let mut recipe = Optimisation::default().with(&options);
    recipe.settle_rate(8);
    let steps = recipe.settle_steps(100)?;
    let ltd = LtdSettings {
        ltd_schedule: crate::shared::training::kinds::LtdSchedule::Linear,
        ltd_start: "0.5".parse()?,
        ltd_end: "1.0".parse()?,
        ltd_ramp: 0.5,
        ltd_granularity: 1,
        ltd_blocks: "auto".parse()?,
        ltd_keep_prefix: 1,
    }
    .with(&ltd);
    let drop = ltd.rising(TOKENS)?.in_run(DEPTH, TOKENS, steps, seed)?;
    let plan = Plan { steps, drop, extent: Extent { depth: DEPTH, tokens: TOKENS, prefix: 1 } };
    let settings = recipe.settings(None, &device, gpu, plan, seed)?;
    recipe.fit_options(output.save_every, None);
    for step in [0, steps / 2, steps - 1] {
        settings.drop.kept_length(step, TOKENS);
    }
    Ok(())
}

pub fn readers() -> Vec<Reader> {
    vec![run_state(), snapshot(), run_folder(), tuning_table(), deepspeed()]
}
