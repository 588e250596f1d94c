//! Values of options that are more than a number or a name.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use wgrad::train::Freeze;

/// Saved as they are written on the command line.
macro_rules! as_text {
    ($($type:ty),+) => {
        $(
            impl TryFrom<String> for $type {
                type Error = anyhow::Error;

                fn try_from(text: String) -> anyhow::Result<Self> {
                    text.parse()
                }
            }

            impl From<$type> for String {
                fn from(value: $type) -> String {
                    value.to_string()
                }
            }
        )+
    };
}

as_text!(Length, BlockList, LayerList, FreezeKind);

/// Some of a model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Length {
    Tokens(usize),
    /// Above 0, at most 1.
    Share(f64),
}

impl Length {
    /// Of `tokens`, rounded up.
    pub fn of(self, tokens: usize) -> usize {
        match self {
            Length::Tokens(count) => count,
            // The share of 32 in 197 is 32 again.
            Length::Share(share) => ((share * tokens as f64 - 1e-9).ceil() as usize).max(1),
        }
    }
}

impl FromStr for Length {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(tokens) = text.parse() {
            return Ok(Length::Tokens(tokens));
        }
        let share: f64 = text.parse().context("a number of tokens, or a share such as 0.5")?;
        ensure!(share > 0.0 && share <= 1.0, "a share above 0 and at most 1.0");
        Ok(Length::Share(share))
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Length::Tokens(count) => write!(f, "{count}"),
            // With a point or an exponent, which tell it from a number of tokens.
            Length::Share(share) => write!(f, "{share:?}"),
        }
    }
}

/// Blocks that drop tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BlockList {
    /// All but the first and last.
    Auto,
    These(Vec<usize>),
}

impl BlockList {
    /// Those that were named.
    pub fn chosen(&self) -> Option<&[usize]> {
        match self {
            BlockList::Auto => None,
            BlockList::These(blocks) => Some(blocks),
        }
    }
}

impl FromStr for BlockList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(BlockList::Auto);
        }
        let blocks: Result<_, _> = text.split(',').map(|block| block.trim().parse()).collect();
        Ok(BlockList::These(blocks.context("auto, or numbers as 1,2,3")?))
    }
}

impl fmt::Display for BlockList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockList::Auto => f.write_str("auto"),
            BlockList::These(blocks) => {
                let blocks: Vec<String> = blocks.iter().map(ToString::to_string).collect();
                f.write_str(&blocks.join(","))
            }
        }
    }
}

/// Layers that have something, by the ends of their paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LayerList {
    None,
    These(Vec<String>),
}

impl FromStr for LayerList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(LayerList::None);
        }
        let layers: Vec<String> = text.split(',').map(|layer| layer.trim().to_owned()).collect();
        ensure!(layers.iter().all(|layer| !layer.is_empty()), "none, or layers as qkv,proj");
        Ok(LayerList::These(layers))
    }
}

impl fmt::Display for LayerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayerList::None => f.write_str("none"),
            LayerList::These(layers) => f.write_str(&layers.join(",")),
        }
    }
}

/// [`Freeze`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FreezeKind {
    None,
    AllButHead,
    AllButNormsAndBiases,
    AllButBiases,
    AllButNorms,
    Blocks(usize),
}

impl From<FreezeKind> for Freeze {
    fn from(kind: FreezeKind) -> Freeze {
        match kind {
            FreezeKind::None => Freeze::Nothing,
            FreezeKind::AllButHead => Freeze::AllButHead,
            FreezeKind::AllButNormsAndBiases => Freeze::AllButNormsAndBiases,
            FreezeKind::AllButBiases => Freeze::AllButBiases,
            FreezeKind::AllButNorms => Freeze::AllButNorms,
            FreezeKind::Blocks(blocks) => Freeze::Blocks(blocks),
        }
    }
}

impl FromStr for FreezeKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        const EXPECTED: &str =
            "none, all-but-head, all-but-norms-and-biases, all-but-biases, all-but-norms, or blocks=K";
        Ok(match (text, text.strip_prefix("blocks=")) {
            ("none", _) => FreezeKind::None,
            ("all-but-head", _) => FreezeKind::AllButHead,
            ("all-but-norms-and-biases", _) => FreezeKind::AllButNormsAndBiases,
            ("all-but-biases", _) => FreezeKind::AllButBiases,
            ("all-but-norms", _) => FreezeKind::AllButNorms,
            (_, Some(blocks)) => FreezeKind::Blocks(blocks.parse().context(EXPECTED)?),
            _ => bail!(EXPECTED),
        })
    }
}

impl fmt::Display for FreezeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FreezeKind::None => f.write_str("none"),
            FreezeKind::AllButHead => f.write_str("all-but-head"),
            FreezeKind::AllButNormsAndBiases => f.write_str("all-but-norms-and-biases"),
            FreezeKind::AllButBiases => f.write_str("all-but-biases"),
            FreezeKind::AllButNorms => f.write_str("all-but-norms"),
            FreezeKind::Blocks(blocks) => write!(f, "blocks={blocks}"),
        }
    }
}
