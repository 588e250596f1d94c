//! What a run's state is tied to, and what another run has of it otherwise, in words.

use serde::{Deserialize, Serialize};

use super::{FitData, Trainer};
use crate::autograd::Parameter;
use crate::models::vit::VitConfig;

/// What must be the same in the run that goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) config: VitConfig,
    settings: String,
    train: String,
    validation: String,
    pub(super) class_names: Vec<String>,
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
        }
    }

    /// What `now`, with this data, has of another run, in words. Data come first: what they bring about elsewhere says less.
    pub(super) fn difference(&self, now: &Identity, data: &FitData<'_>) -> Option<String> {
        let [saved_config, config] = [&self.config, &now.config].map(|config| format!("{config:?}"));
        let [saved_names, names] = [&self.class_names, &now.class_names].map(|names| names.join(", "));
        let pairs = [
            ("another model", saved_config.as_str(), config.as_str()),
            ("other settings", &self.settings, &now.settings),
            ("other classes", &saved_names, &names),
        ];
        let other = || {
            let (what, saved, now) = pairs.into_iter().find(|(_, saved, now)| saved != now)?;
            let (saved, now) = first_difference(saved, now);
            Some(format!("is of a run with {what}: {saved:?} there, {now:?} here"))
        };
        let training =
            data.train.difference(&self.train).map(|what| format!("is of a run with other training data: {what}"));
        let validation = || {
            let what = data.validation.difference(&self.validation)?;
            Some(format!("is of a run with other validation data: {what}"))
        };
        training.or_else(other).or_else(validation)
    }
}

/// The first of the items in two lists that differs.
fn first_difference<'a>(a: &'a str, b: &'a str) -> (&'a str, &'a str) {
    let items = |text: &'a str| text.split(", ").chain(std::iter::repeat(""));
    let count = a.split(", ").count().max(b.split(", ").count());
    items(a).zip(items(b)).take(count).find(|(a, b)| a != b).unwrap_or((a, b))
}
