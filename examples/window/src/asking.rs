//! Answers of the model that are on their way while it learns. What they take of the device is held back, and goes to it in the
//! slices of the frames that follow.

use wgrad::autograd::no_grad;
use wgrad::data::ImageBatch;
use wgrad::gpu::Readback;
use wgrad::nn::Mode;
use wgrad::train::{Part, Scored, Task};
use wgrad::{Error, Result, Tensor, ops};

use crate::lesson::Lesson;

/// What the model says of one picture.
pub struct Reading {
    probabilities: Tensor,
    bytes: Readback,
    /// Steps that it had learnt.
    pub steps: u64,
}

impl Reading {
    /// Asks about a sample, `u8[3, S, S]`.
    pub fn of(lesson: &Lesson, sample: &[u8]) -> Result<Self> {
        let (model, steps) = (lesson.model(), lesson.trainer.steps());
        let (height, width) = model.config().img_size;
        model.gpu().hold(|| {
            let probabilities = no_grad(|| {
                let picture = Tensor::from_slice(model.gpu(), &[1, 3, height, width], sample)?;
                ops::softmax(&model.forward(&picture, &[], &Mode::evaluation())?)
            })?;
            Ok(Reading { bytes: probabilities.read_later()?, probabilities, steps })
        })
    }

    pub fn is_ready(&self) -> bool {
        self.bytes.is_ready()
    }

    /// A probability for each class. Returns at once if it [`Reading::is_ready`].
    pub fn wait(self) -> Result<Vec<f32>> {
        let bytes = self.bytes.wait()?;
        self.probabilities.decode(bytes.first().map_or(&[], Vec::as_slice))
    }
}

/// How the model does on pictures that it does not learn from.
pub struct Examination {
    parts: Vec<Answers>,
    /// Steps that it had learnt.
    pub steps: u64,
}

/// The answers for some of them.
struct Answers {
    scored: Scored,
    correct: Tensor,
    bytes: Readback,
    pictures: usize,
}

/// What an [`Examination`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    pub steps: u64,
    pub loss: f64,
    pub accuracy: f64,
}

impl Examination {
    /// Has the model answer for all pictures of the batches.
    pub fn of(lesson: &Lesson, batches: &[ImageBatch]) -> Result<Self> {
        let (gpu, task) = (lesson.model().gpu(), lesson.trainer.task());
        let answers = |batch: &ImageBatch| {
            let scored = no_grad(|| task.loss(&Part::whole(batch), &[], &Mode::evaluation()))?;
            let missing = Error::Graph { op: "examination", what: "the task counts no right answers" };
            let correct = scored.correct.clone().ok_or(missing)?.count;
            let bytes = Tensor::read_all_later(&[&scored.loss, &correct])?;
            Ok(Answers { scored, correct, bytes, pictures: batch.labels.len() })
        };
        let parts = gpu.hold(|| batches.iter().map(answers).collect::<Result<_>>())?;
        Ok(Examination { parts, steps: lesson.trainer.steps() })
    }

    pub fn is_ready(&self) -> bool {
        self.parts.iter().all(|part| part.bytes.is_ready())
    }

    /// The mark. Returns at once if it [`Examination::is_ready`].
    pub fn wait(self) -> Result<Mark> {
        let (mut loss, mut right, mut pictures) = (0.0, 0.0, 0.0);
        for Answers { scored, correct, bytes, pictures: own } in self.parts {
            let bytes = bytes.wait()?;
            let bytes = |i: usize| bytes.get(i).map_or(&[][..], Vec::as_slice);
            loss += f64::from(first(&scored.loss.decode::<f32>(bytes(0))?)) * own as f64;
            right += f64::from(first(&correct.decode::<u32>(bytes(1))?));
            pictures += own as f64;
        }
        Ok(Mark { steps: self.steps, loss: loss / pictures, accuracy: right / pictures })
    }
}

/// The value of a scalar.
fn first<T: Copy + Default>(values: &[T]) -> T {
    values.first().copied().unwrap_or_default()
}
