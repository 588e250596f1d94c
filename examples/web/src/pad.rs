//! A drawing as a picture like those of the data set, which were made of scans: fitted to 32 × 32 pixels of paper or ink, and of
//! each cell of 4 × 4 its ink counted.

use wgrad::data::Digits;

const SIDE: usize = Digits::SIDE;
/// Side of a cell.
const CELL: usize = 4;
/// Side of a scan.
const SCAN: usize = SIDE * CELL;
/// Columns left free where a digit is as wide as it is high.
const MARGIN: usize = 2;

/// `u8[8, 8]` of a drawing `u8[height, width]`, 0 where there is no ink; `None` if there is none at all.
pub fn digit(drawing: &[u8], width: usize) -> Option<Vec<u8>> {
    let is_ink = |x: usize, y: usize| drawing.get(y * width + x).is_some_and(|&ink| ink > 127);
    let height = drawing.len().checked_div(width)?;
    let inked = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).filter(|&(x, y)| is_ink(x, y));
    let (left, top, right, bottom) = inked.fold((width, height, 0, 0), |(left, top, right, bottom), (x, y)| {
        (left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1))
    });
    let (wide, high) = (right.checked_sub(left)?, bottom.checked_sub(top)?);
    // Equal in both directions, so that a one stays narrow; the height fills the scan.
    let scale = (high as f64 / SCAN as f64).max(wide as f64 / (SCAN - 2 * MARGIN) as f64);
    let at = |i: usize, start: usize, size: usize| {
        let place = (i as f64 + 0.5 - SCAN as f64 / 2.0) * scale + start as f64 + size as f64 / 2.0;
        (place >= 0.0).then_some(place as usize)
    };
    let mut ink = vec![0u32; SIDE * SIDE];
    for (i, j) in (0..SCAN).flat_map(|i| (0..SCAN).map(move |j| (i, j))) {
        if let Some((x, y)) = at(j, left, wide).zip(at(i, top, high))
            && x < width
            && is_ink(x, y)
        {
            ink[i / CELL * SIDE + j / CELL] += 1;
        }
    }
    let full = (CELL * CELL) as u32;
    Some(ink.into_iter().map(|ink| (ink * 255 / full) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A drawing with ink where `is_ink` says so.
    fn drawn(width: usize, height: usize, is_ink: impl Fn(usize, usize) -> bool) -> Vec<u8> {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        pixels.map(|(x, y)| if is_ink(x, y) { 255 } else { 0 }).collect()
    }

    #[test]
    fn a_stroke_fills_the_height_in_the_middle_wherever_it_is() {
        let upper = drawn(200, 200, |x, y| (20..30).contains(&x) && (10..50).contains(&y));
        let lower = drawn(120, 90, |x, y| (100..110).contains(&x) && (50..90).contains(&y));
        let seen = digit(&upper, 200);
        assert_eq!(seen, digit(&lower, 120));
        let seen = seen.unwrap_or_default();
        for row in seen.chunks(SIDE) {
            assert_eq!(row, [0, 0, 0, 255, 255, 0, 0, 0]);
        }
    }

    #[test]
    fn nothing_is_no_digit() {
        assert_eq!(digit(&[0; 100], 10), None);
        assert_eq!(digit(&[], 0), None);
        assert_eq!(digit(&[], 10), None);
    }

    #[test]
    fn a_dot_and_a_line_across_are_within() {
        let dot = digit(&drawn(10, 10, |x, y| (x, y) == (0, 9)), 10).unwrap_or_default();
        assert!(dot.iter().any(|&ink| ink > 0));
        let line = digit(&drawn(100, 10, |_, y| y < 8), 100).unwrap_or_default();
        assert!(line[3 * SIDE..5 * SIDE].iter().all(|&ink| ink > 0), "{line:?}");
    }
}
