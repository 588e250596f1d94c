//! The engine as a guest in another program: on its device, beside its threads, its polls and its error scopes; left at any moment.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::common::{gpu, host_device, values};
use wgrad::autograd::{Gradients, Parameters};
use wgrad::data::{ImageBatch, Position};
use wgrad::gpu::{BufferView, Readback};
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::optim::{AdamW, LrSchedule, Optimizer, Rule};
use wgrad::train::{Classify, Pending, Snapshot, StepMetrics, Task, TrainSettings, Trainer};
use wgrad::{DType, Error, Gpu, Result, Tensor, ops, wgpu};

/// What crosses threads.
#[test]
fn send_and_sync() {
    fn both<T: Send + Sync>() {}
    both::<Gpu>();
    both::<BufferView>();
    both::<Tensor>();
    both::<Gradients>();
    both::<Parameters>();
    both::<Optimizer>();
    both::<Vit>();
    both::<Trainer<Classify<Vit>>>();
    both::<Readback>();
    both::<Pending>();
    both::<Snapshot>();
    both::<Error>();
    fn sends<T: Send>(_: T) {}
    let gpu = gpu();
    let x = upload(&gpu, &[1.0]);
    sends(x.read::<f32>());
    sends(x.read_later().unwrap().bytes());
}

fn upload(gpu: &Gpu, data: &[f32]) -> Tensor {
    Tensor::from_slice(gpu, &[data.len()], data).unwrap()
}

const SIDE: usize = 16;
const BATCH: usize = 4;

/// A small ViT with random-LTD, on `gpu`.
fn trainer(gpu: &Gpu) -> Trainer<Classify<Vit>> {
    let config = VitConfig { img_size: (SIDE, SIDE), patch_size: 4, num_classes: 3, ..VitConfig::custom(32, 3, 2) };
    // The length changes on the way, and with it what the pool holds.
    let drop = RandomLtd::new(3, Schedule::linear(9, 17, 6, 4).unwrap()).unwrap().into();
    let rule = Rule::AdamW(AdamW::default());
    let settings = TrainSettings { drop, ..TrainSettings::new(rule, LrSchedule::constant(1e-2).unwrap()) };
    Trainer::new(Classify::new(Vit::new(gpu, config, 5).unwrap()), settings).unwrap()
}

/// The `n`-th batch.
fn batch(n: u64) -> ImageBatch {
    let pixels = values(n + 1, BATCH * 3 * SIDE * SIDE);
    ImageBatch {
        images: pixels.iter().map(|v| (127.0 * (v + 1.0)) as u8).collect(),
        indices: (0..BATCH as u32).collect(),
        labels: (0..BATCH as u32).map(|i| (i + n as u32) % 3).collect(),
        mixed: None,
        position: Position::default(),
    }
}

/// Metrics and weights after so many ordinary steps.
fn undisturbed(gpu: &Gpu, steps: u64) -> (Vec<StepMetrics>, Vec<Vec<f32>>) {
    let mut trainer = trainer(gpu);
    let mut metrics: Vec<_> = (0..steps).filter_map(|n| trainer.step(&batch(n)).unwrap()).collect();
    metrics.extend(trainer.finish().unwrap());
    (metrics, weights(&trainer))
}

fn weights(trainer: &Trainer<Classify<Vit>>) -> Vec<Vec<f32>> {
    trainer.task().model().parameters().iter().map(|p| p.value().to_vec().unwrap()).collect()
}

// ---- slices ----

/// Steps in slices, cut wherever the time is over, are the same steps.
#[test]
fn steps_in_slices() {
    let (all, _) = undisturbed(&gpu(), 8);
    let micros = Duration::from_micros;
    // A command at a time, few, a step or so, as many as may be ahead.
    for (budget, steps) in [(micros(0), 1), (micros(500), 2), (micros(8_000), 8), (micros(9_000_000), 8)] {
        let expected = &all[..steps];
        let gpu = gpu();
        let mut trainer = trainer(&gpu);
        let (mut taken, mut metrics) = (0, Vec::new());
        while metrics.len() < steps {
            let next = || {
                taken += 1;
                Some(Ok(batch(taken - 1)))
            };
            metrics.extend(trainer.step_slice(budget, next).unwrap());
            // As a program does between two frames.
            std::thread::sleep(micros(100));
        }
        assert_eq!(&metrics[..steps], expected, "{budget:?}");
        // It has gone on beyond them, and nothing is lost of what it has recorded.
        let (_, weights_then) = undisturbed(&gpu, trainer.steps());
        assert_eq!(weights(&trainer), weights_then, "{budget:?}");
    }
}

/// Data that end, or are not there yet: what is recorded goes on, and nothing waits.
#[test]
fn steps_in_slices_while_there_is_data() {
    let (expected, expected_weights) = undisturbed(&gpu(), 3);
    let gpu = gpu();
    let mut trainer = trainer(&gpu);
    let (mut calls, mut taken, mut metrics, mut slices) = (0, 0, Vec::new(), 0);
    while metrics.len() < 3 {
        let next = || {
            calls += 1;
            let there_is = taken < 3 && calls % 3 == 0;
            there_is.then(|| {
                taken += 1;
                Ok(batch(taken - 1))
            })
        };
        metrics.extend(trainer.step_slice(Duration::from_micros(300), next).unwrap());
        slices += trainer.slices().len();
    }
    assert_eq!((metrics, trainer.steps()), (expected, 3));
    assert!(slices > 0 && calls >= 9, "{slices} slices, {calls} calls");
    assert_eq!(weights(&trainer), expected_weights);
}

/// A slice of no time is one command, so that nothing stands still; what waits becomes less.
#[test]
fn the_smallest_slices() {
    let gpu = gpu();
    let x = upload(&gpu, &values(1, 100));
    gpu.flush().unwrap();
    let read = gpu.hold(|| {
        let y = (0..300).fold(x.clone(), |y, _| ops::scale(&y, 1.01).unwrap());
        y.read_later().unwrap()
    });
    let first = gpu.submit_slice(Duration::ZERO).unwrap();
    assert_eq!(first.commands, 1);
    assert!(first.waiting >= 300 && !read.is_ready(), "{first:?}");
    let (mut waiting, mut commands) = (first.waiting, first.commands);
    while waiting > 0 {
        let slice = gpu.submit_slice(Duration::ZERO).unwrap();
        assert!(slice.commands <= 1 && slice.waiting == waiting - slice.commands, "{slice:?}");
        assert!(slice.ended.iter().all(|ended| ended.expected > Duration::ZERO), "{slice:?}");
        (waiting, commands) = (slice.waiting, commands + slice.commands);
    }
    assert!(commands > 300);
    let expected = values(1, 100).iter().fold(0.0f64, |sum, &v| sum + f64::from(v) * 1.01f64.powi(300));
    let got: Vec<f32> = bytes_to_f32(&read.wait().unwrap()[0]);
    assert!((got.iter().map(|&v| f64::from(v)).sum::<f64>() / expected - 1.0).abs() < 1e-4);
    assert_eq!(gpu.submit_slice(Duration::from_secs(1)).unwrap().waiting, 0);
}

/// Uploads of more than is staged at a time, too.
#[test]
fn large_uploads_do_not_end_a_hold() {
    let gpu = gpu();
    let x = upload(&gpu, &[2.0; 64]);
    gpu.wait().unwrap();
    let submissions = gpu.stats().submissions;
    let read = gpu.hold(|| {
        let y = (0..300).fold(x.clone(), |y, _| ops::scale(&y, -1.0).unwrap());
        let large = upload(&gpu, &vec![1.0; 20_000_000]);
        ops::add(&y, &ops::sum(&large).unwrap()).unwrap().read_later().unwrap()
    });
    assert_eq!(gpu.stats().submissions, submissions);
    assert_eq!(bytes_to_f32(&read.wait().unwrap()[0]), [20_000_002.0; 64]);
}

/// However long a slice may be, no more than 16 submissions are under way.
#[test]
fn slices_that_are_too_long_end_early() {
    const SUBMISSION: usize = 96;
    let gpu = gpu();
    let x = upload(&gpu, &[1.0; 64]);
    gpu.wait().unwrap();
    let all = 40 * SUBMISSION;
    let read = gpu.hold(|| (0..all).fold(x.clone(), |y, _| ops::scale(&y, -1.0).unwrap()).read_later().unwrap());
    let (before, hour) = (gpu.stats().submissions, Duration::from_secs(3600));
    let first = gpu.submit_slice(hour).unwrap();
    assert!(first.commands <= 16 * SUBMISSION && first.waiting > all - first.commands, "{first:?}");
    let submissions = gpu.stats().submissions - before;
    assert!((15..=16).contains(&submissions), "{submissions} submissions");
    let mut slices = 1;
    while gpu.submit_slice(hour).unwrap().waiting > 0 {
        slices += 1;
        std::thread::sleep(Duration::from_micros(100));
    }
    assert!(slices >= 3);
    assert_eq!(bytes_to_f32(&read.wait().unwrap()[0]), [1.0; 64]);
}

fn bytes_to_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// What is held is done when somebody waits for it, or for something that comes later; memory that was given back meanwhile is whole.
#[test]
fn held_work_is_done_when_it_is_asked_for() {
    let gpu = gpu();
    let x = upload(&gpu, &[2.0; 64]);
    let held = || gpu.hold(|| (0..200).fold(x.clone(), |y, _| ops::scale(&y, -1.0).unwrap()));
    let submissions = gpu.stats().submissions;
    // Recorded, given back, and its memory taken again by what follows.
    let read = gpu.hold(|| held().read_later().unwrap());
    gpu.hold(|| {
        gpu.trim();
        gpu.end_step().unwrap();
    });
    assert_eq!(gpu.stats().submissions, submissions, "held");
    let later = ops::scale(&x, 3.0).unwrap();
    assert_eq!(later.to_vec::<f32>().unwrap(), [6.0; 64]);
    assert!(gpu.stats().submissions > submissions + 2, "in as many as it takes");
    assert!(read.is_ready());
    assert_eq!(bytes_to_f32(&read.wait().unwrap()[0]), [2.0; 64]);
    // Awaited.
    let read = gpu.hold(|| held().read_later().unwrap());
    assert!(!read.is_ready());
    assert_eq!(bytes_to_f32(&pollster::block_on(read.bytes()).unwrap()[0]), [2.0; 64]);
    // A panic in between lets go.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gpu.hold(|| panic!("host"))));
    assert!(panicked.is_err());
    let submissions = gpu.stats().submissions;
    let read = x.read_later().unwrap();
    assert_eq!(gpu.stats().submissions, submissions + 1);
    drop(read);
}

/// A slice that meets a lost device says so, and so does a result that was to come of it.
#[test]
fn a_device_that_is_lost_between_slices() {
    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    let gpu = Gpu::from_wgpu(device.clone(), queue, Some(&adapter)).unwrap();
    let mut trainer = trainer(&gpu);
    let steps = trainer.step_slice(Duration::ZERO, || Some(Ok(batch(0)))).unwrap();
    assert!(steps.is_empty());
    device.destroy();
    let lost = loop {
        match trainer.step_slice(Duration::from_millis(1), || Some(Ok(batch(0)))) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(lost, Error::DeviceLost { .. }), "{lost}");
}

// ---- several ----

/// Two engines on one device, each in its own thread, and two on devices of their own: each does what it does alone.
#[test]
fn engines_side_by_side() {
    let expected = undisturbed(&gpu(), 4);
    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    let guest = || Gpu::from_wgpu(device.clone(), queue.clone(), Some(&adapter)).unwrap();
    let engines = [guest(), guest(), gpu(), gpu()];
    let threads = engines.map(|gpu| std::thread::spawn(move || undisturbed(&gpu, 4)));
    for thread in threads {
        assert!(thread.join().unwrap() == expected);
    }
    let second = Gpu::from_wgpu(device.clone(), queue.clone(), None).unwrap();
    let third = guest();
    let mixed = ops::add(&upload(&second, &[1.0]), &upload(&third, &[1.0]));
    assert!(matches!(mixed, Err(Error::Argument { .. } | Error::Mismatch { .. })), "{mixed:?}");
}

/// A trainer made on one thread trains on another, while the first reads on the same device.
#[test]
fn host_and_engine_on_threads_of_their_own() {
    let (expected, _) = undisturbed(&gpu(), 5);
    let gpu = gpu();
    let mut trainer = trainer(&gpu);
    let worker = std::thread::spawn(move || {
        let mut metrics: Vec<_> = (0..5).filter_map(|n| trainer.step(&batch(n)).unwrap()).collect();
        metrics.extend(trainer.finish().unwrap());
        metrics
    });
    let mut reads = 0;
    while !worker.is_finished() || reads == 0 {
        let x = upload(&gpu, &[1.5; 8]);
        assert_eq!(ops::scale(&x, 2.0).unwrap().to_vec::<f32>().unwrap(), [3.0; 8]);
        reads += 1;
    }
    assert_eq!(worker.join().unwrap(), expected);
}

// ---- polls ----

/// A host that polls all the time, by looking and by waiting.
#[test]
fn a_host_that_polls() {
    let (expected, _) = undisturbed(&gpu(), 4);
    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    let gpu = Gpu::from_wgpu(device.clone(), queue, Some(&adapter)).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let pollers = [wgpu::PollType::Poll, wgpu::PollType::wait_indefinitely()].map(|kind| {
        let (device, is_done) = (device.clone(), is_done.clone());
        std::thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                device.poll(kind.clone()).unwrap();
                std::thread::yield_now();
            }
        })
    });
    let mut trainer = trainer(&gpu);
    let mut metrics: Vec<_> = (0..4).filter_map(|n| trainer.step(&batch(n)).unwrap()).collect();
    metrics.extend(trainer.finish().unwrap());
    is_done.store(true, Ordering::Relaxed);
    pollers.into_iter().for_each(|poller| poller.join().unwrap());
    assert_eq!(metrics, expected);
}

/// A host that never polls: a look at the result is enough.
#[test]
fn a_host_that_does_not_poll() {
    let (expected, _) = undisturbed(&gpu(), 2);
    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    let gpu = Gpu::from_wgpu(device, queue, Some(&adapter)).unwrap();
    let mut trainer = trainer(&gpu);
    for (n, expected) in (0..).zip(expected) {
        let pending = trainer.record(&batch(n)).unwrap();
        while !pending.is_ready() {
            std::thread::yield_now();
        }
        assert_eq!(pollster::block_on(pending.read()).unwrap(), expected);
    }
}

// ---- errors ----

/// The host's scopes catch the host's errors and none of ours, and ours none of the host's.
#[test]
fn error_scopes_of_the_host() {
    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    let gpu = Gpu::from_wgpu(device.clone(), queue, Some(&adapter)).unwrap();
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let x = upload(&gpu, &[1.0; 6]);
    // An error of ours.
    let too_large = Tensor::zeros(&gpu, DType::F32, &[1 << 31]);
    assert!(matches!(too_large, Err(Error::Limit { .. })), "{too_large:?}");
    assert!(ops::matmul(&x, &x).is_err());
    assert_eq!(ops::scale(&x, 2.0).unwrap().to_vec::<f32>().unwrap(), [2.0; 6]);
    assert!(pollster::block_on(scope.pop()).is_none(), "nothing of the host's went wrong");
    // An error of the host's, with calls of ours around it.
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let before = ops::scale(&x, 3.0).unwrap();
    let _invalid = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("both ways at once"),
        size: 16,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE,
        mapped_at_creation: false,
    });
    assert_eq!(before.to_vec::<f32>().unwrap(), [3.0; 6]);
    let error = pollster::block_on(scope.pop());
    assert!(error.is_some_and(|error| error.to_string().contains("both ways at once")));
    gpu.wait().unwrap();
}

// ---- what a host writes ----

/// What is recorded before an overwrite reads the old values, also where it has not been submitted, and what comes
/// behind it the new.
#[test]
fn tensors_are_overwritten_in_order() {
    let gpu = gpu();
    let x = upload(&gpu, &[1.0, 2.0, 3.0]);
    let (before, after) = gpu.hold(|| {
        let before = ops::scale(&x, 2.0).unwrap();
        x.write(&[10.0f32, 20.0, 30.0]).unwrap();
        (before, ops::scale(&x, 2.0).unwrap())
    });
    let values = Tensor::to_vecs::<f32>(&[&before, &after, &x]).unwrap();
    assert_eq!(values, [[2.0, 4.0, 6.0], [20.0, 40.0, 60.0], [10.0, 20.0, 30.0]]);
    let bytes = Tensor::from_slice(&gpu, &[5], &[1u8; 5]).unwrap();
    bytes.write(&[9u8, 8, 7, 6, 5]).unwrap();
    assert_eq!(bytes.to_vec::<u8>().unwrap(), [9, 8, 7, 6, 5]);
    if gpu.has_f16() {
        let halves = Tensor::zeros(&gpu, DType::F16, &[3]).unwrap();
        halves.write(&[0.5f32, -2.0, 65504.0]).unwrap();
        let error = halves.write(&[0.0f32, 0.0, 1e6]).unwrap_err();
        assert!(error.to_string().contains("f16 can hold, got 1000000"), "{error}");
        assert_eq!(halves.to_vec::<f32>().unwrap(), [0.5, -2.0, 65504.0]);
    }
}

/// Values that something else relies on stay: what a backward pass is to read above all.
#[test]
fn tensors_in_use_are_not_overwritten() {
    let gpu = gpu();
    let x = upload(&gpu, &[1.0, 2.0]);
    let refused = |tensor: &Tensor| {
        let before = tensor.to_vec::<f32>().unwrap();
        let error = tensor.write(&[7.0f32, 7.0]).unwrap_err();
        assert!(matches!(error, Error::Argument { name: "tensor", .. }), "{error}");
        assert_eq!(tensor.to_vec::<f32>().unwrap(), before);
    };
    let leaf = upload(&gpu, &[3.0, 4.0]).requires_grad().unwrap();
    let product = ops::mul(&x, &leaf).unwrap();
    refused(&x);
    refused(&leaf);
    refused(&product);
    let gradients = ops::sum(&product).unwrap().backward().unwrap();
    assert_eq!(gradients.get(&leaf).unwrap().to_vec::<f32>().unwrap(), [1.0, 2.0]);
    x.write(&[5.0f32, 6.0]).unwrap();
    assert_eq!(x.to_vec::<f32>().unwrap(), [5.0, 6.0]);
    let clone = x.clone();
    refused(&x);
    drop(clone);
    let mut parameters = Parameters::new(&gpu);
    let parameter = parameters.add("w", &[2], &[1.0, 2.0]).unwrap();
    refused(&parameter.value());
    // What does not fit.
    assert!(matches!(x.write(&[1u32, 2]), Err(Error::Shape { .. })));
    for count in [1, 3] {
        assert!(matches!(x.write(&vec![0.0f32; count]), Err(Error::Argument { name: "values", .. })), "{count}");
    }
    assert_eq!(x.to_vec::<f32>().unwrap(), [5.0, 6.0]);
}

// ---- left at any moment ----

/// Read-backs, steps and trainers that are dropped on their way leave a device that works, and no memory behind.
#[test]
fn dropped_on_the_way() {
    let (expected, _) = undisturbed(&gpu(), 2);
    let gpu = gpu();
    let x = upload(&gpu, &values(1, 1000));
    let y = ops::scale(&x, 2.0).unwrap();
    gpu.wait().unwrap();
    gpu.trim();
    let at_rest = gpu.memory();
    for polls in 0..3 {
        let read = y.read_later().unwrap();
        let mut future = Box::pin(read.bytes());
        for _ in 0..polls {
            if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
        }
    }
    // In the midst of a step: recorded and not read; held and not submitted; in the middle of its slices.
    let mut left = trainer(&gpu);
    drop(left.record(&batch(0)).unwrap());
    drop(left);
    let mut left = trainer(&gpu);
    gpu.hold(|| drop(left.record(&batch(0)).unwrap()));
    drop(left);
    let mut left = trainer(&gpu);
    left.step_slice(Duration::from_micros(300), || Some(Ok(batch(0)))).unwrap();
    drop(left);
    let (metrics, _) = undisturbed(&gpu, 2);
    assert_eq!(metrics, expected);
    gpu.wait().unwrap();
    gpu.trim();
    assert_eq!((gpu.memory().live, gpu.memory().allocated), (at_rest.live, at_rest.allocated));
    assert_eq!(gpu.memory().staging, 0);
    assert_eq!(y.to_vec::<f32>().unwrap().len(), 1000);
}

/// A graph that is dropped before its backward pass, and a backward pass whose gradients nobody keeps.
#[test]
fn graphs_that_are_dropped() {
    let gpu = gpu();
    let w = upload(&gpu, &values(1, 4096)).requires_grad().unwrap();
    let loss = || ops::sum(&ops::mul(&w, &w).unwrap()).unwrap();
    gpu.wait().unwrap();
    let before = gpu.memory().live;
    drop(loss());
    drop(loss().backward().unwrap());
    assert_eq!(gpu.memory().live, before);
}

/// The host lets go of its device, its queue and the engine; a tensor that is left holds them, and is the last.
#[test]
fn the_device_before_the_tensors() {
    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    let gpu = Gpu::from_wgpu(device.clone(), queue.clone(), Some(&adapter)).unwrap();
    let x = ops::scale(&upload(&gpu, &[1.0, 2.0]), 2.0).unwrap();
    let read = x.read_later().unwrap();
    drop((adapter, device, queue, gpu));
    assert_eq!(x.decode::<f32>(&read.wait().unwrap()[0]).unwrap(), [2.0, 4.0]);
    assert_eq!(ops::scale(&x, 2.0).unwrap().to_vec::<f32>().unwrap(), [4.0, 8.0]);
}

/// A future that is awaited on another thread when all other handles go.
#[test]
fn the_device_before_an_awaited_result() {
    let gpu = gpu();
    let x = ops::scale(&upload(&gpu, &[1.0; 1 << 16]), 2.0).unwrap();
    let read = x.read_later().unwrap();
    let thread = std::thread::spawn(move || pollster::block_on(read.bytes()).unwrap()[0].len());
    drop((x, gpu));
    assert_eq!(thread.join().unwrap(), 4 << 16);
}

// ---- bounds ----

/// A host that records and never looks has a bounded number of submissions under way.
#[test]
fn submissions_under_way_are_bounded() {
    let gpu = gpu();
    let x = upload(&gpu, &[1.0; 64]);
    let mut most = 0;
    for _ in 0..60 {
        ops::scale(&x, 2.0).unwrap();
        gpu.flush().unwrap();
        most = most.max(gpu.stats().under_way);
    }
    assert!((8..=17).contains(&most), "{most}");
    assert!(gpu.stats().wait_time > Duration::ZERO, "for those that were too many");
    gpu.wait().unwrap();
    assert_eq!(gpu.stats().under_way, 0);
}

/// A waker that records on the device that wakes it.
#[test]
fn a_callback_that_calls_the_engine() {
    struct Records(Gpu, AtomicBool);
    impl Wake for Records {
        fn wake(self: Arc<Self>) {
            let y = ops::scale(&upload(&self.0, &[1.0; 4]), 5.0).unwrap();
            self.1.store(y.read_later().is_ok(), Ordering::Relaxed);
        }
    }
    let gpu = gpu();
    let records = Arc::new(Records(gpu.clone(), AtomicBool::new(false)));
    let waker = Waker::from(records.clone());
    let slow = (0..200).fold(upload(&gpu, &[1.0; 1 << 16]), |y, _| ops::scale(&y, 1.0).unwrap());
    let mut read = pin!(slow.read::<f32>());
    let mut polled = read.as_mut().poll(&mut Context::from_waker(&waker));
    let was_pending = polled.is_pending();
    while polled.is_pending() {
        std::thread::yield_now();
        polled = read.as_mut().poll(&mut Context::from_waker(&waker));
    }
    assert!(matches!(polled, Poll::Ready(Ok(values)) if values == vec![1.0; 1 << 16]));
    gpu.wait().unwrap();
    // Woken by a thread that looks now and then.
    let begun = std::time::Instant::now();
    while was_pending && !records.1.load(Ordering::Relaxed) {
        assert!(begun.elapsed() < Duration::from_secs(60), "never woken");
        std::thread::yield_now();
    }
}

/// An executor that polls within `wake`, and goes on with the device there, while another thread submits: wgpu runs the callback within
/// that submission, under the engine's locks, where nobody may be woken.
#[test]
fn an_executor_that_polls_where_it_is_woken() {
    type Task = std::pin::Pin<Box<dyn Future<Output = Result<Vec<f32>>> + Send>>;
    struct Inline(Mutex<Task>, mpsc::Sender<Result<Vec<f32>>>);
    impl Wake for Inline {
        fn wake(self: Arc<Self>) {
            let waker = Waker::from(self.clone());
            let mut task = self.0.lock().unwrap();
            if let Poll::Ready(values) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
                let _ = self.1.send(values);
            }
        }
    }
    let (finished, all) = mpsc::channel();
    std::thread::spawn(move || {
        let gpu = gpu();
        let x = upload(&gpu, &[1.0; 1 << 12]);
        let scale = |y: &Tensor| ops::scale(y, 2.0).unwrap();
        for _ in 0..100 {
            let slow = (0..20).fold(x.clone(), |y, _| scale(&y));
            let (sender, receiver) = mpsc::channel();
            let read = async move {
                let values = slow.read::<f32>().await?;
                scale(&slow).read_later()?.wait()?;
                Ok(values)
            };
            Arc::new(Inline(Mutex::new(Box::pin(read)), sender)).wake();
            let values = loop {
                scale(&x);
                gpu.flush().unwrap();
                if let Ok(values) = receiver.try_recv() {
                    break values;
                }
            };
            assert_eq!(values.unwrap()[..1], [(1 << 20) as f32]);
        }
        finished.send(()).unwrap();
    });
    all.recv_timeout(Duration::from_secs(120)).expect("no thread waits for itself");
}

/// What [`Gpu::wanted`] tells opens a device on which f16 and the profiler work wherever the adapter has them.
#[test]
fn a_host_asks_for_what_the_engine_wants() -> Result<()> {
    let (adapter, ..) = host_device(wgpu::Limits::default());
    let (required_features, required_limits) = Gpu::wanted(&adapter);
    let own = gpu();
    let descriptor = wgpu::DeviceDescriptor { required_features, required_limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
    let gpu = Gpu::from_wgpu(device, queue, Some(&adapter))?;
    assert_eq!(gpu.has_f16(), own.has_f16());
    assert_eq!(gpu.device().limits(), adapter.limits());
    gpu.start_profile();
    assert_eq!(ops::scale(&upload(&gpu, &[1.0]), 2.0)?.to_vec::<f32>()?, [2.0]);
    assert!(!gpu.take_profile().is_empty());
    Ok(())
}
