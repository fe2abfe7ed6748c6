//! The front door: who calls, may it pass, how often, and where to. It knows no accounts and no database.
//!
//! [`gate`] reads the bytes before hyper does and lets only unambiguous messages through. For a message that passed, in this order:
//! [`client_ip`], [`ban`], [`path`], [`guard`], [`limit`], then for what is not ours [`route`] and [`proxy`] over [`balance`] and [`breaker`].

use std::sync::Arc;

use crate::config;
use crate::config::edge::guard::Action;
use crate::config::edge::limits::Mode;
use crate::metrics::{Hits, Metrics};

pub mod balance;
pub mod ban;
pub mod breaker;
pub mod client_ip;
pub mod gate;
pub mod guard;
mod host;
pub mod limit;
pub mod path;
pub mod proxy;
pub mod proxy_protocol;
pub mod route;
pub mod tls;
mod words;

use guard::Guard;
use limit::Limits;
use limit::counters::Counters;
use proxy::Upstreams;
use route::Routes;

/// The edge, compiled from one configuration. Immutable: a reload makes a new one and swaps it in whole.
#[derive(Debug)]
pub struct Edge {
    pub guard: Guard,
    /// By [`guard::Rule::index`].
    pub guard_hits: Hits,
    pub bans: ban::Policy,
    pub limits: Limits,
    /// By [`limit::RuleId::index`].
    pub limit_hits: Hits,
    pub routes: Routes,
    /// By [`route::Route::index`].
    pub upstreams: Vec<Arc<Upstreams>>,
}

impl Edge {
    /// Compiles validated settings. `counters` outlive a reload; the upstreams of a route that did not change do, too.
    pub fn compile(
        settings: &config::edge::Edge,
        counters: Arc<Counters>,
        metrics: &Metrics,
        cores: usize,
        before: Option<&Self>,
    ) -> Self {
        let kept = |route: &config::edge::routes::RouteSettings| {
            let olds = before.into_iter().flat_map(|before| {
                before
                    .routes
                    .all()
                    .iter()
                    .map(route::Route::settings)
                    .zip(&before.upstreams)
            });
            olds.into_iter()
                .find(|(old, _)| *old == route)
                .map(|(_, upstreams)| upstreams.clone())
        };
        let upstreams = settings.routes.iter().map(|route| {
            kept(route).unwrap_or_else(|| Arc::new(Upstreams::new(route, metrics, cores)))
        });
        let guard = Guard::compile(&settings.guard);
        let bans = ban::Policy::compile(&settings.guard.bans, &counters);
        let limits = Limits::compile(&settings.limits, counters);
        let hit = |rule: &guard::Rule| match rule.action() {
            Action::Deny => "denied",
            Action::Allow => "allowed",
            Action::Observe => "observed",
        };
        let refused = |rule: &limit::Rule| match rule.mode() {
            Mode::Enforce => "refused",
            Mode::Observe => "observed",
        };
        let guard_rules = guard.rules().iter().map(|rule| (rule.name(), hit(rule)));
        let limit_rules = limits.rules().iter();
        let limit_rules = limit_rules.map(|rule| (rule.name(), refused(rule)));
        Self {
            guard_hits: metrics.guard(guard_rules),
            limit_hits: metrics.limits(limit_rules),
            guard,
            bans,
            limits,
            routes: Routes::compile(&settings.routes),
            upstreams: upstreams.collect(),
        }
    }
}
