//! What an optimiser holds beside the weights: moments and average, of what it trains or has trained.

use std::sync::Arc;

use super::BLOCK;
use super::segment::Segment;
use crate::autograd::{Parameter, Parameters};
use crate::error::Result;
use crate::gpu::{Beside, BufferView, Gpu, Packing};
use crate::shape::DType;

/// An optimiser's memory beside the segments of the values.
pub(super) struct Memory {
    packing: Arc<Packing>,
    /// One or two.
    moments: Vec<Beside>,
    average: Option<Beside>,
}

impl Memory {
    /// None yet, of so many moments.
    pub(super) fn new(gpu: &Gpu, moments: usize) -> Self {
        Memory { packing: Arc::default(), moments: vec![Beside::new(gpu); moments], average: None }
    }

    pub(super) fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Whether there is memory for the parameter of number `index`.
    pub(super) fn holds(&self, index: usize, parameter: &Parameter) -> bool {
        self.packing.place(index, parameter.place()).is_some()
    }

    /// The same with memory for all that `holds` says: zeros as moments, and the weight as average, of what is new.
    pub(super) fn grown(&self, parameters: &Parameters, holds: impl Fn(usize, &Parameter) -> bool) -> Result<Self> {
        let held = parameters.iter().enumerate().filter(|(i, p)| holds(*i, p));
        let packing = Arc::new(Packing::new(held.map(|(i, p)| (i, p.place()))));
        let grown = |old: &Beside| {
            let new = old.repacked(&packing)?;
            old.copy_to(&new)?;
            Ok(new)
        };
        let moments = self.moments.iter().map(grown).collect::<Result<_>>()?;
        let average = self.average.as_ref().map(grown).transpose()?;
        let grown = Memory { packing, moments, average };
        if let Some(average) = &grown.average {
            begin(average, parameters, |i, p| !self.holds(i, p))?;
        }
        Ok(grown)
    }

    /// Memory for an average, which is the weights of now.
    pub(super) fn averaging(&self, parameters: &Parameters) -> Result<Self> {
        let average = Beside::new(parameters.gpu()).repacked(&self.packing)?;
        begin(&average, parameters, |_, _| true)?;
        Ok(Memory { packing: self.packing.clone(), moments: self.moments.clone(), average: Some(average) })
    }

    /// What the passes go over, with the gradients where they lie now.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] if the device binds too little.
    pub(super) fn segments(&self, parameters: &Parameters, gradients: &Beside) -> Result<Vec<Segment>> {
        let mut first_block = 0;
        let mut segments = Vec::new();
        for ((i, size), value) in self.packing.sizes().enumerate().zip(parameters.segments()) {
            let elements = (size / DType::F32.size()) as u32;
            if elements > 0 {
                let moments = self.moments.iter().filter_map(|moment| moment.segment(i).cloned()).collect();
                let average = self.average.as_ref().and_then(|average| average.segment(i).cloned());
                let gradient = gradients.segment(i).cloned();
                let whole = Segment { value, gradient, moments, average, first_block, elements, skipped: 0 };
                segments.extend(whole.parts(parameters.gpu())?);
            }
            first_block += elements / BLOCK as u32;
        }
        Ok(segments)
    }

    /// What is held of the parameter of number `index`, by the names that saved states have for it.
    pub(super) fn views(&self, index: usize, parameter: &Parameter) -> Vec<(String, BufferView)> {
        self.named().filter_map(|(name, beside)| Some((name, beside.view(index, parameter.place())?))).collect()
    }

    /// Whether something of this name is held of parameters.
    pub(super) fn has(&self, kind: &str) -> bool {
        self.named().any(|(name, _)| name == kind)
    }

    fn named(&self) -> impl Iterator<Item = (String, &Beside)> {
        let moments = (1..).zip(&self.moments).map(|(i, moment)| (format!("moment{i}"), moment));
        moments.chain(self.average.as_ref().map(|average| ("average".to_owned(), average)))
    }
}

/// Lets the average of those that `is_new` names begin at the weights of now.
fn begin(average: &Beside, parameters: &Parameters, is_new: impl Fn(usize, &Parameter) -> bool) -> Result<()> {
    for (i, parameter) in parameters.iter().enumerate().filter(|(i, p)| is_new(*i, p)) {
        if let Some(view) = average.view(i, parameter.place()) {
            parameters.gpu().copy(parameter.value().buffer(), &view)?;
        }
    }
    Ok(())
}
