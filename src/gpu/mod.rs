//! The device layer, and the only place that talks to wgpu: adapters, memory, kernels, recorded commands, read-back.
//!
//! A [`Gpu`] is a cheap handle; clones share one device. Work is *recorded* by [`Gpu::dispatch`] and its kin, encoded
//! and submitted a few dozen commands at a time, and never waited for until a [`Readback`] is asked for its bytes.
//! Nothing here is global: several `Gpu`s, also on one adapter, do not know of each other.

mod adapter;
mod allocate;
mod arena;
mod attachments;
mod budget;
mod clock;
mod commands;
mod compile;
mod encode;
mod fault;
mod health;
#[cfg(not(target_arch = "wasm32"))]
mod inspect;
mod kernel;
mod mapped;
mod memory;
#[cfg(all(feature = "internals", not(target_arch = "wasm32")))]
mod observe;
#[cfg(not(all(feature = "internals", not(target_arch = "wasm32"))))]
#[path = "unobserved.rs"]
mod observe;
mod pace;
mod pool;
mod profiler;
mod readback;
mod recorder;
#[cfg(not(target_arch = "wasm32"))]
mod sizes;
mod slices;
mod staging;
mod transfers;
mod usage;
#[cfg(not(target_arch = "wasm32"))]
mod waiter;
mod witness;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use adapter::{AdapterChoice, AdapterInfo, GpuOptions, KernelFamily, Power};
pub use compile::joined_source;
#[doc(hidden)]
pub use kernel::macros;
pub use kernel::{Access, Grid, Kernel, MAX_ROUNDS, Params, Rounds, Source, lib, looped};
pub use memory::BufferView;
#[cfg(all(feature = "internals", not(target_arch = "wasm32")))]
pub use observe::{Bound, DispatchObserver, Dispatched};
pub use pool::MemoryUse;
pub use profiler::ProfileRow;
pub use readback::Readback;
#[cfg(feature = "train")]
pub(crate) use slices::Room;
pub use slices::{Slice, SliceTime};
pub use usage::KernelUse;

pub use crate::{params, rounds};

pub(crate) use arena::{Arena, Beside, Packing, Place};
#[cfg(feature = "train")]
pub(crate) use clock::Instant;
pub(crate) use fault::{Fault, FaultPlace, FaultSource};
pub(crate) use kernel::{MAX_GROUPS, NO_LOOPS, Trust, wgsl};
pub(crate) use memory::Stamp;
pub(crate) use pool::Fit;

use crate::error::{Error, Result};
use adapter::Opened;
use allocate::storage_buffer;
use attachments::Attachments;
use budget::Budget;
use compile::KernelCache;
use fault::Ledger;
use health::{Health, Scopes};
#[cfg(not(target_arch = "wasm32"))]
use inspect::Inspector;
use pace::Pace;
use pool::Pool;
use profiler::Profiler;
use recorder::{Command, Recorder};
use staging::Staging;

/// A device that computes. Clones are handles of the same device.
#[derive(Clone, Debug)]
pub struct Gpu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: AdapterInfo,
    limits: wgpu::Limits,
    family: KernelFamily,
    params_layout: wgpu::BindGroupLayout,
    pool: Arc<Pool>,
    state: Mutex<State>,
    health: Arc<Health>,
    uploads: Staging,
    downloads: Staging,
    #[cfg(not(target_arch = "wasm32"))]
    waiter: waiter::Waiter,
    /// The first table of [`fault`].
    faults: BufferView,
    /// [`Gpu::with_scratch`].
    scratch: Mutex<Option<BufferView>>,
    /// In a dry run, what stands for every buffer.
    phantom: Option<wgpu::Buffer>,
    matrix_units: Option<u32>,
    /// [`Gpu::limit_memory`].
    most_memory: AtomicU64,
    #[cfg(not(target_arch = "wasm32"))]
    inspector: Inspector,
    onlooker: observe::Onlooker,
    /// In a dry run, what it was asked for.
    noted: usage::Noted,
    attachments: Attachments,
}

#[derive(Debug)]
struct State {
    recorder: Recorder,
    kernels: KernelCache,
    ledger: Ledger,
    profiler: Option<Profiler>,
    /// How many closures hold back what is recorded ([`Gpu::hold`]).
    holds: usize,
    pace: Pace,
    /// [`GpuStats::wait_time`].
    waited: Duration,
}

impl State {
    fn new(info: &AdapterInfo, recorder: Recorder, faults: BufferView) -> Self {
        State {
            recorder,
            kernels: KernelCache::default(),
            ledger: Ledger::new(faults),
            profiler: None,
            holds: 0,
            pace: Pace::new(info),
            waited: Duration::ZERO,
        }
    }
}

/// What has been done so far, for reports and benches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GpuStats {
    /// Kernel dispatches recorded.
    pub dispatches: u64,
    /// Command buffers submitted.
    pub submissions: u64,
    /// Of those, how many may still run, as far as the host knows. A host that is faster than its device waits beyond 16.
    pub under_way: usize,
    /// Bind groups made; steps that repeat each other share theirs.
    pub bind_groups: u64,
    /// Of those, how many are held for the next steps.
    pub held_bind_groups: usize,
    /// Time spent compiling shaders and pipelines.
    pub compile_time: Duration,
    /// Time that threads have waited for the device: for results, for memory, and where it had too much to do. CPU drivers may compute
    /// while a submission is made, so there it counts too.
    pub wait_time: Duration,
}

impl Gpu {
    /// Opens the fastest adapter; a CPU driver only where there is nothing else, with a line in the log.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], [`Error::Limit`] where the adapter is below wgpu's default limits, [`Error::Device`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new() -> Result<Self> {
        Self::with_options(&GpuOptions::default())
    }

    /// [`Gpu::request`], blocking the thread.
    ///
    /// # Errors
    /// As [`Gpu::new`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn with_options(options: &GpuOptions) -> Result<Self> {
        pollster::block_on(Self::request(options))
    }

    /// Opens the adapter that `options` ask for.
    ///
    /// # Errors
    /// As [`Gpu::new`].
    pub async fn request(options: &GpuOptions) -> Result<Self> {
        let adapter = adapter::choose(options).await?;
        let opened = adapter::open(&adapter, options).await?;
        let info = AdapterInfo::new(&adapter.get_info());
        let health = Arc::default();
        health::watch(&opened.device, &health);
        Self::assemble(opened, info, options.family, health, options.memory, None, Attachments::default())
    }

    /// What to ask of `adapter` for a device of the program's own that the engine then shares ([`Gpu::from_wgpu`]), beside what the
    /// program asks for itself: the features that kernels can use (timestamps, f16, subgroups), as far as the adapter has them, and its own
    /// limits. Without features and at wgpu's default limits the engine works too: without f16, with smaller tensors, and
    /// without times by kernel.
    pub fn wanted(adapter: &wgpu::Adapter) -> (wgpu::Features, wgpu::Limits) {
        adapter::wanted(adapter)
    }

    /// Embeds the engine on a program's own device and queue. No callback is installed: the program keeps its own for loss
    /// and errors, and supplies a new device after a loss, which the engine notices by itself.
    ///
    /// # Errors
    /// [`Error::Limit`] where the device was opened with less than wgpu's default compute limits, [`Error::DeviceLost`].
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue, adapter: Option<&wgpu::Adapter>) -> Result<Self> {
        let info = AdapterInfo::new(&adapter.map_or_else(|| device.adapter_info(), wgpu::Adapter::get_info));
        adapter::check_limits(&device.limits(), &info.name)?;
        let opened = Opened { device, queue, matrix_units: None };
        Self::assemble(opened, info, None, Arc::default(), None, None, Attachments::default())
    }

    /// A handle of the same device on which programs run without computing: the pool hands out sizes with no memory
    /// behind them, limits are checked as ever, commands are dropped, no kernel is compiled, and what is read back is
    /// zeros. [`Gpu::memory`] then says what the same program takes on the device itself, to the byte.
    ///
    /// It is a device of its own to [`Gpu::same`]: its tensors do not mix with real ones.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no room for a few kilobytes.
    pub fn dry_run(&self) -> Result<Self> {
        let Inner { device, queue, info, family, matrix_units, attachments, .. } = &*self.0;
        self.expect_alive()?;
        let phantom = storage_buffer(device, fault::TABLE);
        let phantom = phantom.map_err(|message| self.device_error("allocating device memory", message))?;
        let opened = Opened { device: device.clone(), queue: queue.clone(), matrix_units: *matrix_units };
        Self::assemble(opened, info.clone(), Some(*family), Arc::default(), None, Some(phantom), attachments.share())
    }

    /// Whether this is a [`Gpu::dry_run`].
    pub fn is_dry_run(&self) -> bool {
        self.0.phantom.is_some()
    }

    fn assemble(
        opened: Opened,
        info: AdapterInfo,
        family: Option<KernelFamily>,
        health: Arc<Health>,
        most_memory: Option<u64>,
        phantom: Option<wgpu::Buffer>,
        attachments: Attachments,
    ) -> Result<Self> {
        let Opened { device, queue, matrix_units } = opened;
        let scopes = Scopes::open(&device);
        let params_layout = compile::params_layout(&device);
        let recorder = Recorder::new(&device, &params_layout, Budget::new(&info));
        let table = phantom.clone().map_or_else(|| storage_buffer(&device, fault::TABLE), Ok);
        let table = scopes.close().map_or(table, Err);
        health::expect_alive(&device, &info.name)?;
        let table = table.map_err(|message| Error::Device { during: "setting up the device", message })?;
        let pool = Arc::new(Pool::default());
        let faults = BufferView::new(pool.adopt(table, fault::TABLE), fault::TABLE);
        let suggested = if info.is_cpu() { KernelFamily::Lane } else { KernelFamily::Workgroup };
        Ok(Gpu(Arc::new(Inner {
            limits: device.limits(),
            state: Mutex::new(State::new(&info, recorder, faults.clone())),
            health,
            uploads: Staging::default(),
            downloads: Staging::default(),
            #[cfg(not(target_arch = "wasm32"))]
            waiter: Default::default(),
            family: family.unwrap_or(suggested),
            device,
            queue,
            info,
            params_layout,
            pool,
            faults,
            scratch: Mutex::default(),
            phantom,
            matrix_units,
            most_memory: AtomicU64::new(most_memory.unwrap_or(u64::MAX)),
            #[cfg(not(target_arch = "wasm32"))]
            inspector: Inspector::default(),
            onlooker: Default::default(),
            noted: usage::Noted::default(),
            attachments,
        })))
    }

    /// The machine's adapters in the order of [`AdapterChoice::Index`], best first for `power`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn adapters(power: Power) -> Vec<AdapterInfo> {
        pollster::block_on(adapter::list(power))
    }

    /// The adapter's name, driver and kind.
    pub fn info(&self) -> &AdapterInfo {
        &self.0.info
    }

    /// Which kind of kernel is used.
    pub fn family(&self) -> KernelFamily {
        self.0.family
    }

    /// Whether kernels can compute on [`crate::DType::F16`] tensors.
    pub fn has_f16(&self) -> bool {
        self.0.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Invocations of a subgroup of the device's matrix units, if they were asked for ([`GpuOptions::matrix_units`]) and
    /// are such as kernels can use.
    pub fn matrix_units(&self) -> Option<u32> {
        self.0.matrix_units
    }

    /// The `T` that a layer above keeps for this device, made on first use. Dry runs share those that there are when they
    /// begin.
    pub(crate) fn attachment<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        self.0.attachments.get()
    }

    /// The wgpu device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The wgpu queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// Device memory held by this `Gpu`.
    pub fn memory(&self) -> MemoryUse {
        MemoryUse { staging: self.0.uploads.bytes() + self.0.downloads.bytes(), ..self.0.pool.memory() }
    }

    /// Sets the bytes of device memory that the engine may allocate from now on, those of uploads and read-backs on their way apart; without a
    /// number as many as there are. Beyond them is [`Error::OutOfMemory`], as where the device has no more. [`GpuOptions::memory`] says the
    /// same from the start.
    pub fn limit_memory(&self, bytes: Option<u64>) {
        self.0.most_memory.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Starts a new measurement of peak memory.
    pub fn reset_peak_memory(&self) {
        self.0.pool.reset_peak();
    }

    /// Sets what a submission may take on the device, 0.5 s where nothing is said: Windows ends one after two seconds, and the device
    /// with it. Recorded work is cut accordingly, as far as is known of this device; that is learnt while results are waited for
    /// ([`Readback::wait`], [`Gpu::wait`]). A single dispatch that takes longer is not cut. Results are the same with any budget.
    pub fn limit_submissions(&self, budget: Duration) {
        self.state().recorder.budget.set(budget);
    }

    /// Counters since the device was opened.
    pub fn stats(&self) -> GpuStats {
        let state = self.state();
        GpuStats {
            dispatches: state.recorder.dispatches,
            submissions: state.recorder.submissions,
            under_way: state.recorder.count_under_way(),
            bind_groups: state.recorder.bind_groups,
            held_bind_groups: state.recorder.held_bind_groups(),
            compile_time: state.kernels.compile_time(),
            wait_time: state.waited + if self.0.info.is_cpu() { state.recorder.submitting } else { Duration::ZERO },
        }
    }

    /// The most workgroups that a dispatch has along an axis.
    pub(crate) fn most_groups(&self) -> usize {
        self.0.limits.max_compute_workgroups_per_dimension as usize
    }

    /// Whether two handles are of one device.
    pub fn same(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in another thread while recording cannot leave a half-written command: lists grow by whole items.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to time each kernel. Steps are slower while this is on. A browser cannot wait for kernels: there it only leaves a warning in
    /// the log.
    pub fn start_profile(&self) {
        if cfg!(target_arch = "wasm32") {
            log::warn!("no profile: a browser cannot wait for kernels");
            return;
        }
        let mut state = self.state();
        self.submit_or_keep(&mut state);
        state.profiler = Some(Profiler::new(&self.0.device, &self.0.queue));
    }

    /// Stops timing; the totals by kernel, most expensive first. Empty if profiling was off, as it always is in a browser.
    pub fn take_profile(&self) -> Vec<ProfileRow> {
        let mut state = self.state();
        self.submit_or_keep(&mut state);
        state.profiler.take().map_or_else(Vec::new, |p| p.rows())
    }
}
