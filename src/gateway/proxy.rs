//! Forwarding: one request to one of a route's upstreams, streamed both ways, bounded in time, and told to the breaker however it ends.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body_util::BodyExt;

use super::breaker::Ending;
use super::client_ip::Network;
use super::gate::GateHandle;
use super::route::Route;
use crate::clock::Clock;
use crate::config::edge::routes::RouteSettings;
use crate::error::Error;
use crate::random::Random;
use crate::trace::{End, Trail};

mod answer;
mod connect;
mod headers;
mod http1;
mod stream;
mod upstreams;

use answer::Asked;
use connect::Stream;
pub use headers::{Identity, Told};
use http1::{Failure, Sent};
pub use stream::Ended;
use stream::{Bounds, Patience, Upload};
pub use upstreams::Upstreams;
use upstreams::{Leased, Refused, at};

/// What is told to a downstream service about a request, and how it is watched.
#[derive(Debug)]
pub struct Context<'a> {
    /// Of HTTP, as the request came.
    pub version: Version,
    pub client: IpAddr,
    pub request_id: &'a str,
    pub random: &'a Random,
    /// `http` or `https`, as the client sees us.
    pub scheme: &'static str,
    pub identity: Option<Told>,
    /// The request's `Authorization` was a token of ours.
    pub consumed_authorization: bool,
    /// Fields with `_` in their names pass, but for twins of what is ours.
    pub underscores: bool,
    /// 502 and 504 instead of the published 500.
    pub precise: bool,
    /// The connection's gate, for upgrades.
    pub gate: Option<GateHandle>,
    /// Ends the streams of a request when its session ends.
    pub ended: Option<Ended>,
}

/// A request as each try sends it.
struct Plan<'a> {
    method: &'a Method,
    path: Cow<'a, str>,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
    upgrade: Option<HeaderValue>,
    framing: Sent,
    upload: &'a Upload,
    context: &'a Context<'a>,
}

/// What a try brought.
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: AnswerBody,
}

enum AnswerBody {
    Http1(http1::Incoming),
    Http2(hyper::body::Incoming),
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
    request: &mut Request<Body>,
    context: Context<'_>,
    trail: &mut Trail,
) -> Result<Response<Body>, Error> {
    let settings = route.settings();
    let upgrade = headers::upgrade(request.method(), request.headers(), request.version());
    let client_upgrade = upgrade.is_some().then(|| hyper::upgrade::on(&mut *request));
    let body = std::mem::take(request.body_mut());
    let bounds = Bounds::of(settings, &context);
    let upload = Upload::default();
    let (mut body, framing) = outgoing(request.headers(), body, &bounds, &upload);
    let plan = Plan {
        method: request.method(),
        path: route.upstream_path(request.uri().path()),
        query: request.uri().query(),
        headers: request.headers(),
        upgrade,
        framing,
        upload: &upload,
        context: &context,
    };
    upstreams.save_up();
    let mut tries = Tries {
        replayable: is_idempotent(plan.method) && body.is_none(),
        left: settings.retries,
        failed: None,
        fresh: false,
    };
    loop {
        let leased = upstreams.pick(clock, Network::from(context.client), tries.failed);
        let leased = leased.map_err(|refused| match refused {
            Refused::NoUpstream => unavailable(&context),
            Refused::Share => Error::TooManyRequests {
                retry_after: 1,
                fields: None,
            },
        })?;
        let (member, patience) = (leased.member, bounds.for_answer(settings));
        let url = upstreams.url(member);
        let parent = trail.begin(member, url, &plan.path, clock, context.random);
        let how = (patience, tries.fresh);
        let tried = send(upstreams, member, &plan, &parent, &mut body, how).await;
        trail.end(end_of(&tried), clock);
        match tried {
            Ok(answered) => return deliver(answered, leased, client_upgrade, &bounds, &plan),
            Err(failure) => tries.failed(failure, leased, upstreams, settings, &plan)?,
        }
    }
}

fn unavailable(context: &Context<'_>) -> Error {
    Error::DownstreamUnavailable {
        precise: context.precise,
    }
}

/// What has been tried.
struct Tries {
    /// Sending it twice does no harm, and is possible.
    replayable: bool,
    /// Further tries that the route allows.
    left: u32,
    /// The upstream that failed last, if one did.
    failed: Option<usize>,
    /// The next try takes no kept connection.
    fresh: bool,
}

impl Tries {
    /// Takes note of a failure; an error if there is no further try.
    fn failed(
        &mut self,
        failure: Failure,
        leased: Leased,
        upstreams: &Upstreams,
        settings: &RouteSettings,
        plan: &Plan<'_>,
    ) -> Result<(), Error> {
        let (context, member) = (plan.context, leased.member);
        // What a client does must not count against the upstream: five of it would shut everybody out.
        if let Some(fault) = plan.upload.fault() {
            leased.finish(Ending::Unknown);
            return Err(fault);
        }
        if matches!(failure, Failure::Stale) {
            // Nobody's failure: kept connections end at some time.
            leased.finish(Ending::Unknown);
            if self.replayable && !self.fresh {
                self.fresh = true;
                return Ok(());
            }
        } else {
            leased.finish(Ending::Failure);
        }
        tell(&failure, upstreams, member, settings, context);
        if matches!(failure, Failure::Timeout) {
            return Err(Error::DownstreamTimeout {
                precise: context.precise,
            });
        }
        // What has not left may be sent elsewhere, whatever it is.
        let again = self.replayable || matches!(failure, Failure::Connect(_));
        if !again || self.left == 0 || !upstreams.pay_for_retry() {
            return Err(unavailable(context));
        }
        (self.left, self.failed) = (self.left - 1, Some(member));
        Ok(())
    }
}

/// What the trace is told of a try.
fn end_of(tried: &Result<Answered, Failure>) -> End {
    match tried {
        Ok(answered) => End::Answered(answered.status),
        Err(Failure::Timeout) => End::Failed("timeout"),
        Err(Failure::Connect(_)) => End::Failed("connect"),

        Err(Failure::Stale | Failure::Malformed(_) | Failure::Broken(_) | Failure::Protocol(_)) => {
            End::Failed("broken")
        }
        Err(Failure::Client) => End::Unknown,
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    )
}

/// A client's body as it is sent, and how it is framed: none if the request has none.
fn outgoing(
    headers: &HeaderMap,
    body: Body,
    bounds: &Bounds,
    upload: &Upload,
) -> (Option<Body>, Sent) {
    if http_body::Body::is_end_stream(&body) {
        return (None, Sent::Length(0));
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let framing = length.map_or(Sent::Chunked, Sent::Length);
    (Some(stream::upload(body, bounds, upload.clone())), framing)
}

async fn send(
    upstreams: &Arc<Upstreams>,
    member: usize,
    plan: &Plan<'_>,
    traceparent: &HeaderValue,
    body: &mut Option<Body>,
    (patience, fresh): (Patience, bool),
) -> Result<Answered, Failure> {
    if upstreams.http2().is_some() {
        return Box::pin(send_http2(
            upstreams,
            member,
            plan,
            traceparent,
            body,
            patience,
        ))
        .await;
    }
    let opening = upstreams.connection(member, fresh);
    let mut conn = match patience.until {
        None => opening.await,
        Some(until) => {
            let opened = tokio::time::timeout_at(until, opening).await;
            opened.map_err(|_| Failure::Timeout)?
        }
    }
    .map_err(Failure::Connect)?;
    plan.write_head(upstreams.authority(member), traceparent, conn.head());
    let asked = Asked {
        head: *plan.method == Method::HEAD,
        upgrade: plan.upgrade.is_some(),
    };
    let place = upstreams.place(member);
    let (head, incoming) = conn
        .exchange(body.take(), plan.framing, asked, patience, Some(place))
        .await?;
    Ok(Answered {
        status: head.status,
        headers: head.headers,
        body: AnswerBody::Http1(incoming),
    })
}

impl Plan<'_> {
    /// Writes the head in HTTP/1.1, with its empty line.
    fn write_head(&self, authority: &str, traceparent: &HeaderValue, out: &mut BytesMut) {
        let mut line = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
        line(&[self.method.as_str().as_bytes(), b" ", self.path.as_bytes()]);
        if let Some(query) = self.query {
            line(&[b"?", query.as_bytes()]);
        }
        line(&[b" HTTP/1.1\r\nhost: ", authority.as_bytes(), b"\r\n"]);
        headers::towards_downstream(self.headers, self.context, traceparent, |name, value| {
            line(&[name.as_bytes(), b": ", value, b"\r\n"]);
        });
        match self.framing {
            Sent::Chunked => line(&[b"transfer-encoding: chunked\r\n"]),
            // A body of no bytes is told only by who told us: to some servers, a length on a GET is odd.
            // (Where a method means to carry one, its absence must be told: RFC 9110 section 8.6.)
            Sent::Length(0)
                if !self.headers.contains_key(header::CONTENT_LENGTH)
                    && !matches!(*self.method, Method::POST | Method::PUT | Method::PATCH) => {}
            Sent::Length(length) => line(&[format!("content-length: {length}\r\n").as_bytes()]),
        }
        if let Some(protocol) = &self.upgrade {
            line(&[
                b"connection: upgrade\r\nupgrade: ",
                protocol.as_bytes(),
                b"\r\n",
            ]);
        }
        line(&[b"\r\n"]);
    }

    /// The same as fields of HTTP/2.
    fn fields(&self, traceparent: &HeaderValue) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.headers.len() + 8);
        headers::towards_downstream(self.headers, self.context, traceparent, |name, value| {
            let pair = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_bytes(value),
            );
            if let (Ok(name), Ok(value)) = pair {
                map.append(name, value);
            }
        });
        if let Some(length) = self.headers.get(header::CONTENT_LENGTH) {
            map.insert(header::CONTENT_LENGTH, length.clone());
        }
        // gRPC servers answer in trailers only to who says that he takes them.
        let te = self
            .headers
            .get(header::TE)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        if te
            .split(|byte| *byte == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        {
            map.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        map
    }
}

async fn send_http2(
    upstreams: &Arc<Upstreams>,
    member: usize,
    plan: &Plan<'_>,
    traceparent: &HeaderValue,
    body: &mut Option<Body>,
    patience: Patience,
) -> Result<Answered, Failure> {
    let client = upstreams.http2().expect("asked by the caller");
    let mut request = Request::new(body.take().unwrap_or_default());
    *request.method_mut() = plan.method.clone();
    *request.uri_mut() = at(upstreams.url(member), &plan.path, plan.query);
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = plan.fields(traceparent);
    let mut answer = std::pin::pin!(client.request(request));
    let answer = loop {
        let frames = plan.upload.frames();
        match tokio::time::timeout_at(patience.end(), &mut answer).await {
            Ok(answer) => break answer,
            // While the client still sends, the upstream owes nothing.
            Err(_)
                if !patience.is_over()
                    && (plan.upload.is_awaited() || plan.upload.frames() != frames) => {}
            Err(_) => return Err(Failure::Timeout),
        }
    };
    let (mut parts, body) = answer.map_err(Failure::Protocol)?.into_parts();
    headers::sift_answer(&mut parts.headers);
    Ok(Answered {
        status: parts.status,
        headers: parts.headers,
        body: AnswerBody::Http2(body),
    })
}

/// The answer as the client gets it; the lease lives as long as its body.
fn deliver(
    answered: Answered,
    mut leased: Leased,
    client_upgrade: Option<hyper::upgrade::OnUpgrade>,
    bounds: &Bounds,
    plan: &Plan<'_>,
) -> Result<Response<Body>, Error> {
    let context = plan.context;
    let Answered {
        status,
        mut headers,
        body,
    } = answered;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let switched = switched(body).zip(client_upgrade);
        return match (switched, &context.gate) {
            // Only now may the client's bytes pass unread.
            (Some((downstream, client)), Some(gate)) if gate.transparent() => {
                tokio::spawn(stream::tunnel(client, downstream, bounds.clone(), leased));
                headers::put_via(&mut headers, Version::HTTP_11);
                Ok(response(status, headers, Body::empty()))
            }
            _ => {
                // A switch that nobody asked for (CVE-2026-2833): never pass it on.
                leased.finish(Ending::Failure);
                Err(unavailable(context))
            }
        };
    }
    let version = match body {
        AnswerBody::Http1(_) => Version::HTTP_11,
        AnswerBody::Http2(_) => Version::HTTP_2,
    };
    headers::put_via(&mut headers, version);
    let unwell = matches!(status.as_u16(), 502..=504);
    let ending = if unwell {
        Ending::Failure
    } else {
        Ending::Success
    };
    let body = match body {
        AnswerBody::Http1(mut incoming) => match incoming.take_whole() {
            Some(whole) => {
                leased.finish(ending);
                Body::from(whole)
            }
            None => {
                leased.answered(ending);
                stream::answer(incoming, bounds, leased, plan.upload.clone())
            }
        },
        AnswerBody::Http2(incoming) => {
            leased.answered(ending);
            let sifted = incoming.map_frame(headers::sift_trailers);
            stream::answer(sifted, bounds, leased, plan.upload.clone())
        }
    };
    Ok(response(status, headers, body))
}

fn switched(body: AnswerBody) -> Option<(Stream, Bytes)> {
    match body {
        AnswerBody::Http1(incoming) => incoming.into_switched(),
        AnswerBody::Http2(_) => None,
    }
}

fn response(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Says in the log what the client is not told.
fn tell(
    failure: &Failure,
    upstreams: &Upstreams,
    member: usize,
    settings: &RouteSettings,
    context: &Context<'_>,
) {
    let upstream = upstreams.url(member);
    let why = failure.to_string();
    tracing::warn!(route = settings.name, %upstream, request = context.request_id, error = why, "a downstream service failed");
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => write!(out, "it can't be reached: {error}"),
            Self::Stale => out.write_str("it closed a kept connection"),
            Self::Broken(error) => write!(out, "it broke off: {error}"),
            Self::Malformed(malformed) => write!(out, "{malformed}"),
            Self::Protocol(error) => {
                write!(out, "{error}")?;
                let mut next = std::error::Error::source(error);
                while let Some(cause) = next {
                    write!(out, ": {cause}")?;
                    next = cause.source();
                }
                Ok(())
            }
            Self::Timeout => out.write_str("it did not answer in time"),
            Self::Client => out.write_str("the client's body broke off"),
        }
    }
}
