//! What another crate can do: kernels, operations and read-backs of its own, and what it may get wrong there.

use std::sync::Arc;

use crate::common::{gpu, gpu_with_f16, values};
use half::f16;
use wgrad::autograd::{self, Backward, Check, Gradients, Parameters, ParentGradients, record};
use wgrad::gpu::{Access, Grid, Kernel, MAX_ROUNDS, Params, Source, lib, looped, params, rounds};
use wgrad::ops::RandomKey;
use wgrad::optim::{Optimizer, Rule, Sgd};
use wgrad::{DType, Error, Gpu, Result, Tensor, ops};

params!(ScaleParams { n: u32, reach: u32, factor: f32 });

/// y = factor · x[i + reach], whose index is not guarded.
const SCALE: &str = "
struct Params { n: u32, reach: u32, factor: f32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    y[i + params.reach] = params.factor * x[i + params.reach];
}

var<workgroup> untouched: array<f32, 64>;

@compute @workgroup_size(64)
fn forgotten(@builtin(local_invocation_index) lane: u32) {
    if lane < params.n {
        y[lane] = params.factor * x[lane] + untouched[lane ^ params.reach];
    }
}
";

const BINDINGS: &[Access] = &[Access::Read, Access::Write];
const SOURCES: &[Source] = &[Source::new("scale.wgsl", SCALE), lib::GRID];

/// A name that the library has too.
static FORWARD: Kernel = Kernel::new::<ScaleParams>("gelu.forward", SOURCES, "forward", BINDINGS);
static FORGOTTEN: Kernel = Kernel::new::<ScaleParams>("scale.forgotten", SOURCES, "forgotten", BINDINGS);

/// The same, trusted.
static TRUSTED: Kernel = {
    // SAFETY: it is dispatched for as many elements as there are, with a reach of 0.
    const SOURCES: &[Source] = &[unsafe { Source::new("scale.wgsl", SCALE).trusted() }, lib::GRID];
    Kernel::new::<ScaleParams>("scale.trusted", SOURCES, "forward", BINDINGS)
};

fn ramp(gpu: &Gpu, n: usize) -> Tensor {
    Tensor::from_slice(gpu, &[n], &(0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
}

/// Dispatches a kernel of [`SCALE`] on new memory.
fn scaled(kernel: &'static Kernel, x: &Tensor, reach: u32) -> Result<Tensor> {
    let y = Tensor::zeros(x.gpu(), DType::F32, x.dims())?;
    let params = ScaleParams { n: x.numel() as u32, reach, factor: 3.0 };
    x.gpu().dispatch(kernel, &params, &[x.buffer(), y.buffer()], Grid::linear(x.numel(), 64))?;
    Ok(y)
}

#[test]
fn a_kernel_of_another_crate() {
    let gpu = gpu();
    let x = ramp(&gpu, 128);
    let expected: Vec<f32> = (0..128).map(|i| 3.0 * i as f32).collect();
    // Beside the library's own of that name, in either order.
    let gelu = ops::gelu(&x, ops::Gelu::Erf).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(scaled(&FORWARD, &x, 0).unwrap().to_vec::<f32>().unwrap(), expected);
    assert_eq!(ops::gelu(&x, ops::Gelu::Erf).unwrap().to_vec::<f32>().unwrap(), gelu);
    // Of the same files, trusted: another module.
    assert_eq!(scaled(&TRUSTED, &x, 0).unwrap().to_vec::<f32>().unwrap(), expected);
    assert_eq!(scaled(&FORWARD, &x, 0).unwrap().to_vec::<f32>().unwrap(), expected);
}

/// An index far outside reaches some element of its tensor or none; workgroup memory begins as zeros.
#[test]
fn what_is_not_trusted_is_compiled_with_checks() {
    let gpu = gpu();
    let (x, bystander) = (ramp(&gpu, 128), ramp(&gpu, 128));
    for reach in [64, 4096, 1 << 20, u32::MAX / 4] {
        let y = scaled(&FORWARD, &x, reach).unwrap().to_vec::<f32>().unwrap();
        assert!(y.iter().all(|v| *v == 0.0 || x_times_3(*v)), "{reach}: {y:?}");
    }
    assert_eq!(bystander.to_vec::<f32>().unwrap(), x.to_vec::<f32>().unwrap());
    // What the kernels of the library leave in workgroup memory must not show.
    ops::softmax(&Tensor::from_slice(&gpu, &[64, 700], &values(1, 64 * 700)).unwrap()).unwrap();
    let x = ramp(&gpu, 64);
    let expected: Vec<f32> = (0..64).map(|i| 3.0 * i as f32).collect();
    assert_eq!(scaled(&FORGOTTEN, &x, 1).unwrap().to_vec::<f32>().unwrap(), expected);
}

fn x_times_3(v: f32) -> bool {
    v % 3.0 == 0.0 && (0.0..3.0 * 128.0).contains(&v)
}

#[test]
fn calls_that_do_not_fit_the_kernel() {
    params!(OtherParams { n: u32, reach: u32, factor: u32 });
    let (gpu, elsewhere) = (gpu(), gpu());
    let (x, y, far) = (ramp(&gpu, 64), ramp(&gpu, 64), ramp(&elsewhere, 64));
    let params = ScaleParams { n: 64, reach: 0, factor: 2.0 };
    let grid = Grid::linear(64, 64);
    let dispatch = |buffers: &[&Tensor]| {
        let buffers: Vec<_> = buffers.iter().map(|tensor| tensor.buffer()).collect();
        gpu.dispatch(&FORWARD, &params, &buffers, grid)
    };
    let message = |result: Result<()>| result.unwrap_err().to_string();
    assert!(message(dispatch(&[&x])).contains("gelu.forward: buffers must be 2, one for each binding, got 1"));
    assert!(message(dispatch(&[&x, &x, &x])).contains("one for each binding, got 3"));
    assert!(message(dispatch(&[&x, &x])).contains("one buffer for bindings 0 and 1"));
    assert!(message(dispatch(&[&x, &far])).contains("another's at binding 1"));
    let other = OtherParams { n: 64, reach: 0, factor: 2 };
    let wrong = message(gpu.dispatch(&FORWARD, &other, &[x.buffer(), y.buffer()], grid));
    let expected = "params must be n: u32, reach: u32, factor: f32, got n: u32, reach: u32, factor: u32";
    assert!(wrong.contains(expected), "{wrong}");
    let endless = gpu.dispatch(&FORWARD, &params, &[x.buffer(), y.buffer()], Grid::new(1 << 40, 1, 1));
    assert!(matches!(endless, Err(Error::Limit { .. })), "{endless:?}");
    // A dry run looks at the same things, and none of it has harmed the device.
    let dry = gpu.dry_run().unwrap();
    assert!(dry.dispatch(&FORWARD, &params, &[x.buffer(), y.buffer()], grid).is_err());
    dispatch(&[&x, &y]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap()[5], 10.0);
}

params!(SizedParams { factor: f32 });

/// Fixed sizes; another entry point takes less at the same place.
const SIZED: &str = "
struct Params { factor: f32 }
struct Table { head: vec4<f32>, rows: array<vec4<f32>> }
@group(0) @binding(0) var<storage, read> table: Table;
@group(0) @binding(0) var<storage, read> few: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32, 64>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn large(@builtin(local_invocation_index) lane: u32) {
    out[lane] = params.factor * (table.head.x + table.rows[0].x);
}

@compute @workgroup_size(64)
fn small(@builtin(local_invocation_index) lane: u32) {
    out[lane] = params.factor * few[0];
}
";

/// The sizes that WGSL declares are looked at before anything is recorded: a dispatch that does not fit would spoil all that is submitted with it.
#[test]
fn tensors_that_are_smaller_than_the_kernel_declares() {
    const SOURCES: &[Source] = &[Source::new("sized.wgsl", SIZED)];
    static LARGE: Kernel = Kernel::new::<SizedParams>("sized.large", SOURCES, "large", BINDINGS);
    static SMALL: Kernel = Kernel::new::<SizedParams>("sized.small", SOURCES, "small", BINDINGS);
    let gpu = gpu();
    let (one, eight, whole) = (ramp(&gpu, 1), ramp(&gpu, 8), ramp(&gpu, 64));
    let dispatch = |gpu: &Gpu, kernel: &'static Kernel, x: &Tensor, y: &Tensor| {
        gpu.dispatch(kernel, &SizedParams { factor: 2.0 }, &[x.buffer(), y.buffer()], Grid::new(1, 1, 1))
    };
    let message = |result: Result<()>| result.unwrap_err().to_string();
    let short = message(dispatch(&gpu, &SMALL, &eight, &one));
    assert!(short.contains("sized.small: buffers must be 256 bytes or more at binding 1"), "{short}");
    let short = message(dispatch(&gpu, &LARGE, &one, &whole));
    assert!(short.contains("32 bytes or more at binding 0") && short.contains("got 16"), "{short}");
    // A dry run says the same.
    let dry = gpu.dry_run().unwrap();
    assert!(message(dispatch(&dry, &SMALL, &ramp(&dry, 8), &ramp(&dry, 1))).contains("256 bytes or more"));
    // What fits is computed, and nothing was harmed.
    for (kernel, x, expected) in [(&LARGE, &eight, 2.0 * 4.0), (&SMALL, &one, 0.0)] {
        dispatch(&gpu, kernel, x, &whole).unwrap();
        assert_eq!(whole.to_vec::<f32>().unwrap(), [expected; 64]);
    }
}

/// Nor may `Params` in WGSL be larger than the window that a dispatch sees of them.
#[test]
fn params_that_are_too_large_in_wgsl() {
    const WGSL: &str = "
        struct Params { factor: f32, more: array<vec4<f32>, 16> }
        @group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @group(1) @binding(0) var<uniform> params: Params;
        @compute @workgroup_size(1)
        fn large() { y[0] = params.factor + params.more[15].x; }";
    const SOURCES: &[Source] = &[Source::new("large.wgsl", WGSL)];
    static LARGE: Kernel = Kernel::new::<SizedParams>("params.large", SOURCES, "large", &[Access::Write]);
    let gpu = gpu();
    let y = ramp(&gpu, 4);
    let error = gpu.dispatch(&LARGE, &SizedParams { factor: 1.0 }, &[y.buffer()], Grid::new(1, 1, 1)).unwrap_err();
    assert!(matches!(error, Error::Device { during: "params.large", .. }), "{error}");
    assert_eq!(y.to_vec::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0]);
}

/// A kernel of the library's own files, which is none: an error as of any other.
#[test]
fn a_kernel_of_libraries_alone() {
    static EMPTY: Kernel = Kernel::new::<SizedParams>("libraries", &[lib::GRID], "f", &[]);
    let gpu = gpu();
    let (x, y) = (ramp(&gpu, 4), ramp(&gpu, 4));
    let dispatch = |buffers: &[&Tensor]| {
        let buffers: Vec<_> = buffers.iter().map(|tensor| tensor.buffer()).collect();
        gpu.dispatch(&EMPTY, &SizedParams { factor: 1.0 }, &buffers, Grid::new(1, 1, 1)).unwrap_err()
    };
    assert!(dispatch(&[&x, &y]).to_string().contains("libraries: buffers must be 0, one for each binding, got 2"));
    assert!(matches!(dispatch(&[]), Error::Device { during: "libraries", .. }));
}

#[test]
fn kernels_that_do_not_compile_are_named() {
    static TYPO: Kernel = Kernel::new::<ScaleParams>("typo", &[Source::new("typo.wgsl", "fn f( {")], "f", BINDINGS);
    static ABSENT: Kernel = Kernel::new::<ScaleParams>("absent", SOURCES, "no_such_entry", BINDINGS);
    static EMPTY: Kernel = Kernel::new::<ScaleParams>("empty", &[], "forward", BINDINGS);
    static UNBOUND: Kernel = Kernel::new::<ScaleParams>("unbound", SOURCES, "forward", &[Access::Read]);
    let gpu = gpu();
    let x = ramp(&gpu, 64);
    for kernel in [&TYPO, &ABSENT, &EMPTY] {
        for _ in 0..2 {
            let error = scaled(kernel, &x, 0).unwrap_err();
            assert!(matches!(error, Error::Device { during, .. } if during == kernel.name), "{error}");
        }
    }
    let params = ScaleParams { n: 64, reach: 0, factor: 2.0 };
    let unbound = gpu.dispatch(&UNBOUND, &params, &[x.buffer()], Grid::linear(64, 64));
    assert!(matches!(unbound, Err(Error::Device { during: "unbound", .. })), "{unbound:?}");
    assert_eq!(scaled(&FORWARD, &x, 0).unwrap().to_vec::<f32>().unwrap()[2], 6.0);
}

#[test]
fn rounds_are_those_of_the_params() {
    const LOOPED: Kernel = Kernel::new::<ScaleParams>("looped", SOURCES, "forward", BINDINGS)
        .with_rounds(rounds!(ScaleParams, |p, [x, ..]| looped(p.n / x, 0)));
    let params = |n| ScaleParams { n, reach: 0, factor: 1.0 };
    let most = MAX_ROUNDS as u32 - 1;
    assert!(LOOPED.fits(&params(most), Grid::new(1, 1, 1)) && LOOPED.fits(&params(2 * most), Grid::new(2, 1, 1)));
    assert!(!LOOPED.fits(&params(most + 1), Grid::new(1, 1, 1)));
    assert_eq!((LOOPED.rounds)(&[0; 3], [1; 3]), u64::MAX);
    assert_eq!(ScaleParams::FIELDS, [("n", "u32"), ("reach", "u32"), ("factor", "f32")]);
}

/// A kernel that writes a parameter is an update like an optimiser's: what relied on the old value is an error.
#[test]
fn a_parameter_that_a_kernel_has_written() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[64], &[2.0; 64]).unwrap();
    let x = ramp(&gpu, 64);
    let loss = ops::sum(&ops::mul(&w.tensor(), &w.tensor()).unwrap()).unwrap();
    let params = ScaleParams { n: 64, reach: 0, factor: 2.0 };
    gpu.dispatch(&FORWARD, &params, &[x.buffer(), w.value().buffer()], Grid::linear(64, 64)).unwrap();
    let error = loss.backward().err().unwrap().to_string();
    assert!(error.contains("parameter w") && w.grad().is_none(), "{error}");
    assert_eq!(w.value().to_vec::<f32>().unwrap()[..3], [0.0, 2.0, 4.0]);
}

// ---- values that are looked at ----

static MARKED: Kernel = {
    const WGSL: &str = "
        struct Params { factor: f32 }
        @group(0) @binding(0) var<storage, read> labels: array<u32>;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @group(1) @binding(0) var<uniform> params: Params;
        @compute @workgroup_size(4)
        fn marked(@builtin(local_invocation_index) lane: u32) {
            y[lane] = select(1.0, params.factor, labels[lane] == 0xffffffffu);
        }";
    const SOURCES: &[Source] = &[Source::new("marked.wgsl", WGSL)];
    Kernel::new::<SizedParams>("marked", SOURCES, "marked", BINDINGS)
};

/// Labels and pixels whose bits would be a NaN as f32, made before anybody looked.
#[test]
fn whole_numbers_are_no_nan() {
    let gpu = gpu();
    let (labels, pixels) = ([u32::MAX, 1, 2, 3], [255u8; 16]);
    let labels = Tensor::from_slice(&gpu, &[4], &labels).unwrap();
    let pixels = Tensor::from_slice(&gpu, &[16], &pixels).unwrap();
    // Its own values are looked at, and nothing behind them.
    let three = Tensor::from_slice(&gpu, &[3], &[1.0f32, f32::NAN, 2.0]).unwrap();
    let written = |x: &Tensor, factor: f32| {
        let y = Tensor::empty(&gpu, DType::F32, &[4])?;
        gpu.dispatch(&MARKED, &SizedParams { factor }, &[x.buffer(), y.buffer()], Grid::new(1, 1, 1))?;
        Ok(y)
    };
    for x in [&labels, &pixels] {
        match gpu.check_values(|| written(x, f32::INFINITY)) {
            Err(Error::NonFiniteValue { what: "an infinity", element: 0, cause, .. }) => {
                assert_eq!(cause, "all that it was given to read was finite");
            }
            other => panic!("{other:?}"),
        }
        gpu.check_values(|| written(x, 2.0)).unwrap();
        // Nor as what a kernel writes.
        let copy = Tensor::zeros(&gpu, x.dtype(), x.dims()).unwrap();
        let params = ScaleParams { n: 4, reach: 0, factor: 1.0 };
        let buffers = [x.buffer(), copy.buffer()];
        gpu.check_values(|| gpu.dispatch(&FORWARD, &params, &buffers, Grid::new(1, 1, 1))).unwrap();
    }
    let error = gpu.check_values(|| ops::scale(&three, 2.0)).unwrap_err().to_string();
    assert!(error.contains("it was given a NaN, element 1 of f32[3]"), "{error}");
}

/// Whichever ends first, what is left is looked at.
#[test]
fn values_are_looked_at_within_each_other() {
    let gpu = gpu();
    let (good, bad) = (ramp(&gpu, 4), Tensor::from_slice(&gpu, &[4], &[f32::MAX; 4]).unwrap());
    let within = gpu.check_values(|| {
        let x = ops::scale(&bad, 1.0)?;
        gpu.check_values(|| ops::scale(&good, 2.0))?;
        std::thread::scope(|scope| {
            scope.spawn(|| gpu.check_values(|| ops::scale(&good, 3.0)).map(drop)).join().unwrap()
        })?;
        ops::scale(&x, 2.0)
    });
    match within {
        Err(Error::NonFiniteValue { dispatch: 4, what: "an infinity", cause, .. }) => {
            assert!(cause.contains("was finite"));
        }
        other => panic!("{other:?}"),
    }
    // And nothing once the last has ended.
    assert!(ops::scale(&bad, 2.0).unwrap().to_vec::<f32>().unwrap()[0].is_infinite());
}

// ---- gradients ----

/// y = 3 x by [`FORWARD`], with a gradient of `slope` · dy, which is added where it must be, or not.
struct Tripled {
    slope: f32,
    adds: bool,
    ignores_dy: bool,
}

const TRIPLED: Tripled = Tripled { slope: 3.0, adds: true, ignores_dy: false };

impl Tripled {
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(record(scaled(&FORWARD, x, 0)?, &[x], || self))
    }
}

impl Backward for Tripled {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let ones = Tensor::from_slice(dy.gpu(), dy.dims(), &vec![1.0f32; dy.numel()])?;
        let dx = ops::scale(if self.ignores_dy { &ones } else { &dy }, self.slope)?;
        if self.adds {
            return parents.give(0, dx);
        }
        let Some(to) = parents.destination(0)? else { return Ok(()) };
        let params = ScaleParams { n: dx.numel() as u32, reach: 0, factor: 1.0 };
        dy.gpu().dispatch(&FORWARD, &params, &[dx.buffer(), to.tensor.buffer()], Grid::linear(dx.numel(), 64))
    }
}

#[test]
fn check_finds_what_is_wrong_with_a_gradient() {
    let gpu = gpu();
    let x = Tensor::from_slice(&gpu, &[4, 32], &values(3, 128)).unwrap();
    let settings = Check { eps: 0.25, rtol: 1e-4, ..Check::default() };
    let check = |rule: fn() -> Tripled| autograd::check(|x| rule().apply(&x[0]), std::slice::from_ref(&x), &settings);
    check(|| TRIPLED).unwrap();
    // Also where nothing is recorded otherwise.
    autograd::no_grad(|| check(|| TRIPLED)).unwrap();
    let found = |rule| match check(rule) {
        Err(Error::Gradient { input: 0, element, how, backward, difference, .. }) => {
            assert!(element.len() == 2 && (backward.is_nan() || (f64::from(backward) - difference).abs() > 1e-3));
            how
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(found(|| Tripled { slope: 2.99, ..TRIPLED }), "written");
    assert_eq!(found(|| Tripled { slope: f32::NAN, ..TRIPLED }), "written");
    assert_eq!(found(|| Tripled { ignores_dy: true, ..TRIPLED }), "written");
    assert_eq!(found(|| Tripled { adds: false, ..TRIPLED }), "added to another");
}

#[test]
fn check_says_what_it_cannot_check() {
    let gpu = gpu();
    let x = Tensor::from_slice(&gpu, &[2, 3], &values(3, 6)).unwrap();
    let whole = Tensor::from_slice(&gpu, &[2], &[1u32, 2]).unwrap();
    let settings = Check::default();
    let check = |f: fn(&[Tensor]) -> Result<Tensor>, x: &Tensor, settings: &Check| {
        autograd::check(f, std::slice::from_ref(x), settings).unwrap_err().to_string()
    };
    assert!(check(|x| ops::neg(&x[0].detach()), &x, &settings).contains("depends on no input"));
    assert!(check(|x| ops::neg(&x[0]), &whole, &settings).contains("inputs must be f32"));
    assert!(check(|x| ops::argmax(&x[0], 1), &x, &settings).contains("must return f32"));
    assert!(check(|x| ops::transpose(&x[0], 0, 9), &x, &settings).contains("transpose"));
    for (name, settings) in [
        ("eps", Check { eps: 0.0, ..settings }),
        ("atol", Check { atol: f64::NAN, ..settings }),
        ("rtol", Check { rtol: -1.0, ..settings }),
        ("samples", Check { samples: 0, ..settings }),
    ] {
        assert!(check(|x| ops::neg(&x[0]), &x, &settings).contains(name));
    }
    // To which nothing is added by so small a difference.
    let large = Tensor::from_slice(&gpu, &[1], &[1e6f32]).unwrap();
    assert!(check(|x| ops::neg(&x[0]), &large, &settings).contains("eps must be enough to change"));
    // An input that nothing depends on has a gradient of 0.
    autograd::check(|x| ops::neg(&x[0]), &[x.clone(), x], &settings).unwrap();
}

// ---- read-backs and copies ----

#[test]
fn several_tensors_in_one_read_back() {
    let gpu = gpu();
    let (a, b) = (ramp(&gpu, 3), ramp(&gpu, 70));
    let labels = Tensor::from_slice(&gpu, &[2], &[7u32, 9]).unwrap();
    let submissions = gpu.stats().submissions;
    let expected: [Vec<f32>; 3] = [3, 70, 3].map(|n| (0..n).map(|i| i as f32).collect());
    assert_eq!(Tensor::to_vecs::<f32>(&[&a, &b, &a]).unwrap(), expected);
    assert_eq!(gpu.stats().submissions, submissions + 1);
    assert_eq!(pollster::block_on(Tensor::read_all::<f32>(&[&a, &b, &a])).unwrap(), expected);
    let bytes = Tensor::read_all_later(&[&a, &labels]).unwrap().wait().unwrap();
    assert_eq!(labels.decode::<u32>(&bytes[1]).unwrap(), [7, 9]);
    assert!(Tensor::to_vecs::<f32>(&[&a, &labels]).unwrap_err().to_string().contains("another dtype"));
    assert!(Tensor::to_vecs::<f32>(&[]).unwrap_err().to_string().contains("at least one"));
    let far = ramp(&self::gpu(), 3);
    assert!(Tensor::to_vecs::<f32>(&[&a, &far]).unwrap_err().to_string().contains("different devices"));
}

#[test]
fn halves_go_up_and_come_back() {
    let Some(gpu) = gpu_with_f16() else { return };
    let data: Vec<f16> = values(5, 131).into_iter().map(f16::from_f32).collect();
    let x = Tensor::from_slice(&gpu, &[131], &data).unwrap();
    assert_eq!((x.dtype(), x.to_vec::<f16>().unwrap()), (DType::F16, data.clone()));
    let doubled = ops::cast(&ops::scale(&ops::cast(&x, DType::F32).unwrap(), 2.0).unwrap(), DType::F16).unwrap();
    let expected: Vec<f16> = data.iter().map(|v| f16::from_f32(2.0 * v.to_f32())).collect();
    assert_eq!(doubled.to_vec::<f16>().unwrap(), expected);
    assert!(x.to_vec::<f32>().unwrap().into_iter().eq(data.iter().map(|v| v.to_f32())));
    assert!(x.to_vec::<u32>().is_err());
}

#[test]
fn a_copy_does_not_follow_a_parameter() {
    let gpu = gpu();
    let mut parameters = Parameters::new(&gpu);
    let w = parameters.add("w", &[3], &[1.0; 3]).unwrap();
    let (live, copy) = (w.value(), w.value().copied().unwrap());
    w.set(&[2.0; 3]).unwrap();
    assert_eq!(Tensor::to_vecs::<f32>(&[&live, &copy]).unwrap(), [[2.0; 3], [1.0; 3]]);
}

#[test]
fn new_tensors_are_of_valid_shapes() {
    let gpu = gpu();
    let x = Tensor::empty(&gpu, DType::U32, &[3, 5]).unwrap();
    assert_eq!((x.dtype(), x.dims()), (DType::U32, &[3, 5][..]));
    assert_eq!(x.empty_like().unwrap().info(), x.info());
    assert!(Tensor::empty(&gpu, DType::F32, &[3, 0]).unwrap_err().to_string().contains("Tensor::empty"));
}

/// What an app prints while it is written: names, no contents.
#[test]
fn handles_can_be_shown() {
    let mut parameters = Parameters::new(&gpu());
    let w = parameters.add("fc.weight", &[2, 3], &[0.0; 6]).unwrap();
    w.set_trainable(false);
    assert_eq!(format!("{w:?}"), "Parameter(fc.weight f32[2, 3], frozen)");
    assert_eq!(format!("{parameters:?}"), "[Parameter(fc.weight f32[2, 3], frozen)]");
    w.set_trainable(true);
    let optimizer = Optimizer::new(&parameters, Rule::Sgd(Sgd::default()), Some(1.0), |_, _| true).unwrap();
    let shown = format!("{optimizer:?}");
    assert!(shown.starts_with("Optimizer { rule: Sgd(") && shown.contains("steps: 0"), "{shown}");
}

/// An app may hand them to another thread.
#[test]
fn handles_are_send() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let x = ramp(&gpu(), 1).requires_grad().unwrap();
    let gradients: Gradients = is_send(ops::mul(&x, &x).unwrap().backward().unwrap());
    let x = Arc::new(x);
    let there = std::thread::spawn({
        let x = x.clone();
        move || gradients.get(&x).unwrap().to_vec::<f32>().unwrap()
    });
    assert_eq!(there.join().unwrap(), [0.0]);
}

params!(DrawParams { n: u32, layer: u32, key_low: u32, key_high: u32 });

/// `scale` times 24 random bits for each of `n` lanes, and behind them `scale` times their sum.
const DRAW: &str = "
override scale: f32 = 1.0;
struct Params { n: u32, layer: u32, key_low: u32, key_high: u32 }
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn draw(@builtin(local_invocation_index) lane: u32) {
    let key = vec2<u32>(params.key_low, params.key_high);
    let word = philox4x32(vec4<u32>(lane, params.layer, 0u, 0u), key).x;
    let value = select(0.0, f32(word >> 8u), lane < params.n);
    let sum = reduce_sum(value, lane, 64u);
    y[lane] = scale * value;
    if lane == 0u { y[64] = scale * sum; }
}
";

static DRAWING: Kernel = {
    const SOURCES: &[Source] = &[Source::new("draw.wgsl", DRAW), lib::PHILOX, lib::REDUCE];
    Kernel::new::<DrawParams>("draw", SOURCES, "draw", &[Access::Write])
        .with_constants(&[("scale", 0.5)])
        .with_rounds(rounds!(DrawParams, |_, _| lib::philox_rounds() + lib::reduce_rounds()))
};

/// What the library lends to other crates' kernels: random bits, sums over a workgroup, constants.
#[test]
fn a_kernel_draws_and_sums() {
    let gpu = gpu();
    let key = RandomKey { seed: 7, step: 3, layer: 5, first_sample: 0 };
    let words = key.philox_key(1);
    assert!(words != key.philox_key(2) && words != RandomKey { step: 4, ..key }.philox_key(1));
    let y = Tensor::zeros(&gpu, DType::F32, &[65]).unwrap();
    let params = DrawParams { n: 50, layer: key.layer, key_low: words[0], key_high: words[1] };
    gpu.dispatch(&DRAWING, &params, &[y.buffer()], Grid::new(1, 1, 1)).unwrap();
    let draw = |lane: u32| ops::random::reference::philox4x32([lane, key.layer, 0, 0], words)[0] >> 8;
    let drawn: Vec<f32> = (0..64).map(|lane| if lane < 50 { 0.5 * draw(lane) as f32 } else { 0.0 }).collect();
    let got: Vec<f32> = y.to_vec().unwrap();
    assert_eq!(got[..64], drawn);
    let sum: f64 = drawn.iter().map(|&v| f64::from(v)).sum();
    assert!((f64::from(got[64]) / sum - 1.0).abs() < 1e-6, "{} {sum}", got[64]);
}

params!(HalfParams { n: u32 });

static DOUBLED: Kernel = {
    const WGSL: &str = "
        struct Params { n: u32 }
        @group(0) @binding(0) var<storage, read> x: array<f16>;
        @group(0) @binding(1) var<storage, read_write> y: array<f16>;
        @group(1) @binding(0) var<uniform> params: Params;
        @compute @workgroup_size(64)
        fn doubled(@builtin(local_invocation_index) lane: u32) {
            if lane < params.n { y[lane] = 2.0h * x[lane]; }
        }";
    const SOURCES: &[Source] = &[Source::new("doubled.wgsl", WGSL).with_enable("f16")];
    Kernel::new::<HalfParams>("doubled", SOURCES, "doubled", BINDINGS)
};

#[test]
fn a_kernel_in_half_precision() {
    let Some(gpu) = gpu_with_f16() else { return };
    let data: Vec<f16> = values(6, 60).into_iter().map(f16::from_f32).collect();
    let x = Tensor::from_slice(&gpu, &[60], &data).unwrap();
    let y = x.empty_like().unwrap();
    gpu.dispatch(&DOUBLED, &HalfParams { n: 60 }, &[x.buffer(), y.buffer()], Grid::new(1, 1, 1)).unwrap();
    let expected: Vec<f16> = data.iter().map(|v| f16::from_f32(2.0 * v.to_f32())).collect();
    assert_eq!(y.to_vec::<f16>().unwrap(), expected);
}
