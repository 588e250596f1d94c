//! What a run's state is tied to, and what another run has of it otherwise, in words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FitData, Trainer};
use crate::autograd::Parameter;
use crate::data::Fingerprint;
use crate::models::vit::VitConfig;

/// What must be the same in the run that goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) config: VitConfig,
    settings: String,
    train: String,
    validation: String,
    pub(super) class_names: Vec<String>,
    /// Of each class of the two, by label, what tells its pictures from others.
    train_pictures: BTreeMap<u32, Fingerprint>,
    validation_pictures: BTreeMap<u32, Fingerprint>,
}

impl Identity {
    pub(super) fn new(trainer: &Trainer<'_>, data: &FitData<'_>) -> Self {
        let model = trainer.model();
        let frozen: Vec<&str> = model.parameters().iter().filter(|p| !p.is_trainable()).map(Parameter::path).collect();
        Identity {
            config: model.config().clone(),
            settings: format!("{:?}, frozen: {frozen:?}", trainer.settings()),
            train: data.train.identity(),
            validation: data.validation.identity(),
            class_names: data.class_names.to_vec(),
            train_pictures: data.train.fingerprints().clone(),
            validation_pictures: data.validation.fingerprints().clone(),
        }
    }

    /// What `now` has of another run, in words.
    pub(super) fn difference(&self, now: &Identity) -> Option<String> {
        let [saved_config, config] = [&self.config, &now.config].map(|config| format!("{config:?}"));
        let pairs = [
            ("another model", saved_config.as_str(), config.as_str()),
            ("other settings", &self.settings, &now.settings),
            ("other training data", &self.train, &now.train),
            ("other validation data", &self.validation, &now.validation),
        ];
        let other = || {
            let (what, saved, now) = pairs.into_iter().find(|(_, saved, now)| saved != now)?;
            let (saved, now) = first_difference(saved, now);
            Some(format!("is of a run with {what}: {saved:?} there, {now:?} here"))
        };
        // Names and exchanged pictures first: what they bring about elsewhere says less.
        self.other_name(now).or_else(|| self.exchanged(now)).or_else(other).or_else(|| self.other_pictures(now))
    }

    /// The first class that is called otherwise.
    fn other_name(&self, now: &Identity) -> Option<String> {
        let count = self.class_names.len().max(now.class_names.len());
        let names = |identity: &Identity, class: usize| identity.class_names.get(class).cloned().unwrap_or_default();
        let mut pairs = (0..count).map(|class| (names(self, class), names(now, class)));
        let (saved, now) = pairs.find(|(saved, now)| saved != now)?;
        Some(format!("is of a run with other classes: {saved:?} there, {now:?} here"))
    }

    /// The first class whose pictures are those of another class now.
    fn exchanged(&self, now: &Identity) -> Option<String> {
        let (label, print) =
            now.train_pictures.iter().find(|(label, print)| self.train_pictures.get(label) != Some(print))?;
        // Some of its own are there where pictures were added or removed.
        let is_own = self.train_pictures.get(label).is_some_and(|saved| saved.overlaps(print));
        let (saved, _) = self.train_pictures.iter().find(|(_, saved)| !is_own && saved.overlaps(print))?;
        let [saved, now] = [saved, label].map(|&label| now.class(label));
        Some(format!(
            "is of a run with other training data: the pictures of class {now} here are of class {saved} there"
        ))
    }

    /// The first class that has other pictures.
    fn other_pictures(&self, now: &Identity) -> Option<String> {
        let pairs = [
            ("training", &self.train_pictures, &now.train_pictures),
            ("validation", &self.validation_pictures, &now.validation_pictures),
        ];
        let (what, saved, pictures) = pairs.into_iter().find(|(_, saved, now)| saved != now)?;
        let label = pictures.keys().chain(saved.keys()).find(|label| saved.get(label) != pictures.get(label))?;
        Some(format!("is of a run with other {what} data: class {} has other pictures here", now.class(*label)))
    }

    /// A class's name, or its label where it has none.
    fn class(&self, label: u32) -> String {
        self.class_names.get(label as usize).map_or_else(|| label.to_string(), |name| format!("{name:?}"))
    }
}

/// The first of the items in two lists that differs.
fn first_difference<'a>(a: &'a str, b: &'a str) -> (&'a str, &'a str) {
    let items = |text: &'a str| text.split(", ").chain(std::iter::repeat(""));
    let count = a.split(", ").count().max(b.split(", ").count());
    items(a).zip(items(b)).take(count).find(|(a, b)| a != b).unwrap_or((a, b))
}
