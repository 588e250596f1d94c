//! Mixup and CutMix in the loader, and the weights of unbalanced classes.

use proptest::prelude::*;
use wgrad::data::{
    AutoAugment, ColorJitter, Crop, ImageBatch, ImageOptions, ImageSource, Loader, LoaderOptions, Mix, Position,
    RandomErasing, Split, Transform,
};

use crate::data::{assert_mentions, noise, refused};

const SIDE: usize = 12;
const PLAIN: Transform = Transform::new(SIDE as u32, Crop::Whole);
const MIXUP: Mix =
    Mix { mixup_alpha: 0.8, cutmix_alpha: 0.0, probability: 1.0, switch_probability: 0.5, per_sample: false };
const CUTMIX: Mix = Mix { mixup_alpha: 0.0, cutmix_alpha: 1.0, ..MIXUP };

fn split(samples: u32) -> Split {
    let side = SIDE as u32;
    let pixels = noise(side, side * samples).pixels().to_vec();
    Split::from_pixels(side, side, pixels, (0..samples).map(|sample| sample % 7).collect()).unwrap()
}

fn batches(
    split: &Split,
    transform: Transform,
    pictures: ImageOptions,
    options: LoaderOptions,
    from: Position,
    count: usize,
) -> Vec<ImageBatch> {
    let loader = Loader::new(ImageSource::new(split, transform, pictures).unwrap(), options).unwrap();
    loader.batches_from(from).unwrap().take(count).map(|batch| batch.unwrap()).collect()
}

fn mixing(mix: Option<Mix>) -> ImageOptions {
    ImageOptions { mix, ..Default::default() }
}

/// The same batches mixed and not.
fn pairs(mix: Mix, batch_size: usize, count: usize) -> Vec<(ImageBatch, ImageBatch)> {
    let options = LoaderOptions::training(batch_size, 3);
    let make = |mix| batches(&split(40), PLAIN, mixing(mix), options, Position::default(), count);
    make(Some(mix)).into_iter().zip(make(None)).collect()
}

/// (image, plain image, partner's plain image, own share)
type Sample = (Vec<u8>, Vec<u8>, Vec<u8>, f32);

/// Each sample of a batch with its partner.
fn samples(mixed: &ImageBatch, plain: &ImageBatch) -> Vec<Sample> {
    let image = |batch: &ImageBatch, i: usize| batch.images[i * 3 * SIDE * SIDE..(i + 1) * 3 * SIDE * SIDE].to_vec();
    let labels = mixed.mixed.as_ref().unwrap();
    let count = plain.labels.len();
    assert_eq!((labels.labels.len(), labels.shares.len()), (count, count));
    assert!(labels.labels.iter().eq(plain.labels.iter().rev()));
    assert_eq!((&mixed.labels, &mixed.indices), (&plain.labels, &plain.indices));
    let sample = |i| (image(mixed, i), image(plain, i), image(plain, count - 1 - i), labels.shares[i]);
    (0..count).map(sample).collect()
}

#[test]
fn mixup_blends_pixels_by_the_labels_share() {
    for (per_sample, size) in [(false, 8), (true, 8), (true, 5)] {
        for (mixed, plain) in pairs(Mix { per_sample, ..MIXUP }, size, 20) {
            let shares = &mixed.mixed.as_ref().unwrap().shares;
            assert_eq!(shares.iter().all(|share| share == &shares[0]), !per_sample);
            for (image, own, other, share) in samples(&mixed, &plain) {
                assert!((0.0..=1.0).contains(&share));
                for ((&value, own), other) in image.iter().zip(own).zip(other) {
                    let expected = f32::from(own) * share + f32::from(other) * (1.0 - share);
                    assert!((f32::from(value) - expected).abs() <= 0.501, "{value} {expected}");
                }
            }
        }
    }
}

#[test]
fn cutmix_puts_in_a_rectangle_of_the_area_that_the_label_loses() {
    for (per_sample, size) in [(false, 8), (true, 5)] {
        let mut areas = Vec::new();
        for (mixed, plain) in pairs(Mix { per_sample, ..CUTMIX }, size, 20) {
            for (image, own, other, share) in samples(&mixed, &plain) {
                if own == other {
                    assert_eq!(image, own, "the middle one is its own partner");
                    continue;
                }
                let plane = SIDE * SIDE;
                // Noise differs nearly everywhere: a pixel is the partner's if all its channels are.
                let is = |at: usize, of: &[u8]| (0..3).all(|c| image[c * plane + at] == of[c * plane + at]);
                let cut: Vec<_> = (0..plane).filter(|&at| !is(at, &own)).map(|at| (at % SIDE, at / SIDE)).collect();
                assert!((0..plane).all(|at| is(at, &own) || is(at, &other)));
                assert!((share - (1.0 - cut.len() as f32 / plane as f32)).abs() < 1e-6);
                let (columns, rows) = (span(cut.iter().map(|at| at.0)), span(cut.iter().map(|at| at.1)));
                assert_eq!(cut.len(), columns * rows, "a rectangle");
                areas.push(cut.len());
            }
        }
        assert!(areas.contains(&0) || areas.iter().any(|&area| area < 12));
        assert!(areas.iter().any(|&area| area > 60));
    }
}

/// From the least to the largest.
fn span(values: impl Iterator<Item = usize> + Clone) -> usize {
    values.clone().max().map_or(0, |most| most - values.min().unwrap_or(0) + 1)
}

/// A batch of one is its own partner, so that only the shares are left.
fn shares(mix: Mix, count: usize) -> Vec<Option<f32>> {
    let options = LoaderOptions::training(1, 3);
    let all = batches(&split(40), PLAIN, mixing(Some(mix)), options, Position::default(), count);
    all.iter().map(|batch| batch.mixed.as_ref().map(|mixed| mixed.shares[0])).collect()
}

/// Mean, variance and quarters of Beta(α, α): 1/2, 1/(4(2α + 1)), and for α = 1 and 2 its distribution function x and
/// 3x² − 2x³.
#[test]
fn shares_are_drawn_from_beta() {
    for (alpha, below_quarter) in
        [(0.2, None), (0.8, None), (1.0, Some(0.25)), (2.0, Some(0.156_25)), (50.0, Some(0.0))]
    {
        let drawn: Vec<f64> =
            shares(Mix { mixup_alpha: alpha, ..MIXUP }, 4000).into_iter().map(|share| share.unwrap().into()).collect();
        let count = drawn.len() as f64;
        let mean = drawn.iter().sum::<f64>() / count;
        let variance = drawn.iter().map(|share| (share - 0.5).powi(2)).sum::<f64>() / count;
        let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
        assert!((mean - 0.5).abs() < 4.0 * (expected / count).sqrt(), "{alpha}: mean {mean}");
        assert!((variance / expected - 1.0).abs() < 0.1, "{alpha}: variance {variance}, not {expected}");
        if let Some(expected) = below_quarter {
            let share = drawn.iter().filter(|share| **share < 0.25).count() as f64 / count;
            assert!((share - expected).abs() < 0.03, "{alpha}: {share} below 1/4");
        }
    }
    // As good as a coin.
    assert!(shares(Mix { mixup_alpha: 1e-9, ..MIXUP }, 50).iter().all(|share| [Some(0.0), Some(1.0)].contains(share)));
}

#[test]
fn some_batches_are_mixed_one_way_or_the_other() {
    let half = shares(Mix { probability: 0.5, ..MIXUP }, 400);
    assert!((160..240).contains(&half.iter().flatten().count()));
    assert!(shares(Mix { probability: 0.0, ..MIXUP }, 20).iter().all(Option::is_none));
    // After CutMix every byte is the sample's or its partner's.
    let both = Mix { switch_probability: 0.25, ..Mix::default() };
    let is_cut = |(mixed, plain): &&(ImageBatch, ImageBatch)| {
        let swapped = |(image, own, other, _): Sample| {
            image.iter().zip(own).zip(other).all(|((&value, own), other)| value == own || value == other)
        };
        samples(mixed, plain).into_iter().all(swapped)
    };
    let cut = pairs(both, 8, 200).iter().filter(is_cut).count();
    assert!((25..85).contains(&cut), "{cut} of 200");
}

/// Everything at once.
fn full(threads: usize) -> (Transform, ImageOptions) {
    let transform = Transform {
        flip: true,
        auto_augment: AutoAugment::Trivial,
        color_jitter: Some(ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 }),
        erasing: Some(RandomErasing::new(0.25)),
        ..Transform::new(SIDE as u32, Crop::RandomResized { scale: (0.3, 1.0), ratio: (0.75, 4.0 / 3.0) })
    };
    let mix = Some(Mix { per_sample: true, ..Mix::default() });
    (transform, ImageOptions { mix, threads, strict: false })
}

#[test]
fn mixed_batches_depend_on_their_position_alone() {
    let split = split(40);
    let ((transform, one), (_, four)) = (full(1), full(4));
    let options = LoaderOptions::training(7, 5);
    let expected = batches(&split, transform, one, options, Position::default(), 14);
    assert_eq!(batches(&split, transform, four, options, Position::default(), 14), expected);
    for batch in &expected {
        assert_eq!(&batches(&split, transform, four, options, batch.position, 1)[0], batch);
    }
    let shares = |batch: &ImageBatch| batch.mixed.clone().unwrap().shares;
    assert_ne!(shares(&expected[0]), shares(&expected[1]));
    assert_ne!(shares(&expected[0]), shares(&expected[5]), "the same number in the next epoch");
    let other = LoaderOptions { seed: 6, ..options };
    assert_ne!(shares(&batches(&split, transform, one, other, Position::default(), 1)[0]), shares(&expected[0]));
}

/// What a model learns a class from, over all samples: shares of own and partner's labels add up to the samples.
#[test]
fn soft_labels_add_up_to_the_samples() {
    for mix in [Mix::default(), CUTMIX, Mix { per_sample: true, ..Mix::default() }] {
        for (batch, _) in pairs(mix, 9, 10) {
            let mixed = batch.mixed.unwrap();
            let mut totals = [0.0f64; 7];
            for ((&own, &other), &share) in batch.labels.iter().zip(&mixed.labels).zip(&mixed.shares) {
                assert!((0.0..=1.0).contains(&share));
                totals[own as usize] += f64::from(share);
                totals[other as usize] += 1.0 - f64::from(share);
            }
            assert!((totals.iter().sum::<f64>() - 9.0).abs() < 1e-6);
            if !mix.per_sample {
                // Partners give each other what they lose: every class has what it had.
                let counts: Vec<_> = (0..7).map(|c| batch.labels.iter().filter(|&&l| l == c).count() as f64).collect();
                assert!(totals.iter().zip(counts).all(|(total, count)| (total - count).abs() < 1e-5), "{totals:?}");
            }
        }
    }
}

#[test]
fn settings_of_mixing_are_checked() {
    let refuse = |mix: Mix| refused(ImageSource::new(&split(8), PLAIN, mixing(Some(mix))));
    assert_mentions(&refuse(Mix { mixup_alpha: -1.0, ..MIXUP }), &["mixup_alpha"]);
    assert_mentions(&refuse(Mix { cutmix_alpha: f64::NAN, ..MIXUP }), &["cutmix_alpha"]);
    assert_mentions(&refuse(Mix { probability: 1.5, ..MIXUP }), &["probability"]);
    assert_mentions(&refuse(Mix { switch_probability: -0.5, ..MIXUP }), &["switch_probability"]);
    assert_mentions(&refuse(Mix { mixup_alpha: 0.0, ..MIXUP }), &["mixup_alpha", "above 0"]);
}

#[test]
fn class_weights_are_balanced() {
    let of = |labels: Vec<u32>, classes| {
        Split::from_pixels(1, 1, vec![0; labels.len() * 3], labels).unwrap().class_weights(classes)
    };
    // sklearn.utils.class_weight.compute_class_weight("balanced", classes=[0, 1, 3], y=[0, 0, 0, 1, 3, 3])
    let weights = of(vec![0, 0, 0, 1, 3, 3], 5);
    for (weight, expected) in weights.iter().zip([2.0 / 3.0, 2.0, 0.0, 1.0, 0.0]) {
        assert!((weight - expected).abs() < 1e-6, "{weights:?}");
    }
    assert_eq!(of(vec![0, 9], 2), [1.0, 0.0]);
    assert_eq!(of(vec![], 2), [0.0; 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_mix_in_range_mixes_any_batch(
        (mixup_alpha, cutmix_alpha) in (0.0..=5.0, 0.001..=1000.0),
        (probability, switch_probability) in (0.0..=1.0, 0.0..=1.0),
        per_sample in any::<bool>(),
        (batch_size, side) in (1usize..9, 1u32..9),
    ) {
        let mix = Mix { mixup_alpha, cutmix_alpha, probability, switch_probability, per_sample };
        let pictures = ImageOptions { mix: Some(mix), threads: 1, strict: false };
        let pictures = ImageSource::new(&split(9), Transform::new(side, Crop::Whole), pictures).unwrap();
        let loader = Loader::new(pictures, LoaderOptions::training(batch_size, 1)).unwrap();
        for batch in loader.epoch(0).unwrap() {
            let batch = batch.unwrap();
            prop_assert_eq!(batch.images.len(), batch_size * 3 * (side * side) as usize);
            let whole = |share: &f32| (0.0..=1.0).contains(share);
            prop_assert!(batch.mixed.is_none_or(|mixed| mixed.shares.iter().all(whole)));
        }
    }
}
