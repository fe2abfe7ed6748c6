//! Listening: our own accept loop on hyper, because time-outs, limits and draining are ours to decide, behind the strict gate.
//!
//! One acceptor a listener takes connections on the main runtime, closes those that are too many, and hands each of the others to a core
//! ([`crate::cores`]), where it stays. What becomes of it there is in `connection`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::Request;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::app::App;
use crate::config::ClientAddress;
use crate::cores::Cores;
use crate::gateway::client_ip::{Network, is_trusted};
use crate::gateway::gate::{self, GateHandle, Refusal};
use crate::telemetry::access_log::Line;
use activity::Activity;
use connection::Visit;
use places::{Place, Places};

mod activity;
mod connection;
mod places;
mod socket;

/// Turns true once, when the process is to stop.
pub type Stop = watch::Receiver<bool>;

/// Ends when the process is to stop.
pub async fn stopped(stop: &mut Stop) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How long a refusal may take to reach its client before the connection is closed.
const LINGER: Duration = Duration::from_secs(2);
/// Before another try to accept, when the system gave an error.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that the system accepted for us before we closed the listener. The acceptor is quick, so few wait there; whoever goes on
/// connecting must not keep the listener open.
const BACKLOG: usize = 128;

/// What a request's connection is.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The other end, or the client that a trusted proxy's PROXY header named.
    pub peer: SocketAddr,
    pub gate: GateHandle,
}

/// Bounds of one listener; those of one process share their places.
#[derive(Clone)]
pub struct Bounds {
    shared: Arc<Shared>,
    tls: bool,
    cores: Option<Arc<Cores>>,
}

/// What the connections of a listener have in common.
struct Shared {
    app: Arc<App>,
    places: Arc<Places>,
    /// A proxy's PROXY header comes first.
    proxied: bool,
    /// Whether a client may begin with HTTP/2 at once.
    gate: Arc<gate::Settings>,
    /// Under TLS ALPN has decided, and a preface is an error.
    http1: Arc<gate::Settings>,
}

impl Bounds {
    /// As configured, for the public listeners. Connections are served on the runtime that accepts them.
    pub fn new(app: &Arc<App>) -> Self {
        let server = &app.config.server;
        let places = Places::new(
            server.max_connections,
            server.max_connections_per_network,
            app.metrics.connections.clone(),
        );
        let proxied = app.config.client_address() == ClientAddress::ProxyProtocol;
        Self::with(app, places, proxied, server.http2)
    }

    /// For the admin listener: so many connections, no proxy, HTTP/1 alone.
    pub fn for_admin(app: &Arc<App>, most: usize) -> Self {
        Self::with(app, Places::new(most, most, Gauge::default()), false, false)
    }

    fn with(app: &Arc<App>, places: Arc<Places>, proxied: bool, http2: bool) -> Self {
        let shared = Shared {
            app: app.clone(),
            places,
            proxied,
            gate: Arc::new(gate_settings(app, http2)),
            http1: Arc::new(gate_settings(app, false)),
        };
        Self {
            shared: Arc::new(shared),
            tls: false,
            cores: None,
        }
    }

    /// The same under TLS.
    pub fn over_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The same, with connections served on cores.
    pub fn on(mut self, cores: Arc<Cores>) -> Self {
        self.cores = Some(cores);
        self
    }
}

/// The gate's refusals are counted and get a request id like any other answer.
fn gate_settings(app: &Arc<App>, http2: bool) -> gate::Settings {
    let server = &app.config.server;
    let counting = app.clone();
    gate::Settings {
        limits: gate::Limits {
            head_bytes: server.max_header_bytes,
            fields: server.max_headers,
            ..gate::Limits::default()
        },
        head_timeout: Some(server.header_timeout.std()),
        linger: LINGER,
        http2,
        answer: Box::new(move |refusal, peer| {
            let request_id = note_refusal(&counting, refusal, peer);
            refusal.answer(Some(&request_id))
        }),
    }
}

/// Counts and logs a message that nobody but the gate has seen, like any other. Who is behind a proxy that tells it in a header is not
/// known, for no header was read. The id that the answer is to name.
fn note_refusal(app: &App, refusal: &Refusal, peer: SocketAddr) -> String {
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
    request_id
}

/// Accepts until `stop`, then lets running requests finish, for at most `server.drain_timeout`.
pub async fn serve<S, F>(listener: TcpListener, bounds: Bounds, mut stop: Stop, answer: S)
where
    S: Fn(Connection, Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => bounds.admit(stream, peer, &stop, &answer),
            // Out of file descriptors, most likely: the loop must neither end nor spin.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                after(PAUSE).await;
            }
        }
    }
    let shared = &bounds.shared;
    shared.app.draining.store(true, Ordering::Relaxed);
    for (stream, peer) in left_in(listener) {
        bounds.admit(stream, peer, &stop, &answer);
    }
    let drain_timeout = shared.app.config.server.drain_timeout.std();
    let drained = tokio::time::timeout(drain_timeout, shared.places.all_free()).await;
    if drained.is_err() {
        tracing::warn!("some requests did not finish within server.drain_timeout");
    }
}

/// Closes a listener; whoever is connected already must not be reset by that.
fn left_in(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let listener = listener.into_std().ok();
    let next = move || listener.as_ref()?.accept().ok();
    std::iter::from_fn(next)
        .take(BACKLOG)
        .filter_map(|(stream, peer)| {
            stream.set_nonblocking(true).ok()?;
            Some((TcpStream::from_std(stream).ok()?, peer))
        })
}

impl Bounds {
    /// Hands a connection to whoever serves it, or closes it at once.
    fn admit<S, F>(&self, stream: TcpStream, peer: SocketAddr, stop: &Stop, answer: &S)
    where
        S: Fn(Connection, Request<Body>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let Some(place) = self.place(peer) else {
            return;
        };
        // Answers are small and written at once.
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else {
            return;
        };
        let (shared, tls) = (self.shared.clone(), self.tls);
        let (stop, answer) = (stop.clone(), answer.clone());
        let visit = |seat| {
            let visit = Visit {
                shared,
                tls,
                peer,
                stop,
                activity: Arc::<Activity>::default(),
            };
            connection::serve(visit, stream, place, seat, answer)
        };
        match &self.cores {
            Some(cores) => cores.spawn(|seat| visit(Some(seat))),
            None => drop(tokio::spawn(visit(None))),
        }
    }

    /// A place for a connection. What a trusted proxy passes on is counted for its client, where that is told in time; a proxy itself never is.
    fn place(&self, peer: SocketAddr) -> Option<Place> {
        let (app, shared) = (&self.shared.app, &self.shared);
        let Some(mut place) = shared.places.take() else {
            app.metrics.count_connection("full");
            return None;
        };
        let trusted = is_trusted(&app.config.server.trusted_proxies, peer.ip());
        if shared.proxied && !trusted {
            app.metrics.count_connection("untrusted_proxy");
            return None;
        }
        if !trusted && !place.count_for(Network::from(peer.ip())) {
            app.metrics.count_connection("network");
            return None;
        }
        Some(place)
    }
}

/// Ends after a while. For time-outs of connections only: nothing that the product counts goes by it.
async fn after(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}
