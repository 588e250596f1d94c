//! Options that change nothing about the run that all of them describe together: an error.

use anyhow::{Result, ensure};
use wgrad::data::{Crop, DataSet};
use wgrad::train::DeepSpeedConfig;

use crate::args::{Args, Data};
use crate::recipe::{CropKind, DropKind, Recipe, RecipeName, Rival};
use crate::training::comparison::Arm;
use crate::training::deepspeed;
use crate::training::given::{Given, Rule};
use crate::training::ltd::LtdSettings;
use crate::training::values::FreezeKind;

/// Finds one among those that were given.
pub fn check(
    given: &Given,
    args: &Args,
    recipe: &Recipe,
    steps: u64,
    config: Option<&DeepSpeedConfig>,
    data: &DataSet,
) -> Result<()> {
    let rules = about_probe(args, recipe)
        .into_iter()
        .chain(about_data(args, recipe, data))
        .chain(recipe.adapters.rules(recipe.training.freeze));
    let rules = rules.chain(recipe.training.rules(config)).chain([about_head(recipe)]);
    // How many steps take equal time is not known yet.
    let saving = args.output.rule(steps, args.compare.contains(&Rival::EqualTime));
    given.check(rules.chain(about_tokens(args, recipe, config)).chain(args.device.rules()).chain([saving]))?;
    deepspeed::check_rivals(config, !args.compare.is_empty(), args.compare.contains(&Rival::EqualTime))?;
    let own = Arm::Drop(recipe.drop);
    // Beside a run at full length, one of equal time is the same again.
    let is_compared = args.compare.iter().any(|&rival| Arm::from(rival).drop() == own.drop());
    ensure!(!is_compared, "--compare has no effect with {}: that is how the run itself drops tokens", own.name());
    Ok(())
}

fn about_data(args: &Args, recipe: &Recipe, data: &DataSet) -> [Rule; 5] {
    let is_folder = args.data() == Data::Folder;
    let is_drawn = is_folder && (data.validation.is_drawn() || data.test.is_drawn());
    let are_photos = matches!(data.eval_crop, Crop::Center { .. } | Crop::Squash { .. });
    [
        (&["data_dir"], args.data() != Data::Digits, "with another data set than the embedded digits"),
        (&["split_seed"], is_drawn, "where a folder leaves validation or test pictures to be drawn"),
        (&["strict"], is_folder, "with a folder of pictures"),
        (&["eval_crop"], are_photos, "with a folder of pictures"),
        (&["crop_scale"], recipe.crop == CropKind::RandomResized, "with --crop random-resized"),
    ]
}

/// The rate of a layer follows from how far it is below the head.
fn about_head(recipe: &Recipe) -> Rule {
    let is_deep = recipe.training.freeze != FreezeKind::AllButHead;
    (&["layer_decay"], is_deep, "where more is trained than the head, whose rate it leaves as it is")
}

/// A probe's features stay as they are: nothing random comes before the head, and nothing below it is trained.
fn about_probe(args: &Args, recipe: &Recipe) -> [Rule; 5] {
    const WHOLE: &str = "without --probe, which computes the features of each picture once";
    let is_whole = !args.probe;
    [
        (&["recipe"], is_whole || args.recipe == RecipeName::LinearProbe, "without --probe, which is of linear-probe"),
        (
            &[
                "crop",
                "crop_scale",
                "mirror",
                "auto_augment",
                "color_jitter",
                "erasing",
                "mixup",
                "cutmix",
                "drop_path",
            ],
            is_whole,
            WHOLE,
        ),
        (
            &["lora", "freeze", "layer_decay", "drop", "recompute_blocks"],
            is_whole,
            "without --probe, which trains the head alone",
        ),
        (&["precision"], is_whole, "without --probe, which is f32 throughout"),
        (
            &["lr_schedule"],
            is_whole || !recipe.training.lr_schedule.is_by_layer_tokens(),
            "without --probe, whose head consumes no layer tokens, where it goes by them",
        ),
    ]
}

fn about_tokens(args: &Args, recipe: &Recipe, config: Option<&DeepSpeedConfig>) -> impl Iterator<Item = Rule> {
    let comparison = args.comparison(recipe.drop);
    let drops = |kind: DropKind| comparison.arms().iter().any(|arm| arm.drop() == kind);
    let of_ltd = LtdSettings::rules(config, drops(DropKind::RandomLtd), drops(DropKind::Constant));
    let of_patches: Rule = (
        &["patchdrop_keep", "patchdrop_until"],
        drops(DropKind::Patchdrop),
        "with --drop patchdrop or --compare patchdrop",
    );
    of_ltd.into_iter().chain([of_patches])
}
