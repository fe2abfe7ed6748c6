//! The flows as their users know them: statuses and bodies whole.

use serde_json::json;

use crate::app::{MINUTE, NEW_PASSWORD, PASSWORD, TestApp, on_both};

on_both! {
    async fn register_verify_login_forgot_confirm_reset(database) {
        let app = TestApp::start(database).await;
        let registered = app.post("register", json!({ "email": "Ada@Example.com", "password": PASSWORD, "firstName": "Ada" })).await;
        let reference = registered.body()["reference"].clone();
        assert_eq!(registered.shown(), (201, json!({
            "message": "Registered; a code to confirm the address is on its way to it", "reference": reference,
        })));
        let code = app.code("ada@example.com").await;
        let mail = &app.mails("ada@example.com")[0];
        assert_eq!(mail.subject, format!("Your code to confirm your address ({})", reference.as_str().expect("text")));
        assert_eq!(app.login("ada@example.com", PASSWORD).await.shown(), (401, json!({
            "message": "Email address is not verified", "code": "email_not_verified",
        })));
        assert_eq!(app.post("verify-email", json!({ "verifyToken": code })).await.shown(), (200, json!({
            "message": "Address confirmed; you can sign in now", "email": "Ada@Example.com",
        })));

        let signed_in = app.login(" ADA@example.com ", PASSWORD).await;
        let body = signed_in.body();
        assert_eq!(signed_in.shown(), (200, json!({
            "message": "Signed in",
            "token": body["token"],
            "user": {
                "id": body["user"]["id"], "email": "Ada@Example.com", "emailVerified": true, "firstName": "Ada",
                "lastName": null, "phone": null, "createdAt": "2026-11-23T12:00:00Z",
            },
        })));
        assert_eq!(signed_in.headers["cache-control"], "no-store");
        let old_cookie = format!("customerToken={}", signed_in.cookie("customerToken").expect("a session"));
        let checked = app.caller().header("cookie", &old_cookie).get("/api/v1/user/check").await;
        assert_eq!((checked.status, &checked.body()["user"]), (200, &body["user"]));
        assert!(checked.cookie("customerToken").is_some(), "a cookie caller gets a fresh cookie");

        let asked = app.post("forgot-password", json!({ "email": "ada@example.com" })).await;
        assert_eq!(asked.shown(), (200, json!({
            "message": "If there is an account for this address, a code is on its way to it",
            "reference": asked.body()["reference"], "expiresIn": 600, "resendAfter": 60,
        })));
        let code = app.code("ada@example.com").await;
        let confirmed = app.post("confirm-otp-reset", json!({ "resetToken": code.to_lowercase().replace('-', " ") })).await;
        assert_eq!(confirmed.shown(), (200, json!({
            "message": "Code confirmed; choose a new password", "email": "Ada@Example.com",
            "resetGrant": confirmed.body()["resetGrant"],
        })));
        let grant = confirmed.cookie("resetGrant").expect("the grant's cookie");
        assert_eq!(confirmed.cookie_lines(), [format!(
            "resetGrant={grant}; HttpOnly; SameSite=Strict; Path=/api/v1/user/password-reset; Max-Age=600"
        )]);
        let reset = app.post("password-reset", json!({ "email": "ada@example.com", "password": NEW_PASSWORD, "resetGrant": grant })).await;
        assert_eq!(reset.shown(), (200, json!({ "message": "Password changed; sign in with the new one" })));

        assert_eq!(app.login("ada@example.com", PASSWORD).await.shown(), (401, json!({
            "message": "Invalid email or password", "code": "invalid_credentials",
        })));
        assert_eq!(app.caller().header("cookie", &old_cookie).get("/api/v1/user/check").await.shown(), (401, json!({
            "message": "Unauthorized", "code": "unauthorized",
        })));
        assert!(app.signs_in("ada@example.com", NEW_PASSWORD).await);
        app.deliver().await;
        assert_eq!(app.mails("ada@example.com")[0].subject, "Your password was changed");
    }

    async fn asking_again_repeats_the_answer_and_sends_nothing(database) {
        let app = TestApp::start(database).await;
        app.account("ada@example.com").await;
        let ask = async || app.post("forgot-password", json!({ "email": "ada@example.com" })).await.body();
        let first = ask().await;
        app.advance(20_000);
        assert_eq!(ask().await, json!({
            "message": first["message"], "reference": first["reference"], "expiresIn": 580, "resendAfter": 40,
        }));
        app.advance(41_000);
        assert_ne!(ask().await["reference"], first["reference"]);
        app.deliver().await;
        assert_eq!(app.count("select count(*) as n from outbox where kind = 'reset_code' and sent_at is not null").await, 2);
    }

    async fn a_fourth_code_is_not_sent_while_three_are_live(database) {
        let app = TestApp::start(database).await;
        app.account("ada@example.com").await;
        let mut codes = Vec::new();
        for network in ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"] {
            app.caller().from(network).post("forgot-password", json!({ "email": "ada@example.com" })).await;
            codes.push(app.code("ada@example.com").await);
            app.advance(MINUTE + 1000);
        }
        assert_eq!(codes[2], codes[3], "the fourth sent nothing");
        // The oldest is as good as ever: no request voids a live code.
        app.confirm(&codes[0]).await;
    }

    async fn without_a_session_nobody_is_signed_in(database) {
        let app = TestApp::start(database).await;
        for (method, path) in [("GET", "check"), ("POST", "logout"), ("POST", "logout-all"), ("GET", "sessions"), ("DELETE", "sessions/x")] {
            let reply = app.caller().send(method, &format!("/api/v1/user/{path}"), None).await;
            assert_eq!(reply.shown(), (401, json!({ "message": "Unauthorized", "code": "unauthorized" })), "{path}");
        }
    }
}
