//! Which options stand on the command line. One that has no effect is an error: what a user asks for is not passed over.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};

/// What would make options count that a configuration file settles.
pub const NO_CONFIG: &str = "without --ltd-config, which settles it";

/// The options that were given, by the names of their fields.
pub struct Given(BTreeSet<String>);

/// Options, whether they count, and what would make them count.
pub type Rule = (&'static [&'static str], bool, &'static str);

impl Given {
    /// Reads the command line, or ends the program with what is wrong with it.
    pub fn parse<A: CommandFactory + FromArgMatches>() -> (A, Self) {
        let mut command = A::command();
        let matches = command.get_matches_mut();
        let args = A::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
        let names = command.get_arguments().map(|argument| argument.get_id().as_str());
        let is_given = |name: &&str| {
            matches.try_contains_id(name).is_ok() && matches.value_source(name) == Some(ValueSource::CommandLine)
        };
        (args, Given(names.filter(is_given).map(str::to_owned).collect()))
    }

    /// Whether an option stands there, by the name of its field.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Settings beside `--resume`, other than `allowed`, would be ignored.
    pub fn check_resumed(&self, allowed: &[&str]) -> Result<()> {
        match self.0.iter().find(|name| *name != "resume" && !allowed.contains(&name.as_str())) {
            Some(name) => bail!("--resume takes all settings from the run; {} cannot be given too", flag(name)),
            None => Ok(()),
        }
    }

    /// Finds an option that does not count.
    pub fn check(&self, rules: impl IntoIterator<Item = Rule>) -> Result<()> {
        for (names, counts, condition) in rules {
            let given = names.iter().find(|name| self.0.contains(**name));
            if let Some(name) = given.filter(|_| !counts) {
                bail!("{} has no effect here: it counts only {condition}", flag(name));
            }
        }
        Ok(())
    }
}

/// A field's option.
fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}
