//! Forwarding, end to end: what a downstream service gets, what a client gets back, and what happens when either fails.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::app::{Caller, Database, PASSWORD, Reply, START, TestApp};
use crate::downstream::{
    Downstream, PATIENCE, edge, exchange, field, rest, route, statuses, until, with_edge,
};

const ADA: &str = "ada@example.com";

/// An app whose `/x` is forwarded, with further keys of the route.
async fn with_route(more: &str) -> (TestApp, Downstream) {
    let downstream = Downstream::start().await;
    let edge = route(&downstream, more);
    (
        TestApp::with(Database::Sqlite, with_edge(edge)).await,
        downstream,
    )
}

/// Ada, signed in: her token, and the value of her cookie.
async fn ada(app: &TestApp) -> (String, String) {
    app.account(ADA).await;
    let reply = app.login(ADA, PASSWORD).await;
    let token = reply.body()["token"].as_str().expect("a token").to_owned();
    (token, reply.cookie("customerToken").expect("a session"))
}

fn bearer(app: &TestApp, token: &str) -> Caller {
    app.caller()
        .header("authorization", &format!("Bearer {token}"))
}

/// An address that nobody listens at.
fn nobody() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has an address")
}

fn failed(status: u16, code: &str) -> (u16, Value) {
    (
        status,
        json!({ "message": "Unexpected Error", "code": code }),
    )
}

fn unauthorized() -> (u16, Value) {
    (
        401,
        json!({ "message": "Unauthorized", "code": "unauthorized" }),
    )
}

/// The request ids and traces differ from call to call.
fn without_ids(message: &str) -> String {
    let kept = message
        .split("\r\n")
        .filter(|line| !line.starts_with("x-request-id: ") && !line.starts_with("traceparent: "));
    kept.collect::<Vec<_>>().join("\r\n")
}

#[tokio::test]
async fn a_request_and_its_answer_pass_whole() {
    let (app, downstream) = with_route("auth = \"none\"").await;
    let caller = app
        .caller()
        .header("x-colour", "blue")
        .also("x-colour", "green");
    let reply = caller
        .send(
            "PUT",
            "/x/a%20b/caf%c3%a9/%7eu?q=1&q=%2F../a",
            Some("{\"a\":1}".to_owned()),
        )
        .await;
    let seen = downstream.take();
    assert_eq!(seen.len(), 1);
    let mut lines: Vec<String> = without_ids(&seen[0])
        .split("\r\n")
        .map(str::to_owned)
        .collect();
    assert_eq!(
        lines.remove(0),
        "PUT /x/a%20b/caf%C3%A9/~u?q=1&q=%2F../a HTTP/1.1"
    );
    assert_eq!(lines.pop().as_deref(), Some("{\"a\":1}"));
    lines.retain(|line| !line.is_empty());
    lines.sort();
    let host = format!("host: {}", downstream.address);
    let expected = [
        "content-length: 7",
        "content-type: application/json",
        &host,
        "user-agent: curl/8.5.0",
        "via: 1.1 cargoextra",
        "x-colour: blue",
        "x-colour: green",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: localhost:9000",
        "x-forwarded-proto: http",
    ];
    assert_eq!(lines, expected);
    assert_eq!((reply.status, &reply.text), (200, &seen[0]));
    let trace = field(&seen[0], "traceparent").expect("a trace");
    // Nothing records it, and it says so.
    assert_eq!((trace.len(), &trace[..3], &trace[52..]), (55, "00-", "-00"));
    assert_eq!(
        field(&seen[0], "x-request-id"),
        reply.header("x-request-id")
    );

    let made = app.caller().send("POST", "/x/created", None).await;
    assert_eq!((made.status, made.text.as_str()), (201, "made"));
    let headers: Vec<(String, String)> = made.stable_headers().into_iter().collect();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = [
        pair("content-length", "4"),
        pair("location", "/x/1"),
        pair("via", "1.1 cargoextra"),
        pair("x-flavour", "salt"),
    ];
    assert_eq!(headers, expected);
    let large = vec![b'a'; 300_000];
    let echoed = app.caller().send_chunked("POST", "/x/large", large).await;
    assert_eq!(
        (echoed.status, echoed.text.matches('a').count() > 300_000),
        (200, true)
    );
}

#[tokio::test]
async fn a_prefix_matches_whole_segments_and_may_be_rewritten() {
    let (app, downstream) = with_route("auth = \"none\"\nrewrite = { strip_prefix = true }").await;
    for (path, seen) in [
        ("/x", "GET / "),
        ("/x/", "GET / "),
        ("/x/y?z", "GET /y?z "),
        ("/%78/y", "GET /y "),
    ] {
        assert_eq!(app.caller().get(path).await.status, 200, "{path}");
        let messages = downstream.take();
        assert!(messages[0].starts_with(seen), "{path}: {messages:?}");
    }
    for path in ["/xy", "/X", "/X/y", "/y/x"] {
        let shown = app.caller().get(path).await.shown();
        assert_eq!(
            shown,
            (404, json!({ "message": "Not Found", "code": "not_found" })),
            "{path}"
        );
    }
    assert_eq!(downstream.take(), [""; 0]);
}

#[tokio::test]
async fn who_is_signed_in_is_told_and_signed() {
    let (app, downstream) = with_route("auth = \"customer\"").await;
    let (token, cookie) = ada(&app).await;
    let id = app.login(ADA, PASSWORD).await.body()["user"]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let cookied = app
        .caller()
        .header("cookie", &format!("a=1; customerToken={cookie}; b=2"));
    for (caller, cookies) in [(bearer(&app, &token), None), (cookied, Some("a=1; b=2"))] {
        let caller = caller.header("x-reset-grant", "g");
        assert_eq!(caller.get("/x/y").await.status, 200);
        let seen = downstream.take();
        let value = |name| field(&seen[0], name);
        assert_eq!(value("x-account-id"), Some(id.as_str()));
        assert_eq!(value("x-account-email"), Some(ADA));
        assert_eq!(value("x-account-role"), Some("customer"));
        assert_eq!(value("authorization"), None);
        assert_eq!(value("x-reset-grant"), None);
        assert_eq!(value("cookie"), cookies);
        assert!(
            !seen[0].contains(&token) && !seen[0].contains(&cookie),
            "{}",
            seen[0]
        );
        let keys: jsonwebtoken::jwk::JwkSet =
            serde_json::from_value(app.caller().get("/.well-known/jwks.json").await.body())
                .expect("keys");
        let assertion = value("x-account-assertion").expect("an assertion");
        let head = jsonwebtoken::decode_header(assertion).expect("a head");
        assert_eq!(head.typ.as_deref(), Some("assertion+jwt"));
        let key = keys
            .find(head.kid.as_deref().expect("it names its key"))
            .expect("a published key");
        let key = jsonwebtoken::DecodingKey::from_jwk(key).expect("a usable key");
        let mut checks = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
        checks.set_audience(&["x"]);
        // The product's clock stands where the test put it.
        checks.validate_exp = false;
        let claims = jsonwebtoken::decode::<Value>(assertion, &key, &checks)
            .expect("it verifies")
            .claims;
        let issuer = format!("{}/gateway", app.app.config.server.public_origin);
        let now = START / 1000;
        let whole = json!({
            "iss": issuer, "aud": "x", "sub": id, "email": ADA, "role": "customer", "iat": now, "exp": now + 60,
        });
        assert_eq!(claims, whole);
    }
}

#[tokio::test]
async fn a12_nobody_can_make_an_identity_up() {
    const MADE_UP: [&str; 18] = [
        "x-account-id",
        "X-Account-Email",
        "X-ACCOUNT-ROLE",
        "x-account-assertion",
        "x-account-anything",
        "X_Account_Id",
        "x_account_email",
        "x-account_role",
        "X_ACCOUNT_ASSERTION",
        "x-request-id",
        "X_Request_Id",
        "traceparent",
        "tracestate",
        "x-reset-grant",
        "x_reset_grant",
        "x-forwarded-for",
        "X_Forwarded_Host",
        "x-real-ip",
    ];
    let downstream = Downstream::start().await;
    let url = downstream.url();
    let routes = ["none", "optional", "customer"].map(|auth| {
        format!("[[gateway.routes]]\nname = \"{auth}\"\nprefix = \"/{auth}\"\nupstreams = [\"{url}\"]\nauth = \"{auth}\"\n")
    });
    let app = TestApp::with(Database::Sqlite, with_edge(routes.concat())).await;
    let (token, _) = ada(&app).await;
    let spoof = |caller: Caller| {
        MADE_UP
            .iter()
            .fold(caller, |caller, name| caller.also(name, "forged"))
    };
    for caller in [app.caller(), bearer(&app, &token)] {
        for path in ["/none/y", "/optional/y", "/customer/y"] {
            let reply = spoof(caller.clone()).get(path).await;
            let seen = downstream.take();
            assert_eq!(reply.status == 401, seen.is_empty(), "{path}");
            assert!(
                seen.iter().all(|it| !it.contains("forged")),
                "{path}: {seen:?}"
            );
            assert_ne!(reply.header("x-request-id"), Some("forged"));
        }
    }
    // Nor behind a body.
    let trailer = "POST /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Account-Id: forged\r\n\r\n";
    exchange(app.address, trailer.as_bytes()).await;
    assert!(downstream.take().iter().all(|it| !it.contains("forged")));
}

#[tokio::test]
async fn a12_underscores_pass_only_where_the_operator_says_so() {
    for passes in [false, true] {
        let downstream = Downstream::start().await;
        let settings = edge(&route(&downstream, "auth = \"none\""));
        let app = TestApp::with(Database::Sqlite, |config| {
            config.edge = settings;
            config.gateway.underscore_headers = passes;
        })
        .await;
        let caller = app.caller().header("X_Auth_User", "eve");
        let caller = caller
            .also("x_account_id", "forged")
            .also("x.account.id", "forged");
        assert_eq!(caller.get("/x").await.status, 200);
        let seen = downstream.take();
        assert_eq!(field(&seen[0], "x_auth_user"), passes.then_some("eve"));
        assert!(!seen[0].contains("forged"), "{}", seen[0]);
    }
}

#[tokio::test]
async fn cookies_of_ours_pass_in_neither_direction() {
    let (app, downstream) = with_route("auth = \"none\"").await;
    let ours = "customerToken=a; userToken=b;cxDevice=c; resetGrant=d; cxGrant=e; cxFlow=f; theme=dark;  customertoken=g";
    let caller = app
        .caller()
        .header("cookie", ours)
        .also("cookie", "userToken=h")
        .header("x-plain", "1");
    let reply = caller.get("/x/cookies").await;
    let seen = downstream.take();
    assert_eq!(
        field(&seen[0], "cookie"),
        Some("theme=dark; customertoken=g")
    );
    assert_eq!(seen[0].matches("cookie:").count(), 1, "{}", seen[0]);
    assert_eq!(reply.cookie_lines(), ["theme=dark"]);
    assert_eq!(
        (reply.header("x-private"), reply.header("connection")),
        (None, None)
    );
    // What we did not consume is the downstream's business.
    let other = app.caller().header("authorization", "Basic dTpw");
    assert_eq!(other.get("/x").await.status, 200);
    assert_eq!(
        field(&downstream.take()[0], "authorization"),
        Some("Basic dTpw")
    );
}

#[tokio::test]
async fn a_route_says_who_may_pass() {
    let (app, downstream) = with_route("auth = \"customer\"").await;
    let (token, cookie) = ada(&app).await;
    let cookied = |value: &str| {
        app.caller()
            .header("cookie", &format!("customerToken={value}"))
    };
    let strangers = [
        app.caller(),
        bearer(&app, "made-up"),
        cookied("made-up"),
        cookied(&cookie).also("cookie", &format!("customerToken={cookie}")),
        // The first credential present decides alone.
        cookied(&cookie).header("authorization", "Bearer made-up"),
    ];
    for stranger in &strangers {
        let reply = stranger.send("POST", "/x/y", Some("{}".to_owned())).await;
        assert_eq!(reply.shown(), unauthorized());
        assert_eq!(downstream.take(), [""; 0]);
    }
    assert_eq!(cookied(&cookie).get("/x/y").await.status, 200);
    assert_eq!(bearer(&app, &token).get("/x/y").await.status, 200);
    assert_eq!(downstream.take().len(), 2);
    assert_eq!(
        bearer(&app, &token).post("logout", json!({})).await.status,
        200
    );
    // S-01: a look-up of a moment ago does not outlive its session.
    for ended in [bearer(&app, &token), cookied(&cookie)] {
        assert_eq!(ended.get("/x/y").await.shown(), unauthorized());
    }
    assert_eq!(downstream.take(), [""; 0]);

    let url = downstream.url();
    app.app.reload_edge(&edge(&format!(
        "[[gateway.routes]]\nprefix = \"/x\"\nupstreams = [\"{url}\"]\nauth = \"optional\"\n"
    )));
    for stranger in strangers {
        assert_eq!(stranger.get("/x/y").await.status, 200);
        assert_eq!(field(&downstream.take()[0], "x-account-id"), None);
    }
    let (token, _) = {
        let reply = app.login(ADA, PASSWORD).await;
        (
            reply.body()["token"].as_str().expect("a token").to_owned(),
            (),
        )
    };
    assert_eq!(bearer(&app, &token).get("/x/y").await.status, 200);
    assert_eq!(field(&downstream.take()[0], "x-account-email"), Some(ADA));
}

#[tokio::test]
async fn s01_a_reset_ends_sessions_at_the_edge_too() {
    let (app, downstream) = with_route("auth = \"customer\"").await;
    let (token, _) = ada(&app).await;
    assert_eq!(bearer(&app, &token).get("/x").await.status, 200);
    assert_eq!(downstream.take().len(), 1);
    let code = app.forgot(ADA).await;
    let grant = app.confirm(&code).await;
    let body = json!({ "email": ADA, "password": crate::app::NEW_PASSWORD, "resetGrant": grant });
    assert_eq!(app.post("password-reset", body).await.status, 200);
    assert_eq!(bearer(&app, &token).get("/x").await.shown(), unauthorized());
    assert_eq!(downstream.take(), [""; 0]);
}

#[tokio::test]
async fn a_failing_downstream_has_its_own_answers() {
    let dead = nobody();
    let text = |precise: &str, downstream: &Downstream| {
        let live = route(
            downstream,
            "auth = \"none\"\nresponse_timeout_ms = 200\nretries = 0",
        );
        let url = format!("http://{dead}");
        format!(
            "[gateway]\ndownstream_errors = \"{precise}\"\n{live}\n[[gateway.routes]]\nprefix = \"/dead\"\nupstreams = [\"{url}\"]\nauth = \"none\"\n"
        )
    };
    for (name, precise, unavailable, timeout) in [
        (
            "documented",
            cargoextra::config::edge::routes::DownstreamErrors::Documented,
            500,
            500,
        ),
        (
            "precise",
            cargoextra::config::edge::routes::DownstreamErrors::Precise,
            502,
            504,
        ),
    ] {
        let downstream = Downstream::start().await;
        let settings = edge(&text(name, &downstream));
        let app = TestApp::with(Database::Sqlite, |config| {
            config.edge = settings;
            config.gateway.downstream_errors = precise;
        })
        .await;
        for (path, expected) in [
            ("/dead", failed(unavailable, "downstream_unavailable")),
            ("/x/break", failed(unavailable, "downstream_unavailable")),
            ("/x/switch", failed(unavailable, "downstream_unavailable")),
            ("/x/hang", failed(timeout, "downstream_timeout")),
        ] {
            assert_eq!(app.caller().get(path).await.shown(), expected, "{path}");
        }
        // What the downstream itself says is passed on, be it ever so unwell.
        let unwell = app.caller().get("/x/unwell").await;
        assert_eq!((unwell.status, unwell.text.as_str()), (503, "unwell"));
        // Half an answer must not look whole.
        let half = exchange(app.address, b"GET /x/half HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(
            (statuses(&half), field(&half, "content-length")),
            (vec![200], Some("100"))
        );
        assert!(
            half.ends_with("\r\n\r\npart") || half.ends_with("\r\n\r\n"),
            "{half}"
        );
        assert_eq!(app.caller().get("/healthz").await.status, 200);
    }
}

#[tokio::test]
async fn what_may_be_repeated_goes_to_the_next_upstream() {
    let downstream = Downstream::start().await;
    let (dead, live) = (nobody(), downstream.url());
    let text = format!(
        "[[gateway.routes]]\nname = \"x\"\nprefix = \"/x\"\nupstreams = [\"http://{dead}\", \"{live}\"]\nauth = \"none\"\n"
    );
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    for _ in 0..4 {
        assert_eq!(app.caller().get("/x").await.status, 200);
    }
    assert_eq!(downstream.take().len(), 4);
    // What has not left may be sent elsewhere, whatever it is.
    for _ in 0..4 {
        let reply = app.caller().send("POST", "/x", Some("{}".to_owned())).await;
        assert_eq!(reply.status, 200);
    }
    assert_eq!(downstream.take().len(), 4);
    // What has left is never sent twice, unless that makes no difference.
    app.app
        .reload_edge(&edge(&route(&downstream, "auth = \"none\"")));
    let broken = failed(500, "downstream_unavailable");
    let posted = app
        .caller()
        .send("POST", "/x/break", Some("{}".to_owned()))
        .await;
    assert_eq!(
        (posted.shown(), downstream.take().len()),
        (broken.clone(), 1)
    );
    let got = app.caller().get("/x/break").await;
    assert_eq!((got.shown(), downstream.take().len()), (broken, 2));
}

#[tokio::test]
async fn a_breaker_opens_after_five_failures_and_recovers() {
    let address = nobody();
    let text = format!(
        "[[gateway.routes]]\nname = \"x\"\nprefix = \"/x\"\nupstreams = [\"http://{address}\"]\nauth = \"none\"\nretries = 0\n"
    );
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    let unavailable = failed(500, "downstream_unavailable");
    for _ in 0..5 {
        assert_eq!(app.caller().get("/x").await.shown(), unavailable);
    }
    // It is back, but is left alone for a second.
    let downstream = Downstream::at(address).await;
    for _ in 0..3 {
        assert_eq!(app.caller().get("/x").await.shown(), unavailable);
    }
    app.advance(999);
    assert_eq!(app.caller().get("/x").await.shown(), unavailable);
    assert_eq!(downstream.take(), [""; 0]);
    app.advance(1);
    assert_eq!(app.caller().get("/x").await.status, 200);
    // The probe's answer has closed it: as many as come pass at once, not one after the other.
    let calls = (0..16).map(|_| {
        let caller = app.caller();
        async move { caller.get("/x").await.status }
    });
    assert_eq!(futures_util::future::join_all(calls).await, [200; 16]);
    assert_eq!(downstream.take().len(), 17);
}

#[tokio::test]
async fn a_client_cannot_open_a_breaker() {
    let (app, downstream) = with_route(
        "auth = \"none\"\nretries = 0\nresponse_timeout_ms = 100\nidle_timeout_ms = 100",
    )
    .await;
    for _ in 0..6 {
        // Half a body, and the client's side is closed.
        let mut stream = TcpStream::connect(app.address).await.expect("it listens");
        let half = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf";
        stream.write_all(half).await.expect("sent");
        stream.shutdown().await.expect("closed");
        rest(&mut stream).await;
    }
    for _ in 0..6 {
        // Half a body, and silence.
        let mut stream = TcpStream::connect(app.address).await.expect("it listens");
        let half =
            b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\nhalf";
        stream.write_all(half).await.expect("sent");
        let answer = rest(&mut stream).await;
        assert_eq!(statuses(&answer), [408], "{answer}");
    }
    assert_eq!(downstream.take(), [""; 0]);
    assert_eq!(app.caller().get("/x").await.status, 200);
}

const SWITCH: &str =
    "GET /x/switch HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n";

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel() {
    let (app, downstream) = with_route("auth = \"none\"").await;
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream
        .write_all(format!("{SWITCH}\r\n").as_bytes())
        .await
        .expect("sent");
    let head = until(&mut stream, "\r\n\r\n").await;
    assert_eq!(statuses(&head), [101]);
    assert_eq!(
        (field(&head, "upgrade"), field(&head, "connection")),
        (Some("echo"), Some("upgrade"))
    );
    for text in ["hello\n", "GET / HTTP/1.1\n\0\n", "bye\n"] {
        stream.write_all(text.as_bytes()).await.expect("sent");
        assert_eq!(until(&mut stream, &text[text.len() - 2..]).await, text);
    }
    stream.shutdown().await.expect("closed");
    assert_eq!(rest(&mut stream).await, "");
    let seen = downstream.take();
    assert_eq!((seen.len(), field(&seen[0], "upgrade")), (1, Some("echo")));

    // An upgrade that is declined leaves HTTP as it was.
    let declined = format!("{}\r\n", SWITCH.replace("/x/switch", "/x/y"));
    let next = "GET /x/z HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = exchange(app.address, format!("{declined}{next}").as_bytes()).await;
    assert_eq!(statuses(&answers), [200, 200], "{answers}");
}

#[tokio::test]
async fn a10_a_switch_that_nobody_asked_for_is_refused() {
    let (app, downstream) = with_route("auth = \"none\"").await;
    for request in [
        "GET /x/switch HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /x/switch HTTP/1.1\r\nHost: x\r\nUpgrade: echo\r\n\r\n",
        "POST /x/switch HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\nContent-Length: 0\r\n\r\n",
        "GET /x/switch HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        // HTTP/2 inside a tunnel would ask for anything.
        "GET /x/switch HTTP/1.1\r\nHost: x\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET /x/switch HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket, H2C\r\n\r\n",
        "GET /x/switch HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
    ] {
        let hidden = "GET /x/hidden HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answers = exchange(app.address, format!("{request}{hidden}").as_bytes()).await;
        let statuses = statuses(&answers);
        assert_eq!(statuses.first(), Some(&500), "{request}: {answers}");
        assert!(
            answers.contains("\"code\":\"downstream_unavailable\""),
            "{answers}"
        );
        // What stands behind it is a request of its own (or, after HTTP/1.0, nothing).
        assert!(matches!(statuses[1..], [] | [200]), "{answers}");
        let switched = downstream.take();
        assert!(
            switched
                .iter()
                .all(|it| it.starts_with("GET /x/hidden") || field(it, "upgrade").is_none()),
            "{switched:?}"
        );
        app.advance(10_000);
    }
}

async fn open_events(app: &TestApp, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let request =
        format!("GET /x/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let head = until(&mut stream, "\r\n\r\n").await;
    assert_eq!(statuses(&head), [200], "{head}");
    assert_eq!(field(&head, "content-type"), Some("text/event-stream"));
    stream
}

#[tokio::test]
async fn events_arrive_one_by_one_until_the_session_ends() {
    let (app, downstream) = with_route("auth = \"customer\"").await;
    let (token, _) = ada(&app).await;
    let mut stream = open_events(&app, &token).await;
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        downstream.push(event);
        assert_eq!(
            until(&mut stream, "\n\n\r\n").await,
            format!("{:x}\r\n{event}\r\n", event.len())
        );
    }
    assert_eq!(
        bearer(&app, &token).post("logout", json!({})).await.status,
        200
    );
    let ended = tokio::time::timeout(Duration::from_millis(1500), rest(&mut stream)).await;
    // Broken off: no last chunk says that it was whole.
    assert_eq!(ended.expect("it ends within a second (and a little)"), "");
}

#[tokio::test]
async fn a_tunnel_ends_with_its_session() {
    let (app, _downstream) = with_route("auth = \"customer\"").await;
    let (token, _) = ada(&app).await;
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let request = format!("{SWITCH}Authorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    assert_eq!(statuses(&until(&mut stream, "\r\n\r\n").await), [101]);
    stream.write_all(b"one\n").await.expect("sent");
    assert_eq!(until(&mut stream, "\n").await, "one\n");
    assert_eq!(
        bearer(&app, &token).post("logout", json!({})).await.status,
        200
    );
    let ended = tokio::time::timeout(Duration::from_millis(1500), rest(&mut stream)).await;
    assert_eq!(ended.expect("it ends within a second (and a little)"), "");
}

#[tokio::test]
async fn our_own_paths_are_never_forwarded() {
    let downstream = Downstream::start().await;
    let url = downstream.url();
    let text = format!(
        "[[gateway.routes]]\nname = \"all\"\nprefix = \"/\"\nupstreams = [\"{url}\"]\nauth = \"none\"\n[[gateway.routes]]\nname = \"api\"\nprefix = \"/api\"\nupstreams = [\"{url}\"]\nauth = \"none\"\n"
    );
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    for path in [
        "/api/v1/user",
        "/api/v1/user/",
        "/api/v1/user/check",
        "/api/v1/user/nothing",
        "/api/v1/%75ser/check",
        "/api/v1/admin",
        "/api/v1/admin/x",
        "/api/v1/openapi.json",
        "/.well-known/jwks.json",
        "/.well-known/x",
        "/account",
        "/account/login",
        "/docs",
        "/healthz",
        "/healthz/",
        "/readyz",
    ] {
        app.caller().get(path).await;
        app.caller().send("POST", path, Some("{}".to_owned())).await;
        assert_eq!(downstream.take(), [""; 0], "{path}");
    }
    for path in [
        "/",
        "/api/v1",
        "/api/v1/users",
        "/accounts",
        "/healthzz",
        "/API/v1/user/check",
    ] {
        assert_eq!(app.caller().get(path).await.status, 200, "{path}");
        assert_eq!(downstream.take().len(), 1, "{path}");
    }
}

#[tokio::test]
async fn a_method_without_a_route_is_told_which_there_are() {
    let (app, downstream) = with_route("auth = \"none\"\nmethods = [\"GET\", \"POST\"]").await;
    let reply = app.caller().send("DELETE", "/x/y", None).await;
    assert_eq!(reply.header("allow"), Some("GET, POST, HEAD"));
    assert_eq!(
        reply.shown(),
        (
            405,
            json!({ "message": "Method Not Allowed", "code": "method_not_allowed" })
        )
    );
    let overridden = app.caller().header("x-http-method-override", "POST");
    assert_eq!(overridden.send("DELETE", "/x/y", None).await.status, 405);
    assert_eq!(downstream.take(), [""; 0]);
    let head: Reply = app.caller().send("HEAD", "/x/y", None).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn a_reload_applies_whole_and_running_requests_finish_under_the_old() {
    let (app, old) = with_route("auth = \"customer\"").await;
    let (token, _) = ada(&app).await;
    let mut stream = open_events(&app, &token).await;
    let new = Downstream::start().await;
    let guard =
        "[[guard.rules]]\nname = \"closed\"\naction = \"deny\"\nwhen = { path = \"/x/closed\" }\n";
    let limit = "[[limits.rules]]\nname = \"few\"\nroute = \"GET /x/few\"\nkey = \"network\"\nrate = \"1/h\"\nburst = 1\n";
    app.app.reload_edge(&edge(&format!(
        "{}{guard}{limit}",
        route(&new, "auth = \"none\"")
    )));
    assert_eq!(app.caller().get("/x/few").await.status, 200);
    assert_eq!(app.caller().get("/x/few").await.status, 429);
    assert_eq!(app.caller().get("/x/closed").await.status, 403);
    assert_eq!(new.take().len(), 1);
    old.push("data: still\n\n");
    let event = tokio::time::timeout(PATIENCE, until(&mut stream, "still\n\n\r\n")).await;
    assert_eq!(
        event.expect("the stream lives on"),
        "D\r\ndata: still\n\n\r\n"
    );
    assert_eq!(old.take().len(), 1);
    // A reload gives nobody a fresh count.
    app.app
        .reload_edge(&edge(&format!("{}{limit}", route(&new, "auth = \"none\""))));
    assert_eq!(app.caller().get("/x/few").await.status, 429);
    assert_eq!(app.caller().get("/x/closed").await.status, 200);
    app.app.reload_edge(&edge(""));
    assert_eq!(app.caller().get("/x/few").await.status, 404);
}
