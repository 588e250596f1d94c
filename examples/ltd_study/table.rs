//! Means, spreads, and paired differences to full length.

use std::fmt::Write;

use crate::arms::{Arm, FULL};
use crate::runs::Run;
use crate::timing::TimeShares;

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

/// The runs of an arm.
pub fn of<'a>(runs: &'a [Run], arm: &str) -> Vec<&'a Run> {
    runs.iter().filter(|run| run.arm == arm).collect()
}

/// Accuracy less that of full length with the same seed, in points.
pub fn differences(runs: &[Run], arm: &str) -> Vec<f64> {
    let full = |seed| runs.iter().find(|run| run.arm == FULL && run.seed == seed);
    let pairs = of(runs, arm).into_iter().filter_map(|run| Some((run, full(run.seed)?)));
    pairs.map(|(run, full)| 100.0 * (run.test_accuracy - full.test_accuracy)).collect()
}

/// A Markdown table with a line for each arm that has run.
pub fn table(arms: &[Arm], runs: &[Run], shares: &TimeShares) -> String {
    let mut text = String::from(
        "| arm | seeds | test accuracy, % | less full length, points (95 %) | steps | time / full | wall, s | layer tokens / full |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let tokens = |arm: &str| of(runs, arm).first().map_or(f64::NAN, |run| run.layer_tokens as f64);
    for arm in arms {
        let own = of(runs, &arm.name);
        let Some(first) = own.first() else { continue };
        let accuracy = Spread::of(&own.iter().map(|run| 100.0 * run.test_accuracy).collect::<Vec<_>>());
        let difference = Spread::of(&differences(runs, &arm.name));
        let wall = Spread::of(&own.iter().map(|run| run.wall_seconds).collect::<Vec<_>>()).mean;
        let difference = match difference.half_width() {
            _ if arm.name == FULL => String::new(),
            None => format!("{:+.2}", difference.mean),
            Some(half) => {
                format!("{:+.2} ({:+.2} to {:+.2})", difference.mean, difference.mean - half, difference.mean + half)
            }
        };
        let deviation = if own.len() > 1 { format!(" ± {:.2}", accuracy.deviation) } else { String::new() };
        let (time, share) = (shares[&arm.name], tokens(&arm.name) / tokens(FULL));
        // A String takes whatever is written to it.
        let _ = writeln!(
            text,
            "| {} | {} | {:.2}{deviation} | {difference} | {} | {time:.2} | {wall:.0} | {share:.2} |",
            arm.what,
            own.len(),
            accuracy.mean,
            first.steps,
        );
    }
    text
}
