//! The LTD blocks by themselves: t(R)/t(T), forward and backward, against the ratio of their floating-point operations.
//!
//! The blocks between the first and the last of a model, with their gathers and scatters, on random activations. Lengths take turns,
//! over a few passes each after one to warm up. A turn gives one ratio for each length, and the figures are medians over the
//! turns. What does not shrink with R is listed apart.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use wgrad::autograd::Parameters;
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::nn::{BlockConfig, Encoder, Extent, Init, Mode, NormOrder, Precision, Span};
use wgrad::ops::{self, Gelu, Mask, RandomKey, TokenIndices};
use wgrad::optim::{AdamW, Optimizer, Rule};
use wgrad::{Gpu, Tensor};

use crate::Work;
use crate::case::{Case, order};
use crate::report;
use crate::stats::median;
use crate::timed::Network;

/// Timed passes at one length in one turn.
const PASSES: usize = 3;

#[derive(Serialize)]
pub struct Report {
    pub adapter: String,
    pub cases: Vec<CaseReport>,
}

#[derive(Serialize)]
pub struct CaseReport {
    pub case: String,
    pub tokens: usize,
    /// C.
    pub width: usize,
    pub lengths: Vec<Length>,
    fixed: Fixed,
}

/// The LTD blocks at one length. Ratios are to full length.
#[derive(Serialize)]
pub struct Length {
    kept: usize,
    /// R/T.
    pub share: f64,
    /// All LTD blocks together.
    forward_ms: f64,
    backward_ms: f64,
    pub forward_ratio: f64,
    pub backward_ratio: f64,
    pub both_ratio: f64,
    pub flop_ratio: f64,
    /// `both_ratio / flop_ratio`
    quotient: f64,
}

/// What the blocks cost besides, in milliseconds.
#[derive(Serialize)]
struct Fixed {
    optimiser_ms: f64,
    /// Drawing the kept tokens and uploading them, at the shortest length.
    draw_ms: f64,
}

/// One pass in its parts, the device idle between them, in milliseconds.
#[derive(Clone, Copy, Default)]
struct Parts {
    draw: f64,
    forward: f64,
    backward: f64,
    optimiser: f64,
}

pub fn run(gpu: &Gpu, cases: &[Case], work: &Work) -> Result<Report> {
    let cases = cases.iter().map(|case| measure(gpu, case, work)).collect::<Result<Vec<_>>>()?;
    cases.iter().for_each(CaseReport::print);
    Ok(Report { adapter: gpu.info().to_string(), cases })
}

fn measure(gpu: &Gpu, case: &Case, work: &Work) -> Result<CaseReport> {
    let turns = work.turns;
    let (tokens, width) = (case.tokens(), block_of(case.network()).width);
    let kept: Vec<usize> = work.ratios.iter().map(|ratio| ratio.kept(tokens)).collect();
    let mut blocks = Blocks::new(gpu, case.network(), case.batch(), work.precision)?;
    let mut all = Vec::new();
    for turn in 0..turns {
        eprintln!("{case}: turn {} of {turns}", turn + 1);
        let mut found = vec![Parts::default(); kept.len()];
        for i in order(kept.len(), turn) {
            found[i] = blocks.parts(kept[i])?;
        }
        all.push(found);
    }
    let lengths = kept.iter().enumerate().map(|(i, &kept)| length(&all, i, kept, tokens, width)).collect();
    Ok(CaseReport { case: case.to_string(), tokens, width, lengths, fixed: fixed(&all) })
}

/// The blocks of a model that drop tokens, and what they are run on.
struct Blocks {
    parameters: Parameters,
    optimizer: Optimizer,
    blocks: Encoder,
    extent: Extent,
    mask: Mask,
    /// `f32[B, T, C]`, and the gradient that comes from above.
    x: Tensor,
    dy: Tensor,
    mode: Mode,
}

/// How a model's blocks are built.
fn block_of(network: &Network) -> BlockConfig {
    let (width, heads, hidden, order) = match network {
        Network::Vit(config) => (config.embed_dim, config.num_heads, config.hidden(), NormOrder::Pre),
        Network::Gpt2(config, _) => (config.n_embd, config.n_head, config.hidden(), NormOrder::Pre),
        Network::Bert(config, _) => {
            (config.hidden_size, config.num_attention_heads, config.intermediate_size, NormOrder::Post)
        }
    };
    let gelu = if matches!(network, Network::Gpt2(..)) { Gelu::Tanh } else { Gelu::Erf };
    BlockConfig { hidden, order, gelu, ..BlockConfig::new(width, heads) }
}

/// Which keys its tokens see.
fn mask_of(network: &Network) -> Mask {
    match network {
        Network::Gpt2(..) => Mask::CAUSAL,
        Network::Vit(_) | Network::Bert(..) => Mask::NONE,
    }
}

impl Blocks {
    fn new(gpu: &Gpu, network: &Network, batch: usize, precision: Precision) -> Result<Self> {
        let Extent { depth, tokens, .. } = network.extent();
        // All but the first and the last, and as many as random-LTD takes.
        let (depth, block) = (depth.saturating_sub(2).max(3), block_of(network));
        let mut parameters = Parameters::new(gpu);
        let blocks = Encoder::new(Init::new(&mut parameters, 0), depth, |_| block)?;
        let optimizer = Optimizer::new(&parameters, Rule::AdamW(AdamW::default()), None, |_, rank| rank > 1)?;
        let shape = [batch, tokens, block.width];
        // Any spread of values does: time does not depend on them.
        let value = |i: usize| (i.wrapping_mul(2_654_435_761) >> 16 & 255) as f32 / 128.0 - 1.0;
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        let x = Tensor::from_slice(gpu, &shape, &values)?.requires_grad()?;
        let mode = Mode::training(RandomKey { seed: 0, step: 0, layer: 0, first_sample: 0 }).with_precision(precision);
        let extent = Extent { depth, tokens, prefix: 0 };
        Ok(Blocks { parameters, optimizer, blocks, extent, mask: mask_of(network), dy: x.detach(), x, mode })
    }

    fn gpu(&self) -> &Gpu {
        self.x.gpu()
    }

    /// The parts' medians over a few passes, after one to warm up.
    fn parts(&mut self, kept: usize) -> Result<Parts> {
        self.gpu().trim();
        self.pass(kept)?;
        let passes = (0..PASSES).map(|_| self.pass(kept)).collect::<Result<Vec<Parts>>>()?;
        let middle = |part: fn(&Parts) -> f64| median(passes.iter().map(part));
        Ok(Parts {
            draw: middle(|p| p.draw),
            forward: middle(|p| p.forward),
            backward: middle(|p| p.backward),
            optimiser: middle(|p| p.optimiser),
        })
    }

    fn pass(&mut self, kept: usize) -> Result<Parts> {
        let gpu = self.gpu().clone();
        let (spans, draw) = timed(&gpu, || self.spans(kept))?;
        // As in a model, nobody else holds what the blocks begin with, so that they may scatter into it.
        let (x, _) = timed(&gpu, || Ok(ops::scale(&self.x, 1.0)?))?;
        let (y, forward) = timed(&gpu, || Ok(self.blocks.forward(x, &spans, &self.mask, &self.mode)?))?;
        let (_, backward) = timed(&gpu, || Ok(y.backward_from(&self.dy)?))?;
        let ((), optimiser) = timed(&gpu, || Ok(self.optimizer.step(&self.parameters, 1e-4)?))?;
        Ok(Parts { draw, forward, backward, optimiser })
    }

    /// R tokens of each sample for each block.
    fn spans(&self, kept: usize) -> Result<Vec<Span<TokenIndices>>> {
        let Extent { depth, tokens, .. } = self.extent;
        let batch = self.x.dims()[0];
        let every: Vec<usize> = (0..depth).collect();
        let drop: TokenDrop = RandomLtd::new(depth, Schedule::constant(kept)?)?.with_blocks(&every)?.into();
        let upload = |rows: Vec<u32>| TokenIndices::new(self.gpu(), [batch, kept], tokens, &rows);
        let drawn = drop.draw(0, self.extent, 0, batch)?;
        Ok(drawn.into_iter().map(|span| span.try_map(upload)).collect::<wgrad::Result<_>>()?)
    }
}

/// What `work` returns, and the milliseconds until the device has done it.
fn timed<T>(gpu: &Gpu, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let started = Instant::now();
    let value = work()?;
    gpu.wait()?;
    Ok((value, started.elapsed().as_secs_f64() * 1e3))
}

/// The `i`-th length; the last is the full one.
fn length(turns: &[Vec<Parts>], i: usize, kept: usize, tokens: usize, width: usize) -> Length {
    let blocks = |turn: &[Parts], i: usize| [turn[i].forward, turn[i].backward];
    let last = turns.first().map_or(0, |turn| turn.len() - 1);
    let ratio =
        |part: fn([f64; 2]) -> f64| median(turns.iter().map(|turn| part(blocks(turn, i)) / part(blocks(turn, last))));
    let both_ratio = ratio(|[forward, backward]| forward + backward);
    let flop_ratio = flop_ratio(kept as f64, tokens as f64, width as f64);
    Length {
        kept,
        share: kept as f64 / tokens as f64,
        forward_ms: median(turns.iter().map(|turn| blocks(turn, i)[0])),
        backward_ms: median(turns.iter().map(|turn| blocks(turn, i)[1])),
        forward_ratio: ratio(|[forward, _]| forward),
        backward_ratio: ratio(|[_, backward]| backward),
        both_ratio,
        flop_ratio,
        quotient: both_ratio / flop_ratio,
    }
}

/// A block's operations at R tokens to those at T: 24·n·C² + 4·n²·C forward, and the same ratio backward.
pub fn flop_ratio(kept: f64, tokens: f64, width: f64) -> f64 {
    let flops = |n: f64| 24.0 * n * width * width + 4.0 * n * n * width;
    flops(kept) / flops(tokens)
}

fn fixed(turns: &[Vec<Parts>]) -> Fixed {
    let shortest = |turn: &Vec<Parts>| turn.first().map_or(f64::NAN, |parts| parts.draw);
    let optimiser = |turn: &Vec<Parts>| turn.last().map_or(f64::NAN, |parts| parts.optimiser);
    Fixed { optimiser_ms: median(turns.iter().map(optimiser)), draw_ms: median(turns.iter().map(shortest)) }
}

impl CaseReport {
    fn print(&self) {
        let header =
            ["R", "R/T", "forward ms", "backward ms", "forward t(R)/t(T)", "backward", "both", "FLOPs", "both / FLOPs"];
        let mut table = report::table(&header, 0);
        for l in &self.lengths {
            let ratios = [l.forward_ratio, l.backward_ratio, l.both_ratio, l.flop_ratio, l.quotient];
            let times = [format!("{:.2}", l.share), format!("{:.1}", l.forward_ms), format!("{:.1}", l.backward_ms)];
            let ratios = ratios.map(|ratio| format!("{ratio:.3}"));
            table.add_row(std::iter::once(l.kept.to_string()).chain(times).chain(ratios));
        }
        let CaseReport { case, tokens, fixed, .. } = self;
        println!("{case}, LTD blocks of {tokens} tokens\n\n{table}\n");
        let Fixed { optimiser_ms, draw_ms } = fixed;
        println!("Besides, in every step: optimiser {optimiser_ms:.1} ms, drawing tokens {draw_ms:.1} ms.\n");
    }
}
