//! Whether a device computes the same bits each time, and by how much it differs from another.
//!
//!     cargo run --release --example numbers -- [--repeats 100] [--steps 50] [--adapter NAME] [--save FILE] [--against FILE]
//!
//! Trains a small ViT on the embedded digits, with dropout and random-LTD, again and again, and tells whether all losses and weights were
//! the same. `--save` keeps them, and the results and gradients of single operations, for another device's `--against`.
//! Last line: `N repeats of M steps: the same bits`; where they are not, it says how many differ, and the exit code is 1.

#[path = "common/say.rs"]
mod say;
#[path = "common/warnings.rs"]
mod warnings;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use wgrad::autograd::Parameters;
use wgrad::checkpoint::{self, HostTensor};
use wgrad::data::{ImageOptions, ImageSource, Loader, LoaderOptions, Position, digits};
use wgrad::gpu::{AdapterChoice, GpuOptions};
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::ops::{self, CrossEntropy, Gelu, Mask};
use wgrad::optim::{AdamW, LrSchedule, Rule};
use wgrad::train::{Classify, TrainSettings, Trainer};
use wgrad::{Gpu, Tensor};

use say::say;

#[derive(Parser)]
struct Args {
    /// Trainings, at least 2.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    repeats: u32,
    /// Of each, at least 1.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    #[arg(long)]
    adapter: Option<AdapterChoice>,
    /// Keep all results in a safetensors file.
    #[arg(long)]
    save: Option<PathBuf>,
    /// Show the difference from what another device has kept.
    #[arg(long)]
    against: Option<PathBuf>,
}

/// Results by name.
type Results = BTreeMap<String, HostTensor>;

fn main() -> Result<ExitCode> {
    warnings::show();
    let args = Args::parse();
    let other = args.against.as_deref().map(checkpoint::read).transpose()?;
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..GpuOptions::default() })?;
    say!("adapter: {}", gpu.info());
    let mut results = operations(&gpu)?;
    let first = training(&gpu, args.steps)?;
    let mut differing = 0;
    for _ in 1..args.repeats {
        differing += u32::from(!same_bits(&training(&gpu, args.steps)?, &first));
    }
    results.extend(first);
    let compared = other.map_or(Ok(()), |other| compare(&results, &other.tensors));
    let of_all = format!("{} repeats of {} steps", args.repeats, args.steps);
    match differing {
        0 => say!("{of_all}: the same bits"),
        _ => say!("{differing} of {of_all} differ from the first"),
    }
    // What was found is told by now: a file that cannot be written does not cost it.
    if let Some(path) = &args.save {
        checkpoint::write(path, &results, &BTreeMap::new())?;
    }
    compared?;
    Ok(if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Values from -1 to 1 that any language makes alike.
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// An operation's name, the shapes of what is given to it, and the operation.
type Operation = (&'static str, &'static [&'static [usize]], fn(&[Tensor]) -> wgrad::Result<Tensor>);

const OPERATIONS: [Operation; 11] = [
    ("matmul", &[&[96, 384], &[384, 200]], |x| ops::matmul(&x[0], &x[1])),
    ("linear", &[&[64, 384], &[256, 384], &[256]], |x| ops::linear(&x[0], &x[1], Some(&x[2]))),
    ("attention", &[&[2, 65, 3 * 64]], |x| ops::attention(&x[0], 2, &Mask::default(), None)),
    ("layernorm", &[&[64, 384], &[384], &[384]], |x| ops::layernorm(&x[0], &x[1], &x[2], 1e-6)),
    ("gelu", &[&[64, 384]], |x| ops::gelu(&x[0], Gelu::Erf)),
    ("gelu_tanh", &[&[64, 384]], |x| ops::gelu(&x[0], Gelu::Tanh)),
    ("softmax", &[&[64, 384]], |x| ops::softmax(&x[0])),
    ("exp", &[&[64, 384]], |x| ops::exp(&x[0])),
    ("div", &[&[64, 384], &[64, 384]], |x| ops::div(&x[0], &x[1])),
    ("sum", &[&[64, 384]], |x| ops::sum(&x[0])),
    ("cross_entropy", &[&[64, 100]], |x| {
        let labels: Vec<u32> = (0..64).collect();
        ops::cross_entropy(&x[0], &Tensor::from_slice(x[0].gpu(), &[64], &labels)?, &CrossEntropy::default())
    }),
];

/// What each operation gives, and its gradients under another operation's of ones and others.
fn operations(gpu: &Gpu) -> Result<Results> {
    let mut results = Results::new();
    for (name, shapes, operation) in OPERATIONS {
        let mut parameters = Parameters::new(gpu);
        let mut given = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            let numel = shape.iter().product();
            given.push(parameters.add(format!("{i}"), shape, &values(i as u64 + 1, numel))?.tensor());
        }
        let y = operation(&given)?;
        let weight = Tensor::from_slice(gpu, y.dims(), &values(9, y.numel()))?;
        ops::sum(&ops::mul(&y, &weight)?)?.backward()?;
        let host = |tensor: &Tensor| {
            Ok::<_, wgrad::Error>(HostTensor { shape: tensor.dims().to_vec(), data: tensor.to_vec()? })
        };
        results.insert(format!("{name} forward"), host(&y)?);
        for parameter in &parameters {
            if let Some(gradient) = parameter.grad() {
                results.insert(format!("{name} gradient {}", parameter.path()), host(&gradient)?);
            }
        }
    }
    Ok(results)
}

/// The losses of a training, and the weights behind it.
fn training(gpu: &Gpu, steps: u64) -> Result<Results> {
    let data = digits()?;
    let config = VitConfig {
        img_size: (16, 16),
        patch_size: 4,
        num_classes: 10,
        proj_drop_rate: 0.1,
        ..VitConfig::custom(64, 4, 2)
    };
    let ltd = RandomLtd::new(config.depth, Schedule::linear(5, config.tokens(), steps.max(2) / 2, 4)?)?.with_seed(1);
    let rule = Rule::AdamW(AdamW::default());
    let settings = TrainSettings {
        max_norm: Some(1.0),
        drop: Some(ltd).into(),
        ..TrainSettings::new(rule, LrSchedule::constant(1e-3)?)
    };
    let pictures = ImageSource::new(&data.train, data.train_transform(16), ImageOptions::default())?;
    let loader = Loader::new(pictures, LoaderOptions::training(16, 1))?;
    let mut trainer = Trainer::new(Classify::new(Vit::new(gpu, config, 1)?), settings)?;
    let mut losses = Vec::new();
    for batch in loader.batches_from(Position::default())?.take(usize::try_from(steps)?) {
        losses.extend(trainer.step(&batch?)?.map(|metrics| metrics.loss));
    }
    losses.extend(trainer.finish()?.map(|metrics| metrics.loss));
    let weights = checkpoint::download(trainer.task().model.parameters())?;
    let mut results: Results = weights.into_iter().map(|(path, tensor)| (format!("weights {path}"), tensor)).collect();
    results.insert("losses".to_owned(), HostTensor { shape: vec![losses.len()], data: losses });
    Ok(results)
}

fn same_bits(a: &Results, b: &Results) -> bool {
    let bits = |results: &Results| -> Vec<Vec<u32>> {
        results.values().map(|tensor| tensor.data.iter().map(|value| value.to_bits()).collect()).collect()
    };
    bits(a) == bits(b)
}

/// The largest difference of each operation's results, and of the training's, as a share of the largest value there.
fn compare(own: &Results, other: &Results) -> Result<()> {
    let mut rows: BTreeMap<&str, (f64, f64, usize, usize)> = BTreeMap::new();
    for (name, tensor) in own {
        let theirs = other.get(name).filter(|theirs| theirs.shape == tensor.shape);
        ensure!(theirs.is_some(), "{name} is not in the file, or of another shape");
        let theirs = theirs.map_or(&[][..], |theirs| &theirs.data);
        let largest = tensor.data.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(f64::from(value.abs())));
        let (key, is_forward) = match name.split_once(' ') {
            Some((operation, what)) => (operation, what == "forward" || operation == "weights"),
            None => (name.as_str(), true),
        };
        let row = rows.entry(key).or_default();
        let worst = if is_forward { &mut row.0 } else { &mut row.1 };
        for (a, b) in tensor.data.iter().zip(theirs) {
            let apart = (f64::from(*a) - f64::from(*b)).abs() / largest;
            // `max` would pass over a NaN.
            *worst = worst.max(if apart.is_nan() { f64::INFINITY } else { apart });
            row.2 += usize::from(a.to_bits() != b.to_bits());
            row.3 += 1;
        }
    }
    say!("| | largest difference | of gradients | other bits |\n|---|---|---|---|");
    for (name, (forward, backward, other, all)) in rows {
        say!("| {name} | {forward:.1e} | {backward:.1e} | {:.1} % |", 100.0 * other as f64 / all.max(1) as f64);
    }
    Ok(())
}
