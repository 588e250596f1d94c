//! What the system has left.

use crate::gpu::Gpu;

/// Memory that is free for a run, in bytes: the machine's own where the device shares it, as CPU drivers and integrated
/// GPUs do, within the limits of a container. `None` for other devices, which do not tell, and where the system does not.
pub fn available_memory(gpu: &Gpu) -> Option<u64> {
    if !gpu.info().shares_host_memory() {
        return None;
    }
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    Some(system.available_memory().min(container)).filter(|&bytes| bytes > 0)
}
