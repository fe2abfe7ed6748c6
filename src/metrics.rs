//! What the operator can see: counters and gauges, read at `admin.listen/metrics`. Labels are bounded: closed sets of names, and names from
//! the configuration. docs/src/operating.md lists them all; a test compares.
//!
//! What a request counts is looked up beforehand ([`RouteMetrics`], [`Hits`]): counting takes no lock and allocates nothing.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub mod latency;
pub mod process;
pub mod scrape;

use latency::Latency;
use scrape::Scraped;

const PREFIX: &str = "cargoextra";

/// Nanoseconds.
type Nanos = u64;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Outcome {
    pub outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reason {
    pub reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Event {
    pub event: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Answered {
    pub route: String,
    /// `200` and so on; `other` outside of 100 to 599.
    pub status: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RouteName {
    pub route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Verdict {
    pub verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RuleVerdict {
    pub rule: String,
    pub verdict: &'static str,
}

/// The counters of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    route: String,
    requests: Family<Answered, Counter>,
    /// For 100 to 599, and the last one for all others. Looked up when a status first comes, so that only those that come are shown.
    statuses: Box<[OnceLock<Counter>]>,
    seconds: Latency,
}

impl RouteMetrics {
    /// Counts an answer, and the time until its head was ready.
    pub fn count(&self, status: u16, took: Nanos) {
        let last = self.statuses.len() - 1;
        let at = usize::from(status)
            .checked_sub(100)
            .map_or(last, |at| at.min(last));
        self.statuses[at]
            .get_or_init(|| self.look_up(at, last))
            .inc();
        self.seconds.observe(took);
    }

    fn look_up(&self, at: usize, last: usize) -> Counter {
        let status = if at == last {
            "other".to_owned()
        } else {
            (at + 100).to_string()
        };
        let route = self.route.clone();
        self.requests
            .get_or_create_owned(&Answered { route, status })
    }
}

/// One counter for each rule, by the rule's place.
#[derive(Debug, Default)]
pub struct Hits(Box<[Counter]>);

impl Hits {
    pub fn count(&self, rule: usize) {
        self.0[rule].inc();
    }
}

/// Spans on their way to the collector.
#[derive(Clone, Debug)]
pub struct SpanMetrics {
    pub sent: Counter,
    /// The queue was full.
    pub dropped: Counter,
    /// The collector did not take them.
    pub failed: Counter,
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open connections of clients.
    pub connections: Gauge,
    pub hash_queue: Gauge,
    pub hash_jobs: Family<Outcome, Counter>,
    pub outbox_depth: Gauge,
    pub outbox_oldest_seconds: Gauge<f64, AtomicU64>,
    pub outbox_dead: Gauge,
    pub mails: Family<Outcome, Counter>,
    /// Seconds; 1 ms to about 2 minutes.
    pub mail_seconds: Histogram,
    pub events: Family<Event, Counter>,
    /// An alarm.
    pub code_budget_spent: Counter,
    pub session_hits: Counter,
    pub session_misses: Counter,
    /// When this process began, in seconds since 1970.
    pub started: Gauge<f64, AtomicU64>,
    generation: Gauge,
    reloads: Family<Outcome, Counter>,
    last_reload_successful: Gauge,
    requests: Family<Answered, Counter>,
    request_seconds: Family<RouteName, Latency>,
    guard: Family<RuleVerdict, Counter>,
    limits: Family<RuleVerdict, Counter>,
    gate: Family<Reason, Counter>,
    spans: Family<Outcome, Counter>,
    bans: Family<Verdict, Counter>,
    bans_active: Family<Verdict, Gauge>,
    connections_closed: Family<Reason, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut made = Self {
            registry: Registry::default(),
            connections: Gauge::default(),
            hash_queue: Gauge::default(),
            hash_jobs: outcomes(&["done", "busy", "dropped"]),
            outbox_depth: Gauge::default(),
            outbox_oldest_seconds: Gauge::default(),
            outbox_dead: Gauge::default(),
            mails: outcomes(&["sent", "retried", "dead", "dropped"]),
            mail_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            events: Family::default(),
            code_budget_spent: Counter::default(),
            session_hits: Counter::default(),
            session_misses: Counter::default(),
            started: Gauge::default(),
            generation: Gauge::default(),
            reloads: outcomes(&["applied", "refused"]),
            last_reload_successful: Gauge::default(),
            requests: Family::default(),
            request_seconds: Family::default(),
            guard: Family::default(),
            limits: Family::default(),
            gate: Family::default(),
            spans: outcomes(&["sent", "dropped", "failed"]),
            bans: Family::default(),
            bans_active: Family::default(),
            connections_closed: Family::default(),
        };
        // The configuration that the process began with.
        made.generation.set(1);
        for reason in CLOSED {
            drop(made.connections_closed.get_or_create(&Reason { reason }));
        }
        for verdict in BAN_VERDICTS {
            drop(made.bans.get_or_create(&Verdict { verdict }));
        }
        made.last_reload_successful.set(1);
        made.register();
        made
    }
}

/// A family whose members are all there from the start, so that a rate shows the first of a kind.
fn outcomes(all: &[&'static str]) -> Family<Outcome, Counter> {
    let family = Family::<Outcome, Counter>::default();
    for outcome in all {
        drop(family.get_or_create(&Outcome { outcome }));
    }
    family
}

/// Why a connection was closed by us.
const CLOSED: [&str; 6] = [
    "full",
    "network",
    "untrusted_proxy",
    "proxy_header",
    "tls_handshake",
    "send_timeout",
];

/// What happens to bans, in the order of a network's career.
const BAN_VERDICTS: [&str; 6] = [
    "counted",
    "begun_ban",
    "begun_slow",
    "refused",
    "slowed",
    "observed",
];

impl Metrics {
    fn register(&mut self) {
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix(PREFIX);
        self.register_requests(own);
        self.register_accounts(own);
        self.register_operation(own);
        registry.register(
            "process_start_time_seconds",
            "When this process began, since 1970",
            self.started.clone(),
        );
        self.registry = registry;
    }

    fn register_requests(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Requests by route and status",
            self.requests.clone(),
        );
        registry.register(
            "request_seconds",
            "From a request's head to its answer's head",
            self.request_seconds.clone(),
        );
        registry.register(
            "guard",
            "Requests that a guard rule met",
            self.guard.clone(),
        );
        registry.register(
            "limits",
            "Requests that a limit refused, or would have",
            self.limits.clone(),
        );
        registry.register(
            "gate_refusals",
            "Messages refused because they can be read in two ways",
            self.gate.clone(),
        );
        registry.register(
            "connections",
            "Open connections of clients",
            self.connections.clone(),
        );
        registry.register(
            "session_hits",
            "Sessions found among those looked up a moment ago",
            self.session_hits.clone(),
        );
        registry.register(
            "session_misses",
            "Sessions asked of the database",
            self.session_misses.clone(),
        );
    }

    fn register_accounts(&self, registry: &mut Registry) {
        registry.register(
            "hash_queue",
            "Password hashes waiting for a thread",
            self.hash_queue.clone(),
        );
        registry.register(
            "hash_jobs",
            "Password hashes by outcome",
            self.hash_jobs.clone(),
        );
        registry.register(
            "outbox_depth",
            "Mails waiting to be sent",
            self.outbox_depth.clone(),
        );
        registry.register(
            "outbox_oldest_seconds",
            "Age of the oldest waiting mail",
            self.outbox_oldest_seconds.clone(),
        );
        registry.register(
            "outbox_dead",
            "Mails given up; see `cargoextra outbox list`",
            self.outbox_dead.clone(),
        );
        registry.register("mails", "Mails by outcome", self.mails.clone());
        registry.register(
            "mail_seconds",
            "From the commit of a mail to its hand-over",
            self.mail_seconds.clone(),
        );
        registry.register(
            "events",
            "Security events, as in the audit log",
            self.events.clone(),
        );
        registry.register(
            "code_budget_spent",
            "Codes tried after the server's budget of wrong codes was spent: somebody guesses from many networks",
            self.code_budget_spent.clone(),
        );
        registry.register(
            "bans",
            "Bans: denials that counted, bans begun, and what became of banned networks' requests",
            self.bans.clone(),
        );
        registry.register(
            "bans_active",
            "Networks that are banned or slowed",
            self.bans_active.clone(),
        );
    }

    fn register_operation(&self, registry: &mut Registry) {
        registry.register(
            "configuration_generation",
            "1 at the start, one more with each reload",
            self.generation.clone(),
        );
        registry.register(
            "configuration_reloads",
            "Reloads by outcome",
            self.reloads.clone(),
        );
        registry.register(
            "configuration_last_reload_successful",
            "0: the file is wrong and the configuration before it is in force",
            self.last_reload_successful.clone(),
        );
        registry.register(
            "spans",
            "Spans on their way to the collector",
            self.spans.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections closed by us before or under a request",
            self.connections_closed.clone(),
        );
        let version = [("version", env!("CARGO_PKG_VERSION"))].to_vec();
        registry.register("build", "The program", Info::new(version));
    }

    /// The counters of a route. Names come from the configuration, so they are bounded.
    pub fn route(&self, name: &str) -> RouteMetrics {
        let route = name.to_owned();
        let named = RouteName {
            route: route.clone(),
        };
        RouteMetrics {
            route,
            requests: self.requests.clone(),
            statuses: (100..=600).map(|_| OnceLock::new()).collect(),
            seconds: self.request_seconds.get_or_create_owned(&named),
        }
    }

    /// The counters of the guard's rules, in their order: each rule's name, and what its hit means.
    pub fn guard<'a>(&self, rules: impl Iterator<Item = (&'a str, &'static str)>) -> Hits {
        hits(&self.guard, rules)
    }

    /// The same of the limits.
    pub fn limits<'a>(&self, rules: impl Iterator<Item = (&'a str, &'static str)>) -> Hits {
        hits(&self.limits, rules)
    }

    pub fn spans(&self) -> SpanMetrics {
        let of = |outcome| self.spans.get_or_create_owned(&Outcome { outcome });
        SpanMetrics {
            sent: of("sent"),
            dropped: of("dropped"),
            failed: of("failed"),
        }
    }

    pub fn count_gate(&self, reason: &'static str) {
        self.gate.get_or_create(&Reason { reason }).inc();
    }

    /// `counted`: a denial towards a ban; `begun_ban`, `begun_slow`: a network on the list; `refused`, `slowed`, `observed`: what
    /// became of a request of such a one.
    pub fn count_ban(&self, verdict: &'static str) {
        self.bans.get_or_create(&Verdict { verdict }).inc();
    }

    /// How many networks are on the list.
    pub fn set_bans(&self, banned: usize, slowed: usize) {
        for (verdict, number) in [("banned", banned), ("slowed", slowed)] {
            let gauge = self.bans_active.get_or_create(&Verdict { verdict });
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }

    /// `full`, `network`, `untrusted_proxy`, `proxy_header`, `tls_handshake` or `send_timeout`.
    pub fn count_connection(&self, reason: &'static str) {
        self.connections_closed
            .get_or_create(&Reason { reason })
            .inc();
    }

    pub fn count_mail(&self, outcome: &'static str) {
        self.mails.get_or_create(&Outcome { outcome }).inc();
    }

    pub fn count_hash(&self, outcome: &'static str) {
        self.hash_jobs.get_or_create(&Outcome { outcome }).inc();
    }

    pub fn count_event(&self, event: &'static str) {
        self.events.get_or_create(&Event { event }).inc();
    }

    /// Counts a reload of the configuration, put in force or refused whole.
    pub fn count_reload(&self, applied: bool) {
        let outcome = if applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&Outcome { outcome }).inc();
        self.generation.inc_by(applied.into());
        self.last_reload_successful.set(applied.into());
    }

    /// The text exposition format (OpenMetrics 1.0).
    ///
    /// What is only read when somebody asks is read last: who sees a reload counted sees what it put in force, too.
    pub fn render(&self, scrape: impl FnOnce() -> Scraped) -> String {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &scrape().registry()))
            .and_then(|()| encode_eof(&mut text))
            .expect("a String can be written to");
        text
    }
}

fn hits<'a>(
    family: &Family<RuleVerdict, Counter>,
    rules: impl Iterator<Item = (&'a str, &'static str)>,
) -> Hits {
    let counter = |(rule, verdict): (&str, &'static str)| {
        let rule = rule.to_owned();
        family.get_or_create_owned(&RuleVerdict { rule, verdict })
    };
    Hits(rules.map(counter).collect())
}
