use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::layout::reference::{gather as of_gather, index, moved, place};
use wgrad::{Error, Result, Tensor, ops};

fn numel(dims: &[usize]) -> usize {
    dims.iter().product()
}

/// Compares an operation on `x` that only moves elements; `from` gives the index in x of each element of the result.
#[track_caller]
fn check(
    what: &str,
    dims: &[usize],
    op: impl Fn(&Tensor) -> Result<Tensor>,
    outside: f32,
    from: impl Fn(&[usize]) -> Option<Vec<usize>>,
) {
    for gpu in each_family() {
        let x = values(1, numel(dims));
        let tx = leaf(&gpu, dims, &x);
        let y = op(&tx).unwrap();
        let source = |at: &[usize]| from(at).map(|at| place(&at, dims));
        let dy = values(2, y.numel());
        let mut dx = vec![0.0; x.len()];
        for (i, dy) in dy.iter().enumerate() {
            if let Some(at) = source(&index(i, y.dims())) {
                dx[at] += dy;
            }
        }
        assert_close(what, &y.to_vec().unwrap(), &moved(&x, y.dims(), outside, source), 0.0);
        assert_gradients(what, &y, &dy, &[(&tx, &dx)], 1e-6);
    }
}

#[test]
fn permutations() {
    for (dims, order) in [
        (&[5, 7][..], &[1, 0][..]),
        (&[2, 3, 4], &[0, 2, 1]),
        (&[2, 3, 8], &[1, 0, 2]),
        (&[2, 3, 4], &[2, 0, 1]),
        (&[2, 1, 3, 2, 4, 5], &[5, 3, 0, 1, 4, 2]),
        (&[65, 197], &[1, 0]),
        (&[3], &[0]),
    ] {
        let from = |at: &[usize]| {
            let mut source = vec![0; at.len()];
            order.iter().zip(at).for_each(|(&axis, &i)| source[axis] = i);
            Some(source)
        };
        check(&format!("permute {dims:?} {order:?}"), dims, |x| ops::permute(x, order), 0.0, from);
    }
    check("transpose", &[2, 3, 4], |x| ops::transpose(x, 0, 2), 0.0, |at| Some(vec![at[2], at[1], at[0]]));
}

#[test]
fn slices() {
    for (dims, along, range) in [
        (&[7][..], 0, 2..5),
        (&[5, 8, 3], 1, 0..4),
        (&[5, 8], 1, 4..8),
        (&[5, 12], 0, 1..3),
        (&[2, 3], 1, 0..3),
        (&[1, 1, 1], 1, 0..1),
        (&[3, 7, 5], 1, 2..6),
        (&[2, 65, 64], 1, 0..1),
        (&[65, 7, 12], 1, 0..1),
        (&[2, 197, 20], 1, 1..197),
        (&[1, 1757, 7], 1, 1756..1757),
        (&[70_000, 2, 1], 1, 1..2),
    ] {
        let from = |at: &[usize]| {
            let mut source = at.to_vec();
            source[along] += range.start;
            Some(source)
        };
        check(&format!("slice {dims:?} {along} {range:?}"), dims, |x| ops::slice(x, along, range.clone()), 0.0, from);
    }
}

/// All of an axis is the tensor itself: no kernel runs.
#[test]
fn a_slice_of_all_copies_nothing() {
    for gpu in each_family() {
        let x = leaf(&gpu, &[2, 3], &values(1, 6));
        let before = gpu.stats().dispatches;
        let y = ops::slice(&x, 1, 0..3).unwrap();
        assert_eq!((y.dims(), gpu.stats().dispatches), (&[2, 3][..], before));
        ops::slice(&x, 1, 0..2).unwrap();
        assert_eq!(gpu.stats().dispatches, before + 1);
    }
}

/// Two slices that overlap: the first gradient is written, the second added.
#[test]
fn overlapping_slices() {
    for gpu in each_family() {
        for width in [12, 7] {
            let (x, dy) = (values(1, 2 * 7 * width), values(2, 2 * 4 * width));
            let tx = leaf(&gpu, &[2, 7, width], &x);
            let slice = |range| ops::slice(&tx, 1, range).unwrap();
            let y = ops::add(&slice(0..4), &slice(2..6)).unwrap();
            let mut dx = vec![0.0; x.len()];
            for (i, dy) in dy.iter().enumerate() {
                let (sample, rest) = (i / (4 * width), i % (4 * width));
                dx[sample * 7 * width + rest] += dy;
                dx[(sample * 7 + 2) * width + rest] += dy;
            }
            assert_gradients("overlapping slices", &y, &dy, &[(&tx, &dx)], 0.0);
        }
    }
}

#[test]
fn expansions() {
    for (dims, to) in [
        (&[3, 1][..], &[3, 5][..]),
        (&[4], &[7, 4]),
        (&[], &[2, 3]),
        (&[1, 3, 1, 4], &[2, 3, 5, 4]),
        (&[2, 3], &[2, 3]),
        (&[3], &[1, 3]),
    ] {
        let from = |at: &[usize]| {
            let tail = &at[at.len() - dims.len()..];
            Some(tail.iter().zip(dims).map(|(&i, &size)| if size == 1 { 0 } else { i }).collect())
        };
        check(&format!("expand {dims:?} to {to:?}"), dims, |x| ops::expand(x, to), 0.0, from);
    }
}

#[test]
fn padding() {
    for (dims, widths, value) in
        [(&[3][..], &[(2, 1)][..], 0.0), (&[2, 3], &[(0, 1), (2, 0)], 1.5), (&[2, 4], &[(1, 0), (4, 4)], -7.0)]
    {
        let from = |at: &[usize]| {
            let own = at.iter().zip(widths).zip(dims);
            own.map(|((&i, &(before, _)), &size)| i.checked_sub(before).filter(|&i| i < size)).collect()
        };
        check(&format!("pad {dims:?} {widths:?}"), dims, |x| ops::pad(x, widths, value), value, from);
    }
}

#[test]
fn joining() {
    for gpu in each_family() {
        for (along, shapes) in [
            (0, [&[2, 3][..], &[1, 3], &[4, 3]]),
            (1, [&[2, 4], &[2, 8], &[2, 1]]),
            (1, [&[3, 2, 5], &[3, 1, 5], &[3, 3, 5]]),
        ] {
            let parts: Vec<_> = shapes.iter().zip(1..).map(|(dims, seed)| values(seed, numel(dims))).collect();
            let leaves: Vec<_> = parts.iter().zip(shapes).map(|(part, dims)| leaf(&gpu, dims, part)).collect();
            let y = ops::concat(&leaves.iter().collect::<Vec<_>>(), along).unwrap();
            let dy = values(9, y.numel());
            let mut expected = vec![0.0; y.numel()];
            let mut gradients: Vec<Vec<f32>> = parts.iter().map(|part| vec![0.0; part.len()]).collect();
            let mut first = 0;
            for ((part, dims), gradient) in parts.iter().zip(shapes).zip(&mut gradients) {
                for i in 0..part.len() {
                    let mut at = index(i, dims);
                    at[along] += first;
                    let to = place(&at, y.dims());
                    (expected[to], gradient[i]) = (part[i], dy[to]);
                }
                first += dims[along];
            }
            let what = format!("concat {shapes:?} along {along}");
            assert_close(&what, &y.to_vec().unwrap(), &expected, 0.0);
            let pairs: Vec<_> = leaves.iter().zip(&gradients).map(|(leaf, g)| (leaf, &g[..])).collect();
            assert_gradients(&what, &y, &dy, &pairs, 0.0);
        }
        let (a, b) = (upload(&gpu, &[2, 2], &[1.0, 2.0, 3.0, 4.0]), upload(&gpu, &[2, 2], &[5.0, 6.0, 7.0, 8.0]));
        for (along, dims, expected) in [
            (0, [2, 2, 2], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
            (1, [2, 2, 2], [1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0]),
            (2, [2, 2, 2], [1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0]),
        ] {
            let y = ops::stack(&[&a, &b], along).unwrap();
            assert_eq!((y.dims(), y.to_vec::<f32>().unwrap()), (&dims[..], expected.to_vec()), "stack along {along}");
        }
    }
}

#[test]
fn gathering() {
    for gpu in each_family() {
        for (dims, along, count) in
            [(&[7][..], 0, 11), (&[3, 5], 1, 2), (&[3, 5], 0, 4), (&[2, 5, 65], 1, 7), (&[4, 2], 0, 40_000)]
        {
            let mut of_index = dims.to_vec();
            of_index[along] = count;
            let index: Vec<u32> = (0..numel(&of_index)).map(|i| (i * 7 % dims[along]) as u32).collect();
            let sizes = [numel(&dims[..along]), dims[along], count, numel(&dims[along + 1..])];
            let places = of_gather::places(&index, sizes);
            let tindex = Tensor::from_slice(&gpu, &of_index, &index).unwrap();
            let (x, source) = (values(1, numel(dims)), values(2, index.len()));
            let added = |base: &[f32], source: &[f32]| {
                let mut sums: Vec<f64> = base.iter().map(|&v| v.into()).collect();
                places.iter().zip(source).for_each(|(&place, &v)| sums[place] += f64::from(v));
                sums.into_iter().map(|v| v as f32).collect::<Vec<_>>()
            };
            let (tx, tsource) = (leaf(&gpu, dims, &x), leaf(&gpu, &of_index, &source));
            let what = format!("{dims:?} along {along}, {count}");
            let y = ops::gather(&tx, along, &tindex).unwrap();
            let picked = |from: &[f32]| places.iter().map(|&place| from[place]).collect::<Vec<_>>();
            assert_close(&format!("gather {what}"), &y.to_vec().unwrap(), &picked(&x), 0.0);
            let nothing = vec![0.0; x.len()];
            assert_gradients(&format!("gather {what}"), &y, &source, &[(&tx, &added(&nothing, &source))], 1e-4);
            let z = ops::scatter_add(&tx, along, &tindex, &tsource).unwrap();
            assert_close(&format!("scatter_add {what}"), &z.to_vec().unwrap(), &added(&x, &source), 1e-4);
            let dz = values(3, x.len());
            let expected = [(&tx, &dz[..]), (&tsource, &picked(&dz))];
            assert_gradients(&format!("scatter_add {what}"), &z, &dz, &expected, 1e-6);
        }
    }
}

#[test]
fn bad_indices_are_faults() {
    for gpu in each_family() {
        let (x, index) = (upload(&gpu, &[3], &[1.0, 2.0, 3.0]), Tensor::from_slice(&gpu, &[2], &[3u32, 1]).unwrap());
        let y = ops::gather(&x, 0, &index).unwrap();
        let fault = y.to_vec::<f32>().unwrap_err();
        assert!(matches!(fault, Error::OutOfRange { op: "gather", value: 3, bound: 3, .. }), "{fault}");
        let y = ops::scatter_add(&x, 0, &index, &upload(&gpu, &[2], &[10.0, 20.0])).unwrap();
        let fault = y.to_vec::<f32>().unwrap_err();
        assert!(matches!(fault, Error::OutOfRange { op: "scatter_add", value: 3, bound: 3, .. }), "{fault}");
    }
}

#[test]
fn refusals() {
    let [gpu, _] = each_family();
    let (x, y) = (upload(&gpu, &[2, 3], &values(1, 6)), upload(&gpu, &[4], &values(1, 4)));
    let index = Tensor::from_slice(&gpu, &[3, 3], &[0u32; 9]).unwrap();
    let range = 2..4;
    for (result, expected) in [
        (ops::permute(&x, &[0, 0]), "permute: order must be each of the 2 axes of f32[2, 3] once, got [0, 0]"),
        (ops::transpose(&x, 0, 2), "transpose: axis must be an axis of f32[2, 3], got 2"),
        (ops::slice(&x, 1, range), "slice: range must be not empty and within 0..3, got 2..4"),
        (ops::expand(&x, &[2, 4]), "expand: shape must be sizes that f32[2, 3] can be repeated to, got [2, 4]"),
        (ops::concat(&[], 0), "concat: parts must be at least one tensor, got 0"),
        (ops::concat(&[&x, &y], 0), "concat: sizes must be equal but along the axis: lhs f32[2, 3], rhs f32[4]"),
        (ops::stack(&[&x, &y], 0), "stack: shapes differ: lhs f32[2, 3], rhs f32[4]"),
        (ops::pad(&x, &[(1, 1)], 0.0), "pad: widths must be a pair for each of the 2 axes, got 1"),
        (ops::gather(&x, 1, &index), "gather: sizes must be equal but along the axis: lhs f32[2, 3], rhs u32[3, 3]"),
        (ops::gather(&x, 1, &x), "gather: the index must be u32: got f32[2, 3]"),
    ] {
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
}
