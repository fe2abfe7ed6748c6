//! `health` and `breaker` of a route: when an upstream is left alone.

use serde::Deserialize;

use crate::config::edge::{bounded, check_path};

/// `health` of a route.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHealth {
    /// The path that is asked with GET; a 2xx answer is good.
    pub path: Option<String>,
    /// Milliseconds between checks; 5,000 when absent.
    pub interval_ms: Option<u64>,
    /// Milliseconds for one check; 1,000 when absent.
    pub timeout_ms: Option<u64>,
    /// Failed checks in a row that take an upstream out; 3 when absent.
    pub fall: Option<u64>,
    /// Good checks in a row that bring it back; 2 when absent.
    pub rise: Option<u64>,
}

/// `breaker` of a route.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBreaker {
    /// Failures in a row that open it; 5 when absent.
    pub failures: Option<u64>,
    /// It also opens when more than this share of at least 20 results in 10 s are failures; 50 when absent.
    pub percent: Option<u64>,
    /// Milliseconds until a first request is tried again; 1,000 when absent.
    pub first_open_ms: Option<u64>,
    /// Doubling up to these milliseconds; 10,000 when absent.
    pub open_ms: Option<u64>,
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The path that is asked.
    pub path: String,
    /// Milliseconds between checks.
    pub interval_ms: u64,
    /// Milliseconds for one check.
    pub timeout_ms: u64,
    /// Failures in a row that take it out.
    pub fall: u32,
    /// Successes in a row that bring it back.
    pub rise: u32,
}

/// When a circuit breaker opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row.
    pub failures: u32,
    /// Share of a window's results.
    pub percent: u32,
    /// Milliseconds of the first time.
    pub first_open_ms: u64,
    /// Milliseconds at most.
    pub open_ms: u64,
}

impl RawHealth {
    pub(super) fn validate(&self, at: &str, problems: &mut Vec<String>) -> Health {
        let path = self.path.clone().unwrap_or_default();
        if let Err(why) = check_path(&path) {
            problems.push(format!("{at}: health.path \"{path}\" {why}"));
        }
        let mut check = |key, value: Option<u64>, default, bounds| {
            bounded(at, key, value.unwrap_or(default), bounds, problems)
        };
        let health = Health {
            path,
            interval_ms: check(
                "health.interval_ms",
                self.interval_ms,
                5_000,
                100..=3_600_000,
            ),
            timeout_ms: check("health.timeout_ms", self.timeout_ms, 1_000, 10..=60_000),
            fall: check("health.fall", self.fall, 3, 1..=100) as u32,
            rise: check("health.rise", self.rise, 2, 1..=100) as u32,
        };
        if health.timeout_ms > health.interval_ms {
            problems.push(format!(
                "{at}: health.timeout_ms is longer than health.interval_ms; make it shorter"
            ));
        }
        health
    }
}

impl RawBreaker {
    pub(super) fn validate(&self, at: &str, problems: &mut Vec<String>) -> Breaker {
        let mut check = |key, value: Option<u64>, default, bounds| {
            bounded(at, key, value.unwrap_or(default), bounds, problems)
        };
        let open_ms = check("breaker.open_ms", self.open_ms, 10_000, 100..=3_600_000);
        let first = check(
            "breaker.first_open_ms",
            self.first_open_ms,
            1_000.min(open_ms),
            100..=open_ms,
        );
        Breaker {
            failures: check("breaker.failures", self.failures, 5, 1..=1_000) as u32,
            percent: check("breaker.percent", self.percent, 50, 1..=100) as u32,
            first_open_ms: first,
            open_ms,
        }
    }
}
