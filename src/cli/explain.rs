//! `explain`: which guard rule would fire for a request, which limits would count it, and where it would go.

use std::net::IpAddr;
use std::sync::Arc;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Value, json};

use crate::clock::rfc3339;
use crate::config::Config;
use crate::config::edge::bans::BanMode;
use crate::gateway::Edge;
use crate::gateway::client_ip::Network;
use crate::gateway::guard::{Explanation, View};
use crate::gateway::limit::counters::Counters;
use crate::gateway::path::normalize;
use crate::gateway::route::Found;
use crate::metrics::Metrics;
use crate::store::bans::{self, Ban};

/// Keys of a table that counts nothing here.
const KEYS: usize = 1000;

#[derive(Debug, Args)]
pub struct Request {
    /// Method and target, such as "POST /api/v1/user/login"
    line: String,
    /// The client's address
    #[arg(long, default_value = "127.0.0.1")]
    from: IpAddr,
    /// A header, such as "user-agent: sqlmap/1.8"; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    headers: Vec<String>,
}

/// What would become of a request.
struct Prospect {
    /// The ban of the client's network; asked for only where bans are kept.
    ban: Option<Ban>,
    guard: Vec<Explanation>,
    limits: Vec<String>,
    goes_to: String,
}

/// Explains a request line under a configuration. Nothing is sent and nothing is counted. The store is asked only for a ban, and
/// only where `guard.bans.mode` is not off.
///
/// # Errors
/// One sentence for a line or header that can't be read, or a database that can't be reached.
pub async fn run(config: Config, request: &Request, as_json: bool) -> Result<(), String> {
    let mut prospect = prospect(&config, request)?;
    let observed = config.edge.guard.bans.mode == BanMode::Observe;
    if config.edge.guard.bans.mode != BanMode::Off {
        prospect.ban = ban(config, Network::from(request.from)).await?;
    }
    if as_json {
        let guard: Vec<Value> = prospect.guard.iter().map(json_of).collect();
        let (limits, goes_to) = (prospect.limits, prospect.goes_to);
        let ban = prospect.ban.as_ref().map(super::ban::json_of);
        return super::print_json(
            &json!({ "ban": ban, "guard": guard, "limits": limits, "goesTo": goes_to }),
        );
    }
    if let Some(ban) = &prospect.ban {
        println!("ban     {}", ban_text(ban, observed));
    }
    for rule in prospect.guard.iter().filter(|rule| rule.matched) {
        let decides = if rule.decides { "decides" } else { "matches" };
        println!(
            "guard   {} {decides}: {:?}, because {}",
            rule.rule, rule.action, rule.why
        );
    }
    if !prospect.guard.iter().any(|rule| rule.matched) {
        println!("guard   no rule matches: it passes");
    }
    for rule in prospect.limits {
        println!("limit   {rule}");
    }
    println!("goes to {}", prospect.goes_to);
    Ok(())
}

fn prospect(config: &Config, request: &Request) -> Result<Prospect, String> {
    let (method, target) = request
        .line
        .split_once(' ')
        .ok_or("write method and target, such as \"GET /healthz\"")?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| "the method is none")?;
    let target = normalize(target).map_err(|why| format!("answered 400 before any rule: {why}"))?;
    let headers = headers(&request.headers)?;
    let counters = Arc::new(Counters::new(KEYS, [0; 16]));
    let edge = Edge::compile(&config.edge, counters, &Metrics::default(), 1, None);
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let host = text(header::HOST).unwrap_or(config.public_host());
    let guard = edge.guard.explain(&View {
        method: &method,
        path: &target.path,
        host,
        headers: &headers,
        client: request.from,
        country: edge.guard.country(request.from),
        content_length: text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
    });
    let limits = edge.limits.rules_for(&method, &target.path).iter();
    let limits = limits.map(|id| {
        let rule = edge.limits.rule(*id);
        format!("{} counts it by {:?}", rule.name(), rule.kind())
    });
    let goes_to = match edge.routes.lookup(host, &method, &target.path) {
        Found::Route(route) => {
            format!(
                "route {} as {}",
                route.settings().name,
                route.upstream_path(&target.path)
            )
        }
        Found::MethodNotAllowed(prefix) => format!("nobody: 405, allowed is {}", prefix.allow()),
        Found::Nothing => "ourselves (404 if we have no such path)".to_owned(),
    };
    Ok(Prospect {
        ban: None,
        guard,
        limits: limits.collect(),
        goes_to,
    })
}

/// The ban of a network that is in force.
async fn ban(config: Config, network: Network) -> Result<Option<Ban>, String> {
    let app = super::command_app(config).await?;
    let asked = async {
        let found = bans::find(&mut app.db.read().await?, &network.to_string()).await;
        found.map(|ban| ban.filter(|ban| ban.until_at > app.clock.now()))
    };
    asked
        .await
        .map_err(|error: crate::error::Error| error.to_string())
}

fn ban_text(ban: &Ban, observed: bool) -> String {
    let state = match (observed, ban.kind.as_str()) {
        (true, _) => "would be kept out, but guard.bans only observes,",
        (false, "slow") => "is slowed",
        (false, _) => "is banned",
    };
    format!(
        "{} {state} until {}, ban {} in a row, because of {}",
        ban.network,
        rfc3339(ban.until_at),
        ban.times,
        ban.why
    )
}

fn headers(lines: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let wrong = || format!("the header \"{line}\" is not NAME: VALUE");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
        let value = HeaderValue::try_from(value.trim()).map_err(|_| wrong())?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn json_of(rule: &Explanation) -> Value {
    json!({
        "rule": rule.rule,
        "action": format!("{:?}", rule.action).to_lowercase(),
        "matched": rule.matched,
        "decides": rule.decides,
        "why": rule.why,
    })
}
