//! The built-in set: what only scanners send. No ordinary client may ever meet one of these rules.

use http::header::USER_AGENT;
use http::{HeaderName, HeaderValue, Method};

use super::View;
use super::condition::contains_ignore_case;
use crate::gateway::words::Words;

/// Longest host name that DNS allows, with a port.
const MAX_HOST: usize = 255 + 6;
/// Longest User-Agent, in bytes; those of in-app browsers reach 600.
const MAX_USER_AGENT: usize = 2048;
/// Most ranges in one request; PDF viewers ask for a few.
const MAX_RANGES: usize = 100;

/// One rule of the built-in set.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check {
    ScannerPaths,
    ScannerAgents,
    AbsurdHeaders,
    UnusualMethods,
}

impl Check {
    /// What is wrong with the request, if anything is.
    pub(super) fn reason(self, view: &View<'_>) -> Option<&'static str> {
        match self {
            Self::ScannerPaths => scanner_path(view.path),
            Self::ScannerAgents => scanner_agent(view.headers.get(USER_AGENT)?.as_bytes()),
            Self::AbsurdHeaders => absurd_header(view),
            Self::UnusualMethods => unusual_method(view.method),
        }
    }
}

/// Hidden files, by the beginning of a segment.
const HIDDEN: [&str; 15] = [
    ".aws",
    ".bash_",
    ".circleci",
    ".ds_store",
    ".env",
    ".git",
    ".hg",
    ".htaccess",
    ".htpasswd",
    ".kube",
    ".npmrc",
    ".ssh",
    ".svn",
    ".terraform",
    ".vscode",
];
/// First segments of software that is not here.
static FOREIGN: Words<31> = Words::new([
    "_ignition",
    "_profiler",
    "_vti_bin",
    "adminer",
    "autodiscover",
    "boaform",
    "cgi-bin",
    "druid",
    "ecp",
    "evox",
    "geoserver",
    "goform",
    "gponform",
    "hnap1",
    "hudson",
    "invoker",
    "jenkins",
    "jmx-console",
    "myadmin",
    "mysql",
    "owa",
    "phpmyadmin",
    "pma",
    "server-info",
    "server-status",
    "solr",
    "struts",
    "telescope-api",
    "typo3",
    "web-console",
    "wordpress",
]);
/// File name endings of platforms that an API does not show.
const ENDINGS: [&str; 8] = [
    ".asp", ".aspx", ".cgi", ".jsp", ".php", ".php5", ".php7", ".phtml",
];

fn scanner_path(path: &str) -> Option<&'static str> {
    let mut segments = path.split('/').skip(1);
    let first = segments.clone().next().unwrap_or_default();
    if begins_with(first, "wp-") {
        return Some("path of WordPress");
    }
    if FOREIGN.contains(first.as_bytes(), lower) {
        return Some("path of software that scanners look for");
    }
    if segments.any(|segment| {
        segment.starts_with('.') && HIDDEN.iter().any(|hidden| begins_with(segment, hidden))
    }) {
        return Some("path of a hidden file");
    }
    let last = path.strip_suffix('/').unwrap_or(path);
    let dot = last.len() - last.bytes().rev().take(6).position(|byte| byte == b'.')? - 1;
    let is_foreign = ENDINGS
        .iter()
        .any(|ending| last[dot..].eq_ignore_ascii_case(ending));
    is_foreign.then_some("file of a platform that is not here")
}

fn begins_with(text: &str, start: &str) -> bool {
    text.as_bytes()
        .get(..start.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
}

/// Words of the User-Agents of vulnerability scanners; letters and digits only.
static AGENTS: Words<34> = Words::new([
    "acunetix",
    "arachni",
    "bsqlbf",
    "commix",
    "dirbuster",
    "feroxbuster",
    "ffuf",
    "gobuster",
    "havij",
    "jaeles",
    "joomscan",
    "jorgee",
    "l9explore",
    "l9tcpid",
    "masscan",
    "morfeus",
    "nessus",
    "netsparker",
    "nikto",
    "nmap",
    "nuclei",
    "openvas",
    "projectdiscovery",
    "skipfish",
    "sqlmap",
    "sqlninja",
    "w3af",
    "webinspect",
    "wfuzz",
    "whatweb",
    "wpscan",
    "zgrab",
    "zgrab2",
    "zmeu",
]);
fn scanner_agent(agent: &[u8]) -> Option<&'static str> {
    let mut words = agent.split(|byte| !byte.is_ascii_alphanumeric());
    words
        .any(|word| AGENTS.contains(word, lower))
        .then_some("User-Agent of a scanner")
}

fn lower(byte: u8) -> u8 {
    byte.to_ascii_lowercase()
}

fn absurd_header(view: &View<'_>) -> Option<&'static str> {
    if view.host.len() > MAX_HOST {
        return Some("Host is longer than a name can be");
    }
    let mut seen = Seen::default();
    view.headers.iter().find_map(|(name, value)| {
        absurd_value(value.as_bytes()).or_else(|| seen.absurd(name, value))
    })
}

fn absurd_value(value: &[u8]) -> Option<&'static str> {
    if value.starts_with(b"() {") {
        return Some("a shell function as a header (Shellshock)");
    }
    (value.contains(&b'$') && is_lookup(value))
        .then_some("a lookup expression in a header (Log4Shell)")
}

/// Headers that must stand once, as far as they were seen.
#[derive(Default)]
struct Seen {
    agent: bool,
    authorization: bool,
    origin: bool,
}

impl Seen {
    fn absurd(&mut self, name: &HeaderName, value: &HeaderValue) -> Option<&'static str> {
        let twice = |seen: &mut bool| {
            std::mem::replace(seen, true).then_some("a header twice that must stand once")
        };
        match name.as_str() {
            "user-agent" if value.len() > MAX_USER_AGENT => {
                Some("User-Agent is longer than any client's")
            }
            "user-agent" => twice(&mut self.agent),
            "authorization" => twice(&mut self.authorization),
            "origin" => twice(&mut self.origin),
            "proxy" => Some("a Proxy header (httpoxy)"),
            "range" => {
                let ranges = value
                    .as_bytes()
                    .iter()
                    .filter(|byte| **byte == b',')
                    .count()
                    + 1;
                (ranges > MAX_RANGES).then_some("more ranges than any client asks for")
            }
            _ => None,
        }
    }
}

fn is_lookup(value: &[u8]) -> bool {
    const LOOKUPS: [&[u8]; 6] = [
        b"${jndi:",
        b"${${",
        b"${lower:",
        b"${upper:",
        b"${::-",
        b"${env:",
    ];
    LOOKUPS
        .iter()
        .any(|lookup| contains_ignore_case(value, lookup))
}

/// TRACE and CONNECT are not meant here: they are answered with 405.
fn unusual_method(method: &Method) -> Option<&'static str> {
    let is_usual = matches!(
        method.as_str(),
        "GET"
            | "HEAD"
            | "POST"
            | "PUT"
            | "PATCH"
            | "DELETE"
            | "OPTIONS"
            | "QUERY"
            | "TRACE"
            | "CONNECT"
    );
    (!is_usual).then_some("a method that no ordinary client uses")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_lists_hold_what_can_be_found() {
        assert!(AGENTS.as_slice().iter().all(|word| {
            word.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        }));
        assert!(
            FOREIGN
                .as_slice()
                .iter()
                .chain(&HIDDEN)
                .all(|word| *word == word.to_ascii_lowercase())
        );
        assert!(ENDINGS.iter().all(|ending| ending.len() <= 6));
    }
}
