//! Which form of the kernel makes which rows of a product.

use super::forms::{
    COOPERATIVE_8, COOPERATIVE_32, FEW, FEW_GROUP, FEW_LANE, Form, ROWS_16, ROWS_32, ROWS_64, SIMPLE, TILE_32, TILE_64,
    TILE_128,
};
use super::product::{Layout, Product};
use crate::gpu::KernelFamily;
use crate::ops::item::LANES;
use crate::ops::variants::ByFamily;

/// The facts of a device by which [`choose`] ranks the forms.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    pub(super) family: KernelFamily,
    /// Mesa's major version, if the driver is Mesa's.
    pub(super) mesa: Option<u32>,
    /// Invocations of a subgroup of matrix units whose results have been found right.
    pub(super) matrix_units: Option<u32>,
}

/// How a product is cut.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Makes all rows, or with a `rest` only as many as fill its tiles.
    pub(super) body: &'static Form,
    /// Makes the rows that are left, in a dispatch of its own.
    pub(super) rest: Option<&'static Form>,
    /// In how many products K is split, whose results are then added up.
    pub(super) split: usize,
}

impl Plan {
    /// Whether its forms have the kernel that a product needs.
    fn makes(&self, product: &Product) -> bool {
        let Product { layout, types, epilogue, .. } = *product;
        [Some(self.body), self.rest].into_iter().flatten().all(|form| form.kernel(layout, types, epilogue).is_some())
    }

    /// Whether the two cut a product in the same way.
    pub(super) fn same(&self, other: &Plan) -> bool {
        let names = |plan: &Plan| (plan.body.name, plan.rest.map(|form| form.name), plan.split);
        names(self) == names(other)
    }
}

/// The plans for a device and a product, the best first.
pub(super) fn plans(facts: Facts, product: &Product) -> Vec<Plan> {
    let mut plans = choose(facts, product);
    plans.retain(|plan| plan.makes(product));
    plans
}

/// The plans for a device and a product's sizes, by what they are expected to cost, the best first. The figures were read off
/// lavapipe 22.3 and 26.2 (docs/benchmarks.md); for GPUs they stand on published ones.
fn choose(facts: Facts, product: &Product) -> Vec<Plan> {
    if is_few(product, FEW) {
        let forms = ByFamily { lane: &FEW_LANE, group: &FEW_GROUP };
        return vec![whole(forms.pick(facts.family))];
    }
    let ahead = is_few_at_once(facts, product).then(|| whole(&FEW_GROUP));
    let mut plans = if !product.aligned {
        vec![(0.0, whole(&SIMPLE))]
    } else {
        match facts.family {
            KernelFamily::Lane => rows_plans(facts, product),
            KernelFamily::Workgroup => tile_plans(product),
        }
    };
    // Stable, so that of equal costs the first stays first.
    plans.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    // Matrix units come last: measuring alone can prefer them.
    ahead.into_iter().chain(plans.into_iter().map(|(_, plan)| plan)).chain(matrix_plan(facts, product)).collect()
}

/// Whether a layer sees so few rows, `most` of them, that reading its weight is all the work: as when text is
/// generated, a token at a time.
fn is_few(product: &Product, most: usize) -> bool {
    let [rows, _, k] = product.size;
    product.layout == Layout::Nt && product.batch == 1 && product.aligned && rows <= most && k.is_multiple_of(4)
}

/// The most rows of which [`FEW_GROUP`] is thought of.
const FEW_AT_ONCE: usize = 16;

/// Whether a GPU makes a few more rows by [`FEW_GROUP`] all the same, of which every four read the weight anew: where
/// all of its workgroups run at once, so that they read it in step and the memory gives it once. Tiles would leave most
/// of the device idle there.
fn is_few_at_once(facts: Facts, product: &Product) -> bool {
    let [rows, columns, _] = product.size;
    let groups = rows.div_ceil(FEW_GROUP.rows) * columns.div_ceil(FEW_GROUP.columns);
    let at_once = groups as f64 * LANES as f64 <= ENOUGH;
    facts.family == KernelFamily::Workgroup && is_few(product, FEW_AT_ONCE) && at_once
}

fn matrix_plan(facts: Facts, product: &Product) -> Option<Plan> {
    let form = matrix_form(facts.matrix_units?)?;
    (product.aligned && product.is_half()).then(|| whole(form))
}

/// The form for matrix units whose subgroups have `lanes` invocations.
pub(super) fn matrix_form(lanes: u32) -> Option<&'static Form> {
    match lanes {
        8 => Some(&COOPERATIVE_8),
        32 => Some(&COOPERATIVE_32),
        _ => None,
    }
}

/// A plan of one form and one dispatch.
pub(super) fn whole(body: &'static Form) -> Plan {
    Plan { body, rest: None, split: 1 }
}

/// Operations of all tiles of `form` that `rows` rows need, those of empty rows and columns included.
fn tile_flops(form: &Form, rows: usize, product: &Product) -> f64 {
    let [_, n, k] = product.size;
    let up = |size: usize, tile: usize| size.next_multiple_of(tile) as f64;
    2.0 * up(rows, form.rows) * up(n, form.columns) * k as f64 * product.batch as f64
}

/// On CPU drivers: the ways to cover the rows by tiles of one height, or by one and a smaller one for the rest.
fn rows_plans(facts: Facts, product: &Product) -> Vec<(f64, Plan)> {
    let rows = product.size[0];
    // What a row costs in a tile of 32 and of 16, relative to one of 64, and a dispatch, in operations of a tile of 64. The
    // older driver gains more from tall tiles.
    let (of_32, of_16, dispatch) =
        if facts.mesa.is_some_and(|v| v >= 25) { (1.14, 1.6, 3.5e6) } else { (1.52, 2.4, 2e6) };
    let thin = (product.layout != Layout::Tn).then_some((&ROWS_16, of_16));
    let forms: Vec<(&'static Form, f64)> =
        [Some((&ROWS_64, 1.0)), Some((&ROWS_32, of_32)), thin].into_iter().flatten().collect();
    let mut plans = Vec::new();
    for &(body, cost) in &forms {
        plans.push((dispatch + cost * tile_flops(body, rows, product), whole(body)));
        let left = rows % body.rows;
        if left == 0 || left == rows {
            continue;
        }
        for &(rest, rest_cost) in forms.iter().filter(|(rest, _)| rest.rows < body.rows) {
            let made = cost * tile_flops(body, rows - left, product) + rest_cost * tile_flops(rest, left, product);
            plans.push((2.0 * dispatch + made, Plan { rest: Some(rest), ..whole(body) }));
        }
    }
    plans
}

/// As many invocations fill a GPU.
const ENOUGH: f64 = 32_768.0;
/// From here on K may be split: below, the sum of the parts costs more than it gains.
const DEEP: usize = 2048;
/// Steps of K that a part keeps at least.
const SHARE: usize = 512;
/// Most parts.
const PARTS: usize = 32;

/// On GPUs: larger tiles reuse more of what they load, smaller ones fill the device with smaller products.
fn tile_plans(product: &Product) -> Vec<(f64, Plan)> {
    let [m, n, k] = product.size;
    let mut plans = Vec::new();
    // The form, its invocations, and the share of the peak that it is expected to reach on a full device.
    for (body, invocations, share) in [(&TILE_128, 256.0, 1.0), (&TILE_64, 128.0, 0.8), (&TILE_32, 64.0, 0.5)] {
        let groups = (m.div_ceil(body.rows) * n.div_ceil(body.columns)) as f64 * product.batch as f64;
        let filled = groups * invocations / ENOUGH;
        let time = |parts: f64| tile_flops(body, m, product) / share / (filled * parts).min(1.0);
        plans.push((time(1.0), whole(body)));
        let split = if product.can_split && k >= DEEP && filled < 0.5 { parts(k, 1.0 / filled) } else { 1 };
        if split > 1 {
            // Every part is written and read again, at about 16 operations an element.
            let sum = 2.0 * 16.0 * (m * n * split) as f64;
            plans.push((time(split as f64) + sum, Plan { split, ..whole(body) }));
        }
    }
    plans
}

/// The number of equal parts of K next below `wanted`.
fn parts(k: usize, wanted: f64) -> usize {
    let most = (wanted.ceil() as usize).min(PARTS).min(k / SHARE);
    (1..=most).rev().find(|parts| k.is_multiple_of(*parts)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::super::product::{EpilogueKind, Types};
    use super::*;
    use crate::shape::DType;

    const LANE: Facts = Facts { family: KernelFamily::Lane, mesa: Some(26), matrix_units: None };
    const WORKGROUP: Facts = Facts { family: KernelFamily::Workgroup, mesa: None, matrix_units: None };

    const FULL: Types = [DType::F32; 3];
    const HALF: Types = [DType::F16, DType::F32, DType::F16];

    fn product(layout: Layout, size: [usize; 3]) -> Product {
        let can_split = layout == Layout::Tn;
        Product { layout, size, batch: 1, aligned: true, can_split, types: FULL, epilogue: EpilogueKind::Plain }
    }

    /// The best plan as words.
    fn best(facts: Facts, product: Product) -> String {
        let Plan { body, rest, split } = choose(facts, &product)[0];
        let rest = rest.map_or(String::new(), |form| format!(" + {}", form.name));
        format!("{}{rest} / {split}", body.name)
    }

    #[test]
    fn rows_that_fill_no_tile_go_to_smaller_ones() {
        for (rows, expected) in [
            (512, "rows64 / 1"),
            (520, "rows64 + rows16 / 1"),
            (536, "rows64 + rows32 / 1"),
            (264, "rows64 + rows16 / 1"),
            (576, "rows64 / 1"),
            (9, "rows16 / 1"),
            (30, "rows32 / 1"),
        ] {
            assert_eq!(best(LANE, product(Layout::Nt, [rows, 768, 192])), expected, "{rows} rows");
        }
    }

    #[test]
    fn a_few_rows_have_a_form_of_their_own() {
        for (facts, few) in [(LANE, "few_lane / 1"), (WORKGROUP, "few_group / 1")] {
            let layer = product(Layout::Nt, [1, 768, 192]);
            let rows = |m| Product { size: [m, 768, 192], ..layer };
            for few_rows in [layer, rows(4), Product { types: HALF, ..layer }] {
                assert_eq!(best(facts, few_rows), few);
                assert_eq!(choose(facts, &few_rows).len(), 1, "there is nothing to measure");
            }
            // A few more only where all workgroups run at once.
            let more = if facts.family == KernelFamily::Lane { "rows16 / 1" } else { few };
            for rows in [rows(5), rows(8), Product { size: [16, 512, 192], ..layer }] {
                assert_eq!(best(facts, rows), more);
                assert!(choose(facts, &rows).len() > 1, "tuning may find another");
            }
            let others = [
                rows(16),
                Product { size: [17, 64, 192], ..layer },
                Product { size: [8, 50_256, 192], ..layer },
                Product { layout: Layout::Nn, ..layer },
                Product { batch: 2, ..layer },
                Product { aligned: false, ..layer },
                Product { size: [1, 768, 190], ..layer },
            ];
            for other in others {
                assert_ne!(best(facts, other), few, "{other:?}");
            }
        }
    }

    #[test]
    fn gpu_tiles_follow_the_size() {
        for (layout, size, expected) in [
            (Layout::Nn, [4096, 4096, 4096], "tile128 / 1"),
            (Layout::Nt, [1576, 768, 192], "tile64 / 1"),
            (Layout::Nt, [20, 10, 192], "tile32 / 1"),
            (Layout::Nt, [4096, 16, 512], "tile32 / 1"),
        ] {
            assert_eq!(best(WORKGROUP, product(layout, size)), expected, "{layout:?} {size:?}");
        }
    }

    #[test]
    fn deep_products_of_few_tiles_are_split_evenly() {
        let deep = product(Layout::Tn, [192, 192, 64 * 197]);
        let split = choose(WORKGROUP, &deep)[0].split;
        assert!(split > 1 && (64usize * 197).is_multiple_of(split), "{split}");
        assert_eq!(choose(WORKGROUP, &Product { can_split: false, ..deep })[0].split, 1);
        assert_eq!(choose(WORKGROUP, &product(Layout::Tn, [192, 192, 4099]))[0].split, 1, "a prime K");
        assert_eq!(choose(LANE, &deep)[0].split, 1);
    }

    /// Whatever is tried, it must fit: the ranking is what a tuning run may choose from.
    #[test]
    fn every_plan_can_run() {
        for facts in [LANE, WORKGROUP, Facts { mesa: None, ..LANE }] {
            for layout in [Layout::Nn, Layout::Nt, Layout::Tn] {
                for size in [[1, 1, 1], [65, 64, 65], [4096, 20, 4096], [3, 5000, 8]] {
                    let unaligned = Product { aligned: false, ..product(layout, size) };
                    assert!(choose(facts, &unaligned).iter().all(|plan| plan.body.name == "simple"));
                    for plan in choose(facts, &product(layout, size)) {
                        let forms = [Some(plan.body), plan.rest];
                        let thin = forms.into_iter().flatten().any(|form| form.name == "rows16");
                        assert!(!(thin && layout == Layout::Tn), "{layout:?} {size:?}");
                        assert!(size[2].is_multiple_of(plan.split), "{layout:?} {size:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn matrix_units_come_last_and_only_in_half_precision() {
        for facts in [LANE, WORKGROUP] {
            let facts = Facts { matrix_units: Some(8), ..facts };
            let half = Product { types: HALF, ..product(Layout::Nt, [1000, 768, 192]) };
            let names = |product| choose(facts, &product).iter().map(|plan| plan.body.name).collect::<Vec<_>>();
            assert_eq!(names(half).iter().filter(|name| name.starts_with("cooperative")).count(), 1);
            assert_eq!(names(half).last(), Some(&"cooperative8"));
            for without in [Product { types: FULL, ..half }, Product { aligned: false, ..half }] {
                assert!(!names(without).contains(&"cooperative8"));
            }
        }
    }
}
