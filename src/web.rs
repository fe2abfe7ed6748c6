//! What people and programs reach: the stack that every request passes, our own calls, the admin listener.

use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header};
use http_body::Body as HttpBody;
use tower::ServiceExt;

use crate::accounts::Client;
use crate::app::App;
use crate::clock::{Millis, Nanos};
use crate::config::edge::guard::Action;
use crate::config::edge::limits::KeyKind;
use crate::error::Error;
use crate::gateway::Edge;
use crate::gateway::client_ip::{self, Network};
use crate::gateway::gate::GateHandle;
use crate::gateway::guard::{Rule, View};
use crate::gateway::limit::{Key, Outcome};
use crate::gateway::path;
use crate::gateway::route::Found;
use crate::metrics::RouteMetrics;
use crate::telemetry::access_log::{Line, Read};
use crate::trace::{self, Trail};
use limits::Asked;
use pages::{ErrorFor, Pages};
use server::Connection;

pub mod admin;
mod answer;
mod ban;
mod docs;
mod fields;
mod forward;
mod limits;
mod mailbox;
pub mod openapi;
mod origin;
mod pages;
pub mod server;
mod session;
mod status;
mod user;
mod views;

/// Everything that answers on the public listeners.
pub struct Front {
    pub app: Arc<App>,
    pages: Arc<Pages>,
    router: Router,
    assertions: forward::Assertions,
    /// Counters of what is ours, and of what no route took.
    own: RouteMetrics,
}

/// Who a request comes from, and what becomes of it on the way through the stack.
struct Passage {
    request_id: String,
    address: IpAddr,
    network: Network,
    /// It carried forwarding headers that nobody vouches for.
    forwarded: bool,
    asked: Asked,
    version: Version,
    started: Millis,
    /// By the clock that nobody sets.
    began: Nanos,
    /// What became of it at its upstreams.
    trail: Trail,
    gate: GateHandle,
    /// The limits' word by network, for the answer's `RateLimit` fields.
    limit: Option<Outcome>,
    /// The route's place among the edge's, for metrics and log.
    route: Option<usize>,
    /// Why we refused: the guard's rule, the gate's reason for a body, or the error's code.
    why: Option<Cow<'static, str>>,
}

impl Front {
    pub fn new(app: Arc<App>) -> Self {
        let pages = Arc::new(Pages::new(app.clone()));
        let router = router(app.clone(), &pages);
        let own = app.metrics.route("own");
        let assertions = forward::Assertions::new(app.config.cores());
        Self {
            app,
            pages,
            router,
            assertions,
            own,
        }
    }

    /// THE STACK: what happens to a request, outermost first. (The gate has read its bytes before.)
    pub async fn answer(&self, connection: Connection, mut request: Request<Body>) -> Response {
        let app = &*self.app;
        let edge = app.edge.load_full();
        let origin = request.headers().get(header::ORIGIN).cloned();
        // Who calls, found out once; everything after uses this and never looks at the socket or the headers again.
        let mut passage = identify(app, connection, &mut request);
        let error_for = ErrorFor::of(&request);
        let welcome = ban::judge(app, &edge, &mut passage, request.headers()).await;
        let admitted = welcome.and_then(|()| self.admit(&edge, &mut request, &mut passage));
        let response = match admitted {
            Ok(()) => self.dispatch(&edge, &mut request, &mut passage).await,
            Err(error) => error.into_response(),
        };
        let error = answer::error_code(&response);
        let is_error = error.is_some();
        passage.why = passage.why.or(error.map(Cow::Borrowed));
        let mut response = answer::finish(response, &passage.request_id);
        // A browser that asked for a page gets one; its visitor could do nothing with JSON.
        if let Some(error_for) = error_for.filter(|_| is_error && passage.route.is_none()) {
            response = self.pages.error(&response, &error_for, &passage.request_id);
        }
        // Also what we answer in a downstream service's place.
        if passage.route.is_none() || is_error {
            dress(
                app,
                &edge,
                &passage,
                origin.as_ref(),
                response.headers_mut(),
            );
        }
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // Behind a request that asked to switch, the gate waits for this.
            passage.gate.resume();
        }
        self.note(&edge, passage, &response);
        response
    }

    /// Whether a request may come in, by what its head tells. No body is read and nothing is looked up.
    fn admit(
        &self,
        edge: &Edge,
        request: &mut Request<Body>,
        passage: &mut Passage,
    ) -> Result<(), Error> {
        normalise(request)?;
        passage.asked = Asked::of(request);
        let app = &*self.app;
        self.guard(edge, request, passage)?;
        let network = passage.network;
        passage.limit = Some(limits::charge(
            app,
            edge,
            &passage.asked,
            |kind| match kind {
                KeyKind::Network => Some(Key::Network(network)),
                KeyKind::Route => Some(Key::Route),
                _ => None,
            },
        )?);
        // A page of somebody else's must not be able to act for its visitor.
        origin::judge(app, request)
    }

    fn guard(
        &self,
        edge: &Edge,
        request: &Request<Body>,
        passage: &mut Passage,
    ) -> Result<(), Error> {
        let headers = request.headers();
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let view = View {
            method: request.method(),
            path: request.uri().path(),
            host: text(header::HOST).unwrap_or_default(),
            headers,
            client: passage.address,
            country: edge.guard.country(passage.address),
            content_length: text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        };
        let hit = |rule: &Rule| edge.guard_hits.count(rule.index());
        let verdict = edge.guard.judge_with(&view, hit);
        let Some(rule) = verdict.rule else {
            return Ok(());
        };
        hit(rule);
        match verdict.action {
            Action::Deny => {
                passage.why = Some(Cow::Owned(rule.name().to_owned()));
                ban::count(&self.app, edge, headers, passage.address, rule.name());
                Err(Error::AccessDenied)
            }
            _ => Ok(()),
        }
    }

    /// To a downstream service, or to ourselves.
    async fn dispatch(
        &self,
        edge: &Edge,
        request: &mut Request<Body>,
        passage: &mut Passage,
    ) -> Response {
        if origin::is_preflight(&self.app, request) {
            return StatusCode::NO_CONTENT.into_response();
        }
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        match edge.routes.lookup(
            host.unwrap_or_default(),
            request.method(),
            request.uri().path(),
        ) {
            Found::Route(route) => {
                passage.route = Some(route.index());
                let forwarded =
                    forward::forward(&self.app, &self.assertions, edge, route, request, passage)
                        .await;
                forwarded.unwrap_or_else(IntoResponse::into_response)
            }
            Found::MethodNotAllowed(prefix) => {
                let mut refused = Error::MethodNotAllowed.into_response();
                if let Ok(allow) = HeaderValue::try_from(prefix.allow()) {
                    refused.headers_mut().insert(header::ALLOW, allow);
                }
                refused
            }
            Found::Nothing => {
                let client = client(passage, request.headers());
                request.extensions_mut().insert(client);
                // Apart, so that a request that only passes through does not carry the room for a handler along.
                Box::pin(self.route(std::mem::take(request))).await
            }
        }
    }

    /// Our own calls. A panic is an error of ours like any other: answered, logged, and the connection lives on.
    async fn route(&self, request: Request<Body>) -> Response {
        let answered = AssertUnwindSafe(self.router.clone().oneshot(request)).catch_unwind();
        let limit = self.app.config.server.request_timeout.std();
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(Ok(response))) => response,
            Ok(Err(_)) => Error::internal("a handler panicked").into_response(),
            Err(_) => {
                Error::internal("a call took longer than server.request_timeout").into_response()
            }
        }
    }

    /// Metrics, the access log and the trace.
    fn note(&self, edge: &Edge, mut passage: Passage, response: &Response) {
        let app = &*self.app;
        let (took, status) = (
            app.clock.nanos_since(passage.began),
            response.status().as_u16(),
        );
        // A fault behind a head is answered by us like any other error.
        if let (400, Some(refusal)) = (status, passage.gate.refusal()) {
            app.metrics.count_gate(refusal.reason.as_str());
            passage.why = Some(Cow::Borrowed(refusal.reason.as_str()));
        }
        let upstreams = passage.route.map(|route| &edge.upstreams[route]);
        let metrics = upstreams.map_or(&self.own, |upstreams| &upstreams.metrics);
        metrics.count(status, took);
        let route = passage
            .route
            .map_or("own", |route| &edge.routes.all()[route].settings().name);
        app.access_log.write(|| Line {
            at: passage.started,
            request: &passage.request_id,
            client: passage.address,
            read: Some(Read {
                version: passage.version,
                method: passage.asked.method.as_str(),
                path: passage.asked.path(),
            }),
            route,
            upstream: upstreams
                .zip(passage.trail.upstream())
                .map(|(upstreams, member)| upstreams.authority(member)),
            status,
            bytes: response.body().size_hint().exact(),
            why: passage.why.as_deref(),
            trace: passage.trail.sampled().map(trace::Trace::id),
            took: Some(took),
        });
        app.tracer.record(
            passage.trail,
            &trace::Request {
                started: passage.started,
                began: passage.began,
                took,
                method: &passage.asked.method,
                path: passage.asked.path(),
                route,
                scheme: app.config.public_scheme(),
                version: passage.version,
                status,
                why: passage.why.as_deref(),
            },
        );
    }
}

/// One spelling of the path for guard, limits, router and upstream alike.
fn normalise(request: &mut Request<Body>) -> Result<(), Error> {
    // A server-wide OPTIONS asks nothing of anybody.
    if request.uri().path() == "*" {
        return Ok(());
    }
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let normal = path::normalize(target).map_err(|_| Error::BadRequest)?;
    if let Cow::Owned(path) = normal.path {
        let target = match normal.query {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        *request.uri_mut() = target.parse().map_err(|_| Error::BadRequest)?;
    }
    Ok(())
}

fn identify(app: &App, connection: Connection, request: &mut Request<Body>) -> Passage {
    let config = &app.config.server;
    let source = app.config.client_address();
    let (peer, asked) = (connection.peer.ip(), Asked::of(request));
    let (version, started, began) = (request.version(), app.clock.now(), app.clock.nanos());
    let trail = app.tracer.begin(&app.random);
    let headers = request.headers_mut();
    let trusted = client_ip::is_trusted(&config.trusted_proxies, peer);
    let forwarded = !trusted && client_ip::carries_forwarding(headers);
    let address = client_ip::resolve(source, &config.trusted_proxies, peer, headers);
    client_ip::strip(headers, source);
    Passage {
        // Ours, whatever the client sent: an id that a stranger chooses would let him write into our log.
        request_id: app.id(),
        address,
        network: Network::from(address),
        forwarded,
        asked,
        version,
        started,
        began,
        trail,
        gate: connection.gate,
        limit: None,
        route: None,
        why: None,
    }
}

/// Who calls, as the flows of our own calls want to know it.
fn client(passage: &Passage, headers: &HeaderMap) -> Client {
    let agent = headers.get(header::USER_AGENT);
    let agent = agent.and_then(|value| value.to_str().ok());
    Client {
        network: passage.network.to_string(),
        loopback: passage.network.is_loopback(),
        forwarded: passage.forwarded,
        user_agent: agent.unwrap_or_default().to_owned(),
        device: match session::cookie(headers, session::DEVICE) {
            session::Sent::Once(value) => Some(value.to_owned()),
            _ => None,
        },
        request_id: passage.request_id.clone(),
        page: false,
    }
}

/// The headers that all of our own answers have.
fn dress(
    app: &App,
    edge: &Edge,
    passage: &Passage,
    origin: Option<&HeaderValue>,
    headers: &mut HeaderMap,
) {
    if let Some(outcome) = passage
        .limit
        .as_ref()
        .filter(|_| !headers.contains_key("ratelimit"))
    {
        edge.limits.put_fields(headers, outcome);
    }
    origin::allow(app, origin, headers);
    harden(app, headers);
}

/// What browsers are told about every answer of ours, unless it says so itself: run nothing, embed it nowhere, guess nothing, tell nobody.
fn harden(app: &App, headers: &mut HeaderMap) {
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    ];
    for (name, value) in fixed {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    let hsts = &app.config.server.tls.hsts;
    if app.config.public_origin_is_https()
        && let (false, Ok(hsts)) = (hsts.is_empty(), HeaderValue::try_from(hsts))
    {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts);
    }
}

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// Every route of ours in one list. `web::openapi` describes the API's; a test holds the two together.
fn router(app: Arc<App>, pages: &Arc<Pages>) -> Router {
    let user = Router::new()
        .route("/forgot-password", post(user::forgot_password))
        .route("/confirm-otp-reset", post(user::confirm_otp_reset))
        .route("/password-reset", post(user::password_reset))
        .route("/register", post(user::register))
        .route("/verify-email", post(user::verify_email))
        .route("/resend-verification", post(user::resend_verification))
        .route("/login", post(user::login))
        .route("/check", get(user::check))
        .route("/logout", post(user::logout))
        .route("/logout-all", post(user::logout_all))
        .route("/sessions", get(user::sessions))
        .route("/sessions/{id}", delete(user::end_session));
    Router::new()
        .nest("/api/v1/user", user)
        .route("/api/v1/openapi.json", get(docs::openapi))
        .route("/.well-known/jwks.json", get(docs::jwks))
        .route("/docs", get(docs::page))
        .route("/docs/", get(docs::page))
        .route("/docs/{file}", get(docs::file))
        .route("/healthz", get(status::alive))
        .route("/readyz", get(status::ready))
        .with_state(app)
        .merge(pages.router())
        .fallback(async || Error::NotFound)
        .method_not_allowed_fallback(async || Error::MethodNotAllowed)
}
