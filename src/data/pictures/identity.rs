//! What a run's pictures are tied to, and what other pictures have otherwise, in words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::{ImageOptions, Mix, Split, Transform};
use crate::hash::absorb;
use crate::identity::{self, json};

/// What decides on a source's batches.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    class_names: Vec<String>,
    /// [`Settings`] in JSON: a text, so that what is compared is what was written.
    settings: String,
    /// By label, what tells the pictures of each class from others.
    pictures: BTreeMap<u32, Fingerprint>,
}

#[derive(Serialize)]
struct Settings<'a> {
    samples: usize,
    /// A hash of the labels.
    labels: String,
    strict: bool,
    mix: Option<Mix>,
    transform: &'a Transform,
}

impl Identity {
    /// It takes a look at the files.
    pub(super) fn new(split: &Split, transform: &Transform, options: &ImageOptions) -> Self {
        let labels = split.labels().iter().fold(0, |hash, &label| absorb(hash, label.into()));
        let &ImageOptions { strict, mix, .. } = options;
        let settings = Settings { samples: split.len(), labels: format!("{labels:016x}"), strict, mix, transform };
        Identity {
            class_names: split.class_names().to_vec(),
            settings: json(&settings),
            pictures: split.fingerprints(),
        }
    }

    pub(super) fn to_json(&self) -> String {
        json(self)
    }

    /// What is otherwise here than in `saved`, in words. Names and exchanged pictures come first: what they bring about
    /// elsewhere says less.
    pub(super) fn difference(&self, saved: &str) -> Option<String> {
        let Ok(parsed) = serde_json::from_str::<Identity>(saved) else {
            return identity::difference(saved, &self.to_json());
        };
        let settings = || identity::difference(&parsed.settings, &self.settings);
        let pictures = || parsed.other_pictures(self);
        parsed.other_name(self).or_else(|| parsed.exchanged(self)).or_else(settings).or_else(pictures)
    }

    /// The first class that is called otherwise.
    fn other_name(&self, now: &Identity) -> Option<String> {
        let count = self.class_names.len().max(now.class_names.len());
        let names = |identity: &Identity, class: usize| identity.class_names.get(class).cloned().unwrap_or_default();
        let mut pairs = (0..count).map(|class| (names(self, class), names(now, class)));
        let (saved, now) = pairs.find(|(saved, now)| saved != now)?;
        Some(format!("other classes: {saved:?} there, {now:?} here"))
    }

    /// The first class whose pictures are those of another class now.
    fn exchanged(&self, now: &Identity) -> Option<String> {
        let (label, print) = now.pictures.iter().find(|(label, print)| self.pictures.get(label) != Some(print))?;
        // Some of its own are there where pictures were added or removed.
        let is_own = self.pictures.get(label).is_some_and(|saved| saved.overlaps(print));
        let (saved, _) = self.pictures.iter().find(|(_, saved)| !is_own && saved.overlaps(print))?;
        let [saved, now] = [saved, label].map(|&label| now.class(label));
        Some(format!("the pictures of class {now} here are of class {saved} there"))
    }

    /// The first class that has other pictures.
    fn other_pictures(&self, now: &Identity) -> Option<String> {
        let mut labels = now.pictures.keys().chain(self.pictures.keys());
        let label = labels.find(|label| self.pictures.get(label) != now.pictures.get(label))?;
        Some(format!("class {} has other pictures here", now.class(*label)))
    }

    /// A class's name, or its label where it has none.
    fn class(&self, label: u32) -> String {
        self.class_names.get(label as usize).map_or_else(|| label.to_string(), |name| format!("{name:?}"))
    }
}
