//! Layers that see a few rows, as when text is generated: their products have a form of their own.

use super::support::{leaf, upload};
use crate::common::{assert_close, each_family, gpu_with_f16, poison, values};
use wgrad::autograd::Parameters;
use wgrad::gpu::{GpuOptions, KernelFamily};
use wgrad::ops::{self, Gelu, matmul::reference::product, mlp};
use wgrad::{DType, Gpu, Tensor};

/// N and K: columns and steps that fill vec4s and workgroups, and that do not.
const SIZES: &[[usize; 2]] = &[[1, 1], [1, 4], [3, 8], [4, 10], [10, 12], [32, 64], [36, 260], [131, 252], [257, 2052]];

/// x, W, bias, residual, and x·Wᵀ + bias by the CPU.
fn layer([m, n, k]: [usize; 3]) -> ([Vec<f32>; 4], Vec<f32>) {
    let data = [values(1, m * k), values(2, n * k), values(3, n), values(4, m * n)];
    let [x, w, bias, _] = &data;
    let mut y = product([m, n, k], |i, q| x[i * k + q], |q, j| w[j * k + q]);
    y.iter_mut().zip(bias.iter().cycle()).for_each(|(y, bias)| *y += bias);
    (data, y)
}

fn added(y: &[f32], other: &[f32]) -> Vec<f32> {
    y.iter().zip(other.iter().cycle()).map(|(y, other)| y + other).collect()
}

fn read(y: wgrad::Result<Tensor>) -> Vec<f32> {
    y.and_then(|y| ops::cast(&y, DType::F32)).unwrap().to_vec().unwrap()
}

/// The files of the kernels that `work` dispatches.
fn files(gpu: &Gpu, work: impl FnOnce()) -> Vec<&'static str> {
    gpu.start_profile();
    work();
    gpu.take_profile().iter().filter_map(|row| row.kernel.split('.').next()).collect()
}

#[test]
fn linear_of_few_rows() {
    for gpu in each_family() {
        let few = if gpu.family() == KernelFamily::Lane { "matmul_few_lane" } else { "matmul_few_group" };
        // GPUs make some more than four with it.
        let most = if gpu.family() == KernelFamily::Lane { 4 } else { 16 };
        for (m, &[n, k]) in (1..=5).chain([7, 16, 17]).flat_map(|m| SIZES.iter().map(move |size| (m, size))) {
            let what = format!("linear of few rows {:?} ({:?})", [m, n, k], gpu.family());
            let ([x, w, bias, residual], y) = layer([m, n, k]);
            let (tx, tw, tb) = (upload(&gpu, &[m, k], &x), upload(&gpu, &[n, k], &w), upload(&gpu, &[n], &bias));
            let tr = upload(&gpu, &[m, n], &residual);
            poison(&gpu, &[m * n]);
            assert_close(&what, &read(ops::linear(&tx, &tw, Some(&tb))), &y, 1e-5);
            assert_close(&what, &read(ops::linear_add(&tx, &tw, &tb, &tr)), &added(&y, &residual), 1e-5);
            let minus: Vec<f32> = bias.iter().map(|bias| -bias).collect();
            assert_close(&what, &read(ops::matmul_nt(&tx, &tw)), &added(&y, &minus), 1e-5);

            let fits = m <= most && k % 4 == 0 && (m == 1 || n % 4 == 0);
            let used = files(&gpu, || drop(read(ops::linear(&tx, &tw, None))));
            assert_eq!(used.contains(&few), fits, "{what}: {used:?}");
        }
    }
}

#[test]
fn mlp_of_few_rows() {
    for gpu in each_family() {
        let gelus = |rows| [Gelu::Erf, Gelu::Tanh, Gelu::Quick].map(|gelu| (rows, gelu));
        for (rows, gelu) in [1, 2, 3, 4, 7, 16].into_iter().flat_map(gelus) {
            let [c, f] = [36, 132];
            let sizes = [rows * c, f * c, f, c * f, c, rows * c];
            let data: [Vec<f32>; 6] = std::array::from_fn(|i| values(i as u64 + 1, sizes[i]));
            let dims = [&[rows, c][..], &[f, c], &[f], &[c, f], &[c], &[rows, c]];
            let [x, w1, b1, w2, b2, residual]: [Tensor; 6] = std::array::from_fn(|i| leaf(&gpu, dims[i], &data[i]));
            let y = mlp(&x, (&w1, &b1), (&w2, &b2), gelu, &residual, None);
            let expected = mlp::reference::forward(std::array::from_fn(|i| &data[i][..]), gelu, rows);
            let what = format!("mlp of {rows} rows by {gelu:?} ({:?})", gpu.family());
            assert_close(&what, &read(y), &expected, 1e-5);
        }
    }
}

#[test]
fn few_rows_of_half_precision() {
    if gpu_with_f16().is_none() {
        return;
    }
    for gpu in each_family() {
        let more = [[5, 36, 260], [7, 8, 12], [16, 36, 260]];
        for [m, n, k] in [[1, 131, 252], [1, 36, 260], [3, 36, 260], [4, 8, 12]].into_iter().chain(more) {
            let what = format!("few rows of f16 {:?} ({:?})", [m, n, k], gpu.family());
            let ([x, w, bias, residual], y) = layer([m, n, k]);
            let x = ops::cast(&upload(&gpu, &[m, k], &x), DType::F16).unwrap();
            let (w, bias) = (upload(&gpu, &[n, k], &w), upload(&gpu, &[n], &bias));
            assert_close(&what, &read(ops::linear(&x, &w, Some(&bias))), &y, 1e-2);
            let wide = ops::linear_add(&x, &w, &bias, &upload(&gpu, &[m, n], &residual));
            assert_close(&what, &read(wide), &added(&y, &residual), 1e-2);
        }
    }
}

/// On CPU drivers all forms sum in the same order: a row has the same result, to the last bit, whatever rows are beside it.
#[test]
fn few_rows_are_as_among_many_on_cpu_drivers() {
    let [gpu, _] = each_family();
    assert_eq!(gpu.family(), KernelFamily::Lane);
    for [n, k] in [[36, 260], [131, 252], [257, 2052]] {
        let ([x, w, bias, _], _) = layer([9, n, k]);
        let (w, bias) = (upload(&gpu, &[n, k], &w), upload(&gpu, &[n], &bias));
        let of = |rows: usize| read(ops::linear(&upload(&gpu, &[rows, k], &x[..rows * k]), &w, Some(&bias)));
        let many = of(9);
        for rows in [1, 2, 4] {
            assert_eq!(of(rows), many[..rows * n], "{rows} rows of {:?}", [n, k]);
        }
    }
}

/// A weight that is larger than what the device binds, as a head's is, is cut by rows.
#[test]
fn few_rows_by_a_weight_in_parts() {
    for family in [KernelFamily::Lane, KernelFamily::Workgroup] {
        let binding_size = Some(1 << 16);
        let options = GpuOptions { default_limits: true, family: Some(family), binding_size, ..Default::default() };
        let gpu = Gpu::with_options(&options).unwrap();
        for [m, n, k] in [[1, 1003, 36], [1, 1001, 36], [4, 1004, 36]] {
            let ([x, w, bias, residual], y) = layer([m, n, k]);
            let (x, bias) = (upload(&gpu, &[m, k], &x), upload(&gpu, &[n], &bias));
            let w = Parameters::new(&gpu).add("weight", &[n, k], &w).unwrap().tensor();
            let what = format!("few rows by parts of {:?} ({family:?})", [n, k]);
            let sum = ops::linear_add(&x, &w, &bias, &upload(&gpu, &[m, n], &residual));
            assert_close(&what, &read(sum), &added(&y, &residual), 1e-5);
        }
    }
}
