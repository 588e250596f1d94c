use super::kept_tokens::{SIZES, positions};
use crate::common::{assert_close, each_family, gpu, values};
use wgrad::gpu::Gpu;
use wgrad::ops::{self, TokenIndices};
use wgrad::{Error, Tensor};

fn tensor(gpu: &Gpu, shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_slice(gpu, shape, &values(seed, shape.iter().product())).unwrap()
}

#[test]
fn token_scatter() {
    for gpu in each_family() {
        for [batch, tokens, kept, channels] in SIZES {
            let what = format!("token_scatter {kept} into [{batch}, {tokens}, {channels}]");
            let at = positions(batch, tokens, kept);
            let (full, packed) = ([batch, tokens, channels], [batch, kept, channels]);
            let (x, rows) = (values(1, batch * tokens * channels), values(2, batch * kept * channels));
            let dy = values(3, x.len());
            let reference = ops::token_scatter::reference::forward(&x, &rows, &at, batch, tokens);
            let (dx, drows) = ops::token_scatter::reference::backward(&dy, &at, batch, tokens);
            let indices = TokenIndices::new(&gpu, [batch, kept], tokens, &at).unwrap();
            for shared in [true, false] {
                let x_leaf = tensor(&gpu, &full, 1).requires_grad().unwrap();
                let rows_leaf = tensor(&gpu, &packed, 2).requires_grad().unwrap();
                // A product of its own is memory that nobody else holds; its gradient passes through unchanged.
                let own = if shared { x_leaf.clone() } else { ops::scale(&x_leaf, 1.0).unwrap() };
                let y = ops::token_scatter(own, &rows_leaf, &indices).unwrap();
                assert_close(&what, &y.to_vec().unwrap(), &reference, 0.0);
                let grads = if shared {
                    y.backward_from(&tensor(&gpu, &full, 3)).unwrap()
                } else {
                    // Here dy is a sole handle, so that dx is made in its memory.
                    ops::scale(&y, 2.0).unwrap().backward_from(&half(&tensor(&gpu, &full, 3))).unwrap()
                };
                let grad = |leaf| grads.get(leaf).unwrap().to_vec::<f32>().unwrap();
                assert_close(&format!("{what} dx"), &grad(&x_leaf), &dx, 0.0);
                assert_close(&format!("{what} drows"), &grad(&rows_leaf), &drows, 0.0);
                assert_eq!(x_leaf.to_vec::<f32>().unwrap(), x, "{what}: a shared x was written to");
            }
        }
    }
}

fn half(x: &Tensor) -> Tensor {
    ops::scale(x, 0.5).unwrap()
}

#[test]
fn scatter_works_in_place_only_where_nobody_else_looks() {
    let gpu = gpu();
    let indices = TokenIndices::new(&gpu, [1, 1], 1024, &[3]).unwrap();
    let rows = tensor(&gpu, &[1, 1, 64], 2);
    let x = tensor(&gpu, &[1, 1024, 64], 1);
    let keep = x.clone();
    let before = gpu.memory().live;
    let copied = ops::token_scatter(x, &rows, &indices).unwrap();
    assert!(gpu.memory().live >= before + 1024 * 64 * 4);
    assert_eq!(keep.to_vec::<f32>().unwrap(), values(1, 1024 * 64));
    drop(copied);
    let before = gpu.memory().live;
    let y = ops::token_scatter(keep, &rows, &indices).unwrap();
    assert_eq!(gpu.memory().live, before);
    assert_eq!(y.to_vec::<f32>().unwrap()[3 * 64..4 * 64], values(2, 64));
}

/// x is used once more beside the scatter, and dy reaches both: neither may see the other's in-place work.
#[test]
fn gradients_stay_apart_where_x_and_dy_are_shared() {
    let gpu = gpu();
    let indices = TokenIndices::new(&gpu, [1, 1], 3, &[1]).unwrap();
    let x = tensor(&gpu, &[1, 3, 2], 1).requires_grad().unwrap();
    let rows = tensor(&gpu, &[1, 1, 2], 2).requires_grad().unwrap();
    let hidden = ops::scale(&x, 3.0).unwrap();
    let scattered = ops::token_scatter(hidden.clone(), &rows, &indices).unwrap();
    let y = ops::add(&scattered, &hidden).unwrap();
    let (x0, rows0) = (values(1, 6), values(2, 2));
    let expected: Vec<_> = (0..6).map(|i| if i / 2 == 1 { rows0[i % 2] } else { 3.0 * x0[i] } + 3.0 * x0[i]).collect();
    assert_close("add of scatter", &y.to_vec().unwrap(), &expected, 1e-6);
    let grads = y.backward_from(&tensor(&gpu, &[1, 3, 2], 3)).unwrap();
    let dy = values(3, 6);
    let dx: Vec<_> = (0..6).map(|i| 3.0 * dy[i] * if i / 2 == 1 { 1.0 } else { 2.0 }).collect();
    assert_close("dx", &grads.get(&x).unwrap().to_vec().unwrap(), &dx, 1e-6);
    assert_close("drows", &grads.get(&rows).unwrap().to_vec().unwrap(), &dy[2..4], 0.0);
}

/// As a random-LTD block does it: what is gathered is also what the rows come back to.
#[test]
fn scatter_of_gather_is_the_identity_and_so_is_its_gradient() {
    let gpu = gpu();
    for channels in [3, 8] {
        let shape = [2, 7, channels];
        let indices = TokenIndices::new(&gpu, [2, 3], 7, &positions(2, 7, 3)).unwrap();
        let x = tensor(&gpu, &shape, 1).requires_grad().unwrap();
        let rows = ops::token_gather(&x, &indices).unwrap();
        let y = ops::token_scatter(x.clone(), &rows, &indices).unwrap();
        assert_eq!(y.to_vec::<f32>().unwrap(), values(1, 14 * channels));
        let grads = y.backward_from(&tensor(&gpu, &shape, 2)).unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec::<f32>().unwrap(), values(2, 14 * channels));
    }
}

#[test]
fn index_out_of_range_is_reported_and_writes_nothing() {
    let gpu = gpu();
    for channels in [3, 4] {
        let at = Tensor::from_slice(&gpu, &[2, 2], &[1u32, 3, 0, u32::MAX]).unwrap();
        let indices = TokenIndices::from_tensor(&at, 3).unwrap();
        let x = tensor(&gpu, &[2, 3, channels], 1).requires_grad().unwrap();
        let rows = tensor(&gpu, &[2, 2, channels], 2).requires_grad().unwrap();
        let y = ops::token_scatter(x.clone(), &rows, &indices).unwrap();
        match y.to_vec::<f32>() {
            Err(Error::OutOfRange { op: "token_scatter", what: "token index", value: 3 | u32::MAX, bound: 3 }) => {}
            other => panic!("{other:?}"),
        }
        let valid = |row: usize| [1, 3].contains(&row).then_some(if row == 1 { 0 } else { 2 });
        let (x0, rows0, dy) = (values(1, 6 * channels), values(2, 4 * channels), values(3, 6 * channels));
        let row = |data: &[f32], i: usize| data[i * channels..(i + 1) * channels].to_vec();
        let expected: Vec<_> = (0..6).flat_map(|i| valid(i).map_or_else(|| row(&x0, i), |r| row(&rows0, r))).collect();
        assert_eq!(y.to_vec::<f32>().unwrap(), expected, "other rows, and the device works on");

        let grads = y.backward_from(&tensor(&gpu, &[2, 3, channels], 3)).unwrap();
        let dx = grads.get(&x).unwrap();
        assert!(matches!(dx.to_vec::<f32>(), Err(Error::OutOfRange { op: "token_scatter", .. })));
        let none = vec![0.0; channels];
        let expected: Vec<_> = (0..6).flat_map(|i| valid(i).map_or_else(|| row(&dy, i), |_| none.clone())).collect();
        assert_eq!(dx.to_vec::<f32>().unwrap(), expected);
        let drows = grads.get(&rows).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(drows, [row(&dy, 1), none.clone(), row(&dy, 3), none].concat());
    }
}

#[test]
fn misfits_are_named() {
    let gpu = gpu();
    let indices = TokenIndices::new(&gpu, [2, 1], 3, &[0, 0]).unwrap();
    let scatter = |x: &[usize], rows: &[usize]| {
        let result = ops::token_scatter(tensor(&gpu, x, 1), &tensor(&gpu, rows, 2), &indices);
        result.unwrap_err().to_string()
    };
    for rows in [&[2, 2, 4][..], &[2, 1, 5], &[1, 1, 4], &[2, 4]] {
        let message = scatter(&[2, 3, 4], rows);
        assert!(message.starts_with("token_scatter: rows must be f32[B, R, C]") && message.ends_with("u32[2, 1]"));
    }
    let message = "token_scatter: indices must be for the 4 tokens of x f32[2, 4, 4], got indices for 3 tokens";
    assert_eq!(scatter(&[2, 4, 4], &[2, 1, 4]), message);
}
