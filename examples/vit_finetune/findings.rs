//! What the test shows beyond one number: pictures, and each class by itself.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use wgrad::data::{Split, Transform};
use wgrad::train::Predictions;

use crate::{confusion, mistakes};

/// A class in report.json.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClassReport {
    pub name: String,
    pub samples: u64,
    /// The share that was recognised, in 0..=1; nothing where there are no samples.
    pub accuracy: Option<f64>,
}

/// Draws confusion.png and mistakes.png into `folder`, and returns the classes. `predictions` are of `split`, as `transform`
/// shows it.
pub fn write(
    folder: &Path,
    split: &Split,
    transform: &Transform,
    predictions: &Predictions,
    names: &[String],
) -> Result<Vec<ClassReport>> {
    let (matrix, sheet) = (folder.join("confusion.png"), folder.join("mistakes.png"));
    // A folder may be used again: what does not hold for this run must not stay.
    for old in [&matrix, &sheet] {
        match std::fs::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", old.display()));
            }
            _ => {}
        }
    }
    if names.len() <= confusion::MOST_CLASSES {
        confusion::draw(&matrix, &predictions.confusion(), names)
            .with_context(|| format!("drawing {}", matrix.display()))?;
    }
    mistakes::draw(&sheet, split, transform, predictions, names)
        .with_context(|| format!("drawing {}", sheet.display()))?;
    let class = |(name, class): (&String, wgrad::train::ClassAccuracy)| ClassReport {
        name: name.clone(),
        samples: class.samples,
        accuracy: class.accuracy(),
    };
    Ok(names.iter().zip(predictions.per_class()).map(class).collect())
}
