//! Printing to a reader that may go away, as `| head` does: what a program writes into files is not lost for that.

/// As `println!`, but without its panic where the standard output is closed or full.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

pub(crate) use say;
