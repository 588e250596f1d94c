//! An optimiser's pass over all parameters of a model's blocks.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Result;
use wgrad::autograd::Parameters;
use wgrad::optim::{AdamW, Optimizer, Rule, Sgd};
use wgrad::{Gpu, Tensor};

use crate::check::{close, values};
use crate::cost::Cost;
use crate::costs;
use crate::row::{Call, Op, Row};

const RATE: f32 = 1e-2;
/// Twelve blocks of 12·C² weights.
const BLOCKS: usize = 12;

/// Both optimisers for blocks `width` wide.
pub fn rows(model: &str, width: usize) -> Vec<Row> {
    let n = BLOCKS * 12 * width * width;
    let row = |name: &str, rule: Rule, cost: Cost| {
        let build = move |gpu: &Gpu| op(gpu, width, rule);
        Row::new(format!("{model} {name}"), n.to_string(), cost, build)
    };
    // Value and momentum read and written, the gradient read for the update and for its norm.
    let sgd = costs::cost(6 * n, 6 * n);
    vec![row("adamw", Rule::AdamW(AdamW::default()), costs::adamw(n)), row("sgd", Rule::Sgd(Sgd::default()), sgd)]
}

/// Parameters with a gradient each, which an update forgets.
struct Model {
    parameters: Parameters,
    optimizer: Optimizer,
    gradient: Tensor,
}

impl Model {
    fn fill_gradients(&self) -> Result<()> {
        for parameter in &self.parameters {
            parameter.tensor().backward_from(&self.gradient)?;
        }
        Ok(())
    }

    fn update(&mut self) -> Result<()> {
        Ok(self.optimizer.step(&self.parameters, RATE)?)
    }
}

fn op(gpu: &Gpu, width: usize, rule: Rule) -> Result<Op> {
    let dims = [12 * width, width];
    let (value, gradient) = (values(1, dims[0] * dims[1]), values(2, dims[0] * dims[1]));
    let mut parameters = Parameters::new(gpu);
    for i in 0..BLOCKS {
        parameters.add(format!("weight{i}"), &dims, &value)?;
    }
    let optimizer = Optimizer::new(&parameters, rule, None, |_, _| true)?;
    let model = Model { parameters, optimizer, gradient: Tensor::from_slice(gpu, &dims, &gradient)? };
    let model = Rc::new(RefCell::new(model));
    let once = model.clone();
    let check = move || {
        let mut model = once.borrow_mut();
        model.fill_gradients()?;
        model.update()?;
        let expected: Vec<f32> = value.iter().zip(&gradient).map(|(&p, &g)| first_step(rule, p, g)).collect();
        for parameter in &model.parameters {
            close(parameter.path(), &parameter.value().to_vec()?, &expected)?;
        }
        Ok(())
    };
    let prepare = move || -> Result<Call> {
        model.borrow().fill_gradients()?;
        let model = model.clone();
        Ok(Box::new(move || model.borrow_mut().update()))
    };
    Ok(Op::stateful(prepare, check))
}

/// A parameter after the first step from moments of zero, where AdamW's corrected moments are g and g².
fn first_step(rule: Rule, p: f32, g: f32) -> f32 {
    let (p, g, rate) = (f64::from(p), f64::from(g), f64::from(RATE));
    let next = match rule {
        Rule::AdamW(r) => p - rate * f64::from(r.weight_decay) * p - rate * g / (g.abs() + f64::from(r.eps)),
        Rule::Sgd(r) => p - rate * (g + f64::from(r.weight_decay) * p),
        _ => f64::NAN,
    };
    next as f32
}
