//! The traffic guard: rules in order, the first `deny` or `allow` that hits decides, `observe` only reports.
//!
//! The file's rules come before the built-in set. What no rule decides passes. A rule sees the path in its one
//! spelling ([`crate::gateway::path::normalize`]) and the client as [`crate::gateway::client_ip::resolve`] found it.

use std::net::IpAddr;

use http::{HeaderMap, Method};

use crate::config::edge::files::Countries;
use crate::config::edge::guard::{Action, Builtin, GuardSettings};

mod builtin;
mod condition;
mod networks;

use builtin::Check;
use condition::Test;

/// What the guard may look at: the head of a request, resolved and normalised.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The method.
    pub method: &'a Method,
    /// The normalised path.
    pub path: &'a str,
    /// The authority that the request names; a port is ignored.
    pub host: &'a str,
    /// The headers as they came.
    pub headers: &'a HeaderMap,
    /// The client's address.
    pub client: IpAddr,
    /// The client's country in two capitals, when it is known; as [`Guard::country`] finds it.
    pub country: Option<&'a str>,
    /// The declared length of the body in bytes; none for a chunked body.
    pub content_length: Option<u64>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'g> {
    /// `Allow` or `Deny`.
    pub action: Action,
    /// The rule that decided; none when all rules were passed by.
    pub rule: Option<&'g Rule>,
}

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    name: Box<str>,
    index: usize,
    action: Action,
    test: Test,
}

impl Rule {
    /// The unique name; those of the built-in set begin with `builtin-`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The place among [`Guard::rules`], for counters.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What it does.
    pub fn action(&self) -> Action {
        self.action
    }
}

/// One line of `explain`: a rule, and what it makes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The rule's name.
    pub rule: String,
    /// What it does when it hits.
    pub action: Action,
    /// Whether it hits.
    pub matched: bool,
    /// Whether it is the one that decides.
    pub decides: bool,
    /// What about the request makes it hit or pass by.
    pub why: String,
}

/// The compiled guard. Immutable: a reload makes a new one.
#[derive(Debug)]
pub struct Guard {
    rules: Box<[Rule]>,
    /// Only when a rule asks for the country.
    countries: Option<Countries>,
}

impl Guard {
    /// Compiles the enabled rules of the file and, behind them, the built-in set.
    pub fn compile(settings: &GuardSettings) -> Self {
        if !settings.enabled {
            return Self {
                rules: Box::default(),
                countries: None,
            };
        }
        let own = settings.rules.iter().filter(|rule| rule.enabled);
        let asks_country = own.clone().any(|rule| rule.when.asks_country());
        let own = own.map(|rule| (rule.name.clone(), rule.action, Test::compile(&rule.when)));
        let rules = own.chain(builtin_rules(settings.builtin)).enumerate();
        let rules = rules.map(|(index, (name, action, test))| Rule {
            name: name.into(),
            index,
            action,
            test,
        });
        Self {
            rules: rules.collect(),
            countries: settings.countries.clone().filter(|_| asks_country),
        }
    }

    /// All rules in the order in which they are asked.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The country of an address, if any rule asks for it and the file knows it. Allocates nothing.
    pub fn country(&self, address: IpAddr) -> Option<&str> {
        self.countries.as_ref()?.of(address)
    }

    /// Judges a request. Allocates nothing.
    pub fn judge(&self, view: &View<'_>) -> Verdict<'_> {
        self.judge_with(view, |_| {})
    }

    /// Judges a request and reports each `observe` rule that hits on the way. Allocates nothing.
    pub fn judge_with<'g>(
        &'g self,
        view: &View<'_>,
        mut observed: impl FnMut(&'g Rule),
    ) -> Verdict<'g> {
        for rule in &self.rules {
            if !rule.test.holds(view) {
                continue;
            }
            match rule.action {
                Action::Observe => observed(rule),
                action => {
                    return Verdict {
                        action,
                        rule: Some(rule),
                    };
                }
            }
        }
        Verdict {
            action: Action::Allow,
            rule: None,
        }
    }

    /// What every rule makes of a request, in order, also those behind the one that decides.
    pub fn explain(&self, view: &View<'_>) -> Vec<Explanation> {
        let decisive = self.judge(view).rule.map(Rule::index);
        let line = |rule: &Rule| Explanation {
            rule: rule.name.to_string(),
            action: rule.action,
            matched: rule.test.holds(view),
            decides: decisive == Some(rule.index),
            why: rule.test.why(view),
        };
        self.rules.iter().map(line).collect()
    }
}

fn builtin_rules(switches: Builtin) -> impl Iterator<Item = (String, Action, Test)> {
    [
        (
            "builtin-unusual-methods",
            switches.unusual_methods,
            Check::UnusualMethods,
        ),
        (
            "builtin-scanner-paths",
            switches.scanner_paths,
            Check::ScannerPaths,
        ),
        (
            "builtin-scanner-agents",
            switches.scanner_agents,
            Check::ScannerAgents,
        ),
        (
            "builtin-absurd-headers",
            switches.absurd_headers,
            Check::AbsurdHeaders,
        ),
    ]
    .into_iter()
    .filter_map(|(name, action, check)| Some((name.to_owned(), action?, Test::Builtin(check))))
}

#[cfg(test)]
mod tests;
