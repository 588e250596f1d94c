//! The kernels of layer normalisation: passes, times families, times what x is read in and y written as.

use crate::gpu::lib::reduce_rounds;
use crate::gpu::{Access, Kernel, Params, Rounds, Source, looped, params, rounds, wgsl};
use crate::ops::item::{LANES, rest_rounds, strip_rounds};
use crate::ops::variants::{ByFamily, ByItem};

params!(pub(super) ForwardParams { rows: u32, width: u32, eps: f32, kept: u32, tokens: u32, fault: u32, lanes: u32 });
params!(pub(super) BackwardParams { rows: u32, width: u32, slice: u32, flags: u32, lanes: u32 });

/// The kernels that depend on what x is read in and y written as.
pub(super) struct Form {
    pub(super) forward: ByFamily<Kernel>,
    pub(super) gather: ByFamily<Kernel>,
    /// On CPU drivers, two passes backward before the totals.
    pub(super) means: Kernel,
    pub(super) columns: Kernel,
    /// On GPUs, both in one.
    pub(super) backward: Kernel,
    pub(super) totals: ByFamily<Kernel>,
}

/// Invocations a workgroup of the lane form, as in the shaders.
pub(super) const NARROW: usize = 16;

const FORWARD: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];
const GATHER: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Write,
    Access::Read,
    Access::Write,
    Access::Write,
];
const MEANS: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write];
const COLUMNS: &[Access] =
    &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write, Access::Read];
const BACKWARD: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];
const TOTALS: &[Access] = &[Access::Read, Access::Write, Access::Write];

const fn kernel(name: &'static str, sources: &'static [Source], entry: &'static str, rounds: Rounds) -> Kernel {
    Kernel { name, sources, entry, bindings: FORWARD, params: ForwardParams::FIELDS, constants: &[], rounds }
}

const fn backward_kernel(
    name: &'static str,
    sources: &'static [Source],
    entry: &'static str,
    bindings: &'static [Access],
    rounds: Rounds,
) -> Kernel {
    Kernel { name, sources, entry, bindings, params: BackwardParams::FIELDS, constants: &[], rounds }
}

/// The rounds of the kernels: those of one invocation on a row, of a team, and of a row that may also be missing, which some
/// invocations of a driver's vector go through beside the others.
mod cost {
    use super::{BackwardParams, ForwardParams, LANES, looped, reduce_rounds, rest_rounds, rounds, strip_rounds};
    use crate::gpu::Rounds;

    fn statistics(p: &ForwardParams) -> u64 {
        looped(p.width / 4, 0) + looped(3u64, 0)
    }

    fn team_statistics(p: &ForwardParams) -> u64 {
        2 * (rest_rounds(p.width, p.lanes) + reduce_rounds())
    }

    pub(super) const FORWARD_LANE: Rounds = rounds!(ForwardParams, |p, _| statistics(p) + looped(p.width, 0));
    pub(super) const GATHER_LANE: Rounds = rounds!(ForwardParams, |p, _| statistics(p) + 2 * looped(p.width, 0));
    pub(super) const FORWARD_GROUP: Rounds =
        rounds!(ForwardParams, |p, _| team_statistics(p) + rest_rounds(p.width, p.lanes));
    pub(super) const GATHER_GROUP: Rounds =
        rounds!(ForwardParams, |p, _| team_statistics(p) + 2 * rest_rounds(p.width, p.lanes));
    pub(super) const MEANS: Rounds = rounds!(BackwardParams, |p, _| looped(p.width, 0));
    pub(super) const COLUMNS: Rounds = rounds!(BackwardParams, |p, _| looped(p.slice, 0));
    pub(super) const BACKWARD: Rounds = rounds!(BackwardParams, |p, _| {
        let (rest, teams) = (rest_rounds(p.width, p.lanes), LANES as u32 / p.lanes.max(1));
        rest + looped(p.slice.div_ceil(teams.max(1)), 2 * rest + reduce_rounds())
    });
    pub(super) const TOTALS_LANE: Rounds = rounds!(BackwardParams, |p, _| looped(p.rows / 2, 0));
    pub(super) const TOTALS_GROUP: Rounds = rounds!(BackwardParams, |p, _| strip_rounds(p.rows));
}

/// A form from the end of its kernels' names and its tiles.
macro_rules! form {
    ($suffix:literal, $($tile:expr),+) => {{
        const FORWARDS: &[Source] = &[
            wgsl!("layernorm.wgsl"),
            wgsl!("lib/grid.wgsl"),
            wgsl!("lib/four.wgsl"),
            wgsl!("lib/reduce.wgsl"),
            wgsl!("lib/fault.wgsl"),
            $($tile),+
        ];
        const BACKWARDS: &[Source] = &[
            wgsl!("layernorm_backward.wgsl"),
            wgsl!("lib/grid.wgsl"),
            wgsl!("lib/four.wgsl"),
            wgsl!("lib/reduce.wgsl"),
            wgsl!("lib/columns.wgsl"),
            $($tile),+
        ];
        Form {
            forward: ByFamily {
                lane: kernel(concat!("layernorm.forward_lane", $suffix), FORWARDS, "forward_lane", cost::FORWARD_LANE),
                group: kernel(concat!("layernorm.forward_group", $suffix), FORWARDS, "forward_group", cost::FORWARD_GROUP),
            },
            gather: ByFamily {
                lane: Kernel {
                    bindings: GATHER,
                    ..kernel(concat!("layernorm.gather_lane", $suffix), FORWARDS, "gather_lane", cost::GATHER_LANE)
                },
                group: Kernel {
                    bindings: GATHER,
                    ..kernel(concat!("layernorm.gather_group", $suffix), FORWARDS, "gather_group", cost::GATHER_GROUP)
                },
            },
            means: backward_kernel(concat!("layernorm.means_lane", $suffix), BACKWARDS, "means_lane", MEANS, cost::MEANS),
            columns: backward_kernel(concat!("layernorm.columns_lane", $suffix), BACKWARDS, "columns_lane", COLUMNS, cost::COLUMNS),
            backward: backward_kernel(
                concat!("layernorm.backward_group", $suffix),
                BACKWARDS,
                "backward_group",
                BACKWARD,
                cost::BACKWARD,
            ),
            totals: ByFamily {
                lane: backward_kernel(concat!("layernorm.totals_lane", $suffix), BACKWARDS, "totals_lane", TOTALS, cost::TOTALS_LANE),
                group: backward_kernel(concat!("layernorm.totals_group", $suffix), BACKWARDS, "totals_group", TOTALS, cost::TOTALS_GROUP),
            },
        }
    }};
}

static VEC4: Form = form!("", wgsl!("tiles/vec4.wgsl"), wgsl!("tiles/columns_vec4.wgsl"), wgsl!("tiles/act_f32.wgsl"));
static VEC4_F16: Form = form!(
    ".f16",
    wgsl!("tiles/vec4.wgsl"),
    wgsl!("tiles/columns_vec4.wgsl"),
    wgsl!("tiles/act_f16.wgsl", enable "f16")
);
static SCALAR: Form =
    form!(".scalar", wgsl!("tiles/scalar.wgsl"), wgsl!("tiles/columns_scalar.wgsl"), wgsl!("tiles/act_scalar.wgsl"));

/// By what x is read in and y written as.
pub(super) static FORMS: ByItem<&Form> = ByItem::new(&VEC4, &SCALAR).with_half(&VEC4_F16);

/// Every kernel of this file.
pub(in crate::ops) fn kernels() -> Vec<&'static Kernel> {
    let of = |form: &'static Form| {
        let families = [&form.forward, &form.gather, &form.totals].into_iter().flat_map(ByFamily::both);
        families.chain([&form.means, &form.columns, &form.backward]).collect::<Vec<_>>()
    };
    [&VEC4, &VEC4_F16, &SCALAR].into_iter().flat_map(of).collect()
}
