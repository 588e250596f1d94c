use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::layout::reference::{index, place};
use wgrad::ops::{self, reduce::reference};

/// Shapes with the axes that are reduced.
const CASES: &[(&[usize], &[usize])] = &[
    (&[7], &[0]),
    (&[5, 13], &[1]),
    (&[5, 13], &[0]),
    (&[5, 12], &[0]),
    (&[5, 12], &[0, 1]),
    (&[2, 3, 5, 7], &[1, 2]),
    (&[2, 3, 5, 7], &[0, 2]),
    (&[2, 3, 5, 8], &[2, 0]),
    (&[2, 1, 3, 2, 2, 4], &[0, 3, 5]),
    (&[3, 1, 4], &[1]),
    (&[3, 4], &[]),
    (&[1757, 2], &[0]),
    (&[2, 5000], &[1]),
    (&[70_000], &[0]),
    // Three passes: slices of slices are more than one takes.
    (&[262_401], &[0]),
];

fn kept(dims: &[usize], axes: &[usize]) -> Vec<usize> {
    dims.iter().enumerate().map(|(axis, &size)| if axes.contains(&axis) { 1 } else { size }).collect()
}

/// The places of the elements that each result is made of.
fn groups(dims: &[usize], axes: &[usize]) -> Vec<Vec<usize>> {
    let kept = kept(dims, axes);
    let mut groups = vec![Vec::new(); kept.iter().product()];
    for i in 0..dims.iter().product() {
        let at: Vec<usize> = index(i, dims).iter().zip(&kept).map(|(&i, &size)| i % size).collect();
        groups[place(&at, &kept)].push(i);
    }
    groups
}

/// What a reduction is compared with: its value of a group, and the slope in each element of it.
struct Expected {
    value: fn(&[f32]) -> f32,
    slopes: fn(&[f32]) -> Vec<f64>,
    /// Of the value, times the root of the number of elements.
    tolerance: f32,
}

/// That of a sum.
const ROUNDING: f32 = 2e-6;

#[track_caller]
fn check(name: &str, op: impl Fn(&wgrad::Tensor, &[usize], bool) -> wgrad::Result<wgrad::Tensor>, expected: &Expected) {
    for gpu in each_family() {
        for (dims, axes) in CASES {
            let x = values(1, dims.iter().product());
            let tx = leaf(&gpu, dims, &x);
            let (y, plain) = (op(&tx, axes, true).unwrap(), op(&tx, axes, false).unwrap());
            let left: Vec<_> = (0..dims.len()).filter(|axis| !axes.contains(axis)).map(|axis| dims[axis]).collect();
            let what = format!("{name} {dims:?} over {axes:?}");
            assert_eq!((y.dims(), plain.dims()), (&*kept(dims, axes), &*left), "{what}");
            let dy = values(2, y.numel());
            let (mut values, mut dx) = (Vec::new(), vec![0.0; x.len()]);
            for (group, dy) in groups(dims, axes).iter().zip(&dy) {
                let elements: Vec<f32> = group.iter().map(|&i| x[i]).collect();
                values.push((expected.value)(&elements));
                for (&i, slope) in group.iter().zip((expected.slopes)(&elements)) {
                    dx[i] = (f64::from(*dy) * slope) as f32;
                }
            }
            let tolerance = expected.tolerance * (x.len() as f32).sqrt();
            assert_close(&what, &y.to_vec().unwrap(), &values, tolerance);
            assert_close(&what, &plain.to_vec().unwrap(), &values, tolerance);
            assert_gradients(&what, &y, &dy, &[(&tx, &dx)], 1e-5);
        }
    }
}

#[test]
fn sums() {
    let slopes = |x: &[f32]| vec![1.0; x.len()];
    check("sum_axes", ops::sum_axes, &Expected { value: reference::sum, slopes, tolerance: ROUNDING });
}

#[test]
fn means() {
    let slopes = |x: &[f32]| vec![1.0 / x.len() as f64; x.len()];
    check("mean_axes", ops::mean_axes, &Expected { value: reference::mean, slopes, tolerance: ROUNDING });
}

#[test]
fn largest() {
    let slopes = |x: &[f32]| {
        let largest = reference::max(x);
        let equals = x.iter().filter(|v| **v == largest).count() as f64;
        x.iter().map(|v| if *v == largest { 1.0 / equals } else { 0.0 }).collect()
    };
    check("max_axes", ops::max_axes, &Expected { value: reference::max, slopes, tolerance: 0.0 });
}

#[test]
fn variances() {
    let slopes = |x: &[f32]| {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        x.iter().map(|&v| 2.0 * (f64::from(v) - mean) / x.len() as f64).collect()
    };
    let value = |x: &[f32]| reference::var(x, 0);
    let expected = Expected { value, slopes, tolerance: ROUNDING };
    check("var_axes", |x, axes, keep| ops::var_axes(x, axes, 0, keep), &expected);
    for gpu in each_family() {
        let x = upload(&gpu, &[2, 4], &[1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 8.0]);
        assert_close("Bessel", &ops::var_axes(&x, &[1], 1, false).unwrap().to_vec().unwrap(), &[5.0 / 3.0, 16.0], 1e-6);
        let message = ops::var_axes(&x, &[1], 4, false).unwrap_err().to_string();
        assert_eq!(message, "var_axes: correction must be below 4, the elements of a variance, got 4");
    }
}

/// Long sums of like numbers, and a variance that is small beside its mean.
#[test]
fn digits_are_not_lost() {
    for gpu in each_family() {
        for dims in [[1000, 4], [4, 1000]] {
            let axis = usize::from(dims[1] == 1000);
            let same = upload(&gpu, &dims, &[123.456; 4000]);
            for mean in ops::mean_axes(&same, &[axis], false).unwrap().to_vec::<f32>().unwrap() {
                assert!((mean / 123.456 - 1.0).abs() < 1e-6, "{mean}");
            }
            let x: Vec<f32> = values(1, 4000).iter().map(|v| 123.456 + 1e-3 * v).collect();
            let rows = |k: usize| (0..1000).map(move |i| if axis == 0 { 4 * i + k } else { 1000 * k + i });
            let var = ops::var_axes(&upload(&gpu, &dims, &x), &[axis], 1, false).unwrap().to_vec::<f32>().unwrap();
            for (k, var) in var.into_iter().enumerate() {
                let expected = reference::var(&rows(k).map(|i| x[i]).collect::<Vec<_>>(), 1);
                assert!((var / expected - 1.0).abs() < 1e-3, "{dims:?}: {var}, {expected}");
            }
        }
    }
}

#[test]
fn equals_share_and_infinities_count() {
    for gpu in each_family() {
        let low = f32::NEG_INFINITY;
        let x = leaf(&gpu, &[4, 3], &[1.0, 2.0, 2.0, low, low, low, 0.0, f32::NAN, 5.0, 7.0, 7.0, 7.0]);
        let y = ops::max_axes(&x, &[1], false).unwrap();
        let got = y.to_vec::<f32>().unwrap();
        assert!(got[0] == 2.0 && got[1] == low && got[2].is_nan() && got[3] == 7.0, "{got:?}");
        let dx = y
            .backward_from(&upload(&gpu, &[4], &[1.0, 3.0, 0.0, 3.0]))
            .unwrap()
            .get(&x)
            .unwrap()
            .to_vec::<f32>()
            .unwrap();
        assert_eq!((&dx[..6], &dx[9..]), (&[0.0, 0.5, 0.5, 1.0, 1.0, 1.0][..], &[1.0, 1.0, 1.0][..]));
    }
}

#[test]
fn places_of_the_largest() {
    for gpu in each_family() {
        for (dims, along) in [(&[7][..], 0), (&[5, 13], 1), (&[5, 13], 0), (&[3, 2000, 2], 1), (&[70_000], 0)] {
            // Few values, so that there are equals.
            let x: Vec<_> = values(1, dims.iter().product()).iter().map(|v| (v * 50.0).round()).collect();
            let got = ops::argmax(&upload(&gpu, dims, &x), along).unwrap();
            let of = |group: &Vec<usize>| reference::argmax(&group.iter().map(|&i| x[i]).collect::<Vec<_>>());
            let expected: Vec<_> = groups(dims, &[along]).iter().map(of).collect();
            assert_eq!(got.to_vec::<u32>().unwrap(), expected, "argmax {dims:?} along {along}");
        }
        let x = upload(&gpu, &[2, 4], &[1.0, f32::NAN, 9.0, f32::NAN, f32::NEG_INFINITY, -1.0, -1.0, -2.0]);
        assert_eq!(ops::argmax(&x, 1).unwrap().to_vec::<u32>().unwrap(), [1, 1], "NaN is the largest");
    }
}

#[test]
fn axes_are_checked() {
    let [gpu, _] = each_family();
    let x = upload(&gpu, &[2, 3], &values(1, 6));
    for (axes, expected) in [
        (&[2][..], "sum_axes: axis must be an axis of f32[2, 3], got 2"),
        (&[1, 1], "sum_axes: axes must be different from each other, got [1, 1]"),
    ] {
        assert_eq!(ops::sum_axes(&x, axes, false).unwrap_err().to_string(), expected);
    }
}
