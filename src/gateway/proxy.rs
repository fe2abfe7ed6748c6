//! Forwarding: one request to one of a route's upstreams, streamed both ways, bounded in time, and told to the breaker however it ends.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::error::Elapsed;

use super::balance::{Group, Lease};
use super::breaker::{Ending, Policy};
use super::gate::GateHandle;
use super::route::Route;
use crate::clock::{Clock, Millis};
use crate::config::edge::routes::{Protocol, RouteSettings};
use crate::error::Error;
use crate::metrics::{Metrics, PoolMetrics, RouteMetrics};
use crate::random::Random;
use crate::trace::{End, Trail};

mod headers;
mod stream;

pub use headers::Identity;
pub use stream::Ended;
use stream::Upload;

/// Idle connections to upstreams are dropped after so long: sooner than common servers drop them (5 s and up), so that a request rarely
/// meets a connection that is just being closed (hyper #2136).
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Of every request, so much of a retry is saved up …
const RETRY_SHARE: f64 = 0.2;
/// … to at most so many retries at once (Envoy's retry budget: 20 %, at least 3).
const RETRY_MOST: f64 = 3.0;

/// The upstreams of one route, with what is known of their health.
pub struct Upstreams {
    uris: Vec<Uri>,
    group: Mutex<Group>,
    client: Client<HttpConnector, Body>,
    retries: Mutex<f64>,
    pub metrics: RouteMetrics,
    pub pool: PoolMetrics,
}

/// What is told to a downstream service about a request.
#[derive(Debug)]
pub struct Context<'a> {
    pub client: IpAddr,
    pub request_id: &'a str,
    /// Hears of each attempt, and knows what its `traceparent` is.
    pub trail: &'a mut Trail,
    pub random: &'a Random,
    /// `http` or `https`, as the client sees us.
    pub scheme: &'static str,
    pub identity: Option<Identity>,
    /// The request's `Authorization` was a token of ours.
    pub consumed_authorization: bool,
    /// 502 and 504 instead of the published 500.
    pub precise: bool,
    /// The connection's gate, for upgrades.
    pub gate: Option<GateHandle>,
    /// Ends the streams of a request when its session ends.
    pub ended: Option<Ended>,
}

impl Upstreams {
    pub fn new(route: &RouteSettings, metrics: &Metrics) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_millis(route.timeouts.connect_ms)));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(route.max_connections as usize)
            .http2_only(route.protocol == Protocol::H2c)
            .build(connector);
        Self {
            uris: route
                .upstreams
                .iter()
                .map(|upstream| upstream.url.clone())
                .collect(),
            // With one upstream there is nothing to fail over to, but waiting for a dead one's time-out helps nobody either.
            group: Mutex::new(Group::new(route, Policy::default(), false)),
            client,
            retries: Mutex::new(RETRY_MOST),
            metrics: metrics.route(&route.name),
            pool: metrics.pool(&route.name),
        }
    }

    /// Host and port of an upstream.
    pub fn authority(&self, member: usize) -> &str {
        let authority = self.uris[member].authority();
        authority.map_or("", |authority| authority.as_str())
    }

    /// Requests under way, breaker open, and healthy by active checks, for each upstream.
    pub fn status(&self, now: Millis) -> Vec<(String, u32, bool, bool)> {
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        let states = group.status(now as u64);
        let told = self
            .uris
            .iter()
            .zip(states)
            .map(|(uri, (under_way, state, up))| {
                (
                    uri.authority()
                        .map_or_else(String::new, ToString::to_string),
                    under_way,
                    state == super::breaker::State::Open,
                    up,
                )
            });
        told.collect()
    }

    fn pick(self: &Arc<Self>, clock: &Arc<Clock>, not: Option<usize>) -> Option<Leased> {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = group.pick(clock.now() as u64, not).ok()?;
        let member = lease.member();
        Some(Leased {
            upstreams: self.clone(),
            clock: clock.clone(),
            lease: Some(lease),
            member,
        })
    }

    /// Every request saves up; a retry must be paid for, so that a struggling service is not hit twice as hard.
    fn save_up(&self) {
        let mut saved = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        *saved = (*saved + RETRY_SHARE).min(RETRY_MOST);
    }

    fn pay_for_retry(&self) -> bool {
        let mut saved = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let can = *saved >= 1.0;
        if can {
            *saved -= 1.0;
        }
        can
    }

    /// Asks each upstream's health path once.
    pub async fn check_health(&self, health: &crate::config::edge::routes::Health) {
        for (member, base) in self.uris.iter().enumerate() {
            let uri = at(base, &health.path, None);
            let request = Request::get(uri)
                .body(Body::empty())
                .expect("a checked URI");
            let limit = Duration::from_millis(health.timeout_ms);
            let answered = tokio::time::timeout(limit, self.client.request(request)).await;
            let good = matches!(answered, Ok(Ok(answer)) if answer.status().is_success());
            let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
            if group.note_health(member, good) {
                tracing::warn!(upstream = %base, healthy = good, "an upstream's health has changed");
            }
        }
    }
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Upstreams")
            .field("uris", &self.uris)
            .finish_non_exhaustive()
    }
}

/// One request's leave to go to one upstream. However it ends, and if it is just dropped, the breaker hears of it.
pub struct Leased {
    upstreams: Arc<Upstreams>,
    clock: Arc<Clock>,
    lease: Option<Lease>,
    member: usize,
}

impl Leased {
    fn finish(mut self, ending: Ending) {
        self.report(ending);
    }

    fn report(&mut self, ending: Ending) {
        if let Some(lease) = self.lease.take() {
            let mut group = self
                .upstreams
                .group
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            group.finish(lease, ending, self.clock.now() as u64);
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        // The client went away, most likely: nothing was learnt about the upstream.
        self.report(Ending::Unknown);
    }
}

/// Forwards a request whose path is in its normal form.
///
/// # Errors
/// [`Error::DownstreamUnavailable`], [`Error::DownstreamTimeout`]; when the client's own body is broken or does not come,
/// [`Error::BadRequest`] or [`Error::RequestTimeout`], and when its session ended meanwhile, [`Error::Unauthorized`].
pub async fn forward(
    upstreams: &Arc<Upstreams>,
    route: &Route,
    clock: &Arc<Clock>,
    mut request: Request<Body>,
    context: Context<'_>,
) -> Result<Response<Body>, Error> {
    let settings = route.settings();
    let upgrade = headers::upgrade(request.method(), request.headers(), request.version());
    let client_upgrade = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    headers::towards_downstream(&mut parts.headers, &context, upgrade.as_ref());
    let path = route.upstream_path(parts.uri.path()).into_owned();
    let query = parts.uri.query().map(str::to_owned);
    let replayable = is_idempotent(&parts.method) && http_body::Body::is_end_stream(&body);
    upstreams.save_up();
    let upload = Upload::default();
    let mut body = Some(stream::idle_bounded(
        body,
        settings.timeouts.idle_ms,
        context.ended.clone(),
        upload.clone(),
    ));
    let mut failed: Option<usize> = None;
    loop {
        let unavailable = Error::DownstreamUnavailable {
            precise: context.precise,
        };
        let Some(leased) = upstreams.pick(clock, failed) else {
            return Err(unavailable);
        };
        let member = leased.member;
        let (base, trail) = (&upstreams.uris[member], &mut *context.trail);
        let parent = trail.begin(member, base, &path, clock, context.random);
        let uri = at(base, &path, query.as_deref());
        let attempt = attempt(&parts, uri, parent, body.take());
        let limit = Duration::from_millis(settings.timeouts.response_ms);
        let result = tokio::time::timeout(limit, upstreams.client.request(attempt)).await;
        trail.end(end_of(&result, &upload), clock);
        match result {
            Ok(Ok(answer)) => {
                return answered(answer, leased, client_upgrade, settings, &context);
            }
            Err(_) if upload.is_awaited() => {
                leased.finish(Ending::Unknown);
                return Err(Error::RequestTimeout);
            }
            Err(_) => {
                leased.finish(Ending::Failure);
                return Err(Error::DownstreamTimeout {
                    precise: context.precise,
                });
            }
            Ok(Err(error)) => {
                // What a client does must not count against the upstream: five of it would shut everybody out.
                if let Some(fault) = upload.fault() {
                    leased.finish(Ending::Unknown);
                    return Err(fault);
                }
                leased.finish(Ending::Failure);
                tracing::warn!(route = settings.name, upstream = %upstreams.uris[member], request = context.request_id, error = %causes(&error), "a downstream service failed");
                let again = replayable && failed.is_none() && settings.retries > 0;
                if !again || !upstreams.pay_for_retry() {
                    return Err(unavailable);
                }
                failed = Some(member);
            }
        }
    }
}

fn attempt(
    parts: &http::request::Parts,
    uri: Uri,
    parent: HeaderValue,
    body: Option<Body>,
) -> Request<Body> {
    let mut attempt = Request::new(body.unwrap_or_default());
    *attempt.method_mut() = parts.method.clone();
    *attempt.uri_mut() = uri;
    *attempt.headers_mut() = parts.headers.clone();
    attempt.headers_mut().insert("traceparent", parent);
    attempt
}

/// What a trace tells of an attempt. What the client did is no fault of the upstream's.
fn end_of<T>(result: &Result<Result<Response<T>, ClientError>, Elapsed>, upload: &Upload) -> End {
    match result {
        Ok(Ok(answer)) => End::Answered(answer.status()),
        _ if upload.is_awaited() || upload.fault().is_some() => End::Unknown,
        Err(_) => End::Failed("timeout"),
        Ok(Err(error)) if error.is_connect() => End::Failed("connect"),
        Ok(Err(_)) => End::Failed("broken"),
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    )
}

/// The answer as the client gets it; the lease lives as long as its body.
fn answered(
    mut answer: Response<hyper::body::Incoming>,
    leased: Leased,
    client_upgrade: Option<hyper::upgrade::OnUpgrade>,
    settings: &RouteSettings,
    context: &Context<'_>,
) -> Result<Response<Body>, Error> {
    let switching = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching {
        return match (client_upgrade, &context.gate) {
            // Only now may the client's bytes pass unread.
            (Some(client), Some(gate)) if gate.transparent() => {
                let downstream = hyper::upgrade::on(&mut answer);
                let idle = Duration::from_millis(settings.timeouts.idle_ms);
                let ended = context.ended.clone();
                tokio::spawn(stream::tunnel(client, downstream, idle, ended, leased));
                headers::towards_client(answer.headers_mut(), true);
                Ok(answer.map(|_| Body::empty()))
            }
            _ => {
                // A switch that nobody asked for (CVE-2026-2833): never pass it on.
                leased.finish(Ending::Failure);
                Err(Error::DownstreamUnavailable {
                    precise: context.precise,
                })
            }
        };
    }
    headers::towards_client(answer.headers_mut(), false);
    *answer.version_mut() = Version::HTTP_11;
    let unwell = matches!(answer.status().as_u16(), 502..=504);
    let ending = if unwell {
        Ending::Failure
    } else {
        Ending::Success
    };
    let idle = settings.timeouts.idle_ms;
    Ok(answer.map(|body| stream::answer_body(body, idle, context.ended.clone(), leased, ending)))
}

/// A URI at an upstream. The path was normalised, and the query goes as it came.
fn at(base: &Uri, path: &str, query: Option<&str>) -> Uri {
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

/// An error with what is behind it, for the log.
fn causes(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Whether a request has a body at all, from its head.
pub fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0")
}
