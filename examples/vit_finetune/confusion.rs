//! confusion.png: which classes are taken for which.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use crate::lettering::{Anchor, fit, is_dark, shade, width, write};
use crate::training::canvas::{self, BLUE, Canvas, GREY, ORANGE, PALE};

/// Side of the matrix, as far as there are not too many or too few classes for it.
const MATRIX: i32 = 760;
/// The largest side of a cell.
const CELL: i32 = 84;
const LABEL: i32 = 14;
/// The widest that a class's name may be.
const WIDEST: i32 = 170;
const MARGIN: i32 = 20;
/// For the title and the legend.
const HEAD: i32 = 84;
/// For an axis's name.
const AXIS: i32 = 26;
/// One pixel a cell; of more classes no picture is drawn.
pub const MOST_CLASSES: usize = 1000;

/// Counts by (label, prediction).
pub type Confusion = BTreeMap<(u32, u32), u64>;

struct Layout {
    classes: i32,
    cell: i32,
    /// The name of each class that is labelled, by number.
    labels: Vec<(i32, String)>,
    /// Width of the widest label.
    label: i32,
    /// Whether the labels of the columns are written upwards.
    upwards: bool,
}

impl Layout {
    fn new(names: &[String]) -> Result<Self> {
        let classes = i32::try_from(names.len())?.max(1);
        let cell = (MATRIX / classes).clamp(1, CELL);
        // So many that they do not touch.
        let every = (LABEL + 4 + cell - 1) / cell;
        let labelled = (0..).zip(names).filter(|(class, _)| class % every == 0);
        let labels =
            labelled.map(|(class, name)| Ok((class, fit(name, LABEL, WIDEST)?))).collect::<Result<Vec<_>>>()?;
        let widths = labels.iter().map(|(_, name)| width(name, LABEL)).collect::<Result<Vec<_>>>()?;
        let label = widths.into_iter().max().unwrap_or_default();
        Ok(Layout { classes, cell, labels, label, upwards: label + 6 > cell * every })
    }

    fn left(&self) -> i32 {
        MARGIN + AXIS + self.label + 8
    }

    fn side(&self) -> i32 {
        self.cell * self.classes
    }

    fn size(&self) -> (u32, u32) {
        let below = if self.upwards { self.label } else { LABEL };
        let wide = (self.left() + self.side() + MARGIN).max(480);
        let high = HEAD + self.side() + 8 + below + AXIS + MARGIN;
        (wide.cast_unsigned(), high.cast_unsigned())
    }

    /// The upper left corner of a cell.
    fn corner(&self, row: u32, column: u32) -> (i32, i32) {
        (self.left() + column.cast_signed() * self.cell, HEAD + row.cast_signed() * self.cell)
    }
}

/// Draws the matrix. A cell's shade is its share of the true class, its number the samples, where that fits.
pub fn draw(path: &Path, confusion: &Confusion, names: &[String]) -> Result<()> {
    canvas::register()?;
    let layout = Layout::new(names)?;
    let root = BitMapBackend::new(path, layout.size()).into_drawing_area();
    root.fill(&WHITE)?;
    head(&root, confusion)?;
    let mut of_class = vec![0u64; names.len()];
    for (&(label, _), count) in confusion {
        if let Some(sum) = of_class.get_mut(label as usize) {
            *sum += count;
        }
    }
    frame(&root, &layout, &of_class)?;
    for (&(label, predicted), &count) in confusion {
        let whole = of_class.get(label as usize).copied().unwrap_or_default().max(1);
        let share = count as f64 / whole as f64;
        cell(&root, &layout, (label, predicted), count, share)?;
    }
    grid(&root, &layout)?;
    labels(&root, &layout)?;
    root.present()?;
    Ok(())
}

/// The shade of a cell. The root shows single mistakes among many samples.
fn colour(is_right: bool, share: f64) -> RGBColor {
    if is_right { shade(BLUE, share) } else { shade(ORANGE, share.sqrt()) }
}

/// Title, and what the shades mean.
fn head(root: &Canvas<'_>, confusion: &Confusion) -> Result<()> {
    let samples: u64 = confusion.values().sum();
    let right: u64 = confusion.iter().filter(|((label, class), _)| label == class).map(|(_, count)| count).sum();
    write(root, "Confusion matrix", 20, BLACK, (MARGIN, 24), Anchor::Left)?;
    let right_share = 100.0 * right as f64 / samples.max(1) as f64;
    let wide = root.dim_in_pixel().0.cast_signed();
    let text = format!("{right} of {samples} right ({right_share:.1} %)");
    write(root, &text, LABEL, GREY, (wide - MARGIN, 25), Anchor::Right)?;
    let mut x = MARGIN;
    for (is_right, name) in [(true, "right"), (false, "wrong")] {
        write(root, &format!("{name}: 0"), 13, GREY, (x, 54), Anchor::Left)?;
        x += width(&format!("{name}: 0"), 13)? + 6;
        for step in 0..80 {
            let colour = colour(is_right, f64::from(step) / 79.0);
            root.draw(&Rectangle::new([(x + step, 47), (x + step + 1, 61)], colour.filled()))?;
        }
        root.draw(&Rectangle::new([(x - 1, 46), (x + 80, 62)], PALE.stroke_width(1)))?;
        x += 86;
        write(root, "100 %", 13, GREY, (x, 54), Anchor::Left)?;
        x += width("100 %", 13)? + 18;
    }
    write(root, "of the true class", 13, GREY, (x - 8, 54), Anchor::Left)
}

/// The edge, and grey rows for classes without samples.
fn frame(root: &Canvas<'_>, layout: &Layout, of_class: &[u64]) -> Result<()> {
    let ((left, top), side) = (layout.corner(0, 0), layout.side());
    for (row, _) in (0..).zip(of_class).filter(|(_, samples)| **samples == 0) {
        let (x, y) = layout.corner(row, 0);
        root.draw(&Rectangle::new([(x, y), (x + side, y + layout.cell)], RGBColor(240, 240, 240).filled()))?;
    }
    root.draw(&Rectangle::new([(left - 1, top - 1), (left + side, top + side)], GREY.stroke_width(1)))?;
    Ok(())
}

fn cell(root: &Canvas<'_>, layout: &Layout, (label, predicted): (u32, u32), count: u64, share: f64) -> Result<()> {
    let ((x, y), side) = (layout.corner(label, predicted), layout.cell);
    let is_right = label == predicted;
    let fill = colour(is_right, share);
    root.draw(&Rectangle::new([(x, y), (x + side, y + side)], fill.filled()))?;
    let (text, size) = (count.to_string(), if side < 40 { 12 } else { LABEL });
    if side >= 18 && width(&text, size)? + 4 <= side {
        let ink = if is_dark(fill) { WHITE } else { RGBColor(40, 40, 40) };
        write(root, &text, size, ink, (x + side / 2, y + side / 2), Anchor::Centre)?;
    }
    Ok(())
}

/// Thin lines, where cells are large enough for them.
fn grid(root: &Canvas<'_>, layout: &Layout) -> Result<()> {
    let ((left, top), side) = (layout.corner(0, 0), layout.side());
    for i in 1..if layout.cell < 7 { 1 } else { layout.classes } {
        let at = i * layout.cell;
        root.draw(&PathElement::new([(left + at, top), (left + at, top + side - 1)], PALE.stroke_width(1)))?;
        root.draw(&PathElement::new([(left, top + at), (left + side - 1, top + at)], PALE.stroke_width(1)))?;
    }
    Ok(())
}

fn labels(root: &Canvas<'_>, layout: &Layout) -> Result<()> {
    let ((left, top), side) = (layout.corner(0, 0), layout.side());
    let below = top + side + 8;
    for (class, name) in &layout.labels {
        let middle = class * layout.cell + layout.cell / 2;
        write(root, name, LABEL, GREY, (left - 8, top + middle), Anchor::Right)?;
        if layout.upwards {
            write(root, name, LABEL, GREY, (left + middle, below), Anchor::UpwardsRight)?;
        } else {
            write(root, name, LABEL, GREY, (left + middle, below + LABEL / 2), Anchor::Centre)?;
        }
    }
    let high = root.dim_in_pixel().1.cast_signed();
    write(root, "true class", LABEL, BLACK, (MARGIN + LABEL / 2, top + side / 2), Anchor::UpwardsCentre)?;
    write(root, "predicted class", LABEL, BLACK, (left + side / 2, high - MARGIN), Anchor::Centre)
}
