//! Recording commands and submitting them.

use std::sync::{Arc, MutexGuard, TryLockError};
#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
use super::clock::Instant;
use super::compile::Pipeline;
use super::encode::Refused;
use super::health::Scopes;
#[cfg(target_arch = "wasm32")]
use super::mapped::Mapped;
use super::recorder::{Command, Submitted};
use super::{Access, BufferView, Gpu, Grid, Kernel, MAX_ROUNDS, Params, Readback, State, Trust};
use crate::error::{Error, Result};

/// Submissions under way beyond which a host that is faster than its device waits. Phones end programs that have very many.
pub(super) const MOST_UNDER_WAY: usize = 16;

impl Gpu {
    /// Where commands go: nowhere in a dry run. Where too many submissions are under way, waits until the oldest has ended (in a
    /// browser, which cannot wait, the commands are kept back instead).
    pub(super) fn recording(&self) -> Result<Option<MutexGuard<'_, State>>> {
        self.expect_alive()?;
        if self.is_dry_run() {
            return Ok(None);
        }
        #[cfg(not(target_arch = "wasm32"))]
        loop {
            let state = self.state();
            let Some((ordinal, index)) = state.recorder.oldest_under_way(MOST_UNDER_WAY) else {
                return Ok(Some(state));
            };
            drop(state);
            self.await_submission(Some(index), ordinal, "waiting for earlier work")?;
        }
        #[cfg(target_arch = "wasm32")]
        Ok(Some(self.state()))
    }

    /// Records one dispatch of `kernel` on `buffers`, in the order of its bindings. It returns at once, and is computed in
    /// order with all that is recorded on this device. A kernel writes tensors that its caller has just made
    /// ([`crate::Tensor::empty`]), or what it was given to write ([`crate::autograd::Destination`]): tensors that others
    /// may hold are not written to.
    ///
    /// # Errors
    /// [`Error::Argument`] in the kernel's name where `params` or `buffers` are not what it says, a buffer is another
    /// device's, has fewer bytes than the kernel's WGSL declares, or is bound twice and written; [`Error::Limit`] for a grid above
    /// the device's limit, or loops that its driver would end early; [`Error::Device`] if the kernel does not compile;
    /// [`Error::DeviceLost`].
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
        self.check_bindings(kernel, buffers)?;
        let grid = grid.within(self.0.limits.max_compute_workgroups_per_dimension);
        self.check_grid(grid)?;
        self.check_rounds(kernel, bytes, grid)?;
        if kernel.trust() != Trust::Crate {
            // Graphs that need what a parameter held can no longer be walked.
            let written = buffers.iter().zip(kernel.bindings).filter(|(_, access)| **access == Access::Write);
            written.for_each(|(view, _)| view.overwritten());
        }
        self.observed(kernel, bytes, grid.groups, buffers, || self.record_dispatch(kernel, bytes, buffers, grid))
    }

    fn record_dispatch(
        &self,
        kernel: &'static Kernel,
        params: &[u8],
        buffers: &[&BufferView],
        grid: Grid,
    ) -> Result<()> {
        let Some(mut state) = self.recording()? else {
            self.note(kernel, buffers, grid);
            return Ok(());
        };
        let pipeline = self.pipeline(&mut state, kernel)?;
        state.pass_marks_on(kernel.bindings, buffers);
        let command = Command::Dispatch {
            pipeline,
            bindings: kernel.bindings,
            buffers: buffers.iter().map(|view| view.raw()).collect(),
            params: params.into(),
            groups: grid.groups,
            flops: grid.flops,
        };
        self.push(&mut state, command)?;
        drop(state);
        #[cfg(not(target_arch = "wasm32"))]
        if self.is_inspected() {
            self.inspect(kernel, buffers)?;
        }
        Ok(())
    }

    /// The kernel, compiled.
    pub(super) fn pipeline(&self, state: &mut State, kernel: &'static Kernel) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = state.kernels.get(kernel) {
            return Ok(pipeline);
        }
        let compiled = state.kernels.compile(&self.0.device, &self.0.params_layout, kernel);
        // A lost device compiles nothing, without a word.
        self.probe()?;
        compiled
    }

    /// This crate's own kernels are called as they should be, but for what a program hands in twice; tests without optimisation look.
    fn check_call<P: Params>(&self, kernel: &'static Kernel, buffers: &[&BufferView]) -> Result<()> {
        kernel.check_count(buffers)?;
        if kernel.trust() == Trust::Crate {
            let looks = cfg!(debug_assertions);
            return if looks { kernel.check_call::<P>(buffers) } else { kernel.check_sharing(buffers) };
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
        #[cfg(not(target_arch = "wasm32"))]
        {
            let least = self.state().kernels.least_sizes(kernel);
            kernel.check_sizes(&least, buffers)?;
        }
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

    /// Records `command`, and submits where there is enough.
    pub(super) fn push(&self, state: &mut State, command: Command) -> Result<()> {
        if state.recorder.push(command) { wait_for_memory(self.submit_unless_held(state)) } else { Ok(()) }
    }

    pub(super) fn submit_unless_held(&self, state: &mut State) -> Result<()> {
        if state.holds > 0 { Ok(()) } else { self.submit(state) }
    }

    /// Submits all that waits, in as many submissions as it takes.
    pub(super) fn submit(&self, state: &mut State) -> Result<()> {
        self.expect_alive()?;
        state.recorder.call_for_all();
        self.submit_due(state)
    }

    fn submit_due(&self, state: &mut State) -> Result<()> {
        while state.recorder.due() > 0 {
            // What is beyond the bound follows when something under way has ended.
            #[cfg(target_arch = "wasm32")]
            if state.recorder.count_under_way() >= MOST_UNDER_WAY {
                break;
            }
            let due = state.recorder.due();
            self.submit_some(state, due)?;
        }
        Ok(())
    }

    /// One submission of the oldest commands, at most so many.
    pub(super) fn submit_some(&self, state: &mut State, most: usize) -> Result<Submitted> {
        let scopes = Scopes::open(&self.0.device);
        let submitted = self.hand_over(state, most).or_else(|refused| {
            self.probe().map_err(|_| refused)?;
            self.make_room(state);
            self.hand_over(state, most)
        });
        let caught = scopes.close();
        let submitted =
            submitted.map_err(|Refused { size, message }| self.no_memory("commands on their way", size, message))?;
        if let Some(message) = caught {
            return Err(self.device_error("submitting commands", message));
        }
        #[cfg(target_arch = "wasm32")]
        self.go_on_after(submitted.ordinal);
        Ok(submitted)
    }

    fn hand_over(&self, state: &mut State, most: usize) -> std::result::Result<Submitted, Refused> {
        let State { recorder, profiler, .. } = state;
        recorder.submit(&self.0.device, &self.0.queue, profiler.as_mut(), most)
    }

    /// Lets go of what the pool can, and waits until the driver has it back: once the device has done what it was given.
    fn make_room(&self, state: &mut State) {
        self.release(state);
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(message) = super::health::wait(&self.0.device, &self.0.queue, None) {
            log::warn!("waiting for memory: {message}");
        }
    }

    /// Has the browser tell when that submission has ended, and what was kept back then follows.
    #[cfg(target_arch = "wasm32")]
    fn go_on_after(&self, ordinal: u64) {
        let (inner, ended) = (Arc::downgrade(&self.0), Mapped::default());
        let callback = ended.clone();
        self.0.queue.on_submitted_work_done(move || callback.set(true));
        // The callback may go to other threads, as wgpu has it, and the engine may not in a browser.
        wasm_bindgen_futures::spawn_local(async move {
            std::future::poll_fn(|context| ended.poll(context)).await;
            let Some(gpu) = inner.upgrade().map(Gpu) else { return };
            let mut state = gpu.state();
            state.recorder.arrived(ordinal, None);
            if let Err(error) = gpu.submit_due(&mut state) {
                gpu.0.health.note(error.to_string());
            }
        });
    }

    /// Submits all that has been recorded, without waiting, and returns the newest submission. A host program calls this before
    /// its own pass reads a result.
    ///
    /// # Errors
    /// [`Error::DeviceLost`]; [`Error::OutOfMemory`] where the host has none for what a submission reads, and all that was recorded waits
    /// for the next call; [`Error::Device`] if the device does not take the commands.
    pub fn flush(&self) -> Result<Option<wgpu::SubmissionIndex>> {
        let mut state = self.state();
        if state.recorder.waiting().len() == 0 {
            self.probe()?;
        }
        self.submit(&mut state)?;
        // What a browser keeps back follows at once, whatever is under way: the host's own pass comes next.
        #[cfg(target_arch = "wasm32")]
        while state.recorder.due() > 0 {
            let due = state.recorder.due();
            self.submit_some(&mut state, due)?;
        }
        Ok(state.recorder.last_submission())
    }

    /// Submits and waits until the device is idle.
    ///
    /// # Errors
    /// As [`Gpu::flush`], and [`Error::Device`] if the device has reported an error.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(&self) -> Result<()> {
        if self.is_dry_run() {
            return Ok(());
        }
        self.flush()?;
        self.await_all("waiting for the device")?;
        self.take_error()
    }

    /// Waits for all submissions that there are.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn await_all(&self, during: &'static str) -> Result<()> {
        let ordinal = self.state().recorder.submissions;
        self.await_submission(None, ordinal, during)
    }

    /// Waits for the submission of that number, and with it for all before; without one, for all that there are.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn await_submission(
        &self,
        submission_index: Option<wgpu::SubmissionIndex>,
        ordinal: u64,
        during: &'static str,
    ) -> Result<()> {
        /// Who waits no longer than this has come too late to know when it ended.
        const LATE: Duration = Duration::from_micros(200);
        // OpenGL is waited for as a whole.
        let ordinal =
            if super::health::is_opengl(&self.0.device) { self.state().recorder.submissions } else { ordinal };
        let begun = Instant::now();
        let waited = super::health::wait(&self.0.device, &self.0.queue, submission_index);
        waited.map_err(|message| self.device_error(during, message))?;
        let end = Instant::now();
        let mut state = self.state();
        state.waited += end - begun;
        state.recorder.arrived(ordinal, (end - begun > LATE).then_some(end));
        Ok(())
    }

    /// Says that an optimiser step has ended: submits it, unless it is held, and lets go of memory that no recent step has used.
    ///
    /// # Errors
    /// As [`Gpu::flush`], but for want of memory: what was recorded waits for more.
    pub fn end_step(&self) -> Result<()> {
        let mut state = self.state();
        let submitted = wait_for_memory(self.submit_unless_held(&mut state));
        state.recorder.forget(self.0.pool.end_step());
        submitted
    }

    /// Releases all memory that no live tensor holds; what commands that are held still name, with the last of them.
    pub fn trim(&self) {
        // One lock: a command that another thread records in between might bind anew what is released.
        let mut state = self.state();
        if state.holds == 0 {
            self.submit_or_keep(&mut state);
        }
        self.release(&mut state);
    }

    /// The same at once, also of held commands.
    pub(super) fn give_back_all(&self) {
        let mut state = self.state();
        self.submit_or_keep(&mut state);
        self.release(&mut state);
    }

    /// Lets go of what the pool has free, and of scratch, unless somebody is lent it, who may be the one that finds no
    /// memory.
    fn release(&self, state: &mut State) {
        match self.0.scratch.try_lock() {
            Ok(mut scratch) => *scratch = None,
            Err(TryLockError::Poisoned(scratch)) => *scratch.into_inner() = None,
            Err(TryLockError::WouldBlock) => {}
        }
        state.recorder.forget(self.0.pool.trim());
    }

    /// Submits where no error can be returned: the next call that can returns it.
    pub(super) fn submit_or_keep(&self, state: &mut State) {
        if let Err(error) = wait_for_memory(self.submit(state)) {
            self.0.health.note(error.to_string());
        }
    }

    /// Asks for the contents of `views`, without waiting.
    pub(crate) fn read(&self, views: &[&BufferView]) -> Result<Readback> {
        Readback::start(self, views)
    }
}

/// What could not be submitted for want of memory has been recorded all the same, and must not be a second time: that is no error to who
/// records. The next submission tries again, and who asks for results is told.
fn wait_for_memory(submitted: Result<()>) -> Result<()> {
    match submitted {
        Err(Error::OutOfMemory { what, message, .. }) => {
            log::warn!("{what} wait for memory: {message}");
            Ok(())
        }
        submitted => submitted,
    }
}
