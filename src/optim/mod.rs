//! Optimisers: one pass for the norm of all gradients, one for the update of all parameters, and no word to the host in
//! between.
//!
//! The norm pass leaves the clip scale and a finite flag in a small state on the device, and the update reads them there:
//! a NaN never reaches the weights, though the host learns of it a step later.

mod ema;
mod layer_token;
mod layers;
mod loss_scale;
mod memory;
mod pass;
mod piecewise;
mod rule;
mod saved;
mod schedule;
mod segment;
mod state;
mod warmup;

pub use ema::Ema;
pub use layer_token::LayerTokenRate;
pub use layers::layer_scale;
pub use loss_scale::LossScale;
pub use rule::{AdamW, Rule, Sgd};
pub use saved::OptimizerState;
pub use schedule::{At, LrSchedule, LrShape, ShapedRate};
pub use state::StepReport;
pub use warmup::{AfterWarmup, DeepSpeedRate};

use std::fmt;

use ema::Exchanged;
use memory::Memory;
use pass::{NORM_TOTAL, Pass};
use segment::Segment;
use state::Table;

use crate::autograd::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Grid, Kernel, params};
use crate::shape::DType;
use crate::tensor::{Tensor, checked_shape};

params!(OptimParams {
    elements: u32,
    first_block: u32,
    partials: u32,
    nesterov: u32,
    rate: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    max_norm: f32,
    log_beta1: f32,
    log_beta2: f32,
    growth: f32,
    backoff: f32,
    interval: u32,
    floor: f32,
    ema_share: f32,
    parameters: u32,
    is_packed: u32,
    skipped: u32,
});

/// Every kernel of this module, for tests that compile them all.
pub(crate) fn kernels() -> Vec<&'static Kernel> {
    pass::KERNELS.to_vec()
}

/// Elements of a block in the arenas: 256 bytes.
const BLOCK: usize = 64;

/// Changes the parameters of a model by their gradients.
///
/// As in PyTorch, a step passes over a parameter that has no gradient in it, frozen or not reached by backward: neither
/// its value nor its moments change, and it does not count as one of its updates. Adam's bias correction and SGD's first
/// direction follow each parameter's own count: one that is thawed at step 1,000 begins as all others did at step 0.
///
/// Moments and average take memory for what is trained when the optimiser is made, and for what is thawed later, from the next
/// step on. What is frozen meanwhile keeps them as long as the optimiser lives, and goes on with them if it is thawed, as in
/// PyTorch. To let go of them, make another optimiser.
pub struct Optimizer {
    rule: Rule,
    max_norm: Option<f32>,
    memory: Memory,
    segments: Vec<Segment>,
    /// Of the gradients' layout that `segments` and `table` follow.
    generation: u64,
    table: Table,
    /// Partial sums of squares with the first bad parameter: `[partials, 2]`.
    partial: Tensor,
    /// `State` of `shaders/lib/optim.wgsl`.
    state: Tensor,
    /// The factor on the loss of the next step, `f32[]`: 1 where no scaling was asked for.
    scale: Tensor,
    scaling: Option<LossScale>,
    ema: Option<Ema>,
    /// Steps recorded.
    steps: u64,
}

/// Not what it holds on the device.
impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Optimizer { rule, max_norm, scaling, steps, .. } = self;
        let mut shown = f.debug_struct("Optimizer");
        shown.field("rule", rule).field("max_norm", max_norm).field("loss_scale", scaling).field("steps", steps);
        shown.finish_non_exhaustive()
    }
}

impl Optimizer {
    /// An optimiser for all of `parameters`, which are what its other functions are to be given: with parameters added
    /// since, or those of another model, they are an error that names the parameter. `max_norm` clips the gradient's
    /// global 2-norm as `torch.nn.utils.clip_grad_norm_` does. Weight decay applies where `decay` says so for a path and
    /// rank ([`crate::nn::Model::decays`]).
    ///
    /// # Errors
    /// If a setting is out of range, there are no parameters, or the device has no room for the moments.
    pub fn new(
        parameters: &Parameters,
        rule: Rule,
        max_norm: Option<f32>,
        decay: impl Fn(&str, usize) -> bool,
    ) -> Result<Self> {
        rule.check()?;
        if let Some(norm) = max_norm.filter(|n| !(*n > 0.0 && n.is_finite())) {
            return Err(Error::argument("optimiser", "max_norm", "positive", norm));
        }
        if parameters.is_empty() {
            return Err(Error::argument("optimiser", "parameters", "at least one", 0));
        }
        let gpu = parameters.gpu();
        let moments = if matches!(rule, Rule::AdamW(_)) { 2 } else { 1 };
        let state = Tensor::zeros(gpu, DType::U32, &[state::WORDS])?;
        let decay_of = |p: &Parameter| {
            if decay(p.path(), p.value().shape().rank()) { rule.weight_decay() } else { 0.0 }
        };
        let mut optimizer = Optimizer {
            rule,
            max_norm,
            memory: Memory::new(gpu, moments),
            segments: Vec::new(),
            generation: 0,
            table: Table::new(parameters, decay_of)?,
            partial: Tensor::unwritten(gpu, DType::U32, checked_shape("optimiser", &[1, 2])?)?,
            state,
            scale: Tensor::from_slice(gpu, &[], &[1.0f32])?,
            scaling: None,
            ema: None,
            steps: 0,
        };
        let _turn = parameters.turn();
        parameters.lay_out_gradients()?;
        optimizer.follow(parameters, |_| false)?;
        Ok(optimizer)
    }

    /// Makes memory for what is trained and for what `also` names, and follows the gradients to where they lie now. Only for who
    /// has the device's turn.
    fn follow(&mut self, parameters: &Parameters, also: impl Fn(usize) -> bool) -> Result<()> {
        let generation = parameters.gradient_generation();
        let is_new = |i, p: &Parameter| (p.is_trainable() || also(i)) && !self.memory.holds(i, p);
        let grows = parameters.iter().enumerate().any(|(i, p)| is_new(i, p));
        if !grows && generation == self.generation {
            return Ok(());
        }
        let holds = |i, p: &Parameter| self.memory.holds(i, p) || is_new(i, p);
        let memory = if grows { Some(self.memory.grown(parameters, holds)?) } else { None };
        self.adopt(parameters, memory)
    }

    /// Goes over to `memory`, if it is given, and to the gradients as they lie now: wholly or, after an error, not at all, so that no
    /// pass mixes old places with new memory.
    fn adopt(&mut self, parameters: &Parameters, memory: Option<Memory>) -> Result<()> {
        let gpu = parameters.gpu();
        let gradients = parameters.gradients();
        let held = memory.as_ref().unwrap_or(&self.memory);
        let segments = held.segments(parameters, &gradients)?;
        let per_partial = Pass::norm(gpu.family()).partial;
        let partials: usize = segments.iter().map(|s| (s.elements as usize).div_ceil(per_partial)).sum();
        let partial = Tensor::unwritten(gpu, DType::U32, checked_shape("optimiser", &[partials.max(1), 2])?)?;
        self.table.lay_out(held.packing(), gradients.packing())?;
        if let Some(memory) = memory {
            self.memory = memory;
        }
        (self.segments, self.partial) = (segments, partial);
        self.generation = parameters.gradient_generation();
        Ok(())
    }

    /// The optimiser with the learning rate of each parameter multiplied by what `scale` says for its path, weight
    /// decay included: [`layer_scale`] is layer-wise decay.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `parameters` are not the optimiser's; if a factor is negative or not finite, or the device
    /// fails.
    pub fn with_rate_scales(mut self, parameters: &Parameters, scale: impl Fn(&str) -> f32) -> Result<Self> {
        self.table.check(parameters)?;
        self.table.set_rate_scales(scale)?;
        Ok(self)
    }

    /// The optimiser with a running average of the weights, which starts from those of now. It takes the memory of one
    /// more set of those that are trained, and a pass over both sets at each step, which a skipped step skips. Of what
    /// was never trained the average is the weight itself.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `parameters` are not the optimiser's; if a setting is out of range, or the device has no
    /// room.
    pub fn with_ema(mut self, parameters: &Parameters, settings: Ema) -> Result<Self> {
        settings.check()?;
        self.table.check(parameters)?;
        let _turn = parameters.turn();
        let memory = self.memory.averaging(parameters)?;
        self.adopt(parameters, Some(memory))?;
        self.ema = Some(settings);
        Ok(self)
    }

    /// The optimiser for gradients of a loss that is multiplied by a factor, which the norm, the clip and the update
    /// take out again: start each backward pass from [`Optimizer::loss_scale`]. For half precision, whose small
    /// gradients would otherwise vanish.
    ///
    /// # Errors
    /// If a setting is out of range, or the device has no room.
    pub fn with_loss_scale(self, settings: LossScale) -> Result<Self> {
        settings.check()?;
        let scale = Tensor::from_slice(self.state.gpu(), &[], &[settings.initial])?;
        Ok(Optimizer { scale, scaling: Some(settings), ..self })
    }

    /// What `f` gives while the weights are exchanged with their running average, in place: it may evaluate or save the
    /// average, and ask for results that are awaited later. The weights are exchanged back also where `f` fails or
    /// panics, and `f` has no way to step, save or average with this optimiser meanwhile. Without an average it sees the
    /// weights.
    ///
    /// # Errors
    /// Those of `f`, or if the device fails.
    pub fn averaged<T>(&mut self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.ema.is_none() {
            return f();
        }
        let mut exchanged = Exchanged::new(&self.segments, &self.table, self.state.gpu(), self.params(0.0))?;
        let result = f();
        let put_back = exchanged.put_back();
        result.and_then(|result| put_back.map(|()| result))
    }

    /// What the loss of the next step is to be multiplied by, `f32[]`; `None` where no scaling was asked for. Every
    /// [`Optimizer::step`] may change the value, on the device.
    ///
    /// ```no_run
    /// # fn f(loss: &wgrad::Tensor, optimizer: &wgrad::optim::Optimizer) -> wgrad::Result<()> {
    /// match optimizer.loss_scale() {
    ///     Some(scale) => loss.backward_from(scale)?,
    ///     None => loss.backward()?,
    /// };
    /// # Ok(())
    /// # }
    /// ```
    pub fn loss_scale(&self) -> Option<&Tensor> {
        self.scaling.is_some().then_some(&self.scale)
    }

    /// Records one update with the learning rate `rate`, forgets the gradients, and ends the step
    /// ([`Gpu::end_step`](crate::Gpu::end_step)); nothing need be zeroed before the next backward pass. Skipped on the device if a gradient
    /// is not finite, which is no error here, as nothing is waited for: see [`Optimizer::check`] and [`Optimizer::report`].
    ///
    /// # Errors
    /// [`Error::Parameter`] if `parameters` are not the optimiser's, and [`Error::Argument`] if the rate is negative or not
    /// finite: nothing is changed, and the gradients stay. Else if the device fails.
    pub fn step(&mut self, parameters: &Parameters, rate: f32) -> Result<()> {
        if !(rate >= 0.0 && rate.is_finite()) {
            return Err(Error::argument("optimiser", "rate", "finite and not negative", rate));
        }
        self.table.check(parameters)?;
        let _turn = parameters.turn();
        self.follow(parameters, |_| false)?;
        self.table.refresh()?;
        self.norm()?;
        self.update(rate)?;
        if let Some(ema) = &self.ema {
            ema.follow(&self.segments, &self.table, &self.state, self.params(rate), self.steps)?;
        }
        self.steps += 1;
        parameters.updated();
        parameters.gpu().end_step()
    }

    fn norm(&self) -> Result<()> {
        let gpu = self.state.gpu();
        let pass = Pass::norm(gpu.family());
        let mut params = self.params(0.0);
        for (s, gradient) in self.with_gradients() {
            let buffers = [self.table.owner(), self.table.rows(), gradient, self.partial.buffer()];
            gpu.dispatch(pass.kernel, &s.of(params), &buffers, Grid::linear(s.elements as usize, pass.group))?;
            params.partials += s.elements.div_ceil(pass.partial as u32);
        }
        let (rows, updates) = (self.table.rows(), self.table.updates().buffer());
        let buffers = [self.partial.buffer(), self.state.buffer(), self.scale.buffer(), rows, updates];
        gpu.dispatch(&NORM_TOTAL, &params, &buffers, Grid::new(1, 1, 1))
    }

    fn update(&self, rate: f32) -> Result<()> {
        let gpu = self.state.gpu();
        let pass = Pass::update(gpu.family(), &self.rule);
        let params = self.params(rate);
        for (s, gradient) in self.with_gradients() {
            let mut buffers = vec![self.table.owner(), self.table.rows(), gradient, self.state.buffer(), &s.value];
            buffers.extend(&s.moments);
            gpu.dispatch(pass.kernel, &s.of(params), &buffers, Grid::linear(s.elements as usize, pass.group))?;
        }
        Ok(())
    }

    /// The segments in which something may have a gradient.
    fn with_gradients(&self) -> impl Iterator<Item = (&Segment, &BufferView)> {
        self.segments.iter().filter_map(|segment| Some((segment, segment.gradient.as_ref()?)))
    }

    fn params(&self, rate: f32) -> OptimParams {
        let (beta1, beta2, eps, nesterov) = match self.rule {
            Rule::AdamW(r) => (r.betas.0, r.betas.1, r.eps, false),
            // PyTorch keeps no direction then, and dampens nothing.
            Rule::Sgd(r) if r.momentum == 0.0 => (0.0, 0.0, 0.0, false),
            Rule::Sgd(r) => (r.momentum, r.dampening, 0.0, r.nesterov),
        };
        // WGSL need not know infinities; e^-100 is nothing beside 1.
        let log = |beta: f32| f64::from(beta).ln().max(-100.0) as f32;
        let scaling = self.scaling.unwrap_or(LossScale::constant(1.0));
        OptimParams {
            elements: 0,
            first_block: 0,
            partials: 0,
            nesterov: u32::from(nesterov),
            rate,
            beta1,
            beta2,
            eps,
            max_norm: self.max_norm.unwrap_or(0.0),
            log_beta1: log(beta1),
            log_beta2: log(beta2),
            growth: scaling.growth,
            backoff: scaling.backoff,
            interval: scaling.interval,
            floor: scaling.floor,
            ema_share: 0.0,
            parameters: self.table.parameters().len() as u32,
            is_packed: 0,
            skipped: 0,
        }
    }

    /// The device's account of the last recorded step: norm, finite or not. Read it back with other results, and
    /// decode it with [`StepReport::decode`].
    pub fn report(&self) -> &Tensor {
        &self.state
    }

    /// Waits for the last recorded step, and tells what the device says of it.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if its update was left out for a gradient that is not finite; otherwise if the device fails.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn check(&self, parameters: &Parameters) -> Result<StepReport> {
        let report = StepReport::decode(bytemuck::cast_slice(&self.state.to_vec::<u32>()?))?;
        report.check(self.steps.saturating_sub(1), parameters)?;
        Ok(report)
    }
}
