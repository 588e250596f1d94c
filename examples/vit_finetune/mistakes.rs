//! mistakes.png: the mistakes that the model was surest of, as it saw the pictures.

use std::path::Path;

use anyhow::Result;
use plotters::element::BitMapElement;
use plotters::prelude::*;
use wgrad::data::{Crop, Image, Key, Split, Transform};
use wgrad::train::Predictions;

use crate::lettering::{Anchor, fit, width, write};
use crate::training::canvas::{self, Canvas, GREY, ORANGE, PALE};

/// Mistakes shown.
const MOST: usize = 24;
const COLUMNS: usize = 6;
/// Pictures up to this side are enlarged to about it.
const SMALL: u32 = 160;
/// Pictures above this side are made smaller.
const LARGE: u32 = 256;
const GAP: i32 = 16;
/// For three lines below a picture.
const TEXT: i32 = 62;
const HEAD: i32 = 52;

/// A picture on the sheet.
struct Tile {
    /// `u8[side, side, 3]`.
    pixels: Vec<u8>,
    side: u32,
    predicted: String,
    /// Of the prediction, in percent.
    sureness: String,
    label: String,
    file: String,
}

/// Draws the sheet; nothing where nothing is wrong. Returns whether there is a sheet.
pub fn draw(
    path: &Path,
    split: &Split,
    transform: &Transform,
    predictions: &Predictions,
    names: &[String],
) -> Result<bool> {
    let mistakes = predictions.mistakes();
    let tile = |&row: &usize| {
        let (class, p) = predictions.top(row, 1).first().copied()?;
        let (label, sample) = (*predictions.labels().get(row)?, *predictions.samples().get(row)?);
        // A photo that could be read a moment ago and no longer can is left out.
        let (pixels, side) = picture(split, transform, sample).ok()?;
        let name = |class: u32| names.get(class as usize).map_or_else(|| format!("class {class}"), Clone::clone);
        let file = split.name(sample);
        let file = Path::new(&file).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let sureness = format!("{:.0} %", 100.0 * p);
        Some(Tile { pixels, side, predicted: name(class), sureness, label: name(label), file })
    };
    let tiles: Vec<Tile> = mistakes.iter().filter_map(tile).take(MOST).collect();
    let Some(side) = tiles.iter().map(|tile| tile.side.cast_signed()).max() else { return Ok(false) };
    canvas::register()?;
    let columns = tiles.len().clamp(3, COLUMNS).cast_signed() as i32;
    let rows = tiles.len().div_ceil(columns as usize) as i32;
    let size = (GAP + columns * (side + GAP), HEAD + rows * (side + TEXT) + 4);
    let root = BitMapBackend::new(path, (size.0.cast_unsigned(), size.1.cast_unsigned())).into_drawing_area();
    root.fill(&WHITE)?;
    write(&root, "Surest mistakes", 20, BLACK, (GAP, 26), Anchor::Left)?;
    let shown = format!("{} of {}", tiles.len(), mistakes.len());
    write(&root, &shown, 14, GREY, (size.0 - GAP, 27), Anchor::Right)?;
    for (i, tile) in (0..).zip(tiles) {
        let at = (GAP + i % columns * (side + GAP), HEAD + i / columns * (side + TEXT));
        draw_tile(&root, tile, at)?;
    }
    root.present()?;
    Ok(true)
}

fn draw_tile(root: &Canvas<'_>, tile: Tile, (x, y): (i32, i32)) -> Result<()> {
    let side = tile.side.cast_signed();
    if let Some(picture) = BitMapElement::with_owned_buffer((x, y), (tile.side, tile.side), tile.pixels) {
        root.draw(&picture)?;
    }
    root.draw(&Rectangle::new([(x - 1, y - 1), (x + side, y + side)], PALE.stroke_width(1)))?;
    let (right, line) = (x + side, |i: i32| y + side + 12 + 17 * i);
    write(root, &tile.sureness, 14, ORANGE, (right, line(0)), Anchor::Right)?;
    let predicted = fit(&format!("as {}", tile.predicted), 14, side - width(&tile.sureness, 14)? - 8)?;
    write(root, &predicted, 14, ORANGE, (x, line(0)), Anchor::Left)?;
    write(root, &fit(&format!("is {}", tile.label), 14, side)?, 14, BLACK, (x, line(1)), Anchor::Left)?;
    write(root, &fit(&tile.file, 11, side)?, 11, GREY, (x, line(2)), Anchor::Left)
}

/// A sample as the model saw it, at a size for the eye: small ones enlarged pixel by pixel. `u8[side, side, 3]`.
fn picture(split: &Split, transform: &Transform, sample: u32) -> Result<(Vec<u8>, u32)> {
    let key = Key { seed: 0, epoch: 0, sample };
    let mut planes = vec![0; transform.sample_bytes()];
    transform.apply(&split.image(sample)?, key, &mut planes)?;
    let mut side = transform.size;
    if side > LARGE {
        let whole = Image::new(side, side, channels_last(&planes, side, 1))?;
        let smaller = Transform::new(LARGE, Crop::Whole);
        planes = vec![0; smaller.sample_bytes()];
        smaller.apply(&whole, key, &mut planes)?;
        side = LARGE;
    }
    let times = (SMALL / side).max(1);
    Ok((channels_last(&planes, side, times), side * times))
}

/// `u8[3, S, S]` to `u8[S·times, S·times, 3]`, each pixel `times` as wide and high.
fn channels_last(planes: &[u8], side: u32, times: u32) -> Vec<u8> {
    let (side, times) = (side as usize, times as usize);
    let pixel = |y: usize, x: usize| [0, 1, 2].map(|channel| planes[(channel * side + y) * side + x]);
    let row = |y: usize| (0..side * times).flat_map(move |x| pixel(y / times, x / times));
    (0..side * times).flat_map(row).collect()
}
