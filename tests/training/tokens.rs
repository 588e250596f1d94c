//! Random-LTD as it should be, blocks that tokens bypass, patches dropped.

use super::{
    BATCH, KEY, PLAIN_SGD, TOKENS, batch, bits, config, constant_rate, images, ltd, pass, random_config, settings,
    task, weights,
};
use crate::common::{assert_close, each_family, gpu, values};
use wgrad::autograd::no_grad;
use wgrad::data::ImageBatch;
use wgrad::ltd::{LayerTokenPlan, PatchDrop, RandomLtd, SampleKey, Schedule, TokenDrop, sample_kept_batch};
use wgrad::models::vit::{Pool, Vit, VitConfig};
use wgrad::nn::{Extent, Mode, Span};
use wgrad::ops::{self, CrossEntropy, Mask, TokenIndices};
use wgrad::optim::{At, LayerTokenRate, LrSchedule, LrShape};
use wgrad::train::{TrainSettings, Trainer};
use wgrad::{Error, Tensor};

#[test]
fn all_tokens_kept_is_the_plain_model() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let images = images(&gpu, 2);
        let (logits, gradients) = pass(&model, &images, &[]);
        let positions: Vec<u32> = (0..2).flat_map(|_| 0..TOKENS as u32).collect();
        let all = TokenIndices::new(&gpu, [2, TOKENS], TOKENS, &positions).unwrap();
        let (ltd_logits, ltd_gradients) = pass(&model, &images, &[None, Some(all.clone()), Some(all)]);
        assert_eq!(logits, ltd_logits);
        for ((p, plain), kept) in model.parameters().iter().zip(&gradients).zip(&ltd_gradients) {
            assert_eq!(plain, kept, "{}", p.path());
        }
        let (none_logits, _) = pass(&model, &images, &[None, None, None]);
        assert_eq!(logits, none_logits);
    }
    // And the schedule at full length draws no indices at all.
    let plan = ltd(TOKENS).plan(0, TOKENS).draw(0, 2).unwrap();
    assert!(plan.iter().all(Option::is_none));
}

/// Evaluation, and training after the schedule's end, do not depend on random-LTD.
#[test]
fn random_ltd_ends_with_its_schedule() {
    let gpu = gpu();
    let run = |ltd: Option<RandomLtd>| {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings(ltd)).unwrap();
        trainer.step(&batch(1, BATCH)).unwrap();
        trainer.finish().unwrap();
        weights(&model)
    };
    let over = Schedule::linear(5, TOKENS, 1, 1).unwrap();
    assert_ne!(bits(&run(None)), bits(&run(Some(RandomLtd::new(3, over).unwrap()))), "step 0 drops");
    let model = Vit::new(&gpu, config(), 5).unwrap();
    for schedule in [Schedule::constant(TOKENS), Schedule::constant(TOKENS + 1)] {
        let ltd = RandomLtd::new(3, schedule.unwrap()).unwrap();
        let error = Trainer::new(task(&model), settings(Some(ltd))).err().expect("never drops a token");
        assert!(matches!(error, Error::Argument { name: "schedule", .. }), "{error}");
    }
    let other_depth = RandomLtd::new(4, Schedule::constant(5).unwrap()).unwrap();
    let error = Trainer::new(task(&model), settings(Some(other_depth))).err().expect("another depth");
    assert!(matches!(error, Error::Argument { name: "total_blocks", .. }), "{error}");
}

/// The LayerToken rate goes by the trainer's own count of layer tokens, which a snapshot keeps.
#[test]
fn layer_tokens_drive_the_rate_of_a_run() {
    let (gpu, steps, samples) = (gpu(), 10, BATCH as u64);
    let ltd = RandomLtd::new(3, Schedule::linear(5, TOKENS, 6, 1).unwrap()).unwrap();
    let (drop, extent) = (TokenDrop::from(ltd.clone()), Extent { depth: 3, tokens: TOKENS, prefix: 1 });
    let raw = samples * TOKENS as u64;
    let LayerTokenPlan { total, warmup } = drop.layer_token_plan(steps * raw, 2 * raw, samples, extent).unwrap();
    let rate = LayerTokenRate { max: 1e-2, min: 1e-3, shape: LrShape::Cosine, total, warmup };
    let rate = LrSchedule::layer_token(rate).unwrap();
    let expected = |step| {
        let layer_tokens = drop.layer_tokens_before(step, samples, extent).consumed;
        rate.rate(At { step, layer_tokens })
    };
    let run = |trainer: &mut Trainer<_>, steps: std::ops::Range<u64>| {
        for step in steps {
            trainer.step(&batch(step, BATCH)).unwrap();
            assert_eq!(trainer.finish().unwrap().unwrap().rate, expected(step), "step {step}");
        }
        assert_eq!(trainer.layer_tokens(), drop.layer_tokens_before(trainer.steps(), samples, extent));
        trainer.snapshot().unwrap()
    };
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let settings = TrainSettings { rate: rate.clone(), accumulate: 4, ..settings(ltd) };
    let mut trainer = Trainer::new(task(&model), settings.clone()).unwrap();
    let middle = run(&mut trainer, 0..4);
    let end = run(&mut trainer, 4..steps);
    assert_eq!((expected(0), expected(steps)), (0.0, 1e-3), "the floor is reached");
    let mut again = Trainer::new(task(&model), settings).unwrap();
    again.restore(&middle).unwrap();
    assert_eq!(run(&mut again, 4..steps), end);
}

/// What follows a block whose class token is dropped in every sample: the head on the embedded class token, as if there
/// were no block. Its gradient is the identity through the block.
#[test]
fn dropped_rows_pass_a_block_unchanged() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, VitConfig { depth: 1, ..config() }, 5).unwrap();
        let images = images(&gpu, 2);
        let rows = [1u32, 4, 5, 9, 16, 2, 3, 4, 8, 15];
        let kept = TokenIndices::new(&gpu, [2, 5], TOKENS, &rows).unwrap();
        let (logits, gradients) = pass(&model, &images, &[Some(kept)]);

        let parameter = |path: &str| model.parameters().get(path).unwrap();
        let value = |path: &str| parameter(path).value().to_vec::<f32>().unwrap();
        let embedded: Vec<f32> = value("cls_token").iter().zip(value("pos_embed")).map(|(c, p)| c + p).collect();
        let both = Tensor::from_slice(&gpu, &[2, 32], &embedded.repeat(2)).unwrap().requires_grad().unwrap();
        model.parameters().zero_grad();
        let normed = ops::layernorm(&both, &parameter("norm.weight").value(), &parameter("norm.bias").value(), 1e-6);
        let head = (parameter("head.weight").value(), parameter("head.bias").value());
        let expected = ops::linear(&normed.unwrap(), &head.0, Some(&head.1)).unwrap();
        assert_eq!(logits, expected.to_vec::<f32>().unwrap());

        let labels = Tensor::from_slice(&gpu, &[2], &[1u32, 1]).unwrap();
        let loss = ops::cross_entropy(&expected, &labels, &CrossEntropy::default()).unwrap();
        let d_embedded = loss.backward().unwrap().get(&both).unwrap().to_vec::<f32>().unwrap();
        let d_class: Vec<f32> = (0..32).map(|c| d_embedded[c] + d_embedded[32 + c]).collect();
        for (p, gradient) in model.parameters().iter().zip(&gradients) {
            match p.path() {
                "cls_token" => assert_close("cls_token", gradient, &d_class, 1e-6),
                // The class token's position is the first; the patches' outputs are not looked at.
                "pos_embed" => {
                    assert_close("pos_embed", &gradient[..32], &d_class, 1e-6);
                    assert!(gradient[32..].iter().all(|g| *g == 0.0));
                }
                path if path.starts_with("blocks.") => assert!(gradient.iter().all(|g| *g == 0.0), "{path}"),
                _ => {}
            }
        }
    }
}

/// With the mean of all patches as the output, every dropped row of a sample gets the same gradient, the mean's; a kept
/// row's goes through the block.
#[test]
fn gradient_of_dropped_rows_is_the_identity() {
    for gpu in each_family() {
        let config = VitConfig { depth: 1, global_pool: Pool::Avg, class_token: false, ..config() };
        let model = Vit::new(&gpu, config, 5).unwrap();
        let rows = [0u32, 3, 9, 15];
        let kept = TokenIndices::new(&gpu, [1, 4], 16, &rows).unwrap();
        pass(&model, &images(&gpu, 1), &[Some(kept)]);
        let gradient = model.parameters().get("pos_embed").unwrap().grad().unwrap().to_vec::<f32>().unwrap();
        let row = |i: usize| &gradient[i * 32..(i + 1) * 32];
        for i in (0..16).filter(|i| !rows.contains(i)) {
            assert_eq!(row(i as usize), row(1), "row {i}");
        }
        for i in rows {
            assert_ne!(row(i as usize), row(1), "row {i}");
        }
        assert!(row(1).iter().any(|g| *g != 0.0));
    }
}

/// A span over several blocks: those blocks on the kept rows alone, and the others as they were.
#[test]
fn tokens_bypass_several_blocks() {
    for gpu in each_family() {
        let config = VitConfig { global_pool: Pool::Avg, class_token: false, ..random_config() };
        let model = Vit::new(&gpu, config.clone(), 5).unwrap();
        let (images, mode) = (images(&gpu, 2), Mode::training(KEY));
        let kept = TokenIndices::new(&gpu, [2, 5], 16, &[1, 4, 5, 9, 15, 2, 3, 4, 8, 15]).unwrap();
        let gradients = |logits: Tensor| {
            let labels = Tensor::from_slice(&gpu, &[2], &[1u32, 3]).unwrap();
            ops::cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap().backward().unwrap();
            let gradients = model.parameters().iter().map(|p| p.grad().unwrap().to_vec().unwrap()).collect::<Vec<_>>();
            model.parameters().zero_grad();
            (logits.to_vec::<f32>().unwrap(), gradients)
        };
        for checkpointed in [false, true] {
            let mode = mode.recomputing(checkpointed);
            let got = gradients(model.forward(&images, &[Span::bypass(1..3, kept.clone())], &mode).unwrap());
            // By hand.
            let blocks = model.encoder().blocks();
            let x = blocks[0].forward(model.embed(&images, &mode).unwrap(), None, &Mask::NONE, &mode).unwrap();
            let mut rows = ops::token_gather(&x, &kept).unwrap();
            for block in &blocks[1..] {
                rows = block.forward(rows, None, &Mask::NONE, &mode).unwrap();
            }
            let x = ops::token_scatter(x, &rows, &kept).unwrap();
            let expected = gradients(model.classify(&x, &mode).unwrap());
            assert_close("logits", &got.0, &expected.0, 1e-6);
            for ((p, got), expected) in model.parameters().iter().zip(&got.1).zip(&expected.1) {
                assert_close(p.path(), got, expected, 1e-5);
            }
        }
    }
}

#[test]
fn forward_checks_its_inputs() {
    let gpu = gpu();
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let message = |images: &Tensor, kept: &[Span<TokenIndices>]| {
        no_grad(|| model.forward(images, kept, &Mode::evaluation())).unwrap_err().to_string()
    };
    let good = images(&gpu, 2);
    let zeros = |dims: &[usize]| Tensor::zeros(&gpu, wgrad::DType::F32, dims).unwrap();
    assert!(message(&zeros(&[2, 3, 16]), &[]).contains("needs images [B, 3, H, W]"));
    assert!(message(&zeros(&[2, 1, 16, 16]), &[]).contains("needs images [B, 3, H, W]"));
    assert!(message(&zeros(&[2, 3, 16, 20]), &[]).contains("not of the model's img_size"));
    let all: Vec<u32> = (0..2).flat_map(|_| 0..TOKENS as u32).collect();
    let all = TokenIndices::new(&gpu, [2, TOKENS], TOKENS, &all).unwrap();
    let bypass = |blocks| Span::bypass(blocks, all.clone());
    for bad in
        [vec![bypass(2..4)], vec![bypass(1..1)], vec![bypass(0..2), bypass(1..3)], vec![bypass(2..3), bypass(0..1)]]
    {
        assert!(message(&good, &bad).contains("blocks in order, below 3"));
    }
    let leaves_early = Span { rejoins: false, ..bypass(0..2) };
    assert!(message(&good, &[leaves_early]).contains("goes on to the last of 3 blocks"));
    let other_batch = TokenIndices::new(&gpu, [1, 1], TOKENS, &[3]).unwrap();
    message(&good, &[Span::bypass(1..2, other_batch)]);
    let other_length = TokenIndices::new(&gpu, [2, 1], 9, &[3, 4]).unwrap();
    message(&good, &[Span::bypass(1..2, other_length)]);
}

/// Keeping the upper half of the patches is a model of pictures of half the height, with its positions: logits and all
/// gradients, with everything that is random in training.
#[test]
fn dropped_patches_are_not_there() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let small = Vit::new(&gpu, VitConfig { img_size: (8, 16), ..random_config() }, 6).unwrap();
        for p in small.parameters() {
            let value = model.parameters().get(p.path()).unwrap().value().to_vec::<f32>().unwrap();
            p.set(&value[..p.value().numel()]).unwrap();
        }
        let pixels = values(11, 2 * 3 * 16 * 16);
        let upper: Vec<f32> = pixels.chunks(16 * 16).flat_map(|channel| &channel[..8 * 16]).copied().collect();
        let images = images(&gpu, 2);
        let upper = Tensor::from_slice(&gpu, &[2, 3, 8, 16], &upper).unwrap();
        let positions: Vec<u32> = (0..2).flat_map(|_| 0..9).collect();
        let subset = TokenIndices::new(&gpu, [2, 9], TOKENS, &positions).unwrap();

        let labels = Tensor::from_slice(&gpu, &[2], &[1u32, 3]).unwrap();
        let learn = |model: &Vit, logits: Tensor| {
            model.parameters().zero_grad();
            ops::cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap().backward().unwrap();
            logits.to_vec::<f32>().unwrap()
        };
        for checkpointed in [false, true] {
            let mode = Mode::training(KEY).recomputing(checkpointed);
            let expected = learn(&small, small.forward(&upper, &[], &mode).unwrap());
            let got = learn(&model, model.forward(&images, &[Span::leave(0, 3, subset.clone())], &mode).unwrap());
            assert_close("logits", &got, &expected, 1e-6);
            for (p, expected) in model.parameters().iter().zip(small.parameters()) {
                let got = p.grad().unwrap().to_vec::<f32>().unwrap();
                let expected = expected.grad().unwrap().to_vec::<f32>().unwrap();
                assert_close(p.path(), &got[..expected.len()], &expected, 1e-5);
                assert!(got[expected.len()..].iter().all(|g| *g == 0.0), "{}: positions that are not there", p.path());
            }
        }
    }
}

/// A trainer's step drops what the keyed draw says, whole or in micro-batches, and counts it.
#[test]
fn trainer_drops_patches() {
    let gpu = gpu();
    let drop = PatchDrop::new(7, 1).unwrap().with_seed(21).with_until(1);
    let run = |drop: TokenDrop, accumulate| {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let rate = constant_rate(1.0);
        let settings = TrainSettings { rule: PLAIN_SGD, max_norm: None, rate, accumulate, ..settings(drop) };
        let mut trainer = Trainer::new(task(&model), settings).unwrap();
        trainer.step(&batch(1, BATCH)).unwrap();
        let first = trainer.finish().unwrap().unwrap();
        let after = weights(&model);
        trainer.step(&batch(2, BATCH)).unwrap();
        (first, after, trainer.finish().unwrap().unwrap(), trainer.layer_tokens(), model)
    };
    let (first, after, second, tokens, model) = run(drop.clone().into(), 1);
    assert_eq!((first.kept, second.kept, first.tokens), (7, TOKENS, TOKENS));
    assert_eq!((tokens.consumed, tokens.full), (6 * 3 * (7 + 17), 6 * 3 * 34));

    let fresh = Vit::new(&gpu, config(), 5).unwrap();
    let before = weights(&fresh);
    let key = SampleKey { seed: 21, step: 0, block: u32::MAX, sample: 0 };
    let drawn = sample_kept_batch(&key, BATCH, TOKENS, 7, 1).unwrap();
    assert!(drawn.chunks(7).all(|row| row[0] == 0), "the class token is always kept");
    let subset = TokenIndices::new(&gpu, [BATCH, 7], TOKENS, &drawn).unwrap();
    let ImageBatch { images, labels, .. } = batch(1, BATCH);
    let images = Tensor::from_slice(&gpu, &[BATCH, 3, 16, 16], &images).unwrap();
    let labels = Tensor::from_slice(&gpu, &[BATCH], &labels).unwrap();
    let logits = fresh.forward(&images, &[Span::leave(0, 3, subset)], &Mode::training(KEY)).unwrap();
    let smoothed = CrossEntropy { label_smoothing: 0.1, ..Default::default() };
    let loss = ops::cross_entropy(&logits, &labels, &smoothed).unwrap();
    loss.backward().unwrap();
    assert_close("loss", &[first.loss], &[loss.item().unwrap()], 1e-6);
    for ((p, before), after) in fresh.parameters().iter().zip(&before).zip(&after) {
        let moved: Vec<f32> = before.iter().zip(after).map(|(a, b)| a - b).collect();
        assert_close(p.path(), &moved, &p.grad().unwrap().to_vec().unwrap(), 1e-4);
    }
    let (_, parts, ..) = run(drop.clone().into(), 4);
    for ((p, whole), parts) in model.parameters().iter().zip(&after).zip(&parts) {
        assert_close(&format!("{} in parts", p.path()), parts, whole, 1e-4);
    }
    // A class token that could be dropped is refused.
    let bare = PatchDrop::new(7, 0).unwrap();
    let error = Trainer::new(task(&model), settings(bare)).err().expect("no prefix");
    assert!(matches!(error, Error::Argument { name: "keep_prefix", .. }), "{error}");
}
