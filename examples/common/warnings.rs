//! Shows the library's warnings, in every program, and no driver's.

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

/// From here on, warnings and errors of the library go to the standard error. Programs begin with it: no other thread may run yet.
pub fn show() {
    hush_mesa();
    // Fails only where there is a logger already, which then shows them.
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// Where there is no login session, as in a container, Mesa's choice of a device makes a library of Wayland's complain at every start,
/// in lines that look like errors of ours. A folder without a display in it is found empty without a word.
fn hush_mesa() {
    const SESSION: &str = "XDG_RUNTIME_DIR";
    if cfg!(target_os = "linux") && std::env::var_os(SESSION).is_none() {
        // SAFETY: no other thread runs that could read the environment meanwhile.
        unsafe { std::env::set_var(SESSION, std::env::temp_dir()) };
    }
}
