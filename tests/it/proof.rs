//! Who may finish a confirmed reset: every condition of the fallback one by one, the grant and where it is looked for.

use cargoextra::config::{Config, Proof};
use serde_json::{Value, json};

use crate::app::{Caller, MINUTE, NEW_PASSWORD, PASSWORD, Reply, TestApp, on_both};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

/// The answer of a reset that nobody proved.
fn refused() -> (u16, Value) {
    (
        400,
        json!({ "message": "Invalid Request", "code": "invalid_request" }),
    )
}

fn done() -> (u16, Value) {
    (
        200,
        json!({ "message": "Password changed; sign in with the new one" }),
    )
}

/// A client written from the published page: it sends no grant.
async fn bare(caller: &Caller) -> Reply {
    let body = json!({ "email": ADA, "password": NEW_PASSWORD });
    caller.post("password-reset", body).await
}

async fn with_body_grant(caller: &Caller, grant: Value) -> Reply {
    let body = json!({ "email": ADA, "password": NEW_PASSWORD, "resetGrant": grant });
    caller.post("password-reset", body).await
}

/// Not a developer's machine: the condition about other accounts holds.
fn public(config: &mut Config) {
    config.server.public_origin = "https://www.example.com".to_owned();
}

/// Ada's reset, confirmed from 127.0.0.1 with curl; the grant.
async fn confirmed(app: &TestApp) -> String {
    app.account(ADA).await;
    let code = app.forgot(ADA).await;
    app.confirm(&code).await
}

on_both! {
    async fn the_published_body_is_enough_for_the_same_client(database) {
        let app = TestApp::start(database).await;
        confirmed(&app).await;
        assert_eq!(bare(&app.caller()).await.shown(), done());
        assert!(app.signs_in(ADA, NEW_PASSWORD).await);
        assert!(!app.signs_in(ADA, PASSWORD).await);
    }

    async fn another_network_is_another_client(database) {
        let app = TestApp::start(database).await;
        let grant = confirmed(&app).await;
        assert_eq!(bare(&app.caller().from("127.0.0.2")).await.shown(), refused());
        assert!(app.signs_in(ADA, PASSWORD).await, "nothing changed");
        // The grant is good from everywhere.
        assert_eq!(with_body_grant(&app.caller().from("127.0.0.2"), json!(grant)).await.shown(), done());
    }

    async fn another_user_agent_is_another_client(database) {
        let app = TestApp::start(database).await;
        confirmed(&app).await;
        for agent in ["curl/8.5.1", "curl/8.5.0 ", "CURL/8.5.0", "x", ""] {
            let caller = app.caller().header("user-agent", agent);
            // A trailing blank is not part of a header's value: that one is the same client.
            if agent.trim() == "curl/8.5.0" { continue; }
            assert_eq!(bare(&caller).await.shown(), refused(), "{agent:?}");
        }
        assert!(app.signs_in(ADA, PASSWORD).await, "nothing changed");
        assert_eq!(bare(&app.caller()).await.shown(), done());
    }

    async fn without_a_user_agent_nobody_is_the_same_client(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        let nameless = app.caller().header("user-agent", "");
        let confirmed = nameless.post("confirm-otp-reset", json!({ "resetToken": code })).await;
        assert_eq!(confirmed.status, 200, "{}", confirmed.text);
        assert_eq!(bare(&nameless).await.shown(), refused());
        let empty = app.caller().header("user-agent", "").also("user-agent", "");
        assert_eq!(bare(&empty).await.shown(), refused());
        assert_eq!(bare(&app.caller()).await.shown(), refused());
        assert_eq!(with_body_grant(&nameless, confirmed.body()["resetGrant"].clone()).await.shown(), done());
    }

    async fn the_fallback_lasts_two_minutes(database) {
        let app = TestApp::start(database).await;
        confirmed(&app).await;
        app.advance(2 * MINUTE);
        assert_eq!(bare(&app.caller()).await.shown(), done(), "at most two minutes ago");

        app.advance(MINUTE);
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        app.advance(2 * MINUTE + 1);
        assert_eq!(bare(&app.caller()).await.shown(), refused());
        assert_eq!(with_body_grant(&app.caller(), json!(grant)).await.status, 200, "the grant lives on");
    }

    async fn a_confirm_can_give_the_fallback_up(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let code = app.forgot(ADA).await;
        for wrong in [json!("cookie"), json!(""), json!(7), json!(true), json!([]), json!({ "grant": 1 })] {
            let reply = app.post("confirm-otp-reset", json!({ "resetToken": code, "proof": wrong })).await;
            assert_eq!(reply.shown(), (400, json!({ "message": "Invalid field: proof", "code": "invalid_field", "field": "proof" })));
        }
        let confirmed = app.post("confirm-otp-reset", json!({ "resetToken": code, "proof": "grant" })).await;
        assert_eq!(confirmed.status, 200, "{}", confirmed.text);
        assert_eq!(bare(&app.caller()).await.shown(), refused());
        assert_eq!(with_body_grant(&app.caller(), confirmed.body()["resetGrant"].clone()).await.shown(), done());
    }

    async fn a_wrong_grant_never_falls_back(database) {
        let app = TestApp::start(database).await;
        let grant = confirmed(&app).await;
        let same = app.caller();
        for wrong in [Value::Null, json!(""), json!(7), json!(true), json!([]), json!([grant]), json!({}), json!("wrong"), json!(format!("{grant} "))] {
            assert_eq!(with_body_grant(&same, wrong.clone()).await.shown(), refused(), "{wrong}");
            // Nor does it look on for a right one.
            let two = same.clone().header("x-reset-grant", &grant).header("cookie", &format!("resetGrant={grant}"));
            assert_eq!(with_body_grant(&two, wrong.clone()).await.shown(), refused(), "{wrong} before right ones");
        }
        let right_cookie = format!("resetGrant={grant}");
        let cases = [
            ("a wrong header", same.clone().also("x-reset-grant", "wrong")),
            ("an empty header", same.clone().also("x-reset-grant", "")),
            ("a wrong header before a right cookie", same.clone().also("x-reset-grant", "wrong").also("cookie", &right_cookie)),
            ("two headers", same.clone().also("x-reset-grant", &grant).also("x-reset-grant", &grant)),
            ("a wrong cookie", same.clone().also("cookie", "resetGrant=wrong")),
            ("an empty cookie", same.clone().also("cookie", "resetGrant=")),
            ("two cookies in a line", same.clone().also("cookie", &format!("{right_cookie}; {right_cookie}"))),
            ("two cookies in two lines", same.clone().also("cookie", &right_cookie).also("cookie", &right_cookie)),
        ];
        for (what, caller) in cases {
            assert_eq!(bare(&caller).await.shown(), refused(), "{what}");
        }
        assert!(app.signs_in(ADA, PASSWORD).await, "nothing changed");
        assert_eq!(bare(&same).await.shown(), done(), "and the fallback was there all the time");
    }

    async fn a_forwarding_header_on_the_confirm_ends_the_fallback(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        for (name, value) in [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=203.0.113.9"), ("x-real-ip", "203.0.113.9"), ("true-client-ip", "203.0.113.9")] {
            app.advance(61 * MINUTE);
            let code = app.forgot(ADA).await;
            let forwarded = app.caller().header(name, value);
            let reply = forwarded.post("confirm-otp-reset", json!({ "resetToken": code })).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            assert_eq!(bare(&app.caller()).await.shown(), refused(), "{name}");
            assert_eq!(bare(&forwarded).await.shown(), refused(), "{name}");
        }
    }

    async fn a_forwarding_header_on_the_reset_ends_the_fallback(database) {
        let app = TestApp::start(database).await;
        confirmed(&app).await;
        for (name, value) in [
            ("x-forwarded-for", "127.0.0.1"), ("X-Forwarded-Proto", "https"), ("x-forwarded-host", "x"), ("forwarded", "for=127.0.0.1"),
            ("x-real-ip", "127.0.0.1"), ("true-client-ip", "127.0.0.1"), ("cf-connecting-ip", "127.0.0.1"),
        ] {
            assert_eq!(bare(&app.caller().header(name, value)).await.shown(), refused(), "{name}");
        }
        assert!(app.signs_in(ADA, PASSWORD).await, "nothing changed");
        assert_eq!(bare(&app.caller()).await.shown(), done());
    }

    async fn another_account_that_signed_in_from_the_client_ends_the_fallback(database) {
        let app = TestApp::with(database, public).await;
        app.account(EVE).await;
        app.account(ADA).await;
        assert!(app.signs_in(EVE, PASSWORD).await);
        app.advance(10 * MINUTE - 1);
        let code = app.forgot(ADA).await;
        let grant = app.confirm(&code).await;
        assert_eq!(bare(&app.caller()).await.shown(), refused(), "within ten minutes");
        app.advance(1);
        assert_eq!(bare(&app.caller()).await.shown(), done(), "ten minutes later");
        assert_eq!(with_body_grant(&app.caller(), json!(grant)).await.shown(), refused(), "used");
    }

    async fn another_account_that_signs_in_after_the_confirm_ends_the_fallback(database) {
        let app = TestApp::with(database, public).await;
        app.account(EVE).await;
        let grant = confirmed(&app).await;
        assert!(app.signs_in(EVE, PASSWORD).await);
        assert_eq!(bare(&app.caller()).await.shown(), refused());
        assert_eq!(with_body_grant(&app.caller(), json!(grant)).await.shown(), done());
    }

    async fn another_account_that_starts_from_the_client_ends_the_fallback(database) {
        let app = TestApp::with(database, public).await;
        app.account(EVE).await;
        confirmed(&app).await;
        let asked = app.post("forgot-password", json!({ "email": EVE })).await;
        assert_eq!(asked.status, 200, "{}", asked.text);
        assert_eq!(bare(&app.caller()).await.shown(), refused(), "even while its mail waits in the queue");
        app.deliver().await;
        assert_eq!(bare(&app.caller()).await.shown(), refused());
    }

    async fn another_account_that_confirms_from_the_client_ends_the_fallback(database) {
        let app = TestApp::with(database, public).await;
        app.account(EVE).await;
        // Asked for elsewhere, so that the confirm alone is what counts.
        let elsewhere = app.caller().from("127.0.0.9");
        elsewhere.post("forgot-password", json!({ "email": EVE })).await;
        let code = app.code(EVE).await;
        confirmed(&app).await;
        app.confirm(&code).await;
        assert_eq!(bare(&app.caller()).await.shown(), refused());
        assert!(app.signs_in(ADA, PASSWORD).await, "nothing changed");
    }

    async fn what_other_clients_do_with_other_accounts_does_not_count(database) {
        let app = TestApp::with(database, public).await;
        app.account(EVE).await;
        confirmed(&app).await;
        for other in [app.caller().from("127.0.0.7"), app.caller().header("user-agent", "Mozilla/5.0")] {
            let reply = other.post("login", json!({ "email": EVE, "password": PASSWORD })).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
        // Nor what this client does with the same account.
        assert!(app.signs_in(ADA, PASSWORD).await);
        assert_eq!(bare(&app.caller()).await.shown(), done());
    }

    async fn on_a_developers_machine_other_accounts_do_not_count(database) {
        let app = TestApp::start(database).await;
        app.account(EVE).await;
        confirmed(&app).await;
        assert!(app.signs_in(EVE, PASSWORD).await);
        let code = app.forgot(EVE).await;
        app.confirm(&code).await;
        assert_eq!(bare(&app.caller()).await.shown(), done());
    }

    async fn proof_grant_demands_the_grant_always(database) {
        let app = TestApp::with(database, |config| config.accounts.reset.proof = Proof::Grant).await;
        let grant = confirmed(&app).await;
        assert_eq!(bare(&app.caller()).await.shown(), refused());
        assert!(app.signs_in(ADA, PASSWORD).await, "nothing changed");
        assert_eq!(with_body_grant(&app.caller(), json!(grant)).await.shown(), done());
    }

    /// A reset confirmed before the operator chose `grant` has no fallback left either.
    async fn proof_grant_holds_for_what_was_confirmed_before(database) {
        let app = TestApp::start(database).await;
        confirmed(&app).await;
        let stricter = app.again_with(|config| config.accounts.reset.proof = Proof::Grant).await;
        assert_eq!(bare(&stricter.caller()).await.shown(), refused());
        assert_eq!(bare(&app.caller()).await.shown(), done());
    }

    async fn the_grant_is_taken_from_body_header_or_cookie(database) {
        let app = TestApp::with(database, |config| config.accounts.reset.proof = Proof::Grant).await;
        app.account(ADA).await;
        for way in ["body", "header", "cookie", "right body, wrong rest", "right header, wrong cookie"] {
            app.advance(61 * MINUTE);
            let code = app.forgot(ADA).await;
            let grant = app.confirm(&code).await;
            let (header, cookie) = (("x-reset-grant", grant.as_str()), format!("a=b; resetGrant={grant}; c=d"));
            let from = app.caller().from("127.0.0.3");
            let reply = match way {
                "body" => with_body_grant(&from, json!(grant)).await,
                "header" => bare(&from.header(header.0, header.1)).await,
                "cookie" => bare(&from.header("cookie", &cookie)).await,
                "right body, wrong rest" => with_body_grant(&from.header("x-reset-grant", "wrong").header("cookie", "resetGrant=wrong"), json!(grant)).await,
                _ => bare(&from.header(header.0, header.1).header("cookie", "resetGrant=wrong")).await,
            };
            assert_eq!(reply.shown(), done(), "{way}");
        }
    }

    /// A weak password costs nothing: the reset stays confirmed, with and without the grant.
    async fn a_weak_password_leaves_the_reset_confirmed(database) {
        let app = TestApp::start(database).await;
        let grant = confirmed(&app).await;
        for (weak, reasons) in [
            ("short", vec!["Use at least 8 characters."]),
            ("Password1", vec!["This password is known from data breaches. Choose another one."]),
        ] {
            let reply = app.post("password-reset", json!({ "email": ADA, "password": weak, "resetGrant": grant })).await;
            assert_eq!(reply.shown(), (400, json!({ "message": reasons.join(" "), "code": "weak_password", "reasons": reasons })));
        }
        // Whoever proves nothing learns nothing of the policy either: 3 comes before 4.
        let stranger = app.caller().from("127.0.0.2");
        let reply = stranger.post("password-reset", json!({ "email": ADA, "password": "short" })).await;
        assert_eq!(reply.shown(), refused());
        assert_eq!(bare(&app.caller()).await.shown(), done());
    }
}

/// With a public origin and only loopback listeners everybody would be one client.
#[test]
fn serve_refuses_the_fallback_where_everybody_would_be_one_client() {
    const TEXT: &str = "accounts.reset.proof: with same-client, a public origin and only loopback listeners, everybody behind your proxy would be one client; name the proxy in server.trusted_proxies or set proof = \"grant\"";
    let refusal = |change: fn(&mut Config)| {
        let mut config = Config::load(None, std::iter::empty()).expect("the default is valid");
        public(&mut config);
        change(&mut config);
        config.refuses_to_serve()
    };
    assert_eq!(refusal(|_| {}), Some(TEXT));
    assert_eq!(
        refusal(|config| config.accounts.reset.proof = Proof::Grant),
        None
    );
    assert_eq!(
        refusal(|config| config.server.public_origin = "http://127.0.0.1:9000".to_owned()),
        None
    );
    assert_eq!(
        refusal(|config| {
            let everywhere = "0.0.0.0:9000".parse().expect("an address");
            config.server.listen.push(everywhere);
        }),
        None
    );
    assert_eq!(
        refusal(|config| {
            let proxy = "127.0.0.1/32".parse().expect("a network");
            config.server.trusted_proxies.push(proxy);
        }),
        None
    );
}
