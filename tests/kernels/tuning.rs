use std::time::Duration;

use crate::common::{assert_close, each_family, gpu, values};
use proptest::prelude::*;
use wgrad::gpu::{Gpu, GpuOptions, KernelFamily};
use wgrad::ops::{self, Gelu, TokenIndices, TunedProduct, Tuning, matmul::reference::product};
use wgrad::{DType, Tensor};

/// An entry for the product of two f32 matrices.
fn entry(layout: &str, size: [usize; 3], body: &str, rest: Option<&str>, split: usize) -> TunedProduct {
    let f32 = || "f32".to_owned();
    TunedProduct {
        layout: layout.to_owned(),
        types: [f32(), f32(), f32()],
        ending: if layout == "nt" { "linear" } else { "plain" }.to_owned(),
        aligned: true,
        can_split: layout == "tn",
        size,
        batch: 1,
        body: body.to_owned(),
        rest: rest.map(str::to_owned),
        split,
    }
}

fn only(entry: TunedProduct) -> Tuning {
    Tuning { products: vec![entry] }
}

/// A stored matrix: sizes and values.
type Stored = ([usize; 2], Vec<f32>);

/// The stored A and B of a product, and C by the CPU.
fn operands(layout: &str, [m, n, k]: [usize; 3]) -> (Stored, Stored, Vec<f32>) {
    let (a, b) = (values(1, m * k), values(2, n * k));
    let a_at = |i: usize, q: usize| if layout == "tn" { a[q * m + i] } else { a[i * k + q] };
    let b_at = |q: usize, j: usize| if layout == "nt" { b[j * k + q] } else { b[q * n + j] };
    let c = product([m, n, k], a_at, b_at);
    let a_dims = if layout == "tn" { [k, m] } else { [m, k] };
    let b_dims = if layout == "nt" { [n, k] } else { [k, n] };
    ((a_dims, a), (b_dims, b), c)
}

fn multiply(gpu: &Gpu, layout: &str, size: [usize; 3]) -> Vec<f32> {
    let ((a_dims, a), (b_dims, b), _) = operands(layout, size);
    let a = Tensor::from_slice(gpu, &a_dims, &a).unwrap();
    let b = Tensor::from_slice(gpu, &b_dims, &b).unwrap();
    let c = match layout {
        "nn" => ops::matmul(&a, &b),
        "nt" => ops::matmul_nt(&a, &b),
        _ => ops::matmul_tn(&a, &b),
    };
    c.unwrap().to_vec().unwrap()
}

/// The kernels of the product, sorted.
fn kernels(gpu: &Gpu, layout: &str, size: [usize; 3]) -> Vec<&'static str> {
    gpu.start_profile();
    multiply(gpu, layout, size);
    let mut names: Vec<_> = gpu.take_profile().iter().map(|row| row.kernel).collect();
    names.sort_unstable();
    names
}

const FORMS: [&str; 7] = ["simple", "rows64", "rows32", "rows16", "tile128", "tile64", "tile32"];

/// Whatever a table may say, the product is the same.
#[test]
fn every_plan_makes_the_same_product() {
    for gpu in each_family() {
        for (layout, size) in [("nn", [100, 68, 36]), ("nt", [76, 20, 52]), ("tn", [68, 36, 4096])] {
            let (.., reference) = operands(layout, size);
            let mut taken = 0;
            for body in FORMS {
                for rest in FORMS.iter().map(|form| Some(*form)).chain([None]) {
                    for split in [1, 2, 4, 8] {
                        if gpu.set_tuning(&only(entry(layout, size, body, rest, split))).ignored == 0 {
                            let what = format!("{layout} {size:?} by {body} + {rest:?} / {split}");
                            assert_close(&what, &multiply(&gpu, layout, size), &reference, 1e-5);
                            taken += 1;
                        }
                    }
                }
            }
            assert!(taken >= 3, "{layout} {size:?}: {taken} plans");
        }
    }
}

#[test]
fn a_table_is_what_is_computed_with() {
    let gpu = Gpu::with_options(&GpuOptions { family: Some(KernelFamily::Workgroup), ..Default::default() }).unwrap();
    let size = [64, 64, 64];
    for (body, kernel) in [("tile128", "matmul_tile.nt.linear.128"), ("tile32", "matmul_tile.nt.linear.32")] {
        assert_eq!(gpu.set_tuning(&only(entry("nt", size, body, None, 1))).ignored, 0);
        assert_eq!(kernels(&gpu, "nt", size), [kernel]);
        // Its like follows, others do not.
        assert_eq!(kernels(&gpu, "nt", [62, 64, 64]), [kernel]);
        for (layout, size) in [("nn", size), ("nt", [64, 64, 128])] {
            assert!(!kernels(&gpu, layout, size)[0].ends_with(".128"));
        }
        let table = gpu.tuning();
        assert_eq!(table.products, [entry("nt", size, body, None, 1)]);
        // What is settled stays.
        let dry = gpu.dry_run().unwrap();
        multiply(&dry, "nt", size);
        let report = ops::tune(&gpu, &ops::demands(&dry), Duration::from_secs(60)).unwrap();
        assert_eq!((report.asked, report.known, report.measured), (1, 1, 0));
        assert_eq!(gpu.tuning(), table);
    }
    gpu.set_tuning(&Tuning::default());
    assert_eq!(gpu.tuning(), Tuning::default());
}

#[test]
fn tuning_settles_what_a_dry_run_asked_for() {
    for gpu in each_family() {
        let dry = gpu.dry_run().unwrap();
        let sizes = [("nn", [100, 68, 36]), ("nt", [76, 20, 52]), ("tn", [68, 36, 100]), ("nn", [3, 3, 3])];
        for (layout, size) in sizes {
            multiply(&dry, layout, size);
        }
        let demands = ops::demands(&dry);
        assert_eq!(demands.len(), 3, "an unaligned product leaves no choice");
        assert_eq!(ops::tune(&gpu, &demands, Duration::ZERO).unwrap().measured, 0);
        assert_eq!(gpu.tuning(), Tuning::default());
        let report = ops::tune(&gpu, &demands, Duration::from_secs(600)).unwrap();
        assert_eq!((report.asked, report.known, report.measured), (3, 0, 3));
        let table = gpu.tuning();
        assert_eq!(table.products.len(), 3);
        // Another handle of the adapter takes the same.
        let again =
            Gpu::with_options(&GpuOptions { default_limits: true, family: Some(gpu.family()), ..Default::default() })
                .unwrap();
        assert_eq!(again.set_tuning(&table).ignored, 0);
        assert_eq!(again.tuning(), table);
        for (layout, size) in sizes {
            assert_eq!(kernels(&gpu, layout, size), kernels(&again, layout, size));
        }
        assert!(ops::demands(&gpu).is_empty());
    }
}

/// The device with its matrix units, or `None` where it has none that kernels could use: the one reason not to run a test.
fn with_matrix_units() -> Option<Gpu> {
    // As on a GPU: there the weights' gradients are plain products.
    let options = GpuOptions { matrix_units: true, family: Some(KernelFamily::Workgroup), ..Default::default() };
    Some(Gpu::with_options(&options).expect("a GPU or CPU driver")).filter(|gpu| gpu.matrix_units().is_some())
}

/// Types of A, B and C in half precision, with the letters of their names.
fn half_types() -> [(&'static str, [DType; 3]); 5] {
    use DType::{F16, F32};
    [
        ("nt", [F16, F32, F16]),
        ("nn", [F16, F32, F16]),
        ("nn", [F32, F32, F16]),
        ("tn", [F16, F16, F32]),
        ("tn", [F32, F16, F32]),
    ]
}

#[test]
fn no_matrix_units_unless_they_are_asked_for() {
    assert_eq!(gpu().matrix_units(), None);
    let mut coop = entry("nt", [64, 64, 64], "cooperative8", None, 1);
    coop.types = ["f16", "f32", "f16"].map(str::to_owned);
    assert_eq!(gpu().set_tuning(&only(coop)).ignored, 1);
}

/// The self-test passes, each half-precision product has a variant, and what a layer computes by it is what it computes
/// otherwise.
#[test]
fn matrix_units_agree_with_the_rest() {
    let Some(gpu) = with_matrix_units() else { return };
    let lanes = gpu.matrix_units().unwrap_or_default();
    let name = format!("cooperative{lanes}");
    let (rows, features, hidden) = (68, 44, 52);
    let run = || layer_and_mlp(&gpu, rows, features, hidden);
    let expected = run();
    let dry = gpu.dry_run().unwrap();
    layer_and_mlp(&dry, rows, features, hidden);
    let report = ops::tune(&gpu, &ops::demands(&dry), Duration::from_secs(600)).unwrap();
    assert_eq!(report.measured, report.asked);
    let mut table = gpu.tuning();
    table.products.retain(|p| p.types.iter().any(|t| t == "f16"));
    for (layout, types) in half_types() {
        let types = types.map(|t| t.to_string());
        assert!(table.products.iter().any(|p| p.layout == layout && p.types == types), "{layout} {types:?}");
    }
    // All but one, for which the units have no kernel.
    for product in table.products.iter_mut().filter(|product| product.ending != "scatter") {
        (product.body, product.rest, product.split) = (name.clone(), None, 1);
    }
    assert_eq!(gpu.set_tuning(&table).ignored, 0, "the self-test passes, and every product has a variant");
    gpu.start_profile();
    let got = run();
    let used: Vec<_> =
        gpu.take_profile().iter().map(|row| row.kernel).filter(|n| n.starts_with("matmul_coop")).collect();
    assert_eq!(used.len(), 12, "every variant of the form: {used:?}");
    for ((what, got), (_, expected)) in got.iter().zip(&expected) {
        assert_close(what, got, expected, 1e-2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No table makes a product wrong.
    #[test]
    fn hostile_tables_are_harmless(
        layout in "nn|nt|tn|xx|",
        types in prop::array::uniform3("f32|f16|u8|.{0,3}"),
        ending in "plain|sums|linear|gelu|gelu_tanh|gelu_quick|scatter|.{0,6}",
        aligned: bool,
        can_split: bool,
        size in prop::array::uniform3(prop_oneof![Just(64usize), 0usize..200, any::<usize>()]),
        batch in prop_oneof![Just(1usize), any::<usize>()],
        body in "simple|rows64|rows16|tile32|tile128|cooperative8|.{0,9}",
        rest in prop::option::of("rows32|rows16|simple|.{0,4}"),
        split in prop_oneof![Just(1usize), 0usize..40, any::<usize>()],
    ) {
        let entry =
            TunedProduct { layout, types, ending, aligned, can_split, size, batch, body, rest, split };
        let gpu = shared();
        let ignored = gpu.set_tuning(&Tuning { products: vec![entry.clone(), entry] }).ignored;
        prop_assert!(ignored >= 1);
        let (.., reference) = operands("nt", [64, 64, 64]);
        assert_close("nt", &multiply(gpu, "nt", [64, 64, 64]), &reference, 1e-5);
    }
}

fn shared() -> &'static Gpu {
    static GPU: std::sync::OnceLock<Gpu> = std::sync::OnceLock::new();
    GPU.get_or_init(gpu)
}

/// Forward and gradients of layers that ask for every half-precision product.
fn layer_and_mlp(gpu: &Gpu, rows: usize, features: usize, hidden: usize) -> Vec<(&'static str, Vec<f32>)> {
    let leaf = |seed, dims: &[usize]| {
        let data = values(seed, dims.iter().product());
        Tensor::from_slice(gpu, dims, &data).unwrap().requires_grad().unwrap()
    };
    let x = leaf(1, &[1, rows, features]);
    let (w0, b0) = (leaf(2, &[features, features]), leaf(3, &[features]));
    let (w1, b1) = (leaf(4, &[hidden, features]), leaf(5, &[hidden]));
    let (w2, b2) = (leaf(6, &[features, hidden]), leaf(7, &[features]));
    let w3 = leaf(8, &[hidden, features]);
    let half = ops::cast(&x, DType::F16).unwrap();
    let y = ops::linear(&half, &w0, Some(&b0)).unwrap();
    let unbiased = ops::cast(&ops::linear(&y, &w3, None).unwrap(), DType::F32).unwrap();
    let z = ops::linear_add(&y, &w0, &b0, &x).unwrap();
    let m = ops::mlp(&y, (&w1, &b1), (&w2, &b2), Gelu::Erf, &z, None).unwrap();
    let m = ops::mlp(&y, (&w1, &b1), (&w2, &b2), Gelu::Quick, &m, None).unwrap();
    let places: Vec<u32> = (0..rows as u32).map(|i| i + i / 7).collect();
    let tokens = rows + rows / 7 + 1;
    let indices = TokenIndices::new(gpu, [1, rows], tokens, &places).unwrap();
    let full = leaf(9, &[1, tokens, features]);
    let m = ops::mlp(&y, (&w1, &b1), (&w2, &b2), Gelu::Tanh, &m, Some((full.clone(), &indices))).unwrap();
    let loss = ops::add(&ops::sum(&m).unwrap(), &ops::sum(&unbiased).unwrap()).unwrap();
    let grads = loss.backward().unwrap();
    let read = |t: &Tensor| t.to_vec::<f32>().unwrap();
    let leaves = [
        ("x", &x),
        ("w0", &w0),
        ("b0", &b0),
        ("w1", &w1),
        ("b1", &b1),
        ("w2", &w2),
        ("b2", &b2),
        ("w3", &w3),
        ("full", &full),
    ];
    let gradients = leaves.map(|(name, leaf)| (name, read(grads.get(leaf).unwrap())));
    [vec![("m", read(&m)), ("unbiased", read(&unbiased))], gradients.to_vec()].concat()
}
