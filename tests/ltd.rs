//! Random-LTD without a GPU: schedules, draws, accounting.

use proptest::prelude::*;
use serde_json::Value;
use wgrad::Error;
use wgrad::ltd::{
    BudgetEnd, LayerTokenPlan, LayerTokens, Layers, PatchDrop, RandomLtd, SampleKey, Schedule, Stage, TokenBypass,
    TokenDrop, sample_kept, sample_kept_batch,
};
use wgrad::nn::{Extent, Span};
use wgrad::optim::{At, LayerTokenRate, LrSchedule, LrShape};

/// The name of the argument that was refused.
fn refused<T: std::fmt::Debug>(result: wgrad::Result<T>) -> &'static str {
    match result {
        Err(Error::Argument { name, .. }) => name,
        other => panic!("expected a refused argument, got {other:?}"),
    }
}

fn pairs(stages: &[Stage]) -> Vec<(u64, usize)> {
    stages.iter().map(|stage| (stage.first_step, stage.kept)).collect()
}

// Schedules.

/// First step of each length in DeepSpeed's CIFAR-10 recipe, from its published log.
#[test]
fn fixed_linear_follows_deepspeed_to_the_step() {
    let schedule = Schedule::fixed_linear(32, 197, 3910, 8).unwrap();
    let expected = [
        (0, 32),
        (190, 40),
        (380, 48),
        (569, 56),
        (759, 64),
        (948, 72),
        (1138, 80),
        (1328, 88),
        (1517, 96),
        (1707, 104),
        (1896, 112),
        (2086, 120),
        (2275, 128),
        (2465, 136),
        (2655, 144),
        (2844, 152),
        (3034, 160),
        (3223, 168),
        (3413, 176),
        (3602, 184),
        (3792, 192),
        (3982, 197),
    ];
    assert_eq!(pairs(&schedule.stages(5474, 197)), expected);
    for window in expected.windows(2) {
        let ((first, kept), (next, _)) = (window[0], window[1]);
        assert!((first..next).all(|step| schedule.kept_length(step) == kept));
    }
    assert!((3982..6000).all(|step| schedule.kept_length(step) == 197));
}

#[test]
fn fixed_linear_keeps_the_quirks() {
    // The minimum is rounded down, so it is no floor.
    assert_eq!(Schedule::fixed_linear(66, 197, 100, 8).unwrap().kept_length(0), 64);
    // Starting at the maximum, it is never updated and never rounded.
    assert_eq!(Schedule::fixed_linear(100, 100, 10, 8).unwrap().kept_length(0), 100);
    // One step before it reaches the maximum it is still a multiple.
    assert_eq!(Schedule::fixed_linear(32, 197, 3910, 8).unwrap().kept_length(3981), 192);
    assert_eq!(Schedule::fixed_linear(32, 197, 3910, 8).unwrap().kept_length(u64::MAX), 197);
}

#[test]
fn linear_reaches_its_end_at_its_last_step() {
    let schedule = Schedule::linear(66, 197, 3910, 8).unwrap();
    assert_eq!(schedule.kept_length(0), 66);
    assert_eq!(schedule.kept_length(3909), 192);
    assert_eq!(schedule.kept_length(3910), 197);
    assert_eq!(schedule.kept_length(u64::MAX), 197);
    let lengths: Vec<usize> = schedule.stages(10_000, 197).iter().map(|stage| stage.kept).collect();
    assert_eq!(lengths, [66, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184, 192, 197]);
}

#[test]
fn by_tokens_counts_raw_tokens() {
    let schedule = Schedule::by_tokens(128, 512, 16, 1000, 300).unwrap();
    // 300 tokens a step: 900 after three steps, 1,200 after four.
    assert_eq!([0, 3, 4, 7, 8].map(|step| schedule.kept_length(step)), [128, 128, 144, 160, 160]);
    assert_eq!(schedule.kept_length(u64::MAX), 512);
}

#[test]
fn schedules_refuse_what_makes_no_sense() {
    assert_eq!(refused(Schedule::constant(0)), "kept");
    assert_eq!(refused(Schedule::linear(0, 8, 10, 1)), "start");
    assert_eq!(refused(Schedule::linear(9, 8, 10, 1)), "end");
    assert_eq!(refused(Schedule::linear(4, 8, 0, 1)), "steps");
    assert_eq!(refused(Schedule::linear(4, 8, 10, 0)), "granularity");
    assert_eq!(refused(Schedule::fixed_linear(0, 8, 10, 1)), "min_value");
    assert_eq!(refused(Schedule::fixed_linear(9, 8, 10, 1)), "max_value");
    assert_eq!(refused(Schedule::fixed_linear(4, 8, 0, 1)), "require_steps");
    assert_eq!(refused(Schedule::fixed_linear(4, 8, 10, 0)), "seq_per_step");
    assert_eq!(refused(Schedule::fixed_linear(7, 197, 10, 8)), "min_value");
    assert_eq!(refused(Schedule::by_tokens(1, 2, 0, 1, 1)), "increment");
    assert_eq!(refused(Schedule::by_tokens(1, 2, 1, 0, 1)), "tokens_per_increment");
    assert_eq!(refused(Schedule::by_tokens(1, 2, 1, 1, 0)), "tokens_per_step");
    let message = Schedule::linear(9, 8, 10, 1).unwrap_err().to_string();
    assert_eq!(message, "schedule linear: end must be start (9) to 4294967295, got 8");
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let lengths = || (1usize..300, 0usize..300).prop_map(|(start, rise)| (start, start + rise));
    prop_oneof![
        (1usize..300).prop_map(|kept| Schedule::constant(kept).unwrap()),
        (lengths(), 1u64..500, 1usize..40)
            .prop_map(|((start, end), steps, by)| Schedule::linear(start, end, steps, by).unwrap()),
        (lengths(), 1u64..500, 1usize..40)
            .prop_filter_map("min_value below seq_per_step", |((min, max), steps, by)| {
                Schedule::fixed_linear(min, max, steps, by).ok()
            }),
        (lengths(), 1usize..40, 1u64..5000, 1u64..5000).prop_map(|((start, end), by, per_increment, per_step)| {
            Schedule::by_tokens(start, end, by, per_increment, per_step).unwrap()
        }),
    ]
}

proptest! {
    #[test]
    fn stages_are_what_stepping_through_finds(schedule in any_schedule(), steps in 0u64..1000, tokens in 1usize..300) {
        let mut expected: Vec<(u64, usize)> = Vec::new();
        for step in 0..steps {
            let kept = schedule.kept_length(step).min(tokens);
            prop_assert!(kept > 0);
            match expected.last() {
                Some(&(_, last)) if last == kept => {}
                last => {
                    prop_assert!(last.is_none_or(|&(_, last)| last < kept), "the length fell");
                    expected.push((step, kept));
                }
            }
        }
        prop_assert_eq!(pairs(&schedule.stages(steps, tokens)), expected);
    }

    #[test]
    fn linear_is_exact(start in 1usize..300, rise in 0usize..300, steps in 1u64..500, by in 1usize..40) {
        let end = start + rise;
        let schedule = Schedule::linear(start, end, steps, by).unwrap();
        prop_assert_eq!(schedule.kept_length(steps), end);
        for step in 0..steps {
            let kept = schedule.kept_length(step);
            prop_assert!(kept == start || (kept > start && kept < end && kept.is_multiple_of(by)));
        }
    }
}

// Draws.

const KEY: SampleKey = SampleKey { seed: 42, step: 7, block: 3, sample: 11 };

/// These pin the format: a change to them breaks resuming of every run made before.
#[test]
fn draws_are_golden() {
    let draw = |key: SampleKey, tokens, kept, prefix| sample_kept(&key, tokens, kept, prefix).unwrap();
    let zero = SampleKey { seed: 0, step: 0, block: 0, sample: 0 };
    let most = SampleKey { seed: u64::MAX, step: u64::MAX, block: u32::MAX, sample: u64::MAX - 1 };
    assert_eq!(draw(zero, 16, 8, 0), [2, 3, 4, 5, 6, 8, 11, 12]);
    assert_eq!(draw(KEY, 197, 12, 0), [15, 37, 70, 78, 101, 120, 146, 153, 174, 179, 192, 195]);
    assert_eq!(draw(KEY, 197, 12, 1), [0, 16, 38, 71, 79, 102, 121, 147, 175, 180, 193, 196]);
    assert_eq!(draw(most, 1000, 5, 0), [55, 336, 785, 796, 829]);
}

#[test]
fn each_part_of_the_key_matters() {
    let keys = [
        KEY,
        SampleKey { seed: 43, ..KEY },
        SampleKey { step: 8, ..KEY },
        SampleKey { block: 4, ..KEY },
        SampleKey { sample: 12, ..KEY },
        // The same numbers in other places.
        SampleKey { seed: 7, step: 42, ..KEY },
        SampleKey { block: 11, sample: 3, ..KEY },
    ];
    let draws: Vec<Vec<u32>> = keys.iter().map(|key| sample_kept(key, 197, 64, 0).unwrap()).collect();
    for (i, draw) in draws.iter().enumerate() {
        assert!(!draws[..i].contains(draw), "{:?} repeats an earlier draw", keys[i]);
    }
}

#[test]
fn micro_batches_draw_what_the_batch_draws() {
    let first = SampleKey { sample: 0, ..KEY };
    let whole = sample_kept_batch(&first, 8, 65, 20, 1).unwrap();
    let mut parts = sample_kept_batch(&first, 4, 65, 20, 1).unwrap();
    parts.extend(sample_kept_batch(&SampleKey { sample: 4, ..first }, 4, 65, 20, 1).unwrap());
    assert_eq!(whole, parts);
    assert_eq!(whole[20..40], sample_kept(&SampleKey { sample: 1, ..first }, 65, 20, 1).unwrap());
}

#[test]
fn draws_refuse_what_makes_no_sense() {
    assert_eq!(refused(sample_kept(&KEY, 10, 0, 0)), "kept");
    assert_eq!(refused(sample_kept(&KEY, 10, 11, 0)), "kept");
    assert_eq!(refused(sample_kept(&KEY, 0, 0, 0)), "kept");
    assert_eq!(refused(sample_kept(&KEY, 10, 3, 4)), "keep_prefix");
    assert_eq!(refused(sample_kept(&KEY, usize::MAX, 3, 0)), "tokens");
    assert_eq!(refused(sample_kept_batch(&KEY, 0, 10, 3, 0)), "batch");
    assert_eq!(refused(sample_kept_batch(&KEY, usize::MAX, 10, 3, 0)), "batch");
    assert_eq!(refused(sample_kept_batch(&SampleKey { sample: u64::MAX, ..KEY }, 2, 10, 3, 0)), "batch");
}

proptest! {
    #[test]
    fn draws_are_ascending_distinct_and_in_range(
        (tokens, kept, prefix) in (1usize..400)
            .prop_flat_map(|tokens| (Just(tokens), 1..=tokens))
            .prop_flat_map(|(tokens, kept)| (Just(tokens), Just(kept), 0..=kept)),
        (seed, step, block, sample) in any::<(u64, u64, u32, u32)>(),
    ) {
        let key = SampleKey { seed, step, block, sample: u64::from(sample) };
        let draw = sample_kept(&key, tokens, kept, prefix).unwrap();
        prop_assert_eq!(draw.len(), kept);
        prop_assert!(draw.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(draw.iter().all(|&index| (index as usize) < tokens));
        prop_assert!(draw.iter().take(prefix).copied().eq(0..prefix as u32));
    }
}

/// Pearson's statistic of `counts` against one expected count. With k cells its mean is about k and its standard
/// deviation about √(2k); the keys are fixed, so a bound of four deviations never fails by chance.
fn chi_squared(counts: &[u32], expected: f64) -> f64 {
    counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
}

#[test]
fn every_position_is_kept_equally_often() {
    let (tokens, kept, prefix, draws) = (65, 20, 1, 20_000);
    let first = SampleKey { sample: 0, ..KEY };
    let mut counts = vec![0; tokens];
    for index in sample_kept_batch(&first, draws, tokens, kept, prefix).unwrap() {
        counts[index as usize] += 1;
    }
    assert_eq!(counts[0], draws as u32, "the prefix is always kept");
    let rest = &counts[prefix..];
    let expected = draws as f64 * (kept - prefix) as f64 / rest.len() as f64;
    let bound = rest.len() as f64 + 4.0 * (2.0 * rest.len() as f64).sqrt();
    let found = chi_squared(rest, expected);
    assert!(found < bound, "chi² {found}, bound {bound}");
}

/// All 35 ways to keep 3 of 7, over each part of the key in turn.
#[test]
fn every_set_is_drawn_equally_often() {
    let draws = 70_000;
    let key_by_part: [fn(u64) -> SampleKey; 4] = [
        |i| SampleKey { seed: i, ..KEY },
        |i| SampleKey { step: i, ..KEY },
        |i| SampleKey { block: i as u32, ..KEY },
        |i| SampleKey { sample: i, ..KEY },
    ];
    for key in key_by_part {
        let mut counts = std::collections::BTreeMap::new();
        for i in 0..draws {
            *counts.entry(sample_kept(&key(i), 7, 3, 0).unwrap()).or_insert(0) += 1;
        }
        let counts: Vec<u32> = counts.into_values().collect();
        assert_eq!(counts.len(), 35);
        let found = chi_squared(&counts, draws as f64 / 35.0);
        assert!(found < 35.0 + 4.0 * 70f64.sqrt(), "chi² {found}");
    }
}

/// A position kept by two neighbouring keys must be a coincidence: R²/T positions on average.
#[test]
fn neighbouring_draws_are_independent() {
    let (tokens, kept, pairs) = (197u32, 64u32, 4000u64);
    let mut shared = [0u64; 4];
    for i in 0..pairs {
        let key = SampleKey { seed: 1, step: 2 * i, block: 2 * i as u32, sample: 2 * i };
        let draw = |key| sample_kept(&key, tokens as usize, kept as usize, 0).unwrap();
        let base = draw(key);
        let neighbours = [
            SampleKey { seed: 2, ..key },
            SampleKey { step: key.step + 1, ..key },
            SampleKey { block: key.block + 1, ..key },
            SampleKey { sample: key.sample + 1, ..key },
        ];
        for (shared, neighbour) in shared.iter_mut().zip(neighbours) {
            *shared += draw(neighbour).iter().filter(|index| base.binary_search(index).is_ok()).count() as u64;
        }
    }
    // Hypergeometric: mean R²/T, variance R²(T−R)²/(T²(T−1)).
    let (t, r) = (f64::from(tokens), f64::from(kept));
    let deviation = (r * r * (t - r) * (t - r) / (t * t * (t - 1.0)) / pairs as f64).sqrt();
    for shared in shared {
        let mean = shared as f64 / pairs as f64;
        assert!((mean - r * r / t).abs() < 4.0 * deviation, "{mean} shared, expected {}", r * r / t);
    }
}

// Accounting: the sums that DeepSpeed's own counter gives for its published runs.

fn consumed(layers: Layers, schedule: &Schedule, batch: u64, tokens: u64, steps: u64) -> LayerTokens {
    let mut sum = LayerTokens::default();
    for step in 0..steps {
        sum += layers.layer_tokens(batch, schedule.kept_length(step) as u64, tokens);
    }
    sum
}

#[test]
fn consumed_layer_tokens_match_published_runs() {
    let base = Layers { total: 12, ltd: 10 };
    let vit = consumed(base, &Schedule::fixed_linear(32, 197, 3910, 8).unwrap(), 32, 197, 5474);
    assert_eq!(vit.consumed, 305_784_192);
    let gpt = consumed(base, &Schedule::fixed_linear(256, 1024, 400, 8).unwrap(), 4, 1024, 524);
    assert_eq!(gpt.consumed, 19_534_848);
    let medium = Layers { total: 24, ltd: 22 };
    let gpt = consumed(medium, &Schedule::fixed_linear(128, 1024, 400, 8).unwrap(), 4, 1024, 524);
    assert_eq!(gpt.consumed, 35_567_104);
}

/// The paper's shares, to the digits it prints.
#[test]
fn saved_shares_match_the_papers() {
    let steps = 14 * 5005; // ImageNet, 14 epochs of batch 256, 66 to 197 over 80%
    let imagenet = Schedule::fixed_linear(66, 197, steps * 8 / 10, 1).unwrap();
    let share = 1.0 - consumed(Layers { total: 12, ltd: 10 }, &imagenet, 256, 197, steps).saved_share();
    assert!((share - 0.777).abs() < 5e-4, "{share}");

    let bert = Schedule::by_tokens(128, 512, 16, 38_000_000_000, 1024 * 512).unwrap();
    let saved = consumed(Layers { total: 24, ltd: 22 }, &bert, 1024, 512, 2_000_000).saved_share();
    assert!((saved - 0.311_434_406_25).abs() < 1e-12, "{saved}");

    let gpt = Schedule::by_tokens(128, 2048, 16, 1_750_000_000, 512 * 2048).unwrap();
    let saved = consumed(Layers { total: 24, ltd: 22 }, &gpt, 512, 2048, 300_000_000_000 / (512 * 2048)).saved_share();
    assert!((saved - 0.303).abs() < 5e-4, "{saved}");
}

#[test]
fn layer_averages_are_rounded_down() {
    let layers = Layers { total: 12, ltd: 10 };
    assert_eq!(layers.averaged_tokens(32, 197), (197 * 2 + 32 * 10) / 12);
    assert_eq!(layers.averaged_tokens(500, 197), 197);
    assert_eq!(Layers { total: 0, ltd: 0 }.averaged_tokens(1, 2), 0);
    assert_eq!(LayerTokens::default().saved_share(), 0.0);
    assert_eq!(layers.layer_tokens(u64::MAX, 32, 197).consumed, u64::MAX);
}

/// What stands in a JSON object under a key.
#[track_caller]
fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("{key} in {object}"))
}

#[track_caller]
fn whole(object: &Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_else(|| panic!("{key} in {object}"))
}

/// `schedules.json` of the reference vectors (`tests/reference/README.md`).
fn tables() -> Value {
    let path = crate::common::reference("lm/schedules.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn rows<'a>(object: &'a Value, key: &str) -> &'a Vec<Value> {
    object[key].as_array().unwrap_or_else(|| panic!("{key} in {object}"))
}

/// MSLG of a setting's start, full length and interval.
fn mslg(settings: &Value, tokens_per_step: u64) -> Schedule {
    let [start, full] = ["start_length", "full_length"].map(|key| whole(settings, key) as usize);
    let increment = settings["increment"].as_u64().unwrap_or(16) as usize;
    Schedule::by_tokens(start, full, increment, whole(settings, "interval_tokens"), tokens_per_step).unwrap()
}

/// Random-LTD in so many blocks as the settings say.
fn ltd_of(settings: &Value, [total, dropping]: [&str; 2], schedule: Schedule) -> TokenDrop {
    let [total, dropping] = [total, dropping].map(|key| whole(settings, key) as usize);
    let blocks: Vec<usize> = (1..=dropping).collect();
    RandomLtd::new(total, schedule).unwrap().with_blocks(&blocks).unwrap().into()
}

/// MSLG at and beside each increment; of a run, step by step, the kept length, both counts of tokens and the LayerToken rate
/// in both shapes.
#[test]
fn schedules_of_gpt2_and_bert_are_those_of_the_torch_reference() {
    let tables = tables();
    let settings = |table: &Value| table["settings"].clone();
    for table in rows(&tables, "layer_token_lr").iter().chain(rows(&tables, "mslg_large")) {
        let by_token = mslg(&settings(table), 1);
        for pair in rows(table, "kept_length_at") {
            let [raw, kept] = [0, 1].map(|i| pair[i].as_u64().unwrap());
            assert_eq!(by_token.kept_length(raw), kept as usize, "after {raw} raw tokens");
        }
    }
    for table in rows(&tables, "layer_token_lr") {
        let settings = settings(table);
        let [batch, tokens] = ["batch", "full_length"].map(|key| whole(&settings, key));
        let schedule = mslg(&settings, batch * tokens);
        let drop = ltd_of(&settings, ["total_blocks", "ltd_blocks"], schedule);
        let extent = Extent { depth: whole(&settings, "total_blocks") as usize, tokens: tokens as usize, prefix: 0 };
        let [total, warmup] = ["total_tokens", "warmup_tokens"].map(|key| whole(&settings, key));
        let plan = drop.layer_token_plan(total, warmup, batch, extent).unwrap();
        let expected = [("total_layer_tokens", plan.total), ("warmup_layer_tokens", plan.warmup)];
        for (key, got) in expected {
            let expected = number(&table["plan"], key);
            assert!((got - expected).abs() <= 1e-12 * expected, "{key}: {got}, {expected}");
        }
        let LayerTokenPlan { total, warmup } = plan;
        let [max, min] = ["lr_max", "lr_min"].map(|key| number(&settings, key) as f32);
        let rate = |shape| LrSchedule::layer_token(LayerTokenRate { max, min, shape, total, warmup }).unwrap();
        let rates = [rate(LrShape::Linear), rate(LrShape::Cosine)];
        let check_rates = |layer_tokens: u64, expected: [f64; 2]| {
            for (rate, expected) in rates.iter().zip(expected) {
                let got = f64::from(rate.rate(At { step: 0, layer_tokens }));
                assert!((got - expected).abs() <= 1e-6 * expected, "after {layer_tokens}: {got}, {expected}");
            }
        };
        for row in rows(table, "rows") {
            let step = whole(row, "step");
            assert_eq!(drop.kept_length(step, extent.tokens), whole(row, "kept_length") as usize, "step {step}");
            let consumed = drop.layer_tokens_before(step, batch, extent).consumed;
            assert_eq!(consumed, whole(row, "layer_tokens"), "step {step}");
            let averaged = |step| drop.averaged_tokens(step, batch, extent);
            assert_eq!((0..step).map(averaged).sum::<u64>(), whole(row, "layer_averaged_tokens"), "step {step}");
            check_rates(consumed, ["lr_linear", "lr_cosine"].map(|key| number(row, key)));
        }
        for row in rows(table, "lr_at_layer_tokens") {
            check_rates(row[0].as_u64().unwrap(), [1, 2].map(|i| row[i].as_f64().unwrap()));
        }
    }
}

/// The totals of published runs.
#[test]
fn totals_of_gpt2_and_bert_are_those_of_the_torch_reference() {
    for oracle in rows(&tables(), "oracles") {
        let (settings, expected) = (&oracle["settings"], &oracle["expected"]);
        let get = |key| whole(settings, key);
        if settings.get("require_steps").is_some() {
            let [min, max, by] = ["min_value", "max_value", "seq_per_step"].map(|key| get(key) as usize);
            let schedule = Schedule::fixed_linear(min, max, get("require_steps"), by).unwrap();
            let drop = ltd_of(settings, ["total_layer_num", "random_ltd_layer_num"], schedule);
            let extent = Extent { depth: get("total_layer_num") as usize, tokens: max, prefix: 0 };
            if let Some(budget) = settings["token_budget"].as_u64() {
                let accumulate = get("gradient_accumulation_steps");
                let end = drop.budget_end(budget, get("micro_batch"), accumulate, extent).unwrap();
                let steps = end.micro_batches.div_ceil(accumulate);
                let [micro_batches, tokens] = [0, 1].map(|i| expected[i].as_u64().unwrap());
                assert_eq!(end, BudgetEnd { steps, micro_batches, tokens }, "{oracle}");
            } else {
                let consumed = drop.layer_tokens_before(get("steps"), get("batch"), extent).consumed;
                assert_eq!(Some(consumed), expected.as_u64(), "{oracle}");
            }
        } else {
            let [batch, tokens] = ["batch", "full_length"].map(get);
            let drop = ltd_of(settings, ["total_blocks", "ltd_blocks"], mslg(settings, batch * tokens));
            let extent = Extent { depth: get("total_blocks") as usize, tokens: tokens as usize, prefix: 0 };
            let recomputed = number(oracle, "recomputed");
            match settings.get("steps") {
                Some(_) => {
                    let saved = 100.0 * drop.layer_tokens_before(get("steps"), batch, extent).saved_share();
                    assert!((saved - recomputed).abs() < 1e-9, "{saved}: {oracle}");
                }
                None => {
                    let last = *drop.stages(u64::MAX, extent.tokens).last().unwrap();
                    let full = Stage { first_step: recomputed as u64, kept: extent.tokens };
                    assert_eq!(last, full, "{oracle}");
                }
            }
        }
    }
}

/// The published figures by themselves: a run of micro-batches of 2, two to a step, and BERT-large's saving.
#[test]
fn budgets_end_where_deepspeeds_runs_do() {
    let gpt = |depth: usize| {
        let ltd = RandomLtd::new(depth, Schedule::fixed_linear(128, 1024, 400, 8).unwrap()).unwrap();
        let extent = Extent { depth, tokens: 1024, prefix: 0 };
        TokenDrop::from(ltd).budget_end(2_146_304, 2, 2, extent).unwrap()
    };
    assert_eq!(gpt(12), BudgetEnd { steps: 672, micro_batches: 1344, tokens: 2_148_032 });
    // Within a step.
    assert_eq!(gpt(24), BudgetEnd { steps: 687, micro_batches: 1373, tokens: 2_147_024 });
    // At full length it is a division, and what is left over is a micro-batch more.
    let end = |budget| TokenDrop::None.budget_end(budget, 2, 3, VIT).unwrap();
    assert_eq!(end(394 * 6), BudgetEnd { steps: 2, micro_batches: 6, tokens: 394 * 6 });
    assert_eq!(end(394 * 6 + 1), BudgetEnd { steps: 3, micro_batches: 7, tokens: 394 * 7 });
    assert_eq!(end(1), BudgetEnd { steps: 1, micro_batches: 1, tokens: 394 });
    assert_eq!(end(u64::MAX).micro_batches, u64::MAX.div_ceil(394));
    let drop = TokenDrop::from(PatchDrop::new(40, 1).unwrap().with_until(3));
    assert_eq!(
        drop.budget_end(3 * 3 * 80 + 1, 2, 3, VIT).unwrap(),
        BudgetEnd { steps: 4, micro_batches: 10, tokens: 1114 }
    );
    for (name, result) in [
        ("budget", TokenDrop::None.budget_end(0, 1, 1, VIT)),
        ("samples", TokenDrop::None.budget_end(1, 0, 1, VIT)),
        ("accumulate", TokenDrop::None.budget_end(1, 1, 0, VIT)),
        ("depth", TokenDrop::None.budget_end(1, 1, 1, Extent { depth: 0, ..VIT })),
        ("tokens", TokenDrop::None.budget_end(1, 1, 1, Extent { tokens: 0, ..VIT })),
    ] {
        assert_eq!(refused(result), name);
    }
}

proptest! {
    /// A budget's end, and the sum over the steps before one, are what stepping through finds.
    #[test]
    fn budgets_are_what_stepping_through_finds(
        schedule in any_schedule(), budget in 1u64..100_000, samples in 1u64..5, accumulate in 1u64..4,
        (depth, dropping) in (3usize..8).prop_flat_map(|depth| (Just(depth), 1..=depth)),
        tokens in 1usize..300,
    ) {
        let blocks: Vec<usize> = (0..dropping).collect();
        let drop = TokenDrop::from(RandomLtd::new(depth, schedule).unwrap().with_blocks(&blocks).unwrap());
        let extent = Extent { depth, tokens, prefix: 0 };
        let (mut consumed, mut micro_batches, mut sum) = (0, 0, LayerTokens::default());
        while consumed < budget {
            let step = micro_batches / accumulate;
            if micro_batches.is_multiple_of(accumulate) {
                prop_assert_eq!(drop.layer_tokens_before(step, samples, extent), sum);
                sum += drop.layer_tokens(step, samples, extent);
            }
            consumed += drop.averaged_tokens(step, samples, extent);
            micro_batches += 1;
        }
        let expected = BudgetEnd { steps: micro_batches.div_ceil(accumulate), micro_batches, tokens: consumed };
        prop_assert_eq!(drop.budget_end(budget, samples, accumulate, extent).unwrap(), expected);
    }

    /// What the rate reckons with is what a run at the straight line consumes: the real staircase, of single tokens, is within a
    /// token in each block and sample of it.
    #[test]
    fn the_reckoned_total_is_near_the_real_one(
        (start, rise) in (1usize..100, 0usize..200), by_steps in 1u64..300, steps in 1u64..600, tokens in 1usize..250,
        until in prop_oneof![Just(u64::MAX), 0u64..400],
    ) {
        let (batch, extent) = (3, Extent { depth: 5, tokens, prefix: 0 });
        let line = Schedule::linear(start, start + rise, by_steps, 1).unwrap();
        let ltd = TokenDrop::from(RandomLtd::new(5, line).unwrap());
        let bypass = TokenDrop::from(TokenBypass::new(1..4, start, 0).unwrap().with_until(until));
        for drop in [ltd, bypass, TokenDrop::None] {
            let raw = steps * batch * tokens as u64;
            let plan = drop.layer_token_plan(raw, 7, batch, extent).unwrap();
            let real = drop.layer_tokens_before(steps, batch, extent).consumed as f64;
            // A step lags behind the line by what it grows in a step, and is rounded down by less than a token.
            let growth = (rise as f64 / by_steps as f64 + 1.0).min(tokens as f64);
            let bound = 3.0 * batch as f64 * steps as f64 * (growth + 1.0) + 1e-6 * plan.total;
            prop_assert!((plan.total - real).abs() <= bound, "{} {real} {bound}", plan.total);
            // Of what drops as much from the first step on, what those tokens take.
            let warmup = match drop {
                TokenDrop::TokenBypass(_) => drop.layer_token_plan(7, 0, batch, extent).unwrap().total,
                _ => 35.0,
            };
            prop_assert_eq!(plan.warmup, warmup);
        }
    }
}

#[test]
fn plans_refuse_what_makes_no_sense() {
    let plan = |total, batch, extent| TokenDrop::None.layer_token_plan(total, 0, batch, extent);
    assert_eq!(plan(100, 1, VIT).unwrap(), LayerTokenPlan { total: 1200.0, warmup: 0.0 });
    assert_eq!(refused(plan(0, 1, VIT)), "total_tokens");
    assert_eq!(refused(plan(1, 0, VIT)), "batch");
    assert_eq!(refused(plan(1, 1, Extent { depth: 0, ..VIT })), "depth");
}

// The settings as a whole.

fn settings() -> RandomLtd {
    RandomLtd::new(12, Schedule::linear(32, 197, 100, 8).unwrap()).unwrap()
}

#[test]
fn all_blocks_but_the_ends_drop_tokens_by_default() {
    let ltd = settings();
    assert_eq!(ltd.ltd_blocks(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(ltd.layers(), Layers { total: 12, ltd: 10 });
    assert_eq!((ltd.keep_prefix_tokens(), ltd.seed(), ltd.total_blocks()), (0, 0, 12));
    assert_eq!(settings().with_blocks(&[11, 0, 5]).unwrap().ltd_blocks(), [0, 5, 11]);
    let schedule = || settings().schedule().clone();
    let named = RandomLtd::in_blocks(12, &[11, 0, 5], schedule()).unwrap();
    assert_eq!(named, settings().with_blocks(&[0, 5, 11]).unwrap());
    // Where none are left between the first and the last.
    for (total, block) in [(1, 0), (2, 1)] {
        let few = RandomLtd::in_blocks(total, &[block], schedule()).unwrap();
        assert_eq!(few.layers(), Layers { total: total as u64, ltd: 1 });
        assert_eq!(refused(RandomLtd::in_blocks(total, &[total], schedule())), "blocks");
    }
    assert_eq!(refused(RandomLtd::in_blocks(0, &[], schedule())), "total_blocks");
}

#[test]
fn settings_refuse_what_makes_no_sense() {
    let schedule = settings().schedule().clone();
    assert_eq!(refused(RandomLtd::new(2, schedule)), "total_blocks");
    assert_eq!(refused(settings().with_blocks(&[])), "blocks");
    assert_eq!(refused(settings().with_blocks(&[1, 12])), "blocks");
    assert_eq!(refused(settings().with_blocks(&[3, 1, 3])), "blocks");
    assert_eq!(refused(settings().with_keep_prefix(33)), "keep_prefix_tokens");
    assert!(settings().with_keep_prefix(32).is_ok());
    let shorter = |kept| settings().with_keep_prefix(16).unwrap().with_schedule(Schedule::constant(kept).unwrap());
    assert_eq!(refused(shorter(15)), "keep_prefix_tokens");
    let again = shorter(16).unwrap().with_schedule(settings().schedule().clone()).unwrap();
    assert_eq!(again, settings().with_keep_prefix(16).unwrap());
    assert!(settings().check_length(33).is_ok());
    assert_eq!(refused(settings().check_length(32)), "schedule");
}

#[test]
fn a_plan_draws_for_the_dropping_blocks_only() {
    let ltd = settings().with_blocks(&[2, 4]).unwrap().with_keep_prefix(1).unwrap().with_seed(42);
    let plan = ltd.plan(7, 197);
    assert_eq!((plan.step(), plan.tokens(), plan.kept(), plan.is_full()), (7, 197, 40, false));
    let drawn = plan.draw(8, 4).unwrap();
    assert_eq!(drawn.len(), 12);
    for (block, indices) in drawn.iter().enumerate() {
        assert_eq!(indices.is_some(), [2, 4].contains(&block));
        assert_eq!(*indices, plan.draw_block(block, 8, 4).unwrap());
        if let Some(indices) = indices {
            let first = SampleKey { seed: 42, step: 7, block: block as u32, sample: 8 };
            assert_eq!(*indices, sample_kept_batch(&first, 4, 197, 40, 1).unwrap());
        }
    }
    assert_ne!(drawn[2], drawn[4]);
    assert_eq!(plan.draw_block(99, 8, 4).unwrap(), None);
    assert_eq!(plan.layer_tokens(4).consumed, 4 * (40 * 2 + 197 * 10));
    assert_eq!(refused(plan.draw(0, 0)), "batch");
}

#[test]
fn at_full_length_it_is_the_plain_model() {
    let ltd = settings().with_keep_prefix(32).unwrap();
    // The schedule's end, and models shorter than the schedule's start or than the prefix.
    for (step, tokens) in [(100, 197), (0, 32), (0, 20), (0, 0)] {
        let plan = ltd.plan(step, tokens);
        assert!(plan.is_full());
        assert_eq!(plan.kept(), tokens);
        assert!(plan.draw(0, 4).unwrap().iter().all(Option::is_none));
        assert_eq!(plan.layer_tokens(4).saved_share(), 0.0);
    }
}

// The choice between ways to drop tokens.

const VIT: Extent = Extent { depth: 12, tokens: 197, prefix: 1 };

#[test]
fn patch_drop_draws_one_set_for_all_blocks() {
    let drop = TokenDrop::from(PatchDrop::new(40, 1).unwrap().with_seed(42).with_until(100));
    let first = SampleKey { seed: 42, step: 7, block: u32::MAX, sample: 8 };
    let expected = sample_kept_batch(&first, 4, 197, 40, 1).unwrap();
    assert_eq!(drop.draw(7, VIT, 8, 4).unwrap(), [Span::leave(0, 12, expected)]);
    assert_eq!(drop.draw(100, VIT, 8, 4).unwrap(), []);
    assert_eq!((drop.kept_length(99, 197), drop.kept_length(100, 197)), (40, 197));
    assert_eq!(drop.stages(1000, 197), [Stage { first_step: 0, kept: 40 }, Stage { first_step: 100, kept: 197 }]);
    assert_eq!(drop.stages(100, 197), [Stage { first_step: 0, kept: 40 }]);
    // All blocks run at R.
    let tokens = drop.layer_tokens(7, 4, VIT);
    assert_eq!((tokens.consumed, tokens.full), (4 * 12 * 40, 4 * 12 * 197));
    assert_eq!(drop.layer_tokens(100, 4, VIT).saved_share(), 0.0);
    let always = TokenDrop::from(PatchDrop::new(40, 1).unwrap());
    assert_eq!(always.kept_length(u64::MAX - 1, 197), 40);
    let never = TokenDrop::from(PatchDrop::new(40, 1).unwrap().with_until(0));
    assert_eq!((never.stages(5, 197).len(), refused(never.check(VIT))), (1, "until"));
}

#[test]
fn patch_drop_by_share() {
    let kept = |share, tokens, prefix| PatchDrop::share(share, tokens, prefix).unwrap().kept();
    // Whole numbers that as products of floats are a little less.
    for (share, patches, expected) in [(0.29, 100, 29), (0.57, 100, 57), (0.58, 100, 58), (0.145, 400, 58)] {
        assert_eq!([0, 1].map(|prefix| kept(share, patches + prefix, prefix) - prefix), [expected; 2], "{share}");
    }
    assert_eq!((kept(0.5, 197, 1), kept(0.3, 65, 1), kept(0.001, 65, 1), kept(0.5, 64, 0)), (99, 20, 2, 32));
    for share in [0.0, 1.0, -0.5, f64::NAN] {
        assert_eq!(refused(PatchDrop::share(share, 197, 1)), "share");
    }
    assert_eq!(refused(PatchDrop::share(0.5, 1, 1)), "tokens");
    assert_eq!(refused(PatchDrop::new(1, 1)), "kept");
    assert_eq!(refused(PatchDrop::new(0, 0)), "kept");
    assert_eq!(refused(PatchDrop::new(usize::MAX, 0)), "kept");
}

#[test]
fn drops_are_checked_against_the_model() {
    let drop = TokenDrop::from(PatchDrop::new(40, 1).unwrap());
    assert!(drop.check(Extent { depth: 12, tokens: 41, prefix: 1 }).is_ok());
    assert_eq!(refused(drop.check(Extent { depth: 12, tokens: 40, prefix: 1 })), "kept");
    assert_eq!(refused(drop.check(Extent { depth: 12, tokens: 197, prefix: 5 })), "keep_prefix");
    assert!(TokenDrop::None.check(VIT).is_ok());
    assert_eq!(
        refused(TokenDrop::from(settings()).check(Extent { depth: 11, tokens: 197, prefix: 1 })),
        "total_blocks"
    );
    assert_eq!(refused(TokenDrop::from(settings()).check(Extent { depth: 12, tokens: 32, prefix: 1 })), "schedule");
}

#[test]
fn token_bypass_draws_one_set_for_its_blocks() {
    let drop = TokenDrop::from(TokenBypass::new(3..9, 40, 0).unwrap().with_seed(42).with_until(100));
    let first = SampleKey { seed: 42, step: 7, block: 3, sample: 8 };
    let expected = sample_kept_batch(&first, 4, 197, 40, 0).unwrap();
    assert_eq!(drop.draw(7, VIT, 8, 4).unwrap(), [Span::bypass(3..9, expected)]);
    assert_eq!(drop.draw(100, VIT, 8, 4).unwrap(), []);
    // Six blocks run at R.
    assert_eq!(drop.layer_tokens(7, 4, VIT).consumed, 4 * (6 * 40 + 6 * 197));
    assert_eq!(drop.stages(1000, 197), [Stage { first_step: 0, kept: 40 }, Stage { first_step: 100, kept: 197 }]);
    // A prefix may pass the blocks too: it is there again behind them.
    assert!(drop.check(VIT).is_ok());
    assert_eq!(refused(drop.check(Extent { depth: 8, ..VIT })), "blocks");
    assert_eq!(refused(drop.check(Extent { tokens: 40, ..VIT })), "kept");
    assert_eq!(refused(TokenBypass::new(3..3, 40, 0)), "blocks");
    assert_eq!(refused(TokenBypass::new(3..9, 1, 1)), "kept");
}

/// Tokens that are kept for their importance are nobody's draw; whatever else holds is as before.
#[test]
fn token_bypass_by_importance_draws_nothing() {
    let random = TokenBypass::new(3..9, 40, 1).unwrap().with_until(100);
    let drop = TokenDrop::from(random.clone().by_importance());
    let bypass = drop.by_importance(99, 197).expect("before the end");
    assert_eq!((bypass.blocks(), bypass.kept(), bypass.is_by_importance()), (3..9, 40, true));
    assert_eq!((drop.by_importance(100, 197), drop.by_importance(0, 40)), (None, None));
    assert_eq!(refused(drop.draw(7, VIT, 8, 4)), "drop");
    assert_eq!(drop.draw(100, VIT, 8, 4).unwrap(), []);
    let random = TokenDrop::from(random);
    assert_eq!((random.by_importance(0, 197), drop.layer_tokens(7, 4, VIT)), (None, random.layer_tokens(7, 4, VIT)));
    // A run's state names the choice only where it was made.
    let json = |drop: &TokenDrop| serde_json::to_string(drop).unwrap();
    assert!(!json(&random).contains("importance") && json(&drop).contains(r#""by_importance":true"#));
    assert_eq!(
        refused(TokenDrop::from(PatchDrop::new(40, 1).unwrap()).check(Extent { prefix: 5, ..VIT })),
        "keep_prefix"
    );
}

/// Random-LTD through the choice is random-LTD.
#[test]
fn random_ltd_as_a_choice() {
    let (ltd, drop) = (settings(), TokenDrop::from(settings()));
    let plan = ltd.plan(30, 197);
    assert_eq!(drop.kept_length(30, 197), plan.kept());
    let drawn = plan.draw(5, 2).unwrap().into_iter().enumerate();
    let spans: Vec<_> = drawn.filter_map(|(i, kept)| Some(Span::bypass(i..i + 1, kept?))).collect();
    assert_eq!(drop.draw(30, VIT, 5, 2).unwrap(), spans);
    assert_eq!(drop.layer_tokens(30, 4, VIT), plan.layer_tokens(4));
    assert_eq!(drop.stages(500, 197), ltd.stages(500, 197));
    assert_eq!(drop.draw(100, VIT, 0, 2).unwrap(), []);
    let plain = TokenDrop::from(None);
    assert_eq!((plain.draw(0, VIT, 0, 2).unwrap(), plain.kept_length(0, 197)), (Vec::new(), 197));
    assert_eq!(plain.layer_tokens(0, 2, VIT).saved_share(), 0.0);
}
