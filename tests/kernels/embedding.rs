use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, poison, values};
use wgrad::ops::{self, embedding::reference};
use wgrad::{DType, Error, Gpu, Tensor};

/// V, C and places: rows of any length, one row, ids that repeat much and hardly, more places than are chained at a time.
const SIZES: &[[usize; 3]] = &[
    [1, 1, 1],
    [1, 4, 130],
    [29, 10, 115],
    [7, 4, 30],
    [300, 48, 1757],
    [5000, 8, 65],
    [3, 5, 9001],
    [997, 4, 16_500],
];

/// Ids below `rows`, some far more often than others.
fn ids(seed: u64, rows: usize, n: usize) -> Vec<u32> {
    let id = |v: f32| ((v + 1.0) / 2.0).powi(3) * rows as f32;
    values(seed, n).into_iter().map(|v| (id(v) as u32).min(rows as u32 - 1)).collect()
}

fn upload_ids(gpu: &Gpu, dims: &[usize], ids: &[u32]) -> Tensor {
    Tensor::from_slice(gpu, dims, ids).unwrap()
}

#[test]
fn embedding() {
    for gpu in each_family() {
        for &[rows, channels, places] in SIZES {
            let (weight, ids) = (values(1, rows * channels), ids(2, rows, places));
            let dy = values(3, places * channels);
            let table = leaf(&gpu, &[rows, channels], &weight);
            poison(&gpu, &[places * channels, rows * channels, 2 * places]);
            let y = ops::embedding(&table, &upload_ids(&gpu, &[1, places], &ids)).unwrap();
            assert_eq!(y.dims(), [1, places, channels]);
            assert_eq!(y.to_vec::<f32>().unwrap(), reference::forward(&weight, &ids, channels));
            let what = format!("embedding {rows}x{channels} at {places} ({:?})", gpu.family());
            assert_gradients(&what, &y, &dy, &[(&table, &reference::backward(&dy, &ids, rows))], 1e-5);
        }
    }
}

/// Bit for bit the sum in the order of the places, 64 at a time, in either family.
#[test]
fn repeated_ids_add_up_in_order() {
    let (rows, channels, places) = (11, 6, 4000);
    let (ids, dy) = (ids(1, rows, places), values(2, places * channels));
    let mut terms = vec![Vec::new(); rows * channels];
    for (row, &id) in dy.chunks(channels).zip(&ids) {
        let of_id = &mut terms[id as usize * channels..][..channels];
        of_id.iter_mut().zip(row).for_each(|(terms, &v)| terms.push(v));
    }
    let in_order = |terms: &[f32]| terms.iter().fold(0.0f32, |sum, v| sum + v);
    let expected: Vec<f32> =
        terms.iter().map(|terms| in_order(&terms.chunks(64).map(in_order).collect::<Vec<_>>())).collect();
    for gpu in each_family() {
        let table = leaf(&gpu, &[rows, channels], &values(3, rows * channels));
        let y = ops::embedding(&table, &upload_ids(&gpu, &[places], &ids)).unwrap();
        assert_gradients("order", &y, &dy, &[(&table, &expected)], 0.0);
    }
}

/// A table that is looked up twice and is also the head's: each gradient is added to the others.
#[test]
fn a_tied_table_gathers_all_its_gradients() {
    for gpu in each_family() {
        let (rows, channels) = (13, 8);
        let weight = values(1, rows * channels);
        let [first, second] = [ids(2, rows, 20), ids(3, rows, 30)];
        let table = leaf(&gpu, &[rows, channels], &weight);
        let look_up = |ids: &[u32]| ops::embedding(&table, &upload_ids(&gpu, &[ids.len()], ids)).unwrap();
        let x = values(4, 10 * channels);
        let logits = ops::linear(&upload(&gpu, &[10, channels], &x), &table, None).unwrap();
        let sums = [ops::sum(&look_up(&first)), ops::sum(&logits), ops::sum(&look_up(&second))].map(Result::unwrap);
        let [a, b, c] = &sums;
        let all = ops::add(&ops::add(a, b).unwrap(), c).unwrap();
        let counts = [first, second].concat();
        let column = |c: usize| x.iter().skip(c).step_by(channels).sum::<f32>();
        let expected: Vec<f32> = (0..rows * channels)
            .map(|i| counts.iter().filter(|&&id| id as usize == i / channels).count() as f32 + column(i % channels))
            .collect();
        let gradient = all.backward().unwrap().get(&table).unwrap().to_vec().unwrap();
        assert_close("tied", &gradient, &expected, 1e-5);
    }
}

#[test]
fn a_bad_id_is_reported_and_left_out() {
    for gpu in each_family() {
        let table = leaf(&gpu, &[3, 4], &values(1, 12));
        let y = ops::embedding(&table, &upload_ids(&gpu, &[4], &[2, 3, 0, u32::MAX])).unwrap();
        let error = y.to_vec::<f32>().unwrap_err();
        assert!(
            matches!(error, Error::OutOfRange { op: "embedding", what: "id", value: 3 | u32::MAX, bound: 3 }),
            "{error}"
        );
        let rows = y.to_vec::<f32>().unwrap();
        assert_eq!((&rows[4..8], &rows[12..]), (&[0.0; 4][..], &[0.0; 4][..]));
        let mut expected = vec![1.0; 12];
        expected[4..8].fill(0.0);
        assert_gradients("bad ids", &y, &[1.0; 16], &[(&table, &expected)], 0.0);
    }
}

#[test]
fn misfits_are_named() {
    let [gpu, _] = each_family();
    let (table, ids) = (upload(&gpu, &[2, 3], &[0.0; 6]), upload_ids(&gpu, &[4], &[0; 4]));
    let message = |weight: &Tensor, ids: &Tensor| ops::embedding(weight, ids).unwrap_err().to_string();
    assert_eq!(message(&ids, &ids), "embedding: needs f32: got u32[4]");
    assert_eq!(message(&upload(&gpu, &[6], &[0.0; 6]), &ids), "embedding: needs a weight f32[V, C]: got f32[6]");
    assert_eq!(message(&table, &table), "embedding: needs ids u32[..]: got f32[2, 3]");
    let elsewhere = Tensor::zeros(&gpu.dry_run().unwrap(), DType::U32, &[4]).unwrap();
    assert!(message(&table, &elsewhere).contains("different devices"));
}
