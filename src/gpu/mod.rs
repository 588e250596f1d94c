//! The device layer, and the only place that talks to wgpu: adapters, memory, kernels, recorded commands, read-back.
//!
//! A [`Gpu`] is a cheap handle; clones share one device. Work is *recorded* by [`Gpu::dispatch`] and its kin, encoded
//! and submitted a few dozen commands at a time, and never waited for until a [`Readback`] is asked for its bytes.
//! Nothing here is global: several `Gpu`s, also on one adapter, do not know of each other.

mod adapter;
mod arena;
mod attachments;
mod clock;
mod compile;
mod fault;
mod health;
mod kernel;
mod memory;
mod pool;
mod profiler;
mod readback;
mod recorder;
mod staging;
mod usage;
#[cfg(not(target_arch = "wasm32"))]
mod waiter;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use adapter::{AdapterChoice, AdapterInfo, GpuOptions, KernelFamily, Power};
pub use compile::joined_source;
#[doc(hidden)]
pub use kernel::macros;
pub use kernel::{Access, Grid, Kernel, MAX_ROUNDS, Params, Rounds, Source, lib, looped};
pub use memory::BufferView;
pub use pool::MemoryUse;
pub use profiler::ProfileRow;
pub use readback::Readback;
pub use usage::KernelUse;

pub use crate::{params, rounds};

pub(crate) use arena::{Arena, Beside, Packing, Place};
#[cfg(feature = "train")]
pub(crate) use clock::Clock;
pub(crate) use fault::{Fault, FaultPlace, FaultSource};
pub(crate) use kernel::{MAX_GROUPS, NO_LOOPS, Trust, wgsl};
pub(crate) use memory::Stamp;
pub(crate) use pool::Fit;

use crate::error::{Error, Result};
use adapter::Opened;
use attachments::Attachments;
use compile::{KernelCache, Pipeline};
use fault::Ledger;
use health::{Health, Scopes};
use memory::storage_buffer;
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
    /// In a dry run, what stands for every buffer.
    phantom: Option<wgpu::Buffer>,
    matrix_units: Option<u32>,
    attachments: Attachments,
}

#[derive(Debug)]
struct State {
    recorder: Recorder,
    kernels: KernelCache,
    ledger: Ledger,
    profiler: Option<Profiler>,
}

/// What has been done so far, for reports and benches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GpuStats {
    /// Kernel dispatches recorded.
    pub dispatches: u64,
    /// Command buffers submitted.
    pub submissions: u64,
    /// Bind groups made; steps that repeat each other share theirs.
    pub bind_groups: u64,
    /// Time spent compiling shaders and pipelines.
    pub compile_time: Duration,
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
        Self::assemble(opened, info, options.family, health, None, Attachments::default())
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
        Self::assemble(opened, info, None, Arc::default(), None, Attachments::default())
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
        Self::assemble(opened, info.clone(), Some(*family), Arc::default(), Some(phantom), attachments.share())
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
        phantom: Option<wgpu::Buffer>,
        attachments: Attachments,
    ) -> Result<Self> {
        let Opened { device, queue, matrix_units } = opened;
        let scopes = Scopes::open(&device);
        let params_layout = compile::params_layout(&device);
        let recorder = Recorder::new(&device, &params_layout);
        let table = phantom.clone().map_or_else(|| storage_buffer(&device, fault::TABLE), Ok);
        let table = scopes.close().map_or(table, Err);
        health::expect_alive(&device, &info.name)?;
        let table = table.map_err(|message| Error::Device { during: "setting up the device", message })?;
        let pool = Arc::new(Pool::default());
        let faults = BufferView::new(pool.adopt(table, fault::TABLE), fault::TABLE);
        let suggested = if info.is_cpu() { KernelFamily::Lane } else { KernelFamily::Workgroup };
        Ok(Gpu(Arc::new(Inner {
            limits: device.limits(),
            state: Mutex::new(State {
                recorder,
                kernels: KernelCache::default(),
                ledger: Ledger::new(faults.clone()),
                profiler: None,
            }),
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
            phantom,
            matrix_units,
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

    /// Starts a new measurement of peak memory.
    pub fn reset_peak_memory(&self) {
        self.0.pool.reset_peak();
    }

    /// Counters since the device was opened.
    pub fn stats(&self) -> GpuStats {
        let state = self.state();
        GpuStats {
            dispatches: state.recorder.dispatches,
            submissions: state.recorder.submissions,
            bind_groups: state.recorder.bind_groups,
            compile_time: state.kernels.compile_time(),
        }
    }

    /// Whether two handles are of one device.
    pub fn same(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in another thread while recording cannot leave a half-written command: lists grow by whole items.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- commands ----

    /// Where commands go: nowhere in a dry run.
    fn recording(&self) -> Option<MutexGuard<'_, State>> {
        (!self.is_dry_run()).then(|| self.state())
    }

    /// Records one dispatch of `kernel` on `buffers`, in the order of its bindings. It returns at once, and is computed in order with
    /// all that is recorded on this device. A kernel writes tensors that its caller has just made ([`crate::Tensor::empty`]), or
    /// what it was given to write ([`crate::autograd::Destination`]): tensors that others may hold are not written to.
    ///
    /// # Errors
    /// [`Error::Argument`] in the kernel's name where `params` or `buffers` are not what it says, a buffer is another device's, or
    /// one that is written is bound twice; [`Error::Limit`] for a grid above the device's limit, or loops that its driver would end
    /// early; [`Error::Device`] if the kernel does not compile; [`Error::DeviceLost`].
    pub fn dispatch<P: Params>(
        &self,
        kernel: &'static Kernel,
        params: &P,
        buffers: &[&BufferView],
        grid: Grid,
    ) -> Result<()> {
        let bytes = bytemuck::bytes_of(params);
        self.expect_alive()?;
        self.check_call::<P>(kernel, buffers)?;
        self.check_grid(grid)?;
        self.check_rounds(kernel, bytes, grid)?;
        let Some(mut state) = self.recording() else {
            self.note(kernel, buffers, grid);
            return Ok(());
        };
        let pipeline = self.pipeline(&mut state, kernel)?;
        state.pass_marks_on(kernel.bindings, buffers);
        let params = state.recorder.push_params(bytes);
        let command = Command::Dispatch {
            pipeline,
            bindings: kernel.bindings,
            buffers: buffers.iter().map(|view| view.raw()).collect(),
            params,
            groups: grid.groups,
        };
        self.push(&mut state, command, grid.flops)
    }

    /// The kernel, compiled.
    fn pipeline(&self, state: &mut State, kernel: &'static Kernel) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = state.kernels.get(kernel) {
            return Ok(pipeline);
        }
        let compiled = state.kernels.compile(&self.0.device, &self.0.params_layout, kernel);
        // A lost device compiles nothing, without a word.
        self.probe()?;
        compiled
    }

    /// This crate's own kernels are called as they should be; tests without optimisation look.
    fn check_call<P: Params>(&self, kernel: &Kernel, buffers: &[&BufferView]) -> Result<()> {
        if kernel.trust() == Trust::Crate {
            debug_assert!(kernel.check_call::<P>(buffers).is_ok(), "{}", kernel.name);
            return Ok(());
        }
        kernel.check_call::<P>(buffers)?;
        if let Some(binding) = buffers.iter().position(|view| !view.is_of(&self.0.pool)) {
            return Err(Error::argument(
                kernel.name,
                "buffers",
                "of the device",
                format!("another's at binding {binding}"),
            ));
        }
        let written = buffers.iter().zip(kernel.bindings).filter(|(_, access)| **access == Access::Write);
        written.for_each(|(view, _)| view.overwritten());
        Ok(())
    }

    fn check_grid(&self, grid: Grid) -> Result<()> {
        let limit = self.0.limits.max_compute_workgroups_per_dimension;
        let most = grid.groups.into_iter().max().unwrap_or(0);
        if most > limit {
            return Err(Error::Limit {
                device: self.0.info.name.clone(),
                name: "max_compute_workgroups_per_dimension",
                needed: u64::from(most),
                available: u64::from(limit),
                hint: "; a smaller batch makes smaller grids",
            });
        }
        Ok(())
    }

    /// Refuses what would silently be computed wrong. Operations cut what they can to below the bound on all drivers alike;
    /// what is left is right where the driver has no such limit.
    fn check_rounds(&self, kernel: &Kernel, params: &[u8], grid: Grid) -> Result<()> {
        let rounds = (kernel.rounds)(params, grid.groups);
        if rounds > MAX_ROUNDS && self.0.info.ends_long_loops() {
            return Err(Error::Limit {
                device: format!("{}: {}", kernel.name, self.0.info.name),
                name: "loop rounds of an invocation",
                needed: rounds,
                available: MAX_ROUNDS,
                hint: "; the driver would end the loops early, with wrong results",
            });
        }
        Ok(())
    }

    fn push(&self, state: &mut State, command: Command, flops: u64) -> Result<()> {
        if state.recorder.push(command, flops) { self.submit(state) } else { Ok(()) }
    }

    fn submit(&self, state: &mut State) -> Result<()> {
        self.expect_alive()?;
        let State { recorder, profiler, .. } = state;
        let scopes = Scopes::open(&self.0.device);
        let is_taken = recorder.submit(&self.0.device, &self.0.queue, profiler.as_mut());
        match scopes.close() {
            None if is_taken => Ok(()),
            error => Err(self.device_error("submitting commands", error.unwrap_or_default())),
        }
    }

    /// Submits what has been recorded, without waiting, and returns the newest submission. A host program calls this before
    /// its own pass reads a result.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Device`] if the device does not take the commands.
    pub fn flush(&self) -> Result<Option<wgpu::SubmissionIndex>> {
        let mut state = self.state();
        if state.recorder.is_empty() {
            self.probe()?;
        }
        self.submit(&mut state)?;
        Ok(state.recorder.last_submission())
    }

    /// Submits and waits until the device is idle.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Device`] if the device has reported an error.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(&self) -> Result<()> {
        if self.is_dry_run() {
            return Ok(());
        }
        self.flush()?;
        let ordinal = self.state().recorder.submissions;
        self.await_submission(None, ordinal, "waiting for the device")?;
        self.take_error()
    }

    /// Waits for the submission of that number, and with it for all before; without one, for all that there are.
    #[cfg(not(target_arch = "wasm32"))]
    fn await_submission(
        &self,
        submission_index: Option<wgpu::SubmissionIndex>,
        ordinal: u64,
        during: &'static str,
    ) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index, timeout: None };
        health::poll(&self.0.device, wait).map_err(|message| self.device_error(during, message))?;
        self.state().recorder.arrived(ordinal);
        Ok(())
    }

    /// Says that an optimiser step has ended: submits it, and lets go of memory that no recent step has used.
    ///
    /// # Errors
    /// As [`Gpu::flush`].
    pub fn end_step(&self) -> Result<()> {
        let mut state = self.state();
        let submitted = self.submit(&mut state);
        state.recorder.forget(&self.0.pool.end_step());
        submitted
    }

    /// Releases all memory that no live tensor holds.
    pub fn trim(&self) {
        // One lock: a command that another thread records in between might bind anew what is released.
        let mut state = self.state();
        self.submit_or_keep(&mut state);
        state.recorder.forget(&self.0.pool.trim());
    }

    /// Submits where no error can be returned: the next call that can returns it.
    fn submit_or_keep(&self, state: &mut State) {
        if let Err(error) = self.submit(state) {
            self.0.health.note(error.to_string());
        }
    }

    /// Asks for the contents of `views`, without waiting.
    pub(crate) fn read(&self, views: &[&BufferView]) -> Result<Readback> {
        Readback::start(self, views)
    }

    // ---- profile ----

    /// Starts to time each kernel. Steps are slower while this is on.
    pub fn start_profile(&self) {
        let mut state = self.state();
        self.submit_or_keep(&mut state);
        state.profiler = Some(Profiler::new(&self.0.device, &self.0.queue));
    }

    /// Stops timing; the totals by kernel, most expensive first. Empty if profiling was off.
    pub fn take_profile(&self) -> Vec<ProfileRow> {
        let mut state = self.state();
        self.submit_or_keep(&mut state);
        state.profiler.take().map_or_else(Vec::new, |p| p.rows())
    }
}
