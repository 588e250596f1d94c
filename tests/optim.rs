//! The optimisers' kernels against the plain formulas in f64, over parameters of awkward sizes in several arena segments.

use crate::common::{assert_close, each_family, gpu, poison, values};
use wgrad::autograd::{Parameter, Parameters};
use wgrad::ops;
use wgrad::optim::{
    AdamW, At, Ema, LayerTokenRate, LossScale, LrSchedule, LrShape, Optimizer, OptimizerState, Rule, Sgd, ShapedRate,
    StepReport, layer_scale,
};
use wgrad::{Error, Gpu, Tensor};

/// Path and number of elements. The large ones need segments of their own: the first segment is 1 MiB.
const SIZES: &[(&str, usize)] = &[
    ("one", 1),
    ("fc.weight", 63),
    ("fc.bias", 64),
    ("norm", 65),
    ("blocks.0.weight", 300_001),
    ("wide.weight", 4_097),
    ("never", 200),
    ("sometimes", 129),
    ("larger.weight", 600_000),
    ("last", 7),
];

fn decays(path: &str, rank: usize) -> bool {
    rank > 1 && !path.ends_with("bias")
}

/// Has no gradient in any step.
const NEVER: usize = 6;
/// Has a gradient in even steps only.
const SOMETIMES: usize = 7;
/// Has none before step 2.
const LATE: usize = 5;

fn decay_of(path: &str) -> bool {
    path.ends_with("weight") || path == "never" || path == "sometimes"
}

fn rate_scale(path: &str) -> f32 {
    match path {
        "norm" => 0.25,
        "wide.weight" => 2.0,
        "last" => 0.0,
        _ => 1.0,
    }
}

fn has_gradient(index: usize, step: u64) -> bool {
    match index {
        NEVER => false,
        SOMETIMES => step.is_multiple_of(2),
        LATE => step >= 2,
        _ => true,
    }
}

fn gradient(index: usize, step: u64, n: usize) -> Vec<f32> {
    // Of different magnitudes, since Adam divides by them.
    let scale = [1.0, 0.01, 30.0][index % 3];
    values(1000 * step + index as u64, n).iter().map(|v| scale * v).collect()
}

fn model(gpu: &Gpu) -> (Parameters, Vec<Parameter>) {
    let mut parameters = Parameters::new(gpu);
    let add = |(i, &(path, n)): (usize, &(&str, usize))| parameters.add(path, &[n], &values(i as u64, n)).unwrap();
    let list = SIZES.iter().enumerate().map(add).collect();
    (parameters, list)
}

/// Fills the gradients by the graph: d (p · g) / dp = g.
fn fill_gradients(gpu: &Gpu, list: &[Parameter], step: u64) {
    fill_scaled(list, step, &Tensor::from_slice(gpu, &[], &[1.0f32]).unwrap());
}

/// The same times `scale`.
fn fill_scaled(list: &[Parameter], step: u64, scale: &Tensor) {
    for (i, p) in list.iter().enumerate().filter(|(i, _)| has_gradient(*i, step)) {
        let n = p.value().numel();
        let g = Tensor::from_slice(scale.gpu(), &[n], &gradient(i, step, n)).unwrap();
        ops::sum(&ops::mul(&p.tensor(), &g).unwrap()).unwrap().backward_from(scale).unwrap();
    }
}

/// What a parameter looks like in f64.
struct Plain {
    value: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    /// Of this parameter, so far.
    updates: i32,
}

impl Plain {
    fn new(index: usize, n: usize) -> Self {
        let value = values(index as u64, n).iter().map(|&v| f64::from(v)).collect();
        Plain { value, first: vec![0.0; n], second: vec![0.0; n], updates: 0 }
    }

    /// An update with a gradient that is clipped already.
    fn step(&mut self, rule: &Rule, rate: f64, decays: bool, g: &[f64]) {
        self.updates += 1;
        for (i, &g) in g.iter().enumerate() {
            match rule {
                Rule::AdamW(r) => self.adamw(i, r, rate, decays, g),
                Rule::Sgd(r) => self.sgd(i, r, rate, decays, g),
                _ => panic!("no oracle for {rule:?}"),
            }
        }
    }

    fn adamw(&mut self, i: usize, r: &AdamW, rate: f64, decays: bool, g: f64) {
        let t = self.updates;
        let (b1, b2) = (f64::from(r.betas.0), f64::from(r.betas.1));
        let decay = if decays { f64::from(r.weight_decay) } else { 0.0 };
        self.value[i] *= 1.0 - rate * decay;
        self.first[i] = b1 * self.first[i] + (1.0 - b1) * g;
        self.second[i] = b2 * self.second[i] + (1.0 - b2) * g * g;
        let (m, v) = (self.first[i] / (1.0 - b1.powi(t)), self.second[i] / (1.0 - b2.powi(t)));
        self.value[i] -= rate * m / (v.sqrt() + f64::from(r.eps));
    }

    /// `torch.optim.SGD`: without momentum there is no direction, and so no dampening.
    fn sgd(&mut self, i: usize, r: &Sgd, rate: f64, decays: bool, g: f64) {
        let decay = if decays { f64::from(r.weight_decay) } else { 0.0 };
        let momentum = f64::from(r.momentum);
        let g = g + decay * self.value[i];
        let is_plain = momentum == 0.0 || self.updates == 1;
        self.first[i] = if is_plain { g } else { momentum * self.first[i] + (1.0 - f64::from(r.dampening)) * g };
        self.value[i] -= rate * if r.nesterov { g + momentum * self.first[i] } else { self.first[i] };
    }
}

fn report(optimizer: &Optimizer) -> StepReport {
    StepReport::decode(&optimizer.report().read_later().unwrap().wait().unwrap().concat()).unwrap()
}

/// Five steps of `rule` at changing rates, beside the plain formulas.
fn check(rule: Rule, max_norm: Option<f32>) {
    for gpu in each_family() {
        let (parameters, list) = model(&gpu);
        poison(&gpu, &[1 << 18, 1 << 19, 1 << 20, 64, 128, 1 << 14]);
        let optimizer = Optimizer::new(&parameters, rule, max_norm, |path, _| decay_of(path)).unwrap();
        let mut optimizer = optimizer.with_rate_scales(&parameters, rate_scale).unwrap();
        let mut plain: Vec<_> = SIZES.iter().enumerate().map(|(i, &(_, n))| Plain::new(i, n)).collect();
        for step in 0..5u64 {
            let rate = 0.01 / (step + 1) as f32;
            fill_gradients(&gpu, &list, step);
            optimizer.step(&parameters, rate).unwrap();
            assert!(list.iter().all(|p| p.grad().is_none()), "gradients are forgotten");

            let of = |i: usize| gradient(i, step, SIZES[i].1).iter().map(|&g| f64::from(g)).collect::<Vec<_>>();
            let gradients: Vec<_> = (0..SIZES.len()).map(|i| has_gradient(i, step).then(|| of(i))).collect();
            let norm = gradients.iter().flatten().flatten().map(|g| g * g).sum::<f64>().sqrt();
            let scale = max_norm.map_or(1.0, |m| (f64::from(m) / (norm + 1e-6)).min(1.0));
            for (i, g) in gradients.iter().enumerate() {
                let Some(g) = g else { continue };
                let clipped: Vec<_> = g.iter().map(|g| scale * g).collect();
                let rate = f64::from(rate) * f64::from(rate_scale(SIZES[i].0));
                plain[i].step(&rule, rate, decay_of(SIZES[i].0), &clipped);
            }
            let report = report(&optimizer);
            assert!(report.finite && report.bad_parameter.is_none());
            assert_eq!((report.applied, report.skipped), (step + 1, 0));
            assert_close("norm", &[report.grad_norm], &[norm as f32], 1e-5);
        }
        for (i, p) in list.iter().enumerate() {
            let expected: Vec<_> = plain[i].value.iter().map(|&v| v as f32).collect();
            let what = format!("{} {rule:?} {max_norm:?} ({:?})", p.path(), gpu.family());
            assert_close(&what, &p.value().to_vec().unwrap(), &expected, 1e-5);
        }
        assert_eq!(list[NEVER].value().to_vec::<f32>().unwrap(), values(NEVER as u64, SIZES[NEVER].1));
    }
}

#[test]
fn adamw() {
    check(Rule::AdamW(AdamW::default()), None);
}

#[test]
fn adamw_clipped_without_decay() {
    check(Rule::AdamW(AdamW { betas: (0.8, 0.95), eps: 1e-3, weight_decay: 0.0 }), Some(1.0));
}

#[test]
fn sgd_plain() {
    check(Rule::Sgd(Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 }), None);
}

#[test]
fn sgd_with_momentum_and_decay_clipped() {
    check(Rule::Sgd(Sgd { momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 0.1 }), Some(2.5));
}

#[test]
fn sgd_with_dampening() {
    check(Rule::Sgd(Sgd { momentum: 0.9, dampening: 0.3, nesterov: false, weight_decay: 0.0 }), None);
}

#[test]
fn sgd_dampened_without_momentum() {
    check(Rule::Sgd(Sgd { momentum: 0.0, dampening: 0.3, nesterov: false, weight_decay: 0.1 }), None);
}

#[test]
fn sgd_nesterov() {
    check(Rule::Sgd(Sgd { momentum: 0.8, dampening: 0.0, nesterov: true, weight_decay: 0.01 }), None);
}

/// The clip leaves a norm below the bound alone.
#[test]
fn clip_does_nothing_below_its_bound() {
    check(Rule::Sgd(Sgd::default()), Some(1e9));
}

/// A step before any gradient exists changes nothing, whatever device memory held before.
#[test]
fn step_without_gradients() {
    let gpu = gpu();
    let (parameters, list) = model(&gpu);
    // What would be a table of active parameters that decay.
    let row = [0, 0, 0, 1 << 20, 1, 0.5f32.to_bits(), 1f32.to_bits(), 0, 0, 0];
    let stale = row.repeat(SIZES.len());
    drop((0..8).map(|_| Tensor::from_slice(&gpu, &[stale.len()], &stale).unwrap()).collect::<Vec<_>>());
    let mut optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, |_, _| true).unwrap();
    optimizer.step(&parameters, 1.0).unwrap();
    assert_eq!(report(&optimizer).grad_norm, 0.0);
    for (i, p) in list.iter().enumerate() {
        assert_eq!(p.value().to_vec::<f32>().unwrap(), values(i as u64, SIZES[i].1), "{}", p.path());
    }
}

/// A gradient that is not finite: no weight and no moment changes, the offender is named, and training goes on.
#[test]
fn bad_gradient_is_skipped() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for gpu in each_family() {
            let run = |with_bad: bool| {
                let (parameters, list) = model(&gpu);
                let mut optimizer =
                    Optimizer::new(&parameters, Rule::AdamW(AdamW::default()), Some(1.0), decays).unwrap();
                for step in 0..3 {
                    if with_bad && step == 1 {
                        let before: Vec<_> = list.iter().map(|p| p.value().to_vec::<f32>().unwrap()).collect();
                        fill_gradients(&gpu, &list, 7);
                        for (i, at) in [(8, 599_999), (4, 300_000)] {
                            let mut g = vec![0.0; SIZES[i].1];
                            g[at] = bad;
                            let g = Tensor::from_slice(&gpu, &[g.len()], &g).unwrap();
                            ops::sum(&ops::mul(&list[i].tensor(), &g).unwrap()).unwrap().backward().unwrap();
                        }
                        optimizer.step(&parameters, 0.1).unwrap();
                        let report = report(&optimizer);
                        assert_eq!((report.finite, report.bad_parameter), (false, Some(4)));
                        assert_eq!((report.applied, report.skipped), (1, 1));
                        let error = optimizer.check(&parameters).unwrap_err();
                        assert!(
                            matches!(&error, Error::NonFinite { step: 1, parameter } if parameter == "blocks.0.weight"),
                            "{error}"
                        );
                        for (p, before) in list.iter().zip(&before) {
                            assert!(same_bits(&p.value().to_vec().unwrap(), before), "{} changed", p.path());
                        }
                    }
                    fill_gradients(&gpu, &list, step);
                    optimizer.step(&parameters, 0.01).unwrap();
                    optimizer.check(&parameters).unwrap();
                }
                list.iter().map(|p| p.value().to_vec::<f32>().unwrap()).collect::<Vec<_>>()
            };
            let (with, without) = (run(true), run(false));
            for (i, (with, without)) in with.iter().zip(&without).enumerate() {
                assert!(same_bits(with, without), "{} after a skipped step", SIZES[i].0);
            }
        }
    }
}

/// Finite gradients whose squares overflow: skipped, and no parameter is blamed.
#[test]
fn overflowing_norm_is_skipped() {
    for gpu in each_family() {
        let mut parameters = Parameters::new(&gpu);
        let p = parameters.add("p", &[2], &[1.0, 2.0]).unwrap();
        let mut optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, decays).unwrap();
        let g = Tensor::from_slice(&gpu, &[2], &[1e30f32, 1e30]).unwrap();
        ops::sum(&ops::mul(&p.tensor(), &g).unwrap()).unwrap().backward().unwrap();
        optimizer.step(&parameters, 1.0).unwrap();
        let report = report(&optimizer);
        assert_eq!((report.finite, report.bad_parameter), (false, None));
        assert_eq!(p.value().to_vec::<f32>().unwrap(), [1.0, 2.0]);
    }
}

/// Makes the gradient of parameter 8 infinite at its last element.
fn spoil(list: &[Parameter]) {
    let mut g = vec![0.0; SIZES[8].1];
    *g.last_mut().unwrap() = f32::INFINITY;
    let g = Tensor::from_slice(list[8].value().gpu(), &[g.len()], &g).unwrap();
    ops::sum(&ops::mul(&list[8].tensor(), &g).unwrap()).unwrap().backward().unwrap();
}

/// The loss scale halves at a bad step, which is left out without an error, grows after good ones, and ends at its floor
/// with an error. The weights are those of the good steps alone, to the last bit, since the factors are powers of two.
#[test]
fn loss_scale_falls_and_grows() {
    let settings = LossScale { initial: 8.0, growth: 2.0, backoff: 0.5, interval: 2, floor: 1.0 };
    // (whether the step is good, the scale that it is taken with, whether its error is excused)
    let steps = [
        (true, 8.0, false),
        (true, 8.0, false),
        (false, 16.0, true),
        (true, 8.0, false),
        (false, 8.0, true),
        (false, 4.0, true),
        (false, 2.0, true),
        (false, 1.0, false),
        (true, 1.0, false),
        (true, 1.0, false),
        (true, 2.0, false),
    ];
    for rule in [Rule::AdamW(AdamW::default()), Rule::Sgd(Sgd::default())] {
        for gpu in each_family() {
            let (scaled, scaled_list) = model(&gpu);
            let (plain, plain_list) = model(&gpu);
            let mut one = Optimizer::new(&plain, rule, Some(1.0), decays).unwrap();
            assert!(one.loss_scale().is_none());
            let mut two = Optimizer::new(&scaled, rule, Some(1.0), decays).unwrap().with_loss_scale(settings).unwrap();
            for (step, (is_good, scale, excused)) in (0..).zip(steps) {
                assert_eq!(two.loss_scale().unwrap().item().unwrap(), scale, "before step {step}");
                fill_scaled(&scaled_list, step, two.loss_scale().unwrap());
                if !is_good {
                    spoil(&scaled_list);
                }
                two.step(&scaled, 0.01).unwrap();
                let got = report(&two);
                assert_eq!((got.finite, got.loss_scale, got.excused), (is_good, scale, excused), "step {step}");
                assert_eq!(got.check(step, &scaled).is_ok(), is_good || excused, "step {step}");
                if is_good {
                    fill_gradients(&gpu, &plain_list, step);
                    one.step(&plain, 0.01).unwrap();
                    assert_eq!(report(&one).grad_norm, got.grad_norm, "step {step}");
                }
            }
            for (a, b) in scaled_list.iter().zip(&plain_list) {
                assert!(same_bits(&a.value().to_vec().unwrap(), &b.value().to_vec().unwrap()), "{}", a.path());
            }
        }
    }
}

/// A constant scale neither moves nor excuses.
#[test]
fn constant_loss_scale() {
    for gpu in each_family() {
        let (parameters, list) = model(&gpu);
        let optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, decays).unwrap();
        let mut optimizer = optimizer.with_loss_scale(LossScale::constant(1024.0)).unwrap();
        for is_good in [true, false, true] {
            fill_scaled(&list, 0, optimizer.loss_scale().unwrap());
            if !is_good {
                spoil(&list);
            }
            optimizer.step(&parameters, 0.01).unwrap();
            let report = report(&optimizer);
            assert_eq!((report.loss_scale, report.excused), (1024.0, false));
            assert_eq!(report.check(0, &parameters).is_ok(), is_good);
            assert_eq!(optimizer.loss_scale().unwrap().item().unwrap(), 1024.0);
        }
    }
}

#[test]
fn loss_scale_settings_are_checked() {
    let gpu = gpu();
    let (parameters, _) = model(&gpu);
    let good = LossScale::default();
    let bad = [
        (LossScale { initial: 0.0, ..good }, "initial"),
        (LossScale { initial: f32::INFINITY, ..good }, "initial"),
        (LossScale { growth: 0.5, ..good }, "growth"),
        (LossScale { growth: f32::NAN, ..good }, "growth"),
        (LossScale { backoff: 0.0, ..good }, "backoff"),
        (LossScale { backoff: 1.5, ..good }, "backoff"),
        (LossScale { interval: 0, ..good }, "interval"),
        (LossScale { floor: 0.0, ..good }, "floor"),
        (LossScale { floor: 1e6, ..good }, "floor"),
    ];
    for (settings, setting) in bad {
        let optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, decays).unwrap();
        match optimizer.with_loss_scale(settings).err() {
            Some(Error::Argument { name, .. }) if name == setting => {}
            other => panic!("{settings:?}: {other:?}"),
        }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn settings_are_checked() {
    let gpu = gpu();
    let (parameters, _) = model(&gpu);
    let adamw = AdamW::default();
    let sgd = Sgd::default();
    let bad = [
        (Rule::AdamW(AdamW { betas: (1.0, 0.9), ..adamw }), None, "betas.0"),
        (Rule::AdamW(AdamW { betas: (0.9, f32::NAN), ..adamw }), None, "betas.1"),
        (Rule::AdamW(AdamW { eps: 0.0, ..adamw }), None, "eps"),
        (Rule::AdamW(AdamW { weight_decay: -1.0, ..adamw }), None, "weight_decay"),
        (Rule::Sgd(Sgd { momentum: -0.1, ..sgd }), None, "momentum"),
        (Rule::Sgd(Sgd { dampening: f32::NAN, ..sgd }), None, "dampening"),
        (Rule::Sgd(Sgd { nesterov: true, momentum: 0.0, ..sgd }), None, "nesterov"),
        (Rule::Sgd(Sgd { nesterov: true, dampening: 0.5, ..sgd }), None, "nesterov"),
        (Rule::Sgd(sgd), Some(0.0), "max_norm"),
        (Rule::Sgd(sgd), Some(f32::NAN), "max_norm"),
    ];
    for (rule, max_norm, setting) in bad {
        match Optimizer::new(&parameters, rule, max_norm, decays).err() {
            Some(Error::Argument { name, .. }) if name == setting => {}
            other => panic!("{rule:?} {max_norm:?}: {other:?}"),
        }
    }
    let empty = Parameters::new(&gpu);
    assert!(matches!(
        Optimizer::new(&empty, Rule::Sgd(sgd), None, decays).err(),
        Some(Error::Argument { name: "parameters", .. })
    ));
    let mut optimizer = Optimizer::new(&parameters, Rule::Sgd(sgd), None, decays).unwrap();
    for rate in [-1.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(optimizer.step(&parameters, rate), Err(Error::Argument { name: "rate", .. })));
    }
    assert!(StepReport::decode(&[0; 7]).is_err());
    for scale in [-1.0, f32::NAN, f32::INFINITY] {
        let error = optimizer.with_rate_scales(&parameters, |_| scale).expect_err("a bad factor");
        assert!(matches!(error, Error::Argument { name: "rate scale", .. }), "{error}");
        optimizer = Optimizer::new(&parameters, Rule::Sgd(sgd), None, decays).unwrap();
    }
    for decay in [-0.1, 1.0, f32::NAN] {
        let error = optimizer.with_ema(&parameters, Ema { decay, warmup: true }).expect_err("a bad decay");
        assert!(matches!(error, Error::Argument { name: "decay", .. }), "{error}");
        optimizer = Optimizer::new(&parameters, Rule::Sgd(sgd), None, decays).unwrap();
    }
}

/// The average follows every update but a skipped one, and changes places with the weights and back exactly.
#[test]
fn average_of_weights() {
    for gpu in each_family() {
        for ema in [Ema { decay: 0.75, warmup: false }, Ema { decay: 0.5, warmup: true }] {
            let (parameters, list) = model(&gpu);
            poison(&gpu, &[1 << 18, 1 << 19, 1 << 20]);
            let optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, decays).unwrap();
            let mut optimizer = optimizer.with_ema(&parameters, ema).unwrap();
            let values_of = || list.iter().map(|p| p.value().to_vec::<f32>().unwrap()).collect::<Vec<_>>();
            let mut average: Vec<Vec<f64>> =
                values_of().iter().map(|v| v.iter().map(|&v| f64::from(v)).collect()).collect();
            for step in 0..4 {
                fill_gradients(&gpu, &list, step);
                if step == 2 {
                    spoil(&list);
                }
                optimizer.step(&parameters, 0.01).unwrap();
                let decay = f64::from(ema.decay_at(step));
                if step != 2 {
                    for (a, w) in average.iter_mut().flatten().zip(values_of().iter().flatten()) {
                        *a = decay * *a + (1.0 - decay) * f64::from(*w);
                    }
                }
            }
            let own = values_of();
            for (i, got) in optimizer.averaged(|| Ok(values_of())).unwrap().iter().enumerate() {
                let expected: Vec<f32> = average[i].iter().map(|&v| v as f32).collect();
                assert_close(&format!("{} {ema:?}", SIZES[i].0), got, &expected, 1e-6);
            }
            assert!(values_of().iter().zip(&own).all(|(a, b)| same_bits(a, b)));
        }
    }
}

/// Weights and average are in their places again after a closure that fails, and after one that panics.
#[test]
fn the_average_is_put_back() {
    for gpu in each_family() {
        let (parameters, list) = model(&gpu);
        let optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, decays).unwrap();
        let mut optimizer = optimizer.with_ema(&parameters, Ema { decay: 0.5, warmup: false }).unwrap();
        fill_gradients(&gpu, &list, 0);
        optimizer.step(&parameters, 0.1).unwrap();
        let bits = || {
            let bits =
                |p: &Parameter| p.value().to_vec::<f32>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            list.iter().map(bits).collect::<Vec<_>>()
        };
        let own = bits();
        let average = optimizer.averaged(|| Ok(bits())).unwrap();
        assert_ne!(own, average);

        let failed = optimizer.averaged::<()>(|| Err(Error::argument("test", "closure", "one that succeeds", "this")));
        assert!(matches!(failed, Err(Error::Argument { op: "test", .. })), "{failed:?}");
        assert_eq!(bits(), own);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            optimizer.averaged::<()>(|| panic!("in the middle"))
        }));
        assert!(panicked.is_err());
        assert_eq!(bits(), own);
        assert_eq!(optimizer.averaged(|| Ok(bits())).unwrap(), average);
    }
}

// ---- each parameter's own count ----

/// Two parameters of one element, and what changes them.
struct Pair {
    parameters: Parameters,
    list: [Parameter; 2],
    optimizer: Optimizer,
}

impl Pair {
    fn new(gpu: &Gpu, rule: Rule) -> Self {
        let mut parameters = Parameters::new(gpu);
        let list = ["a", "b"].map(|path| parameters.add(path, &[1], &[1.0]).unwrap());
        let optimizer = Optimizer::new(&parameters, rule, None, |_, _| true).unwrap();
        Pair { parameters, list, optimizer }
    }

    /// A step with these gradients.
    fn step(&mut self, gradients: [Option<f32>; 2]) {
        for (parameter, gradient) in self.list.iter().zip(gradients) {
            if let Some(gradient) = gradient {
                let gradient = Tensor::from_slice(parameter.value().gpu(), &[1], &[gradient]).unwrap();
                parameter.tensor().backward_from(&gradient).unwrap();
            }
        }
        self.optimizer.step(&self.parameters, RATE as f32).unwrap();
    }

    fn values(&self) -> Vec<f32> {
        self.list.iter().map(|p| p.value().item().unwrap()).collect()
    }
}

const RATE: f64 = 0.01;

const RULES: [Rule; 3] = [
    Rule::AdamW(AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.1 }),
    Rule::Sgd(Sgd { momentum: 0.9, dampening: 0.5, nesterov: false, weight_decay: 0.1 }),
    Rule::Sgd(Sgd { momentum: 0.9, dampening: 0.0, nesterov: true, weight_decay: 0.0 }),
];

/// As `torch.optim` keeps `state["step"]` and `momentum_buffer` by parameter: one that is thawed after n steps moves as it
/// would have at the first. (AdamW: by the rate, whatever the gradient is.)
#[test]
fn a_thawed_parameter_begins_anew() {
    for gpu in each_family() {
        for late in [1, 1000] {
            let rule = Rule::AdamW(AdamW { weight_decay: 0.0, ..AdamW::default() });
            let mut pair = Pair::new(&gpu, rule);
            pair.list[1].set_trainable(false);
            (0..late).for_each(|_| pair.step([Some(0.5), None]));
            pair.list[1].set_trainable(true);
            pair.step([Some(0.5), Some(0.5)]);
            assert_close(&format!("after {late} steps"), &[1.0 - pair.values()[1]], &[0.01], 1e-5);
        }
    }
}

/// Neither a step without a gradient nor one that is skipped counts.
#[test]
fn updates_are_counted_by_parameter() {
    const BAD: f32 = f32::INFINITY;
    let steps = [
        [Some(1.0), None],
        [Some(BAD), Some(1.0)],
        [Some(2.0), None],
        [None, None],
        [Some(-0.5), Some(3.0)],
        [None, Some(BAD)],
        [None, Some(-1.0)],
        [Some(0.25), Some(0.5)],
    ];
    for gpu in each_family() {
        for rule in RULES {
            let decay = !matches!(rule, Rule::Sgd(Sgd { weight_decay: 0.0, .. }));
            let mut pair = Pair::new(&gpu, rule);
            let mut plain = [0, 1].map(|_| Plain { value: vec![1.0], first: vec![0.0], second: vec![0.0], updates: 0 });
            for gradients in steps {
                pair.step(gradients);
                let is_bad = gradients.contains(&Some(BAD));
                for (plain, gradient) in plain.iter_mut().zip(gradients) {
                    if let (Some(gradient), false) = (gradient, is_bad) {
                        plain.step(&rule, RATE, decay, &[f64::from(gradient)]);
                    }
                }
                let expected: Vec<f32> = plain.iter().map(|plain| plain.value[0] as f32).collect();
                assert_close(&format!("{rule:?} {gradients:?}"), &pair.values(), &expected, 1e-6);
            }
            let saved = pollster::block_on(pair.optimizer.saved()).unwrap();
            assert_eq!((saved.steps, saved.updates), (8, vec![4, 3]));
        }
    }
}

/// What was saved goes on to the same bits, counts included; what no run saves is refused, and changes nothing.
#[test]
fn restored_optimisers_count_on() {
    for gpu in each_family() {
        for rule in RULES {
            let mut whole = Pair::new(&gpu, rule);
            for gradients in [[Some(1.0), None], [Some(2.0), None], [Some(0.5), Some(1.5)]] {
                whole.step(gradients);
            }
            let saved = pollster::block_on(whole.optimizer.saved()).unwrap();
            let held = whole.optimizer.held(&whole.parameters).unwrap();
            let held: Vec<(String, Vec<f32>)> =
                held.iter().map(|(name, tensor)| (name.clone(), tensor.to_vec().unwrap())).collect();
            let values = |name: &str| Ok(held.iter().find(|(held, _)| held == name).unwrap().1.as_slice());
            let mut second = Pair::new(&gpu, rule);
            for (to, from) in second.list.iter().zip(whole.values()) {
                to.set(&[from]).unwrap();
            }
            let bad = [
                OptimizerState { updates: vec![3], ..saved.clone() },
                OptimizerState { updates: vec![3, 4], ..saved.clone() },
                OptimizerState { words: saved.words.iter().map(|_| u32::MAX).collect(), ..saved.clone() },
                OptimizerState { words: vec![], ..saved.clone() },
            ];
            for state in bad {
                let error = second.optimizer.restore(&second.parameters, &state, values).unwrap_err();
                assert!(matches!(error, Error::Argument { op: "optimiser state", .. }), "{error}");
            }
            second.optimizer.restore(&second.parameters, &saved, values).unwrap();
            for gradients in [[Some(1.0), Some(-1.0)], [None, Some(2.0)], [Some(3.0), None]] {
                whole.step(gradients);
                second.step(gradients);
                assert!(same_bits(&whole.values(), &second.values()), "{rule:?} {gradients:?}");
            }
        }
    }
}

/// AdamW's first moment would pass for SGD's direction. What was saved before the rule was noted is taken at its word.
#[test]
fn a_state_of_another_rule_is_refused() {
    let [gpu, _] = each_family();
    let mut whole = Pair::new(&gpu, RULES[0]);
    whole.step([Some(1.0), Some(-2.0)]);
    let saved = pollster::block_on(whole.optimizer.saved()).unwrap();
    let mut second = Pair::new(&gpu, RULES[1]);
    let Pair { parameters, optimizer, .. } = &mut second;
    let error = optimizer.restore(parameters, &saved, |_| Ok(&[0.5])).unwrap_err();
    assert_eq!(error.to_string(), "optimiser state: rule must be sgd, got adamw");
    assert_eq!(report(optimizer).applied, 0);
    let mut old = serde_json::to_value(&saved).unwrap();
    assert!(old.as_object_mut().unwrap().remove("rule").is_some());
    optimizer.restore(parameters, &serde_json::from_value(old).unwrap(), |_| Ok(&[0.5])).unwrap();
    assert_eq!(report(optimizer).applied, 1);
}

// ---- frozen and thawed ----

/// Which parameters of [`SIZES`] are frozen in a step: small and large ones, from the start, from the middle on, and in between.
fn is_frozen(index: usize, step: u64) -> bool {
    match index {
        1 => step < 3,
        2 | 4 => step < 2,
        3 => (2..4).contains(&step),
        8 => step != 3,
        9 => step >= 3,
        _ => false,
    }
}

/// A run of which parts are frozen, or only have no gradient.
struct Partial {
    parameters: Parameters,
    list: Vec<Parameter>,
    optimizer: Optimizer,
    freezes: bool,
}

impl Partial {
    /// Before `step`.
    fn new(gpu: &Gpu, rule: Rule, freezes: bool, step: u64) -> Self {
        let (parameters, list) = model(gpu);
        let freeze = |(i, p): (usize, &Parameter)| p.set_trainable(!(freezes && is_frozen(i, step)));
        list.iter().enumerate().for_each(freeze);
        let optimizer = Optimizer::new(&parameters, rule, None, |path, _| decay_of(path)).unwrap();
        let optimizer = optimizer.with_ema(&parameters, Ema { decay: 0.75, warmup: false }).unwrap();
        Partial { parameters, list, optimizer, freezes }
    }

    fn step(&mut self, step: u64) {
        for (i, p) in self.list.iter().enumerate() {
            p.set_trainable(!(self.freezes && is_frozen(i, step)));
            if has_gradient(i, step) && !is_frozen(i, step) {
                let n = p.value().numel();
                let g = Tensor::from_slice(p.value().gpu(), &[n], &gradient(i, step, n)).unwrap();
                ops::sum(&ops::mul(&p.tensor(), &g).unwrap()).unwrap().backward().unwrap();
            }
        }
        self.optimizer.step(&self.parameters, 0.01).unwrap();
    }

    fn values(&self) -> Vec<Vec<f32>> {
        self.list.iter().map(|p| p.value().to_vec().unwrap()).collect()
    }

    fn held(&self) -> Vec<(String, Vec<f32>)> {
        let held = self.optimizer.held(&self.parameters).unwrap();
        held.into_iter().map(|(name, tensor)| (name, tensor.to_vec().unwrap())).collect()
    }

    fn saved(&self) -> OptimizerState {
        pollster::block_on(self.optimizer.saved()).unwrap()
    }

    fn averages(&mut self) -> Vec<Vec<f32>> {
        let Partial { list, optimizer, .. } = self;
        optimizer.averaged(|| Ok(list.iter().map(|p| p.value().to_vec().unwrap()).collect())).unwrap()
    }
}

/// Memory that comes and goes with what is trained changes nothing: values, moments and averages are bit for bit those of a run
/// in which all has memory, and what is frozen has no gradient.
#[test]
fn freezing_and_thawing_while_training() {
    for rule in [Rule::AdamW(AdamW::default()), RULES[1]] {
        for gpu in each_family() {
            poison(&gpu, &[1 << 18, 1 << 19, 1 << 20, 300_032, 600_000]);
            let [mut frozen, mut whole] = [true, false].map(|freezes| Partial::new(&gpu, rule, freezes, 0));
            assert!(frozen.parameters.gradient_bytes() < whole.parameters.gradient_bytes() / 8);
            for step in 0..6 {
                frozen.step(step);
                whole.step(step);
                assert_eq!(report(&frozen.optimizer).applied, step + 1);
            }
            let same = |a: &[Vec<f32>], b: &[Vec<f32>]| a.iter().zip(b).position(|(a, b)| !same_bits(a, b));
            assert_eq!(same(&frozen.values(), &whole.values()), None, "{rule:?} ({:?})", gpu.family());
            assert_eq!(same(&frozen.averages(), &whole.averages()), None, "averages, {rule:?}");
            assert_eq!(frozen.saved().updates, whole.saved().updates);
            let (some, all) = (frozen.held(), whole.held());
            assert_eq!(some.len(), all.len(), "in the end each was trained, or could have been");
            for ((name, some), (_, all)) in some.iter().zip(&all) {
                assert!(same_bits(some, all), "{name}");
            }
        }
    }
}

/// A saved state has what is or was trained, and one from when all had moments serves as well: both go on to the same bits.
#[test]
fn states_of_partly_frozen_runs() {
    for gpu in each_family() {
        let rule = Rule::AdamW(AdamW::default());
        let [mut frozen, mut whole] = [true, false].map(|freezes| Partial::new(&gpu, rule, freezes, 0));
        for step in 0..4 {
            frozen.step(step);
            whole.step(step);
        }
        assert!(frozen.held().iter().any(|(name, _)| name == "moment1.last"), "frozen by now, and kept");
        for source in [&frozen, &whole] {
            let held = source.held();
            // From step 4 on, with what is frozen then.
            let mut second = Partial::new(&gpu, rule, true, 4);
            for (to, from) in second.list.iter().zip(source.values()) {
                to.set(&from).unwrap();
            }
            let find = |name: &str| held.iter().find(|(held, _)| held == name);
            let missing = |name: &str| Error::argument("test", "name", "a tensor of the state", name);
            let values = |name: &str| find(name).map(|(_, values)| values.as_slice()).ok_or_else(|| missing(name));
            second.optimizer.restore(&second.parameters, &source.saved(), values).unwrap();
            let without = |name: &str| if name == "moment2.last" { Err(missing(name)) } else { values(name) };
            assert!(second.optimizer.restore(&second.parameters, &source.saved(), without).is_err());
            let mut first = Partial::new(&gpu, rule, true, 0);
            (0..4).for_each(|step| first.step(step));
            for step in 4..6 {
                first.step(step);
                second.step(step);
            }
            let pairs = first.values().into_iter().zip(second.values());
            assert!(pairs.into_iter().all(|(a, b)| same_bits(&a, &b)));
            assert!(first.averages().iter().zip(&second.averages()).all(|(a, b)| same_bits(a, b)));
        }
    }
}

/// Two optimisers of one model, one of them for a part of it: neither minds the other.
#[test]
fn two_optimisers_of_one_model() {
    let gpu = gpu();
    let rule = Rule::AdamW(AdamW::default());
    let mut whole = Partial::new(&gpu, rule, false, 0);
    let mut alone = Partial::new(&gpu, rule, false, 0);
    for run in [&mut whole, &mut alone] {
        run.step(0);
    }
    whole.list.iter().skip(1).for_each(|p| p.set_trainable(false));
    let other = Optimizer::new(&whole.parameters, rule, None, |_, _| true).unwrap();
    assert_eq!(whole.parameters.gradient_bytes(), 256);
    assert_eq!(other.held(&whole.parameters).unwrap().len(), 2);
    drop(other);
    for run in [&mut whole, &mut alone] {
        run.step(1);
    }
    assert!(whole.values().iter().zip(&alone.values()).all(|(a, b)| same_bits(a, b)));
}

// ---- parameters of others ----

/// Everything that takes parameters names the first that is not the optimiser's, and leaves all as it is: values,
/// gradients, and the optimiser.
#[test]
fn parameters_of_others_are_refused() {
    let [gpu, elsewhere] = each_family();
    let rule = Rule::Sgd(Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 });
    let collection = |gpu: &Gpu, path: &str| {
        let mut parameters = Parameters::new(gpu);
        parameters.add(path, &[1], &[1.0]).unwrap();
        parameters
    };
    let optimizer = |parameters: &Parameters| Optimizer::new(parameters, rule, None, |_, _| false).unwrap();
    let mut grown = collection(&gpu, "own");
    let of_grown = optimizer(&grown);
    // One that opens a new segment of the arenas.
    grown.add("late", &[1 << 19], &vec![1.0; 1 << 19]).unwrap();
    let own = collection(&gpu, "own");
    let empty = Parameters::new(&gpu);
    let cases = [
        (of_grown, &grown, "late", "was added after"),
        (optimizer(&own), &collection(&gpu, "own"), "own", "is not one of those that"),
        (optimizer(&own), &collection(&elsewhere, "there"), "there", "on another device"),
        (optimizer(&own), &empty, "own", "is not among those given"),
    ];
    for (mut optimizer, given, path, said) in cases {
        let refused = |error: Option<Error>| match error {
            Some(Error::Parameter { name, what }) if name == path && what.contains(said) => {}
            other => panic!("{path}, {said}: {other:?}"),
        };
        for p in own.iter().chain(given) {
            ops::sum(&p.tensor()).unwrap().backward().unwrap();
        }
        let saved = pollster::block_on(optimizer.saved()).unwrap();
        refused(optimizer.step(given, 0.1).err());
        refused(optimizer.held(given).err());
        refused(optimizer.restore(given, &saved, |_| Ok(&[])).err());
        for p in own.iter().chain(given) {
            assert_eq!(p.value().to_vec::<f32>().unwrap()[0], 1.0, "{}", p.path());
            assert!(p.grad().is_some(), "{} keeps its gradient", p.path());
        }
        assert_eq!(pollster::block_on(optimizer.saved()).unwrap(), saved);
        own.zero_grad();
        given.zero_grad();
    }
    type Builder<'a> = &'a dyn Fn(Optimizer, &Parameters) -> Result<Optimizer, Error>;
    let builders: [Builder<'_>; 2] =
        [&|optimizer, given| optimizer.with_rate_scales(given, |_| 1.0), &|optimizer, given| {
            optimizer.with_ema(given, Ema::default())
        }];
    for build in builders {
        let error = build(optimizer(&own), &grown).err();
        assert!(matches!(&error, Some(Error::Parameter { name, .. }) if name == "own"), "{error:?}");
        assert!(build(optimizer(&own), &own).is_ok());
    }
}

// ---- the rate ----

/// The closed forms of PyTorch 2.13's `LinearLR` and `CosineAnnealingLR`, one after the other, and transformers'
/// `get_linear_schedule_with_warmup` after the warm-up.
#[test]
fn rates_are_pytorchs() {
    let (base, min, warmup, total) = (1.0, 0.1, 2u64, 10u64);
    let all = |shape| {
        let schedule =
            LrSchedule::new(ShapedRate { base: base as f32, min: min as f32, warmup, total, shape }).unwrap();
        (0..total + 2).map(|step| schedule.rate(At { step, layer_tokens: 0 })).collect::<Vec<f32>>()
    };
    let expected = |after: &dyn Fn(f64) -> f64| {
        let rate = |step: u64| {
            let start = 1.0 / (warmup as f64 + 1.0);
            // LinearLR(start_factor=start, total_iters=warmup)
            let rising = base * (start + (1.0 - start) * step as f64 / warmup as f64);
            let q = step.saturating_sub(warmup) as f64 / (total - warmup) as f64;
            (if step < warmup { rising } else { after(q.min(1.0)) }) as f32
        };
        (0..total + 2).map(rate).collect::<Vec<f32>>()
    };
    // CosineAnnealingLR(T_max=8, eta_min=0.1)
    let cosine = expected(&|q| min + (base - min) * (1.0 + (std::f64::consts::PI * q).cos()) / 2.0);
    assert_close("cosine", &all(LrShape::Cosine), &cosine, 1e-6);
    let linear = expected(&|q| min + (base - min) * (1.0 - q));
    assert_close("linear", &all(LrShape::Linear), &linear, 1e-6);
    assert_close("constant", &all(LrShape::Constant), &expected(&|_| base), 1e-6);
    // The first steps, the last, and what would come then.
    assert_close("in numbers", &linear[..3], &[1.0 / 3.0, 2.0 / 3.0, 1.0], 1e-6);
    assert_close("in numbers", &linear[9..], &[0.2125, 0.1, 0.1], 1e-6);
    assert_close("in numbers", &cosine[9..], &[0.134_254, 0.1, 0.1], 1e-5);
}

/// The corners of the LayerToken rate; its tables are in `ltd`.
#[test]
fn layer_tokens_drive_the_rate() {
    let settings = LayerTokenRate { max: 1.0, min: 0.1, shape: LrShape::Linear, total: 110.0, warmup: 10.0 };
    let rates = |settings, at: &[u64]| {
        let schedule = LrSchedule::layer_token(settings).unwrap();
        // The step is not looked at.
        let rate = |&layer_tokens| schedule.rate(At { step: layer_tokens % 5, layer_tokens });
        at.iter().map(rate).collect::<Vec<f32>>()
    };
    let at = [0, 5, 10, 55, 100, 101, 110, u64::MAX];
    assert_close("linear", &rates(settings, &at), &[0.0, 0.5, 1.0, 0.55, 0.1, 0.1, 0.1, 0.1], 1e-6);
    let cosine = LayerTokenRate { shape: LrShape::Cosine, ..settings };
    assert_close("cosine", &rates(cosine, &[10, 55, 100]), &[1.0, 0.55, 0.1], 1e-6);
    // Without a warm-up the first step has the whole rate.
    let sudden = LayerTokenRate { warmup: 0.0, ..settings };
    assert_close("sudden", &rates(sudden, &[0, 55, 110]), &[1.0, 0.55, 0.1], 1e-6);

    for (name, bad) in [
        ("max", LayerTokenRate { max: -1.0, min: 0.0, ..settings }),
        ("max", LayerTokenRate { max: f32::INFINITY, ..settings }),
        ("min", LayerTokenRate { min: 1.5, ..settings }),
        ("min", LayerTokenRate { min: f32::NAN, ..settings }),
        ("shape", LayerTokenRate { shape: LrShape::Constant, ..settings }),
        ("total", LayerTokenRate { total: 0.0, ..settings }),
        ("total", LayerTokenRate { total: f64::NAN, ..settings }),
        ("total", LayerTokenRate { total: f64::INFINITY, ..settings }),
        ("warmup", LayerTokenRate { warmup: 55.0, ..settings }),
        ("warmup", LayerTokenRate { warmup: -1.0, ..settings }),
        ("warmup", LayerTokenRate { warmup: f64::NAN, ..settings }),
    ] {
        let error = LrSchedule::layer_token(bad).unwrap_err();
        assert!(matches!(error, Error::Argument { name: got, .. } if got == name), "{error}");
    }
}

/// Straight lines between the knots, as `numpy.interp` has them: `[0.1, 0.1, 0.3, 0.5, 0.5, 0.05, 0.025, 0, 0]`.
#[test]
fn rates_of_ones_own() {
    let knots = [(2, 0.1), (4, 0.5), (7, 0.5), (8, 0.05), (10, 0.0)];
    let rates = |knots: &[(u64, f32)], at: &[u64]| {
        let schedule = LrSchedule::piecewise(knots).unwrap();
        // Layer tokens are not looked at.
        at.iter().map(|&step| schedule.rate(At { step, layer_tokens: step % 5 })).collect::<Vec<f32>>()
    };
    let expected = [0.1, 0.1, 0.3, 0.5, 0.5, 0.05, 0.025, 0.0, 0.0];
    assert_close("lines", &rates(&knots, &[0, 2, 3, 4, 7, 8, 9, 10, u64::MAX]), &expected, 1e-6);
    assert_eq!(rates(&knots, &[2, 4, 7, 8]), [0.1, 0.5, 0.5, 0.05], "to the bit at the knots");
    assert_eq!(rates(&[(5, 0.2)], &[0, 5, 6]), [0.2; 3]);
    assert_close("far", &rates(&[(0, 0.0), (u64::MAX, 1.0)], &[0, u64::MAX / 2, u64::MAX]), &[0.0, 0.5, 1.0], 1e-6);
    // Lines of a shape that is built in: PyTorch's `LinearLR`s.
    let settings = ShapedRate { base: 1.0, min: 0.1, warmup: 2, total: 10, shape: LrShape::Linear };
    let built_in = LrSchedule::new(settings).unwrap();
    let at: Vec<u64> = (0..13).collect();
    let built_in: Vec<f32> = at.iter().map(|&step| built_in.rate(At { step, layer_tokens: 0 })).collect();
    assert_close("linear", &rates(&[(0, 1.0 / 3.0), (2, 1.0), (10, 0.1)], &at), &built_in, 1e-6);

    let ends = |knots: &[(u64, f32)]| LrSchedule::piecewise(knots).unwrap().has_end();
    assert!(ends(&knots) && !ends(&[(0, 0.0), (9, 1.0)]) && !ends(&[(0, 0.3)]));
    assert!(!LrSchedule::piecewise(&knots).unwrap().follows_layer_tokens());
    let refused: [(&str, &[(u64, f32)]); 6] = [
        ("knots", &[]),
        ("step", &[(3, 0.1), (3, 0.2)]),
        ("step", &[(3, 0.1), (4, 0.1), (2, 0.2)]),
        ("rate", &[(3, 0.1), (4, -0.1)]),
        ("rate", &[(3, f32::NAN)]),
        ("rate", &[(3, f32::INFINITY), (4, 0.1)]),
    ];
    for (name, bad) in refused {
        let error = LrSchedule::piecewise(bad).unwrap_err();
        assert!(matches!(error, Error::Argument { name: got, .. } if got == name), "{error}");
    }
}

/// timm's `ModelEmaV3.get_decay` with `use_warmup`, gamma 1 and power 2/3.
#[test]
fn decay_of_the_average_rises() {
    let ema = Ema { decay: 0.9, warmup: true };
    let got: Vec<f32> = [0, 1, 9, 30, 31, 100].map(|step| ema.decay_at(step)).to_vec();
    assert_close("decay", &got, &[0.0, 0.370_039, 0.784_557, 0.898_664, 0.9, 0.9], 1e-5);
    assert_eq!(Ema { decay: 0.9, warmup: false }.decay_at(0), 0.9);
}

#[test]
fn rates_fall_with_depth() {
    assert_eq!(layer_scale(13, 12, 0.75), 1.0);
    assert_close("block 11", &[layer_scale(12, 12, 0.75)], &[0.75], 1e-6);
    assert_close("stem", &[layer_scale(0, 12, 0.75)], &[0.75f32.powi(13)], 1e-6);
    assert_eq!(layer_scale(usize::MAX, 12, 0.75), 1.0);
}
