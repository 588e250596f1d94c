//! Names of classes in a `config.json`, in one of the forms that they come in. Each is read as it stands, without a general tree
//! of JSON in between: that would take many times the file's size.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The name of a class: a text, or what transformers takes as one too, a number or a truth value.
#[derive(Debug)]
pub(crate) struct Label(String);

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LabelVisitor)
    }
}

struct LabelVisitor;

impl Visitor<'_> for LabelVisitor {
    type Value = Label;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Label, E> {
        Ok(Label(name.to_owned()))
    }

    fn visit_u64<E: Error>(self, name: u64) -> Result<Label, E> {
        Ok(Label(name.to_string()))
    }

    fn visit_i64<E: Error>(self, name: i64) -> Result<Label, E> {
        Ok(Label(name.to_string()))
    }

    fn visit_f64<E: Error>(self, name: f64) -> Result<Label, E> {
        Ok(Label(format!("{name:?}")))
    }

    fn visit_bool<E: Error>(self, name: bool) -> Result<Label, E> {
        Ok(Label(name.to_string()))
    }
}

/// Names in a list or by number. Anything else, such as the name of a data set, is no names.
#[derive(Debug)]
pub(crate) enum Labels {
    List(Vec<Label>),
    ByNumber(BTreeMap<String, Label>),
    Neither,
}

impl Labels {
    /// In the order of their numbers, which must be all from 0. If they are not, that is reported, and there are no names.
    pub(crate) fn in_order(self, path: &Path) -> Option<Vec<String>> {
        let by_number = match self {
            Labels::List(names) => return Some(names.into_iter().map(|Label(name)| name).collect()),
            Labels::ByNumber(names) => names,
            Labels::Neither => return None,
        };
        let numbered = by_number.into_iter().map(|(number, Label(name))| Some((number.parse::<usize>().ok()?, name)));
        let names: Option<BTreeMap<usize, String>> = numbered.collect();
        let names = names.filter(|names| names.keys().copied().eq(0..names.len()));
        if names.is_none() {
            log::warn!("{}: the class names are not numbered from 0 without a gap, and are left out", path.display());
        }
        names.map(|names| names.into_values().collect())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LabelsVisitor)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names in a list or by number")
    }

    fn visit_str<E: Error>(self, _data_set: &str) -> Result<Labels, E> {
        Ok(Labels::Neither)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Labels, A::Error> {
        let mut list = Vec::new();
        while let Some(name) = names.next_element()? {
            list.push(name);
        }
        Ok(Labels::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut names: A) -> Result<Labels, A::Error> {
        let mut by_number = BTreeMap::new();
        while let Some((number, name)) = names.next_entry()? {
            by_number.insert(number, name);
        }
        Ok(Labels::ByNumber(by_number))
    }
}
