//! Logging and the access log. What is logged is chosen at the call: addresses masked, never a secret.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Telemetry};

pub mod access_log;

/// Installs the log to standard error.
///
/// # Errors
/// A sentence when `telemetry.log` is no filter.
pub fn install(settings: &Telemetry) -> Result<(), String> {
    let filter = EnvFilter::try_new(&settings.log)
        .map_err(|_| "telemetry.log: must be error, warn, info, debug or a filter".to_owned())?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Whoever reads the log may have gone: no reason for a panic in whatever wanted to say something.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
