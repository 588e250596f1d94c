//! Memory that runs out, by a limit on what the engine may have.

use super::{batch, config, settings, task};
use wgrad::gpu::GpuOptions;
use wgrad::ltd::TokenDrop;
use wgrad::models::vit::Vit;
use wgrad::train::{Trainer, Workload, remedies};
use wgrad::{DType, Error, Gpu, Tensor, ops};

const MB: u64 = 1 << 20;

fn limited(memory: Option<u64>) -> Gpu {
    Gpu::with_options(&GpuOptions { default_limits: true, memory, ..GpuOptions::default() }).unwrap()
}

#[test]
fn the_error_says_what_it_was_for() {
    let gpu = limited(Some(8 * MB));
    let held = Tensor::zeros(&gpu, DType::F32, &[1 << 20]).unwrap();
    let error = Tensor::zeros(&gpu, DType::F32, &[3, 1 << 20]).unwrap_err();
    match &error {
        Error::OutOfMemory { what, size, held, .. } => {
            assert_eq!((what.as_str(), *size), ("f32[3, 1048576]", 12 * MB));
            assert!((4 * MB..5 * MB).contains(held), "{held}");
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("Gpu::limit_memory"), "{error}");
    // The handle is as it was, and what is dropped is used again: also by a tensor of another size.
    assert_eq!(ops::sum(&held).unwrap().item().unwrap(), 0.0);
    drop(held);
    let large = Tensor::zeros(&gpu, DType::F32, &[7 << 18]).unwrap();
    assert_eq!(ops::sum(&large).unwrap().item().unwrap(), 0.0);
    assert!(gpu.memory().allocated <= 8 * MB);
    // A host's device is opened without options.
    gpu.limit_memory(None);
    let larger = Tensor::zeros(&gpu, DType::F32, &[3, 1 << 20]).unwrap();
    gpu.limit_memory(Some(16 * MB));
    drop(larger);
    assert!(matches!(Tensor::zeros(&gpu, DType::F32, &[5, 1 << 20]).unwrap_err(), Error::OutOfMemory { .. }));
}

/// A step that finds no room changes nothing: the trainer goes on with smaller batches as one that never met it, the settings that
/// would have fitted do, and all memory is given back at the end.
#[test]
fn a_step_that_finds_no_room() {
    let train = |gpu: &Gpu, meets_it: bool| {
        let mut trainer = Trainer::new(task(Vit::new(gpu, config(), 5).unwrap()), settings(TokenDrop::None)).unwrap();
        for seed in 0..4 {
            trainer.step(&batch(seed, 4)).unwrap();
            if meets_it && seed % 2 == 1 {
                let error = trainer.step(&batch(9, 256)).unwrap_err();
                assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
            }
        }
        trainer.finish().unwrap();
        trainer.snapshot().unwrap()
    };
    let plain = limited(None);
    let expected = train(&plain, false);
    let most = plain.memory().peak_allocated;
    let gpu = limited(Some(most + most / 4));
    assert!(train(&gpu, true) == expected);
    gpu.trim();
    assert!(gpu.memory().allocated < 65_536, "{:?}", gpu.memory());

    let make = |gpu: &Gpu| Ok(task(Vit::new(gpu, config(), 5)?));
    let own = settings(TokenDrop::None);
    let work = Workload { make: &make, settings: &own, batch: 64, steps: 2 };
    let ways = remedies(&gpu, &work, Some(most + most / 4));
    let way = ways.first().expect("smaller micro-batches");
    let mut smaller = settings(TokenDrop::None);
    (smaller.accumulate, smaller.recompute_blocks) = (way.accumulate, way.recompute_blocks);
    let mut trainer = Trainer::new(make(&gpu).unwrap(), smaller).unwrap();
    trainer.step(&batch(1, 64)).unwrap();
    trainer.finish().unwrap();
}
