//! What the tests of gather and scatter share.

/// B, T, R, C: with and without vec4 rows, one row, every row, rows longer and shorter than a workgroup.
pub const SIZES: [[usize; 4]; 9] = [
    [1, 1, 1, 1],
    [1, 7, 7, 4],
    [2, 7, 3, 1],
    [3, 65, 33, 7],
    [2, 197, 64, 48],
    [2, 65, 64, 260],
    [1, 5, 2, 1757],
    [5, 3, 1, 768],
    [3, 9, 5, 1028],
];

/// `kept` positions for each of `batch` samples: ascending, distinct, different in each sample, ends included.
pub fn positions(batch: usize, tokens: usize, kept: usize) -> Vec<u32> {
    let sample = |b: usize| {
        let mut row: Vec<_> = (0..kept).map(|r| ((r * tokens / kept + b * 31) % tokens) as u32).collect();
        row.sort_unstable();
        row
    };
    (0..batch).flat_map(sample).collect()
}
