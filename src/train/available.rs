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
    let limits = system.cgroup_limits().map(|limits| [limits.total_memory, limits.rss]);
    Some(left(system.available_memory(), limits)).filter(|&bytes| bytes > 0)
}

/// Of `available` bytes of a machine, what a container leaves whose limit and whose processes' own memory are so large. The memory
/// of files that it has read counts against its limit too, but makes room for whoever asks, as the machine's does.
fn left(available: u64, container: Option<[u64; 2]>) -> u64 {
    container.map_or(available, |[limit, own]| available.min(limit.saturating_sub(own)))
}

#[cfg(test)]
mod tests {
    use super::left;

    #[test]
    fn what_a_container_leaves() {
        assert_eq!(left(20, None), 20);
        assert_eq!(left(20, Some([24, 2])), 20, "no limit below the machine's memory");
        assert_eq!(left(20, Some([8, 2])), 6);
        assert_eq!(left(20, Some([8, 9])), 0);
    }
}
