//! How random-LTD drops tokens, in any program.

use anyhow::{Result, ensure};
use wgrad::ltd::Schedule;
use wgrad::train::DeepSpeedConfig;

use super::given::{NO_CONFIG, Rule};
use super::kinds::LtdSchedule;
use super::ltd_drop::{KeptLength, Ltd, Rise};
use super::recipe::{entry, settings};
use super::values::{BlockList, Length};

settings! {
    /// The kept length over the steps, and where tokens are dropped.
    LtdSettings, LtdOptions;
    "Dropped tokens" {
        /// How the kept length rises
        #[clap(value_enum)]
        ltd_schedule: LtdSchedule,
        /// Tokens kept at first, and throughout where they are constant: a number or a share such as 0.5
        ltd_start: Length,
        /// Tokens kept at the end of the schedule, a number or a share
        ltd_end: Length,
        /// Share of the steps over which the kept length rises
        ltd_ramp: f64,
        /// The kept length is a multiple of this
        ltd_granularity: usize,
        /// Blocks that drop tokens, counted from 0, as 1,2,3; auto is all but the first and last
        ltd_blocks: BlockList,
        /// First tokens that are never dropped: 1 keeps the class token, 0 is the paper's
        ltd_keep_prefix: usize,
    }
}

impl LtdSettings {
    /// The first and the last kept length.
    pub fn ends(&self, tokens: usize) -> Result<[usize; 2]> {
        let [start, end] = [self.ltd_start, self.ltd_end].map(|length| length.of(tokens));
        ensure!(
            start <= tokens && end <= tokens,
            "--ltd-start {start} and --ltd-end {end} must be at most {tokens} tokens"
        );
        Ok([start, end])
    }

    /// With the kept length's schedule.
    pub fn rising(&self, tokens: usize) -> Result<Ltd> {
        let [start, end] = self.ends(tokens)?;
        let schedule: Rise = match self.ltd_schedule {
            LtdSchedule::Linear => Schedule::linear,
            LtdSchedule::FixedLinear => Schedule::fixed_linear,
        };
        let (ramp, granularity) = (self.ltd_ramp, self.ltd_granularity);
        Ok(self.drops(KeptLength::Rising { start, end, ramp, granularity, schedule }))
    }

    /// With the start length throughout.
    pub fn constant(&self, tokens: usize) -> Ltd {
        self.drops(KeptLength::Constant(self.ltd_start.of(tokens)))
    }

    fn drops(&self, length: KeptLength) -> Ltd {
        let blocks = self.ltd_blocks.chosen().map(<[_]>::to_vec);
        Ltd { length, blocks, keep_prefix: self.ltd_keep_prefix }
    }

    /// When its options count, where some run's length `rises`, or `is_constant`.
    pub fn rules(config: Option<&DeepSpeedConfig>, rises: bool, is_constant: bool) -> [Rule; 3] {
        let by_config = config.is_some_and(|config| config.random_ltd.is_some());
        let is_scheduled = rises && !by_config;
        [
            (&["drop"], !by_config, NO_CONFIG),
            (
                &["ltd_schedule", "ltd_end", "ltd_ramp", "ltd_granularity"],
                is_scheduled,
                "with --drop random-ltd or --compare random-ltd, and without --ltd-config",
            ),
            (
                &["ltd_start", "ltd_blocks", "ltd_keep_prefix"],
                is_scheduled || (is_constant && !by_config),
                "where a run drops tokens by random-LTD, and without --ltd-config",
            ),
        ]
    }
}
