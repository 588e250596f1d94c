//! The models and lengths that are timed.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, bail, ensure};

use crate::timed::Network;

/// A model with what it is trained on.
#[derive(Clone, Debug)]
pub struct Case {
    name: String,
    network: Network,
    batch: usize,
}

/// What six numbers of a case mean: WIDTH, DEPTH, HEADS, then
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// PATCH, IMAGE, BATCH;
    Vit,
    /// VOCABULARY, TOKENS, BATCH;
    Gpt2,
    /// VOCABULARY, TOKENS, BATCH.
    Bert,
}

/// By name: the model, the pictures' side or the tokens, the batch.
const NAMED: [(&str, Kind, [usize; 6]); 10] = [
    ("ti-32-b8", Kind::Vit, [192, 12, 3, 4, 32, 8]),
    ("ti-32-b64", Kind::Vit, [192, 12, 3, 4, 32, 64]),
    ("ti-224-b1", Kind::Vit, [192, 12, 3, 16, 224, 1]),
    ("ti-224-b16", Kind::Vit, [192, 12, 3, 16, 224, 16]),
    ("s-224-b8", Kind::Vit, [384, 12, 6, 16, 224, 8]),
    ("b-224-b8", Kind::Vit, [768, 12, 12, 16, 224, 8]),
    ("gpt2-256-b4", Kind::Gpt2, [768, 12, 12, 50_257, 256, 4]),
    ("gpt2-256-b1", Kind::Gpt2, [768, 12, 12, 50_257, 256, 1]),
    ("gpt2-1024-b1", Kind::Gpt2, [768, 12, 12, 50_257, 1024, 1]),
    ("bert-256-b4", Kind::Bert, [768, 12, 12, 30_522, 256, 4]),
];

/// So many of them do not take long on a CPU.
const USUAL: usize = 5;

impl Case {
    fn new(name: &str, kind: Kind, [width, depth, heads, fourth, length, batch]: [usize; 6]) -> Self {
        let sizes = [width, depth, heads];
        let network = match kind {
            Kind::Vit => Network::vit(sizes, fourth, length),
            Kind::Gpt2 => Network::gpt2(sizes, fourth, length),
            Kind::Bert => Network::bert(sizes, fourth, length),
        };
        Case { name: name.to_owned(), network, batch }
    }

    pub fn usual() -> Vec<Case> {
        NAMED.into_iter().take(USUAL).map(|(name, kind, sizes)| Case::new(name, kind, sizes)).collect()
    }

    pub fn help() -> String {
        let line = |(name, kind, sizes): (&str, Kind, [usize; 6])| format!("  {name}: {kind:?} {sizes:?}\n");
        let lines: String = NAMED.into_iter().map(line).collect();
        format!(
            "A case by its name, or WIDTH,DEPTH,HEADS,PATCH,IMAGE,BATCH of a ViT, or gpt2: or bert: and \
             WIDTH,DEPTH,HEADS,VOCABULARY,TOKENS,BATCH; may be given several times. Names:\n{lines}"
        )
    }

    pub fn batch(&self) -> usize {
        self.batch
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    /// T.
    pub fn tokens(&self) -> usize {
        self.network.extent().tokens
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
        if let Some(&(name, kind, sizes)) = NAMED.iter().find(|(name, ..)| *name == text) {
            return Ok(Case::new(name, kind, sizes));
        }
        let (kind, numbers) = match text.split_once(':') {
            None => (Kind::Vit, text),
            Some(("gpt2", numbers)) => (Kind::Gpt2, numbers),
            Some(("bert", numbers)) => (Kind::Bert, numbers),
            Some((other, _)) => bail!("no such kind of model: {other}"),
        };
        let numbers = numbers.split(',').map(|part| part.trim().parse()).collect::<Result<Vec<usize>, _>>();
        let sizes = numbers.ok().and_then(|numbers| <[usize; 6]>::try_from(numbers).ok());
        let sizes = sizes.with_context(|| format!("neither a case nor six numbers: {text}"))?;
        ensure!(sizes[1] >= 3, "random-LTD needs a depth of 3 or more");
        ensure!((1..=4096).contains(&sizes[5]), "the batch must be in 1..=4096");
        let case = Case::new(text, kind, sizes);
        case.network.check()?;
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
