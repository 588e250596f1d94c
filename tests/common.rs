//! What several test modules share: devices, random data, comparisons that say what differs.

use wgrad::gpu::{Gpu, GpuOptions, KernelFamily};
use wgrad::wgpu;

/// A device with exactly wgpu's default limits. A machine without an adapter fails here: tests are not skipped.
pub fn gpu() -> Gpu {
    open(None)
}

/// One device for each kernel family.
pub fn each_family() -> [Gpu; 2] {
    [open(Some(KernelFamily::Lane)), open(Some(KernelFamily::Workgroup))]
}

/// A device for tests of half precision, or `None` where the driver has none: the one reason not to run a test.
pub fn gpu_with_f16() -> Option<Gpu> {
    Some(gpu()).filter(Gpu::has_f16)
}

fn open(family: Option<KernelFamily>) -> Gpu {
    Gpu::with_options(&GpuOptions { default_limits: true, family, ..Default::default() }).expect("a GPU or CPU driver")
}

/// A device that a host program has opened for itself.
pub fn host_device(limits: wgpu::Limits) -> (wgpu::Adapter, wgpu::Device, wgpu::Queue) {
    pollster::block_on(async {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.expect("an adapter");
        let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
        let (device, queue) = adapter.request_device(&descriptor).await.expect("a device");
        (adapter, device, queue)
    })
}

/// Repeatable values in −1..1.
pub fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// Fails unless every value is within `tolerance` of the largest reference value.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], reference: &[f32], tolerance: f32) {
    assert_eq!(got.len(), reference.len(), "{what}: lengths");
    let largest = reference.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    // A NaN fails too: it is not within anything.
    let within = |g: f32, r: f32| (g - r).abs() <= tolerance * largest;
    let bad = got.iter().zip(reference).position(|(g, r)| !within(*g, *r));
    if let Some(i) = bad {
        panic!("{what}: index {i} of {}: got {}, reference {} (largest {largest})", got.len(), got[i], reference[i]);
    }
}

/// The words that start this program: more than one where a loader of its own runs it (`ld.so --argv0 NAME PROGRAM`).
#[cfg(feature = "pictures")]
pub fn this_program() -> Vec<String> {
    let own = std::env::args().next().unwrap();
    let line = std::fs::read_to_string("/proc/self/cmdline").unwrap_or_default();
    let words: Vec<String> = line.split('\0').map(str::to_owned).collect();
    match words.iter().rposition(|word| *word == own) {
        Some(i) if i > 0 => words[..=i].to_vec(),
        _ => vec![std::env::current_exe().unwrap().to_str().unwrap().to_owned()],
    }
}

/// Leaves NaN in the free memory of the sizes given in elements, so that a kernel which reads what nobody has written
/// shows.
pub fn poison(gpu: &Gpu, sizes: &[usize]) {
    let filled = |&n: &usize| wgrad::Tensor::from_slice(gpu, &[n], &vec![f32::NAN; n]).expect("memory");
    drop(sizes.iter().map(filled).collect::<Vec<_>>());
}
