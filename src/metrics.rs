//! What the operator can see: counters and gauges, read at `admin.listen/metrics`. Labels are bounded: closed sets of names.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Outcome {
    pub outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Event {
    pub event: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Answered {
    pub route: String,
    /// `2xx` and so on.
    pub class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RouteName {
    pub route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RuleVerdict {
    pub rule: String,
    pub verdict: &'static str,
}

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// The counters of one route, looked up once: counting a request takes no lock.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    classes: [Counter; 6],
    seconds: Histogram,
}

impl RouteMetrics {
    pub fn count(&self, status: u16, seconds: f64) {
        let class = usize::from(status / 100).clamp(1, 6) - 1;
        self.classes[class].inc();
        self.seconds.observe(seconds);
    }
}

/// Seconds; 1 ms to about 2 minutes.
type Seconds = Histogram;

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub hash_queue: Gauge,
    pub hash_jobs: Family<Outcome, Counter>,
    pub outbox_depth: Gauge,
    pub outbox_oldest_seconds: Gauge<f64, AtomicU64>,
    pub outbox_dead: Gauge,
    pub mails: Family<Outcome, Counter>,
    pub mail_seconds: Seconds,
    pub events: Family<Event, Counter>,
    /// An alarm.
    pub code_budget_spent: Counter,
    requests: Family<Answered, Counter>,
    request_seconds: Family<RouteName, Histogram>,
    guard: Family<RuleVerdict, Counter>,
    limits: Family<RuleVerdict, Counter>,
    gate: Family<Outcome, Counter>,
    connections: Family<Outcome, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut made = Self {
            registry: Registry::with_prefix("cargoextra"),
            hash_queue: Gauge::default(),
            hash_jobs: Family::default(),
            outbox_depth: Gauge::default(),
            outbox_oldest_seconds: Gauge::default(),
            outbox_dead: Gauge::default(),
            mails: Family::default(),
            mail_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            events: Family::default(),
            code_budget_spent: Counter::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0005, 2.0, 18))
            }),
            guard: Family::default(),
            limits: Family::default(),
            gate: Family::default(),
            connections: Family::default(),
        };
        made.register();
        made
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "hash_queue",
            "Password hashes waiting for a thread",
            self.hash_queue.clone(),
        );
        registry.register(
            "hash_jobs",
            "Password hashes by outcome: done, busy, dropped",
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
        registry.register(
            "mails",
            "Mails by outcome: sent, retried, dead, dropped",
            self.mails.clone(),
        );
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
            "connections",
            "Connections closed by us before or under a request, by reason: full, network, untrusted_proxy, proxy_header, tls_handshake, send_timeout",
            self.connections.clone(),
        );
    }

    /// The counters of a route. Names come from the configuration, so they are bounded.
    pub fn route(&self, name: &str) -> RouteMetrics {
        let of = |class| {
            self.requests.get_or_create_owned(&Answered {
                route: name.to_owned(),
                class,
            })
        };
        let named = RouteName {
            route: name.to_owned(),
        };
        RouteMetrics {
            classes: CLASSES.map(of),
            seconds: self.request_seconds.get_or_create_owned(&named),
        }
    }

    pub fn count_guard(&self, rule: &str, verdict: &'static str) {
        self.guard
            .get_or_create(&RuleVerdict {
                rule: rule.to_owned(),
                verdict,
            })
            .inc();
    }

    pub fn count_limit(&self, rule: &str, verdict: &'static str) {
        self.limits
            .get_or_create(&RuleVerdict {
                rule: rule.to_owned(),
                verdict,
            })
            .inc();
    }

    pub fn count_gate(&self, reason: &'static str) {
        self.gate.get_or_create(&Outcome { outcome: reason }).inc();
    }

    pub fn count_connection(&self, outcome: &'static str) {
        let label = Outcome { outcome };
        self.connections.get_or_create(&label).inc();
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

    /// The text exposition format (OpenMetrics 1.0).
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String can be written to");
        text
    }
}
