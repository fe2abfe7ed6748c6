//! R rows: recovery itself.

use cargoextra::accounts::{lifecycle, sweep};
use serde_json::{Value, json};

use crate::app::{MINUTE, NEW_PASSWORD, PASSWORD, TestApp, on_both};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

fn invalid_request() -> (u16, Value) {
    (
        400,
        json!({ "message": "Invalid Request", "code": "invalid_request" }),
    )
}

fn invalid_otp() -> (u16, Value) {
    (
        400,
        json!({ "message": "Invalid OTP", "code": "invalid_otp" }),
    )
}

fn with_grant(grant: &str) -> Value {
    json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant })
}

/// What comes after a reset was used or ended: neither code nor grant nor fallback works.
async fn nothing_works(app: &TestApp, code: &str, grant: &str) {
    let confirm = app
        .post("confirm-otp-reset", json!({ "resetToken": code }))
        .await;
    assert_eq!(confirm.shown(), invalid_otp());
    for body in [
        with_grant(grant),
        json!({ "email": ADA, "password": NEW_PASSWORD }),
    ] {
        let reply = app.post("password-reset", body).await;
        assert_eq!(reply.shown(), invalid_request());
    }
}

on_both! {
    /// the shape of the published call. Somebody else posts the victim's address after the victim's confirm.
    async fn r01_somebody_else_cannot_finish_a_confirmed_reset(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        app.account(EVE).await;
        // Eve has what an attacker can have: a session, a device, a grant of her own, all live.
        let signed_in = app.login(EVE, PASSWORD).await;
        let code = app.forgot(EVE).await;
        let eves_grant = app.confirm(&code).await;
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;

        let published = json!({ "email": ADA, "password": NEW_PASSWORD });
        for stranger in [app.caller().from("127.0.0.2"), app.caller().header("user-agent", "python-requests/2.32"), app.caller().header("user-agent", "")] {
            assert_eq!(stranger.post("password-reset", published.clone()).await.shown(), invalid_request());
        }
        let (session, device, token) = (signed_in.cookie("customerToken"), signed_in.cookie("cxDevice"), signed_in.body()["token"].clone());
        for (what, wrong) in [
            ("another account's grant", eves_grant.as_str()), ("the code", &code), ("a session", session.as_deref().expect("one")),
            ("a device", device.as_deref().expect("one")), ("a token", token.as_str().expect("one")), ("her own address", EVE),
        ] {
            assert_eq!(app.post("password-reset", with_grant(wrong)).await.shown(), invalid_request(), "{what}");
        }
        // Signed in as somebody else is no proof either.
        let eve = app.caller().from("127.0.0.2").header("authorization", &format!("Bearer {}", token.as_str().expect("one")));
        assert_eq!(eve.post("password-reset", published).await.shown(), invalid_request());
        assert_eq!(app.count("select count(*) as n from audit where event = 'reset_refused' and account_id is not null").await, 10);
        assert!(app.signs_in(ADA, PASSWORD).await, "the password is unchanged");

        app.advance(10 * MINUTE);
        assert_eq!(app.post("password-reset", with_grant(&grant)).await.shown(), invalid_request(), "an expired grant");
        assert!(app.signs_in(ADA, PASSWORD).await, "the password is unchanged");
    }

    /// a flow abandoned after any step authenticates nothing.
    async fn r03_an_abandoned_flow_authenticates_nothing(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let asked = app.post("forgot-password", json!({ "email": ADA })).await;
        let reference = asked.body()["reference"].as_str().expect("a reference").to_owned();
        let code = app.code(ADA).await;
        let flow = asked.headers["x-request-id"].to_str().expect("text").to_owned();
        let mut held = vec![reference, code.clone(), flow];
        for step in ["after the request", "after the confirm"] {
            if step == "after the confirm" {
                held.push(app.confirm(&code).await);
            }
            for secret in &held {
                for caller in [
                    app.caller().header("authorization", &format!("Bearer {secret}")),
                    app.caller().header("cookie", &format!("customerToken={secret}")),
                    app.caller().header("cookie", &format!("userToken={secret}")),
                    app.caller().header("cookie", &format!("resetGrant={secret}")),
                    app.caller().header("x-reset-grant", secret),
                ] {
                    for path in ["check", "sessions"] {
                        let reply = caller.get(&format!("/api/v1/user/{path}")).await;
                        assert_eq!(reply.shown(), (401, json!({ "message": "Unauthorized", "code": "unauthorized" })), "{step}");
                    }
                }
                assert!(!app.signs_in(ADA, secret).await, "{step}: it is no password");
            }
            assert!(!app.signs_in(ADA, NEW_PASSWORD).await, "{step}");
            assert!(app.signs_in(ADA, PASSWORD).await, "{step}: the old password is good until the last step");
        }
    }

    /// replayed after success.
    async fn r04_code_and_grant_are_worth_nothing_after_success(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        assert_eq!(app.confirm_status(&code).await, 400, "a code works once");
        assert_eq!(app.post("password-reset", with_grant(&grant)).await.status, 200);
        nothing_works(&app, &code, &grant).await;
        // Nor after a logout, nor after the next reset of the same account.
        let signed_in = app.login(ADA, NEW_PASSWORD).await;
        let session = app.caller().header("cookie", &format!("customerToken={}", signed_in.cookie("customerToken").expect("one")));
        assert_eq!(session.post("logout", json!({})).await.status, 200);
        nothing_works(&app, &code, &grant).await;
        app.advance(61_000);
        let second = app.forgot(ADA).await;
        let second_grant = app.confirm(&second).await;
        assert_eq!(app.post("password-reset", with_grant(&grant)).await.shown(), invalid_request(), "the first one's grant on the second");
        assert_eq!(app.post("password-reset", with_grant(&second_grant)).await.status, 200);
        nothing_works(&app, &second, &second_grant).await;
    }

    /// what ends the open flows of an account ends them for good; a logout does not.
    async fn r04_an_ended_flow_stays_ended(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        for way in ["logout-all", "lock", "another reset", "a sibling's confirm"] {
            let signed_in = app.login(ADA, PASSWORD).await;
            let session = app.caller().header("cookie", &format!("customerToken={}", signed_in.cookie("customerToken").expect("one")));
            app.advance(25 * 60 * MINUTE);
            let first = app.forgot(ADA).await;
            app.advance(61_000);
            let second = app.forgot(ADA).await;
            let grant = if way == "a sibling's confirm" { String::new() } else { app.confirm(&second).await };
            match way {
                "logout-all" => {
                    assert_eq!(session.post("logout", json!({})).await.status, 200);
                    let again = app.login(ADA, PASSWORD).await;
                    let session = app.caller().header("cookie", &format!("customerToken={}", again.cookie("customerToken").expect("one")));
                    assert_eq!(session.post("logout-all", json!({})).await.status, 200);
                }
                "lock" => {
                    lifecycle::lock(&app.app, ADA).await.expect("it can be locked");
                    assert_eq!(app.post("password-reset", with_grant(&grant)).await.shown(), invalid_request(), "locked");
                    lifecycle::unlock(&app.app, ADA).await.expect("it can be unlocked");
                }
                "another reset" => {
                    let body = json!({ "email": ADA, "password": PASSWORD, "resetGrant": grant });
                    assert_eq!(app.post("password-reset", body).await.status, 200);
                }
                _ => { app.confirm(&second).await; }
            }
            assert_eq!(app.post("confirm-otp-reset", json!({ "resetToken": first })).await.shown(), invalid_otp(), "{way}: the sibling's code");
            if way != "a sibling's confirm" {
                nothing_works(&app, &second, &grant).await;
            }
            assert!(app.signs_in(ADA, PASSWORD).await, "{way}");
        }
    }

    /// a reset whose mail has not left yet is an open flow like any other.
    async fn r04_a_reset_that_waits_in_the_queue_ends_with_the_others(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        app.advance(61_000);
        let asked = app.post("forgot-password", json!({ "email": ADA })).await;
        assert_eq!(asked.body()["resendAfter"], 60, "a second reset, whose mail waits");
        let grant = app.confirm(&code).await;
        let before = app.mails(ADA).len();
        app.deliver().await;
        assert_eq!(app.mails(ADA).len(), before, "the confirm expired it, so its code is not sent");
        assert_eq!(app.count("select count(*) as n from outbox where dropped_at is not null and reason = 'the code had died in the queue'").await, 1);
        assert_eq!(app.post("password-reset", with_grant(&grant)).await.status, 200);
    }

    /// fifty parallel resets after one confirm, at two processes.
    async fn r05_one_of_fifty_parallel_resets_wins(database) {
        let app = TestApp::start(database).await;
        let other = app.again().await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        let passwords: Vec<String> = (0..50).map(|n| format!("{NEW_PASSWORD}-{n}")).collect();
        let calls = passwords.iter().enumerate().map(|(n, password)| {
            let caller = if n % 2 == 0 { app.caller() } else { other.caller() };
            let body = json!({ "email": ADA, "password": password, "resetGrant": grant });
            async move { caller.post("password-reset", body).await }
        });
        let replies = futures_util::future::join_all(calls).await;
        let won: Vec<usize> = (0..50).filter(|n| replies[*n].status == 200).collect();
        assert_eq!(won.len(), 1, "exactly one 200");
        for lost in (0..50).filter(|n| *n != won[0]) {
            assert_eq!(replies[lost].shown(), invalid_request());
        }
        assert!(app.signs_in(ADA, &passwords[won[0]]).await);
        assert_eq!(app.count("select count(*) as n from outbox where kind = 'password_changed'").await, 1);
        assert_eq!(app.count("select count(*) as n from audit where event = 'password_reset'").await, 1);
    }

    /// R-05, one step earlier: of parallel confirms of one code exactly one gives a grant.
    async fn r05_one_of_fifty_parallel_confirms_wins(database) {
        // Nobody sends one code fifty times; what is tested is who wins, not the budget of wrong codes.
        let app = TestApp::with(database, |config| config.accounts.budgets.codes_network = 50).await;
        let other = app.again().await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let calls = (0..50).map(|n| {
            let caller = if n % 2 == 0 { app.caller() } else { other.caller() };
            let body = json!({ "resetToken": code });
            async move { caller.post("confirm-otp-reset", body).await }
        });
        let replies = futures_util::future::join_all(calls).await;
        let won: Vec<&crate::app::Reply> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(won.len(), 1, "exactly one 200");
        let lost = replies.iter().filter(|reply| reply.status != 200);
        lost.for_each(|reply| assert_eq!(reply.shown(), invalid_otp()));
        assert_eq!(app.count("select count(*) as n from audit where event = 'reset_confirmed'").await, 1);
        let grant = won[0].body()["resetGrant"].as_str().expect("a grant").to_owned();
        assert_eq!(app.post("password-reset", with_grant(&grant)).await.status, 200);
    }

    /// R-05, across siblings: of parallel confirms of all three live codes exactly one reset can be finished.
    async fn r05_parallel_confirms_of_siblings_leave_one_grant(database) {
        let app = TestApp::start(database).await;
        let other = app.again().await;
        app.account(ADA).await;
        let mut codes = Vec::new();
        for _ in 0..3 {
            codes.push(app.forgot(ADA).await);
            app.advance(61_000);
            other.advance(61_000);
        }
        let calls = codes.iter().enumerate().map(|(n, code)| {
            let caller = if n % 2 == 0 { app.caller() } else { other.caller() };
            let body = json!({ "resetToken": code });
            async move { caller.post("confirm-otp-reset", body).await }
        });
        let replies = futures_util::future::join_all(calls).await;
        let won: Vec<&crate::app::Reply> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(won.len(), 1, "the confirm of one expires the others");
        assert_eq!(app.count("select count(*) as n from resets where confirmed_at is not null and expired_at is null").await, 1);
    }

    /// a stranger's guesses never hurt the owner's open reset.
    async fn r09_wrong_codes_of_a_stranger_never_hurt_the_owner(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let stranger = app.caller().from("127.0.0.66");
        for n in 0..15 {
            let guess = format!("{n:010}");
            assert_eq!(stranger.post("confirm-otp-reset", json!({ "resetToken": guess })).await.shown(), invalid_otp());
            let reply = stranger.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD })).await;
            assert_eq!(reply.shown(), invalid_request());
        }
        let grant = app.confirm(&code).await;
        for wrong in ["", "wrong", &"x".repeat(43)] {
            assert_eq!(stranger.post("password-reset", with_grant(wrong)).await.shown(), invalid_request());
        }
        assert_eq!(stranger.post("forgot-password", json!({ "email": ADA })).await.status, 200);
        assert_eq!(app.post("password-reset", with_grant(&grant)).await.status, 200);
    }

    /// a code or grant for one purpose never works for another, either way round.
    async fn r13_nothing_works_for_another_purpose(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        app.post("register", json!({ "email": EVE, "password": PASSWORD })).await;
        let verify = app.code(EVE).await;
        let reset = app.forgot(ADA).await;
        let of_unverified = app.forgot(EVE).await;
        assert_eq!(app.post("confirm-otp-reset", json!({ "resetToken": verify })).await.shown(), invalid_otp());
        for code in [&reset, &of_unverified] {
            assert_eq!(app.post("verify-email", json!({ "verifyToken": code })).await.shown(), invalid_otp());
        }
        let grant = app.confirm(&reset).await;
        for call in [("confirm-otp-reset", "resetToken"), ("verify-email", "verifyToken")] {
            assert_eq!(app.post(call.0, json!({ call.1: grant })).await.shown(), invalid_otp());
        }
        for code in [&verify, &of_unverified, &reset] {
            assert_eq!(app.post("password-reset", with_grant(code)).await.shown(), invalid_request());
        }
        // Each is still good for its own.
        assert_eq!(app.post("verify-email", json!({ "verifyToken": verify })).await.status, 200);
        assert_eq!(app.post("password-reset", with_grant(&grant)).await.status, 200);
    }

    /// past its life a code answers like a wrong one, and a clock that steps back does not revive it.
    async fn r16_an_expired_code_answers_like_a_wrong_one(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        app.advance(10 * MINUTE - 1);
        app.confirm(&code).await;
        app.advance(MINUTE);
        let code = app.forgot(ADA).await;
        app.advance(10 * MINUTE + 1000);
        let wrong = app.post("confirm-otp-reset", json!({ "resetToken": "00000-00000" })).await;
        let late = app.post("confirm-otp-reset", json!({ "resetToken": code })).await;
        assert_eq!(late.shown(), wrong.shown());
        assert_eq!(late.stable_headers(), wrong.stable_headers());
        assert_eq!(late.shown(), invalid_otp());
        app.advance(-5 * MINUTE);
        assert_eq!(app.post("confirm-otp-reset", json!({ "resetToken": code })).await.shown(), invalid_otp(), "the clock stepped back");
    }

    /// the same for a confirmed reset, and across a restart on a machine whose clock is behind.
    async fn r16_time_that_steps_back_revives_nothing(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let first = app.forgot(ADA).await;
        let grant = app.confirm(&first).await;
        app.advance(10 * MINUTE + 1000);
        assert_eq!(app.post("password-reset", with_grant(&grant)).await.shown(), invalid_request());
        let second = app.forgot(ADA).await;
        app.advance(10 * MINUTE + 1000);
        sweep::step(&app.app).await.expect("it sweeps");
        let behind = app.again().await;
        for code in [&first, &second] {
            assert_eq!(behind.post("confirm-otp-reset", json!({ "resetToken": code })).await.shown(), invalid_otp());
        }
        assert_eq!(behind.post("password-reset", with_grant(&grant)).await.shown(), invalid_request());
        assert!(behind.signs_in(ADA, PASSWORD).await);
    }
}
