//! What is printed, and written as CSV.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::console::printable;
use crate::source::Source;

/// Characters of a class's name that are printed.
const WIDEST: usize = 40;

pub struct Output<'a> {
    source: &'a Source,
    csv: Option<csv::Writer<File>>,
    /// Width of the column of names.
    width: usize,
    pictures: usize,
}

impl<'a> Output<'a> {
    pub fn create(csv: Option<&Path>, source: &'a Source, top: usize) -> Result<Self> {
        let top = top.min(source.classes());
        let open = |path: &Path| -> Result<csv::Writer<File>> {
            let mut writer = csv::Writer::from_path(path).with_context(|| format!("creating {}", path.display()))?;
            let columns = (1..=top).flat_map(|rank| [format!("label_{rank}"), format!("probability_{rank}")]);
            writer.write_record(std::iter::once("path".to_owned()).chain(columns))?;
            Ok(writer)
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
        // A reader may end early: `| head`.
        writeln!(std::io::stdout(), "{text}").context("printing")?;
        if let Some(csv) = &mut self.csv {
            let columns = top.iter().flat_map(|&(class, p)| [self.source.class(class), p.to_string()]);
            csv.write_record(std::iter::once(path).chain(columns)).context("writing the CSV file")?;
        }
        Ok(())
    }

    pub fn finish(&mut self) -> Result<()> {
        self.csv.as_mut().map_or(Ok(()), csv::Writer::flush).context("writing the CSV file")
    }

    pub fn pictures(&self) -> usize {
        self.pictures
    }
}

fn cut(name: &str) -> String {
    match name.char_indices().nth(WIDEST) {
        Some(_) => name.chars().take(WIDEST - 1).chain(['…']).collect(),
        None => name.to_owned(),
    }
}
