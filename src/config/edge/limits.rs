//! `[limits]`: how often who may do what.

use http::Method;
use serde::Deserialize;

use super::{OneOrMany, bounded, check_path, check_unique, name_of};

/// Most rules in a file.
pub const MAX_RULES: usize = 500;
/// Most rules that one request may meet.
pub const MAX_RULES_PER_REQUEST: usize = 16;
/// Longest time in which an exhausted key may refill, in days.
const MAX_REFILL_DAYS: u128 = 366;
/// Methods that a rule may name; requests with others meet the rules for `*` only.
const METHODS: [Method; 6] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// `[limits]` as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// The switch of all rules (never of the budgets).
    pub enabled: bool,
    /// `memory` (or `redis`, later).
    pub store: String,
    /// Where Redis is, when it is the store.
    pub redis_url: String,
    /// Most keys that are remembered; each takes 48 bytes.
    pub max_keys: u64,
    /// A file's rules replace the default set.
    pub rules: Vec<RawRule>,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            enabled: true,
            store: "memory".into(),
            redis_url: String::new(),
            max_keys: 1_000_000,
            rules: Vec::new(),
        }
    }
}

/// One `[[limits.rules]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRule {
    /// Unique; appears in metrics, log and the `RateLimit` fields.
    pub name: Option<String>,
    /// `METHOD /path` (`*` for any method, a trailing `*` for a prefix), or a list of them that share one count.
    pub route: Option<OneOrMany>,
    /// `network`, `account`, `address`, `session` or `route` (one count for everybody).
    pub key: Option<String>,
    /// `COUNT/UNIT`, with the unit `s`, `min`, `h` or `day`.
    pub rate: Option<String>,
    /// Requests that a fresh key may make at once.
    pub burst: Option<u64>,
    /// `enforce` (default) or `observe`.
    pub mode: Option<String>,
}

/// The validated limits.
#[derive(Debug, Clone, Default)]
pub struct LimitSettings {
    /// The switch of all rules.
    pub enabled: bool,
    /// Most keys that are remembered.
    pub max_keys: usize,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

/// A validated rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique.
    pub name: String,
    /// Where it applies.
    pub routes: Vec<RoutePattern>,
    /// Whom it counts.
    pub key: KeyKind,
    /// Requests per period.
    pub count: u64,
    /// Nanoseconds.
    pub period_ns: u64,
    /// Requests at once.
    pub burst: u32,
    /// Whether it refuses.
    pub mode: Mode,
}

/// Where a rule applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePattern {
    /// None: any method. A rule for GET counts HEAD, too.
    pub method: Option<Method>,
    /// The path without the trailing `*`.
    pub path: String,
    /// Whether a `*` was there.
    pub is_prefix: bool,
}

/// Whom a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The client's network.
    Network,
    /// The signed-in account.
    Account,
    /// The e-mail address that the request names.
    Address,
    /// The session.
    Session,
    /// Nobody in particular: one count for all requests that the rule meets.
    Route,
}

/// Whether a rule refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It refuses.
    Enforce,
    /// It only reports what it would have refused.
    Observe,
}

impl RawLimits {
    /// Validates the section.
    pub fn validate(&self, problems: &mut Vec<String>) -> LimitSettings {
        if self.store != "memory" {
            problems.push(format!(
                "limits.store is \"{}\"; only memory is built yet, write that",
                self.store
            ));
        }
        let max_keys = bounded(
            "limits",
            "max_keys",
            self.max_keys,
            1_000..=50_000_000,
            problems,
        ) as usize;
        let raw = &self.rules;
        if raw.len() > MAX_RULES {
            problems.push(format!(
                "limits.rules has {} rules; at most {MAX_RULES} are allowed",
                raw.len()
            ));
        }
        let rules: Vec<Rule> = raw
            .iter()
            .enumerate()
            .filter_map(|(index, rule)| rule.validate(index, problems))
            .collect();
        check_unique(
            "limits.rules",
            raw.iter().filter_map(|rule| rule.name.as_deref()),
            problems,
        );
        check_overlap(&rules, problems);
        LimitSettings {
            enabled: self.enabled,
            max_keys,
            rules,
        }
    }
}

impl RawRule {
    fn validate(&self, index: usize, problems: &mut Vec<String>) -> Option<Rule> {
        let at = match &self.name {
            Some(name) => format!("limits.rules \"{name}\""),
            None => format!("limits.rules[{index}]"),
        };
        let name = name_of(&at, self.name.as_deref(), problems);
        let routes = self.routes(&at, problems);
        let key = self.key_kind(&at, problems);
        let rate = self.rate(&at, problems);
        let burst = match self.burst {
            Some(burst) => bounded(&at, "burst", burst, 1..=1_000_000, problems) as u32,
            None => {
                problems.push(format!(
                    "{at}: burst is missing; write how many requests a new client may make at once"
                ));
                1
            }
        };
        let mode = match self.mode.as_deref() {
            None | Some("enforce") => Mode::Enforce,
            Some("observe") => Mode::Observe,
            Some(other) => {
                problems.push(format!(
                    "{at}: mode is \"{other}\"; write enforce or observe"
                ));
                Mode::Enforce
            }
        };
        let (count, period_ns) = rate?;
        let refill_days =
            u128::from(period_ns) * u128::from(burst) / u128::from(count) / 86_400_000_000_000;
        if refill_days > MAX_REFILL_DAYS {
            problems.push(format!(
                "{at}: an exhausted key would need {refill_days} days to refill; lower burst or raise rate"
            ));
        }
        Some(Rule {
            name,
            routes,
            key: key?,
            count,
            period_ns,
            burst,
            mode,
        })
    }

    fn routes(&self, at: &str, problems: &mut Vec<String>) -> Vec<RoutePattern> {
        let texts = self
            .route
            .as_ref()
            .map(|route| route.0.as_slice())
            .unwrap_or_default();
        if texts.is_empty() {
            problems
                .push(format!("{at}: route is missing; write a method and a path, like \"POST /api/v1/user/login\""));
        }
        texts
            .iter()
            .filter_map(|text| route_pattern(at, text, problems))
            .collect()
    }

    fn key_kind(&self, at: &str, problems: &mut Vec<String>) -> Option<KeyKind> {
        match self.key.as_deref() {
            Some("network") => Some(KeyKind::Network),
            Some("account") => Some(KeyKind::Account),
            Some("address") => Some(KeyKind::Address),
            Some("session") => Some(KeyKind::Session),
            Some("route") => Some(KeyKind::Route),
            other => {
                let was = other.map_or("missing".to_owned(), |other| format!("\"{other}\""));
                problems.push(format!(
                    "{at}: key is {was}; write network, account, address, session or route"
                ));
                None
            }
        }
    }

    fn rate(&self, at: &str, problems: &mut Vec<String>) -> Option<(u64, u64)> {
        let text = self.rate.as_deref().unwrap_or_default();
        let rate = parse_rate(text);
        if rate.is_none() {
            problems
                .push(format!("{at}: rate \"{text}\" is none; write a count and a unit, like 10/min (s, min, h, day)"));
        }
        rate
    }
}

/// Reads `COUNT/UNIT` as a count (1 to 1,000,000,000) and a period in nanoseconds.
pub fn parse_rate(text: &str) -> Option<(u64, u64)> {
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1,
        "min" => 60,
        "h" => 3_600,
        "day" => 86_400,
        _ => return None,
    };
    let count = count.trim();
    let plain = count.bytes().all(|digit| digit.is_ascii_digit());
    let count = count
        .parse::<u64>()
        .ok()
        .filter(|count| plain && (1..=1_000_000_000).contains(count))?;
    Some((count, seconds * 1_000_000_000))
}

fn route_pattern(at: &str, text: &str, problems: &mut Vec<String>) -> Option<RoutePattern> {
    let Some((method, path)) = text.split_once(' ') else {
        problems.push(format!(
            "{at}: route \"{text}\" has no method; write one before the path, or * for any"
        ));
        return None;
    };
    let method = match METHODS.iter().find(|known| known.as_str() == method) {
        Some(known) => Some(known.clone()),
        None if method == "*" => None,
        None => {
            problems.push(format!(
                "{at}: route \"{text}\" has the method \"{method}\"; write GET, POST, PUT, PATCH, DELETE, OPTIONS or *"
            ));
            return None;
        }
    };
    let literal = path.strip_suffix('*').unwrap_or(path);
    if let Err(why) = check_path(path) {
        problems.push(format!("{at}: the path of \"{text}\" {why}"));
    }
    if literal.contains('*') {
        problems.push(format!(
            "{at}: route \"{text}\" has a * before its end; only a trailing one is allowed"
        ));
    }
    Some(RoutePattern {
        method,
        path: literal.to_owned(),
        is_prefix: literal.len() < path.len(),
    })
}

/// Reports paths that meet too many rules. Whatever meets most is itself the path of some rule.
fn check_overlap(rules: &[Rule], problems: &mut Vec<String>) {
    let patterns = || rules.iter().flat_map(|rule| &rule.routes);
    for pattern in patterns() {
        let path = &pattern.path;
        let covers = |other: &RoutePattern| {
            other.path == *path || (other.is_prefix && path.starts_with(&other.path))
        };
        let meeting = rules
            .iter()
            .filter(|rule| rule.routes.iter().any(covers))
            .count();
        if meeting > MAX_RULES_PER_REQUEST {
            problems.push(format!(
                "limits.rules: {meeting} rules meet on {path}; at most {MAX_RULES_PER_REQUEST} may, remove some"
            ));
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(text: &str) -> (LimitSettings, Vec<String>) {
        let mut problems = Vec::new();
        let settings = toml::from_str::<RawLimits>(text)
            .unwrap()
            .validate(&mut problems);
        (settings, problems)
    }

    #[test]
    fn rates_are_read() {
        assert_eq!(parse_rate("10/min"), Some((10, 60_000_000_000)));
        assert_eq!(parse_rate("1 / s"), Some((1, 1_000_000_000)));
        assert_eq!(parse_rate("5/h"), Some((5, 3_600_000_000_000)));
        assert_eq!(parse_rate("2/day"), Some((2, 86_400_000_000_000)));
        for bad in [
            "",
            "10",
            "0/s",
            "-1/s",
            "+1/s",
            "1/week",
            "1.5/s",
            "1/",
            "/s",
            "9999999999/s",
        ] {
            assert_eq!(parse_rate(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_shape_of_the_contract_passes() {
        let (settings, problems) = check(
            r#"
            [[rules]]
            name = "login-by-network"
            route = "POST /api/v1/user/login"
            key = "network"
            rate = "10/min"
            burst = 5
            [[rules]]
            name = "wide"
            route = ["* /api/v1/*", "GET /x"]
            key = "route"
            rate = "100/s"
            burst = 500
            mode = "observe"
            "#,
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(settings.rules.len(), 2);
        assert_eq!(
            settings.rules[1].routes[0],
            RoutePattern {
                method: None,
                path: "/api/v1/".into(),
                is_prefix: true
            }
        );
    }

    #[test]
    fn every_mistake_is_named() {
        let rule = |text: &str| {
            let good = [
                ("name", "\"r\""),
                ("route", "\"GET /x\""),
                ("key", "\"network\""),
                ("rate", "\"1/s\""),
                ("burst", "1"),
            ];
            let key = text.split(' ').next().unwrap();
            let rest = good
                .iter()
                .filter(|(k, _)| *k != key)
                .map(|(k, v)| format!("{k} = {v}\n"))
                .collect::<String>();
            check(&format!("[[rules]]\n{rest}{text}")).1
        };
        for (text, part) in [
            ("route = \"/x\"", "has no method"),
            ("route = \"get /x\"", "write GET, POST"),
            ("route = \"GET x\"", "begin with a slash"),
            ("route = \"GET /a/*/b\"", "before its end"),
            ("key = \"ip\"", "key is \"ip\""),
            ("rate = \"1/week\"", "rate \"1/week\""),
            ("burst = 0", "from 1 to 1000000"),
            ("mode = \"off\"", "enforce or observe"),
            ("name = \"a\\\"b\"", "must be 1 to 64"),
        ] {
            let found = rule(text);
            assert!(found.iter().any(|p| p.contains(part)), "{text}: {found:?}");
        }
        assert!(check("store = \"redis\"").1[0].contains("only memory"));
        assert!(check("max_keys = 10").1[0].contains("from 1000"));
        let slow = "[[rules]]\nname = \"r\"\nroute = \"GET /x\"\nkey = \"route\"\nrate = \"1/day\"\nburst = 1000000";
        assert!(check(slow).1[0].contains("days to refill"));
        let many = (0..17).map(|i| {
            format!("[[rules]]\nname = \"r{i}\"\nroute = \"* /*\"\nkey = \"route\"\nrate = \"1/s\"\nburst = 1\n")
        });
        assert!(check(&many.collect::<String>()).1[0].contains("17 rules meet on /"));
    }
}
