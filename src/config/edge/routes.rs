//! `[gateway]`: which paths go to which downstream services, and how.

use http::{Method, Uri};
use serde::Deserialize;

use health::{Breaker, Health, RawBreaker, RawHealth};

use super::upstream_tls::{RawTls, Tls};
use super::{bounded, check_host, check_path, check_unique, method, name_of};

pub mod health;

/// Paths that are answered here, by whole segments; no route may begin with one.
pub const RESERVED: [&str; 8] = [
    "/api/v1/user",
    "/api/v1/admin",
    "/api/v1/openapi.json",
    "/.well-known",
    "/account",
    "/docs",
    "/healthz",
    "/readyz",
];
/// Most routes in a file.
pub const MAX_ROUTES: usize = 1000;
/// Most upstreams of one route.
pub const MAX_UPSTREAMS: usize = 64;

/// `[gateway]` as it stands in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawGateway {
    /// Routes to downstream services.
    pub routes: Vec<RawRoute>,
    /// Whether a failing downstream service is 500, as published, or 502 and 504.
    pub downstream_errors: DownstreamErrors,
    /// Whether fields with `_` in their names reach downstream services.
    pub underscore_headers: bool,
}

/// The status of an answer for a failing downstream service.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum DownstreamErrors {
    #[default]
    Documented,
    Precise,
}

/// One `[[gateway.routes]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRoute {
    /// Metric label and audience of the assertion; made from the prefix when absent.
    pub name: Option<String>,
    /// Whole segments of the path.
    pub prefix: Option<String>,
    /// A host name or `*.name`; absent: any host.
    pub host: Option<String>,
    /// Methods; absent: any.
    pub methods: Option<Vec<String>>,
    /// What the downstream service sees of the path.
    pub rewrite: Option<RawRewrite>,
    /// Base URLs, or `{ url, weight }`.
    pub upstreams: Vec<RawUpstream>,
    /// `none`, `optional` or `customer`.
    pub auth: Option<String>,
    /// Milliseconds until a connection stands; 1,000 when absent.
    pub connect_timeout_ms: Option<u64>,
    /// Milliseconds until the head of the answer; 15,000 when absent.
    pub response_timeout_ms: Option<u64>,
    /// Milliseconds of silence within a body or tunnel; 60,000 when absent.
    pub idle_timeout_ms: Option<u64>,
    /// Milliseconds for everything; no bound when absent (streams live long).
    pub total_timeout_ms: Option<u64>,
    /// Further tries of an idempotent request; 1 when absent.
    pub retries: Option<u64>,
    /// `round_robin` (default) or `least_connections`.
    pub balance: Option<String>,
    /// Active health checks; none when absent.
    pub health: Option<RawHealth>,
    /// Most requests at a time to one upstream; 256 when absent.
    pub max_connections: Option<u64>,
    /// Most requests at a time of one client network, to all upstreams; half of what they take together when absent.
    pub max_connections_per_network: Option<u64>,
    /// `http1` (default), `h2` (https) or `h2c` (http).
    pub protocol: Option<String>,
    /// For https upstreams.
    pub tls: Option<RawTls>,
    /// When an upstream is left alone.
    pub breaker: RawBreaker,
}

/// What becomes of the prefix.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRewrite {
    /// Cut it off.
    pub strip_prefix: bool,
    /// Put this in its place.
    pub replace_prefix: Option<String>,
}

/// An upstream: a URL, or a URL and a weight.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum RawUpstream {
    /// A URL of weight 1.
    Url(String),
    /// A URL and a weight.
    Weighted(RawWeighted),
}

/// `{ url, weight }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWeighted {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// 1 to 100; 1 when absent.
    pub weight: Option<u64>,
}

/// A validated route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSettings {
    /// Unique.
    pub name: String,
    /// Without a trailing slash; empty for the root.
    pub prefix: String,
    /// Lower-case; none for any.
    pub host: Option<String>,
    /// Empty for any.
    pub methods: Vec<Method>,
    /// What takes the prefix' place; none keeps it. Without a trailing slash.
    pub replace_prefix: Option<String>,
    /// At least one.
    pub upstreams: Vec<Upstream>,
    /// Who may pass.
    pub auth: Auth,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Further tries.
    pub retries: u32,
    /// How an upstream is chosen.
    pub balance: Balance,
    /// Active checks.
    pub health: Option<Health>,
    /// Most requests at a time to one upstream.
    pub max_connections: u32,
    /// Most requests at a time of one client network.
    pub max_connections_per_network: u32,
    /// What is spoken to the upstreams.
    pub protocol: Protocol,
    /// For https upstreams.
    pub tls: Option<Tls>,
    /// When an upstream is left alone.
    pub breaker: Breaker,
}

/// One downstream server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Scheme and authority, nothing else.
    pub url: Uri,
    /// 1 to 100.
    pub weight: u32,
}

/// Who may pass a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Everybody; credentials are not looked at.
    None,
    /// Everybody; a good session is told to the downstream service.
    Optional,
    /// Customers with a good session.
    Customer,
}

/// How long to wait, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect_ms: u64,
    /// For the head of the answer.
    pub response_ms: u64,
    /// For the next byte.
    pub idle_ms: u64,
    /// For everything.
    pub total_ms: Option<u64>,
}

/// How an upstream is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The one with the fewest requests under way, by weight.
    LeastConnections,
}

/// What is spoken to upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/2 with prior knowledge, without TLS.
    H2c,
}

impl RawGateway {
    /// Validates the section.
    pub fn validate(&self, problems: &mut Vec<String>) -> Vec<RouteSettings> {
        if self.routes.len() > MAX_ROUTES {
            problems.push(format!(
                "gateway.routes has {} routes; at most {MAX_ROUTES} are allowed",
                self.routes.len()
            ));
        }
        let routes: Vec<RouteSettings> = self
            .routes
            .iter()
            .enumerate()
            .filter_map(|(index, route)| route.validate(index, problems))
            .collect();
        check_unique(
            "gateway.routes",
            routes.iter().map(|route| route.name.as_str()),
            problems,
        );
        for (index, route) in routes.iter().enumerate() {
            if let Some(twin) = routes[..index].iter().find(|earlier| meet(earlier, route)) {
                problems.push(format!(
                    "gateway.routes: \"{}\" and \"{}\" want the same requests; change a prefix, host or methods",
                    twin.name, route.name
                ));
            }
        }
        routes
    }
}

fn meet(a: &RouteSettings, b: &RouteSettings) -> bool {
    let any = a.methods.is_empty() || b.methods.is_empty();
    a.prefix == b.prefix
        && a.host == b.host
        && (any || a.methods.iter().any(|method| b.methods.contains(method)))
}

impl RawRoute {
    fn validate(&self, index: usize, problems: &mut Vec<String>) -> Option<RouteSettings> {
        let at = match (&self.name, &self.prefix) {
            (Some(name), _) => format!("gateway.routes \"{name}\""),
            (None, Some(prefix)) => format!("gateway.routes {prefix}"),
            (None, None) => format!("gateway.routes[{index}]"),
        };
        let prefix = self.prefix(&at, problems);
        let default_name = prefix.as_deref().map(name_from);
        let name = name_of(
            &at,
            self.name.as_deref().or(default_name.as_deref()),
            problems,
        );
        if let Some(host) = &self.host {
            check_host(&at, host, problems);
        }
        let methods = self.methods.as_deref().unwrap_or_default();
        if self.methods.as_ref().is_some_and(Vec::is_empty) {
            problems.push(format!(
                "{at}: methods is an empty list; remove it to mean all of them"
            ));
        }
        let protocol = self.protocol(&at, problems);
        let auth = self.auth(&at, problems);
        let most = self.max_connections.unwrap_or(256);
        let most = bounded(&at, "max_connections", most, 1..=65_535, problems);
        let together = most * self.upstreams.len().max(1) as u64;
        let route = RouteSettings {
            name,
            prefix: prefix.unwrap_or_default(),
            host: self.host.as_ref().map(|host| host.to_ascii_lowercase()),
            methods: methods
                .iter()
                .filter_map(|text| method(&at, text, problems))
                .collect(),
            replace_prefix: self
                .rewrite
                .as_ref()
                .and_then(|rewrite| rewrite.validate(&at, problems)),
            upstreams: self.upstreams(&at, protocol, problems),
            auth: auth.unwrap_or(Auth::Customer),
            timeouts: self.timeouts(&at, problems),
            retries: bounded(&at, "retries", self.retries.unwrap_or(1), 0..=3, problems) as u32,
            balance: self.balance(&at, problems),
            health: self
                .health
                .as_ref()
                .map(|health| health.validate(&at, problems)),
            max_connections: most as u32,
            max_connections_per_network: bounded(
                &at,
                "max_connections_per_network",
                self.max_connections_per_network
                    .unwrap_or(together.div_ceil(2)),
                1..=together,
                problems,
            ) as u32,
            protocol,
            tls: self.tls(&at, problems),
            breaker: self.breaker.validate(&at, problems),
        };
        (self.prefix.is_some() && auth.is_some()).then_some(route)
    }

    fn prefix(&self, at: &str, problems: &mut Vec<String>) -> Option<String> {
        let Some(prefix) = self.prefix.as_deref() else {
            problems.push(format!(
                "{at}: prefix is missing; write one like /api/v1/shipment"
            ));
            return None;
        };
        if let Err(why) = check_path(prefix) {
            problems.push(format!("{at}: prefix \"{prefix}\" {why}"));
        }
        if prefix.contains('*') {
            problems.push(format!(
                "{at}: prefix \"{prefix}\" needs no *; everything below it is meant anyway"
            ));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if let Some(own) = RESERVED.iter().find(|own| is_below(prefix, own)) {
            problems.push(format!(
                "{at}: {own} belongs to the gateway itself; route another prefix"
            ));
        }
        Some(prefix.to_owned())
    }

    fn auth(&self, at: &str, problems: &mut Vec<String>) -> Option<Auth> {
        match self.auth.as_deref() {
            Some("none") => Some(Auth::None),
            Some("optional") => Some(Auth::Optional),
            Some("customer") => Some(Auth::Customer),
            Some("staff") => {
                problems.push(format!(
                    "{at}: auth = staff is not built yet; write customer, optional or none"
                ));
                None
            }
            other => {
                let was = other.map_or("missing".to_owned(), |other| format!("\"{other}\""));
                problems.push(format!(
                    "{at}: auth is {was}; write customer, optional or none"
                ));
                None
            }
        }
    }

    fn protocol(&self, at: &str, problems: &mut Vec<String>) -> Protocol {
        match self.protocol.as_deref() {
            None | Some("http1") => Protocol::Http1,
            Some("h2") => Protocol::H2,
            Some("h2c") => Protocol::H2c,
            Some(other) => {
                problems.push(format!(
                    "{at}: protocol is \"{other}\"; write http1, h2 or h2c"
                ));
                Protocol::Http1
            }
        }
    }

    fn tls(&self, at: &str, problems: &mut Vec<String>) -> Option<Tls> {
        let is_https = |raw: &RawUpstream| match raw {
            RawUpstream::Url(url) | RawUpstream::Weighted(RawWeighted { url, .. }) => {
                url.starts_with("https://")
            }
        };
        let https = self.upstreams.iter().filter(|raw| is_https(raw)).count();
        if https != 0 && https != self.upstreams.len() {
            problems.push(format!(
                "{at}: some upstreams are https and some are not; make two routes of it"
            ));
        }
        match &self.tls {
            Some(_) if https == 0 => {
                problems.push(format!("{at}: tls is for https upstreams; remove it"));
                None
            }
            raw if https > 0 => raw.clone().unwrap_or_default().load(at, problems),
            _ => None,
        }
    }

    fn balance(&self, at: &str, problems: &mut Vec<String>) -> Balance {
        match self.balance.as_deref() {
            None | Some("round_robin") => Balance::RoundRobin,
            Some("least_connections") => Balance::LeastConnections,
            Some(other) => {
                problems.push(format!(
                    "{at}: balance is \"{other}\"; write round_robin or least_connections"
                ));
                Balance::RoundRobin
            }
        }
    }

    fn upstreams(&self, at: &str, protocol: Protocol, problems: &mut Vec<String>) -> Vec<Upstream> {
        if !(1..=MAX_UPSTREAMS).contains(&self.upstreams.len()) {
            problems.push(format!(
                "{at}: it needs at least one upstream and takes at most {MAX_UPSTREAMS}"
            ));
        }
        let mut upstreams: Vec<Upstream> = Vec::new();
        for raw in &self.upstreams {
            let (text, weight) = match raw {
                RawUpstream::Url(url) => (url, 1),
                RawUpstream::Weighted(RawWeighted { url, weight }) => (url, weight.unwrap_or(1)),
            };
            let weight = bounded(at, "weight", weight, 1..=100, problems) as u32;
            match upstream_url(text, protocol) {
                Ok(url) if upstreams.iter().any(|other| other.url == url) => {
                    problems.push(format!(
                        "{at}: upstream \"{text}\" stands twice; use a weight"
                    ));
                }
                Ok(url) => upstreams.push(Upstream { url, weight }),
                Err(why) => problems.push(format!("{at}: upstream \"{text}\" {why}")),
            }
        }
        upstreams
    }

    fn timeouts(&self, at: &str, problems: &mut Vec<String>) -> Timeouts {
        let mut check = |key, value: Option<u64>, default, most| {
            bounded(at, key, value.unwrap_or(default), 10..=most, problems)
        };
        Timeouts {
            connect_ms: check("connect_timeout_ms", self.connect_timeout_ms, 1_000, 60_000),
            response_ms: check(
                "response_timeout_ms",
                self.response_timeout_ms,
                15_000,
                600_000,
            ),
            idle_ms: check("idle_timeout_ms", self.idle_timeout_ms, 60_000, 86_400_000),
            total_ms: self
                .total_timeout_ms
                .map(|total| check("total_timeout_ms", Some(total), 0, 86_400_000)),
        }
    }
}

impl RawRewrite {
    fn validate(&self, at: &str, problems: &mut Vec<String>) -> Option<String> {
        match &self.replace_prefix {
            Some(_) if self.strip_prefix => {
                problems.push(format!(
                    "{at}: rewrite has strip_prefix and replace_prefix; choose one"
                ));
                None
            }
            Some(text) => {
                if let Err(why) = check_path(text) {
                    problems.push(format!("{at}: replace_prefix \"{text}\" {why}"));
                }
                Some(text.strip_suffix('/').unwrap_or(text).to_owned())
            }
            None => self.strip_prefix.then(String::new),
        }
    }
}

/// Whether a path is `own` or below it, by whole segments.
fn is_below(path: &str, own: &str) -> bool {
    path.strip_prefix(own)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn name_from(prefix: &str) -> String {
    let name: String = prefix
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    if name.is_empty() {
        "root".to_owned()
    } else {
        name
    }
}

fn upstream_url(text: &str, protocol: Protocol) -> Result<Uri, &'static str> {
    let url: Uri = text
        .parse()
        .map_err(|_| "is no URL; write one like http://127.0.0.1:9100")?;
    let authority = url
        .authority()
        .ok_or("has no host; write one like http://127.0.0.1:9100")?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err("must have a host and no user; write one like http://127.0.0.1:9100");
    }
    if authority
        .as_str()
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']') && authority.port_u16().is_none())
    {
        return Err("has a bad port; write a number from 1 to 65535");
    }
    if url.path_and_query().is_some_and(|path| path != "/") {
        return Err("has a path; write it as rewrite.replace_prefix");
    }
    match (url.scheme_str(), protocol) {
        (Some("http"), Protocol::Http1 | Protocol::H2c)
        | (Some("https"), Protocol::Http1 | Protocol::H2) => Ok(url),
        (Some("http"), Protocol::H2) => {
            Err("is plain http; write protocol = \"h2c\" or an https URL")
        }
        (Some("https"), Protocol::H2c) => Err("is https; write protocol = \"h2\" or an http URL"),
        _ => Err("must begin with http:// or https://"),
    }
}

#[cfg(test)]
mod tests;
