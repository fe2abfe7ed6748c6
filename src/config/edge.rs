//! The edge's part of the configuration: raw shapes as they stand in the file, and the validated form made of them.
//!
//! Raw structs refuse unknown keys and make every key optional, so that [`RawEdge::validate`] can name *all* problems
//! at once, each a sentence that says what to do.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

pub mod bans;
pub mod files;
pub mod guard;
pub mod limits;
pub mod routes;
pub mod upstream_tls;

/// The edge's sections as they stand in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEdge {
    pub guard: guard::RawGuard,
    pub limits: limits::RawLimits,
    pub gateway: routes::RawGateway,
}

/// The validated edge.
#[derive(Debug, Clone, Default)]
pub struct Edge {
    /// The traffic guard.
    pub guard: guard::GuardSettings,
    /// The rate limits.
    pub limits: limits::LimitSettings,
    /// The routes to downstream services.
    pub routes: Vec<routes::RouteSettings>,
}

impl RawEdge {
    /// Validates every section; on failure, every problem of all of them.
    ///
    /// # Errors
    /// Sentences that say what to do.
    pub fn validate(&self) -> Result<Edge, Vec<String>> {
        let mut problems = Vec::new();
        let edge = Edge {
            guard: self.guard.validate(&mut problems),
            limits: self.limits.validate(&mut problems),
            routes: self.gateway.validate(&mut problems),
        };
        if problems.is_empty() {
            Ok(edge)
        } else {
            Err(problems)
        }
    }
}

/// One string or a list of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OneOrMany(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<OneOrMany, A::Error> {
                let mut list = Vec::new();
                while let Some(text) = seq.next_element()? {
                    list.push(text);
                }
                Ok(OneOrMany(list))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Parses addresses and CIDR networks; IPv4-mapped IPv6 is folded to IPv4.
fn networks(at: &str, texts: &[String], problems: &mut Vec<String>) -> Vec<IpNet> {
    texts
        .iter()
        .filter_map(|text| {
            network(text)
                .map_err(|why| problems.push(format!("{at}: {why}")))
                .ok()
        })
        .collect()
}

fn network(text: &str) -> Result<IpNet, String> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            format!("\"{text}\" is no address or network; write one like 203.0.113.0/24 or 2001:db8::/32")
        })?,
    };
    if net.trunc() != net {
        return Err(format!(
            "\"{text}\" has bits behind its prefix length; write {}",
            net.trunc()
        ));
    }
    fold_mapped(net)
        .ok_or_else(|| format!("\"{text}\" is in part IPv4-mapped; write the IPv4 network as such"))
}

/// `::ffff:a.b.c.d/n` as IPv4; none when a network holds mapped addresses and others, too (`::/0` apart).
fn fold_mapped(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = net else { return Some(net) };
    match v6.addr().to_ipv4_mapped() {
        Some(v4) => IpNet::new(v4.into(), v6.prefix_len().checked_sub(96)?).ok(),
        None => Some(net),
    }
}

/// Checks a rule's name, which becomes a metric label and part of a header field.
fn name_of(at: &str, name: Option<&str>, problems: &mut Vec<String>) -> String {
    let fits = |name: &str| {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match name {
        Some(name) if fits(name) => name.to_owned(),
        Some(name) => {
            problems.push(format!(
                "{at}: name \"{name}\" must be 1 to 64 letters, digits, dots, dashes or underscores"
            ));
            name.to_owned()
        }
        None => {
            problems.push(format!("{at}: give it a name"));
            String::new()
        }
    }
}

/// Reports names that stand more than once.
fn check_unique<'a>(
    section: &str,
    names: impl Iterator<Item = &'a str>,
    problems: &mut Vec<String>,
) {
    let mut seen = std::collections::HashSet::new();
    for name in names.filter(|name| !name.is_empty()) {
        if !seen.insert(name) {
            problems.push(format!(
                "{section}: the name \"{name}\" stands twice; rename one"
            ));
        }
    }
}

/// Reports a number outside its bounds, and brings it inside.
fn bounded(
    at: &str,
    key: &str,
    value: u64,
    bounds: std::ops::RangeInclusive<u64>,
    problems: &mut Vec<String>,
) -> u64 {
    let (least, most) = (*bounds.start(), *bounds.end());
    if !bounds.contains(&value) {
        problems.push(format!(
            "{at}: {key} is {value}; write a number from {least} to {most}"
        ));
    }
    value.clamp(least, most)
}

/// Whether a path is in the one spelling that requests are brought into (`gateway::path::normalize`).
pub fn check_path(path: &str) -> Result<(), &'static str> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err("must begin with a slash");
    }
    let segments = || path[1..].split('/');
    if segments().rev().skip(1).any(str::is_empty) {
        return Err("has an empty segment");
    }
    let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if segments().any(|segment| dots(&segment.replace("%3B", ";"))) {
        return Err("has a dot segment");
    }
    let mut at = 0;
    while at < bytes.len() {
        at += match bytes[at] {
            b'%' if is_needed_escape(&bytes[at + 1..]) => 3,
            b'%' => {
                return Err(
                    "has an escape that requests never keep; write the character itself, or upper-case digits",
                );
            }
            byte if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) => 1,
            _ => return Err("has a character that must be percent-escaped"),
        };
    }
    Ok(())
}

fn is_needed_escape(rest: &[u8]) -> bool {
    let Some(digits) = rest.get(..2) else {
        return false;
    };
    let shape = digits
        .iter()
        .all(|d| d.is_ascii_digit() || (b'A'..=b'F').contains(d));
    let value = std::str::from_utf8(digits)
        .ok()
        .and_then(|d| u8::from_str_radix(d, 16).ok());
    let lost = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/\\\0".contains(&byte);
    shape && value.is_some_and(|byte| !lost(byte))
}

/// Parses a method name that rules may use; they are upper-case.
fn method(at: &str, text: &str, problems: &mut Vec<String>) -> Option<http::Method> {
    let parsed = http::Method::from_bytes(text.as_bytes())
        .ok()
        .filter(|_| !text.bytes().any(|b| b.is_ascii_lowercase()));
    if parsed.is_none() {
        problems.push(format!(
            "{at}: \"{text}\" is no method; write one in capitals, like POST"
        ));
    }
    parsed
}

/// Checks a host name or `*.name`.
fn check_host(at: &str, host: &str, problems: &mut Vec<String>) {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let is_v6 = name.starts_with('[') && name.ends_with(']');
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if name.is_empty() || !(plain || is_v6) || name.starts_with('.') || name.ends_with('.') {
        problems.push(format!(
            "{at}: host \"{host}\" is none; write a name like api.example.com or *.example.com, without port"
        ));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        toml::from_str::<RawEdge>(text)
            .unwrap()
            .validate()
            .err()
            .unwrap_or_default()
    }

    #[test]
    fn an_empty_file_is_valid() {
        let edge = RawEdge::default().validate().unwrap();
        assert!(edge.guard.enabled && edge.limits.enabled && edge.routes.is_empty());
    }

    #[test]
    fn unknown_keys_are_refused_everywhere() {
        for text in [
            "[guard]\nx = 1",
            "[guard.builtin]\nx = \"off\"",
            "[[guard.rules]]\nx = 1",
            "[[guard.rules]]\nwhen = { x = 1 }",
            "[[guard.rules]]\nwhen = { header = { x = 1 } }",
            "[limits]\nx = 1",
            "[[limits.rules]]\nx = 1",
            "[gateway]\nx = 1",
            "[[gateway.routes]]\nx = 1",
            "[[gateway.routes]]\nrewrite = { x = 1 }",
            "[[gateway.routes]]\nhealth = { x = 1 }",
            "[[gateway.routes]]\nupstreams = [{ url = \"http://a\", x = 1 }]",
        ] {
            assert!(toml::from_str::<RawEdge>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let found = problems(
            r#"
            [[guard.rules]]
            name = "a b"
            action = "block"
            [[limits.rules]]
            name = "l"
            rate = "ten"
            [[gateway.routes]]
            prefix = "/api/v1/user/x"
            auth = "staff"
            "#,
        );
        for part in [
            "name \"a b\" must be",
            "action is \"block\"",
            "say when it applies",
            "rate \"ten\"",
            "route is missing",
            "key is missing",
            "belongs to the gateway itself",
            "staff is not built yet",
            "needs at least one upstream",
        ] {
            assert!(
                found.iter().any(|p| p.contains(part)),
                "{part} not in {found:#?}"
            );
        }
    }
}
