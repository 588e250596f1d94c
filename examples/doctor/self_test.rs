//! Every operation on this device against its reference on the CPU, and its gradient against differences.

#[path = "../../tests/gradcheck/rows.rs"]
pub mod rows;

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions, KernelFamily};

use crate::check::values;
use crate::console::complain;
use crate::row::{Row, Shape};
use crate::variants::Named;
use crate::{choices, language, ops, products, update, variants};

#[derive(Default, Serialize)]
pub struct SelfTest {
    /// Checks that were made.
    pub checks: usize,
    /// Those that failed, with what was wrong.
    pub failures: Vec<String>,
    /// Kernels of the library that ran in them, …
    pub kernels_run: usize,
    /// … and those that did not.
    pub kernels_left: Vec<&'static str>,
}

/// With the kernels of both families, since a program may ask for either; tens of thousands of classes with the device's own alone. `all`
/// that a device may come to, its matrix units among them, are hundreds of kernels to compile.
pub fn run(adapter: &AdapterChoice, own: &Gpu, all: bool) -> Result<SelfTest> {
    let options = GpuOptions { adapter: Some(adapter.clone()), ..Default::default() };
    let mut tested = SelfTest::default();
    let mut names = BTreeSet::new();
    for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
        complain!("self-test, {family:?} kernels");
        let gpu = Gpu::with_options(&GpuOptions { family: Some(family), ..options.clone() })?;
        gpu.start_profile();
        tested.note_all(family, basics(&gpu, family == own.family()));
        if all {
            tested.note_all(family, variants::run(&gpu)?);
        }
        names.extend(gpu.take_profile().iter().map(|row| row.kernel));
    }
    if all {
        let gpu = Gpu::with_options(&GpuOptions { matrix_units: true, ..options })?;
        if let Some(lanes) = gpu.matrix_units() {
            gpu.start_profile();
            tested.note_all(gpu.family(), variants::matrix_units(&gpu, lanes)?);
            names.extend(gpu.take_profile().iter().map(|row| row.kernel));
        }
    }
    // SAFETY: only their names are looked at.
    let all: BTreeSet<&str> = unsafe { wgrad::kernels() }.iter().map(|kernel| kernel.name).collect();
    tested.kernels_run = all.intersection(&names).count();
    tested.kernels_left = all.difference(&names).copied().collect();
    Ok(tested)
}

/// Every operation, and every gradient.
fn basics(gpu: &Gpu, with_words: bool) -> Vec<Named> {
    let of_words = if with_words { language::rows() } else { Vec::new() };
    let rows = small_rows().into_iter().chain(of_words);
    let operations = rows.map(|row| (row.name, (row.build)(gpu).and_then(|op| (op.check)())));
    let gradient = |row: &rows::Row| (format!("gradient of {}", row.name), row.check(gpu).map_err(Into::into));
    operations.chain(rows::ROWS.iter().map(gradient)).chain(choices::run(gpu)).collect()
}

impl SelfTest {
    pub fn note_all(&mut self, family: KernelFamily, checks: Vec<Named>) {
        self.checks += checks.len();
        let failed = checks.into_iter().filter_map(|(name, result)| Some((name, result.err()?)));
        self.failures.extend(failed.map(|(name, error)| format!("{name} ({family:?}): {error:#}")));
    }
}

/// Of a ViT-Ti on small pictures, and of the update.
fn small_rows() -> Vec<Row> {
    let shape = Shape { name: "ti/65".to_owned(), batch: 2, tokens: 65, width: 192, heads: 3 };
    let mut rows = products::square(256);
    rows.extend(products::linear(&shape));
    rows.extend(ops::rows(&shape));
    rows.extend(update::rows("ti", 192));
    rows
}
