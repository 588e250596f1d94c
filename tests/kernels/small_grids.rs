//! Grids of more workgroups along an axis than a dispatch may have: the kernels of every operation, on devices that allow a few where
//! others allow 65,535, against one that allows those.

use std::collections::BTreeSet;

use crate::common::{assert_close, values};
use crate::lowered::{all_kernels, needs_f16};
use wgrad::autograd::{Parameters, no_grad};
use wgrad::gpu::{GpuOptions, KernelFamily};
use wgrad::ops::{self, CrossEntropy, Gelu, KeyValues, Mask, RandomKey, Rotary, TokenIndices};
use wgrad::optim::{AdamW, Ema, Optimizer, Rule, Sgd};
use wgrad::{DType, Error, Gpu, Result, Tensor};

/// Workgroups along an axis on the small devices: each operation runs on the smallest whose square holds its grids.
const LIMITS: [u32; 4] = [4, 8, 16, 48];

const KEY: RandomKey = RandomKey { seed: 1, step: 2, layer: 3, first_sample: 4 };

fn open(family: KernelFamily, grid_size: Option<u32>) -> Gpu {
    let options = GpuOptions { default_limits: true, family: Some(family), grid_size, ..Default::default() };
    Gpu::with_options(&options).unwrap()
}

/// What an operation has computed.
type Results = Vec<Vec<f32>>;

/// What is asked of a device.
type Case<'a> = &'a dyn Fn(&Gpu) -> Result<Results>;

/// The devices of a family, and the kernels that have met a grid which was too large.
struct Trial {
    large: Gpu,
    small: [(u32, Gpu); LIMITS.len()],
    met: BTreeSet<&'static str>,
}

impl Trial {
    fn new(family: KernelFamily) -> Self {
        let small = LIMITS.map(|limit| (limit, open(family, Some(limit))));
        Trial { large: open(family, None), small, met: BTreeSet::new() }
    }

    /// Runs a case on the smallest device that can, and compares.
    fn run(&mut self, name: &str, case: Case<'_>) {
        let fits = |gpu: &Gpu| match case(&gpu.dry_run().unwrap()) {
            Ok(_) => true,
            Err(Error::Limit { name: "max_compute_workgroups_per_dimension", .. }) => false,
            Err(error) => panic!("{name}: {error}"),
        };
        let (limit, small) =
            self.small.iter().find(|(_, gpu)| fits(gpu)).unwrap_or_else(|| panic!("{name}: too large"));
        let dry = self.large.dry_run().unwrap();
        case(&dry).unwrap();
        self.met.extend(dry.take_usage().iter().filter(|used| used.groups > *limit).map(|used| used.kernel));
        let (got, expected) = (case(small).unwrap(), case(&self.large).unwrap());
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_close(&format!("{name}, {i} of {limit} ({:?})", small.family()), got, expected, 1e-5);
        }
    }

    /// An operation on leaves of these shapes, and its gradients.
    fn add(&mut self, name: &str, shapes: &[&[usize]], build: impl Fn(&[Tensor]) -> Result<Tensor>) {
        self.run(name, &|gpu| {
            let leaf = |(dims, seed): (&&[usize], u64)| {
                Tensor::from_slice(gpu, dims, &values(seed, dims.iter().product()))?.requires_grad()
            };
            let leaves = shapes.iter().zip(1..).map(leaf).collect::<Result<Vec<_>>>()?;
            let y = build(&leaves)?;
            let mut all = vec![y.to_vec()?];
            let dy = Tensor::from_slice(gpu, y.dims(), &values(9, y.numel()))?;
            let gradients = y.backward_from(&dy)?;
            for gradient in leaves.iter().filter_map(|leaf| gradients.get(leaf)) {
                all.push(gradient.to_vec()?);
            }
            Ok(all)
        });
    }
}

/// Whole numbers on the device, as floats.
fn whole(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_vec::<u32>()?.into_iter().map(|v| v as f32).collect())
}

fn below(gpu: &Gpu, bound: usize, dims: &[usize]) -> Tensor {
    let numbers: Vec<u32> = (0..dims.iter().product()).map(|i: usize| (i * i * 31 + i) as u32 % bound as u32).collect();
    Tensor::from_slice(gpu, dims, &numbers).unwrap()
}

/// `kept` ascending positions of `tokens`, for each sample.
fn positions(gpu: &Gpu, [samples, kept, tokens]: [usize; 3]) -> TokenIndices {
    let one = |sample: usize| (0..kept).map(move |i| ((i * tokens + sample % tokens.div_ceil(kept)) / kept) as u32);
    TokenIndices::new(gpu, [samples, kept], tokens, &(0..samples).flat_map(one).collect::<Vec<_>>()).unwrap()
}

fn elementwise(all: &mut Trial) {
    let x: &[&[usize]] = &[&[60, 67]];
    let two: &[&[usize]] = &[&[60, 67], &[60, 67]];
    all.add("gelu", x, |x| ops::gelu(&x[0], Gelu::Erf));
    all.add("exp", x, |x| ops::exp(&x[0]));
    all.add("scale", x, |x| ops::scale(&x[0], 0.5));
    all.add("add", two, |x| ops::add(&x[0], &x[1]));
    all.add("add by itself", x, |x| ops::add(&x[0], &x[0]));
    all.add("mul", two, |x| ops::mul(&x[0], &x[1]));
    all.add("add, broadcast", &[&[60, 67], &[67]], |x| ops::add(&x[0], &x[1]));
    all.add("sub, broadcast", &[&[60, 1], &[67]], |x| ops::sub(&x[0], &x[1]));
    all.add("maximum", two, |x| ops::maximum(&x[0], &x[1]));
    all.add("where", two, |x| ops::where_(&below(x[0].gpu(), 2, &[60, 67]), &x[0], &x[1]));
    all.add("where of a comparison", two, |x| ops::where_(&ops::lt(&x[0], &x[1])?, &x[0], &x[1]));
    all.add("dropout", &[&[60, 667]], |x| ops::dropout(&x[0], 0.4, KEY));
    all.add("dropout of fours", &[&[60, 668]], |x| ops::dropout(&x[0], 0.4, KEY));
    all.add("drop_path", &[&[60, 667]], |x| ops::drop_path(&x[0], 0.4, KEY));
    all.add("swiglu", &[&[60, 134]], |x| ops::swiglu(&x[0]));
}

fn layout(all: &mut Trial) {
    all.add("permute", &[&[20, 28, 7]], |x| ops::permute(&x[0], &[2, 0, 1]));
    all.add("expand", &[&[30, 1, 7]], |x| ops::expand(&x[0], &[30, 20, 7]));
    all.add("concat", &[&[60, 30], &[60, 31]], |x| ops::concat(&[&x[0], &x[1]], 1));
    all.add("pad", &[&[60, 30]], |x| ops::pad(&x[0], &[(1, 2), (3, 4)], 0.5));
    all.add("gather", &[&[60, 30]], |x| ops::gather(&x[0], 1, &below(x[0].gpu(), 30, &[60, 40])));
    all.add("scatter_add", &[&[30, 600], &[40, 600]], |x| {
        ops::scatter_add(&x[0], 0, &below(x[0].gpu(), 30, &[40, 600]), &x[1])
    });
    all.add("patchify", &[&[2, 3, 24, 40]], |x| ops::patchify(&x[0], 4, None));
    let bytes: Vec<u8> = (0..2 * 3 * 24 * 40).map(|i| (i * 37 % 251) as u8).collect();
    all.run("patchify of bytes", &|gpu| {
        let bytes = Tensor::from_slice(gpu, &[2, 3, 24, 40], &bytes)?;
        Ok(vec![ops::patchify(&bytes, 4, None)?.to_vec()?])
    });
    all.add("conv2d", &[&[2, 3, 20, 20], &[12, 3, 3, 3]], |x| {
        ops::conv2d(&x[0], &x[1], None, ops::Conv2d { padding: [1; 2], ..Default::default() })
    });
    let pool = ops::Pool2d { size: [3; 2], stride: [1; 2], padding: [1; 2] };
    all.add("max_pool2d", &[&[2, 2, 20, 20]], |x| ops::max_pool2d(&x[0], pool));
    all.add("avg_pool2d", &[&[2, 2, 20, 20]], |x| ops::avg_pool2d(&x[0], pool));
}

fn reductions(all: &mut Trial) {
    // Of which the lane family has several in a workgroup, and most kernels of the other family too.
    let n = if all.large.family() == KernelFamily::Lane { 600 } else { 150 };
    for (width, what) in [(7, "odd"), (8, "fours")] {
        let x: &[&[usize]] = &[&[n, width]];
        all.add(&format!("softmax, {what}"), x, |x| ops::softmax(&x[0]));
        all.add(&format!("log_softmax, {what}"), x, |x| ops::log_softmax(&x[0]));
        all.add(&format!("layernorm, {what}"), &[&[n, width], &[width], &[width]], |x| {
            ops::layernorm(&x[0], &x[1], &x[2], 1e-3)
        });
        all.add(&format!("gather_layernorm, {what}"), &[&[2, n, width], &[width], &[width]], |x| {
            let (packed, y) =
                ops::gather_layernorm(&x[0], &positions(x[0].gpu(), [2, n / 2, n]), &x[1], &x[2], 1e-3, DType::F32)?;
            ops::add(&packed, &y)
        });
        all.add(&format!("cross_entropy, {what}"), x, |x| {
            ops::cross_entropy(&x[0], &below(x[0].gpu(), width, &[n]), &CrossEntropy::default())
        });
        all.add(&format!("linear_cross_entropy, {what}"), &[&[n, width], &[n, width]], |x| {
            let settings = CrossEntropy { label_smoothing: 0.1, ..Default::default() };
            Ok(ops::linear_cross_entropy(&x[0], &x[1], None, &below(x[0].gpu(), n, &[n]), &settings)?.loss)
        });
        all.run(&format!("count_correct and argmax, {what}"), &|gpu| {
            let logits = Tensor::from_slice(gpu, &[n, width], &values(4, n * width))?;
            let count = ops::count_correct(&logits, &below(gpu, width, &[n]), None)?;
            Ok(vec![whole(&count)?, whole(&ops::argmax(&logits, 1)?)?])
        });
    }
    for width in [700, 1200] {
        all.add(&format!("layernorm, {width} wide"), &[&[20, width], &[width], &[width]], |x| {
            ops::layernorm(&x[0], &x[1], &x[2], 1e-3)
        });
    }
    all.add("sum", &[&[60, 667]], |x| ops::sum(&x[0]));
    for axis in 0..3 {
        all.add(&format!("sum_axes {axis}"), &[&[20, 30, 40]], |x| ops::sum_axes(&x[0], &[axis], false));
        all.add(&format!("max_axes {axis}"), &[&[20, 30, 40]], |x| ops::max_axes(&x[0], &[axis], false));
    }
    all.run("update_means", &|gpu| {
        let [means, losses] = [5, 6].map(|seed| Tensor::from_slice(gpu, &[700], &values(seed, 700)));
        Ok(vec![ops::update_means(&means?, &below(gpu, 700, &[700]), &losses?, None, 0.5)?.to_vec()?])
    });
}

fn products(all: &mut Trial) {
    for [m, n, k] in [[300, 300, 20], [301, 299, 7], [2, 900, 16], [700, 8, 8]] {
        let what = |name: &str| format!("{name} {m} {n} {k}");
        all.add(&what("matmul"), &[&[m, k], &[k, n]], |x| ops::matmul(&x[0], &x[1]));
        all.add(&what("matmul_tn"), &[&[k, m], &[k, n]], |x| ops::matmul_tn(&x[0], &x[1]));
        all.add(&what("linear"), &[&[m, k], &[n, k], &[n]], |x| ops::linear(&x[0], &x[1], Some(&x[2])));
        all.add(&what("linear_add"), &[&[m, k], &[n, k], &[n], &[m, n]], |x| {
            ops::linear_add(&x[0], &x[1], &x[2], &x[3])
        });
        all.add(&what("mlp"), &[&[m, k], &[n, k], &[n], &[k, n], &[k], &[m, k]], |x| {
            ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), Gelu::Tanh, &x[5], None)
        });
    }
    all.add("matmul, batched", &[&[20, 9, 8], &[20, 8, 9]], |x| ops::matmul(&x[0], &x[1]));
    all.add("add_linear", &[&[60, 67], &[60, 4], &[67, 4]], |x| ops::add_linear(x[0].clone(), &x[1], &x[2], 0.5, 0));
}

fn tokens(all: &mut Trial) {
    for width in [31, 32] {
        let what = |name: &str| format!("{name}, {width} wide");
        let kept = |x: &Tensor| positions(x.gpu(), [20, 5, 11]);
        let x: &[&[usize]] = &[&[20, 11, width]];
        all.add(&what("token_gather"), x, |x| ops::token_gather(&x[0], &kept(&x[0])));
        all.add(&what("token_scatter"), &[&[20, 11, width], &[20, 5, width]], |x| {
            ops::token_scatter(ops::scale(&x[0], 2.0)?, &x[1], &kept(&x[0]))
        });
        all.add(&what("slice"), x, |x| ops::slice(&x[0], 1, 2..9));
        all.add(&what("mean_tokens"), x, |x| ops::mean_tokens(&x[0], 1));
        all.add(&what("embed_tokens"), &[&[20, 10, width], &[1, 1, width], &[1, 11, width]], |x| {
            ops::embed_tokens(&x[0], Some(&x[1]), &x[2])
        });
        all.add(&what("embedding"), &[&[90, width]], |x| ops::embedding(&x[0], &below(x[0].gpu(), 90, &[20, 11])));
        let parts: [&[usize]; 7] =
            [&[20, 5, width], &[12, width], &[12], &[width, 12], &[width], &[20, 5, width], &[20, 11, width]];
        all.add(&what("mlp, scattered"), &parts, |x| {
            let into = (ops::scale(&x[6], 2.0)?, &kept(&x[6]));
            ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), Gelu::Erf, &x[5], Some(into))
        });
    }
    all.run("keep_largest", &|gpu| {
        let scores = Tensor::from_slice(gpu, &[20, 40], &values(3, 800))?;
        Ok(vec![whole(ops::keep_largest(&scores, 9, 1, None)?.positions())?])
    });
}

fn attention(all: &mut Trial) {
    let (samples, tokens, heads) = (5, 70, 4);
    let masked = |x: &Tensor| {
        let lengths: Vec<u32> = (0..samples as u32).map(|i| 70 - 13 * i).collect();
        Mask::CAUSAL.with_lengths(&Tensor::from_slice(x.gpu(), &[samples], &lengths)?)
    };
    let dropout = Some(ops::Dropout { p: 0.2, key: KEY });
    for width in [6, 16] {
        let shape: &[&[usize]] = &[&[samples, tokens, 3 * heads * width]];
        all.add("attention_stored", shape, |x| ops::attention_stored(&x[0], heads, &Mask::NONE, None));
        all.add("attention_stored, masked", shape, |x| ops::attention_stored(&x[0], heads, &masked(&x[0])?, dropout));
    }
    let shape: &[&[usize]] = &[&[samples, tokens, 3 * heads * 16]];
    all.add("attention_flash", shape, |x| ops::attention_flash(&x[0], heads, &Mask::NONE, None));
    all.add("attention_flash, masked", shape, |x| ops::attention_flash(&x[0], heads, &masked(&x[0])?, dropout));
    let kept = |x: &Tensor| positions(x.gpu(), [samples, 35, tokens]);
    all.add("attention of kept tokens", &[&[samples, 35, 192]], |x| {
        ops::attention_stored(&x[0], heads, &masked(&x[0])?.gathered(&kept(&x[0]))?, None)
    });
    let angles: Vec<f64> = values(3, tokens * 8).into_iter().map(f64::from).collect();
    let turned = |x: &Tensor, kept: Option<&TokenIndices>| {
        ops::rotary(x.clone(), heads, &Rotary::new(x.gpu(), tokens, &angles)?, kept)
    };
    all.add("rotary", &[&[samples, tokens, 192]], |x| turned(&x[0], None));
    all.add("rotary of kept tokens", &[&[samples, 35, 192]], |x| turned(&x[0], Some(&kept(&x[0]))));
    all.add("attention of many samples", &[&[600, 2, 12]], |x| {
        let lengths = Mask::NONE.with_lengths(&below(x[0].gpu(), 5, &[600]))?;
        ops::attention_stored(&x[0], 1, &lengths.gathered(&positions(x[0].gpu(), [600, 2, 4]))?, None)
    });
    all.run("attention_cached", &|gpu| {
        let mut cache = KeyValues::new(gpu, samples, tokens, 64)?;
        let new = Tensor::from_slice(gpu, &[samples, tokens, 192], &values(7, samples * tokens * 192))?;
        Ok(vec![no_grad(|| ops::attention_cached(&new, heads, &mut cache))?.to_vec()?])
    });
}

fn updates(all: &mut Trial) {
    for (name, rule) in [("AdamW", Rule::AdamW(AdamW::default())), ("SGD", Rule::Sgd(Sgd::default()))] {
        all.run(name, &|gpu| {
            let mut parameters = Parameters::new(gpu);
            let w = parameters.add("w", &[500, 600], &values(1, 300_000))?;
            let optimizer = Optimizer::new(&parameters, rule, Some(0.5), |_, _| true)?;
            let mut optimizer = optimizer.with_ema(&parameters, Ema::default())?;
            for _ in 0..2 {
                ops::sum(&ops::mul(&w.tensor(), &w.tensor())?)?.backward()?;
                optimizer.step(&parameters, 0.1)?;
            }
            Ok(vec![w.value().to_vec()?, optimizer.averaged(|| w.value().to_vec())?])
        });
    }
}

/// Kernels of which one workgroup is enough for any size.
const ONE_GROUP: &[&str] = &["cross_entropy.mean", "optim.norm_total", "sum.total"];

/// Kernels, by file and entry, whose grids are within what the others of their operations need here.
const WITHIN: &[(&str, &str)] = &[
    ("cross_entropy.wgsl", "rows_lane"),
    ("gather.wgsl", "scatter_add"),
    ("layernorm.wgsl", "gather_lane"),
    ("layernorm_backward.wgsl", "totals_lane"),
    ("optim_norm.wgsl", "norm_partial_group"),
    ("optim_norm.wgsl", "norm_partial_lane"),
    ("token_rows.wgsl", "zero"),
];

#[test]
fn grids_are_folded_cut_or_strode_over() {
    let mut met = BTreeSet::new();
    for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
        let mut trial = Trial::new(family);
        for part in [elementwise, layout, reductions, products, tokens, attention, updates] {
            part(&mut trial);
        }
        met.extend(trial.met);
    }
    // One of the forms of a kernel is enough: they differ in what an item is.
    let form = |kernel: &wgrad::gpu::Kernel| (kernel.sources[0].name(), kernel.entry);
    let wanted = all_kernels().into_iter().filter(|kernel| !needs_f16(kernel) && !ONE_GROUP.contains(&kernel.name));
    let met: BTreeSet<_> = all_kernels().into_iter().filter(|kernel| met.contains(kernel.name)).map(form).collect();
    let missing: BTreeSet<_> = wanted.map(form).filter(|form| !met.contains(form) && !WITHIN.contains(form)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
