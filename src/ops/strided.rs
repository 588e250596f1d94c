//! Walks over two tensors at once, each in an order of its own: what broadcasting, permuting and taking parts share, and the
//! copy along such a walk. Not differentiable by itself.

use super::expect_match;
use super::item::LANES;
use super::variants::ByItem;
use crate::autograd::Destination;
use crate::error::{Error, Result};
use crate::gpu::{Access, Grid, Kernel, NO_LOOPS, Params, wgsl};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// A number for each axis, the last axis last; in front stand the axes that a shape of lower rank lacks.
pub(super) type Axes = [usize; Shape::MAX_RANK];

/// A shape's sizes, with ones in front.
pub(super) fn sizes(shape: Shape) -> Axes {
    let mut sizes = [1; Shape::MAX_RANK];
    sizes[Shape::MAX_RANK - shape.rank()..].copy_from_slice(shape.dims());
    sizes
}

/// What a step along each axis moves in a row-major tensor of these sizes.
pub(super) fn strides(sizes: Axes) -> Axes {
    let mut strides = [1; Shape::MAX_RANK];
    for axis in (1..Shape::MAX_RANK).rev() {
        strides[axis - 1] = strides[axis] * sizes[axis];
    }
    strides
}

/// The same where the tensor is repeated along its axes of size 1.
pub(super) fn repeating_strides(sizes: Axes) -> Axes {
    let strides = strides(sizes);
    std::array::from_fn(|axis| if sizes[axis] == 1 { 0 } else { strides[axis] })
}

/// NumPy's common shape of two: axes are matched from the last, and of each pair the sizes are equal or one of them is 1.
pub(super) fn common(a: Shape, b: Shape) -> Option<Shape> {
    let pairs = || sizes(a).into_iter().zip(sizes(b));
    let common: Vec<usize> = pairs().map(|(a, b)| a.max(b)).collect();
    let fits = pairs().all(|(a, b)| a == b || a.min(b) == 1);
    let rank = a.rank().max(b.rank());
    Shape::new(&common[Shape::MAX_RANK - rank..]).filter(|_| fits)
}

/// What tensors without a common shape are told.
pub(super) const NOT_COMMON: &str =
    "sizes must be equal or 1, matched from the last, and the result of at most 2^32 - 2^25 elements";

/// The common shape of two tensors.
pub(super) fn common_shape(op: &'static str, x: &Tensor, y: &Tensor) -> Result<Shape> {
    let shape = common(x.shape(), y.shape());
    expect_match(op, x, y, shape.is_some(), NOT_COMMON)?;
    shape.ok_or(Error::Shape { op, what: NOT_COMMON, got: x.info() })
}

/// An order of elements, and where each lies in two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    pub(super) sizes: Axes,
    pub(super) x: Axes,
    pub(super) y: Axes,
}

impl Walk {
    /// A walk over `sizes` with the strides of both operands, on as few axes as it can be told: axes that follow each other
    /// without a gap in both become one.
    pub(super) fn new(sizes: Axes, x: Axes, y: Axes) -> Self {
        let mut walk = Walk { sizes: [1; Shape::MAX_RANK], x: [0; Shape::MAX_RANK], y: [0; Shape::MAX_RANK] };
        let mut at = Shape::MAX_RANK;
        // From the last axis to the first; `at` is the outermost axis so far.
        for axis in (0..Shape::MAX_RANK).rev().filter(|&axis| sizes[axis] > 1) {
            let goes_on = |inner: usize, outer: usize| outer == inner * walk.sizes[at];
            if at < Shape::MAX_RANK && goes_on(walk.x[at], x[axis]) && goes_on(walk.y[at], y[axis]) {
                walk.sizes[at] *= sizes[axis];
            } else {
                at -= 1;
                (walk.sizes[at], walk.x[at], walk.y[at]) = (sizes[axis], x[axis], y[axis]);
            }
        }
        walk
    }

    /// How many elements it has.
    pub(super) fn len(&self) -> usize {
        self.sizes.iter().product()
    }

    /// The same walk in steps of four floats, if the last axis is contiguous in both and all begins and goes on in fours.
    fn in_fours(&self, offsets: [usize; 2]) -> Option<Walk> {
        let last = Shape::MAX_RANK - 1;
        let outer = self.x[..last].iter().chain(&self.y[..last]).chain(&offsets);
        let fits = self.sizes[last].is_multiple_of(4)
            && (self.x[last], self.y[last]) == (1, 1)
            && outer.clone().all(|v| v.is_multiple_of(4));
        fits.then(|| {
            let quarter = |mut axes: Axes| {
                axes[..last].iter_mut().for_each(|v| *v /= 4);
                axes
            };
            let mut sizes = self.sizes;
            sizes[last] /= 4;
            Walk { sizes, x: quarter(self.x), y: quarter(self.y) }
        })
    }
}

/// `params!` for a kernel that uses `shaders/lib/strided.wgsl`: fields of its own, then those of the [`Walk`].
macro_rules! walk_params {
    ($name:ident { $($field:ident: $ty:ident),+ $(,)? }) => {
        $crate::gpu::params!($name {
            $($field: $ty,)+
            d1: u32, d2: u32, d3: u32, d4: u32, d5: u32,
            x0: u32, x1: u32, x2: u32, x3: u32, x4: u32, x5: u32,
            y0: u32, y1: u32, y2: u32, y3: u32, y4: u32, y5: u32,
        });
        impl $name {
            fn along(walk: &$crate::ops::strided::Walk, $($field: $ty),+) -> Self {
                // Every size and stride belongs to a tensor, whose elements a u32 can count.
                let narrow = |axes: $crate::ops::strided::Axes| axes.map(|v| v as u32);
                let [_, d1, d2, d3, d4, d5] = narrow(walk.sizes);
                let [x0, x1, x2, x3, x4, x5] = narrow(walk.x);
                let [y0, y1, y2, y3, y4, y5] = narrow(walk.y);
                $name {
                    $($field,)+
                    d1, d2, d3, d4, d5, x0, x1, x2, x3, x4, x5, y0, y1, y2, y3, y4, y5,
                }
            }
        }
    };
}
pub(super) use walk_params;

walk_params!(CopyParams { items: u32, accumulate: u32, x_offset: u32, y_offset: u32 });

static VEC4: Kernel = Kernel {
    name: "strided_copy.vec4",
    sources: &[wgsl!("strided_copy.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/strided.wgsl"), wgsl!("tiles/vec4.wgsl")],
    entry: "strided_copy",
    bindings: &[Access::Read, Access::Write],
    params: CopyParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static SCALAR: Kernel = Kernel {
    name: "strided_copy.scalar",
    sources: &[
        wgsl!("strided_copy.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/strided.wgsl"),
        wgsl!("tiles/scalar.wgsl"),
    ],
    ..VEC4
};

const FORMS: ByItem = ByItem::new(&VEC4, &SCALAR);

pub(crate) const KERNELS: &[&Kernel] = &[&VEC4, &SCALAR];

/// A way to see a tensor: some of its elements in an order of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) sizes: Axes,
    pub(super) strides: Axes,
    /// Place of the first element.
    pub(super) offset: usize,
}

impl View {
    /// All elements in order.
    pub(super) fn all(sizes: Axes) -> Self {
        View { sizes, strides: strides(sizes), offset: 0 }
    }

    /// Those at `start` and on along `axis`, `len` of them.
    pub(super) fn part(self, axis: usize, start: usize, len: usize) -> Self {
        let mut part = self;
        part.offset += start * self.strides[axis];
        part.sizes[axis] = len;
        part
    }
}

/// y = x, or += it, element by element of two views of equal sizes.
pub(super) fn copy_view(x: &Tensor, from: View, to: &Destination, into: View) -> Result<()> {
    debug_assert_eq!(from.sizes, into.sizes);
    let walk = Walk::new(from.sizes, from.strides, into.strides);
    let offsets = [from.offset, into.offset];
    let (walk, (kernel, item)) = match walk.in_fours(offsets) {
        Some(fours) => (fours, FORMS.pick(4)),
        None => (walk, FORMS.pick(1)),
    };
    let [x_offset, y_offset] = offsets.map(|offset| (offset / item) as u32);
    let params = CopyParams::along(&walk, walk.len() as u32, to.flag(), x_offset, y_offset);
    x.gpu().dispatch(kernel, &params, &[x.buffer(), to.tensor.buffer()], Grid::linear(walk.len(), LANES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dims: &[usize]) -> Axes {
        sizes(Shape::new(dims).unwrap_or_else(|| panic!("{dims:?}")))
    }

    #[test]
    fn axes_without_a_gap_become_one() {
        let plain = View::all(of(&[2, 3, 4]));
        let walk = Walk::new(plain.sizes, plain.strides, plain.strides);
        assert_eq!((walk.sizes, walk.x), ([1, 1, 1, 1, 1, 24], [0, 0, 0, 0, 0, 1]));
        // [2, 3, 4] + [4]: rows and columns.
        let walk = Walk::new(plain.sizes, plain.strides, repeating_strides(of(&[4])));
        assert_eq!((walk.sizes, walk.y), ([1, 1, 1, 1, 6, 4], [0, 0, 0, 0, 0, 1]));
        // A part along the middle axis leaves a gap behind it.
        let part = plain.part(4, 1, 2);
        let walk = Walk::new(part.sizes, part.strides, strides(part.sizes));
        assert_eq!((walk.sizes, walk.x, walk.y), ([1, 1, 1, 1, 2, 8], [0, 0, 0, 0, 12, 1], [0, 0, 0, 0, 8, 1]));
    }

    #[test]
    fn fours_need_everything_in_fours() {
        let (plain, part) = (View::all(of(&[2, 3, 8])), View::all(of(&[2, 3, 8])).part(5, 4, 4));
        let walk = Walk::new(part.sizes, part.strides, strides(part.sizes));
        assert_eq!(walk.in_fours([4, 0]).map(|w| (w.sizes[5], w.x[4])), Some((1, 2)));
        assert_eq!(walk.in_fours([1, 0]), None);
        let turned = Walk::new(plain.sizes, [0, 0, 0, 24, 1, 3], plain.strides);
        assert_eq!(turned.in_fours([0, 0]), None);
    }
}
