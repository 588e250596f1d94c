use super::support::{assert_frequency, assert_gradients, assert_halves_add_up, leaf, upload};
use crate::common::{assert_close, each_family, gpu_with_f16, values};
use wgrad::ops::dropout::reference;
use wgrad::ops::{self, RandomKey, random::reference::philox4x32};
use wgrad::{DType, Gpu, Result, Tensor};

const KEY: RandomKey = RandomKey { seed: 42, step: 7, layer: 3, first_sample: 0 };

type Drop = fn(&Tensor, f32, RandomKey) -> Result<Tensor>;
type Reference = fn(&[f32], usize, f32, RandomKey) -> Vec<f32>;

/// The known answers for philox4x32-10 that come with Random123: zeros, ones, digits of π.
#[test]
fn philox_known_answers() {
    let answers: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, answer) in answers {
        assert_eq!(philox4x32(counter, key), answer);
    }
}

fn compare(gpu: &Gpu, name: &str, drop: Drop, reference: Reference) {
    let shapes: [&[usize]; 8] = [&[], &[1], &[7], &[65], &[3, 7], &[5, 65, 4], &[2, 197, 9], &[1757, 4]];
    let far = RandomKey { seed: u64::MAX, step: 1 << 40, layer: u32::MAX, first_sample: (5 << 32) - 2 };
    for dims in shapes {
        for (p, key) in [(0.3, KEY), (0.999, KEY), (0.5, far)] {
            let n = dims.iter().product();
            let samples = dims.first().copied().unwrap_or(1);
            let (x, dy) = (values(1, n), values(2, n));
            let tx = leaf(gpu, dims, &x);
            let y = drop(&tx, p, key).unwrap();
            let what = format!("{name} {p} of {dims:?}");
            // Equal to the last bit or the mask differs; the factor may be rounded.
            assert_close(&what, &y.to_vec().unwrap(), &reference(&x, samples, p, key), 1e-6);
            assert_gradients(&what, &y, &dy, &[(&tx, &reference(&dy, samples, p, key))], 1e-6);
        }
    }
}

#[test]
fn masks_are_those_of_the_reference() {
    for gpu in each_family() {
        compare(&gpu, "dropout", ops::dropout, reference::dropout);
        compare(&gpu, "drop_path", ops::drop_path, reference::drop_path);
    }
}

/// The mask of 16 samples, as whatever `drop` leaves of ones.
fn mask(gpu: &Gpu, drop: Drop, key: RandomKey, samples: usize) -> Vec<f32> {
    drop(&upload(gpu, &[samples, 6, 4], &vec![1.0; samples * 24]), 0.5, key).unwrap().to_vec().unwrap()
}

#[test]
fn micro_batches_see_the_masks_of_the_batch() {
    for gpu in each_family() {
        for drop in [ops::dropout as Drop, ops::drop_path] {
            let whole = mask(&gpu, drop, KEY, 16);
            let part = |first_sample, samples| mask(&gpu, drop, RandomKey { first_sample, ..KEY }, samples);
            assert_eq!(whole, [part(0, 5), part(5, 11)].concat());
        }
    }
}

#[test]
fn each_part_of_the_key_matters() {
    for gpu in each_family() {
        for drop in [ops::dropout as Drop, ops::drop_path] {
            let keys = [
                KEY,
                RandomKey { seed: 43, ..KEY },
                RandomKey { seed: 42 | 1 << 32, ..KEY },
                RandomKey { step: 8, ..KEY },
                RandomKey { layer: 4, ..KEY },
                RandomKey { first_sample: 64, ..KEY },
                RandomKey { first_sample: 1 << 32, ..KEY },
            ];
            let masks: Vec<_> = keys.iter().map(|&key| mask(&gpu, drop, key, 64)).collect();
            for (i, one) in masks.iter().enumerate() {
                assert!(masks[..i].iter().all(|other| other != one), "{:?}", keys[i]);
            }
        }
    }
}

#[test]
fn dropout_frequencies() {
    let (samples, n) = (64, 4096);
    for gpu in each_family() {
        let x = upload(&gpu, &[samples, n], &vec![1.0; samples * n]);
        for p in [0.01f32, 0.1, 0.5, 0.9] {
            let y = ops::dropout(&x, p, KEY).unwrap().to_vec::<f32>().unwrap();
            let dropped = |at: usize| y[at] == 0.0;
            let all = 0..samples * n;
            assert_frequency("dropout", all.clone().filter(|&i| dropped(i)).count(), samples * n, p.into());
            // Neither neighbours nor the same element of neighbouring samples go together.
            for distance in [1, 2, 3, 4, n] {
                let pairs = samples * n - distance;
                let both = all.clone().take(pairs).filter(|&i| dropped(i) && dropped(i + distance)).count();
                assert_frequency(&format!("dropout, {distance} apart"), both, pairs, f64::from(p).powi(2));
            }
            for j in 0..4 {
                let hits = all.clone().skip(j).step_by(4).filter(|&i| dropped(i)).count();
                assert_frequency(&format!("dropout, word {j}"), hits, samples * n / 4, p.into());
            }
        }
    }
}

#[test]
fn drop_path_drops_whole_samples() {
    let (samples, n) = (20_000, 5);
    for gpu in each_family() {
        let x = upload(&gpu, &[samples, n], &vec![1.0; samples * n]);
        let y = ops::drop_path(&x, 0.25, KEY).unwrap().to_vec::<f32>().unwrap();
        assert!(y.chunks(n).all(|row| row.iter().all(|v| *v == row[0])));
        assert!(y.iter().all(|&v| v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6));
        assert_frequency("drop_path", y.chunks(n).filter(|row| row[0] == 0.0).count(), samples, 0.25);
    }
}

#[test]
fn nothing_is_dropped_at_0() {
    for gpu in each_family() {
        let x = upload(&gpu, &[2, 3], &values(1, 6));
        for drop in [ops::dropout as Drop, ops::drop_path] {
            let y = drop(&x, 0.0, KEY).unwrap();
            assert_eq!(y.buffer().wgpu_buffer(), x.buffer().wgpu_buffer());
            assert_eq!(y.buffer().offset(), x.buffer().offset());
        }
    }
}

/// A dropped infinity is 0, not NaN.
#[test]
fn dropped_values_do_not_matter() {
    for gpu in each_family() {
        let x = upload(&gpu, &[64, 8], &[f32::INFINITY; 512]);
        for drop in [ops::dropout as Drop, ops::drop_path] {
            let y = drop(&x, 0.5, KEY).unwrap().to_vec::<f32>().unwrap();
            assert!(y.contains(&0.0) && y.iter().all(|&v| v == 0.0 || v == f32::INFINITY));
        }
    }
}

/// The masks in half precision are those of full precision.
#[test]
fn half_precision() {
    let Some(gpu) = gpu_with_f16() else { return };
    let cases: [(Drop, Reference); 2] = [(ops::dropout, reference::dropout), (ops::drop_path, reference::drop_path)];
    for (drop, reference) in cases {
        let (x, dy) = (values(1, 7 * 197 * 4), values(2, 7 * 197 * 4));
        let tx = leaf(&gpu, &[7, 197, 4], &x);
        let y = drop(&ops::cast(&tx, DType::F16).unwrap(), 0.5, KEY).unwrap();
        assert_eq!(y.dtype(), DType::F16);
        let y = ops::cast(&y, DType::F32).unwrap();
        assert_close("f16", &y.to_vec().unwrap(), &reference(&x, 7, 0.5, KEY), 1e-3);
        assert_gradients("f16", &y, &dy, &[(&tx, &reference(&dy, 7, 0.5, KEY))], 1e-3);
        assert_halves_add_up("f16", &tx, |x| drop(x, 0.5, KEY));
    }
    let odd = ops::cast(&upload(&gpu, &[2, 3], &values(1, 6)), DType::F16).unwrap();
    assert!(ops::dropout(&odd, 0.5, KEY).is_err());
}
