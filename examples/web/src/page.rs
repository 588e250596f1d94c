//! What JavaScript sees of a lesson. A call that returns a promise holds it until then: only others like it may come in between.

use std::time::Duration;

use wasm_bindgen::prelude::*;
use wgrad::gpu::{Gpu, GpuOptions, KernelUse};
use wgrad::train::StepMetrics;

use crate::lesson::{GRID, Lesson, TOKENS, kernels};
use crate::pad;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

/// A panic is else no more than `unreachable`.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
}

/// A lesson in a page.
#[wasm_bindgen]
pub struct Page {
    lesson: Lesson,
    /// What is still to be compiled.
    kernels: Vec<KernelUse>,
}

/// What a step did.
#[wasm_bindgen]
pub struct Step {
    /// From 0.
    pub step: u32,
    /// Mean loss of the batch.
    pub loss: f32,
    /// Share of the batch that was read right, with tokens dropped.
    pub accuracy: f32,
    /// R.
    pub kept: u32,
}

/// The digits of the newest step.
#[wasm_bindgen(getter_with_clone)]
pub struct View {
    /// `u8[B, 8, 8]`.
    pub grey: Vec<u8>,
    /// How many blocks drop tokens: 0 at full length.
    pub blocks: usize,
    /// 1 where a token is kept, `u8[blocks, B, T]`.
    pub kept: Vec<u8>,
}

#[wasm_bindgen]
impl Page {
    /// Opens the browser's GPU and begins.
    pub async fn open() -> Result<Page, JsError> {
        let gpu = Gpu::request(&GpuOptions::default()).await?;
        Ok(Page { kernels: kernels(&gpu)?, lesson: Lesson::new(gpu)? })
    }

    /// Compiles one kernel, for a frame to have the time; whether there are more.
    pub fn prepare(&mut self) -> Result<bool, JsError> {
        self.lesson.gpu().warm_up(self.kernels.pop().as_ref())?;
        Ok(!self.kernels.is_empty())
    }

    /// T.
    #[wasm_bindgen(getter)]
    pub fn tokens(&self) -> usize {
        TOKENS
    }

    /// Trains for about so many milliseconds of the GPU's time, and returns the steps that have ended. Never waits.
    pub fn train(&mut self, budget: f64) -> Result<Vec<Step>, JsError> {
        let ended = self.lesson.train(Duration::from_secs_f64(budget.clamp(0.0, 1000.0) / 1000.0))?;
        Ok(ended.iter().map(Step::from).collect())
    }

    /// The digits of the newest step, and what is kept of them.
    pub fn view(&self) -> Result<View, JsError> {
        let view = self.lesson.view()?;
        let grey = view.rows.iter().flat_map(|&row| self.lesson.samples().grey(row)).copied().collect();
        Ok(View { grey, blocks: view.kept.len(), kept: view.kept.concat() })
    }

    /// The share of the held-out digits that is read right.
    pub async fn accuracy(&self) -> Result<f64, JsError> {
        Ok(self.lesson.accuracy().await?)
    }

    /// How likely a picture `u8[8, 8]` is each digit.
    pub async fn read(&self, grey: Vec<u8>) -> Result<Vec<f32>, JsError> {
        Ok(self.lesson.read(&grey).await?)
    }

    /// The weights as a safetensors file.
    pub async fn save(&self) -> Result<Vec<u8>, JsError> {
        Ok(self.lesson.save().await?)
    }

    /// Begins anew with the weights of a file of that name.
    pub fn load(&mut self, bytes: &[u8], name: &str) -> Result<(), JsError> {
        Ok(self.lesson.load(bytes, name)?)
    }

    /// Begins anew.
    pub fn reset(&mut self) -> Result<(), JsError> {
        self.lesson = Lesson::new(self.lesson.gpu().clone())?;
        Ok(())
    }
}

impl From<&StepMetrics> for Step {
    fn from(metrics: &StepMetrics) -> Self {
        let accuracy = metrics.correct as f32 / metrics.counted.max(1) as f32;
        Step { step: metrics.step as u32, loss: metrics.loss, accuracy, kept: metrics.kept as u32 }
    }
}

/// A drawing `u8[height, width]` as a digit `u8[8, 8]`; nothing where there is no ink.
#[wasm_bindgen]
pub fn digit(drawing: &[u8], width: usize) -> Option<Vec<u8>> {
    pad::digit(drawing, width)
}

/// Tokens in a row of a digit.
#[wasm_bindgen]
pub fn grid() -> usize {
    GRID
}
