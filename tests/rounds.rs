//! What kernels say of the rounds of their loops, against the loops themselves, without a GPU.

use wgrad::gpu::Kernel;

use crate::interpret::{Dispatch, Invocation, Rounds};
use crate::lowered::Lowered;

/// Repeatable numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % bound
    }
}

/// Dispatches of each kernel that are tried.
const TRIALS: u64 = 4;

/// Some value for a field of `Params`: small, and one that the host could give.
fn field(name: &str, numbers: &mut Numbers) -> u32 {
    match name {
        _ if name.starts_with("first") => 0,
        "lanes" => 8 << numbers.below(4),
        "elements" => 64 * (1 + numbers.below(600)),
        "partials" => 1 + numbers.below(3000),
        "tokens" => 1 + numbers.below(40),
        "causal" | "accumulate" | "flags" => numbers.below(2) * numbers.below(128),
        "side" => 1 + numbers.below(12),
        _ => 1 + numbers.below(100),
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

/// No invocation makes more rounds than its kernel says, and some make about as many.
#[test]
fn kernels_know_the_rounds_of_their_loops() {
    let check = |kernel: &'static Kernel| {
        let lowered = Lowered::new(kernel).unwrap();
        let mut nearest = u64::MAX;
        for seed in 0..TRIALS {
            let (stated, made) = trial(&lowered, seed);
            if made > stated {
                return Some(format!("{}: says {stated} rounds, makes {made} (trial {seed})", kernel.name));
            }
            nearest = nearest.min(stated - made);
        }
        println!("{}: {nearest}", kernel.name);
        None
    };
    let failures: Vec<_> = wgrad::kernels().into_iter().filter_map(check).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
