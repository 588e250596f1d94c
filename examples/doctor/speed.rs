//! How fast the device is.

use anyhow::Result;
use serde::Serialize;
use wgrad::Gpu;
use wgrad::nn::Precision;
use wgrad::train::StepUse;

use crate::bounds::Bounds;
use crate::console::complain;
use crate::products;
use crate::row::Shape;
use crate::stats::median;
use crate::steps::{Network, settings};

/// Samples a step, for the steps that are timed.
pub const BATCH: usize = 8;
/// Timed steps, after one that is not.
const STEPS: usize = 3;

#[derive(Serialize)]
pub struct Speed {
    pub bounds: Bounds,
    pub products: Vec<Rate>,
    pub steps: Vec<StepTime>,
}

/// Of a matrix product.
#[derive(Serialize)]
pub struct Rate {
    pub name: String,
    pub sizes: String,
    pub gflop_s: f64,
    /// What bounds it, compute or memory, …
    pub limit: &'static str,
    /// … and how much of that it reaches.
    pub share: f64,
}

/// Of a whole optimiser step.
#[derive(Serialize)]
pub struct StepTime {
    pub model: &'static str,
    pub precision: String,
    /// Tokens that go through the middle blocks.
    pub kept: usize,
    pub milliseconds: f64,
    /// Of these, until the host had recorded it.
    pub host_milliseconds: f64,
    pub dispatches: u64,
    /// Operations of its matrix products and attention, a second.
    pub gflop_s: f64,
}

/// What is timed, by the name of its size. ViTs are for 224×224 pixels in patches of 16, language models small.
fn models() -> [(&'static str, Network); 4] {
    [
        (VITS[0].0, vit(VITS[0].1)),
        (VITS[1].0, vit(VITS[1].1)),
        ("GPT-2, 384 wide, 6 deep", Network::gpt2([384, 6, 6], 8192, 128)),
        ("BERT, 384 wide, 6 deep", Network::bert([384, 6, 6], 8192, 128)),
    ]
}

/// ViTs by width, depth and heads; the first two are timed.
pub const VITS: [(&str, [usize; 3]); 3] =
    [("ViT-Ti/16", [192, 12, 3]), ("ViT-S/16", [384, 12, 6]), ("ViT-B/16", [768, 12, 12])];

pub fn vit(sizes: [usize; 3]) -> Network {
    Network::vit(sizes, 16, 224)
}

impl Speed {
    pub fn measure(gpu: &Gpu) -> Result<Speed> {
        complain!("bounds and products");
        let bounds = Bounds::measure(gpu)?;
        let shape = Shape { name: "ViT-S".to_owned(), batch: BATCH, tokens: 197, width: 384, heads: 6 };
        let rows = products::square(512).into_iter().take(1).chain(products::square(1024).into_iter().take(1));
        let layers =
            products::linear(&shape).into_iter().filter(|row| row.name.contains(" fc1 ") && row.cost.flops > 1e9);
        let rate = |row: crate::row::Row| -> Result<Rate> {
            let seconds = (row.build)(gpu)?.seconds(gpu, row.cost)?;
            gpu.trim();
            let (limit, share) = (bounds.limit(row.cost), bounds.least_seconds(row.cost) / seconds);
            Ok(Rate { name: row.name, sizes: row.shape, gflop_s: row.cost.flops / seconds / 1e9, limit, share })
        };
        let products = rows.chain(layers).map(rate).collect::<Result<_>>()?;
        let mut steps = Vec::new();
        for (model, network) in models() {
            complain!("steps of {model}");
            network.check()?;
            for kept in [None, Some(network.extent().tokens.div_ceil(2))] {
                steps.push(step(gpu, model, &network, Precision::auto(gpu), kept)?);
            }
        }
        Ok(Speed { bounds, products, steps })
    }
}

fn step(
    gpu: &Gpu,
    model: &'static str,
    network: &Network,
    precision: Precision,
    kept: Option<usize>,
) -> Result<StepTime> {
    let flops =
        network.rehearsed(gpu, BATCH, settings(precision, false)?, kept)?.steps.iter().map(StepUse::flops).max();
    let mut steps = network.steps(gpu, BATCH, settings(precision, false)?)?;
    steps.keep(kept)?;
    steps.step()?;
    let times = (0..STEPS).map(|_| steps.step()).collect::<Result<Vec<_>>>()?;
    let milliseconds = median(times.iter().map(|step| step.total_ms));
    Ok(StepTime {
        model,
        precision: format!("{precision:?}").to_lowercase(),
        kept: kept.unwrap_or(network.extent().tokens),
        milliseconds,
        host_milliseconds: median(times.iter().map(|step| step.host_ms)),
        dispatches: times[0].dispatches,
        gflop_s: flops.unwrap_or_default() as f64 / milliseconds / 1e6,
    })
}
