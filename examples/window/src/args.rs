//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// A window that trains a Vision Transformer with random-LTD while it draws. Everything can also be chosen in the window.
#[derive(Parser, Clone, Debug)]
#[command(version, about)]
pub struct Args {
    /// A folder of photos with a folder for each class [default: the digits that come along].
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// A checkpoint to start from: a safetensors file, or a folder as timm or transformers save it [default: the small model
    /// that comes along].
    #[arg(long, value_name = "PATH")]
    pub weights: Option<PathBuf>,
    /// Milliseconds of the device's time that training gets in each frame.
    #[arg(long, value_name = "MS", default_value_t = 8.0, value_parser = milliseconds)]
    pub budget: f32,
    /// Start to train at once.
    #[arg(long)]
    pub train: bool,
    /// Close the window so many seconds after the model has been loaded.
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Save the last frame as a PNG.
    #[arg(long, value_name = "FILE", requires = "seconds")]
    pub screenshot: Option<PathBuf>,
    /// Write frame times, slice times and what was learnt as JSON.
    #[arg(long, value_name = "FILE", requires = "seconds")]
    pub report: Option<PathBuf>,
    /// A picture that the model is asked about.
    pub picture: Option<PathBuf>,
}

impl Args {
    /// Whether the window closes by itself.
    pub fn is_unattended(&self) -> bool {
        self.seconds.is_some()
    }
}

/// The budgets that can be chosen, in milliseconds.
pub const BUDGETS: std::ops::RangeInclusive<f32> = 0.5..=32.0;

fn milliseconds(text: &str) -> Result<f32, String> {
    let budget = text.parse().ok().filter(|budget| BUDGETS.contains(budget));
    budget.ok_or_else(|| format!("a number from {} to {} is expected", BUDGETS.start(), BUDGETS.end()))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "a number from 0 to 86400 is expected".to_owned())
}
