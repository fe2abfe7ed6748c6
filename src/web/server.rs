//! Listening: our own accept loop on hyper, because header time-outs, limits and draining are ours to decide, behind the strict gate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::app::App;
use crate::gateway::gate::{self, Gate, GateHandle, Refusal};
use crate::telemetry::access_log::Line;

/// Turns true once, when the process is to stop.
pub type Stop = watch::Receiver<bool>;

/// Ends when the process is to stop.
pub async fn stopped(stop: &mut Stop) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// hyper closes without an answer when a head does not come; the gate answers 408 this much sooner.
const GATE_FIRST: Duration = Duration::from_secs(1);
/// How long a refusal may take to reach its client before the connection is closed.
const LINGER: Duration = Duration::from_secs(2);

/// At a stop, how long a connection without a request may still send one. A client that has just connected, or that has not seen yet
/// that we stop, would lose its request if we closed at once.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// What a request's connection is.
#[derive(Clone, Debug)]
pub struct Connection {
    pub peer: SocketAddr,
    pub gate: GateHandle,
}

/// Bounds of one listener.
#[derive(Clone)]
pub struct Bounds {
    header_timeout: Duration,
    drain_timeout: Duration,
    max_header_bytes: usize,
    max_headers: usize,
    max_connections: usize,
    gate: Arc<gate::Settings>,
}

impl Bounds {
    /// As configured; the gate's refusals are counted and get a request id like any other answer.
    pub fn new(app: &Arc<App>) -> Self {
        let server = &app.config.server;
        let counting = app.clone();
        let limits = gate::Limits {
            head_bytes: server.max_header_bytes,
            fields: server.max_headers,
            ..gate::Limits::default()
        };
        let gate = gate::Settings {
            limits,
            head_timeout: Some(server.header_timeout.std()),
            linger: LINGER,
            http2: false,
            answer: Box::new(move |refusal, peer| refuse(&counting, refusal, peer)),
        };
        Self {
            header_timeout: server.header_timeout.std() + GATE_FIRST,
            drain_timeout: server.drain_timeout.std(),
            max_header_bytes: server.max_header_bytes,
            max_headers: server.max_headers,
            max_connections: server.max_connections,
            gate: Arc::new(gate),
        }
    }

    /// The same for fewer connections.
    pub fn with_connections(mut self, most: usize) -> Self {
        self.max_connections = most;
        self
    }
}

/// The answer to a message that nobody but the gate has seen: counted and logged like any other. Who is behind a proxy is not known, for
/// no header was read.
fn refuse(app: &App, refusal: &Refusal, peer: SocketAddr) -> Vec<u8> {
    let (request_id, reason) = (app.id(), refusal.reason.as_str());
    app.metrics.count_gate(reason);
    app.access_log.write(|| Line {
        at: app.clock.now(),
        request: &request_id,
        client: peer.ip(),
        read: None,
        route: "gate",
        upstream: None,
        status: refusal.status(),
        bytes: None,
        why: Some(reason),
        trace: None,
        took: None,
    });
    refusal.answer(Some(&request_id))
}

/// Accepts until `stop`, then lets running requests finish, for at most `drain_timeout`.
pub async fn serve<S, F>(listener: TcpListener, bounds: Bounds, mut stop: Stop, answer: S)
where
    S: Fn(Connection, Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(bounds.max_connections));
    loop {
        // A full house leaves newcomers in the system's listen queue, which is bounded too.
        let place = tokio::select! {
            () = stopped(&mut stop) => break,
            place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (answer, stop, bounds) = (answer.clone(), stop.clone(), bounds.clone());
                tokio::spawn(async move {
                    connection(stream, peer, bounds, stop, answer).await;
                    drop(place);
                });
            }
            // Out of file descriptors, most likely: the loop must neither end nor spin.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                pause().await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(bounds.max_connections).unwrap_or(u32::MAX);
    if tokio::time::timeout(bounds.drain_timeout, places.acquire_many(all))
        .await
        .is_err()
    {
        tracing::warn!("some requests did not finish within server.drain_timeout");
    }
}

/// Waits a little before accepting is tried again.
async fn pause() {
    let never = std::future::pending::<()>();
    let _ = tokio::time::timeout(Duration::from_millis(50), never).await;
}

/// Ends a while after the stop; until then each answer says `Connection: close`.
async fn last_chance(stop: &mut Stop) {
    stopped(stop).await;
    let never = std::future::pending::<()>();
    let _ = tokio::time::timeout(IDLE_GRACE, never).await;
}

async fn connection<S, F>(
    stream: TcpStream,
    peer: SocketAddr,
    bounds: Bounds,
    mut stop: Stop,
    answer: S,
) where
    S: Fn(Connection, Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    // Answers are small and written at once.
    let _ = stream.set_nodelay(true);
    let gate = Gate::new(stream, peer, bounds.gate.clone());
    let handle = gate.handle();
    let stopping = stop.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = Connection {
            peer,
            gate: handle.clone(),
        };
        let answered = answer(connection, request.map(Body::new));
        let stopping = stopping.clone();
        async move {
            let mut response = answered.await;
            if *stopping.borrow() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    // The gate has counted headers and bytes already; hyper's own bounds only must not be tighter.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_headers(bounds.max_headers)
        .max_buf_size((bounds.max_header_bytes * 2).max(64 * 1024))
        .serve_connection(TokioIo::new(gate), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = last_chance(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}
