//! How a run trains: one list makes a program's recipe, the options that change it, and what is printed and saved of it.

use serde::Serialize;

/// The recipe of a program, under headings, and as options what differs from it.
macro_rules! recipe {
    ($($heading:literal { $($(#[doc = $doc:literal])+ $(#[clap($($clap:tt)*)])? $name:ident: $type:ty,)+ })+) => {
        /// Everything that a run's training depends on besides data, weights, seed and device.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Recipe {
            $($($(#[doc = $doc])+ pub $name: $type,)+)+
        }

        /// What differs from the named recipe.
        #[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
        pub struct Overrides {
            $($(
                $(#[doc = $doc])+
                #[arg(long, help_heading = $heading $(, $($clap)*)?)]
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type>,
            )+)+
        }

        impl Recipe {
            /// The recipe with the options that were given in the place of its own.
            pub fn with(mut self, overrides: &Overrides) -> Self {
                $($(if let Some(value) = &overrides.$name { self.$name = value.clone(); })+)+
                self
            }
        }

        /// In full: what a reader of a log needs to repeat the run.
        impl std::fmt::Display for Recipe {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                use $crate::training::recipe::{entry, section};
                f.write_str(&[$(section($heading, &[$(entry(stringify!($name), &self.$name)),+])),+].join("\n"))
            }
        }
    };
}

pub(crate) use recipe;

/// `--name value`, without the dashes.
pub fn entry(name: &str, value: &impl Serialize) -> String {
    // As JSON, without the quotes of names.
    let value = serde_json::to_string(value).unwrap_or_default();
    let value = value.trim_matches('"');
    format!("{} {value}", name.replace('_', "-"))
}

/// A heading with its entries, in as many lines as they take.
pub fn section(heading: &str, entries: &[String]) -> String {
    const WIDTH: usize = 110;
    let mut lines = String::new();
    let mut line = format!("  {:16}", heading.to_lowercase());
    for (i, entry) in entries.iter().enumerate() {
        if line.len() + entry.len() + 2 > WIDTH {
            lines += line.trim_end();
            lines += "\n";
            line = " ".repeat(18);
        }
        line += entry;
        line += if i + 1 < entries.len() { ", " } else { "" };
    }
    lines + &line
}

/// The steps of a run, where an epoch has `per_epoch`: `steps` if that is not 0, else those of `epochs`, which become more where
/// those are fewer than `min_steps`.
pub fn settled(steps: u64, epochs: &mut u64, min_steps: u64, per_epoch: u64) -> u64 {
    if steps > 0 {
        return steps;
    }
    *epochs = (*epochs).max(min_steps.div_ceil(per_epoch.max(1)));
    epochs.saturating_mul(per_epoch)
}
