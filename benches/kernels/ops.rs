//! The operations of a ViT that are not matrix products.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Result, anyhow};
use wgrad::autograd::no_grad;
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::ops::{self, CrossEntropy, Gelu, Mask, Normalize, TokenIndices};
use wgrad::{Gpu, Tensor};

use crate::check::{close, pick, sample, values};
use crate::cost::Cost;
use crate::costs;
use crate::row::{Call, Op, Row, Shape, gradient};

const EPS: f32 = 1e-6;
const CLASSES: usize = 1000;

/// All of them at the sizes of one model and length.
pub fn rows(s: &Shape) -> Vec<Row> {
    let (b, t, c, h, m) = (s.batch, s.tokens, s.width, s.heads, s.rows());
    let row = |op: &str, sizes: &[usize], cost: Cost, build: fn(&Gpu, &[usize]) -> Result<Op>| {
        let text = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
        let sizes = sizes.to_vec();
        Row::new(format!("{} {op}", s.name), text, cost, move |gpu| build(gpu, &sizes))
    };
    let (attention, norm) = (costs::attention([b, t, h, c / h]), costs::layernorm(m, c));
    let (gelu, loss) = (costs::gelu(4 * m * c), costs::cross_entropy(b, CLASSES));
    // Half the tokens kept.
    let kept = t.div_ceil(2);
    let (gather, scatter) = (costs::token_gather([b, kept, t, c]), costs::token_scatter([b, kept, t, c]));
    let embed = costs::embed_tokens([b, t - 1, c]);
    // The picture whose patches these tokens are: 16 a side, or 4 where they are few.
    let patch = if t > 100 { 16 } else { 4 };
    let side = (t - 1).isqrt() * patch;
    let scores = b * h * t * t;
    vec![
        row("attention forward", &[b, t, h, c / h], attention.forward, attention_forward),
        row("attention backward", &[b, t, h, c / h], attention.backward, attention_backward),
        row("layernorm forward", &[m, c], norm.forward, layernorm_forward),
        row("layernorm backward", &[m, c], norm.backward, layernorm_backward),
        row("gelu forward", &[m, 4 * c], gelu.forward, gelu_forward),
        row("gelu backward", &[m, 4 * c], gelu.backward, gelu_backward),
        row("softmax forward", &[b * h * t, t], costs::cost(5 * scores, 2 * scores), softmax_forward),
        row("softmax backward", &[b * h * t, t], costs::cost(4 * scores, 3 * scores), softmax_backward),
        row("add forward", &[m, c], costs::add(m * c), add_forward),
        row("token_gather forward", &[b, kept, t, c], gather.forward, gather_forward),
        row("token_gather backward", &[b, kept, t, c], gather.backward, gather_backward),
        row("token_scatter forward", &[b, kept, t, c], scatter.forward, scatter_forward),
        row("token_scatter backward", &[b, kept, t, c], scatter.backward, scatter_backward),
        row("patchify forward", &[b, side, patch], costs::patchify(3 * b * side * side), patchify_forward),
        row("embed_tokens forward", &[b, t, c], embed.forward, embed_forward),
        row("embed_tokens backward", &[b, t, c], embed.backward, embed_backward),
        row("cross_entropy forward", &[b, CLASSES], loss.forward, cross_entropy_forward),
        row("cross_entropy backward", &[b, CLASSES], loss.backward, cross_entropy_backward),
    ]
}

/// Values in −1..1 on the host and on the device.
fn random(gpu: &Gpu, seed: u64, dims: &[usize]) -> Result<(Vec<f32>, Tensor)> {
    let values = values(seed, dims.iter().product());
    let tensor = Tensor::from_slice(gpu, dims, &values)?;
    Ok((values, tensor))
}

/// Head `h` of sample `b` in `f32[B, T, parts·C]`, as `f32[T, parts·D]`: attention treats each by itself.
fn head(x: &[f32], parts: usize, [_, t, heads, d]: [usize; 4], [b, h]: [usize; 2]) -> Vec<f32> {
    let c = heads * d;
    let part = |i: usize, p: usize| (b * t + i) * parts * c + p * c + h * d;
    let places = (0..t).flat_map(|i| (0..parts).map(move |p| part(i, p)));
    places.flat_map(|at| &x[at..at + d]).copied().collect()
}

/// The first head of the first sample, and the last of the last.
fn heads([b, _, h, _]: [usize; 4]) -> [[usize; 2]; 2] {
    [[0, 0], [b - 1, h - 1]]
}

fn attention_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[b, t, h, d] = sizes else { return Err(rank(sizes)) };
    let all = [b, t, h, d];
    let (qkv, tensor) = random(gpu, 1, &[b, t, 3 * h * d])?;
    let check = move |y: &Tensor| {
        let y = y.to_vec::<f32>()?;
        for one in heads(all) {
            let expected =
                ops::attention::reference::forward(&head(&qkv, 3, all, one), [1, t, 1, d], &Default::default());
            close("a head", &head(&y, 1, all, one), &expected)?;
        }
        Ok(())
    };
    Ok(Op::forward(move || ops::attention(&tensor, h, &Mask::NONE, None), check))
}

fn attention_backward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[b, t, h, d] = sizes else { return Err(rank(sizes)) };
    let all = [b, t, h, d];
    let (qkv, tensor) = random(gpu, 1, &[b, t, 3 * h * d])?;
    let (dy, dy_tensor) = random(gpu, 2, &[b, t, h * d])?;
    let tensor = tensor.requires_grad()?;
    let leaf = tensor.clone();
    Ok(Op::backward(
        move || ops::attention(&tensor, h, &Mask::NONE, None),
        dy_tensor,
        move |gradients| {
            let dqkv = gradient(gradients, &leaf)?;
            for one in heads(all) {
                let (qkv, dy) = (head(&qkv, 3, all, one), head(&dy, 1, all, one));
                let expected = ops::attention::reference::backward(&qkv, &dy, [1, t, 1, d], &Default::default());
                close("gradient of a head", &head(&dqkv, 3, all, one), &expected)?;
            }
            Ok(())
        },
    ))
}

fn layernorm_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[m, c] = sizes else { return Err(rank(sizes)) };
    let ((x, tx), (w, tw), (b, tb)) = (random(gpu, 1, sizes)?, random(gpu, 2, &[c])?, random(gpu, 3, &[c])?);
    let check = move |y: &Tensor| {
        let rows = sample(m);
        let expected = ops::layernorm::reference::forward(&pick(&x, c, &rows), &w, &b, EPS);
        close("rows", &pick(&y.to_vec()?, c, &rows), &expected)
    };
    Ok(Op::forward(move || ops::layernorm(&tx, &tw, &tb, EPS), check))
}

fn layernorm_backward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[_, c] = sizes else { return Err(rank(sizes)) };
    let ((x, tx), (w, tw), (_, tb)) = (random(gpu, 1, sizes)?, random(gpu, 2, &[c])?, random(gpu, 3, &[c])?);
    let (dy, dy_tensor) = random(gpu, 4, sizes)?;
    let leaves = [tx.requires_grad()?, tw.requires_grad()?, tb.requires_grad()?];
    let [tx, tw, tb] = leaves.clone();
    Ok(Op::backward(
        move || ops::layernorm(&tx, &tw, &tb, EPS),
        dy_tensor,
        move |gradients| {
            let (dx, dw, db) = ops::layernorm::reference::backward(&x, &w, &dy, EPS);
            for (what, leaf, expected) in
                [("dx", &leaves[0], dx), ("dweight", &leaves[1], dw), ("dbias", &leaves[2], db)]
            {
                close(what, &gradient(gradients, leaf)?, &expected)?;
            }
            Ok(())
        },
    ))
}

fn gelu_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[m, f] = sizes else { return Err(rank(sizes)) };
    let (x, tensor) = random(gpu, 1, sizes)?;
    let check = move |y: &Tensor| {
        let rows = sample(m);
        close("rows", &pick(&y.to_vec()?, f, &rows), &ops::gelu::reference::forward(&pick(&x, f, &rows), Gelu::Erf))
    };
    Ok(Op::forward(move || ops::gelu(&tensor, Gelu::Erf), check))
}

fn gelu_backward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[m, f] = sizes else { return Err(rank(sizes)) };
    let ((x, tensor), (dy, dy_tensor)) = (random(gpu, 1, sizes)?, random(gpu, 2, sizes)?);
    let tensor = tensor.requires_grad()?;
    let leaf = tensor.clone();
    Ok(Op::backward(
        move || ops::gelu(&tensor, Gelu::Erf),
        dy_tensor,
        move |gradients| {
            let rows = sample(m);
            let expected = ops::gelu::reference::backward(&pick(&x, f, &rows), &pick(&dy, f, &rows), Gelu::Erf);
            close("rows of dx", &pick(&gradient(gradients, &leaf)?, f, &rows), &expected)
        },
    ))
}

fn softmax_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[m, width] = sizes else { return Err(rank(sizes)) };
    let (x, tensor) = random(gpu, 1, sizes)?;
    let check = move |y: &Tensor| {
        let rows = sample(m);
        let expected = ops::softmax::reference::forward(&pick(&x, width, &rows), width);
        close("rows", &pick(&y.to_vec()?, width, &rows), &expected)
    };
    Ok(Op::forward(move || ops::softmax(&tensor), check))
}

fn softmax_backward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[m, width] = sizes else { return Err(rank(sizes)) };
    let ((x, tensor), (dy, dy_tensor)) = (random(gpu, 1, sizes)?, random(gpu, 2, sizes)?);
    let tensor = tensor.requires_grad()?;
    let leaf = tensor.clone();
    Ok(Op::backward(
        move || ops::softmax(&tensor),
        dy_tensor,
        move |gradients| {
            let rows = sample(m);
            let (x, dy) = (pick(&x, width, &rows), pick(&dy, width, &rows));
            let expected = ops::softmax::reference::backward(&x, &dy, width);
            close("rows of dx", &pick(&gradient(gradients, &leaf)?, width, &rows), &expected)
        },
    ))
}

fn add_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let ((x, tx), (y, ty)) = (random(gpu, 1, sizes)?, random(gpu, 2, sizes)?);
    let check = move |z: &Tensor| close("z", &z.to_vec()?, &ops::add::reference::forward(&x, &y));
    Ok(Op::forward(move || ops::add(&tx, &ty), check))
}

/// Draws of random-LTD: `kept` of `tokens` positions for each sample.
fn draw(gpu: &Gpu, [batch, kept, tokens]: [usize; 3]) -> Result<(Vec<u32>, TokenIndices)> {
    let ltd = RandomLtd::new(3, Schedule::constant(kept)?)?;
    let drawn = ltd.plan(0, tokens).draw_block(1, 0, batch)?;
    let positions = drawn.ok_or_else(|| anyhow!("{kept} of {tokens} tokens drop none"))?;
    let indices = TokenIndices::new(gpu, [batch, kept], tokens, &positions)?;
    Ok((positions, indices))
}

fn gather_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[b, kept, t, c] = sizes else { return Err(rank(sizes)) };
    let ((x, tensor), (positions, indices)) = (random(gpu, 1, &[b, t, c])?, draw(gpu, [b, kept, t])?);
    let check =
        move |y: &Tensor| close("y", &y.to_vec()?, &ops::token_gather::reference::forward(&x, &positions, b, t));
    Ok(Op::forward(move || ops::token_gather(&tensor, &indices), check))
}

fn gather_backward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[b, kept, t, c] = sizes else { return Err(rank(sizes)) };
    let (positions, indices) = draw(gpu, [b, kept, t])?;
    let ((_, tensor), (dy, dy_tensor)) = (random(gpu, 1, &[b, t, c])?, random(gpu, 2, &[b, kept, c])?);
    let tensor = tensor.requires_grad()?;
    let leaf = tensor.clone();
    Ok(Op::backward(
        move || ops::token_gather(&tensor, &indices),
        dy_tensor,
        move |gradients| {
            let expected = ops::token_gather::reference::backward(&dy, &positions, b, t);
            close("dx", &gradient(gradients, &leaf)?, &expected)
        },
    ))
}

/// In place, as in a block: each call writes into what the call before it returned.
fn scatter_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[b, kept, t, c] = sizes else { return Err(rank(sizes)) };
    let (positions, indices) = draw(gpu, [b, kept, t])?;
    let ((x, tensor), (rows, rows_tensor)) = (random(gpu, 1, &[b, t, c])?, random(gpu, 2, &[b, kept, c])?);
    let place = Rc::new(RefCell::new(Some(tensor)));
    let scatter = move || -> Result<Tensor> {
        let x = place.borrow_mut().take().ok_or_else(|| anyhow!("a call failed before"))?;
        let y = no_grad(|| ops::token_scatter(x, &rows_tensor, &indices))?;
        Ok(place.borrow_mut().insert(y).clone())
    };
    let scatter = Rc::new(scatter);
    let once = scatter.clone();
    let check = move || {
        let expected = ops::token_scatter::reference::forward(&x, &rows, &positions, b, t);
        close("y", &once()?.to_vec()?, &expected)
    };
    let prepare = move || -> Result<Call> {
        let scatter = scatter.clone();
        Ok(Box::new(move || scatter().map(drop)))
    };
    Ok(Op::changing(prepare, check))
}

fn scatter_backward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[b, kept, t, c] = sizes else { return Err(rank(sizes)) };
    let (positions, indices) = draw(gpu, [b, kept, t])?;
    let ((_, x), (_, rows)) = (random(gpu, 1, &[b, t, c])?, random(gpu, 2, &[b, kept, c])?);
    let (dy, dy_tensor) = random(gpu, 3, &[b, t, c])?;
    let leaves = [x.requires_grad()?, rows.requires_grad()?];
    let [x, rows] = leaves.clone();
    Ok(Op::backward(
        move || ops::token_scatter(x.clone(), &rows, &indices),
        dy_tensor,
        move |gradients| {
            let (dx, drows) = ops::token_scatter::reference::backward(&dy, &positions, b, t);
            close("dx", &gradient(gradients, &leaves[0])?, &dx)?;
            close("drows", &gradient(gradients, &leaves[1])?, &drows)
        },
    ))
}

fn patchify_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[b, side, patch] = sizes else { return Err(rank(sizes)) };
    let normalize = Normalize { mean: [0.5; 3], std: [0.5; 3] };
    let bytes: Vec<u8> = (0..3 * b * side * side).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8).collect();
    let images = Tensor::from_slice(gpu, &[b, 3, side, side], &bytes)?;
    let check = move |y: &Tensor| {
        let values: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let expected = ops::patchify::reference::forward(&values, [b, side, side], patch, &normalize);
        close("patches", &y.to_vec()?, &expected)
    };
    Ok(Op::forward(move || ops::patchify(&images, patch, Some(&normalize)), check))
}

/// Patches, class token and positions.
fn embed_inputs(gpu: &Gpu, [b, t, c]: [usize; 3]) -> Result<[(Vec<f32>, Tensor); 3]> {
    Ok([random(gpu, 1, &[b, t - 1, c])?, random(gpu, 2, &[1, 1, c])?, random(gpu, 3, &[1, t, c])?])
}

fn embed_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[b, t, c] = sizes else { return Err(rank(sizes)) };
    let [(patches, tp), (class, tc), (positions, tpos)] = embed_inputs(gpu, [b, t, c])?;
    let check = move |y: &Tensor| {
        close("y", &y.to_vec()?, &ops::embed_tokens::reference::forward(&patches, &class, &positions, b))
    };
    Ok(Op::forward(move || ops::embed_tokens(&tp, Some(&tc), &tpos), check))
}

fn embed_backward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let &[b, t, c] = sizes else { return Err(rank(sizes)) };
    let [(_, tp), (_, tc), (_, tpos)] = embed_inputs(gpu, [b, t, c])?;
    let (dy, dy_tensor) = random(gpu, 4, sizes)?;
    let leaves = [tp.requires_grad()?, tc.requires_grad()?, tpos.requires_grad()?];
    let [tp, tc, tpos] = leaves.clone();
    Ok(Op::backward(
        move || ops::embed_tokens(&tp, Some(&tc), &tpos),
        dy_tensor,
        move |gradients| {
            let (patches, class, positions) = ops::embed_tokens::reference::backward(&dy, c, t * c);
            for (what, leaf, expected) in
                [("dpatches", &leaves[0], patches), ("dprefix", &leaves[1], class), ("dpos", &leaves[2], positions)]
            {
                close(what, &gradient(gradients, leaf)?, &expected)?;
            }
            Ok(())
        },
    ))
}

fn labels(gpu: &Gpu, rows: usize) -> Result<(Vec<u32>, Tensor)> {
    let labels: Vec<u32> = (0..rows).map(|i| (i * 37 % CLASSES) as u32).collect();
    let tensor = Tensor::from_slice(gpu, &[rows], &labels)?;
    Ok((labels, tensor))
}

fn cross_entropy_forward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let ((logits, tensor), (labels, labels_tensor)) = (random(gpu, 1, sizes)?, labels(gpu, sizes[0])?);
    let settings = CrossEntropy::default();
    let check = move |loss: &Tensor| {
        let expected = ops::cross_entropy::reference::forward(&logits, &labels, &CrossEntropy::default());
        close("loss", &loss.to_vec()?, &[expected])
    };
    Ok(Op::forward(move || ops::cross_entropy(&tensor, &labels_tensor, &settings), check))
}

fn cross_entropy_backward(gpu: &Gpu, sizes: &[usize]) -> Result<Op> {
    let ((logits, tensor), (labels, labels_tensor)) = (random(gpu, 1, sizes)?, labels(gpu, sizes[0])?);
    let settings = CrossEntropy::default();
    let tensor = tensor.requires_grad()?;
    let leaf = tensor.clone();
    let dy = Tensor::from_slice(gpu, &[], &[1.5f32])?;
    Ok(Op::backward(
        move || ops::cross_entropy(&tensor, &labels_tensor, &settings),
        dy,
        move |gradients| {
            let expected = ops::cross_entropy::reference::backward(&logits, &labels, &CrossEntropy::default(), 1.5);
            close("dlogits", &gradient(gradients, &leaf)?, &expected)
        },
    ))
}

fn rank(sizes: &[usize]) -> anyhow::Error {
    anyhow!("the row has other sizes than its operation: {sizes:?}")
}
