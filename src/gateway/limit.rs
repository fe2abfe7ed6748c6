//! Rate limits: which rules a request meets, and what they say.
//!
//! Several rules may meet; the strictest answers. Rules are asked in phases, as their keys become known: by network
//! and route before the body is read, by session and account after the token is checked, by address after the body is
//! parsed. Within one phase ([`Limits::check_all`]) a refused request is charged to none of the phase's rules; what
//! earlier phases charged stays charged, since their work was done.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method};

use crate::config::edge::limits::{KeyKind, LimitSettings, Mode, RoutePattern};
use crate::gateway::client_ip::{Ceiling, Network};
use crate::gateway::path::prefixes::PathPrefixes;
use crate::gateway::path::without_trailing_slash;

pub mod bucket;
pub mod counters;
pub mod fields;
pub mod gcra;

use counters::{Counters, Fingerprint};
use gcra::{Decision, Quota};

/// A rule of a [`Limits`], good for that one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(u16);

impl RuleId {
    /// The place among [`Limits::rules`], for counters.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Whom a request is counted for. Texts may hold anything; only their keyed hash is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// A client network.
    Network(Network),
    /// The /48 above one; for budgets, no rule of the configuration names it.
    Ceiling(Ceiling),
    /// An account's id.
    Account(&'a str),
    /// A canonical e-mail address.
    Address(&'a str),
    /// A session's id.
    Session(&'a str),
    /// Everybody.
    Route,
}

impl Key<'_> {
    fn tag(self) -> u8 {
        match self {
            Self::Network(_) => 0,
            Self::Ceiling(_) => 1,
            Self::Account(_) => 2,
            Self::Address(_) => 3,
            Self::Session(_) => 4,
            Self::Route => 5,
        }
    }
}

/// A rule's name, hashed: the same for all keys of the rule, and after a reload, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RuleSalt(u64);

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    name: Box<str>,
    kind: KeyKind,
    quota: Quota,
    mode: Mode,
    salt: RuleSalt,
    policy: HeaderValue,
}

impl Rule {
    /// The unique name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom it counts.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Whether it refuses.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

/// What several rules say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The rule that refuses for longest, or else the one with the fewest requests left; none if none was asked.
    pub rule: Option<RuleId>,
    /// What that rule says.
    pub decision: Decision,
}

/// The compiled rules over a table of counters. Immutable: a reload makes a new one over the same counters.
#[derive(Debug)]
pub struct Limits {
    rules: Box<[Rule]>,
    /// Sorted by path (without trailing slash).
    exact: Box<[(Box<str>, RuleSets)]>,
    prefixes: PathPrefixes<RuleSets>,
    counters: Arc<Counters>,
}

/// For one path, the rules by method: the six that rules may name, and all others.
type RuleSets = [Box<[RuleId]>; 7];

impl Limits {
    /// Compiles the rules; with `limits.enabled = false`, none.
    pub fn compile(settings: &LimitSettings, counters: Arc<Counters>) -> Self {
        let enabled = if settings.enabled {
            settings.rules.as_slice()
        } else {
            &[]
        };
        let compile = |rule: &crate::config::edge::limits::Rule| {
            let quota = Quota::new(rule.count, rule.period_ns, rule.burst);
            let (name, salt, policy) = (
                rule.name.as_str(),
                counters.salt(&rule.name),
                fields::policy(&rule.name, quota),
            );
            Rule {
                name: name.into(),
                kind: rule.key,
                quota,
                mode: rule.mode,
                salt,
                policy,
            }
        };
        let rules = enabled.iter().map(compile).collect();
        // `config_edge` allows 500 rules, so that every index fits.
        let patterns: Vec<(RuleId, &RoutePattern)> = (0_u16..)
            .zip(enabled)
            .flat_map(|(index, rule)| {
                rule.routes
                    .iter()
                    .map(move |pattern| (RuleId(index), pattern))
            })
            .collect();
        let prefixes = patterns.iter().filter(|(_, pattern)| pattern.is_prefix);
        let prefixes = prefixes.map(|(_, pattern)| {
            (
                pattern.path.clone(),
                rule_sets(&patterns, &pattern.path, true),
            )
        });
        let paths = patterns.iter().filter(|(_, pattern)| !pattern.is_prefix);
        let paths: std::collections::BTreeSet<&str> = paths
            .map(|(_, pattern)| without_trailing_slash(&pattern.path))
            .collect();
        let exact = paths
            .into_iter()
            .map(|path| (path.into(), rule_sets(&patterns, path, false)))
            .collect();
        Self {
            rules,
            exact,
            prefixes: PathPrefixes::new(prefixes),
            counters,
        }
    }

    /// All rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// One rule.
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[id.index()]
    }

    /// The counters, to be handed to the next [`Limits::compile`].
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The rules that a request meets, in order. Allocates nothing.
    pub fn rules_for(&self, method: &Method, path: &str) -> &[RuleId] {
        let bare = without_trailing_slash(path);
        let sets = match self
            .exact
            .binary_search_by(|(known, _)| (**known).cmp(bare))
        {
            Ok(at) => Some(&self.exact[at].1),
            Err(_) => self.prefixes.longest(path),
        };
        sets.map_or(&[], |sets| &sets[method_slot(method)])
    }

    /// Takes one request from a key, if the rule allows it.
    pub fn check(&self, rule: RuleId, key: Key<'_>, now_ns: u64) -> Decision {
        self.check_n(rule, key, 1, now_ns)
    }

    /// Takes `cost` requests from a key, all or none.
    pub fn check_n(&self, rule: RuleId, key: Key<'_>, cost: u32, now_ns: u64) -> Decision {
        let rule = self.rule(rule);
        self.take(
            rule,
            self.counters.fingerprint(rule.salt, key),
            cost,
            now_ns,
        )
    }

    /// What [`Limits::check`] would say, without taking anything.
    pub fn peek(&self, rule: RuleId, key: Key<'_>, now_ns: u64) -> Decision {
        let rule = self.rule(rule);
        self.look(rule, self.counters.fingerprint(rule.salt, key), now_ns)
    }

    /// Gives back `cost` requests that were taken from a key.
    pub fn give_back(&self, rule: RuleId, key: Key<'_>, cost: u32, now_ns: u64) {
        let rule = self.rule(rule);
        self.put_back(
            rule,
            self.counters.fingerprint(rule.salt, key),
            cost,
            now_ns,
        );
    }

    /// Asks one phase's rules: those for whose kind `key_of` knows a key. Either all of them are charged or none.
    ///
    /// `observed` hears of each observing rule that would have refused. Allocates nothing.
    ///
    /// First all are looked at, then all are taken from. If another request of the same key comes between, what was
    /// taken is given back; until then that other request may see one request less than it could have.
    pub fn check_all<'k>(
        &self,
        rules: &[RuleId],
        key_of: impl Fn(KeyKind) -> Option<Key<'k>>,
        now_ns: u64,
        mut observed: impl FnMut(RuleId),
    ) -> Outcome {
        let keyed = || {
            let asked = rules.iter().map(|id| (*id, self.rule(*id)));
            asked.filter_map(|(id, rule)| {
                Some((
                    id,
                    rule,
                    self.counters.fingerprint(rule.salt, key_of(rule.kind)?),
                ))
            })
        };
        let mut outcome = Outcome {
            rule: None,
            decision: Decision::UNLIMITED,
        };
        let mut asked = 0;
        for (id, rule, key) in keyed() {
            asked += 1;
            if rule.mode == Mode::Enforce {
                outcome.add(id, self.look(rule, key, now_ns));
            }
        }
        if asked == 0 || !outcome.decision.allowed {
            return outcome;
        }
        outcome = Outcome {
            rule: None,
            decision: Decision::UNLIMITED,
        };
        for (taken, (id, rule, key)) in keyed().enumerate() {
            let decision = self.take(rule, key, 1, now_ns);
            match rule.mode {
                Mode::Observe if !decision.allowed => observed(id),
                Mode::Observe => {}
                Mode::Enforce if !decision.allowed => {
                    // Only enforcing rules have surely taken; an observer's count may lag, never block.
                    let enforcing = keyed()
                        .take(taken)
                        .filter(|(_, rule, _)| rule.mode == Mode::Enforce);
                    enforcing.for_each(|(_, rule, key)| self.put_back(rule, key, 1, now_ns));
                    return Outcome {
                        rule: Some(id),
                        decision,
                    };
                }
                Mode::Enforce => outcome.add(id, decision),
            }
        }
        outcome
    }

    /// Puts `RateLimit-Policy`, `RateLimit` and, if it refuses, `Retry-After` into an answer.
    pub fn put_fields(&self, headers: &mut HeaderMap, outcome: &Outcome) {
        let Some(id) = outcome.rule else { return };
        let rule = self.rule(id);
        headers.insert(fields::RATELIMIT_POLICY, rule.policy.clone());
        headers.insert(
            fields::RATELIMIT,
            fields::state(&rule.name, outcome.decision),
        );
        fields::put_retry_after(headers, outcome.decision);
    }

    fn look(&self, rule: &Rule, key: Fingerprint, now_ns: u64) -> Decision {
        rule.quota.decide(self.counters.tat(key), now_ns, 1).0
    }

    fn take(&self, rule: &Rule, key: Fingerprint, cost: u32, now_ns: u64) -> Decision {
        self.counters.update(key, rule.quota, now_ns, |tat| {
            let (decision, next) = rule.quota.decide(tat, now_ns, cost);
            (decision, decision.allowed.then_some(next))
        })
    }

    fn put_back(&self, rule: &Rule, key: Fingerprint, cost: u32, now_ns: u64) {
        self.counters.update(key, rule.quota, now_ns, |tat| {
            let next = (tat > now_ns).then(|| rule.quota.give_back(tat, cost));
            ((), next)
        });
    }
}

impl Outcome {
    /// Keeps the stricter of two decisions.
    fn add(&mut self, id: RuleId, decision: Decision) {
        let strictness = |d: &Decision| (!d.allowed, d.retry_after_s, u32::MAX - d.remaining);
        if self.rule.is_none() || strictness(&decision) > strictness(&self.decision) {
            *self = Self {
                rule: Some(id),
                decision,
            };
        }
    }
}

/// The rules that meet on a path, per method. `as_prefix`: on any path that begins so.
fn rule_sets(patterns: &[(RuleId, &RoutePattern)], path: &str, as_prefix: bool) -> RuleSets {
    let covers = |pattern: &RoutePattern| match (pattern.is_prefix, as_prefix) {
        (true, true) => path.starts_with(&pattern.path),
        (true, false) => format!("{path}/").starts_with(&pattern.path),
        (false, true) => false,
        (false, false) => without_trailing_slash(&pattern.path) == path,
    };
    std::array::from_fn(|slot| {
        let fits = |method: &Option<Method>| {
            method
                .as_ref()
                .is_none_or(|method| method_slot(method) == slot)
        };
        let meeting = patterns
            .iter()
            .filter(|(_, pattern)| covers(pattern) && fits(&pattern.method));
        let mut ids: Vec<RuleId> = meeting.map(|(id, _)| *id).collect();
        ids.dedup();
        ids.into()
    })
}

/// HEAD does what GET does, and counts as it.
fn method_slot(method: &Method) -> usize {
    match *method {
        Method::GET | Method::HEAD => 0,
        Method::POST => 1,
        Method::PUT => 2,
        Method::PATCH => 3,
        Method::DELETE => 4,
        Method::OPTIONS => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests;
