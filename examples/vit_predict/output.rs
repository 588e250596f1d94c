//! What is printed, and written as CSV.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::console::printable;
use crate::source::Source;

/// Characters of a class's name that are printed.
const WIDEST: usize = 40;

pub struct Output<'a> {
    source: &'a Source,
    csv: Option<Csv>,
    /// Width of the column of names.
    width: usize,
    pictures: usize,
}

impl<'a> Output<'a> {
    pub fn create(csv: Option<&Path>, source: &'a Source, top: usize) -> Result<Self> {
        let top = top.min(source.classes());
        let open = |path: &Path| -> Result<Csv> {
            let mut csv = Csv::create(path)?;
            let columns = (1..=top).flat_map(|rank| [format!("label_{rank}"), format!("probability_{rank}")]);
            csv.writer.write_record(std::iter::once("path".to_owned()).chain(columns))?;
            Ok(csv)
        };
        let length = |class: usize| printable(&source.class(class as u32)).chars().count();
        let width = (0..source.classes()).map(length).max().unwrap_or_default().min(WIDEST);
        Ok(Output { source, csv: csv.map(open).transpose()?, width, pictures: 0 })
    }

    /// One picture with its likeliest classes.
    pub fn picture(&mut self, path: &Path, top: &[(u32, f32)]) -> Result<()> {
        self.pictures += 1;
        let (path, width) = (path.display().to_string(), self.width);
        let mut text = printable(&path);
        for &(class, probability) in top {
            let name = cut(&printable(&self.source.class(class)));
            text += &format!("\n    {name:width$} {:6.2} %", 100.0 * probability);
        }
        // A reader may end early: `| head`. A file is not left out for that.
        let printed = writeln!(std::io::stdout(), "{text}");
        if self.csv.is_none() {
            printed.context("printing")?;
        }
        if let Some(csv) = &mut self.csv {
            let columns = top.iter().flat_map(|&(class, p)| [self.source.class(class), p.to_string()]);
            csv.writer.write_record(std::iter::once(path).chain(columns)).context("writing the CSV file")?;
        }
        Ok(())
    }

    pub fn finish(&mut self) -> Result<()> {
        self.csv.take().map_or(Ok(()), Csv::finish)
    }

    pub fn pictures(&self) -> usize {
        self.pictures
    }
}

/// The CSV file. Its name has the content of before until all of the new one is there.
struct Csv {
    writer: csv::Writer<File>,
    path: PathBuf,
    /// What is written to in its stead: a file beside it, unless it is a pipe or a device.
    new: PathBuf,
}

impl Csv {
    fn create(path: &Path) -> Result<Self> {
        let mut name = OsString::from(".");
        name.push(path.file_name().with_context(|| format!("--csv {}: no file's name", path.display()))?);
        name.push(".new");
        let is_file = fs::metadata(path).map_or(true, |there| there.is_file());
        let new = if is_file { path.with_file_name(name) } else { path.to_owned() };
        let writer = csv::Writer::from_path(&new).with_context(|| format!("creating {}", path.display()))?;
        Ok(Csv { writer, path: path.to_owned(), new })
    }

    fn finish(mut self) -> Result<()> {
        let Csv { writer, path, new } = &mut self;
        let written = writer.flush().and_then(|()| if path == new { Ok(()) } else { fs::rename(new, &*path) });
        written.with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for Csv {
    fn drop(&mut self) {
        if self.path != self.new {
            // Gone already where it has become the file.
            let _ = fs::remove_file(&self.new);
        }
    }
}

fn cut(name: &str) -> String {
    match name.char_indices().nth(WIDEST) {
        Some(_) => name.chars().take(WIDEST - 1).chain(['…']).collect(),
        None => name.to_owned(),
    }
}
