//! A rows: what answers tell, and what strangers can cause.

use std::time::Duration;

use cargoextra::accounts::lifecycle;
use cargoextra::config::{Config, Disclosure};
use serde_json::{Value, json};

use crate::app::{Caller, MINUTE, NEW_PASSWORD, PASSWORD, Reply, TestApp, on_both};

const ADA: &str = "ada@example.com";
const HOUR: i64 = 60 * MINUTE;

fn uniform(config: &mut Config) {
    config.accounts.disclosure = Disclosure::Uniform;
}

/// One account of each kind, and addresses that nobody has.
async fn all_kinds(app: &TestApp) -> [&'static str; 6] {
    app.account("known@example.com").await;
    app.account("locked@example.com").await;
    lifecycle::lock(&app.app, "locked@example.com")
        .await
        .expect("it can be locked");
    let body = json!({ "email": "unverified@example.com", "password": PASSWORD });
    assert_eq!(app.post("register", body).await.status, 201);
    app.deliver().await;
    app.advance(24 * HOUR + MINUTE);
    [
        "known@example.com",
        "locked@example.com",
        "unverified@example.com",
        "unknown@example.com",
        "unknown@example.test",
        "no address",
    ]
}

/// What a caller sees, with what is random by nature reduced to its shape.
fn seen(reply: &Reply) -> (u16, Value, Vec<String>) {
    let (status, mut body) = reply.shown();
    if let Some(reference) = body.get("reference") {
        let text = reference.as_str().expect("text");
        assert!(
            text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()),
            "{text}"
        );
        body["reference"] = "RRR".into();
    }
    let headers = reply
        .headers
        .iter()
        .filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()));
    let headers = headers
        .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
        .collect();
    (status, body, headers)
}

on_both! {
    /// uniform mode. Asked once, twice, ten times: the same for every kind of address.
    async fn a01_answers_do_not_tell_who_has_an_account(database) {
        let app = TestApp::with(database, uniform).await;
        let kinds = all_kinds(&app).await;
        for call in ["forgot-password", "resend-verification", "password-reset", "login"] {
            let mut told: Vec<Vec<(u16, Value, Vec<String>)>> = Vec::new();
            for email in kinds {
                let mut answers = Vec::new();
                for n in 0..10 {
                    // The clock stands still, so that the remaining seconds can be compared.
                    let password = if n % 2 == 0 { NEW_PASSWORD } else { "short" };
                    let reply = app.post(call, json!({ "email": email, "password": password })).await;
                    answers.push(seen(&reply));
                    if n == 4 { app.deliver().await; }
                }
                told.push(answers);
            }
            for (answers, email) in told.iter().zip(kinds) {
                assert_eq!(answers, &told[0], "{call} for {email}");
            }
        }
    }

    /// what an account's owner does with the codes does not show in what the next asker is told.
    async fn a01_a_confirm_frees_no_place(database) {
        let app = TestApp::with(database, uniform).await;
        all_kinds(&app).await;
        let mut told = Vec::new();
        for email in ["known@example.com", "nobody@example.com"] {
            for network in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
                app.caller().from(network).post("forgot-password", json!({ "email": email })).await;
                app.advance(61_000);
            }
            app.deliver().await;
            if let Some(mail) = app.mails(email).first() {
                app.confirm(&crate::app::code_in(&mail.text)).await;
            }
            let fourth = app.caller().from("127.0.0.5").post("forgot-password", json!({ "email": email })).await;
            told.push((fourth.body()["expiresIn"].clone(), fourth.body()["resendAfter"].clone()));
        }
        assert_eq!(told[0], told[1]);
        assert_eq!(told[0], (json!(539), json!(417)));
    }

    /// the texts of uniform mode, call by call.
    async fn a01_the_uniform_texts(database) {
        let app = TestApp::with(database, uniform).await;
        let kinds = all_kinds(&app).await;
        for email in kinds {
            let forgot = app.post("forgot-password", json!({ "email": email })).await;
            assert_eq!(forgot.shown(), (200, json!({
                "message": "If there is an account for this address, a code is on its way to it",
                "reference": forgot.body()["reference"], "expiresIn": 600, "resendAfter": 60,
            })), "{email}");
            let resend = app.post("resend-verification", json!({ "email": email })).await;
            assert_eq!(resend.shown(), (200, json!({
                "message": "If a registration waits for this address, a code is on its way to it", "reference": resend.body()["reference"],
            })), "{email}");
            let reset = app.post("password-reset", json!({ "email": email, "password": NEW_PASSWORD })).await;
            assert_eq!(reset.shown(), (400, json!({ "message": "Invalid Request", "code": "invalid_request" })), "{email}");
            let login = app.post("login", json!({ "email": email, "password": "wrong password" })).await;
            assert_eq!(login.shown(), (401, json!({ "message": "Invalid email or password", "code": "invalid_credentials" })), "{email}");
        }
        // Even with the right password.
        for email in ["locked@example.com", "unverified@example.com"] {
            assert_eq!(app.login(email, PASSWORD).await.shown(), (401, json!({ "message": "Invalid email or password", "code": "invalid_credentials" })), "{email}");
        }
        assert!(app.signs_in("known@example.com", PASSWORD).await);
        app.advance(HOUR);
        for email in &kinds[..5] {
            let register = app.post("register", json!({ "email": email, "password": NEW_PASSWORD })).await;
            assert_eq!(register.shown(), (201, json!({
                "message": "Registered; a code to confirm the address is on its way to it", "reference": register.body()["reference"],
            })), "{email}");
        }
        app.deliver().await;
        assert_eq!(app.mails("known@example.com")[0].subject, "You already have an account");
        assert!(!app.signs_in("known@example.com", NEW_PASSWORD).await, "registering a taken address changes nothing");
    }

    /// The same calls in documented mode, as published.
    async fn a01_the_documented_texts(database) {
        let app = TestApp::start(database).await;
        all_kinds(&app).await;
        let not_found = json!({ "message": "No Account found with this email address", "code": "account_not_found" });
        assert_eq!(app.post("forgot-password", json!({ "email": "unknown@example.com" })).await.shown(), (404, not_found.clone()));
        for email in ["unknown@example.com", "known@example.com"] {
            assert_eq!(app.post("resend-verification", json!({ "email": email })).await.shown(), (404, not_found.clone()), "{email}");
        }
        let reset = app.post("password-reset", json!({ "email": "unknown@example.com", "password": NEW_PASSWORD })).await;
        assert_eq!(reset.shown(), (400, not_found));
        let register = app.post("register", json!({ "email": "known@example.com", "password": NEW_PASSWORD })).await;
        assert_eq!(register.shown(), (409, json!({ "message": "Account already exists", "code": "account_exists" })));
        // Locked is not told from wrong; unverified is, after the right password only.
        let invalid = (401, json!({ "message": "Invalid email or password", "code": "invalid_credentials" }));
        assert_eq!(app.login("locked@example.com", PASSWORD).await.shown(), invalid);
        assert_eq!(app.login("unverified@example.com", "wrong password").await.shown(), invalid);
        assert_eq!(app.login("unverified@example.com", PASSWORD).await.shown(), (401, json!({ "message": "Email address is not verified", "code": "email_not_verified" })));
        assert_eq!(app.post("forgot-password", json!({ "email": "locked@example.com" })).await.status, 200);
        app.deliver().await;
        let mail = &app.mails("locked@example.com")[0];
        assert_eq!(mail.subject, "Your account is locked");
        assert!(!mail.text.contains("account/confirm"), "a locked account gets no code");
    }

    /// a locked account's mail holds no code, and no reset ever unlocks.
    async fn a03_a_locked_account_is_never_unlocked_by_a_reset(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        lifecycle::lock(&app.app, ADA).await.expect("it can be locked");
        assert_eq!(app.confirm_status(&code).await, 400);
        lifecycle::unlock(&app.app, ADA).await.expect("it can be unlocked");
        assert_eq!(app.confirm_status(&code).await, 400, "its lock ended it");
        // Asked for while locked: sent as a notice, so nobody ever has its code.
        lifecycle::lock(&app.app, ADA).await.expect("it can be locked");
        app.advance(61_000);
        assert_eq!(app.post("forgot-password", json!({ "email": ADA })).await.status, 200);
        app.deliver().await;
        assert_eq!(app.mails(ADA)[0].subject, "Your account is locked");
        let reply = app.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD })).await;
        assert_eq!(reply.shown(), (400, json!({ "message": "Invalid Request", "code": "invalid_request" })));
        assert!(!app.signs_in(ADA, NEW_PASSWORD).await && !app.signs_in(ADA, PASSWORD).await);
        // Not even by the link that an operator made.
        let account = lifecycle::show(&app.app, ADA).await.expect("it is there");
        let code = cargoextra::accounts::reset_password::by_operator(&app.app, &account).await.expect("a code");
        assert_eq!(app.confirm_status(&code.shown()).await, 400);
    }

    /// reserved domains and addresses that are too long answer like any that nobody has, in both modes, and cause no mail.
    async fn a03_reserved_and_over_long_addresses_answer_like_the_rest(database) {
        let odd = [
            "ada@example.invalid".to_owned(), "ada@example.test".to_owned(), "ada@localhost".to_owned(), "ada@127.0.0.1".to_owned(), "ada@example".to_owned(),
            format!("{}@example.com", "a".repeat(64)), format!("{}@example.com", "a".repeat(65)), format!("a@{}.com", "b".repeat(64)), format!("{}@example.com", "a".repeat(20_000)),
        ];
        for disclosure in [Disclosure::Documented, Disclosure::Uniform] {
            let app = TestApp::with(database, |config| config.accounts.disclosure = disclosure).await;
            for call in ["forgot-password", "resend-verification", "password-reset", "login"] {
                let ask = async |email: &str| seen(&app.post(call, json!({ "email": email, "password": NEW_PASSWORD })).await);
                let usual = ask("nobody@example.com").await;
                for email in &odd {
                    assert_eq!(ask(email).await, usual, "{call} for {email:.80}");
                }
            }
            app.deliver().await;
            assert_eq!(app.count("select count(*) as n from outbox where sent_at is not null or recipient <> ''").await, 0);
        }
    }

    /// a hundred parallel requests for one address at two processes: one mail.
    async fn a06_a_hundred_parallel_requests_send_one_mail(database) {
        let app = TestApp::start(database).await;
        let other = app.again().await;
        app.account(ADA).await;
        let calls = (0..100).map(|n| {
            let from = format!("127.0.1.{}", n + 1);
            let caller = if n % 2 == 0 { app.caller() } else { other.caller() }.from(&from);
            async move { caller.post("forgot-password", json!({ "email": ADA })).await }
        });
        let replies = futures_util::future::join_all(calls).await;
        let first = replies[0].body()["reference"].clone();
        for reply in &replies {
            assert_eq!((reply.status, &reply.body()["reference"]), (200, &first), "{}", reply.text);
        }
        assert_eq!(app.count("select count(*) as n from outbox where kind = 'reset_code'").await, 1);
    }

    /// the caps of one asking network, of an hour and of a day, and that the answers do not show them.
    async fn a06_caps_of_an_asking_network(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let stranger = app.caller().from("127.0.0.66");
        assert_eq!(sent(&app, &stranger, ADA, 5, 11 * MINUTE).await, 3, "3 an hour");
        app.advance(HOUR);
        assert_eq!(sent(&app, &stranger, ADA, 6, 12 * MINUTE).await, 2, "5 a day");
        // Another address and another network have counts of their own.
        app.account("eve@example.com").await;
        assert_eq!(sent(&app, &stranger, "eve@example.com", 1, MINUTE).await, 1);
        assert_eq!(sent(&app, &stranger.clone().from("127.0.0.67"), ADA, 1, MINUTE).await, 1);
        app.advance(24 * HOUR);
        assert_eq!(sent(&app, &stranger, ADA, 1, MINUTE).await, 1, "a day later");
    }

    /// the caps of an address in all: 10 an hour, 20 a day, five of these kept for those who are known.
    async fn a06_caps_of_an_address_and_what_is_kept_for_its_owner(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let signed_in = app.caller().from("127.0.0.50").post("login", json!({ "email": ADA, "password": PASSWORD })).await;
        let device = signed_in.cookie("cxDevice").expect("a device");
        let strangers: Vec<Caller> = (100..160).map(|n| app.caller().from(&format!("127.0.0.{n}"))).collect();
        let mut in_hour = 0;
        for stranger in &strangers[..14] {
            in_hour += sent(&app, stranger, ADA, 1, 4 * MINUTE + 10_000).await;
        }
        assert_eq!(in_hour, 10, "10 an hour");
        let owner = app.caller().from("127.0.0.50");
        assert_eq!(sent(&app, &owner, ADA, 1, MINUTE + 1000).await, 1, "what strangers used up in this hour is not the owner's");
        app.advance(HOUR);
        let mut in_day = in_hour;
        for stranger in &strangers[14..34] {
            in_day += sent(&app, stranger, ADA, 1, 12 * MINUTE).await;
        }
        assert_eq!(in_day, 15, "20 a day, less the 5 that are kept");
        // The owner: by the device's cookie from a new network, and from a network of an earlier sign-in without it.
        let by_device = app.caller().from("127.0.0.90").header("cookie", &format!("cxDevice={device}"));
        let by_network = app.caller().from("127.0.0.50");
        assert_eq!(sent(&app, &by_device, ADA, 2, 11 * MINUTE).await, 2);
        assert_eq!(sent(&app, &by_network, ADA, 3, 11 * MINUTE).await, 2, "5 are kept");
        // A device of somebody else's, or one that was made up, is a stranger's.
        app.account("eve@example.com").await;
        let eves = app.login("eve@example.com", PASSWORD).await.cookie("cxDevice").expect("a device");
        app.advance(25 * HOUR);
        for device in [eves.as_str(), "made-up"] {
            let network = if device == "made-up" { "127.0.0.91" } else { "127.0.0.92" };
            let stranger = app.caller().from(network).header("cookie", &format!("cxDevice={device}"));
            assert_eq!(sent(&app, &stranger, ADA, 4, 12 * MINUTE).await, 3, "{device}");
        }
        // Nor does a network of somebody else's sign-in help.
        let stranger = app.caller().from("127.0.0.93");
        let reply = stranger.post("login", json!({ "email": "eve@example.com", "password": PASSWORD })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(sent(&app, &stranger, ADA, 4, 12 * MINUTE).await, 3);
    }

    /// a stranger over the cap who asks each minute makes nobody wait.
    async fn a06_a_stranger_over_the_cap_does_not_keep_the_owner_out(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let device = app.login(ADA, PASSWORD).await.cookie("cxDevice").expect("a device");
        let stranger = app.caller().from("127.0.0.66");
        assert_eq!(sent(&app, &stranger, ADA, 3, 11 * MINUTE).await, 3);
        assert_eq!(sent(&app, &stranger, ADA, 5, 61_000).await, 0);
        let over = stranger.post("forgot-password", json!({ "email": ADA })).await.body();
        let repeat = stranger.post("forgot-password", json!({ "email": ADA })).await.body();
        assert_eq!(over["reference"], repeat["reference"]);
        let owner = app.caller().from("127.0.0.90").header("cookie", &format!("cxDevice={device}"));
        assert_eq!(sent(&app, &owner, ADA, 1, 1_000).await, 1);
    }

    /// verification mails have a count of their own, whichever call causes them.
    async fn a06_registrations_cause_no_more_mails_than_the_cap(database) {
        let app = TestApp::start(database).await;
        let stranger = app.caller().from("127.0.0.66");
        for n in 0..12 {
            let call = if n % 3 == 2 { "resend-verification" } else { "register" };
            let reply = stranger.post(call, json!({ "email": ADA, "password": PASSWORD })).await;
            assert!([200, 201].contains(&reply.status), "{}", reply.text);
            app.deliver().await;
            app.advance(61_000);
        }
        app.deliver().await;
        assert_eq!(app.mails(ADA).len(), 3);
        // The owner's recovery is not touched by it.
        assert_eq!(sent(&app, &stranger, ADA, 4, 11 * MINUTE).await, 3);
    }
}

/// Asks `times` times, `apart` from one another, and counts the mails with a code that this causes.
async fn sent(app: &TestApp, caller: &Caller, email: &str, times: usize, apart: i64) -> i64 {
    const SQL: &str = "select count(*) as n from outbox where kind = 'reset_code'";
    let before = app.count(SQL).await;
    for _ in 0..times {
        let reply = caller
            .post("forgot-password", json!({ "email": email }))
            .await;
        let body = reply.body();
        assert_eq!(
            (reply.status, &body["resendAfter"], &body["expiresIn"]),
            (200, &json!(60), &json!(600)),
            "the answer does not tell"
        );
        app.advance(apart);
    }
    app.deliver().await;
    app.count(SQL).await - before
}

on_both! {
    /// time does not tell. Interleaved requests for four kinds of address, with the mail server two seconds slow.
    async fn a02_time_does_not_tell_who_has_an_account(database) {
        let sink = crate::process::Sink::start(&["--delay", "2"]).await;
        let app = TestApp::with(database, |config| {
            uniform(config);
            // As dear as in production, or the hash would not hide what it has to.
            (config.hash.memory_kib, config.hash.iterations, config.hash.threads) = (19_456, 2, 1);
        }).await;
        let kinds = all_kinds(&app).await;
        let slow = app.again_with(|config| {
            config.mail.transport = cargoextra::config::MailTransport::Smtp;
            config.mail.smtp_url = format!("smtp://127.0.0.1:{}", sink.port).into();
        }).await;
        slow.advance(25 * HOUR);
        let worker = cargoextra::cli::serve::worker(&slow.app);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let asking = async {
            for (call, rounds) in [("forgot-password", 120), ("password-reset", 120), ("login", 30)] {
                let mut times: Vec<Vec<Duration>> = vec![Vec::new(); 4];
                for round in 0..rounds {
                    for n in 0..4 {
                        // Each kind comes first equally often.
                        let kind = (n + round) % 4;
                        let body = json!({ "email": kinds[kind], "password": NEW_PASSWORD });
                        times[kind].push(timed(slow.caller().post(call, body)).await);
                    }
                    slow.advance(61_000);
                }
                for (kind, other) in [(0, 3), (1, 3), (2, 3)] {
                    let z = mann_whitney(&times[kind], &times[other]);
                    println!("A-02 {call}: {} against unknown: z = {z:.2}, medians {:?} and {:?}", kinds[kind], median(&times[kind]), median(&times[other]));
                    // p = 1e-6; a difference of a tenth of the spread is seen from z = 6 on.
                    assert!(z.abs() < 4.9, "{call}: {} can be told from an unknown address by time (z = {z:.2})", kinds[kind]);
                }
            }
            stop.send(true).expect("the worker listens");
        };
        tokio::join!(cargoextra::mail::worker::run(worker, &slow.app.mail_queued, stopped), asking);
    }
}

#[expect(clippy::disallowed_methods, reason = "what is measured is real time")]
async fn timed(call: impl Future<Output = Reply>) -> Duration {
    let before = std::time::Instant::now();
    call.await;
    before.elapsed()
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// The normal deviate of the Mann-Whitney U test: how far the ranks of two samples are from those of one.
fn mann_whitney(a: &[Duration], b: &[Duration]) -> f64 {
    let wins: f64 = a
        .iter()
        .map(|x| {
            b.iter().filter(|y| x > *y).count() as f64
                + b.iter().filter(|y| *y == x).count() as f64 / 2.0
        })
        .sum();
    let (n, m) = (a.len() as f64, b.len() as f64);
    (wins - n * m / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt()
}

/// The measure sees a difference where there is one.
#[test]
fn a02_the_measure_tells_different_samples_apart() {
    let times = |from: u64| {
        (0..100)
            .map(|n| Duration::from_micros(from + n * 7 % 100))
            .collect::<Vec<_>>()
    };
    assert!(mann_whitney(&times(1000), &times(1000)).abs() < 0.1);
    assert!(mann_whitney(&times(1080), &times(1000)) > 4.9);
}
