//! Grids of more workgroups along an axis than a dispatch may have: every kernel, on a device that allows eight where others allow
//! 65,535, against one that allows those.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{assert_close, values};
use crate::lowered::{all_kernels, needs_f16};
use wgrad::autograd::{Parameters, no_grad};
use wgrad::gpu::{GpuOptions, KernelFamily};
use wgrad::ops::{self, CrossEntropy, Gelu, KeyValues, Mask, RandomKey, Rotary, TokenIndices};
use wgrad::optim::{AdamW, Ema, Optimizer, Rule, Sgd};
use wgrad::{DType, Gpu, Result, Tensor};

/// Workgroups along an axis on the small device.
const MOST: u32 = 8;

const KEY: RandomKey = RandomKey { seed: 1, step: 2, layer: 3, first_sample: 4 };

/// For each family, a device that dispatches small grids and one that dispatches all.
fn devices() -> [[Gpu; 2]; 2] {
    [KernelFamily::Lane, KernelFamily::Workgroup].map(|family| {
        [Some(MOST), None].map(|grid_size| {
            let options = GpuOptions { default_limits: true, family: Some(family), grid_size, ..Default::default() };
            Gpu::with_options(&options).unwrap()
        })
    })
}

/// What operations have computed, by name.
#[derive(Default)]
struct Results(Vec<(String, Vec<f32>)>);

impl Results {
    fn read(&mut self, name: impl Into<String>, tensor: &Tensor) {
        let read = match tensor.dtype() {
            DType::U32 => tensor.to_vec::<u32>().unwrap().into_iter().map(|v| v as f32).collect(),
            _ => tensor.to_vec().unwrap(),
        };
        self.0.push((name.into(), read));
    }

    /// An operation on leaves of these shapes, and its gradients.
    fn add(&mut self, gpu: &Gpu, name: &str, shapes: &[&[usize]], build: impl Fn(&[Tensor]) -> Result<Tensor>) {
        let leaf = |(dims, seed): (&&[usize], u64)| {
            Tensor::from_slice(gpu, dims, &values(seed, dims.iter().product())).unwrap().requires_grad().unwrap()
        };
        let leaves: Vec<Tensor> = shapes.iter().zip(1..).map(leaf).collect();
        let y = build(&leaves).unwrap_or_else(|error| panic!("{name} ({:?}): {error}", gpu.family()));
        self.read(name, &y);
        let dy = Tensor::from_slice(gpu, y.dims(), &values(9, y.numel())).unwrap();
        let gradients = y.backward_from(&dy).unwrap_or_else(|error| panic!("{name}, backward: {error}"));
        for (i, leaf) in leaves.iter().enumerate() {
            if let Some(gradient) = gradients.get(leaf) {
                self.read(format!("{name}, gradient {i}"), gradient);
            }
        }
    }
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

/// Rows on which both families have more than [`MOST`] workgroups and at most its square: an invocation or a team each.
fn rows(gpu: &Gpu) -> usize {
    if gpu.family() == KernelFamily::Lane { 600 } else { 150 }
}

fn elementwise(gpu: &Gpu, all: &mut Results) {
    let x: &[&[usize]] = &[&[60, 67]];
    let two: &[&[usize]] = &[&[60, 67], &[60, 67]];
    all.add(gpu, "gelu", x, |x| ops::gelu(&x[0], Gelu::Erf));
    all.add(gpu, "exp", x, |x| ops::exp(&x[0]));
    all.add(gpu, "scale", x, |x| ops::scale(&x[0], 0.5));
    all.add(gpu, "add", two, |x| ops::add(&x[0], &x[1]));
    all.add(gpu, "add by itself", x, |x| ops::add(&x[0], &x[0]));
    all.add(gpu, "mul", two, |x| ops::mul(&x[0], &x[1]));
    all.add(gpu, "add, broadcast", &[&[60, 67], &[67]], |x| ops::add(&x[0], &x[1]));
    all.add(gpu, "sub, broadcast", &[&[60, 1], &[67]], |x| ops::sub(&x[0], &x[1]));
    all.add(gpu, "maximum", two, |x| ops::maximum(&x[0], &x[1]));
    all.add(gpu, "where", two, |x| ops::where_(&below(gpu, 2, &[60, 67]), &x[0], &x[1]));
    all.add(gpu, "dropout", &[&[60, 667]], |x| ops::dropout(&x[0], 0.4, KEY));
    all.add(gpu, "dropout of fours", &[&[60, 668]], |x| ops::dropout(&x[0], 0.4, KEY));
    all.add(gpu, "drop_path", &[&[60, 667]], |x| ops::drop_path(&x[0], 0.4, KEY));
    all.add(gpu, "swiglu", &[&[60, 134]], |x| ops::swiglu(&x[0]));
    if gpu.has_f16() {
        all.add(gpu, "cast", x, |x| ops::cast(&ops::cast(&x[0], DType::F16)?, DType::F32));
    }
}

fn layout(gpu: &Gpu, all: &mut Results) {
    all.add(gpu, "permute", &[&[20, 28, 7]], |x| ops::permute(&x[0], &[2, 0, 1]));
    all.add(gpu, "expand", &[&[30, 1, 7]], |x| ops::expand(&x[0], &[30, 20, 7]));
    all.add(gpu, "concat", &[&[60, 30], &[60, 31]], |x| ops::concat(&[&x[0], &x[1]], 1));
    all.add(gpu, "pad", &[&[60, 30]], |x| ops::pad(&x[0], &[(1, 2), (3, 4)], 0.5));
    all.add(gpu, "gather", &[&[60, 30]], |x| ops::gather(&x[0], 1, &below(gpu, 30, &[60, 40])));
    all.add(gpu, "scatter_add", &[&[30, 600], &[40, 600]], |x| {
        ops::scatter_add(&x[0], 0, &below(gpu, 30, &[40, 600]), &x[1])
    });
    all.add(gpu, "patchify", &[&[2, 3, 24, 40]], |x| ops::patchify(&x[0], 4, None));
    let bytes: Vec<u8> = (0..2 * 3 * 24 * 40).map(|i| (i * 37 % 251) as u8).collect();
    let bytes = Tensor::from_slice(gpu, &[2, 3, 24, 40], &bytes).unwrap();
    all.read("patchify of bytes", &ops::patchify(&bytes, 4, None).unwrap());
    all.add(gpu, "conv2d", &[&[2, 3, 20, 20], &[12, 3, 3, 3]], |x| {
        ops::conv2d(&x[0], &x[1], None, ops::Conv2d { padding: [1; 2], ..Default::default() })
    });
    let pool = ops::Pool2d { size: [3; 2], stride: [1; 2], padding: [1; 2] };
    all.add(gpu, "max_pool2d", &[&[2, 2, 20, 20]], |x| ops::max_pool2d(&x[0], pool));
    all.add(gpu, "avg_pool2d", &[&[2, 2, 20, 20]], |x| ops::avg_pool2d(&x[0], pool));
}

fn reductions(gpu: &Gpu, all: &mut Results) {
    let n = rows(gpu);
    for (width, what) in [(7, "odd"), (8, "fours")] {
        let x: &[&[usize]] = &[&[n, width]];
        all.add(gpu, &format!("softmax, {what}"), x, |x| ops::softmax(&x[0]));
        all.add(gpu, &format!("log_softmax, {what}"), x, |x| ops::log_softmax(&x[0]));
        all.add(gpu, &format!("layernorm, {what}"), &[&[n, width], &[width], &[width]], |x| {
            ops::layernorm(&x[0], &x[1], &x[2], 1e-3)
        });
        let kept = positions(gpu, [2, n / 2, n]);
        all.add(gpu, &format!("gather_layernorm, {what}"), &[&[2, n, width], &[width], &[width]], |x| {
            let (packed, y) = ops::gather_layernorm(&x[0], &kept, &x[1], &x[2], 1e-3, DType::F32)?;
            ops::add(&packed, &y)
        });
        all.add(gpu, &format!("cross_entropy, {what}"), x, |x| {
            ops::cross_entropy(&x[0], &below(gpu, width, &[n]), &CrossEntropy::default())
        });
        all.add(gpu, &format!("linear_cross_entropy, {what}"), &[&[n, width], &[n, width]], |x| {
            let settings = CrossEntropy { label_smoothing: 0.1, ..Default::default() };
            Ok(ops::linear_cross_entropy(&x[0], &x[1], None, &below(gpu, n, &[n]), &settings)?.loss)
        });
        let logits = Tensor::from_slice(gpu, &[n, width], &values(4, n * width)).unwrap();
        let count = ops::count_correct(&logits, &below(gpu, width, &[n]), None).unwrap();
        all.read(format!("count_correct, {what}"), &count);
        all.read(format!("argmax, {what}"), &ops::argmax(&logits, 1).unwrap());
    }
    for width in [700, 1200] {
        all.add(gpu, &format!("layernorm, {width} wide"), &[&[20, width], &[width], &[width]], |x| {
            ops::layernorm(&x[0], &x[1], &x[2], 1e-3)
        });
    }
    all.add(gpu, "sum", &[&[60, 667]], |x| ops::sum(&x[0]));
    for axis in 0..3 {
        all.add(gpu, &format!("sum_axes {axis}"), &[&[20, 30, 40]], |x| ops::sum_axes(&x[0], &[axis], false));
        all.add(gpu, &format!("max_axes {axis}"), &[&[20, 30, 40]], |x| ops::max_axes(&x[0], &[axis], false));
    }
    let means = Tensor::from_slice(gpu, &[700], &values(5, 700)).unwrap();
    let losses = Tensor::from_slice(gpu, &[700], &values(6, 700)).unwrap();
    all.read("update_means", &ops::update_means(&means, &below(gpu, 700, &[700]), &losses, None, 0.5).unwrap());
}

fn products(gpu: &Gpu, all: &mut Results) {
    for [m, n, k] in [[300, 300, 20], [301, 299, 7], [2, 900, 16], [700, 8, 8]] {
        let what = |name: &str| format!("{name} {m} {n} {k}");
        all.add(gpu, &what("matmul"), &[&[m, k], &[k, n]], |x| ops::matmul(&x[0], &x[1]));
        all.add(gpu, &what("matmul_tn"), &[&[k, m], &[k, n]], |x| ops::matmul_tn(&x[0], &x[1]));
        all.add(gpu, &what("linear"), &[&[m, k], &[n, k], &[n]], |x| ops::linear(&x[0], &x[1], Some(&x[2])));
        all.add(gpu, &what("linear_add"), &[&[m, k], &[n, k], &[n], &[m, n]], |x| {
            ops::linear_add(&x[0], &x[1], &x[2], &x[3])
        });
        all.add(gpu, &what("mlp"), &[&[m, k], &[n, k], &[n], &[k, n], &[k], &[m, k]], |x| {
            ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), Gelu::Tanh, &x[5], None)
        });
    }
    all.add(gpu, "matmul, batched", &[&[20, 9, 8], &[20, 8, 9]], |x| ops::matmul(&x[0], &x[1]));
    all.add(gpu, "add_linear", &[&[60, 67], &[60, 4], &[67, 4]], |x| {
        ops::add_linear(x[0].clone(), &x[1], &x[2], 0.5, 0)
    });
}

fn tokens(gpu: &Gpu, all: &mut Results) {
    for width in [31, 32] {
        let what = |name: &str| format!("{name}, {width} wide");
        let kept = positions(gpu, [20, 5, 11]);
        let x: &[&[usize]] = &[&[20, 11, width]];
        all.add(gpu, &what("token_gather"), x, |x| ops::token_gather(&x[0], &kept));
        all.add(gpu, &what("token_scatter"), &[&[20, 11, width], &[20, 5, width]], |x| {
            ops::token_scatter(ops::scale(&x[0], 2.0)?, &x[1], &kept)
        });
        all.add(gpu, &what("slice_tokens"), x, |x| ops::slice_tokens(&x[0], 2..9));
        all.add(gpu, &what("concat_tokens"), &[&[20, 3, width], &[20, 8, width]], |x| {
            ops::concat_tokens(&[&x[0], &x[1]])
        });
        all.add(gpu, &what("mean_tokens"), x, |x| ops::mean_tokens(&x[0], 1));
        all.add(gpu, &what("embed_tokens"), &[&[20, 10, width], &[1, 1, width], &[1, 11, width]], |x| {
            ops::embed_tokens(&x[0], Some(&x[1]), &x[2])
        });
        let ids = below(gpu, 90, &[20, 11]);
        all.add(gpu, &what("embedding"), &[&[90, width]], |x| ops::embedding(&x[0], &ids));
    }
    let scores = Tensor::from_slice(gpu, &[20, 40], &values(3, 800)).unwrap();
    all.read("keep_largest", ops::keep_largest(&scores, 9, 1, None).unwrap().positions());
}

fn attention(gpu: &Gpu, all: &mut Results) {
    let (samples, tokens, heads) = (5, 70, 4);
    let lengths: Vec<u32> = (0..samples as u32).map(|i| 70 - 13 * i).collect();
    let lengths = Tensor::from_slice(gpu, &[samples], &lengths).unwrap();
    let masked = Mask::CAUSAL.with_lengths(&lengths).unwrap();
    let dropout = Some(ops::Dropout { p: 0.2, key: KEY });
    for (what, mask, dropout) in [("plain", &Mask::NONE, None), ("masked", &masked, dropout)] {
        for width in [6, 16] {
            let shape: &[&[usize]] = &[&[samples, tokens, 3 * heads * width]];
            all.add(gpu, &format!("attention_stored, {what} {width}"), shape, |x| {
                ops::attention_stored(&x[0], heads, mask, dropout)
            });
        }
        let shape: &[&[usize]] = &[&[samples, tokens, 3 * heads * 16]];
        all.add(gpu, &format!("attention_flash, {what}"), shape, |x| ops::attention_flash(&x[0], heads, mask, dropout));
    }
    let kept = positions(gpu, [samples, 35, tokens]);
    all.add(gpu, "attention of kept tokens", &[&[samples, 35, 192]], |x| {
        ops::attention_stored(&x[0], heads, &masked.gathered(&kept)?, None)
    });
    let angles: Vec<f64> = values(3, tokens * 8).into_iter().map(f64::from).collect();
    let turns = Rotary::new(gpu, tokens, &angles).unwrap();
    all.add(gpu, "rotary", &[&[samples, tokens, 192]], |x| ops::rotary(x[0].clone(), heads, &turns, None));
    all.add(gpu, "rotary of kept tokens", &[&[samples, 35, 192]], |x| {
        ops::rotary(x[0].clone(), heads, &turns, Some(&kept))
    });
    let many = positions(gpu, [600, 2, 4]);
    let lengths = Mask::NONE.with_lengths(&below(gpu, 5, &[600])).unwrap();
    all.add(gpu, "attention of many samples", &[&[600, 2, 12]], |x| {
        ops::attention_stored(&x[0], 1, &lengths.gathered(&many)?, None)
    });
    let mut cache = KeyValues::new(gpu, samples, tokens, 64).unwrap();
    let new = Tensor::from_slice(gpu, &[samples, tokens, 192], &values(7, samples * tokens * 192)).unwrap();
    all.read("attention_cached", &no_grad(|| ops::attention_cached(&new, heads, &mut cache)).unwrap());
}

fn updates(gpu: &Gpu, all: &mut Results) {
    for (name, rule) in [("AdamW", Rule::AdamW(AdamW::default())), ("SGD", Rule::Sgd(Sgd::default()))] {
        let mut parameters = Parameters::new(gpu);
        let w = parameters.add("w", &[500, 600], &values(1, 300_000)).unwrap();
        let optimizer = Optimizer::new(&parameters, rule, Some(0.5), |_, _| true).unwrap();
        let mut optimizer = optimizer.with_ema(&parameters, Ema::default()).unwrap();
        for _ in 0..2 {
            ops::sum(&ops::mul(&w.tensor(), &w.tensor()).unwrap()).unwrap().backward().unwrap();
            optimizer.step(&parameters, 0.1).unwrap();
        }
        all.read(name, &w.value());
        all.read(format!("{name}, averaged"), &optimizer.averaged(|| Ok(w.value())).unwrap());
    }
}

fn all(gpu: &Gpu) -> Results {
    let mut all = Results::default();
    for part in [elementwise, layout, reductions, products, tokens, attention, updates] {
        part(gpu, &mut all);
    }
    all
}

#[test]
fn grids_are_folded_cut_or_strode_over() {
    for [small, large] in devices() {
        let (got, expected) = (all(&small), all(&large));
        assert_eq!(got.0.len(), expected.0.len());
        for ((name, got), (_, expected)) in got.0.iter().zip(&expected.0) {
            assert_close(&format!("{name} ({:?})", small.family()), got, expected, 1e-5);
        }
    }
}

/// Kernels of which one grid is enough for any size.
const ONE_GRID: &[&str] = &["cross_entropy.mean", "optim.norm_total", "sum.total"];

/// The sizes above are such that each kernel has more workgroups than the small device allows: the test reaches what it should.
#[test]
fn every_kernel_meets_a_grid_that_is_too_large() {
    let mut most = BTreeMap::<&str, u32>::new();
    for [_, large] in devices() {
        let dry = large.dry_run().unwrap();
        all(&dry);
        for used in dry.take_usage() {
            let groups = most.entry(used.kernel).or_default();
            *groups = (*groups).max(used.groups);
        }
    }
    // One of the forms of a kernel is enough: they differ in what an item is.
    let form = |name: &'static str| {
        let kernel = all_kernels().into_iter().find(|kernel| kernel.name == name).unwrap();
        (kernel.sources[0].name, kernel.entry)
    };
    let large: BTreeSet<_> = most.iter().filter(|(_, groups)| **groups > MOST).map(|(name, _)| form(name)).collect();
    let wanted = all_kernels().into_iter().filter(|kernel| !needs_f16(kernel) && !ONE_GRID.contains(&kernel.name));
    let missing: BTreeSet<_> =
        wanted.map(|kernel| (kernel.sources[0].name, kernel.entry)).filter(|form| !large.contains(form)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
