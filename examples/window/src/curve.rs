//! A line of measured values of any length, in bounded memory.

use egui_plot::PlotPoint;

/// Points that are kept, at most.
const MOST: usize = 1024;

/// The means of as many neighbouring values as it takes to stay below [`MOST`] points.
#[derive(Clone, Debug)]
pub struct Curve {
    points: Vec<PlotPoint>,
    /// Values of a point.
    each: u32,
    /// The values of the point to come: their sum and number.
    open: (f64, u32),
    last: Option<f64>,
}

impl Default for Curve {
    fn default() -> Self {
        Curve { points: Vec::new(), each: 1, open: (0.0, 0), last: None }
    }
}

impl Curve {
    /// Adds the value at `x`, which is larger than those before.
    pub fn push(&mut self, x: f64, value: f64) {
        self.last = Some(value);
        self.open = (self.open.0 + value, self.open.1 + 1);
        if self.open.1 < self.each {
            return;
        }
        self.points.push(PlotPoint::new(x, self.open.0 / f64::from(self.open.1)));
        self.open = (0.0, 0);
        if self.points.len() >= MOST {
            let mean = |pair: &[PlotPoint]| PlotPoint::new(pair[1].x, (pair[0].y + pair[1].y) / 2.0);
            self.points = self.points.chunks_exact(2).map(mean).collect();
            self.each *= 2;
        }
    }

    pub fn points(&self) -> &[PlotPoint] {
        &self.points
    }

    /// The newest value.
    pub fn last(&self) -> Option<f64> {
        self.last
    }
}

/// A mean in which older values count less and less.
#[derive(Clone, Copy, Debug, Default)]
pub struct Smooth {
    sum: f64,
    weight: f64,
}

impl Smooth {
    /// What is left of a value's weight at the next one.
    const DECAY: f64 = 0.95;

    /// The mean, with another value.
    pub fn push(&mut self, value: f64) -> f64 {
        self.sum = self.sum * Self::DECAY + value;
        self.weight = self.weight * Self::DECAY + 1.0;
        self.sum / self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_keeps_its_mean() {
        let mut curve = Curve::default();
        let count = 100 * MOST;
        for i in 0..count {
            curve.push(i as f64, i as f64);
        }
        assert!(curve.points().len() < MOST && curve.points().len() >= MOST / 4);
        let mean = curve.points().iter().map(|point| point.y).sum::<f64>() / curve.points().len() as f64;
        assert!((mean / (count as f64 / 2.0) - 1.0).abs() < 0.01, "{mean}");
        assert!(curve.points().windows(2).all(|pair| pair[0].x < pair[1].x && pair[0].y < pair[1].y));
        assert_eq!(curve.last(), Some((count - 1) as f64));
    }

    #[test]
    fn a_smooth_value_begins_at_the_first() {
        let mut smooth = Smooth::default();
        assert_eq!(smooth.push(3.0), 3.0);
        assert!((0..500).fold(0.0, |_, _| smooth.push(1.0)) - 1.0 < 1e-6);
    }
}
