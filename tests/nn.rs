//! Modules against the operations that they are made of.

use crate::common::{assert_close, each_family, gpu, values};
use wgrad::autograd::{Parameter, Parameters, no_grad};
use wgrad::nn::{AdaptedLinear, Block, BlockConfig, Encoder, Init, LoraConfig, Mode, NormOrder, Precision, Span};
use wgrad::ops::{self, KeyValues, Mask, RandomKey, Rotary, TokenIndices};
use wgrad::{Error, Gpu, Tensor};

const WIDTH: usize = 32;
const TOKENS: usize = 9;
const KEY: RandomKey = RandomKey { seed: 4, step: 0, layer: 0, first_sample: 0 };

fn encoder(gpu: &Gpu, order: NormOrder, dropout: f32) -> (Parameters, Encoder) {
    let config =
        BlockConfig { hidden: 48, dropout, hidden_dropout: dropout, eps: 1e-5, order, ..BlockConfig::new(WIDTH, 2) };
    encoder_of(gpu, config)
}

fn encoder_of(gpu: &Gpu, config: BlockConfig) -> (Parameters, Encoder) {
    let mut parameters = Parameters::new(gpu);
    let encoder = Encoder::new(Init::new(&mut parameters, 3), 2, |_| config).unwrap();
    // Scales and shifts that are not 1 and 0.
    for (seed, p) in (10..).zip(&parameters) {
        let noise = values(seed, p.value().numel());
        let own: Vec<f32> = p.value().to_vec().unwrap();
        p.set(&own.iter().zip(&noise).map(|(own, noise)| 4.0 * own + 0.2 * noise).collect::<Vec<_>>()).unwrap();
    }
    (parameters, encoder)
}

fn input(gpu: &Gpu) -> Tensor {
    Tensor::from_slice(gpu, &[2, TOKENS, WIDTH], &values(1, 2 * TOKENS * WIDTH)).unwrap().requires_grad().unwrap()
}

/// Result and gradients of the input and all parameters, under a gradient from above that is not 1.
fn learn(parameters: &Parameters, x: &Tensor, y: &Tensor) -> Vec<Vec<f32>> {
    parameters.zero_grad();
    let dy = Tensor::from_slice(x.gpu(), y.dims(), &values(2, y.numel())).unwrap();
    let gradients = y.backward_from(&dy).unwrap();
    let own = parameters.iter().map(|p| p.grad().unwrap().to_vec().unwrap());
    [y.to_vec().unwrap(), gradients.get(x).unwrap().to_vec().unwrap()].into_iter().chain(own).collect()
}

/// The layers of a block by their paths in it, one operation each.
struct Layers<'a> {
    parameters: &'a Parameters,
    block: usize,
}

impl Layers<'_> {
    fn value(&self, path: &str) -> Tensor {
        self.parameters.get(&format!("{}.{path}", self.block)).unwrap().tensor()
    }

    fn of(&self, path: &str) -> [Tensor; 2] {
        ["weight", "bias"].map(|part| self.value(&format!("{path}.{part}")))
    }

    fn linear(&self, x: &Tensor, path: &str) -> Tensor {
        let [weight, bias] = self.of(path);
        ops::linear(x, &weight, Some(&bias)).unwrap()
    }

    fn norm(&self, x: &Tensor, path: &str) -> Tensor {
        let [weight, bias] = self.of(path);
        ops::layernorm(x, &weight, &bias, 1e-5).unwrap()
    }
}

/// BERT's blocks: norm1(x + attention(x)), then norm2(x + mlp(x)).
fn post_norm(parameters: &Parameters, x: &Tensor, mask: &Mask) -> Tensor {
    let mut x = x.clone();
    for block in 0..2 {
        let layers = Layers { parameters, block };
        let linear = |x: &Tensor, path: &str| layers.linear(x, path);
        let norm = |x: &Tensor, path: &str| layers.norm(x, path);
        let attended = linear(&ops::attention(&linear(&x, "attn.qkv"), 2, mask, None).unwrap(), "attn.proj");
        x = norm(&ops::add(&x, &attended).unwrap(), "norm1");
        let hidden = ops::gelu(&linear(&x, "mlp.fc1"), ops::Gelu::Erf).unwrap();
        x = norm(&ops::add(&x, &linear(&hidden, "mlp.fc2")).unwrap(), "norm2");
    }
    x
}

fn assert_alike(parameters: &Parameters, got: &[Vec<f32>], expected: &[Vec<f32>]) {
    let names = ["y", "dx"].into_iter().chain(parameters.iter().map(Parameter::path));
    for ((name, got), expected) in names.zip(got).zip(expected) {
        assert_close(name, got, expected, 2e-5);
    }
}

#[test]
fn norms_behind_the_sums() {
    for gpu in each_family() {
        let (parameters, encoder) = encoder(&gpu, NormOrder::Post, 0.0);
        let x = input(&gpu);
        for mask in &[Mask::NONE, Mask::CAUSAL] {
            let expected = learn(&parameters, &x, &post_norm(&parameters, &x, mask));
            for mode in [Mode::evaluation(), Mode::training(KEY), Mode::training(KEY).recomputing(true)] {
                let y = encoder.forward(x.clone(), &[], mask, &mode).unwrap();
                assert_alike(&parameters, &learn(&parameters, &x, &y), &expected);
            }
        }
    }
}

/// In both orders of norms, with dropout and without, a block that sees some tokens is the block on those alone.
#[test]
fn spans_are_their_blocks_on_fewer_tokens() {
    let positions = [0u32, 2, 3, 8, 1, 4, 6, 7];
    for gpu in each_family() {
        for (order, dropout) in
            [(NormOrder::Pre, 0.0), (NormOrder::Post, 0.0), (NormOrder::Pre, 0.2), (NormOrder::Post, 0.2)]
        {
            let (parameters, encoder) = encoder(&gpu, order, dropout);
            let x = input(&gpu);
            let kept = || TokenIndices::new(&gpu, [2, 4], TOKENS, &positions).unwrap();
            let run = |x: Tensor, spans: &[Span<TokenIndices>], mode: &Mode| {
                encoder.forward(x, spans, &Mask::CAUSAL, mode).unwrap()
            };
            for checkpointed in [false, true] {
                let mode = Mode::training(KEY).recomputing(checkpointed);
                // The second block alone, the first before it on all tokens.
                let single = run(x.clone(), &[Span::bypass(1..2, kept())], &mode);
                let both = run(x.clone(), &[Span::bypass(0..2, kept())], &mode);
                let each = run(x.clone(), &[Span::bypass(0..1, kept()), Span::bypass(1..2, kept())], &mode);
                let gone = run(x.clone(), &[Span::leave(0, 2, kept())], &mode);
                let rows = run(ops::token_gather(&x, &kept()).unwrap(), &[], &mode);
                let got = learn(&parameters, &x, &gone);
                assert_alike(&parameters, &got, &learn(&parameters, &x, &rows));
                assert_eq!(gone.dims(), [2, 4, WIDTH]);
                // Equal draws for both blocks are one span over them.
                let back = ops::token_scatter(
                    ops::scale(&x, 1.0).unwrap(),
                    &rows_again(&encoder, &x, &kept(), &mode),
                    &kept(),
                );
                let expected = learn(&parameters, &x, &back.unwrap());
                assert_alike(&parameters, &learn(&parameters, &x, &both), &expected);
                assert_alike(&parameters, &learn(&parameters, &x, &each), &expected);
                let expected = learn(&parameters, &x, &second_alone(&encoder, &x, &kept(), &mode));
                assert_alike(&parameters, &learn(&parameters, &x, &single), &expected);
            }
        }
    }
}

fn rows_again(encoder: &Encoder, x: &Tensor, kept: &TokenIndices, mode: &Mode) -> Tensor {
    encoder.forward(ops::token_gather(x, kept).unwrap(), &[], &Mask::CAUSAL, mode).unwrap()
}

/// The first block on all tokens, the second on some.
fn second_alone(encoder: &Encoder, x: &Tensor, kept: &TokenIndices, mode: &Mode) -> Tensor {
    let [first, second] = encoder.blocks() else { panic!("two blocks") };
    let run = |block: &Block, x: Tensor| block.forward(x, None, &Mask::CAUSAL, mode).unwrap();
    let whole = run(first, x.clone());
    let rows = run(second, ops::token_gather(&whole, kept).unwrap());
    ops::token_scatter(whole, &rows, kept).unwrap()
}

/// The rates of [`with_dropout`].
const ATTENTION: f32 = 0.1;
/// As [`ATTENTION`].
const DROPOUT: f32 = 0.2;
/// As [`ATTENTION`].
const HIDDEN: f32 = 0.4;

/// x + path(drop(attention(norm1(x)))), then x + path(drop(mlp(norm2(x)))), where attention drops weights and the MLP of its hidden
/// layer: a block's random layers are numbered in the order in which they draw, attention's weights as what drops behind them.
fn with_dropout(parameters: &Parameters, x: &Tensor, drop_path: f32) -> Tensor {
    let mut x = x.clone();
    for block in 0..2 {
        let layers = Layers { parameters, block };
        let key = |layer: u32| RandomKey { layer: Block::layers_below(block) + layer, ..KEY };
        let drop = |x: &Tensor, p: f32, layer: u32| ops::dropout(x, p, key(layer)).unwrap();
        let add = |x: &Tensor, y: &Tensor, layer: u32| ops::add(x, &ops::drop_path(y, drop_path, key(layer)).unwrap());
        let weights = Some(ops::Dropout { p: ATTENTION, key: key(0) });
        let qkv = layers.linear(&layers.norm(&x, "norm1"), "attn.qkv");
        let attended = layers.linear(&ops::attention(&qkv, 2, &Mask::NONE, weights).unwrap(), "attn.proj");
        x = add(&x, &drop(&attended, DROPOUT, 0), 1).unwrap();
        let hidden = ops::gelu(&layers.linear(&layers.norm(&x, "norm2"), "mlp.fc1"), ops::Gelu::Erf).unwrap();
        let y = layers.linear(&drop(&hidden, HIDDEN, 2), "mlp.fc2");
        x = add(&x, &drop(&y, DROPOUT, 3), 4).unwrap();
    }
    x
}

/// Each rate where it belongs, each layer with draws of its own; in evaluation none.
#[test]
fn blocks_drop_what_their_rates_say() {
    for gpu in each_family() {
        for drop_path in [0.0, 0.3] {
            let plain = BlockConfig { eps: 1e-5, hidden: 48, ..BlockConfig::new(WIDTH, 2) };
            let rates = BlockConfig {
                attention_dropout: ATTENTION,
                dropout: DROPOUT,
                hidden_dropout: HIDDEN,
                drop_path,
                ..plain
            };
            let (parameters, encoder) = encoder_of(&gpu, rates);
            let x = input(&gpu);
            let run = |encoder: &Encoder, mode: &Mode| encoder.forward(x.clone(), &[], &Mask::NONE, mode).unwrap();
            let expected = learn(&parameters, &x, &with_dropout(&parameters, &x, drop_path));
            for mode in [Mode::training(KEY), Mode::training(KEY).recomputing(true)] {
                assert_alike(&parameters, &learn(&parameters, &x, &run(&encoder, &mode)), &expected);
            }
            let [with, without] = [&encoder, &encoder_of(&gpu, plain).1]
                .map(|encoder| run(encoder, &Mode::evaluation()).to_vec::<f32>().unwrap());
            assert_eq!(with, without);
        }
    }
}

/// Two stacks in one model draw apart where the second is numbered behind the first, and then are one stack of both;
/// numbered alike, they draw the same.
#[test]
fn towers_draw_apart() {
    let gpu = gpu();
    let config = BlockConfig { dropout: 0.2, drop_path: 0.3, eps: 1e-5, ..BlockConfig::new(WIDTH, 2) };
    let mode = Mode::training(KEY);
    let run = |encoder: &Encoder, x: Tensor| encoder.forward(x, &[], &Mask::NONE, &mode).unwrap();
    let read = |y: Tensor| y.to_vec::<f32>().unwrap();
    let mut parameters = Parameters::new(&gpu);
    let mut init = Init::new(&mut parameters, 3);
    let first = Encoder::new(init.at("first"), 2, |_| config).unwrap();
    let alike = Encoder::new(init.at("alike"), 2, |_| config).unwrap();
    let apart = Encoder::numbered(init.at("apart"), 2, 2, |_| config).unwrap();
    let both = Encoder::new(init.at("both"), 4, |_| config).unwrap();
    assert!(parameters.get("apart.0.norm1.weight").is_some());
    let copy = |from: &str, to: &str| {
        let value = parameters.get(from).unwrap().value().to_vec::<f32>().unwrap();
        parameters.get(to).unwrap().set(&value).unwrap();
    };
    let paths = parameters.iter().filter_map(|p| p.path().strip_prefix("first."));
    for path in paths.map(str::to_owned).collect::<Vec<_>>() {
        let (block, layer) = path.split_once('.').unwrap();
        let behind = format!("both.{}.{layer}", block.parse::<usize>().unwrap() + 2);
        let twins = [format!("alike.{path}"), format!("apart.{path}"), format!("both.{path}"), behind];
        twins.iter().for_each(|twin| copy(&format!("first.{path}"), twin));
    }
    let x = || input(&gpu);
    assert_eq!(read(run(&alike, x())), read(run(&first, x())));
    assert_ne!(read(run(&apart, x())), read(run(&first, x())));
    assert_eq!(read(run(&apart, run(&first, x()))), read(run(&both, x())));
    for first in [(1 << 28) + 1, usize::MAX] {
        let made = Encoder::numbered(Init::new(&mut Parameters::new(&gpu), 3), first, 2, |_| config);
        assert!(matches!(made.err(), Some(Error::Argument { name: "number", .. })), "{first}");
    }
}

/// Token by token beside the keys and values of those before is all at once, causally, where positions are rotary too.
#[test]
fn rotary_positions_in_a_cache() {
    let (positions, heads) = (TOKENS + 2, 2);
    let angles: Vec<f64> =
        values(7, positions * WIDTH / heads / 2).into_iter().map(|value| 5.0 * f64::from(value)).collect();
    for gpu in each_family() {
        let plain = Rotary::new(&gpu, positions, &angles).unwrap();
        for rotary in [plain.clone(), plain.interleaved()] {
            let config = BlockConfig { eps: 1e-5, ..BlockConfig::new(WIDTH, heads) };
            let encoder = encoder_of(&gpu, config).1.with_rotary(&rotary);
            let x = values(1, 2 * positions * WIDTH);
            let upload = |range: std::ops::Range<usize>| {
                let of = |sample: &[f32]| sample[range.start * WIDTH..range.end * WIDTH].to_vec();
                let rows: Vec<f32> = x.chunks(positions * WIDTH).flat_map(of).collect();
                Tensor::from_slice(&gpu, &[2, range.len(), WIDTH], &rows).unwrap()
            };
            let whole = encoder.forward(upload(0..positions), &[], &Mask::CAUSAL, &Mode::evaluation()).unwrap();
            let cache = |_| KeyValues::new(&gpu, 2, positions + 1, WIDTH).unwrap();
            let mut caches: Vec<KeyValues> = (0..2).map(cache).collect();
            let mut run = |x: Tensor| no_grad(|| encoder.forward_cached(x, &mut caches, Precision::F32));
            for range in [0..4, 4..5, 5..6, 6..positions] {
                let expected = ops::slice(&whole, 1, range.clone()).unwrap().to_vec().unwrap();
                let got = run(upload(range.clone())).unwrap().to_vec().unwrap();
                assert_close(&format!("tokens {range:?} ({:?})", gpu.family()), &got, &expected, 2e-5);
            }
            let error = run(upload(0..1)).unwrap_err();
            assert!(error.to_string().contains("at most 11"), "{error}");
            caches[0].truncate(3);
            let error = no_grad(|| encoder.forward_cached(upload(0..1), &mut caches, Precision::F32)).unwrap_err();
            assert!(matches!(error, Error::Argument { name: "caches", .. }), "{error}");
        }
    }
}

/// x·Wᵀ + b + α/r · (drop(x)·Aᵀ)·Bᵀ, two behind each other: adapters are numbered from 2³¹ on, by the parameters before them.
#[test]
fn adapters_drop_what_they_see() {
    let lora = LoraConfig { dropout: DROPOUT, ..LoraConfig::new(3, 6.0, &["first", "second"]) };
    for gpu in each_family() {
        let mut parameters = Parameters::new(&gpu);
        let mut init = Init::new(&mut parameters, 3).with_lora(Some(&lora));
        let adapted =
            ["first", "second"].map(|name| AdaptedLinear::new(init.at(name), WIDTH, WIDTH, true, 0.1).unwrap());
        for (seed, p) in (20..).zip(&parameters) {
            p.set(&values(seed, p.value().numel()).iter().map(|v| 0.3 * v).collect::<Vec<_>>()).unwrap();
        }
        let run = |x: &Tensor, mode: &Mode| adapted.iter().fold(x.clone(), |x, layer| layer.forward(&x, mode).unwrap());
        let by_hand = |x: &Tensor, p: f32| {
            [("first", 2), ("second", 6)].into_iter().fold(x.clone(), |x, (name, before)| {
                let get = |path: &str| parameters.get(&format!("{name}.{path}")).unwrap().tensor();
                let key = RandomKey { layer: (1 << 31) + before, ..KEY };
                let y = ops::linear(&x, &get("weight"), Some(&get("bias"))).unwrap();
                let low = ops::linear(&ops::dropout(&x, p, key).unwrap(), &get("lora_A.weight"), None).unwrap();
                let high = ops::linear(&low, &get("lora_B.weight"), None).unwrap();
                ops::add(&y, &ops::scale(&high, 2.0).unwrap()).unwrap()
            })
        };
        let x = input(&gpu);
        for (mode, p) in [(Mode::training(KEY), DROPOUT), (Mode::evaluation(), 0.0)] {
            let expected = learn(&parameters, &x, &by_hand(&x, p));
            assert_alike(&parameters, &learn(&parameters, &x, &run(&x, &mode)), &expected);
        }
    }
}

/// x + γ ∘ attention(norm1(x)), then x + γ ∘ mlp(norm2(x)).
fn with_layer_scale(parameters: &Parameters, x: &Tensor) -> Tensor {
    let mut x = x.clone();
    for block in 0..2 {
        let layers = Layers { parameters, block };
        let linear = |x: &Tensor, path: &str| layers.linear(x, path);
        let norm = |x: &Tensor, path: &str| layers.norm(x, path);
        let add =
            |x: &Tensor, y: &Tensor, scale: &str| ops::add(x, &ops::mul(y, &layers.value(scale)).unwrap()).unwrap();
        let qkv = linear(&norm(&x, "norm1"), "attn.qkv");
        let attended = linear(&ops::attention(&qkv, 2, &Mask::NONE, None).unwrap(), "attn.proj");
        x = add(&x, &attended, "ls1.gamma");
        let hidden = ops::gelu(&linear(&norm(&x, "norm2"), "mlp.fc1"), ops::Gelu::Erf).unwrap();
        x = add(&x, &linear(&hidden, "mlp.fc2"), "ls2.gamma");
    }
    x
}

/// Against products of activations, on all tokens and on some; with an odd width, and where a block is computed twice.
#[test]
fn layer_scale_multiplies_both_halves() {
    let positions = [0u32, 2, 3, 8, 1, 4, 6, 7];
    for gpu in each_family() {
        for width in [WIDTH, 18] {
            let scaled = BlockConfig { init_values: Some(0.1), eps: 1e-5, ..BlockConfig::new(width, 2) };
            let (parameters, encoder) = encoder_of(&gpu, scaled);
            assert_eq!(parameters.iter().filter(|p| p.path().ends_with(".gamma")).count(), 4);
            let x = values(1, 2 * TOKENS * width);
            let x = Tensor::from_slice(&gpu, &[2, TOKENS, width], &x).unwrap().requires_grad().unwrap();
            let expected = learn(&parameters, &x, &with_layer_scale(&parameters, &x));
            let kept = || TokenIndices::new(&gpu, [2, 4], TOKENS, &positions).unwrap();
            let rows = with_layer_scale(&parameters, &ops::token_gather(&x, &kept()).unwrap());
            let some = ops::token_scatter(ops::scale(&x, 1.0).unwrap(), &rows, &kept()).unwrap();
            let expected_of_some = learn(&parameters, &x, &some);
            for mode in [Mode::evaluation(), Mode::training(KEY), Mode::training(KEY).recomputing(true)] {
                let y = encoder.forward(x.clone(), &[], &Mask::NONE, &mode).unwrap();
                assert_alike(&parameters, &learn(&parameters, &x, &y), &expected);
                let each = [Span::bypass(0..1, kept()), Span::bypass(1..2, kept())];
                let y = encoder.forward(x.clone(), &each, &Mask::NONE, &mode).unwrap();
                assert_alike(&parameters, &learn(&parameters, &x, &y), &expected_of_some);
            }
        }
    }
}

/// With γ = 1 everywhere a block is the one without, whatever it draws.
#[test]
fn layer_scale_of_one_changes_nothing() {
    for gpu in each_family() {
        let plain = BlockConfig { dropout: 0.2, drop_path: 0.3, eps: 1e-5, ..BlockConfig::new(WIDTH, 2) };
        let run = |config: BlockConfig| {
            let (parameters, encoder) = encoder_of(&gpu, config);
            for gamma in parameters.iter().filter(|p| p.path().ends_with(".gamma")) {
                gamma.set(&[1.0; WIDTH]).unwrap();
            }
            let others = |p: &&Parameter| !p.path().ends_with(".gamma");
            for (seed, p) in (30..).zip(parameters.iter().filter(others)) {
                p.set(&values(seed, p.value().numel())).unwrap();
            }
            encoder.forward(input(&gpu), &[], &Mask::NONE, &Mode::training(KEY)).unwrap().to_vec::<f32>().unwrap()
        };
        assert_eq!(run(plain), run(BlockConfig { init_values: Some(1.0), ..plain }));
    }
}

/// What stands behind a sample's length changes nothing before it, whichever tokens a block sees: in the second sample it sees no
/// token that counts.
#[test]
fn padding_is_seen_in_no_span() {
    let (positions, lengths) = ([0u32, 2, 3, 8, 5, 6, 7, 8], [4usize, 5]);
    for gpu in each_family() {
        for order in [NormOrder::Pre, NormOrder::Post] {
            let (_, encoder) = encoder(&gpu, order, 0.0);
            let kept = || TokenIndices::new(&gpu, [2, 4], TOKENS, &positions).unwrap();
            let counts = Tensor::from_slice(&gpu, &[2], &lengths.map(|length| length as u32)).unwrap();
            let mask = Mask::NONE.with_lengths(&counts).unwrap();
            let run = |padding: f32, spans: &[Span<TokenIndices>]| {
                let mut x = values(1, 2 * TOKENS * WIDTH);
                for (sample, length) in x.chunks_mut(TOKENS * WIDTH).zip(lengths) {
                    sample[length * WIDTH..].fill(padding);
                }
                let x = Tensor::from_slice(&gpu, &[2, TOKENS, WIDTH], &x).unwrap();
                let y = encoder.forward(x, spans, &mask, &Mode::evaluation()).unwrap().to_vec::<f32>().unwrap();
                let samples = y.chunks(TOKENS * WIDTH).zip(lengths);
                samples.flat_map(|(sample, length)| sample[..length * WIDTH].to_vec()).collect::<Vec<_>>()
            };
            for spans in [vec![], vec![Span::bypass(0..1, kept())], vec![Span::bypass(0..2, kept())]] {
                assert_eq!(run(0.5, &spans), run(-3.0, &spans), "{order:?}");
            }
        }
    }
}

/// Of a deviation that is none, or far too large, no number would ever be within the bounds.
#[test]
fn deviations_are_checked() {
    let gpu = gpu();
    for std in [f32::NAN, f32::INFINITY, -1.0, 1e6] {
        let mut parameters = Parameters::new(&gpu);
        let made = Init::new(&mut parameters, 1).trunc_normal("weight", &[2, 2], std);
        assert!(matches!(made, Err(Error::Argument { name: "std", .. })), "{std}");
    }
    for bound in [f32::NAN, f32::INFINITY, -1.0] {
        let mut parameters = Parameters::new(&gpu);
        let made = Init::new(&mut parameters, 1).uniform("weight", &[2, 2], bound);
        assert!(matches!(made, Err(Error::Argument { name: "bound", .. })), "{bound}");
    }
}
