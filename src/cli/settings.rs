//! `config check` and `config show`; `config reload` is in `reload`.

use std::path::Path;

use clap::Subcommand;

use crate::clock::Clock;
use crate::config::{self, Config};
use crate::gateway::tls;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether `serve` would start with this configuration
    Check,
    /// Print the effective configuration, secrets masked
    Show,
    /// Have the running process read its configuration again, and say what came of it
    Reload,
}

pub fn check(file: Option<&Path>) -> Result<(), String> {
    let config = Config::load(file, config::environment()).map_err(|p| p.to_string())?;
    if let Some(reason) = config.refuses_to_serve() {
        return Err(reason.to_owned());
    }
    let server = &config.server;
    let tls = tls::load(&server.tls, server.http2, Clock::system().now())?;
    for sentence in tls.iter().flat_map(|tls| &tls.invalid) {
        println!("Take care: {sentence}");
    }
    println!("The configuration is good.");
    Ok(())
}

pub fn show(file: Option<&Path>, json: bool) -> Result<(), String> {
    let table = config::show(file, config::environment()).map_err(|p| p.to_string())?;
    if json {
        let value = serde_json::to_value(&table).map_err(|error| error.to_string())?;
        return super::print_json(&value);
    }
    println!("# limits.store: only memory so far");
    print!("{table}");
    Ok(())
}
