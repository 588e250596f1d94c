//! An object of a JSON file, whose keys are asked for by type and noted, so that those nobody asks for can be named.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// How much of a value or a name a message repeats, in characters.
const MAX_QUOTED: usize = 80;

/// The largest whole number that JSON's floats hold exactly.
const MAX_INTEGER: f64 = 9_007_199_254_740_992.0;

/// What is said about a file as a whole.
pub(super) struct Notes<'a> {
    pub(super) file: &'a Path,
    pub(super) warnings: RefCell<Vec<String>>,
}

/// An object, and where it stands.
pub(super) struct Section<'a> {
    notes: &'a Notes<'a>,
    /// The dotted path, which ends in a dot unless it is empty.
    path: String,
    map: &'a Map<String, Value>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn root(notes: &'a Notes<'a>, value: &'a Value) -> Result<Self> {
        let Value::Object(map) = value else {
            return Err(Error::file(notes.file, format!("must be an object, is {}", quoted(&value.to_string()))));
        };
        Ok(Section { notes, path: String::new(), map, known: RefCell::default() })
    }

    /// The value of a key; a null is an absence.
    fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().insert(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(&self, key: &'static str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let got = || quoted(&value.to_string());
        read(value).map(Some).ok_or_else(|| self.error(key, &format!("must be {expected}, is {}", got())))
    }

    pub(super) fn section(&self, key: &'static str) -> Result<Option<Section<'a>>> {
        Ok(self.typed(key, "an object", Value::as_object)?.map(|map| self.below(key, map)))
    }

    /// `map` as the section at a key.
    pub(super) fn below(&self, key: &str, map: &'a Map<String, Value>) -> Section<'a> {
        Section { notes: self.notes, path: format!("{}{key}.", self.path), map, known: RefCell::default() }
    }

    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<&'a str>> {
        self.typed(key, "a text", Value::as_str)
    }

    /// A finite number.
    pub(super) fn number(&self, key: &'static str) -> Result<Option<f32>> {
        self.typed(key, "a number that a 32-bit float holds", number)
    }

    pub(super) fn integer(&self, key: &'static str) -> Result<Option<u64>> {
        self.typed(key, "a whole number from 0", integer)
    }

    pub(super) fn size(&self, key: &'static str) -> Result<Option<usize>> {
        self.typed(key, "a whole number from 0 to 4294967295", size)
    }

    pub(super) fn sizes(&self, key: &'static str) -> Result<Option<Vec<usize>>> {
        let read = |value: &Value| value.as_array()?.iter().map(size).collect();
        self.typed(key, "a list of whole numbers", read)
    }

    pub(super) fn pair(&self, key: &'static str) -> Result<Option<(f32, f32)>> {
        let read = |value: &Value| match value.as_array()?.as_slice() {
            [first, second] => Some((number(first)?, number(second)?)),
            _ => None,
        };
        self.typed(key, "a list of two numbers", read)
    }

    /// The value, which must be there.
    pub(super) fn required<T>(&self, key: &'static str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "is missing"))
    }

    /// An error about a key.
    pub(super) fn error(&self, key: &str, what: &str) -> Error {
        Error::file(self.notes.file, format!("{}{key} {what}", self.path))
    }

    /// What a part of the crate says about values of this section.
    pub(super) fn refused(&self, error: &Error) -> Error {
        let path = self.path.trim_end_matches('.');
        Error::file(self.notes.file, if path.is_empty() { error.to_string() } else { format!("{path}: {error}") })
    }

    /// Says that a key is there to no effect.
    pub(super) fn warn(&self, key: &str, what: &str) {
        self.notes.warnings.borrow_mut().push(format!("{}{} {what}", self.path, quoted(key)));
    }

    /// Names the keys that nobody has asked for.
    pub(super) fn warn_of_unknown(&self) {
        let known = self.known.borrow();
        for key in self.map.keys().filter(|key| !known.contains(key.as_str())) {
            self.warn(key, "is not used");
        }
    }
}

fn number(value: &Value) -> Option<f32> {
    value.as_f64().map(|number| number as f32).filter(|number| number.is_finite())
}

/// 1e3 is a whole number too.
fn integer(value: &Value) -> Option<u64> {
    let whole = |number: f64| (number.fract() == 0.0 && (0.0..=MAX_INTEGER).contains(&number)).then_some(number as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(whole))
}

fn size(value: &Value) -> Option<usize> {
    integer(value).and_then(|value| u32::try_from(value).ok()).map(|value| value as usize)
}

/// Text from the file, for a message.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        short.push('…');
    }
    short
}
