//! Operations that move elements and compute nothing: permuting, repeating, taking parts, joining. Each makes a new tensor; only
//! [`reshape()`] shares memory, [`expand()`] where it repeats nothing, and [`slice()`] where it takes all.

mod gather;
mod join;
mod reshape;
mod view;

pub use gather::{gather, scatter_add};
pub use join::{concat, pad, stack};
pub use reshape::reshape;
pub use view::{expand, permute, slice, transpose};

use crate::gpu::Kernel;

/// The kernels of this module; the others are copies along a walk.
pub(crate) const KERNELS: &[&Kernel] = gather::KERNELS;

/// The same on the CPU, slowly. What moves elements is told by where an element of the result comes from.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    pub use super::gather::reference as gather;

    /// Elements of a result of sizes `dims`; `from` gives each one's place in `x` by its index, or nothing where it is `outside`.
    pub fn moved(x: &[f32], dims: &[usize], outside: f32, from: impl Fn(&[usize]) -> Option<usize>) -> Vec<f32> {
        let at = |i: usize| from(&index(i, dims)).map_or(outside, |place| x[place]);
        (0..dims.iter().product()).map(at).collect()
    }

    /// The index of element `i` of a tensor of sizes `dims`.
    pub fn index(i: usize, dims: &[usize]) -> Vec<usize> {
        let mut rest = i;
        let mut index: Vec<usize> = dims
            .iter()
            .rev()
            .map(|size| {
                let at = rest % size;
                rest /= size;
                at
            })
            .collect();
        index.reverse();
        index
    }

    /// The place of the element of that index.
    pub fn place(index: &[usize], dims: &[usize]) -> usize {
        index.iter().zip(dims).fold(0, |place, (at, size)| place * size + at)
    }
}
