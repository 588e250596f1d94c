//! The command that goes on with a run, as a shell takes it.

use std::path::Path;

/// It is given in the folder that this program was started in, on the same machine: with the options in `about_machine` that have
/// a value, which no run's folder keeps.
pub fn resuming(folder: &Path, about_machine: impl IntoIterator<Item = (&'static str, Option<String>)>) -> String {
    let program = std::env::args().next().unwrap_or_else(|| env!("CARGO_CRATE_NAME").to_owned());
    let mut words = vec![program, "--resume".to_owned(), folder.display().to_string()];
    words.extend(about_machine.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten());
    words.iter().map(|word| in_shell(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell takes it whole.
fn in_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/\\._-:=,+@%".contains(c);
    match word {
        _ if !word.is_empty() && word.chars().all(|c| is_plain(c) && (cfg!(windows) || c != '\\')) => word.to_owned(),
        _ if cfg!(windows) => format!("\"{word}\""),
        _ => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
