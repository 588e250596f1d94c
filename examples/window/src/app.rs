//! The window's state, and what happens in a frame: first training and whatever is on its way, then drawing.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use eframe::egui::{self, Align2, CentralPanel, Color32, FontId, Panel, ScrollArea, Ui};
use wgrad::nn::Model;
use wgrad::{Error, Gpu};

use crate::Outcome;
use crate::args::Args;
use crate::asking::{Examination, Mark};
use crate::background::Background;
use crate::charts;
use crate::controls::{self, Choices, Command, Facts};
use crate::device::Health;
use crate::lesson::{Lesson, Material};
use crate::progress::Progress;
use crate::question::Question;
use crate::report::Report;
use crate::saving::{self, Saving};
use crate::settings::{Data, Settings, Start};
use crate::times::{Summary, Times};
use crate::tokens::Tokens;
use crate::unattended::Unattended;

/// The time of a frame, where the display does not set it.
const FRAME: Duration = Duration::from_millis(16);
/// Steps between two examinations.
const EXAMINE: u64 = 25;
/// How often figures change, so that they can be read.
const REFRESH: Duration = Duration::from_millis(300);
/// The goal of training without end.
const ENDLESS: u64 = u64::MAX;

/// A model that learns, or what there is in its place.
enum Learner {
    Absent,
    Loading(Background<Lesson>),
    Ready(Box<Lesson>),
}

impl Learner {
    fn lesson(&self) -> Option<&Lesson> {
        if let Learner::Ready(lesson) = self { Some(lesson) } else { None }
    }
}

/// A line for the user.
struct Notice {
    text: String,
    is_error: bool,
}

/// All that a window holds: there is nothing beside it.
pub struct App {
    /// The engine on the window's device, unless it does not work there.
    engine: Option<Gpu>,
    health: Health,
    settings: Settings,
    /// What the lesson was made of.
    loaded: Option<Settings>,
    learner: Learner,
    /// What the next one is to be made of.
    reading: Option<Background<Material>>,
    /// Steps after which training pauses.
    goal: u64,
    /// Milliseconds.
    budget: f32,
    progress: Progress,
    times: Times,
    figures: (Instant, Facts),
    examination: Option<Examination>,
    mark: Option<Mark>,
    saving: Option<Saving>,
    /// Where to save, as it was typed.
    file: String,
    tokens: Tokens,
    question: Question,
    /// A picture to be asked about once there is a model.
    picture: Option<PathBuf>,
    notice: Option<Notice>,
    trains_at_once: bool,
    /// Whether the window is to close as soon as nothing is being saved.
    is_closing: bool,
    unattended: Unattended,
    outcome: Rc<RefCell<Outcome>>,
}

impl App {
    pub fn new(
        context: &eframe::CreationContext<'_>,
        args: &Args,
        notice: Option<String>,
        outcome: Rc<RefCell<Outcome>>,
    ) -> Self {
        let (engine, health) = match &context.wgpu_render_state {
            Some(state) => {
                let engine = Gpu::from_wgpu(state.device.clone(), state.queue.clone(), Some(&state.adapter));
                (engine.map_err(anyhow::Error::from), Health::watch(&state.device))
            }
            None => (Err(anyhow::anyhow!("the window is not drawn by wgpu")), Health::default()),
        };
        let mut app = App {
            engine: None,
            health,
            settings: Settings::new(args),
            loaded: None,
            learner: Learner::Absent,
            reading: None,
            goal: 0,
            budget: args.budget,
            progress: Progress::default(),
            times: Times::default(),
            figures: (Instant::now(), Facts::default()),
            examination: None,
            mark: None,
            saving: None,
            file: "model.safetensors".to_owned(),
            tokens: Tokens::default(),
            question: Question::default(),
            picture: args.picture.clone(),
            notice: notice.map(|text| Notice { text, is_error: true }),
            trains_at_once: args.train,
            is_closing: false,
            unattended: Unattended::new(args),
            outcome,
        };
        match engine {
            Ok(gpu) => app.engine = Some(gpu),
            Err(error) => app.complain(&error.context("this device cannot train")),
        }
        app.load(&context.egui_ctx);
        app
    }

    // ---- what is to be said ----

    fn complain(&mut self, error: &anyhow::Error) {
        self.notice = Some(Notice { text: format!("{error:#}"), is_error: true });
    }

    /// Goes on after a part of a frame that may have failed.
    fn check<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.complain(&error)).ok()
    }

    // ---- lessons ----

    /// Begins anew with what is chosen, which is read on another thread first: what cannot be read leaves the model as it is.
    fn load(&mut self, context: &egui::Context) {
        if self.engine.is_none() {
            return;
        }
        if self.saving.is_some() {
            self.complain(&anyhow::anyhow!("the model is being saved, and stays until that is done"));
            return;
        }
        let settings = self.settings.clone();
        let reading = Background::start(context, move || Material::read(settings));
        self.reading = self.check(reading);
    }

    /// Makes a lesson of what has been read, in the place of the old one.
    fn take_read(&mut self, context: &egui::Context) {
        // A file that is being written is still of the old one.
        if self.saving.is_some() {
            return;
        }
        let Some(read) = self.reading.as_ref().and_then(Background::take) else { return };
        self.reading = None;
        let (Some(material), Some(gpu)) = (self.check(read), self.engine.clone()) else { return };
        // What the old one holds is given back first.
        self.drop_lesson();
        (self.progress, self.times, self.mark) = Default::default();
        self.loaded = Some(material.settings.clone());
        let loading = Background::start(context, move || Lesson::new(&gpu, material));
        if let Some(loading) = self.check(loading) {
            self.learner = Learner::Loading(loading);
        }
    }

    fn drop_lesson(&mut self) {
        (self.learner, self.goal, self.examination, self.saving) = (Learner::Absent, 0, None, None);
    }

    /// Takes a lesson that has been loaded.
    fn take_loaded(&mut self, context: &egui::Context) {
        let Learner::Loading(loading) = &self.learner else { return };
        let Some(loaded) = loading.take() else { return };
        self.learner = Learner::Absent;
        let Some(lesson) = self.check(loaded) else { return };
        if !lesson.remarks.is_empty() {
            self.notice = Some(Notice { text: lesson.remarks.join("; "), is_error: false });
        }
        self.tokens.reset();
        let asked = match self.picture.take() {
            Some(picture) => self.question.open(context, &lesson, &picture),
            None => self.question.renew(context, &lesson),
        };
        self.learner = Learner::Ready(Box::new(lesson));
        self.goal = if self.trains_at_once { ENDLESS } else { 0 };
        self.trains_at_once = false;
        self.check(asked);
    }

    fn lesson(&self) -> Option<&Lesson> {
        self.learner.lesson()
    }

    /// Whether steps begin or are under way.
    fn is_learning(&self) -> bool {
        self.lesson().is_some_and(|lesson| lesson.is_busy() || lesson.trainer.steps() < self.goal)
    }

    // ---- a frame's share ----

    /// Training and examinations, as far as they go in this frame. Waits for nothing.
    fn learn(&mut self) -> Result<()> {
        let Learner::Ready(lesson) = &mut self.learner else { return Ok(()) };
        if let Some(examination) = self.examination.take_if(|examination| examination.is_ready()) {
            let mark = examination.wait()?;
            self.progress.add_mark(&mark);
            self.mark = Some(mark);
        }
        let budget = Duration::from_secs_f32(self.budget / 1e3);
        let ended = lesson.advance(budget, self.goal.saturating_sub(lesson.trainer.steps()))?;
        ended.iter().for_each(|step| self.progress.add(step));
        if !ended.is_empty()
            && let Some(text) = lesson.unreadable()
        {
            self.notice = Some(Notice { text, is_error: false });
        }
        let next = self.mark.map_or(0, |mark| mark.steps + EXAMINE);
        if self.examination.is_none() && lesson.is_busy() && lesson.trainer.steps() >= next {
            self.examination = lesson.examine()?;
        }
        Ok(())
    }

    /// Answers and files that are on their way. What goes wrong with one of them stops nothing else.
    fn go_on_asking_and_saving(&mut self, context: &egui::Context) {
        let Some(lesson) = self.learner.lesson() else { return };
        let asked = self.question.advance(context, lesson);
        let saved = self.saving.take().map(|saving| saving.advance(context)).transpose();
        self.check(asked);
        match self.check(saved).flatten() {
            Some(saving::Progress::Goes(saving)) => self.saving = Some(saving),
            Some(saving::Progress::Ended(text)) => self.notice = Some(Notice { text, is_error: false }),
            None => {}
        }
    }

    /// A window that is closed while weights are on their way to a file waits for them.
    fn save_before_the_end(&mut self, context: &egui::Context) {
        if self.saving.is_none() {
            if self.is_closing {
                context.send_viewport_cmd(egui::ViewportCommand::Close);
            }
        } else if context.input(|input| input.viewport().close_requested()) {
            context.send_viewport_cmd(egui::ViewportCommand::CancelClose);
            self.is_closing = true;
            self.notice = Some(Notice {
                text: "The weights are being saved; then the window closes.".to_owned(),
                is_error: false,
            });
        }
    }

    /// [`App::learn`] and all that is on its way, with the times.
    fn learn_and_measure(&mut self, context: &egui::Context) {
        let (begin, is_learning) = (Instant::now(), self.is_learning());
        self.times.frame(begin, is_learning);
        self.go_on_asking_and_saving(context);
        let learnt = self.learn();
        let own = begin.elapsed();
        if let Learner::Ready(lesson) = &self.learner
            && is_learning
        {
            let budget = Duration::from_secs_f32(self.budget / 1e3);
            self.times.add(own, budget, lesson.trainer.slices(), (begin, lesson.done()));
        }
        if let Err(error) = learnt {
            self.stop(&error);
        }
    }

    /// After an error: a step whose gradient is not finite was left out, and training may go on; else the lesson is over.
    fn stop(&mut self, error: &anyhow::Error) {
        self.goal = 0;
        if !matches!(error.downcast_ref(), Some(Error::NonFinite { .. })) {
            self.drop_lesson();
        }
        self.complain(error);
    }

    /// What the device's callbacks have told. `false` if the window cannot go on.
    fn look_at_device(&mut self) -> bool {
        if let Some(why) = self.health.lost() {
            let text = format!("The device was lost, and with it what had been learnt and not saved ({})", why.trim());
            *self.outcome.borrow_mut() = Outcome::DeviceLost(text);
            return false;
        }
        if let Some(error) = self.health.take_error() {
            self.complain(&anyhow::anyhow!("while drawing: {error}"));
        }
        true
    }

    /// What becomes of a run that nobody watches. `false` if the window is to close.
    fn go_on_unattended(&mut self, context: &egui::Context) -> bool {
        let App { progress, times, mark, budget, .. } = self;
        let Learner::Ready(lesson) = &self.learner else {
            // Somebody would read the notice, and choose otherwise.
            let is_absent = self.reading.is_none() && matches!(self.learner, Learner::Absent);
            let is_hopeless = self.unattended.is() && is_absent;
            if is_hopeless && let Some(notice) = self.notice.take() {
                *self.outcome.borrow_mut() = Outcome::Failed(notice.text);
            }
            return !is_hopeless;
        };
        let report = || Report::new(lesson.model().gpu(), *budget, lesson.done(), progress, mark.as_ref(), times);
        match self.unattended.advance(context, report) {
            Ok(is_over) => !is_over,
            Err(error) => {
                *self.outcome.borrow_mut() = Outcome::Failed(format!("{error:#}"));
                false
            }
        }
    }

    fn obey(&mut self, context: &egui::Context, command: Command) {
        let steps = self.lesson().map_or(0, |lesson| lesson.trainer.steps());
        match command {
            Command::Load => self.load(context),
            Command::Start => self.goal = ENDLESS,
            Command::Pause => self.goal = 0,
            Command::Step => self.goal = steps + 1,
            Command::Save => {
                let begun = self.lesson().map(|lesson| Saving::begin(lesson, PathBuf::from(self.file.trim())));
                self.saving = begun.and_then(|begun| self.check(begun));
            }
        }
    }

    // ---- files that are dropped ----

    fn take_dropped(&mut self, context: &egui::Context) {
        for dropped in context.input(|input| input.raw.dropped_files.clone()) {
            let taken = self.take_file(context, dropped.path());
            self.check(taken);
        }
    }

    /// A folder is one of photos, unless it has weights; a safetensors file is weights; anything else a picture.
    fn take_file(&mut self, context: &egui::Context, path: &Path) -> Result<()> {
        let text = path.display().to_string();
        let is_weights = path.extension().is_some_and(|extension| extension == "safetensors");
        if is_weights || path.join("config.json").is_file() {
            (self.settings.start, self.settings.weights) = (Start::File, text);
            self.load(context);
        } else if path.is_dir() {
            (self.settings.data, self.settings.folder) = (Data::Folder, text);
            self.load(context);
        } else {
            ensure!(self.lesson().is_some(), "{text}: there is no model yet that could be asked");
            if let Learner::Ready(lesson) = &self.learner {
                self.question.open(context, lesson, path)?;
            }
        }
        Ok(())
    }

    // ---- drawing ----

    fn show_notice(&mut self, ui: &mut Ui) {
        let Some(Notice { text, is_error }) = &self.notice else { return };
        let colour = if *is_error { ui.visuals().error_fg_color } else { ui.visuals().text_color() };
        let mut is_read = false;
        Panel::top("notice").show(ui, |ui| {
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                is_read = ui.button("Close").clicked();
                let label = egui::Label::new(egui::RichText::new(text).color(colour)).wrap();
                ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), |ui| ui.add(label));
            });
        });
        if is_read {
            self.notice = None;
        }
    }

    fn show_controls(&mut self, ui: &mut Ui) -> Option<Command> {
        let state = controls::State {
            is_loading: self.reading.is_some() || matches!(self.learner, Learner::Loading(_)),
            has_lesson: self.lesson().is_some(),
            is_training: self.goal == ENDLESS,
            is_saving: self.saving.is_some(),
            is_loaded: self.loaded.as_ref() == Some(&self.settings),
        };
        let facts = self.facts();
        let choices = Choices { settings: &mut self.settings, budget: &mut self.budget, file: &mut self.file };
        let shown = Panel::left("controls")
            .exact_size(270.0)
            .resizable(false)
            .show(ui, |ui| ScrollArea::vertical().show(ui, |ui| controls::show(ui, choices, state, &facts)).inner);
        shown.inner
    }

    /// What the panel tells, a few times a second.
    fn facts(&mut self) -> Facts {
        let steps = self.lesson().map_or(0, Lesson::done);
        if self.figures.0.elapsed() > REFRESH || self.figures.1.steps > steps {
            let memory = self.engine.as_ref().map_or(0, |gpu| gpu.memory().allocated);
            let times = Summary::recent(&self.times);
            let steps_per_second = if self.is_learning() { self.times.steps_per_second() } else { 0.0 };
            self.figures = (Instant::now(), Facts { steps, steps_per_second, memory, times });
        }
        self.figures.1.clone()
    }

    fn show_question(&mut self, ui: &mut Ui) {
        let App { question, learner, .. } = self;
        let lesson = learner.lesson();
        let shown =
            Panel::right("question").exact_size(250.0).resizable(false).show(ui, |ui| question.show(ui, lesson));
        self.check(shown.inner.map_err(anyhow::Error::from));
    }

    fn show_lesson(&mut self, ui: &mut Ui) {
        let App { progress, times, budget, tokens, learner, reading, engine, .. } = self;
        let lesson = learner.lesson();
        let shown = CentralPanel::default().show(ui, |ui| {
            if let Some(gpu) = engine {
                ui.weak(about(gpu, lesson));
            }
            let length = lesson.map(|lesson| lesson.model().extent().tokens);
            charts::show(ui, 0.66 * ui.available_height(), progress, length, times, *budget);
            ui.add_space(6.0);
            match (&*learner, lesson) {
                (_, Some(lesson)) => tokens.show(ui, lesson),
                (Learner::Absent, _) if reading.is_none() => Ok(()),
                _ => {
                    ui.horizontal(|ui| (ui.spinner(), ui.label("Reading the data and preparing the device")));
                    Ok(())
                }
            }
        });
        self.check(shown.inner.map_err(anyhow::Error::from));
    }
}

impl eframe::App for App {
    fn logic(&mut self, context: &egui::Context, _frame: &mut eframe::Frame) {
        let begin = Instant::now();
        self.take_read(context);
        self.take_loaded(context);
        self.learn_and_measure(context);
        self.save_before_the_end(context);
        if !self.look_at_device() || !self.go_on_unattended(context) {
            context.send_viewport_cmd(egui::ViewportCommand::Close);
            return;
        }
        let is_waiting = self.question.is_busy() || self.examination.is_some() || self.saving.is_some();
        if self.is_learning() || is_waiting {
            context.request_repaint_after(FRAME.saturating_sub(begin.elapsed()));
        }
    }

    fn ui(&mut self, ui: &mut Ui, _frame: &mut eframe::Frame) {
        // egui ends the program where it cannot upload what is to be drawn.
        if self.health.lost().is_some() {
            return;
        }
        let context = ui.ctx().clone();
        self.take_dropped(&context);
        self.show_notice(ui);
        let command = self.show_controls(ui);
        self.show_question(ui);
        self.show_lesson(ui);
        show_what_may_be_dropped(&context);
        if let Some(command) = command {
            self.obey(&context, command);
        }
    }
}

/// The device, and the model on it.
fn about(gpu: &Gpu, lesson: Option<&Lesson>) -> String {
    let Some(lesson) = lesson else { return gpu.info().to_string() };
    let (config, parameters) = (lesson.model().config(), lesson.model().parameters());
    let (side, patch) = (config.img_size.0, config.patch_size);
    let weights: usize = parameters.iter().map(|parameter| parameter.value().numel()).sum();
    format!(
        "A ViT {} wide and {} deep, {:.1} M weights, {side}×{side} pictures in patches of {patch}, {} classes, on {}",
        config.embed_dim,
        config.depth,
        weights as f64 / 1e6,
        config.num_classes,
        gpu.info().name
    )
}

/// While a file is held over the window.
fn show_what_may_be_dropped(context: &egui::Context) {
    if context.input(|input| input.raw.hovered_files.is_empty()) {
        return;
    }
    let layer = egui::LayerId::new(egui::Order::Foreground, egui::Id::unique("dropped"));
    let (painter, area) = (context.layer_painter(layer), context.content_rect());
    painter.rect_filled(area, 0.0, Color32::from_black_alpha(180));
    let text = "A picture to ask about, a folder of photos to learn from, or a checkpoint to start from";
    painter.text(area.center(), Align2::CENTER_CENTER, text, FontId::proportional(20.0), Color32::WHITE);
}
