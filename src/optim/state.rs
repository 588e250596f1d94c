//! What the optimiser's kernels know of each parameter, and what they tell the host.

use super::BLOCK;
use crate::autograd::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Packing, Place};
use crate::shape::DType;
use crate::tensor::{Tensor, checked_shape};

/// `Row` of `shaders/lib/optim.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Row {
    start: u32,
    value_start: u32,
    grad_start: u32,
    numel: u32,
    is_active: u32,
    weight_decay: f32,
    rate_scale: f32,
    /// Filled in on the device, at each step.
    updates: u32,
    corrections: [f32; 2],
}

/// One row a parameter, and the parameter of each block of the moments.
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
        let row = |parameter: &Parameter| Row {
            start: 0,
            value_start: element(parameter.place().offset),
            grad_start: 0,
            numel: element(parameter.place().size),
            is_active: 0,
            weight_decay: decay(parameter),
            rate_scale: 1.0,
            updates: 0,
            corrections: [0.0; 2],
        };
        let rows: Vec<Row> = parameters.iter().map(row).collect();
        let gpu = parameters.gpu();
        let words = rows.len() * size_of::<Row>() / 4;
        let device_rows = Tensor::unwritten(gpu, DType::U32, checked_shape("optimiser", &[words])?)?;
        let device_owner = Tensor::zeros(gpu, DType::U32, &[1])?;
        let updates = Tensor::zeros(gpu, DType::U32, &[rows.len()])?;
        let parameters = parameters.iter().cloned().collect();
        let table = Table { parameters, rows, device_rows, is_stale: false, device_owner, updates };
        table.upload(&table.rows)?;
        Ok(table)
    }

    /// Takes the places of moments and gradients that `held` and `gradients` say. After an error all is as it was.
    pub(super) fn lay_out(&mut self, held: &Packing, gradients: &Packing) -> Result<()> {
        let mut owner: Vec<Vec<u32>> = held.sizes().map(|size| vec![0; element(size) as usize / BLOCK]).collect();
        let mut rows = self.rows.clone();
        for (i, (row, parameter)) in rows.iter_mut().zip(&self.parameters).enumerate() {
            let start = |place: Option<Place>| place.map_or(0, |place| element(place.offset));
            let place = held.place(i, parameter.place());
            (row.start, row.grad_start) = (start(place), start(gradients.place(i, parameter.place())));
            // Neither memory nor gradient, as long as it is so.
            row.is_active = 0;
            if let Some(place) = place {
                let (first, blocks) = (row.start as usize / BLOCK, (row.numel as usize).div_ceil(BLOCK));
                owner[place.segment][first..first + blocks].fill(i as u32);
            }
        }
        let mut owner = owner.concat();
        // No tensor is empty.
        owner.resize(owner.len().max(1), 0);
        let device_owner = Tensor::from_slice(self.updates.gpu(), &[owner.len()], &owner)?;
        self.upload(&rows)?;
        (self.rows, self.device_owner) = (rows, device_owner);
        Ok(())
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
        self.upload(&self.rows)
    }

    fn upload(&self, rows: &[Row]) -> Result<()> {
        self.device_rows.gpu().upload(bytemuck::cast_slice(rows), self.device_rows.buffer())
    }

    /// Marks which parameters have a gradient in this step; uploads the table if that has changed.
    pub(super) fn refresh(&mut self) -> Result<()> {
        for (row, parameter) in self.rows.iter_mut().zip(&self.parameters) {
            let active = u32::from(parameter.is_trainable() && parameter.has_gradient());
            self.is_stale |= row.is_active != active;
            row.is_active = active;
        }
        if self.is_stale {
            self.upload(&self.rows)?;
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

fn element(bytes: u64) -> u32 {
    (bytes / DType::F32.size()) as u32
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
