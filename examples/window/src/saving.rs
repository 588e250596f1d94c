//! Weights on their way into a file, while training goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use eframe::egui;
use wgrad::Tensor;
use wgrad::checkpoint::HostTensor;
use wgrad::gpu::Readback;
use wgrad::models::vit::{VitConfig, VitFile};

use crate::background::Background;
use crate::lesson::Lesson;

/// The weights as they are after the steps that are recorded.
pub struct Saving {
    state: State,
    file: PathBuf,
    steps: u64,
}

enum State {
    /// The device copies them.
    Reading(Box<Copied>),
    /// A thread writes them.
    Writing(Background<()>),
}

struct Copied {
    names: Vec<String>,
    tensors: Vec<Tensor>,
    bytes: Readback,
    config: VitConfig,
    classes: Vec<String>,
    crop_fraction: f64,
}

impl Saving {
    /// Begins to save. A file that is there already is left alone.
    pub fn begin(lesson: &Lesson, file: PathBuf) -> Result<Self> {
        ensure!(!file.as_os_str().is_empty(), "no file is named");
        ensure!(!file.exists(), "{} is there already: choose another name", file.display());
        let model = lesson.model();
        let names = model.parameters().iter().map(|p| p.path().to_owned()).collect();
        let tensors: Vec<Tensor> = model.parameters().iter().map(|p| p.value()).collect();
        let bytes = model.gpu().hold(|| Tensor::read_all_later(&tensors.iter().collect::<Vec<_>>()))?;
        let (config, classes) = (model.config().clone(), lesson.classes.clone());
        let copied = Copied { names, tensors, bytes, config, classes, crop_fraction: lesson.crop_fraction };
        Ok(Saving { state: State::Reading(Box::new(copied)), file, steps: lesson.trainer.steps() })
    }

    /// Goes on as far as it can without waiting. What there is to say, once it has ended.
    pub fn advance(self, context: &egui::Context) -> Result<Progress> {
        let Saving { state, file, steps } = self;
        let state = match state {
            State::Reading(copied) if copied.bytes.is_ready() => {
                let to = file.clone();
                State::Writing(Background::start(context, move || copied.write(&to))?)
            }
            State::Writing(written) => match written.take() {
                None => State::Writing(written),
                Some(result) => {
                    result?;
                    return Ok(Progress::Ended(format!("{} holds the weights after step {steps}", file.display())));
                }
            },
            reading @ State::Reading(_) => reading,
        };
        Ok(Progress::Goes(Saving { state, file, steps }))
    }
}

/// How far a file is.
pub enum Progress {
    Goes(Saving),
    Ended(String),
}

impl Copied {
    /// The library's own form, which `vit_predict` and this window read.
    fn write(self, file: &std::path::Path) -> Result<()> {
        let bytes = self.bytes.wait()?;
        let mut weights = BTreeMap::new();
        for ((name, tensor), bytes) in self.names.into_iter().zip(&self.tensors).zip(&bytes) {
            weights.insert(name, HostTensor { shape: tensor.dims().to_vec(), data: tensor.decode(bytes)? });
        }
        let about =
            VitFile { config: &self.config, class_names: &self.classes, crop_fraction: Some(self.crop_fraction) };
        Ok(about.write(file, &weights)?)
    }
}
