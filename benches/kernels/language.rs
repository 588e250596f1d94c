//! What language models have beside blocks: heads with tens of thousands of classes, and the table of embeddings that they share.

use anyhow::Result;
use wgrad::ops::cross_entropy::reference;
use wgrad::{Gpu, Tensor, ops};

use crate::check::{close, pick, sample, values};
use crate::cost::Cost;
use crate::costs;
use crate::products::Linear;
use crate::row::{Op, Row, gradient};

/// Vocabularies, neither a multiple of four.
const MODELS: [(&str, usize); 2] = [("gpt2", 50_257), ("bert", 30_522)];
/// C: narrower than GPT-2 and BERT, so that the weight is within what every device binds.
const WIDTH: usize = 512;
/// Rows of logits.
const ROWS: usize = 64;

/// All of them.
pub fn rows() -> Vec<Row> {
    MODELS
        .into_iter()
        .flat_map(|(name, classes)| products(name, classes).into_iter().chain(of_model(name, classes)))
        .collect()
}

/// The head's three products, as they are and with padded rows, as `linear_cross_entropy` makes them.
fn products(name: &str, classes: usize) -> Vec<Row> {
    let head = |(layer, n)| Linear { size: [ROWS, n, WIDTH] }.products(name, layer);
    [("head", classes), ("head, padded", classes.next_multiple_of(4))].into_iter().flat_map(head).collect()
}

fn of_model(name: &str, classes: usize) -> Vec<Row> {
    let row = |op: &str, cost: Cost, build: fn(&Gpu, usize) -> Result<Op>| {
        let text = format!("{ROWS}×{classes}×{WIDTH}");
        Row::new(format!("{name} {op}"), text, cost, move |gpu| build(gpu, classes))
    };
    let (head, table) = (costs::linear_cross_entropy([ROWS, classes, WIDTH]), costs::embedding([ROWS, classes, WIDTH]));
    vec![
        row("linear_cross_entropy forward", head.forward, head_forward),
        row("linear_cross_entropy backward", head.backward, head_backward),
        row("embedding forward", table.forward, embedding_forward),
        row("embedding backward", table.backward, embedding_backward),
    ]
}

/// x, weight and labels, on the host and on the device.
struct Data {
    x: Vec<f32>,
    weight: Vec<f32>,
    labels: Vec<u32>,
    tensors: [Tensor; 3],
}

impl Data {
    fn new(gpu: &Gpu, classes: usize) -> Result<Self> {
        let (x, weight) = (values(1, ROWS * WIDTH), values(2, classes * WIDTH));
        let labels: Vec<u32> = (0..ROWS).map(|i| (i * i * 7919 % classes) as u32).collect();
        let tensors = [
            Tensor::from_slice(gpu, &[ROWS, WIDTH], &x)?,
            Tensor::from_slice(gpu, &[classes, WIDTH], &weight)?,
            Tensor::from_slice(gpu, &[ROWS], &labels)?,
        ];
        Ok(Data { x, weight, labels, tensors })
    }

    /// The logits of a row.
    fn logits(&self, row: usize) -> Vec<f32> {
        let x = &self.x[row * WIDTH..][..WIDTH];
        let dot = |w: &[f32]| x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>() as f32;
        self.weight.chunks(WIDTH).map(dot).collect()
    }

    /// The gradients of a row's logits, of the mean loss.
    fn dlogits(&self, row: usize) -> Vec<f32> {
        reference::backward(&self.logits(row), &[self.labels[row]], &Default::default(), 1.0 / ROWS as f32)
    }
}

/// The sum of rows, each times its factor.
fn mixed<'a>(rows: impl Iterator<Item = (f32, &'a [f32])>) -> Vec<f32> {
    let mut sum = vec![0.0f64; WIDTH];
    for (factor, row) in rows {
        sum.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(factor) * f64::from(v));
    }
    sum.into_iter().map(|v| v as f32).collect()
}

fn head_forward(gpu: &Gpu, classes: usize) -> Result<Op> {
    let data = Data::new(gpu, classes)?;
    let [x, weight, labels] = data.tensors.clone();
    let run = move || Ok(ops::linear_cross_entropy(&x, &weight, None, &labels, &Default::default())?.losses);
    let check = move |losses: &Tensor| {
        let rows = sample(ROWS);
        let own = |&row: &usize| reference::forward(&data.logits(row), &[data.labels[row]], &Default::default());
        close("losses", &pick(&losses.to_vec()?, 1, &rows), &rows.iter().map(own).collect::<Vec<_>>())
    };
    Ok(Op::forward(run, check))
}

fn head_backward(gpu: &Gpu, classes: usize) -> Result<Op> {
    let data = Data::new(gpu, classes)?;
    let [x, weight, labels] = data.tensors.clone();
    let (x, weight) = (x.requires_grad()?, weight.requires_grad()?);
    let leaves = [x.clone(), weight.clone()];
    let graph = move || Ok(ops::linear_cross_entropy(&x, &weight, None, &labels, &Default::default())?.loss);
    let dy = Tensor::from_slice(gpu, &[], &[1.0f32])?;
    Ok(Op::backward(graph, dy, move |gradients| {
        let dlogits: Vec<Vec<f32>> = (0..ROWS).map(|row| data.dlogits(row)).collect();
        let rows = sample(ROWS);
        let dx = |&row: &usize| mixed(dlogits[row].iter().copied().zip(data.weight.chunks(WIDTH)));
        let expected: Vec<f32> = rows.iter().flat_map(dx).collect();
        close("dx", &pick(&gradient(gradients, &leaves[0])?, WIDTH, &rows), &expected)?;
        // Classes from end to end, and some that are labels, whose gradients are the largest.
        let labels = rows.iter().map(|&row| data.labels[row] as usize);
        let classes: Vec<usize> = sample(classes).into_iter().chain(labels).collect();
        let dw = |&class: &usize| mixed(dlogits.iter().map(|row| row[class]).zip(data.x.chunks(WIDTH)));
        let expected: Vec<f32> = classes.iter().flat_map(dw).collect();
        close("dW", &pick(&gradient(gradients, &leaves[1])?, WIDTH, &classes), &expected)
    }))
}

fn embedding_forward(gpu: &Gpu, classes: usize) -> Result<Op> {
    let Data { weight: data, labels: ids, tensors: [_, weight, labels], .. } = Data::new(gpu, classes)?;
    let check = move |y: &Tensor| close("y", &y.to_vec()?, &ops::embedding::reference::forward(&data, &ids, WIDTH));
    Ok(Op::forward(move || ops::embedding(&weight, &labels), check))
}

fn embedding_backward(gpu: &Gpu, classes: usize) -> Result<Op> {
    let Data { labels: ids, tensors: [_, weight, labels], .. } = Data::new(gpu, classes)?;
    let weight = weight.requires_grad()?;
    let leaf = weight.clone();
    let dy = values(3, ROWS * WIDTH);
    let from = Tensor::from_slice(gpu, &[ROWS, WIDTH], &dy)?;
    Ok(Op::backward(
        move || ops::embedding(&weight, &labels),
        from,
        move |gradients| {
            let expected = ops::embedding::reference::backward(&dy, &ids, classes);
            close("dweight", &gradient(gradients, &leaf)?, &expected)
        },
    ))
}
