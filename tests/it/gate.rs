//! Raw bytes against the real server: what can be read in two ways is refused, and nobody behind the gate has seen it.

use crate::app::{Database, TestApp};
use crate::downstream::{Downstream, exchange, field, route, statuses, with_edge};

/// (request line and fields with `|` for CRLF, status). `/x` is the downstream's, `/healthz` ours; the end of the head is added.
const HEADS: &[(&str, u16)] = &[
    // Framing.
    (
        "POST /x HTTP/1.1|Host: x|Content-Length: 3|Transfer-Encoding: chunked",
        400,
    ),
    (
        "POST /x HTTP/1.1|Host: x|Transfer-Encoding: chunked|Content-Length: 3",
        400,
    ),
    (
        "POST /x HTTP/1.1|Host: x|Content-Length: 3|Content-Length: 3",
        400,
    ),
    (
        "POST /x HTTP/1.1|Host: x|Content-Length: 3|Content-Length: 4",
        400,
    ),
    ("POST /x HTTP/1.1|Host: x|Content-Length: 3, 3", 400),
    ("POST /x HTTP/1.1|Host: x|Content-Length: +2", 400),
    ("POST /x HTTP/1.1|Host: x|Content-Length: 0x2", 400),
    ("POST /x HTTP/1.1|Host: x|Content-Length:", 400),
    (
        "POST /x HTTP/1.1|Host: x|Content-Length: 12345678901234567890",
        400,
    ),
    ("POST /x HTTP/1.1|Host: x|Transfer-Encoding: xchunked", 501),
    (
        "POST /x HTTP/1.1|Host: x|Transfer-Encoding: gzip, chunked",
        501,
    ),
    (
        "POST /x HTTP/1.1|Host: x|Transfer-Encoding: chunked, chunked",
        400,
    ),
    (
        "POST /x HTTP/1.1|Host: x|Transfer-Encoding: chunked|Transfer-Encoding: chunked",
        400,
    ),
    (
        "POST /x HTTP/1.1|Host: x|Transfer-Encoding: \x0bchunked",
        400,
    ),
    ("POST /x HTTP/1.0|Host: x|Transfer-Encoding: chunked", 400),
    // Lines and fields.
    ("GET /x HTTP/1.1|Host : x", 400),
    ("POST /x HTTP/1.1|Host: x|Content-Length : 3", 400),
    ("GET /x HTTP/1.1|Host: x|A: b| c", 400),
    ("GET /x HTTP/1.1|Host: x|A: b|\tc", 400),
    ("GET /x HTTP/1.1| Host: x", 400),
    ("GET /x HTTP/1.1\nHost: x", 400),
    ("GET /x HTTP/1.1|Host: x\nA: b", 400),
    ("GET /x HTTP/1.1|Host: x|A: b\rc", 400),
    ("GET /x HTTP/1.1|Host: x|A: b\0c", 400),
    ("GET /x HTTP/1.1|Host: x|A\0: c", 400),
    ("GET /x HTTP/1.1|Host: x|: b", 400),
    ("GET /x HTTP/1.1|Host: x|nothing", 400),
    ("GET /x HTTP/1.1|Host: x|Connection: close, Host", 400),
    ("GET /x HTTP/1.1|Host: x|Connection: X-Forwarded-For", 400),
    // Host.
    ("GET /x HTTP/1.1|Host: x|Host: x", 400),
    ("GET /x HTTP/1.1|Host: x|host: y", 400),
    ("GET /x HTTP/1.1|A: b", 400),
    ("GET /x HTTP/1.1|Host: a@b", 400),
    // Request line.
    ("GET http://x/x HTTP/1.1|Host: x", 400),
    ("GET http://y/x HTTP/1.1|Host: x", 400),
    ("CONNECT x:443 HTTP/1.1|Host: x", 405),
    ("CONNECT /x HTTP/1.1|Host: x", 405),
    ("TRACE /x HTTP/1.1|Host: x", 405),
    ("GET /x#f HTTP/1.1|Host: x", 400),
    ("GET /x?q#f HTTP/1.1|Host: x", 400),
    ("GET /x y HTTP/1.1|Host: x", 400),
    ("GET /x\\y HTTP/1.1|Host: x", 400),
    ("GET /x\0 HTTP/1.1|Host: x", 400),
    ("GET /x|Host: x", 400),
    ("GET /x HTTP/2.0|Host: x", 505),
    ("PRI * HTTP/2.0", 505),
    // Paths.
    ("GET /x/../healthz HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /healthz/../x HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /x/./y HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /x/..;a/y HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /%2e%2e/x HTTP/1.1|Host: x|Connection: close", 400),
    (
        "GET /x/%2E%2e/healthz HTTP/1.1|Host: x|Connection: close",
        400,
    ),
    (
        "GET /x/.%2e/healthz HTTP/1.1|Host: x|Connection: close",
        400,
    ),
    ("GET //x HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /x//y HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /x/a%2fb HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /x/a%2Fb HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /x/a%5cb HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /x/a%00b HTTP/1.1|Host: x|Connection: close", 400),
    ("GET /x/a%zz HTTP/1.1|Host: x|Connection: close", 400),
];

/// Behind a good chunked head.
const CHUNKED: &[&str] = &[
    "3\nabc\r\n0\r\n\r\n",
    "3\r\nabc\n0\r\n\r\n",
    "3\r\nabc\r\n0\r\n\n",
    "3\r\nabcd\r\n0\r\n\r\n",
    "3;a\nabc\r\n0\r\n\r\n",
    "3;\nGET /x/second HTTP/1.1\r\n0\r\n\r\n",
    "3;a\rb\r\nabc\r\n0\r\n\r\n",
    "0x3\r\nabc\r\n0\r\n\r\n",
    "+3\r\nabc\r\n0\r\n\r\n",
    "3 \r\nabc\r\n0\r\n\r\n",
    "00000000000000003\r\nabc\r\n0\r\n\r\n",
    "3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
    "3\r\nabc\r\n0\r\nX_Account_Id: a\r\n\r\n",
    "3\r\nabc\r\n0\r\nA: b\r\n c\r\n\r\n",
];

fn raw(text: &str) -> Vec<u8> {
    [text.replace('|', "\r\n").as_bytes(), b"\r\n\r\n"].concat()
}

async fn start() -> (TestApp, Downstream) {
    let downstream = Downstream::start().await;
    let edge = route(&downstream, "auth = \"none\"");
    (
        TestApp::with(Database::Sqlite, with_edge(edge)).await,
        downstream,
    )
}

/// The JSON of an answer in bytes.
fn body_of(answer: &str) -> serde_json::Value {
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[tokio::test]
async fn a10_what_can_be_read_in_two_ways_is_refused() {
    let (app, downstream) = start().await;
    for (text, status) in HEADS {
        // A second request behind it must stay unseen, too.
        let bytes = [raw(text), raw("GET /x/second HTTP/1.1|Host: x")].concat();
        let answer = exchange(app.address, &bytes).await;
        assert_eq!(statuses(&answer), [*status], "{text:?}: {answer}");
        let (message, code) = match status {
            405 => ("Method Not Allowed", "method_not_allowed"),
            501 => ("Not Implemented", "not_implemented"),
            505 => ("HTTP Version Not Supported", "http_version_not_supported"),
            _ => ("Bad Request", "bad_request"),
        };
        let id = field(&answer, "x-request-id").expect("it names the request");
        let whole = serde_json::json!({ "message": message, "code": code, "requestId": id });
        assert_eq!(body_of(&answer), whole, "{text:?}");
        assert_eq!(field(&answer, "content-type"), Some("application/json"));
        assert_eq!(
            field(&answer, "allow").is_some(),
            *status == 405,
            "{answer}"
        );
        assert_eq!(downstream.take(), [""; 0], "{text:?}");
    }
}

#[tokio::test]
async fn a10_a_broken_chunked_body_is_refused_and_hides_no_second_request() {
    let (app, downstream) = start().await;
    let head = "POST /x HTTP/1.1|Host: x|Transfer-Encoding: chunked";
    for body in CHUNKED {
        let second = raw("GET /x/second HTTP/1.1|Host: x");
        let bytes = [raw(head), body.as_bytes().to_vec(), second].concat();
        let answer = exchange(app.address, &bytes).await;
        assert_eq!(statuses(&answer), [400], "{body:?}: {answer}");
        assert_eq!(body_of(&answer)["code"], "bad_request", "{body:?}");
        // Whatever the downstream got, it was no whole message.
        assert_eq!(downstream.take(), [""; 0], "{body:?}");
    }
}

#[tokio::test]
async fn a10_heads_are_bounded() {
    let (app, downstream) = start().await;
    let head = "GET /x HTTP/1.1|Host: x";
    let fields = "|A: b".repeat(150);
    let cases = [
        (
            format!("{head}|A: {}", "a".repeat(64 * 1024)),
            431,
            "headers_too_large",
        ),
        (format!("{head}{fields}"), 431, "headers_too_large"),
        (
            format!("GET /x{} HTTP/1.1|Host: x", "a".repeat(9 * 1024)),
            414,
            "uri_too_long",
        ),
    ];
    for (text, status, code) in cases {
        let answer = exchange(app.address, &raw(&text)).await;
        assert_eq!(statuses(&answer), [status], "{answer}");
        assert_eq!(body_of(&answer)["code"], code);
        assert_eq!(downstream.take(), [""; 0]);
    }
}

#[tokio::test]
async fn a10_a_bad_head_behind_good_requests_is_answered_in_its_turn() {
    let (app, downstream) = start().await;
    let bytes = [
        raw("GET /x/1 HTTP/1.1|Host: x"),
        raw("GET /healthz HTTP/1.1|Host: x"),
        [
            &raw("POST /x/2 HTTP/1.1|Host: x|Content-Length: 2")[..],
            b"hi",
        ]
        .concat(),
        raw("GET /x/3 HTTP/1.1|Host: x|Host: y"),
        raw("GET /x/4 HTTP/1.1|Host: x"),
    ];
    let answer = exchange(app.address, &bytes.concat()).await;
    assert_eq!(statuses(&answer), [200, 200, 200, 400], "{answer}");
    let seen = downstream.take();
    let lines: Vec<&str> = seen.iter().filter_map(|it| it.lines().next()).collect();
    assert_eq!(lines, ["GET /x/1 HTTP/1.1", "POST /x/2 HTTP/1.1"]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (app, downstream) = start().await;
    let mut bytes = Vec::new();
    for at in 0..20 {
        bytes.extend(raw(&format!("GET /x/{at} HTTP/1.1|Host: x")));
        bytes.extend(raw(&format!(
            "POST /x/{at} HTTP/1.1|Host: x|Transfer-Encoding: chunked"
        )));
        bytes.extend(format!("3;a=b\r\nn{at:02}\r\n0\r\n\r\n").bytes());
    }
    bytes.extend(raw("GET /x/last HTTP/1.1|Host: x|Connection: close"));
    let answer = exchange(app.address, &bytes).await;
    assert_eq!(statuses(&answer), [200; 41]);
    let lines: Vec<&str> = answer
        .lines()
        .filter(|line| line.starts_with("GET /x/") || line.starts_with("POST /x/"))
        .collect();
    let mut expected = Vec::new();
    for at in 0..20 {
        expected.push(format!("GET /x/{at} HTTP/1.1"));
        expected.push(format!("POST /x/{at} HTTP/1.1"));
    }
    expected.push("GET /x/last HTTP/1.1".to_owned());
    assert_eq!(lines, expected);
    assert_eq!(downstream.take().len(), 41);
}

#[tokio::test]
async fn a10_named_headers_are_stripped_and_forwarding_ones_replaced() {
    let (app, downstream) = start().await;
    let request = "GET /x HTTP/1.1|Host: front:1|Connection: close, X-Real-Secret|X-Real-Secret: s|Keep-Alive: 5|TE: trailers\
        |X-Forwarded-For: 203.0.113.9|X_Forwarded_For: 203.0.113.9|Forwarded: for=203.0.113.9|X-Real-IP: 203.0.113.9\
        |X-Forwarded-Host: evil|X-Forwarded-Proto: https|Plain: kept";
    assert_eq!(statuses(&exchange(app.address, &raw(request)).await), [200]);
    let seen = downstream.take();
    assert_eq!(seen.len(), 1);
    let value = |name| field(&seen[0], name);
    for gone in [
        "x-real-secret",
        "keep-alive",
        "te",
        "x_forwarded_for",
        "forwarded",
        "x-real-ip",
    ] {
        assert_eq!(value(gone), None, "{gone}: {}", seen[0]);
    }
    assert_eq!(value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(value("x-forwarded-host"), Some("front:1"));
    assert_eq!(value("x-forwarded-proto"), Some("http"));
    assert_eq!(value("plain"), Some("kept"));
    assert!(!seen[0].contains("203.0.113.9"), "{}", seen[0]);
}
