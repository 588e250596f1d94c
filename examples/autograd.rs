//! A two-layer network from plain operations, its gradients beside central differences, then a few steps of descent.
//!
//!     cargo run --release --example autograd
//!
//! Last lines: every gradient's largest difference (about 1e-3 of the largest gradient), and a falling loss:
//!
//!     step 100: loss 0.0…

#[path = "common/warnings.rs"]
mod warnings;

use anyhow::{Result, ensure};
use wgrad::autograd::{Parameters, no_grad};
use wgrad::optim::{AdamW, Optimizer, Rule};
use wgrad::{Gpu, Tensor, ops};

/// y = W2·gelu(W1·x + b1) + b2, for inputs of width 2.
struct Net {
    parameters: Parameters,
}

impl Net {
    const HIDDEN: usize = 16;

    fn new(gpu: &Gpu) -> Result<Self> {
        let mut parameters = Parameters::new(gpu);
        // A fixed spread of starting weights; a real model draws them.
        let spread = |n: usize, scale: f32| -> Vec<f32> { (0..n).map(|i| scale * (1.7 * i as f32).sin()).collect() };
        parameters.add("fc1.weight", &[Self::HIDDEN, 2], &spread(2 * Self::HIDDEN, 1.0))?;
        parameters.add("fc1.bias", &[Self::HIDDEN], &spread(Self::HIDDEN, 0.1))?;
        parameters.add("fc2.weight", &[1, Self::HIDDEN], &spread(Self::HIDDEN, 0.5))?;
        parameters.add("fc2.bias", &[1], &[0.0])?;
        Ok(Net { parameters })
    }

    /// Mean squared error on the exclusive or.
    fn loss(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let [w1, b1, w2, b2] = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"].map(|name| self.get(name));
        let hidden = ops::gelu(&ops::linear(x, &w1, Some(&b1))?, ops::Gelu::Erf)?;
        Ok(ops::mse_loss(&ops::linear(&hidden, &w2, Some(&b2))?, y)?)
    }

    fn get(&self, name: &str) -> Tensor {
        self.parameters.get(name).expect("added in new").tensor()
    }
}

/// (f(w + h) − f(w − h)) / 2h for each element of a parameter.
fn central_differences(net: &Net, name: &str, x: &Tensor, y: &Tensor) -> Result<Vec<f32>> {
    const H: f32 = 1e-2;
    let parameter = net.parameters.get(name).expect("added in new");
    let start = parameter.value().to_vec::<f32>()?;
    let mut slopes = Vec::new();
    for i in 0..start.len() {
        let at = |offset: f32| -> Result<f32> {
            let mut moved = start.clone();
            moved[i] += offset;
            parameter.set(&moved)?;
            Ok(no_grad(|| net.loss(x, y))?.item()?)
        };
        slopes.push((at(H)? - at(-H)?) / (2.0 * H));
    }
    parameter.set(&start)?;
    Ok(slopes)
}

fn main() -> Result<()> {
    warnings::show();
    let gpu = Gpu::new()?;
    println!("{}", gpu.info());
    let x = Tensor::from_slice(&gpu, &[4, 2], &[0.0f32, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])?;
    let y = Tensor::from_slice(&gpu, &[4, 1], &[0.0f32, 1.0, 1.0, 0.0])?;
    let net = Net::new(&gpu)?;

    net.loss(&x, &y)?.backward()?;
    for parameter in &net.parameters {
        let gradient = parameter.grad().expect("backward filled it").to_vec::<f32>()?;
        let differences = central_differences(&net, parameter.path(), &x, &y)?;
        let largest = gradient.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        let worst = gradient.iter().zip(&differences).fold(0.0f32, |m, (g, d)| m.max((g - d).abs()));
        println!("{:12} largest gradient {largest:.5}, largest difference {worst:.6}", parameter.path());
        ensure!(worst < 1e-2 * largest.max(0.1), "gradient and differences disagree");
    }

    net.parameters.zero_grad();
    let mut optimizer = Optimizer::new(&net.parameters, Rule::AdamW(AdamW::default()), None, |_, _| false)?;
    for step in 1..=100 {
        let loss = net.loss(&x, &y)?;
        loss.backward()?;
        optimizer.step(&net.parameters, 0.03)?;
        if step % 20 == 0 {
            println!("step {step}: loss {:.6}", loss.item()?);
        }
    }
    Ok(())
}
