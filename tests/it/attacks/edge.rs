//! A rows of the edge: who a client is, what a path is, how often is too often, and how slow is too slow.

use std::time::Duration;

use cargoextra::config::{ClientAddress, Config, Span};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{Database, PASSWORD, Reply, TestApp};
use crate::downstream::{Downstream, edge, field, rest, route, statuses, with_edge};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

async fn with(text: &str) -> TestApp {
    TestApp::with(Database::Sqlite, with_edge(text.to_owned())).await
}

/// One rule, with so many requests at once and ten a minute after.
fn rule(route: &str, key: &str, burst: u32) -> String {
    format!(
        "[[limits.rules]]\nname = \"few\"\nroute = \"{route}\"\nkey = \"{key}\"\nrate = \"10/min\"\nburst = {burst}\n"
    )
}

/// Behind the proxies at `networks`, which say who calls in X-Forwarded-For.
fn behind(networks: &'static str, edge: String) -> impl FnOnce(&mut Config) {
    move |config| {
        with_edge(edge)(config);
        config.server.trusted_proxies = vec![networks.parse().expect("a network")];
        config.server.client_address = ClientAddress::XForwardedFor;
    }
}

fn too_many() -> (u16, Value) {
    (
        429,
        json!({ "message": "Too many requests", "code": "too_many_requests" }),
    )
}

fn denied() -> (u16, Value) {
    (
        403,
        json!({ "message": "Access denied", "code": "access_denied" }),
    )
}

/// What a limit tells in its fields.
fn limit_fields(reply: &Reply) -> [Option<&str>; 3] {
    ["retry-after", "ratelimit", "ratelimit-policy"].map(|name| reply.header(name))
}

#[tokio::test]
async fn a04_forwarding_headers_of_a_stranger_change_nothing() {
    const NAMES: [&str; 12] = [
        "x-forwarded-for",
        "forwarded",
        "x-real-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "fastly-client-ip",
        "x_forwarded_for",
        "X_REAL_IP",
        "x-original-forwarded-for",
        "x-forwarded",
    ];
    let downstream = Downstream::start().await;
    let text = format!(
        "{}{}",
        route(&downstream, "auth = \"none\""),
        rule("GET /x/few", "network", 4)
    );
    let own = TestApp::with(Database::Sqlite, with_edge(text.clone())).await;
    let trusting = TestApp::with(Database::Sqlite, behind("127.0.0.9/32", text)).await;
    for app in [&own, &trusting] {
        for (at, name) in NAMES.iter().enumerate() {
            let caller = app.caller().header(name, &format!("198.51.100.{at}"));
            assert_eq!(caller.get("/x").await.status, 200);
            let seen = downstream.take();
            assert_eq!(
                field(&seen[0], "x-forwarded-for"),
                Some("127.0.0.1"),
                "{name}"
            );
            assert!(!seen[0].contains("198.51.100."), "{name}: {}", seen[0]);
            let status = caller.get("/x/few").await.status;
            assert_eq!(status, if at < 4 { 200 } else { 429 }, "{name}");
            downstream.take();
        }
    }
}

#[tokio::test]
async fn a04_of_a_trusted_proxys_list_only_the_right_hop_counts() {
    let downstream = Downstream::start().await;
    let edge = route(&downstream, "auth = \"none\"");
    let app = TestApp::with(Database::Sqlite, behind("127.0.0.0/8", edge)).await;
    for (lines, client) in [
        (&[][..], "127.0.0.1"),
        (&["198.51.100.7"], "198.51.100.7"),
        (&["203.0.113.1, 198.51.100.7"], "198.51.100.7"),
        (&["198.51.100.7, 127.0.0.9"], "198.51.100.7"),
        (&["203.0.113.1", "198.51.100.7 ,127.0.0.9"], "198.51.100.7"),
        (&["198.51.100.7", "127.0.0.9", "127.0.0.8"], "198.51.100.7"),
        (&["[2001:db8::7]:443"], "2001:db8::7"),
        (&["::ffff:198.51.100.7"], "198.51.100.7"),
        // What is no address ends the walk at the last trusted hop.
        (&["198.51.100.7, unknown"], "127.0.0.1"),
        (&["198.51.100.7, nonsense, 127.0.0.9"], "127.0.0.9"),
        (&["198.51.100.7,"], "127.0.0.1"),
        (&["198.51.100.7.1"], "127.0.0.1"),
    ] {
        let caller = app
            .caller()
            .header("forwarded", "for=203.0.113.9")
            .header("x-real-ip", "203.0.113.9");
        let caller = lines
            .iter()
            .fold(caller, |caller, line| caller.also("x-forwarded-for", line));
        assert_eq!(caller.get("/x").await.status, 200);
        let seen = downstream.take();
        assert_eq!(
            field(&seen[0], "x-forwarded-for"),
            Some(client),
            "{lines:?}"
        );
        assert!(!seen[0].contains("203.0.113."), "{}", seen[0]);
    }
}

#[tokio::test]
async fn a05_every_spelling_of_a_path_meets_the_same_guard() {
    let downstream = Downstream::start().await;
    let guard = "[[guard.rules]]\nname = \"closed\"\naction = \"deny\"\nwhen = { path = \"/x/secret\" }\n\
        [[guard.rules]]\nname = \"own\"\naction = \"deny\"\nwhen = { path = \"/api/v1/user/login\", method = [\"POST\"] }\n";
    let app = with(&format!("{}{guard}", route(&downstream, "auth = \"none\""))).await;
    for path in [
        "/x/secret",
        "/x/secret/",
        "/x/%73ecret",
        "/%78/s%65cret",
        "/x/secret?q",
        "/x/secret/?q",
    ] {
        assert_eq!(app.caller().get(path).await.shown(), denied(), "{path}");
        assert_eq!(
            app.caller().send("HEAD", path, None).await.status,
            403,
            "{path}"
        );
    }
    for path in [
        "/x//secret",
        "//x/secret",
        "/x/./secret",
        "/x/y/../secret",
        "/x/%2e/secret",
        "/x%2fsecret",
        "/x/secret%00",
    ] {
        assert_eq!(app.caller().get(path).await.status, 400, "{path}");
    }
    assert_eq!(downstream.take(), [""; 0]);
    let login = json!({ "email": ADA, "password": PASSWORD });
    for path in ["login", "login/", "%6Cogin", "login?x=/", "login;a"] {
        let status = app.caller().post(path, login.clone()).await.status;
        assert!([403, 404].contains(&status), "{path}: {status}");
    }
}

#[tokio::test]
async fn a05_every_spelling_of_a_path_meets_the_same_bucket() {
    let app = with(&rule("POST /api/v1/user/login", "network", 3)).await;
    let body = json!({ "email": ADA, "password": PASSWORD }).to_string();
    let send = |method: &'static str, path: &'static str| {
        let (caller, body) = (app.caller(), body.clone());
        async move { caller.send(method, path, Some(body)).await.status }
    };
    for path in [
        "/api/v1/user/login",
        "/api/v1/user/%6cogin",
        "/%61pi/v1/user/login?x=1",
    ] {
        assert_eq!(send("POST", path).await, 401, "{path}");
    }
    // Used up. No other spelling is a second door.
    for path in [
        "/api/v1/user/login",
        "/api/v1/user/%6C%6f%67in",
        "/api/v1/user/login?y",
        "/api/v1/user/login/",
    ] {
        assert_eq!(send("POST", path).await, 429, "{path}");
    }
    for path in [
        "/api/v1/user/LOGIN",
        "/API/V1/user/login",
        "/api/v1/user/login;x",
        "/api/v1/user/login%20",
        "/api/v1/user/login.json",
    ] {
        assert_eq!(send("POST", path).await, 404, "{path}");
    }
    for path in [
        "//api/v1/user/login",
        "/api/v1/user//login",
        "/api/v1/user/./login",
        "/api/v1/x/%2e%2e/user/login",
        "/api/v1/user%2flogin",
    ] {
        assert_eq!(send("POST", path).await, 400, "{path}");
    }
    for name in [
        "x-http-method-override",
        "x-method-override",
        "x-http-method",
    ] {
        let caller = app.caller().header(name, "POST");
        for method in ["GET", "PUT", "PATCH"] {
            let reply = caller
                .send(method, "/api/v1/user/login", Some(body.clone()))
                .await;
            assert_eq!(
                (reply.status, reply.header("allow")),
                (405, Some("POST")),
                "{name} {method}"
            );
        }
    }
}

#[tokio::test]
async fn a07_the_addresses_of_one_network_share_a_bucket() {
    let app = TestApp::with(
        Database::Sqlite,
        behind("127.0.0.0/8", rule("GET /healthz", "network", 5)),
    )
    .await;
    let status = async |address: &str| {
        app.caller()
            .header("x-forwarded-for", address)
            .get("/healthz")
            .await
            .status
    };
    let mut served = 0;
    for at in 0..1000_u32 {
        let address = format!("2001:db8:1:2:{:x}:{:x}:0:{at:x}", at * 7919 % 65_536, at);
        served += u32::from(status(&address).await == 200);
    }
    assert_eq!(served, 5);
    assert_eq!(status("2001:db8:1:3::1").await, 200);
    // IPv4 counts each address, however it is written.
    for at in 0..8 {
        let address = if at % 2 == 0 {
            "198.51.100.7"
        } else {
            "::ffff:198.51.100.7"
        };
        assert_eq!(status(address).await, if at < 5 { 200 } else { 429 });
    }
    assert_eq!(status("198.51.100.8").await, 200);
}

#[tokio::test]
async fn a09_fifty_people_behind_one_address_are_all_served() {
    // The limits as they come.
    let app = TestApp::with(Database::Sqlite, |config| config.edge.limits.enabled = true).await;
    assert!(!app.app.config.edge.limits.rules.is_empty());
    let people: Vec<String> = (0..50)
        .map(|at| format!("person{at}@example.com"))
        .collect();
    for person in &people {
        app.account(person).await;
    }
    for person in &people {
        let asked = app
            .post("forgot-password", json!({ "email": person }))
            .await;
        assert_eq!(asked.status, 200, "{person}: {}", asked.text);
        assert_eq!(app.login(person, PASSWORD).await.status, 200);
    }
    for person in &people {
        let code = app.code(person).await;
        assert_eq!(app.confirm_status(&code).await, 200, "{person}");
    }
}

/// Sends byte after byte, reading what comes in between, until an answer does; others are served meanwhile.
async fn drip(app: &TestApp, first: &str, rest_of_it: &str) -> String {
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream.write_all(first.as_bytes()).await.expect("sent");
    for byte in rest_of_it.bytes().cycle() {
        if stream.write_u8(byte).await.is_err() {
            break;
        }
        assert_eq!(app.caller().get("/healthz").await.status, 200);
        let answered = tokio::time::timeout(Duration::from_millis(20), stream.readable()).await;
        if answered.is_ok() {
            break;
        }
    }
    rest(&mut stream).await
}

#[tokio::test]
async fn a11_a_slow_client_is_cut_off_and_others_are_served() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.server.header_timeout = Span(300);
        config.server.body_timeout = Span(300);
    })
    .await;
    let post = "POST /api/v1/user/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n";
    for (first, rest_of_it) in [
        ("G", "ET /healthz HTTP/1.1\r\nHost: x\r\n"),
        ("GET / HTTP/1.1\r\n", "X-A: b\r\n"),
        (post, " "),
    ] {
        let answer = drip(&app, first, rest_of_it).await;
        assert_eq!(statuses(&answer), [408], "{first:?}: {answer}");
        let id = field(&answer, "x-request-id").expect("it names the request");
        let body = answer.split("\r\n\r\n").nth(1).expect("a body");
        let whole =
            json!({ "message": "Request Timeout", "code": "request_timeout", "requestId": id });
        assert_eq!(serde_json::from_str::<Value>(body).expect("JSON"), whole);
    }
}

/// Sends a head that announces a body that never comes, and reads until an answer's end.
async fn head_only(app: &TestApp, path: &str) -> String {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10000000000\r\n\r\n"
    );
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    while !answer.ends_with('}') {
        let mut part = [0; 512];
        let count = tokio::time::timeout(crate::downstream::PATIENCE, stream.read(&mut part)).await;
        let count = count.expect("it answers at once").expect("it answers");
        assert_ne!(count, 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    answer
}

#[tokio::test]
async fn guard_and_limits_answer_before_the_body() {
    let downstream = Downstream::start().await;
    let guard =
        "[[guard.rules]]\nname = \"closed\"\naction = \"deny\"\nwhen = { path = \"/x/closed\" }\n";
    let text = format!(
        "{}{guard}{}",
        route(&downstream, "auth = \"none\""),
        rule("POST /x/few", "network", 1)
    );
    let app = with(&text).await;
    let refused = head_only(&app, "/x/closed").await;
    assert_eq!(statuses(&refused), [403]);
    assert!(
        refused
            .contains("{\"message\":\"Access denied\",\"code\":\"access_denied\",\"requestId\":\""),
        "{refused}"
    );
    assert_eq!(app.caller().send("POST", "/x/few", None).await.status, 200);
    assert_eq!(statuses(&head_only(&app, "/x/few").await), [429]);
    assert_eq!(downstream.take().len(), 1);
    // And our own calls need not see the body to know that it is too large.
    assert_eq!(
        statuses(&head_only(&app, "/api/v1/user/login").await),
        [413]
    );
}

#[tokio::test]
async fn the_guard_denies_allows_and_observes() {
    let rules = r#"
        [[guard.rules]]
        name = "office"
        action = "allow"
        when = { network = ["127.0.0.5/32"] }
        [[guard.rules]]
        name = "watched"
        action = "observe"
        when = { path = "/healthz" }
        [[guard.rules]]
        name = "banned"
        action = "deny"
        when = { network = ["127.0.0.4/31"] }
        [[guard.rules]]
        name = "agent"
        action = "deny"
        when = { header = { name = "user-agent", contains = "BadBot" } }
    "#;
    let app = with(rules).await;
    let healthz = async |from: &str, agent: &str| {
        app.caller()
            .from(from)
            .header("user-agent", agent)
            .get("/healthz")
            .await
            .status
    };
    assert_eq!(healthz("127.0.0.1", "curl").await, 200);
    assert_eq!(healthz("127.0.0.4", "curl").await, 403);
    assert_eq!(healthz("127.0.0.5", "curl").await, 200);
    assert_eq!(healthz("127.0.0.1", "a badbot/1").await, 403);
    assert_eq!(healthz("127.0.0.5", "a badbot/1").await, 200);
    assert_eq!(healthz("127.0.0.1", "sqlmap/1.7").await, 403);
    for path in ["/.env", "/.git/config", "/x.php", "/docs/%2Eenv"] {
        assert_eq!(app.caller().get(path).await.shown(), denied(), "{path}");
    }
    app.app.reload_edge(&edge("[guard]\nenabled = false\n"));
    assert_eq!(healthz("127.0.0.4", "sqlmap/1.7").await, 200);
}

#[tokio::test]
async fn a_limit_tells_what_it_is_and_when_to_come_again() {
    let app = with(&rule("GET /healthz", "network", 2)).await;
    let policy = Some("\"few\";q=2;w=12");
    let get = async || app.caller().get("/healthz").await;
    for (left, whole_in) in [(1, 6), (0, 12)] {
        let reply = get().await;
        assert_eq!(reply.status, 200);
        let state = format!("\"few\";r={left};t={whole_in}");
        assert_eq!(limit_fields(&reply), [None, Some(state.as_str()), policy]);
    }
    let refused = get().await;
    assert_eq!(
        limit_fields(&refused),
        [Some("6"), Some("\"few\";r=0;t=6"), policy]
    );
    assert_eq!(refused.shown(), too_many());
    // Another network has a count of its own.
    assert_eq!(
        app.caller().from("127.0.0.2").get("/healthz").await.status,
        200
    );
    app.advance(5_999);
    assert_eq!(get().await.status, 429);
    app.advance(1);
    assert_eq!(get().await.status, 200);
    assert_eq!(get().await.status, 429);
}

#[tokio::test]
async fn limits_can_be_off_and_can_only_watch() {
    let enforced = rule("GET /healthz", "network", 1);
    for text in [
        format!("{enforced}mode = \"observe\"\n"),
        format!("[limits]\nenabled = false\n{enforced}"),
    ] {
        let app = with(&text).await;
        for _ in 0..5 {
            let reply = app.caller().get("/healthz").await;
            assert_eq!(
                (reply.status, limit_fields(&reply)),
                (200, [None, None, None]),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn limits_count_by_session_account_and_address() {
    let quiet = TestApp::start(Database::Sqlite).await;
    quiet.account(ADA).await;
    quiet.account(EVE).await;
    let mut callers = Vec::new();
    for email in [ADA, ADA, EVE] {
        let login = quiet.login(email, PASSWORD).await.body();
        let token = login["token"].as_str().expect("a token");
        callers.push(
            quiet
                .caller()
                .header("authorization", &format!("Bearer {token}")),
        );
    }
    let checks = async |app: &TestApp, caller: usize| {
        callers[caller]
            .clone()
            .at(app.address)
            .get("/api/v1/user/check")
            .await
    };
    let app = quiet
        .again_with(with_edge(rule("GET /api/v1/user/check", "session", 2)))
        .await;
    for caller in 0..3 {
        assert_eq!(checks(&app, caller).await.status, 200);
        assert_eq!(checks(&app, caller).await.status, 200);
        let refused = checks(&app, caller).await;
        let policy = Some("\"few\";q=2;w=12");
        assert_eq!(
            limit_fields(&refused),
            [Some("6"), Some("\"few\";r=0;t=6"), policy]
        );
        assert_eq!(refused.shown(), too_many());
    }
    // Nobody can use up a session that is not theirs.
    assert_eq!(app.caller().get("/api/v1/user/check").await.status, 401);

    let app = quiet
        .again_with(with_edge(rule("GET /api/v1/user/check", "account", 2)))
        .await;
    let mut statuses = Vec::new();
    for caller in [0, 1, 0, 1, 2] {
        statuses.push(checks(&app, caller).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429, 200]);

    let app = quiet
        .again_with(with_edge(rule("POST /api/v1/user/login", "address", 2)))
        .await;
    let wrong = async |from: &str, email: &str| {
        let body = json!({ "email": email, "password": "wrong wrong wrong" });
        app.caller().from(from).post("login", body).await.status
    };
    // A body that is not complete is charged to nobody.
    for _ in 0..3 {
        assert_eq!(
            app.post("login", json!({ "email": "eve@example.com" }))
                .await
                .status,
            400
        );
    }
    assert_eq!(wrong("127.0.0.1", EVE).await, 401);
    assert_eq!(wrong("127.0.0.2", " EVE@Example.COM ").await, 401);
    assert_eq!(wrong("127.0.0.3", EVE).await, 429);
    assert_eq!(wrong("127.0.0.3", "nobody@example.com").await, 401);
}

#[tokio::test]
async fn a_forwarded_request_is_counted_by_session_too() {
    let downstream = Downstream::start().await;
    let text = format!(
        "{}{}",
        route(&downstream, "auth = \"customer\""),
        rule("GET /x/*", "session", 2)
    );
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    app.account(ADA).await;
    for _ in 0..2 {
        let login = app.login(ADA, PASSWORD).await;
        let cookie = format!(
            "customerToken={}",
            login.cookie("customerToken").expect("a session")
        );
        let caller = app.caller().header("cookie", &cookie);
        assert_eq!(caller.get("/x/1").await.status, 200);
        assert_eq!(caller.get("/x/2").await.status, 200);
        assert_eq!(caller.get("/x/3").await.shown(), too_many());
    }
    assert_eq!(downstream.take().len(), 4);
}
