//! What is printed: Markdown.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::facts::{Choice, Facts};
use crate::forecast::{self, Forecast};
use crate::self_test::SelfTest;
use crate::speed::{self, Speed};

#[derive(Serialize)]
pub struct Report {
    pub facts: Facts,
    pub tested: SelfTest,
    pub speed: Option<Speed>,
    pub beside: Option<Beside>,
    pub forecasts: Vec<Forecast>,
}

/// The machine's CPU driver.
#[derive(Serialize)]
pub struct Beside {
    pub adapter: String,
    pub speed: Speed,
}

impl Report {
    /// Whether what is computed here is right.
    pub fn is_fit(&self) -> bool {
        self.tested.failures.is_empty()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Report { facts, tested, speed, beside, forecasts } = self;
        writeln!(f, "## {}\n\nwgrad {}, {}\n", facts.adapter, facts.version, facts.system)?;
        facts.fmt(f)?;
        tested.fmt(f)?;
        if let Some(speed) = speed {
            speeds(f, speed, beside.as_ref())?;
        }
        if !forecasts.is_empty() {
            forecast(f, forecasts)?;
        }
        let verdict = match (self.is_fit(), facts.adapter.contains("Cpu")) {
            (false, _) => "**not fit**: results are wrong, see the self-test above; please report this page",
            (true, true) => "**fit**, but the driver computes on the CPU: for trials and tests, not for long trainings",
            (true, false) => "**fit** for training",
        };
        writeln!(f, "\nVerdict: {verdict}.")
    }
}

impl Display for Facts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "Adapters of this machine:\n")?;
        self.adapters.iter().try_for_each(|adapter| writeln!(f, "- {adapter}"))?;
        writeln!(f, "\n| limit | |\n|---|---:|")?;
        self.limits.iter().try_for_each(|(name, value)| writeln!(f, "| {name} | {value} |"))?;
        if let Some(bytes) = self.free_memory {
            writeln!(f, "| free memory, MB | {} |", bytes / 1_000_000)?;
        }
        writeln!(f, "\nFeatures: {}.\n\n| | chosen | why |\n|---|---|---|", self.features.join(", "))?;
        self.choices.iter().try_for_each(|Choice { what, chosen, why }| writeln!(f, "| {what} | {chosen} | {why} |"))
    }
}

impl Display for SelfTest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let SelfTest { checks, failures, kernels_run, kernels_left } = self;
        let all = kernels_run + kernels_left.len();
        writeln!(
            f,
            "\nSelf-test: {} of {checks} checks passed, with {kernels_run} of {all} kernels.",
            checks - failures.len()
        )?;
        if !kernels_left.is_empty() {
            writeln!(f, "Not run here: {}.", by_kind(kernels_left))?;
        }
        failures.iter().try_for_each(|failure| writeln!(f, "- **wrong**: {failure}"))
    }
}

/// Names of kernels counted by what stands before their first point.
fn by_kind(names: &[&str]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names {
        *counts.entry(name.split('.').next().unwrap_or(name)).or_default() += 1;
    }
    let kinds: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} of {kind}")).collect();
    kinds.join(", ")
}

fn speeds(f: &mut Formatter<'_>, own: &Speed, beside: Option<&Beside>) -> fmt::Result {
    let Some(Beside { adapter, speed }) = beside else {
        writeln!(f, "\n| measured | |\n|---|---:|")?;
        return measured(own).iter().try_for_each(|row| writeln!(f, "| {} | {} |", row.what, row.value()));
    };
    writeln!(f, "\nThe last column is this machine's CPU driver, {adapter}.")?;
    writeln!(f, "\n| measured | | CPU driver |\n|---|---:|---:|")?;
    let mut rows = measured(own).into_iter().zip(measured(speed));
    rows.try_for_each(|(row, other)| writeln!(f, "| {} | {} | {} |", row.what, row.value(), other.value()))
}

/// A measured value.
struct Row {
    /// Of what, with its unit: the same on each device.
    what: String,
    value: f64,
    /// What is this device's own about it.
    how: Option<String>,
}

impl Row {
    fn value(&self) -> String {
        let value = format!("{:.1}", self.value);
        self.how.iter().fold(value, |value, how| format!("{value} ({how})"))
    }
}

/// What was measured.
fn measured(speed: &Speed) -> Vec<Row> {
    let bound = |what: &str, value| Row { what: what.to_owned(), value, how: None };
    let bounds = [
        bound("multiply-adds in registers, GFLOP/s", speed.bounds.fma_gflops),
        bound("bytes read and written, GB/s", speed.bounds.gb_s()),
    ];
    let product = |rate: &speed::Rate| {
        let speed::Rate { name, sizes, gflop_s, limit, share } = rate;
        let how = format!("{:.0} % of the {limit} bound", 100.0 * share);
        Row { what: format!("{name}, {sizes}, GFLOP/s"), value: *gflop_s, how: Some(how) }
    };
    let step = |step: &speed::StepTime| {
        let speed::StepTime { model, precision, kept, milliseconds, host_milliseconds, dispatches, .. } = step;
        let what = format!("{model}, {kept} tokens, step of {}, ms", speed::BATCH);
        let how = format!("{precision}, {dispatches} dispatches, host {host_milliseconds:.1}");
        Row { what, value: *milliseconds, how: Some(how) }
    };
    bounds.into_iter().chain(speed.products.iter().map(product)).chain(speed.steps.iter().map(step)).collect()
}

fn forecast(f: &mut Formatter<'_>, forecasts: &[Forecast]) -> fmt::Result {
    let (batch, pictures) = (forecast::BATCH, forecast::PICTURES);
    writeln!(
        f,
        "\nFinetuning at 224 pixels, batch {batch}, would take (estimated, at the speed of the steps above):\n"
    )?;
    writeln!(
        f,
        "| | memory, MB | recomputing blocks | fits | minutes for {pictures} pictures |\n|---|---:|---:|---|---:|"
    )?;
    for Forecast { model, bytes, bytes_recomputing, minutes, fits } in forecasts {
        let fits = fits.map_or("unknown", |fits| if fits { "yes" } else { "no" });
        let [all, less] = [bytes, bytes_recomputing].map(|bytes| bytes / 1_000_000);
        writeln!(f, "| {model} | {all} | {less} | {fits} | {minutes:.1} |")?;
    }
    Ok(())
}
