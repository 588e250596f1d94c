//! Upload, multiply, download, and how fast: the smallest use of the engine.
//!
//!     cargo run --release --example matmul -- [M] [N] [K]
//!
//! Last line: `512×512×512: … GFLOP/s, largest error …`

#[path = "common/warnings.rs"]
mod warnings;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use wgrad::{Gpu, Tensor, ops};

const REPEATS: usize = 10;

fn main() -> Result<()> {
    warnings::show();
    let sizes: Vec<usize> =
        std::env::args().skip(1).map(|a| a.parse().context("sizes are whole numbers")).collect::<Result<_>>()?;
    let [m, n, k] = match sizes.as_slice() {
        [] => [512; 3],
        &[m, n, k] => [m, n, k],
        _ => anyhow::bail!("either no size or M N K"),
    };
    let gpu = Gpu::new()?;
    println!("{}", gpu.info());
    let values =
        |count: usize, step: usize| -> Vec<f32> { (0..count).map(|i| (i * step % 17) as f32 / 17.0 - 0.5).collect() };
    let (a, b) = (values(m * k, 5), values(k * n, 7));
    let (ta, tb) = (Tensor::from_slice(&gpu, &[m, k], &a)?, Tensor::from_slice(&gpu, &[k, n], &b)?);

    let c = ops::matmul(&ta, &tb)?.to_vec::<f32>()?;
    // One row and one column, exactly, say enough about all.
    let exact = |i: usize, j: usize| (0..k).map(|q| f64::from(a[i * k + q]) * f64::from(b[q * n + j])).sum::<f64>();
    let row = (0..n).map(|j| (f64::from(c[(m - 1) * n + j]) - exact(m - 1, j)).abs());
    let column = (0..m).map(|i| (f64::from(c[i * n + n / 2]) - exact(i, n / 2)).abs());
    let worst = row.chain(column).fold(0.0, f64::max);
    ensure!(worst < 1e-5 * k as f64, "wrong by {worst}");

    let started = Instant::now();
    for _ in 0..REPEATS {
        ops::matmul(&ta, &tb)?;
    }
    gpu.wait()?;
    let flops = 2.0 * (m * n * k * REPEATS) as f64;
    println!("{m}×{n}×{k}: {:.1} GFLOP/s, largest error {worst:.1e}", flops / started.elapsed().as_secs_f64() / 1e9);
    Ok(())
}
