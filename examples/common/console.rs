//! Printing, of answers, of messages, and of what others have written.

#[path = "say.rs"]
mod say;

pub(crate) use say::say;

/// As `eprintln!`, but without its panic where the standard error is closed or full.
macro_rules! complain {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

pub(crate) use complain;

/// Without control characters, which in a file's name or a checkpoint's labels might command the terminal; tabs stay, which cannot.
pub fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\t', "\u{fffd}")
}
