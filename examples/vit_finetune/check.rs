//! What of the data is likely to disappoint, said before the training.

use anyhow::{Result, bail};
use wgrad::data::{DataSet, Skipped, Split};

use crate::recipe::ClassWeights;

/// A class with fewer training pictures is learnt badly.
const FEW: usize = 5;
/// Where the largest class has so many times the pictures of the smallest, the small ones are rarely answered.
const UNBALANCED: usize = 4;
/// So many classes are named; the others are counted.
const NAMED: usize = 5;

/// Warnings, each with what to do about it.
pub fn data(data: &DataSet, class_weights: ClassWeights) -> Result<Vec<String>> {
    if let [only] = data.class_names.as_slice() {
        bail!("{}: one class, {only}, leaves nothing to tell apart; at least two class folders are needed", data.name);
    }
    let mut warnings: Vec<String> = small_classes(data).into_iter().collect();
    if data.test.is_empty() {
        warnings.push(
            "no test pictures: the result will be of the validation pictures, by which the epoch is chosen, and so \
             too good; a test/ folder gives one of its own"
                .to_owned(),
        );
    }
    let counts = data.train.class_counts(data.class_names.len());
    let (least, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
    if class_weights == ClassWeights::None && most >= UNBALANCED * least.max(1) {
        warnings.push(format!(
            "classes have {least} to {most} training pictures: the small ones are answered too rarely; \
             --class-weights balanced lets each class count the same"
        ));
    }
    Ok(warnings)
}

/// Classes of which too few pictures are learnt from, or none measured.
fn small_classes(data: &DataSet) -> Option<String> {
    let classes = data.class_names.len();
    let [train, validation, test] =
        [&data.train, &data.validation, &data.test].map(|split| split.class_counts(classes));
    let is_small =
        |&class: &usize| train[class] < FEW || validation[class] == 0 || (test[class] == 0 && !data.test.is_empty());
    let small: Vec<usize> = (0..classes).filter(is_small).collect();
    let describe = |&class: &usize| {
        let name = &data.class_names[class];
        format!("{name} ({}, {} and {})", train[class], validation[class], test[class])
    };
    let named: Vec<String> = small.iter().take(NAMED).map(describe).collect();
    let others = small.len().saturating_sub(NAMED);
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    (!small.is_empty()).then(|| {
        let named = named.join(", ");
        format!("few training, validation or test pictures: {named}{others}; what is measured of them means little")
    })
}

/// What is known of the pictures before the training.
#[derive(Default)]
pub struct Read {
    /// Training pictures that can be read, of those that were tried.
    pub training: usize,
    /// Pictures that cannot be read, of those that were tried.
    pub unreadable: Vec<Skipped>,
    /// Classes that will not be measured.
    pub warnings: Vec<String>,
}

/// Reads as many training pictures as make a batch, one picture at least of each class and split: a run that could not end is
/// not begun. With `strict`, which any picture would end, it reads all.
pub fn pictures(data: &DataSet, batch: usize, strict: bool) -> Result<Read> {
    let mut read = Read::default();
    for (name, split, least) in
        [("training", &data.train, batch), ("validation", &data.validation, 1), ("test", &data.test, 1)]
    {
        let probe = split.probe(if strict { split.len() } else { least });
        if name == "training" {
            read.training = probe.readable;
        }
        let Some(first) = probe.unreadable.first() else { continue };
        if strict {
            bail!("--strict: {}", first.reason);
        }
        if probe.readable == 0 {
            bail!("{}: none of the {} {name} pictures can be read: {}", data.name, split.len(), first.reason);
        }
        for &label in &probe.lost {
            let lost = lost(data, split, name, label, &probe.unreadable);
            // Chance has drawn these pictures, and the class may well have others that can be read.
            if split.is_drawn() { read.warnings.push(lost) } else { bail!(lost) }
        }
        read.unreadable.extend(probe.unreadable);
    }
    Ok(read)
}

/// A class that has no readable picture in a split.
fn lost(data: &DataSet, split: &Split, name: &str, label: u32, unreadable: &[Skipped]) -> String {
    let class = data.class_names.get(label as usize).map_or("", String::as_str);
    let is_of_class = |sample: u32| split.labels().get(sample as usize) == Some(&label);
    let reason = unreadable.iter().find(|skipped| is_of_class(skipped.sample)).map_or("", |first| &first.reason);
    let count = split.labels().iter().filter(|&&other| other == label).count();
    format!("class {class}: none of its {count} {name} pictures can be read: {reason}")
}
