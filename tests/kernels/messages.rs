//! What bad arguments get: a message that names the operation and the shapes.

use crate::common::{gpu, values};
use wgrad::ops::{self, RandomKey};
use wgrad::{Result, Tensor};

#[test]
fn messages() {
    let gpu = gpu();
    let f = |dims: &[usize]| Tensor::from_slice(&gpu, dims, &values(1, dims.iter().product())).unwrap();
    let u = Tensor::full(&gpu, &[2, 3, 4], 5u32).unwrap();
    assert_eq!(u.to_vec::<u32>().unwrap(), [5; 24]);
    let (x, matrix) = (f(&[2, 3, 4]), f(&[3, 4]));
    let key = RandomKey { seed: 0, step: 0, layer: 0, first_sample: 0 };
    let elsewhere = Tensor::from_slice(&crate::common::gpu(), &[2, 3, 4], &values(1, 24)).unwrap();
    let cases: Vec<(Result<Tensor>, &str)> = vec![
        (
            Tensor::full(&gpu, &[3, 0], 1.0f32),
            "Tensor::full: shape must be at most 6 sizes, none 0, with a product of at most 2^32 - 2^25, got [3, 0]",
        ),
        (ops::add(&u, &x), "add: needs f32: got u32[2, 3, 4]"),
        (ops::add(&x, &u), "add: needs f32: got u32[2, 3, 4]"),
        (
            ops::add(&x, &f(&[3])),
            "add: sizes must be equal or 1, matched from the last, and the result of at most 2^32 - 2^25 elements: lhs f32[2, 3, 4], rhs f32[3]",
        ),
        (
            ops::sub(&f(&[2, 4]), &x),
            "sub: sizes must be equal or 1, matched from the last, and the result of at most 2^32 - 2^25 elements: lhs f32[2, 4], rhs f32[2, 3, 4]",
        ),
        (ops::add(&x, &elsewhere), "add: the tensors are on different devices: lhs f32[2, 3, 4], rhs f32[2, 3, 4]"),
        (
            ops::mul(&x, &f(&[2, 4])),
            "mul: sizes must be equal or 1, matched from the last, and the result of at most 2^32 - 2^25 elements: lhs f32[2, 3, 4], rhs f32[2, 4]",
        ),
        (ops::mul(&x, &u), "mul: needs f32: got u32[2, 3, 4]"),
        (ops::mul(&x, &elsewhere), "mul: the tensors are on different devices: lhs f32[2, 3, 4], rhs f32[2, 3, 4]"),
        (ops::gt(&x, &u), "gt: needs f32: got u32[2, 3, 4]"),
        (
            ops::ne(&x, &f(&[2, 4])),
            "ne: sizes must be equal or 1, matched from the last, and the result of at most 2^32 - 2^25 elements: \
             lhs f32[2, 3, 4], rhs f32[2, 4]",
        ),
        (
            ops::ge(&f(&[2, 4]), &x),
            "ge: sizes must be equal or 1, matched from the last, and the result of at most 2^32 - 2^25 elements: \
             lhs f32[2, 4], rhs f32[2, 3, 4]",
        ),
        (
            ops::where_(&Tensor::full(&gpu, &[4], 1u8).unwrap(), &x, &x),
            "where: the condition must be u32 or f32: got u8[4]",
        ),
        (ops::scale(&u, 2.0), "scale: needs f32: got u32[2, 3, 4]"),
        (ops::sum(&u), "sum: needs f32: got u32[2, 3, 4]"),
        (ops::mean(&u), "mean: needs f32: got u32[2, 3, 4]"),
        (ops::mean_tokens(&matrix, 0), "mean_tokens: needs f32[B, T, C]: got f32[3, 4]"),
        (ops::mean_tokens(&u, 0), "mean_tokens: needs f32: got u32[2, 3, 4]"),
        (ops::mean_tokens(&x, 3), "mean_tokens: skip must be below the number of tokens, 3, got 3"),
        (ops::reshape(&x, &[5, 5]), "reshape: shape must be of 24 elements, as f32[2, 3, 4], got [5, 5]"),
        (
            ops::reshape(&x, &[24, 0]),
            "reshape: shape must be at most 6 sizes, none 0, with a product of at most 2^32 - 2^25, got [24, 0]",
        ),
        (
            ops::reshape(&x, &[usize::MAX, usize::MAX]),
            "reshape: shape must be at most 6 sizes, none 0, with a product of at most 2^32 - 2^25, \
             got [18446744073709551615, 18446744073709551615]",
        ),
        (ops::slice(&f(&[3]), 1, 0..1), "slice: axis must be an axis of f32[3], got 1"),
        (ops::slice(&u, 1, 0..1), "slice: needs f32: got u32[2, 3, 4]"),
        (ops::slice(&x, 1, 1..4), "slice: range must be not empty and within 0..3, got 1..4"),
        (ops::slice(&x, 1, 2..2), "slice: range must be not empty and within 0..3, got 2..2"),
        (ops::embed_tokens(&matrix, None, &x), "embed_tokens: needs f32[B, T, C]: got f32[3, 4]"),
        (
            ops::embed_tokens(&x, Some(&f(&[1, 1, 5])), &f(&[1, 4, 4])),
            "embed_tokens: prefix must be f32[1, P, C] with patches' C: lhs f32[2, 3, 4], rhs f32[1, 1, 5]",
        ),
        (
            ops::embed_tokens(&x, Some(&f(&[2, 1, 4])), &f(&[1, 4, 4])),
            "embed_tokens: prefix must be f32[1, P, C] with patches' C: lhs f32[2, 3, 4], rhs f32[2, 1, 4]",
        ),
        (
            ops::embed_tokens(&x, Some(&f(&[1, 1, 4])), &f(&[1, 3, 4])),
            "embed_tokens: pos must be f32[1, P + N, C] with patches' N and C: lhs f32[2, 3, 4], rhs f32[1, 3, 4]",
        ),
        (ops::embed_tokens(&x, None, &u), "embed_tokens: needs f32: got u32[2, 3, 4]"),
        (
            ops::dropout(&u, 0.5, key),
            "dropout: needs f32, or f16 with samples of a multiple of 4 elements: got u32[2, 3, 4]",
        ),
        (ops::dropout(&x, 1.0, key), "dropout: p must be at least 0 and below 1, got 1"),
        (ops::dropout(&x, f32::NAN, key), "dropout: p must be at least 0 and below 1, got NaN"),
        (ops::drop_path(&x, -0.1, key), "drop_path: p must be at least 0 and below 1, got -0.1"),
    ];
    for (result, message) in cases {
        assert_eq!(result.unwrap_err().to_string(), message);
    }
}
