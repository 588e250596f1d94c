//! Where a NaN or an infinity comes from.

use super::{BATCH, batch, config, settings, task};
use crate::common::{each_family, gpu, gpu_with_f16, values};
use wgrad::ltd::TokenDrop;
use wgrad::models::vit::Vit;
use wgrad::ops;
use wgrad::train::Trainer;
use wgrad::{DType, Error, Gpu, Tensor};

/// What was found: kernel, what it made, in which tensor, from what.
fn found<T: std::fmt::Debug>(result: wgrad::Result<T>) -> (Option<u64>, &'static str, &'static str, String, String) {
    match result {
        Err(Error::NonFiniteValue { step, kernel, what, tensor, cause, .. }) => (step, kernel, what, tensor, cause),
        other => panic!("{other:?}"),
    }
}

fn tensor(gpu: &Gpu, values: &[f32]) -> Tensor {
    Tensor::from_slice(gpu, &[values.len()], values).unwrap()
}

#[test]
fn values_born_inside_and_values_given() {
    for gpu in each_family() {
        let good = tensor(&gpu, &[1.0, 2.0, 200.0]);
        // Born in the third operation of five.
        let chain = |x: &Tensor| {
            let y = ops::scale(&ops::add(x, x)?, 1.0)?;
            ops::sum(&ops::scale(&ops::exp(&y)?, 2.0)?)
        };
        let (step, kernel, what, of, cause) = found(gpu.check_values(|| chain(&good)));
        assert!(step.is_none() && kernel.contains("exp"), "{kernel}");
        assert_eq!((what, of.as_str()), ("an infinity", "f32[3]"));
        assert!(cause.contains("was finite"), "{cause}");
        let (_, kernel, what, _, cause) = found(gpu.check_values(|| chain(&tensor(&gpu, &[1.0, f32::NAN]))));
        assert!(kernel.contains("add") || kernel.contains("binary"), "{kernel}");
        assert!(what == "a NaN" && cause == "it was given a NaN, element 1 of f32[2]", "{what} {cause}");
        // Without a look nothing is an error, and a good one changes nothing.
        assert!(chain(&good).unwrap().item().unwrap().is_infinite());
        let fine = tensor(&gpu, &[0.5, 0.25]);
        let checked = gpu.check_values(|| chain(&fine)).unwrap().item().unwrap();
        assert_eq!(checked.to_bits(), chain(&fine).unwrap().item().unwrap().to_bits());
    }
}

/// What earlier steps have left in memory that is used again is nobody's.
#[test]
fn old_contents_are_not_accused() {
    let gpu = gpu();
    for n in [5, 100, 1000] {
        crate::common::poison(&gpu, &[n, n, 2 * n]);
        let x = tensor(&gpu, &values(3, n));
        gpu.check_values(|| ops::sum(&ops::mul(&x, &x)?)).unwrap();
    }
}

#[test]
fn half_precision_that_overflows() {
    let Some(gpu) = gpu_with_f16() else { return };
    let x = tensor(&gpu, &[1.0, 70_000.0]);
    let (_, _, what, of, cause) =
        found(gpu.check_values(|| ops::sum(&ops::cast(&ops::cast(&x, DType::F16)?, DType::F32)?)));
    assert!(what == "an infinity" && of == "f16[2]" && cause.contains("was finite"), "{of}: {cause}");
}

/// In a weight, before a step and after another; born where a product overflows; and with nothing to find.
#[test]
fn steps_that_fail_name_the_kernel() {
    for gpu in each_family() {
        let trainer = || {
            let model = Vit::new(&gpu, config(), 5).unwrap();
            let mut trainer = Trainer::new(task(model), settings(TokenDrop::None)).unwrap();
            trainer.debug_nan(true);
            trainer
        };
        let set = |trainer: &Trainer<_>, path: &str, change: fn(&mut [f32])| {
            let trainer: &Trainer<wgrad::train::Classify<Vit>> = trainer;
            let parameter = trainer.task().model.parameters().get(path).unwrap().clone();
            let mut values = parameter.value().to_vec::<f32>().unwrap();
            change(&mut values);
            parameter.set(&values).unwrap();
        };
        let mut bad = trainer();
        assert_eq!(bad.step(&batch(1, BATCH)).unwrap().map(|metrics| metrics.step), Some(0));
        set(&bad, "blocks.1.mlp.fc1.weight", |values| values[7] = f32::NAN);
        let error = bad.step(&batch(2, BATCH)).unwrap_err();
        let text = error.to_string();
        let (step, _, what, _, cause) = found::<()>(Err(error));
        assert_eq!((step, what), (Some(1), "a NaN"), "{text}");
        assert!(cause.contains("element 7 of blocks.1.mlp.fc1.weight"), "{text}");

        let mut large = trainer();
        set(&large, "head.weight", |values| values.fill(3e38));
        let text = large.step(&batch(1, BATCH)).unwrap_err().to_string();
        assert!(text.starts_with("after 0 steps: ") && text.contains("head.weight"), "{text}");
        assert!(text.contains("all that it was given to read was finite"), "{text}");

        // The same steps as without.
        let (mut watched, mut plain) = (trainer(), trainer());
        plain.debug_nan(false);
        for seed in 0..3 {
            watched.step(&batch(seed, BATCH)).unwrap();
            plain.step(&batch(seed, BATCH)).unwrap();
            watched.find_non_finite(seed, &batch(seed, BATCH)).unwrap();
        }
        assert!(watched.finish().unwrap().is_none() && plain.finish().unwrap().is_some());
        assert_eq!(watched.snapshot().unwrap(), plain.snapshot().unwrap());
    }
}

/// A step of training whose numbers are all finite is nothing to report, the optimiser's own words among them.
#[test]
fn a_step_of_finite_numbers() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let mut trainer = Trainer::new(task(model), settings(TokenDrop::None)).unwrap();
        for seed in 0..2 {
            gpu.check_values(|| trainer.record(&batch(seed, BATCH))).unwrap();
        }
    }
}
