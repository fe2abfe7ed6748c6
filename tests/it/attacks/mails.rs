//! M rows: what goes out by mail, and that it does go out.

use serde_json::json;

use crate::app::{MINUTE, NEW_PASSWORD, PASSWORD, TestApp, on_both};
use crate::process::{Installation, Process, Sink};

const ADA: &str = "ada@example.com";

/// Every kind of mail, caused by `caller`'s requests.
async fn every_mail(app: &TestApp, caller: &crate::app::Caller, profile: &serde_json::Value) {
    let mut body = json!({ "email": ADA, "password": PASSWORD });
    body.as_object_mut()
        .expect("an object")
        .extend(profile.as_object().expect("an object").clone());
    assert_eq!(caller.post("register", body.clone()).await.status, 201);
    let code = app.code(ADA).await;
    assert_eq!(
        caller
            .post("verify-email", json!({ "verifyToken": code }))
            .await
            .status,
        200
    );
    assert_eq!(
        caller.post("register", body).await.status,
        201,
        "uniform: a notice to the owner"
    );
    assert_eq!(
        caller
            .post("forgot-password", json!({ "email": ADA }))
            .await
            .status,
        200
    );
    app.deliver().await;
    let mails = app.mails(ADA);
    let mail = mails
        .iter()
        .find(|mail| mail.subject.contains("new password"))
        .expect("the code");
    let grant = app.confirm(&crate::app::code_in(&mail.text)).await;
    assert_eq!(
        caller
            .post(
                "password-reset",
                json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant })
            )
            .await
            .status,
        200
    );
    app.deliver().await;
    ask_while_locked(app, caller).await;
    let mut subjects: Vec<String> = app
        .mails(ADA)
        .iter()
        .map(|mail| {
            mail.subject
                .split(" (")
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    subjects.sort_unstable();
    assert_eq!(
        subjects,
        [
            "You already have an account",
            "Your account is locked",
            "Your code to confirm your address",
            "Your code to set a new password",
            "Your password was changed"
        ]
    );
}

/// Causes the notice that an account is locked.
async fn ask_while_locked(app: &TestApp, caller: &crate::app::Caller) {
    cargoextra::accounts::lifecycle::lock(&app.app, ADA)
        .await
        .expect("it can be locked");
    app.advance(61_000);
    assert_eq!(
        caller
            .post("forgot-password", json!({ "email": ADA }))
            .await
            .status,
        200
    );
    app.deliver().await;
}

/// Every address of ours that a mail holds.
fn links(app: &TestApp) -> Vec<String> {
    let mut found = Vec::new();
    for mail in app.mails(ADA) {
        for part in [&mail.text, &mail.html] {
            let html_ends = |c: char| c.is_whitespace() || "\"'<>".contains(c);
            let starts = part
                .match_indices("http")
                .map(|(at, _)| part[at..].split(html_ends).next().unwrap_or_default());
            found.extend(
                starts
                    .filter(|link| link.contains("://"))
                    .map(str::to_owned),
            );
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn uniform(config: &mut cargoextra::config::Config) {
    config.accounts.disclosure = cargoextra::config::Disclosure::Uniform;
}

on_both! {
    /// M-01: a forged Host and its relatives are in no mail; the configured origin is.
    async fn m01_mails_hold_the_configured_origin_only(database) {
        let app = TestApp::with(database, |config| {
            uniform(config);
            config.server.public_origin = "https://www.example.com".to_owned();
        }).await;
        let mut forged = app.caller();
        for name in ["host", "x-forwarded-host", "x-forwarded-server", "x-host", "x-original-host", "x-forwarded-proto", "referer"] {
            forged = forged.header(name, "evil.example");
        }
        forged = forged.header("forwarded", "for=evil.example;host=evil.example;proto=http").header("x-original-url", "http://evil.example/");
        every_mail(&app, &forged, &json!({})).await;
        for mail in app.mails(ADA) {
            let whole = format!("{mail:?}");
            assert!(!whole.contains("evil.example"), "{whole}");
        }
        let links = links(&app);
        assert!(links.len() >= 4, "{links:?}");
        for link in links {
            assert!(link.starts_with("https://www.example.com/account/") || link == "http://www.w3.org/1999/xhtml", "{link}");
        }
    }

    /// M-02: nothing that somebody sends makes a header or bends the text.
    async fn m02_nothing_sent_makes_a_header_or_bends_the_text(database) {
        let app = TestApp::with(database, uniform).await;
        let bent = app.caller().header("user-agent", "Mozilla =?utf-8?q?=0d=0aBcc:_eve=40evil.example?= <b>evil</b> {{7*7}}");
        let profile = json!({ "firstName": "=?utf-8?q?=0d=0aBcc:_eve=40evil.example?=", "lastName": "<a href=https://evil.example>click</a> {{7*7}} https://evil.example" });
        every_mail(&app, &bent, &profile).await;
        for mail in app.mails(ADA) {
            let names: Vec<&str> = mail.headers.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["From", "To", "Subject", "Message-ID", "Date", "Auto-Submitted", "MIME-Version"], "{}", mail.subject);
            let whole = format!("{mail:?}");
            for typed in ["evil", "Bcc", "{{", "Mozilla", "click"] {
                assert!(!whole.contains(typed), "{typed}: {whole}");
            }
            assert!(mail.text.chars().chain(mail.html.chars()).all(|c| !c.is_control() || c == '\n'), "{}", mail.subject);
        }
        // What would break a line is refused where it comes in.
        for name in ["a\r\nBcc: eve@evil.example", "a\nb", "a\u{85}b", "a\u{2028}b", "\u{202e}a", "a\u{2066}b"] {
            for field in ["firstName", "lastName"] {
                let reply = app.post("register", json!({ "email": "new@example.com", "password": PASSWORD, field: name })).await;
                assert_eq!(reply.status, 400, "{name:?}");
            }
        }
        for address in ["a@example.com\r\nBcc: eve@evil.example", "\"a\r\nBcc: eve\"@example.com", "=?utf-8?q?a?=@example.com\n", "a\u{202e}@example.com"] {
            let reply = app.post("register", json!({ "email": address, "password": PASSWORD })).await;
            assert!(reply.status == 400 || address.starts_with("=?"), "{address:?}: {}", reply.text);
        }
    }

    /// M-03: link scanners. GET or HEAD of anything in a mail, with the code where it stands or in the query, changes nothing.
    async fn m03_opening_a_link_changes_nothing(database) {
        let app = TestApp::start(database).await;
        app.post("register", json!({ "email": ADA, "password": PASSWORD })).await;
        let verify = app.code(ADA).await;
        app.advance(61_000);
        let reset = app.forgot(ADA).await;
        let state = async || {
            let mut counts = Vec::new();
            for sql in [
                "select count(*) as n from resets where confirmed_at is null and expired_at is null", "select count(*) as n from verifications where consumed_at is null and expired_at is null",
                "select count(*) as n from accounts where verified_at is null", "select count(*) as n from audit", "select count(*) as n from outbox", "select count(*) as n from sessions",
            ] {
                counts.push(app.count(sql).await);
            }
            counts
        };
        let before = state().await;
        let mut paths = Vec::new();
        for link in links(&app) {
            let Some(rest) = link.strip_prefix("http://localhost:9000") else { continue };
            let (path, fragment) = rest.split_once('#').unwrap_or((rest, ""));
            paths.extend([path.to_owned(), format!("{path}?{fragment}"), format!("{path}/{fragment}")]);
        }
        for code in [&verify, &reset] {
            for call in ["confirm-otp-reset", "verify-email", "password-reset"] {
                paths.extend([format!("/api/v1/user/{call}"), format!("/api/v1/user/{call}?resetToken={code}&verifyToken={code}")]);
            }
        }
        assert!(paths.len() > 12, "{paths:?}");
        for path in paths {
            for method in ["GET", "HEAD"] {
                let body = (method == "GET").then(|| json!({ "resetToken": reset, "verifyToken": verify }).to_string());
                for body in [None, body] {
                    let reply = app.caller().send(method, &path, body).await;
                    assert!(reply.status < 500 && reply.headers.get("set-cookie").is_none(), "{method} {path}: {}", reply.status);
                }
            }
        }
        assert_eq!(state().await, before);
        app.confirm(&reset).await;
        assert_eq!(app.post("verify-email", json!({ "verifyToken": verify })).await.status, 200);
    }

    /// M-04: killed after the commit, before the mail was sent: after a restart it arrives.
    async fn m04_a_mail_outlives_a_kill_before_it_is_sent(database) {
        let mut installed = sending(database).await;
        let process = installed.serve().await;
        // Nobody listens there: the mail waits.
        register(&process).await;
        process.kill().await;
        let mut sink = Sink::start(&[]).await;
        installed.set("mail.smtp_url", &format!("smtp://127.0.0.1:{}", sink.port));
        retry_at_once(&installed).await;
        let process = installed.serve().await;
        let taken = sink.next().await;
        assert_eq!(taken.to, [ADA]);
        let code = crate::app::code_in(&taken.data);
        assert_eq!(process.public.post("verify-email", json!({ "verifyToken": code })).await.status, 200, "and its code is good");
        assert!(process.stop().await);
        assert_eq!(sink.rest().await, 0, "once");
    }

    /// M-04: killed while the mail server had the mail and had not answered: it comes again under the same name.
    async fn m04_a_kill_while_sending_repeats_the_message_id(database) {
        let mut installed = sending(database).await;
        let mut slow = Sink::start(&["--announce", "--delay", "3600"]).await;
        installed.set("mail.smtp_url", &format!("smtp://127.0.0.1:{}", slow.port));
        let process = installed.serve().await;
        register(&process).await;
        let first = slow.next().await;
        process.kill().await;
        let mut sink = Sink::start(&[]).await;
        installed.set("mail.smtp_url", &format!("smtp://127.0.0.1:{}", sink.port));
        let process = installed.serve().await;
        let second = sink.next().await;
        assert_eq!(second.header("message-id"), first.header("message-id"));
        assert_eq!(crate::app::code_in(&second.data), crate::app::code_in(&first.data));
        assert_eq!(first.header("message-id").len(), 1);
        assert!(process.stop().await);
        assert_eq!(sink.rest().await, 0, "once");
    }

    /// M-04: a graceful stop puts its claims back, so that the next start need not wait for the lease.
    async fn m04_a_stop_loses_nothing(database) {
        let mut installed = sending(database).await;
        let mut sink = Sink::start(&[]).await;
        installed.set("mail.smtp_url", &format!("smtp://127.0.0.1:{}", sink.port));
        let process = installed.serve().await;
        register(&process).await;
        assert!(process.stop().await);
        let process = installed.serve().await;
        sink.next().await;
        assert!(process.stop().await);
        assert_eq!(sink.rest().await, 0, "once");
    }

    /// M-05: the mail server is down. Answers as always, the queue grows and its metrics rise, and dead codes are not sent later.
    async fn m05_with_the_mail_server_down_answers_stay_and_dead_codes_are_not_sent(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let nobody = free_port();
        let down = app.again_with(|config| {
            config.mail.transport = cargoextra::config::MailTransport::Smtp;
            config.mail.smtp_url = format!("smtp://127.0.0.1:{nobody}").into();
        }).await;
        let up = app.post("forgot-password", json!({ "email": "nobody@example.com" })).await;
        assert_eq!(up.status, 404);
        let asked = down.post("forgot-password", json!({ "email": ADA })).await;
        assert_eq!(asked.shown(), (200, json!({
            "message": "If there is an account for this address, a code is on its way to it", "reference": asked.body()["reference"], "expiresIn": 600, "resendAfter": 60,
        })));
        down.deliver().await;
        let metric = |name: &str| {
            let text = down.app.scrape();
            let line = text.lines().find(|line| line.starts_with(&format!("cargoextra_{name} "))).map(str::to_owned);
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).expect("a metric")
        };
        assert_eq!((metric("outbox_depth"), metric("outbox_dead")), (1.0, 0.0));
        let ready = down.caller().get("/readyz").await;
        assert_eq!((ready.status, &ready.body()["parts"]["mail"]["status"]), (200, &json!("ok")), "people can still sign in");
        down.advance(5 * MINUTE);
        down.deliver().await;
        assert_eq!(metric("outbox_oldest_seconds"), 300.0);
        assert_eq!(down.app.metrics.outbox_depth.get(), 1);
        // The server comes back after the code has died.
        app.advance(11 * MINUTE);
        let before = app.mails(ADA).len();
        app.deliver().await;
        assert_eq!(app.mails(ADA).len(), before, "a dead code is not sent");
        assert_eq!(app.count("select count(*) as n from outbox where dropped_at is not null and recipient = '' and reason = 'the code had died in the queue'").await, 1);
        // A notice is never too late.
        let code = app.forgot(ADA).await;
        app.confirm(&code).await;
        down.advance(6 * MINUTE);
        let reset = down.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD })).await;
        assert_eq!(reset.status, 200, "{}", reset.text);
        down.deliver().await;
        app.advance(120 * MINUTE);
        app.deliver().await;
        assert_eq!(app.mails(ADA)[0].subject, "Your password was changed");
    }
}

/// Sends by SMTP, to where nobody listens at first; claims of a dead process are free soon.
async fn sending(database: crate::app::Database) -> Installation {
    let mut installed = Installation::new(database).await;
    installed.set("mail.transport", "smtp");
    installed.set(
        "mail.smtp_url",
        &format!("smtp://127.0.0.1:{}", free_port()),
    );
    installed.set("mail.timeout", "1s");
    // On SQLite nobody else can be sending when a process starts: there the claim is free at once, whatever the lease.
    let lease = match database {
        crate::app::Database::Sqlite => "60s",
        crate::app::Database::Postgres => "2s",
    };
    installed.set("mail.lease", lease);
    installed.set("mail.poll", "50ms");
    installed
}

async fn register(process: &Process) {
    let body = json!({ "email": ADA, "password": PASSWORD });
    assert_eq!(process.public.post("register", body).await.status, 201);
}

/// The operator's way round the back-off.
async fn retry_at_once(installed: &Installation) {
    let listed = installed.run(&["outbox", "list", "--json"], "").await;
    let list: serde_json::Value = serde_json::from_str(&listed.out).expect("JSON");
    let id = list[0]["id"].as_str().expect("a mail").to_owned();
    assert_eq!(list[0]["state"], "waiting");
    let retried = installed.run(&["outbox", "retry", &id], "").await;
    assert!(retried.success, "{}", retried.err);
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has an address").port()
}
