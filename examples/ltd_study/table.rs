//! The table.

use std::fmt::Write;

use crate::arms::{Arm, FULL};
use crate::runs::Run;
use crate::study::results::{differences, of};
use crate::study::spread::Spread;
use crate::timing::TimeShares;

/// Of accuracy, in points.
pub fn to_full(runs: &[Run], arm: &str) -> Vec<f64> {
    differences(runs, arm, FULL, |run| 100.0 * run.test_accuracy)
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
        let difference = Spread::of(&to_full(runs, &arm.name));
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
