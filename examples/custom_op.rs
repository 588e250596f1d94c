//! An operation that the library does not have, with its WGSL and its gradient, as any crate can write one; held against central
//! differences.
//!
//!     cargo run --release --example custom_op
//!
//! Last line: `snake: the gradient is that of its function`

#[path = "common/warnings.rs"]
mod warnings;

use wgrad::autograd::{self, Backward, Check, ParentGradients, record};
use wgrad::gpu::{Access, Grid, Kernel, Source, lib, params};
use wgrad::{DType, Error, Gpu, Result, Tensor};

/// Snake (Ziyin et al., 2020): y = x + sin²(a·x) / a, dy/dx = 1 + sin(2·a·x).
const WGSL: &str = "
struct Params { n: u32, accumulate: u32, a: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i < params.n {
        let s = sin(params.a * x[i]);
        y[i] = x[i] + s * s / params.a;
    }
}

@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> d_x: array<f32>;

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = grid_group(group, groups) * 64u + lane;
    if i < params.n {
        let slope = dy[i] * (1.0 + sin(2.0 * params.a * x[i]));
        d_x[i] = select(slope, d_x[i] + slope, params.accumulate != 0u);
    }
}
";

params!(SnakeParams { n: u32, accumulate: u32, a: f32 });

const SOURCES: &[Source] = &[Source::new("snake.wgsl", WGSL), lib::GRID];

static FORWARD: Kernel =
    Kernel::new::<SnakeParams>("snake.forward", SOURCES, "forward", &[Access::Read, Access::Write]);

static BACKWARD: Kernel =
    Kernel::new::<SnakeParams>("snake.backward", SOURCES, "backward", &[Access::Read, Access::Read, Access::Write]);

/// Snake of every element: `f32[..]` to the same shape.
fn snake(x: &Tensor, a: f32) -> Result<Tensor> {
    if x.dtype() != DType::F32 {
        return Err(Error::Shape { op: "snake", what: "needs f32", got: x.info() });
    }
    let y = x.empty_like()?;
    let params = SnakeParams { n: x.numel() as u32, accumulate: 0, a };
    x.gpu().dispatch(&FORWARD, &params, &[x.buffer(), y.buffer()], Grid::linear(x.numel(), 64))?;
    // Where nothing is differentiated, the rule is not made and nothing is saved.
    Ok(record(y, &[x], || Rule { x: x.detach(), params }))
}

/// What forward saves for the gradient.
struct Rule {
    x: Tensor,
    params: SnakeParams,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        // Another use of x may have left its gradient there already.
        let params = SnakeParams { accumulate: dx.flag(), ..self.params };
        let buffers = [self.x.buffer(), dy.buffer(), dx.tensor.buffer()];
        dy.gpu().dispatch(&BACKWARD, &params, &buffers, Grid::linear(dy.numel(), 64))
    }
}

fn main() -> Result<()> {
    warnings::show();
    let gpu = Gpu::new()?;
    println!("{}", gpu.info());
    let values: Vec<f32> = (0..91).map(|i| 0.05 * i as f32 - 2.0).collect();
    let x = Tensor::from_slice(&gpu, &[7, 13], &values)?;

    let y = snake(&x, 0.5)?.to_vec::<f32>()?;
    println!("snake({}) = {}", values[0], y[0]);

    autograd::check(|x| snake(&x[0], 0.5), &[x], &Check::default())?;
    println!("snake: the gradient is that of its function");
    Ok(())
}
