//! What a matrix product is, apart from its data: what kernels and plans are chosen by.

use crate::ops::Gelu;
use crate::shape::DType;

/// Which operand is stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::ops) enum Layout {
    /// A\[M, K\]·B\[K, N\]
    Nn,
    /// A\[M, K\]·B\[N, K\]ᵀ
    Nt,
    /// A\[K, M\]ᵀ·B\[K, N\]
    Tn,
}

/// The element types of A, B and C.
pub(in crate::ops) type Types = [DType; 3];

/// What an [`Epilogue`](super::operands::Epilogue) does, without the data: what picks the file in `shaders/epilogues/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum EpilogueKind {
    Plain,
    /// `plain.wgsl` too, after the sums of A's columns.
    Sums,
    Linear,
    Gelu(Gelu),
    GeluBackward(Gelu),
    Scatter,
}

/// What tells products apart that may want plans of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Product {
    pub(super) layout: Layout,
    /// M, N, K.
    pub(super) size: [usize; 3],
    /// Matrices.
    pub(super) batch: usize,
    /// Every row of every matrix can be read as vec4.
    pub(super) aligned: bool,
    /// K may be split.
    pub(super) can_split: bool,
    pub(super) types: Types,
    pub(super) epilogue: EpilogueKind,
}

impl Product {
    /// The product that stands for it and its like: sizes go up to the next of eight steps an octave.
    pub(super) fn bucket(self) -> Product {
        Product { size: self.size.map(round_up), batch: round_up(self.batch), ..self }
    }

    /// Whether an operand or the result is f16.
    pub(super) fn is_half(&self) -> bool {
        self.types.contains(&DType::F16)
    }

    /// Operations.
    pub(super) fn flops(&self) -> f64 {
        let [m, n, k] = self.size.map(|v| v as f64);
        2.0 * m * n * k * self.batch as f64
    }
}

/// The next size of which there are eight between a power of two and the next; up to 16 every size is one.
fn round_up(size: usize) -> usize {
    size.next_multiple_of(1 << size.max(8).ilog2().saturating_sub(3))
}

#[cfg(test)]
mod tests {
    use super::round_up;

    #[test]
    fn sizes_share_a_bucket_with_their_like() {
        for (size, bucket) in [(1, 1), (9, 9), (16, 16), (17, 18), (192, 192), (197, 208), (1560, 1664), (1664, 1664)] {
            assert_eq!(round_up(size), bucket, "{size}");
            assert_eq!(round_up(bucket), bucket);
        }
    }
}
