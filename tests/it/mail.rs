//! Mail on its way out: SMTP to a foreign server, files, retries, dead letters, several workers.

use std::path::Path;

use cargoextra::cli::serve::worker;
use cargoextra::config::{Config, MailTransport};
use serde_json::json;

use crate::app::{MINUTE, PASSWORD, TestApp, on_both};
use crate::process::Sink;

const ADA: &str = "ada@example.com";

fn smtp(port: u16) -> impl FnOnce(&mut Config) {
    move |config| {
        config.mail.transport = MailTransport::Smtp;
        config.mail.smtp_url = format!("smtp://127.0.0.1:{port}").into();
    }
}

async fn register(app: &TestApp, email: &str) {
    let body = json!({ "email": email, "password": PASSWORD });
    let reply = app.post("register", body).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
}

/// State of the one mail in the queue.
async fn state(app: &TestApp) -> (i64, i64, i64, Option<String>) {
    let mut tx = app.app.db.read().await.expect("a transaction");
    const SQL: &str = "select max(attempts) as attempts, count(sent_at) as sent, count(dead_at) as dead, max(reason) as reason from outbox";
    let row = tx.one(SQL, &[]).await.expect("a row");
    let number = |name| row.get::<i64>(name);
    (
        number("attempts").expect("a number"),
        number("sent").expect("a number"),
        number("dead").expect("a number"),
        row.get("reason").expect("text"),
    )
}

on_both! {
    async fn a_letter_as_a_foreign_server_gets_it(database) {
        let mut sink = Sink::start(&[]).await;
        let app = TestApp::with(database, smtp(sink.port)).await;
        register(&app, "Ada.L@Example.com").await;
        app.advance(2 * MINUTE);
        app.deliver().await;
        let taken = sink.next().await;
        assert_eq!(taken.to, ["Ada.L@Example.com"], "the address as stored");
        assert_eq!(taken.header("to"), ["Ada.L@Example.com"]);
        assert_eq!(taken.header("from"), ["CargoExtra <no-reply@localhost>"]);
        assert_eq!(taken.header("auto-submitted"), ["auto-generated"]);
        assert_eq!(taken.header("date"), ["Mon, 23 Nov 2026 12:02:00 +0000"], "when it was written");
        assert_eq!(taken.header("mime-version"), ["1.0"]);
        let id = taken.header("message-id");
        assert!(id.len() == 1 && id[0].starts_with('<') && id[0].ends_with("@localhost>"), "{id:?}");
        let subject = taken.header("subject");
        assert!(subject[0].starts_with("Your code to confirm your address ("), "{subject:?}");
        assert!(taken.data.contains("Content-Type: text/plain; charset=utf-8") && taken.data.contains("Content-Type: text/html; charset=utf-8"));
        assert!(taken.data.contains("on 23 November 2026, 12:00 UTC, from the network 127.0.0.1"), "when and from where it was asked: {}", taken.data);
        assert!(taken.data.lines().all(|line| line.len() <= 998), "RFC 5322 2.1.1");
        let code = crate::app::code_in(&taken.data);
        assert!(!subject[0].contains(&code), "subjects are shown on locked screens");
        assert_eq!(app.post("verify-email", json!({ "verifyToken": code })).await.status, 200);
    }

    async fn starttls_where_it_is_required(database) {
        let folder = tempfile::tempdir().expect("a folder");
        let [certificate, key] = self_signed(folder.path()).await;
        let sink = Sink::start(&["--tls", &certificate, &key, "--require-tls"]).await;
        let plain = TestApp::with(database, smtp(sink.port)).await;
        register(&plain, ADA).await;
        plain.deliver().await;
        let (_, sent, _, reason) = state(&plain).await;
        assert!(sent == 0 && reason.as_ref().is_some_and(|reason| reason.contains("530")), "the server takes no mail in plain: {reason:?}");
        // With TLS the certificate counts: this one is nobody's, so nothing is sent, neither so nor in plain.
        let strict = TestApp::with(database, |config| {
            config.mail.transport = MailTransport::Smtp;
            config.mail.smtp_url = format!("smtp://127.0.0.1:{}?tls=required", sink.port).into();
        }).await;
        register(&strict, ADA).await;
        strict.deliver().await;
        let (_, sent, dead, reason) = state(&strict).await;
        assert!(sent == 0 && dead == 0 && reason.as_ref().is_some_and(|reason| reason == "the mail server's TLS could not be agreed on" || reason == "the mail server can't be reached, or broke off"), "{reason:?}");
        assert_eq!(sink.rest().await, 0);
    }

    /// Required means required: a server that offers no TLS gets nothing.
    async fn a_server_without_the_required_tls_gets_nothing(database) {
        let sink = Sink::start(&[]).await;
        let app = TestApp::with(database, |config| {
            config.mail.transport = MailTransport::Smtp;
            config.mail.smtp_url = format!("smtp://127.0.0.1:{}?tls=required", sink.port).into();
        }).await;
        register(&app, ADA).await;
        app.deliver().await;
        let (attempts, sent, _, _) = state(&app).await;
        assert_eq!((attempts, sent), (1, 0));
        assert_eq!(sink.rest().await, 0);
    }

    async fn a_login_at_the_mail_server(database) {
        let mut sink = Sink::start(&["--auth", "gateway:a very secret word"]).await;
        let with = |password: &'static str, port: u16| move |config: &mut Config| {
            smtp(port)(config);
            config.mail.smtp_username = "gateway".to_owned();
            config.mail.smtp_password = password.to_owned().into();
        };
        let wrong = TestApp::with(database, with("wrong", sink.port)).await;
        register(&wrong, ADA).await;
        wrong.deliver().await;
        let (_, sent, dead, reason) = state(&wrong).await;
        assert_eq!((sent, dead), (0, 0), "somebody will mend the password; no mail is buried for it");
        assert!(reason.as_ref().is_some_and(|reason| reason == "the mail server answered 535"), "{reason:?}");
        let right = TestApp::with(database, with("a very secret word", sink.port)).await;
        register(&right, ADA).await;
        right.deliver().await;
        assert_eq!(sink.next().await.to, [ADA]);
    }

    async fn a_failure_that_passes_is_tried_again_with_doubling_waits(database) {
        let mut sink = Sink::start(&["--announce", "--fail-first", "3"]).await;
        let app = TestApp::with(database, smtp(sink.port)).await;
        register(&app, ADA).await;
        app.deliver().await;
        let first = sink.next().await;
        for (attempt, wait) in [(1, 5_000), (2, 10_000), (3, 20_000)] {
            let (attempts, sent, dead, reason) = state(&app).await;
            assert_eq!((attempts, sent, dead), (attempt, 0, 0));
            assert!(reason.is_some_and(|reason| reason.contains("451")));
            app.advance(wait - 1);
            app.deliver().await;
            assert_eq!(state(&app).await.0, attempt, "not before its time");
            app.advance(1);
            app.deliver().await;
            assert_eq!(sink.next().await.header("message-id"), first.header("message-id"));
        }
        assert_eq!(state(&app).await, (4, 1, 0, None));
        assert_eq!(sink.rest().await, 0);
    }

    async fn a_mail_that_fails_too_often_is_dead_and_says_why(database) {
        let mut sink = Sink::start(&["--fail-first", "3"]).await;
        let app = TestApp::with(database, |config| {
            smtp(sink.port)(config);
            config.mail.max_attempts = 3;
        }).await;
        register(&app, ADA).await;
        for _ in 0..5 {
            app.deliver().await;
            app.advance(30_000);
        }
        let (attempts, sent, dead, reason) = state(&app).await;
        assert_eq!((attempts, sent, dead), (3, 0, 1));
        assert!(reason.as_ref().is_some_and(|reason| reason == "the mail server answered 451"), "{reason:?}");
        assert_eq!((app.app.metrics.outbox_dead.get(), app.app.metrics.outbox_depth.get()), (1, 0));
        // The operator's wish brings it back.
        let mut tx = app.app.db.begin().await.expect("a transaction");
        let id: String = tx.one("select id from outbox", &[]).await.expect("a row").get("id").expect("text");
        assert!(cargoextra::store::outbox::retry_now(&mut tx, &id, app.app.clock.now()).await.expect("it works"));
        tx.commit().await.expect("it commits");
        app.deliver().await;
        assert_eq!(sink.next().await.to, [ADA]);
        assert_eq!(state(&app).await.1, 1);
    }

    async fn a_receiver_that_refuses_for_good_is_not_asked_again(database) {
        let sink = Sink::start(&["--refuse", "550"]).await;
        let app = TestApp::with(database, smtp(sink.port)).await;
        register(&app, ADA).await;
        app.deliver().await;
        let (attempts, sent, dead, reason) = state(&app).await;
        assert_eq!((attempts, sent, dead), (1, 0, 1));
        assert!(reason.as_ref().is_some_and(|reason| reason == "the mail server answered 550"), "{reason:?}");
    }

    /// A server that takes its time holds up nobody but its own mail, and that only until `mail.timeout`.
    async fn a_server_that_does_not_answer_is_left(database) {
        let sink = Sink::start(&["--delay", "3600"]).await;
        let app = TestApp::with(database, |config| {
            smtp(sink.port)(config);
            config.mail.timeout = cargoextra::config::Span(300);
        }).await;
        register(&app, ADA).await;
        app.deliver().await;
        let (attempts, sent, dead, reason) = state(&app).await;
        assert_eq!((attempts, sent, dead), (1, 0, 0));
        assert!(reason.is_some());
    }

    async fn parallel_workers_send_each_mail_once(database) {
        let sink = Sink::start(&["--delay", "0.01"]).await;
        let app = TestApp::with(database, smtp(sink.port)).await;
        let (second, third) = (app.again().await, app.again().await);
        for n in 0..30 {
            register(&app, &format!("p{n}@example.com")).await;
        }
        let empty = async |app: &TestApp| while worker(&app.app).step().await.expect("the queue can be read") > 0 {};
        tokio::join!(empty(&app), empty(&second), empty(&third), empty(&app), empty(&second));
        app.deliver().await;
        assert_eq!(app.count("select count(*) as n from outbox where sent_at is not null and attempts = 1").await, 30);
        assert_eq!(sink.rest().await, 30);
    }

    /// A claim holds for its lease, against every other worker; then the mail is free again.
    async fn a_claim_holds_until_its_lease_ends_or_it_is_put_back(database) {
        let app = TestApp::start(database).await;
        let other = app.again().await;
        register(&app, ADA).await;
        let now = app.app.clock.now();
        let claim = async |lease: i64| {
            let mut tx = app.app.db.begin().await.expect("a transaction");
            let id: String = tx.one("select id from outbox", &[]).await.expect("a row").get("id").expect("text");
            let claimed = cargoextra::store::outbox::claim(&mut tx, &id, &app.app.node, app.app.clock.now(), now + lease).await.expect("it works");
            tx.commit().await.expect("it commits");
            claimed.is_some()
        };
        assert!(claim(60_000).await);
        assert!(!claim(60_000).await, "one claim at a time");
        other.deliver().await;
        assert!(other.mails(ADA).is_empty(), "it is somebody else's");
        worker(&other.app).release().await.expect("it works");
        other.deliver().await;
        assert!(other.mails(ADA).is_empty(), "a worker puts back what it claimed itself, and nothing else");
        worker(&app.app).release().await.expect("it works");
        other.deliver().await;
        assert_eq!(other.mails(ADA).len(), 1, "put back at a graceful stop");

        register(&app, "eve@example.com").await;
        let mut tx = app.app.db.begin().await.expect("a transaction");
        let id: String = tx.one("select id from outbox where sent_at is null", &[]).await.expect("a row").get("id").expect("text");
        cargoextra::store::outbox::claim(&mut tx, &id, "a dead process", now, now + 60_000).await.expect("it works").expect("it is free");
        tx.commit().await.expect("it commits");
        other.advance(59_999);
        other.deliver().await;
        assert!(other.mails("eve@example.com").is_empty());
        other.advance(1);
        other.deliver().await;
        assert_eq!(other.mails("eve@example.com").len(), 1, "its lease is over");
    }

    async fn files_are_whole_letters(database) {
        let app = TestApp::with(database, |config| {
            config.mail.transport = MailTransport::File;
            config.mail.directory = config.server.data_dir.join("mails");
        }).await;
        register(&app, ADA).await;
        app.deliver().await;
        let folder = app.folder.path().join("mails");
        let names: Vec<String> = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        assert!(names.len() == 1 && names[0].ends_with("_at_localhost.eml"), "{names:?}");
        let letter = std::fs::read_to_string(folder.join(&names[0])).expect("a letter");
        assert!(letter.contains("\r\nTo: ada@example.com\r\n") && letter.contains("Auto-Submitted: auto-generated"), "{letter}");
        let code = crate::app::code_in(&letter);
        assert_eq!(app.post("verify-email", json!({ "verifyToken": code })).await.status, 200);
    }

    /// TLS from the first byte: a certificate that nobody signed is refused there too, and a caller is answered all the same.
    async fn a_certificate_that_nobody_signed_is_refused(database) {
        let folder = tempfile::tempdir().expect("a folder");
        let [certificate, key] = self_signed(folder.path()).await;
        let sink = Sink::start(&["--tls", &certificate, &key, "--smtps"]).await;
        let app = TestApp::with(database, |config| {
            config.mail.transport = MailTransport::Smtp;
            config.mail.smtp_url = format!("smtps://localhost:{}", sink.port).into();
        }).await;
        register(&app, ADA).await;
        app.deliver().await;
        let (attempts, sent, dead, reason) = state(&app).await;
        assert_eq!((attempts, sent, dead), (1, 0, 0));
        assert!(reason.as_ref().is_some_and(|reason| reason == "the mail server's TLS could not be agreed on" || reason == "the mail server can't be reached, or broke off"), "{reason:?}");
        assert_eq!(sink.rest().await, 0);
    }
}

/// A certificate for localhost that nobody has signed, and its key.
async fn self_signed(folder: &Path) -> [String; 2] {
    let paths = ["cert.pem", "key.pem"].map(|name| folder.join(name).display().to_string());
    let made = tokio::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args([
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-out",
            &paths[0],
            "-keyout",
            &paths[1],
        ])
        .output()
        .await;
    assert!(
        made.is_ok_and(|made| made.status.success()),
        "openssl makes a certificate"
    );
    paths
}
