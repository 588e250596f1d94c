//! Per-kernel device time: by timestamps where the device has them, else by waiting for each kernel.

use std::collections::BTreeMap;
use std::time::Duration;

use super::clock::Instant;

/// What one kernel cost while profiling was on; in a browser there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProfileRow {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Number of dispatches.
    pub count: u64,
    /// Their time on the device, added up.
    pub total: Duration,
}

#[derive(Debug)]
struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
}

/// Collects times between [`crate::Gpu::start_profile`] and [`crate::Gpu::take_profile`].
#[derive(Debug)]
pub(crate) struct Profiler {
    nanoseconds_per_tick: Option<f64>,
    queries: Option<Queries>,
    totals: BTreeMap<&'static str, (u64, Duration)>,
}

impl Profiler {
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let timestamps = device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        Profiler {
            nanoseconds_per_tick: timestamps.then(|| f64::from(queue.get_timestamp_period())),
            queries: None,
            totals: BTreeMap::new(),
        }
    }

    pub(crate) fn has_timestamps(&self) -> bool {
        self.nanoseconds_per_tick.is_some()
    }

    /// The totals, most expensive first.
    pub(crate) fn rows(&self) -> Vec<ProfileRow> {
        let row = |(&kernel, &(count, total)): (&&'static str, &(u64, Duration))| ProfileRow { kernel, count, total };
        let mut rows: Vec<_> = self.totals.iter().map(row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.total));
        rows
    }

    /// Prepares for a submission of `dispatches`.
    pub(crate) fn begin(&mut self, device: &wgpu::Device, dispatches: usize) {
        if self.has_timestamps() && dispatches > 0 {
            let count = 2 * dispatches as u32;
            let set = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let buffer = |usage| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("profile"),
                    size: u64::from(count) * 8,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
            let readable = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
            self.queries = Some(Queries { set, resolved, readable });
        }
    }

    /// Where the `index`-th dispatch writes its two timestamps.
    pub(crate) fn pass_descriptor(&self, index: usize) -> wgpu::ComputePassDescriptor<'_> {
        wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: self.queries.as_ref().map(|q| wgpu::ComputePassTimestampWrites {
                query_set: &q.set,
                beginning_of_pass_write_index: Some(2 * index as u32),
                end_of_pass_write_index: Some(2 * index as u32 + 1),
            }),
        }
    }

    /// Without timestamps: submits what has been encoded, waits, and books the time on `kernel`.
    pub(crate) fn time_on_host(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        encoder: wgpu::CommandEncoder,
        kernel: &'static str,
    ) {
        let clock = Instant::now();
        queue.submit([encoder.finish()]);
        wait(device, queue);
        self.book(kernel, clock.elapsed());
    }

    /// Submits the rest and, with timestamps, waits and books them.
    pub(crate) fn finish(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        mut encoder: wgpu::CommandEncoder,
        names: &[&'static str],
    ) -> wgpu::SubmissionIndex {
        let queries = self.queries.take();
        if let Some(q) = &queries {
            encoder.resolve_query_set(&q.set, 0..2 * names.len() as u32, &q.resolved, 0);
            encoder.copy_buffer_to_buffer(&q.resolved, 0, &q.readable, 0, q.readable.size());
        }
        let submission = queue.submit([encoder.finish()]);
        if let (Some(q), Some(period)) = (queries, self.nanoseconds_per_tick) {
            q.readable.map_async(wgpu::MapMode::Read, .., |_| {});
            wait(device, queue);
            // Of a lost device nothing is mapped, and the submission goes unprofiled.
            if let Ok(view) = q.readable.get_mapped_range(..) {
                let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&view);
                for (name, pair) in names.iter().zip(ticks.chunks_exact(2)) {
                    let nanoseconds = pair[1].saturating_sub(pair[0]) as f64 * period;
                    self.book(name, Duration::from_nanos(nanoseconds as u64));
                }
            }
        }
        submission
    }

    fn book(&mut self, kernel: &'static str, time: Duration) {
        let entry = self.totals.entry(kernel).or_default();
        entry.0 += 1;
        entry.1 += time;
    }
}

/// A lost device ends the wait; the next read-back reports it.
#[cfg(not(target_arch = "wasm32"))]
fn wait(device: &wgpu::Device, queue: &wgpu::Queue) {
    if let Err(error) = super::health::wait(device, queue, None) {
        log::warn!("profiler: {error}");
    }
}

/// A browser has no profiler.
#[cfg(target_arch = "wasm32")]
fn wait(_device: &wgpu::Device, _queue: &wgpu::Queue) {}
