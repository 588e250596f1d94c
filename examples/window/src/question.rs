//! What the model says of a picture that is drawn, dropped or named.

use std::path::{Path, PathBuf};

use anyhow::Result;
use eframe::egui::{self, Color32, ColorImage, ProgressBar, RichText, TextureHandle, TextureOptions, Ui, Vec2};
use wgrad::data::{Image, Transform};

use crate::asking::Reading;
use crate::background::Background;
use crate::lesson::Lesson;
use crate::pad::Pad;
use crate::settings::Data;

/// Classes that are shown.
const TOP: usize = 5;
/// The model is asked again when it has learnt for so many steps.
const AGAIN: u64 = 10;

/// The panel, and what has been asked.
#[derive(Default)]
pub struct Question {
    pad: Pad,
    subject: Option<Subject>,
    /// A file that is being read, and what becomes of it.
    opening: Option<(PathBuf, Background<Subject>)>,
    reading: Option<Reading>,
    answer: Option<Answer>,
    texture: Option<TextureHandle>,
}

/// A picture as the model is shown it.
struct Subject {
    /// `u8[3, S, S]`.
    sample: Vec<u8>,
    side: usize,
    /// Its file, if it was not drawn.
    file: Option<PathBuf>,
}

struct Answer {
    /// The likeliest classes, with their probabilities.
    top: Vec<(u32, f32)>,
    steps: u64,
    /// Whether it is that of another picture, until there is one of this.
    is_stale: bool,
}

impl Subject {
    fn new(transform: &Transform, picture: &Image<'_>, file: Option<PathBuf>) -> wgrad::Result<Self> {
        Ok(Subject { sample: Lesson::sample(transform, picture)?, side: transform.size as usize, file })
    }

    fn picture(&self) -> ColorImage {
        let plane = self.side * self.side;
        let pixel = |i: usize| {
            let [r, g, b] = [0, 1, 2].map(|channel| self.sample[channel * plane + i]);
            Color32::from_rgb(r, g, b)
        };
        ColorImage::new([self.side; 2], (0..plane).map(pixel).collect())
    }
}

impl Question {
    /// Reads a picture, and asks about it then.
    pub fn open(&mut self, context: &egui::Context, lesson: &Lesson, file: &Path) -> Result<()> {
        let (transform, file) = (lesson.transform, file.to_owned());
        let named = file.clone();
        let opening = Background::start(context, move || {
            let picture = Image::open(&file)?;
            Ok(Subject::new(&transform, &picture, Some(file))?)
        })?;
        self.pad.clear();
        self.set(context, None);
        self.opening = Some((named, opening));
        Ok(())
    }

    /// Another lesson has begun: the same question to its model.
    pub fn renew(&mut self, context: &egui::Context, lesson: &Lesson) -> Result<()> {
        // Another model's answer, of other classes perhaps.
        self.answer = None;
        // What is still being read is read for the model that was.
        let being_read = self.opening.take().map(|(file, _)| file);
        match being_read.or(self.subject.take().and_then(|subject| subject.file)) {
            Some(file) => self.open(context, lesson, &file),
            None => Ok(self.take_drawing(context, lesson)?),
        }
    }

    /// Takes what has come, and asks for more. Waits for nothing.
    pub fn advance(&mut self, context: &egui::Context, lesson: &Lesson) -> Result<()> {
        if let Some(subject) = self.opening.as_ref().and_then(|(_, opening)| opening.take()) {
            self.opening = None;
            self.set(context, Some(subject?));
        }
        if let Some(reading) = self.reading.take_if(|reading| reading.is_ready()) {
            let steps = reading.steps;
            self.answer = Some(Answer { top: likeliest(&reading.wait()?), steps, is_stale: false });
        }
        let known = self.answer.as_ref().filter(|answer| !answer.is_stale).map(|answer| answer.steps);
        let is_old = known.is_none_or(|steps| lesson.trainer.steps() >= steps + AGAIN);
        if let Some(subject) = self.subject.as_ref().filter(|_| self.reading.is_none() && is_old) {
            self.reading = Some(Reading::of(lesson, &subject.sample)?);
        }
        Ok(())
    }

    /// Whether an answer is on its way.
    pub fn is_busy(&self) -> bool {
        self.reading.is_some()
    }

    fn set(&mut self, context: &egui::Context, subject: Option<Subject>) {
        let texture = |subject: &Subject| context.load_texture("question", subject.picture(), TextureOptions::NEAREST);
        self.texture = subject.as_ref().map(texture);
        (self.subject, self.reading, self.answer) = (subject, None, None);
    }

    fn take_drawing(&mut self, context: &egui::Context, lesson: &Lesson) -> wgrad::Result<()> {
        if self.pad.is_empty() {
            self.set(context, None);
            return Ok(());
        }
        let picture = if lesson.data == Data::Digits { self.pad.digit() } else { self.pad.picture() }?;
        let subject = Subject::new(&lesson.transform, &picture, None)?;
        self.opening = None;
        // The old answer stays until there is another: else it would flicker while one draws.
        let answer = self.answer.take();
        self.set(context, Some(subject));
        self.answer = answer.map(|answer| Answer { is_stale: true, ..answer });
        Ok(())
    }

    pub fn show(&mut self, ui: &mut Ui, lesson: Option<&Lesson>) -> wgrad::Result<()> {
        ui.heading("Ask the model");
        ui.weak("Draw here, or drop a picture on the window.");
        let side = ui.available_width().min(220.0);
        let is_drawn = self.pad.show(ui, side);
        let context = ui.ctx().clone();
        if let Some(lesson) = lesson.filter(|_| is_drawn) {
            self.take_drawing(&context, lesson)?;
        }
        if ui.add_enabled(!self.pad.is_empty() || self.subject.is_some(), egui::Button::new("Clear")).clicked() {
            self.pad.clear();
            self.opening = None;
            self.set(&context, None);
        }
        ui.separator();
        self.show_answer(ui, lesson);
        Ok(())
    }

    fn show_answer(&self, ui: &mut Ui, lesson: Option<&Lesson>) {
        if self.opening.is_some() {
            ui.horizontal(|ui| (ui.spinner(), ui.label("Reading the picture")));
        }
        let Some((subject, texture)) = self.subject.as_ref().zip(self.texture.as_ref()) else { return };
        ui.horizontal(|ui| {
            ui.image((texture.id(), Vec2::splat(64.0)));
            ui.vertical(|ui| {
                ui.weak("As the model sees it");
                let name = subject.file.as_deref().and_then(Path::file_name);
                ui.add(egui::Label::new(name.map_or("drawn".into(), |name| name.to_string_lossy())).truncate());
            });
        });
        let Some((answer, lesson)) = self.answer.as_ref().zip(lesson) else {
            ui.weak("The answer is on its way.");
            return;
        };
        for &(class, probability) in &answer.top {
            let name = lesson.classes.get(class as usize).map_or("?", String::as_str);
            let text = RichText::new(format!("{name}   {:.1} %", 100.0 * probability));
            ui.add(ProgressBar::new(probability).corner_radius(2.0).text(text));
        }
        ui.weak(match answer.steps {
            0 => "Before the first step".to_owned(),
            steps => format!("After step {steps}"),
        });
    }
}

/// The classes of the largest probabilities, the largest first.
fn likeliest(probabilities: &[f32]) -> Vec<(u32, f32)> {
    let mut classes: Vec<(u32, f32)> = (0..).zip(probabilities.iter().copied()).collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes.truncate(TOP);
    classes
}
