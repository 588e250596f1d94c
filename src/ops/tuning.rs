//! What has been settled for a device about the plans of its products: a table that [`plan`] looks up, and the same as
//! plain data that can be stored.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

use super::gemm::Layout;
use super::gemm_forms::{Ending, SIMPLE, Types};
use super::gemm_plan::{Facts, Plan, Product, Shape, matrix_form, plans, whole};
use crate::gpu::Gpu;
use crate::shape::DType;

/// The plans that were found best for a device's matrix products. It is plain data: where it comes from need not be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tuning {
    /// One for each kind of product.
    pub products: Vec<TunedProduct>,
}

/// A matrix product C = A·B and the plan that it is made by. The plan serves all products whose sizes round up to the same
/// ones: to the next of eight steps between a power of two and the next.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TunedProduct {
    /// `nn`, `nt` or `tn`: which operand is stored transposed.
    pub layout: String,
    /// Element types of A, B and C: `f32` or `f16`.
    pub types: [String; 3],
    /// What follows the product in its store: `plain`, `bias`, `gelu`, `gelu_backward`, `residual` or `scatter`.
    pub ending: String,
    /// Whether every row starts at a multiple of four elements.
    pub aligned: bool,
    /// Whether K may be split.
    pub can_split: bool,
    /// M, N, K.
    pub size: [usize; 3],
    /// Matrices.
    pub batch: usize,
    /// The kernel's form.
    pub body: String,
    /// The form for the rows that do not fill a tile of `body`, if it is another.
    pub rest: Option<String>,
    /// In how many parts K is split.
    pub split: usize,
}

const LAYOUTS: &[(&str, Layout)] = &[("nn", Layout::Nn), ("nt", Layout::Nt), ("tn", Layout::Tn)];
const TYPES: &[(&str, DType)] = &[("f32", DType::F32), ("f16", DType::F16)];
const ENDINGS: &[(&str, Ending)] = &[
    ("plain", Ending::Plain),
    ("sums", Ending::Sums),
    ("linear", Ending::Linear),
    ("gelu", Ending::Gelu),
    ("gelu_backward", Ending::GeluBackward),
    ("scatter", Ending::Scatter),
];

fn named<T: Copy>(all: &[(&str, T)], name: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
}

fn name_of<T: PartialEq>(all: &[(&str, T)], value: &T) -> String {
    all.iter().find(|(_, known)| known == value).map_or_else(String::new, |(name, _)| (*name).to_owned())
}

impl TunedProduct {
    fn new(entry: &Entry) -> Self {
        let Product { shape, types, ending } = entry.product;
        TunedProduct {
            layout: name_of(LAYOUTS, &shape.layout),
            types: types.map(|dtype| name_of(TYPES, &dtype)),
            ending: name_of(ENDINGS, &ending),
            aligned: shape.aligned,
            can_split: shape.can_split,
            size: shape.size,
            batch: shape.batch,
            body: entry.plan.body.name.to_owned(),
            rest: entry.plan.rest.map(|form| form.name.to_owned()),
            split: entry.plan.split,
        }
    }

    /// The product, if there can be such a one.
    fn product(&self) -> Option<Product> {
        let [a, b, c] = &self.types;
        let types: Types = [named(TYPES, a)?, named(TYPES, b)?, named(TYPES, c)?];
        let shape = Shape {
            layout: named(LAYOUTS, &self.layout)?,
            size: self.size,
            batch: self.batch,
            aligned: self.aligned,
            can_split: self.can_split,
            half: types.contains(&DType::F16),
        };
        let [m, n, k] = self.size;
        let exist =
            [[m, k], [k, n], [m, n]].iter().all(|&[x, y]| crate::shape::Shape::new(&[self.batch, x, y]).is_some());
        exist.then_some(Product { shape, types, ending: named(ENDINGS, &self.ending)? })
    }

    /// The product and its plan, if this is one that [`plans`] offers.
    fn entry(&self, facts: Facts) -> Option<Entry> {
        let product = self.product()?;
        let plan = plans(facts, &product).into_iter().find(|plan| self.names(plan))?;
        Some(Entry { product, plan })
    }

    fn names(&self, plan: &Plan) -> bool {
        plan.body.name == self.body
            && plan.rest.map(|form| form.name) == self.rest.as_deref()
            && plan.split == self.split
    }
}

/// A product that was looked at, and the plan for it and its like.
#[derive(Clone, Copy)]
struct Entry {
    product: Product,
    plan: Plan,
}

/// A device's table.
#[derive(Default)]
struct Table {
    /// By bucket.
    entries: RwLock<HashMap<Product, Entry>>,
    /// Whether matrix units have been found to compute what they should.
    matrix_units: OnceLock<bool>,
}

/// What a dry run has asked for: by bucket, its first product and how often it came.
#[derive(Default)]
struct Demands(Mutex<HashMap<Product, Demand>>);

/// A kind of matrix product that a program asks for.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// The first that came.
    pub(super) product: Product,
    pub(super) times: u64,
}

/// The facts of a device.
pub(super) fn facts(gpu: &Gpu) -> Facts {
    let trusted = || gpu.attachment::<Table>().matrix_units.get() == Some(&true);
    Facts {
        family: gpu.family(),
        mesa: gpu.info().mesa_version(),
        matrix_units: gpu.matrix_units().filter(|_| trusted()),
    }
}

/// The plan for a product: the one that was found best, else the first of [`plans`]. In either case it is one of those
/// that fit this very product.
pub(super) fn plan(gpu: &Gpu, product: Product) -> Plan {
    let bucket = product.bucket();
    if gpu.is_dry_run() {
        note(gpu, bucket, product);
    }
    let candidates = plans(facts(gpu), &product);
    let tuned = entry(gpu, &bucket).and_then(|entry| candidates.iter().find(|plan| plan.same(&entry.plan)));
    // A product that nothing makes is refused where its kernel is looked up.
    tuned.or(candidates.first()).copied().unwrap_or_else(|| whole(&SIMPLE))
}

fn entry(gpu: &Gpu, bucket: &Product) -> Option<Entry> {
    gpu.attachment::<Table>().entries.read().unwrap_or_else(PoisonError::into_inner).get(bucket).copied()
}

/// Whether the product's like has a plan that stays.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn is_settled(gpu: &Gpu, product: Product) -> bool {
    entry(gpu, &product.bucket()).is_some()
}

/// Settles the plan for a product and its like, unless that has been done; says whether it was done now.
pub(super) fn settle(gpu: &Gpu, product: Product, plan: Plan) -> bool {
    let table = gpu.attachment::<Table>();
    let mut entries = table.entries.write().unwrap_or_else(PoisonError::into_inner);
    let bucket = product.bucket();
    let new = !entries.contains_key(&bucket);
    entries.entry(bucket).or_insert(Entry { product, plan });
    new
}

fn note(gpu: &Gpu, bucket: Product, product: Product) {
    let demands = gpu.attachment::<Demands>();
    let mut demands = demands.0.lock().unwrap_or_else(PoisonError::into_inner);
    demands.entry(bucket).or_insert(Demand { product, times: 0 }).times += 1;
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

impl Gpu {
    /// The plans that were settled for this device, by [`crate::ops::tune`] or [`Gpu::set_tuning`], in a fixed order.
    pub fn tuning(&self) -> Tuning {
        let table = self.attachment::<Table>();
        let entries = table.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut products: Vec<TunedProduct> = entries.values().map(TunedProduct::new).collect();
        products.sort_by_cached_key(|p| format!("{p:?}"));
        Tuning { products }
    }

    /// Replaces the plans that were settled for this device and returns how many entries were left out: those that do not
    /// name a product and a plan that this device can make it by, those of matrix units unless the device's are right,
    /// which is tried out first, and second ones for like products. An entry that is taken can change the last bits of
    /// a product, and its time, nothing else. To begin anew, set `Tuning::default()`.
    pub fn set_tuning(&self, tuning: &Tuning) -> usize {
        let form = self.matrix_units().and_then(matrix_form);
        if form.is_some_and(|form| tuning.products.iter().any(|p| p.body == form.name)) {
            trust_matrix_units(self);
        }
        let facts = facts(self);
        self.attachment::<Table>().entries.write().unwrap_or_else(PoisonError::into_inner).clear();
        let entries = tuning.products.iter().filter_map(|product| product.entry(facts));
        let taken = entries.filter(|entry| settle(self, entry.product, entry.plan)).count();
        tuning.products.len() - taken
    }
}

/// Tries the matrix units out, once; from then on [`choose`] lists them if they are right.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn trust_matrix_units(gpu: &Gpu) {
    if gpu.matrix_units().is_some() && !gpu.is_dry_run() {
        gpu.attachment::<Table>().matrix_units.get_or_init(|| super::matrix_units::are_right(gpu));
    }
}

/// A browser has none.
#[cfg(target_arch = "wasm32")]
pub(super) fn trust_matrix_units(_gpu: &Gpu) {}
