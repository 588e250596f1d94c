//! The optimisers' kernels, and how they divide a segment of the arenas.

use super::{BLOCK, OptimParams, Rule};
use crate::gpu::{Access, Kernel, KernelFamily, NO_LOOPS, Params, looped, rounds, wgsl};

static NORM_PARTIAL_LANE: Kernel = Kernel {
    name: "optim.norm_partial_lane",
    sources: &[wgsl!("optim_norm.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/optim.wgsl")],
    entry: "norm_partial_lane",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
    params: OptimParams::FIELDS,
    constants: &[],
    rounds: rounds!(OptimParams, |_, _| looped(8u64, looped(8u64, 0)) + bad_rounds(8)),
};

static NORM_PARTIAL_GROUP: Kernel = Kernel {
    name: "optim.norm_partial_group",
    entry: "norm_partial_group",
    rounds: rounds!(OptimParams, |_, _| looped(8u64, looped(1u64, 0)) + bad_rounds(8) + fold_rounds()),
    ..NORM_PARTIAL_LANE
};

pub(super) static NORM_TOTAL: Kernel = Kernel {
    name: "optim.norm_total",
    entry: "norm_total",
    bindings: &[Access::Read, Access::Write, Access::Write, Access::Write, Access::Write],
    rounds: rounds!(OptimParams, |p, _| {
        looped(p.partials.div_ceil(256), 0) + looped(p.parameters.div_ceil(256), 0) + fold_rounds()
    }),
    ..NORM_PARTIAL_LANE
};

static ADAMW_LANE: Kernel = Kernel {
    name: "optim.adamw_lane",
    sources: &[wgsl!("optim_update.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/optim.wgsl")],
    entry: "adamw_lane",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write, Access::Write],
    rounds: rounds!(OptimParams, |_, _| looped(32u64, 0)),
    ..NORM_PARTIAL_LANE
};

static ADAMW_GROUP: Kernel = Kernel { name: "optim.adamw_group", entry: "adamw_group", rounds: NO_LOOPS, ..ADAMW_LANE };

static SGD_LANE: Kernel = Kernel {
    name: "optim.sgd_lane",
    entry: "sgd_lane",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write],
    ..ADAMW_LANE
};

static SGD_GROUP: Kernel = Kernel { name: "optim.sgd_group", entry: "sgd_group", rounds: NO_LOOPS, ..SGD_LANE };

pub(super) static FOLLOW: Kernel = Kernel {
    name: "optim.ema_follow",
    sources: &[wgsl!("optim_ema.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/optim.wgsl")],
    entry: "follow",
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Read, Access::Read],
    rounds: NO_LOOPS,
    ..NORM_PARTIAL_LANE
};

pub(super) static EXCHANGE: Kernel = Kernel {
    name: "optim.ema_exchange",
    entry: "exchange",
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write],
    ..FOLLOW
};

/// The rounds of the search for what is not finite, in `blocks` of sixteen items.
fn bad_rounds(blocks: u64) -> u64 {
    looped(blocks, looped(16u64, 0))
}

/// The rounds of `fold`: sixteen values by sixteen invocations, then their results by all.
fn fold_rounds() -> u64 {
    2 * looped(16u64, 0)
}

/// Every kernel of the optimisers.
pub(super) const KERNELS: &[&Kernel] = &[
    &NORM_PARTIAL_LANE,
    &NORM_PARTIAL_GROUP,
    &NORM_TOTAL,
    &ADAMW_LANE,
    &ADAMW_GROUP,
    &SGD_LANE,
    &SGD_GROUP,
    &FOLLOW,
    &EXCHANGE,
];

/// A pass over a segment.
pub(super) struct Pass {
    pub(super) kernel: &'static Kernel,
    /// Elements that a workgroup takes.
    pub(super) group: usize,
    /// Elements under each partial sum that it leaves.
    pub(super) partial: usize,
}

impl Pass {
    /// The first pass of the norm. The numbers are those of `shaders/optim_norm.wgsl`: 64 invocations with 8 blocks each,
    /// or 256 together with 256 blocks.
    pub(super) fn norm(family: KernelFamily) -> Self {
        match family {
            KernelFamily::Lane => Pass { kernel: &NORM_PARTIAL_LANE, group: 512 * BLOCK, partial: 8 * BLOCK },
            KernelFamily::Workgroup => Pass { kernel: &NORM_PARTIAL_GROUP, group: 256 * BLOCK, partial: 256 * BLOCK },
        }
    }

    /// The update. The numbers are those of `shaders/optim_update.wgsl`: 32 blocks, or 64 invocations with 4 elements.
    pub(super) fn update(family: KernelFamily, rule: &Rule) -> Self {
        let (lane, group) = match rule {
            Rule::AdamW(_) => (&ADAMW_LANE, &ADAMW_GROUP),
            Rule::Sgd(_) => (&SGD_LANE, &SGD_GROUP),
        };
        match family {
            KernelFamily::Lane => Pass { kernel: lane, group: 32 * BLOCK, partial: BLOCK },
            KernelFamily::Workgroup => Pass { kernel: group, group: 4 * BLOCK, partial: BLOCK },
        }
    }
}
