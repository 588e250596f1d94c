//! The font of all drawings, embedded, so that they are the same on a machine without fonts.

use anyhow::{Result, anyhow};
use plotters::style::{FontStyle, register_font};

const FONT: &[u8] = include_bytes!("../../assets/fonts/DejaVuSans-subset.ttf");

/// Before any text is drawn or measured.
pub fn register() -> Result<()> {
    register_font("sans-serif", FontStyle::Normal, FONT).map_err(|_| anyhow!("the embedded font is damaged"))
}
