//! Shows the library's warnings, in every program.

use std::io::Write;

struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("wgrad")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // Nobody need read them.
            let _ = writeln!(std::io::stderr(), "{}: {}", record.level().as_str().to_lowercase(), record.args());
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
