//! What is printed of a DeepSpeed configuration.

use anyhow::{Result, ensure};
use wgrad::ltd::{RandomLtd, TokenDrop};
use wgrad::nn::Extent;
use wgrad::optim::At;
use wgrad::train::{DeepSpeedConfig, ModelType};

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
        lines += &format!("\n  blocks          {:?} keep, by step, {}", ltd.ltd_blocks(), stages.join(" "));
    }
    lines
}

/// That its rate by layer tokens is planned for sequences of another length than the run's `tokens`, if it is.
pub fn of_another_length(config: &DeepSpeedConfig, tokens: usize) -> Option<String> {
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
