//! A DeepSpeed configuration: where it is read and kept, how it drops tokens, and what is printed of it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::nn::Extent;
use wgrad::optim::At;
use wgrad::train::{DeepSpeedConfig, ModelType, read_deepspeed};

use super::comparison::Way;
use super::files;

/// A run's copy of its configuration.
const COPY: &str = "ltd_config.json";

/// The configuration at `path`, if there is one. A run that goes on, in the folder `run`, has the copy of it that it
/// began with, whatever has become of the file since.
pub fn read(path: Option<&Path>, run: Option<&Path>) -> Result<Option<DeepSpeedConfig>> {
    let Some(path) = path else { return Ok(None) };
    // Runs of earlier releases have none.
    let copy = run.map(|run| run.join(COPY)).filter(|copy| copy.exists());
    Ok(Some(read_deepspeed(copy.as_deref().unwrap_or(path))?))
}

/// Keeps the configuration at `path`, if there is one, in the folder of a new run.
pub fn keep(path: Option<&Path>, run: &Path) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    files::replace(&run.join(COPY), &text)
}

/// How the first arm drops tokens: by random-LTD, which is `ltd`, where the file has it, at full length where the file
/// says that it is off and nobody `has_chosen` another way, and else as the recipe says.
pub fn main_way<W: Way>(config: Option<&DeepSpeedConfig>, ltd: W, recipe: W, has_chosen: bool) -> W {
    match config {
        Some(config) if config.random_ltd.is_some() => ltd,
        Some(config) if config.is_random_ltd_off() && !has_chosen => W::NONE,
        _ => recipe,
    }
}

/// The file's random-LTD, if it has one, in a run of this seed: of runs that differ in their seed alone, each has draws
/// of its own.
pub fn of_file(config: Option<&DeepSpeedConfig>, seed: u64) -> Option<RandomLtd> {
    let ltd = config?.random_ltd.clone()?;
    let seed = ltd.seed().wrapping_add(seed);
    Some(ltd.with_seed(seed))
}

/// The same in the same blocks with the first length throughout, which is what the constant arm is beside it.
pub fn at_start_length(ltd: &RandomLtd) -> wgrad::Result<RandomLtd> {
    ltd.clone().with_schedule(Schedule::constant(ltd.schedule().kept_length(0))?)
}

/// What it says of the learning rate and the kept length, in the place of the recipe's.
pub fn schedules(config: &DeepSpeedConfig, steps: u64, tokens: usize) -> String {
    let mut lines = String::new();
    if let Some(rate) = &config.rate {
        let drop = TokenDrop::from(config.random_ltd.clone());
        let depth = config.random_ltd.as_ref().map_or(0, RandomLtd::total_blocks);
        let before =
            |step| drop.layer_tokens_before(step, config.batch_size as u64, Extent { depth, tokens, prefix: 0 });
        let at = |step| At { step, layer_tokens: before(step).consumed };
        let [first, half, last] = [0, steps / 2, steps - 1].map(|step| rate.rate(at(step)));
        lines += &format!("\n  learning rate   {first} at the first step, {half} half-way, {last} at the last");
    }
    if let Some(ltd) = &config.random_ltd {
        let stages: Vec<String> =
            ltd.stages(steps, tokens).iter().map(|stage| format!("{}:{}", stage.first_step, stage.kept)).collect();
        lines += &format!(
            "\n  blocks          {:?} keep, by step from 0, {}, ltd-keep-prefix {}",
            ltd.ltd_blocks(),
            stages.join(" "),
            ltd.keep_prefix_tokens()
        );
    }
    lines
}

/// What of it does not fit a run of so many steps and tokens.
pub fn unfit(config: &DeepSpeedConfig, steps: u64, tokens: usize) -> impl Iterator<Item = String> {
    [never_full(config, steps, tokens), of_another_length(config, tokens)].into_iter().flatten()
}

/// That the kept length ends below the full length, if it does: the model is then measured at a length that it has
/// never learnt at.
fn never_full(config: &DeepSpeedConfig, steps: u64, tokens: usize) -> Option<String> {
    let schedule = config.random_ltd.as_ref()?.schedule();
    let (last, end) = (schedule.kept_length(steps.saturating_sub(1)), schedule.kept_length(u64::MAX));
    let why = if end < tokens {
        format!("its max_value is {end}")
    } else {
        format!("its require_steps are too many for a run of {steps}")
    };
    (last < tokens).then(|| {
        format!(
            "the configuration file's random_ltd_schedule never reaches full length: at the last step {last} of \
             {tokens} tokens are kept; {why}"
        )
    })
}

/// That its rate by layer tokens is planned for sequences of another length than the run's `tokens`, if it is.
fn of_another_length(config: &DeepSpeedConfig, tokens: usize) -> Option<String> {
    let (rate, ltd) = config.rate.as_ref().zip(config.random_ltd.as_ref())?;
    let planned = ltd.schedule().kept_length(u64::MAX);
    (rate.follows_layer_tokens() && planned != tokens).then(|| {
        format!(
            "the configuration file's layer_token_lr_schedule is planned for its max_value of {planned} tokens, and this run has {tokens}: unless the file \
             tells its layer tokens itself, the rate comes to its end too early or too late"
        )
    })
}

/// Its learning rate is made for one run: that by layer tokens for one that drops them so, others for its number of steps.
pub fn check_rivals(config: Option<&DeepSpeedConfig>, are_there: bool, by_time: bool) -> Result<()> {
    let Some(rate) = config.and_then(|config| config.rate.as_ref()) else { return Ok(()) };
    ensure!(
        !(are_there && rate.follows_layer_tokens()),
        "--compare: the configuration file's layer_token_lr_schedule is made for runs that drop tokens as the file says; compare without \
         --ltd-config, by --lr-schedule layer-token"
    );
    ensure!(
        !(by_time && rate.has_end()),
        "--compare equal-time: the configuration file's scheduler is made for another number of steps; compare without --ltd-config"
    );
    Ok(())
}

/// What it says of the kind of model that does not fit the one that is trained, if it says such a thing.
pub fn of_another_kind(config: &DeepSpeedConfig, own: ModelType) -> Option<String> {
    let name = |kind| match kind {
        ModelType::Encoder => "encoder",
        ModelType::Decoder => "decoder",
    };
    let theirs = config.model_type.filter(|theirs| *theirs != own)?;
    Some(format!(
        "the configuration file's model_type is \"{}\", but this model is of type {}",
        name(theirs),
        name(own)
    ))
}
