use super::kept_tokens;
use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, gpu_with_f16, poison, values};
use wgrad::ops::Gelu;
use wgrad::ops::mlp::reference;
use wgrad::{DType, Error, Gpu, Tensor, ops};

/// Rows, C, F and N: tiles filled and not, rows that go to a smaller tile, rows of any length.
const SIZES: &[[usize; 4]] = &[
    [1, 1, 1, 1],
    [7, 8, 12, 8],
    [33, 5, 7, 3],
    [65, 64, 68, 64],
    [72, 20, 100, 20],
    [197, 12, 65, 4],
    [1409, 4, 1540, 4],
];

const GELUS: [Gelu; 3] = [Gelu::Erf, Gelu::Tanh, Gelu::Quick];

/// x, W1, b1, W2, b2 and residual.
fn inputs([rows, c, f, n]: [usize; 4]) -> [Vec<f32>; 6] {
    let sizes = [rows * c, f * c, f, n * f, n, rows * n];
    let mut seed = 0;
    sizes.map(|size| {
        seed += 1;
        values(seed, size)
    })
}

fn leaves(gpu: &Gpu, [rows, c, f, n]: [usize; 4], data: &[Vec<f32>; 6]) -> [Tensor; 6] {
    let dims = [&[1, rows, c][..], &[f, c], &[f], &[n, f], &[n], &[1, rows, n]];
    std::array::from_fn(|i| leaf(gpu, dims[i], &data[i]))
}

fn run(t: &[Tensor; 6], gelu: Gelu, into: Option<(Tensor, &ops::TokenIndices)>) -> wgrad::Result<Tensor> {
    ops::mlp(&t[0], (&t[1], &t[2]), (&t[3], &t[4]), gelu, &t[5], into)
}

fn slices(data: &[Vec<f32>; 6]) -> reference::Inputs<'_> {
    std::array::from_fn(|i| &data[i][..])
}

#[test]
fn mlp() {
    for gpu in each_family() {
        for (&size, gelu) in SIZES.iter().flat_map(|size| GELUS.map(|gelu| (size, gelu))) {
            let [rows, c, f, n] = size;
            let (data, dy) = (inputs(size), values(9, rows * n));
            let tensors = leaves(&gpu, size, &data);
            poison(&gpu, &[rows * c, rows * f, rows * f, rows * n, f * c, n * f]);
            let y = run(&tensors, gelu, None).unwrap();
            let what = format!("mlp {size:?} by {gelu:?} ({:?})", gpu.family());
            assert_close(&what, &y.to_vec().unwrap(), &reference::forward(slices(&data), gelu, rows), 1e-5);
            let expected = reference::backward(slices(&data), gelu, &dy, rows);
            let pairs: Vec<_> = tensors.iter().zip(expected.iter().map(Vec::as_slice)).collect();
            assert_gradients(&what, &y, &dy, &pairs, 4e-5);
        }
    }
}

/// Enough rows and columns for the largest tiles of a GPU, against the operations one by one, in either precision.
#[test]
fn mlp_of_many_tiles() {
    let [_, gpu] = each_family();
    let dtypes = if gpu.has_f16() { &[DType::F32, DType::F16][..] } else { &[DType::F32] };
    for (&dtype, gelu) in dtypes.iter().flat_map(|dtype| GELUS.map(|gelu| (dtype, gelu))) {
        let size = [1409, 4, 1540, 4];
        let (data, dy) = (inputs(size), values(9, size[0] * size[3]));
        let [fused, composed] = [(); 2].map(|()| leaves(&gpu, size, &data));
        let narrow = |t: &Tensor| ops::cast(t, dtype).unwrap();
        let mut given = fused.clone();
        given[0] = narrow(&fused[0]);
        let y = run(&given, gelu, None).unwrap();
        let [x, w1, b1, w2, b2, residual] = &composed;
        let hidden = ops::gelu(&ops::linear(&narrow(x), w1, Some(b1)).unwrap(), gelu).unwrap();
        let expected = ops::linear_add(&hidden, w2, b2, residual).unwrap();
        let tolerance = if dtype == DType::F16 { 1e-2 } else { 4e-5 };
        let what = format!("mlp {size:?} of {dtype} by {gelu:?}");
        assert_close(&what, &y.to_vec().unwrap(), &expected.to_vec::<f32>().unwrap(), tolerance);
        let dy = upload(&gpu, y.dims(), &dy);
        let [got, expected] = [y, expected].map(|y| y.backward_from(&dy).unwrap());
        for (i, (a, b)) in fused.iter().zip(&composed).enumerate() {
            let [a, b] = [got.get(a), expected.get(b)].map(|g| g.unwrap().to_vec::<f32>().unwrap());
            assert_close(&format!("{what}: gradient {i}"), &a, &b, tolerance);
        }
    }
}

/// The rows that the block has made among those that passed it, in place and not.
#[test]
fn mlp_into_a_full_tensor() {
    for gpu in each_family() {
        for (batch, kept, tokens, c) in [(1, 1, 1, 4), (1, 1, 3, 6), (2, 3, 5, 3), (3, 33, 65, 8), (2, 40, 41, 20)] {
            let rows = batch * kept;
            let size = [rows, c, 2 * c, c];
            let (data, full) = (inputs(size), values(8, batch * tokens * c));
            let dy = values(9, full.len());
            let positions = kept_tokens::positions(batch, tokens, kept);
            let indices = ops::TokenIndices::new(&gpu, [batch, kept], tokens, &positions).unwrap();
            let out = reference::forward(slices(&data), Gelu::Erf, rows);
            let expected = ops::token_scatter::reference::forward(&full, &out, &positions, batch, tokens);
            let (dfull, packed) = ops::token_scatter::reference::backward(&dy, &positions, batch, tokens);
            let gradients = reference::backward(slices(&data), Gelu::Erf, &packed, rows);
            for in_place in [false, true] {
                let mut tensors = leaves(&gpu, size, &data);
                for (i, width) in [(0, c), (5, c)] {
                    tensors[i] = leaf(&gpu, &[batch, kept, width], &data[i]);
                }
                let whole = leaf(&gpu, &[batch, tokens, c], &full);
                // Of a scaled tensor, the call holds the last handle.
                let given = if in_place { ops::scale(&whole, 1.0).unwrap() } else { whole.clone() };
                let y = run(&tensors, Gelu::Erf, Some((given, &indices))).unwrap();
                let what = format!("mlp into {batch}x{tokens}, {kept} kept, in place {in_place} ({:?})", gpu.family());
                assert_close(&what, &y.to_vec().unwrap(), &expected, 1e-5);
                assert_eq!(whole.to_vec::<f32>().unwrap(), full, "{what}: the input is left alone");
                let mut pairs: Vec<_> = tensors.iter().zip(gradients.iter().map(Vec::as_slice)).collect();
                pairs.push((&whole, &dfull));
                assert_gradients(&what, &y, &dy, &pairs, 4e-5);
            }
        }
    }
}

#[test]
fn a_bad_index_is_reported_and_its_row_left_out() {
    for gpu in each_family() {
        let size = [2, 4, 8, 4];
        let data = inputs(size);
        let mut tensors = leaves(&gpu, size, &data);
        tensors[0] = upload(&gpu, &[1, 2, 4], &data[0]);
        tensors[5] = upload(&gpu, &[1, 2, 4], &data[5]);
        let positions = Tensor::from_slice(&gpu, &[1, 2], &[1u32, 7]).unwrap();
        let indices = ops::TokenIndices::from_tensor(&positions, 3).unwrap();
        let y = run(&tensors, Gelu::Erf, Some((upload(&gpu, &[1, 3, 4], &[5.0; 12]), &indices))).unwrap();
        let error = y.to_vec::<f32>().unwrap_err();
        assert!(matches!(error, Error::OutOfRange { value: 7, bound: 3, .. }), "{error}");
        let values = y.to_vec::<f32>().unwrap();
        assert_eq!((&values[..4], &values[8..]), (&[5.0; 4][..], &[5.0; 4][..]));
    }
}

/// x in half precision: what is saved is, too; result and residual are not.
#[test]
fn mlp_of_half_precision() {
    if gpu_with_f16().is_none() {
        return;
    }
    for gpu in each_family() {
        for (&size, gelu) in SIZES.iter().flat_map(|size| GELUS.map(|gelu| (size, gelu))) {
            let [rows, _, _, n] = size;
            let (data, dy) = (inputs(size), values(9, rows * n));
            let tensors = leaves(&gpu, size, &data);
            let mut narrow = tensors.clone();
            narrow[0] = ops::cast(&tensors[0], DType::F16).unwrap();
            let y = run(&narrow, gelu, None).unwrap();
            let what = format!("mlp {size:?} of f16 by {gelu:?} ({:?})", gpu.family());
            assert_eq!(y.dtype(), DType::F32, "{what}");
            assert_close(&what, &y.to_vec().unwrap(), &reference::forward(slices(&data), gelu, rows), 1e-2);
            let expected = reference::backward(slices(&data), gelu, &dy, rows);
            let pairs: Vec<_> = tensors.iter().zip(expected.iter().map(Vec::as_slice)).collect();
            assert_gradients(&what, &y, &dy, &pairs, 1e-2);
        }
    }
}

#[test]
fn misfits_are_named() {
    let [gpu, _] = each_family();
    let of = |dims: &[usize]| upload(&gpu, dims, &vec![0.0; dims.iter().product()]);
    let (x, w1, b1, w2, b2) = (of(&[2, 3, 4]), of(&[8, 4]), of(&[8]), of(&[4, 8]), of(&[4]));
    let message = |w2: &Tensor, residual: &Tensor, into| {
        ops::mlp(&x, (&w1, &b1), (w2, &b2), Gelu::Erf, residual, into).unwrap_err().to_string()
    };
    assert_eq!(message(&of(&[4, 7]), &x, None), "mlp: inner sizes differ: lhs f32[2, 3, 8], rhs f32[4, 7]");
    assert_eq!(
        message(&w2, &of(&[3, 4]), None),
        "mlp: the residual must have the result's shape: lhs f32[2, 3, 4], rhs f32[3, 4]"
    );
    assert_eq!(
        ops::mlp(&x, (&w1, &b1), (&of(&[6, 8]), &of(&[6])), Gelu::Erf, &x, None).unwrap_err().to_string(),
        "mlp: the residual must have the result's shape: lhs f32[2, 3, 6], rhs f32[2, 3, 4]"
    );
    let indices = ops::TokenIndices::new(&gpu, [2, 2], 5, &[0, 1, 2, 3]).unwrap();
    assert_eq!(
        message(&w2, &x, Some((of(&[2, 5, 4]), &indices))),
        "mlp: the residual must be f32[B, R, N] of the full f32[B, T, N] and indices u32[B, R]: lhs f32[2, 3, 4], rhs u32[2, 2]"
    );
    let message = ops::linear_add(&x, &w1, &b1, &x).unwrap_err().to_string();
    assert_eq!(message, "linear_add: the residual must have the result's shape: lhs f32[2, 3, 8], rhs f32[2, 3, 4]");
}
