//! guesses are counted, wherever they come from, and a stranger's never hurt the owner.

use cargoextra::accounts::{lifecycle, sweep};
use cargoextra::app::bans;
use cargoextra::config::Disclosure;
use serde_json::{Value, json};

use crate::app::{Caller, Database, MINUTE, NEW_PASSWORD, PASSWORD, Reply, TestApp, on_both};
use crate::downstream::with_edge;

const ADA: &str = "ada@example.com";
const NOBODY: &str = "nobody@example.com";
const SECOND: i64 = 1000;
const WRONG: (&str, &str) = ("confirm-otp-reset", "resetToken");

fn invalid_otp() -> (u16, Value) {
    (
        400,
        json!({ "message": "Invalid OTP", "code": "invalid_otp" }),
    )
}

fn invalid_credentials() -> (u16, Value) {
    (
        401,
        json!({ "message": "Invalid email or password", "code": "invalid_credentials" }),
    )
}

fn too_many() -> (u16, Value) {
    (
        429,
        json!({ "message": "Too many requests", "code": "too_many_requests" }),
    )
}

/// Tries a well-formed code that nobody was sent.
async fn guess(caller: &Caller, n: usize) -> Reply {
    let (call, field) = WRONG;
    caller
        .post(call, json!({ field: format!("{n:010}") }))
        .await
}

/// Guesses `times` wrong codes; how many of them were compared.
async fn guesses(caller: &Caller, times: usize) -> usize {
    let mut compared = 0;
    for n in 0..times {
        let reply = guess(caller, n).await;
        if reply.status == 400 {
            assert_eq!(reply.shown(), invalid_otp());
            compared += 1;
        } else {
            assert_eq!(reply.shown(), too_many());
            assert!(reply.header("retry-after").is_some());
        }
    }
    compared
}

async fn login(caller: &Caller, email: &str, password: &str) -> Reply {
    let body = json!({ "email": email, "password": password });
    caller.post("login", body).await
}

/// Asks for what the guard denies; then the bans are kept, as the program's own loop would.
async fn provoke(app: &TestApp, caller: &Caller, times: usize) {
    for _ in 0..times {
        assert_eq!(caller.get("/.env").await.status, 403);
    }
    bans::step(&app.app).await.expect("the rows are kept");
}

/// Ten wrong passwords, which are all compared.
async fn ten_wrong(caller: &Caller, email: &str) {
    for n in 0..10 {
        let reply = login(caller, email, &format!("wrong {n}")).await;
        assert_eq!(reply.shown(), invalid_credentials(), "{n}");
    }
}

/// A try that must wait so many seconds.
async fn waits(caller: &Caller, email: &str, password: &str, seconds: &str) {
    let reply = login(caller, email, password).await;
    assert_eq!(reply.shown(), too_many());
    assert_eq!(reply.header("retry-after"), Some(seconds));
}

/// What a person has who signed in here: the device's cookie.
async fn signed_in(caller: &Caller) -> String {
    let reply = login(caller, ADA, PASSWORD).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    format!("cxDevice={}", reply.cookie("cxDevice").expect("a device"))
}

async fn with_server_budget(database: Database, most: i64) -> TestApp {
    TestApp::with(database, |config| {
        config.accounts.budgets.codes_server = most;
    })
    .await
}

on_both! {
    /// no more of 200 parallel wrong codes are compared than the budget allows, at two processes.
    async fn r06_parallel_wrong_codes_stay_within_the_budget(database) {
        let app = TestApp::start(database).await;
        let other = app.again().await;
        let calls = (0..200).map(|n| {
            let caller = if n % 2 == 0 { app.caller() } else { other.caller() };
            async move { guess(&caller, n).await }
        });
        let replies = futures_util::future::join_all(calls).await;
        let (compared, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 400);
        assert_eq!((compared.len(), refused.len()), (20, 180));
        compared.iter().for_each(|reply| assert_eq!(reply.shown(), invalid_otp()));
        for reply in refused {
            assert_eq!(reply.shown(), too_many());
            assert_eq!(reply.header("retry-after"), Some("660"));
        }
        app.advance(11 * MINUTE - 1);
        assert_eq!(guess(&app.caller(), 0).await.shown(), too_many());
        app.advance(1);
        assert_eq!(guesses(&app.caller(), 25).await, 20, "the next ten minutes");
    }

    /// from a hundred networks, no more than the server's budget; but who has not guessed wrong for a day has one try.
    async fn r07_many_networks_share_the_budget_of_the_server(database) {
        let app = with_server_budget(database, 30).await;
        let other = app.again().await;
        let networks: Vec<Caller> = (1..=100).map(|n| app.caller().from(&format!("127.0.1.{n}"))).collect();
        let mut compared = 0;
        for caller in &networks {
            compared += guesses(caller, 1).await;
        }
        assert_eq!(compared, 100, "30 from the server's, and one each for 70 networks that never guessed");
        assert_eq!(app.app.metrics.code_budget_spent.get(), 70, "the alarm");
        let again = networks.iter().map(|caller| guesses(caller, 3));
        let compared: usize = futures_util::future::join_all(again).await.iter().sum();
        assert_eq!(compared, 0, "nobody has a second");
        assert_eq!(app.app.metrics.code_budget_spent.get(), 370);
        assert!(app.app.scrape().contains("cargoextra_code_budget_spent_total 370"));

        for time in 1..4 {
            app.advance(11 * MINUTE);
            other.advance(11 * MINUTE);
            let calls = networks.iter().enumerate().map(|(n, caller)| {
                let caller = if n % 2 == 0 { caller.clone() } else { caller.clone().at(other.address) };
                async move { guesses(&caller, 2).await }
            });
            let compared: usize = futures_util::future::join_all(calls).await.iter().sum();
            assert_eq!(compared, 30, "no network is quiet, span {time}");
        }
        // A day later all are quiet again.
        app.advance(24 * 60 * MINUTE);
        assert_eq!(guesses(&networks[0], 30).await, 20, "one network has its own budget");
    }

    /// the networks of one IPv6 /48 share a budget.
    async fn r07_networks_of_one_site_share_a_budget(database) {
        let app = TestApp::with(database, |config| {
            config.server.trusted_proxies.push("127.0.0.0/8".parse().expect("a network"));
        }).await;
        let at = |site: usize, network: usize| {
            app.caller().header("x-forwarded-for", &format!("2001:db8:{site}:{network}::1"))
        };
        let mut compared = Vec::new();
        for network in 1..=4 {
            compared.push(guesses(&at(1, network), 21).await);
        }
        assert_eq!(compared, [20, 20, 20, 0]);
        assert_eq!(guesses(&at(2, 1), 21).await, 20, "another site");
    }

    /// neither cookies, nor another name, nor a new flow, nor another purpose refills anything; nor does a restart.
    async fn r08_nothing_refills_the_budget(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let device = signed_in(&app.caller()).await;
        for n in 0..20 {
            let caller = match n % 4 {
                0 => app.caller(),
                1 => app.caller().header("cookie", &device),
                2 => app.caller().header("user-agent", &format!("agent {n}")),
                _ => {
                    app.post("forgot-password", json!({ "email": format!("a{n}@example.com") })).await;
                    app.caller().header("cookie", "cxDevice=planted")
                }
            };
            let (call, field) = if n % 2 == 0 { WRONG } else { ("verify-email", "verifyToken") };
            let reply = caller.post(call, json!({ field: format!("{n:010}") })).await;
            assert_eq!(reply.shown(), invalid_otp(), "{n}");
        }
        let restarted = app.again().await;
        for caller in [app.caller(), app.caller().header("cookie", &device), app.caller().header("user-agent", "new"), restarted.caller()] {
            for (call, field) in [WRONG, ("verify-email", "verifyToken")] {
                let reply = caller.post(call, json!({ field: "00000-00000" })).await;
                assert_eq!(reply.shown(), too_many());
                assert_eq!(reply.header("retry-after"), Some("660"));
            }
        }
        app.forgot(ADA).await;
        assert_eq!(guess(&app.caller(), 1).await.shown(), too_many(), "a new flow");
    }

    /// A right code costs nothing, and neither does what can't be a code.
    async fn right_and_malformed_codes_cost_nothing(database) {
        let app = TestApp::start(database).await;
        for n in 0..25 {
            app.account(&format!("a{n}@example.com")).await;
        }
        let code = app.forgot("a1@example.com").await;
        app.confirm(&code).await;
        for n in 0..40 {
            let typed = ["", "0000000000U", "000000000", "00000000000", "what?"][n % 5];
            let (call, field) = if n % 2 == 0 { WRONG } else { ("verify-email", "verifyToken") };
            let reply = app.post(call, json!({ field: typed })).await;
            assert_eq!(reply.status, 400, "{typed}: {}", reply.text);
        }
        assert_eq!(guesses(&app.caller(), 25).await, 20);
        let code = app.forgot("a2@example.com").await;
        let reply = app.post("confirm-otp-reset", json!({ "resetToken": code })).await;
        assert_eq!(reply.shown(), too_many(), "not even a right code is compared");
        let elsewhere = app.caller().from("127.0.0.2").post("confirm-otp-reset", json!({ "resetToken": code })).await;
        assert_eq!(elsewhere.status, 200, "{}", elsewhere.text);
    }

    /// When the server's budget is spent, a right code from a network that does not guess still works, and leaves its one try.
    async fn a_spent_server_leaves_quiet_networks_their_try(database) {
        let app = with_server_budget(database, 10).await;
        app.account(ADA).await;
        assert_eq!(guesses(&app.caller().from("127.0.0.66"), 12).await, 10);
        for _ in 0..3 {
            let code = app.forgot(ADA).await;
            app.confirm(&code).await;
            app.advance(61 * SECOND);
        }
        assert_eq!(guesses(&app.caller(), 3).await, 1);
        app.advance(15 * MINUTE);
        assert_eq!(guesses(&app.caller().from("127.0.0.67"), 12).await, 10, "spent again");
        assert_eq!(guesses(&app.caller(), 3).await, 0, "a wrong code less than 24 h ago");
        app.advance(24 * 60 * MINUTE);
        assert_eq!(guesses(&app.caller().from("127.0.0.68"), 10).await, 10);
        assert_eq!(guesses(&app.caller(), 3).await, 1, "a day later");
    }

    /// what a stranger does never keeps the owner, on a known device or network, from signing in or recovering.
    async fn a14_a_stranger_never_stops_the_owner(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let device = signed_in(&app.caller()).await;
        let stranger = app.caller().from("127.0.0.66");
        ten_wrong(&stranger, ADA).await;
        waits(&stranger, ADA, PASSWORD, "30").await;
        assert_eq!(guesses(&stranger, 30).await, 20);
        for _ in 0..10 {
            stranger.post("forgot-password", json!({ "email": ADA })).await;
        }
        let on_device = app.caller().from("127.0.0.9").header("cookie", &device);
        assert_eq!(login(&on_device, ADA, PASSWORD).await.status, 200, "a known device");
        assert_eq!(login(&app.caller(), ADA, PASSWORD).await.status, 200, "a known network");
        let planted = stranger.clone().header("cookie", "cxDevice=planted");
        waits(&planted, ADA, PASSWORD, "30").await;
        waits(&stranger, ADA, PASSWORD, "30").await;
        app.advance(61 * SECOND);
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        let body = json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant });
        assert_eq!(app.post("password-reset", body).await.status, 200);
        assert_eq!(login(&stranger, ADA, NEW_PASSWORD).await.status, 200, "the reset cleared the count");
    }

    /// denials that others cause never keep the owner, on a known device or network, from signing in or recovering.
    async fn a14_provoked_denials_never_keep_the_owner_out(database) {
        // The bans as they come, but in force.
        let app = TestApp::with(database, with_edge("[guard.bans]\nmode = \"enforce\"\n".to_owned())).await;
        app.account(ADA).await;
        let device = signed_in(&app.caller()).await;
        // Ten a day, where nobody ever signed in.
        let elsewhere = app.caller().from("127.0.0.7");
        for _ in 0..5 {
            provoke(&app, &elsewhere, 10).await;
            app.advance(24 * 60 * MINUTE);
        }
        assert_eq!(elsewhere.get("/healthz").await.status, 200);
        assert_eq!(login(&elsewhere, ADA, PASSWORD).await.status, 200);

        // A stranger in a network where she signed in today, and one in a network where she is for the first time.
        assert_eq!(login(&app.caller(), ADA, PASSWORD).await.status, 200);
        let stranger = app.caller().from("127.0.0.9");
        for caller in [&app.caller(), &stranger] {
            provoke(&app, caller, 20).await;
        }
        assert_eq!(app.count("select count(*) as n from bans").await, 2);
        assert_eq!(stranger.get("/healthz").await.status, 403);
        let planted = stranger.clone().header("cookie", "cxDevice=planted");
        assert_eq!(planted.get("/healthz").await.status, 403);
        for owner in [app.caller(), stranger.clone().header("cookie", &device)] {
            assert_eq!(login(&owner, ADA, PASSWORD).await.status, 200);
            assert_eq!(owner.post("forgot-password", json!({ "email": ADA })).await.status, 200);
            let code = app.code(ADA).await;
            let confirmed = owner.post("confirm-otp-reset", json!({ "resetToken": code })).await;
            let grant = &confirmed.body()["resetGrant"];
            let body = json!({ "email": ADA, "password": PASSWORD, "resetGrant": grant });
            assert_eq!(owner.post("password-reset", body).await.status, 200);
            app.advance(61 * SECOND);
        }
        // Cookies that are made up are compared no oftener than a slowed network may call.
        let mut statuses = Vec::new();
        for _ in 0..25 {
            statuses.push(planted.get("/healthz").await.status);
        }
        assert_eq!((&statuses[..20], &statuses[20..]), (&[403; 20][..], &[429; 5][..]));
        assert_eq!(stranger.get("/healthz").await.status, 403);
    }

    /// Each device and network has a count of its own; a device of another account is a stranger's.
    async fn known_devices_and_networks_have_counts_of_their_own(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        app.account("eve@example.com").await;
        let device = signed_in(&app.caller()).await;
        let eve = login(&app.caller().from("127.0.0.66"), "eve@example.com", PASSWORD).await.cookie("cxDevice");
        let eve = app.caller().from("127.0.0.66").header("cookie", &format!("cxDevice={}", eve.expect("a device")));
        ten_wrong(&app.caller(), ADA).await;
        waits(&app.caller(), ADA, PASSWORD, "30").await;
        ten_wrong(&eve, ADA).await;
        waits(&app.caller().from("127.0.0.67"), ADA, PASSWORD, "30").await;
        let on_device = app.caller().header("cookie", &device);
        ten_wrong(&on_device, ADA).await;
        waits(&on_device, ADA, PASSWORD, "30").await;
        app.advance(30 * SECOND);
        assert_eq!(login(&on_device, ADA, PASSWORD).await.status, 200, "clears the device's");
        ten_wrong(&on_device, ADA).await;
        assert_eq!(login(&eve, ADA, "wrong").await.shown(), invalid_credentials(), "the eleventh");
        waits(&eve, ADA, PASSWORD, "60").await;
    }

    /// Waits double up to an hour, alike for an address that nobody has, also for parallel guesses and after a restart.
    async fn waits_for_wrong_passwords_double(database) {
        let app = TestApp::start(database).await;
        let other = app.again().await;
        app.account(ADA).await;
        let stranger = app.caller().from("127.0.0.66");
        for email in [ADA, NOBODY] {
            let calls = (0..40).map(|n| {
                let caller = if n % 2 == 0 { stranger.clone() } else { stranger.clone().at(other.address) };
                async move { login(&caller, email, &format!("wrong {n}")).await }
            });
            let replies = futures_util::future::join_all(calls).await;
            let compared = replies.iter().filter(|reply| reply.shown() == invalid_credentials()).count();
            let refused = replies.iter().filter(|reply| reply.shown() == too_many()).count();
            assert_eq!((compared, refused), (10, 30), "{email}");
        }
        for wait in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
            for email in [ADA, NOBODY] {
                waits(&stranger, email, PASSWORD, &wait.to_string()).await;
                waits(&stranger.clone().from("127.0.0.67"), email, PASSWORD, &wait.to_string()).await;
            }
            app.advance(wait * SECOND - 1);
            waits(&stranger, ADA, PASSWORD, "1").await;
            app.advance(1);
            for email in [ADA, NOBODY] {
                assert_eq!(login(&stranger, email, "wrong").await.shown(), invalid_credentials());
            }
        }
        app.advance(3600 * SECOND);
        assert_eq!(login(&stranger, ADA, PASSWORD).await.status, 200);
        let elsewhere = app.caller().from("127.0.0.68");
        ten_wrong(&elsewhere, ADA).await;
        waits(&elsewhere, ADA, PASSWORD, "30").await;
    }

    /// After the hard bound waiting does not help; a reset or the operator does.
    async fn the_hard_bound_ends_with_a_reset(database) {
        let app = TestApp::with(database, |config| config.accounts.budgets.passwords_in_a_row = 12).await;
        app.account(ADA).await;
        for way in ["reset", "unlock"] {
            let stranger = app.caller().from(if way == "reset" { "127.0.0.66" } else { "127.0.0.67" });
            ten_wrong(&stranger, ADA).await;
            for wait in [30, 60] {
                app.advance(wait * SECOND);
                assert_eq!(login(&stranger, ADA, "wrong").await.shown(), invalid_credentials());
            }
            app.advance(25 * 60 * MINUTE);
            waits(&stranger, ADA, PASSWORD, "3600").await;
            if way == "reset" {
                let code = app.forgot(ADA).await;
                let grant = app.confirm(&code).await;
                let body = json!({ "email": ADA, "password": PASSWORD, "resetGrant": grant });
                assert_eq!(app.post("password-reset", body).await.status, 200);
            } else {
                lifecycle::lock(&app.app, ADA).await.expect("it can be locked");
                lifecycle::unlock(&app.app, ADA).await.expect("it can be unlocked");
            }
            assert_eq!(app.count("select count(*) as n from budgets where kind = 'password'").await, 0, "{way}");
            assert_eq!(login(&stranger, ADA, PASSWORD).await.status, 200, "{way}");
        }
    }

    /// Where no answer tells who has an account, the right password of an unverified registration counts like a wrong one.
    async fn the_count_does_not_tell_an_unverified_address(database) {
        for disclosure in [Disclosure::Uniform, Disclosure::Documented] {
            let app = TestApp::with(database, |config| config.accounts.disclosure = disclosure).await;
            app.post("register", json!({ "email": ADA, "password": PASSWORD })).await;
            if disclosure == Disclosure::Uniform {
                for _ in 0..10 {
                    assert_eq!(login(&app.caller(), ADA, PASSWORD).await.shown(), invalid_credentials());
                }
                waits(&app.caller(), ADA, PASSWORD, "30").await;
            } else {
                for _ in 0..12 {
                    let reply = login(&app.caller(), ADA, PASSWORD).await;
                    assert_eq!(reply.body()["code"], "email_not_verified");
                }
            }
        }
    }

    /// Counts are forgotten when nobody has touched them for as long as flows are kept, and bounded in number.
    async fn counts_are_swept(database) {
        let app = TestApp::with(database, |config| config.accounts.retention.max_requests = 5).await;
        guess(&app.caller(), 1).await;
        for n in 0..9 {
            login(&app.caller(), &format!("a{n}@example.com"), "wrong").await;
            app.advance(SECOND);
        }
        sweep::step(&app.app).await.expect("it sweeps");
        assert_eq!(app.count("select count(*) as n from budgets where kind = 'password'").await, 6);
        assert_eq!(app.count("select count(*) as n from budgets").await, 8);
        app.advance(30 * 24 * 60 * MINUTE - 9 * SECOND);
        sweep::step(&app.app).await.expect("it sweeps");
        assert_eq!(app.count("select count(*) as n from budgets").await, 8);
        app.advance(60 * SECOND);
        sweep::step(&app.app).await.expect("it sweeps");
        assert_eq!(app.count("select count(*) as n from budgets").await, 0);
    }
}
