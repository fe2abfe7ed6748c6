//! Reading the configuration again while we run. Guard, limits, routes and certificates are put in force, all of them or none; what else differs is
//! named, because it needs a restart.

use std::sync::{Mutex, PoisonError};

use super::App;
use crate::config::source::Source;
use crate::config::{Config, Problems};

/// What a reload puts in force: keys, and sections (with a dot at the end).
const RELOADED: [&str; 5] = [
    "guard.",
    "limits.enabled",
    "limits.rules",
    "gateway.routes",
    "server.tls.certificates",
];

/// Which configuration the edge was made from.
#[derive(Debug)]
pub(super) struct InForce(Mutex<Numbered>);

#[derive(Debug)]
struct Numbered {
    generation: u64,
    source: Source,
}

impl InForce {
    pub(super) fn new(config: &Config) -> Self {
        Self(Mutex::new(Numbered {
            generation: 1,
            source: config.source.clone(),
        }))
    }
}

/// What a reload did.
#[derive(Debug)]
pub struct Reloaded {
    /// Of the configuration now in force: 1 is that of the start, each reload adds one.
    pub generation: u64,
    /// Keys that were put in force with another value than before.
    pub changed: Vec<String>,
    /// Keys that differ from what this process was started with, and that only a restart puts in force.
    pub needs_restart: Vec<String>,
}

impl App {
    /// Reads the configuration again and puts in force what can be. One at a time: another call waits. It reads a file and compiles
    /// rules, so it belongs on a thread that may block.
    ///
    /// # Errors
    /// Every problem found; nothing has changed then.
    pub fn reload_from_source(&self) -> Result<Reloaded, Problems> {
        let held = self.in_force.0.lock();
        let mut in_force = held.unwrap_or_else(PoisonError::into_inner);
        let read = self.config.again().and_then(|config| {
            let reloaded = self.reload(&config);
            reloaded.map_err(|problem| Problems(vec![problem]))?;
            Ok(config)
        });
        let config = read.inspect_err(|problems| {
            self.metrics.count_reload(false);
            tracing::error!(%problems, "not reloaded; all stays as it was");
        })?;
        if let Err(error) = self.access_log.reopen() {
            tracing::error!(%error, "the access log goes on where it was");
        }
        let keys = |since: &Source, reloaded: bool| {
            let mut keys = since.differences(&config.source);
            keys.retain(|key| is_reloaded(key) == reloaded);
            keys
        };
        let done = Reloaded {
            generation: in_force.generation + 1,
            changed: keys(&in_force.source, true),
            needs_restart: keys(&self.config.source, false),
        };
        *in_force = Numbered {
            generation: done.generation,
            source: config.source,
        };
        tracing::info!(
            generation = done.generation,
            changed = done.changed.join(", "),
            needs_restart = done.needs_restart.join(", "),
            "reloaded guard, limits, routes and certificates"
        );
        Ok(done)
    }
}

fn is_reloaded(key: &str) -> bool {
    RELOADED
        .iter()
        .any(|name| key == *name || name.ends_with('.') && key.starts_with(name))
}
