//! A compiled condition: whether it holds for a request, and why.

use http::{HeaderName, HeaderValue, Method};

use super::View;
use super::builtin::Check;
use super::networks::NetworkSet;
use crate::config::edge::guard::{Condition, HeaderTest};
use crate::gateway::host::{HostPattern, bare_name};
use crate::gateway::path::pattern::Pattern;

/// A condition, ready to be asked.
#[derive(Debug)]
pub(super) enum Test {
    Networks(NetworkSet),
    Countries(Box<[[u8; 2]]>),
    Methods(Box<[Method]>),
    Paths(Box<[Pattern]>),
    Hosts(Box<[HostPattern]>),
    Header(HeaderName, HeaderTest),
    BodyLargerThan(u64),
    All(Box<[Test]>),
    Any(Box<[Test]>),
    Not(Box<Test>),
    Builtin(Check),
}

impl Test {
    pub(super) fn compile(condition: &Condition) -> Self {
        let compile_all = |list: &[Condition]| list.iter().map(Self::compile).collect();
        match condition {
            Condition::Network(networks) => Self::Networks(NetworkSet::new(networks)),
            Condition::Country(codes) => Self::Countries(codes.as_slice().into()),
            Condition::Method(methods) => Self::Methods(methods.as_slice().into()),
            Condition::Path(patterns) => {
                Self::Paths(patterns.iter().map(|text| Pattern::new(text)).collect())
            }
            Condition::Host(patterns) => {
                Self::Hosts(patterns.iter().map(|text| HostPattern::new(text)).collect())
            }
            Condition::Header(name, test) => Self::Header(name.clone(), test.clone()),
            Condition::BodyLargerThan(bytes) => Self::BodyLargerThan(*bytes),
            Condition::All(list) => Self::All(compile_all(list)),
            Condition::Any(list) => Self::Any(compile_all(list)),
            Condition::Not(inner) => Self::Not(Box::new(Self::compile(inner))),
        }
    }

    pub(super) fn holds(&self, view: &View<'_>) -> bool {
        match self {
            Self::Networks(set) => set.contains(view.client.to_canonical()),
            Self::Countries(codes) => view
                .country
                .is_some_and(|country| is_one_of(codes, country)),
            Self::Methods(methods) => methods.contains(view.method),
            Self::Paths(patterns) => patterns.iter().any(|pattern| pattern.matches(view.path)),
            Self::Hosts(patterns) => {
                let name = bare_name(view.host);
                patterns.iter().any(|pattern| pattern.matches(name))
            }
            Self::Header(name, test) => header_passes(view, name, test),
            Self::BodyLargerThan(bytes) => {
                view.content_length.is_some_and(|length| length > *bytes)
            }
            Self::All(list) => list.iter().all(|test| test.holds(view)),
            Self::Any(list) => list.iter().any(|test| test.holds(view)),
            Self::Not(inner) => !inner.holds(view),
            Self::Builtin(check) => check.reason(view).is_some(),
        }
    }

    /// What about the request makes the condition hold, or not.
    pub(super) fn why(&self, view: &View<'_>) -> String {
        let holds = self.holds(view);
        let is = if holds { "is" } else { "is not" };
        match self {
            Self::Networks(set) => format!(
                "client {} {is} in the list of {} ranges",
                view.client,
                set.len()
            ),
            Self::Countries(_) => format!(
                "country {} {is} in the list",
                view.country.unwrap_or("unknown")
            ),
            Self::Methods(_) => format!("method {} {is} in the list", view.method),
            Self::Paths(patterns) => {
                match patterns.iter().find(|pattern| pattern.matches(view.path)) {
                    Some(pattern) => format!("path matches {}", pattern.as_str()),
                    None => format!("path matches none of {} patterns", patterns.len()),
                }
            }
            Self::Hosts(_) => format!("host {} {is} in the list", bare_name(view.host)),
            Self::Header(name, test) => why_header(view, name, test, holds),
            Self::BodyLargerThan(bytes) => match view.content_length {
                Some(length) => format!("body of {length} bytes {is} larger than {bytes}"),
                None => "length of the body is not declared".to_owned(),
            },
            // Of `all`, one failure is reason enough; of `any`, one success.
            Self::All(list) => why_list(view, list, (!holds).then_some(false)),
            Self::Any(list) => why_list(view, list, holds.then_some(true)),
            Self::Not(inner) => format!("not: {}", inner.why(view)),
            Self::Builtin(check) => check
                .reason(view)
                .unwrap_or("nothing of the kind")
                .to_owned(),
        }
    }
}

fn is_one_of(codes: &[[u8; 2]], country: &str) -> bool {
    codes
        .iter()
        .any(|code| country.as_bytes().eq_ignore_ascii_case(code))
}

fn header_passes(view: &View<'_>, name: &HeaderName, test: &HeaderTest) -> bool {
    let mut values = view.headers.get_all(name).iter().map(HeaderValue::as_bytes);
    match test {
        HeaderTest::Missing => values.next().is_none(),
        HeaderTest::Present => values.next().is_some(),
        HeaderTest::Contains(text) => {
            values.any(|value| contains_ignore_case(value, text.as_bytes()))
        }
        HeaderTest::Equals(text) => values.any(|value| value.eq_ignore_ascii_case(text.as_bytes())),
        HeaderTest::Prefix(text) => values.any(|value| {
            value
                .get(..text.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
        }),
        HeaderTest::Regex(regex) => values.any(|value| regex.is_match(value)),
    }
}

/// Whether `value` holds `text`, which is lower-case. Quadratic at worst; both are short.
pub(super) fn contains_ignore_case(value: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else {
        return true;
    };
    let Some(last_start) = value.len().checked_sub(text.len()) else {
        return false;
    };
    (0..=last_start).any(|at| {
        value[at].to_ascii_lowercase() == *first
            && value[at + 1..at + text.len()].eq_ignore_ascii_case(rest)
    })
}

fn why_header(view: &View<'_>, name: &HeaderName, test: &HeaderTest, holds: bool) -> String {
    let passes = if holds { "passes" } else { "does not pass" };
    let is_there = view.headers.contains_key(name);
    match test {
        HeaderTest::Missing | HeaderTest::Present => {
            format!(
                "header {name} is {}",
                if is_there { "there" } else { "missing" }
            )
        }
        _ if !is_there => format!("header {name} is missing"),
        HeaderTest::Contains(text) => format!("header {name} {passes}: contains \"{text}\""),
        HeaderTest::Equals(text) => format!("header {name} {passes}: equals \"{text}\""),
        HeaderTest::Prefix(text) => format!("header {name} {passes}: begins with \"{text}\""),
        HeaderTest::Regex(regex) => format!("header {name} {passes}: matches {regex}"),
    }
}

/// The first part that turned out as `decisive`, or all of them.
fn why_list(view: &View<'_>, list: &[Test], decisive: Option<bool>) -> String {
    match list.iter().find(|test| Some(test.holds(view)) == decisive) {
        Some(test) => test.why(view),
        None => list
            .iter()
            .map(|test| test.why(view))
            .collect::<Vec<_>>()
            .join(" and "),
    }
}
