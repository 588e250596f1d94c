//! The adapter that a device is of, to be opened again.

use wgrad::gpu::{AdapterChoice, Gpu, Power};

/// What opens the adapter of `gpu` again, which was opened by `choice`: of several with one name and driver that of the same number.
pub fn same_adapter(choice: Option<&AdapterChoice>, gpu: &Gpu) -> AdapterChoice {
    let own = gpu.info().to_string();
    let is_there = |at: usize| Gpu::adapters(Power::High).get(at).is_some_and(|info| info.to_string() == own);
    match choice {
        Some(&AdapterChoice::Index(at)) if is_there(at) => AdapterChoice::Index(at),
        _ => AdapterChoice::Name(own),
    }
}
