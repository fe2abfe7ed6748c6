//! What an operator sees of the edge: metrics through the admin listener, and the access log.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::app::{Database, PASSWORD, TestApp};
use crate::downstream::{Downstream, PATIENCE, exchange, route, with_edge};
use crate::process::{Installation, Process};

/// The value of a sample.
fn sample(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(' ')?.parse().ok()
}

/// The configuration of a process with one route, one guard rule, one limit.
async fn installed(downstream: &Downstream) -> Installation {
    let mut installed = Installation::new(Database::Sqlite).await;
    let file = format!(
        "{}\n[[guard.rules]]\nname = \"no-cats\"\naction = \"deny\"\nwhen = {{ path = \"/x/cats\" }}\n\
         [[limits.rules]]\nname = \"once\"\nroute = \"* /x/once\"\nkey = \"network\"\nrate = \"1/h\"\nburst = 1\n",
        route(downstream, "auth = \"optional\"")
    );
    std::fs::write(installed.folder.path().join("edge.toml"), file).expect("it is written");
    installed.set("telemetry.access_log", "access.log");
    installed.set("telemetry.access_log_flush", "0ms");
    installed
}

async fn metrics(process: &Process) -> String {
    let reply = process.admin.get("/metrics").await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (
            200,
            Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
        )
    );
    reply.text
}

/// Lets one of each kind happen.
async fn live(process: &Process) {
    let caller = &process.public;
    for (path, status) in [
        ("/x/y", 200),
        ("/x/created", 201),
        ("/x/cats", 403),
        ("/x/once", 200),
        ("/x/once", 429),
        ("/nowhere", 404),
    ] {
        assert_eq!(caller.get(path).await.status, status, "{path}");
    }
    let refused = exchange(process.address(), b"GET /x HTTP/1.1\nHost: x\n\n").await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    assert_eq!(caller.post("register", body).await.status, 201);
    let verify = json!({ "verifyToken": process.code("ada@example.com", 1).await });
    assert_eq!(caller.post("verify-email", verify).await.status, 200);
    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    let login = caller.post("login", login).await.body();
    let bearer = format!("Bearer {}", login["token"].as_str().expect("a token"));
    let signed_in = caller.clone().header("authorization", &bearer);
    for _ in 0..2 {
        assert_eq!(signed_in.get("/x/y").await.status, 200);
    }
}

/// What `live` has made of the counters.
fn counted() -> Vec<(&'static str, f64)> {
    vec![
        ("cargoextra_requests_total{route=\"x\",status=\"200\"}", 4.0),
        ("cargoextra_requests_total{route=\"x\",status=\"201\"}", 1.0),
        (
            "cargoextra_requests_total{route=\"own\",status=\"403\"}",
            1.0,
        ),
        (
            "cargoextra_requests_total{route=\"own\",status=\"429\"}",
            1.0,
        ),
        (
            "cargoextra_requests_total{route=\"own\",status=\"404\"}",
            1.0,
        ),
        ("cargoextra_request_seconds_count{route=\"x\"}", 5.0),
        (
            "cargoextra_request_seconds_bucket{le=\"+Inf\",route=\"x\"}",
            5.0,
        ),
        (
            "cargoextra_guard_total{rule=\"no-cats\",verdict=\"denied\"}",
            1.0,
        ),
        (
            "cargoextra_guard_total{rule=\"builtin-scanner-paths\",verdict=\"denied\"}",
            0.0,
        ),
        (
            "cargoextra_limits_total{rule=\"once\",verdict=\"refused\"}",
            1.0,
        ),
        ("cargoextra_gate_refusals_total{reason=\"bare_lf\"}", 1.0),
        ("cargoextra_limit_keys", 1.0),
        ("cargoextra_limit_evictions_total", 0.0),
        ("cargoextra_session_misses_total", 1.0),
        ("cargoextra_session_hits_total", 1.0),
        ("cargoextra_hash_jobs_total{outcome=\"done\"}", 3.0),
        ("cargoextra_mails_total{outcome=\"sent\"}", 1.0),
        ("cargoextra_mail_seconds_count", 1.0),
        ("cargoextra_outbox_dead", 0.0),
        ("cargoextra_configuration_generation", 1.0),
        ("cargoextra_configuration_last_reload_successful", 1.0),
        ("cargoextra_spans_total{outcome=\"sent\"}", 0.0),
        (
            concat!(
                "cargoextra_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"}"
            ),
            1.0,
        ),
    ]
}

#[tokio::test]
async fn the_metrics_tell_what_has_happened_and_the_book_lists_them_all() {
    let downstream = Downstream::start().await;
    let installed = installed(&downstream).await;
    let process = installed.serve_with("edge.toml").await;
    live(&process).await;
    let text = metrics(&process).await;
    for (name, value) in counted() {
        assert_eq!(sample(&text, name), Some(value), "{name} in\n{text}");
    }
    for (name, value) in [("up", 1.0), ("breaker_open", 0.0), ("requests", 0.0)] {
        let at = downstream.address;
        let name = format!("cargoextra_upstream_{name}{{route=\"x\",upstream=\"{at}\"}}");
        assert_eq!(sample(&text, &name), Some(value), "{name} in\n{text}");
    }
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(
            sample(&text, name).is_some_and(|value| value > 0.0),
            "{name} in\n{text}"
        );
    }
    assert_eq!(listed_in_the_book(), printed(&text));
}

/// Name and type of each row of the book's table of metrics.
fn listed_in_the_book() -> BTreeSet<(String, String)> {
    let page = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/src/operating.md"
    ));
    let page = page.expect("the page is there");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`');
        let name = name.split(['`', '{']).next()?;
        let known = name.starts_with("cargoextra_") || name.starts_with("process_");
        known.then(|| (name.to_owned(), cells.next().unwrap_or_default().to_owned()))
    });
    rows.collect()
}

/// The same of what `/metrics` prints.
fn printed(text: &str) -> BTreeSet<(String, String)> {
    let types = text.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        Some((format!("{name}{suffix}"), kind.to_owned()))
    });
    types.collect()
}

#[tokio::test]
async fn a_reload_is_told_and_so_is_one_that_is_refused() {
    let downstream = Downstream::start().await;
    let installed = installed(&downstream).await;
    let process = installed.serve_with("edge.toml").await;
    let file = installed.folder.path().join("edge.toml");
    let good = std::fs::read_to_string(&file).expect("it was written");
    let told = |text: &str| {
        ["generation", "last_reload_successful"]
            .map(|it| sample(text, &format!("cargoextra_configuration_{it}")))
    };
    for (content, expected) in [
        ("nonsense = 1\n".to_owned(), [Some(1.0), Some(0.0)]),
        (good.replace("\"x\"", "\"renamed\""), [Some(2.0), Some(1.0)]),
    ] {
        std::fs::write(&file, content).expect("it is written");
        process.hang_up().await;
        let seen = async {
            loop {
                let text = metrics(&process).await;
                if told(&text) == expected {
                    return text;
                }
            }
        };
        let text = tokio::time::timeout(PATIENCE, seen).await;
        let text = text.expect("the reload is told");
        let renamed = text.contains("cargoextra_upstream_up{route=\"renamed\"");
        assert_eq!(renamed, expected[0] == Some(2.0), "{text}");
        assert_eq!(
            text.contains("cargoextra_upstream_up{route=\"x\""),
            !renamed,
            "{text}"
        );
    }
}

/// An app whose access log is a file, and that file's lines so far.
async fn logging(text: String) -> (TestApp, impl Fn() -> Vec<Value>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("access.log");
    let log = path.display().to_string();
    let app = TestApp::with(Database::Sqlite, |config| {
        with_edge(text)(config);
        config.telemetry.access_log = log;
    })
    .await;
    let lines = move || {
        let _kept = &folder;
        let text = std::fs::read_to_string(&path).expect("there is a log");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    (app, lines)
}

/// A line without what differs from call to call.
fn stable(mut line: Value) -> Value {
    let fields = line.as_object_mut().expect("an object");
    let request = fields.shift_remove("request").expect("a request id");
    assert_eq!(request.as_str().map(str::len), Some(26));
    line
}

const AT: &str = "2026-11-23T12:00:00Z";

/// The line of a request that was read, with further fields.
fn line(method: &str, path: &str, route: &str, status: u16, more: Value) -> Value {
    let mut line = json!({
        "at": AT, "client": "127.0.0.0/24", "version": "1.1", "method": method, "path": path, "route": route, "status": status, "millis": 0.0,
    });
    let more = more.as_object().expect("an object").clone();
    line.as_object_mut().expect("an object").extend(more);
    line
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_request() {
    let downstream = Downstream::start().await;
    let rule =
        "[[guard.rules]]\nname = \"no-cats\"\naction = \"deny\"\nwhen = { path = \"/x/cats\" }\n";
    let edge = format!("{rule}{}", route(&downstream, "auth = \"none\""));
    let (app, lines) = logging(edge).await;
    let upstream = downstream.address.to_string();
    let mut expected = Vec::new();
    for (path, route, status, more) in [
        ("/x/y?secret=1", "x", 200, json!({ "upstream": upstream })),
        (
            "/x/break",
            "x",
            500,
            json!({ "upstream": upstream, "why": "downstream_unavailable" }),
        ),
        ("/x/cats", "own", 403, json!({ "why": "no-cats" })),
        ("/nowhere", "own", 404, json!({ "why": "not_found" })),
    ] {
        let reply = app.caller().get(path).await;
        assert_eq!(reply.status, status);
        let path = path.split('?').next().expect("a path");
        let mut line = line("GET", path, route, status, more);
        line["bytes"] = reply.text.len().into();
        expected.push(line);
    }
    let found: Vec<Value> = lines().into_iter().map(stable).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_access_log_has_a_line_for_what_the_gate_refused() {
    let downstream = Downstream::start().await;
    let (app, lines) = logging(route(&downstream, "auth = \"none\"")).await;
    let mut expected = Vec::new();
    for (bytes, status, why) in [
        ("GET /x HTTP/1.1\nHost: x\n\n", 400, "bare_lf"),
        (
            "TRACE /x HTTP/1.1\r\nHost: x\r\n\r\n",
            405,
            "method_not_allowed",
        ),
    ] {
        let refused = exchange(app.address, bytes.as_bytes()).await;
        assert!(
            refused.starts_with(&format!("HTTP/1.1 {status} ")),
            "{refused}"
        );
        let id = refused.split("x-request-id: ").nth(1).expect("it is named");
        let last = lines().pop().expect("a line");
        assert_eq!(
            last["request"].as_str(),
            id.get(..26),
            "the id that the client got"
        );
        // Nobody has read it: neither method nor path is known.
        expected.push(json!({ "at": AT, "client": "127.0.0.0/24", "route": "gate", "status": status, "why": why }));
    }
    // A fault in a body comes when its head has been passed on.
    let broken = "POST /x/y HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n";
    let refused = exchange(app.address, broken.as_bytes()).await;
    let body = refused.split("\r\n\r\n").nth(1).expect("a body");
    let upstream = downstream.address.to_string();
    let more = json!({ "upstream": upstream, "bytes": body.len(), "why": "chunk_size" });
    expected.push(line("POST", "/x/y", "x", 400, more));
    let found: Vec<Value> = lines().into_iter().map(stable).collect();
    assert_eq!(found, expected);
    let counted = "cargoextra_gate_refusals_total{reason=\"chunk_size\"} 1";
    assert!(app.app.scrape().contains(counted));
}

#[tokio::test]
async fn a_stream_of_unknown_length_is_logged_when_it_begins() {
    let downstream = Downstream::start().await;
    let (app, lines) = logging(route(&downstream, "auth = \"none\"")).await;
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let head = b"GET /x/events HTTP/1.0\r\nHost: x\r\nUser-Agent: curl/8.5.0\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head)
        .await
        .expect("it is sent");
    let first = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
    assert!(matches!(first, Ok(Ok(_))), "the answer has begun");
    let line = stable(lines().pop().expect("a line"));
    assert_eq!(
        (&line["version"], &line["status"]),
        (&json!("1.0"), &json!(200))
    );
    assert_eq!(line.get("bytes"), None, "{line}");
}

/// The time is measured on a clock that is finer than the one that tells the day.
#[tokio::test]
async fn a_time_is_measured_to_the_microsecond() {
    let downstream = Downstream::start().await;
    let installed = installed(&downstream).await;
    let process = installed.serve_with("edge.toml").await;
    assert_eq!(process.public.get("/x/y").await.status, 200);
    let text = metrics(&process).await;
    let sum = sample(&text, "cargoextra_request_seconds_sum{route=\"x\"}");
    assert!(
        sum.is_some_and(|sum| sum > 0.0 && sum * 1000.0 % 1.0 != 0.0),
        "{sum:?}"
    );
    let log = std::fs::read_to_string(installed.folder.path().join("access.log"));
    let log: Value = serde_json::from_str(log.expect("a log").trim()).expect("one line");
    let millis = log["millis"].as_f64().expect("a number");
    assert!(
        millis > 0.0 && (millis * 1000.0 - (millis * 1000.0).round()).abs() < 1e-6,
        "{millis}"
    );
    assert_eq!(log["at"].as_str().map(str::len), Some(20));
}
