//! Every operation on this device against its reference on the CPU, and its gradient against differences.

#[path = "../../tests/gradcheck/rows.rs"]
mod rows;

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;
use wgrad::gpu::{AdapterChoice, AdapterInfo, Gpu, GpuOptions, KernelFamily};

use crate::check::values;
use crate::console::complain;
use crate::row::{Row, Shape};
use crate::{language, ops, products, update, variants};

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
/// that a device may come to are hundreds of kernels to compile.
pub fn run(adapters: &[AdapterInfo], own: &Gpu, all: bool) -> Result<SelfTest> {
    let place = adapters.iter().position(|info| info.name == own.info().name && info.driver == own.info().driver);
    let mut tested = SelfTest::default();
    let mut names = BTreeSet::new();
    for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
        complain!("self-test, {family:?} kernels");
        let options =
            GpuOptions { adapter: place.map(AdapterChoice::Index), family: Some(family), ..Default::default() };
        let gpu = Gpu::with_options(&options)?;
        gpu.start_profile();
        let of_words = if family == own.family() { language::rows() } else { Vec::new() };
        for row in small_rows().into_iter().chain(of_words) {
            tested.note(family, &row.name, (row.build)(&gpu).and_then(|op| (op.check)()));
        }
        for row in rows::ROWS {
            tested.note(family, &format!("gradient of {}", row.name), row.check(&gpu).map_err(Into::into));
        }
        if all {
            for (name, result) in variants::run(&gpu)? {
                tested.note(family, &name, result);
            }
        }
        names.extend(gpu.take_profile().iter().map(|row| row.kernel));
    }
    // SAFETY: only their names are looked at.
    let all: BTreeSet<&str> = unsafe { wgrad::kernels() }.iter().map(|kernel| kernel.name).collect();
    tested.kernels_run = all.intersection(&names).count();
    tested.kernels_left = all.difference(&names).copied().collect();
    Ok(tested)
}

impl SelfTest {
    fn note(&mut self, family: KernelFamily, what: &str, result: Result<()>) {
        self.checks += 1;
        if let Err(error) = result {
            self.failures.push(format!("{what} ({family:?}): {error:#}"));
        }
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
