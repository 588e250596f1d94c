//! `tests/training/awaited.rs` for WebAssembly.

use wasm_bindgen::prelude::*;
use wgrad::Tensor;
use wgrad::gpu::{Access, Gpu, GpuOptions, Grid, Kernel, KernelFamily, Source, params};

#[path = "../../training/awaited.rs"]
mod awaited;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

/// A panic is else no more than `unreachable`.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
}

params!(NoParams { none: u32 });

/// Which no compiler takes.
static BROKEN: Kernel = Kernel::new::<NoParams>(
    "broken.main",
    &[Source::new("broken.wgsl", "@compute @workgroup_size(1) fn main() { nothing(); }")],
    "main",
    &[Access::Write],
);

/// A browser says after the call that a kernel does not compile: what is read next must be an error, not what was there before.
async fn reports_a_broken_kernel(gpu: &Gpu) -> Result<(), JsError> {
    let x = Tensor::from_slice(gpu, &[4], &[1.0f32; 4])?;
    gpu.dispatch(&BROKEN, &NoParams { none: 0 }, &[x.buffer()], Grid::new(1, 1, 1))?;
    match x.read::<f32>().await {
        Ok(_) => Err(JsError::new("a kernel that does not compile passed for one that has run")),
        Err(_) => Ok(()),
    }
}

/// Trains with each family of kernels; resolves to what they ran on.
#[wasm_bindgen]
pub async fn train() -> Result<String, JsError> {
    let mut adapter = String::new();
    for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
        let options = GpuOptions { default_limits: true, family: Some(family), ..Default::default() };
        let gpu = Gpu::request(&options).await?;
        adapter = gpu.info().to_string();
        let trained = awaited::train(&gpu).await;
        trained.map_err(|error| JsError::new(&format!("{family:?} on {adapter}: {error}")))?;
        reports_a_broken_kernel(&gpu).await?;
    }
    Ok(adapter)
}
