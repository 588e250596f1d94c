//! A model and a task of one's own: a small network that is no transformer learns which of two spirals a point lies on. Everything that
//! such a thing needs is here; the trainer, micro-batches, averaged weights, evaluation and snapshots then work as they do for
//! a ViT.
//!
//!     cargo run --release --example custom_model
//!
//! Last line: how many of 1,024 new points it tells right, 99 % or so; below 95 % is an error.

#[path = "common/warnings.rs"]
mod warnings;

use std::f32::consts::PI;

use anyhow::{Result, ensure};
use wgrad::autograd::Parameters;
use wgrad::data::Batch;
use wgrad::nn::{Init, Linear, Mode, Model, Span};
use wgrad::ops::{self, CrossEntropy, TokenIndices};
use wgrad::optim::{AdamW, Ema, LrSchedule, Rule};
use wgrad::train::{Correct, Part, Scored, Task, TrainSettings, Trainer, evaluate};
use wgrad::{Error, Gpu, Tensor};

/// Layers with a tanh between each two.
struct Network {
    parameters: Parameters,
    layers: Vec<Linear>,
    widths: Vec<usize>,
}

impl Network {
    fn new(gpu: &Gpu, widths: &[usize], seed: u64) -> wgrad::Result<Self> {
        let mut parameters = Parameters::new(gpu);
        let mut init = Init::new(&mut parameters, seed);
        let mut layers = Vec::new();
        for (i, pair) in widths.windows(2).enumerate() {
            // The last layer is what `Model::is_head` knows as the head.
            let mut init = if i + 2 == widths.len() { init.at("head") } else { init.at(&format!("layers.{i}")) };
            let bound = 1.5 / (pair[0] as f32).sqrt();
            let weight = init.uniform("weight", &[pair[1], pair[0]], bound)?;
            layers.push(Linear { weight, bias: Some(init.uniform("bias", &[pair[1]], bound)?) });
        }
        Ok(Network { parameters, layers, widths: widths.to_vec() })
    }

    /// `f32[B, in]` to `f32[B, out]`.
    fn forward(&self, x: &Tensor) -> wgrad::Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&if i == 0 { x } else { ops::tanh(&x)? })?;
        }
        Ok(x)
    }
}

impl Model for Network {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn identity(&self) -> String {
        format!(r#"{{"widths": {:?}}}"#, self.widths)
    }
}

/// Points in the plane, each with the spiral that it lies on.
struct Points {
    places: Vec<[f32; 2]>,
    spirals: Vec<u32>,
}

impl Points {
    /// Points `first..first + count` of an endless row of them along both spirals.
    fn new(first: usize, count: usize) -> Self {
        let place = |i: usize| {
            // Multiples of the golden ratio fill an interval evenly.
            let t = (i as f64 * 0.618_033_988_749_895).fract() as f32;
            let (radius, angle) = (0.2 + t, 2.0 * PI * t + PI * (i % 2) as f32);
            [radius * angle.cos(), radius * angle.sin()]
        };
        let all = first..first + count;
        Points { places: all.clone().map(place).collect(), spirals: all.map(|i| (i % 2) as u32).collect() }
    }
}

impl Batch for Points {
    fn samples(&self) -> usize {
        self.places.len()
    }
}

/// The objective: cross-entropy of the two logits.
struct Spirals {
    network: Network,
}

impl Task for Spirals {
    type Batch = Points;

    fn model(&self) -> &dyn Model {
        &self.network
    }

    fn identity(&self) -> String {
        r#""spirals""#.to_owned()
    }

    fn loss(&self, part: &Part<'_, Points>, _: &[Span<TokenIndices>], _: &Mode) -> wgrad::Result<Scored> {
        let (gpu, range) = (self.network.parameters.gpu(), part.samples.clone());
        let places = part.batch.places[range.clone()].as_flattened();
        let places = Tensor::from_slice(gpu, &[range.len(), 2], places)?;
        let of = range.len();
        let spirals = Tensor::from_slice(gpu, &[of], &part.batch.spirals[range])?;
        let logits = self.network.forward(&places)?;
        let count = ops::count_correct(&logits.detach(), &spirals, None)?;
        let loss = ops::cross_entropy(&logits, &spirals, &CrossEntropy::default())?;
        Ok(Scored { correct: Some(Correct { count, of }), ..Scored::new(loss) })
    }

    fn blank(&self, samples: usize) -> wgrad::Result<Points> {
        let none = || Error::argument("spirals", "samples", "at least 1", samples);
        (samples > 0).then(|| Points::new(0, samples)).ok_or_else(none)
    }
}

const STEPS: u64 = 300;
const BATCH: usize = 256;

fn main() -> Result<()> {
    warnings::show();
    let gpu = Gpu::new()?;
    let network = Network::new(&gpu, &[2, 64, 64, 2], 7)?;
    let rate = LrSchedule::cosine(1e-2, STEPS / 10, STEPS)?;
    let settings = TrainSettings {
        ema: Some(Ema { decay: 0.98, warmup: true }),
        accumulate: 2,
        ..TrainSettings::new(Rule::AdamW(AdamW::default()), rate)
    };
    let mut trainer = Trainer::new(Spirals { network }, settings)?;
    for step in 0..STEPS {
        if let Some(done) = trainer.step(&Points::new(step as usize * BATCH, BATCH))?
            && done.step.is_multiple_of(50)
        {
            println!("step {:3}  loss {:.4}  right {} of {}", done.step + 1, done.loss, done.correct, done.counted);
        }
    }
    trainer.finish()?;
    // Points that it has not seen, under the average of the weights.
    let unseen = || (0..4).map(|i| Ok(Points::new((STEPS as usize + i) * BATCH, BATCH)));
    let result = trainer.averaged(|task| evaluate(task, unseen()))?;
    println!("of {} new points {:.2} % right, loss {:.4}", result.counted, 100.0 * result.accuracy, result.loss);
    ensure!(result.accuracy > 0.95, "the spirals were not told apart");
    Ok(())
}
