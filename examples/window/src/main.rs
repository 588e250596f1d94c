//! A window that trains: a Vision Transformer learns with random-LTD on the very device that draws the window, in slices of time
//! between its frames.
//!
//!     cargo run --release
//!     cargo run --release -- --data my_photos --train
//!
//! | file | holds |
//! |---|---|
//! | `device` | what the window asks of its device for the engine, and what becomes of it |
//! | `app` | the window's state, and what happens in a frame |
//! | `settings`, `lesson` | what is to be trained; its model, data and trainer, and a frame's share of training |
//! | `asking`, `saving` | results that are on their way while training goes on: answers, examinations, weights for a file |
//! | `background` | what takes longer than a frame, on a thread of its own |
//! | `curve`, `progress`, `times` | what has been measured: of the training, and of the frames and slices |
//! | `controls`, `charts`, `tokens`, `question`, `pad` | the parts of the window |
//! | `args`, `unattended`, `report` | the command line, and runs that nobody watches |

mod app;
mod args;
mod asking;
mod background;
mod charts;
mod controls;
mod curve;
mod device;
mod lesson;
mod pad;
mod progress;
mod question;
mod report;
mod saving;
mod settings;
mod times;
mod tokens;
mod unattended;
#[path = "../../common/warnings.rs"]
mod warnings;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use eframe::egui;

use app::App;
use args::Args;

/// How a window ended.
#[derive(Debug, Default)]
enum Outcome {
    /// It was closed.
    #[default]
    Closed,
    /// Nobody watched, and it could not do what it was to do.
    Failed(String),
    /// Its device is gone, and with it all that lay there.
    DeviceLost(String),
}

/// A device that is lost sooner will be lost again.
const SHORTEST_LIFE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    warnings::show();
    let args = Args::parse();
    let mut notice = None;
    loop {
        let opened = Instant::now();
        match window(&args, notice)? {
            Outcome::Closed => return Ok(()),
            Outcome::Failed(message) => bail!(message),
            Outcome::DeviceLost(message) if opened.elapsed() < SHORTEST_LIFE || args.is_unattended() => bail!(message),
            // A window cannot outlive its device: the next one has a new one.
            Outcome::DeviceLost(message) => notice = Some(message),
        }
    }
}

/// One window, from opening to closing. `notice` is shown in it.
fn window(args: &Args, notice: Option<String>) -> Result<Outcome> {
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let viewport = egui::ViewportBuilder::default()
        .with_title("wgrad")
        .with_app_id("wgrad-window")
        .with_inner_size([1280.0, 800.0])
        .with_min_inner_size([960.0, 600.0]);
    let options = eframe::NativeOptions { viewport, wgpu_options: device::configuration(), ..Default::default() };
    let told = Rc::clone(&outcome);
    let create: eframe::AppCreator<'_> =
        Box::new(move |context| Ok(Box::new(App::new(context, args, notice, told)) as Box<dyn eframe::App>));
    if let Err(error) = eframe::run_native("wgrad", options, create) {
        bail!("the window cannot be opened: {error}");
    }
    Ok(outcome.take())
}
