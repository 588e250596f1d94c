//! Text in drawings that fits its place, and shades that it can be read on.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::training::canvas::Canvas;

/// Where a text stands in relation to the point that it is drawn at.
#[derive(Clone, Copy)]
pub enum Anchor {
    /// Begins there, going right.
    Left,
    /// Is centred there.
    Centre,
    /// Ends there.
    Right,
    /// Is centred there, reading upwards.
    UpwardsCentre,
    /// Ends there, reading upwards.
    UpwardsRight,
}

/// Draws a line of text; vertically it is centred at `at`.
pub fn write(
    canvas: &Canvas<'_>,
    text: &str,
    size: i32,
    colour: RGBColor,
    at: (i32, i32),
    anchor: Anchor,
) -> Result<()> {
    let (horizontal, transform) = match anchor {
        Anchor::Left => (HPos::Left, FontTransform::None),
        Anchor::Centre => (HPos::Center, FontTransform::None),
        Anchor::Right => (HPos::Right, FontTransform::None),
        Anchor::UpwardsCentre => (HPos::Center, FontTransform::Rotate270),
        Anchor::UpwardsRight => (HPos::Right, FontTransform::Rotate270),
    };
    let style = TextStyle::from(("sans-serif", size).into_font().transform(transform)).color(&colour);
    Ok(canvas.draw_text(text, &style.pos(Pos::new(horizontal, VPos::Center)), at)?)
}

/// How wide a line of text is.
pub fn width(text: &str, size: i32) -> Result<i32> {
    let measured = ("sans-serif", size).into_font().box_size(text);
    Ok(measured.map_err(|error| anyhow!("measuring text: {error}"))?.0.cast_signed())
}

/// The text on one line, cut where it is wider than `most`.
pub fn fit(text: &str, size: i32, most: i32) -> Result<String> {
    // No name is read further than this, and measuring takes time.
    let line: String = text.chars().take(100).map(|c| if is_drawn(c) { c } else { '?' }).collect();
    if line.chars().count() == text.chars().count() && width(&line, size)? <= most {
        return Ok(line);
    }
    let mut kept: Vec<char> = line.chars().collect();
    loop {
        let cut: String = kept.iter().chain(&['…']).collect();
        if kept.is_empty() || width(&cut, size)? <= most {
            return Ok(cut);
        }
        kept.pop();
    }
}

/// Whether the font has this character, of those that names are made of.
fn is_drawn(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{17f}' | '–' | '—' | '‘' | '’' | '“' | '”' | '…')
}

/// From white at 0 to `colour` at 1.
pub fn shade(colour: RGBColor, strength: f64) -> RGBColor {
    let blend = |c: u8| (255.0 + (f64::from(c) - 255.0) * strength.clamp(0.0, 1.0)).round() as u8;
    RGBColor(blend(colour.0), blend(colour.1), blend(colour.2))
}

/// Whether white text reads better on it than black, by its luma (ITU-R BT.601).
pub fn is_dark(RGBColor(red, green, blue): RGBColor) -> bool {
    0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue) < 150.0
}
