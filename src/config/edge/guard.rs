//! `[guard]`: the traffic guard's rules.

use std::path::PathBuf;

use http::{HeaderName, Method};
use ipnet::IpNet;
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use super::bans::{BanSettings, RawBans};
use super::files::{Countries, networks_in};
use super::{OneOrMany, bounded, check_host, check_path, check_unique, method, name_of, networks};

/// Most rules in a file.
pub const MAX_RULES: usize = 1000;
/// How deep `all`, `any` and `not` may nest.
pub const MAX_DEPTH: usize = 8;
/// Longest regular expression, in bytes.
const MAX_REGEX: usize = 1024;
/// Largest compiled regular expression, and the most its lazy automaton may cache, in bytes.
const MAX_REGEX_PROGRAM: usize = 1 << 18;

/// `[guard]` as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawGuard {
    /// The switch of the whole guard, built-in set included.
    pub enabled: bool,
    /// The file of the MaxMind format that says which country an address belongs to; empty: none.
    pub country_file: PathBuf,
    /// Escalating bans.
    pub bans: RawBans,
    /// Switches of the built-in rules.
    pub builtin: RawBuiltin,
    /// Rules of the file; they come before the built-in set.
    pub rules: Vec<RawRule>,
}

impl Default for RawGuard {
    fn default() -> Self {
        Self {
            enabled: true,
            country_file: PathBuf::new(),
            bans: RawBans::default(),
            builtin: RawBuiltin::default(),
            rules: Vec::new(),
        }
    }
}

/// `[guard.builtin]`: each rule is `deny` (default), `observe` or `off`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBuiltin {
    /// Paths that only vulnerability scanners ask for.
    pub scanner_paths: Option<String>,
    /// User-Agents of vulnerability scanners.
    pub scanner_agents: Option<String>,
    /// Headers that no ordinary client sends.
    pub absurd_headers: Option<String>,
    /// Methods that no ordinary client uses.
    pub unusual_methods: Option<String>,
}

/// One `[[guard.rules]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRule {
    /// Unique; appears in metrics, log and `explain`.
    pub name: Option<String>,
    /// `deny`, `allow` or `observe`.
    pub action: Option<String>,
    /// Off without being deleted.
    pub enabled: Option<bool>,
    /// When the rule applies.
    pub when: Option<RawCondition>,
}

/// A condition; of several keys all must hold, of several values of one key any.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCondition {
    /// Addresses and CIDR networks of the client.
    pub network: Option<OneOrMany>,
    /// A file with addresses and CIDR networks of the client, one a line.
    pub network_file: Option<String>,
    /// ISO 3166 two-letter codes; an unknown country is none of them.
    pub country: Option<OneOrMany>,
    /// Methods, in capitals.
    pub method: Option<OneOrMany>,
    /// Path patterns.
    pub path: Option<OneOrMany>,
    /// Host names, or `*.name`.
    pub host: Option<OneOrMany>,
    /// A test of one header.
    pub header: Option<RawHeader>,
    /// Bytes; true for a declared `Content-Length` above it (a chunked body has none).
    pub body_larger_than: Option<u64>,
    /// All of these.
    pub all: Option<Vec<RawCondition>>,
    /// Any of these.
    pub any: Option<Vec<RawCondition>>,
    /// Not this.
    pub not: Option<Box<RawCondition>>,
}

/// A test of one header: exactly one key beside `name`. Case does not matter; any line of the header may pass.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHeader {
    /// The header's name.
    pub name: Option<String>,
    /// The value holds this text.
    pub contains: Option<String>,
    /// The value is this text.
    pub equals: Option<String>,
    /// The value begins with this text.
    pub prefix: Option<String>,
    /// The value has a match of this regular expression.
    pub regex: Option<String>,
    /// `true`: the header is not there; `false`: it is there.
    pub missing: Option<bool>,
}

/// The validated guard.
#[derive(Debug, Clone, Default)]
pub struct GuardSettings {
    /// The switch of the whole guard.
    pub enabled: bool,
    /// Which country an address belongs to, if a file says so.
    pub countries: Option<Countries>,
    /// Escalating bans.
    pub bans: BanSettings,
    /// Switches of the built-in rules.
    pub builtin: Builtin,
    /// The file's rules, in order, disabled ones included.
    pub rules: Vec<Rule>,
}

/// Switches of the built-in rules; `None` is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Builtin {
    /// See [`RawBuiltin`].
    pub scanner_paths: Option<Action>,
    /// See [`RawBuiltin`].
    pub scanner_agents: Option<Action>,
    /// See [`RawBuiltin`].
    pub absurd_headers: Option<Action>,
    /// See [`RawBuiltin`].
    pub unusual_methods: Option<Action>,
}

/// What a rule that hits does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// 403, and no rule after it is asked.
    Deny,
    /// Passes, and no rule after it is asked.
    Allow,
    /// Is reported, and the next rule is asked.
    Observe,
}

/// A validated rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Unique.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Whether it takes part.
    pub enabled: bool,
    /// When it applies.
    pub when: Condition,
}

/// A validated condition.
#[derive(Debug, Clone)]
pub enum Condition {
    /// The client is in one of these.
    Network(Vec<IpNet>),
    /// The client's country is one of these (upper-case).
    Country(Vec<[u8; 2]>),
    /// The method is one of these.
    Method(Vec<Method>),
    /// The path matches one of these patterns.
    Path(Vec<String>),
    /// The host matches one of these patterns.
    Host(Vec<String>),
    /// A header passes.
    Header(HeaderName, HeaderTest),
    /// The declared body is larger than these bytes.
    BodyLargerThan(u64),
    /// All hold.
    All(Vec<Condition>),
    /// Any holds.
    Any(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
}

/// A validated header test; texts are lower-case.
#[derive(Debug, Clone)]
pub enum HeaderTest {
    /// Not there.
    Missing,
    /// There.
    Present,
    /// Holds.
    Contains(String),
    /// Is.
    Equals(String),
    /// Begins with.
    Prefix(String),
    /// Has a match; compiled with bounds, linear in the value's length.
    Regex(Regex),
}

impl RawGuard {
    /// Validates the section.
    pub fn validate(&self, problems: &mut Vec<String>) -> GuardSettings {
        if self.rules.len() > MAX_RULES {
            problems.push(format!(
                "guard.rules has {} rules; at most {MAX_RULES} are allowed",
                self.rules.len()
            ));
        }
        let rules: Vec<Rule> = self
            .rules
            .iter()
            .enumerate()
            .filter_map(|(index, rule)| rule.validate(index, problems))
            .collect();
        check_unique(
            "guard.rules",
            self.rules.iter().filter_map(|rule| rule.name.as_deref()),
            problems,
        );
        let countries = self.countries(&rules, problems);
        GuardSettings {
            enabled: self.enabled,
            countries,
            bans: self.bans.validate(problems),
            builtin: self.builtin.validate(problems),
            rules,
        }
    }

    fn countries(&self, rules: &[Rule], problems: &mut Vec<String>) -> Option<Countries> {
        let path = &self.country_file;
        if path.as_os_str().is_empty() {
            let asking = rules
                .iter()
                .filter(|rule| rule.enabled && rule.when.asks_country());
            problems.extend(asking.map(|rule| {
                format!(
                    "guard.rules \"{}\": asks for the country; name a file of the MaxMind format in guard.country_file",
                    rule.name
                )
            }));
            return None;
        }
        let read = Countries::read(path);
        read.map_err(|why| problems.push(format!("guard.country_file: {} {why}", path.display())))
            .ok()
    }
}

impl RawBuiltin {
    fn validate(&self, problems: &mut Vec<String>) -> Builtin {
        let mut switch = |name: &str, value: &Option<String>| match value.as_deref() {
            None | Some("deny") => Some(Action::Deny),
            Some("observe") => Some(Action::Observe),
            Some("off") => None,
            Some(other) => {
                problems.push(format!(
                    "guard.builtin.{name} is \"{other}\"; write deny, observe or off"
                ));
                None
            }
        };
        Builtin {
            scanner_paths: switch("scanner_paths", &self.scanner_paths),
            scanner_agents: switch("scanner_agents", &self.scanner_agents),
            absurd_headers: switch("absurd_headers", &self.absurd_headers),
            unusual_methods: switch("unusual_methods", &self.unusual_methods),
        }
    }
}

impl Condition {
    /// Whether the client's country must be known to tell whether it holds.
    pub fn asks_country(&self) -> bool {
        match self {
            Self::Country(_) => true,
            Self::All(list) | Self::Any(list) => list.iter().any(Self::asks_country),
            Self::Not(inner) => inner.asks_country(),
            Self::Network(_)
            | Self::Method(_)
            | Self::Path(_)
            | Self::Host(_)
            | Self::Header(..)
            | Self::BodyLargerThan(_) => false,
        }
    }
}

impl RawRule {
    fn validate(&self, index: usize, problems: &mut Vec<String>) -> Option<Rule> {
        let at = match &self.name {
            Some(name) => format!("guard.rules \"{name}\""),
            None => format!("guard.rules[{index}]"),
        };
        let name = name_of(&at, self.name.as_deref(), problems);
        if name.starts_with("builtin-") {
            problems.push(format!(
                "{at}: names that begin with builtin- are the built-in set's; choose another"
            ));
        }
        let action = match self.action.as_deref() {
            Some("deny") => Some(Action::Deny),
            Some("allow") => Some(Action::Allow),
            Some("observe") => Some(Action::Observe),
            other => {
                let was = other.map_or("missing".to_owned(), |other| format!("\"{other}\""));
                problems.push(format!(
                    "{at}: action is {was}; write deny, allow or observe"
                ));
                None
            }
        };
        let when = match &self.when {
            Some(when) => when.validate(&at, MAX_DEPTH, problems),
            None => {
                problems.push(format!(
                    "{at}: say when it applies, for example when = {{ path = \"/x/*\" }}"
                ));
                None
            }
        };
        Some(Rule {
            name,
            action: action?,
            enabled: self.enabled.unwrap_or(true),
            when: when?,
        })
    }
}

impl RawCondition {
    fn validate(&self, at: &str, depth: usize, problems: &mut Vec<String>) -> Option<Condition> {
        if depth == 0 {
            problems.push(format!(
                "{at}: conditions nest deeper than {MAX_DEPTH}; split the rule"
            ));
            return None;
        }
        let mut parts = self.simple_parts(at, problems);
        let mut nested = |list: &[RawCondition]| -> Vec<Condition> {
            list.iter()
                .filter_map(|raw| raw.validate(at, depth - 1, problems))
                .collect()
        };
        if let Some(all) = &self.all {
            parts.push(Condition::All(nested(all)));
        }
        if let Some(any) = &self.any {
            parts.push(Condition::Any(nested(any)));
        }
        if let Some(not) = &self.not {
            parts.extend(
                not.validate(at, depth - 1, problems)
                    .map(|inner| Condition::Not(Box::new(inner))),
            );
        }
        if [&self.all, &self.any]
            .into_iter()
            .flatten()
            .any(Vec::is_empty)
        {
            problems.push(format!(
                "{at}: an empty all or any says nothing; fill or remove it"
            ));
        }
        match parts.len() {
            0 if self.is_empty() => problems.push(format!(
                "{at}: the condition is empty and would hit everything; fill it"
            )),
            0 => {}
            1 => return parts.pop(),
            _ => return Some(Condition::All(parts)),
        }
        None
    }

    fn is_empty(&self) -> bool {
        let lists = [
            &self.network,
            &self.country,
            &self.method,
            &self.path,
            &self.host,
        ];
        lists.into_iter().all(Option::is_none)
            && self.network_file.is_none()
            && self.header.is_none()
            && self.body_larger_than.is_none()
            && self.all.is_none()
            && self.any.is_none()
            && self.not.is_none()
    }

    /// The conditions that hold no others, cheapest first.
    fn simple_parts(&self, at: &str, problems: &mut Vec<String>) -> Vec<Condition> {
        let mut parts = Vec::new();
        let lists = [
            ("network", &self.network),
            ("country", &self.country),
            ("method", &self.method),
            ("path", &self.path),
            ("host", &self.host),
        ];
        for (key, list) in lists {
            if list.as_ref().is_some_and(|list| list.0.is_empty()) {
                problems.push(format!("{at}: {key} is an empty list; fill or remove it"));
            }
        }
        if let Some(list) = &self.method {
            parts.push(Condition::Method(
                list.0
                    .iter()
                    .filter_map(|text| method(at, text, problems))
                    .collect(),
            ));
        }
        if let Some(bytes) = self.body_larger_than {
            parts.push(Condition::BodyLargerThan(bounded(
                at,
                "body_larger_than",
                bytes,
                0..=1 << 40,
                problems,
            )));
        }
        if let Some(list) = &self.country {
            parts.push(Condition::Country(
                list.0
                    .iter()
                    .filter_map(|text| country(at, text, problems))
                    .collect(),
            ));
        }
        if let Some(list) = &self.path {
            list.0
                .iter()
                .for_each(|text| check_pattern(at, text, problems));
            parts.push(Condition::Path(list.0.clone()));
        }
        if let Some(list) = &self.host {
            list.0
                .iter()
                .for_each(|text| check_host(at, text, problems));
            parts.push(Condition::Host(list.0.clone()));
        }
        if let Some(list) = &self.network {
            parts.push(Condition::Network(networks(
                &format!("{at}: network"),
                &list.0,
                problems,
            )));
        }
        if let Some(path) = &self.network_file {
            parts.push(Condition::Network(networks_in(
                &format!("{at}: network_file"),
                path,
                problems,
            )));
        }
        if let Some(header) = &self.header {
            parts.extend(header.validate(at, problems));
        }
        parts
    }
}

fn country(at: &str, text: &str, problems: &mut Vec<String>) -> Option<[u8; 2]> {
    let code = <[u8; 2]>::try_from(text.as_bytes())
        .ok()
        .filter(|code| code.iter().all(u8::is_ascii_alphabetic));
    if code.is_none() {
        problems.push(format!(
            "{at}: country \"{text}\" is none; write two letters, like DE"
        ));
    }
    code.map(|code| code.map(|letter| letter.to_ascii_uppercase()))
}

/// Checks a path pattern: a normal path in which `*` is a whole segment or the last character.
fn check_pattern(at: &str, text: &str, problems: &mut Vec<String>) {
    if let Err(why) = check_path(text) {
        problems.push(format!("{at}: path \"{text}\" {why}"));
    }
    let inner = text.strip_suffix('*').unwrap_or(text);
    if inner
        .split('/')
        .any(|segment| segment.contains('*') && segment != "*")
    {
        problems
            .push(format!("{at}: path \"{text}\" has a * inside a segment; it may only be a whole segment or the end"));
    }
}

impl RawHeader {
    fn validate(&self, at: &str, problems: &mut Vec<String>) -> Option<Condition> {
        let name = self
            .name
            .as_deref()
            .and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        if name.is_none() {
            problems.push(format!(
                "{at}: header needs the name of a header, like name = \"user-agent\""
            ));
        }
        let lower = |text: &String| text.to_ascii_lowercase();
        let mut tests: Vec<HeaderTest> = [
            self.missing.map(|missing| {
                if missing {
                    HeaderTest::Missing
                } else {
                    HeaderTest::Present
                }
            }),
            self.contains.as_ref().map(lower).map(HeaderTest::Contains),
            self.equals.as_ref().map(lower).map(HeaderTest::Equals),
            self.prefix.as_ref().map(lower).map(HeaderTest::Prefix),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let Some(pattern) = &self.regex {
            tests.push(HeaderTest::Regex(compile(at, pattern, problems)?));
        }
        if tests.len() != 1 {
            problems.push(format!(
                "{at}: header needs exactly one of contains, equals, prefix, regex or missing"
            ));
            return None;
        }
        if matches!(&tests[0], HeaderTest::Contains(text) | HeaderTest::Prefix(text) if text.is_empty())
        {
            problems.push(format!(
                "{at}: header compares with an empty text, which every value passes; fill it"
            ));
        }
        Some(Condition::Header(name?, tests.pop()?))
    }
}

fn compile(at: &str, pattern: &str, problems: &mut Vec<String>) -> Option<Regex> {
    if pattern.len() > MAX_REGEX {
        problems.push(format!(
            "{at}: regex is longer than {MAX_REGEX} bytes; shorten it"
        ));
        return None;
    }
    let built = RegexBuilder::new(pattern)
        .case_insensitive(true)
        .unicode(false)
        .size_limit(MAX_REGEX_PROGRAM)
        .dfa_size_limit(MAX_REGEX_PROGRAM)
        .build();
    built
        .map_err(|error| {
            problems.push(format!(
                "{at}: regex \"{pattern}\" does not compile: {error}; correct it"
            ))
        })
        .ok()
}

#[cfg(test)]
mod tests;
