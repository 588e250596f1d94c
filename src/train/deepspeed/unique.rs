//! Whether JSON has a key twice: DeepSpeed refuses such a file, where `serde_json` takes the last value.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::section::quoted;

/// Whether `text` is JSON in which no object has a key twice.
///
/// # Errors
/// If not; the key is named by its dotted path.
pub(super) fn check(text: &[u8]) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    Place { above: None, key: "" }.deserialize(&mut reader)?;
    reader.end()
}

/// Where a value stands: at a key of the object above, or at the root.
#[derive(Clone, Copy)]
struct Place<'a> {
    above: Option<&'a Place<'a>>,
    key: &'a str,
}

impl Place<'_> {
    /// Its dotted path, empty at the root.
    fn path(&self) -> String {
        let key = quoted(self.key);
        match self.above.map(Place::path).filter(|above| !above.is_empty()) {
            Some(above) => format!("{above}.{key}"),
            None => key,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    /// Elements stand where the list does.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = object.next_key::<String>()? {
            let place = Place { above: Some(&self), key: &key };
            if keys.contains(&key) {
                return Err(A::Error::custom(format!("{} is there twice", place.path())));
            }
            object.next_value_seed(place)?;
            keys.insert(key);
        }
        Ok(())
    }
}
