//! splits.csv: which picture of a folder is in which split, and which of them could not be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wgrad::data::{DataSet, Skipped};

use crate::files;

const COLUMNS: [&str; 4] = ["path", "class", "split", "problem"];

/// The file, and what it says of pictures that could not be read.
pub struct Splits<'a> {
    data: &'a DataSet,
    path: PathBuf,
    /// Why a picture cannot be read, by its path.
    problems: BTreeMap<String, String>,
}

impl<'a> Splits<'a> {
    /// The file in a new run's `folder`.
    pub fn create(folder: &Path, data: &'a DataSet) -> Self {
        Splits { data, path: folder.join("splits.csv"), problems: BTreeMap::new() }
    }

    /// That of a run that goes on, with what it has found so far.
    pub fn resume(folder: &Path, data: &'a DataSet) -> Result<Self> {
        let mut splits = Self::create(folder, data);
        if !splits.path.exists() {
            return Ok(splits);
        }
        let reading = || format!("reading {}", splits.path.display());
        for record in csv::Reader::from_path(&splits.path).with_context(reading)?.records() {
            let record = record.with_context(reading)?;
            if let (Some(picture), Some(problem)) = (record.get(0), record.get(3).filter(|text| !text.is_empty())) {
                splits.problems.insert(picture.to_owned(), problem.to_owned());
            }
        }
        Ok(splits)
    }

    /// Writes the file, with these pictures among the unreadable ones. Data that are no files have no such file.
    pub fn write(&mut self, unreadable: &[Skipped]) -> Result<()> {
        self.problems.extend(unreadable.iter().map(|skipped| (skipped.name.clone(), skipped.reason.clone())));
        let DataSet { train, validation, test, class_names, .. } = self.data;
        if train.file(0).is_none() {
            return Ok(());
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(COLUMNS)?;
        for (name, split) in [("train", train), ("validation", validation), ("test", test)] {
            for (sample, &label) in (0..).zip(split.labels()) {
                let picture = split.name(sample);
                let class = class_names.get(label as usize).map_or("", String::as_str);
                let problem = self.problems.get(&picture).map_or("", String::as_str);
                writer.write_record([picture.as_str(), class, name, problem])?;
            }
        }
        files::replace(&self.path, &writer.into_inner().context("writing the list of splits")?)
    }
}
