//! Matrix products: linear layers with each of their gradients, and the three layouts by themselves.

use anyhow::Result;
use wgrad::ops::column_sum::reference::column_sum;
use wgrad::ops::matmul::reference;
use wgrad::{Gpu, Tensor, ops};

use crate::check::{close, sample, values};
use crate::cost::Cost;
use crate::costs;
use crate::row::{Op, Row, Shape, gradient};

/// Compares C\[M, N\] with A·B over K at a sample of rows and columns; `a(i, k)` and `b(k, j)` are the factors' elements.
fn check_product(
    what: &str,
    c: &[f32],
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Result<()> {
    let (rows, columns) = (sample(m), sample(n));
    let size = [rows.len(), columns.len(), k];
    let expected = reference::product(size, |i, q| a(rows[i], q), |q, j| b(q, columns[j]));
    let got: Vec<f32> = rows.iter().flat_map(|i| columns.iter().map(move |j| c[i * n + j])).collect();
    close(what, &got, &expected)
}

/// The linear layers of a block, each with the gradients of input, weight and bias by themselves.
pub fn linear(shape: &Shape) -> Vec<Row> {
    let (m, c) = (shape.rows(), shape.width);
    let layers = [("qkv", 3 * c, c), ("proj", c, c), ("fc1", 4 * c, c), ("fc2", c, 4 * c)];
    layers.into_iter().flat_map(|(layer, n, k)| Linear { size: [m, n, k] }.rows(&shape.name, layer)).collect()
}

/// y\[M, N\] = x\[M, K\]·W\[N, K\]ᵀ + bias.
#[derive(Clone, Copy)]
pub struct Linear {
    pub size: [usize; 3],
}

/// What is made of a linear layer: its place among x, W and bias says which of these is differentiated.
type Build = fn(Linear, &Gpu) -> Result<Op>;

impl Linear {
    fn rows(self, shape: &str, layer: &str) -> Vec<Row> {
        let [m, n, _] = self.size;
        let dbias =
            Row::new(format!("{shape} {layer} dbias"), format!("{m}×{n}"), costs::column_sum(m, n), move |gpu| {
                self.dbias(gpu)
            });
        self.products(shape, layer).into_iter().chain([dbias]).collect()
    }

    /// Those of its rows that are products.
    pub fn products(self, shape: &str, layer: &str) -> [Row; 3] {
        let [m, n, k] = self.size;
        let row = |pass: &str, sizes: String, cost: Cost, build: Build| {
            Row::new(format!("{shape} {layer} {pass}"), sizes, cost, move |gpu| build(self, gpu))
        };
        let product = |m: usize, n: usize, k: usize| format!("{m}×{n}×{k}");
        [
            row("forward", product(m, n, k), costs::linear(self.size).forward, Linear::forward),
            row("dx", product(m, k, n), costs::product([m, k, n]), Linear::dx),
            row("dW", product(n, k, m), costs::product([n, k, m]), Linear::dw),
        ]
    }

    fn data(self, gpu: &Gpu) -> Result<(Data, [Tensor; 4])> {
        let [m, n, k] = self.size;
        let data = Data { x: values(1, m * k), w: values(2, n * k), bias: values(3, n), dy: values(4, m * n) };
        let tensors = [
            Tensor::from_slice(gpu, &[m, k], &data.x)?,
            Tensor::from_slice(gpu, &[n, k], &data.w)?,
            Tensor::from_slice(gpu, &[n], &data.bias)?,
            Tensor::from_slice(gpu, &[m, n], &data.dy)?,
        ];
        Ok((data, tensors))
    }

    fn forward(self, gpu: &Gpu) -> Result<Op> {
        let (data, [x, w, bias, _]) = self.data(gpu)?;
        let check = move |y: &Tensor| {
            let [_, n, k] = self.size;
            let mut y = y.to_vec::<f32>()?;
            y.iter_mut().zip(data.bias.iter().cycle()).for_each(|(y, bias)| *y -= bias);
            check_product("y", &y, [y.len() / n, n, k], |i, q| data.x[i * k + q], |q, j| data.w[j * k + q])
        };
        Ok(Op::forward(move || ops::linear(&x, &w, Some(&bias)), check))
    }

    fn dx(self, gpu: &Gpu) -> Result<Op> {
        let [m, n, k] = self.size;
        let (data, [x, w, _, dy]) = self.data(gpu)?;
        let x = x.requires_grad()?;
        let leaf = x.clone();
        Ok(Op::backward(
            move || ops::linear(&x, &w, None),
            dy,
            move |gradients| {
                let dx = gradient(gradients, &leaf)?;
                check_product("dx", &dx, [m, k, n], |i, q| data.dy[i * n + q], |q, j| data.w[q * k + j])
            },
        ))
    }

    fn dw(self, gpu: &Gpu) -> Result<Op> {
        let [m, n, k] = self.size;
        let (data, [x, w, _, dy]) = self.data(gpu)?;
        let w = w.requires_grad()?;
        let leaf = w.clone();
        Ok(Op::backward(
            move || ops::linear(&x, &w, None),
            dy,
            move |gradients| {
                let dw = gradient(gradients, &leaf)?;
                check_product("dW", &dw, [n, k, m], |i, q| data.dy[q * n + i], |q, j| data.x[q * k + j])
            },
        ))
    }

    fn dbias(self, gpu: &Gpu) -> Result<Op> {
        let [_, n, _] = self.size;
        let (data, [x, w, bias, dy]) = self.data(gpu)?;
        let bias = bias.requires_grad()?;
        let leaf = bias.clone();
        Ok(Op::backward(
            move || ops::linear(&x, &w, Some(&bias)),
            dy,
            move |gradients| close("dbias", &gradient(gradients, &leaf)?, &column_sum(&data.dy, n)),
        ))
    }
}

/// A linear layer's arrays on the host.
struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

/// Which factor is stored transposed.
#[derive(Clone, Copy)]
enum Layout {
    Nn,
    Nt,
    Tn,
}

/// Products of square matrices in the three layouts.
pub fn square(side: usize) -> Vec<Row> {
    let layouts = [("nn", Layout::Nn), ("nt", Layout::Nt), ("tn", Layout::Tn)];
    let row = |(name, layout): (&str, Layout)| {
        let cost = costs::product([side; 3]);
        let build = move |gpu: &Gpu| square_op(gpu, side, layout);
        Row::new(format!("matmul {name}"), format!("{side}×{side}×{side}"), cost, build)
    };
    layouts.into_iter().map(row).collect()
}

fn square_op(gpu: &Gpu, side: usize, layout: Layout) -> Result<Op> {
    let (a, b) = (values(1, side * side), values(2, side * side));
    let ta = Tensor::from_slice(gpu, &[side, side], &a)?;
    let tb = Tensor::from_slice(gpu, &[side, side], &b)?;
    let run = move || match layout {
        Layout::Nn => ops::matmul(&ta, &tb),
        Layout::Nt => ops::matmul_nt(&ta, &tb),
        Layout::Tn => ops::matmul_tn(&ta, &tb),
    };
    let check = move |c: &Tensor| {
        let a_at = |i: usize, q: usize| if matches!(layout, Layout::Tn) { a[q * side + i] } else { a[i * side + q] };
        let b_at = |q: usize, j: usize| if matches!(layout, Layout::Nt) { b[j * side + q] } else { b[q * side + j] };
        check_product("C", &c.to_vec::<f32>()?, [side; 3], a_at, b_at)
    };
    Ok(Op::forward(run, check))
}
