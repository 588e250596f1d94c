//! Device memory: reuse within a step, steady state, embedding, limits, large grids.

use crate::common::{assert_close, each_family, gpu, host_device, values};
use wgrad::autograd::{Parameters, no_grad};
use wgrad::gpu::GpuOptions;
use wgrad::ops::{self, CrossEntropy, TokenIndices};
use wgrad::optim::{AdamW, Ema, Optimizer, Rule, Sgd};
use wgrad::{Error, Gpu, Tensor, wgpu};

fn upload(gpu: &Gpu, data: &[f32]) -> Tensor {
    Tensor::from_slice(gpu, &[data.len()], data).unwrap()
}

/// A write that the host orders for now would land before every command recorded so far, also in memory that an earlier
/// command still reads: uploads must be recorded in order.
#[test]
fn free_and_upload_within_a_step() {
    for gpu in each_family() {
        let rounds = 200;
        let mut results = Vec::new();
        for i in 0..rounds {
            let x = upload(&gpu, &[i as f32; 1000]);
            results.push(ops::scale(&x, 2.0).unwrap());
            // Its memory is the next round's.
            drop(x);
        }
        assert!(gpu.memory().allocated < (rounds + 20) * 4096, "uploads reuse memory: {:?}", gpu.memory());
        for (i, y) in results.iter().enumerate() {
            assert_eq!(y.to_vec::<f32>().unwrap(), [2.0 * i as f32; 1000], "round {i}");
        }
    }
}

/// The result of an operation may take the place of what was freed before it, never of what it reads.
#[test]
fn intermediate_memory_is_reused_in_order() {
    let gpu = gpu();
    let data = values(1, 5000);
    let mut x = upload(&gpu, &data);
    for i in 0..300 {
        let y = ops::scale(&x, 1.5).unwrap();
        x = ops::add(&y, &ops::scale(&x, -0.5).unwrap()).unwrap();
        if i % 50 == 0 {
            gpu.flush().unwrap();
        }
    }
    // 1.5 x - 0.5 x = x
    assert_close("300 rounds", &x.to_vec().unwrap(), &data, 1e-4);
    assert!(gpu.memory().allocated < 20 * 5000 * 4, "{:?}", gpu.memory());
}

/// A second handle keeps the memory: an operation that works in place must copy then.
#[test]
fn two_handles_of_one_buffer() {
    for gpu in each_family() {
        let data = values(1, 2 * 3 * 4);
        let rows = Tensor::from_slice(&gpu, &[2, 1, 4], &[9.0f32; 8]).unwrap();
        let indices = TokenIndices::new(&gpu, [2, 1], 3, &[0, 2]).unwrap();
        let expected = ops::token_scatter::reference::forward(&data, &[9.0; 8], &[0, 2], 2, 3);
        let x = Tensor::from_slice(&gpu, &[2, 3, 4], &data).unwrap();
        let kept = x.clone();
        let reshaped = ops::reshape(&x, &[24]).unwrap();
        let live = gpu.memory().live;
        let y = ops::token_scatter(x, &rows, &indices).unwrap();
        assert!(gpu.memory().live > live, "a copy");
        assert_eq!(y.to_vec::<f32>().unwrap(), expected);
        assert_eq!(kept.to_vec::<f32>().unwrap(), data);
        assert_eq!(reshaped.to_vec::<f32>().unwrap(), data);
        drop((y, reshaped));
        let live = gpu.memory().live;
        let y = ops::token_scatter(kept, &rows, &indices).unwrap();
        assert_eq!(gpu.memory().live, live, "in place, since that was the last handle");
        assert_eq!(y.to_vec::<f32>().unwrap(), expected);
    }
}

/// What a read-back asked for is what was there then, whatever is computed in that memory afterwards.
#[test]
fn read_later_is_not_disturbed() {
    let gpu = gpu();
    let x = upload(&gpu, &[1.0; 500]);
    let later = x.read_later().unwrap();
    drop(x);
    let y = upload(&gpu, &[2.0; 500]);
    let bytes = later.wait().unwrap();
    assert_eq!(y.decode::<f32>(&bytes[0]).unwrap(), [1.0; 500]);
    assert_eq!(y.to_vec::<f32>().unwrap(), [2.0; 500]);
}

#[test]
fn trim_releases_what_is_free() {
    let gpu = gpu();
    gpu.trim();
    let before = gpu.memory();
    let x = upload(&gpu, &values(1, 100_000));
    let y = ops::scale(&x, 1.0).unwrap();
    drop(x);
    assert!(gpu.memory().allocated >= before.allocated + 800_000);
    gpu.trim();
    assert!(gpu.memory().allocated < before.allocated + 500_000, "{:?}", gpu.memory());
    // Bind groups of released buffers are forgotten, and what is alive stays.
    let z = ops::scale(&y, 2.0).unwrap();
    let twice: Vec<f32> = values(1, 100_000).iter().map(|v| 2.0 * v).collect();
    assert_eq!(z.to_vec::<f32>().unwrap(), twice);
    drop((y, z));
    gpu.trim();
    assert_eq!(gpu.memory().allocated, before.allocated);
    assert_eq!(gpu.memory().live, before.live);
}

/// Bind groups hold their buffers: those of released ones go also while commands wait, and what these make anew goes with the last of them.
#[test]
fn trim_releases_what_is_free_within_a_hold() {
    let gpu = gpu();
    let (x, one) = (upload(&gpu, &values(1, 1000)), upload(&gpu, &[1.0]));
    drop(ops::scale(&x, 2.0).unwrap());
    gpu.wait().unwrap();
    assert_eq!(gpu.stats().held_bind_groups, 1);
    let y = gpu.hold(|| {
        let y = ops::scale(&one, 2.0).unwrap();
        gpu.trim();
        assert_eq!(gpu.stats().held_bind_groups, 0);
        // Named by a command that waits, and released.
        drop(ops::scale(&x, 3.0).unwrap());
        gpu.trim();
        y
    });
    assert_eq!(y.to_vec::<f32>().unwrap(), [2.0]);
    assert_eq!(gpu.stats().held_bind_groups, 1, "that of y");
}

#[test]
fn no_grad_keeps_nothing() {
    let gpu = gpu();
    let x = upload(&gpu, &values(1, 10_000)).requires_grad().unwrap();
    let before = gpu.memory().live;
    let gelu = |x: &Tensor| ops::gelu(x, ops::Gelu::Erf).unwrap();
    let y = no_grad(|| gelu(&gelu(&gelu(&x))));
    // One result of 40,000 bytes and the waste of its class.
    assert!(gpu.memory().live - before <= 45_000, "{}", gpu.memory().live - before);
    drop(y);
    let y = gelu(&gelu(&x));
    assert!(gpu.memory().live - before > 45_000, "in a graph the input of the second is kept");
    drop(y);
    assert_eq!(gpu.memory().live, before, "a dropped graph lets go of everything");
}

#[test]
fn tensors_too_large_to_bind_are_an_error() {
    let gpu = gpu();
    let limit = gpu.device().limits().max_storage_buffer_binding_size as usize;
    let too_many = limit / 4 + 1;
    match Tensor::zeros(&gpu, wgrad::DType::F32, &[too_many]) {
        Err(Error::Limit { name: "max_storage_buffer_binding_size", needed, available, .. }) => {
            assert_eq!((needed, available), (4 * too_many as u64, limit as u64));
        }
        other => panic!("{other:?}"),
    }
    let message = Tensor::zeros(&gpu, wgrad::DType::F32, &[1 << 20, 1 << 20]).unwrap_err().to_string();
    assert!(message.contains("at most 2^32 - 2^25"), "{message}");
    // The largest that can be bound works.
    let largest = Tensor::zeros(&gpu, wgrad::DType::U8, &[limit]).unwrap();
    assert_eq!(largest.buffer().size(), limit as u64);
}

/// What operations make of tensors that are as large as the device binds, and nearly so; and what they say of one that is larger.
#[test]
fn tensors_at_the_binding_limit() {
    const BOUND: usize = 1 << 16;
    let open = |binding_size| {
        Gpu::with_options(&GpuOptions { default_limits: true, binding_size, ..Default::default() }).unwrap()
    };
    let (small, whole) = (open(Some(BOUND as u64)), open(None));
    let run = |gpu: &Gpu, n: usize| {
        let x = upload(gpu, &values(1, n)).requires_grad().unwrap();
        let rows = ops::reshape(&x, &[n / 4, 4]).unwrap();
        let weight = Tensor::from_slice(gpu, &[4, 4], &values(2, 16)).unwrap().requires_grad().unwrap();
        let y = ops::softmax(&ops::linear(&ops::gelu(&rows, ops::Gelu::Erf).unwrap(), &weight, None).unwrap()).unwrap();
        let loss = ops::sum(&ops::mul(&y, &rows).unwrap()).unwrap();
        let gradients = loss.backward().unwrap();
        [&y, gradients.get(&x).unwrap(), gradients.get(&weight).unwrap()].map(|t| t.to_vec::<f32>().unwrap())
    };
    for n in [BOUND / 4 - 4, BOUND / 4] {
        assert!(run(&small, n) == run(&whole, n), "{n} elements");
    }
    let x = upload(&small, &values(1, BOUND / 4));
    let one = upload(&small, &[1.0]);
    for result in [ops::concat(&[&x, &one], 0), ops::pad(&x, &[(0, 1)], 0.0), ops::expand(&x, &[2, BOUND / 4])] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Limit { name: "max_storage_buffer_binding_size", .. }), "{error}");
    }
    // The device is none the worse for it.
    assert_eq!(ops::sum(&upload(&small, &[1.0; BOUND / 4])).unwrap().item().unwrap(), (BOUND / 4) as f32);
}

/// What lives long does not settle in a much larger buffer that happens to be free.
#[test]
fn arenas_take_no_larger_buffers() {
    let gpu = gpu();
    drop(Tensor::zeros(&gpu, wgrad::DType::F32, &[600_000]).unwrap());
    let before = gpu.memory();
    let mut parameters = Parameters::new(&gpu);
    parameters.add("w", &[3], &[0.0; 3]).unwrap();
    // A segment of 1 MiB, beside the 2.4 MB that are free.
    assert_eq!((gpu.memory().live - before.live, parameters.bytes()), (1 << 20, 1 << 20));
}

/// Where a dry run has told the sizes, segments have no free ends: what is held is what the parameters need.
#[test]
fn arenas_that_fit() {
    let gpu = gpu();
    let sizes = [3usize, 64, 300_000, 65, 600_000, 1];
    let add = |parameters: &mut Parameters| {
        for (i, &n) in sizes.iter().enumerate() {
            parameters.add(format!("p{i}"), &[n], &values(i as u64, n)).unwrap();
        }
    };
    let mut dry = Parameters::new(&gpu.dry_run().unwrap());
    add(&mut dry);
    let before = gpu.memory().live;
    let mut fitted = Parameters::like(&gpu, &dry);
    add(&mut fitted);
    let aligned: usize = sizes.iter().map(|n| n.next_multiple_of(64) * 4).sum();
    assert_eq!((gpu.memory().live - before, fitted.bytes()), (aligned as u64, aligned as u64));
    // What comes unforeseen has room all the same.
    let late = fitted.add("late", &[100], &values(9, 100)).unwrap();
    assert_eq!(late.value().to_vec::<f32>().unwrap(), values(9, 100));
    for (i, &n) in sizes.iter().enumerate() {
        assert_eq!(fitted.get(&format!("p{i}")).unwrap().value().to_vec::<f32>().unwrap(), values(i as u64, n));
    }
}

/// Gradients, moments and average take the memory of what is trained, and no more.
#[test]
fn what_is_frozen_takes_its_values_alone() {
    let gpu = gpu();
    for (rule, moments) in [(Rule::Sgd(Sgd::default()), 1), (Rule::AdamW(AdamW::default()), 2)] {
        let mut parameters = Parameters::new(&gpu);
        let [a, _, c] = [("a", 1000), ("b", 64), ("c", 500_000)]
            .map(|(path, n)| parameters.add(path, &[n], &values(1, n)).unwrap());
        for p in [&a, &c] {
            p.set_trainable(false);
        }
        gpu.wait().unwrap();
        let before = gpu.memory().live;
        assert_eq!(parameters.gradient_bytes(), 0);
        let optimizer = Optimizer::new(&parameters, rule, None, |_, _| true).unwrap();
        let held = gpu.memory().live - before;
        let mut optimizer = optimizer.with_ema(&parameters, Ema::default()).unwrap();
        // Of a gradient, a moment or an average: the 64 elements of b.
        assert_eq!((parameters.gradient_bytes(), gpu.memory().live - before - held), (256, 256));
        // Besides, the tables: a few hundred bytes each.
        assert!(held <= (1 + moments) * 256 + 2048, "{held}");
        // A parameter that is thawed gets memory with its first gradient and step.
        c.set_trainable(true);
        ops::sum(&c.tensor()).unwrap().backward().unwrap();
        assert_eq!(parameters.gradient_bytes(), 256 + 500_032 * 4);
        optimizer.step(&parameters, 0.1).unwrap();
        let kinds = optimizer.held(&parameters).unwrap().len() as u64 / 2;
        assert_eq!(kinds, moments + 1);
        assert!(gpu.memory().live - before >= kinds * (256 + 500_032 * 4));
        // What is frozen again keeps its memory until there is another optimiser.
        c.set_trainable(false);
        optimizer.step(&parameters, 0.1).unwrap();
        assert_eq!(optimizer.held(&parameters).unwrap().len() as u64, 2 * kinds);
        drop(optimizer);
        drop(Optimizer::new(&parameters, rule, None, |_, _| true).unwrap());
        assert_eq!((parameters.gradient_bytes(), gpu.memory().live - before), (256, 256));
    }
}

/// A parameter that the device had no room for leaves none in the arena, and its name free.
#[test]
fn a_parameter_that_does_not_fit_leaves_nothing_behind() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    parameters.add("first", &[2], &[1.0, 2.0]).unwrap();
    let live = gpu.memory().live;
    let too_large = gpu.device().limits().max_buffer_size as usize / 4 + 64;
    assert!(matches!(parameters.add("second", &[too_large], &vec![0.0; too_large]), Err(Error::Limit { .. })));
    assert!(parameters.add("second", &[3], &[0.0; 2]).is_err());
    assert_eq!((parameters.len(), gpu.memory().live), (1, live));
    let second = parameters.add("second", &[2], &[3.0, 4.0]).unwrap();
    ops::sum(&ops::mul(&second.tensor(), &second.tensor()).unwrap()).unwrap().backward().unwrap();
    let rule = Rule::Sgd(Sgd { momentum: 0.0, weight_decay: 0.0, ..Sgd::default() });
    Optimizer::new(&parameters, rule, None, |_, _| true).unwrap().step(&parameters, 0.25).unwrap();
    assert_eq!(second.value().to_vec::<f32>().unwrap(), [1.5, 2.0]);
    assert_eq!(parameters.get("first").unwrap().value().to_vec::<f32>().unwrap(), [1.0, 2.0]);
}

// ---- what is on its way ----

/// Many times the bytes that may be under way at once, dropped as soon as they are uploaded.
#[test]
fn uploads_under_way_are_bounded() {
    let gpu = gpu();
    let data = vec![1.0f32; 2 << 20];
    let size = 4 * data.len() as u64;
    let mut most = 0;
    for i in 0..40 {
        drop(upload(&gpu, &data));
        most = most.max(gpu.memory().staging);
        assert!(gpu.memory().staging >= size || i == 0, "counted");
    }
    assert!(most <= 64 << 20, "{} MiB under way", most >> 20);
    assert!(gpu.memory().allocated <= 2 * size, "{:?}", gpu.memory());
    gpu.wait().unwrap();
    assert_eq!(gpu.memory().staging, 0);
    // One that is larger than the bound goes in pieces.
    let large = upload(&gpu, &vec![2.0; 20 << 20]);
    assert!((16 << 20..=64 << 20).contains(&gpu.memory().staging), "{} MiB", gpu.memory().staging >> 20);
    assert_eq!(ops::sum(&large).unwrap().item().unwrap(), (40 << 20) as f32);
    assert_eq!(gpu.memory().staging, 0);
}

/// Of so few bytes that their number alone counts.
#[test]
fn submissions_of_small_uploads_are_bounded() {
    let gpu = gpu();
    let mut most = 0;
    for _ in 0..2500 {
        drop(upload(&gpu, &[1.0]));
        most = most.max(gpu.stats().under_way);
    }
    assert!(most <= 17, "{most}");
    gpu.wait().unwrap();
    assert_eq!((gpu.stats().under_way, gpu.memory().staging), (0, 0));
}

#[test]
fn read_backs_under_way_are_counted() {
    let gpu = gpu();
    let x = upload(&gpu, &[1.0; 1000]);
    gpu.wait().unwrap();
    let reads: Vec<_> = (0..3).map(|_| x.read_later().unwrap()).collect();
    // With each comes the witness of the submissions.
    assert_eq!(gpu.memory().staging, 3 * (4000 + 256));
    drop(reads);
    assert_eq!(gpu.memory().staging, 0);
    let read = x.read_later().unwrap();
    read.wait().unwrap();
    assert_eq!(gpu.memory().staging, 0);
}

/// Released while another thread records: no command meets a buffer that is gone.
#[test]
fn trim_beside_a_thread_that_records() {
    let gpu = gpu();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..300 {
                let x = upload(&gpu, &vec![i as f32; 100 + i % 7 * 1000]);
                let y = ops::scale(&ops::scale(&x, 2.0).unwrap(), 0.5).unwrap();
                drop(x);
                assert_eq!(ops::sum(&y).unwrap().item().unwrap() / y.numel() as f32, i as f32);
            }
        });
        for _ in 0..300 {
            gpu.trim();
            std::thread::yield_now();
        }
    });
}

/// The same program on a dry run takes the same memory, and no other.
#[test]
fn dry_run_counts_what_the_device_takes() {
    for gpu in each_family() {
        let dry = gpu.dry_run().unwrap();
        assert!(dry.is_dry_run() && !gpu.is_dry_run() && !dry.same(&gpu) && dry.family() == gpu.family());
        let program = |gpu: &Gpu| {
            gpu.reset_peak_memory();
            let mut parameters = Parameters::new(gpu);
            let w = parameters.add("w", &[70, 70], &values(1, 4900)).unwrap();
            let x = Tensor::from_slice(gpu, &[50, 70], &values(2, 3500)).unwrap();
            let y = ops::gelu(&ops::linear(&x, &w.tensor(), None).unwrap(), ops::Gelu::Erf).unwrap();
            ops::sum(&y).unwrap().backward().unwrap();
            let copy = ops::token_scatter(
                ops::reshape(&y, &[1, 50, 70]).unwrap(),
                &Tensor::zeros(gpu, wgrad::DType::F32, &[1, 2, 70]).unwrap(),
                &TokenIndices::new(gpu, [1, 2], 50, &[3, 40]).unwrap(),
            );
            drop(copy.unwrap());
            (y.to_vec::<f32>().unwrap(), gpu.memory(), w.grad().unwrap().to_vec::<f32>().unwrap())
        };
        let (zeros, counted, gradient) = program(&dry);
        assert!(zeros.iter().chain(&gradient).all(|v| *v == 0.0));
        let (_, taken, _) = program(&gpu);
        assert_eq!(counted, taken);
        assert_eq!((dry.stats().submissions, dry.stats().compile_time), Default::default());
        dry.trim();
        dry.wait().unwrap();
    }
}

#[test]
fn dry_run_checks_limits_and_does_not_mix() {
    let gpu = gpu();
    let dry = gpu.dry_run().unwrap();
    let limit = gpu.device().limits().max_storage_buffer_binding_size as usize;
    let too_large = Tensor::zeros(&dry, wgrad::DType::U8, &[limit + 1]);
    assert!(matches!(too_large, Err(Error::Limit { name: "max_storage_buffer_binding_size", .. })));
    // A hundred of the largest: more than the machine has.
    let all: Vec<_> = (0..100).map(|_| Tensor::zeros(&dry, wgrad::DType::U8, &[limit]).unwrap()).collect();
    assert_eq!(dry.memory().live, 100 * limit as u64 + 256);
    drop(all);
    assert!(gpu.memory().peak_allocated < 1000);
    let (x, y) = (upload(&gpu, &[1.0]), upload(&dry, &[1.0]));
    assert!(ops::add(&x, &y).unwrap_err().to_string().contains("different devices"));
}

/// A host program's own pass: twice each value of `input`, into a buffer of its own, read back.
fn double_in_host_pass(device: &wgpu::Device, queue: &wgpu::Queue, input: &Tensor) -> Vec<f32> {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(
            "@group(0) @binding(0) var<storage, read> x: array<f32>;
             @group(0) @binding(1) var<storage, read_write> y: array<f32>;
             @compute @workgroup_size(64)
             fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                 if id.x < arrayLength(&x) { y[id.x] = 2.0 * x[id.x]; }
             }"
            .into(),
        ),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let view = input.buffer();
    let buffer = |usage| {
        let size = view.size();
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let output = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let staging = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let input_binding = wgpu::BufferBinding {
        buffer: view.wgpu_buffer(),
        offset: view.offset(),
        size: wgpu::BufferSize::new(view.size()),
    };
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(input_binding) },
            wgpu::BindGroupEntry { binding: 1, resource: output.as_entire_binding() },
        ],
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups((input.numel() as u32).div_ceil(64), 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&output, 0, &staging, 0, view.size());
    queue.submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |result| result.expect("mapped"));
    device.poll(wgpu::PollType::wait_indefinitely()).expect("polled");
    let bytes = staging.get_mapped_range(..).expect("mapped").to_vec();
    bytes.chunks_exact(4).take(input.numel()).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The engine on a host program's device: a training step, whose results the host's own pass reads without a copy.
#[test]
fn embedded_in_a_host_program() {
    let (adapter, device, queue) = host_device(wgpu::Limits::default());
    let gpu = Gpu::from_wgpu(device.clone(), queue.clone(), Some(&adapter)).unwrap();
    let mut parameters = Parameters::new(&gpu);
    parameters.add("first", &[3], &[0.0; 3]).unwrap();
    let w = parameters.add("w", &[5, 100], &values(1, 500)).unwrap();
    let rule = Rule::Sgd(Sgd { momentum: 0.0, weight_decay: 0.0, ..Sgd::default() });
    let mut optimizer = Optimizer::new(&parameters, rule, None, |_, _| true).unwrap();
    ops::sum(&ops::mul(&w.tensor(), &w.tensor()).unwrap()).unwrap().backward().unwrap();
    optimizer.step(&parameters, 0.25).unwrap();
    gpu.flush().unwrap();
    // w - 0.25 · 2 w = w / 2, doubled by the host.
    let doubled = double_in_host_pass(&device, &queue, &w.value());
    assert_close("the host's pass", &doubled, &values(1, 500), 1e-6);
    // Without the adapter, and beside another engine on the same device.
    let second = Gpu::from_wgpu(device.clone(), queue.clone(), None).unwrap();
    assert!(!second.same(&gpu) && second.info().name == gpu.info().name);
    let x = upload(&second, &[1.0, 2.0]);
    second.flush().unwrap();
    assert_eq!(double_in_host_pass(&device, &queue, &x), [2.0, 4.0]);
    assert_close("the first engine goes on", &w.value().to_vec().unwrap(), &halves(&values(1, 500)), 1e-6);
}

fn halves(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| v / 2.0).collect()
}

#[test]
fn devices_below_the_default_limits_are_refused() {
    let (adapter, device, queue) = host_device(wgpu::Limits::downlevel_defaults());
    match Gpu::from_wgpu(device, queue, Some(&adapter)) {
        Err(Error::Limit { name, needed, available, .. }) => {
            assert!(available < needed, "{name}: {available} of {needed}");
        }
        other => panic!("{other:?}"),
    }
}

/// Several devices in one process compute side by side.
#[test]
fn devices_side_by_side() {
    let gpus = [gpu(), gpu(), gpu()];
    let tensors: Vec<_> = gpus.iter().zip(1..).map(|(gpu, seed)| upload(gpu, &values(seed, 3000))).collect();
    let results: Vec<_> = tensors.iter().map(|x| ops::scale(x, 3.0).unwrap()).collect();
    for (seed, y) in (1..).zip(&results) {
        let expected: Vec<f32> = values(seed, 3000).iter().map(|v| 3.0 * v).collect();
        assert_eq!(y.to_vec::<f32>().unwrap(), expected);
    }
    // A handle of a tensor keeps its device alive.
    drop(gpus);
    assert_eq!(tensors[1].to_vec::<f32>().unwrap(), values(2, 3000));
}

/// More than 65,535 workgroups along an axis: folded grids reach every element, and no element twice.
mod beyond_65535_workgroups {
    use super::*;

    /// Rows of 5 are added float by float: 78,125 workgroups.
    #[test]
    fn add() {
        for gpu in each_family() {
            let (rows, width) = (1_000_000, 5);
            let (x, y) = (values(1, rows * width), values(2, width));
            let tx = Tensor::from_slice(&gpu, &[rows, width], &x).unwrap();
            let z = ops::add(&tx, &upload(&gpu, &y)).unwrap();
            assert_close("add", &z.to_vec().unwrap(), &ops::add::reference::forward(&x, &y), 0.0);
        }
    }

    /// 17 million elements by four: 66,407 workgroups.
    #[test]
    fn elementwise() {
        let gpu = gpu();
        let n = 17_000_003;
        let y = ops::scale(&upload(&gpu, &vec![1.0; n]), 3.0).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(y.len(), n);
        assert_eq!(y.iter().position(|v| *v != 3.0), None);
    }

    const ROWS: usize = 70_001;

    /// A row a workgroup.
    #[test]
    fn rows() {
        for gpu in each_family() {
            let (x, dy) = (values(1, ROWS * 6), values(2, ROWS * 6));
            let leaf = Tensor::from_slice(&gpu, &[ROWS, 6], &x).unwrap().requires_grad().unwrap();
            let on = |dims: &[usize], data: &[f32]| Tensor::from_slice(&gpu, dims, data).unwrap();
            let gradient = |y: &Tensor| {
                let gradients = y.backward_from(&on(&[ROWS, 6], &dy)).unwrap();
                gradients.get(&leaf).unwrap().to_vec::<f32>().unwrap()
            };
            let p = ops::softmax(&leaf).unwrap();
            let expected = ops::softmax::reference::forward(&x, 6);
            assert_close("softmax", &p.to_vec().unwrap(), &expected, 1e-6);
            assert_close("softmax backward", &gradient(&p), &ops::softmax::reference::backward(&x, &dy, 6), 1e-5);
            let (w, b) = (values(3, 6), values(4, 6));
            let y = ops::layernorm(&leaf, &on(&[6], &w), &on(&[6], &b), 1e-3).unwrap();
            let expected = ops::layernorm::reference::forward(&x, &w, &b, 1e-3);
            assert_close("layernorm", &y.to_vec().unwrap(), &expected, 2e-5);
            let (dx, _, _) = ops::layernorm::reference::backward(&x, &w, &dy, 1e-3);
            assert_close("layernorm backward", &gradient(&y), &dx, 2e-5);
        }
    }

    /// A sample along y.
    #[test]
    fn samples() {
        for gpu in each_family() {
            let x = values(1, ROWS * 2 * 3);
            let positions: Vec<u32> = values(2, ROWS).iter().map(|v| u32::from(*v > 0.0)).collect();
            let indices = TokenIndices::new(&gpu, [ROWS, 1], 2, &positions).unwrap();
            let leaf = Tensor::from_slice(&gpu, &[ROWS, 2, 3], &x).unwrap().requires_grad().unwrap();
            let y = ops::token_gather(&leaf, &indices).unwrap();
            let expected = ops::token_gather::reference::forward(&x, &positions, ROWS, 2);
            assert_close("token_gather", &y.to_vec().unwrap(), &expected, 0.0);
            let gradients = y.backward_from(&y.detach()).unwrap();
            let dx = ops::token_gather::reference::backward(&expected, &positions, ROWS, 2);
            assert_close("token_gather backward", &gradients.get(&leaf).unwrap().to_vec().unwrap(), &dx, 0.0);
        }
    }

    #[test]
    fn labels() {
        for gpu in each_family() {
            let (logits, settings) = (values(1, ROWS * 3), CrossEntropy::default());
            let labels: Vec<u32> = values(2, ROWS).iter().map(|v| u32::from(*v > 0.0)).collect();
            let t_logits = Tensor::from_slice(&gpu, &[ROWS, 3], &logits).unwrap();
            let t_labels = Tensor::from_slice(&gpu, &[ROWS], &labels).unwrap();
            let loss = ops::cross_entropy(&t_logits, &t_labels, &settings).unwrap().item().unwrap();
            let expected = ops::cross_entropy::reference::forward(&logits, &labels, &settings);
            assert_close("cross_entropy", &[loss], &[expected], 1e-5);
        }
    }

    /// A parameter of 5 million elements, 64 a workgroup.
    #[test]
    fn optimizer() {
        for gpu in each_family() {
            let n = 5_000_001;
            let mut parameters = Parameters::new(&gpu);
            let w = parameters.add("w", &[n], &vec![1.0; n]).unwrap();
            let rule = Rule::Sgd(Sgd { momentum: 0.0, weight_decay: 0.0, ..Sgd::default() });
            let mut optimizer = Optimizer::new(&parameters, rule, None, |_, _| true).unwrap();
            ops::sum(&w.tensor()).unwrap().backward().unwrap();
            optimizer.step(&parameters, 0.25).unwrap();
            let value = w.value().to_vec::<f32>().unwrap();
            assert_eq!(value.iter().position(|v| *v != 0.75), None);
        }
    }
}

/// A grid that cannot be folded is refused, not cut short.
#[test]
fn grids_beyond_the_limit_are_an_error() {
    let gpu = gpu();
    let n = 8 * 65_535 + 1;
    let (x, w) = (upload(&gpu, &vec![1.0; n]), Tensor::from_slice(&gpu, &[1, 1], &[2.0f32]).unwrap());
    let x = ops::reshape(&x, &[n, 1]).unwrap();
    match ops::linear(&x, &w, None) {
        Err(Error::Limit { name: "max_compute_workgroups_per_dimension", .. }) => {}
        Ok(y) => assert_eq!(y.to_vec::<f32>().unwrap(), vec![2.0; n]),
        Err(other) => panic!("{other}"),
    }
}
