//! Options that change nothing about the run that all of them describe together: an error.

use anyhow::{Result, ensure};
use wgrad::optim::LrSchedule;
use wgrad::train::DeepSpeedConfig;

use super::args::Common;
use super::recipe::{DropKind, Recipe, Rival};
use crate::training::comparison::Arm;
use crate::training::deepspeed;
use crate::training::given::{Given, Rule};
use crate::training::ltd::LtdSettings;

/// Finds one among those that were given; `own` are the program's.
pub fn check(
    given: &Given,
    args: &Common,
    own: &[Rule],
    recipe: &Recipe,
    steps: u64,
    config: Option<&DeepSpeedConfig>,
) -> Result<()> {
    // How many steps take equal time is not known yet.
    let saving = args.output.rule(steps, args.compare.contains(&Rival::EqualTime));
    let rules = own.iter().copied().chain(recipe.training.rules(config)).chain(about_tokens(args, recipe, config));
    given.check(rules.chain(args.device.rules()).chain([saving]))?;
    deepspeed::check_rivals(config, !args.compare.is_empty(), args.compare.contains(&Rival::EqualTime))?;
    let has_end = config.and_then(|config| config.rate.as_ref()).is_some_and(LrSchedule::has_end);
    ensure!(
        !has_end || recipe.layer_tokens == 0 || args.compare.is_empty(),
        "--compare with --layer-tokens: arms that drop other tokens take other numbers of steps, and the configuration \
         file's scheduler is made for one; compare without --ltd-config, or by --steps"
    );
    let main = Arm::Drop(recipe.drop);
    // Beside a run at full length, one of equal time is the same again.
    let is_compared = args.compare.iter().any(|&rival| Arm::from(rival).drop() == main.drop());
    ensure!(!is_compared, "--compare has no effect with {}: that is how the run itself drops tokens", main.name());
    Ok(())
}

fn about_tokens(args: &Common, recipe: &Recipe, config: Option<&DeepSpeedConfig>) -> impl Iterator<Item = Rule> {
    let comparison = args.comparison(recipe.drop);
    let drops = |kind: DropKind| comparison.arms().iter().any(|arm| arm.drop() == kind);
    let (rises, is_constant) = (drops(DropKind::RandomLtd), drops(DropKind::Constant));
    let by_config = config.is_some_and(|config| config.random_ltd.is_some());
    let own: [Rule; 5] = [
        (&["epochs", "min_steps", "steps"], recipe.layer_tokens == 0, "without --layer-tokens"),
        (&["ltd_interval"], rises && !by_config, "where a run drops tokens by random-LTD, and without --ltd-config"),
        (&["ltd_schedule", "ltd_ramp"], recipe.ltd_interval == 0, "without --ltd-interval, which settles it"),
        (&["bypass_keep"], drops(DropKind::Tokenbypass), "with --drop tokenbypass or --compare tokenbypass"),
        (
            &["patchdrop_keep", "patchdrop_until"],
            drops(DropKind::Patchdrop),
            "with --drop patchdrop or --compare patchdrop",
        ),
    ];
    LtdSettings::rules(config, rises, is_constant).into_iter().chain(own)
}
