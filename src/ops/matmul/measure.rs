//! Which plan is fastest for a product, by trying.

use std::time::{Duration, Instant};

use super::gemm::run_plan;
use super::operands::{Epilogue, Gemm, Operand};
use super::plan::{Facts, Plan, plans};
use super::product::{EpilogueKind, Layout, Product};
use super::table::{Demand, facts, is_settled, settle};
use super::units;
use crate::autograd::Destination;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::TokenIndices;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Plans that are tried, those of matrix units not counted: below, the ranking has never been wrong by so much.
const MOST_PLANS: usize = 4;
/// Times that each plan is measured, in turn with the others; the shortest counts.
const ROUNDS: usize = 3;
/// What a measurement should at least take, so that waiting for the device is a small part of it.
const SAMPLE: Duration = Duration::from_millis(2);
/// Products in a measurement at most.
const MOST_REPEATS: u32 = 32;
/// The ranking's choice stays unless another takes less than this share of its time: below lies chance.
const WORTH: f64 = 1.0 / 1.05;
/// A plan that takes so many times the time of the best is not measured again.
const HOPELESS: f64 = 1.5;

/// What a call of [`tune`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct TuneReport {
    /// Kinds of products for which there is a choice.
    pub asked: usize,
    /// Those of them that had been settled before.
    pub known: usize,
    /// Those that were measured now.
    pub measured: usize,
    /// Those whose measured plan is not the ranking's.
    pub changed: usize,
    /// All the time that it took, with compiling kernels.
    pub elapsed: Duration,
}

/// Settles the plan of each product that was asked for, by timing its candidates on scratch memory, in the order of `demands`
/// until `budget` is used up; what is then left, or does not fit into memory a second time, keeps the ranking's plan, without
/// being settled. What was settled before stays. Matrix units take part if the device was opened with them and computes right
/// results ([`crate::gpu::GpuOptions::matrix_units`]). Blocks the thread; not for browsers, which have no clock to tell.
///
/// # Errors
/// [`crate::Error::Device`] if the device fails.
pub fn tune(gpu: &Gpu, demands: &[Demand], budget: Duration) -> Result<TuneReport> {
    let clock = Budget { start: Instant::now(), whole: budget };
    let mut report = TuneReport { asked: demands.len(), ..TuneReport::default() };
    gpu.wait()?;
    units::try_out(gpu);
    for &Demand { product, .. } in demands {
        if is_settled(gpu, product) {
            report.known += 1;
        } else if let Some((plan, changed)) = decide(gpu, product, &clock)? {
            settle(gpu, product, plan);
            report.measured += 1;
            report.changed += usize::from(changed);
        }
    }
    // Scratch memory is of no more use.
    gpu.trim();
    Ok(TuneReport { elapsed: clock.start.elapsed(), ..report })
}

/// The time that tuning may take.
struct Budget {
    start: Instant,
    whole: Duration,
}

impl Budget {
    fn left(&self) -> Duration {
        self.whole.saturating_sub(self.start.elapsed())
    }
}

/// The plan for a product, and whether it is not the ranking's; `None` if there is no time or memory to find out.
fn decide(gpu: &Gpu, product: Product, clock: &Budget) -> Result<Option<(Plan, bool)>> {
    if clock.left().is_zero() {
        return Ok(None);
    }
    let plans = candidates(gpu, &product);
    let scratch = match Scratch::new(gpu, product) {
        Ok(scratch) => scratch,
        Err(error) => {
            log::debug!("no memory to tune {product:?}: {error}");
            return Ok(None);
        }
    };
    let g = scratch.gemm();
    // The first run compiles, the second tells how long measuring would take.
    time(gpu, &g, plans[0], 1)?;
    let once = time(gpu, &g, plans[0], 1)?;
    let repeats =
        (SAMPLE.as_secs_f64() / once.as_secs_f64().max(1e-9)).ceil().clamp(1.0, f64::from(MOST_REPEATS)) as u32;
    let all = once * repeats * (ROUNDS * plans.len()) as u32;
    if all > clock.whole {
        // It would never be reached: what tuning could gain here is not worth its time.
        return Ok(Some((plans[0], false)));
    }
    if all > clock.left() {
        return Ok(None);
    }
    let best = fastest(gpu, &g, &plans, repeats)?;
    Ok(Some((plans[best], best != 0)))
}

/// The best of the ranking, and matrix units, which stand at its end.
fn candidates(gpu: &Gpu, product: &Product) -> Vec<Plan> {
    let facts = facts(gpu);
    let all = plans(facts, product);
    let ranked = plans(Facts { matrix_units: None, ..facts }, product).len();
    let (ranked, matrix_units) = all.split_at(ranked.min(all.len()));
    ranked.iter().take(MOST_PLANS).chain(matrix_units).copied().collect()
}

/// Which of `plans` takes the least time; the first unless another is clearly faster, twice: other programs' work can make
/// one look slow for a while.
fn fastest(gpu: &Gpu, g: &Gemm<'_>, plans: &[Plan], repeats: u32) -> Result<usize> {
    for &plan in &plans[1..] {
        time(gpu, g, plan, 1)?;
    }
    let best = faster(&measure(gpu, g, plans, repeats)?);
    let confirmed = best != 0 && faster(&measure(gpu, g, &[plans[0], plans[best]], repeats)?) != 0;
    Ok(if confirmed { best } else { 0 })
}

/// The place of the shortest of `times`, if it is clearly shorter than the first.
fn faster(times: &[f64]) -> usize {
    let (best, shortest) =
        times.iter().copied().enumerate().fold((0, f64::INFINITY), |a, b| if b.1 < a.1 { b } else { a });
    if times.first().is_some_and(|first| shortest < WORTH * first) { best } else { 0 }
}

/// The shortest time of each plan, in seconds.
fn measure(gpu: &Gpu, g: &Gemm<'_>, plans: &[Plan], repeats: u32) -> Result<Vec<f64>> {
    let mut times = vec![f64::INFINITY; plans.len()];
    for round in 0..ROUNDS {
        let best = times.iter().copied().fold(f64::INFINITY, f64::min);
        for (plan, shortest) in plans.iter().zip(&mut times) {
            if round == 0 || *shortest <= HOPELESS * best {
                *shortest = shortest.min(time(gpu, g, *plan, repeats)?.as_secs_f64());
            }
        }
    }
    for (plan, time) in plans.iter().zip(&times) {
        log::debug!("{:?} {:?} by {}: {:.3} ms", g.layout, g.size, plan.body.name, time * 1e3);
    }
    Ok(times)
}

/// The mean time of one of `repeats` products.
fn time(gpu: &Gpu, g: &Gemm<'_>, plan: Plan, repeats: u32) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..repeats {
        run_plan(gpu, g, plan)?;
    }
    gpu.wait()?;
    Ok(start.elapsed() / repeats)
}

/// Operands of a product's sizes and types, all zeros, one after the other in rows of whole vec4.
struct Scratch {
    product: Product,
    rows: [usize; 3],
    a: Tensor,
    b: Tensor,
    c: Tensor,
    bias: Tensor,
    sums: Destination,
    /// What else has C's layout: h, or a residual.
    beside: Option<Tensor>,
    indices: Option<TokenIndices>,
}

impl Scratch {
    fn new(gpu: &Gpu, product: Product) -> Result<Self> {
        let Product { layout, size: [m, n, k], batch, types, epilogue, .. } = product;
        let row = |elements: usize| elements.next_multiple_of(4);
        let (a, b) =
            (if layout == Layout::Tn { [k, m] } else { [m, k] }, if layout == Layout::Nt { [n, k] } else { [k, n] });
        let zeros = |dtype, [rows, elements]: [usize; 2]| Tensor::zeros(gpu, dtype, &[batch, rows, row(elements)]);
        let beside = match epilogue {
            EpilogueKind::Gelu(_) => Some(zeros(types[2], [m, n])?),
            EpilogueKind::Linear | EpilogueKind::Scatter => Some(zeros(DType::F32, [m, n])?),
            EpilogueKind::Plain | EpilogueKind::Sums | EpilogueKind::GeluBackward(_) => None,
        };
        // Every row is a token that is kept in its place.
        let places = || (0..m as u32).collect::<Vec<_>>();
        let indices =
            (epilogue == EpilogueKind::Scatter).then(|| TokenIndices::new(gpu, [1, m], m, &places())).transpose()?;
        Ok(Scratch {
            product,
            rows: [a, b, [m, n]].map(|[_, elements]| row(elements)),
            a: zeros(types[0], a)?,
            b: zeros(types[1], b)?,
            c: zeros(types[2], [m, n])?,
            bias: Tensor::zeros(gpu, DType::F32, &[row(n)])?,
            sums: Destination { tensor: Tensor::zeros(gpu, DType::F32, &[row(m)])?, accumulate: false },
            beside,
            indices,
        })
    }

    fn gemm(&self) -> Gemm<'_> {
        let Product { layout, size, batch, types, .. } = self.product;
        let [a, b, c] = [(&self.a, 0), (&self.b, 1), (&self.c, 2)]
            .map(|(tensor, i)| Operand::contiguous(tensor.buffer(), self.rows[i], tensor.numel() / batch));
        Gemm { layout, size, batch: [batch, 1], types, a, b, c, epilogue: self.epilogue() }
    }

    fn epilogue(&self) -> Epilogue<'_> {
        let bias = self.bias.buffer();
        match (self.product.epilogue, &self.beside, &self.indices) {
            (EpilogueKind::Sums, ..) => Epilogue::Sums { accumulate: false, sums: &self.sums },
            (EpilogueKind::Gelu(gelu), Some(h), _) => Epilogue::Gelu { bias, h: h.buffer(), gelu },
            (EpilogueKind::GeluBackward(gelu), ..) => Epilogue::GeluBackward(gelu),
            (EpilogueKind::Linear, Some(residual), _) => Epilogue::Residual { bias, residual: residual.buffer() },
            (EpilogueKind::Scatter, Some(residual), Some(indices)) => {
                Epilogue::Scatter { bias, residual: residual.buffer(), indices }
            }
            _ => Epilogue::Plain { alpha: 1.0, accumulate: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::faster;

    #[test]
    fn the_ranking_stays_unless_another_is_clearly_faster() {
        for (times, best) in [(&[1.0][..], 0), (&[1.0, 0.96], 0), (&[1.0, 0.9, 0.8], 2), (&[1.0, 2.0], 0), (&[], 0)] {
            assert_eq!(faster(times), best, "{times:?}");
        }
    }
}
