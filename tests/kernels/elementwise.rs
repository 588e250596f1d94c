use super::support::{assert_gradients, assert_halves_add_up, leaf, upload};
use crate::common::{assert_close, each_family, gpu_with_f16, values};
use wgrad::ops::elementwise::reference::{binary, unary};
use wgrad::ops::layout::reference::{index, place};
use wgrad::{DType, Result, Tensor, ops};

/// A function with its value and slope, and where it is tried.
struct Unary {
    name: &'static str,
    op: fn(&Tensor) -> Result<Tensor>,
    reference: fn(f64) -> [f64; 2],
    range: [f32; 2],
}

const fn unary(
    name: &'static str,
    op: fn(&Tensor) -> Result<Tensor>,
    reference: fn(f64) -> [f64; 2],
    range: [f32; 2],
) -> Unary {
    Unary { name, op, reference, range }
}

const UNARY: &[Unary] = &[
    unary("abs", ops::abs, unary::abs, [-4.0, 4.0]),
    unary("clamp", |x| ops::clamp(x, -1.0, 2.5), |x| unary::clamp(x, -1.0, 2.5), [-4.0, 4.0]),
    unary("exp", ops::exp, unary::exp, [-4.0, 4.0]),
    unary("leaky_relu", |x| ops::leaky_relu(x, 0.125), |x| unary::leaky_relu(x, 0.125), [-4.0, 4.0]),
    unary("log", ops::log, unary::log, [0.1, 9.0]),
    unary("neg", ops::neg, |x| [-x, -1.0], [-4.0, 4.0]),
    unary("pow 2", |x| ops::pow(x, 2.0), |x| unary::pow(x, 2.0), [-4.0, 4.0]),
    unary("pow 3", |x| ops::pow(x, 3.0), |x| unary::pow(x, 3.0), [-4.0, 4.0]),
    unary("pow -0.5", |x| ops::pow(x, -0.5), |x| unary::pow(x, -0.5), [0.1, 9.0]),
    unary("relu", ops::relu, unary::relu, [-4.0, 4.0]),
    unary("rsqrt", ops::rsqrt, unary::rsqrt, [0.1, 9.0]),
    unary("sigmoid", ops::sigmoid, unary::sigmoid, [-20.0, 20.0]),
    unary("silu", ops::silu, unary::silu, [-6.0, 6.0]),
    unary("softplus", ops::softplus, unary::softplus, [-20.0, 20.0]),
    unary("sqrt", ops::sqrt, unary::sqrt, [0.1, 9.0]),
    unary("tanh", ops::tanh, unary::tanh, [-6.0, 6.0]),
];

impl Unary {
    /// `n` places in its range.
    fn places(&self, n: usize) -> Vec<f32> {
        let [low, high] = self.range;
        let mut places: Vec<_> = values(1, n).iter().map(|v| low + (high - low) * (v + 1.0) / 2.0).collect();
        // Tolerances are relative to the largest value, also where there is only one.
        places[0] = low + 0.6 * (high - low);
        places
    }

    /// The value, or dy times the slope.
    fn expected(&self, x: &[f32], dy: Option<&[f32]>) -> Vec<f32> {
        let at = |(i, &x): (usize, &f32)| {
            let [value, slope] = (self.reference)(x.into());
            dy.map_or(value, |dy| slope * f64::from(dy[i])) as f32
        };
        x.iter().enumerate().map(at).collect()
    }
}

#[test]
fn functions_of_one_tensor() {
    for gpu in each_family() {
        for f in UNARY {
            for n in [1, 7, 65, 197, 1757] {
                let (x, dy) = (f.places(n), values(2, n));
                let what = format!("{} {n}", f.name);
                let tx = leaf(&gpu, &[n], &x);
                let y = (f.op)(&tx).unwrap();
                assert_close(&what, &y.to_vec().unwrap(), &f.expected(&x, None), 5e-6);
                assert_gradients(&what, &y, &dy, &[(&tx, &f.expected(&x, Some(&dy)))], 1e-5);
            }
        }
    }
}

#[test]
fn functions_in_half_precision() {
    let Some(gpu) = gpu_with_f16() else { return };
    for f in UNARY.iter().filter(|f| f.name != "neg") {
        // The references are of what the device got.
        let round = |values: &[f32]| -> Vec<f32> {
            let half = ops::cast(&upload(&gpu, &[values.len()], values), DType::F16).unwrap();
            ops::cast(&half, DType::F32).unwrap().to_vec().unwrap()
        };
        let (x, dy) = (round(&f.places(197)), round(&values(2, 197)));
        let tx = leaf(&gpu, &[197], &x);
        let y = ops::cast(&(f.op)(&ops::cast(&tx, DType::F16).unwrap()).unwrap(), DType::F32).unwrap();
        assert_close(f.name, &y.to_vec().unwrap(), &f.expected(&x, None), 1e-3);
        assert_gradients(f.name, &y, &dy, &[(&tx, &f.expected(&x, Some(&dy)))], 1e-3);
        assert_halves_add_up(f.name, &tx, f.op);
    }
}

/// Where functions of f32 overflow, or lose a NaN, if they are written carelessly.
#[test]
fn functions_at_their_ends() {
    for gpu in each_family() {
        let ends = [f32::NEG_INFINITY, -1e30, -100.0, 0.0, 100.0, 1e30, f32::INFINITY, f32::NAN];
        let x = upload(&gpu, &[ends.len()], &ends);
        let at_ends = |op: fn(&Tensor) -> Result<Tensor>| op(&x).unwrap().to_vec::<f32>().unwrap();
        let same = |got: &[f32], expected: &[f32]| {
            let is_near = |g: f32, e: f32| g == e || (e.is_finite() && (g - e).abs() <= 1e-5 * e.abs());
            let is_same = got.iter().zip(expected).all(|(&g, &e)| is_near(g, e) || (g.is_nan() && e.is_nan()));
            assert!(is_same, "{got:?}, {expected:?}");
        };
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        same(&at_ends(ops::exp), &[0.0, 0.0, 0.0, 1.0, inf, inf, inf, nan]);
        same(&at_ends(ops::log), &[nan, nan, nan, -inf, 100f32.ln(), 1e30f32.ln(), inf, nan]);
        same(&at_ends(ops::sqrt), &[nan, nan, nan, 0.0, 10.0, 1e15, inf, nan]);
        same(&at_ends(ops::rsqrt), &[nan, nan, nan, inf, 0.1, 1e-15, 0.0, nan]);
        same(&at_ends(ops::sigmoid), &[0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, nan]);
        same(&at_ends(ops::tanh), &[-1.0, -1.0, -1.0, 0.0, 1.0, 1.0, 1.0, nan]);
        same(&at_ends(ops::softplus), &[0.0, 0.0, 0.0, 2f32.ln(), 100.0, 1e30, inf, nan]);
        same(&at_ends(ops::relu), &[0.0, 0.0, 0.0, 0.0, 100.0, 1e30, inf, nan]);
        same(&at_ends(|x| ops::clamp(x, -1.0, f32::INFINITY)), &[-1.0, -1.0, -1.0, 0.0, 100.0, 1e30, inf, nan]);
        same(&at_ends(|x| ops::clamp(x, -f32::INFINITY, 1.0)), &[-inf, -1e30, -100.0, 0.0, 1.0, 1.0, 1.0, nan]);
        same(&at_ends(|x| ops::pow(x, 0.0)), &[1.0; 8]);
        same(&at_ends(|x| ops::pow(x, 0.5))[1..4], &[nan, nan, 0.0]);
        same(&at_ends(|x| ops::pow(x, -0.5))[3..4], &[inf]);
        for f in UNARY {
            assert!(at_ends(f.op)[7].is_nan(), "{}", f.name);
        }
    }
}

/// Where a function is small, it is right relative to itself; and −0 has a sign.
#[test]
fn functions_near_nothing() {
    for gpu in each_family() {
        let small = [2e-8, 1e-7, -1e-5, 1e-3, -0.029, 0.031, 0.2];
        let x = upload(&gpu, &[small.len()], &small);
        for (got, x) in ops::tanh(&x).unwrap().to_vec::<f32>().unwrap().into_iter().zip(small) {
            let expected = f64::from(x).tanh();
            assert!((f64::from(got) / expected - 1.0).abs() < 5e-6, "tanh {x}: {got}");
        }
        let low = [-20.0, -9.0, -6.9, -5.0, -3.0, -2.2];
        let x = upload(&gpu, &[low.len()], &low);
        for (got, x) in ops::softplus(&x).unwrap().to_vec::<f32>().unwrap().into_iter().zip(low) {
            let expected = f64::from(x).exp().ln_1p();
            assert!((f64::from(got) / expected - 1.0).abs() < 2e-6, "softplus {x}: {got}");
        }
        let zeros = upload(&gpu, &[2], &[0.0, -0.0]);
        let of = |exponent: f32| -> Vec<f32> { ops::pow(&zeros, exponent).unwrap().to_vec().unwrap() };
        assert_eq!((of(-1.0), of(-2.0)), (vec![f32::INFINITY, -f32::INFINITY], vec![f32::INFINITY; 2]));
        assert!(of(3.0)[1].is_sign_negative() && of(0.5)[1] == 0.0);
    }
}

/// The slope of a quotient where the square of the divisor is 0 or infinite.
#[test]
fn quotients_of_small_and_large_numbers() {
    for gpu in each_family() {
        let (x, y) = ([0.0, 1e20, 3e-20], [1e-23, 1e20, 1e-20]);
        let (tx, ty) = (upload(&gpu, &[3], &x), leaf(&gpu, &[3], &y));
        let gradients = ops::sum(&ops::div(&tx, &ty).unwrap()).unwrap().backward().unwrap();
        let d_y = gradients.get(&ty).unwrap().to_vec::<f32>().unwrap();
        for (got, expected) in d_y.into_iter().zip([0.0f32, -1e-20, -3e20]) {
            assert!((got - expected).abs() <= 1e-5 * expected.abs(), "{got}, {expected}");
        }
    }
}

/// A function of two tensors with its value and slopes.
type Binary = (&'static str, fn(&Tensor, &Tensor) -> Result<Tensor>, fn(f64, f64) -> [f64; 3]);

const BINARY: &[Binary] = &[
    ("add", ops::add, binary::add),
    ("sub", ops::sub, binary::sub),
    ("mul", ops::mul, binary::mul),
    ("div", ops::div, binary::div),
    ("maximum", ops::maximum, binary::maximum),
    ("minimum", ops::minimum, binary::minimum),
];

/// Pairs of shapes with their common one.
const SHAPES: &[[&[usize]; 3]] = &[
    [&[1757], &[1757], &[1757]],
    [&[3, 5, 7], &[3, 5, 7], &[3, 5, 7]],
    [&[2, 3, 4], &[3, 1], &[2, 3, 4]],
    [&[5, 1, 7], &[4, 1], &[5, 4, 7]],
    [&[4], &[65, 4], &[65, 4]],
    [&[], &[3, 5], &[3, 5]],
    [&[6, 8], &[], &[6, 8]],
    [&[1, 1, 3], &[3], &[1, 1, 3]],
    [&[2, 1, 3, 1, 2, 5], &[4, 1, 3, 1, 5], &[2, 4, 3, 3, 2, 5]],
];

/// The place in a tensor of sizes `dims` that is broadcast to where `at` is an index.
fn source(at: &[usize], dims: &[usize]) -> usize {
    let tail = &at[at.len() - dims.len()..];
    let own: Vec<usize> = tail.iter().zip(dims).map(|(&i, &size)| if size == 1 { 0 } else { i }).collect();
    place(&own, dims)
}

fn numel(dims: &[usize]) -> usize {
    dims.iter().product()
}

/// Values away from 0 and, in the second tensor, sometimes those of the first.
fn operands(dims: &[&[usize]; 3]) -> [Vec<f32>; 2] {
    let away = |seed, n| values(seed, n).iter().map(|v| v + 0.5f32.copysign(*v)).collect::<Vec<_>>();
    let (x, mut y) = (away(1, numel(dims[0])), away(2, numel(dims[1])));
    for (i, y) in y.iter_mut().enumerate().filter(|(i, _)| i % 3 == 0) {
        *y = x[i % x.len()];
    }
    [x, y]
}

#[test]
fn functions_of_two_tensors_are_broadcast() {
    for gpu in each_family() {
        for (name, op, reference) in BINARY {
            for dims in SHAPES {
                let [x, y] = operands(dims);
                let dz = values(3, numel(dims[2]));
                let (tx, ty) = (leaf(&gpu, dims[0], &x), leaf(&gpu, dims[1], &y));
                let (mut z, mut dx, mut dy) = (Vec::new(), vec![0.0f64; x.len()], vec![0.0f64; y.len()]);
                for (i, dz) in dz.iter().enumerate() {
                    let at = index(i, dims[2]);
                    let (px, py) = (source(&at, dims[0]), source(&at, dims[1]));
                    let [value, slope_x, slope_y] = reference(x[px].into(), y[py].into());
                    z.push(value as f32);
                    dx[px] += slope_x * f64::from(*dz);
                    dy[py] += slope_y * f64::from(*dz);
                }
                let narrow = |wide: Vec<f64>| wide.iter().map(|&v| v as f32).collect::<Vec<_>>();
                let (dx, dy) = (narrow(dx), narrow(dy));
                let what = format!("{name} {dims:?}");
                let got = op(&tx, &ty).unwrap();
                assert_eq!(got.dims(), dims[2], "{what}");
                assert_close(&what, &got.to_vec().unwrap(), &z, 1e-6);
                assert_gradients(&what, &got, &dz, &[(&tx, &dx), (&ty, &dy)], 1e-5);
            }
        }
    }
}

#[test]
fn square() {
    for gpu in each_family() {
        let (x, dz) = (values(1, 65), values(2, 65));
        let tx = leaf(&gpu, &[65], &x);
        let dx: Vec<_> = x.iter().zip(&dz).map(|(x, dz)| 2.0 * x * dz).collect();
        assert_gradients("x * x", &ops::mul(&tx, &tx).unwrap(), &dz, &[(&tx, &dx)], 1e-6);
    }
}

#[test]
fn extremes_keep_nan() {
    for gpu in each_family() {
        let (x, y) =
            (upload(&gpu, &[4], &[1.0, f32::NAN, 2.0, f32::NAN]), upload(&gpu, &[4], &[f32::NAN, 1.0, 3.0, f32::NAN]));
        for (op, third) in [(ops::maximum as fn(&Tensor, &Tensor) -> Result<Tensor>, 3.0), (ops::minimum, 2.0)] {
            let z = op(&x, &y).unwrap().to_vec::<f32>().unwrap();
            assert!(z[0].is_nan() && z[1].is_nan() && z[2] == third && z[3].is_nan(), "{z:?}");
        }
        // Beside a NaN both have the gradient, and a NaN that is clamped has none, as PyTorch has it.
        let (x, y) = (leaf(&gpu, &[2], &[1.0, f32::NAN]), leaf(&gpu, &[2], &[f32::NAN, 1.0]));
        for op in [ops::maximum as fn(&Tensor, &Tensor) -> Result<Tensor>, ops::minimum] {
            let grads = op(&x, &y).unwrap().backward_from(&upload(&gpu, &[2], &[1.0, 2.0])).unwrap();
            for z in [&x, &y] {
                assert_eq!(grads.get(z).unwrap().to_vec::<f32>().unwrap(), [1.0, 2.0]);
            }
        }
        let grads = ops::clamp(&x, -2.0, 2.0).unwrap().backward_from(&upload(&gpu, &[2], &[1.0, 2.0])).unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec::<f32>().unwrap(), [1.0, 0.0]);
    }
}

#[test]
fn choice() {
    for gpu in each_family() {
        for dims in
            [[&[5, 7][..], &[5, 7], &[5, 7]], [&[5, 1], &[5, 7], &[7]], [&[3, 1, 1], &[2, 1], &[]], [&[], &[3], &[3]]]
        {
            let [of_condition, of_x, of_y] = dims;
            let condition: Vec<u32> = (0..numel(of_condition) as u32).map(|i| i * 3 % 4 / 2).collect();
            let (x, y) = (values(1, numel(of_x)), values(2, numel(of_y)));
            let (tx, ty) = (leaf(&gpu, of_x, &x), leaf(&gpu, of_y, &y));
            let z = ops::where_(&Tensor::from_slice(&gpu, of_condition, &condition).unwrap(), &tx, &ty).unwrap();
            let dz = values(3, z.numel());
            let (mut expected, mut dx, mut dy) = (Vec::new(), vec![0.0; x.len()], vec![0.0; y.len()]);
            for (i, dz) in dz.iter().enumerate() {
                let at = index(i, z.dims());
                let (px, py) = (source(&at, of_x), source(&at, of_y));
                if condition[source(&at, of_condition)] != 0 {
                    expected.push(x[px]);
                    dx[px] += dz;
                } else {
                    expected.push(y[py]);
                    dy[py] += dz;
                }
            }
            let what = format!("where {dims:?}");
            assert_close(&what, &z.to_vec().unwrap(), &expected, 0.0);
            assert_gradients(&what, &z, &dz, &[(&tx, &dx), (&ty, &dy)], 1e-6);
        }
    }
}

/// A comparison with what it is on the host.
type Comparison = (&'static str, fn(&Tensor, &Tensor) -> Result<Tensor>, fn(&f32, &f32) -> bool);

const COMPARISONS: &[Comparison] = &[
    ("eq", ops::eq, f32::eq),
    ("ne", ops::ne, f32::ne),
    ("lt", ops::lt, f32::lt),
    ("le", ops::le, f32::le),
    ("gt", ops::gt, f32::gt),
    ("ge", ops::ge, f32::ge),
];

/// The truth as the operations write it.
fn truth(is_true: bool) -> f32 {
    f32::from(u8::from(is_true))
}

#[test]
fn comparisons_are_broadcast() {
    for gpu in each_family() {
        for (name, op, holds) in COMPARISONS {
            for dims in SHAPES {
                let [x, y] = operands(dims);
                let z = op(&leaf(&gpu, dims[0], &x), &leaf(&gpu, dims[1], &y)).unwrap();
                let at = |i: usize| {
                    let at = index(i, dims[2]);
                    truth(holds(&x[source(&at, dims[0])], &y[source(&at, dims[1])]))
                };
                let expected: Vec<f32> = (0..numel(dims[2])).map(at).collect();
                assert_eq!((z.dims(), z.to_vec::<f32>().unwrap()), (dims[2], expected), "{name} {dims:?}");
                assert!(z.backward_from(&z).is_err(), "{name}: in no graph");
            }
        }
    }
}

/// Each of these beside each, in both forms of the kernels.
#[test]
fn comparisons_of_nan_and_zeros() {
    let ends = [f32::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, f32::INFINITY, f32::NAN, -f32::NAN];
    let n = ends.len();
    let of_x: Vec<f32> = (0..n * n).map(|i| ends[i / n]).collect();
    let of_y: Vec<f32> = (0..n * n).map(|i| ends[i % n]).collect();
    for gpu in each_family() {
        for (name, op, holds) in COMPARISONS {
            let expected: Vec<f32> = of_x.iter().zip(&of_y).map(|(x, y)| truth(holds(x, y))).collect();
            let of = |x: &Tensor, y: &Tensor| op(x, y).unwrap().to_vec::<f32>().unwrap();
            let same = of(&upload(&gpu, &[n * n], &of_x), &upload(&gpu, &[n * n], &of_y));
            assert_eq!(same, expected, "{name}");
            let broadcast = of(&upload(&gpu, &[n, 1], &ends), &upload(&gpu, &[n], &ends));
            assert_eq!(broadcast, expected, "{name}, broadcast");
        }
    }
}

/// A condition of floats: what is not 0 is true, NaN too, and −0 is 0.
#[test]
fn choice_by_floats() {
    for gpu in each_family() {
        let condition = upload(&gpu, &[6], &[0.0, -0.0, 1.0, -1e-30, f32::NAN, f32::INFINITY]);
        let (x, y) = (leaf(&gpu, &[6], &[1.0; 6]), leaf(&gpu, &[], &[2.0]));
        let z = ops::where_(&condition, &x, &y).unwrap();
        assert_eq!(z.to_vec::<f32>().unwrap(), [2.0, 2.0, 1.0, 1.0, 1.0, 1.0]);
        let dz = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_gradients("where", &z, &dz, &[(&x, &[0.0, 0.0, 3.0, 4.0, 5.0, 6.0]), (&y, &[3.0])], 0.0);
        // The sign of a whole number is a bit like any other.
        let whole = Tensor::from_slice(&gpu, &[2], &[1u32 << 31, 0]).unwrap();
        let z = ops::where_(&whole, &upload(&gpu, &[2], &[1.0; 2]), &upload(&gpu, &[2], &[2.0; 2])).unwrap();
        assert_eq!(z.to_vec::<f32>().unwrap(), [1.0, 2.0]);
    }
}

/// ReLU as a choice: the gradient goes through what is chosen, and none through the comparison.
#[test]
fn choice_by_a_comparison() {
    for gpu in each_family() {
        let (x, dz) = (values(1, 65), values(2, 65));
        let (tx, zero) = (leaf(&gpu, &[65], &x), upload(&gpu, &[], &[0.0]));
        let z = ops::where_(&ops::gt(&tx, &zero).unwrap(), &tx, &zero).unwrap();
        let chosen = |of: &[f32]| of.iter().zip(&x).map(|(v, x)| if *x > 0.0 { *v } else { 0.0 }).collect::<Vec<_>>();
        assert_eq!(z.to_vec::<f32>().unwrap(), chosen(&x));
        assert_gradients("where", &z, &dz, &[(&tx, &chosen(&dz))], 0.0);
    }
}
