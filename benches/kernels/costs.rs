//! What each operation costs at least, from shapes alone: the bytes are those that an ideal implementation moves, reading each input
//! and writing each output once, in f32.
//!
//! For all but the matrix products the operations are a count of the formula's terms by hand: they only tell that memory is
//! the bound there.

use crate::cost::Cost;

const F32: f64 = 4.0;

/// `flops` operations on `floats` numbers read or written.
pub fn cost(flops: usize, floats: usize) -> Cost {
    Cost { flops: flops as f64, bytes: floats as f64 * F32 }
}

/// An operation's forward and backward pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passes {
    pub forward: Cost,
    pub backward: Cost,
}

/// C\[M, N\] = A·B over K, in any layout.
pub fn product([m, n, k]: [usize; 3]) -> Cost {
    cost(2 * m * n * k, m * k + k * n + m * n)
}

/// The sum of `rows` rows of `width`: a bias gradient.
pub fn column_sum(rows: usize, width: usize) -> Cost {
    cost(rows * width, rows * width + width)
}

/// `f32[M, K]` to `f32[M, N]` with bias: the product, and those of dx and dW. The bias gradient is a [`column_sum`].
pub fn linear([m, n, k]: [usize; 3]) -> Passes {
    Passes { forward: product([m, n, k]) + cost(m * n, n), backward: product([m, k, n]) + product([n, k, m]) }
}

/// B samples of T tokens, H heads of width D. Forward has two products, backward four; scores are neither stored nor, in
/// the count, computed again.
pub fn attention([batch, tokens, heads, width]: [usize; 4]) -> Passes {
    let product = 2 * batch * heads * tokens * tokens * width;
    let channels = batch * tokens * heads * width;
    Passes {
        // q, k, v; out
        forward: cost(2 * product, 4 * channels),
        // q, k, v, dout; dq, dk, dv
        backward: cost(4 * product, 7 * channels),
    }
}

/// Rows of C elements; backward also makes the gradients of scale and shift.
pub fn layernorm(rows: usize, width: usize) -> Passes {
    let n = rows * width;
    Passes { forward: cost(8 * n, 2 * n + 2 * width), backward: cost(14 * n, 3 * n + 3 * width) }
}

/// `n` elements.
pub fn gelu(n: usize) -> Passes {
    Passes { forward: cost(12 * n, 2 * n), backward: cost(20 * n, 3 * n) }
}

/// A residual of `n` elements. Its backward pass hands the gradient on.
pub fn add(n: usize) -> Cost {
    cost(n, 3 * n)
}

/// R of T rows of C, for B samples.
pub fn token_gather([batch, kept, tokens, width]: [usize; 4]) -> Passes {
    let (part, all) = (batch * kept * width, batch * tokens * width);
    let indices = batch * kept;
    Passes { forward: cost(0, 2 * part + indices), backward: cost(0, part + all + indices) }
}

/// R rows of C into T, in place.
pub fn token_scatter([batch, kept, tokens, width]: [usize; 4]) -> Passes {
    let (part, all) = (batch * kept * width, batch * tokens * width);
    let indices = batch * kept;
    // dy; dx, drows
    Passes { forward: cost(0, 2 * part + indices), backward: cost(0, 2 * all + part + indices) }
}

/// Bytes of pictures to floats of patches.
pub fn patchify(pixels: usize) -> Cost {
    Cost { flops: 2.0 * pixels as f64, bytes: (1.0 + F32) * pixels as f64 }
}

/// N patches, the class token, positions: `f32[B, N + 1, C]`.
pub fn embed_tokens([batch, patches, width]: [usize; 3]) -> Passes {
    let (inner, all, sample) = (batch * patches * width, batch * (patches + 1) * width, (patches + 1) * width);
    Passes { forward: cost(all, inner + all + width + sample), backward: cost(all, all + inner + sample + width) }
}

/// B rows of V logits.
pub fn cross_entropy(rows: usize, classes: usize) -> Passes {
    let n = rows * classes;
    Passes { forward: cost(4 * n, n + rows), backward: cost(4 * n, 2 * n + rows) }
}

/// N rows of C, a weight of V classes: the logits are made once for each pass, and need not be in memory.
pub fn linear_cross_entropy([rows, classes, width]: [usize; 3]) -> Passes {
    let (product, logits) = (2 * rows * classes * width, rows * classes);
    let floats = rows * width + classes * width;
    Passes { forward: cost(product + 4 * logits, floats), backward: cost(2 * product + 4 * logits, 2 * floats) }
}

/// N rows of C of a table of V.
pub fn embedding([rows, classes, width]: [usize; 3]) -> Passes {
    let part = rows * width;
    Passes { forward: cost(0, 2 * part + rows), backward: cost(part, part + classes * width + rows) }
}

/// `n` parameters: reads value, gradient and both moments, writes all but the gradient. The gradient is read once more for
/// its norm.
pub fn adamw(n: usize) -> Cost {
    cost(16 * n, 8 * n)
}
