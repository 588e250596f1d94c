//! The bits of attention's dropout: what they are, and that they look like chance.

use super::support::{assert_frequency, upload};
use crate::common::each_family;
use wgrad::Gpu;
use wgrad::ops::attention::dropout::reference::{factors, word_of};
use wgrad::ops::{self, Dropout, Mask, RandomKey};

const KEY: RandomKey = RandomKey { seed: 42, step: 7, layer: 3, first_sample: 0 };

/// A run that is interrupted goes on with the same bits in every version of the crate.
#[test]
fn the_bits_are_a_format() {
    let far = RandomKey { seed: u64::MAX, step: 1 << 40, layer: u32::MAX, first_sample: (6 << 32) - 2 };
    assert_eq!(word_of(KEY, 0, 0)(0, 0), 0x7a57_4c93);
    assert_eq!(word_of(KEY, 0, 1)(2, 3), 0x47db_251e);
    assert_eq!(word_of(far, 1, 11)(1023, 1023), 0x9ec2_362b);
}

/// Which weights of `batch` samples of two heads and 64 tokens are dropped: of equal scores, with a row of the identity for each
/// value, attention returns its weights.
fn dropped(gpu: &Gpu, stored: bool, batch: usize, dropout: Dropout) -> Vec<bool> {
    let (heads, tokens) = (2, 64);
    let mut qkv = vec![0.0; batch * tokens * 3 * heads * tokens];
    for (row, token) in qkv.chunks_mut(3 * heads * tokens).zip((0..tokens).cycle()) {
        (0..heads).for_each(|head| row[(2 * heads + head) * tokens + token] = 1.0);
    }
    let qkv = upload(gpu, &[batch, tokens, 3 * heads * tokens], &qkv);
    let attention = if stored { ops::attention_stored } else { ops::attention_flash };
    let y = attention(&qkv, heads, &Mask::NONE, Some(dropout)).unwrap().to_vec::<f32>().unwrap();
    let mut all = Vec::with_capacity(y.len());
    for matrix in 0..batch * heads {
        for query in 0..tokens {
            let first = ((matrix / heads * tokens + query) * heads + matrix % heads) * tokens;
            all.extend(y[first..first + tokens].iter().map(|weight| *weight == 0.0));
        }
    }
    all
}

#[test]
fn masks_are_those_of_the_reference() {
    for gpu in each_family() {
        for key in [KEY, RandomKey { seed: u64::MAX, step: 1 << 40, layer: u32::MAX, first_sample: (5 << 32) - 1 }] {
            for p in [0.1, 0.5, 0.999] {
                let dropout = Dropout { p, key };
                let expected: Vec<bool> = factors(dropout, [2, 2, 64]).iter().map(|factor| *factor == 0.0).collect();
                assert!(dropped(&gpu, true, 2, dropout) == expected, "stored, {dropout:?} ({:?})", gpu.family());
                assert!(dropped(&gpu, false, 2, dropout) == expected, "flash, {dropout:?} ({:?})", gpu.family());
            }
        }
    }
}

#[test]
fn micro_batches_see_the_masks_of_the_batch() {
    for gpu in each_family() {
        let part = |first_sample, batch| {
            dropped(&gpu, false, batch, Dropout { p: 0.5, key: RandomKey { first_sample, ..KEY } })
        };
        assert!(part(0, 5) == [part(0, 2), part(2, 3)].concat());
    }
}

/// Heads, samples, layers, steps and seeds, each with a matrix of 256 by 256 words.
fn matrices() -> Vec<Vec<u32>> {
    let keys = [
        KEY,
        RandomKey { layer: 4, ..KEY },
        RandomKey { step: 8, ..KEY },
        RandomKey { seed: 43, ..KEY },
        RandomKey { first_sample: 1 << 32, ..KEY },
    ];
    let places = keys.into_iter().flat_map(|key| (0..6).map(move |i| (key, i / 3, i % 3)));
    let matrix = |(key, sample, head)| {
        let word = word_of(key, sample, head);
        (0..TOKENS * TOKENS).map(|at| word(at / TOKENS, at % TOKENS)).collect()
    };
    places.map(matrix).collect()
}

const TOKENS: usize = 256;

#[test]
fn every_row_and_column_is_dropped_as_often() {
    for p in [0.1, 0.5] {
        let is_dropped = |word: &&u32| f64::from(**word) < p * 2f64.powi(32);
        // How far the rows' and columns' counts lie from the mean, squared, in variances.
        let (mut spread, mut lines) = (0.0, 0);
        for matrix in matrices() {
            assert_frequency("a matrix", matrix.iter().filter(is_dropped).count(), TOKENS * TOKENS, p);
            for i in 0..TOKENS {
                let row = matrix[i * TOKENS..][..TOKENS].iter().filter(is_dropped).count();
                let column = matrix[i..].iter().step_by(TOKENS).filter(is_dropped).count();
                for count in [row, column] {
                    let away = count as f64 - TOKENS as f64 * p;
                    spread += away * away / (TOKENS as f64 * p * (1.0 - p));
                    lines += 1;
                }
            }
        }
        let deviations = (spread - f64::from(lines)) / (2.0 * f64::from(lines)).sqrt();
        assert!(
            deviations.abs() < 5.0,
            "p = {p}: rows and columns are too even or too uneven, {deviations:.1} deviations"
        );
    }
}

/// Neither neighbours in a row or a column nor the same place in two matrices go together, at any bit of the words. Nor do the four
/// corners of a rectangle, whose words come from the same two queries and two keys: an even number of them is dropped half the
/// time.
#[test]
fn places_do_not_go_together() {
    let matrices = matrices();
    for bit in [31, 30, 24, 16] {
        let one = |matrix: &[u32], at: usize| matrix[at] >> bit & 1;
        for matrix in &matrices {
            for distance in [1, 2, 3, 8, 24, 32, TOKENS, 8 * TOKENS] {
                let pairs = TOKENS * TOKENS - distance;
                let alike = (0..pairs).filter(|&at| one(matrix, at) == one(matrix, at + distance)).count();
                assert_frequency(&format!("bit {bit}, {distance} apart"), alike, pairs, 0.5);
            }
            for (down, across) in [(1, 1), (1, 8), (2, 32), (32, 1), (64, 64)] {
                let (rows, columns) = (TOKENS - down, TOKENS - across);
                let corners = |at: usize| {
                    let first = at / columns * TOKENS + at % columns;
                    [0, across, down * TOKENS, down * TOKENS + across].map(|step| one(matrix, first + step))
                };
                let even = (0..rows * columns).filter(|&at| corners(at).iter().sum::<u32>() % 2 == 0).count();
                assert_frequency(&format!("bit {bit}, corners {down} by {across}"), even, rows * columns, 0.5);
            }
        }
        for (i, a) in matrices.iter().enumerate() {
            for b in &matrices[..i] {
                let alike = (0..TOKENS * TOKENS).filter(|&at| one(a, at) == one(b, at)).count();
                assert_frequency(&format!("bit {bit} of two matrices"), alike, TOKENS * TOKENS, 0.5);
            }
        }
    }
}

/// At p = 0.5, no row or column is met twice, neither in a matrix nor in another.
#[test]
fn no_row_is_shared() {
    let mut seen = std::collections::HashSet::new();
    for matrix in matrices() {
        for i in 0..TOKENS {
            let row: Vec<bool> = matrix[i * TOKENS..][..TOKENS].iter().map(|word| word >> 31 == 0).collect();
            let column: Vec<bool> = matrix[i..].iter().step_by(TOKENS).map(|word| word >> 31 == 0).collect();
            assert!(seen.insert(row) && seen.insert(column));
        }
    }
}
