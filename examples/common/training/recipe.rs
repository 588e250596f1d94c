//! How a run trains: one list makes a program's recipe, the options that change it, and what is printed and saved of it.

use serde::Serialize;

/// Settings under headings, and as options what differs from them: `settings! { Recipe, Overrides; "Heading" { fields } .. }`, where
/// [`entry`] is in scope.
/// Settings that programs share are a group among the fields of a heading: `"Heading" { fields; name: Group / Options; fields }`.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $Settings:ident, $Options:ident;
        $($heading:literal {
            $($(#[doc = $doc:literal])+ $(#[clap($($clap:tt)*)])? $name:ident: $type:ty,)*
            $(; $group:ident: $Group:ident / $GroupOptions:ident;
            $($(#[doc = $more_doc:literal])+ $(#[clap($($more_clap:tt)*)])? $more:ident: $more_type:ty,)*)?
        })+
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $Settings {
            $(
                $($(#[doc = $doc])+ pub $name: $type,)*
                $(
                    #[serde(flatten)]
                    pub $group: $Group,
                    $($(#[doc = $more_doc])+ pub $more: $more_type,)*
                )?
            )+
        }

        /// What differs from them.
        #[derive(clap::Args, Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
        pub struct $Options {
            $(
                $(
                    $(#[doc = $doc])+
                    #[arg(long, help_heading = $heading $(, $($clap)*)?)]
                    #[serde(default, skip_serializing_if = "Option::is_none")]
                    pub $name: Option<$type>,
                )*
                $(
                    #[command(flatten)]
                    #[serde(flatten)]
                    pub $group: $GroupOptions,
                    $(
                        $(#[doc = $more_doc])+
                        #[arg(long, help_heading = $heading $(, $($more_clap)*)?)]
                        #[serde(default, skip_serializing_if = "Option::is_none")]
                        pub $more: Option<$more_type>,
                    )*
                )?
            )+
        }

        impl $Settings {
            /// These settings with the options that were given in the place of their own.
            pub fn with(mut self, options: &$Options) -> Self {
                $(
                    $(if let Some(value) = &options.$name { self.$name = value.clone(); })*
                    $(
                        self.$group = self.$group.with(&options.$group);
                        $(if let Some(value) = &options.$more { self.$more = value.clone(); })*
                    )?
                )+
                self
            }

            /// Each with its value, by heading.
            pub fn sections(&self) -> Vec<(&'static str, Vec<String>)> {
                vec![$((
                    $heading,
                    [
                        vec![$(entry(stringify!($name), &self.$name)),*],
                        $(
                            self.$group.sections().into_iter().flat_map(|(_, entries)| entries).collect(),
                            vec![$(entry(stringify!($more), &self.$more)),*],
                        )?
                    ].concat(),
                )),+]
            }
        }
    };
}

pub(crate) use settings;

/// In full: what a reader of a log needs to repeat the run.
pub fn show(sections: &[(&str, Vec<String>)]) -> String {
    sections.iter().map(|(heading, entries)| section(heading, entries)).collect::<Vec<_>>().join("\n")
}

/// `--name value`, without the dashes.
pub fn entry(name: &str, value: &impl Serialize) -> String {
    // As JSON, without the quotes of names.
    let value = serde_json::to_string(value).unwrap_or_default();
    let value = value.trim_matches('"');
    format!("{} {value}", name.replace('_', "-"))
}

/// A heading with its entries, in as many lines as they take.
fn section(heading: &str, entries: &[String]) -> String {
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
