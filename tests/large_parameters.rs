//! Parameters that are larger than what the device binds at once, as the embeddings of language models are on many: all that
//! training does with them, against a device that binds them whole.

use crate::common::{assert_close, values};
use wgrad::autograd::{Parameter, Parameters};
use wgrad::gpu::{GpuOptions, KernelFamily};
use wgrad::optim::{AdamW, Ema, Optimizer, Rule, Sgd, StepReport};
use wgrad::{Error, Gpu, Tensor, ops};

/// Bytes that the smaller device binds.
const BOUND: u64 = 1 << 16;
/// Three parts each, of rows that a vec4 fits and that none does.
const TABLES: [[usize; 2]; 2] = [[1003, 36], [1001, 37]];

/// For each family, a device that binds little and one that binds all.
fn devices() -> Vec<[Gpu; 2]> {
    let open = |family, binding_size| {
        let options = GpuOptions { default_limits: true, family: Some(family), binding_size, ..Default::default() };
        Gpu::with_options(&options).unwrap()
    };
    let families = [KernelFamily::Lane, KernelFamily::Workgroup];
    families.into_iter().map(|family| [Some(BOUND), None].map(|bound| open(family, bound))).collect()
}

fn ids(gpu: &Gpu, rows: usize, n: usize) -> Tensor {
    let ids: Vec<u32> = (0..n).map(|i| ((i * i * 31 + i) % rows) as u32).collect();
    Tensor::from_slice(gpu, &[n], &ids).unwrap()
}

fn table(parameters: &mut Parameters, [rows, channels]: [usize; 2]) -> Parameter {
    parameters.add("table", &[rows, channels], &values(1, rows * channels)).unwrap()
}

/// The table, its average, and the norms after three steps on what is looked up; with another parameter behind it or not.
fn trained(gpu: &Gpu, sizes: [usize; 2], rule: Rule, max_norm: Option<f32>, alone: bool) -> Vec<Vec<f32>> {
    let [rows, channels] = sizes;
    let mut parameters = Parameters::new(gpu);
    let table = table(&mut parameters, sizes);
    let scale = (!alone).then(|| parameters.add("scale", &[channels], &values(2, channels)).unwrap());
    let optimizer = Optimizer::new(&parameters, rule, max_norm, |_, rank| rank > 1).unwrap();
    let mut optimizer = optimizer.with_ema(&parameters, Ema::default()).unwrap();
    let mut norms = Vec::new();
    for step in 0..3 {
        let mut y = ops::embedding(&table.tensor(), &ids(gpu, rows, 300)).unwrap();
        if let Some(scale) = &scale {
            y = ops::mul(&y, &scale.tensor()).unwrap();
        }
        let dy = Tensor::from_slice(gpu, &[300, channels], &values(3 + step, 300 * channels)).unwrap();
        y.backward_from(&dy).unwrap();
        optimizer.step(&parameters, 0.1).unwrap();
        let report = StepReport::decode(&optimizer.report().read_later().unwrap().wait().unwrap()[0]).unwrap();
        report.check(step, &parameters).unwrap();
        norms.push(report.grad_norm);
    }
    let average = optimizer.averaged(|| table.value().to_vec::<f32>()).unwrap();
    let held = optimizer.held(&parameters).unwrap();
    let held = held.into_iter().map(|(_, tensor)| tensor.to_vec().unwrap());
    [vec![table.value().to_vec().unwrap(), average, norms], held.collect()].concat()
}

#[test]
fn large_parameters_train_bit_for_bit() {
    let rules = [Rule::AdamW(AdamW::default()), Rule::Sgd(Sgd::default())];
    for [small, whole] in devices() {
        for (sizes, rule) in TABLES.into_iter().flat_map(|sizes| rules.map(|rule| (sizes, rule))) {
            // The norm is summed segment by segment, and those differ where there is more than the table.
            for (max_norm, alone) in [(None, true), (Some(0.5), true), (None, false)] {
                let run = |gpu| trained(gpu, sizes, rule, max_norm, alone);
                let (mut cut, mut uncut) = (run(&small), run(&whole));
                if !alone {
                    assert_close("norms", &cut.remove(2), &uncut.remove(2), 1e-6);
                }
                assert!(cut == uncut, "{sizes:?} {rule:?} {max_norm:?} ({:?})", small.family());
            }
        }
    }
}

/// The head that is tied to the table: logits bit for bit, and gradients whose sums are cut elsewhere nearly so.
#[test]
fn large_parameters_are_multiplied_in_parts() {
    for [small, whole] in devices() {
        for [rows, channels] in TABLES {
            let run = |gpu: &Gpu| {
                let mut parameters = Parameters::new(gpu);
                let table = table(&mut parameters, [rows, channels]);
                let bias = parameters.add("bias", &[rows], &values(2, rows)).unwrap();
                let x = Tensor::from_slice(gpu, &[16, channels], &values(3, 16 * channels)).unwrap();
                let x = x.requires_grad().unwrap();
                let looked_up = ops::embedding(&table.tensor(), &ids(gpu, rows, 16)).unwrap();
                let hidden = ops::add(&x, &looked_up).unwrap();
                let logits = ops::linear(&hidden, &table.tensor(), Some(&bias.tensor())).unwrap();
                let plain = ops::matmul_nt(&hidden, &table.tensor()).unwrap();
                let dy = Tensor::from_slice(gpu, &[16, rows], &values(4, 16 * rows)).unwrap();
                let grads = ops::add(&logits, &plain).unwrap().backward_from(&dy).unwrap();
                let gradients = [grads.get(&x).unwrap().clone(), table.grad().unwrap(), bias.grad().unwrap()];
                [logits, plain].into_iter().chain(gradients).map(|t| t.to_vec::<f32>().unwrap()).collect::<Vec<_>>()
            };
            let (cut, uncut) = (run(&small), run(&whole));
            for (i, (cut, uncut)) in cut.iter().zip(&uncut).enumerate() {
                let tolerance = if i < 2 { 0.0 } else { 1e-5 };
                assert_close(&format!("{i} of {rows}x{channels} ({:?})", small.family()), cut, uncut, tolerance);
            }
        }
    }
}

/// Head and loss in one, whose products are cut too.
#[test]
fn large_heads_have_losses() {
    for [small, whole] in devices() {
        for [rows, channels] in TABLES {
            let run = |gpu: &Gpu| {
                let mut parameters = Parameters::new(gpu);
                let table = table(&mut parameters, [rows, channels]);
                let x = Tensor::from_slice(gpu, &[16, channels], &values(3, 16 * channels)).unwrap();
                let (x, labels) = (x.requires_grad().unwrap(), ids(gpu, rows, 16));
                let settings = ops::CrossEntropy { label_smoothing: 0.1, ..Default::default() };
                let scores = ops::linear_cross_entropy(&x, &table.tensor(), None, &labels, &settings).unwrap();
                let grads = scores.loss.backward().unwrap();
                let all = [scores.loss, scores.losses, grads.get(&x).unwrap().clone(), table.grad().unwrap()];
                all.map(|t| t.to_vec::<f32>().unwrap())
            };
            for (i, (cut, uncut)) in run(&small).iter().zip(&run(&whole)).enumerate() {
                assert_close(&format!("{i} of {rows}x{channels} ({:?})", small.family()), cut, uncut, 1e-5);
            }
        }
    }
}

/// A gradient that is given, twice, and a parameter that is frozen and thawed.
#[test]
fn large_gradients_add_up() {
    for [small, _] in devices() {
        let mut parameters = Parameters::new(&small);
        let table = table(&mut parameters, TABLES[1]);
        let dy: Vec<f32> = values(5, table.value().numel());
        for times in 1..3 {
            let uploaded = another(&small, &dy);
            table.tensor().backward_from(&uploaded).unwrap();
            let expected: Vec<f32> = dy.iter().map(|v| v * times as f32).collect();
            assert_eq!(table.grad().unwrap().to_vec::<f32>().unwrap(), expected);
        }
    }
}

/// `data` as a tensor of the larger table's shape, in memory of its own.
fn another(gpu: &Gpu, data: &[f32]) -> Tensor {
    let mut parameters = Parameters::new(gpu);
    parameters.add("other", &TABLES[1], data).unwrap().value()
}

/// A layer that is followed by GELU and too large both for the device and for a kernel's loops.
#[test]
fn an_mlp_that_is_cut_and_deep() {
    use ops::mlp::reference::forward;
    const DEEP: usize = 70_001;
    let dims: [&[usize]; 6] = [&[1, 2, DEEP], &[128, DEEP], &[128], &[4, 128], &[4], &[1, 2, 4]];
    let data: [Vec<f32>; 6] = std::array::from_fn(|i| {
        let by = if i == 1 { 0.02 } else { 0.5 };
        values(i as u64, dims[i].iter().product()).iter().map(|v| by * v).collect()
    });
    let expected = forward(std::array::from_fn(|i| &data[i][..]), ops::Gelu::Tanh, 2);
    for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
        let binding_size = Some(20 << 20);
        let options = GpuOptions { default_limits: true, family: Some(family), binding_size, ..Default::default() };
        let gpu = Gpu::with_options(&options).unwrap();
        let mut parameters = Parameters::new(&gpu);
        let [x, w1, b1, w2, b2, residual] =
            std::array::from_fn(|i| parameters.add(format!("p{i}"), dims[i], &data[i]).unwrap().tensor());
        let y = ops::mlp(&x, (&w1, &b1), (&w2, &b2), ops::Gelu::Tanh, &residual, None).unwrap();
        assert_close(&format!("{family:?}"), &y.to_vec().unwrap(), &expected, 1e-5);
    }
}

/// One half-precision weight that is too large in full does not spoil the place of the next.
#[test]
fn a_refused_half_precision_weight_leaves_no_trace() {
    let options = GpuOptions { default_limits: true, binding_size: Some(BOUND), ..Default::default() };
    let Some(gpu) = Some(Gpu::with_options(&options).unwrap()).filter(Gpu::has_f16) else { return };
    let x = Tensor::from_slice(&gpu, &[2, 40], &[1.0f32; 80]).unwrap();
    let weight = |rows: usize| Tensor::from_slice(&gpu, &[rows, 40], &vec![half::f16::ONE; rows * 40]).unwrap();
    let error = ops::linear(&x, &weight(800), None).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
    assert_eq!(ops::linear(&x, &weight(8), None).unwrap().to_vec::<f32>().unwrap(), [40.0; 16]);
}

/// What cannot use a large parameter says so.
#[test]
fn large_parameters_elsewhere_are_an_error() {
    for [small, _] in devices() {
        let mut parameters = Parameters::new(&small);
        let table = table(&mut parameters, TABLES[0]).tensor();
        for result in [ops::sum(&table), ops::softmax(&table), ops::scale(&table, 2.0)] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Limit { name: "max_storage_buffer_binding_size", .. }), "{error}");
        }
    }
    let too_small = GpuOptions { binding_size: Some(BOUND - 1), ..Default::default() };
    let message = Gpu::with_options(&too_small).unwrap_err().to_string();
    assert!(message.contains("binding_size must be 65536 to"), "{message}");
}

/// A tensor of a buffer's size, and several that would fill one together, are read whole.
#[test]
fn reads_larger_than_a_buffer() {
    let gpu = Gpu::with_options(&GpuOptions { default_limits: true, ..Default::default() }).unwrap();
    let value = |i: usize| (i % 8191) as f32;
    let data: Vec<f32> = (0..1 << 26).map(value).collect();
    let mut parameters = Parameters::new(&gpu);
    let table = parameters.add("table", &[8192, 8192], &data).unwrap();
    let whole = table.value().to_vec::<f32>().unwrap();
    assert_eq!(whole.len(), data.len());
    assert!(whole == data, "the table has changed");
    drop((whole, table, parameters));
    const PART: usize = 24 << 20;
    let parts = [0, 1, 2].map(|i| Tensor::from_slice(&gpu, &[PART], &data[i * PART / 2..][..PART]).unwrap());
    let read = Tensor::read_all_later(&[&parts[0], &parts[1], &parts[2]]).unwrap().wait().unwrap();
    for (i, bytes) in read.iter().enumerate() {
        let values: &[f32] = bytemuck::cast_slice(bytes);
        assert!(values == &data[i * PART / 2..][..PART], "part {i}");
    }
}
