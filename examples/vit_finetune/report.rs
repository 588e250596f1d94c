//! What a run leaves behind in report.json, and how that is shown.

use std::path::{Path, PathBuf};

use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::findings::ClassReport;
use crate::training::columns::{Column, columns, decimals, list, percent, text, time, whole};
use crate::training::html::drawing;
use crate::training::report::{Course, Run, Which};
use crate::training::table::{Line, mean, spread};
use crate::training::words::{Score, Words};

/// Of a program that learns to tell pictures apart.
pub const WORDS: Words = Words {
    score: Score {
        name: "accuracy",
        title: "Accuracy in %",
        of: |measured| measured.accuracy,
        times: 100.0,
        unit: " %",
    },
    units: "images",
    count: |step| step.samples as u64,
};

/// One run's results. Shares are in 0..=1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunReport {
    #[serde(flatten)]
    pub which: Which,
    /// The split that the test's results are of.
    #[serde(default)]
    pub tested_on: TestedOn,
    pub test_accuracy: f64,
    pub test_loss: f64,
    /// The checkpoint that was tested: the one with the best validation accuracy.
    pub best_epoch: u64,
    pub validation_accuracy: f64,
    #[serde(flatten)]
    pub course: Course,
    /// What the features of a probe took, besides; nothing where everything goes through the whole model.
    #[serde(default)]
    pub features_seconds: Option<f64>,
    /// Of the steps that were timed; 0 where none was.
    pub images_per_second: f64,
    /// Pictures that could not be read.
    pub skipped: Vec<String>,
    /// Where its checkpoints and pictures lie, relative to this report.
    pub folder: PathBuf,
    pub per_class: Vec<ClassReport>,
}

/// What the best checkpoint was tested on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestedOn {
    #[default]
    Test,
    /// There are no test pictures: the result is of those that the checkpoint was chosen by.
    Validation,
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
        self.test_accuracy
    }

    fn is_tested(&self) -> bool {
        self.tested_on == TestedOn::Test
    }

    fn speed(&self) -> f64 {
        self.images_per_second
    }
}

/// This program's lines of the table at the end.
pub const LINES: [Line<RunReport>; 2] = [
    ("features, besides", |runs| {
        let is_probe = runs.iter().all(|run| run.features_seconds.is_some());
        if is_probe { spread(runs, |run| run.features_seconds.unwrap_or_default(), 1, " s") } else { String::new() }
    }),
    ("pictures skipped", |runs| format!("{:.0}", mean(runs, |r| r.skipped.len() as f64))),
];

/// The table of runs on the page.
pub fn run_columns() -> Vec<Column> {
    let results: [Column; 5] = [
        ("tested on", "tested_on", text),
        ("test accuracy", "test_accuracy", percent),
        ("test loss", "test_loss", decimals),
        ("validation accuracy", "validation_accuracy", percent),
        ("best epoch", "best_epoch", text),
    ];
    let more: [Column; 2] = [("features", "features_seconds", time), ("pictures skipped", "skipped", count)];
    columns(&results, ("images/s", "images_per_second", whole), &more)
}

/// The page's title.
pub fn title(report: &Value) -> String {
    let settings = &report["args"];
    let folder = settings["data_dir"].as_str().and_then(|dir| Path::new(dir).file_name()?.to_str().map(str::to_owned));
    let data = folder.or_else(|| settings["data"].as_str().map(str::to_owned));
    data.map_or_else(|| "Finetuning".to_owned(), |data| format!("Finetuning on {data}"))
}

/// What was found of one run in the test: the pictures that [`crate::findings`] drew in its folder, and its classes.
pub fn blocks(folder: &Path, run: &Value) -> Vec<Markup> {
    let confusion =
        drawing(&folder.join("confusion.png"), "Confusion matrix: true classes in rows, predictions in columns");
    let mistakes = drawing(&folder.join("mistakes.png"), "The mistakes that the model was surest of");
    let classes = list(run, "per_class");
    let classes = (!classes.is_empty()).then(|| class_table(classes));
    let mut blocks: Vec<Markup> = [confusion, mistakes, classes].into_iter().flatten().collect();
    let skipped = list(run, "skipped");
    if !(blocks.is_empty() || skipped.is_empty()) {
        blocks.push(html! {
            details {
                summary { "Pictures that could not be read (" (skipped.len()) ")" }
                ul { @for line in skipped { li { (text(line)) } } }
            }
        });
    }
    blocks
}

fn class_table(classes: &[Value]) -> Markup {
    html! {
        details open[classes.len() <= 20] {
            summary { "Accuracy by class (" (classes.len()) ")" }
            div.wide {
                table.shares {
                    thead { tr { th { "class" } th { "samples" } th { "accuracy" } th {} } }
                    tbody {
                        @for class in classes {
                            tr {
                                td { (text(&class["name"])) }
                                td { (text(&class["samples"])) }
                                td { (percent(&class["accuracy"])) }
                                td.bar {
                                    @if let Some(share) = class["accuracy"].as_f64() {
                                        span style={ "width:" (format!("{:.1}", 100.0 * share)) "%" } {}
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn count(value: &Value) -> String {
    value.as_array().map_or_else(|| "–".to_owned(), |list| list.len().to_string())
}
