//! What a run's state is tied to, and what another run has of it otherwise, in words.

use serde::{Deserialize, Serialize};

use super::{FitData, Task, Trainer};
use crate::autograd::Parameter;
use crate::data::Source;
use crate::identity::{self, json};

/// What must be the same in the run that goes on, each as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) model: String,
    task: String,
    settings: String,
    /// The paths of parameters that are not trained.
    frozen: Vec<String>,
    train: String,
    validation: String,
}

impl Identity {
    pub(super) fn new<T: Task, S: Source, V: Source>(trainer: &Trainer<T>, data: &FitData<'_, S, V>) -> Self {
        let model = trainer.task().model();
        let frozen = model.parameters().iter().filter(|p| !p.is_trainable()).map(Parameter::path);
        Identity {
            model: model.identity(),
            task: trainer.task().identity(),
            settings: json(trainer.settings()),
            frozen: frozen.map(str::to_owned).collect(),
            train: data.train.identity(),
            validation: data.validation.identity(),
        }
    }

    /// What a run with `trainer` and `data` has otherwise, in words.
    pub(super) fn difference<T: Task, S: Source, V: Source>(
        &self,
        trainer: &Trainer<T>,
        data: &FitData<'_, S, V>,
    ) -> Option<String> {
        let now = Identity::new(trainer, data);
        // What the data say first: it brings about the rest, which says less.
        let of_data = || {
            let train =
                data.train.difference(&self.train).map(|what| format!("is of a run with other training data: {what}"));
            train.or_else(|| {
                let what = data.validation.difference(&self.validation)?;
                Some(format!("is of a run with other validation data: {what}"))
            })
        };
        let frozen = |identity: &Identity| json(&identity.frozen);
        let (frozen_then, frozen_now) = (frozen(self), frozen(&now));
        let pairs = [
            ("another model", &self.model, &now.model),
            ("another task", &self.task, &now.task),
            ("other settings", &self.settings, &now.settings),
            ("other frozen parameters", &frozen_then, &frozen_now),
        ];
        let own = || {
            let mut others = pairs.iter().map(|(what, saved, now)| (what, identity::difference(saved, now)));
            others.find_map(|(what, difference)| Some(format!("is of a run with {what}: {}", difference?)))
        };
        of_data().or_else(own)
    }
}
