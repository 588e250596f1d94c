//! What the optimiser's kernels know of each parameter, and what they tell the host.

use super::BLOCK;
use crate::autograd::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::gpu::BufferView;
use crate::shape::DType;
use crate::tensor::{Tensor, checked_shape};

/// `Row` of `shaders/lib/optim.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Row {
    start: u32,
    numel: u32,
    is_active: u32,
    weight_decay: f32,
    rate_scale: f32,
    /// Filled in on the device, at each step.
    updates: u32,
    corrections: [f32; 2],
}

/// One row a parameter, and the parameter of each block of the arenas.
pub(super) struct Table {
    /// Those that the optimiser was made for.
    parameters: Vec<Parameter>,
    rows: Vec<Row>,
    device_rows: Tensor,
    /// Whether the device has other rows yet.
    is_stale: bool,
    device_owner: Tensor,
    /// Updates applied to each parameter: `u32[parameters]`. The device counts, since it alone knows which are skipped.
    updates: Tensor,
}

impl Table {
    /// `decay` gives a parameter's weight decay. All learn at the same rate, until [`Table::set_rate_scales`].
    pub(super) fn new(parameters: &Parameters, decay: impl Fn(&Parameter) -> f32) -> Result<Self> {
        let element = |bytes: u64| (bytes / DType::F32.size()) as u32;
        let mut owner: Vec<Vec<u32>> = parameters.segments().iter().map(|(v, _)| blocks(v)).collect();
        let mut rows = Vec::with_capacity(parameters.len());
        for (id, parameter) in (0u32..).zip(parameters) {
            let place = parameter.place();
            let (start, numel) = (element(place.offset), element(place.size));
            let weight_decay = decay(parameter);
            let (updates, corrections) = (0, [0.0; 2]);
            rows.push(Row { start, numel, is_active: 0, weight_decay, rate_scale: 1.0, updates, corrections });
            let first = start as usize / BLOCK;
            owner[place.segment][first..first + (numel as usize).div_ceil(BLOCK)].fill(id);
        }
        let gpu = parameters.gpu();
        let owner = owner.concat();
        let words = rows.len() * size_of::<Row>() / 4;
        let device_rows = Tensor::unwritten(gpu, DType::U32, checked_shape("optimiser", &[words])?)?;
        let device_owner = Tensor::from_slice(gpu, &[owner.len()], &owner)?;
        let updates = Tensor::zeros(gpu, DType::U32, &[rows.len()])?;
        let parameters = parameters.iter().cloned().collect();
        let table = Table { parameters, rows, device_rows, is_stale: false, device_owner, updates };
        table.upload()?;
        Ok(table)
    }

    /// Whether `parameters` are those of the table: all of them, and no others.
    ///
    /// # Errors
    /// [`Error::Parameter`] naming the first that differs.
    pub(super) fn check(&self, parameters: &Parameters) -> Result<()> {
        let fault = |parameter: &Parameter, what: &str| {
            Err(Error::Parameter { name: parameter.path().to_owned(), what: what.to_owned() })
        };
        let mut given = parameters.iter();
        for own in &self.parameters {
            let Some(parameter) = given.next() else {
                return fault(own, "of the optimiser's is not among those given");
            };
            if !parameter.is(own) {
                let is_here = parameters.gpu().same(self.updates.gpu());
                let there = "is not one of those, on another device, that the optimiser was made for";
                return fault(
                    parameter,
                    if is_here { "is not one of those that the optimiser was made for" } else { there },
                );
            }
        }
        given.next().map_or(Ok(()), |late| fault(late, "was added after the optimiser was made"))
    }

    pub(super) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Sets the factor on each parameter's learning rate.
    pub(super) fn set_rate_scales(&mut self, scale: impl Fn(&str) -> f32) -> Result<()> {
        for (row, parameter) in self.rows.iter_mut().zip(&self.parameters) {
            let factor = scale(parameter.path());
            if !(factor >= 0.0 && factor.is_finite()) {
                return Err(Error::argument("optimiser", "rate scale", "finite and not negative", factor));
            }
            row.rate_scale = factor;
        }
        self.upload()
    }

    fn upload(&self) -> Result<()> {
        self.device_rows.gpu().upload(bytemuck::cast_slice(&self.rows), self.device_rows.buffer())
    }

    /// Marks which parameters have a gradient in this step; uploads the table if that has changed.
    pub(super) fn refresh(&mut self) -> Result<()> {
        for (row, parameter) in self.rows.iter_mut().zip(&self.parameters) {
            let active = u32::from(parameter.is_trainable() && parameter.grad().is_some());
            self.is_stale |= row.is_active != active;
            row.is_active = active;
        }
        if self.is_stale {
            self.upload()?;
        }
        // Not before: what the device did not take must be sent again.
        self.is_stale = false;
        Ok(())
    }

    pub(super) fn rows(&self) -> &BufferView {
        self.device_rows.buffer()
    }

    pub(super) fn owner(&self) -> &BufferView {
        self.device_owner.buffer()
    }

    pub(super) fn updates(&self) -> &Tensor {
        &self.updates
    }
}

fn blocks(segment: &BufferView) -> Vec<u32> {
    vec![0; (segment.size() / DType::F32.size()) as usize / BLOCK]
}

/// Words of `State` in `shaders/lib/optim.wgsl`.
pub(super) const WORDS: usize = 9;

/// The device's account of an optimiser step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// Whether every gradient was finite and the update was applied.
    pub finite: bool,
    /// If not, the first offending parameter's place in [`Parameters`]; `None` if only the norm overflowed.
    pub bad_parameter: Option<usize>,
    /// 2-norm of all gradients, before clipping and without the loss scale.
    pub grad_norm: f32,
    /// Updates applied so far.
    pub applied: u64,
    /// Updates skipped so far.
    pub skipped: u64,
    /// What the gradients had been multiplied by ([`super::Optimizer::loss_scale`]); 1 without scaling.
    pub loss_scale: f32,
    /// Whether the update was skipped because the loss scale was too large, which has been lowered: no error.
    pub excused: bool,
}

impl StepReport {
    /// From the bytes of [`super::Optimizer::report`].
    ///
    /// # Errors
    /// If the bytes are too few.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[..bytes.len() / 4 * 4]);
        let &[finite, bad, norm, _, applied, skipped, loss_scale, excused, ..] = words.as_slice() else {
            return Err(Error::argument("StepReport", "bytes", format!("{WORDS} words"), bytes.len()));
        };
        Ok(StepReport {
            finite: finite != 0,
            bad_parameter: (bad != u32::MAX).then_some(bad as usize),
            grad_norm: f32::from_bits(norm),
            applied: applied.into(),
            skipped: skipped.into(),
            loss_scale: f32::from_bits(loss_scale),
            excused: excused != 0,
        })
    }

    /// An error that names the step and the parameter, if the update was skipped for another cause than the loss scale.
    ///
    /// # Errors
    /// [`Error::NonFinite`]
    pub fn check(&self, step: u64, parameters: &Parameters) -> Result<()> {
        self.check_named(step, |i| Some(parameters.iter().nth(i)?.path().to_owned()))
    }

    /// [`StepReport::check`] for a caller that has the parameters' names alone.
    pub(crate) fn check_named(&self, step: u64, name: impl FnOnce(usize) -> Option<String>) -> Result<()> {
        if self.finite || self.excused {
            return Ok(());
        }
        let parameter = self.bad_parameter.and_then(name);
        let parameter = parameter.unwrap_or_else(|| "all parameters together (norm)".to_owned());
        Err(Error::NonFinite { step, parameter })
    }
}
