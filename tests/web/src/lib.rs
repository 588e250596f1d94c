//! `tests/training/awaited.rs` for WebAssembly.

use wasm_bindgen::prelude::*;
use wgrad::gpu::{Gpu, GpuOptions, KernelFamily};

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
    }
    Ok(adapter)
}
