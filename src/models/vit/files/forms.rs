//! What comes in several forms in `config.json` and `preprocessor_config.json`: sizes of pictures, names of activations.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use crate::models::settings;
use crate::ops::Gelu;

/// An activation, by one of its names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    Gelu(Gelu),
    /// Of a gate.
    Silu,
}

impl<'de> Deserialize<'de> for Activation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.as_str() {
            "silu" | "swish" => Ok(Activation::Silu),
            _ => settings::gelu::deserialize(name.into_deserializer()).map(Activation::Gelu),
        }
    }
}

impl Activation {
    /// That of an MLP without a gate.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming `file` if it is another than GELU.
    pub(super) fn gelu(self, file: &Path) -> crate::Result<Gelu> {
        match self {
            Activation::Gelu(gelu) => Ok(gelu),
            Activation::Silu => Err(crate::Error::file(
                file,
                "activation \"silu\" is computed in gated MLPs alone, and this one has no gate",
            )),
        }
    }
}

/// A number for both sides, or height and width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sides {
    pub(super) height: usize,
    pub(super) width: usize,
}

impl<'de> Deserialize<'de> for Sides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SidesVisitor)
    }
}

struct SidesVisitor;

impl<'de> Visitor<'de> for SidesVisitor {
    type Value = Sides;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size, or height and width")
    }

    fn visit_u64<E: Error>(self, side: u64) -> Result<Sides, E> {
        let side = usize::try_from(side).map_err(E::custom)?;
        Ok(Sides { height: side, width: side })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Sides, A::Error> {
        match (sizes.next_element()?, sizes.next_element()?, sizes.next_element::<IgnoredAny>()?) {
            (Some(height), Some(width), None) => Ok(Sides { height, width }),
            _ => Err(A::Error::custom("expected two sizes")),
        }
    }
}

/// A size in one of the forms that image processors have had: a number, `height` and `width`, or `shortest_edge`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortSide {
    /// The short side.
    pub(super) side: f64,
    /// Whether the other is as long, or not told.
    pub(super) is_square: bool,
    /// Whether both sides are told, whatever the picture's are, or the short one alone, if that is said.
    pub(super) is_of_both: Option<bool>,
}

impl<'de> Deserialize<'de> for ShortSide {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShortSideVisitor)
    }
}

struct ShortSideVisitor;

impl<'de> Visitor<'de> for ShortSideVisitor {
    type Value = ShortSide;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size, or an object with height and width or shortest_edge")
    }

    fn visit_u64<E: Error>(self, side: u64) -> Result<ShortSide, E> {
        Ok(ShortSide { side: side as f64, is_square: true, is_of_both: None })
    }

    fn visit_f64<E: Error>(self, side: f64) -> Result<ShortSide, E> {
        Ok(ShortSide { side, is_square: true, is_of_both: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ShortSide, A::Error> {
        let (mut shortest, mut is_of_both, mut is_square) = (None::<f64>, true, true);
        while let Some(key) = map.next_key::<String>()? {
            if matches!(key.as_str(), "height" | "width" | "shortest_edge") {
                let side = map.next_value()?;
                is_of_both &= key != "shortest_edge";
                is_square &= shortest.is_none_or(|other| other == side);
                shortest = Some(shortest.map_or(side, |other| other.min(side)));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        let size = shortest.map(|side| ShortSide { side, is_square, is_of_both: Some(is_of_both) });
        size.ok_or_else(|| A::Error::custom("expected height and width or shortest_edge"))
    }
}
