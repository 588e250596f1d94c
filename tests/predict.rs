//! What a model says of each sample, against the same counted by hand.

use std::ops::ControlFlow;

use crate::common::{assert_close, each_family, gpu, values};
use crate::data::single;
use wgrad::autograd::no_grad;
use wgrad::data::{Crop, ImageSource, Loader, LoaderOptions, Split, Transform};
use wgrad::models::vit::{OpenOptions, Vit, VitConfig, VitFile, open};
use wgrad::nn::Mode;
use wgrad::ops::CrossEntropy;
use wgrad::optim::{AdamW, LrSchedule, Rule};
use wgrad::train::{
    ClassAccuracy, Classify, EpochMetrics, FitData, FitOptions, Observer, Predictions, RunFolder, StepMetrics,
    TrainSettings, evaluate, fit, predict,
};
use wgrad::{Error, Gpu, Tensor, ops};

const CLASSES: usize = 5;
const SAMPLES: usize = 23;

fn model(gpu: &Gpu, num_classes: usize) -> Vit {
    let config = VitConfig { img_size: (16, 16), patch_size: 4, num_classes, ..VitConfig::custom(32, 2, 2) };
    Vit::new(gpu, config, 5).unwrap()
}

fn labels() -> Vec<u32> {
    // Class 3 has no samples.
    (0..SAMPLES as u32).map(|i| [0, 4, 2, 1, 4, 0, 0][i as usize % 7]).collect()
}

fn loader(batch_size: usize) -> Loader<ImageSource> {
    let pixels = values(9, SAMPLES * 16 * 16 * 3).iter().map(|v| (v * 127.0 + 128.0) as u8).collect();
    let split = Split::from_pixels(16, 16, pixels, labels()).unwrap();
    single(&split, Transform::new(16, Crop::Whole), LoaderOptions::evaluation(batch_size))
}

/// `f32[N, V]`, by the model at once and a softmax on the host.
fn expected(model: &Vit) -> Vec<f32> {
    let batch = loader(SAMPLES).epoch(0).unwrap().next().unwrap().unwrap();
    let images = Tensor::from_slice(model.gpu(), &[SAMPLES, 3, 16, 16], &batch.images).unwrap();
    let logits = no_grad(|| model.forward(&images, &[], &Mode::evaluation())).unwrap().to_vec::<f32>().unwrap();
    ops::softmax::reference::forward(&logits, CLASSES)
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

#[test]
fn predictions_are_the_models_in_the_loaders_order() {
    for gpu in each_family() {
        let model = model(&gpu, CLASSES);
        // Batches of 6, 6, 6 and 5, more than are in flight.
        let loader = loader(6);
        let predictions = predict(&Classify::new(&model), loader.epoch(0).unwrap()).unwrap();
        assert_eq!((predictions.len(), predictions.classes()), (SAMPLES, CLASSES));
        assert_eq!(predictions.labels(), labels());
        assert_eq!(predictions.samples(), (0..SAMPLES as u32).collect::<Vec<_>>());
        assert_close("probabilities", predictions.probabilities(), &expected(&model), 1e-5);
        assert_eq!(predictions.row(22), &predictions.probabilities()[22 * CLASSES..]);
        assert!(predictions.row(23).is_empty() && predictions.row(usize::MAX).is_empty());
        let (folded, measured) =
            (predictions.evaluation(), evaluate(&Classify::new(&model), loader.epoch(0).unwrap()).unwrap());
        assert_eq!(folded, measured);
    }
}

#[test]
fn predictions_are_counted_by_class() {
    let gpu = gpu();
    let model = model(&gpu, CLASSES);
    let predictions = predict(&Classify::new(&model), loader(8).epoch(0).unwrap()).unwrap();
    let classes: Vec<usize> = (0..SAMPLES).map(|row| argmax(predictions.row(row))).collect();
    let pairs = || labels().into_iter().zip(&classes).map(|(label, &class)| (label, class as u32));

    let predicted: Vec<u32> = predictions.predicted().map(|(class, _)| class).collect();
    assert_eq!(predicted, classes.iter().map(|&class| class as u32).collect::<Vec<_>>());
    let confusion = predictions.confusion();
    assert_eq!(confusion.values().sum::<u64>(), SAMPLES as u64);
    for (&pair, &count) in &confusion {
        assert_eq!(count, pairs().filter(|&p| p == pair).count() as u64, "{pair:?}");
    }
    for (label, class) in (0..).zip(predictions.per_class()) {
        assert_eq!(class.samples, pairs().filter(|p| p.0 == label).count() as u64);
        assert_eq!(class.correct, pairs().filter(|p| p.0 == label && p.1 == label).count() as u64);
        assert_eq!(class.accuracy().is_none(), label == 3);
    }
    let mistakes = predictions.mistakes();
    assert_eq!(mistakes.len(), pairs().filter(|(label, class)| label != class).count());
    let sureness: Vec<f32> = mistakes.iter().map(|&row| predictions.row(row)[classes[row]]).collect();
    assert!(sureness.is_sorted_by(|a, b| a >= b), "{sureness:?}");
}

#[test]
fn the_likeliest_classes_come_in_order() {
    let gpu = gpu();
    let predictions = predict(&Classify::new(&model(&gpu, CLASSES)), loader(8).epoch(0).unwrap()).unwrap();
    for row in 0..SAMPLES {
        let all = predictions.top(row, 100);
        assert_eq!(all.len(), CLASSES);
        assert!(all.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(all.iter().all(|&(class, p)| predictions.row(row)[class as usize] == p));
        for count in 0..CLASSES {
            assert_eq!(predictions.top(row, count), all[..count]);
        }
    }
    assert!(predictions.top(SAMPLES, 3).is_empty());
    let empty = Predictions::default();
    assert!(empty.is_empty() && empty.mistakes().is_empty() && empty.evaluation().accuracy == 0.0);
}

/// Equal probabilities: the first class is the prediction, as it is for `evaluate`.
#[test]
fn of_several_largest_the_first_counts() {
    let gpu = gpu();
    let model = model(&gpu, CLASSES);
    for path in ["head.weight", "head.bias"] {
        let parameter = model.parameters().get(path).unwrap();
        parameter.set(&vec![0.0; parameter.value().numel()]).unwrap();
    }
    let predictions = predict(&Classify::new(&model), loader(8).epoch(0).unwrap()).unwrap();
    assert!(predictions.predicted().all(|(class, _)| class == 0));
    assert_eq!(predictions.top(0, 2).iter().map(|top| top.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(predictions.evaluation(), evaluate(&Classify::new(&model), loader(8).epoch(0).unwrap()).unwrap());
}

/// A row whose label a run ignores has probabilities, and is neither right nor wrong.
#[test]
fn ignored_labels_are_not_judged() {
    let gpu = gpu();
    let model = model(&gpu, CLASSES);
    // Class 4 as if it were the mark of what has no label.
    let ignoring = CrossEntropy { ignore_index: Some(4), ..CrossEntropy::default() };
    let (all, some) = (
        predict(&Classify::new(&model), loader(8).epoch(0).unwrap()).unwrap(),
        predict(&Classify::with_loss(&model, ignoring), loader(8).epoch(0).unwrap()).unwrap(),
    );
    assert_eq!((all.probabilities(), all.labels()), (some.probabilities(), some.labels()));
    let judged = labels().iter().filter(|&&label| label != 4).count() as u64;
    assert_eq!(some.evaluation().counted, judged);
    assert_eq!(some.confusion().values().sum::<u64>(), judged);
    assert_eq!(some.per_class()[4], ClassAccuracy::default());
    assert_eq!(some.per_class()[..4], all.per_class()[..4]);
    let kept = all.mistakes().into_iter().filter(|&row| labels()[row] != 4);
    assert_eq!(some.mistakes(), kept.collect::<Vec<_>>());
}

#[test]
fn bad_labels_and_damaged_weights_are_errors() {
    let gpu = gpu();
    let error = predict(&Classify::new(&model(&gpu, 4)), loader(8).epoch(0).unwrap()).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { what: "label", value: 4, bound: 4, .. }), "{error}");
    let damaged = model(&gpu, CLASSES);
    damaged.parameters().get("head.bias").unwrap().set(&[f32::NAN; CLASSES]).unwrap();
    let error = predict(&Classify::new(&damaged), loader(8).epoch(0).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Argument { name: "model", .. }), "{error}");
    let mut batch = loader(8).epoch(0).unwrap().next().unwrap().unwrap();
    batch.indices.clear();
    let error = predict(&Classify::new(&damaged), [Ok(batch)]).unwrap_err();
    assert!(matches!(error, Error::Argument { name: "indices", .. }), "{error}");
}

struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: &StepMetrics) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn epoch(&mut self, _: &EpochMetrics) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Who opens a run's checkpoint later learns which part of a picture the model is used to.
#[test]
fn a_run_stores_its_crop() {
    let gpu = gpu();
    let model = model(&gpu, CLASSES);
    let loader = loader(8);
    for crop_fraction in [None, Some(0.9)] {
        let folder = tempfile::tempdir().unwrap();
        let data = FitData {
            train: &loader,
            validation: &loader,
            steps: 1,
            folder: Some(RunFolder::new(folder.path(), |path, weights| {
                VitFile { config: model.config(), class_names: &[], crop_fraction }.write(path, weights)
            })),
        };
        let rate = LrSchedule::constant(1e-3).unwrap();
        let settings = TrainSettings::new(Rule::AdamW(AdamW::default()), rate);
        fit(Classify::new(&model), &data, settings, FitOptions::default(), &mut Silent).unwrap();
        for name in ["best.safetensors", "last.safetensors"] {
            let opened = open(folder.path().join(name), &OpenOptions::default()).unwrap();
            assert_eq!(opened.crop_fraction, crop_fraction, "{name}");
        }
    }
}
