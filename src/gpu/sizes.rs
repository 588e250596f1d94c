//! What other crates' kernels declare of their bindings.
//!
//! wgpu holds it against what is bound only while a dispatch is encoded, and what does not fit there spoils the whole submission. So it is
//! looked at before a dispatch is recorded.

use wgpu::naga::front::wgsl;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};

use super::compile::joined_source;
use super::kernel::Kernel;

/// The fewest bytes that each storage binding takes, where an array without a length counts one element; 0 for one that the entry point
/// does not use. Empty where the source is no WGSL or has no such entry point: compiling it says so.
pub(super) fn least_sizes(kernel: &Kernel) -> Vec<u64> {
    declared(kernel).unwrap_or_default()
}

fn declared(kernel: &Kernel) -> Option<Vec<u64>> {
    let module = wgsl::parse_str(&joined_source(kernel.sources)).ok()?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module).ok()?;
    let used = info.get_entry_point(module.entry_points.iter().position(|entry| entry.name == kernel.entry)?);
    let mut least = vec![0; kernel.bindings.len()];
    for (_, variable) in module.global_variables.iter().filter(|(handle, _)| !used[*handle].is_empty()) {
        let Some(place) = variable.binding.filter(|place| place.group == 0) else { continue };
        if let Some(least) = least.get_mut(place.binding as usize) {
            *least = module.types[variable.ty].inner.try_size(module.to_ctx()).map_or(0, u64::from);
        }
    }
    Some(least)
}
