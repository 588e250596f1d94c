//! What several test modules share: devices, random data, comparisons that say what differs.

use std::path::{Path, PathBuf};

use wgrad::gpu::{Gpu, GpuOptions, KernelFamily};
use wgrad::wgpu;

/// A device with exactly wgpu's default limits. A machine without an adapter fails here: tests are not skipped, but for those of
/// half precision and matrix units where the driver has none.
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
    let options = GpuOptions { default_limits: true, family, ..Default::default() };
    let gpu = Gpu::with_options(&options).expect("a GPU or CPU driver");
    crate::vectors::write(&gpu);
    gpu
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

/// A file or folder of the reference vectors (`tests/reference/README.md`): that of the folder which `WGRAD_REFERENCE` names, if it is
/// there, else the one in `tests/reference`.
pub fn reference(path: &str) -> PathBuf {
    let others = std::env::var_os("WGRAD_REFERENCE").map(|folder| Path::new(&folder).join(path));
    let in_others = others.filter(|path| path.exists());
    in_others.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(path))
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

/// Within `tolerance` of itself, and 1e-6: a loss is a difference of numbers like logits, whose own rounding is as large.
#[cfg(feature = "files")]
#[track_caller]
pub fn assert_loss_close(what: &str, got: f32, reference: f32, tolerance: f32) {
    assert!((got - reference).abs() <= tolerance * reference.abs() + 1e-6, "{what}: got {got}, reference {reference}");
}

/// Parameters after steps of Adam at `rate`: within `tolerance` of the largest, as [`assert_close`] has it, and what rounding does to
/// a step beyond that. A gradient is right to about a millionth of its tensor's largest, and Adam's step is the gradient over its own
/// size: so where `first`, the reference's first gradient, is small, the step is known to `1e-6 * largest / |first|` of the rate, and
/// where it is rounding alone, not even to its sign. Ten seeds of `lm/` in PyTorch differ from their own runs in float64 by up to
/// 1.0e-3 in such elements, at a rate of 1e-3, and by less than 1e-4 of the largest in all others.
#[cfg(feature = "files")]
#[track_caller]
pub fn assert_adam_close(what: &str, got: &[f32], reference: &[f32], first: &[f32], rate: f32, tolerance: f32) {
    assert_eq!([got.len(), first.len()], [reference.len(); 2], "{what}: lengths");
    let rounding = 1e-6 * first.iter().fold(0f32, |m, g| m.max(g.abs()));
    let less_rounding = |((got, expected), g): ((&f32, &f32), &f32)| {
        let unknown = if *g == 0.0 { 0.0 } else { rate * (rounding / g.abs()).min(2.0) };
        let off = got - expected;
        expected + off.signum() * (off.abs() - unknown).max(0.0)
    };
    let got: Vec<f32> = got.iter().zip(reference).zip(first).map(less_rounding).collect();
    assert_close(what, &got, reference, tolerance);
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
