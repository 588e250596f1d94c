//! Every operation on this device against its reference on the CPU, and its gradient against differences.

#[path = "../../tests/gradcheck/rows.rs"]
pub mod rows;

use std::collections::BTreeSet;

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
/// that a device may come to, its matrix units among them, are hundreds of kernels to compile. What cannot be tested, as where the device
/// is lost, has failed.
pub fn run(adapter: &AdapterChoice, own: &Gpu, all: bool) -> SelfTest {
    let options = GpuOptions { adapter: Some(adapter.clone()), ..Default::default() };
    let mut tested = SelfTest::default();
    let mut names = BTreeSet::new();
    for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
        complain!("self-test, {family:?} kernels");
        let options = GpuOptions { family: Some(family), ..options.clone() };
        names.extend(tested.profiled(&options, family, |gpu| {
            let mut checks = basics(gpu, family == own.family());
            checks.extend(if all { variants::run(gpu) } else { Vec::new() });
            checks
        }));
    }
    if all {
        let options = GpuOptions { matrix_units: true, ..options };
        names.extend(tested.profiled(&options, own.family(), |gpu| {
            gpu.matrix_units().map_or_else(Vec::new, |lanes| variants::matrix_units(gpu, lanes))
        }));
    }
    // SAFETY: only their names are looked at.
    let all: BTreeSet<&str> = unsafe { wgrad::kernels() }.iter().map(|kernel| kernel.name).collect();
    tested.kernels_run = all.intersection(&names).count();
    tested.kernels_left = all.difference(&names).copied().collect();
    tested
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
    /// Notes these checks on a device of their own, and returns the kernels that ran in them.
    fn profiled(
        &mut self,
        options: &GpuOptions,
        family: KernelFamily,
        checks: impl FnOnce(&Gpu) -> Vec<Named>,
    ) -> Vec<&'static str> {
        let gpu = match Gpu::with_options(options) {
            Ok(gpu) => gpu,
            Err(error) => {
                self.note_all(family, vec![("opening the device".to_owned(), Err(error.into()))]);
                return Vec::new();
            }
        };
        gpu.start_profile();
        self.note_all(family, checks(&gpu));
        gpu.take_profile().iter().map(|row| row.kernel).collect()
    }

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
