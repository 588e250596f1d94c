//! Which variant of a kernel a call takes: by the device's family, by the width of its rows, by its precision.

use crate::gpu::{Gpu, Grid, Kernel, KernelFamily, Params};
use crate::shape::DType;

/// One for each family of kernels.
#[derive(Clone, Copy)]
pub(super) struct ByFamily<T = &'static Kernel> {
    pub(super) lane: T,
    pub(super) group: T,
}

impl<T> ByFamily<T> {
    pub(super) fn pick(&self, family: KernelFamily) -> &T {
        match family {
            KernelFamily::Lane => &self.lane,
            KernelFamily::Workgroup => &self.group,
        }
    }

    pub(super) fn as_ref(&self) -> ByFamily<&T> {
        ByFamily { lane: &self.lane, group: &self.group }
    }

    pub(super) fn map<U>(self, part: impl Fn(T) -> U) -> ByFamily<U> {
        ByFamily { lane: part(self.lane), group: part(self.group) }
    }

    pub(super) fn both(&self) -> [&T; 2] {
        [&self.lane, &self.group]
    }
}

impl ByFamily {
    /// A kernel that gives an invocation whole rows, or one that gives them to a team, each with its grid: the team's on GPUs, and
    /// where a row is too long for the loops of one invocation.
    pub(super) fn by_row<P: Params>(self, gpu: &Gpu, params: &P, [lane, group]: [Grid; 2]) -> (&'static Kernel, Grid) {
        let alone = gpu.family() == KernelFamily::Lane && self.lane.fits(params, lane);
        if alone { (self.lane, lane) } else { (self.group, group) }
    }
}

/// One for each kind of item that a kernel counts in: four floats where every row is a multiple of four (nearly always), else
/// one; four halves, where there is such a kernel. Files of their own, `shaders/tiles/vec4.wgsl` and its like, say which.
#[derive(Clone, Copy)]
pub(super) struct ByItem<T: Copy = &'static Kernel> {
    vec4: T,
    scalar: T,
    half: Option<T>,
}

impl<T: Copy> ByItem<T> {
    pub(super) const fn new(vec4: T, scalar: T) -> Self {
        ByItem { vec4, scalar, half: None }
    }

    pub(super) const fn with_half(self, half: T) -> Self {
        ByItem { half: Some(half), ..self }
    }

    /// The one for rows of `width` floats, and the number of floats in its item. Offsets and strides must be multiples of `width`
    /// too.
    pub(super) fn pick(&self, width: usize) -> (T, usize) {
        if width.is_multiple_of(4) { (self.vec4, 4) } else { (self.scalar, 1) }
    }

    /// The same for rows of `dtype`, which are a multiple of four if they are f16.
    pub(super) fn pick_as(&self, dtype: DType, width: usize) -> (T, usize) {
        match (dtype, self.half) {
            (DType::F16, Some(half)) => (half, 4),
            _ => self.pick(width),
        }
    }
}

/// One for each precision of activations.
#[derive(Clone, Copy)]
pub(super) struct ByPrecision<T = &'static Kernel> {
    pub(super) full: T,
    pub(super) half: T,
}

impl<T> ByPrecision<T> {
    pub(super) fn pick(&self, dtype: DType) -> &T {
        if dtype == DType::F16 { &self.half } else { &self.full }
    }

    pub(super) fn both(&self) -> [&T; 2] {
        [&self.full, &self.half]
    }
}
