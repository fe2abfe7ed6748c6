//! R rows: what callers send in place of addresses and codes.

use serde_json::{Value, json};

use crate::app::{PASSWORD, TestApp, on_both};

const ADA: &str = "ada@example.com";

/// Every call with its fields, each good in itself.
const CALLS: [(&str, &[(&str, &str)]); 7] = [
    ("forgot-password", &[("email", ADA)]),
    ("confirm-otp-reset", &[("resetToken", "7K3QM-X9T2B")]),
    (
        "password-reset",
        &[("email", ADA), ("password", "NewSecurePass123")],
    ),
    (
        "register",
        &[
            ("email", "new@example.com"),
            ("password", "NewSecurePass123"),
        ],
    ),
    ("verify-email", &[("verifyToken", "7K3QM-X9T2B")]),
    ("resend-verification", &[("email", ADA)]),
    ("login", &[("email", ADA), ("password", PASSWORD)]),
];

fn missing() -> (u16, Value) {
    (
        400,
        json!({ "message": "Missing One or More Required Parameters", "code": "missing_parameters" }),
    )
}

fn no_account() -> (u16, Value) {
    (
        404,
        json!({ "message": "No Account found with this email address", "code": "account_not_found" }),
    )
}

on_both! {
    /// R-10: tokens and addresses as object, array, null, number, bool, empty.
    async fn r10_other_types_are_missing_parameters(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        let live = app.forgot(ADA).await;
        let wrong = [
            Value::Null, json!(""), json!(0), json!(1.5), json!(true), json!(false), json!([]), json!({}),
            json!([ADA]), json!([live]), json!({ "$ne": null }), json!({ "$gt": "" }), json!({ "length": 1, "0": "a" }),
        ];
        for (call, fields) in CALLS {
            for (broken, _) in fields {
                for value in &wrong {
                    let mut body: Value = fields.iter().map(|(name, good)| ((*name).to_owned(), json!(good))).collect::<serde_json::Map<_, _>>().into();
                    body[*broken] = value.clone();
                    assert_eq!(app.post(call, body).await.shown(), missing(), "{call}: {broken} = {value}");
                }
                let body: serde_json::Map<_, _> = fields.iter().filter(|(name, _)| name != broken).map(|(name, good)| ((*name).to_owned(), json!(good))).collect();
                assert_eq!(app.post(call, body.into()).await.shown(), missing(), "{call} without {broken}");
            }
        }
        app.confirm(&live).await;
    }

    /// R-10: huge and odd strings are wrong ones, never a 500 and never a match.
    async fn r10_odd_strings_are_wrong_and_nothing_else(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        app.forgot(ADA).await;
        let huge = "A".repeat(30_000);
        for odd in [huge.as_str(), "%", "_", "' or 1=1 --", "\0", "\u{feff}", "\u{202e}", "💥", "null", "7K3QM-X9T2B7K3QM-X9T2B", "__________", "%%%%%%%%%%"] {
            for (call, field) in [("confirm-otp-reset", "resetToken"), ("verify-email", "verifyToken")] {
                let reply = app.post(call, json!({ field: odd })).await;
                assert_eq!(reply.shown(), (400, json!({ "message": "Invalid OTP", "code": "invalid_otp" })), "{call}: {odd:.20}");
            }
            for call in ["forgot-password", "resend-verification"] {
                assert_eq!(app.post(call, json!({ "email": odd })).await.shown(), no_account(), "{call}: {odd:.20}");
            }
            let login = app.post("login", json!({ "email": odd, "password": odd })).await;
            assert_eq!(login.shown(), (401, json!({ "message": "Invalid email or password", "code": "invalid_credentials" })), "{odd:.20}");
            let reset = app.post("password-reset", json!({ "email": odd, "password": odd })).await;
            assert_eq!(reset.shown(), (400, json!({ "message": "No Account found with this email address", "code": "account_not_found" })), "{odd:.20}");
            let register = app.post("register", json!({ "email": odd, "password": "NewSecurePass123" })).await;
            assert_eq!(register.shown(), (400, json!({ "message": "Invalid email address", "code": "invalid_email" })), "{odd:.20}");
        }
    }

    /// R-11: one address is one string. A list of two in any disguise reaches nobody.
    async fn r11_two_addresses_reach_nobody(database) {
        let app = TestApp::start(database).await;
        app.account(ADA).await;
        app.deliver().await;
        let before = app.mails(ADA).len();
        let eve = "eve@example.com";
        for call in ["forgot-password", "resend-verification"] {
            for array in [json!([ADA]), json!([ADA, eve]), json!({ "0": ADA, "1": eve })] {
                assert_eq!(app.post(call, json!({ "email": array })).await.shown(), missing(), "{call}: {array}");
            }
            for list in [
                format!("{ADA},{eve}"), format!("{ADA}, {eve}"), format!("{ADA};{eve}"), format!("{ADA} {eve}"), format!("{ADA}\n{eve}"), format!("{ADA}\r\nBcc: {eve}"),
                format!("{eve},{ADA}"), format!("<{ADA}>"), format!("Ada <{ADA}>"), format!("{ADA}\0"), format!("{ADA}%0a{eve}"), format!("{eve}@{ADA}"), format!("\"{ADA}\"@evil.example"),
            ] {
                assert_eq!(app.post(call, json!({ "email": list })).await.shown(), no_account(), "{call}: {list:?}");
            }
            let path = format!("/api/v1/user/{call}");
            let raw = [
                format!(r#"{{"email":"{ADA}","email":"{eve}"}}"#),
                format!(r#"{{"email":"{eve}","email":"{ADA}"}}"#),
                format!(r#"{{"email":"{ADA}","em\u0061il":"{eve}"}}"#),
                format!(r#"[{{"email":"{ADA}"}}]"#),
                format!(r#"{{"email":"{ADA}"}}{{"email":"{eve}"}}"#),
            ];
            for body in raw {
                assert_eq!(app.caller().send("POST", &path, Some(body.clone())).await.shown(), missing(), "{call}: {body}");
            }
            for (kind, body) in [
                ("application/x-www-form-urlencoded", format!("email={ADA}")),
                ("application/x-www-form-urlencoded", format!(r#"{{"email":"{ADA}"}}"#)),
                ("multipart/form-data; boundary=b", format!("--b\r\ncontent-disposition: form-data; name=email\r\n\r\n{ADA}\r\n--b--")),
                ("text/plain", format!(r#"{{"email":"{ADA}"}}"#)),
            ] {
                let reply = app.caller().header("content-type", kind).send("POST", &path, Some(body)).await;
                assert_eq!(reply.shown(), missing(), "{call}: {kind}");
            }
            let in_query = app.caller().send("POST", &format!("{path}?email={ADA}"), Some("{}".to_owned())).await;
            assert_eq!(in_query.shown(), missing());
        }
        app.deliver().await;
        assert_eq!(app.mails(ADA).len(), before, "no mail to the one");
        assert!(app.mails(eve).is_empty(), "no mail to the other");
        assert_eq!(app.count("select count(*) as n from outbox where sent_at is null and dropped_at is null").await, 0);
    }

    /// R-12: look-alikes are other addresses.
    async fn r12_look_alikes_never_reach_another_account(database) {
        let app = TestApp::start(database).await;
        app.account("mike@example.com").await;
        app.account("strasse@example.com").await;
        let code = app.forgot("mike@example.com").await;
        app.confirm(&code).await;
        let before = app.count("select count(*) as n from outbox where sent_at is not null").await;
        for look_alike in [
            "mıke@example.com", "mİke@example.com", "m\u{0456}ke@example.com", "ｍike@example.com", "m.ike@example.com", "mike+1@example.com",
            "mike\u{200b}@example.com", "\u{200d}mike@example.com", "mi\u{ad}ke@example.com", "mike@exаmple.com", "mike@example.com.", "mike@example.co",
            "mike@ｅxample.com", "mike@example。com", "mike@ex\u{ad}ample.com", "mike@example.com\u{200b}", "mike@ⓔxample.com", "mike@exam\u{fe0f}ple.com",
            "stra\u{df}e@example.com", "\u{17f}trasse@example.com", "mike@example.com@example.com", "mike @example.com", "mi ke@example.com",
        ] {
            assert_eq!(app.post("forgot-password", json!({ "email": look_alike })).await.shown(), no_account(), "{look_alike:?}");
            let reset = app.post("password-reset", json!({ "email": look_alike, "password": "NewSecurePass123" })).await;
            assert_eq!(reset.body()["code"], "account_not_found", "{look_alike:?}");
            assert!(!app.signs_in(look_alike, PASSWORD).await, "{look_alike:?}");
        }
        app.deliver().await;
        assert_eq!(app.count("select count(*) as n from outbox where sent_at is not null").await, before, "no mail to anybody");
        assert!(app.signs_in("mike@example.com", PASSWORD).await);
    }

    /// R-12: mail goes to the address as stored, however the asker wrote it.
    async fn r12_mail_goes_to_the_stored_address_only(database) {
        let app = TestApp::start(database).await;
        app.account("Jos\u{e9}.Ada@xn--bcher-kva.example").await;
        let ways = ["Jos\u{e9}.Ada@B\u{fc}cher.example", "  Jose\u{301}.Ada@xn--bcher-kva.example\n", "Jos\u{e9}.Ada@BU\u{308}CHER.EXAMPLE"];
        for written in ways {
            app.advance(61 * 60_000);
            let asked = app.post("forgot-password", json!({ "email": written })).await;
            assert_eq!(asked.status, 200, "{written:?}: {}", asked.text);
            app.deliver().await;
        }
        let room = app.app.mail.mailroom().expect("mail is captured").list();
        let resets: Vec<&str> = room.iter().filter(|mail| mail.subject.contains("new password")).map(|mail| mail.to.as_str()).collect();
        assert_eq!(resets, ["Jos\u{e9}.Ada@xn--bcher-kva.example"; 3]);
        assert_eq!(app.post("forgot-password", json!({ "email": "jos\u{e9}.ada@b\u{fc}cher.example" })).await.shown(), no_account(), "a local part beyond ASCII is not folded");
    }
}
