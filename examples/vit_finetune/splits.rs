//! splits.csv: which picture of a folder is in which split, and which of them could not be read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use wgrad::data::{DataSet, Skipped};

use crate::args::Args;
use crate::setup::Setup;
use crate::training::console::printable;
use crate::training::files;

const COLUMNS: [&str; 4] = ["path", "class", "split", "problem"];

/// A picture's path as seen from the data's folder, its class and its split.
type Row = (String, String, &'static str);

/// The file, and what it says of pictures that could not be read.
pub struct Splits<'a> {
    data: &'a DataSet,
    /// The data's folder.
    dir: String,
    path: PathBuf,
    /// Why a picture cannot be read, by its path.
    problems: BTreeMap<String, String>,
}

impl<'a> Splits<'a> {
    /// Begins the file in a new run's `folder`. A run that goes on keeps its own.
    ///
    /// # Errors
    /// If a run that goes on has not the pictures that it began with.
    pub fn open(args: &Args, setup: &'a Setup, folder: &Path) -> Result<Self> {
        let dir = args.data_dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
        let mut splits = Splits { data: &setup.data, dir, path: folder.join("splits.csv"), problems: BTreeMap::new() };
        if args.output.resume.is_some() && splits.path.exists() {
            splits.go_on(folder)?;
            splits.note(&setup.unreadable);
        } else {
            splits.write(&setup.unreadable)?;
        }
        Ok(splits)
    }

    /// Takes over what the run has found so far.
    fn go_on(&mut self, folder: &Path) -> Result<()> {
        let mut saved = BTreeSet::new();
        let reading = || format!("reading {}", self.path.display());
        for record in csv::Reader::from_path(&self.path).with_context(reading)?.into_deserialize() {
            let (picture, class, split, problem): (String, String, String, String) = record.with_context(reading)?;
            if !problem.is_empty() {
                self.problems.insert(picture.clone(), problem);
            }
            saved.insert((picture, class, split));
        }
        let now: BTreeSet<_> = self.rows().map(|(picture, class, split)| (picture, class, split.to_owned())).collect();
        let run = folder.display();
        if let Some((picture, _, split)) = saved.difference(&now).next() {
            let picture = printable(picture);
            bail!(
                "--resume {run}: {picture} was in {split} when the run began, and is not now: put it back, or begin a new run"
            );
        }
        if let Some((picture, _, split)) = now.difference(&saved).next() {
            let picture = printable(picture);
            bail!(
                "--resume {run}: {picture} is in {split} now, and was not when the run began: take it out, or begin a new run"
            );
        }
        Ok(())
    }

    /// Writes the file, with these pictures among the unreadable ones. Data that are no files have no such file.
    pub fn write(&mut self, unreadable: &[Skipped]) -> Result<()> {
        self.note(unreadable);
        if self.data.train.file(0).is_none() {
            return Ok(());
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(COLUMNS)?;
        for (picture, class, split) in self.rows() {
            let problem = self.problems.get(&picture).map_or("", String::as_str);
            writer.write_record([picture.as_str(), &class, split, problem])?;
        }
        files::replace(&self.path, &writer.into_inner().context("writing the list of splits")?)
    }

    fn note(&mut self, unreadable: &[Skipped]) {
        for Skipped { name, reason, .. } in unreadable {
            let picture = self.inside(name).to_owned();
            // What was found first stays, as it was told then.
            self.problems.entry(picture).or_insert_with(|| reason.clone());
        }
    }

    fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let DataSet { train, validation, test, class_names, .. } = self.data;
        [("train", train), ("validation", validation), ("test", test)].into_iter().flat_map(move |(name, split)| {
            (0..).zip(split.labels()).map(move |(sample, &label)| {
                let class = class_names.get(label as usize).cloned().unwrap_or_default();
                (self.inside(&split.name(sample)).to_owned(), class, name)
            })
        })
    }

    /// A picture's path as seen from the data's folder: the same wherever the program was started, and however it was told of
    /// that folder.
    fn inside<'n>(&self, name: &'n str) -> &'n str {
        Path::new(name).strip_prefix(&self.dir).ok().and_then(Path::to_str).unwrap_or(name)
    }
}
