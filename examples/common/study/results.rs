//! The file that keeps the results of runs: a line as soon as one ends.

use std::fs::{File, OpenOptions};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What came of a run.
pub trait Run: Serialize + DeserializeOwned {
    /// What other runs must share for a comparison.
    fn settings(&self) -> &str;

    fn arm(&self) -> &str;

    fn seed(&self) -> u64;
}

/// [`Run`] for structs with fields of these names.
macro_rules! run {
    ($name:ty) => {
        impl $crate::study::results::Run for $name {
            fn settings(&self) -> &str {
                &self.settings
            }

            fn arm(&self) -> &str {
                &self.arm
            }

            fn seed(&self) -> u64 {
                self.seed
            }
        }
    };
}

pub(crate) use run;

/// The runs that have ended, here and in the file.
pub struct Results<R> {
    writer: csv::Writer<File>,
    runs: Vec<R>,
}

impl<R: Run> Results<R> {
    /// Reads what is there; new runs will be appended.
    ///
    /// # Errors
    /// If it is of runs with other settings.
    pub fn open(path: &Path, settings: &str) -> Result<Self> {
        let mut runs: Vec<R> = Vec::new();
        if path.exists() {
            let mut reader = csv::Reader::from_path(path).with_context(|| format!("reading {}", path.display()))?;
            runs = reader
                .deserialize()
                .collect::<Result<_, _>>()
                .with_context(|| format!("reading {}", path.display()))?;
        }
        if let Some(other) = runs.iter().find(|run| run.settings() != settings) {
            ensure!(false, "{} is of another study ({}; this is {settings})", path.display(), other.settings());
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let writer = csv::WriterBuilder::new().has_headers(runs.is_empty()).from_writer(file);
        Ok(Results { writer, runs })
    }

    pub fn has(&self, arm: &str, seed: u64) -> bool {
        self.runs.iter().any(|run| run.arm() == arm && run.seed() == seed)
    }

    pub fn add(&mut self, run: R) -> Result<()> {
        self.writer.serialize(&run)?;
        self.writer.flush()?;
        self.runs.push(run);
        Ok(())
    }

    pub fn runs(&self) -> &[R] {
        &self.runs
    }
}

/// The runs of an arm.
pub fn of<'a, R: Run>(runs: &'a [R], arm: &str) -> Vec<&'a R> {
    runs.iter().filter(|run| run.arm() == arm).collect()
}

/// What `value` is in an arm's runs, less what it is in another's with the same seeds.
pub fn differences<R: Run>(runs: &[R], arm: &str, other: &str, value: impl Fn(&R) -> f64) -> Vec<f64> {
    let rival = |seed| runs.iter().find(|run| run.arm() == other && run.seed() == seed);
    let pairs = of(runs, arm).into_iter().filter_map(|run| Some((run, rival(run.seed())?)));
    pairs.map(|(run, rival)| value(run) - value(rival)).collect()
}
