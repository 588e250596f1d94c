//! The pictures of a batch, with those patches dulled that a block does not see.

use eframe::egui::{
    self, Align2, Color32, ColorImage, FontId, Rect, TextureHandle, TextureOptions, Ui, Vec2, pos2, vec2,
};
use wgrad::data::ImageBatch;
use wgrad::nn::{Extent, Model};
use wgrad::train::Task;

use crate::lesson::Lesson;

/// Pictures that are shown of a batch, at most.
const MOST: usize = 32;
/// A picture is shown with so many pixels a side, at most.
const LARGEST: usize = 96;
/// Space between pictures, and for the class below each.
const GAP: f32 = 6.0;
const CAPTION: f32 = 16.0;
/// What is dropped becomes this colour, but for a rest of its own brightness.
const DROPPED: [f32; 3] = [62.0, 74.0, 104.0];
const REST: f32 = 0.22;

/// The panel of pictures.
#[derive(Default)]
pub struct Tokens {
    /// The block that is looked at, from 0.
    block: usize,
    /// What the texture shows: step and block.
    shown: Option<(u64, usize)>,
    texture: Option<TextureHandle>,
    /// R, if tokens are dropped.
    kept: Option<usize>,
}

impl Tokens {
    /// Another lesson begins.
    pub fn reset(&mut self) {
        *self = Tokens { block: 1, ..Tokens::default() };
    }

    pub fn show(&mut self, ui: &mut Ui, lesson: &Lesson) -> wgrad::Result<()> {
        let Extent { depth, tokens, .. } = lesson.model().extent();
        self.block = self.block.min(depth - 1);
        let Some((step, batch)) = lesson.current() else {
            ui.weak("The pictures of the batch appear here.");
            return Ok(());
        };
        if self.shown != Some((*step, self.block)) {
            self.draw(ui.ctx(), lesson, *step, batch)?;
            self.shown = Some((*step, self.block));
        }
        ui.horizontal(|ui| {
            let what = match self.kept {
                Some(kept) => format!("Step {}: block {} sees {kept} of {tokens} tokens", step + 1, self.block + 1),
                None => format!("Step {}: block {} sees all {tokens} tokens", step + 1, self.block + 1),
            };
            ui.strong(what);
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                let mut block = self.block + 1;
                ui.add(egui::Slider::new(&mut block, 1..=depth).text("Block"));
                self.block = block - 1;
            });
        });
        self.paint(ui, batch, &lesson.classes);
        Ok(())
    }

    /// Makes the texture anew: the pictures side by side.
    fn draw(&mut self, context: &egui::Context, lesson: &Lesson, step: u64, batch: &ImageBatch) -> wgrad::Result<()> {
        let (config, extent) = (lesson.model().config(), lesson.trainer.task().extent());
        let drop = &lesson.trainer.settings().drop;
        // What the trainer drew for this step: draws depend on nothing but their keys.
        let drawn = drop.draw(step, extent, 0, batch.labels.len())?;
        let positions = drawn.iter().find(|span| span.blocks.contains(&self.block)).map(|span| &span.positions);
        let samples = batch.labels.len();
        self.kept = positions.map(|positions| positions.len() / samples);
        let grid =
            Grid { side: config.img_size.0, patch: config.patch_size, prefix: extent.prefix, tokens: extent.tokens };
        let image = grid.pictures(batch, samples.min(MOST), positions.map(Vec::as_slice));
        match &mut self.texture {
            Some(texture) => texture.set(image, TextureOptions::NEAREST),
            none => *none = Some(context.load_texture("batch", image, TextureOptions::NEAREST)),
        }
        Ok(())
    }

    /// The pictures in rows, as large as fits, each with its class.
    fn paint(&self, ui: &mut Ui, batch: &ImageBatch, classes: &[String]) {
        let Some(texture) = &self.texture else { return };
        let count = batch.labels.len().min(MOST);
        let (columns, side) = arrange(count, ui.available_size());
        let size = vec2(columns as f32 * (side + GAP), count.div_ceil(columns) as f32 * (side + CAPTION + GAP));
        let (response, painter) = ui.allocate_painter(size, egui::Sense::hover());
        for (i, &label) in batch.labels.iter().take(count).enumerate() {
            let place = vec2((i % columns) as f32 * (side + GAP), (i / columns) as f32 * (side + CAPTION + GAP));
            let rect = Rect::from_min_size(response.rect.min + place, Vec2::splat(side));
            let [left, right] = [i, i + 1].map(|at| at as f32 / count as f32);
            painter.image(texture.id(), rect, Rect::from_min_max(pos2(left, 0.0), pos2(right, 1.0)), Color32::WHITE);
            let name = classes.get(label as usize).map_or("", String::as_str);
            let most = (side / 6.0) as usize;
            let name: String = name.chars().take(most).collect();
            let (below, font) = (rect.center_bottom() + vec2(0.0, 1.0), FontId::proportional(12.0));
            painter.text(below, Align2::CENTER_TOP, name, font, ui.visuals().text_color());
        }
    }
}

/// In how many columns so many pictures become largest in a space, and how large.
fn arrange(count: usize, space: Vec2) -> (usize, f32) {
    let side = |columns: usize| {
        let across = space.x / columns as f32 - GAP;
        let down = space.y / count.div_ceil(columns) as f32 - CAPTION - GAP;
        across.min(down).clamp(16.0, 128.0)
    };
    let sides = (1..=count.max(1)).map(|columns| (columns, side(columns)));
    // Of equals the widest.
    sides.fold((1, 0.0), |best, next| if next.1 >= best.1 { next } else { best })
}

/// How pictures are cut into tokens.
#[derive(Clone, Copy, Debug)]
struct Grid {
    side: usize,
    patch: usize,
    prefix: usize,
    tokens: usize,
}

impl Grid {
    /// The first `count` pictures of a batch side by side. `positions` are the kept tokens of each sample, `u32[B, R]`.
    fn pictures(self, batch: &ImageBatch, count: usize, positions: Option<&[u32]>) -> ColorImage {
        let every = self.side.div_ceil(LARGEST);
        let side = self.side / every;
        let kept = positions.map(|positions| self.kept(positions, batch.labels.len()));
        let width = count * side;
        let pixel = |i: usize| {
            let (x, y) = (i % width, i / width);
            let (picture, x, y) = (x / side, (x % side) * every, y * every);
            let token = self.prefix + y / self.patch * (self.side / self.patch) + x / self.patch;
            let is_kept = kept.as_ref().is_none_or(|kept| kept[picture * self.tokens + token]);
            self.colour(batch, (picture, x, y), is_kept)
        };
        ColorImage::new([width, side], (0..width * side).map(pixel).collect())
    }

    /// Whether each token of each sample is kept, `bool[B, T]`.
    fn kept(self, positions: &[u32], samples: usize) -> Vec<bool> {
        let mut kept = vec![false; samples * self.tokens];
        let each = positions.len() / samples.max(1);
        for (sample, positions) in positions.chunks(each.max(1)).enumerate() {
            for &position in positions {
                kept[sample * self.tokens + position as usize] = true;
            }
        }
        kept
    }

    fn colour(self, batch: &ImageBatch, (picture, x, y): (usize, usize, usize), is_kept: bool) -> Color32 {
        let plane = self.side * self.side;
        let [r, g, b] = [0, 1, 2].map(|channel| batch.images[(picture * 3 + channel) * plane + y * self.side + x]);
        if is_kept {
            return Color32::from_rgb(r, g, b);
        }
        let brightness = (f32::from(r) + f32::from(g) + f32::from(b)) / 3.0;
        let [r, g, b] = DROPPED.map(|dropped| (dropped + REST * (brightness - dropped)) as u8);
        Color32::from_rgb(r, g, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgrad::data::Position;

    /// Two white pictures of four patches, of which each keeps its class token and another patch.
    #[test]
    fn what_is_dropped_is_dull() {
        let grid = Grid { side: 8, patch: 4, prefix: 1, tokens: 5 };
        let batch = ImageBatch {
            images: vec![255; 2 * 3 * 64],
            labels: vec![0, 1],
            mixed: None,
            indices: vec![0, 1],
            position: Position::default(),
        };
        let image = grid.pictures(&batch, 2, Some(&[0, 2, 0, 3]));
        assert_eq!(image.size, [16, 8]);
        let is_white = |x: usize, y: usize| image.pixels[y * 16 + x] == Color32::WHITE;
        let patches = [(0, 0), (4, 0), (0, 4), (4, 4), (8, 0), (12, 0), (8, 4), (12, 4)];
        for corner in [0, 3] {
            let white = patches.map(|(x, y)| is_white(x + corner, y + corner));
            assert_eq!(white, [false, true, false, false, false, false, true, false]);
        }
        assert!(grid.pictures(&batch, 1, None).pixels.iter().all(|&pixel| pixel == Color32::WHITE));
    }

    #[test]
    fn pictures_fill_their_space() {
        let (columns, side) = arrange(16, vec2(750.0, 220.0));
        assert!(columns == 8 && side > 80.0, "{columns} columns of {side}");
        assert_eq!(arrange(0, vec2(100.0, 100.0)).0, 1);
    }
}
