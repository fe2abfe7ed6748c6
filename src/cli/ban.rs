//! `ban …`: which networks are kept out, and letting them in again.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::app::App;
use crate::app::bans::{self as keeping, Refusal};
use crate::clock::rfc3339;
use crate::config::Span;
use crate::gateway::client_ip::Network;
use crate::store::bans::{self, Ban};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The bans in force, the last to end first
    List {
        #[arg(long, default_value_t = 100)]
        limit: i64,
    },
    /// Ban a network
    Add {
        /// An address; of IPv6, its /64 is meant
        network: Network,
        /// How long: 30s, 10min, 72h, 14d
        #[arg(long = "for", value_parser = span)]
        length: Span,
    },
    /// Let a network in again, and forget its earlier bans
    Lift {
        /// An address; of IPv6, its /64 is meant
        network: Network,
    },
}

fn span(text: &str) -> Result<Span, String> {
    let span = Span::try_from(text.to_owned())?;
    match span.seconds() {
        1..=31_536_000 => Ok(span),
        _ => Err("write a time from 1s to 365d".to_owned()),
    }
}

pub async fn run(app: &App, command: Command, as_json: bool) -> Result<(), String> {
    match command {
        Command::List { limit } => {
            let mut tx = app.db.read().await.map_err(|error| error.to_string())?;
            let list = bans::in_force(&mut tx, app.clock.now(), limit).await;
            print(&list.map_err(|error| error.to_string())?, as_json)
        }
        Command::Add { network, length } => {
            let added = keeping::add(app, network, length.0).await;
            print(&[added.map_err(|refusal| said(&refusal))?], as_json)
        }
        Command::Lift { network } => match keeping::lift(app, network).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("nothing is known against this network".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn said(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Off => "guard.bans.mode is off; set it to enforce or observe".to_owned(),
        Refusal::Proxy => {
            "a proxy of server.trusted_proxies is in this network; everybody behind it would be banned"
                .to_owned()
        }
        Refusal::Late => "another ban of this network began at this moment; try again".to_owned(),
        Refusal::Failed(error) => error.to_string(),
    }
}

fn print(list: &[Ban], as_json: bool) -> Result<(), String> {
    if as_json {
        let list: Vec<Value> = list.iter().map(json_of).collect();
        return super::print_json(&Value::Array(list));
    }
    for ban in list {
        println!(
            "{:<24}  {:<4}  {:>2}  {}  {}  {}",
            ban.network,
            ban.kind,
            ban.times,
            rfc3339(ban.began_at),
            rfc3339(ban.until_at),
            ban.why
        );
    }
    Ok(())
}

/// A ban for programs.
pub fn json_of(ban: &Ban) -> Value {
    json!({
        "network": ban.network,
        "kind": ban.kind,
        "times": ban.times,
        "beganAt": rfc3339(ban.began_at),
        "until": rfc3339(ban.until_at),
        "why": ban.why,
    })
}
