//! Resampling along one axis: which source samples make each new one, and with what weights. Shared by pictures, which are resized as
//! Pillow does, and position embeddings, resized as PyTorch does: with antialiasing by the same filters, or without
//! ([`Axis::plain`]).
//!
//! Of a window that starts at `start` and is `length` long, new sample *i* has its centre at c = start + (i + 1/2)·s in the
//! source, s = length / size. It is the weighted mean of the source samples that lie within the filter's reach of c, with Keys'
//! cubic kernel (a = −1/2), which reaches 2 samples far, or a triangle of 1; both stretched by max(s, 1), which is the antialiasing.

use crate::preprocess::Interpolation;

/// The source samples `start..start + count` that make one new sample.
pub(crate) struct Taps {
    pub(crate) start: usize,
    pub(crate) count: usize,
    /// Where their weights start in [`Axis::weights`].
    weights: usize,
}

/// How one axis is resampled: taps and their weights, of sum 1, for each new sample.
pub(crate) struct Axis<W> {
    pub(crate) taps: Vec<Taps>,
    weights: Vec<W>,
}

impl<W> Axis<W> {
    pub(crate) fn weights(&self, taps: &Taps) -> &[W] {
        &self.weights[taps.weights..taps.weights + taps.count]
    }

    /// The same with other numbers for weights.
    #[cfg(feature = "pictures")]
    pub(crate) fn map<V>(self, weight: impl FnMut(W) -> V) -> Axis<V> {
        Axis { taps: self.taps, weights: self.weights.into_iter().map(weight).collect() }
    }
}

/// What of an axis falls on what of the resampled one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edges {
    /// The outer edges of the first and last samples.
    Whole,
    /// The samples' own centres: PyTorch's `align_corners`.
    Aligned,
}

impl Axis<f64> {
    /// `size` new samples of the window `length` long from `start`, in an axis of `source` samples. The window is not empty
    /// and lies inside.
    pub(crate) fn new(source: usize, start: f64, length: f64, size: usize, filter: Interpolation) -> Self {
        let (reach, kernel): (f64, fn(f64) -> f64) = match filter {
            Interpolation::Bicubic => (2.0, |x| cubic(x, ANTIALIASED)),
            Interpolation::Bilinear => (1.0, triangle),
        };
        let scale = length / size as f64;
        let stretch = scale.max(1.0);
        let (reach, shrink) = (reach * stretch, 1.0 / stretch);
        let mut axis = Axis { taps: Vec::with_capacity(size), weights: Vec::new() };
        for index in 0..size {
            let centre = start + (index as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let end = (centre + reach + 0.5).min(source as f64) as usize;
            axis.push(first, (first..end).map(|x| kernel((x as f64 - centre + 0.5) * shrink)));
        }
        axis
    }

    /// `size` new samples of an axis of `source` samples without antialiasing: each of its four nearest by Keys' kernel with
    /// a = −3/4, or of its two nearest, where the axis' ends are repeated beyond it, as PyTorch's `interpolate` by `mode="bicubic"` or
    /// `"bilinear"`. The axis is not empty.
    pub(crate) fn plain(source: usize, size: usize, filter: Interpolation, edges: Edges) -> Self {
        let (taps, kernel): (&[f64], fn(f64) -> f64) = match filter {
            Interpolation::Bicubic => (&[-1.0, 0.0, 1.0, 2.0], |x| cubic(x, PLAIN)),
            Interpolation::Bilinear => (&[0.0, 1.0], triangle),
        };
        let last = (source - 1) as f64;
        let centre_of = |index: f64| match edges {
            Edges::Whole => (index + 0.5) * (source as f64 / size as f64) - 0.5,
            Edges::Aligned => index * last / (size - 1).max(1) as f64,
        };
        let mut axis = Axis { taps: Vec::with_capacity(size), weights: Vec::new() };
        for index in 0..size {
            let centre = centre_of(index as f64);
            let left = centre.floor();
            let inside = |tap: &f64| (left + tap).clamp(0.0, last) as usize;
            let places = taps.iter().map(inside);
            let (first, end) = (places.clone().min().unwrap_or(0), places.max().unwrap_or(0));
            let mut weights = vec![0.0; end - first + 1];
            for tap in taps {
                weights[inside(tap) - first] += kernel(left + tap - centre);
            }
            axis.push(first, weights.into_iter());
        }
        axis
    }

    /// Adds taps with their weights brought to sum 1.
    fn push(&mut self, start: usize, weights: impl Iterator<Item = f64>) {
        let at = self.weights.len();
        self.weights.extend(weights);
        let added = &mut self.weights[at..];
        let normalise = 1.0 / added.iter().sum::<f64>();
        added.iter_mut().for_each(|weight| *weight *= normalise);
        self.taps.push(Taps { start, count: added.len(), weights: at });
    }
}

/// a of [`cubic`] in Pillow, and in PyTorch with antialiasing.
const ANTIALIASED: f64 = -0.5;
/// The same in PyTorch without.
const PLAIN: f64 = -0.75;

/// Keys' cubic convolution kernel with the slope `a` at 1 (R. G. Keys, "Cubic convolution interpolation for digital image
/// processing", 1981).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// 1 at 0, and 0 from 1 on.
fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}
