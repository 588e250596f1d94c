//! A device that is lost, and results that are awaited.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::common::{gpu, host_device, values};
use wgrad::autograd::Parameters;
use wgrad::ops::{self, CrossEntropy};
use wgrad::optim::{AdamW, Optimizer, Rule};
use wgrad::{DType, Error, Gpu, Result, Tensor, wgpu};

// ---- a lost device ----

/// An engine on a host's device, with a tensor of ones.
fn hosted() -> (wgpu::Device, Gpu, Tensor) {
    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    let gpu = Gpu::from_wgpu(device.clone(), queue, Some(&adapter)).unwrap();
    let x = Tensor::from_slice(&gpu, &[2, 2], &[1.0f32; 4]).unwrap();
    (device, gpu, x)
}

#[track_caller]
fn assert_lost<T>(what: &str, result: Result<T>) {
    match result {
        Err(Error::DeviceLost { .. }) => {}
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: ok"),
    }
}

/// The host has replaced no callback, so that wgpu would panic at an error that nobody catches.
#[test]
fn each_call_on_a_lost_device_says_so() {
    type Call = (&'static str, fn(&Gpu, &Tensor) -> Result<()>);
    let calls: [Call; 11] = [
        ("wait", |gpu, _| gpu.wait()),
        ("flush", |gpu, _| gpu.flush().map(drop)),
        ("end_step", |gpu, _| gpu.end_step()),
        ("zeros", |gpu, _| Tensor::zeros(gpu, DType::F32, &[3]).map(drop)),
        ("from_slice", |gpu, _| Tensor::from_slice(gpu, &[3], &[1.0f32; 3]).map(drop)),
        ("mul", |_, x| ops::mul(x, x).map(drop)),
        ("matmul", |_, x| ops::matmul(x, x).map(drop)),
        ("read_later", |_, x| x.read_later().map(drop)),
        ("to_vec", |_, x| x.to_vec::<f32>().map(drop)),
        ("read", |_, x| pollster::block_on(x.read::<f32>()).map(drop)),
        ("dry_run", |gpu, _| gpu.dry_run().map(drop)),
    ];
    // Each as the first that meets the loss, and again when it is known.
    for (first, call) in calls {
        let (device, gpu, x) = hosted();
        device.destroy();
        // A dry run asks nothing of the device that could tell.
        if first == "dry_run" {
            assert_lost("wait", gpu.wait());
        }
        assert_lost(first, call(&gpu, &x));
        for (name, call) in calls {
            assert_lost(&format!("{name} after {first}"), call(&gpu, &x));
        }
        gpu.trim();
        assert!(gpu.wait().unwrap_err().to_string().contains("lost"));
    }
    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    device.destroy();
    assert_lost("from_wgpu", Gpu::from_wgpu(device, queue, Some(&adapter)));
}

/// With memory and kernels at hand, an operation only records: the loss shows when its commands are submitted.
#[test]
fn a_loss_in_the_midst_of_work() {
    let (device, gpu, x) = hosted();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[2, 2], &[1.0; 4]).unwrap();
    let mut optimizer = Optimizer::new(&parameters, Rule::AdamW(AdamW::default()), None, |_, _| true).unwrap();
    let mut step = || {
        let y = ops::gelu(&ops::linear(&x, &w.tensor(), None)?, ops::Gelu::Erf)?;
        ops::sum(&y)?.backward()?;
        optimizer.step(&parameters, 0.1)
    };
    step().unwrap();
    step().unwrap();
    let reads = [x.read_later().unwrap(), w.value().read_later().unwrap()];
    device.destroy();
    assert_lost("a step", step());
    // What had arrived may still be had; else it is said why not.
    for read in reads {
        if let Err(error) = read.wait() {
            assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        }
    }
    assert_lost("set", w.set(&[0.0; 4]));
    // A parameter without its values is none.
    assert_lost("add", parameters.add("late", &[2], &[0.0; 2]));
    assert!(parameters.get("late").is_none() && parameters.len() == 1);
    assert_lost("values", w.value().to_vec::<f32>());
}

/// On a device that the engine has opened itself, too.
#[test]
fn a_device_of_our_own_that_is_destroyed() {
    let gpu = gpu();
    let x = Tensor::from_slice(&gpu, &[4], &[1.0f32; 4]).unwrap();
    assert_eq!(x.to_vec::<f32>().unwrap(), [1.0; 4]);
    gpu.device().destroy();
    assert_lost("to_vec", x.to_vec::<f32>());
    assert_lost("mul", ops::mul(&x, &x));
}

// ---- submissions of bounded time ----

/// The smaller the budget, the more submissions; the results are the same. What is learnt brings them closer to it.
#[test]
fn submissions_are_cut_by_time() {
    let product = |gpu: &Gpu| {
        let a = Tensor::from_slice(gpu, &[256, 256], &values(1, 256 * 256)).unwrap();
        let before = gpu.stats().submissions;
        let mut y = a.clone();
        for _ in 0..40 {
            y = ops::scale(&ops::matmul(&y, &a).unwrap(), 0.01).unwrap();
        }
        let y = y.to_vec::<f32>().unwrap();
        (y, gpu.stats().submissions - before)
    };
    let gpu = gpu();
    gpu.limit_submissions(Duration::from_secs(10));
    let (expected, few) = product(&gpu);
    gpu.limit_submissions(Duration::from_nanos(1));
    let (got, many) = product(&gpu);
    assert!(got == expected && many > 80 && few < 4, "{few} {many}");
    gpu.limit_submissions(Duration::ZERO);
    assert!(product(&gpu).0 == expected);
    // Each round learns from what the one before took.
    gpu.limit_submissions(Duration::from_millis(20));
    for _ in 0..8 {
        assert!(product(&gpu).0 == expected);
    }
    let started = Instant::now();
    let (_, some) = product(&gpu);
    let each = started.elapsed() / some as u32;
    assert!(some >= 1 && each < Duration::from_millis(400), "{some} submissions of {each:?}");
}

// ---- results that are awaited ----

/// A result that the device needs a while for.
fn slow(gpu: &Gpu) -> Tensor {
    let a = Tensor::from_slice(gpu, &[384, 384], &vec![0.1f32; 384 * 384]).unwrap();
    (0..20).fold(a.clone(), |c, _| ops::scale(&ops::matmul(&c, &a).unwrap(), 1.0 / 38.4).unwrap())
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn awaiting_does_not_block() {
    let gpu = gpu();
    gpu.wait().unwrap();
    let c = slow(&gpu);
    let computing = Instant::now();
    let read = c.read_later().unwrap();
    let wakes = Arc::new(Count::default());
    let waker = Waker::from(wakes.clone());
    let mut context = Context::from_waker(&waker);
    let ready_at_once = read.is_ready();
    let mut future = pin!(read.bytes());
    let (mut polls, mut longest) = (0, Duration::ZERO);
    let bytes = loop {
        let started = Instant::now();
        let polled = future.as_mut().poll(&mut context);
        longest = longest.max(started.elapsed());
        polls += 1;
        if let Poll::Ready(bytes) = polled {
            break bytes.unwrap();
        }
        // Woken without another poll of ours, and not before there is something to see.
        while wakes.0.load(Ordering::SeqCst) < polls {
            assert!(computing.elapsed() < Duration::from_secs(120), "never woken");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let whole = computing.elapsed();
    assert!(polls <= 2, "{polls} polls");
    // A driver that computes within `submit` has nothing left to wait for.
    assert!(ready_at_once || longest < whole / 2, "a poll took {longest:?} of {whole:?}");
    assert_eq!(c.decode::<f32>(&bytes[0]).unwrap().len(), 384 * 384);
}

/// Whoever drives the futures: an executor that only sleeps until it is woken, and one beside threads that wait.
#[test]
fn many_awaited_at_once() {
    let gpu = gpu();
    let results: Vec<_> = (0..20).map(|i| ops::scale(&slow_vector(&gpu), i as f32).unwrap()).collect();
    let reads: Vec<_> = results.iter().map(|x| x.read_later().unwrap()).collect();
    std::thread::scope(|scope| {
        for (i, (x, read)) in results.iter().zip(reads).enumerate() {
            scope.spawn(move || {
                let bytes = if i % 2 == 0 { pollster::block_on(read.bytes()) } else { read.wait() };
                assert_eq!(x.decode::<f32>(&bytes.unwrap()[0]).unwrap(), [i as f32; 100]);
            });
        }
    });
    // Dropped while it is awaited.
    let read = slow(&gpu).read_later().unwrap();
    let waker = Waker::from(Arc::new(Count::default()));
    let _ = pin!(read.bytes()).poll(&mut Context::from_waker(&waker));
    gpu.wait().unwrap();
}

fn slow_vector(gpu: &Gpu) -> Tensor {
    Tensor::from_slice(gpu, &[100], &[1.0f32; 100]).unwrap()
}

#[test]
fn is_ready_once_the_device_is_done() {
    let gpu = gpu();
    let read = Tensor::from_slice(&gpu, &[2], &[1.0f32, 2.0]).unwrap().read_later().unwrap();
    let started = Instant::now();
    while !read.is_ready() {
        assert!(started.elapsed() < Duration::from_secs(60), "never ready");
        std::thread::yield_now();
    }
    assert_eq!(read.wait().unwrap()[0][..8], *bytemuck::cast_slice::<f32, u8>(&[1.0, 2.0]));
}

// ---- faults ----

/// Logits `f32[1, 3]`, a label that is none, and what has nothing to do with them.
fn bad_label(gpu: &Gpu) -> (Tensor, Tensor, Tensor) {
    let logits = Tensor::from_slice(gpu, &[1, 3], &[0.0f32; 3]).unwrap();
    let label = Tensor::from_slice(gpu, &[1], &[9u32]).unwrap();
    (logits, label, Tensor::from_slice(gpu, &[1], &[1.0f32]).unwrap())
}

fn loss(logits: &Tensor, label: &Tensor) -> Tensor {
    ops::cross_entropy(logits, label, &CrossEntropy::default()).unwrap()
}

#[track_caller]
fn assert_fault<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::OutOfRange { what: "label", value: 9, bound: 3, .. })), "{result:?}");
}

#[test]
fn a_fault_is_told_by_what_depends_on_it_and_by_nothing_else() {
    let gpu = gpu();
    let (logits, label, other) = bad_label(&gpu);
    let bad = loss(&logits, &label);
    // Not to another read, whether that is dropped, waited for, or another thread's.
    drop(other.read_later().unwrap());
    assert_eq!(other.to_vec::<f32>().unwrap(), [1.0]);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(other.to_vec::<f32>().unwrap(), [1.0]));
    });
    // Also when its own read has been dropped; once, since the value is that of the other rows.
    drop(bad.read_later().unwrap());
    assert_fault(bad.item());
    assert_eq!(bad.item().unwrap(), 0.0);
    // Further down.
    let bad = loss(&logits, &label);
    let further = ops::scale(&ops::reshape(&bad, &[1]).unwrap(), 2.0).unwrap();
    assert_fault(pollster::block_on(ops::add(&other, &further).unwrap().read::<f32>()));
    assert_eq!((bad.item().unwrap(), further.item().unwrap()), (0.0, 0.0));
    // What comes later is judged by itself, in the same memory too.
    drop((bad, further));
    let good = Tensor::from_slice(&gpu, &[1], &[2u32]).unwrap();
    for _ in 0..3 {
        assert!((loss(&logits, &good).item().unwrap() - 3.0f32.ln()).abs() < 1e-6);
        assert_fault(loss(&logits, &label).item());
    }
}

/// Neither do dispatches whose own data the host has checked pass it on to each other.
#[test]
fn a_fault_does_not_pass_through_checked_indices() {
    let gpu = gpu();
    let table = Tensor::from_slice(&gpu, &[3, 4], &values(1, 12)).unwrap();
    let ids = Tensor::from_slice(&gpu, &[2], &[1u32, 9]).unwrap();
    let bad = ops::reshape(&ops::embedding(&table, &ids).unwrap(), &[1, 2, 4]).unwrap();
    let good = Tensor::from_slice(&gpu, &[1, 2, 4], &values(2, 8)).unwrap();
    let kept = ops::TokenIndices::new(&gpu, [1, 1], 2, &[1]).unwrap();
    let [of_bad, of_good] = [&bad, &good].map(|x| ops::token_gather(x, &kept).unwrap());
    assert_eq!(of_good.to_vec::<f32>().unwrap(), values(2, 8)[4..]);
    assert!(matches!(of_bad.to_vec::<f32>(), Err(Error::OutOfRange { value: 9, bound: 3, .. })));
}

#[test]
fn faults_of_many_losses_are_told_apart() {
    let gpu = gpu();
    let (logits, label, _) = bad_label(&gpu);
    let good = Tensor::from_slice(&gpu, &[1], &[1u32]).unwrap();
    // More than a table has places.
    let losses: Vec<_> = (0..60).map(|i| loss(&logits, if i % 7 == 3 { &label } else { &good })).collect();
    for (i, loss) in losses.iter().enumerate().rev() {
        assert_eq!(loss.item().is_err(), i % 7 == 3, "loss {i}");
    }
}

/// A gradient tells it. So does a weight that was updated with one, once, where nobody has been told; and the next loss is
/// not accused of the last one's label.
#[test]
fn faults_in_gradients_and_updates() {
    let gpu = gpu();
    let (_, label, other) = bad_label(&gpu);
    let good = Tensor::from_slice(&gpu, &[1], &[2u32]).unwrap();
    let x = Tensor::from_slice(&gpu, &[1, 4], &values(1, 4)).unwrap();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[3, 4], &values(2, 12)).unwrap();
    let idle = parameters.add("idle", &[3], &[0.5; 3]).unwrap();
    let mut optimizer = Optimizer::new(&parameters, Rule::AdamW(AdamW::default()), None, |_, _| true).unwrap();
    let mut step = |label: &Tensor| {
        let loss = loss(&ops::linear(&x, &w.tensor(), None).unwrap(), label);
        loss.backward().unwrap();
        let gradient = w.grad().unwrap().read_later().unwrap();
        optimizer.step(&parameters, 0.1).unwrap();
        (loss, gradient)
    };
    let (bad, gradient) = step(&label);
    assert_fault(gradient.wait());
    bad.item().unwrap();
    let (loss, gradient) = step(&good);
    loss.item().unwrap();
    gradient.wait().unwrap();
    // It was told.
    w.value().to_vec::<f32>().unwrap();
    // Here nobody reads the loss or the gradient.
    drop(step(&label));
    drop(step(&good));
    assert_eq!((idle.value().to_vec::<f32>().unwrap(), other.to_vec::<f32>().unwrap()), (vec![0.5; 3], vec![1.0]));
    assert_fault(w.value().to_vec::<f32>());
    w.value().to_vec::<f32>().unwrap();
}

/// So does a copy of such a weight, but not what is computed from it, be it in a copy.
#[test]
fn a_copy_of_a_weight_tells_its_faults() {
    let gpu = gpu();
    let (_, label, _) = bad_label(&gpu);
    let x = Tensor::from_slice(&gpu, &[1, 4], &values(1, 4)).unwrap();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[3, 4], &values(2, 12)).unwrap();
    let mut optimizer = Optimizer::new(&parameters, Rule::AdamW(AdamW::default()), None, |_, _| true).unwrap();
    let loss = loss(&ops::linear(&x, &w.tensor(), None).unwrap(), &label);
    loss.backward().unwrap();
    optimizer.step(&parameters, 0.1).unwrap();
    drop(loss);
    let copy = w.value().copied().unwrap();
    for computed in [ops::softmax(&w.value()), ops::scale(&copy, 2.0), ops::softmax(&copy)] {
        computed.unwrap().to_vec::<f32>().unwrap();
    }
    assert_fault(copy.copied().unwrap().to_vec::<f32>());
    // Once.
    copy.to_vec::<f32>().unwrap();
    w.value().to_vec::<f32>().unwrap();
}
