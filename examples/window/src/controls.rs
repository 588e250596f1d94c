//! What is chosen, and the buttons.

use eframe::egui::{self, Button, DragValue, Grid, Slider, TextEdit, Ui};

use crate::args::BUDGETS;
use crate::settings::{Data, Settings, Start};
use crate::times::Summary;

/// What a button asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin anew, with what is chosen.
    Load,
    Start,
    Pause,
    /// One step, then pause.
    Step,
    Save,
}

/// What the buttons depend on.
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub is_loading: bool,
    pub has_lesson: bool,
    pub is_training: bool,
    pub is_saving: bool,
    /// Whether what is chosen is what is trained.
    pub is_loaded: bool,
}

/// What the panel changes.
pub struct Choices<'a> {
    pub settings: &'a mut Settings,
    /// Milliseconds.
    pub budget: &'a mut f32,
    pub file: &'a mut String,
}

/// What it tells.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub steps: u64,
    pub steps_per_second: f64,
    /// Bytes of the device's memory that the engine holds.
    pub memory: u64,
    pub times: Summary,
}

/// The panel.
pub fn show(ui: &mut Ui, choices: Choices<'_>, state: State, facts: &Facts) -> Option<Command> {
    let Choices { settings, budget, file } = choices;
    ui.add_enabled_ui(!state.is_loading, |ui| {
        choose_data(ui, settings);
        choose_start(ui, settings);
        ui.add_space(4.0);
        ui.collapsing("How it is trained", |ui| choose_training(ui, settings));
    });
    ui.separator();
    let command = buttons(ui, state);
    ui.add_space(4.0);
    ui.label("Device time for training in each frame");
    ui.add(Slider::new(budget, BUDGETS).logarithmic(true).fixed_decimals(1).suffix(" ms"));
    ui.separator();
    tell(ui, facts);
    ui.separator();
    command.or(save(ui, file, state))
}

fn choose_data(ui: &mut Ui, settings: &mut Settings) {
    ui.strong("Pictures");
    ui.radio_value(&mut settings.data, Data::Digits, "The digits that come along");
    ui.radio_value(&mut settings.data, Data::Folder, "Photos, a folder for each class");
    if settings.data == Data::Folder {
        path(ui, &mut settings.folder, "path of the folder, or drop it here");
    }
}

fn choose_start(ui: &mut Ui, settings: &mut Settings) {
    ui.add_space(4.0);
    ui.strong("Weights to start from");
    ui.radio_value(&mut settings.start, Start::Embedded, "The small model that comes along");
    ui.radio_value(&mut settings.start, Start::Random, "The same, random");
    ui.radio_value(&mut settings.start, Start::File, "A checkpoint");
    if settings.start == Start::File {
        path(ui, &mut settings.weights, "path of the file or folder");
    }
}

fn path(ui: &mut Ui, text: &mut String, hint: &str) {
    ui.add(TextEdit::singleline(text).hint_text(hint).desired_width(f32::INFINITY));
}

fn choose_training(ui: &mut Ui, settings: &mut Settings) {
    Grid::new("training").num_columns(2).show(ui, |ui| {
        ui.label("Pictures in a batch");
        ui.add(DragValue::new(&mut settings.batch_size).range(1..=256));
        ui.end_row();
        ui.label("Learning rate");
        ui.add(DragValue::new(&mut settings.rate).range(1e-6..=1.0).speed(1e-5).max_decimals(6));
        ui.end_row();
        ui.label("Tokens kept at first");
        ui.add(DragValue::new(&mut settings.kept_at_first).range(1..=99).suffix(" %"));
        ui.end_row();
        ui.label("Steps until all are kept");
        ui.add(DragValue::new(&mut settings.ltd_steps).range(1..=1_000_000));
        ui.end_row();
    });
}

fn buttons(ui: &mut Ui, state: State) -> Option<Command> {
    let State { is_loading, has_lesson, is_training, is_loaded, .. } = state;
    let mut command = None;
    ui.horizontal(|ui| {
        let mut button = |text: &str, is_enabled: bool, what: Command| {
            if ui.add_enabled(is_enabled, Button::new(text)).clicked() {
                command = Some(what);
            }
        };
        match is_training {
            true => button("Pause", true, Command::Pause),
            false => button("Start", has_lesson, Command::Start),
        }
        button("One step", has_lesson && !is_training, Command::Step);
        let text = if is_loaded && has_lesson { "Reset" } else { "Load" };
        button(text, !is_loading, Command::Load);
    });
    if has_lesson && !is_loaded {
        ui.weak("Load takes what is chosen above.");
    }
    command
}

fn tell(ui: &mut Ui, facts: &Facts) {
    let Facts { steps, steps_per_second, memory, times } = facts;
    let Summary { frame, own, taken_over_expected, taken, .. } = times;
    let row = |ui: &mut Ui, name: &str, text: String, about: &str| {
        ui.label(name).on_hover_text(about);
        ui.monospace(text);
        ui.end_row();
    };
    let two = |[median, high]: &[f64; 2]| format!("{median:6.2} {high:7.2}");
    let three = |[low, median, high]: [f64; 3]| format!("{low:5.2} {median:6.2} {high:6.2}");
    Grid::new("facts").num_columns(2).spacing([12.0, 3.0]).show(ui, |ui| {
        row(ui, "Steps", format!("{steps}"), "steps that have ended");
        row(ui, "Steps a second", format!("{steps_per_second:.1}"), "of the last seconds");
        row(ui, "Memory, MB", format!("{:.0}", *memory as f64 / 1e6), "of the device, for training");
        ui.weak("In milliseconds");
        ui.weak("median       99 %");
        ui.end_row();
        row(ui, "Frame", two(frame), "from one frame to the next");
        row(ui, "wgrad in it", two(own), "the host's time in calls of the engine");
        ui.weak("");
        ui.weak("10 %   median   90 %");
        ui.end_row();
        row(ui, "Training, ms", three(*taken), "device time of training in a frame");
        row(ui, "Taken : due", three(*taken_over_expected), "what slices of it take, over what they should");
    });
}

fn save(ui: &mut Ui, file: &mut String, state: State) -> Option<Command> {
    ui.strong("Save the weights");
    let mut clicked = false;
    ui.horizontal(|ui| {
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            clicked = ui.add_enabled(state.has_lesson && !state.is_saving, Button::new("Save")).clicked();
            path(ui, file, "name of a new file");
        });
    });
    clicked.then_some(Command::Save)
}
