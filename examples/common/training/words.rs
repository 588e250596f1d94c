//! How a program calls what the engine measures, and shows it.

use wgrad::train::{Evaluation, StepMetrics};

/// The words and units of a program.
#[derive(Clone, Copy)]
pub struct Words {
    pub score: Score,
    /// What its speed counts, as in "tokens/s".
    pub units: &'static str,
    /// How many of them a step has.
    pub count: fn(&StepMetrics) -> u64,
}

/// How well a model does, besides its loss.
#[derive(Clone, Copy)]
pub struct Score {
    /// As in "test perplexity".
    pub name: &'static str,
    /// Above its curves.
    pub title: &'static str,
    /// From what was measured, where that tells it.
    pub of: fn(Measured) -> Option<f64>,
    /// A reader sees so many times the score,
    pub times: f64,
    /// and this behind it.
    pub unit: &'static str,
}

/// What the engine measures, of a step or of a whole split.
#[derive(Clone, Copy)]
pub struct Measured {
    /// Nothing where half precision left the step out.
    pub loss: Option<f64>,
    /// Share of right answers, where they are counted.
    pub accuracy: Option<f64>,
}

impl Score {
    /// As a reader sees it.
    pub fn show(&self, measured: Measured, digits: usize) -> String {
        format!("{:.digits$}{}", self.shown(measured).unwrap_or(f64::NAN), self.unit)
    }

    /// The number that a reader sees.
    pub fn shown(&self, measured: Measured) -> Option<f64> {
        (self.of)(measured).map(|score| self.times * score)
    }
}

impl From<&StepMetrics> for Measured {
    fn from(m: &StepMetrics) -> Measured {
        Measured {
            loss: (!m.excused).then_some(m.loss.into()),
            accuracy: (m.counted > 0).then(|| f64::from(m.correct) / m.counted as f64),
        }
    }
}

impl From<Evaluation> for Measured {
    fn from(evaluation: Evaluation) -> Measured {
        let Evaluation { loss, accuracy, counted } = evaluation;
        Measured { loss: Some(loss), accuracy: (counted > 0).then_some(accuracy) }
    }
}
