//! The upstreams of one route: which are well, and the connections that are kept to them.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{Request, Version};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::answer::Asked;
use super::connect::{Connector, Tls};
use super::http1::{Conn, Sent, now};
use super::stream::Patience;
use crate::clock::{Clock, Millis};
use crate::config::edge::routes::health::Health;
use crate::config::edge::routes::{Protocol, RouteSettings};
use crate::cores;
use crate::gateway::balance::{Group, Lease};
use crate::gateway::breaker::{Ending, Policy, State};
use crate::gateway::client_ip::Network;
use crate::metrics::{Metrics, RouteMetrics};

/// Idle connections to upstreams are dropped after so long: sooner than common servers drop them (5 s and up), so that a request rarely
/// meets a connection that is just being closed (hyper #2136).
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Of every request, so much of a retry is saved up …
const RETRY_SHARE: f64 = 0.2;
/// … to at most so many retries at once (Envoy's retry budget: 20 %, at least 3).
const RETRY_MOST: f64 = 3.0;
/// Of HTTP/2: a silent connection is asked so often whether it still stands, and given up when it does not answer for as long.
const PING_EVERY: Duration = Duration::from_secs(20);

/// The upstreams of one route, with what is known of their health.
pub struct Upstreams {
    members: Box<[Member]>,
    group: Mutex<Group>,
    retries: Mutex<f64>,
    shares: Shares,
    connector: Connector,
    /// Of a route that speaks HTTP/2 to its upstreams.
    http2: Option<Client<Connector, Body>>,
    pub metrics: RouteMetrics,
}

struct Member {
    url: Uri,
    /// What `Host` says.
    authority: String,
    /// Kept connections, by core: nobody waits for another core's lock, and a connection stays with the runtime that watches it.
    idle: Box<[Mutex<Vec<Idle>>]>,
}

struct Idle {
    conn: Box<Conn>,
    since: Instant,
}

/// Why a request gets no upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// All are out, or have as much to do as they may.
    NoUpstream,
    /// The client's network has as many requests under way here as it may.
    Share,
}

/// Requests under way by client network, so that no one network can hold every place that a route has: with a few slow uploads it could
/// keep all others out for as long as it liked. Networks are told apart by a keyed hash; two that fall together share, which does no harm.
struct Shares {
    counts: Box<[AtomicU32; SHARES]>,
    most: u32,
    seed: RandomState,
}

/// How many networks are told apart.
const SHARES: usize = 4096;

impl Shares {
    fn new(most: u32) -> Self {
        Self {
            counts: Box::new([const { AtomicU32::new(0) }; SHARES]),
            most,
            seed: RandomState::new(),
        }
    }

    /// One more of a network, unless it has all that it may; to be given back.
    fn take(&self, network: Network) -> Option<usize> {
        let share = self.seed.hash_one(network) as usize % SHARES;
        if self.counts[share].fetch_add(1, Ordering::Relaxed) < self.most {
            return Some(share);
        }
        self.give_back(share);
        None
    }

    fn give_back(&self, share: usize) {
        self.counts[share].fetch_sub(1, Ordering::Relaxed);
    }
}

/// How one upstream is, for metrics.
#[derive(Debug)]
pub struct Status {
    /// Host and port.
    pub upstream: String,
    /// Requests.
    pub under_way: u32,
    /// Connections that are kept for later requests.
    pub idle: usize,
    /// It failed too often and gets no requests.
    pub is_open: bool,
    /// Its health checks say so, or it has none.
    pub is_up: bool,
}

/// Where a connection goes when its request is through.
pub struct Place {
    upstreams: Arc<Upstreams>,
    member: usize,
}

impl Place {
    /// Keeps a connection for the next request.
    pub fn keep(self, conn: Box<Conn>) {
        let since = now();
        self.upstreams.members[self.member]
            .idle()
            .push(Idle { conn, since });
    }
}

impl Member {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        let core = cores::current() % self.idle.len();
        lock(&self.idle[core])
    }
}

impl Upstreams {
    /// All up. `cores` is how many there are.
    pub fn new(route: &RouteSettings, metrics: &Metrics, cores: usize) -> Self {
        let member = |upstream: &crate::config::edge::routes::Upstream| Member {
            authority: upstream
                .url
                .authority()
                .map(ToString::to_string)
                .unwrap_or_default(),
            url: upstream.url.clone(),
            idle: (0..cores.max(1)).map(|_| Mutex::default()).collect(),
        };
        let connector = Connector {
            timeout: Duration::from_millis(route.timeouts.connect_ms),
            tls: route.tls.as_ref().map(|tls| Tls {
                config: tls.client_config(route.protocol),
                server_name: tls.server_name.clone(),
            }),
        };
        let http2 = (route.protocol != Protocol::Http1).then(|| {
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .http2_only(true)
                .http2_keep_alive_interval(PING_EVERY)
                .http2_keep_alive_timeout(PING_EVERY)
                .build(connector.clone())
        });
        Self {
            members: route.upstreams.iter().map(member).collect(),
            // With one upstream there is nothing to fail over to, but waiting for a dead one's time-out helps nobody either.
            group: Mutex::new(Group::new(route, policy(route), false)),
            retries: Mutex::new(RETRY_MOST),
            shares: Shares::new(route.max_connections_per_network),
            connector,
            http2,
            metrics: metrics.route(&route.name),
        }
    }

    /// How each upstream is.
    pub fn status(&self, now: Millis) -> Vec<Status> {
        let group = lock(&self.group);
        let states = self.members.iter().zip(group.status(now as u64));
        let status = |(member, (under_way, state, is_up)): (&Member, (u32, State, bool))| Status {
            upstream: member.authority.clone(),
            under_way,
            idle: member.idle.iter().map(|kept| lock(kept).len()).sum(),
            is_open: state == State::Open,
            is_up,
        };
        states.map(status).collect()
    }

    /// Closes connections that were idle for too long.
    pub fn drop_idle(&self) {
        let now = now();
        for kept in self.members.iter().flat_map(|member| &member.idle) {
            lock(kept).retain(|idle| now - idle.since < POOL_IDLE);
        }
    }

    /// Leave for one request of a client's network to one upstream, if any can take it; not `not`, unless it is the only one left.
    ///
    /// # Errors
    /// See `Refused`.
    pub fn pick(
        self: &Arc<Self>,
        clock: &Arc<Clock>,
        network: Network,
        not: Option<usize>,
    ) -> Result<Leased, Refused> {
        let share = self.shares.take(network).ok_or(Refused::Share)?;
        let Ok(lease) = lock(&self.group).pick(clock.now() as u64, not) else {
            self.shares.give_back(share);
            return Err(Refused::NoUpstream);
        };
        let member = lease.member();
        Ok(Leased {
            upstreams: self.clone(),
            clock: clock.clone(),
            lease: Some(lease),
            share,
            member,
        })
    }

    /// The upstream's URL.
    pub fn url(&self, member: usize) -> &Uri {
        &self.members[member].url
    }

    /// The upstream's name and port.
    pub fn authority(&self, member: usize) -> &str {
        &self.members[member].authority
    }

    /// The client for HTTP/2, where that is what the route speaks.
    pub fn http2(&self) -> Option<&Client<Connector, Body>> {
        self.http2.as_ref()
    }

    /// A connection to an upstream: a kept one if there is, unless it must be `fresh`.
    ///
    /// # Errors
    /// It can't be reached.
    pub async fn connection(&self, member: usize, fresh: bool) -> io::Result<Box<Conn>> {
        while let Some(mut idle) = (!fresh)
            .then(|| self.members[member].idle().pop())
            .flatten()
        {
            if now() - idle.since < POOL_IDLE && idle.conn.is_alive() {
                return Ok(idle.conn);
            }
        }
        // Apart: most requests find a kept connection, and need not carry the room for a handshake along.
        let opened = Box::pin(self.connector.connect(&self.members[member].url)).await;
        let stream = opened?;
        Ok(Conn::new(stream))
    }

    /// Where a connection to `member` is kept.
    pub fn place(self: &Arc<Self>, member: usize) -> Place {
        Place {
            upstreams: self.clone(),
            member,
        }
    }

    /// Every request saves up; a retry must be paid for, so that a struggling service is not hit twice as hard.
    pub fn save_up(&self) {
        let mut saved = lock(&self.retries);
        *saved = (*saved + RETRY_SHARE).min(RETRY_MOST);
    }

    /// Whether there is enough saved up for a retry, which then is spent.
    pub fn pay_for_retry(&self) -> bool {
        let mut saved = lock(&self.retries);
        let can = *saved >= 1.0;
        if can {
            *saved -= 1.0;
        }
        can
    }

    /// Asks each upstream's health path once.
    pub async fn check_health(&self, health: &Health) {
        for (at, member) in self.members.iter().enumerate() {
            let limit = Duration::from_millis(health.timeout_ms);
            let asked = self.ask_health(at, &health.path, limit);
            let answered = tokio::time::timeout(limit, asked).await;
            let good = matches!(answered, Ok(Some(status)) if (200..300).contains(&status));
            if lock(&self.group).note_health(at, good) {
                tracing::warn!(upstream = %member.url, healthy = good, "an upstream's health has changed");
            }
        }
    }

    async fn ask_health(&self, member: usize, path: &str, limit: Duration) -> Option<u16> {
        if let Some(client) = &self.http2 {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = at(self.url(member), path, None);
            *request.version_mut() = Version::HTTP_2;
            return Some(client.request(request).await.ok()?.status().as_u16());
        }
        let asked = Asked {
            head: false,
            upgrade: false,
        };
        // On a connection of its own: whether a new one can be made is part of the question.
        let patience = Patience {
            silence: limit,
            until: None,
        };
        let mut conn = self.connection(member, true).await.ok()?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.authority(member)
        );
        conn.head().extend_from_slice(head.as_bytes());
        let answer = conn.exchange(None, Sent::default(), asked, patience, None);
        let (head, _) = answer.await.ok()?;
        Some(head.status.as_u16())
    }
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls = self.members.iter().map(|member| &member.url);
        out.debug_list().entries(urls).finish()
    }
}

/// One request's leave to go to one upstream. However it ends, and if it is just dropped, the breaker hears of it.
pub struct Leased {
    upstreams: Arc<Upstreams>,
    clock: Arc<Clock>,
    lease: Option<Lease>,
    share: usize,
    pub member: usize,
}

impl Leased {
    /// Tells how it was answered; its body is still to come.
    pub fn answered(&mut self, ending: Ending) {
        if let Some(lease) = &mut self.lease {
            let now = self.clock.now() as u64;
            lock(&self.upstreams.group).answered(lease, ending, now);
        }
    }

    /// Tells how it ended.
    pub fn finish(mut self, ending: Ending) {
        self.report(ending);
    }

    fn report(&mut self, ending: Ending) {
        if let Some(lease) = self.lease.take() {
            let now = self.clock.now() as u64;
            lock(&self.upstreams.group).finish(lease, ending, now);
            self.upstreams.shares.give_back(self.share);
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        // The client went away, most likely: nothing was learnt about the upstream.
        self.report(Ending::Unknown);
    }
}

fn policy(route: &RouteSettings) -> Policy {
    let breaker = route.breaker;
    Policy {
        consecutive: breaker.failures,
        percent: breaker.percent,
        first_open_ms: breaker.first_open_ms,
        open_ms: breaker.open_ms,
        ..Policy::default()
    }
}

/// A URI at an upstream. The path was normalised, and the query goes as it came.
pub fn at(base: &Uri, path: &str, query: Option<&str>) -> Uri {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(base.scheme().cloned().unwrap_or(Scheme::HTTP));
    parts.authority = base.authority().cloned();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    Uri::from_parts(parts).unwrap_or_else(|_| base.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
