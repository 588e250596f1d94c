//! What a run leaves behind in report.json, and how that is shown.

use std::path::{Path, PathBuf};

use maud::{Markup, html};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use wgrad::train::Evaluation;

use crate::training::columns::{Column, columns, decimals, percent, text, whole};
use crate::training::console::printable;
use crate::training::report::{Course, Run, Which};
use crate::training::table::{Line, mean};
use crate::training::words::{Score, Words};

/// Of a program that learns to predict tokens.
pub const WORDS: Words = Words {
    score: Score {
        name: "perplexity",
        title: "Perplexity",
        of: |measured| measured.loss.map(f64::exp),
        times: 1.0,
        unit: "",
    },
    units: "tokens",
    count: |step| (step.samples * step.tokens) as u64,
};

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Fluency {
    /// Mean loss of a predicted token, in nats.
    pub loss: f64,
    /// e to the loss.
    #[serde(deserialize_with = "or_infinite")]
    pub perplexity: f64,
    /// Bits for a byte of the text, where each token is predicted from those before it.
    pub bits_per_byte: Option<f64>,
    /// Share of tokens that were predicted best, in 0..=1, where they are counted.
    pub accuracy: Option<f64>,
}

impl Fluency {
    /// Of a text whose predicted tokens stand for so many bytes each.
    pub fn new(evaluation: Evaluation, bytes_per_token: Option<f64>) -> Self {
        let Evaluation { loss, accuracy, counted } = evaluation;
        Fluency {
            loss,
            perplexity: loss.exp(),
            bits_per_byte: bytes_per_token.map(|bytes| loss / std::f64::consts::LN_2 / bytes),
            accuracy: (counted > 0).then_some(accuracy),
        }
    }
}

/// JSON has no infinity: a perplexity that is one is written as null.
fn or_infinite<'de, D: Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or(f64::INFINITY))
}

/// "perplexity 12.34, 1.234 bits per byte".
impl std::fmt::Display for Fluency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "perplexity {:.2}", self.perplexity)?;
        if let Some(bits) = self.bits_per_byte {
            write!(f, ", {bits:.3} bits per byte")?;
        }
        if let Some(accuracy) = self.accuracy {
            write!(f, ", {:.2} % of the tokens predicted", 100.0 * accuracy)?;
        }
        Ok(())
    }
}

/// One run's results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunReport {
    #[serde(flatten)]
    pub which: Which,
    /// Of the checkpoint that did best on the validation text.
    pub test: Fluency,
    /// Of the weights that the run began with.
    pub before: Fluency,
    pub best_epoch: u64,
    #[serde(deserialize_with = "or_infinite")]
    pub validation_perplexity: f64,
    #[serde(flatten)]
    pub course: Course,
    /// Of the steps that were timed; 0 where none was.
    pub tokens_per_second: f64,
    /// A text that the tested model has made up.
    pub sample: Option<String>,
    /// Where its checkpoints lie, relative to this report.
    pub folder: PathBuf,
}

impl Run for RunReport {
    fn which(&self) -> &Which {
        &self.which
    }

    fn course(&self) -> &Course {
        &self.course
    }

    fn course_mut(&mut self) -> &mut Course {
        &mut self.course
    }

    fn score(&self) -> f64 {
        self.test.perplexity
    }

    fn speed(&self) -> f64 {
        self.tokens_per_second
    }
}

/// These programs' lines of the table at the end; bits only of a kind whose losses add up to those of a text.
pub fn lines(is_causal: bool) -> Vec<Line<RunReport>> {
    let all: [(bool, Line<RunReport>); 4] = [
        (true, ("test bits per byte", |runs| shown(runs, |r| r.test.bits_per_byte, 3))),
        (false, ("tokens predicted, %", |runs| shown(runs, |r| r.test.accuracy.map(|share| 100.0 * share), 2))),
        (false, ("perplexity before", |runs| shown(runs, |r| Some(r.before.perplexity), 2))),
        (true, ("bits per byte before", |runs| shown(runs, |r| r.before.bits_per_byte, 3))),
    ];
    all.into_iter().filter(|(is_of_causal, _)| is_causal || !is_of_causal).map(|(_, line)| line).collect()
}

/// The mean, where there is such a value.
fn shown(runs: &[&RunReport], value: impl Fn(&RunReport) -> Option<f64>, digits: usize) -> String {
    let mean = mean(runs, |run| value(run).unwrap_or(f64::NAN));
    if mean.is_nan() { String::new() } else { format!("{mean:.digits$}") }
}

/// The table of runs on the page.
pub fn run_columns() -> Vec<Column> {
    let results: [Column; 6] = [
        ("test perplexity", "test", |test| decimals(&test["perplexity"])),
        ("bits per byte", "test", |test| decimals(&test["bits_per_byte"])),
        ("tokens predicted", "test", |test| percent(&test["accuracy"])),
        ("perplexity before", "before", |before| decimals(&before["perplexity"])),
        ("validation perplexity", "validation_perplexity", decimals),
        ("best epoch", "best_epoch", text),
    ];
    columns(&results, ("tokens/s", "tokens_per_second", whole), &[])
}

/// What the tested model has made up.
pub fn blocks(_: &Path, run: &Value) -> Vec<Markup> {
    let sample = run["sample"].as_str().map(|sample| sample.lines().map(printable).collect::<Vec<_>>().join("\n"));
    sample.map(|sample| html! { h3 { "A sample" } pre { (sample) } }).into_iter().collect()
}
