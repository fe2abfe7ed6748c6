//! HTTP/2 to clients: the same answers as by HTTP/1, and nothing that the gate would refuse. By clients of the crate `h2`, and by frames.

use std::net::SocketAddr;

use bytes::Bytes;
use cargoextra::config::Span;
use h2::client::SendRequest;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::app::{Database, PASSWORD, Reply, TestApp};
use crate::downstream::{Downstream, PATIENCE, exchange, field, route, statuses, with_edge};

/// A client's end of an HTTP/2 connection.
pub struct Http2 {
    requests: SendRequest<Bytes>,
    /// Ends with the connection.
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    pub async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        Self::over(stream).await
    }

    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        Self {
            requests,
            connection: tokio::spawn(connection),
        }
    }

    /// For requests that are more than a text.
    pub fn requests(&self) -> SendRequest<Bytes> {
        self.requests.clone()
    }

    pub async fn get(&self, path: &str) -> Reply {
        let fields = [("user-agent", "curl/8.5.0")];
        let uri = format!("http://localhost:9000{path}");
        let sent = self.send("GET", &uri, &fields, None);
        sent.await.expect("an answer")
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        let fields = [
            ("user-agent", "curl/8.5.0"),
            ("content-type", "application/json"),
        ];
        let uri = format!("http://localhost:9000{path}");
        let sent = self.send("POST", &uri, &fields, Some(body.to_string()));
        sent.await.expect("an answer")
    }

    /// A request as it is given: `uri` with scheme and authority.
    pub async fn send(
        &self,
        method: &str,
        uri: &str,
        fields: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Reply, h2::Error> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let mut requests = self.requests.clone().ready().await?;
        let (answer, mut upload) = requests.send_request(request, body.is_none())?;
        if let Some(body) = body {
            upload.send_data(Bytes::from(body), true)?;
        }
        let answered = tokio::time::timeout(PATIENCE, answer).await;
        reply(answered.expect("an answer in time")?).await
    }
}

async fn reply(answer: http::Response<h2::RecvStream>) -> Result<Reply, h2::Error> {
    let (parts, mut body) = answer.into_parts();
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
    }
    Ok(Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8(bytes).expect("UTF-8"),
    })
}

async fn start(more: &str) -> (TestApp, Downstream) {
    let downstream = Downstream::start().await;
    let edge = format!("{}{more}", route(&downstream, "auth = \"none\""));
    (
        TestApp::with(Database::Sqlite, with_edge(edge)).await,
        downstream,
    )
}

#[tokio::test]
async fn with_prior_knowledge_the_answers_are_those_of_http1() {
    let (app, downstream) = start("").await;
    let client = Http2::to(app.address).await;
    let health = client.get("/healthz").await;
    assert_eq!(health.shown(), (200, json!({ "message": "alive" })));
    assert!(health.headers.contains_key("x-request-id"));
    let ask = json!({ "email": "nobody@example.com" });
    let by_http1 = app.post("forgot-password", ask.clone()).await;
    let by_http2 = client.post("/api/v1/user/forgot-password", &ask).await;
    assert_eq!(by_http2.shown(), by_http1.shown());
    assert_eq!(by_http2.status, 404);
    // A body whose length nobody told reaches the service whole, as one message.
    let forwarded = client.post("/x/echo?a=b", &json!({ "a": 1 })).await;
    assert_eq!(forwarded.status, 200);
    let seen = downstream.take();
    assert_eq!(seen.len(), 1);
    assert!(
        seen[0].starts_with("POST /x/echo?a=b HTTP/1.1\r\n"),
        "{seen:?}"
    );
    assert!(seen[0].contains(r#"{"a":1}"#), "{seen:?}");
    assert_eq!(field(&seen[0], "x-forwarded-host"), Some("localhost:9000"));
    // And HTTP/1 is spoken on the same port.
    assert_eq!(app.caller().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let (app, _downstream) = start("").await;
    let client = Http2::to(app.address).await;
    let client = &client;
    let asked = (0..50).map(|n| async move {
        let path = format!("/x/{n}");
        (client.get(&path).await.text, format!("GET {path} HTTP/1.1"))
    });
    for (text, expected) in futures_util::future::join_all(asked).await {
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[tokio::test]
async fn the_answer_to_head_has_no_body() {
    let app = TestApp::start(Database::Sqlite).await;
    let client = Http2::to(app.address).await;
    for (uri, status) in [
        ("http://x/healthz", 200),
        ("http://x/nothing", 404),
        ("http://x:x/", 400),
    ] {
        let reply = client
            .send("HEAD", uri, &[("user-agent", "curl/8.5.0")], None)
            .await;
        let Ok(reply) = reply else {
            assert_eq!(status, 400, "the client itself refuses it");
            continue;
        };
        assert_eq!((reply.status, reply.text.as_str()), (status, ""), "{uri}");
        assert_ne!(reply.header("content-length"), Some("0"), "{uri}");
    }
}

/// Method, target, fields; status, message and code of the refusal.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, Told);
type Told = (&'static str, &'static str);

/// What the client of `h2` lets us send, and the gate of HTTP/1 would not let pass.
#[tokio::test]
async fn a10_what_could_be_read_in_two_ways_is_refused() {
    let (app, downstream) = start("").await;
    let client = Http2::to(app.address).await;
    let many: Vec<(String, String)> = (0..100)
        .map(|n| (format!("a{n}"), "b".to_owned()))
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let large = "a".repeat(33_000);
    let long = format!("http://x/x/{}", "a".repeat(9000));
    let bad = ("Bad Request", "bad_request");
    let large_head = ("Request Header Fields Too Large", "headers_too_large");
    let not_allowed = ("Method Not Allowed", "method_not_allowed");
    let cases: &[Case<'_>] = &[
        ("TRACE", "http://x/x", &[], 405, not_allowed),
        ("CONNECT", "x:443", &[], 405, not_allowed),
        (
            "AMETHODTHATISLONGERTHANANYTHATIS1",
            "http://x/x",
            &[],
            501,
            ("Not Implemented", "not_implemented"),
        ),
        ("GET", "ftp://x/x", &[], 400, bad),
        ("GET", "http://a@x/x", &[], 400, bad),
        ("GET", "http://x!/x", &[], 400, bad),
        ("GET", "http://x/x", &[("host", "y")], 400, bad),
        (
            "GET",
            "http://x/x",
            &[("host", "x"), ("host", "x")],
            400,
            bad,
        ),
        ("GET", "http://x/x", &[("a", " b")], 400, bad),
        ("GET", "http://x/x", &[("a", "b ")], 400, bad),
        ("GET", "http://x/x", &many, 431, large_head),
        ("GET", "http://x/x", &[("a", &large)], 431, large_head),
        ("GET", &long, &[], 414, ("URI Too Long", "uri_too_long")),
        ("GET", "http://x/x/../healthz", &[], 400, bad),
        ("GET", "http://x/x/%2e%2e/healthz", &[], 400, bad),
        ("GET", "http://x/x//y", &[], 400, bad),
        ("GET", "http://x/x/a%2fb", &[], 400, bad),
        ("GET", "http://x/x/a%00b", &[], 400, bad),
    ];
    for (method, uri, fields, status, (message, code)) in cases {
        let shown = uri.get(..30).unwrap_or(uri);
        let reply = client.send(method, uri, fields, None).await;
        let reply = reply.unwrap_or_else(|error| panic!("{method} {shown}: {error}"));
        let expected = json!({ "message": message, "code": code });
        assert_eq!(reply.shown(), (*status, expected), "{method} {shown}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    assert_eq!(downstream.take(), [""; 0]);
    // The connection lives on: nothing of it was misunderstood.
    assert_eq!(client.get("/x/after").await.status, 200);
}

/// A HEADERS frame whose fields are literals without compression (RFC 7541 section 6.2.2).
fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend([0, name.len() as u8]);
        block.extend(name.bytes());
        block.push(value.len() as u8);
        block.extend(value.bytes());
    }
    frame(1, 0x4, 1, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Sends frames behind a preface; the type of the first frame of an answer, of a reset or of the connection's end.
async fn answer_to(address: SocketAddr, frames: &[u8]) -> u8 {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let bytes = [preface, &frame(4, 0, 0, &[]), frames].concat();
    stream.write_all(&bytes).await.expect("it reads");
    let answered = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream
                .read_exact(&mut payload)
                .await
                .expect("a whole frame");
            // HEADERS, RST_STREAM, GOAWAY.
            if matches!(head[3], 1 | 3 | 7) {
                return head[3];
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .expect("an answer")
}

#[tokio::test]
async fn a10_malformed_frames_reach_nobody() {
    let (app, downstream) = start("").await;
    let good = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/x"),
    ];
    let end = frame(0, 1, 1, b"");
    // That the frames are right: the same without a fault is answered.
    let whole = [headers(&good), end.clone()].concat();
    assert_eq!(answer_to(app.address, &whole).await, 1);
    assert_eq!(downstream.take().len(), 1);
    let with = |field: (&'static str, &'static str)| [good.as_slice(), &[field]].concat();
    let without = |name: &str| -> Vec<_> {
        good.iter()
            .copied()
            .filter(|(found, _)| *found != name)
            .collect()
    };
    let replaced =
        |name: &'static str, value: &'static str| [without(name), vec![(name, value)]].concat();
    for (fields, answer) in [
        (with(("connection", "close")), 3),
        (with(("transfer-encoding", "chunked")), 3),
        (with(("upgrade", "websocket")), 3),
        (with(("keep-alive", "1")), 3),
        (with(("proxy-connection", "close")), 3),
        (with(("te", "gzip")), 3),
        (with((":path", "/y")), 3),
        (with((":status", "200")), 3),
        (with(("Upper", "case")), 3),
        (with(("content-length", "3")), 3),
        (without(":method"), 3),
        (without(":scheme"), 3),
        (replaced(":path", ""), 3),
        (replaced(":path", "/a b"), 3),
        (replaced(":path", "x"), 3),
        (replaced(":authority", "a b"), 3),
        // Refused by us, in words.
        (without(":authority"), 1),
        (replaced(":path", "*"), 1),
        (replaced(":path", "?a"), 1),
    ] {
        let frames = [headers(&fields), end.clone()].concat();
        let found = answer_to(app.address, &frames).await;
        assert!(
            found == answer || found == 7 && answer == 3,
            "{fields:?}: {found}"
        );
        assert_eq!(downstream.take(), [""; 0], "{fields:?}");
    }
}

#[tokio::test]
async fn a05_http2_meets_the_same_guard_and_the_same_bucket() {
    let guard = "[[guard.rules]]\nname = \"closed\"\naction = \"deny\"\nwhen = { path = \"/x/secret\" }\n\
        [[guard.rules]]\nname = \"host\"\naction = \"deny\"\nwhen = { host = \"closed.example\" }\n\
        [[limits.rules]]\nname = \"few\"\nroute = \"POST /api/v1/user/login\"\nkey = \"network\"\nrate = \"10/min\"\nburst = 3\n";
    let (app, downstream) = start(guard).await;
    let client = Http2::to(app.address).await;
    let denied = (
        403,
        json!({ "message": "Access denied", "code": "access_denied" }),
    );
    for path in [
        "/x/secret",
        "/x/secret/",
        "/x/%73ecret",
        "/%78/s%65cret",
        "/x/secret?q",
    ] {
        assert_eq!(client.get(path).await.shown(), denied, "{path}");
    }
    let agent = [("user-agent", "curl/8.5.0")];
    let same = [("user-agent", "curl/8.5.0"), ("host", "closed.example")];
    for fields in [agent.as_slice(), &same] {
        let reply = client
            .send("GET", "https://closed.example/x", fields, None)
            .await;
        assert_eq!(reply.expect("an answer").shown(), denied);
    }
    assert_eq!(downstream.take(), [""; 0]);
    // Two tries by HTTP/1, one by HTTP/2: the bucket is empty for both.
    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    assert_eq!(app.post("login", login.clone()).await.status, 401);
    assert_eq!(app.post("login", login.clone()).await.status, 401);
    assert_eq!(
        client.post("/api/v1/user/%6cogin", &login).await.status,
        401
    );
    for path in [
        "/api/v1/user/login",
        "/api/v1/user/login/",
        "/%61pi/v1/user/login?x",
    ] {
        assert_eq!(client.post(path, &login).await.status, 429, "{path}");
    }
    assert_eq!(app.post("login", login.clone()).await.status, 429);
    let again = Http2::to(app.address).await;
    assert_eq!(again.post("/api/v1/user/login", &login).await.status, 429);
}

#[tokio::test]
async fn cookies_in_pieces_are_one_header() {
    let (app, downstream) = start("").await;
    let client = Http2::to(app.address).await;
    let fields = [
        ("user-agent", "curl/8.5.0"),
        ("cookie", "a=1"),
        ("cookie", "customerToken=x"),
        ("cookie", "b=2"),
    ];
    let reply = client.send("GET", "http://x/x", &fields, None).await;
    assert_eq!(reply.expect("an answer").status, 200);
    assert_eq!(field(&downstream.take()[0], "cookie"), Some("a=1; b=2"));
    app.account("ada@example.com").await;
    let signed_in = app.login("ada@example.com", PASSWORD).await;
    let token = signed_in.cookie("customerToken").expect("a cookie");
    let token = format!("customerToken={token}");
    let fields = [
        ("user-agent", "curl/8.5.0"),
        ("cookie", "a=1"),
        ("cookie", &token),
    ];
    let reply = client
        .send("GET", "http://x/api/v1/user/check", &fields, None)
        .await;
    assert_eq!(reply.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_trailer_that_would_frame_or_authorise_is_refused() {
    let (app, _downstream) = start("").await;
    let client = Http2::to(app.address).await;
    for (name, expected) in [
        ("checksum", 404),
        ("content-length", 400),
        ("x-account-id", 400),
    ] {
        let request = Request::post("http://x/api/v1/user/forgot-password")
            .header("content-type", "application/json")
            .header("user-agent", "curl/8.5.0")
            .body(())
            .expect("a request");
        let mut requests = client.requests.clone().ready().await.expect("it is open");
        let (answer, mut upload) = requests.send_request(request, false).expect("a stream");
        let body = json!({ "email": "ada@example.com" }).to_string();
        upload
            .send_data(Bytes::from(body), false)
            .expect("it is open");
        let mut trailers = http::HeaderMap::new();
        let name = http::HeaderName::from_static(name);
        trailers.insert(name.clone(), http::HeaderValue::from_static("1"));
        upload.send_trailers(trailers).expect("it is open");
        let reply = reply(answer.await.expect("an answer"))
            .await
            .expect("a body");
        assert_eq!(reply.status, expected, "{name}: {}", reply.text);
    }
}

/// CVE-2023-44487: requests that are taken back at once, each of which costs us a start.
#[tokio::test]
async fn a_flood_of_taken_back_requests_ends_the_connection() {
    let (app, _downstream) = start("").await;
    let good = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/healthz"),
    ];
    let mut frames = Vec::new();
    for n in 0..2000u32 {
        let mut head = headers(&good);
        head[4] |= 1;
        head[5..9].copy_from_slice(&(2 * n + 1).to_be_bytes());
        frames.extend(head);
        frames.extend(frame(3, 0, 2 * n + 1, &8u32.to_be_bytes()));
    }
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let bytes = [preface, &frame(4, 0, 0, &[]), &frames].concat();
    // It may be closed before all of it is sent.
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("it is closed");
    // GOAWAY, ENHANCE_YOUR_CALM.
    let goaway = answer
        .windows(9)
        .any(|head| head[3..9] == [7, 0, 0, 0, 0, 0]);
    assert!(goaway && answer.windows(4).any(|code| code == [0, 0, 0, 11]));
    assert_eq!(
        Http2::to(app.address).await.get("/healthz").await.status,
        200
    );
}

#[tokio::test]
async fn a_connection_without_a_request_ends_and_one_with_a_request_does_not() {
    let downstream = Downstream::start().await;
    let edge = route(&downstream, "auth = \"none\"");
    let app = TestApp::with(Database::Sqlite, |config| {
        with_edge(edge)(config);
        config.server.http2_idle = Span(150);
    })
    .await;
    let idle = Http2::to(app.address).await;
    let mut busy = Http2::to(app.address).await;
    let request = Request::get("http://x/x/events")
        .body(())
        .expect("a request");
    let (answer, _) = busy.requests.send_request(request, true).expect("a stream");
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let ended = tokio::time::timeout(PATIENCE, idle.connection).await;
    assert!(ended.expect("it ends").expect("no panic").is_ok());
    // It is as old, and has lived through several looks.
    let ended = tokio::time::timeout(std::time::Duration::from_millis(600), &mut busy.connection);
    assert!(ended.await.is_err());
    downstream.push("still there");
    let event = answer.into_body().data().await.expect("an event");
    assert_eq!(event.expect("an event"), "still there");
}

/// By HTTP/2 a client can refuse to take an answer without holding up the socket.
#[tokio::test]
async fn a11_a_client_that_gives_no_room_is_cut_off() {
    let downstream = Downstream::start().await;
    let edge = route(&downstream, "auth = \"none\"");
    let app = TestApp::with(Database::Sqlite, |config| {
        with_edge(edge)(config);
        config.server.send_timeout = Span(200);
    })
    .await;
    let begin = async |client: &mut Http2| {
        let request = Request::get("http://x/x/events").body(());
        let request = request.expect("a request");
        let (answer, _) = client
            .requests
            .send_request(request, true)
            .expect("a stream");
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        answer
    };
    let (mut deaf, mut slow) = (Http2::to(app.address).await, Http2::to(app.address).await);
    let (kept, waiting) = (begin(&mut deaf).await, begin(&mut slow).await);
    // A window holds 64 KiB, and is filled from the ninth on.
    for _ in 0..20 {
        downstream.push(&"x".repeat(8000));
    }
    // Who takes what comes may wait for the next as long as it likes.
    let waiting = tokio::spawn(async move {
        let mut body = waiting.into_body();
        while let Some(Ok(part)) = body.data().await {
            let _ = body.flow_control().release_capacity(part.len());
            if part.ends_with(b"the last") {
                return true;
            }
        }
        false
    });
    app.until_counted("cargoextra_connections_closed_total{reason=\"send_timeout\"} 1")
        .await;
    let ended = tokio::time::timeout(PATIENCE, deaf.connection).await;
    let _ = ended.expect("it ends").expect("no panic");
    drop(kept);
    downstream.push("the last");
    let taken = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(taken.expect("it comes").expect("no panic"));
}

#[tokio::test]
async fn where_it_is_switched_off_the_preface_is_a_version_that_we_do_not_speak() {
    let app = TestApp::with(Database::Sqlite, |config| config.server.http2 = false).await;
    let answer = exchange(app.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(statuses(&answer), [505], "{answer}");
}

/// What only looks like the beginning of HTTP/2 is HTTP/1, and gets its time-out.
#[tokio::test]
async fn half_a_preface_is_refused_in_time() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.server.header_timeout = Span(200);
    })
    .await;
    for (start, status) in [
        ("P", 408),
        ("PRI * HTTP/2.0\r\n\r\nSM", 408),
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 505),
    ] {
        let answer = exchange(app.address, start.as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{start:?}: {answer}");
    }
}
