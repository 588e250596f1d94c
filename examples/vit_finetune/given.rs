//! Which options stand on the command line. One that has no effect is an error: what a user asks for is not passed over.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use wgrad::data::{Crop, DataSet};
use wgrad::train::DeepSpeedConfig;

use crate::args::{Args, Data, Rival, TuneKind};
use crate::arms::Arm;
use crate::recipe::{CropKind, DropKind, OptimizerKind, Recipe};

/// What may be given anew to a run that goes on: it is about this machine.
const WITH_RESUME: [&str; 7] = ["resume", "adapter", "threads", "memory", "tuning_cache", "estimate", "list_adapters"];

/// The options that were given, by the names of their fields.
pub struct Given(BTreeSet<String>);

/// Options, whether they count, and what would make them count.
type Rule = (&'static [&'static str], bool, &'static str);

impl Given {
    /// Reads the command line, or ends the program with what is wrong with it.
    pub fn parse() -> (Args, Self) {
        let mut command = Args::command();
        let matches = command.get_matches_mut();
        let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
        let names = command.get_arguments().map(|argument| argument.get_id().as_str());
        let is_given = |name: &&str| {
            matches.try_contains_id(name).is_ok() && matches.value_source(name) == Some(ValueSource::CommandLine)
        };
        (args, Given(names.filter(is_given).map(str::to_owned).collect()))
    }

    /// Settings beside `--resume` would be ignored.
    pub fn check_resumed(&self) -> Result<()> {
        match self.0.iter().find(|name| !WITH_RESUME.contains(&name.as_str())) {
            Some(name) => bail!("--resume takes all settings from the run; {} cannot be given too", flag(name)),
            None => Ok(()),
        }
    }

    /// Finds an option that changes nothing about the run that all of them describe together.
    pub fn check(
        &self,
        args: &Args,
        recipe: &Recipe,
        steps: u64,
        config: Option<&DeepSpeedConfig>,
        data: &DataSet,
    ) -> Result<()> {
        let rules = about_data(args, recipe, data).into_iter().chain(about_training(args, recipe, config));
        let rules = rules.chain([about_saving(args, steps)]);
        for (names, counts, condition) in rules {
            let given = names.iter().find(|name| self.0.contains(**name));
            if let Some(name) = given.filter(|_| !counts) {
                bail!("{} has no effect here: it counts only {condition}", flag(name));
            }
        }
        let own = Arm::Drop(recipe.drop);
        let is_compared = args.compare.iter().any(|&rival| Arm::from(rival) == own);
        ensure!(!is_compared, "--compare has no effect with {}: that is how the run itself drops tokens", own.name());
        Ok(())
    }
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
    let arms = Arm::all(args, recipe.drop);
    let drops = |kind: DropKind| arms.iter().any(|arm| arm.drop() == kind);
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
        (&["tuning_cache", "matrix_units"], args.tune == TuneKind::Auto, "with --tune auto"),
    ]
}

fn about_saving(args: &Args, steps: u64) -> Rule {
    // How many steps take equal time is not known yet.
    let is_within = args.save_every.is_some_and(|every| every < steps) || args.compare.contains(&Rival::EqualTime);
    (&["save_every"], is_within, "where there are more steps")
}

/// A field's option.
fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}
