//! The kept length of a schedule as a straight line, which the LayerToken learning rate reckons with.

/// The kept length as a straight line over the raw tokens seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Growth {
    /// At the first token.
    pub(super) start: f64,
    /// Where it ends.
    pub(super) end: f64,
    /// Raw tokens until then.
    pub(super) tokens: f64,
}

impl Growth {
    /// The same length at all times.
    pub(super) fn none(kept: f64) -> Self {
        Growth { start: kept, end: kept, tokens: 0.0 }
    }

    /// The line until it comes to `full`.
    pub(super) fn up_to(self, full: f64) -> Self {
        if self.end <= full {
            return self;
        }
        let share = ((full - self.start) / (self.end - self.start)).max(0.0);
        Growth { start: self.start.min(full), end: full, tokens: share * self.tokens }
    }

    /// The integral of the length over the first `tokens` raw tokens.
    pub(super) fn integral(self, tokens: f64) -> f64 {
        let growing = tokens.min(self.tokens);
        let reached = if self.tokens > 0.0 { (self.end - self.start) * growing / self.tokens } else { 0.0 };
        growing * (self.start + reached / 2.0) + (tokens - growing) * self.end
    }
}
