//! What holds everywhere: bodies, routes, headers of every answer, the description of the API.

use cargoextra::web::openapi;
use serde_json::{Value, json};

use crate::app::{NEW_PASSWORD, PASSWORD, TestApp, on_both};

const ADA: &str = "ada@example.com";
const FORGOT: &str = "/api/v1/user/forgot-password";

/// Every call that reads a body.
const WITH_BODY: [&str; 7] = [
    "forgot-password",
    "confirm-otp-reset",
    "password-reset",
    "register",
    "verify-email",
    "resend-verification",
    "login",
];

fn missing() -> (u16, Value) {
    (
        400,
        json!({ "message": "Missing One or More Required Parameters", "code": "missing_parameters" }),
    )
}

fn too_large() -> (u16, Value) {
    (
        413,
        json!({ "message": "Request body too large", "code": "body_too_large" }),
    )
}

on_both! {
    async fn a_body_is_one_json_object_in_utf8(database) {
        let app = TestApp::start(database).await;
        for call in WITH_BODY {
            let path = format!("/api/v1/user/{call}");
            let good = r#""email":"ada@example.com","password":"NewSecurePass123","resetToken":"7K3QM-X9T2B","verifyToken":"7K3QM-X9T2B""#;
            let bad: Vec<Vec<u8>> = vec![
                b"".to_vec(), b" ".to_vec(), b"{".to_vec(), b"{}".to_vec(), b"[]".to_vec(), b"null".to_vec(), b"7".to_vec(), b"true".to_vec(), b"\"email\"".to_vec(),
                format!("[{{{good}}}]").into_bytes(),
                format!("{{{good}}} x").into_bytes(),
                format!("{{{good},}}").into_bytes(),
                format!("{{{good},\"x\":1,\"x\":2}}").into_bytes(),
                format!("{{{good},\"email\":\"ada@example.com\",\"resetToken\":\"7K3QM-X9T2B\",\"verifyToken\":\"7K3QM-X9T2B\"}}").into_bytes(),
                format!("{{{good},\"\\u0065mail\":\"x\",\"resetToke\\u006e\":\"x\",\"verifyToke\\u006E\":\"x\"}}").into_bytes(),
                [b"{\"x\":\"\xff\",", good.as_bytes(), b"}"].concat(),
                [b"{\"x\":\"\xed\xa0\x80\",", good.as_bytes(), b"}"].concat(),
                format!("{{{good},\"x\":\"\\ud800\"}}").into_bytes(),
                [b"\xef\xbb\xbf{", good.as_bytes(), b"}"].concat(),
                format!("{{{good},\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000)).into_bytes(),
                format!("{{{good},\"x\":NaN}}").into_bytes(),
                format!("{{{good}}}").encode_utf16().flat_map(u16::to_le_bytes).collect(),
            ];
            for body in bad {
                let shown = String::from_utf8_lossy(&body).chars().take(100).collect::<String>();
                assert_eq!(app.caller().send_bytes("POST", &path, Some(body)).await.shown(), missing(), "{call}: {shown}");
            }
            for kind in ["text/json", "application/jsonp", "application/json-patch+json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "json", "*/*", "application/json, text/plain"] {
                let reply = app.caller().header("content-type", kind).send("POST", &path, Some(format!("{{{good}}}"))).await;
                assert_eq!(reply.shown(), missing(), "{call}: {kind}");
            }
            let twice = app.caller().also("content-type", "application/json").also("content-type", "application/json");
            assert_eq!(twice.send("POST", &path, Some(format!("{{{good}}}"))).await.shown(), missing(), "{call}: two types");
            let untyped = app.caller().also("content-type", "");
            assert_eq!(untyped.send("POST", &path, Some(format!("{{{good}}}"))).await.shown(), missing(), "{call}: an empty type");
            assert_eq!(app.caller().send("POST", &path, None).await.shown(), missing(), "{call}: no body and no type");
        }
        assert_eq!(app.count("select count(*) as n from audit").await, 0, "nothing came so far that anything was written down");
    }

    async fn a_charset_and_unknown_fields_are_fine(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8", "application/json ; x=y"] {
            let reply = app.caller().header("content-type", kind).post("login", json!({ "email": ADA, "password": PASSWORD, "admin": true, "role": "staff" })).await;
            assert_eq!(reply.status, 200, "{kind}: {}", reply.text);
            assert_eq!(reply.body()["user"].as_object().expect("a user").len(), 7);
        }
    }

    async fn a_body_has_at_most_64_kib(database) {
        let app = TestApp::start(database).await;
        let of = |length: usize| {
            let frame = r#"{"email":"nobody@example.com","x":""}"#.len();
            format!(r#"{{"email":"nobody@example.com","x":"{}"}}"#, "x".repeat(length - frame)).into_bytes()
        };
        let send = async |body: Vec<u8>| app.caller().send_bytes("POST", FORGOT, Some(body)).await;
        assert_eq!(send(of(65_536)).await.status, 404, "64 KiB are read");
        assert_eq!(send(of(65_537)).await.shown(), too_large());
        assert_eq!(send(vec![b'x'; 200_000]).await.shown(), too_large());
        for call in WITH_BODY {
            assert_eq!(app.caller().send_bytes("POST", &format!("/api/v1/user/{call}"), Some(of(65_537))).await.shown(), too_large(), "{call}");
        }
        // Unannounced: counted as it comes.
        assert_eq!(app.caller().send_chunked("POST", FORGOT, of(65_536)).await.status, 404);
        assert_eq!(app.caller().send_chunked("POST", FORGOT, of(65_537)).await.shown(), too_large());
    }

    async fn what_is_no_route_is_not_found(database) {
        let app = TestApp::start(database).await;
        for path in [
            "/", "/api", "/api/v1", "/api/v1/user", "/api/v1/user/", "/api/v1/user/nothing", "/api/v1/user/forgot-password/", "/api/v1/user/Forgot-Password",
            "/api/v1/user/forgot-password/x", "/API/v1/user/forgot-password", "/api/v2/user/forgot-password", "/api/v1/user/sessions/a/b",
            "/metrics", "/dev/mailbox", "/dev/mailbox/messages", "/api/v1/admin", "/docs/nothing.js", "/docs/%ff",
            "/api/v1/user/password", "/api/v1/user/confirm-email-change",
        ] {
            for method in ["GET", "POST", "DELETE", "PATCH"] {
                if method != "GET" && path.starts_with("/docs/") { continue; }
                let reply = app.caller().send(method, path, None).await;
                assert_eq!(reply.shown(), (404, json!({ "message": "Not Found", "code": "not_found" })), "{method} {path}");
            }
        }
    }

    async fn another_method_is_not_allowed_and_told_which_is(database) {
        let app = TestApp::start(database).await;
        for (method, path) in openapi::calls() {
            let described = method.to_uppercase();
            for other in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
                if other == described || (other == "HEAD" && described == "GET") { continue; }
                let reply = app.caller().send(other, &path.replace("{id}", "x"), None).await;
                let allow = if described == "GET" { "GET,HEAD" } else { described.as_str() };
                assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{other} {path}");
                if other != "HEAD" {
                    assert_eq!(reply.shown(), (405, json!({ "message": "Method Not Allowed", "code": "method_not_allowed" })), "{other} {path}");
                }
            }
        }
    }

    /// The description and the router agree, whichever of them was changed last.
    async fn every_described_call_exists(database) {
        let app = TestApp::start(database).await;
        for (method, path) in openapi::calls() {
            let reply = app.caller().send(&method.to_uppercase(), &path.replace("{id}", "x"), None).await;
            assert!(![404, 405].contains(&reply.status), "{method} {path}: {}", reply.text);
        }
        let mut described: Vec<&str> = openapi::calls().map(|(_, path)| path).collect();
        described.sort_unstable();
        assert_eq!(described, [
            "/api/v1/user/check", "/api/v1/user/confirm-otp-reset", "/api/v1/user/forgot-password", "/api/v1/user/login", "/api/v1/user/logout", "/api/v1/user/logout-all",
            "/api/v1/user/password-reset", "/api/v1/user/register", "/api/v1/user/resend-verification", "/api/v1/user/sessions", "/api/v1/user/sessions/{id}", "/api/v1/user/verify-email",
        ]);
    }

    async fn the_description_is_openapi_3_1(database) {
        let app = TestApp::start(database).await;
        let reply = app.caller().get("/api/v1/openapi.json").await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
        let document = reply.body();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["servers"], json!([{ "url": "http://localhost:9000" }]));
        assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
        let mut ids = std::collections::BTreeSet::new();
        let operations = document["paths"].as_object().expect("paths").iter().flat_map(|(path, item)| {
            item.as_object().expect("an item").iter().map(move |(method, operation)| (method, path, operation))
        });
        for (method, path, operation) in operations {
            let what = format!("{method} {path}");
            assert!(["get", "post", "delete", "patch"].contains(&method.as_str()), "{what}");
            assert!(ids.insert(operation["operationId"].as_str().expect("an id").to_owned()), "{what}: its id is taken");
            assert_eq!(operation.get("parameters").is_some(), path.contains('{'), "{what}");
            for (status, response) in operation["responses"].as_object().expect("responses") {
                assert!(status.parse::<u16>().is_ok_and(|status| (200..600).contains(&status)), "{what}");
                assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{what} {status}");
                let content = &response["content"]["application/json"];
                assert!(content["schema"].is_object(), "{what} {status}");
                for (code, example) in content["examples"].as_object().into_iter().flatten() {
                    assert_eq!(example["value"]["code"], code.as_str(), "{what} {status}");
                }
            }
            assert!(operation["responses"]["500"].is_object() && operation["responses"]["403"].is_object() && operation["responses"]["429"].is_object(), "{what}");
        }
        let references: Vec<&str> = reply.text.split("\"$ref\":\"#/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        for pointer in &references {
            assert!(document.pointer(&format!("/{pointer}")).is_some(), "{pointer}");
        }
        assert!(!references.is_empty());
        let reset = &document["paths"]["/api/v1/user/password-reset"]["post"];
        assert_eq!(reset["requestBody"]["content"]["application/json"]["schema"]["required"], json!(["email", "password"]));
        assert_eq!(reset["responses"]["400"]["description"], "No Account found with this email address · Invalid Request · Use at least 8 characters. · Missing One or More Required Parameters");
    }

    /// What a call answers has just the fields that are described.
    async fn answers_have_the_described_fields(database) {
        let app = TestApp::start(database).await;
        let document = openapi::document("http://localhost:9000");
        let described = |method: &str, call: &str, reply: &crate::app::Reply| {
            let path = format!("/api/v1/user/{call}");
            let schema = &document["paths"][&path][method]["responses"][reply.status.to_string()]["content"]["application/json"]["schema"];
            let mut names: Vec<&String> = schema["properties"].as_object().expect("properties").keys().collect();
            let body = reply.body();
            let mut found: Vec<&String> = body.as_object().expect("an object").keys().collect();
            names.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, names, "{call}");
        };
        let registered = app.post("register", json!({ "email": ADA, "password": PASSWORD })).await;
        described("post", "register", &registered);
        app.advance(61_000);
        described("post", "resend-verification", &app.post("resend-verification", json!({ "email": ADA })).await);
        let code = app.code(ADA).await;
        described("post", "verify-email", &app.post("verify-email", json!({ "verifyToken": code })).await);
        let login = app.login(ADA, PASSWORD).await;
        described("post", "login", &login);
        let session = app.caller().header("cookie", &format!("customerToken={}", login.cookie("customerToken").expect("one")));
        described("get", "check", &session.get("/api/v1/user/check").await);
        let sessions = session.get("/api/v1/user/sessions").await;
        described("get", "sessions", &sessions);
        described("post", "forgot-password", &app.post("forgot-password", json!({ "email": ADA })).await);
        let code = app.code(ADA).await;
        let confirmed = app.post("confirm-otp-reset", json!({ "resetToken": code })).await;
        described("post", "confirm-otp-reset", &confirmed);
        let id = sessions.body()["sessions"][0]["id"].as_str().expect("an id").to_owned();
        let ended = session.send("DELETE", &format!("/api/v1/user/sessions/{id}"), None).await;
        described("delete", "sessions/{id}", &ended);
        described("post", "password-reset", &app.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD })).await);
        for call in ["logout", "logout-all"] {
            let token = app.login(ADA, NEW_PASSWORD).await.body()["token"].as_str().expect("one").to_owned();
            described("post", call, &app.caller().header("authorization", &format!("Bearer {token}")).post(call, json!({})).await);
        }
    }

    async fn every_answer_names_its_request(database) {
        let app = TestApp::start(database).await;
        let chosen = app.caller().header("x-request-id", "chosen-by-a-stranger");
        let mut seen = std::collections::BTreeSet::new();
        for (method, path) in [("GET", "/healthz"), ("GET", "/nothing"), ("POST", FORGOT), ("PUT", FORGOT), ("GET", "/api/v1/user/check"), ("HEAD", "/healthz")] {
            let reply = chosen.send(method, path, None).await;
            let id = reply.headers["x-request-id"].to_str().expect("text").to_owned();
            assert!(id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
            assert!(seen.insert(id), "each has its own");
            assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        }
    }

    async fn answers_with_secrets_are_not_stored(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let confirmed = app.post("confirm-otp-reset", json!({ "resetToken": code })).await;
        let reset = app.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD })).await;
        let login = app.login(ADA, NEW_PASSWORD).await;
        let token = login.body()["token"].as_str().expect("one").to_owned();
        let session = app.caller().header("authorization", &format!("Bearer {token}"));
        let replies = [confirmed, reset, login, session.get("/api/v1/user/check").await, session.get("/api/v1/user/sessions").await];
        for reply in replies {
            assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")), "{}", reply.text);
        }
    }

    async fn nothing_internal_is_in_a_500(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        app.app.db.close().await;
        for (call, body) in [("forgot-password", json!({ "email": ADA })), ("login", json!({ "email": ADA, "password": PASSWORD }))] {
            let reply = app.post(call, body).await;
            assert_eq!(reply.shown(), (500, json!({ "message": "Unexpected Error", "code": "unexpected_error" })));
        }
        let ready = app.caller().get("/readyz").await;
        assert_eq!((ready.status, ready.body()), (503, json!({ "message": "not ready", "parts": {
            "database": { "status": "unreachable" }, "limits": { "status": "ok", "store": "memory" }, "mail": { "status": "unknown" },
        } })));
        assert_eq!(app.caller().get("/healthz").await.body(), json!({ "message": "alive" }), "the process lives all the same");
    }

    async fn readiness_tells_of_each_part(database) {
        let app = TestApp::start(database).await;
        app.post("register", json!({ "email": ADA, "password": PASSWORD })).await;
        let ready = async || { let reply = app.caller().get("/readyz").await; (reply.status, reply.body()) };
        assert_eq!(ready().await, (200, json!({ "message": "ready", "parts": {
            "database": { "status": "ok" }, "limits": { "status": "ok", "store": "memory" }, "mail": { "status": "ok", "waiting": 1, "dead": 0 },
        } })));
        app.deliver().await;
        assert_eq!(ready().await.1["parts"]["mail"], json!({ "status": "ok", "waiting": 0, "dead": 0 }));
    }

    async fn the_docs_page_needs_nothing_from_elsewhere(database) {
        let app = TestApp::start(database).await;
        let redirect = app.caller().get("/docs").await;
        assert_eq!((redirect.status, redirect.header("location")), (307, Some("/docs/index.html")));
        let page = app.caller().get("/docs/index.html").await;
        assert_eq!(page.status, 200);
        for file in page.text.split("src=\"").chain(page.text.split("href=\"")).skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(!file.contains("//"), "{file}");
            if let Some(name) = file.strip_prefix("./") {
                let path = format!("/docs/{name}");
                assert_eq!(app.caller().send_raw("GET", &path).await.0, 200, "{path}");
            }
        }
    }
}
