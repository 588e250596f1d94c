//! Results on their way to the host.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{BufferView, Command, Gpu, fault};
use crate::error::{Error, Result};

type MapResult = Result<(), wgpu::BufferAsyncError>;

/// The callback's end and the future's end of one mapping.
#[derive(Debug, Default)]
struct Mapping {
    done: Option<MapResult>,
    waker: Option<Waker>,
}

#[derive(Clone, Debug, Default)]
struct Mapped(Arc<Mutex<Mapping>>);

impl Mapped {
    fn set(&self, result: MapResult) {
        let mut mapping = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mapping.done = Some(result);
        if let Some(waker) = mapping.waker.take() {
            waker.wake();
        }
    }
}

impl Future for Mapped {
    type Output = MapResult;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<MapResult> {
        let mut mapping = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match mapping.done.take() {
            Some(result) => Poll::Ready(result),
            None => {
                mapping.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Bytes that have been asked for; the device fills them while the host goes on.
#[derive(Debug)]
pub struct Readback {
    gpu: Gpu,
    staging: wgpu::Buffer,
    /// What to wait for. A browser awaits the mapping alone.
    #[cfg(not(target_arch = "wasm32"))]
    submission: Option<wgpu::SubmissionIndex>,
    mapped: Mapped,
    ranges: Vec<(u64, u64)>,
}

impl Readback {
    /// Copies `views` (behind the fault word) to the host, in order with what has been recorded before.
    pub(super) fn start(gpu: &Gpu, views: &[&BufferView]) -> Result<Self> {
        let mut ranges = Vec::with_capacity(views.len());
        let mut size = fault::SIZE;
        for view in views {
            ranges.push((size, view.size()));
            // Copies are in words of four bytes.
            size += view.size().next_multiple_of(4);
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.create_buffer("read-back", size, usage, false)?;
        take_faults(gpu, &staging);
        for (view, (at, _)) in views.iter().zip(&ranges) {
            let mut from = view.raw();
            from.size = from.size.next_multiple_of(4);
            gpu.record(Command::Download { from, staging: staging.clone(), at: *at });
        }
        #[cfg_attr(target_arch = "wasm32", expect(unused_variables, reason = "a browser awaits the mapping alone"))]
        let submission = gpu.flush();
        let mapped = Mapped::default();
        let callback = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| callback.set(result));
        Ok(Readback {
            gpu: gpu.clone(),
            staging,
            #[cfg(not(target_arch = "wasm32"))]
            submission,
            mapped,
            ranges,
        })
    }

    /// Waits for the bytes, one vector for each range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a kernel met a label or index out of range between the last read-back that was asked for
    /// and this one; [`Error::Device`] if the device was lost or has reported an error.
    pub async fn bytes(self) -> Result<Vec<Vec<u8>>> {
        #[cfg(not(target_arch = "wasm32"))]
        self.poll_device()?;
        let failed = |message: String| Error::Device { during: "read-back", message };
        self.mapped.clone().await.map_err(|e| failed(e.to_string()))?;
        self.gpu.take_error()?;
        let view = self.staging.get_mapped_range(..).map_err(|e| failed(e.to_string()))?;
        if let Some(error) = fault::decode(&view[..fault::SIZE as usize]) {
            return Err(error);
        }
        Ok(self.ranges.iter().map(|&(at, size)| view[at as usize..(at + size) as usize].to_vec()).collect())
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn poll_device(&self) -> Result<()> {
        let poll = wgpu::PollType::Wait { submission_index: self.submission.clone(), timeout: None };
        let result = self.gpu.device().poll(poll);
        result.map(|_| ()).map_err(|e| Error::Device { during: "read-back", message: e.to_string() })
    }

    /// [`Readback::bytes`], blocking the thread.
    ///
    /// # Errors
    /// As [`Readback::bytes`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(self) -> Result<Vec<Vec<u8>>> {
        pollster::block_on(self.bytes())
    }
}

/// Copies the fault flag to the start of `staging` and lowers it, so that each fault is reported once, by the first
/// read-back recorded after it, also where several are on their way. One lock, so that no other thread's kernel comes
/// between the two.
fn take_faults(gpu: &Gpu, staging: &wgpu::Buffer) {
    let faults = gpu.faults();
    let Some(mut state) = gpu.recording() else { return };
    gpu.push(&mut state, Command::Download { from: faults.raw(), staging: staging.clone(), at: 0 }, 0);
    gpu.push(&mut state, Command::Clear { to: faults.raw() }, 0);
}
