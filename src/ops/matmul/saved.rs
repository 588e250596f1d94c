//! The plans that were settled for a device as plain data, which can be stored and is not trusted.

#[cfg(not(target_arch = "wasm32"))]
use super::plan::matrix_form;
use super::plan::{Facts, Plan, plans};
use super::product::{EpilogueKind, Layout, Product, Types};
use super::table::{self, Demand, Entry};
#[cfg(not(target_arch = "wasm32"))]
use super::units;
use crate::gpu::Gpu;
use crate::ops::Gelu;
use crate::shape::{DType, Shape};

/// The plans that were found best for a device's matrix products. It is plain data: where it comes from need not be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tuning {
    /// One for each kind of product.
    pub products: Vec<TunedProduct>,
}

/// What [`Gpu::set_tuning`] made of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settled {
    /// Entries that are used from now on.
    pub taken: usize,
    /// Entries that are not.
    pub ignored: usize,
}

/// A matrix product C = A·B and the plan that it is made by. The plan serves all products whose sizes round up to the same
/// ones: to the next of eight steps between a power of two and the next.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TunedProduct {
    /// `nn`, `nt` or `tn`: which operand is stored transposed.
    pub layout: String,
    /// Element types of A, B and C: `f32` or `f16`.
    pub types: [String; 3],
    /// What follows the product in its store: `plain`, `sums`, `linear`, `gelu`, `gelu_backward`, the two with `_tanh` or
    /// `_quick` behind, or `scatter`.
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
const EPILOGUES: &[(&str, EpilogueKind)] = &[
    ("plain", EpilogueKind::Plain),
    ("sums", EpilogueKind::Sums),
    ("linear", EpilogueKind::Linear),
    ("gelu", EpilogueKind::Gelu(Gelu::Erf)),
    ("gelu_tanh", EpilogueKind::Gelu(Gelu::Tanh)),
    ("gelu_quick", EpilogueKind::Gelu(Gelu::Quick)),
    ("gelu_backward", EpilogueKind::GeluBackward(Gelu::Erf)),
    ("gelu_backward_tanh", EpilogueKind::GeluBackward(Gelu::Tanh)),
    ("gelu_backward_quick", EpilogueKind::GeluBackward(Gelu::Quick)),
    ("scatter", EpilogueKind::Scatter),
];

fn named<T: Copy>(all: &[(&str, T)], name: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
}

fn name_of<T: PartialEq>(all: &[(&str, T)], value: &T) -> String {
    all.iter().find(|(_, known)| known == value).map_or_else(String::new, |(name, _)| (*name).to_owned())
}

impl Tuning {
    /// The products that were asked for by one form of kernel, as [`TunedProduct::body`] names it: for tests. What a device cannot
    /// make by it, [`Gpu::set_tuning`] leaves to the rules.
    pub fn by_form(demands: &[Demand], form: &str) -> Self {
        let entry = |demand: &Demand| TunedProduct::named(&demand.product, form, None, 1);
        Tuning { products: demands.iter().map(entry).collect() }
    }
}

impl TunedProduct {
    fn new(entry: &Entry) -> Self {
        let Entry { product, plan } = entry;
        Self::named(product, plan.body.name, plan.rest.map(|form| form.name), plan.split)
    }

    fn named(product: &Product, body: &str, rest: Option<&str>, split: usize) -> Self {
        TunedProduct {
            layout: name_of(LAYOUTS, &product.layout),
            types: product.types.map(|dtype| name_of(TYPES, &dtype)),
            ending: name_of(EPILOGUES, &product.epilogue),
            aligned: product.aligned,
            can_split: product.can_split,
            size: product.size,
            batch: product.batch,
            body: body.to_owned(),
            rest: rest.map(str::to_owned),
            split,
        }
    }

    /// The product, if there can be such a one.
    fn product(&self) -> Option<Product> {
        let [a, b, c] = &self.types;
        let types: Types = [named(TYPES, a)?, named(TYPES, b)?, named(TYPES, c)?];
        let product = Product {
            layout: named(LAYOUTS, &self.layout)?,
            size: self.size,
            batch: self.batch,
            aligned: self.aligned,
            can_split: self.can_split,
            types,
            epilogue: named(EPILOGUES, &self.ending)?,
        };
        let [m, n, k] = self.size;
        let exist = [[m, k], [k, n], [m, n]].iter().all(|&[x, y]| Shape::new(&[self.batch, x, y]).is_some());
        exist.then_some(product)
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

impl Gpu {
    /// The plans that were settled for this device, by [`crate::ops::tune`] or [`Gpu::set_tuning`], in a fixed order.
    pub fn tuning(&self) -> Tuning {
        let mut products: Vec<TunedProduct> = table::settled(self).iter().map(TunedProduct::new).collect();
        products.sort_by_cached_key(|p| format!("{p:?}"));
        Tuning { products }
    }

    /// Replaces the plans that were settled for this device and says how many entries were left out: those that do not
    /// name a product and a plan that this device can make it by, those of matrix units unless the device's are right,
    /// which is tried out first, and second ones for like products. An entry that is taken can change the last bits of
    /// a product, and its time, nothing else; one of matrix units computes with both operands in f16. To begin anew, set `Tuning::default()`.
    pub fn set_tuning(&self, tuning: &Tuning) -> Settled {
        // A browser has no matrix units.
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(form) = self.matrix_units().and_then(matrix_form)
            && tuning.products.iter().any(|product| product.body == form.name)
        {
            units::try_out(self);
        }
        let facts = table::facts(self);
        table::clear(self);
        let entries = tuning.products.iter().filter_map(|product| product.entry(facts));
        let taken = entries.filter(|entry| table::settle(self, entry.product, entry.plan)).count();
        Settled { taken, ignored: tuning.products.len() - taken }
    }
}
