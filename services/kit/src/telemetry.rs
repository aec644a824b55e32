//! Logs: one JSON object per line on standard error, which PID 1 keeps. Terminals get plain text.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging. `AIOS_LOG` sets the filter (`info` by default).
pub fn init() {
    let filter = EnvFilter::try_from_env("AIOS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if let Err(error) = result {
        eprintln!("logging was already set up: {error}");
    }
}
