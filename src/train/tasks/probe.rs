//! A linear probe: a head on what a frozen model has made of each picture, once.

use std::ops::Range;

use super::classify::{self, Classify};
use crate::data::{FeatureBatch, Features, ImageBatch};
#[cfg(feature = "files")]
use crate::data::{FeatureSource, Loader, Source};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Readback};
use crate::identity::json;
use crate::nn::{Extent, Headed, Mode, Model, Span};
use crate::ops::{CrossEntropy, Targets, TokenIndices};
use crate::tensor::Tensor;
use crate::train::evaluate::each_batch;
use crate::train::{Part, Scored, Task};

/// Cross-entropy of a head on features that stay as they are, since all below it is frozen: [`Classify`] without what comes before
/// the head. A step takes the head's time and memory alone, so that an epoch takes seconds, or less.
///
/// For [`crate::train::Freeze::AllButHead`]: what lies below the head has no gradient, and other settings give it memory for one.
/// The model is whole throughout; on pictures it is measured, written and read as any.
#[derive(Clone, Debug)]
pub struct LinearProbe<M> {
    /// The network.
    pub model: M,
    /// The loss in training.
    pub loss: CrossEntropy,
}

impl<M: Headed> LinearProbe<M> {
    /// With the plain cross-entropy.
    pub fn new(model: M) -> Self {
        Self::with_loss(model, CrossEntropy::default())
    }

    /// With label smoothing, class weights or an ignored label.
    pub fn with_loss(model: M, loss: CrossEntropy) -> Self {
        LinearProbe { model, loss }
    }

    /// The features of an epoch of pictures, to make batches of. A run's state is tied to the pictures and to the frozen weights,
    /// which are read back for it.
    ///
    /// # Errors
    /// As [`extract`]; if the loader has no thread.
    #[cfg(all(feature = "files", not(target_arch = "wasm32")))]
    pub fn source<S: Source<Batch = ImageBatch>>(&self, pictures: Loader<S>) -> Result<FeatureSource<S>> {
        let features = extract(&self.model, pictures.epoch(0)?)?;
        let mut hash = crate::hash::Fnv::default();
        for parameter in self.model.parameters().iter().filter(|p| !self.model.is_head(p.path())) {
            hash.add(parameter.path().as_bytes());
            hash.add(bytemuck::cast_slice(&parameter.value().to_vec::<f32>()?));
        }
        Ok(FeatureSource::new(pictures, features, format!("{:016x}", hash.value())))
    }

    fn gpu(&self) -> &Gpu {
        self.model.parameters().gpu()
    }

    fn expected(&self) -> String {
        format!("{} numbers a sample", self.model.head_inputs())
    }
}

impl<M: Headed> Task for LinearProbe<M> {
    type Batch = FeatureBatch;

    fn model(&self) -> &dyn Model {
        &self.model
    }

    /// No token goes through a block.
    fn extent(&self) -> Extent {
        Extent::default()
    }

    fn identity(&self) -> String {
        json(&self.loss)
    }

    fn check(&self, batch: &FeatureBatch) -> Result<()> {
        let samples = batch.labels.len();
        if samples == 0 {
            return Err(Error::argument("batch", "labels", "at least one", 0));
        }
        if samples.checked_mul(self.model.head_inputs()) != Some(batch.features.len()) {
            let got = format!("{} for {samples} labels", batch.features.len());
            return Err(Error::argument("batch", "features", self.expected(), got));
        }
        Ok(())
    }

    fn weight(&self, batch: &FeatureBatch, range: Range<usize>) -> f64 {
        let classes = self.model.classes();
        range.map(|i| self.loss.row_weight(classes, batch.labels[i], None)).sum()
    }

    fn loss(&self, part: &Part<'_, FeatureBatch>, _: &[Span<TokenIndices>], mode: &Mode) -> Result<Scored> {
        self.check(part.batch)?;
        let (range, width) = (part.samples.clone(), self.model.head_inputs());
        let values = &part.batch.features[range.start * width..range.end * width];
        let features = Tensor::from_slice(self.gpu(), &[range.len(), width], values)?;
        let labels = &part.batch.labels[range];
        let of = classify::labelled(&self.loss, labels);
        let labels = Tensor::from_slice(self.gpu(), &[labels.len()], labels)?;
        classify::score(&self.model.head(&features, mode)?, Targets::from(&labels), (&labels, of), &self.loss, mode)
    }

    fn blank(&self, samples: usize) -> Result<FeatureBatch> {
        let values = samples.checked_mul(self.model.head_inputs()).filter(|&values| u32::try_from(values).is_ok());
        let Some(values) = values.filter(|&values| values > 0) else {
            return Err(Error::argument("estimate", "batch", "at least 1 sample and below 4 GiB of features", samples));
        };
        let (features, labels) = (vec![0.0; values], vec![0; samples]);
        Ok(FeatureBatch { features, indices: labels.clone(), labels, ..FeatureBatch::default() })
    }
}

/// What the head of `model` reads of each picture, at full length and without randomness; awaiting it blocks no thread. It takes 4·F
/// bytes a picture of the host's memory.
///
/// # Errors
/// Those of `batches`, of which none may be mixed; if the device fails; [`Error::Argument`] if the model's output is not finite.
pub async fn extract_async<M: Headed>(
    model: &M,
    batches: impl IntoIterator<Item = Result<ImageBatch>>,
) -> Result<Features> {
    collect(model, batches, Readback::bytes).await
}

/// [`extract_async`], blocking the thread.
///
/// # Errors
/// As [`extract_async`].
#[cfg(not(target_arch = "wasm32"))]
pub fn extract<M: Headed>(model: &M, batches: impl IntoIterator<Item = Result<ImageBatch>>) -> Result<Features> {
    pollster::block_on(collect(model, batches, async |results: Readback| results.wait()))
}

async fn collect<M: Headed>(
    model: &M,
    batches: impl IntoIterator<Item = Result<ImageBatch>>,
    read: impl AsyncFn(Readback) -> Result<Vec<Vec<u8>>>,
) -> Result<Features> {
    let task = Classify::new(model);
    let mut features = Features::new(model.head_inputs());
    let record = |batch: ImageBatch| {
        if batch.mixed.is_some() {
            return Err(Error::argument("extract", "batch", "pictures by themselves", "mixed ones"));
        }
        let (images, _) = task.upload(&Part::whole(&batch))?;
        let pre_logits = model.pre_logits(&images, &Mode::evaluation())?;
        Ok((task.gpu().read(&[pre_logits.buffer()])?, (batch.labels, batch.indices)))
    };
    each_batch(&task, batches, record, read, |(labels, indices), bytes| {
        let [bytes] = bytes else { return Err(Error::Graph { op: "extract", what: "results are missing" }) };
        let values = labels.len() * model.head_inputs();
        features.extend(bytemuck::pod_collect_to_vec(&bytes[..(4 * values).min(bytes.len())]), labels, indices)
    })
    .await?;
    Ok(features)
}
