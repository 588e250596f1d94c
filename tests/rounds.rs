//! What kernels say of the rounds of their loops, against the loops themselves, without a GPU.

use std::collections::BTreeSet;

use wgrad::gpu::{Gpu, Kernel};
use wgrad::ops::attention::Mask;
use wgrad::ops::{self, RandomKey, TokenIndices};
use wgrad::{DType, Tensor};

use crate::common::each_family;
use crate::interpret::{Dispatch, Invocation, Rounds};
use crate::lowered::{Lowered, all_kernels};

/// Repeatable numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % bound
    }
}

/// Dispatches of each kernel that are tried.
const TRIALS: u64 = 3;

/// Some value for a field of `Params`: small, and one that the host could give.
fn field(name: &str, numbers: &mut Numbers) -> u32 {
    match name {
        _ if name.starts_with("first") => 0,
        "lanes" => 8 << numbers.below(4),
        "elements" => 64 * (1 + numbers.below(600)),
        "partials" => 1 + numbers.below(3000),
        "tokens" | "end" => 1 + numbers.below(40),
        "causal" | "accumulate" | "flags" => numbers.below(2) * numbers.below(128),
        "side" => 1 + numbers.below(12),
        _ => 1 + numbers.below(70),
    }
}

/// The rounds of a random dispatch of a kernel: as it says, and as its invocations make.
fn trial(lowered: &Lowered, seed: u64) -> (u64, u64) {
    let mut numbers = Numbers(seed + 1);
    let kernel = lowered.kernel;
    let mut params: Vec<u32> = kernel.params.iter().map(|(name, _)| field(name, &mut numbers)).collect();
    let place = |wanted| kernel.params.iter().position(|(name, _)| *name == wanted);
    if let (Some(width), Some(stride)) = (place("width"), place("stride")) {
        params[width] = params[width].min(params[stride]);
    }
    let groups = [0; 3].map(|_| 1 + numbers.below(3));
    let stated = (kernel.rounds)(bytemuck::cast_slice(&params), groups);
    let dispatch = Dispatch { lowered, params: &params, groups };
    let entry = lowered.module.entry_points.iter().find(|e| e.name == kernel.entry).unwrap();
    let lanes: u32 = entry.workgroup_size.iter().product();
    let mut most = 0;
    for group in [[0; 3], groups.map(|count| numbers.below(count))] {
        let mut rounds = Rounds::default();
        for lane in [0, 1, numbers.below(lanes), lanes - 1] {
            Invocation::run(&dispatch, group, lane, seed + u64::from(lane), &mut rounds);
        }
        most = most.max(rounds.total());
    }
    (stated, most)
}

/// No invocation makes more rounds than its kernel says, and some come near. (A failure shows, of each trial, what the
/// kernel says and what was made.)
#[test]
fn kernels_know_the_rounds_of_their_loops() {
    let check = |kernel: &'static Kernel| {
        let lowered = Lowered::new(kernel).unwrap();
        let trials: Vec<_> = (0..TRIALS).map(|seed| trial(&lowered, seed)).collect();
        let holds = trials.iter().all(|(stated, made)| made <= stated);
        // Random sizes need not fit together, and what is rare may not happen in so few trials.
        let near = trials.iter().any(|(stated, made)| *stated <= 8 * made + 64);
        (!holds || !near).then(|| format!("{}: {trials:?}", kernel.name))
    };
    let failures: Vec<_> = all_kernels().into_iter().filter_map(check).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Elements of the largest f32 tensor that every device binds.
const MOST: usize = 1 << 25;

/// A leaf, in a dry run.
fn leaf(gpu: &Gpu, dims: &[usize]) -> Tensor {
    Tensor::zeros(gpu, DType::F32, dims).unwrap().requires_grad().unwrap()
}

/// Files whose loops need no such dispatch: a binary search, what only some devices can run, and the optimiser's passes, which are no
/// operation's.
const OTHERS: &[&str] = &["kept_lengths.wgsl", "matmul_coop.wgsl", "optim_norm.wgsl", "optim_update.wgsl"];

/// Every operation that loops, in a dry run on tensors as long in each direction as devices bind.
fn largest(gpu: &Gpu) -> Vec<(&'static str, wgrad::Result<Tensor>)> {
    let of = |dims: &[usize]| leaf(gpu, dims);
    let labels = |rows| Tensor::zeros(gpu, DType::U32, &[rows]).unwrap();
    let key = RandomKey { seed: 0, step: 0, layer: 0, first_sample: 0 };
    let mut all = Vec::new();
    for [m, n, k] in [[MOST, 1, 1], [MOST / 4, 4, 4], [1, MOST, 1], [4, MOST / 4, 4], [1, 1, MOST], [4, 4, MOST / 4]] {
        all.push(("matmul", ops::matmul(&of(&[m, k]), &of(&[k, n]))));
        all.push(("matmul_nt", ops::matmul_nt(&of(&[m, k]), &of(&[n, k]))));
        all.push(("matmul_tn", ops::matmul_tn(&of(&[k, m]), &of(&[k, n]))));
        all.push(("linear", ops::linear(&of(&[m, k]), &of(&[n, k]), Some(&of(&[n])))));
        let (fc1, fc2) = ((of(&[n, k]), of(&[n])), (of(&[1, n]), of(&[1])));
        all.push((
            "mlp",
            ops::mlp(&of(&[m, k]), (&fc1.0, &fc1.1), (&fc2.0, &fc2.1), ops::Gelu::Erf, &of(&[m, 1]), None),
        ));
    }
    for [rows, width] in [[MOST, 1], [MOST / 4, 4], [24, 1_350_000], [6, 5_000_000]] {
        all.push(("softmax", ops::softmax(&of(&[rows, width]))));
        all.push(("add", ops::add(&of(&[rows, width]), &of(&[width]))));
    }
    for [rows, classes] in [[MOST / 8, 8], [MOST / 8, 1], [16, 2_000_000]] {
        all.push(("cross_entropy", ops::cross_entropy(&of(&[rows, classes]), &labels(rows), &Default::default())));
        all.push(("count_correct", ops::count_correct(&of(&[rows, classes]), &labels(rows), None)));
    }
    for [rows, classes, width] in [[MOST / 8, 8, 1], [16, 2_000_000, 1], [1000, 50_257, 600], [8, 8, MOST / 8]] {
        let head = (of(&[classes, width]), of(&[classes]));
        let scores =
            ops::linear_cross_entropy(&of(&[rows, width]), &head.0, Some(&head.1), &labels(rows), &Default::default());
        all.push(("linear_cross_entropy", scores.map(|scores| scores.loss)));
    }
    for [rows, width] in [[MOST / 2, 1], [MOST / 4, 4], [32, 580_001], [8, 2_300_000]] {
        all.push(("layernorm", ops::layernorm(&of(&[rows, width]), &of(&[width]), &of(&[width]), 1e-6)));
    }
    for [batch, tokens, width] in [[MOST, 1, 1], [1, MOST, 1], [1, MOST / 4, 4], [1, 1, MOST], [MOST / 256, 256, 1]] {
        all.push(("mean_tokens", ops::mean_tokens(&of(&[batch, tokens, width]), 0)));
        all.push(("dropout", ops::dropout(&of(&[batch, tokens, width]), 0.5, key)));
        all.push(("drop_path", ops::drop_path(&of(&[batch, tokens, width]), 0.5, key)));
        all.push(("embed_tokens", ops::embed_tokens(&of(&[batch, tokens, width]), None, &of(&[1, tokens, width]))));
        let first = TokenIndices::from_tensor(&Tensor::zeros(gpu, DType::U32, &[batch, 1]).unwrap(), tokens).unwrap();
        all.push(("token_gather", ops::token_gather(&of(&[batch, tokens, width]), &first)));
    }
    for width in [16, 128] {
        all.push(("attention", ops::attention_flash(&of(&[1, MOST / 3 / width, 3 * width]), 1, &Mask::NONE, None)));
    }
    all.push(("attention_stored", ops::attention_stored(&of(&[1, 5_792, 3]), 1, &Mask::NONE, None)));
    let padded = Mask::CAUSAL.with_lengths(&labels(1)).unwrap();
    let dropout = Some(ops::Dropout { p: 0.1, key });
    all.push(("attention, masked", ops::attention_flash(&of(&[1, MOST / 48, 48]), 1, &padded, dropout)));
    all.push(("attention_stored, masked", ops::attention_stored(&of(&[1, 5_792, 3]), 1, &padded, dropout)));
    all.push(("patchify", ops::patchify(&of(&[1, 3, 3_344, 3_344]), 3_344, None)));
    for [rows, width, places] in [[MOST, 1, MOST], [8, MOST / 8, 8], [MOST / 4, 4, MOST / 4]] {
        all.push(("embedding", ops::embedding(&of(&[rows, width]), &labels(places))));
    }
    let kept = |scores: &Tensor| Ok(ops::keep_largest(scores, 1, 0, None)?.positions().clone());
    all.push(("keep_largest", kept(&of(&[4, 100_000]))));
    let means = ops::update_means(&of(&[MOST / 2]), &labels(MOST / 2), &of(&[MOST / 2]), None, 0.5);
    all.push(("update_means", means.and_then(|means| ops::mul(&means, &of(&[MOST / 2])))));
    all.push(("sum", ops::sum(&of(&[MOST]))));
    for dims in [[MOST, 1], [1, MOST], [4, MOST / 4], [MOST / 4, 4]] {
        for along in [0, 1] {
            all.push(("sum_axes", ops::sum_axes(&of(&dims), &[along], false)));
            all.push(("max_axes", ops::max_axes(&of(&dims), &[along], false)));
            all.push(("argmax", ops::argmax(&of(&dims), along)));
            let index = Tensor::zeros(gpu, DType::U32, &dims).unwrap();
            all.push(("gather", ops::gather(&of(&dims), along, &index)));
            all.push(("scatter_add", ops::scatter_add(&of(&dims), along, &index, &of(&dims))));
        }
    }
    // Of all windows of so many elements in all, those in which an element lies most often.
    let pool = ops::Pool2d { size: [76; 2], stride: [1; 2], padding: [0; 2] };
    all.push(("avg_pool2d", ops::avg_pool2d(&of(&[1, 1, 151, 151]), pool)));
    all
}

/// Whether a kernel has loops, by what it says of a small dispatch.
fn loops(kernel: &Kernel) -> bool {
    let params = vec![8u32; kernel.params.len()];
    (kernel.rounds)(bytemuck::cast_slice(&params), [1; 3]) > 0
}

/// No accepted shape asks a kernel for more rounds than its driver makes: forward and backward are dispatched.
#[test]
fn the_largest_tensors_stay_within_the_bound() {
    let mut met = BTreeSet::new();
    for gpu in each_family() {
        let dry = gpu.dry_run().unwrap();
        for (what, y) in largest(&dry) {
            let y = y.unwrap_or_else(|e| panic!("{what} ({:?}): {e}", gpu.family()));
            if y.dtype() == DType::F32 {
                let backward = Tensor::zeros(&dry, DType::F32, y.dims()).and_then(|dy| y.backward_from(&dy));
                backward.unwrap_or_else(|e| panic!("backward of {what} {:?} ({:?}): {e}", y.dims(), gpu.family()));
            }
        }
        met.extend(dry.take_usage().iter().map(|used| used.kernel));
    }
    let file = |kernel: &&'static Kernel| kernel.sources[0].name();
    let (reached, others): (Vec<_>, Vec<_>) = all_kernels().into_iter().partition(|kernel| met.contains(kernel.name));
    let reached: BTreeSet<_> = reached.iter().map(file).collect();
    let mut missing: BTreeSet<_> = others.iter().filter(|kernel| loops(kernel)).map(file).collect();
    missing.retain(|file| !reached.contains(file) && !OTHERS.contains(file));
    assert!(missing.is_empty(), "{missing:?} loop: an operation of theirs belongs in `largest`");
}
