//! Which adapter, with which limits and features.

use std::fmt;

use super::clock::Instant;
use crate::error::{Error, Result};

/// Which of several adapters to take when none is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Power {
    /// The fastest: discrete before integrated.
    #[default]
    High,
    /// The most frugal: integrated before discrete.
    Low,
}

/// A particular adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterChoice {
    /// By its place in [`crate::Gpu::adapters`]; where there is none, by a number in its name, such as 4090.
    Index(usize),
    /// By a part of its name, upper or lower case.
    Name(String),
}

impl std::str::FromStr for AdapterChoice {
    type Err = std::convert::Infallible;

    /// A number is an index, or a model's; anything else is a name.
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| AdapterChoice::Name(text.to_owned()), AdapterChoice::Index))
    }
}

impl fmt::Display for AdapterChoice {
    /// As it is parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdapterChoice::Index(index) => index.fmt(f),
            AdapterChoice::Name(name) => name.fmt(f),
        }
    }
}

/// Which kind of kernel suits the device; see [`crate::ops`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelFamily {
    /// One invocation works alone on its rows: CPU drivers, where workgroup memory and barriers are slow.
    Lane,
    /// A workgroup shares its work through workgroup memory: GPUs.
    Workgroup,
}

/// How to open a [`crate::Gpu`].
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Preference among adapters when `adapter` is `None`.
    pub power: Power,
    /// A particular adapter, also a CPU driver.
    pub adapter: Option<AdapterChoice>,
    /// Ask only for wgpu's default limits, as a browser or a small device would give, though the adapter has more.
    pub default_limits: bool,
    /// Ask that no more than so many bytes can be bound at once, at least 65,536: larger parameters are then used in parts, as a
    /// smaller device would; for tests.
    pub binding_size: Option<u64>,
    /// Ask that no more than so many workgroups can be dispatched along an axis, at least 2: larger grids are folded or cut, as they are
    /// above 65,535; for tests.
    pub grid_size: Option<u32>,
    /// The bytes of device memory that the engine may allocate ([`crate::Gpu::limit_memory`]).
    pub memory: Option<u64>,
    /// Overrides the kernel family that the adapter suggests; for measurements and tests.
    pub family: Option<KernelFamily>,
    /// Opens the device's matrix units for half-precision products, where there are any that kernels can use
    /// ([`crate::Gpu::matrix_units`]). They are an experiment of wgpu's, wrong on some drivers and slow on others: a kernel
    /// that uses them is taken only where tuning ([`crate::ops::tune`]) has found its results right and its time shorter.
    pub matrix_units: bool,
}

/// What is known of a device: a line for the user, and the facts by which kernels are chosen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdapterInfo {
    /// The adapter's name.
    pub name: String,
    /// Driver and its version, as the driver says.
    pub driver: String,
    /// Vulkan, Metal, Dx12, Gl or BrowserWebGpu.
    pub backend: wgpu::Backend,
    /// Discrete, integrated, virtual, CPU or other.
    pub device_type: wgpu::DeviceType,
}

impl AdapterInfo {
    pub(super) fn new(info: &wgpu::AdapterInfo) -> Self {
        let driver = format!("{} {}", info.driver, info.driver_info).trim().to_owned();
        AdapterInfo { name: info.name.clone(), driver, backend: info.backend, device_type: info.device_type }
    }

    /// Whether this is a driver that computes on the CPU.
    pub fn is_cpu(&self) -> bool {
        self.device_type == wgpu::DeviceType::Cpu
    }

    /// Whether device memory is the machine's own, as on CPU drivers and integrated GPUs.
    pub fn shares_host_memory(&self) -> bool {
        matches!(self.device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu)
    }

    /// Mesa's major version if the driver is Mesa's, such as 22 or 26.
    pub fn mesa_version(&self) -> Option<u32> {
        let rest = self.driver.split("Mesa ").nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// Whether the driver may end loops early ([`super::MAX_ROUNDS`]). All versions of Mesa's CPU driver are treated alike.
    pub(super) fn ends_long_loops(&self) -> bool {
        self.is_cpu() && self.mesa_version().is_some()
    }
}

impl fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, {:?}", self.name, self.backend, self.device_type)?;
        if !self.driver.is_empty() {
            write!(f, ", {}", self.driver)?;
        }
        f.write_str(")")
    }
}

/// Native backends, then OpenGL, which is looked at only where the first tier has nothing that fits.
const TIERS: [wgpu::Backends; 2] = [wgpu::Backends::PRIMARY, wgpu::Backends::SECONDARY];

/// The adapters of one tier that can compute, best first for `power`.
async fn candidates(backends: wgpu::Backends, power: Power) -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    // Turns memory pressure into an error before the system starts to swap.
    descriptor.memory_budget_thresholds.for_resource_creation = Some(95);
    let mut adapters = offered(&wgpu::Instance::new(descriptor), backends, power).await;
    adapters.retain(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    adapters.sort_by_key(|a| rank(&a.get_info(), power));
    adapters
}

#[cfg(not(target_arch = "wasm32"))]
async fn offered(instance: &wgpu::Instance, backends: wgpu::Backends, _: Power) -> Vec<wgpu::Adapter> {
    instance.enumerate_adapters(backends).await
}

/// A browser offers one, by what it is asked for.
#[cfg(target_arch = "wasm32")]
async fn offered(instance: &wgpu::Instance, _: wgpu::Backends, power: Power) -> Vec<wgpu::Adapter> {
    let power_preference = match power {
        Power::High => wgpu::PowerPreference::HighPerformance,
        Power::Low => wgpu::PowerPreference::LowPower,
    };
    let options = wgpu::RequestAdapterOptions { power_preference, ..Default::default() };
    instance.request_adapter(&options).await.into_iter().collect()
}

/// All adapters, in the order of [`AdapterChoice::Index`].
#[cfg(not(target_arch = "wasm32"))]
pub(super) async fn list(power: Power) -> Vec<AdapterInfo> {
    let mut all = Vec::new();
    for tier in TIERS {
        all.extend(candidates(tier, power).await.iter().map(|a| AdapterInfo::new(&a.get_info())));
    }
    all
}

/// Smaller is better. A CPU driver comes last under either preference.
fn rank(info: &wgpu::AdapterInfo, power: Power) -> u8 {
    match (info.device_type, power) {
        (wgpu::DeviceType::DiscreteGpu, Power::High) | (wgpu::DeviceType::IntegratedGpu, Power::Low) => 0,
        (wgpu::DeviceType::IntegratedGpu, Power::High) | (wgpu::DeviceType::DiscreteGpu, Power::Low) => 1,
        (wgpu::DeviceType::VirtualGpu, _) => 2,
        (wgpu::DeviceType::Other, _) => 3,
        (wgpu::DeviceType::Cpu, _) => 4,
    }
}

/// Picks the adapter that `options` ask for.
pub(super) async fn choose(options: &GpuOptions) -> Result<wgpu::Adapter> {
    let mut adapters = Vec::new();
    for tier in TIERS {
        adapters.extend(candidates(tier, options.power).await);
        let infos: Vec<_> = adapters.iter().map(|a| AdapterInfo::new(&a.get_info())).collect();
        // A CPU driver that nobody named waits for the next tier: an old GPU may have OpenGL alone.
        let found = find(&infos, options.adapter.as_ref()).map(|i| &infos[i]);
        if found.is_some_and(|info| options.adapter.is_some() || !info.is_cpu() || !opengl_may_find_a_gpu()) {
            break;
        }
    }
    adapters.sort_by_key(|a| options.adapter.is_none() && AdapterInfo::new(&a.get_info()).is_cpu());
    let infos: Vec<_> = adapters.iter().map(|a| AdapterInfo::new(&a.get_info())).collect();
    let Some(index) = find(&infos, options.adapter.as_ref()) else {
        let wanted = match &options.adapter {
            None => "found; is a Vulkan, Metal or DX12 driver installed?".to_owned(),
            Some(AdapterChoice::Index(i)) => format!("has the number {i}, or has it in its name"),
            Some(AdapterChoice::Name(name)) => format!("is named {name:?}"),
        };
        return Err(Error::NoAdapter { wanted, available: infos.iter().map(ToString::to_string).collect() });
    };
    if options.adapter.is_none() && infos[index].is_cpu() {
        log::warn!("no GPU found: using the CPU driver {}", infos[index]);
    }
    Ok(adapters.swap_remove(index))
}

/// Whether OpenGL could reach a GPU that Vulkan does not. On Linux every GPU that it drives has a node here; without one
/// it would only find another CPU driver, and complain on the way of a missing display.
fn opengl_may_find_a_gpu() -> bool {
    !cfg!(target_os = "linux") || std::path::Path::new("/dev/dri").exists()
}

/// The place of the adapter that is asked for; the first where none is.
fn find(infos: &[AdapterInfo], choice: Option<&AdapterChoice>) -> Option<usize> {
    match choice {
        None => (!infos.is_empty()).then_some(0),
        Some(AdapterChoice::Index(i)) if *i < infos.len() => Some(*i),
        Some(AdapterChoice::Index(i)) => {
            let number = i.to_string();
            // As a word of its own: 5 is not in "RTX 5090". A model's number has three digits or more, a version's fewer.
            let has_it =
                |name: &str| name.split(|c: char| !c.is_alphanumeric()).any(|word| number.len() > 2 && word == number);
            infos.iter().position(|info| has_it(&info.name))
        }
        Some(AdapterChoice::Name(name)) => {
            let lower = name.to_lowercase();
            infos.iter().position(|info| info.to_string().to_lowercase().contains(&lower))
        }
    }
}

/// A device as it was opened.
pub(super) struct Opened {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    /// [`crate::Gpu::matrix_units`].
    pub(super) matrix_units: Option<u32>,
}

/// Bytes that [`GpuOptions::binding_size`] may not go below: what the optimisers' passes take at a time.
const LEAST_BINDING: u64 = 1 << 16;

/// Workgroups that [`GpuOptions::grid_size`] may not go below: some kernels do two things side by side along an axis.
const LEAST_GRID: u32 = 2;

/// What kernels can use, where there is any.
const USEFUL: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

/// [`crate::Gpu::wanted`].
pub(super) fn wanted(adapter: &wgpu::Adapter) -> (wgpu::Features, wgpu::Limits) {
    (adapter.features() & USEFUL, adapter.limits())
}

/// Opens a device with the adapter's own limits, at least wgpu's defaults, and the features that some kernels can use.
pub(super) async fn open(adapter: &wgpu::Adapter, options: &GpuOptions) -> Result<Opened> {
    let clock = Instant::now();
    let info = AdapterInfo::new(&adapter.get_info());
    check_limits(&adapter.limits(), &info.name)?;
    let (required_features, own_limits) = wanted(adapter);
    let mut required_limits = if options.default_limits { wgpu::Limits::default() } else { own_limits };
    if let Some(size) = options.binding_size {
        let most = required_limits.max_storage_buffer_binding_size;
        if !(LEAST_BINDING..=most).contains(&size) {
            return Err(Error::argument("GpuOptions", "binding_size", format!("{LEAST_BINDING} to {most}"), size));
        }
        required_limits.max_storage_buffer_binding_size = size;
    }
    if let Some(size) = options.grid_size {
        let most = required_limits.max_compute_workgroups_per_dimension;
        if !(LEAST_GRID..=most).contains(&size) {
            return Err(Error::argument("GpuOptions", "grid_size", format!("{LEAST_GRID} to {most}"), size));
        }
        required_limits.max_compute_workgroups_per_dimension = size;
    }
    let mut descriptor =
        wgpu::DeviceDescriptor { label: Some("wgrad"), required_features, required_limits, ..Default::default() };
    let matrix_units = if options.matrix_units { matrix_units(adapter) } else { None };
    if matrix_units.is_some() {
        descriptor.required_features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        // SAFETY: what can go wrong is a bug of wgpu's in this feature. It was asked for by name, only kernels of this
        // crate use it, and they do so after their results have been compared with the CPU's on this device.
        descriptor.experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    }
    let opened = adapter.request_device(&descriptor).await;
    log::debug!("opened {info} in {:?}", clock.elapsed());
    let (device, queue) = opened.map_err(|e| Error::Device { during: "opening the device", message: e.to_string() })?;
    Ok(Opened { device, queue, matrix_units })
}

/// The invocations of a subgroup, if its matrix units are such as kernels are written for: products of 8×8 matrices of f16
/// summed in f32, for subgroups that always have 8 or 32 invocations.
fn matrix_units(adapter: &wgpu::Adapter) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16;
    let fits = |p: &wgpu::CooperativeMatrixProperties| {
        [p.m_size, p.n_size, p.k_size] == [8; 3] && p.ab_type == F16 && p.cr_type == F32
    };
    let info = adapter.get_info();
    let lanes = match info.backend {
        // wgpu tells 4 to 64 of every device; those with matrix units, Apple's, have 32.
        wgpu::Backend::Metal => 32..=32,
        _ => info.subgroup_min_size..=info.subgroup_max_size,
    };
    let there = adapter.features().contains(features) && adapter.cooperative_matrix_properties().iter().any(fits);
    let is_one = lanes.start() == lanes.end() && matches!(lanes.start(), 8 | 32);
    (there && is_one).then_some(*lanes.start())
}

/// The limits that kernels rely on must be at least WebGPU's defaults.
pub(super) fn check_limits(limits: &wgpu::Limits, device: &str) -> Result<()> {
    let need = wgpu::Limits::default();
    macro_rules! needed_and_available {
        ($($name:ident)+) => {
            [$((stringify!($name), u64::from(need.$name), u64::from(limits.$name))),+]
        };
    }
    let all = needed_and_available! {
        max_storage_buffers_per_shader_stage
        max_compute_workgroup_storage_size
        max_compute_invocations_per_workgroup
        max_compute_workgroup_size_x
        max_compute_workgroups_per_dimension
        max_bind_groups
        max_storage_buffer_binding_size
        max_buffer_size
    };
    for (name, needed, available) in all {
        if available < needed {
            return Err(Error::Limit { device: device.to_owned(), name, needed, available, hint: "" });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A GPU of which nothing else is known.
    pub(in crate::gpu) fn some_gpu() -> AdapterInfo {
        AdapterInfo {
            name: String::new(),
            driver: String::new(),
            backend: wgpu::Backend::Noop,
            device_type: wgpu::DeviceType::DiscreteGpu,
        }
    }

    fn named(name: &str) -> AdapterInfo {
        AdapterInfo { name: name.to_owned(), driver: "Mesa 22.3.6".to_owned(), ..some_gpu() }
    }

    #[test]
    fn a_number_is_an_index_or_a_models() {
        let infos = [named("NVIDIA GeForce RTX 4090"), named("AMD Radeon RX 7900 XTX")];
        let found = |text: &str| find(&infos, text.parse().ok().as_ref());
        assert_eq!(["0", "1", "4090", "7900"].map(found), [Some(0), Some(1), Some(0), Some(1)]);
        assert_eq!(
            ["2", "90", "22", "radeon", "rtx 4090", "arc"].map(found),
            [None, None, None, Some(1), Some(0), None]
        );
    }
}
