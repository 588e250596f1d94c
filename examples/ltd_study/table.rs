//! The tables.

use std::fmt::Write;

use crate::arms::{Arm, FULL};
use crate::costs::Costs;
use crate::runs::Run;
use crate::study::results::{differences, of};
use crate::study::spread::Spread;

/// The arms that full length's accuracy in less time is read off, shortest first.
const SHORTER: [&str; 3] = ["full-50", "full-75", FULL];

/// Of accuracy, in points.
pub fn to_full(runs: &[Run], arm: &str) -> Vec<f64> {
    differences(runs, arm, FULL, |run| 100.0 * run.test_accuracy)
}

/// An arm's accuracy less that of full length in the same time, in points: between the runs of full length that take a little
/// less and a little more. None where full length was not tried in so little time.
fn to_full_in_time(runs: &[Run], arm: &str, costs: &Costs) -> Option<Vec<f64>> {
    let seconds = |arm: &str| Some(costs.get(arm)?.seconds);
    let time = seconds(arm)?;
    let pair = SHORTER.windows(2).find(|pair| {
        let [below, above] = [pair[0], pair[1]].map(seconds);
        below.is_some_and(|t| t <= time) && above.is_some_and(|t| t >= time)
    })?;
    let [below, above] = [seconds(pair[0])?, seconds(pair[1])?];
    let weight = (time - below) / (above - below);
    let to_below = differences(runs, arm, pair[0], |run| 100.0 * run.test_accuracy);
    let to_above = differences(runs, arm, pair[1], |run| 100.0 * run.test_accuracy);
    Some(to_below.iter().zip(&to_above).map(|(b, a)| b * (1.0 - weight) + a * weight).collect())
}

/// A Markdown table with a line for each arm that has run.
pub fn table(arms: &[Arm], runs: &[Run], costs: &Costs) -> String {
    let mut text = String::from(
        "| arm | seeds | rate | test accuracy, % | less full length, points (95 %) | less full length in the same time | time / full | peak memory, MB |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for arm in arms {
        let own = of(runs, arm.name);
        let Some(first) = own.first() else { continue };
        let accuracy = spread(&own, |run| run.test_accuracy);
        let deviation = if own.len() > 1 { format!(" ± {:.2}", accuracy.deviation) } else { String::new() };
        let to_full = if arm.name == FULL { String::new() } else { interval(&to_full(runs, arm.name)) };
        let in_time = match to_full_in_time(runs, arm.name, costs) {
            Some(differences) if !SHORTER.contains(&arm.name) => interval(&differences),
            _ => String::new(),
        };
        let [time, peak] = match costs.get(arm.name) {
            None => Default::default(),
            Some(cost) => [
                share_of_full(arm, costs).map_or_else(String::new, |share| format!("{share:.2}")),
                format!("{:.0}", cost.peak_bytes as f64 / 1e6),
            ],
        };
        // A String takes whatever is written to it.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.2}{deviation} | {to_full} | {in_time} | {time} | {peak} |",
            arm.what,
            own.len(),
            first.rate,
            accuracy.mean,
        );
    }
    text
}

/// An arm's time over full length's.
pub fn share_of_full(arm: &Arm, costs: &Costs) -> Option<f64> {
    Some(costs.get(arm.name)?.seconds / costs.get(FULL)?.seconds)
}

/// Points of accuracy by which an arm may be behind full length and yet count as no worse.
const NO_WORSE: f64 = 0.2;

/// A line with the arms that are no worse than full length on the average of common seeds, the fastest first.
pub fn no_worse(arms: &[Arm], runs: &[Run], costs: &Costs) -> String {
    let is_no_worse = |arm: &&Arm| Spread::of(&to_full(runs, arm.name)).mean >= -NO_WORSE;
    let mut found: Vec<_> =
        arms.iter().filter(is_no_worse).filter_map(|arm| Some((share_of_full(arm, costs)?, arm.name))).collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let found: Vec<String> = found.into_iter().map(|(share, name)| format!("{name} {share:.2}")).collect();
    format!("Within {NO_WORSE} points of full length, or above, with the time over its: {}\n", found.join(", "))
}

/// A Markdown table of what trained models make of a share of the tokens.
pub fn thinned(arms: &[Arm], runs: &[Run]) -> String {
    let mut text = String::from("| arm | all tokens | 75 % | 50 % | 25 % |\n|---|---:|---:|---:|---:|\n");
    for arm in arms {
        let own = of(runs, arm.name);
        if own.is_empty() {
            continue;
        }
        let cell = |value: fn(&Run) -> f64| format!("{:.1}", spread(&own, value).mean);
        let cells =
            [cell(|r| r.accuracy_100), cell(|r| r.accuracy_75), cell(|r| r.accuracy_50), cell(|r| r.accuracy_25)];
        // As above.
        let _ = writeln!(text, "| {} | {} |", arm.what, cells.join(" | "));
    }
    text
}

/// Of a share, in per cent.
fn spread(runs: &[&Run], value: impl Fn(&Run) -> f64) -> Spread {
    Spread::of(&runs.iter().map(|run| 100.0 * value(run)).collect::<Vec<_>>())
}

fn interval(differences: &[f64]) -> String {
    let spread = Spread::of(differences);
    match spread.half_width() {
        None if differences.is_empty() => String::new(),
        None => format!("{:+.2}", spread.mean),
        Some(half) => format!("{:+.2} ({:+.2} to {:+.2})", spread.mean, spread.mean - half, spread.mean + half),
    }
}
