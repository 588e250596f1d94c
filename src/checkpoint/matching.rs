//! Which of a model's parameters a checkpoint holds.

use std::collections::BTreeSet;
use std::fmt;

use super::{Checkpoint, quoted};
use crate::error::{Error, Result};

/// How many names an error or a line of a report lists before it counts the rest.
const MAX_LISTED: usize = 8;

/// What may differ between a model and a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct MatchOptions<'a> {
    /// Paths of the classifier head, such as `["head"]`: the parameters at and below them may be missing or of another
    /// shape, as they are where the number of classes differs, and then start anew.
    pub head: &'a [&'a str],
    /// Whether other parameters may be missing or of another shape too. They are then listed as missing.
    pub allow_missing: bool,
}

/// What a checkpoint has in a parameter's place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A tensor of this shape.
    Shape(Vec<usize>),
    /// A tensor of an element type that is not read, as safetensors names it.
    DType(String),
}

/// A parameter that a checkpoint does not provide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// The parameter's path.
    pub name: String,
    /// Its shape in the model.
    pub wanted: Vec<usize>,
    /// What the checkpoint has instead.
    pub found: Found,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} ", self.name, self.wanted)?;
        match &self.found {
            Found::Nothing => f.write_str("(not in the checkpoint)"),
            Found::Shape(shape) => write!(f, "({shape:?} in the checkpoint)"),
            Found::DType(dtype) => write!(f, "({dtype} in the checkpoint, which is not read)"),
        }
    }
}

/// What happens to each parameter of a model, and to each tensor of a checkpoint. Prints as a few lines for a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that the checkpoint provides, in the model's order.
    pub loaded: Vec<String>,
    /// Parameters of the head that keep their initial values.
    pub new: Vec<Deviation>,
    /// Other parameters that keep their initial values; empty unless [`MatchOptions::allow_missing`] is set.
    pub missing: Vec<Deviation>,
    /// Tensors of the checkpoint, of whatever type, that the model has no parameter for.
    pub unused: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = self.loaded.len() + self.new.len() + self.missing.len();
        write!(f, "loaded {} of {parameters} parameters", self.loaded.len())?;
        line(f, "new, from their initial values", &self.new)?;
        line(f, "missing, left at their initial values", &self.missing)?;
        // These names come from the file alone, and may be anything.
        let unused: Vec<String> = self.unused.iter().map(|name| quoted(name)).collect();
        line(f, "in the checkpoint but not in the model", &unused)
    }
}

/// A line of a report, or nothing for an empty list.
fn line(f: &mut fmt::Formatter<'_>, title: &str, items: &[impl fmt::Display]) -> fmt::Result {
    if items.is_empty() { Ok(()) } else { write!(f, "\n{} {title}: {}", items.len(), listed(items)) }
}

/// `a, b, c and 5 more`.
fn listed(items: &[impl fmt::Display]) -> String {
    let shown: Vec<String> = items.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    let rest = items.len() - shown.len();
    let shown = shown.join(", ");
    if rest == 0 { shown } else { format!("{shown} and {rest} more") }
}

/// Compares the parameters that a model wants, by path and shape, with a checkpoint. Nothing is copied: the caller takes
/// the tensors of [`LoadReport::loaded`] from the checkpoint.
///
/// # Errors
/// [`Error::Parameter`], named after the first and listing the others, if parameters outside the head are missing or of
/// another shape and [`MatchOptions::allow_missing`] is not set.
pub fn match_parameters(
    wanted: &[(String, Vec<usize>)],
    have: &Checkpoint,
    options: &MatchOptions<'_>,
) -> Result<LoadReport> {
    let mut report = LoadReport::default();
    for (name, shape) in wanted {
        let Some(found) = deviation(name, shape, have) else {
            report.loaded.push(name.clone());
            continue;
        };
        let deviation = Deviation { name: name.clone(), wanted: shape.clone(), found };
        let is_head = options.head.iter().any(|path| is_at_or_below(name, path));
        if is_head { report.new.push(deviation) } else { report.missing.push(deviation) }
    }
    if !options.allow_missing
        && let Some(first) = report.missing.first()
    {
        let what = format!(
            "{} of {} parameters do not fit the checkpoint: {}",
            report.missing.len(),
            wanted.len(),
            listed(&report.missing)
        );
        return Err(Error::Parameter { name: first.name.clone(), what });
    }
    let names: BTreeSet<&String> = wanted.iter().map(|(name, _)| name).collect();
    let in_file = have.tensors.keys().chain(have.skipped.keys());
    report.unused = in_file.filter(|name| !names.contains(name)).cloned().collect();
    Ok(report)
}

/// What the checkpoint has instead of the parameter, or `None` if it has the parameter.
fn deviation(name: &str, wanted: &[usize], have: &Checkpoint) -> Option<Found> {
    match (have.tensors.get(name), have.skipped.get(name)) {
        (Some(tensor), _) if tensor.shape == wanted => None,
        (Some(tensor), _) => Some(Found::Shape(tensor.shape.clone())),
        (None, Some(skipped)) => Some(Found::DType(skipped.dtype.clone())),
        (None, None) => Some(Found::Nothing),
    }
}

/// Whether `name` is `path` or begins with `path.`: `head` covers `head.weight` but not `header.weight`.
fn is_at_or_below(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
