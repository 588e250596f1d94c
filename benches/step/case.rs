//! The models and lengths that are timed.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, ensure};
use wgrad::models::vit::VitConfig;

/// A model with its pictures: WIDTH, DEPTH, HEADS, PATCH, IMAGE, BATCH.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    name: String,
    sizes: [usize; 6],
}

/// By name: the model, the pictures' side, the batch.
const NAMED: [(&str, [usize; 6]); 6] = [
    ("ti-32-b8", [192, 12, 3, 4, 32, 8]),
    ("ti-32-b64", [192, 12, 3, 4, 32, 64]),
    ("ti-224-b1", [192, 12, 3, 16, 224, 1]),
    ("ti-224-b16", [192, 12, 3, 16, 224, 16]),
    ("s-224-b8", [384, 12, 6, 16, 224, 8]),
    ("b-224-b8", [768, 12, 12, 16, 224, 8]),
];

impl Case {
    fn named((name, sizes): (&str, [usize; 6])) -> Self {
        Case { name: name.to_owned(), sizes }
    }

    /// All but the last, which takes long on a CPU.
    pub fn usual() -> Vec<Case> {
        NAMED.into_iter().take(NAMED.len() - 1).map(Case::named).collect()
    }

    pub fn help() -> String {
        let line = |(name, sizes): (&str, [usize; 6])| format!("  {name}: {sizes:?}\n");
        let lines: String = NAMED.into_iter().map(line).collect();
        format!(
            "A case by its name, or as WIDTH,DEPTH,HEADS,PATCH,IMAGE,BATCH; may be given several times. Names:\n{lines}"
        )
    }

    pub fn batch(&self) -> usize {
        self.sizes[5]
    }

    /// With ten classes.
    pub fn config(&self) -> VitConfig {
        let [width, depth, heads, patch, image, _] = self.sizes;
        VitConfig {
            img_size: (image, image),
            patch_size: patch,
            num_classes: 10,
            ..VitConfig::custom(width, depth, heads)
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Case {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(&named) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(Case::named(named));
        }
        let numbers = text.split(',').map(|part| part.trim().parse()).collect::<Result<Vec<usize>, _>>();
        let sizes = numbers.ok().and_then(|numbers| <[usize; 6]>::try_from(numbers).ok());
        let sizes = sizes.with_context(|| format!("neither a case nor six numbers: {text}"))?;
        let case = Case { name: text.to_owned(), sizes };
        case.config().check()?;
        ensure!(sizes[1] >= 3, "random-LTD needs a depth of 3 or more");
        ensure!((1..=4096).contains(&sizes[5]), "the batch must be in 1..=4096");
        Ok(case)
    }
}

/// R/T.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    pub const FULL: Ratio = Ratio(1.0);

    pub fn usual() -> Vec<Ratio> {
        [0.16, 0.25, 0.5, 0.75, 1.0].map(Ratio).to_vec()
    }

    /// R of `tokens`: at least one, and below T unless this is full length.
    pub fn kept(self, tokens: usize) -> usize {
        if self == Ratio::FULL { tokens } else { ((self.0 * tokens as f64).round() as usize).clamp(1, tokens - 1) }
    }
}

impl FromStr for Ratio {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let ratio: f64 = text.parse().with_context(|| format!("not a number: {text}"))?;
        ensure!(ratio > 0.0 && ratio <= 1.0, "R/T must be above 0 and at most 1");
        Ok(Ratio(ratio))
    }
}

/// In which order a turn visits its models: every other turn backwards, so that a machine that grows slower or faster does
/// not favour those at one end.
pub fn order(count: usize, turn: usize) -> Vec<usize> {
    if turn.is_multiple_of(2) { (0..count).collect() } else { (0..count).rev().collect() }
}
