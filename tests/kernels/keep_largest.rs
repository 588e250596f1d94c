use super::support::upload;
use crate::common::{assert_close, each_family, poison, values};
use wgrad::ops::keep_largest::reference::places;
use wgrad::{Error, Gpu, Tensor, ops};

fn lengths_of(gpu: &Gpu, lengths: &[u32]) -> Tensor {
    Tensor::from_slice(gpu, &[lengths.len()], lengths).unwrap()
}

/// What is kept of each sample, and what should be.
fn check(
    gpu: &Gpu,
    scores: &[f32],
    [samples, tokens]: [usize; 2],
    [kept, prefix]: [usize; 2],
    lengths: Option<&[u32]>,
) {
    let uploaded = upload(gpu, &[samples, tokens], scores);
    poison(gpu, &[2 * samples * tokens, samples * kept]);
    let lengths_tensor = lengths.map(|lengths| lengths_of(gpu, lengths));
    let indices = ops::keep_largest(&uploaded, kept, prefix, lengths_tensor.as_ref()).unwrap();
    assert_eq!((indices.batch(), indices.kept(), indices.tokens()), (samples, kept, tokens));
    let length = |sample: usize| lengths.map_or(tokens, |lengths| lengths[sample] as usize);
    let rows = scores.chunks(tokens).enumerate();
    let expected: Vec<u32> = rows.flat_map(|(i, row)| places(row, kept, prefix, length(i))).collect();
    let what = format!("{samples}x{tokens}, {kept} kept, prefix {prefix} ({:?})", gpu.family());
    assert_eq!(indices.positions().to_vec::<u32>().unwrap(), expected, "{what}");
}

#[test]
fn keep_largest() {
    for gpu in each_family() {
        for (samples, tokens) in [(1, 1), (3, 7), (2, 64), (5, 65), (2, 197), (1, 4099)] {
            let scores = values(1, samples * tokens);
            // Many equals.
            let rough: Vec<_> = scores.iter().map(|v| (v * 4.0).round() / 4.0).collect();
            let lengths: Vec<u32> = (0..samples).map(|i| (tokens * (i + 1) / (samples + 1)) as u32).collect();
            for kept in [1, tokens.div_ceil(3), tokens] {
                for (scores, lengths) in [(&scores, None), (&rough, None), (&rough, Some(&lengths[..]))] {
                    check(&gpu, scores, [samples, tokens], [kept, 0], lengths);
                    check(&gpu, scores, [samples, tokens], [kept, kept.div_ceil(4)], lengths);
                }
            }
        }
    }
}

/// Longer than what a dispatch counts over.
#[test]
fn keep_largest_of_a_long_sample() {
    let [gpu, _] = each_family();
    check(&gpu, &values(1, 33_000), [1, 33_000], [100, 1], None);
}

#[test]
fn all_scores_have_a_place() {
    for gpu in each_family() {
        let scores = [
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            -1e-40,
            f32::NEG_INFINITY,
            -f32::NAN,
            1e-40,
            -2.0,
            3.0,
            -0.0,
            f32::MAX,
        ];
        for kept in 1..=scores.len() {
            check(&gpu, &scores, [1, scores.len()], [kept, 0], None);
        }
        let equal = [1.5; 70];
        check(&gpu, &equal, [1, 70], [9, 2], Some(&[40]));
    }
}

#[test]
fn what_is_kept_can_be_gathered() {
    let [gpu, _] = each_family();
    let scores = upload(&gpu, &[2, 3], &[0.5, 2.0, 1.0, 3.0, 1.0, 2.0]);
    let indices = ops::keep_largest(&scores, 2, 0, None).unwrap();
    let x = upload(&gpu, &[2, 3, 1], &[10.0, 11.0, 12.0, 20.0, 21.0, 22.0]);
    assert_eq!(ops::token_gather(&x, &indices).unwrap().to_vec::<f32>().unwrap(), [11.0, 12.0, 20.0, 22.0]);
    let message = |kept, prefix, lengths: Option<&Tensor>| {
        ops::keep_largest(&scores, kept, prefix, lengths).unwrap_err().to_string()
    };
    assert!(message(4, 0, None).contains("kept must be at most 3"));
    assert!(message(0, 0, None).contains("keep_largest: shape"));
    assert!(message(1, 2, None).contains("keep_prefix must be at most 1"));
    assert!(message(1, 0, Some(&lengths_of(&gpu, &[1, 1, 1]))).contains("lengths must be u32[B]"));
    assert!(message(1, 0, Some(&scores)).contains("needs lengths u32[B]"));
}

#[test]
fn update_means() {
    for gpu in each_family() {
        for (total, places) in [(1, 1), (7, 30), (300, 1757), (50, 9000)] {
            let (means, mut data) = (values(1, total), values(2, places));
            let spread = values(3, places);
            let mut ids: Vec<u32> = spread.iter().map(|v| ((v + 1.0) / 2.0 * (total - 1) as f32) as u32).collect();
            // What is ignored, an id or none, may be anything.
            ids[places / 2] = u32::MAX;
            data[places / 2] = f32::NAN;
            // Nor does what is not finite count.
            (data[0], data[places / 3]) = (f32::INFINITY, f32::NAN);
            let [m, v] = [upload(&gpu, &[total], &means), upload(&gpu, &[places], &data)];
            let ids_tensor = Tensor::from_slice(&gpu, &[places], &ids).unwrap();
            poison(&gpu, &[2 * places, 2 * total, total]);
            for momentum in [0.0, 0.9, 1.0] {
                let got = ops::update_means(&m, &ids_tensor, &v, Some(u32::MAX), momentum).unwrap();
                let expected = ops::update_means::reference::updated(&means, &ids, &data, momentum);
                let what = format!("{total} means, {places} values, momentum {momentum} ({:?})", gpu.family());
                assert_close(&what, &got.to_vec().unwrap(), &expected, 1e-6);
            }
            assert_eq!(m.to_vec::<f32>().unwrap(), means, "the old means stay");
        }
    }
}

#[test]
fn bad_ids_of_means_are_reported() {
    let [gpu, _] = each_family();
    let (means, values) = (upload(&gpu, &[3], &[1.0, 2.0, 3.0]), upload(&gpu, &[4], &[5.0, 6.0, 7.0, 8.0]));
    let ids = Tensor::from_slice(&gpu, &[4], &[0u32, 3, 2, 2]).unwrap();
    let updated = ops::update_means(&means, &ids, &values, Some(2), 0.5).unwrap();
    let error = updated.to_vec::<f32>().unwrap_err();
    assert!(matches!(error, Error::OutOfRange { op: "update_means", value: 3, bound: 3, .. }), "{error}");
    assert_eq!(updated.to_vec::<f32>().unwrap(), [3.0, 2.0, 3.0]);
    let message = |momentum| ops::update_means(&means, &ids, &values, None, momentum).unwrap_err().to_string();
    assert!(message(1.5).contains("momentum must be from 0 to 1") && message(f32::NAN).contains("momentum"));
    let message = ops::update_means(&means, &ids, &means, None, 0.5).unwrap_err().to_string();
    assert!(message.contains("a value for each id"), "{message}");
}
