//! The graph: what flows where, how often, and what is refused.

use crate::common::{assert_close, each_family, gpu, values};
use wgrad::autograd::{Parameters, is_recording, no_grad, recompute};
use wgrad::ops::{self, CrossEntropy, Mask, RandomKey, TokenIndices};
use wgrad::optim::{Ema, LossScale, Optimizer, Rule, Sgd};
use wgrad::{DType, Error, Gpu, Result, Tensor};

fn upload(gpu: &Gpu, data: &[f32]) -> Tensor {
    Tensor::from_slice(gpu, &[data.len()], data).unwrap()
}

fn leaf(gpu: &Gpu, data: &[f32]) -> Tensor {
    upload(gpu, data).requires_grad().unwrap()
}

/// The gradient of a leaf.
fn gradient(loss: &Tensor, leaf: &Tensor) -> Vec<f32> {
    loss.backward().unwrap().get(leaf).expect("a gradient").to_vec().unwrap()
}

#[test]
fn leaf_used_several_times() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, 2.0, 3.0]);
    // x + 2 x + x² + x
    let square = ops::mul(&x, &x).unwrap();
    let sum = ops::add(&ops::add(&x, &ops::scale(&x, 2.0).unwrap()).unwrap(), &square).unwrap();
    let loss = ops::sum(&ops::add(&sum, &x).unwrap()).unwrap();
    assert_eq!(gradient(&loss, &x), [6.0, 8.0, 10.0]);
}

/// Both sides of a diamond of unequal depth, and both diamonds of a chain, must have arrived before a node passes on.
#[test]
fn diamonds() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, -2.0]);
    let diamond = |x: &Tensor| {
        let long = ops::scale(&ops::scale(&ops::scale(x, 2.0).unwrap(), 3.0).unwrap(), 0.5).unwrap();
        ops::add(&long, x).unwrap()
    };
    let y = diamond(&diamond(&x));
    assert_eq!(y.to_vec::<f32>().unwrap(), [16.0, -32.0]);
    assert_eq!(gradient(&ops::sum(&y).unwrap(), &x), [16.0, 16.0]);
}

/// add(x, x) gives one gradient to both parents, and add(x, y) the same memory to two: a later sum into one of them must
/// not change the other.
#[test]
fn shared_gradients_are_not_added_to_in_place() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, 2.0]);
    let twice = ops::add(&x, &x).unwrap();
    let four = ops::add(&twice, &twice).unwrap();
    assert_eq!(gradient(&ops::sum(&four).unwrap(), &x), [4.0, 4.0]);

    let (x, y) = (leaf(&gpu, &[1.0, 2.0]), leaf(&gpu, &[3.0, 4.0]));
    let more = ops::scale(&x, 10.0).unwrap();
    let loss = ops::sum(&ops::add(&ops::add(&x, &y).unwrap(), &more).unwrap()).unwrap();
    let gradients = loss.backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), [11.0, 11.0]);
    assert_eq!(gradients.get(&y).unwrap().to_vec::<f32>().unwrap(), [1.0, 1.0]);
}

/// The gradient that the caller hands in is the caller's: it is not written to.
#[test]
fn given_gradient_is_left_alone() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, 2.0]);
    let dy = upload(&gpu, &[1.0, 10.0]);
    let y = ops::add(&ops::add(&x, &x).unwrap(), &x).unwrap();
    let gradients = y.backward_from(&dy).unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), [3.0, 30.0]);
    assert_eq!(dy.to_vec::<f32>().unwrap(), [1.0, 10.0]);
}

#[test]
fn branch_without_gradient_is_passed_over() {
    let gpu = gpu();
    let (x, y) = (leaf(&gpu, &[1.0, 2.0]), leaf(&gpu, &[3.0, 4.0]));
    let unused = ops::scale(&y, 2.0).unwrap();
    let loss = ops::sum(&ops::add(&x, &unused.detach()).unwrap()).unwrap();
    let gradients = loss.backward().unwrap();
    assert!(gradients.get(&y).is_none() && gradients.get(&unused).is_none() && gradients.get(&x).is_some());
    assert!(gradients.get(&upload(&gpu, &[1.0])).is_none(), "not in any graph");
}

#[test]
fn backward_of_a_leaf_is_one() {
    let gpu = gpu();
    let x = leaf(&gpu, &[3.0]);
    assert_eq!(gradient(&x, &x), [1.0]);
    let mut parameters = Parameters::new(&gpu);
    let p = parameters.add("p", &[], &[3.0]).unwrap();
    p.tensor().backward().unwrap();
    p.tensor().backward().unwrap();
    assert_eq!(p.grad().expect("a gradient").item().unwrap(), 2.0);
}

#[test]
fn parameters_accumulate_until_cleared() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[3], &[1.0, 2.0, 3.0]).unwrap();
    let unused = parameters.add("unused", &[3], &[0.0; 3]).unwrap();
    let loss =
        |factor: f32| ops::scale(&ops::sum(&ops::mul(&w.tensor(), &w.tensor()).unwrap()).unwrap(), factor).unwrap();
    assert!(w.grad().is_none());
    loss(1.0).backward().unwrap();
    assert_eq!(w.grad().unwrap().to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0]);
    loss(10.0).backward().unwrap();
    assert_eq!(w.grad().unwrap().to_vec::<f32>().unwrap(), [22.0, 44.0, 66.0]);
    parameters.zero_grad();
    assert!(w.grad().is_none());
    loss(-1.0).backward().unwrap();
    assert_eq!(w.grad().unwrap().to_vec::<f32>().unwrap(), [-2.0, -4.0, -6.0]);
    assert!(unused.grad().is_none());
}

#[test]
fn frozen_parameters() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let a = parameters.add("a", &[2], &[1.0, 2.0]).unwrap();
    let b = parameters.add("b", &[2], &[3.0, 4.0]).unwrap();
    let step = |optimizer: &mut Optimizer| {
        ops::sum(&ops::mul(&a.tensor(), &b.tensor()).unwrap()).unwrap().backward().unwrap();
        let filled = (a.grad().is_some(), b.grad().is_some());
        optimizer.step(&parameters, 1.0).unwrap();
        filled
    };
    let rule = Rule::Sgd(Sgd { momentum: 0.0, weight_decay: 0.5, ..Sgd::default() });
    let mut optimizer = Optimizer::new(&parameters, rule, None, |_, _| true).unwrap();
    b.set_trainable(false);
    assert_eq!(step(&mut optimizer), (true, false));
    assert_eq!(a.value().to_vec::<f32>().unwrap(), [0.5 - 3.0, 1.0 - 4.0]);
    assert_eq!(b.value().to_vec::<f32>().unwrap(), [3.0, 4.0]);
    // Freezing forgets a gradient that is there.
    ops::sum(&a.tensor()).unwrap().backward().unwrap();
    a.set_trainable(false);
    assert!(a.grad().is_none());
    assert!(matches!(ops::sum(&a.tensor()).unwrap().backward(), Err(Error::Graph { .. })));
    // Thawed, both learn.
    a.set_trainable(true);
    b.set_trainable(true);
    assert_eq!(step(&mut optimizer), (true, true));
    assert_eq!(b.value().to_vec::<f32>().unwrap(), [1.5 + 2.5, 2.0 + 3.0]);
}

#[test]
fn names_are_unique_and_sizes_checked() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[2], &[1.0, 2.0]).unwrap();
    assert!(matches!(parameters.add("w", &[2], &[1.0, 2.0]), Err(Error::Parameter { name, .. }) if name == "w"));
    assert!(matches!(parameters.add("v", &[2], &[1.0]), Err(Error::Parameter { name, .. }) if name == "v"));
    assert!(matches!(w.set(&[1.0; 3]), Err(Error::Parameter { name, .. }) if name == "w"));
    assert!(parameters.get("v").is_none() && parameters.len() == 1);
    assert_eq!(w.value().to_vec::<f32>().unwrap(), [1.0, 2.0]);
}

/// Gradients of parameters lie in one buffer, which a kernel cannot read and write at once: an error, and the device lives.
#[test]
fn gradients_that_are_read_while_others_are_written() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let [a, b] = ["a", "b"].map(|name| parameters.add(name, &[3], &[1.0, 2.0, 3.0]).unwrap());
    let square = |p: &Tensor| ops::sum(&ops::mul(p, p).unwrap()).unwrap();
    square(&a.tensor()).backward().unwrap();
    square(&b.tensor()).backward().unwrap();
    let given = a.grad().unwrap();
    let product = ops::sum(&ops::mul(&b.tensor(), &given).unwrap()).unwrap();
    let message = product.backward().err().unwrap().to_string();
    assert!(message.contains("one buffer for bindings"), "{message}");
    // A copy of it is as good as any tensor.
    parameters.zero_grad();
    square(&a.tensor()).backward().unwrap();
    let given = a.grad().unwrap().copied().unwrap();
    ops::sum(&ops::mul(&b.tensor(), &given).unwrap()).unwrap().backward().unwrap();
    assert_eq!(b.grad().unwrap().to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0]);
    // Where the gradient is only handed on, it is copied.
    parameters.zero_grad();
    square(&a.tensor()).backward().unwrap();
    b.tensor().backward_from(&a.grad().unwrap()).unwrap();
    assert_eq!(b.grad().unwrap().to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0]);
}

/// The next step lowers or raises the scale where it lies: a gradient that is handed on from it must not follow.
#[test]
fn gradients_from_a_loss_scale_stay() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[], &[1.0]).unwrap();
    let rule = Rule::Sgd(Sgd::default());
    let settings = LossScale { interval: 1, ..LossScale::default() };
    let optimizer = Optimizer::new(&parameters, rule, None, |_, _| false).unwrap();
    let mut optimizer = optimizer.with_loss_scale(settings).unwrap();
    let x = Tensor::from_slice(&gpu, &[], &[2.0f32]).unwrap().requires_grad().unwrap();
    let loss = ops::add(&w.tensor(), &x).unwrap();
    let gradients = loss.backward_from(optimizer.loss_scale().unwrap()).unwrap();
    optimizer.step(&parameters, 0.1).unwrap();
    assert_eq!(gradients.get(&x).unwrap().item().unwrap(), settings.initial);
}

#[test]
fn no_grad_nests_and_is_restored() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, 2.0]);
    assert!(is_recording());
    no_grad(|| {
        no_grad(|| assert!(!is_recording()));
        assert!(!is_recording(), "the inner one does not switch recording on");
        let y = ops::sum(&x).unwrap();
        assert!(matches!(y.backward(), Err(Error::Graph { op: "backward", .. })));
    });
    assert!(is_recording());
    let panicked = std::panic::catch_unwind(|| no_grad(|| std::panic::resume_unwind(Box::new(()))));
    assert!(panicked.is_err() && is_recording(), "restored after a panic");
    assert_eq!(gradient(&ops::sum(&x).unwrap(), &x), [1.0, 1.0]);
}

/// What an operation with nothing to do returns is its input, but inside `no_grad` without its place in the graph.
#[test]
fn no_grad_of_what_returns_its_input() {
    const KEY: RandomKey = RandomKey { seed: 0, step: 0, layer: 0, first_sample: 0 };
    type Case = (&'static str, fn(&Tensor) -> Result<Tensor>);
    let gpu = gpu();
    let x = Tensor::from_slice(&gpu, &[1, 2, 4], &values(1, 8)).unwrap().requires_grad().unwrap();
    let cases: [Case; 6] = [
        ("cast", |x| ops::cast(x, DType::F32)),
        ("expand", |x| ops::expand(x, &[1, 2, 4])),
        ("dropout", |x| ops::dropout(x, 0.0, KEY)),
        ("drop_path", |x| ops::drop_path(x, 0.0, KEY)),
        ("slice", |x| ops::slice(x, 1, 0..2)),
        ("recompute", |x| recompute(x.clone(), Ok)),
    ];
    for (name, f) in cases {
        let plain = ops::sum(&no_grad(|| f(&x)).unwrap()).unwrap();
        assert!(matches!(plain.backward(), Err(Error::Graph { .. })), "{name}");
        assert_eq!(gradient(&ops::sum(&f(&x).unwrap()).unwrap(), &x), [1.0; 8], "{name}");
    }
}

/// One thread evaluates while another trains, on one device.
#[test]
fn no_grad_is_per_thread() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, 2.0]);
    let (inside, wait_inside) = std::sync::mpsc::channel();
    let (done, wait_done) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let evaluation = scope.spawn(move || {
            no_grad(|| {
                inside.send(()).unwrap();
                wait_done.recv().unwrap();
                is_recording()
            })
        });
        wait_inside.recv().unwrap();
        assert!(is_recording());
        assert_eq!(gradient(&ops::sum(&x).unwrap(), &x), [1.0, 1.0]);
        done.send(()).unwrap();
        assert!(!evaluation.join().unwrap());
    });
}

/// Several threads record on one device at once; each gets its own results.
#[test]
fn threads_share_a_device() {
    let gpu = gpu();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let gpu = &gpu;
            scope.spawn(move || {
                for round in 0..20 {
                    let data = values(seed * 100 + round, 1000);
                    let x = leaf(gpu, &data);
                    let loss = ops::sum(&ops::mul(&x, &x).unwrap()).unwrap();
                    let expected: Vec<f32> = data.iter().map(|v| 2.0 * v).collect();
                    assert_eq!(gradient(&loss, &x), expected, "thread {seed}, round {round}");
                }
            });
        }
    });
}

#[test]
fn backward_twice_is_an_error() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, 2.0]);
    let y = ops::mul(&x, &x).unwrap();
    let loss = ops::sum(&y).unwrap();
    loss.backward().unwrap();
    let message = loss.backward().err().expect("an error").to_string();
    assert_eq!(message, "backward: the graph has been consumed");
    // Also by way of another result of the same part.
    let message = ops::sum(&y).unwrap().backward().err().expect("an error").to_string();
    assert_eq!(message, "backward: the graph has been consumed");
}

#[test]
fn backward_needs_a_scalar_in_a_graph() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, 2.0]);
    let message = |result: Result<()>| result.expect_err("an error").to_string();
    let y = ops::scale(&x, 2.0).unwrap();
    assert_eq!(message(y.backward().map(drop)), "backward: needs a scalar; else use backward_from: got f32[2]");
    let dy = upload(&gpu, &[1.0; 3]);
    assert_eq!(
        message(y.backward_from(&dy).map(drop)),
        "backward: the gradient has another shape: lhs f32[2], rhs f32[3]"
    );
    // Neither has consumed anything.
    let gradients = y.backward_from(&upload(&gpu, &[1.0, 3.0])).unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), [2.0, 6.0]);
    let plain = ops::sum(&x.detach()).unwrap();
    assert_eq!(message(plain.backward().map(drop)), "backward: the tensor is in no graph");
    let labels = Tensor::from_slice(&gpu, &[2], &[1u32, 2]).unwrap();
    assert_eq!(message(labels.requires_grad().map(drop)), "requires_grad: only f32 has gradients: got u32[2]");
}

/// Nodes of the chain that a thread's stack could not hold if dropping or walking it were recursive.
const DEEP: usize = 10_000;

fn chain(x: &Tensor) -> Tensor {
    (0..DEEP).fold(x.clone(), |y, _| ops::scale(&y, 1.0).unwrap())
}

#[test]
fn deep_chain() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, 2.0]);
    drop(chain(&x));
    let loss = ops::sum(&chain(&x)).unwrap();
    assert_eq!(gradient(&loss, &x), [1.0, 1.0]);
    drop(loss);
}

/// A chain whose every node has two ways to the next.
#[test]
fn deep_chain_of_diamonds() {
    let gpu = gpu();
    let x = leaf(&gpu, &[1.0, 2.0]);
    let halve = |y: Tensor| ops::scale(&ops::add(&y, &y).unwrap(), 0.5).unwrap();
    let y = (0..1000).fold(x.clone(), |y, _| halve(y));
    assert_eq!(gradient(&ops::sum(&y).unwrap(), &x), [1.0, 1.0]);
    drop((0..1000).fold(x.clone(), |y, _| halve(y)));
}

#[test]
fn two_devices_do_not_mix() {
    let (here, there) = (gpu(), gpu());
    assert!(!here.same(&there) && here.same(&here.clone()));
    let on = |gpu: &Gpu, dims: &[usize]| Tensor::from_slice(gpu, dims, &vec![1.0f32; dims.iter().product()]).unwrap();
    let (x, y) = (on(&here, &[2, 4]), on(&there, &[2, 4]));
    let vector = on(&there, &[4]);
    let tokens = on(&here, &[1, 2, 4]);
    let indices = TokenIndices::new(&there, [1, 1], 2, &[1]).unwrap();
    let labels = Tensor::from_slice(&there, &[2], &[0u32, 1]).unwrap();
    let square = on(&there, &[4, 4]);
    let cases: Vec<(&str, Result<Tensor>)> = vec![
        ("add", ops::add(&x, &y)),
        ("add, repeated", ops::add(&x, &vector)),
        ("mul", ops::mul(&x, &y)),
        ("matmul", ops::matmul(&x, &square)),
        ("matmul_nt", ops::matmul_nt(&x, &y)),
        ("matmul_tn", ops::matmul_tn(&x, &y)),
        ("linear", ops::linear(&x, &square, None)),
        ("linear, bias", ops::linear(&x, &on(&here, &[4, 4]), Some(&vector))),
        ("layernorm, weight", ops::layernorm(&x, &vector, &on(&here, &[4]), 1e-6)),
        ("layernorm, bias", ops::layernorm(&x, &on(&here, &[4]), &vector, 1e-6)),
        ("cross_entropy", ops::cross_entropy(&x, &labels, &CrossEntropy::default())),
        ("count_correct", ops::count_correct(&x, &labels, None)),
        ("concat", ops::concat(&[&tokens, &on(&there, &[1, 2, 4])], 1)),
        ("embed_tokens, prefix", ops::embed_tokens(&tokens, Some(&on(&there, &[1, 1, 4])), &on(&here, &[1, 3, 4]))),
        ("embed_tokens, positions", ops::embed_tokens(&tokens, None, &on(&there, &[1, 2, 4]))),
        ("token_gather", ops::token_gather(&tokens, &indices)),
        ("token_scatter, indices", ops::token_scatter(tokens.clone(), &on(&here, &[1, 1, 4]), &indices)),
        ("token_scatter, rows", {
            let indices = TokenIndices::new(&here, [1, 1], 2, &[1]).unwrap();
            ops::token_scatter(tokens.clone(), &on(&there, &[1, 1, 4]), &indices)
        }),
    ];
    for (name, result) in cases {
        let message = result.err().unwrap_or_else(|| panic!("{name} mixed two devices")).to_string();
        assert!(message.contains("different devices"), "{name}: {message}");
    }
    let leaf = x.requires_grad().unwrap();
    let result = ops::scale(&leaf, 2.0).unwrap().backward_from(&y);
    assert!(result.err().expect("backward_from mixed two devices").to_string().contains("different devices"));
    // Both work on.
    for gpu in [&here, &there] {
        let qkv = on(gpu, &[1, 2, 12]);
        assert_close(
            "attention",
            &ops::attention(&qkv, 1, &Mask::NONE, None).unwrap().to_vec().unwrap(),
            &[1.0; 8],
            1e-6,
        );
    }
}

// ---- weights that change before backward ----

type Network = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// Networks of a parameter `w`, `f32[4, 4]`: those whose backward reads it, and those whose does not.
fn networks_of(parameters: &Parameters) -> [Vec<(&'static str, Network)>; 2] {
    let w = parameters.get("w").unwrap().clone();
    let with = move |f: fn(&Tensor, &Tensor) -> Result<Tensor>| -> Network {
        let w = w.clone();
        Box::new(move |x| f(x, &w.tensor()))
    };
    let frozen = parameters.get("frozen").unwrap().clone();
    let again = parameters.get("w").unwrap().clone();
    let reading: Vec<(_, Network)> = vec![
        ("linear", with(|x, w| ops::linear(x, w, None))),
        ("matmul", with(ops::matmul)),
        ("mul", with(ops::mul)),
        ("where", with(|x, w| ops::where_(w, x, x))),
        ("gelu", with(|x, w| ops::add(x, &ops::gelu(w, ops::Gelu::Erf)?))),
        // A view of it, and its memory outside any graph.
        ("reshape", with(|x, w| ops::mul(x, &ops::reshape(&ops::reshape(w, &[16])?, &[4, 4])?))),
        ("frozen", Box::new(move |x| ops::linear(x, &frozen.tensor(), None))),
        ("checkpoint", {
            let w = again;
            Box::new(move |x| {
                let w = w.clone();
                recompute(x.clone(), move |x| ops::linear(&x, &w.tensor(), None))
            })
        }),
    ];
    let others = vec![
        ("add", with(ops::add)),
        ("scale", with(|x, w| ops::add(x, &ops::scale(w, 3.0)?))),
        ("mean", with(|x, w| ops::add(x, &ops::reshape(&ops::mean_tokens(&ops::reshape(w, &[1, 4, 4])?, 0)?, &[4])?))),
        ("evaluation", with(|x, w| ops::add(x, &no_grad(|| ops::gelu(w, ops::Gelu::Erf))?))),
    ];
    [reading, others]
}

#[test]
fn weights_that_change_between_forward_and_backward() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    for path in ["w", "frozen", "other"] {
        parameters.add(path, &[4, 4], &values(3, 16)).unwrap();
    }
    parameters.get("frozen").unwrap().set_trainable(false);
    let rule = Rule::Sgd(Sgd { momentum: 0.0, weight_decay: 0.0, ..Sgd::default() });
    let optimizer = Optimizer::new(&parameters, rule, None, |_, _| true).unwrap();
    let mut optimizer = optimizer.with_ema(&parameters, Ema::default()).unwrap();
    let x = Tensor::from_slice(&gpu, &[4, 4], &values(4, 16)).unwrap().requires_grad().unwrap();
    let set = |path: &str| parameters.get(path).unwrap().set(&values(5, 16)).unwrap();
    let square = || ops::mul(&parameters.get("w").unwrap().tensor(), &parameters.get("w").unwrap().tensor());
    let mut step = || {
        ops::sum(&square().unwrap()).unwrap().backward().unwrap();
        optimizer.step(&parameters, 0.01).unwrap();
    };
    let [reading, others] = networks_of(&parameters);
    for (name, network) in reading {
        let path = if name == "frozen" { "frozen" } else { "w" };
        let forward = || ops::sum(&network(&x).unwrap()).unwrap();
        parameters.zero_grad();
        let loss = forward();
        set(path);
        match loss.backward().err() {
            Some(Error::Parameter { name, .. }) => assert_eq!(name, path),
            other => panic!("{name}: {other:?}"),
        }
        assert!(parameters.iter().all(|p| p.grad().is_none()), "{name}: nothing is written");
        // The next pass is sound, and another parameter's change is not its business.
        let loss = forward();
        set("other");
        loss.backward().unwrap();
        if path == "w" {
            parameters.zero_grad();
            let loss = forward();
            step();
            assert!(matches!(loss.backward(), Err(Error::Parameter { .. })), "{name}: a step");
        }
    }
    for (name, network) in others {
        let loss = ops::sum(&network(&x).unwrap()).unwrap();
        set("w");
        assert!(loss.backward().is_ok(), "{name} needs no old value");
    }
}

/// A parameter that is thawed between two passes moves the others' gradients, which go on adding up.
#[test]
fn gradients_are_kept_when_others_get_room() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let [a, b, c] = ["a", "b", "c"].map(|path| parameters.add(path, &[3], &[1.0, 2.0, 3.0]).unwrap());
    a.set_trainable(false);
    let product = || ops::sum(&ops::mul(&ops::mul(&a.tensor(), &b.tensor()).unwrap(), &c.tensor()).unwrap()).unwrap();
    product().backward().unwrap();
    assert_eq!(parameters.gradient_bytes(), 2 * 256);
    a.set_trainable(true);
    product().backward().unwrap();
    assert_eq!(parameters.gradient_bytes(), 3 * 256);
    assert_eq!(a.grad().unwrap().to_vec::<f32>().unwrap(), [1.0, 4.0, 9.0]);
    for p in [&b, &c] {
        assert_eq!(p.grad().unwrap().to_vec::<f32>().unwrap(), [2.0, 8.0, 18.0]);
    }
}

/// A parameter that is frozen after the forward pass gets no gradient, whether there is room for one or not.
#[test]
fn frozen_between_forward_and_backward() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let [a, b] = ["a", "b"].map(|path| parameters.add(path, &[2, 2], &values(3, 4)).unwrap());
    let forward = || ops::sum(&ops::linear(&a.tensor(), &b.tensor(), None).unwrap()).unwrap();
    for has_room in [false, true] {
        let loss = forward();
        a.set_trainable(false);
        if !has_room {
            drop(Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, |_, _| true).unwrap());
        }
        loss.backward().unwrap();
        assert!(a.grad().is_none() && b.grad().is_some());
        a.set_trainable(true);
        parameters.zero_grad();
        forward().backward().unwrap();
        assert!(a.grad().is_some());
        parameters.zero_grad();
    }
}

/// Of a layer's two parameters backward reads the weight alone.
#[test]
fn a_bias_may_change() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[4, 4], &values(3, 16)).unwrap();
    let b = parameters.add("b", &[4], &[0.0; 4]).unwrap();
    let x = Tensor::from_slice(&gpu, &[4, 4], &values(4, 16)).unwrap().requires_grad().unwrap();
    let loss = ops::sum(&ops::linear(&x, &w.tensor(), Some(&b.tensor())).unwrap()).unwrap();
    b.set(&[1.0; 4]).unwrap();
    loss.backward().unwrap();
    assert_eq!(b.grad().unwrap().to_vec::<f32>().unwrap(), [4.0; 4]);
}

/// Its average takes the weights' place, and gives it back.
#[test]
fn an_average_is_another_weight() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[4, 4], &values(3, 16)).unwrap();
    let optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), None, |_, _| true).unwrap();
    let mut optimizer = optimizer.with_ema(&parameters, Ema::default()).unwrap();
    let forward = || ops::sum(&ops::gelu(&w.tensor(), ops::Gelu::Erf).unwrap()).unwrap();
    let loss = forward();
    let averaged = optimizer.averaged(|| {
        assert!(matches!(loss.backward(), Err(Error::Parameter { name, .. }) if name == "w"));
        forward().backward().map(drop)
    });
    averaged.unwrap();
}

/// Two losses on one trunk: the first walk consumes it, and the second is refused before it has written the head's gradient.
#[test]
fn a_consumed_trunk_is_seen_before_anything_is_written() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let [trunk, a, b] = ["trunk", "a", "b"].map(|path| parameters.add(path, &[4, 4], &values(3, 16)).unwrap());
    let x = Tensor::from_slice(&gpu, &[4, 4], &values(4, 16)).unwrap();
    let hidden = ops::linear(&x, &trunk.tensor(), None).unwrap();
    let [first, second] = [&a, &b].map(|head| ops::sum(&ops::linear(&hidden, &head.tensor(), None).unwrap()).unwrap());
    first.backward().unwrap();
    let before = gradients_of(&parameters);
    assert!(before[2].is_none());
    assert!(matches!(second.backward(), Err(Error::Graph { what: "the graph has been consumed", .. })));
    assert_eq!(gradients_of(&parameters), before);
    assert!(b.grad().is_none() && a.grad().is_some());
}

// ---- threads ----

/// Two walks over one parameter at once: both gradients count, whichever comes first.
#[test]
fn threads_lose_no_gradient() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let p = parameters.add("p", &[64], &[1.0; 64]).unwrap();
    let start = std::sync::Barrier::new(2);
    for _ in 0..300 {
        parameters.zero_grad();
        std::thread::scope(|scope| {
            for factor in [1.0, 2.0] {
                let (p, start) = (&p, &start);
                scope.spawn(move || {
                    let loss = ops::sum(&ops::scale(&p.tensor(), factor).unwrap()).unwrap();
                    start.wait();
                    loss.backward().unwrap();
                });
            }
        });
        assert_eq!(p.grad().unwrap().to_vec::<f32>().unwrap(), [3.0; 64]);
    }
}

/// An update beside walks on another thread takes whole gradients: each counts once, in one update or another.
#[test]
fn updates_beside_a_thread_that_walks() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let p = parameters.add("p", &[4], &[0.0; 4]).unwrap();
    let rule = Rule::Sgd(Sgd { momentum: 0.0, weight_decay: 0.0, ..Sgd::default() });
    let mut optimizer = Optimizer::new(&parameters, rule, None, |_, _| true).unwrap();
    std::thread::scope(|scope| {
        let walks = scope.spawn(|| {
            for _ in 0..200 {
                ops::sum(&p.tensor()).unwrap().backward().unwrap();
            }
        });
        while !walks.is_finished() {
            optimizer.step(&parameters, 1.0).unwrap();
        }
    });
    optimizer.step(&parameters, 1.0).unwrap();
    assert_eq!(p.value().to_vec::<f32>().unwrap(), [-200.0; 4]);
}

// ---- checkpoint ----

/// Two parameters `[4, 4]`, and the part of a network that uses them.
fn two_layers(gpu: &Gpu) -> (Parameters, impl Fn(Tensor) -> Result<Tensor> + Send + Sync + Clone + 'static) {
    let mut parameters = Parameters::new(gpu);
    let a = parameters.add("a", &[4, 4], &values(1, 16)).unwrap();
    let b = parameters.add("b", &[4, 4], &values(2, 16)).unwrap();
    let layers = move |x: Tensor| {
        let hidden = ops::gelu(&ops::linear(&x, &a.tensor(), None)?, ops::Gelu::Erf)?;
        ops::add(&x, &ops::linear(&hidden, &b.tensor(), None)?)
    };
    (parameters, layers)
}

fn gradients_of(parameters: &Parameters) -> Vec<Option<Vec<f32>>> {
    parameters.iter().map(|p| p.grad().map(|g| g.to_vec().unwrap())).collect()
}

#[test]
fn checkpoint_gives_the_same_gradients_and_keeps_less() {
    let gpu = gpu();
    let (parameters, layers) = two_layers(&gpu);
    let x = Tensor::from_slice(&gpu, &[1000, 4], &values(3, 4000)).unwrap().requires_grad().unwrap();
    let run = |forward: &dyn Fn(Tensor) -> Result<Tensor>| {
        parameters.zero_grad();
        let before = gpu.memory().live;
        // Another consumer of x, before and after; two parts in a row.
        let twice = ops::scale(&x, 2.0).unwrap();
        let y = forward(forward(twice).unwrap()).unwrap();
        let kept = gpu.memory().live - before;
        let loss = ops::sum(&ops::add(&ops::mul(&y, &y).unwrap(), &x).unwrap()).unwrap();
        let dx = gradient(&loss, &x);
        (loss.item().unwrap(), dx, gradients_of(&parameters), kept)
    };
    let plain = run(&layers);
    let part = layers.clone();
    let checkpointed = run(&move |x| recompute(x, part.clone()));
    assert_eq!((&plain.0, &plain.1, &plain.2), (&checkpointed.0, &checkpointed.1, &checkpointed.2));
    assert!(checkpointed.3 * 2 < plain.3, "{} bytes of {}", checkpointed.3, plain.3);
    // One in another.
    let part = layers.clone();
    let nested = run(&move |x| {
        let part = part.clone();
        recompute(x, move |x| recompute(x, part.clone()))
    });
    assert_eq!((plain.0, plain.1, plain.2), (nested.0, nested.1, nested.2));
}

/// Without a graph at its input, a part is walked for its parameters alone; where those are frozen it is not kept at all.
#[test]
fn checkpoint_of_what_is_frozen() {
    let gpu = gpu();
    let (parameters, layers) = two_layers(&gpu);
    let x = Tensor::from_slice(&gpu, &[2, 4], &values(3, 8)).unwrap();
    let run = |forward: &dyn Fn(Tensor) -> Result<Tensor>| {
        parameters.zero_grad();
        ops::sum(&forward(x.clone()).unwrap()).unwrap().backward().unwrap();
        gradients_of(&parameters)
    };
    let part = layers.clone();
    let checkpointed = move |x| recompute(x, part.clone());
    let plain = run(&layers);
    assert!(plain.iter().all(Option::is_some));
    assert_eq!(plain, run(&checkpointed));
    parameters.get("a").unwrap().set_trainable(false);
    assert_eq!([None, plain[1].clone()], *run(&checkpointed));
    parameters.get("b").unwrap().set_trainable(false);
    assert!(matches!(ops::sum(&checkpointed(x.clone()).unwrap()).unwrap().backward(), Err(Error::Graph { .. })));
    // Frozen, but on the way to what is below.
    let leaf = x.requires_grad().unwrap();
    let through = |y: Tensor| gradient(&ops::sum(&y).unwrap(), &leaf);
    assert_eq!(through(layers(leaf.clone()).unwrap()), through(checkpointed(leaf.clone()).unwrap()));
    no_grad(|| assert!(ops::sum(&checkpointed(leaf.clone()).unwrap()).unwrap().backward().is_err()));
}

#[test]
fn recompute_refuses_what_it_would_cut_off() {
    let gpu = gpu();
    let (x, y) = (leaf(&gpu, &[1.0, 2.0]), leaf(&gpu, &[3.0, 4.0]));
    let other = y.clone();
    let message = recompute(x.clone(), move |x| ops::mul(&x, &other)).unwrap_err().to_string();
    assert_eq!(message, "recompute: the function uses a tensor of a graph besides its input");
    // Also where it comes out as it went in, by no operation, by one that does nothing, or by another such part.
    let refused = |z: Result<Tensor>| matches!(z, Err(Error::Graph { op: "recompute", .. }));
    let other = y.clone();
    assert!(refused(recompute(x.clone(), move |_| Ok(other.clone()))));
    let other = y.clone();
    assert!(refused(recompute(x.clone(), move |_| ops::cast(&other, DType::F32))));
    let other = y.clone();
    assert!(refused(recompute(x.clone(), move |x| ops::add(&x, &ops::cast(&other, DType::F32)?))));
    let other = y.clone();
    assert!(refused(recompute(x.clone(), move |_| recompute(other.clone(), Ok))));
    let other = y.detach();
    let z = recompute(x.clone(), move |x| ops::mul(&x, &other)).unwrap();
    assert_eq!(gradient(&ops::sum(&z).unwrap(), &x), [3.0, 4.0]);
    let failed = recompute(x.clone(), |x| ops::reshape(&x, &[3]));
    assert!(failed.is_err() && is_recording());
    // What does nothing, and what forgets its input.
    assert_eq!(gradient(&ops::sum(&recompute(x.clone(), Ok).unwrap()).unwrap(), &x), [1.0, 1.0]);
    let constant = recompute(x.clone(), |x| ops::scale(&x.detach(), 2.0)).unwrap();
    assert!(ops::sum(&constant).unwrap().backward().unwrap().get(&x).is_none());
}

/// What comes down to one parameter is the gradient of another, which lies in the same buffer.
#[test]
fn backward_from_another_parameters_gradient() {
    for gpu in each_family() {
        let mut parameters = Parameters::new(&gpu);
        let [p, q] = ["p", "q"].map(|name| parameters.add(name, &[4], &[1.0, 2.0, 3.0, 4.0]).unwrap());
        ops::sum(&ops::scale(&p.tensor(), 3.0).unwrap()).unwrap().backward().unwrap();
        ops::scale(&q.tensor(), 2.0).unwrap().backward_from(&p.grad().unwrap()).unwrap();
        assert_eq!(q.grad().unwrap().to_vec::<f32>().unwrap(), [6.0; 4]);
    }
}
