//! Which pages may call us: the origin rule, CORS, and the admin listener's own rules.

use std::net::SocketAddr;

use axum::body::Body;
use cargoextra::random::Secret;
use cargoextra::web::admin::Admin;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::app::{PASSWORD, Reply, TestApp, on_both};

const ADA: &str = "ada@example.com";
const FORGOT: &str = "/api/v1/user/forgot-password";

fn denied() -> (u16, Value) {
    (
        403,
        json!({ "message": "Access denied", "code": "access_denied" }),
    )
}

fn missing() -> (u16, Value) {
    (
        400,
        json!({ "message": "Missing One or More Required Parameters", "code": "missing_parameters" }),
    )
}

on_both! {
    async fn a_page_of_another_origin_can_call_nothing(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let login = app.login(ADA, PASSWORD).await;
        let session = app.caller().header("cookie", &format!("customerToken={}", login.cookie("customerToken").expect("one")));
        for origin in [
            "https://evil.example", "null", "", "*", "http://localhost:9001", "https://localhost:9000", "http://localhost", "http://localhost:9000/", "http://localhost:9000.evil.example",
            "http://evil.example:9000", "http://127.0.0.2:9000", "http://sub.localhost:9000", "http://localhost:09000", "HTTP://LOCALHOST:9000", "http://user@localhost:9000", "http://[::1]:9001",
        ] {
            for (method, call) in [
                ("POST", "forgot-password"), ("POST", "confirm-otp-reset"), ("POST", "password-reset"), ("POST", "register"), ("POST", "verify-email"), ("POST", "resend-verification"),
                ("POST", "login"), ("POST", "logout"), ("POST", "logout-all"), ("DELETE", "sessions/x"), ("POST", "nothing"), ("PATCH", "check"),
            ] {
                let foreign = session.clone().also("origin", origin);
                let reply = foreign.send(method, &format!("/api/v1/user/{call}"), Some("{}".to_owned())).await;
                assert_eq!(reply.shown(), denied(), "{method} {call} from {origin:?}");
                assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "no CORS for {origin:?}");
            }
        }
        assert_eq!(session.get("/api/v1/user/check").await.status, 200, "nobody was signed out");
    }

    async fn our_own_pages_call_freely(database) {
        let app = TestApp::start(database).await;
        for origin in ["http://localhost:9000", "http://127.0.0.1:9000", "http://[::1]:9000"] {
            let reply = app.caller().header("origin", origin).post("forgot-password", json!({})).await;
            assert_eq!(reply.shown(), missing(), "{origin}");
            assert_eq!(reply.header("access-control-allow-origin"), None, "{origin}: the same origin needs no CORS");
        }
        let two = app.caller().also("origin", "http://localhost:9000").also("origin", "http://localhost:9000");
        assert_eq!(two.post("forgot-password", json!({})).await.shown(), denied(), "two lines");
        // The twins are one machine's only: behind a public origin they are strangers.
        let public = TestApp::with(database, |config| config.server.public_origin = "https://www.example.com".to_owned()).await;
        assert_eq!(public.caller().header("origin", "https://www.example.com").post("forgot-password", json!({})).await.shown(), missing());
        for origin in ["http://localhost:9000", "http://127.0.0.1:9000", "http://www.example.com", "https://example.com", "https://www.example.com:443"] {
            assert_eq!(public.caller().header("origin", origin).post("forgot-password", json!({})).await.shown(), denied(), "{origin}");
        }
    }

    async fn without_an_origin_the_browsers_own_word_counts(database) {
        let app = TestApp::start(database).await;
        for (site, answer) in [
            ("same-origin", missing()), ("none", missing()), ("same-site", denied()), ("cross-site", denied()), ("", denied()), ("Same-Origin", denied()), ("anything", denied()),
        ] {
            let reply = app.caller().also("sec-fetch-site", site).post("forgot-password", json!({})).await;
            assert_eq!(reply.shown(), answer, "{site:?}");
        }
        let two = app.caller().also("sec-fetch-site", "none").also("sec-fetch-site", "cross-site");
        assert_eq!(two.post("forgot-password", json!({})).await.shown(), denied());
        // An origin of ours goes before it.
        let ours = app.caller().header("origin", "http://localhost:9000").header("sec-fetch-site", "cross-site");
        assert_eq!(ours.post("forgot-password", json!({})).await.shown(), missing());
        let foreign = app.caller().header("origin", "https://evil.example").header("sec-fetch-site", "same-origin");
        assert_eq!(foreign.post("forgot-password", json!({})).await.shown(), denied());
        // Refused before the body is read.
        let huge = app.caller().header("origin", "https://evil.example").send_bytes("POST", FORGOT, Some(vec![b'x'; 70_000])).await;
        assert_eq!(huge.shown(), denied());
    }

    async fn what_changes_nothing_may_be_asked_from_anywhere(database) {
        let app = TestApp::start(database).await;
        for (method, path, status) in [("GET", "/healthz", 200), ("HEAD", "/healthz", 200), ("GET", "/api/v1/user/check", 401), ("OPTIONS", FORGOT, 405), ("GET", "/api/v1/openapi.json", 200)] {
            let reply = app.caller().header("origin", "https://evil.example").header("sec-fetch-site", "cross-site").send(method, path, None).await;
            assert_eq!(reply.status, status, "{method} {path}");
            assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{method} {path}: but a page can't read it");
        }
    }

    async fn listed_origins_get_cors_and_nobody_gets_a_star(database) {
        let app = TestApp::with(database, |config| config.server.allowed_origins = vec!["https://app.example.com".to_owned()]).await;
        let listed = app.caller().header("origin", "https://app.example.com");
        let preflight = listed.clone().header("access-control-request-method", "POST").header("access-control-request-headers", "content-type").send("OPTIONS", FORGOT, None).await;
        let cors = |reply: &Reply| ["origin", "credentials", "methods", "headers"].map(|what| reply.header(&format!("access-control-allow-{what}")).map(str::to_owned));
        let allowed = ["https://app.example.com", "true", "GET, POST, PUT, PATCH, DELETE", "authorization, content-type, x-reset-grant"].map(|text| Some(text.to_owned()));
        assert_eq!((preflight.status, preflight.text.as_str(), cors(&preflight)), (204, "", allowed.clone()));
        assert_eq!(preflight.header("access-control-max-age"), Some("600"));
        let call = listed.post("forgot-password", json!({})).await;
        assert_eq!((call.shown(), cors(&call)), (missing(), allowed.clone()));
        assert_eq!(call.header("access-control-expose-headers"), Some("x-request-id, retry-after, ratelimit, ratelimit-policy"));
        assert_eq!(cors(&listed.get("/api/v1/user/check").await), allowed, "its page may read errors too");
        for origin in ["https://evil.example", "null", "https://app.example.com.evil.example", "http://app.example.com", "https://APP.example.com"] {
            let other = app.caller().header("origin", origin);
            assert_eq!(other.post("forgot-password", json!({})).await.shown(), denied(), "{origin}");
            let preflight = other.header("access-control-request-method", "POST").send("OPTIONS", FORGOT, None).await;
            assert_eq!((preflight.status, cors(&preflight)), (405, [const { None }; 4]), "{origin}");
        }
        for caller in [app.caller(), listed] {
            let reply = caller.get("/healthz").await;
            assert_eq!(reply.header("vary"), Some("Origin"), "caches keep the answers apart");
            assert_ne!(reply.header("access-control-allow-origin"), Some("*"));
        }
    }

    /// a page on another origin can neither finish a same-client reset nor use a cookie.
    async fn a13_a_foreign_page_cannot_finish_a_reset(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        let body = json!({ "email": ADA, "password": "NewSecurePass123" });
        for (name, value) in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")] {
            let page = app.caller().header("cookie", &format!("resetGrant={grant}")).header(name, value);
            assert_eq!(page.post("password-reset", body.clone()).await.shown(), denied(), "{name}: {value}");
            // What a form can send without asking first.
            for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
                let form = app.caller().header("content-type", kind).send("POST", "/api/v1/user/password-reset", Some(body.to_string())).await;
                assert_eq!(form.shown(), missing(), "{kind}");
            }
        }
        assert!(app.signs_in(ADA, PASSWORD).await, "nothing changed");
    }

    async fn the_admin_listener_answers_its_own_names_only(database) {
        let app = TestApp::start(database).await;
        let admin = admin(&app, "127.0.0.1:9001");
        for host in ["127.0.0.1:9001", "localhost:9001", "[::1]:9001"] {
            assert_eq!(ask(&admin, "GET", "/metrics", &[("host", host)]).await.status, 200, "{host}");
            let own = format!("http://{host}");
            assert_eq!(ask(&admin, "GET", "/dev/mailbox", &[("host", host), ("origin", &own)]).await.status, 200, "{host}");
        }
        let rebound: [&[(&str, &str)]; 11] = [
            &[], &[("host", "evil.example")], &[("host", "evil.example:9001")], &[("host", "localhost")], &[("host", "localhost:9000")], &[("host", "127.0.0.1.evil.example:9001")],
            &[("host", "localhost.evil.example:9001")], &[("host", "10.0.0.1:9001")], &[("host", "localhost:9001"), ("host", "localhost:9001")],
            &[("host", "localhost:9001"), ("origin", "https://evil.example")], &[("host", "localhost:9001"), ("origin", "null")],
        ];
        for headers in rebound {
            for (method, path) in [("GET", "/metrics"), ("GET", "/dev/mailbox"), ("GET", "/dev/mailbox/messages"), ("DELETE", "/dev/mailbox/messages"), ("GET", "/nothing")] {
                assert_eq!(ask(&admin, method, path, headers).await.shown(), denied(), "{method} {path} with {headers:?}");
            }
        }
        let own = [("host", "localhost:9001"), ("origin", "http://127.0.0.1:9001")];
        assert_eq!(ask(&admin, "GET", "/metrics", &own).await.shown(), denied(), "Host and Origin of one request are one name");
        let cross = [("host", "localhost:9001"), ("sec-fetch-site", "cross-site")];
        assert_eq!(ask(&admin, "DELETE", "/dev/mailbox/messages", &cross).await.shown(), denied());
    }

    async fn the_admin_listener_wants_its_token(database) {
        let app = TestApp::start(database).await;
        let unauthorized = (401, json!({ "message": "Unauthorized", "code": "unauthorized" }));
        let local = admin(&app, "127.0.0.1:9001");
        let host = ("host", "127.0.0.1:9001");
        // What changes state needs it, even what does not exist; /dev is for developers.
        assert_eq!(ask(&local, "POST", "/metrics", &[host]).await.shown(), unauthorized);
        assert_eq!(ask(&local, "POST", "/metrics", &[host, ("authorization", "Bearer the-token-of-this-test")]).await.status, 405);
        assert_eq!(ask(&local, "DELETE", "/dev/mailbox/messages", &[host]).await.shown(), (200, json!({ "message": "Mailbox cleared" })));
        // Where strangers can connect, reading needs it too.
        let open = admin(&app, "10.0.0.1:9001");
        let host = ("host", "10.0.0.1:9001");
        for path in ["/metrics", "/dev/mailbox", "/dev/mailbox/messages", "/nothing"] {
            assert_eq!(ask(&open, "GET", path, &[host]).await.shown(), unauthorized, "{path}");
            for wrong in ["Bearer ", "Bearer the-token-of-this-tes", "Bearer the-token-of-this-test2", "the-token-of-this-test", "Basic the-token-of-this-test"] {
                assert_eq!(ask(&open, "GET", path, &[host, ("authorization", wrong)]).await.shown(), unauthorized, "{path} with {wrong}");
            }
        }
        assert_eq!(ask(&open, "GET", "/metrics", &[host, ("authorization", "Bearer the-token-of-this-test")]).await.status, 200);
    }

    async fn the_mailbox_as_json(database) {
        let app = TestApp::start(database).await;
        let admin = admin(&app, "127.0.0.1:9001");
        let list = async |path: &str| ask(&admin, "GET", path, &[("host", "localhost:9001")]).await;
        assert_eq!(list("/dev/mailbox/messages").await.body(), json!([]));
        for email in ["Ada@Example.com", "eve@example.com"] {
            let body = json!({ "email": email, "password": PASSWORD, "firstName": "<b>" });
            assert_eq!(app.post("register", body).await.status, 201);
            app.deliver().await;
            app.advance(1000);
        }
        let all = list("/dev/mailbox/messages").await;
        assert_eq!((all.header("cache-control"), all.header("content-type")), (Some("no-store"), Some("application/json")));
        let of = |list: &Reply| list.body().as_array().expect("a list").iter().map(|mail| mail["to"].clone()).collect::<Vec<_>>();
        assert_eq!(of(&all), ["eve@example.com", "Ada@Example.com"], "newest first");
        let adas = list("/dev/mailbox/messages?to=ADA@EXAMPLE.COM").await;
        let mail = adas.body()[0].clone();
        assert_eq!(of(&adas), ["Ada@Example.com"], "compared canonically");
        let mut fields: Vec<&String> = mail.as_object().expect("an object").keys().collect();
        fields.sort_unstable();
        assert_eq!(fields, ["from", "headers", "html", "id", "sentAt", "subject", "text", "to"]);
        assert_eq!((&mail["from"], &mail["sentAt"]), (&json!("CargoExtra <no-reply@localhost>"), &json!("2026-11-23T12:00:00Z")));
        assert_eq!(mail["headers"]["Auto-Submitted"], "auto-generated");
        assert_eq!(mail["headers"]["Message-ID"], format!("<{}@localhost>", mail["id"].as_str().expect("an id")));
        assert!(mail["html"].as_str().is_some_and(|html| html.contains("<html")) && mail["text"].as_str().is_some_and(|text| !text.contains("<html")));
        assert_eq!(of(&list("/dev/mailbox/messages?to=nobody@example.com").await), [""; 0]);
        assert_eq!(list("/dev/mailbox/messages?to=a&to=b").await.status, 400);
        let page = list("/dev/mailbox").await;
        assert!(page.status == 200 && page.text.contains("Ada@Example.com"));
        ask(&admin, "DELETE", "/dev/mailbox/messages", &[("host", "localhost:9001")]).await;
        assert_eq!(list("/dev/mailbox/messages").await.body(), json!([]));
    }

    async fn there_is_no_mailbox_where_mail_is_sent(database) {
        let app = TestApp::with(database, |config| config.mail.transport = cargoextra::config::MailTransport::Smtp).await;
        let admin = admin(&app, "127.0.0.1:9001");
        for (method, path) in [("GET", "/dev/mailbox"), ("GET", "/dev/mailbox/messages"), ("DELETE", "/dev/mailbox/messages")] {
            let reply = ask(&admin, method, path, &[("host", "localhost:9001")]).await;
            assert_eq!(reply.shown(), (404, json!({ "message": "Not Found", "code": "not_found" })), "{method} {path}");
        }
    }
}

fn admin(app: &TestApp, address: &str) -> Admin {
    let token = Secret::new("the-token-of-this-test".to_owned());
    Admin::new(
        app.app.clone(),
        address.parse().expect("an address"),
        token,
        tokio::sync::watch::channel(false).1,
    )
}

async fn ask(admin: &Admin, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).expect("a request");
    let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
    let (parts, body) = admin.answer(peer, request).await.into_parts();
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).expect("UTF-8"),
    }
}
