//! Options that change nothing about the run that all of them describe together: an error.

use anyhow::{Result, ensure};
use wgrad::data::{Crop, DataSet};
use wgrad::train::DeepSpeedConfig;

use crate::args::{Args, Data, Rival};
use crate::recipe::{CropKind, DropKind, Recipe};
use crate::training::comparison::Arm;
use crate::training::device::TuneKind;
use crate::training::given::{Given, Rule};
use crate::training::kinds::OptimizerKind;

/// Finds one among those that were given.
pub fn check(
    given: &Given,
    args: &Args,
    recipe: &Recipe,
    steps: u64,
    config: Option<&DeepSpeedConfig>,
    data: &DataSet,
) -> Result<()> {
    let rules = about_data(args, recipe, data).into_iter().chain(about_training(args, recipe, config));
    given.check(rules.chain([about_saving(args, steps)]))?;
    let own = Arm::Drop(recipe.drop);
    let is_compared = args.compare.iter().any(|&rival| Arm::from(rival) == own);
    ensure!(!is_compared, "--compare has no effect with {}: that is how the run itself drops tokens", own.name());
    Ok(())
}

fn about_data(args: &Args, recipe: &Recipe, data: &DataSet) -> [Rule; 5] {
    let is_folder = args.data() == Data::Folder;
    let is_drawn = is_folder && (data.validation.is_drawn() || data.test.is_drawn());
    let are_photos = matches!(data.eval_crop, Crop::Centre { .. });
    [
        (&["data_dir"], args.data() != Data::Digits, "with another data set than the embedded digits"),
        (&["split_seed"], is_drawn, "where a folder leaves validation or test pictures to be drawn"),
        (&["strict"], is_folder, "with a folder of pictures"),
        (&["eval_crop"], are_photos, "with a folder of pictures"),
        (&["crop_scale"], recipe.crop == CropKind::RandomResized, "with --crop random-resized"),
    ]
}

fn about_training(args: &Args, recipe: &Recipe, config: Option<&DeepSpeedConfig>) -> [Rule; 11] {
    const NO_CONFIG: &str = "without --ltd-config, which settles it";
    let comparison = args.comparison(recipe.drop);
    let drops = |kind: DropKind| comparison.arms().iter().any(|arm| arm.drop() == kind);
    let by_config = config.is_some_and(|config| config.random_ltd.is_some());
    let is_rule_free = config.is_none_or(|config| config.rule.is_none());
    let is_scheduled = drops(DropKind::RandomLtd) && !by_config;
    [
        (&["epochs", "min_steps"], recipe.steps == 0, "without --steps"),
        (&["batch_size", "accumulate", "clip_grad"], config.is_none(), NO_CONFIG),
        (&["optimizer", "weight_decay", "momentum", "nesterov"], is_rule_free, NO_CONFIG),
        (&["lr", "lr_schedule", "warmup"], config.is_none_or(|config| config.rate.is_none()), NO_CONFIG),
        (&["precision"], config.is_none_or(|config| config.loss_scale.is_none()), NO_CONFIG),
        (&["drop"], !by_config, NO_CONFIG),
        (&["momentum", "nesterov"], recipe.optimizer == OptimizerKind::Sgd, "with --optimizer sgd"),
        (
            &["ltd_schedule", "ltd_end", "ltd_ramp", "ltd_granularity"],
            is_scheduled,
            "with --drop random-ltd or --compare random-ltd, and without --ltd-config",
        ),
        (
            &["ltd_start", "ltd_blocks", "ltd_keep_prefix"],
            is_scheduled || drops(DropKind::Constant),
            "where a run drops tokens by random-LTD, and without --ltd-config",
        ),
        (
            &["patchdrop_keep", "patchdrop_until"],
            drops(DropKind::Patchdrop),
            "with --drop patchdrop or --compare patchdrop",
        ),
        (&["tuning_cache", "matrix_units"], args.device.tune == TuneKind::Auto, "with --tune auto"),
    ]
}

fn about_saving(args: &Args, steps: u64) -> Rule {
    // How many steps take equal time is not known yet.
    let is_within = args.save_every.is_some_and(|every| every < steps) || args.compare.contains(&Rival::EqualTime);
    (&["save_every"], is_within, "where there are more steps")
}
