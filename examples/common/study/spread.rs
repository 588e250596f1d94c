//! Means, and how far they may be from the truth.

/// The 97.5 % quantiles of Student's t for 1, 2, .. degrees of freedom; beyond, that of 30 is a little too wide.
const T_975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Mean and standard deviation of a sample.
#[derive(Clone, Copy)]
pub struct Spread {
    pub mean: f64,
    /// NaN for a single value.
    pub deviation: f64,
    pub count: usize,
}

impl Spread {
    pub fn of(values: &[f64]) -> Spread {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Spread { mean, deviation: (squares / (count as f64 - 1.0)).sqrt(), count }
    }

    /// Half the width of the mean's 95 % interval; `None` for a single value.
    pub fn half_width(&self) -> Option<f64> {
        let freedom = self.count.checked_sub(2)?;
        let quantile = T_975.get(freedom).or(T_975.last())?;
        Some(quantile * self.deviation / (self.count as f64).sqrt())
    }
}
