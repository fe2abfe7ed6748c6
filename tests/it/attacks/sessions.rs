//! S rows: sessions, what came before an account was its owner's, and what hashing costs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{Caller, MINUTE, NEW_PASSWORD, PASSWORD, TestApp, on_both};

const ADA: &str = "ada@example.com";

fn unauthorized() -> (u16, Value) {
    (
        401,
        json!({ "message": "Unauthorized", "code": "unauthorized" }),
    )
}

/// A signed-in caller by cookie, and one by token, of one session.
async fn signed_in(app: &TestApp, email: &str, password: &str) -> [Caller; 2] {
    let reply = app.login(email, password).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let token = reply.body()["token"].as_str().expect("a token").to_owned();
    let cookie = reply.cookie("customerToken").expect("a cookie");
    [
        app.caller()
            .header("cookie", &format!("customerToken={cookie}")),
        app.caller()
            .header("authorization", &format!("Bearer {token}")),
    ]
}

on_both! {
    /// S-01: after a reset every older session is worth nothing, on every node, at once.
    async fn s01_a_reset_ends_every_session_on_every_node(database) {
        let app = TestApp::start(database).await;
        let other = app.again().await;
        app.account(ADA).await;
        app.account("eve@example.com").await;
        let eve = signed_in(&app, "eve@example.com", PASSWORD).await;
        let mut old = Vec::new();
        for node in [&app, &other] {
            for mut caller in [signed_in(node, ADA, PASSWORD).await, signed_in(node, ADA, PASSWORD).await].concat() {
                // Each session is used at each node, so that whatever a node may remember of it is there.
                for at in [&app, &other] {
                    caller = caller.at(at.address);
                    assert_eq!(caller.get("/api/v1/user/check").await.status, 200);
                }
                old.push(caller);
            }
        }
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        assert_eq!(old[0].get("/api/v1/user/check").await.status, 200, "until the reset they live");
        let reset = app.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant })).await;
        assert_eq!(reset.status, 200, "{}", reset.text);
        assert_eq!(reset.cookie("customerToken"), Some(String::new()), "our cookies are deleted, and nobody is signed in");
        for caller in old {
            for at in [&app, &other] {
                let caller = caller.clone().at(at.address);
                assert_eq!(caller.get("/api/v1/user/check").await.shown(), unauthorized());
                assert_eq!(caller.get("/api/v1/user/sessions").await.shown(), unauthorized());
                assert_eq!(caller.post("logout", json!({})).await.shown(), unauthorized());
            }
        }
        assert_eq!(eve[0].get("/api/v1/user/check").await.status, 200, "somebody else's session lives on");
        assert_eq!(signed_in(&other, ADA, NEW_PASSWORD).await[1].get("/api/v1/user/check").await.status, 200);
    }

    /// S-01: a sign-in that verified the old password while it was replaced gets no session.
    async fn s01_no_session_outlives_its_password(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        let caller = app.caller();
        let reset = caller.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant }));
        let logins = futures_util::future::join_all((0..30).map(|_| app.login(ADA, PASSWORD)));
        let (reset, logins) = tokio::join!(reset, logins);
        assert_eq!(reset.status, 200, "{}", reset.text);
        for login in logins.iter().filter(|login| login.status == 200) {
            let token = login.body()["token"].as_str().expect("a token").to_owned();
            let session = app.caller().header("authorization", &format!("Bearer {token}"));
            assert_eq!(session.get("/api/v1/user/check").await.shown(), unauthorized());
        }
        assert_eq!(app.count("select count(*) as n from sessions where ended_at is null").await, 0);
    }

    /// S-03: what a caller brings to a sign-in is worth nothing after it.
    async fn s03_a_session_from_before_a_login_is_worth_nothing(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let planted = "A".repeat(43);
        let victim = app.caller().header("cookie", &format!("customerToken={planted}; userToken={planted}"));
        let reply = victim.post("login", json!({ "email": ADA, "password": PASSWORD })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let given = reply.cookie("customerToken").expect("a session");
        assert_ne!(given, planted);
        for name in ["customerToken", "userToken"] {
            let attacker = app.caller().header("cookie", &format!("{name}={planted}"));
            assert_eq!(attacker.get("/api/v1/user/check").await.shown(), unauthorized());
        }
        // Nor is a second sign-in the first one's session.
        let again = app.caller().header("cookie", &format!("customerToken={given}")).post("login", json!({ "email": ADA, "password": PASSWORD })).await;
        assert_ne!(again.cookie("customerToken"), Some(given));
        // A made-up device is not taken over either, one that we gave is.
        let device = app.caller().header("cookie", "cxDevice=planted").post("login", json!({ "email": ADA, "password": PASSWORD })).await.cookie("cxDevice");
        assert_ne!(device.as_deref(), Some("planted"));
        let device = device.expect("a device");
        let kept = app.caller().header("cookie", &format!("cxDevice={device}")).post("login", json!({ "email": ADA, "password": PASSWORD })).await;
        assert_eq!(kept.cookie("cxDevice"), Some(device));
    }

    /// S-04: an attacker registers the victim's address first; the victim's recovery removes all of it.
    async fn s04_recovery_removes_what_an_attacker_registered(database) {
        let app = TestApp::start(database).await;
        let attacker = app.caller().from("127.0.0.66");
        let body = json!({ "email": ADA, "password": "attackers own words", "firstName": "Mallory", "lastName": "M", "phone": "+4915112345678" });
        assert_eq!(attacker.post("register", body.clone()).await.status, 201);
        let attackers_code = app.code(ADA).await;
        let mail = &app.mails(ADA)[0];
        for typed in ["Mallory", "attackers own words", "+4915112345678"] {
            assert!(!mail.text.contains(typed) && !mail.html.contains(typed), "the mail holds nothing that was typed: {typed}");
        }
        app.advance(61_000);
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        assert_eq!(app.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant })).await.status, 200);
        assert!(!app.signs_in(ADA, "attackers own words").await);
        let verified = app.post("verify-email", json!({ "verifyToken": attackers_code })).await;
        assert_eq!(verified.shown(), (400, json!({ "message": "Invalid OTP", "code": "invalid_otp" })));
        let user = app.login(ADA, NEW_PASSWORD).await.body()["user"].clone();
        assert_eq!(user, json!({
            "id": user["id"], "email": ADA, "emailVerified": true, "firstName": null, "lastName": null, "phone": null, "createdAt": "2026-11-23T12:00:00Z",
        }), "the reset has proved the address and taken nothing over");
        assert_eq!(app.count("select count(*) as n from registrations").await, 0);
        assert_eq!(attacker.post("register", body).await.shown(), (409, json!({ "message": "Account already exists", "code": "account_exists" })));
    }

    /// S-05: the grant opens nothing but the reset.
    async fn s05_the_grant_opens_nothing_else(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        let ways = [
            app.caller().header("authorization", &format!("Bearer {grant}")),
            app.caller().header("cookie", &format!("customerToken={grant}")),
            app.caller().header("cookie", &format!("userToken={grant}; resetGrant={grant}")),
            app.caller().header("x-reset-grant", &grant).header("cookie", &format!("resetGrant={grant}")),
        ];
        for caller in ways {
            for (method, call) in [("GET", "check"), ("GET", "sessions"), ("POST", "logout"), ("POST", "logout-all"), ("DELETE", "sessions/x")] {
                assert_eq!(caller.send(method, &format!("/api/v1/user/{call}"), None).await.shown(), unauthorized(), "{call}");
            }
            for email in [ADA, "eve@example.com"] {
                assert_eq!(caller.post("login", json!({ "email": email, "password": grant })).await.status, 401);
            }
        }
        // Nor another account's password.
        app.account("eve@example.com").await;
        let reset = app.post("password-reset", json!({ "email": "eve@example.com", "password": NEW_PASSWORD, "resetGrant": grant })).await;
        assert_eq!(reset.shown(), (400, json!({ "message": "Invalid Request", "code": "invalid_request" })));
        assert_eq!(app.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant })).await.status, 200);
    }

    /// S-06: every byte of a password counts.
    async fn s06_passwords_count_to_their_last_byte(database) {
        let app = TestApp::start(database).await;
        let long = "correct horse battery staple ".repeat(3);
        assert!(long.len() > 72);
        let emoji: String = (0..64).filter_map(|n| char::from_u32(0x1f600 + n * 37 % 64)).collect();
        let cases = [
            (format!("{long}one"), format!("{long}two")),
            (emoji.clone(), emoji.chars().take(63).collect()),
            ("correct\0horse battery".to_owned(), "correct\0horse batterz".to_owned()),
            ("correct horse battery\0".to_owned(), "correct horse battery".to_owned()),
            (" correct horse battery ".to_owned(), "correct horse battery".to_owned()),
        ];
        for (n, (password, other)) in cases.iter().enumerate() {
            let email = format!("p{n}@example.com");
            let body = json!({ "email": email, "password": password });
            let registered = app.post("register", body).await;
            assert_eq!(registered.status, 201, "{}", registered.text);
            let code = app.code(&email).await;
            assert_eq!(app.post("verify-email", json!({ "verifyToken": code })).await.status, 200);
            assert!(app.signs_in(&email, password).await, "{password:?}");
            assert!(!app.signs_in(&email, other).await, "{password:?} is not {other:?}");
        }
        // Two ways of writing one letter are one password.
        let body = json!({ "email": ADA, "password": "cafe\u{301} correct horse" });
        assert_eq!(app.post("register", body).await.status, 201);
        let code = app.code(ADA).await;
        app.post("verify-email", json!({ "verifyToken": code })).await;
        assert!(app.signs_in(ADA, "caf\u{e9} correct horse").await);
    }

    /// S-07: a hash flood. The surplus is refused at once, other calls keep their latency, and nothing changed for who was refused.
    async fn s07_a_full_hash_queue_refuses_at_once_and_changes_nothing(database) {
        let app = TestApp::with(database, |config| {
            config.hash.threads = 1;
            config.hash.queue = 4;
        }).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        // From here each hash takes about a second: the same store at another process with dear hashes.
        let busy = app.again_with(|config| {
            (config.hash.memory_kib, config.hash.iterations) = (64 * 1024, 10);
        }).await;
        let flood = futures_util::future::join_all((0..40).map(|n| {
            let caller = busy.caller();
            async move { caller.post("login", json!({ "email": format!("flood{n}@example.com"), "password": PASSWORD })).await }
        }));
        let calm = async {
            let until_full = async { while busy.app.metrics.hash_queue.get() < 4 { tokio::task::yield_now().await; } };
            tokio::time::timeout(Duration::from_secs(20), until_full).await.expect("the queue fills");
            let caller = busy.caller();
            let body = json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant });
            let register = json!({ "email": "eve@example.com", "password": PASSWORD });
            let (reset, register, login, alive) = tokio::time::timeout(Duration::from_secs(10), async {
                tokio::join!(caller.post("password-reset", body), caller.post("register", register), caller.post("login", json!({ "email": ADA, "password": PASSWORD })), caller.get("/readyz"))
            }).await.expect("nobody waits for a hash");
            (busy.app.metrics.hash_queue.get(), [reset, register, login], alive)
        };
        let (replies, (still_queued, refused, alive)) = tokio::join!(flood, calm);
        assert!(still_queued > 0, "the refusals came while the queue was full");
        for reply in &refused {
            assert_eq!(reply.shown(), (429, json!({ "message": "Too many requests", "code": "busy" })));
            assert_eq!(reply.headers["retry-after"], "1");
        }
        assert_eq!(alive.status, 200);
        let taken = replies.iter().filter(|reply| reply.status == 401).count();
        assert!((4..=6).contains(&taken), "one at work, four in the queue: {taken}");
        assert_eq!(replies.iter().filter(|reply| reply.shown() == (429, json!({ "message": "Too many requests", "code": "busy" }))).count(), 40 - taken);
        assert_eq!(app.count("select count(*) as n from accounts").await, 1, "who was refused left nothing behind");
        // The refused reset is still confirmed.
        assert_eq!(app.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant })).await.status, 200);
    }

    /// S-08: two registrations of one unverified address. Verifying one never makes the other's password or profile valid.
    async fn s08_each_code_verifies_its_own_registration(database) {
        let app = TestApp::start(database).await;
        let attacker = app.caller().from("127.0.0.66");
        let attackers = json!({ "email": ADA, "password": "attackers own words", "firstName": "Mallory", "phone": "+4915112345678" });
        let owners = json!({ "email": ADA, "password": PASSWORD, "firstName": "Ada" });
        for owner_first in [true, false] {
            let (email, mut own, mut foreign) = (format!("ada{owner_first}@example.com"), owners.clone(), attackers.clone());
            own["email"] = email.as_str().into();
            foreign["email"] = email.as_str().into();
            let mut owners_code = String::new();
            for owner in [owner_first, !owner_first] {
                let reply = if owner { app.post("register", own.clone()).await } else { attacker.post("register", foreign.clone()).await };
                assert_eq!(reply.status, 201, "{}", reply.text);
                let code = app.code(&email).await;
                if owner { owners_code = code; }
            }
            // A code that is sent again is the registration's that came from the asking network.
            app.advance(61_000);
            let resent = app.post("resend-verification", json!({ "email": email })).await;
            assert_eq!(resent.status, 200, "{}", resent.text);
            if owner_first { owners_code = app.code(&email).await; }
            let verified = app.post("verify-email", json!({ "verifyToken": owners_code })).await;
            assert_eq!(verified.status, 200, "{}", verified.text);
            assert!(!app.signs_in(&email, "attackers own words").await);
            let user = app.login(&email, PASSWORD).await.body()["user"].clone();
            assert_eq!((&user["firstName"], &user["phone"]), (&json!("Ada"), &Value::Null));
        }
        assert_eq!(app.count("select count(*) as n from registrations").await, 0, "the others are forgotten");
    }

    /// S-08: nobody finds the reference of a stranger's mail on the screen, and no code sent again is a stranger's among several.
    async fn s08_screen_and_mail_never_agree_on_a_strangers_registration(database) {
        let app = TestApp::start(database).await;
        let reference = |reply: &crate::app::Reply| reply.body()["reference"].as_str().expect("a reference").to_owned();
        let attacker = app.caller().from("127.0.0.66");
        let mut attackers = Vec::new();
        for _ in 0..3 {
            let reply = attacker.post("register", json!({ "email": ADA, "password": "attackers own words" })).await;
            attackers.push(reference(&reply));
        }
        // Three are live: the owner's is not kept. Then it is asked for again: too soon at first, and later from a third network.
        let owners = app.post("register", json!({ "email": ADA, "password": PASSWORD })).await;
        assert_eq!(owners.status, 201, "{}", owners.text);
        assert!(!attackers.contains(&reference(&owners)));
        let again = app.post("resend-verification", json!({ "email": ADA })).await;
        assert!(!attackers.contains(&reference(&again)));
        app.deliver().await;
        assert_eq!(app.mails(ADA).len(), 3);
        app.advance(11 * MINUTE);
        assert_eq!(app.post("resend-verification", json!({ "email": ADA })).await.status, 200);
        app.deliver().await;
        assert_eq!(app.mails(ADA).len(), 3, "of three registrations of others none is chosen");
        // Who was sent a mail finds its reference again.
        let sent = app.post("register", json!({ "email": "eve@example.com", "password": PASSWORD })).await;
        let repeat = app.post("resend-verification", json!({ "email": "eve@example.com" })).await;
        assert_eq!(reference(&sent), reference(&repeat));
    }

    /// S-08: once one registration is verified the other's code is void.
    async fn s08_the_losers_code_is_void(database) {
        let app = TestApp::start(database).await;
        let mut codes = Vec::new();
        for password in ["attackers own words", PASSWORD] {
            assert_eq!(app.post("register", json!({ "email": ADA, "password": password })).await.status, 201);
            codes.push(app.code(ADA).await);
        }
        let calls = codes.iter().map(|code| app.post("verify-email", json!({ "verifyToken": code })));
        let statuses: Vec<u16> = futures_util::future::join_all(calls).await.iter().map(|reply| reply.status).collect();
        let winner = statuses.iter().position(|status| *status == 200).expect("one of two parallel ones wins");
        assert_eq!(statuses[1 - winner], 400);
        assert!(app.signs_in(ADA, ["attackers own words", PASSWORD][winner]).await);
        assert!(!app.signs_in(ADA, ["attackers own words", PASSWORD][1 - winner]).await);
        assert_eq!(app.post("verify-email", json!({ "verifyToken": codes[winner] })).await.status, 400, "a code works once");
    }
}
