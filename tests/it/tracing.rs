//! Traces as a collector gets them: the reader is OpenTelemetry's own (`tests/otlp/collector.py`).

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout};

use crate::app::{Database, TestApp};
use crate::downstream::{Downstream, PATIENCE, field, route, with_edge};
use crate::process::{Installation, Process, foreign};

struct Collector {
    _child: Child,
    port: u16,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Collector {
    async fn start(options: &[&str]) -> Self {
        let (_child, port, lines) = foreign("tests/otlp/collector.py", options).await;
        Self {
            _child,
            port,
            lines,
        }
    }

    /// Waits for the next span.
    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("a span comes").expect("UTF-8").expect("a line");
        let span: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(span.get("wrong"), None, "{line}");
        span
    }
}

/// An address that nobody listens at.
fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has an address")
}

/// A process with a route `x`, whose traces go to a port.
async fn traced(route: String, port: u16, more: &[(&str, &str)]) -> (Installation, Process) {
    let mut installed = Installation::new(Database::Sqlite).await;
    let endpoint = format!("http://127.0.0.1:{port}/v1/traces");
    installed.set("telemetry.otlp_endpoint", &endpoint);
    installed.set("telemetry.access_log", "access.log");
    installed.set("telemetry.access_log_flush", "0ms");
    for (key, value) in more {
        installed.set(&format!("telemetry.{key}"), value);
    }
    std::fs::write(installed.folder.path().join("edge.toml"), route).expect("it is written");
    let process = installed.serve_with("edge.toml").await;
    (installed, process)
}

/// The count of spans with an outcome.
async fn spans(process: &Process, outcome: &str) -> u64 {
    let text = process.admin.get("/metrics").await.text;
    let name = format!("cargoextra_spans_total{{outcome=\"{outcome}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.expect("it is printed").parse().expect("a number")
}

/// Takes the fields that differ from run to run out of a span.
fn take(span: &mut Value, field: &str) -> Value {
    let fields = span.as_object_mut().expect("an object");
    fields
        .shift_remove(field)
        .unwrap_or_else(|| panic!("no {field}"))
}

#[tokio::test]
async fn a_request_and_its_attempts_are_one_trace_and_the_last_ones_are_sent_before_the_end() {
    let mut collector = Collector::start(&[]).await;
    let (downstream, dead) = (Downstream::start().await, nobody());
    let live = downstream.address;
    let route = format!(
        "[[gateway.routes]]\nname = \"x\"\nprefix = \"/x\"\nauth = \"none\"\n\
         upstreams = [\"http://{dead}\", \"http://{live}\"]\nrewrite = {{ strip_prefix = true }}\n"
    );
    // So long that only the stop sends them.
    let more = [("otlp_delay", "10min"), ("service_name", "front-door")];
    let (installed, process) = traced(route, collector.port, &more).await;
    let caller = process
        .public
        .clone()
        .header("user-agent", "secret-agent/1");
    let reply = caller.get("/x/y?email=ada@example.com").await;
    assert_eq!(reply.status, 200);
    assert!(process.stop().await);

    let mut told = [
        collector.next().await,
        collector.next().await,
        collector.next().await,
    ];
    for secret in ["ada", "email", "secret-agent"] {
        assert!(!json!(told).to_string().contains(secret), "{told:?}");
    }
    let traces = told.each_mut().map(|span| take(span, "trace"));
    assert!(
        traces[0] == traces[1] && traces[0] == traces[2],
        "{traces:?}"
    );
    let ids = told.each_mut().map(|span| take(span, "span"));
    assert!(
        ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2],
        "{ids:?}"
    );
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let parent = format!("00-{}-{}-01", text(&traces[0]), text(&ids[2]));
    let seen = downstream.take();
    assert_eq!(field(&seen[0], "traceparent"), Some(parent.as_str()));
    let log = std::fs::read_to_string(installed.folder.path().join("access.log")).expect("a log");
    let line: Value = serde_json::from_str(log.trim()).expect("one line");
    let upstream = json!(live.to_string());
    assert_eq!((&line["trace"], &line["upstream"]), (&traces[0], &upstream));
    let times = told
        .each_mut()
        .map(|span| ["start", "end"].map(|it| take(span, it).as_u64().expect("nanoseconds")));
    let [whole, first, second] = times;
    let in_order = [whole[0], first[0], first[1], second[0], second[1], whole[1]];
    assert!(in_order.is_sorted(), "{times:?}");
    assert_eq!(told, expected(&ids[0], dead, live));
}

/// The three spans, without what differs from run to run.
fn expected(parent: &Value, dead: SocketAddr, live: SocketAddr) -> [Value; 3] {
    let server = json!({
        "service": "front-door", "parent": "", "name": "GET x", "kind": "SPAN_KIND_SERVER", "status": "STATUS_CODE_UNSET",
        "attributes": {
            "http.request.method": "GET", "url.path": "/x/y", "url.scheme": "http", "http.route": "x",
            "network.protocol.version": "1.1", "http.response.status_code": 200,
        },
    });
    let client = |at: SocketAddr, status: &str, more: Value| {
        let mut attributes = json!({
            "http.request.method": "GET", "server.address": "127.0.0.1", "server.port": at.port(), "url.full": format!("http://{at}/y"),
        });
        let more = more.as_object().expect("an object").clone();
        attributes.as_object_mut().expect("an object").extend(more);
        json!({ "service": "front-door", "parent": parent, "name": "GET", "kind": "SPAN_KIND_CLIENT", "status": status, "attributes": attributes })
    };
    let failed = json!({ "error.type": "connect" });
    let good = json!({ "http.request.resend_count": 1, "http.response.status_code": 200 });
    [
        server,
        client(dead, "STATUS_CODE_ERROR", failed),
        client(live, "STATUS_CODE_UNSET", good),
    ]
}

#[tokio::test]
async fn what_we_refuse_and_what_fails_is_told_too() {
    let mut collector = Collector::start(&[]).await;
    let downstream = Downstream::start().await;
    let rule =
        "[[guard.rules]]\nname = \"no-cats\"\naction = \"deny\"\nwhen = { path = \"/x/cats\" }\n";
    let route = format!(
        "{rule}{}",
        route(&downstream, "auth = \"none\"\nresponse_timeout_ms = 100")
    );
    let (_installed, process) = traced(route, collector.port, &[("otlp_delay", "10ms")]).await;
    let attributes = |span: &Value, names: &[&str]| -> Vec<Value> {
        names
            .iter()
            .map(|name| span["attributes"][name].clone())
            .collect()
    };
    let told = [
        "http.route",
        "http.response.status_code",
        "cargoextra.refused",
        "error.type",
    ];
    for (path, expected, client) in [
        ("/x/cats", json!(["own", 403, "no-cats", null]), None),
        ("/nowhere", json!(["own", 404, "not_found", null]), None),
        (
            "/x/unwell",
            json!(["x", 503, null, "503"]),
            Some(json!([503, "503"])),
        ),
        (
            "/x/hang",
            json!(["x", 500, "downstream_timeout", "500"]),
            Some(json!([null, "timeout"])),
        ),
    ] {
        process.public.get(path).await;
        let span = collector.next().await;
        assert_eq!(json!(attributes(&span, &told)), expected, "{path}");
        let is_error = span["attributes"].get("error.type").is_some();
        assert_eq!(span["status"] == "STATUS_CODE_ERROR", is_error, "{path}");
        if let Some(client) = client {
            let span = collector.next().await;
            let told = attributes(&span, &["http.response.status_code", "error.type"]);
            assert_eq!(
                (json!(told), &span["status"]),
                (client, &json!("STATUS_CODE_ERROR"))
            );
        }
    }
    for path in ["/x/ada@example.com/y", "/x/ada%40example.com/y"] {
        process.public.get(path).await;
        let [server, client] = [collector.next().await, collector.next().await];
        assert_eq!(server["attributes"]["url.path"], "/x/-/y", "{path}");
        let upstream = json!(format!("{}/x/-/y", downstream.url()));
        assert_eq!(client["attributes"]["url.full"], upstream, "{path}");
    }
    process.public.send("PURGE", "/nowhere", None).await;
    let span = collector.next().await;
    assert_eq!(
        span["name"], "_OTHER own",
        "of names that anybody can make up there is no end"
    );
}

#[tokio::test]
async fn a_collector_that_is_down_costs_spans_and_nothing_else() {
    let port = nobody().port();
    let (installed, process) = traced(String::new(), port, &[("otlp_delay", "10ms")]).await;
    for lost in [1, 2] {
        assert_eq!(process.public.get("/healthz").await.status, 200);
        let counted = async { while spans(&process, "failed").await < lost {} };
        tokio::time::timeout(PATIENCE, counted)
            .await
            .expect("it is counted");
    }
    let complaint = "telemetry.otlp_endpoint does not take spans";
    assert_eq!(
        installed.logged().matches(complaint).count(),
        1,
        "once, not once a batch"
    );

    let mut collector = Collector::start(&["--port", &port.to_string()]).await;
    assert_eq!(process.public.get("/healthz").await.status, 200);
    assert_eq!(collector.next().await["attributes"]["url.path"], "/healthz");
    let counted = async { while spans(&process, "sent").await < 1 {} };
    tokio::time::timeout(PATIENCE, counted)
        .await
        .expect("it is counted");
    assert_eq!(spans(&process, "failed").await, 2);
    assert!(process.stop().await);
}

#[tokio::test]
async fn a_collector_that_refuses_is_no_better() {
    let collector = Collector::start(&["--status", "503"]).await;
    let more = [("otlp_delay", "10ms")];
    let (_installed, process) = traced(String::new(), collector.port, &more).await;
    assert_eq!(process.public.get("/healthz").await.status, 200);
    let counted = async { while spans(&process, "failed").await < 1 {} };
    tokio::time::timeout(PATIENCE, counted)
        .await
        .expect("it is counted");
    assert_eq!(spans(&process, "sent").await, 0);
}

/// One export under way, four waiting; what comes then is dropped, and the stop waits for nobody longer than it may.
#[tokio::test]
async fn a_collector_that_hangs_holds_up_neither_requests_nor_the_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let more = [
        ("otlp_queue", "4"),
        ("otlp_batch", "1"),
        ("otlp_timeout", "2s"),
    ];
    let (_installed, process) = traced(String::new(), port, &more).await;
    for _ in 0..20 {
        assert_eq!(process.public.get("/healthz").await.status, 200);
    }
    let dropped = spans(&process, "dropped").await;
    assert!((14..=16).contains(&dropped), "{dropped} of 20");
    let stopped = tokio::time::timeout(Duration::from_secs(8), process.stop()).await;
    assert_eq!(stopped.ok(), Some(true));
}

#[tokio::test]
async fn the_sampled_flag_tells_the_truth() {
    for (endpoint, share, flag) in [
        ("", 1.0, "-00"),
        ("http://127.0.0.1:9/v1/traces", 1.0, "-01"),
        ("http://127.0.0.1:9/v1/traces", 0.0, "-00"),
    ] {
        let downstream = Downstream::start().await;
        let edge = route(&downstream, "auth = \"none\"");
        let app = TestApp::with(Database::Sqlite, |config| {
            with_edge(edge)(config);
            config.telemetry.otlp_endpoint = endpoint.to_owned();
            config.telemetry.otlp_sample = share;
        })
        .await;
        let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let caller = app.caller().header("traceparent", sampled);
        assert_eq!(caller.get("/x").await.status, 200);
        let seen = downstream.take();
        let parent = field(&seen[0], "traceparent").expect("a trace");
        assert!(
            parent.ends_with(flag) && !parent.contains("4bf92f"),
            "{endpoint} {share}: {parent}"
        );
    }
}

#[tokio::test]
async fn what_can_not_work_is_refused_in_a_sentence() {
    let installed = Installation::new(Database::Sqlite).await;
    let endpoint = "telemetry.otlp_endpoint: write a collector's address such as http://127.0.0.1:4318/v1/traces; one that needs TLS is reached through a collector beside us";
    let sizes =
        "telemetry: otlp_batch must be at least 1 and at most otlp_queue, which is at most 1000000";
    for (line, said) in [
        ("otlp_sample = 1", ""),
        ("otlp_sample = 0.001", ""),
        ("otlp_endpoint = \"https://collector/v1/traces\"", endpoint),
        ("otlp_endpoint = \"127.0.0.1:4318\"", endpoint),
        ("otlp_endpoint = \"http://user:word@collector/\"", endpoint),
        (
            "otlp_sample = 100",
            "telemetry.otlp_sample: must be 0.0 to 1.0, the share of requests that are traced",
        ),
        (
            "otlp_sample = \"all\"",
            "telemetry.otlp_sample: must be float, not string",
        ),
        ("otlp_queue = 100", sizes),
        ("otlp_batch = 0", sizes),
        (
            "otlp_timeout = \"2min\"",
            "telemetry: otlp_delay must be at least 10ms, otlp_timeout 100ms to 60s",
        ),
        (
            "service_name = \"\"",
            "telemetry.service_name: give this installation a name",
        ),
    ] {
        let file = installed.folder.path().join("telemetry.toml");
        std::fs::write(file, format!("[telemetry]\n{line}\n")).expect("it is written");
        let checked = installed
            .run(&["config", "check", "--config", "telemetry.toml"], "")
            .await;
        let told = checked.err.trim().trim_start_matches("cargoextra: ");
        assert_eq!((told, checked.success), (said, said.is_empty()), "{line}");
    }
}
