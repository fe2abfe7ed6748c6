//! What nobody counts as it happens: read at the moment at which somebody asks, and forgotten. So an upstream that a reload took away is
//! gone from the next scrape.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::PREFIX;
use super::process::Process;

/// The state of things at one moment.
#[derive(Clone, Debug, Default)]
pub struct Scraped {
    pub upstreams: Vec<Upstream>,
    /// Keys that the limits remember because they are not fresh again.
    pub limit_keys: i64,
    /// Keys that gave way to others though they were not fresh again: of these, which were being refused.
    pub evicted: u64,
    pub evicted_refused: u64,
    pub process: Option<Process>,
}

/// One upstream of one route.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub route: String,
    pub upstream: String,
    pub requests: i64,
    pub idle: i64,
    pub is_open: bool,
    pub is_up: bool,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Named {
    route: String,
    upstream: String,
}

impl Scraped {
    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix(PREFIX);
        self.register_upstreams(own);
        self.register_limits(own);
        if let Some(process) = self.process {
            register_process(registry.sub_registry_with_prefix("process"), process);
        }
        registry
    }

    fn register_upstreams(&self, registry: &mut Registry) {
        let (up, open, requests, idle) = (
            Family::<Named, Gauge>::default(),
            Family::<Named, Gauge>::default(),
            Family::<Named, Gauge>::default(),
            Family::<Named, Gauge>::default(),
        );
        for it in &self.upstreams {
            let named = Named {
                route: it.route.clone(),
                upstream: it.upstream.clone(),
            };
            up.get_or_create(&named).set(it.is_up.into());
            open.get_or_create(&named).set(it.is_open.into());
            requests.get_or_create(&named).set(it.requests);
            idle.get_or_create(&named).set(it.idle);
        }
        registry.register(
            "upstream_up",
            "1: up by its health checks, or without any",
            up,
        );
        registry.register(
            "upstream_breaker_open",
            "1: it failed too often and gets no requests",
            open,
        );
        registry.register("upstream_requests", "Requests under way", requests);
        registry.register(
            "upstream_idle_connections",
            "HTTP/1.1 connections kept for later requests",
            idle,
        );
    }

    fn register_limits(&self, registry: &mut Registry) {
        let keys = Gauge::<i64>::default();
        keys.set(self.limit_keys);
        registry.register("limit_keys", "Clients that the limits remember", keys);
        let counted = |count| {
            let counter = Counter::<u64>::default();
            counter.inc_by(count);
            counter
        };
        registry.register(
            "limit_evictions",
            "Clients that gave way in the full table though they were not fresh again",
            counted(self.evicted),
        );
        registry.register(
            "limit_evictions_refused",
            "Of these, clients that were being refused: the table is too small",
            counted(self.evicted_refused),
        );
    }
}

fn register_process(registry: &mut Registry, process: Process) {
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by(process.cpu_seconds);
    registry.register("cpu_seconds", "Processor time, user and system", cpu);
    let gauge = |value| {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        gauge
    };
    registry.register(
        "resident_memory_bytes",
        "Memory in use",
        gauge(process.resident_bytes),
    );
    registry.register(
        "open_fds",
        "Open files and sockets",
        gauge(process.open_files),
    );
    if let Some(most) = process.max_files {
        registry.register("max_fds", "Files and sockets that may be open", gauge(most));
    }
}
