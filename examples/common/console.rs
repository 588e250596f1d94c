//! Printing. A reader may go away, as `| head` does: what a run writes to its folder is not lost for that.

/// As `println!`, but without its panic where the standard output is closed or full.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

/// As `eprintln!`, in the same way.
macro_rules! complain {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

pub(crate) use {complain, say};

/// Without control characters, which in a file's name or a checkpoint's labels might command the terminal; tabs stay, which cannot.
pub fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\t', "\u{fffd}")
}
