//! How many connections there may be, and for how long they may do nothing. No database takes part.

use std::time::Duration;

use cargoextra::config::Span;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::app::{Database, TestApp};
use crate::downstream::{PATIENCE, until};

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\n\r\n";
/// More than a megabyte.
const LARGE: &[u8] =
    b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\n\r\n";

async fn connect(app: &TestApp, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let from = format!("{from}:0").parse().expect("an address");
    socket.bind(from).expect("a loopback address");
    socket.connect(app.address).await.expect("it listens")
}

/// Whether a request on it is answered; otherwise it was closed.
async fn is_served(stream: &mut TcpStream) -> bool {
    let _ = stream.write_all(HEALTH).await;
    let mut first = [0; 12];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut first)).await;
    match read.expect("answered or closed") {
        Ok(_) => {
            assert_eq!(&first, b"HTTP/1.1 200");
            until(stream, "}").await;
            true
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn a_network_has_so_many_connections_and_takes_none_from_others() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.server.max_connections_per_network = 2;
    })
    .await;
    let mut first = connect(&app, "127.0.0.1").await;
    let mut second = connect(&app, "127.0.0.1").await;
    assert!(is_served(&mut first).await && is_served(&mut second).await);
    let mut third = connect(&app, "127.0.0.1").await;
    assert!(!is_served(&mut third).await);
    app.until_counted("cargoextra_connections_closed_total{reason=\"network\"} 1")
        .await;
    let mut other = connect(&app, "127.0.0.2").await;
    assert!(is_served(&mut other).await);
    // Those that have their places keep them, and one that goes makes room.
    assert!(is_served(&mut second).await);
    drop(first);
    let room = async {
        loop {
            let mut next = connect(&app, "127.0.0.1").await;
            if is_served(&mut next).await {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, room).await.expect("a place");
}

#[tokio::test]
async fn a_process_has_so_many_connections_whoever_they_are() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.server.max_connections = 2;
    })
    .await;
    let mut first = connect(&app, "127.0.0.1").await;
    let mut second = connect(&app, "127.0.0.2").await;
    assert!(is_served(&mut first).await && is_served(&mut second).await);
    let mut third = connect(&app, "127.0.0.3").await;
    assert!(!is_served(&mut third).await);
    app.until_counted("cargoextra_connections_closed_total{reason=\"full\"} 1")
        .await;
}

#[tokio::test]
async fn a_trusted_proxy_is_not_one_client() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.server.max_connections_per_network = 1;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    })
    .await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&app, "127.0.0.1").await;
        assert!(is_served(&mut stream).await);
        kept.push(stream);
    }
    let mut stranger = connect(&app, "127.0.0.2").await;
    assert!(is_served(&mut stranger).await);
    let mut again = connect(&app, "127.0.0.2").await;
    assert!(!is_served(&mut again).await);
}

/// The largest file that we have, asked for again and again on one connection and never read.
#[tokio::test]
async fn a11_a_client_that_reads_nothing_is_cut_off_and_others_are_served() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.server.send_timeout = Span(200);
    })
    .await;
    let mut stream = connect(&app, "127.0.0.1").await;
    // 20 MB and more: the sockets' buffers hold less.
    stream.write_all(&LARGE.repeat(20)).await.expect("it reads");
    app.until_counted("cargoextra_connections_closed_total{reason=\"send_timeout\"} 1")
        .await;
    let mut other = connect(&app, "127.0.0.1").await;
    assert!(is_served(&mut other).await);
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_of_it() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.server.send_timeout = Span(400);
    })
    .await;
    let caller = app.caller();
    let (status, whole) = caller.send_raw("GET", "/docs/swagger-ui-bundle.js").await;
    assert_eq!(status, 200);
    let mut stream = connect(&app, "127.0.0.1").await;
    stream.write_all(&LARGE.repeat(8)).await.expect("it reads");
    let mut length = 0;
    let mut part = vec![0; whole.len()];
    while length < 8 * whole.len() {
        // Longer than the time-out in all, never in one piece.
        let pause = std::future::pending::<()>();
        let _ = tokio::time::timeout(Duration::from_millis(100), pause).await;
        let more = stream.read(&mut part).await.expect("it is not cut");
        assert!(
            more > 0,
            "closed after {length} of {} bytes",
            8 * whole.len()
        );
        length += more;
    }
}

/// Something of ours that does not come to an end is an error of ours, and the client need not wait for it.
#[tokio::test]
async fn a_call_of_ours_has_a_time_limit_as_a_whole() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.server.body_timeout = Span(100);
        config.server.request_timeout = Span(300);
        config.database.acquire_timeout = Span(60_000);
    })
    .await;
    // There is one writer.
    let writer = app.app.db.begin().await.expect("a transaction");
    let body = json!({ "email": "ada@example.com" });
    let reply = app.post("forgot-password", body.clone()).await;
    let expected = json!({ "message": "Unexpected Error", "code": "unexpected_error" });
    assert_eq!(reply.shown(), (500, expected));
    drop(writer);
    assert_eq!(app.post("forgot-password", body).await.status, 404);
}
