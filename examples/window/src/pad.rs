//! A pad to draw on with the mouse.

use eframe::egui::{Color32, Pos2, Rect, Sense, Stroke, Ui, Vec2, vec2};
use wgrad::data::Image;

/// Half a line's width, where the drawing is 1 wide and high.
const RADIUS: f32 = 0.065;
/// How far a line's edge reaches, in pixels.
const EDGE: f32 = 1.0;
/// Side of a digit, as those of the data set.
const DIGIT: usize = 8;
/// Pixels across one of a digit's, of which it is the mean.
const FINE: usize = 4;
/// Side of another picture.
const PICTURE: usize = 64;

/// Lines in the unit square, from the top left.
#[derive(Clone, Debug, Default)]
pub struct Pad {
    lines: Vec<Vec<Pos2>>,
}

impl Pad {
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Shows the pad, `side` wide and high. Whether something has been drawn.
    pub fn show(&mut self, ui: &mut Ui, side: f32) -> bool {
        let (response, painter) = ui.allocate_painter(Vec2::splat(side), Sense::click_and_drag());
        let rect = response.rect;
        painter.rect_filled(rect, 4.0, Color32::BLACK);
        let mut is_drawn = false;
        if let Some(at) = response.interact_pointer_pos().filter(|_| response.is_pointer_button_down_on()) {
            let at = ((at - rect.min) / side).clamp(Vec2::ZERO, Vec2::splat(1.0)).to_pos2();
            is_drawn = self.draw(at, ui.input(|input| input.pointer.primary_pressed()));
        }
        let stroke = Stroke::new(2.0 * RADIUS * side, Color32::WHITE);
        let place = |at: &Pos2| rect.min + at.to_vec2() * side;
        for line in &self.lines {
            let line: Vec<Pos2> = line.iter().map(place).collect();
            for &end in [line.first(), line.last()].into_iter().flatten() {
                painter.circle_filled(end, stroke.width / 2.0, stroke.color);
            }
            painter.line(line, stroke);
        }
        is_drawn
    }

    /// Goes on with the last line, or begins one.
    fn draw(&mut self, at: Pos2, begins: bool) -> bool {
        match self.lines.last_mut() {
            Some(line) if !begins => {
                let moved = line.last() != Some(&at);
                if moved {
                    line.push(at);
                }
                moved
            }
            _ => {
                self.lines.push(vec![at]);
                true
            }
        }
    }

    /// The drawing as the digits of the data set were made of those on paper: brought to the middle and to full size, then the means
    /// of 4 × 4 pixels.
    pub fn digit(&self) -> wgrad::Result<Image<'static>> {
        let fine = self.ink(self.bounds(), DIGIT * FINE);
        let mean = |x: usize, y: usize| {
            let rows = (0..FINE).flat_map(|row| {
                let begin = (y * FINE + row) * DIGIT * FINE + x * FINE;
                &fine[begin..begin + FINE]
            });
            rows.sum::<f32>() / (FINE * FINE) as f32
        };
        let means = (0..DIGIT * DIGIT).map(|i| mean(i % DIGIT, i / DIGIT)).collect::<Vec<_>>();
        picture(DIGIT, &means)
    }

    /// The drawing as it is.
    pub fn picture(&self) -> wgrad::Result<Image<'static>> {
        picture(PICTURE, &self.ink(Rect::from_min_size(Pos2::ZERO, Vec2::splat(1.0)), PICTURE))
    }

    /// The smallest square around the lines and their width.
    fn bounds(&self) -> Rect {
        let around = Rect::from_points(&self.lines.concat());
        let side = around.width().max(around.height()).max(0.05) / (1.0 - 2.0 * RADIUS);
        Rect::from_center_size(around.center(), Vec2::splat(side))
    }

    /// How much ink is in each pixel of a square part, `f32[side, side]` from 0 to 1. Lines are as wide as if that part were all.
    fn ink(&self, part: Rect, side: usize) -> Vec<f32> {
        let point = |i: usize| {
            let at = vec2((i % side) as f32 + 0.5, (i / side) as f32 + 0.5) / side as f32;
            part.min + at * part.width()
        };
        let ink = |i: usize| {
            let distance = self.distance(point(i)) / part.width();
            (0.5 + (RADIUS - distance) * side as f32 / EDGE).clamp(0.0, 1.0)
        };
        (0..side * side).map(ink).collect()
    }

    /// From a point to the nearest line.
    fn distance(&self, point: Pos2) -> f32 {
        let of_line = |line: &Vec<Pos2>| {
            let first = line.first().map_or(f32::INFINITY, |first| first.distance(point));
            line.windows(2).map(|ends| to_segment(point, ends[0], ends[1])).fold(first, f32::min)
        };
        self.lines.iter().map(of_line).fold(f32::INFINITY, f32::min)
    }
}

fn to_segment(point: Pos2, from: Pos2, to: Pos2) -> f32 {
    let (way, there) = (to - from, point - from);
    let share = (there.dot(way) / way.length_sq().max(1e-12)).clamp(0.0, 1.0);
    (there - way * share).length()
}

/// White ink on black.
fn picture(side: usize, ink: &[f32]) -> wgrad::Result<Image<'static>> {
    let pixels: Vec<u8> = ink.iter().flat_map(|ink| [(255.0 * ink).round() as u8; 3]).collect();
    Image::new(side as u32, side as u32, pixels)
}

#[cfg(test)]
mod tests {
    use eframe::egui::pos2;

    use super::*;

    fn drawn(lines: &[&[(f32, f32)]]) -> Pad {
        Pad { lines: lines.iter().map(|line| line.iter().map(|&(x, y)| pos2(x, y)).collect()).collect() }
    }

    fn greys(image: &Image<'_>) -> Vec<u8> {
        image.pixels().iter().step_by(3).copied().collect()
    }

    /// Wherever and however large a one is drawn, it fills the height in the middle columns.
    #[test]
    fn digits_are_brought_to_full_size() {
        for (x, top, bottom) in [(0.5, 0.1, 0.9), (0.2, 0.3, 0.6), (0.9, 0.0, 1.0)] {
            let greys = greys(&drawn(&[&[(x, top), (x, bottom)]]).digit().unwrap());
            for (row, greys) in greys.chunks(DIGIT).enumerate() {
                assert!(greys[3] > 60 && greys[4] > 60, "row {row}: {greys:?}");
                assert!(greys[..2].iter().chain(&greys[6..]).all(|&grey| grey == 0), "row {row}: {greys:?}");
            }
        }
    }

    #[test]
    fn other_drawings_stay_where_they_are() {
        let pad = drawn(&[&[(0.25, 0.25)], &[(0.75, 0.75), (0.75, 0.5)]]);
        let greys = greys(&pad.picture().unwrap());
        let at = |x: usize, y: usize| greys[y * PICTURE + x];
        assert_eq!([at(16, 16), at(48, 40), at(48, 48)], [255; 3]);
        assert_eq!([at(16, 48), at(48, 16), at(0, 0), at(32, 32)], [0; 4]);
        assert!(Pad::default().digit().is_ok(), "an empty pad");
    }

    #[test]
    fn lines_begin_and_go_on() {
        let mut pad = Pad::default();
        assert!(pad.draw(pos2(0.1, 0.1), true) && pad.draw(pos2(0.2, 0.1), false));
        assert!(!pad.draw(pos2(0.2, 0.1), false), "the same place");
        assert!(pad.draw(pos2(0.8, 0.8), true));
        assert_eq!(pad.lines.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
