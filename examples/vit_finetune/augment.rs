//! Random edits of pictures, as the option takes them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};
use serde::{Deserialize, Serialize};
use wgrad::data::AutoAugment;

/// [`AutoAugment`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Augment {
    None,
    Trivial,
    Rand { ops: u32, magnitude: u32 },
}

impl From<Augment> for AutoAugment {
    fn from(augment: Augment) -> AutoAugment {
        match augment {
            Augment::None => AutoAugment::None,
            Augment::Trivial => AutoAugment::Trivial,
            Augment::Rand { ops, magnitude } => AutoAugment::Rand { ops, magnitude },
        }
    }
}

impl TryFrom<String> for Augment {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Augment> for String {
    fn from(augment: Augment) -> String {
        augment.to_string()
    }
}

impl FromStr for Augment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        const EXPECTED: &str = "none, trivial, or rand=OPS,MAGNITUDE such as rand=2,9";
        Ok(match (text, text.strip_prefix("rand=").and_then(|rest| rest.split_once(','))) {
            ("none", _) => Augment::None,
            ("trivial", _) => Augment::Trivial,
            (_, Some((ops, magnitude))) => {
                Augment::Rand { ops: ops.parse().context(EXPECTED)?, magnitude: magnitude.parse().context(EXPECTED)? }
            }
            _ => bail!(EXPECTED),
        })
    }
}

impl fmt::Display for Augment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Augment::None => f.write_str("none"),
            Augment::Trivial => f.write_str("trivial"),
            Augment::Rand { ops, magnitude } => write!(f, "rand={ops},{magnitude}"),
        }
    }
}
