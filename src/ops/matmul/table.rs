//! What has been settled for a device about the plans of its products, and what a dry run asked for.

use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustc_hash::FxHashMap;

use super::forms::SIMPLE;
use super::plan::{Facts, Plan, plans, whole};
use super::product::Product;
use crate::gpu::Gpu;

/// A product that was looked at, and the plan for it and its like.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) product: Product,
    pub(super) plan: Plan,
}

/// A device's table.
#[derive(Default)]
struct Table {
    plans: RwLock<Plans>,
    /// Whether matrix units have been found to compute what they should.
    matrix_units: OnceLock<bool>,
}

#[derive(Default)]
struct Plans {
    /// By bucket.
    settled: FxHashMap<Product, Entry>,
    /// What [`plan`] has answered, as long as nothing else is settled: a step asks for the same products as the last.
    answers: FxHashMap<Product, Plan>,
}

/// A program that asks for ever new sizes does not fill memory with their answers.
const MOST_ANSWERS: usize = 4096;

impl Table {
    fn read(&self) -> RwLockReadGuard<'_, Plans> {
        self.plans.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Plans> {
        self.plans.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a dry run has asked for: by bucket, its first product and how often it came.
#[derive(Default)]
struct Demands(Mutex<FxHashMap<Product, Demand>>);

/// A kind of matrix product that a program asks for.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// The first that came.
    pub(super) product: Product,
    pub(super) times: u64,
}

/// The facts of a device.
pub(super) fn facts(gpu: &Gpu) -> Facts {
    facts_by(gpu, &gpu.attachment::<Table>())
}

fn facts_by(gpu: &Gpu, table: &Table) -> Facts {
    Facts {
        family: gpu.family(),
        mesa: gpu.info().mesa_version(),
        matrix_units: gpu.matrix_units().filter(|_| table.matrix_units.get() == Some(&true)),
    }
}

/// The plan for a product: the one that was found best, else the first of [`plans`]. In either case it is one of those
/// that fit this very product.
pub(super) fn plan(gpu: &Gpu, product: Product) -> Plan {
    if gpu.is_dry_run() {
        note(gpu, product);
    }
    let table = gpu.attachment::<Table>();
    if let Some(plan) = table.read().answers.get(&product) {
        return *plan;
    }
    // Under the lock, so that no answer outlives what it follows from.
    let mut known = table.write();
    let candidates = plans(facts_by(gpu, &table), &product);
    let settled = known.settled.get(&product.bucket());
    let tuned = settled.and_then(|entry| candidates.iter().find(|plan| plan.same(&entry.plan)));
    // A product that nothing makes is refused where its kernel is looked up.
    let plan = tuned.or(candidates.first()).copied().unwrap_or_else(|| whole(&SIMPLE));
    if known.answers.len() >= MOST_ANSWERS {
        known.answers.clear();
    }
    known.answers.insert(product, plan);
    plan
}

/// Whether the product's like has a plan that stays.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn is_settled(gpu: &Gpu, product: Product) -> bool {
    gpu.attachment::<Table>().read().settled.contains_key(&product.bucket())
}

/// Settles the plan for a product and its like, unless that has been done; says whether it was done now.
pub(super) fn settle(gpu: &Gpu, product: Product, plan: Plan) -> bool {
    let table = gpu.attachment::<Table>();
    let mut plans = table.write();
    let bucket = product.bucket();
    let new = !plans.settled.contains_key(&bucket);
    plans.settled.entry(bucket).or_insert(Entry { product, plan });
    plans.answers.clear();
    new
}

/// All that is settled, in no order.
pub(super) fn settled(gpu: &Gpu) -> Vec<Entry> {
    gpu.attachment::<Table>().read().settled.values().copied().collect()
}

/// Forgets it.
pub(super) fn clear(gpu: &Gpu) {
    *gpu.attachment::<Table>().write() = Plans::default();
}

/// Lets [`plans`] list matrix units from now on, if `are_right`, which is asked once, says so.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn trust_matrix_units(gpu: &Gpu, are_right: impl FnOnce() -> bool) {
    let table = gpu.attachment::<Table>();
    table.matrix_units.get_or_init(are_right);
    table.write().answers.clear();
}

fn note(gpu: &Gpu, product: Product) {
    let demands = gpu.attachment::<Demands>();
    let mut demands = demands.0.lock().unwrap_or_else(PoisonError::into_inner);
    demands.entry(product.bucket()).or_insert(Demand { product, times: 0 }).times += 1;
}

/// The matrix products that were asked of a [`Gpu::dry_run`], of which there is a choice of plans; the most work first.
/// Empty for a device that computes: it does not keep a list.
pub fn demands(dry: &Gpu) -> Vec<Demand> {
    let facts = facts(dry);
    let noted = dry.attachment::<Demands>();
    let noted = noted.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all: Vec<Demand> = noted.values().copied().collect();
    drop(noted);
    all.retain(|demand| plans(facts, &demand.product).len() > 1);
    let work = |demand: &Demand| demand.product.flops() * demand.times as f64;
    // Of equal work, one order all the same: a table should not depend on that of a hash map.
    all.sort_by(|a, b| work(b).total_cmp(&work(a)).then_with(|| order(a).cmp(&order(b))));
    all
}

fn order(demand: &Demand) -> String {
    format!("{:?}", demand.product)
}
