//! Stopping: nobody's request is lost, and nobody can hold it up for longer than it says.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cargoextra::config::{Config, Span};
use http::Request;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{Database, TestApp};
use crate::downstream::{Downstream, PATIENCE, field, rest, route, statuses, until, with_edge};
use crate::http2::Http2;
use crate::process::Installation;

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/8.5.0\r\n\r\n";

/// A connection that has had an answer and is kept.
async fn kept(app: &TestApp) -> TcpStream {
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream.write_all(HEALTH).await.expect("it reads");
    let answer = until(&mut stream, "}").await;
    assert_eq!(
        (statuses(&answer), field(&answer, "connection")),
        (vec![200], None)
    );
    stream
}

async fn start(change: impl FnOnce(&mut Config)) -> (TestApp, Downstream) {
    let downstream = Downstream::start().await;
    let edge = route(&downstream, "auth = \"none\"");
    let app = TestApp::with(Database::Sqlite, |config| {
        with_edge(edge)(config);
        change(config);
    });
    (app.await, downstream)
}

/// Until the acceptor has heard of the stop.
async fn heard(app: &TestApp) {
    while !app.app.draining.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
}

async fn within(limit: Duration, app: &mut TestApp) {
    let stopped = tokio::time::timeout(limit, app.stopped()).await;
    stopped.expect("it has stopped in time");
}

#[tokio::test]
async fn a_request_on_its_way_to_a_kept_connection_is_answered_after_the_stop() {
    // Long enough for a busy machine.
    let (mut app, _downstream) = start(|config| config.server.drain_idle = Span(5000)).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(kept(&app).await);
    }
    app.stop();
    heard(&app).await;
    for stream in &mut streams {
        stream.write_all(HEALTH).await.expect("it is open");
        let answer = rest(stream).await;
        assert_eq!(statuses(&answer), [200], "{answer}");
        assert_eq!(field(&answer, "connection"), Some("close"));
    }
    within(PATIENCE, &mut app).await;
}

#[tokio::test]
async fn a_stopping_process_is_not_ready() {
    let (app, _downstream) = start(|config| config.server.drain_idle = Span(5000)).await;
    let mut stream = kept(&app).await;
    app.stop();
    heard(&app).await;
    let ask = b"GET /readyz HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/8.5.0\r\n\r\n";
    stream.write_all(ask).await.expect("it is open");
    let answer = rest(&mut stream).await;
    let body: serde_json::Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    assert_eq!(statuses(&answer), [503]);
    assert_eq!(body["message"], json!("stopping"));
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_idle_time_and_not_before() {
    let (mut app, _downstream) = start(|config| config.server.drain_idle = Span(300)).await;
    let mut idle = kept(&app).await;
    let mut fresh = TcpStream::connect(app.address).await.expect("it listens");
    // It has been accepted before the stop, for the one behind it was answered.
    drop(kept(&app).await);
    app.stop();
    let early = tokio::time::timeout(Duration::from_millis(150), idle.read_u8()).await;
    assert!(early.is_err(), "closed at once");
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut fresh).await, "");
    within(PATIENCE, &mut app).await;
}

#[tokio::test]
async fn who_hurries_does_not_wait_for_idle_connections() {
    let (mut app, _downstream) = start(|config| {
        config.server.drain_idle = Span(60_000);
        config.server.drain_timeout = Span(120_000);
    })
    .await;
    let mut idle = kept(&app).await;
    app.app.hurried.store(true, Ordering::Relaxed);
    app.stop();
    assert_eq!(rest(&mut idle).await, "");
    within(PATIENCE, &mut app).await;
}

#[tokio::test]
async fn a_running_answer_comes_to_its_end() {
    let (mut app, downstream) = start(|config| config.server.drain_idle = Span(100)).await;
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let ask = b"GET /x/events HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(ask).await.expect("it reads");
    downstream.push("before");
    until(&mut stream, "before\r\n").await;
    app.stop();
    let early = tokio::time::timeout(Duration::from_millis(400), app.stopped()).await;
    assert!(early.is_err(), "it did not wait");
    downstream.push("after");
    until(&mut stream, "after\r\n").await;
    drop(downstream);
    drop(stream);
    within(PATIENCE, &mut app).await;
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let (mut app, downstream) = start(|config| {
        config.server.drain_idle = Span(100);
        config.server.drain_timeout = Span(400);
    })
    .await;
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let ask = b"GET /x/events HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(ask).await.expect("it reads");
    downstream.push("before");
    until(&mut stream, "before\r\n").await;
    let http2 = Http2::to(app.address).await;
    let pending = tokio::spawn(async move {
        let answer = http2.send("GET", "http://x/x/hang", &[], None).await;
        (answer.is_err(), http2)
    });
    while !downstream.take().iter().any(|seen| seen.contains("hang")) {
        tokio::task::yield_now().await;
    }
    app.stop();
    within(PATIENCE, &mut app).await;
    let _ = rest(&mut stream).await;
    let (is_cut, http2) = pending.await.expect("no panic");
    assert!(is_cut);
    let ended = tokio::time::timeout(PATIENCE, http2.connection).await;
    let _ = ended.expect("it ends");
}

#[tokio::test]
async fn http2_clients_are_told_and_what_they_asked_for_is_answered() {
    let (mut app, downstream) = start(|_| {}).await;
    let client = Http2::to(app.address).await;
    assert_eq!(client.get("/healthz").await.status, 200);
    let mut requests = client.requests();
    let request = Request::get("http://x/x/events")
        .body(())
        .expect("a request");
    let (answer, _) = requests.send_request(request, true).expect("a stream");
    let mut body = answer.await.expect("an answer").into_body();
    downstream.push("before");
    assert_eq!(
        body.data().await.expect("an event").expect("an event"),
        "before"
    );
    app.stop();
    // GOAWAY: no more requests on this one.
    let refused = async {
        while requests.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused)
        .await
        .expect("it is told");
    downstream.push("after");
    assert_eq!(
        body.data().await.expect("an event").expect("an event"),
        "after"
    );
    drop(body);
    drop(downstream);
    within(PATIENCE, &mut app).await;
    let ended = tokio::time::timeout(PATIENCE, client.connection).await;
    let _ = ended.expect("it ends").expect("no panic");
}

/// The real process, with its cores: what is under way at SIGTERM is answered, and it ends well.
#[tokio::test]
async fn the_process_answers_what_comes_on_a_kept_connection_after_sigterm() {
    let mut installed = Installation::new(Database::Sqlite).await;
    installed.set("server.threads", "2");
    installed.set("server.drain_idle", "5s");
    let process = installed.serve().await;
    let address = process.public.target();
    let mut kept = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(HEALTH).await.expect("it reads");
        until(&mut stream, "}").await;
        kept.push(stream);
    }
    let answered = async {
        let mut first = kept.pop().expect("there are some");
        loop {
            first.write_all(HEALTH).await.expect("it is open");
            let answer = until(&mut first, "}").await;
            if field(&answer, "connection") == Some("close") {
                break;
            }
        }
        for stream in &mut kept {
            stream.write_all(HEALTH).await.expect("it is open");
            let answer = rest(stream).await;
            assert_eq!(statuses(&answer), [200], "{answer}");
            assert_eq!(field(&answer, "connection"), Some("close"));
        }
    };
    let (stopped, ()) = tokio::join!(process.stop(), answered);
    assert!(stopped, "{}", installed.logged());
}
