//! A run that waits for nothing and awaits what it needs, as in a browser: the same file is a test here and, in WebAssembly, all that
//! `tests/web` does.

use wgrad::autograd::Parameter;
use wgrad::data::{ImageBatch, Position};
use wgrad::gpu::Gpu;
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::ops::CrossEntropy;
use wgrad::optim::{AdamW, LrSchedule, Rule};
use wgrad::train::{Classify, Snapshot, StepMetrics, Task, TrainSettings, Trainer, evaluate_async};
use wgrad::{Error, Tensor};

/// What may go wrong: an error of the engine, or a figure that is not what it should be.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const CLASSES: usize = 4;
const BATCH: usize = 6;
/// Steps before and after the snapshot.
const STEPS: u64 = 3;
/// Steps that are recorded before the first of them is awaited: many more submissions than may be under way.
const AHEAD: usize = 24;
/// Of the largest of the figures that belong together.
const TOLERANCE: f32 = 1e-4;

/// Losses and gradient norms of the steps, and how far the first weights of some parameters have moved in the end: as computed by
/// lavapipe, natively.
const LOSSES: [f32; 6] = [1.351354, 1.2183751, 1.0200379, 0.9511315, 0.9827487, 0.9284258];
const NORMS: [f32; 6] = [3.834713, 2.1705322, 1.5041194, 1.5866793, 3.0049953, 1.1339223];
const MOVED: [(&str, [f32; 4]); 5] = [
    ("pos_embed", [0.019630793, 0.0034574443, 0.0021795123, 0.029690601]),
    ("patch_embed.proj.weight", [0.0021792147, 0.002376385, -0.0003181696, -0.0003615655]),
    ("blocks.1.attn.proj.weight", [-0.01056658, -0.014270859, 0.008895984, 0.0073327473]),
    ("blocks.2.mlp.fc2.weight", [-0.00049810205, -0.0063001774, 0.018017646, 0.0041917693]),
    ("head.weight", [-0.04544317, -0.047291998, -0.00040529296, 0.010090699]),
];
/// Loss and accuracy of the plain model in the end.
const EVALUATED: [f32; 2] = [0.7115175, 0.6666667];

/// A small ViT with all that is random in training learns a batch with random-LTD. Each step is recorded before the
/// results of the one before are awaited; half-way it goes back to a snapshot, which has been bytes meanwhile, and in
/// the end it is evaluated.
pub async fn train(gpu: &Gpu) -> Outcome<()> {
    let config = VitConfig {
        img_size: (16, 16),
        patch_size: 4,
        num_classes: CLASSES,
        drop_rate: 0.1,
        drop_path_rate: 0.3,
        ..VitConfig::custom(32, 3, 2)
    };
    let task =
        Classify::with_loss(Vit::new(gpu, config, 5)?, CrossEntropy { label_smoothing: 0.1, ..Default::default() });
    let mut trainer = Trainer::new(task, settings()?)?;
    let before = weights(&trainer).await?;

    let mut steps = go_on(&mut trainer).await?;
    let snapshot = trainer.snapshot_async().await?;
    steps.extend(go_on(&mut trainer).await?);
    let after = weights(&trainer).await?;
    trainer.restore(&Snapshot::from_bytes(&snapshot.to_bytes()?, "snapshot")?)?;
    let again = go_on(&mut trainer).await?;
    if again != steps[STEPS as usize..] || weights(&trainer).await? != after {
        return Err(format!("from the snapshot it went on otherwise: {again:?}, not {steps:?}").into());
    }

    let mut figures = vec![
        ("losses", steps.iter().map(|step| step.loss).collect::<Vec<_>>(), LOSSES.to_vec()),
        ("gradient norms", steps.iter().map(|step| step.grad_norm).collect(), NORMS.to_vec()),
    ];
    for (path, expected) in MOVED {
        let parameters = trainer.task().model().parameters();
        let i = parameters.iter().position(|p| p.path() == path).ok_or("no such parameter")?;
        let moved = before[i].iter().zip(&after[i]).map(|(before, after)| after - before);
        figures.push((path, moved.take(expected.len()).collect(), expected.to_vec()));
    }
    let evaluation = evaluate_async(trainer.task(), [Ok(batch()), Ok(batch())]).await?;
    figures.push(("evaluation", vec![evaluation.loss as f32, evaluation.accuracy as f32], EVALUATED.to_vec()));
    let wrong: Vec<String> =
        figures.iter().filter_map(|(what, got, expected)| difference(what, got, expected)).collect();
    if !wrong.is_empty() {
        return Err(wrong.join("\n").into());
    }
    refuse_a_label(&mut trainer).await?;
    run_ahead(&mut trainer).await
}

fn settings() -> wgrad::Result<TrainSettings> {
    // With so large an eps a step is smooth in its gradient: rounding is not taken for a direction.
    let rule = Rule::AdamW(AdamW { eps: 1e-3, ..AdamW::default() });
    Ok(TrainSettings {
        max_norm: Some(1.0),
        drop: RandomLtd::new(3, Schedule::constant(9)?)?.with_seed(3).into(),
        seed: 7,
        ..TrainSettings::new(rule, LrSchedule::constant(1e-2)?)
    })
}

/// Pictures whose class shows in their brightness.
fn batch() -> ImageBatch {
    let labels: Vec<u32> = (0..BATCH).map(|i| (i % CLASSES) as u32).collect();
    let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 28;
    let pixel = |i: usize| (labels[i / (3 * 16 * 16)] * 60 + noise(i)) as u8;
    ImageBatch {
        images: (0..BATCH * 3 * 16 * 16).map(pixel).collect(),
        indices: (0..BATCH as u32).collect(),
        labels,
        mixed: None,
        position: Position::default(),
    }
}

async fn go_on(trainer: &mut Trainer<Classify<Vit>>) -> wgrad::Result<Vec<StepMetrics>> {
    let mut metrics = Vec::new();
    let mut pending = None;
    for _ in 0..STEPS {
        let recorded = trainer.record(&batch())?;
        if let Some(before) = pending.replace(recorded) {
            metrics.push(before.read().await?);
        }
    }
    if let Some(last) = pending {
        metrics.push(last.read().await?);
    }
    Ok(metrics)
}

async fn weights(trainer: &Trainer<Classify<Vit>>) -> wgrad::Result<Vec<Vec<f32>>> {
    let values: Vec<Tensor> = trainer.task().model().parameters().iter().map(Parameter::value).collect();
    Tensor::read_all(&values.iter().collect::<Vec<_>>()).await
}

fn difference(what: &str, got: &[f32], expected: &[f32]) -> Option<String> {
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let is_close = |(got, expected): (&f32, &f32)| (got - expected).abs() <= TOLERANCE * largest;
    let is_same = got.len() == expected.len() && got.iter().zip(expected).all(is_close);
    (!is_same).then(|| format!("{what}: got {got:?}, expected {expected:?}"))
}

/// A label out of range is an error of the step that met it, and of no other.
async fn refuse_a_label(trainer: &mut Trainer<Classify<Vit>>) -> Outcome<()> {
    let mut bad = batch();
    bad.labels[2] = 99;
    let (bad, good) = (trainer.record(&bad)?, trainer.record(&batch())?);
    match bad.read().await {
        Err(Error::OutOfRange { value: 99, .. }) => {}
        other => return Err(format!("a label of 99 gave {other:?}").into()),
    }
    good.read().await?;
    Ok(())
}

/// Steps recorded far ahead of the device, and read the newest first, are those that were awaited one by one.
async fn run_ahead(trainer: &mut Trainer<Classify<Vit>>) -> Outcome<()> {
    let snapshot = trainer.snapshot_async().await?;
    let mut expected = Vec::new();
    for _ in 0..AHEAD {
        expected.push(trainer.record(&batch())?.read().await?);
    }
    trainer.restore(&snapshot)?;
    let mut recorded = (0..AHEAD).map(|_| trainer.record(&batch())).collect::<wgrad::Result<Vec<_>>>()?;
    let mut got = Vec::new();
    while let Some(last) = recorded.pop() {
        got.push(last.read().await?);
    }
    got.reverse();
    if got != expected {
        return Err(format!("recorded ahead, steps went otherwise: {got:?}, not {expected:?}").into());
    }
    Ok(())
}
