//! Signing in and out, the sessions of an account, and what a registration may hold.

use serde_json::{Value, json};

use crate::app::{Caller, MINUTE, PASSWORD, Reply, TestApp, on_both};

const ADA: &str = "ada@example.com";
const DAY: i64 = 24 * 60 * MINUTE;

fn unauthorized() -> (u16, Value) {
    (
        401,
        json!({ "message": "Unauthorized", "code": "unauthorized" }),
    )
}

fn token(reply: &Reply) -> String {
    let token = reply.body()["token"].as_str().map(str::to_owned);
    format!("Bearer {}", token.expect("a token"))
}

fn cookie(reply: &Reply) -> String {
    reply.cookie("customerToken").expect("a session's cookie")
}

async fn check(caller: &Caller) -> Reply {
    caller.get("/api/v1/user/check").await
}

on_both! {
    async fn cookies_say_what_the_contract_says(database) {
        for (origin, secure) in [("http://localhost:9000", ""), ("https://www.example.com", "; Secure")] {
            let app = TestApp::with(database, |config| config.server.public_origin = origin.to_owned()).await;
            app.account(ADA).await;
            let login = app.login(ADA, PASSWORD).await;
            let (session, device) = (cookie(&login), login.cookie("cxDevice").expect("a device"));
            assert_eq!(login.cookie_lines(), [
                format!("customerToken={session}; HttpOnly; SameSite=Lax; Path=/; Max-Age=1209600{secure}"),
                format!("cxDevice={device}; HttpOnly; SameSite=Lax; Path=/; Max-Age=34560000{secure}"),
            ]);
            assert_eq!((session.len(), device.len()), (43, 43), "256 bits each");
            let fresh = check(&app.caller().header("cookie", &format!("customerToken={session}"))).await;
            assert_eq!(fresh.cookie_lines(), [format!("customerToken={session}; HttpOnly; SameSite=Lax; Path=/; Max-Age=1209600{secure}")]);
            assert_eq!(check(&app.caller().header("authorization", &token(&login))).await.cookie_lines(), [""; 0], "a token caller gets no cookie");
            let code = app.forgot(ADA).await;
            let confirmed = app.post("confirm-otp-reset", json!({ "resetToken": code })).await;
            let grant = confirmed.cookie("resetGrant").expect("a grant");
            assert_eq!(confirmed.body()["resetGrant"], grant.as_str());
            assert_eq!(confirmed.cookie_lines(), [format!("resetGrant={grant}; HttpOnly; SameSite=Strict; Path=/api/v1/user/password-reset; Max-Age=600{secure}")]);
            let reset = app.post("password-reset", json!({ "email": ADA, "password": "NewSecurePass123", "resetGrant": grant })).await;
            assert_eq!(reset.cookie_lines(), [
                format!("customerToken=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0{secure}"),
                format!("userToken=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0{secure}"),
                format!("resetGrant=; HttpOnly; SameSite=Strict; Path=/api/v1/user/password-reset; Max-Age=0{secure}"),
            ]);
        }
    }

    async fn the_first_credential_present_decides_alone(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let login = app.login(ADA, PASSWORD).await;
        let (bearer, session) = (token(&login), cookie(&login));
        let caller = || app.caller();
        let good = [
            ("a token", caller().header("authorization", &bearer)),
            ("the scheme in any case", caller().header("authorization", &bearer.replace("Bearer", "bEARER"))),
            ("a cookie", caller().header("cookie", &format!("customerToken={session}"))),
            ("the second cookie", caller().header("cookie", &format!("userToken={session}"))),
            ("among others", caller().header("cookie", &format!("a=b; customerToken={session}; c=d"))),
            ("a good token before a bad cookie", caller().header("authorization", &bearer).header("cookie", "customerToken=x")),
            ("a good cookie before a bad one", caller().header("cookie", &format!("userToken=x; customerToken={session}"))),
            ("another scheme is no credential of ours", caller().header("authorization", "Basic eDp5").header("cookie", &format!("customerToken={session}"))),
        ];
        for (what, caller) in good {
            assert_eq!(check(&caller).await.status, 200, "{what}");
        }
        let both = format!("customerToken={session}");
        let bad = [
            ("nothing", caller()),
            ("a bad token before a good cookie", caller().header("authorization", "Bearer x").header("cookie", &both)),
            ("an empty token before a good cookie", caller().header("authorization", "Bearer").header("cookie", &both)),
            ("a bad cookie before a good one", caller().header("cookie", &format!("customerToken=x; userToken={session}"))),
            ("an empty cookie before a good one", caller().header("cookie", &format!("customerToken=; userToken={session}"))),
            ("a cookie twice in a line", caller().header("cookie", &format!("{both}; {both}"))),
            ("a cookie twice in two lines", caller().also("cookie", &both).also("cookie", &both)),
            ("the secret as a token", caller().header("authorization", &format!("Bearer {session}"))),
            ("the token as a cookie", caller().header("cookie", &format!("customerToken={}", &bearer[7..]))),
            ("a cookie's name in another case", caller().header("cookie", &format!("CustomerToken={session}"))),
        ];
        for (what, caller) in bad {
            assert_eq!(check(&caller).await.shown(), unauthorized(), "{what}");
        }
        // Two `Authorization` lines are nobody's ordinary client: the guard is faster.
        let two = caller().also("authorization", &bearer).also("authorization", &bearer);
        assert_eq!(check(&two).await.shown(), (403, json!({ "message": "Access denied", "code": "access_denied" })));
    }

    /// A token is EdDSA, of our type, for us; whatever else it is, it opens nothing.
    async fn a_token_that_is_bent_opens_nothing(database) {
        use base64::Engine;
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let good = token(&app.login(ADA, PASSWORD).await)[7..].to_owned();
        let parts: Vec<&str> = good.split('.').collect();
        let decoded = |part: &str| String::from_utf8(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("UTF-8");
        let encoded = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let (head, claims) = (decoded(parts[0]), decoded(parts[1]));
        assert!(head.contains("\"EdDSA\"") && head.contains("\"at+jwt\"") && claims.contains("\"aud\":\"http://localhost:9000\""), "{head} {claims}");
        let other = TestApp::start(database).await;
        other.account(ADA).await;
        let foreign = token(&other.login(ADA, PASSWORD).await)[7..].to_owned();
        for bent in [
            foreign,
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}.{}", encoded(&head.replace("EdDSA", "none")), parts[1], ""),
            format!("{}.{}.{}", encoded(&head.replace("EdDSA", "HS256")), parts[1], parts[2]),
            format!("{}.{}.{}", encoded(&head.replace("at+jwt", "JWT")), parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], encoded(&claims.replace("http://localhost:9000", "http://localhost:9001")), parts[2]),
            format!("{}.{}.{}", parts[0], parts[1], parts[2].chars().rev().collect::<String>()),
            "..".to_owned(), "a.b.c".to_owned(), String::new(),
        ] {
            assert_eq!(check(&app.caller().header("authorization", &format!("Bearer {bent}"))).await.shown(), unauthorized(), "{bent}");
        }
    }

    async fn sessions_are_listed_and_ended_one_by_one(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        app.account("eve@example.com").await;
        let phone = app.caller().from("127.0.0.5").header("user-agent", "Phone/1.0");
        let phone_login = phone.post("login", json!({ "email": ADA, "password": PASSWORD })).await;
        app.advance(MINUTE);
        let here = app.caller().header("cookie", &format!("customerToken={}", cookie(&app.login(ADA, PASSWORD).await)));
        let eve = app.caller().header("authorization", &token(&app.login("eve@example.com", PASSWORD).await));
        let listed = here.get("/api/v1/user/sessions").await;
        let list = listed.body()["sessions"].clone();
        assert_eq!(listed.shown(), (200, json!({ "message": "Your sessions", "sessions": [
            { "id": list[0]["id"], "device": "curl/8.5.0", "network": "127.0.0.1", "createdAt": "2026-11-23T12:01:00Z", "lastSeenAt": "2026-11-23T12:01:00Z", "current": true },
            { "id": list[1]["id"], "device": "Phone/1.0", "network": "127.0.0.5", "createdAt": "2026-11-23T12:00:00Z", "lastSeenAt": "2026-11-23T12:00:00Z", "current": false },
        ] })));
        let path = |n: usize| format!("/api/v1/user/sessions/{}", list[n]["id"].as_str().expect("an id"));
        let not_found = (404, json!({ "message": "Not Found", "code": "not_found" }));
        assert_eq!(eve.send("DELETE", &path(1), None).await.shown(), not_found, "somebody else's session");
        for odd in ["nothing", "%27", "a%20b", "%ff"] {
            let reply = here.send("DELETE", &format!("/api/v1/user/sessions/{odd}"), None).await;
            assert_eq!(reply.shown(), not_found, "{odd}");
        }
        let phone_session = app.caller().header("cookie", &format!("customerToken={}", cookie(&phone_login)));
        assert_eq!(check(&phone_session).await.status, 200);
        let ended = here.send("DELETE", &path(1), None).await;
        assert_eq!(ended.shown(), (200, json!({ "message": "Session ended" })));
        assert_eq!(ended.cookie_lines(), [""; 0], "another session's cookies are not here");
        assert_eq!(check(&phone_session).await.shown(), unauthorized());
        assert_eq!(here.send("DELETE", &path(1), None).await.shown(), not_found, "ended already");
        let own = here.send("DELETE", &path(0), None).await;
        assert_eq!((own.status, own.cookie("customerToken")), (200, Some(String::new())));
        assert_eq!(check(&here).await.shown(), unauthorized());
        assert_eq!(check(&eve).await.status, 200);
    }

    async fn logging_out_ends_one_session_or_all(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let mut sessions = Vec::new();
        for _ in 0..4 {
            let login = app.login(ADA, PASSWORD).await;
            sessions.push(app.caller().header("cookie", &format!("customerToken={}", cookie(&login))));
        }
        let out = sessions[0].post("logout", json!({})).await;
        assert_eq!(out.shown(), (200, json!({ "message": "Signed out" })));
        assert_eq!(out.cookie_lines().len(), 3, "our cookies are deleted");
        assert_eq!(sessions[0].post("logout", json!({})).await.shown(), unauthorized());
        assert_eq!(check(&sessions[1]).await.status, 200, "the others live on");
        // A logout leaves an open reset alone, a logout from everywhere does not.
        let code = app.forgot(ADA).await;
        assert_eq!(sessions[1].post("logout", json!({})).await.status, 200);
        let grant = app.confirm(&code).await;
        assert_eq!(sessions[2].post("logout-all", json!({})).await.shown(), (200, json!({ "message": "Signed out everywhere" })));
        for session in &sessions {
            assert_eq!(check(session).await.shown(), unauthorized());
        }
        let reset = app.post("password-reset", json!({ "email": ADA, "password": "NewSecurePass123", "resetGrant": grant })).await;
        assert_eq!(reset.shown(), (400, json!({ "message": "Invalid Request", "code": "invalid_request" })));
    }

    async fn a_session_idles_fourteen_days_and_lives_ninety(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let login = app.login(ADA, PASSWORD).await;
        let by_cookie = app.caller().header("cookie", &format!("customerToken={}", cookie(&login)));
        app.advance(14 * DAY - 1000);
        assert_eq!(check(&by_cookie).await.status, 200);
        app.advance(14 * DAY);
        assert_eq!(check(&by_cookie).await.shown(), unauthorized(), "idle for fourteen days");
        let login = app.login(ADA, PASSWORD).await;
        let by_cookie = app.caller().header("cookie", &format!("customerToken={}", cookie(&login)));
        let mut bearer = token(&login);
        for _ in 0..8 {
            app.advance(11 * DAY);
            let seen = check(&by_cookie).await;
            assert_eq!(seen.status, 200);
            assert_eq!(check(&app.caller().header("authorization", &bearer)).await.status, 200);
            bearer = token(&seen);
        }
        app.advance(2 * DAY);
        assert_eq!(check(&by_cookie).await.shown(), unauthorized(), "ninety days old");
        assert_eq!(check(&app.caller().header("authorization", &bearer)).await.shown(), unauthorized());
    }

    async fn optional_fields_of_a_registration(database) {
        let app = TestApp::start(database).await;
        for (field, wrong) in [
            ("firstName", json!(7)), ("firstName", json!("")), ("firstName", json!(["Ada"])), ("firstName", json!("x".repeat(101))), ("firstName", json!("Ada\nBcc: eve@example.com")),
            ("lastName", json!(true)), ("lastName", json!({})), ("lastName", json!("\u{202e}ecalevoL")), ("lastName", json!("a\0b")), ("lastName", json!("a\u{2028}b")),
            ("phone", json!(491_511_234_567_i64)), ("phone", json!("")), ("phone", json!("015112345678")), ("phone", json!("+0151123456")), ("phone", json!("+1234567")),
            ("phone", json!("+1234567890123456")), ("phone", json!("+49 151 12345678")), ("phone", json!("+49151١٢٣٤٥٦٧٨")),
        ] {
            let mut body = json!({ "email": ADA, "password": PASSWORD });
            body[field] = wrong.clone();
            assert_eq!(app.post("register", body).await.shown(), (400, json!({
                "message": format!("Invalid field: {field}"), "code": "invalid_field", "field": field,
            })), "{field} = {wrong}");
        }
        assert_eq!(app.count("select count(*) as n from accounts").await, 0);
        for (n, (profile, first, last, phone)) in [
            (json!({ "firstName": null, "lastName": null, "phone": null }), Value::Null, Value::Null, Value::Null),
            (json!({ "firstName": "Ada", "lastName": "O'Brien-Łovelace", "phone": "+4915112345678" }), json!("Ada"), json!("O'Brien-Łovelace"), json!("+4915112345678")),
            (json!({ "firstName": "é".repeat(100), "phone": "+12345678" }), json!("é".repeat(100)), Value::Null, json!("+12345678")),
        ].into_iter().enumerate() {
            let mut body = profile;
            let email = format!("p{n}@example.com");
            (body["email"], body["password"]) = (json!(email), json!(PASSWORD));
            assert_eq!(app.post("register", body).await.status, 201);
            let code = app.code(&email).await;
            assert_eq!(app.post("verify-email", json!({ "verifyToken": code })).await.status, 200);
            let user = app.login(&email, PASSWORD).await.body()["user"].clone();
            assert_eq!((&user["firstName"], &user["lastName"], &user["phone"]), (&first, &last, &phone));
        }
    }

    async fn a_registration_is_refused_in_the_contracts_order(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let ask = async |body: Value| app.post("register", body).await.shown();
        assert_eq!(ask(json!({ "email": "no address", "password": "" })).await.1["code"], "missing_parameters");
        assert_eq!(ask(json!({ "email": "no address", "password": "short", "phone": "x" })).await, (400, json!({ "message": "Invalid email address", "code": "invalid_email" })));
        assert_eq!(ask(json!({ "email": ADA, "password": "short", "phone": "x" })).await.1["code"], "invalid_field");
        assert_eq!(ask(json!({ "email": ADA, "password": "short" })).await, (400, json!({
            "message": "Use at least 8 characters.", "code": "weak_password", "reasons": ["Use at least 8 characters."],
        })));
        assert_eq!(ask(json!({ "email": ADA, "password": "ada@example.com" })).await.1["code"], "weak_password", "made of the person's own data");
        assert_eq!(ask(json!({ "email": ADA, "password": PASSWORD })).await, (409, json!({ "message": "Account already exists", "code": "account_exists" })));
        assert_eq!(ask(json!({ "email": "new@example.com", "password": "NewSecurePass123" })).await.0, 201, "the published example passes");
    }
}
