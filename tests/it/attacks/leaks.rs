//! what is at rest, and what the codes are made of.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::app::{NEW_PASSWORD, PASSWORD, TestApp, on_both};
use crate::process::{Installation, Process};

const ADA: &str = "ada@example.com";

/// Everything that must be nowhere, with a name for the failure's text.
#[derive(Default)]
struct Secrets(Vec<(&'static str, Vec<u8>)>);

impl Secrets {
    /// As text; and where it stands for bytes, these too, raw and in hexadecimal.
    fn add(&mut self, name: &'static str, secret: &str) {
        self.0.push((name, secret.as_bytes().to_vec()));
        if let Ok(bytes) = URL_SAFE_NO_PAD.decode(secret)
            && bytes.len() == 32
        {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            self.0.push((name, hex.into_bytes()));
            self.0.push((name, bytes));
        }
    }

    fn add_code(&mut self, code: &str) {
        let bare = code.replace('-', "");
        for way in [code, &bare, &code.to_lowercase(), &bare.to_lowercase()] {
            self.add("a code", way);
        }
    }

    /// The names of those that are in `place`.
    fn in_bytes(&self, place: &[u8]) -> Vec<&'static str> {
        let is_in = |secret: &[u8]| place.windows(secret.len()).any(|part| part == secret);
        self.0
            .iter()
            .filter(|(_, secret)| is_in(secret))
            .map(|(name, _)| *name)
            .collect()
    }

    async fn assert_nowhere(&self, when: &str, installed: &Installation, process: &Process) {
        let mut places = 0;
        let mut folders = vec![installed.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                // A socket holds nothing.
                if !path.is_file() {
                    continue;
                }
                let bytes = std::fs::read(&path).expect("a file");
                assert_eq!(self.in_bytes(&bytes), [""; 0], "{when}: {}", path.display());
                places += bytes.len();
            }
        }
        if installed.database.starts_with("postgres") {
            let dump = everything_in(&installed.database).await;
            assert!(dump.contains(ADA), "the dump holds the tables");
            assert_eq!(self.in_bytes(dump.as_bytes()), [""; 0], "{when}: a table");
        } else {
            let database = installed.folder.path().join("data/test.db");
            assert!(
                is_there(&database, ADA) || is_there(&database.with_extension("db-wal"), ADA),
                "the search finds what is there"
            );
        }
        let metrics = process.admin.get("/metrics").await;
        assert_eq!(metrics.status, 200);
        assert_eq!(
            self.in_bytes(metrics.text.as_bytes()),
            [""; 0],
            "{when}: the metrics"
        );
        assert!(places > 0 && metrics.text.contains("cargoextra_outbox_depth"));
    }
}

fn is_there(path: &Path, text: &str) -> bool {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// All text of all tables, bytes in hexadecimal.
async fn everything_in(database: &str) -> String {
    let dumped = tokio::process::Command::new("psql")
        .args([
            database,
            "-qAtc",
            "select table_name from information_schema.tables where table_schema = 'public'",
        ])
        .output()
        .await;
    let tables = String::from_utf8(dumped.expect("psql lists").stdout).expect("UTF-8");
    let mut all = String::new();
    for table in tables.lines() {
        let rows = tokio::process::Command::new("psql")
            .args([
                database,
                "-qAtc",
                &format!("select t::text from \"{table}\" t"),
            ])
            .output()
            .await;
        all += &String::from_utf8(rows.expect("psql selects").stdout).expect("UTF-8");
    }
    all
}

on_both! {
    /// after each step of a flow, no secret of it in any file, table, log or metric.
    async fn r14_nothing_secret_is_at_rest(database) {
        let mut installed = Installation::new(database).await;
        installed.set("telemetry.log", "trace");
        let process = installed.serve().await;
        let public = &process.public;
        let mut secrets = Secrets::default();
        secrets.add("a password", PASSWORD);
        secrets.add("a password", NEW_PASSWORD);

        public.post("register", json!({ "email": ADA, "password": PASSWORD })).await;
        let code = process.code(ADA, 1).await;
        secrets.add_code(&code);
        secrets.assert_nowhere("after registering", &installed, &process).await;
        assert_eq!(public.post("verify-email", json!({ "verifyToken": code })).await.status, 200);
        let signed_in = public.post("login", json!({ "email": ADA, "password": PASSWORD })).await;
        secrets.add("a session", &signed_in.cookie("customerToken").expect("one"));
        secrets.add("a device", &signed_in.cookie("cxDevice").expect("one"));
        secrets.add("a token", signed_in.body()["token"].as_str().expect("one"));
        let session = public.clone().header("cookie", &format!("customerToken={}", signed_in.cookie("customerToken").expect("one")));
        assert_eq!(session.get("/api/v1/user/check").await.status, 200);
        secrets.assert_nowhere("after signing in", &installed, &process).await;

        assert_eq!(public.post("forgot-password", json!({ "email": ADA })).await.status, 200);
        let code = process.code(ADA, 2).await;
        secrets.add_code(&code);
        secrets.assert_nowhere("after the request", &installed, &process).await;
        // What is typed wrong is often nearly right.
        assert_eq!(public.post("login", json!({ "email": ADA, "password": NEW_PASSWORD })).await.status, 401);
        let confirmed = public.post("confirm-otp-reset", json!({ "resetToken": code })).await;
        let grant = confirmed.body()["resetGrant"].as_str().expect("one").to_owned();
        secrets.add("a grant", &grant);
        secrets.assert_nowhere("after the confirm", &installed, &process).await;
        let by_header = public.clone().header("x-reset-grant", &grant);
        assert_eq!(by_header.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD })).await.status, 200);
        secrets.assert_nowhere("after the reset", &installed, &process).await;
        assert!(process.stop().await, "it stops gracefully");
    }

    /// the codes that really go out keep to their alphabet and do not repeat; keys.rs counts a million.
    async fn r15_codes_in_mails_are_ten_symbols_and_differ(database) {
        let app = TestApp::start(database).await;
        let mut seen = std::collections::BTreeSet::new();
        let calls = (0..40).map(|n| {
            let caller = app.caller();
            async move { caller.post("register", json!({ "email": format!("p{n}@example.com"), "password": PASSWORD })).await }
        });
        for reply in futures_util::future::join_all(calls).await {
            assert_eq!(reply.status, 201, "{}", reply.text);
        }
        app.deliver().await;
        for n in 0..40 {
            let code = crate::app::code_in(&app.mails(&format!("p{n}@example.com"))[0].text).replace('-', "");
            assert!(code.len() == 10 && code.bytes().all(|byte| b"0123456789ABCDEFGHJKMNPQRSTVWXYZ".contains(&byte)), "{code}");
            assert!(seen.insert(code));
        }
    }
}
