//! Values that come in several forms in `config.json` and `preprocessor_config.json`. Each form is read as it stands, without a
//! general tree of JSON in between: that would take many times the file's size.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

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

/// The short side of a size in one of the forms that image processors have had: a number, `height` and `width`, or
/// `shortest_edge`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortSide(pub(super) f64);

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
        Ok(ShortSide(side as f64))
    }

    fn visit_f64<E: Error>(self, side: f64) -> Result<ShortSide, E> {
        Ok(ShortSide(side))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ShortSide, A::Error> {
        let mut shortest: Option<f64> = None;
        while let Some(key) = map.next_key::<String>()? {
            if matches!(key.as_str(), "height" | "width" | "shortest_edge") {
                let side = map.next_value()?;
                shortest = Some(shortest.map_or(side, |other| other.min(side)));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        shortest.map(ShortSide).ok_or_else(|| A::Error::custom("expected height and width or shortest_edge"))
    }
}

/// The name of a class: a text, or what transformers takes as one too, a number or a truth value.
#[derive(Debug)]
pub(super) struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
        Ok(Name(name.to_owned()))
    }

    fn visit_u64<E: Error>(self, name: u64) -> Result<Name, E> {
        Ok(Name(name.to_string()))
    }

    fn visit_i64<E: Error>(self, name: i64) -> Result<Name, E> {
        Ok(Name(name.to_string()))
    }

    fn visit_f64<E: Error>(self, name: f64) -> Result<Name, E> {
        Ok(Name(format!("{name:?}")))
    }

    fn visit_bool<E: Error>(self, name: bool) -> Result<Name, E> {
        Ok(Name(name.to_string()))
    }
}

/// Names in a list or by number. Anything else, such as the name of a data set, is no names.
#[derive(Debug)]
pub(super) enum Names {
    List(Vec<Name>),
    ByNumber(BTreeMap<String, Name>),
    Neither,
}

impl Names {
    /// In the order of their numbers, which must be all from 0. If they are not, that is reported, and there are no names.
    pub(super) fn in_order(self, path: &Path) -> Option<Vec<String>> {
        let by_number = match self {
            Names::List(names) => return Some(names.into_iter().map(|Name(name)| name).collect()),
            Names::ByNumber(names) => names,
            Names::Neither => return None,
        };
        let numbered = by_number.into_iter().map(|(number, Name(name))| Some((number.parse::<usize>().ok()?, name)));
        let names: Option<BTreeMap<usize, String>> = numbered.collect();
        let names = names.filter(|names| names.keys().copied().eq(0..names.len()));
        if names.is_none() {
            log::warn!("{}: the class names are not numbered from 0 without a gap, and are left out", path.display());
        }
        names.map(|names| names.into_values().collect())
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names in a list or by number")
    }

    fn visit_str<E: Error>(self, _data_set: &str) -> Result<Names, E> {
        Ok(Names::Neither)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Names, A::Error> {
        let mut list = Vec::new();
        while let Some(name) = names.next_element()? {
            list.push(name);
        }
        Ok(Names::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut names: A) -> Result<Names, A::Error> {
        let mut by_number = BTreeMap::new();
        while let Some((number, name)) = names.next_entry()? {
            by_number.insert(number, name);
        }
        Ok(Names::ByNumber(by_number))
    }
}
