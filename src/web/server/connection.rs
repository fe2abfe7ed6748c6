//! The life of one connection: PROXY header, TLS, the gate, HTTP/1 or HTTP/2, and its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, Tracked};
use super::places::Place;
use super::socket::{Belongings, Socket, Stream};
use super::{Connection, Shared, Stop, after, note_refusal, stopped};
use crate::app::App;
use crate::config::Server;
use crate::cores::Seat;
use crate::gateway::client_ip::Network;
use crate::gateway::gate::http2::{CheckedBody, check};
use crate::gateway::gate::{Gate, GateHandle, Reason, Refusal};

/// hyper closes without an answer when a head does not come; the gate answers 408 this much sooner.
const GATE_FIRST: Duration = Duration::from_secs(1);

/// A connection and what it is to know.
pub(super) struct Visit {
    pub(super) shared: Arc<Shared>,
    pub(super) tls: bool,
    pub(super) peer: SocketAddr,
    pub(super) stop: Stop,
    pub(super) activity: Arc<Activity>,
}

/// Serves a connection to its end, which comes `server.drain_timeout` after the stop at the latest.
pub(super) async fn serve<S, F>(
    visit: Visit,
    stream: std::net::TcpStream,
    place: Place,
    seat: Option<Seat>,
    answer: S,
) where
    S: Fn(Connection, Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let (mut stop, drain_timeout) = (visit.stop.clone(), visit.server().drain_timeout.std());
    tokio::select! {
        () = run(visit, stream, place, seat, answer) => {}
        () = async { stopped(&mut stop).await; after(drain_timeout).await } => {}
    }
}

async fn run<S, F>(
    mut visit: Visit,
    stream: std::net::TcpStream,
    place: Place,
    seat: Option<Seat>,
    answer: S,
) where
    S: Fn(Connection, Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    // Here and not with the acceptor: a socket belongs to the runtime that it is first named to.
    let Ok(stream) = TcpStream::from_std(stream) else {
        return;
    };
    let with = Belongings {
        place,
        seat,
        activity: visit.activity.clone(),
        metrics: visit.app().metrics.clone(),
        send_timeout: visit.server().send_timeout.std(),
    };
    let opened = visit.open(Socket::new(stream, with)).await;
    // Shared from here on by the requests: counts of the connection's own, so that no two cores write to one.
    let visit = Arc::new(visit);
    match opened {
        Ok(Some((gate, true))) => visit.http2(gate, answer).await,
        Ok(Some((gate, false))) => visit.http1(gate, answer).await,
        Ok(None) => {}
        Err(why) => visit.app().metrics.count_connection(why),
    }
}

impl Visit {
    fn app(&self) -> &Arc<App> {
        &self.shared.app
    }

    fn server(&self) -> &Server {
        &self.app().config.server
    }

    /// Everything before HTTP; says whether that is HTTP/2. `None`: the client left, or never said anything.
    async fn open(
        &mut self,
        mut socket: Socket,
    ) -> Result<Option<(Gate<Stream>, bool)>, &'static str> {
        if self.shared.proxied {
            self.read_proxy_header(&mut socket).await?;
        }
        let patience = self.server().header_timeout.std();
        if !self.tls {
            let mut gate = Gate::new(Stream::Plain(socket), self.peer, self.shared.gate.clone());
            let spoken = tokio::select! {
                spoken = timeout(patience + GATE_FIRST, gate.speaks_http2()) => spoken,
                () = self.silent_at_the_end() => return Ok(None),
            };
            let http2 = matches!(spoken, Ok(Ok(true)));
            return Ok(matches!(spoken, Ok(Ok(_))).then_some((gate, http2)));
        }
        let config = self.app().tls.load_full().ok_or("tls_handshake")?;
        let handshake = TlsAcceptor::from(config).accept(socket);
        let shaken = tokio::select! {
            shaken = timeout(patience, handshake) => shaken,
            () = self.silent_at_the_end() => return Ok(None),
        };
        let Ok(Ok(stream)) = shaken else {
            return Err("tls_handshake");
        };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let (stream, settings) = (Stream::Tls(Box::new(stream)), self.shared.http1.clone());
        let gate = if http2 {
            Gate::open(stream, self.peer, settings)
        } else {
            Gate::new(stream, self.peer, settings)
        };
        Ok(Some((gate, http2)))
    }

    /// A proxy says whose connection this is.
    async fn read_proxy_header(&mut self, socket: &mut Socket) -> Result<(), &'static str> {
        let patience = self.server().proxy_protocol_timeout.std();
        let Ok(Ok(client)) = timeout(patience, socket.proxy_header()).await else {
            return Err("proxy_header");
        };
        if let Some(client) = client {
            self.peer = client;
            if !socket.place.count_for(Network::from(client.ip())) {
                return Err("network");
            }
        }
        Ok(())
    }

    async fn http1<S, F>(self: &Arc<Self>, gate: Gate<Stream>, answer: S)
    where
        S: Fn(Connection, Request<Body>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let (handle, visit) = (gate.handle(), self.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (visit, under_way) = (visit.clone(), visit.activity.begin());
            let connection = Connection {
                peer: visit.peer,
                gate: handle.clone(),
            };
            let answered = answer(connection, request.map(Body::new));
            async move {
                let mut response = answered.await;
                let stays = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                if !stays && visit.app().draining.load(Ordering::Relaxed) {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                let response = response.map(|body| Tracked::new(body, under_way, false));
                Ok::<_, Infallible>(response)
            }
        });
        let server = self.server();
        // The gate has counted headers and bytes already; hyper's own bounds only must not be tighter.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(server.header_timeout.std() + GATE_FIRST)
            .max_headers(server.max_headers)
            .max_buf_size((server.max_header_bytes * 2).max(64 * 1024))
            .serve_connection(TokioIo::new(gate), service)
            .with_upgrades();
        tokio::pin!(connection);
        let served = tokio::select! {
            served = &mut connection => served,
            () = self.silent_at_the_end() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    async fn http2<S, F>(self: &Arc<Self>, gate: Gate<Stream>, answer: S)
    where
        S: Fn(Connection, Request<Body>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let (visit, limits) = (self.clone(), self.shared.http1.limits);
        let service = service_fn(move |request: Request<Incoming>| {
            let (visit, under_way) = (visit.clone(), visit.activity.begin());
            let bodiless = *request.method() == Method::HEAD;
            let (mut parts, body) = request.into_parts();
            let judged = check(&mut parts, &limits).map(|()| {
                let connection = Connection {
                    peer: visit.peer,
                    // Nothing to switch to: what the gate would wait for never comes.
                    gate: GateHandle::default(),
                };
                let body = Body::new(CheckedBody::new(body, limits));
                answer(connection, Request::from_parts(parts, body))
            });
            async move {
                let response = match judged {
                    Ok(answered) => answered.await,
                    Err(reason) => refuse(visit.app(), reason, visit.peer),
                };
                let response = if bodiless { headed(response) } else { response };
                Ok::<_, Infallible>(response.map(|body| Tracked::new(body, under_way, true)))
            }
        });
        let connection = http2_builder(self.server()).serve_connection(TokioIo::new(gate), service);
        tokio::pin!(connection);
        let mut stop = self.stop.clone();
        let end = tokio::select! {
            served = &mut connection => Err(served),
            () = stopped(&mut stop) => Ok(self.server().drain_timeout.std()),
            () = self.without_request() => Ok(self.server().drain_timeout.std()),
            () = self.not_read() => Ok(Duration::ZERO),
        };
        let served = match end {
            Err(served) => served,
            // GOAWAY, and as long as it takes to finish what is under way: a stop gives it more time than an idle client.
            Ok(patience) => {
                connection.as_mut().graceful_shutdown();
                timeout(patience, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    /// Ends when the process stops and the connection has nothing to do: a client may have sent a request before it could know.
    async fn silent_at_the_end(&self) {
        let (mut stop, idle) = (self.stop.clone(), self.server().drain_idle.std());
        stopped(&mut stop).await;
        let hurried = || self.app().hurried.load(Ordering::Relaxed);
        let mut reads = self.activity.reads();
        while !(hurried() && self.activity.is_idle()) {
            after(idle).await;
            let so_far = self.activity.reads();
            if self.activity.is_idle() && so_far == reads {
                return;
            }
            reads = so_far;
        }
    }

    /// Ends when no request has been under way for `server.http2_idle`.
    async fn without_request(&self) {
        let idle = self.server().http2_idle.std();
        let mut begun = self.activity.begun();
        loop {
            after(idle).await;
            let so_far = self.activity.begun();
            if self.activity.is_idle() && so_far == begun {
                return;
            }
            begun = so_far;
        }
    }

    /// Ends when an HTTP/2 client has left an answer standing for `server.send_timeout`, once to one and a half times.
    async fn not_read(&self) {
        let look = self.server().send_timeout.std() / 2;
        loop {
            after(look).await;
            if self.activity.all_stand_still() {
                self.app().metrics.count_connection("send_timeout");
                return;
            }
        }
    }
}

/// Every limit has a name: what floods have used is bounded by hyper and `h2` under these.
fn http2_builder(server: &Server) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    // Fields count 32 bytes more in HTTP/2 (RFC 9113 section 6.5.2), and beyond its bound `h2` answers a bare 431: ours comes first.
    let list = (server.max_header_bytes + 32 * server.max_headers).saturating_mul(2);
    builder
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .max_concurrent_streams(server.http2_streams)
        .initial_stream_window_size(server.http2_stream_window)
        .initial_connection_window_size(server.http2_connection_window)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(server.http2_pending_resets)
        .max_local_error_reset_streams(server.http2_own_resets)
        .keep_alive_interval(server.http2_ping.std())
        .keep_alive_timeout(server.http2_ping_timeout.std());
    builder
}

/// The gate's answer, counted and logged as the gate's are.
fn refuse(app: &App, reason: Reason, peer: SocketAddr) -> Response {
    let refusal = Refusal {
        reason,
        in_body: false,
    };
    let request_id = note_refusal(app, &refusal, peer);
    refusal.response(&request_id).map(Body::from)
}

/// The answer to HEAD: hyper takes the body away on HTTP/1 alone.
fn headed(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact()
        && !body.is_end_stream()
    {
        let length = HeaderValue::from(length);
        parts
            .headers
            .entry(header::CONTENT_LENGTH)
            .or_insert(length);
    }
    Response::from_parts(parts, Body::empty())
}
