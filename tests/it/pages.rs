//! The hosted pages over HTTP: what a browser is sent, what it may send, and that nobody learns who has an account.

use std::collections::BTreeMap;

use serde_json::json;

use crate::app::{Caller, Database, MINUTE, NEW_PASSWORD, PASSWORD, Reply, TestApp, on_both};

/// A browser without script: it keeps cookies by path, and sends a page's form with the page's token.
struct Browser {
    caller: Caller,
    /// Value and path.
    jar: BTreeMap<String, (String, String)>,
    token: String,
}

impl Browser {
    fn new(app: &TestApp) -> Self {
        let caller = app
            .caller()
            .header(
                "user-agent",
                "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0",
            )
            .header("accept", "text/html,*/*;q=0.8");
        Self {
            caller,
            jar: BTreeMap::new(),
            token: String::new(),
        }
    }

    async fn get(&mut self, path: &str) -> Reply {
        let reply = self.with_cookies(path).get(path).await;
        self.take(&reply);
        reply
    }

    /// Sends a form from the page that was loaded last.
    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("csrf", &self.token).extend_pairs(fields);
        let reply = self.post_raw(path, &form.finish()).await;
        self.take(&reply);
        reply
    }

    async fn post_raw(&self, path: &str, body: &str) -> Reply {
        self.with_cookies(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("origin", "http://localhost:9000")
            .header("sec-fetch-site", "same-origin")
            .send("POST", path, Some(body.to_owned()))
            .await
    }

    /// Loads a page, sends its form, and follows to where it leads.
    async fn fill(&mut self, path: &str, fields: &[(&str, &str)]) -> (String, Reply) {
        self.get(path).await;
        let reply = self.post(path, fields).await;
        let to = to(&reply);
        let next = self.get(&to).await;
        (to, next)
    }

    fn with_cookies(&self, path: &str) -> Caller {
        let sent = self.jar.iter().filter(|(_, (_, below))| {
            path == below || path.starts_with(&format!("{}/", below.trim_end_matches('/')))
        });
        let line: Vec<String> = sent
            .map(|(name, (value, _))| format!("{name}={value}"))
            .collect();
        self.caller.clone().header("cookie", &line.join("; "))
    }

    fn take(&mut self, reply: &Reply) {
        for line in reply.cookie_lines() {
            let (name, rest) = line.split_once('=').expect("a cookie");
            let mut parts = rest.split("; ");
            let value = parts.next().expect("a value").to_owned();
            let path = parts
                .find_map(|part| part.strip_prefix("Path="))
                .expect("a path");
            if rest.contains("Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), (value, path.to_owned()));
            }
        }
        if let Some(token) = between(&reply.text, "name=\"csrf\" value=\"", "\"") {
            token.clone_into(&mut self.token);
        }
    }
}

fn to(reply: &Reply) -> String {
    assert_eq!(reply.status, 303, "{}", reply.text);
    reply.headers["location"].to_str().expect("text").to_owned()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(found, _)| found)
}

/// A page without what differs from browser to browser: its token, the reference, and the address that was typed.
fn bare(reply: &Reply, address: &str) -> (u16, BTreeMap<String, String>, String) {
    let mut text = reply.text.clone();
    if let Some(token) = between(&reply.text, "name=\"csrf\" value=\"", "\"") {
        text = text.replace(token, "TOKEN");
    }
    if let Some(reference) = between(&reply.text, "Use the mail that says <b>", "</b>") {
        text = text.replace(reference, "REF");
    }
    let mut headers = reply.stable_headers();
    headers.remove("content-length");
    (reply.status, headers, text.replace(address, "ADDRESS"))
}

on_both! {
    async fn register_verify_sign_in_recover_sign_out(database) {
        let app = TestApp::start(database).await;
        let mut ada = Browser::new(&app);
        let typed = [("email", " ada@example.com "), ("password", PASSWORD), ("firstName", "Ada"), ("lastName", ""), ("phone", "+49 30 123-456")];
        let (at, page) = ada.fill("/account/register", &typed).await;
        assert_eq!(at, "/account/verify");
        let code = app.code("ada@example.com").await;
        assert!(app.mails("ada@example.com")[0].subject.contains(between(&page.text, "says <b>", "</b>").expect("a reference")));
        let (at, page) = ada.fill("/account/verify", &[("action", "confirm"), ("code", &code)]).await;
        assert_eq!(at, "/account/login");
        assert!(page.text.contains("Your address is confirmed"), "{}", page.text);
        let (at, page) = ada.fill("/account/login", &[("email", "ada@example.com"), ("password", PASSWORD)]).await;
        assert_eq!(at, "/account");
        assert!(page.text.contains("+4930123456") && page.text.contains("Firefox on Linux"), "{}", page.text);
        let session = ada.jar["customerToken"].0.clone();

        let (at, _) = ada.fill("/account/forgot", &[("email", "ada@example.com")]).await;
        assert_eq!(at, "/account/confirm");
        let code = app.code("ada@example.com").await;
        let (at, page) = ada.fill("/account/confirm", &[("action", "confirm"), ("code", &code)]).await;
        assert_eq!(at, "/account/reset");
        assert!(page.text.contains("ada@example.com"));
        let weak = ada.post("/account/reset", &[("password", "password1")]).await;
        assert_eq!(weak.status, 400, "a refusal is the page again, with the refusal's status");
        assert!(weak.text.contains("known from data breaches") && !weak.text.contains("password1"));
        let (at, page) = ada.fill("/account/reset", &[("password", NEW_PASSWORD)]).await;
        assert_eq!(at, "/account/done");
        assert!(page.text.contains("Your password was changed"));
        assert!(!ada.jar.contains_key("customerToken") && !ada.jar.contains_key("cxGrant"), "{:?}", ada.jar);
        let checked = app.caller().header("cookie", &format!("customerToken={session}")).get("/api/v1/user/check").await;
        assert_eq!(checked.status, 401);
        assert!(app.signs_in("ada@example.com", NEW_PASSWORD).await);

        ada.fill("/account/login", &[("email", "ada@example.com"), ("password", NEW_PASSWORD)]).await;
        let (at, page) = ada.fill("/account", &[("action", "sign-out-everywhere")]).await;
        assert_eq!(at, "/account/login");
        assert!(page.text.contains("You are signed out everywhere."));
        assert_eq!(app.count("select count(*) as n from sessions where ended_at is null").await, 0);
    }

    /// The pages are uniform in both modes: byte for byte, status, headers and all.
    async fn known_and_unknown_addresses_get_the_same_pages(database) {
        let app = TestApp::start(database).await;
        app.account("known@example.com").await;
        app.advance(2 * MINUTE);
        let mut pages = Vec::new();
        for address in ["known@example.com", "guess@example.com"] {
            let mut visitor = Browser::new(&app);
            let mut seen = Vec::new();
            let mut note = |reply: &Reply| seen.push(bare(reply, address));
            visitor.get("/account/forgot").await;
            note(&visitor.post("/account/forgot", &[("email", address)]).await);
            note(&visitor.get("/account/confirm").await);
            note(&visitor.post("/account/confirm", &[("code", "AAAAA-BBBBB")]).await);
            note(&visitor.post("/account/confirm", &[("action", "resend")]).await);
            note(&visitor.get("/account/confirm").await);
            app.deliver().await;
            let mailed = app.mails(address).iter().filter(|mail| mail.subject.contains("new password")).count();
            assert_eq!(mailed, usize::from(address == "known@example.com"));
            visitor.get("/account/login").await;
            note(&visitor.post("/account/login", &[("email", address), ("password", "a wrong password")]).await);
            visitor.get("/account/register").await;
            note(&visitor.post("/account/register", &[("email", address), ("password", PASSWORD)]).await);
            note(&visitor.get("/account/verify").await);
            note(&visitor.post("/account/verify", &[("action", "resend")]).await);
            note(&visitor.get("/account/verify").await);
            note(&visitor.post("/account/verify", &[("code", "AAAAA-BBBBB")]).await);
            pages.push(seen);
        }
        let (known, unknown) = (&pages[0], &pages[1]);
        for (known, unknown) in known.iter().zip(unknown) {
            assert_eq!(known, unknown);
        }
    }
}

#[tokio::test]
async fn a_page_of_a_flow_that_was_not_begun_leads_to_the_first() {
    let app = TestApp::start(Database::Sqlite).await;
    for path in ["confirm", "reset", "verify", "done"] {
        let mut visitor = Browser::new(&app);
        let path = format!("/account/{path}");
        assert_eq!(to(&visitor.get(&path).await), "/account/forgot", "{path}");
        visitor.get("/account/login").await;
        if path != "/account/done" {
            let sent = visitor
                .post(&path, &[("code", "7K3QM-X9T2B"), ("password", PASSWORD)])
                .await;
            assert_eq!(to(&sent), "/account/forgot", "{path}");
        }
    }
    let mut visitor = Browser::new(&app);
    assert_eq!(to(&visitor.get("/account").await), "/account/login");
}

/// A form counts only from a page that this very browser was given, and only from our own origin.
#[tokio::test]
async fn a_foreign_or_stale_form_changes_nothing() {
    let app = TestApp::start(Database::Sqlite).await;
    let mut ada = Browser::new(&app);
    ada.get("/account/forgot").await;
    let mut eve = Browser::new(&app);
    eve.get("/account/forgot").await;
    let good = format!("csrf={}&email=ada%40example.com", ada.token);

    let mut stale = Vec::new();
    stale.push(
        ada.post_raw("/account/forgot", "email=ada%40example.com")
            .await,
    );
    stale.push(
        ada.post_raw("/account/forgot", "csrf=&email=ada%40example.com")
            .await,
    );
    stale.push(
        ada.post_raw("/account/forgot", &good.replace(&ada.token, &eve.token))
            .await,
    );
    stale.push(Browser::new(&app).post_raw("/account/forgot", &good).await);
    for reply in &stale {
        assert_eq!(reply.status, 403);
        assert!(
            reply.text.contains("This form is out of date")
                && reply.text.contains("href=\"/account/forgot\"")
        );
    }
    let form = ada
        .with_cookies("/account/forgot")
        .header("content-type", "application/x-www-form-urlencoded");
    for origin in ["https://evil.example", "null", "http://localhost:9001"] {
        let reply = form
            .clone()
            .header("origin", origin)
            .send("POST", "/account/forgot", Some(good.clone()))
            .await;
        assert_eq!(reply.status, 403, "{origin}");
        assert!(
            reply.text.contains("<h1>Not allowed</h1>"),
            "{}",
            reply.text
        );
    }
    let cross = form
        .header("sec-fetch-site", "same-site")
        .send("POST", "/account/forgot", Some(good.clone()))
        .await;
    assert_eq!(cross.status, 403);
    assert_eq!(app.count("select count(*) as n from resets").await, 0);
    assert_eq!(
        to(&ada.post_raw("/account/forgot", &good).await),
        "/account/confirm"
    );
    assert_eq!(app.count("select count(*) as n from resets").await, 1);
}

#[tokio::test]
async fn a_form_is_read_strictly() {
    let app = TestApp::start(Database::Sqlite).await;
    let mut ada = Browser::new(&app);
    ada.get("/account/forgot").await;
    let good = format!("csrf={}&email=ada%40example.com", ada.token);
    let twice = ada
        .post_raw(
            "/account/forgot",
            &format!("{good}&email=eve%40example.com"),
        )
        .await;
    assert_eq!(twice.status, 400);
    let no_text = ada
        .post_raw("/account/forgot", &format!("{good}&x=%ff"))
        .await;
    assert_eq!(no_text.status, 400);
    let json = ada
        .with_cookies("/account/forgot")
        .send("POST", "/account/forgot", Some(good.clone()))
        .await;
    assert_eq!(json.status, 400, "another content type");
    let large = ada
        .post_raw(
            "/account/forgot",
            &format!("{good}&x={}", "x".repeat(70_000)),
        )
        .await;
    assert_eq!(large.status, 413);
    assert!(large.text.contains("<h1>That did not work</h1>"));
    assert_eq!(app.count("select count(*) as n from resets").await, 0);
}

/// Mail programs and previews open links; whatever they open, nothing happens.
#[tokio::test]
async fn opening_a_page_changes_nothing() {
    let app = TestApp::start(Database::Sqlite).await;
    app.account("ada@example.com").await;
    let mut ada = Browser::new(&app);
    ada.fill(
        "/account/login",
        &[("email", "ada@example.com"), ("password", PASSWORD)],
    )
    .await;
    ada.fill("/account/forgot", &[("email", "ada@example.com")])
        .await;
    let code = app.code("ada@example.com").await;
    let state = async || {
        let open = app.count("select count(*) as n from resets where confirmed_at is null and expired_at is null").await;
        let live = app
            .count("select count(*) as n from sessions where ended_at is null")
            .await;
        let told = app.count("select count(*) as n from audit").await;
        let mails = app.count("select count(*) as n from outbox").await;
        [open, live, told, mails]
    };
    let before = state().await;
    for page in [
        "",
        "/register",
        "/verify",
        "/login",
        "/forgot",
        "/confirm",
        "/reset",
        "/done",
    ] {
        for query in [
            String::new(),
            format!("?code={code}&action=confirm"),
            "?action=sign-out&password=x".to_owned(),
        ] {
            let reply = ada.get(&format!("/account{page}{query}")).await;
            assert!(
                [200, 303].contains(&reply.status),
                "{page}: {}",
                reply.status
            );
        }
    }
    assert_eq!(ada.get("/account/password-check").await.status, 405);
    assert_eq!(state().await, before);
}

#[tokio::test]
async fn what_is_kept_in_the_browser_is_sealed_and_for_the_pages_only() {
    let app = TestApp::start(Database::Sqlite).await;
    app.account("ada@example.com").await;
    let mut ada = Browser::new(&app);
    ada.get("/account/forgot").await;
    let asked = ada
        .post("/account/forgot", &[("email", "ada@example.com")])
        .await;
    let lines = asked.cookie_lines();
    let flow = lines
        .iter()
        .find(|line| line.starts_with("cxFlow="))
        .expect("the flow");
    assert!(
        flow.ends_with("; HttpOnly; SameSite=Lax; Path=/account; Max-Age=3600"),
        "{flow}"
    );
    let code = app.code("ada@example.com").await;
    ada.get("/account/confirm").await;
    let confirmed = ada.post("/account/confirm", &[("code", &code)]).await;
    let lines = confirmed.cookie_lines();
    let grant = lines
        .iter()
        .find(|line| line.starts_with("cxGrant="))
        .expect("the grant");
    assert!(
        grant.ends_with("; HttpOnly; SameSite=Strict; Path=/account; Max-Age=3600"),
        "{grant}"
    );
    assert!(
        !lines.iter().any(|line| line.starts_with("resetGrant=")),
        "the API's own cookie is the API's"
    );

    // The pages' confirm never falls back to "the same client".
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0";
    let bare = app.caller().header("user-agent", agent);
    let reset = bare
        .post(
            "password-reset",
            json!({ "email": "ada@example.com", "password": NEW_PASSWORD }),
        )
        .await;
    assert_eq!(reset.body()["code"], "invalid_request");

    // What we did not write is not there; what we wrote for one cookie is no other.
    let (value, path) = ada.jar["cxGrant"].clone();
    for forged in [
        value.replace('.', "A."),
        ada.jar["cxFlow"].0.clone(),
        "x".to_owned(),
        ".".to_owned(),
        "..".to_owned(),
    ] {
        ada.jar.insert("cxGrant".to_owned(), (forged, path.clone()));
        assert_eq!(to(&ada.get("/account/reset").await), "/account/forgot");
    }
    ada.jar.insert("cxGrant".to_owned(), (value, path));
    assert_eq!(ada.get("/account/reset").await.status, 200);
    app.advance(11 * MINUTE);
    assert_eq!(to(&ada.get("/account/reset").await), "/account/forgot");
    let page = ada.get("/account/forgot").await;
    assert!(
        page.text.contains("Your time ran out") && page.text.contains("value=\"ada@example.com\"")
    );
}

#[tokio::test]
async fn every_page_carries_its_headers() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.server.public_origin = "https://accounts.example.com".to_owned();
    })
    .await;
    let mut visitor = Browser::new(&app);
    for path in [
        "/",
        "/account/login",
        "/account/forgot",
        "/account/register",
        "/account/nothing",
        "/account/reset",
    ] {
        let reply = visitor.get(path).await;
        let header = |name| {
            reply
                .headers
                .get(name)
                .map(|value| value.to_str().expect("text"))
        };
        assert_eq!(header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(header("referrer-policy"), Some("no-referrer"));
        assert_eq!(header("x-content-type-options"), Some("nosniff"));
        assert_eq!(header("cross-origin-opener-policy"), Some("same-origin"));
        assert_eq!(
            header("strict-transport-security"),
            Some("max-age=31536000")
        );
        let policy = header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'")
        );
        assert!(
            !policy.contains("unsafe") && !policy.contains("http"),
            "{policy}"
        );
        assert!(
            reply
                .cookie_lines()
                .iter()
                .all(|line| line.ends_with("; Secure"))
        );
        assert!(
            !reply.text.contains(" style=") && !reply.text.contains("<script>"),
            "nothing inline"
        );
    }
}

#[tokio::test]
async fn assets_are_kept_for_good_by_their_hash() {
    let app = TestApp::with(Database::Sqlite, |config| {
        config.pages.security_contact = "mailto:security@example.com".to_owned();
        config.pages.accent = "#f2b705".to_owned();
        config.pages.accent_dark = "#e5004d".to_owned();
    })
    .await;
    let mut visitor = Browser::new(&app);
    let page = visitor.get("/account/login").await.text;
    for name in ["style.css", "script.js", "icon.svg", "brand.css"] {
        let start = format!("\"/account/assets/{name}?v=");
        let version = between(&page, &start, "\"").expect("it is on the page");
        let asset = visitor
            .get(&format!("/account/assets/{name}?v={version}"))
            .await;
        assert_eq!(
            (asset.status, asset.headers["cache-control"].as_bytes()),
            (200, &b"public, max-age=31536000, immutable"[..])
        );
        let unversioned = visitor.get(&format!("/account/assets/{name}")).await;
        assert_eq!(
            (
                unversioned.status,
                unversioned.headers["cache-control"].as_bytes()
            ),
            (200, &b"no-cache"[..])
        );
    }
    assert_eq!(visitor.get("/account/assets/logo").await.status, 404);
    assert_eq!(
        to(&visitor.get("/.well-known/change-password").await),
        "/account/forgot"
    );
    let security = visitor.get("/.well-known/security.txt").await;
    assert_eq!(
        security.text,
        "Contact: mailto:security@example.com\nExpires: 2027-05-22T12:00:00Z\nPreferred-Languages: en\nCanonical: http://localhost:9000/.well-known/security.txt\n"
    );
}

/// A browser is shown a page, a program is sent JSON; each with the same status.
#[tokio::test]
async fn errors_are_pages_for_browsers() {
    let app = TestApp::start(Database::Sqlite).await;
    let mut visitor = Browser::new(&app);
    for path in ["/account/nothing", "/nothing"] {
        let page = visitor.get(path).await;
        assert_eq!(
            (page.status, page.headers["content-type"].as_bytes()),
            (404, &b"text/html; charset=utf-8"[..])
        );
        assert!(page.text.contains("<h1>There is no such page</h1>"));
        assert!(
            page.text
                .contains(page.headers["x-request-id"].to_str().expect("text")),
            "the page names the request"
        );
        let json = app.caller().get(path).await;
        assert_eq!(
            (json.status, &json.body()["code"]),
            (404, &json!("not_found"))
        );
    }
    assert_eq!(
        visitor.get("/api/v1/nothing").await.body()["code"],
        "not_found",
        "the API is for programs, whoever asks"
    );
}

/// While mails are captured, and only from this machine, the start page shows where they are.
#[tokio::test]
async fn the_mailbox_is_shown_to_its_machine_only() {
    let app = TestApp::start(Database::Sqlite).await;
    let page = Browser::new(&app).get("/").await;
    assert!(
        page.text
            .contains("href=\"http://127.0.0.1:9001/dev/mailbox\"")
    );
    let sent = TestApp::with(Database::Sqlite, |config| {
        config.mail.transport = cargoextra::config::MailTransport::Smtp;
    })
    .await;
    let page = Browser::new(&sent).get("/").await;
    assert!(!page.text.contains("mailbox"), "{}", page.text);
}

#[tokio::test]
async fn the_password_check_says_what_a_form_would() {
    let app = TestApp::start(Database::Sqlite).await;
    let check = async |password: &str| {
        let body = json!({ "password": password, "email": "lovelace@example.com" });
        let reply = app
            .caller()
            .send("POST", "/account/password-check", Some(body.to_string()))
            .await;
        assert_eq!(
            (reply.status, reply.headers["cache-control"].as_bytes()),
            (200, &b"no-store"[..])
        );
        reply.body()
    };
    assert_eq!(
        check(NEW_PASSWORD).await,
        json!({ "message": "Good: hard to guess.", "ok": true })
    );
    assert_eq!(
        check("short").await,
        json!({ "message": "Use at least 8 characters.", "ok": false })
    );
    assert_eq!(check("lovelace-").await["ok"], false);
}
