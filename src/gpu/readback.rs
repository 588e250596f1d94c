//! Results on their way to the host.

use std::task::{Context, Poll};

use super::allocate::readable_buffer;
use super::fault::{Open, TABLE};
use super::mapped::Landing;
use super::staging::Staged;
use super::witness::WITNESS;
use super::{BufferView, Command, Gpu};
#[cfg(not(target_arch = "wasm32"))]
use super::{health::poll, waiter::Awaited};
use crate::error::Result;

/// Bytes that have been asked for; the device fills them while the host goes on.
#[derive(Debug)]
pub struct Readback {
    /// One, but where that would be larger than the device's buffers are.
    parts: Vec<Part>,
    /// The view that each range is of, of all parts' in order.
    owners: Vec<usize>,
    /// How many views there are.
    views: usize,
}

impl Readback {
    /// Copies `views` to the host, in order with what has been recorded before.
    pub(super) fn start(gpu: &Gpu, views: &[&BufferView]) -> Result<Self> {
        gpu.expect_alive()?;
        let groups = groups(views, gpu.0.limits.max_buffer_size);
        let owners = groups.iter().flatten().map(|(owner, _)| *owner).collect();
        let part = |group: &Vec<(usize, BufferView)>| {
            let views: Vec<&BufferView> = group.iter().map(|(_, view)| view).collect();
            Part::start(gpu, &views)
        };
        let parts = groups.iter().map(part).collect::<Result<_>>()?;
        Ok(Readback { parts, owners, views: views.len() })
    }

    /// Whether [`Readback::bytes`] and [`Readback::wait`] would return at once. Never blocks, and submits nothing that is held
    /// ([`Gpu::hold`]).
    pub fn is_ready(&self) -> bool {
        self.parts.iter().all(Part::is_ready)
    }

    /// Awaits the bytes, one vector for each range. No poll of the future blocks: while the device is not done it is
    /// pending, and a thread that waits in its stead wakes it (in a browser, the event loop). What it needs and is held, the first poll
    /// submits.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) if a range depends on a label or index that was out of range, and no
    /// read of what depends on it has said so;
    /// [`Error::DeviceLost`](crate::Error::DeviceLost), or [`Error::Device`](crate::Error::Device) if the device has
    /// reported another error.
    pub async fn bytes(self) -> Result<Vec<Vec<u8>>> {
        let mut ranges = Vec::with_capacity(self.owners.len());
        for part in self.parts {
            ranges.extend(part.bytes().await?);
        }
        Ok(joined(ranges, &self.owners, self.views))
    }

    /// [`Readback::bytes`], blocking the thread.
    ///
    /// # Errors
    /// As [`Readback::bytes`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(self) -> Result<Vec<Vec<u8>>> {
        self.each(Part::wait)
    }

    /// The bytes of one that [`Readback::is_ready`].
    #[cfg(feature = "train")]
    pub(crate) fn ready(self) -> Result<Vec<Vec<u8>>> {
        self.each(Part::ready)
    }

    #[cfg(any(feature = "train", not(target_arch = "wasm32")))]
    fn each(self, take: impl Fn(Part) -> Result<Vec<Vec<u8>>>) -> Result<Vec<Vec<u8>>> {
        let ranges: Vec<Vec<Vec<u8>>> = self.parts.into_iter().map(take).collect::<Result<_>>()?;
        Ok(joined(ranges.into_iter().flatten().collect(), &self.owners, self.views))
    }
}

/// What stands before and behind the views in a part: room for all tables of faults, and the witness.
const BESIDE: u64 = 1 << 16;

/// The views in groups, each of which a buffer of at most so many bytes takes; with the view's number, and those that are larger in pieces.
fn groups(views: &[&BufferView], most: u64) -> Vec<Vec<(usize, BufferView)>> {
    let room = (most.saturating_sub(BESIDE) / 256 * 256).max(256);
    let (mut groups, mut size) = (vec![Vec::new()], 0);
    for (i, view) in views.iter().enumerate() {
        for at in (0..view.size().max(1)).step_by(room as usize) {
            let piece = if view.size() <= room { (*view).clone() } else { view.window(at, room.min(view.size() - at)) };
            // Copies are in words of four bytes.
            let bytes = piece.size().next_multiple_of(4);
            if size + bytes > room {
                groups.push(Vec::new());
                size = 0;
            }
            size += bytes;
            if let Some(group) = groups.last_mut() {
                group.push((i, piece));
            }
        }
    }
    groups
}

/// The bytes of each view, of ranges that it may consist of.
fn joined(ranges: Vec<Vec<u8>>, owners: &[usize], views: usize) -> Vec<Vec<u8>> {
    if ranges.len() == views {
        return ranges;
    }
    let mut whole = vec![Vec::new(); views];
    for (mut range, &owner) in ranges.into_iter().zip(owners) {
        whole[owner].append(&mut range);
    }
    whole
}

/// What is read into one buffer.
#[derive(Debug)]
struct Part {
    gpu: Gpu,
    staging: wgpu::Buffer,
    _staged: Staged,
    landing: Landing,
    ranges: Vec<(u64, u64)>,
    /// How many tables of faults lie before them, and the dispatches that those tell of.
    tables: usize,
    /// Where the submissions' witness lies behind them.
    witness: u64,
    outlook: Vec<Open>,
    /// The faults that the ranges depend on, and that they carry.
    mark: u64,
    carried: u64,
}

/// As in `pool.rs`, unless copies into it still wait to be submitted.
#[cfg(target_arch = "wasm32")]
impl Drop for Part {
    fn drop(&mut self) {
        if self.landing.submission().is_some() {
            self.staging.destroy();
        }
    }
}

impl Part {
    /// Copies `views` (behind the tables of faults) to the host, in order with what has been recorded before.
    fn start(gpu: &Gpu, views: &[&BufferView]) -> Result<Self> {
        let tables = gpu.state().ledger.tables_in_use().len();
        let mut ranges = Vec::with_capacity(views.len());
        let mut size = tables as u64 * TABLE;
        for view in views {
            ranges.push((size, view.size()));
            // Copies are in words of four bytes.
            size += view.size().next_multiple_of(4);
        }
        let witness = size;
        size += WITNESS;
        let staging = gpu.insist(size, "a read-back on its way", || readable_buffer(gpu.device(), size))?;
        let mut part = Part {
            gpu: gpu.clone(),
            staging,
            _staged: gpu.0.downloads.hold(size),
            landing: Landing::default(),
            ranges,
            tables,
            witness,
            outlook: Vec::new(),
            mark: 0,
            carried: 0,
        };
        part.record(views)?;
        Ok(part)
    }

    /// One lock, so that no other thread's kernel comes between a result and the tables.
    fn record(&mut self, views: &[&BufferView]) -> Result<()> {
        let gpu = self.gpu.clone();
        let Some(mut state) = gpu.recording()? else {
            self.landing.mapped.map(&self.staging);
            return Ok(());
        };
        let to = |from, at| Command::Download { from, staging: self.staging.clone(), at };
        let tables: Vec<_> = state.ledger.tables_in_use().iter().take(self.tables).map(BufferView::raw).collect();
        for (table, at) in tables.into_iter().zip((0..).step_by(TABLE as usize)) {
            gpu.push(&mut state, to(table, at))?;
        }
        for (view, (at, _)) in views.iter().zip(&self.ranges) {
            let mut from = view.raw();
            from.size = from.size.next_multiple_of(4);
            gpu.push(&mut state, to(from, *at))?;
        }
        self.outlook = state.ledger.outlook(self.tables);
        self.mark = views.iter().fold(0, |mark, view| state.ledger.union(mark, view.mark()));
        self.carried = views.iter().fold(0, |mark, view| state.ledger.union(mark, view.carried()));
        let (staging, landing) = (self.staging.clone(), self.landing.clone());
        gpu.push(&mut state, Command::Land { staging, landing, at: self.witness })?;
        gpu.submit_unless_held(&mut state)
    }

    fn is_ready(&self) -> bool {
        // A device that fails while it is looked at will not do more: there is an error to return.
        #[cfg(not(target_arch = "wasm32"))]
        if self.landing.mapped.done().is_none() && poll(self.gpu.device(), wgpu::PollType::Poll).is_err() {
            return true;
        }
        self.landing.mapped.done().is_some() || self.gpu.expect_alive().is_err()
    }

    async fn bytes(self) -> Result<Vec<Vec<u8>>> {
        self.ask()?;
        let worked = std::future::poll_fn(|context| self.poll(context)).await;
        self.take(worked)
    }

    /// Submits what it depends on, if that is held.
    fn ask(&self) -> Result<()> {
        if self.landing.submission().is_none() && !self.gpu.is_dry_run() {
            self.gpu.submit(&mut self.gpu.state())?;
        }
        Ok(())
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn poll(&self, context: &Context<'_>) -> Poll<bool> {
        let mapped = &self.landing.mapped;
        if mapped.done().is_none() && poll(self.gpu.device(), wgpu::PollType::Poll).is_err() {
            return Poll::Ready(false);
        }
        let (polled, is_first) = mapped.poll_watched(context);
        let is_watched = || self.gpu.0.waiter.watch(self.gpu.device(), Awaited::Mapping(mapped.clone()));
        if polled.is_pending() && is_first && !is_watched() {
            // Then by looking again and again.
            mapped.give_up_watch();
            context.waker().wake_by_ref();
        }
        polled
    }

    #[cfg(target_arch = "wasm32")]
    fn poll(&self, context: &Context<'_>) -> Poll<bool> {
        self.landing.mapped.poll(context)
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn wait(self) -> Result<Vec<Vec<u8>>> {
        self.ask()?;
        let (ordinal, index) = self.landing.submission().cloned().unzip();
        self.gpu.await_submission(index, ordinal.unwrap_or_default(), "read-back")?;
        // Another thread may have met the callback first, and be about to call it.
        let worked = pollster::block_on(std::future::poll_fn(|context| self.landing.mapped.poll(context)));
        self.take(worked)
    }

    #[cfg(feature = "train")]
    fn ready(self) -> Result<Vec<Vec<u8>>> {
        let worked = self.landing.mapped.done().unwrap_or(false);
        self.take(worked)
    }

    /// The bytes, once the mapping is done.
    fn take(self, worked: bool) -> Result<Vec<Vec<u8>>> {
        let failed = |message: String| self.gpu.device_error("read-back", message);
        self.gpu.take_error()?;
        if !worked {
            return Err(failed("the result cannot be looked at".to_owned()));
        }
        let view = self.staging.get_mapped_range(..).map_err(|e| failed(e.to_string()))?;
        if let Some((ordinal, _)) = self.landing.submission() {
            self.gpu.check_witness(&view[self.witness as usize..], *ordinal)?;
        }
        let mut state = self.gpu.state();
        if let Some((ordinal, _)) = self.landing.submission() {
            state.recorder.arrived(*ordinal, None);
        }
        state.ledger.settle(&self.outlook, &view[..self.tables * TABLE as usize]);
        if let Some(error) = state.ledger.verdict([self.mark, self.carried]) {
            return Err(error);
        }
        drop(state);
        Ok(self.ranges.iter().map(|&(at, size)| view[at as usize..(at + size) as usize].to_vec()).collect())
    }
}
