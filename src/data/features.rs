//! What a frozen model has made of pictures, once, for whatever is trained on that.

use super::{Batch, Position};
use crate::error::{Error, Result};

#[cfg(feature = "files")]
pub use self::source::FeatureSource;

const OP: &str = "data.features";

/// Features of labelled samples in the host's memory. Samples are numbered as they were in the split; one that could not be read
/// is not among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// F.
    width: usize,
    /// `f32[N, F]`.
    values: Vec<f32>,
    /// `u32[N]`.
    labels: Vec<u32>,
    /// `u32[N]`.
    indices: Vec<u32>,
}

impl Features {
    /// Those of no sample yet, of `width` = F numbers each.
    pub fn new(width: usize) -> Self {
        Features { width, ..Features::default() }
    }

    /// Adds samples: `values` is `f32[B, F]`, `labels` and `indices`, their numbers in the split, are `u32[B]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the lengths do not fit together, or a value is not finite, as what damaged weights make.
    pub fn extend(&mut self, values: Vec<f32>, labels: Vec<u32>, indices: Vec<u32>) -> Result<()> {
        if labels.len() != indices.len() || labels.len().checked_mul(self.width) != Some(values.len()) {
            let expected = format!("{} for each of {} labels and {} numbers", self.width, labels.len(), indices.len());
            return Err(Error::argument(OP, "values", expected, values.len()));
        }
        if let Some(bad) = values.iter().position(|value| !value.is_finite()) {
            let got = format!("{} for sample {}", values[bad], indices[bad / self.width]);
            return Err(Error::argument(OP, "values", "finite", got));
        }
        self.values.extend(values);
        self.labels.extend(labels);
        self.indices.extend(indices);
        Ok(())
    }

    /// N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// F.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `u32[N]`.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The features of one row, `f32[F]`; empty if there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        let start = row.saturating_mul(self.width);
        self.values.get(start..start.saturating_add(self.width)).unwrap_or_default()
    }

    /// The batch of these rows, counted from 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such row.
    pub fn batch(&self, rows: &[u32], position: Position) -> Result<FeatureBatch> {
        let mut batch = FeatureBatch { position, ..FeatureBatch::default() };
        for &row in rows {
            let at = row as usize;
            let (Some(&label), Some(&index)) = (self.labels.get(at), self.indices.get(at)) else {
                return Err(Error::argument(OP, "row", format!("below {}", self.len()), row));
            };
            batch.features.extend_from_slice(self.row(at));
            batch.labels.push(label);
            batch.indices.push(index);
        }
        Ok(batch)
    }
}

/// Features that go through a head together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureBatch {
    /// `f32[B, F]`.
    pub features: Vec<f32>,
    /// The classes, `u32[B]`.
    pub labels: Vec<u32>,
    /// The samples' numbers in the split, `u32[B]`.
    pub indices: Vec<u32>,
    /// Where in the sequence this batch stands.
    pub position: Position,
}

impl Batch for FeatureBatch {
    fn samples(&self) -> usize {
        self.labels.len()
    }

    fn position(&self) -> Position {
        self.position
    }
}

#[cfg(feature = "files")]
mod source {
    use serde::{Deserialize, Serialize};

    use super::{FeatureBatch, Features};
    use crate::data::{Loader, Source, Wanted};
    use crate::error::Result;
    use crate::identity::json;

    /// Features as what a loader makes batches of, with the pictures that they were made of.
    #[derive(Debug)]
    pub struct FeatureSource<S> {
        pictures: Loader<S>,
        features: Features,
        model: String,
    }

    /// What decides on the features, each as JSON or a hash.
    #[derive(Serialize, Deserialize)]
    struct Identity {
        pictures: String,
        model: String,
    }

    impl<S: Source> FeatureSource<S> {
        /// `features` of an epoch of `pictures`, as the model gives them that `model` tells from others: a text that is the same
        /// wherever it is computed, which the features' last bits are not.
        pub fn new(pictures: Loader<S>, features: Features, model: impl Into<String>) -> Self {
            FeatureSource { pictures, features, model: model.into() }
        }

        /// What they were made of.
        pub fn pictures(&self) -> &Loader<S> {
            &self.pictures
        }

        /// All of them.
        pub fn features(&self) -> &Features {
            &self.features
        }
    }

    impl<S: Source> Source for FeatureSource<S> {
        type Batch = FeatureBatch;

        fn len(&self) -> usize {
            self.features.len()
        }

        /// The pictures', and what tells the model from others.
        fn identity(&self) -> String {
            json(&Identity { pictures: self.pictures.identity(), model: self.model.clone() })
        }

        fn difference(&self, saved: &str) -> Option<String> {
            let Ok(saved) = serde_json::from_str::<Identity>(saved) else {
                return Some("pictures there, features of pictures here".to_owned());
            };
            let of_model = || (saved.model != self.model).then(|| "features of a model with other weights".to_owned());
            self.pictures.difference(&saved.pictures).or_else(of_model)
        }

        fn make(&self, wanted: &Wanted<'_>) -> Result<Option<FeatureBatch>> {
            self.features.batch(wanted.samples, wanted.position).map(Some)
        }
    }
}
