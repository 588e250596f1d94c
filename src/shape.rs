//! Element types and shapes.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit float: activations, weights, gradients.
    F32,
    /// 16-bit float, two a word.
    F16,
    /// 32-bit unsigned integer: labels and token indices.
    U32,
    /// 8-bit unsigned integer, four a word: images.
    U8,
}

impl DType {
    /// Size of an element in bytes.
    pub const fn size(self) -> u64 {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F16 => 2,
            DType::U8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::U32 => "u32",
            DType::U8 => "u8",
        })
    }
}

/// A shape of rank 0 to 6, row-major with the last axis contiguous. Rank 0 is a scalar.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; Shape::MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The largest rank.
    pub const MAX_RANK: usize = 6;

    /// What a kernel can index: the surplus invocations of the largest grids count a little beyond the last element, and that in
    /// 32 bits too.
    const MOST: usize = (u32::MAX - (1 << 25)) as usize;

    /// A shape from its sizes, or `None` above rank 6, where an axis is empty, or where the number of elements exceeds
    /// what a kernel can index (2³² − 2²⁵).
    pub fn new(dims: &[usize]) -> Option<Self> {
        if dims.len() > Self::MAX_RANK || dims.contains(&0) {
            return None;
        }
        let numel = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        if numel > Self::MOST {
            return None;
        }
        let mut all = [1; Self::MAX_RANK];
        all[..dims.len()].copy_from_slice(dims);
        Some(Shape { dims: all, rank: dims.len() as u8 })
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// How many axes there are.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// How many elements there are.
    pub fn numel(&self) -> usize {
        self.dims().iter().product()
    }

    /// Size of the last axis; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// Number of rows, when the shape is seen as a matrix `[rows, last]`.
    pub fn rows(&self) -> usize {
        self.numel() / self.last()
    }

    /// The sizes as an array, if the rank is `N`.
    pub fn to_array<const N: usize>(&self) -> Option<[usize; N]> {
        self.dims().try_into().ok()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
