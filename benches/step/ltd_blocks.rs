//! The LTD blocks by themselves: t(R)/t(T), forward and backward, against the ratio of their floating-point operations.
//!
//! A block cannot be built outside a model. So the time of a model of two blocks, the first and the last, which keep all
//! tokens, is taken off that of the whole model: what remains are the blocks between, with their gathers and scatters. Both
//! are timed in every turn, over a few steps after one to warm up. A turn gives one ratio for each length, and the figures are
//! medians over the turns. What does not shrink with R is listed apart.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use wgrad::Gpu;
use wgrad::models::vit::VitConfig;

use crate::Work;
use crate::case::{Case, order};
use crate::report;
use crate::stats::median;
use crate::workload::Workload;

/// Timed steps of a model at one length in one turn.
const STEPS: usize = 3;

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

/// What a step costs besides the LTD blocks, in milliseconds.
#[derive(Serialize)]
struct Fixed {
    /// Embedding, first and last block, head, loss.
    forward_ms: f64,
    backward_ms: f64,
    /// Of the whole model.
    optimiser_ms: f64,
    /// Drawing the kept tokens and uploading them, at the shortest length.
    draw_ms: f64,
}

/// One step in its parts, the device idle between them, in milliseconds.
#[derive(Clone, Copy, Default)]
struct Parts {
    draw: f64,
    forward: f64,
    backward: f64,
    optimiser: f64,
}

/// A turn: the model of two blocks, and the whole model at each length.
struct Turn {
    ends: Parts,
    whole: Vec<Parts>,
}

pub fn run(gpu: &Gpu, cases: &[Case], work: &Work) -> Result<Report> {
    let cases = cases.iter().map(|case| measure(gpu, case, work)).collect::<Result<Vec<_>>>()?;
    cases.iter().for_each(CaseReport::print);
    Ok(Report { adapter: gpu.info().to_string(), cases })
}

fn measure(gpu: &Gpu, case: &Case, work: &Work) -> Result<CaseReport> {
    let turns = work.turns;
    let config = case.config();
    let (tokens, width) = (config.tokens(), config.embed_dim);
    let kept: Vec<usize> = work.ratios.iter().map(|ratio| ratio.kept(tokens)).collect();
    let mut ends = Workload::new(gpu, VitConfig { depth: 2, ..config.clone() }, case.batch(), work.precision)?;
    let mut whole = Workload::new(gpu, config, case.batch(), work.precision)?;
    let mut all = Vec::new();
    for turn in 0..turns {
        eprintln!("{case}: turn {} of {turns}", turn + 1);
        all.push(one_turn(gpu, &mut ends, &mut whole, &kept, turn)?);
    }
    let lengths = kept.iter().enumerate().map(|(i, &kept)| length(&all, i, kept, tokens, width)).collect();
    Ok(CaseReport { case: case.to_string(), tokens, width, lengths, fixed: fixed(&all) })
}

fn one_turn(gpu: &Gpu, ends: &mut Workload, whole: &mut Workload, kept: &[usize], turn: usize) -> Result<Turn> {
    let mut found = Turn { ends: Parts::default(), whole: vec![Parts::default(); kept.len()] };
    for i in order(kept.len() + 1, turn) {
        match kept.get(i) {
            Some(&length) => {
                whole.keep(Some(length))?;
                found.whole[i] = parts(gpu, whole)?;
            }
            // One past the lengths: the model of two blocks.
            None => found.ends = parts(gpu, ends)?,
        }
    }
    Ok(found)
}

/// The parts' medians over a few steps, after one to warm up.
fn parts(gpu: &Gpu, workload: &mut Workload) -> Result<Parts> {
    gpu.trim();
    workload.step()?;
    gpu.wait()?;
    let steps = (0..STEPS).map(|_| one_step(gpu, workload)).collect::<Result<Vec<Parts>>>()?;
    let middle = |part: fn(&Parts) -> f64| median(steps.iter().map(part));
    Ok(Parts {
        draw: middle(|p| p.draw),
        forward: middle(|p| p.forward),
        backward: middle(|p| p.backward),
        optimiser: middle(|p| p.optimiser),
    })
}

fn one_step(gpu: &Gpu, workload: &mut Workload) -> Result<Parts> {
    let (kept, draw) = timed(gpu, || workload.draw())?;
    let (loss, forward) = timed(gpu, || workload.forward(&kept))?;
    let (_, backward) = timed(gpu, || workload.backward(&loss))?;
    let ((), optimiser) = timed(gpu, || workload.update())?;
    Ok(Parts { draw, forward, backward, optimiser })
}

/// What `work` returns, and the milliseconds until the device has done it.
fn timed<T>(gpu: &Gpu, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let started = Instant::now();
    let value = work()?;
    gpu.wait()?;
    Ok((value, started.elapsed().as_secs_f64() * 1e3))
}

/// The `i`-th length; the last is the full one.
fn length(turns: &[Turn], i: usize, kept: usize, tokens: usize, width: usize) -> Length {
    let blocks = |turn: &Turn, i: usize| {
        let (whole, ends) = (turn.whole[i], turn.ends);
        [whole.forward - ends.forward, whole.backward - ends.backward]
    };
    let last = turns.first().map_or(0, |turn| turn.whole.len() - 1);
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

fn fixed(turns: &[Turn]) -> Fixed {
    let shortest = |turn: &Turn| turn.whole.first().map_or(f64::NAN, |parts| parts.draw);
    let optimiser = |turn: &Turn| turn.whole.last().map_or(f64::NAN, |parts| parts.optimiser);
    Fixed {
        forward_ms: median(turns.iter().map(|turn| turn.ends.forward)),
        backward_ms: median(turns.iter().map(|turn| turn.ends.backward)),
        optimiser_ms: median(turns.iter().map(optimiser)),
        draw_ms: median(turns.iter().map(shortest)),
    }
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
        let Fixed { forward_ms, backward_ms, optimiser_ms, draw_ms } = fixed;
        print!(
            "Besides, in every step: embedding, first and last block, head and loss {forward_ms:.1} ms forward and "
        );
        println!("{backward_ms:.1} ms backward; optimiser {optimiser_ms:.1} ms; drawing tokens {draw_ms:.1} ms.\n");
    }
}
