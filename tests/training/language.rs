//! Language models as tasks: what their losses are, and that all which serves any task serves them.

use super::{PLAIN_SGD, bits, constant_rate, settings as vit_settings};
use crate::common::{assert_close, each_family, gpu, gpu_with_f16};
use wgrad::autograd::no_grad;
use wgrad::data::{Batch, Position, TokenBatch};
use wgrad::ltd::{PatchDrop, RandomLtd, Schedule, TokenBypass, TokenDrop};
use wgrad::models::bert::{Bert, BertConfig};
use wgrad::models::gpt2::{Gpt2, Gpt2Config};
use wgrad::nn::{Extent, LanguageModel, Mode, Precision, Span, Tokens};
use wgrad::ops::{self, CrossEntropy, TokenIndices};
use wgrad::train::{
    CausalLm, LanguageTask, Masked, MaskedLm, Objective, Part, Task, TrainSettings, Trainer, Workload, estimate,
    evaluate, rehearse,
};
use wgrad::{Error, Gpu, Result, Tensor};

const IGNORED: u32 = TokenBatch::IGNORED;
/// V: no multiple of four.
const VOCABULARY: usize = 29;
/// T, below the models' positions.
const TOKENS: usize = 11;
const SAMPLES: usize = 6;
const DEPTH: usize = 4;

fn gpt2(dropout: f32) -> Gpt2Config {
    Gpt2Config {
        vocab_size: VOCABULARY,
        n_positions: 16,
        resid_pdrop: dropout,
        embd_pdrop: dropout,
        attn_pdrop: dropout,
        bos_token_id: Some(0),
        eos_token_id: vec![0],
        ..Gpt2Config::custom(16, DEPTH, 2)
    }
}

fn bert(dropout: f32) -> BertConfig {
    BertConfig {
        vocab_size: VOCABULARY,
        max_position_embeddings: 16,
        hidden_dropout_prob: dropout,
        attention_probs_dropout_prob: dropout,
        ..BertConfig::custom(16, DEPTH, 2)
    }
}

fn causal(gpu: &Gpu, dropout: f32) -> CausalLm<Gpt2> {
    CausalLm::new(Gpt2::new(gpu, gpt2(dropout), 3).unwrap(), TOKENS).unwrap()
}

fn masked(gpu: &Gpu, dropout: f32) -> MaskedLm<Bert> {
    MaskedLm::new(Bert::new(gpu, bert(dropout), 3).unwrap(), TOKENS).unwrap()
}

/// Ids that look random.
fn ids(seed: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i * 7 + i * 13 + seed * 11) % VOCABULARY) as u32).collect()
}

/// Sequences of several lengths, to be learnt as they are.
fn texts(seed: usize) -> TokenBatch {
    let lengths = (0..SAMPLES).map(|i| (TOKENS - i % 4) as u32).collect();
    TokenBatch::new(TOKENS, ids(seed, SAMPLES * TOKENS)).unwrap().with_lengths(lengths).unwrap()
}

/// The same with a mask at every fifth place or so, and two segments.
fn masks(seed: usize) -> TokenBatch {
    let batch = texts(seed);
    let is_chosen = |i: usize| i % TOKENS < batch.length(i / TOKENS) && (i * 3 + seed).is_multiple_of(5);
    let label = |i: usize| if is_chosen(i) { batch.ids[i] } else { IGNORED };
    let labels = (0..batch.ids.len()).map(label).collect();
    let masked = (0..batch.ids.len()).map(|i| if is_chosen(i) { 1 } else { batch.ids[i] }).collect();
    let types = (0..batch.ids.len()).map(|i| u32::from(i % TOKENS > 4)).collect();
    TokenBatch { ids: masked, types: Some(types), labels: Some(labels), ..batch }
}

fn settings(drop: impl Into<TokenDrop>) -> TrainSettings {
    vit_settings(drop)
}

fn random_ltd(kept: usize) -> TokenDrop {
    RandomLtd::new(DEPTH, Schedule::constant(kept).unwrap()).unwrap().with_seed(5).into()
}

/// The middle, for the most important tokens.
fn bypass() -> TokenDrop {
    TokenBypass::new(1..3, 6, 1).unwrap().by_importance().into()
}

fn weights<T: Task>(task: &T) -> Vec<Vec<f32>> {
    task.model().parameters().iter().map(|p| p.value().to_vec().unwrap()).collect()
}

fn held<T: Task>(task: &T) -> Vec<Vec<f32>> {
    task.held().iter().map(|(_, tensor)| tensor.to_vec().unwrap()).collect()
}

/// What the scores of each place are judged against by a task on [`texts`] or [`masks`], `u32[B·T]`: the labels that stand there, or
/// those of the next place.
fn targets(batch: &TokenBatch, is_causal: bool) -> Vec<u32> {
    let labels = (0..SAMPLES).flat_map(|sample| {
        let own: Vec<u32> = batch.labels_of(sample).collect();
        if is_causal { own[1..].iter().copied().chain([IGNORED]).collect() } else { own }
    });
    labels.collect()
}

/// A step in which tokens leave the model is judged by those that stay, each by its own target, and by nothing else.
#[track_caller]
fn check_left<M: LanguageModel, O: Objective>(
    task: LanguageTask<M, O>,
    batch: &TokenBatch,
    targets: &[u32],
    logits: impl Fn(&LanguageTask<M, O>, &Tokens<'_>, &[Span<TokenIndices>]) -> Result<Tensor>,
) {
    let (gpu, drop) = (task.model.parameters().gpu().clone(), PatchDrop::new(6, 1).unwrap().with_seed(4));
    let kept = TokenDrop::from(drop.clone()).draw(0, task.extent(), 0, SAMPLES).unwrap().remove(0);
    let rows = kept.positions.chunks(6).zip(targets.chunks(TOKENS));
    let labels: Vec<u32> = rows.flat_map(|(row, own)| row.iter().map(|&place| own[place as usize])).collect();
    let spans = [kept.try_map(|positions| TokenIndices::new(&gpu, [SAMPLES, 6], TOKENS, &positions)).unwrap()];
    let on_device = |values: &[u32], dims: &[usize]| Tensor::from_slice(&gpu, dims, values).unwrap();
    let (ids, lengths) = (on_device(&batch.ids, &[SAMPLES, TOKENS]), batch.lengths.as_deref());
    let (types, lengths) = (
        batch.types.as_deref().map(|types| on_device(types, &[SAMPLES, TOKENS])),
        lengths.map(|lengths| on_device(lengths, &[SAMPLES])),
    );
    let tokens = Tokens { ids: &ids, types: types.as_ref(), lengths: lengths.as_ref() };
    let logits = no_grad(|| logits(&task, &tokens, &spans)).unwrap();
    let rows = ops::reshape(&logits, &[SAMPLES * 6, VOCABULARY]).unwrap();
    let ignoring = CrossEntropy { ignore_index: Some(IGNORED), ..Default::default() };
    let labels_there = on_device(&labels, &[labels.len()]);
    let expected = ops::cross_entropy(&rows, &labels_there, &ignoring).unwrap().item().unwrap();
    let right = ops::count_correct(&rows, &labels_there, Some(IGNORED)).unwrap().to_vec::<u32>().unwrap()[0];

    let mut trainer = Trainer::new(task, settings(drop)).unwrap();
    trainer.step(batch).unwrap();
    let first = trainer.finish().unwrap().unwrap();
    assert_close("loss", &[first.loss], &[expected], 1e-5);
    let counted = labels.iter().filter(|&&label| label != IGNORED).count();
    assert_eq!((first.correct, first.counted, first.kept), (right, counted, 6));
    assert!(counted > 0 && counted < targets.iter().filter(|&&label| label != IGNORED).count());
    let steps: Vec<f32> = (0..30).filter_map(|_| trainer.step(batch).unwrap()).map(|metrics| metrics.loss).collect();
    assert!(steps[28] < 0.8 * first.loss, "{steps:?}");
}

#[test]
fn tokens_that_leave_have_no_loss() {
    for gpu in each_family() {
        let mode = Mode::training(super::KEY);
        let batch = texts(2);
        check_left(causal(&gpu, 0.0), &batch, &targets(&batch, true), |t, tokens, s| t.model.forward(tokens, s, &mode));
        let batch = masks(2);
        check_left(masked(&gpu, 0.0), &batch, &targets(&batch, false), |t, tokens, s| {
            t.model.forward(tokens, s, &mode)
        });
    }
    // The host must know which they are.
    let task = causal(&gpu(), 0.0);
    let positions =
        Tensor::from_slice(task.model.parameters().gpu(), &[SAMPLES, 2], &[0u32, 1].repeat(SAMPLES)).unwrap();
    let positions = TokenIndices::from_tensor(&positions, TOKENS).unwrap();
    let span = Span { blocks: 0..DEPTH, positions, rejoins: false };
    let refused = task.loss(&Part::whole(&texts(1)), &[span], &Mode::training(super::KEY)).err().unwrap();
    assert!(refused.to_string().contains("positions the host knows"), "{refused}");
}

/// Takes a task's loss on a batch and all gradients, and compares them with those of all logits, judged by `labels`.
#[track_caller]
fn check_loss<M: LanguageModel, O: Objective>(
    task: &LanguageTask<M, O>,
    batch: &TokenBatch,
    labels: &[u32],
    logits: impl Fn(&Tokens<'_>, &Mode) -> Result<Tensor>,
) {
    let (parameters, gpu) = (task.model.parameters(), task.model.parameters().gpu());
    let gradients = || {
        let all = parameters.iter().map(|p| p.grad().map(|gradient| gradient.to_vec::<f32>().unwrap()));
        let all: Vec<_> = all.collect();
        parameters.zero_grad();
        all
    };
    let mode = Mode::training(super::KEY);
    parameters.zero_grad();
    let scored = task.loss(&Part::whole(batch), &[], &mode).unwrap();
    scored.loss.backward().unwrap();
    let (got, correct) = (gradients(), scored.correct.unwrap());

    let sequences = |values: &[u32]| Tensor::from_slice(gpu, &[SAMPLES, TOKENS], values).unwrap();
    let (ids, types) = (sequences(&batch.ids), batch.types.as_deref().map(sequences));
    let lengths = batch.lengths.as_ref().map(|lengths| Tensor::from_slice(gpu, &[SAMPLES], lengths).unwrap());
    let tokens = Tokens { ids: &ids, types: types.as_ref(), lengths: lengths.as_ref() };
    let all = ops::reshape(&logits(&tokens, &mode).unwrap(), &[SAMPLES * TOKENS, VOCABULARY]).unwrap();
    let settings = CrossEntropy { ignore_index: Some(IGNORED), ..task.loss.clone() };
    let targets = Tensor::from_slice(gpu, &[SAMPLES * TOKENS], labels).unwrap();
    let expected = ops::cross_entropy(&all, &targets, &settings).unwrap();
    expected.backward().unwrap();
    assert_close("loss", &[scored.loss.item().unwrap()], &[expected.item().unwrap()], 1e-6);
    let right = ops::count_correct(&all.detach(), &targets, Some(IGNORED)).unwrap().to_vec::<u32>().unwrap();
    assert_eq!(correct.count.to_vec::<u32>().unwrap(), right);
    for ((p, got), expected) in parameters.iter().zip(got).zip(gradients()) {
        // A position beyond the sequences, and nothing else, is part of no graph.
        let (got, expected) = (got.unwrap_or_default(), expected.unwrap_or_default());
        assert_close(p.path(), &got, &expected, 1e-5);
    }
    let count = labels.iter().filter(|&&label| label != IGNORED).count();
    assert_eq!(correct.of, count);
    if task.loss.class_weights.is_none() {
        assert_eq!(task.weight(batch, 0..SAMPLES), count as f64);
    }
}

#[test]
fn the_next_token_is_learnt() {
    for gpu in each_family() {
        for smoothing in [0.0, 0.1] {
            let loss = CrossEntropy { label_smoothing: smoothing, ignore_index: Some(7), ..Default::default() };
            let task = causal(&gpu, 0.1).with_loss(loss);
            let batch = texts(1);
            let next = |i: usize| {
                let (place, length) = (i % TOKENS, batch.length(i / TOKENS));
                if place + 1 < length && batch.ids[i + 1] != 7 { batch.ids[i + 1] } else { IGNORED }
            };
            let labels: Vec<u32> = (0..SAMPLES * TOKENS).map(next).collect();
            assert!(batch.ids.contains(&7));
            check_loss(&task, &batch, &labels, |tokens, mode| task.model.forward(tokens, &[], mode));
        }
    }
}

/// Labels of one's own stand where their ids do: that of the first place is never used.
#[test]
fn given_labels_are_shifted_too() {
    let gpu = gpu();
    let task = causal(&gpu, 0.0);
    let mut given = vec![IGNORED; SAMPLES * TOKENS];
    (given[0], given[3], given[TOKENS]) = (5, 6, 7);
    let batch = TokenBatch::new(TOKENS, ids(2, SAMPLES * TOKENS)).unwrap().with_labels(given).unwrap();
    let mut labels = vec![IGNORED; SAMPLES * TOKENS];
    labels[2] = 6;
    check_loss(&task, &batch, &labels, |tokens, mode| task.model.forward(tokens, &[], mode));
}

#[test]
fn what_stands_behind_masks_is_learnt() {
    for gpu in each_family() {
        for weighted in [false, true] {
            let class_weights = weighted.then(|| (0..VOCABULARY).map(|id| 0.5 + id as f32 / 10.0).collect());
            let task = masked(&gpu, 0.1).with_loss(CrossEntropy { class_weights, ..Default::default() });
            let batch = masks(1);
            let labels = batch.labels.clone().unwrap();
            check_loss(&task, &batch, &labels, |tokens, mode| task.model.forward(tokens, &[], mode));
        }
    }
}

/// The places that are computed: all that have a label, ascending, and a number that labels do not move.
#[test]
fn the_number_of_places_is_the_same() {
    let places = |masked: Masked, labelled: &[usize], tokens: usize, samples: usize| {
        let mut labels = vec![IGNORED; tokens * samples];
        labelled.iter().for_each(|&place| labels[place] = 1);
        let chosen = masked.places(&labels, tokens);
        if let Some(chosen) = &chosen {
            assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(labelled.iter().all(|&place| chosen.contains(&(place as u32))));
        }
        chosen.map_or(tokens * samples, |chosen| chosen.len())
    };
    assert_eq!([1, 16, 64, 128, 129, 512].map(|tokens| Masked::usual(tokens).places), [1, 3, 12, 24, 25, 96]);
    assert_eq!([0.01, 0.15, 0.4, 1.0].map(|share| Masked::of_share(129, share).places), [9, 25, 57, 129]);
    let usual = Masked::usual(64);
    assert_eq!(places(usual, &[], 64, 2), 24);
    assert_eq!(places(usual, &[127], 64, 2), 24);
    assert_eq!(places(usual, &(0..24).collect::<Vec<_>>(), 64, 2), 24);
    // More labels take the next sixteenth of all.
    assert_eq!(places(usual, &(0..25).collect::<Vec<_>>(), 64, 2), 32);
    assert_eq!(places(usual, &(0..32).collect::<Vec<_>>(), 64, 2), 32);
    assert_eq!(places(usual, &(0..128).collect::<Vec<_>>(), 64, 2), 128);
    assert_eq!(places(Masked { places: 0 }, &[3], 5, 1), 1);
    assert_eq!(places(Masked { places: 0 }, &[], 5, 1), 1);
    assert_eq!(places(Masked { places: usize::MAX }, &[3], 5, 2), 10);
}

/// A trainer's step on a batch whole or in parts is the same step, whatever is dropped.
#[test]
fn parts_of_a_batch_are_the_batch() {
    fn run<T: Task<Batch = TokenBatch>>(task: T, drop: TokenDrop, batch: &TokenBatch, accumulate: usize) -> Run {
        let rate = constant_rate(1.0);
        let plain = TrainSettings { rule: PLAIN_SGD, max_norm: None, rate, accumulate, ..settings(drop) };
        let mut trainer = Trainer::new(task, plain).unwrap();
        trainer.step(batch).unwrap();
        let metrics = trainer.finish().unwrap().unwrap();
        assert_eq!((metrics.samples, metrics.tokens), (SAMPLES, TOKENS));
        let after = weights(trainer.task());
        (metrics.loss, metrics.correct, after, held(trainer.task()))
    }
    type Run = (f32, u32, Vec<Vec<f32>>, Vec<Vec<f32>>);
    let compare = |whole: Run, parts: Run| {
        assert_close("loss", &[parts.0], &[whole.0], 1e-6);
        assert_eq!(parts.1, whole.1);
        for (parts, whole) in parts.2.iter().zip(&whole.2).chain(parts.3.iter().zip(&whole.3)) {
            assert_close("after the step", parts, whole, 1e-4);
        }
    };
    let gpu = gpu();
    let draws = TokenBypass::new(1..3, 6, 1).unwrap().with_seed(4);
    let leaving = PatchDrop::new(5, 0).unwrap().with_seed(3);
    for drop in [TokenDrop::None, random_ltd(5), draws.into(), bypass(), leaving.into()] {
        let causal = |accumulate| {
            let task = causal(&gpu, 0.1).with_importance(0.9, &[0]).unwrap();
            run(task, drop.clone(), &texts(2), accumulate)
        };
        compare(causal(1), causal(4));
        let masked = |accumulate| {
            let task = masked(&gpu, 0.1).with_importance(0.9, &[0, 1]).unwrap();
            run(task, drop.clone(), &masks(2), accumulate)
        };
        compare(masked(1), masked(4));
    }
}

/// The mean over all targets at once, and its exponential is the perplexity.
#[test]
fn evaluation_weighs_batches_by_their_targets() {
    let gpu = gpu();
    let task = causal(&gpu, 0.1).with_loss(CrossEntropy { label_smoothing: 0.1, ..Default::default() });
    let all = texts(3);
    let part = |range: std::ops::Range<usize>| {
        let lengths = all.lengths.as_ref().map(|lengths| lengths[range.clone()].to_vec());
        let ids = all.ids[range.start * TOKENS..range.end * TOKENS].to_vec();
        TokenBatch { lengths, ..TokenBatch::new(TOKENS, ids).unwrap() }
    };
    let whole = evaluate(&task, [Ok(all.clone())]).unwrap();
    let parts = evaluate(&task, [Ok(part(0..1)), Ok(part(1..4)), Ok(part(4..6))]).unwrap();
    assert_eq!((whole.counted, whole.accuracy), (parts.counted, parts.accuracy));
    // Each token but a text's last has the next one as its target.
    let lengths = all.lengths.as_ref().unwrap();
    assert_eq!(whole.counted, lengths.iter().map(|&length| u64::from(length) - 1).sum::<u64>());
    assert!((whole.loss - parts.loss).abs() < 1e-6 * whole.loss, "{whole:?} {parts:?}");
    assert_eq!(task.score(&whole), -whole.loss, "not the share of tokens that are right");
    // A new model knows nothing.
    assert!((whole.loss.exp() - VOCABULARY as f64).abs() < 2.0, "perplexity {}", whole.loss.exp());
}

/// After a step the average of an id is what is left of ln V and its mean loss; the largest are kept at the next.
#[test]
fn importance_is_a_running_average_of_losses() {
    for gpu in each_family() {
        let task = causal(&gpu, 0.0).with_importance(0.75, &[3, 3]).unwrap();
        let batch = texts(4);
        let part = Part::whole(&batch);
        let before = held(&task).remove(0);
        let (unknown, largest) = ((VOCABULARY as f32).ln(), f32::MAX);
        assert!(before.iter().enumerate().all(|(id, &value)| value == if id == 3 { largest } else { unknown }));
        let scored = task.loss(&part, &[], &Mode::training(super::KEY)).unwrap();
        let losses = scored.losses.as_ref().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(held(&task).remove(0), before, "a loss alone moves nothing");
        task.follow(&[(part.clone(), scored)]).unwrap();
        let after = held(&task).remove(0);
        let labels: Vec<u32> =
            (0..SAMPLES).flat_map(|sample| batch.labels_of(sample).skip(1).chain([IGNORED])).collect();
        for (id, &got) in after.iter().enumerate() {
            let own = labels.iter().zip(&losses).filter(|(label, _)| **label as usize == id).map(|(_, &loss)| loss);
            let own: Vec<f32> = own.collect();
            let mean = own.iter().sum::<f32>() / own.len().max(1) as f32;
            let expected = match id {
                3 => largest,
                _ if own.is_empty() => unknown,
                _ => 0.75 * unknown + 0.25 * mean,
            };
            assert_close(&format!("id {id}"), &[got], &[expected], 1e-5);
        }
        let importance = task.importance(&part).unwrap().unwrap();
        let looked_up: Vec<f32> = batch.ids.iter().map(|&id| after[id as usize]).collect();
        assert_eq!(importance.scores.to_vec::<f32>().unwrap(), looked_up);
        assert_eq!(importance.lengths.unwrap().to_vec::<u32>().unwrap(), batch.lengths.clone().unwrap());
    }
    let gpu = gpu();
    for (name, result) in [
        ("momentum", causal(&gpu, 0.0).with_importance(1.0, &[])),
        ("momentum", causal(&gpu, 0.0).with_importance(f32::NAN, &[])),
        ("always", causal(&gpu, 0.0).with_importance(0.5, &[29])),
    ] {
        let error = result.err().unwrap();
        assert!(matches!(error, Error::Argument { name: got, .. } if got == name), "{error}");
    }
}

/// A step that failed is looked at again with the tokens that it kept: what it has taught the task is taken back before.
#[test]
fn a_failed_step_teaches_nothing() {
    for gpu in each_family() {
        let task = causal(&gpu, 0.0).with_importance(0.9, &[0]).unwrap();
        let mut trainer = Trainer::new(task, settings(bypass())).unwrap();
        trainer.debug_nan(true);
        for step in 0..2 {
            trainer.step(&texts(step)).unwrap();
        }
        let before = held(trainer.task());
        let first = trainer.task().model().parameters().iter().next().unwrap();
        first.set(&vec![f32::NAN; first.value().numel()]).unwrap();
        let error = trainer.step(&texts(2)).unwrap_err();
        assert!(matches!(error, Error::NonFiniteValue { step: Some(2), .. }), "{error}");
        assert_eq!(bits(&held(trainer.task())), bits(&before));
    }
}

/// A trainer that is brought back to a snapshot goes on bit for bit, with the table of losses; other tasks do not take it.
#[test]
fn the_losses_are_part_of_a_snapshot() {
    for gpu in each_family() {
        let new = || {
            let task = causal(&gpu, 0.1).with_importance(0.9, &[0]).unwrap();
            Trainer::new(task, settings(bypass())).unwrap()
        };
        let mut first = new();
        let run = |trainer: &mut Trainer<CausalLm<Gpt2>>, steps: std::ops::Range<usize>| {
            for step in steps {
                trainer.step(&texts(step)).unwrap();
            }
            trainer.finish().unwrap().unwrap()
        };
        run(&mut first, 0..4);
        let snapshot = first.snapshot().unwrap();
        let expected = run(&mut first, 4..8);
        assert_eq!((expected.kept, expected.tokens), (6, TOKENS));
        let mut second = new();
        second.restore(&snapshot).unwrap();
        assert_eq!(run(&mut second, 4..8), expected);
        assert_eq!(bits(&weights(second.task())), bits(&weights(first.task())));
        assert_eq!(bits(&held(second.task())), bits(&held(first.task())));
        assert_eq!(second.snapshot().unwrap(), first.snapshot().unwrap());

        let mut plain = Trainer::new(causal(&gpu, 0.1), settings(TokenDrop::None)).unwrap();
        let error = plain.restore(&snapshot).unwrap_err();
        assert!(matches!(&error, Error::Argument { got, .. } if got == "task.importance"), "{error}");
        let error = new().restore(&plain.snapshot().unwrap()).unwrap_err();
        assert!(matches!(&error, Error::Parameter { name, .. } if name == "task.importance"), "{error}");
    }
}

/// Recomputed blocks give the same bits; half precision nearly the same loss.
#[test]
fn recomputing_and_half_precision() {
    let run = |gpu: &Gpu, recompute_blocks, precision| {
        let settings = TrainSettings { recompute_blocks, precision, ..settings(random_ltd(5)) };
        let mut gpt = Trainer::new(causal(gpu, 0.1), settings.clone()).unwrap();
        let mut bert = Trainer::new(masked(gpu, 0.1), settings).unwrap();
        gpt.step(&texts(5)).unwrap();
        bert.step(&masks(5)).unwrap();
        let losses = [gpt.finish().unwrap().unwrap().loss, bert.finish().unwrap().unwrap().loss];
        (losses, weights(gpt.task()), weights(bert.task()))
    };
    for gpu in each_family() {
        let (losses, gpt, bert) = run(&gpu, false, Precision::F32);
        let again = run(&gpu, true, Precision::F32);
        assert_eq!(again.0, losses);
        assert_eq!(bits(&again.1), bits(&gpt));
        assert_eq!(bits(&again.2), bits(&bert));
    }
    let Some(gpu) = gpu_with_f16() else { return };
    let (full, ..) = run(&gpu, false, Precision::F32);
    let (half, ..) = run(&gpu, false, Precision::F16);
    assert_close("losses in half precision", &half, &full, 1e-2);
}

/// What a rehearsal says is what the steps take, and where nothing is compiled or allocated besides.
#[test]
fn a_rehearsal_is_what_is_taken() {
    fn check<T: Task<Batch = TokenBatch>>(
        gpu: &Gpu,
        make: impl Fn(&Gpu) -> Result<T>,
        settings: &TrainSettings,
        batch: impl Fn(usize) -> TokenBatch,
    ) {
        gpu.trim();
        let expected = estimate(gpu, &Workload { make: &make, settings, batch: SAMPLES, steps: 1 }).unwrap();
        gpu.reset_peak_memory();
        let before = gpu.memory().allocated;
        let mut trainer = Trainer::new(make(gpu).unwrap(), settings.clone()).unwrap();
        for step in 0..6 {
            trainer.step(&batch(step)).unwrap();
        }
        trainer.finish().unwrap();
        let taken = gpu.memory().peak_allocated - before;
        assert_eq!(expected.peak, taken, "{expected:?}");
    }
    for gpu in each_family() {
        for drop in [TokenDrop::None, random_ltd(5), bypass()] {
            let settings = settings(drop);
            let causal = |gpu: &Gpu| {
                let mut task = CausalLm::new(Gpt2::new(gpu, gpt2(0.1), 3)?, TOKENS)?.with_importance(0.9, &[])?;
                task.is_padded = true;
                Ok(task)
            };
            check(&gpu, causal, &settings, texts);
            let masked = |gpu: &Gpu| {
                let mut task = MaskedLm::new(Bert::new(gpu, bert(0.1), 3)?, TOKENS)?.with_importance(0.9, &[])?;
                (task.is_padded, task.is_segmented) = (true, true);
                Ok(task)
            };
            check(&gpu, masked, &settings, masks);
        }
    }
    let gpu = gpu();
    let work = Workload {
        make: &|gpu: &Gpu| Ok(causal_of(gpu)),
        settings: &settings(random_ltd(5)),
        batch: SAMPLES,
        steps: 3,
    };
    let rehearsal = rehearse(&gpu, &work).unwrap();
    assert!(rehearsal.steps.len() == 1 && rehearsal.steps[0].stage.kept == 5);
    let too_many = Workload { batch: usize::MAX, ..work };
    assert!(matches!(rehearse(&gpu, &too_many), Err(Error::Argument { name: "batch", .. })));
}

fn causal_of(gpu: &Gpu) -> CausalLm<Gpt2> {
    causal(gpu, 0.1)
}

/// What does not fit is refused before anything changes.
#[test]
fn batches_and_drops_that_do_not_fit() {
    let gpu = gpu();
    let mut trainer = Trainer::new(causal(&gpu, 0.1), settings(TokenDrop::None)).unwrap();
    let before = weights(trainer.task());
    let refused = |trainer: &mut Trainer<CausalLm<Gpt2>>, batch: TokenBatch| match trainer.step(&batch) {
        Err(Error::Argument { name, .. }) => name,
        other => panic!("expected a refused batch, got {other:?}"),
    };
    let good = texts(1);
    assert_eq!(refused(&mut trainer, TokenBatch::new(TOKENS - 1, ids(1, TOKENS - 1)).unwrap()), "tokens");
    assert_eq!(refused(&mut trainer, TokenBatch { tokens: 0, ..good.clone() }), "tokens");
    assert_eq!(refused(&mut trainer, TokenBatch { indices: Vec::new(), ..good.clone() }), "ids");
    assert_eq!(refused(&mut trainer, TokenBatch { ids: vec![29; SAMPLES * TOKENS], ..good.clone() }), "ids");
    assert_eq!(refused(&mut trainer, TokenBatch { lengths: Some(vec![0; SAMPLES]), ..good.clone() }), "lengths");
    assert_eq!(
        refused(&mut trainer, TokenBatch { labels: Some(vec![29; 66]), lengths: None, ..good.clone() }),
        "labels"
    );
    assert_eq!((trainer.steps(), bits(&weights(trainer.task()))), (0, bits(&before)));
    // The next good one is a step as ever, also one in which nothing is to be learnt.
    let nothing = TokenBatch { labels: Some(vec![IGNORED; SAMPLES * TOKENS]), position: Position::default(), ..good };
    trainer.step(&nothing).unwrap();
    let metrics = trainer.finish().unwrap().unwrap();
    assert_eq!((metrics.loss, metrics.counted, metrics.grad_norm, nothing.samples()), (0.0, 0, 0.0, SAMPLES));

    let refused = |result: Result<Trainer<CausalLm<Gpt2>>>| match result.map(drop) {
        Err(error @ Error::Argument { .. }) => error.to_string(),
        other => panic!("expected refused settings, got {other:?}"),
    };
    let none_leaves = PatchDrop::new(TOKENS, 1).unwrap();
    let error = refused(Trainer::new(causal(&gpu, 0.1), settings(none_leaves)));
    assert_eq!(error, "token_drop: kept must be below the full length, 11, got 11");
    let mut unknown = Trainer::new(causal(&gpu, 0.1), settings(bypass())).unwrap();
    assert!(unknown.step(&texts(1)).unwrap_err().to_string().contains("knows of no importance"));

    let model = || Gpt2::new(&gpu, gpt2(0.0), 3).unwrap();
    for tokens in [0, 1, 17] {
        let error = CausalLm::new(model(), tokens).err().unwrap();
        assert!(error.to_string().contains("tokens must be 2 to the model's 16 positions"), "{error}");
    }
    let task = CausalLm::new(model(), 16).unwrap();
    assert_eq!((task.tokens(), task.extent()), (16, Extent { depth: DEPTH, tokens: 16, prefix: 0 }));
    assert_ne!(task.identity(), causal(&gpu, 0.0).identity());
    assert!(no_grad(|| task.blank(0)).is_err() && task.blank(2).unwrap().samples() == 2);
}
