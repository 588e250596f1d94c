//! Shows the library's warnings, in every program.

use std::io::Write;

struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("wgrad")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // The names of files in them might command the terminal.
            let text = record.args().to_string().replace(char::is_control, "\u{fffd}");
            // Nobody need read them.
            let _ = writeln!(std::io::stderr(), "{}: {text}", record.level().as_str().to_lowercase());
        }
    }

    fn flush(&self) {}
}

/// From here on, warnings and errors of the library go to the standard error.
pub fn show() {
    // Fails only where there is a logger already, which then shows them.
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}
