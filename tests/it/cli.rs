//! The real binary, as an operator uses it.

use serde_json::{Value, json};

use crate::app::{NEW_PASSWORD, PASSWORD, on_both};
use crate::process::{Installation, Printed};

const ADA: &str = "ada@example.com";

fn json_of(printed: &Printed) -> Value {
    assert!(printed.success, "{}", printed.err);
    serde_json::from_str(&printed.out).expect("JSON")
}

/// A configuration file in the installation's folder; its path.
fn file(installed: &Installation, text: &str) -> String {
    let path = installed.folder.path().join("cargoextra.toml");
    std::fs::write(&path, text).expect("it can be written");
    path.display().to_string()
}

async fn create(installed: &Installation, email: &str) {
    let made = installed
        .run(&["account", "create", email], &format!("{PASSWORD}\n"))
        .await;
    assert!(made.success, "{}", made.err);
}

on_both! {
    async fn explain_says_who_decides(database) {
        let installed = Installation::new(database).await;
        let denied = installed.run(&["explain", "GET /.env", "--from", "203.0.113.9"], "").await;
        assert_eq!((denied.success, denied.out.as_str()), (true, "guard   builtin-scanner-paths decides: Deny, because path of a hidden file\ngoes to ourselves (404 if we have no such path)\n"));
        let passes = installed.run(&["explain", "GET /healthz", "-H", "user-agent: curl/8.5.0"], "").await;
        assert_eq!(passes.out, "guard   no rule matches: it passes\ngoes to ourselves (404 if we have no such path)\n");
        let bent = installed.run(&["explain", "GET /a/../b"], "").await;
        assert_eq!((bent.success, bent.err.as_str()), (false, "cargoextra: answered 400 before any rule: the path has a dot segment\n"));
    }

    async fn config_check_tells_all_problems_at_once(database) {
        let mut installed = Installation::new(database).await;
        let good = installed.run(&["config", "check"], "").await;
        assert_eq!((good.success, good.out.as_str(), good.err.as_str()), (true, "The configuration is good.\n", ""));

        let path = file(&installed, "nonsense = 1\n[server]\nlisten = \"127.0.0.1:1\"\nport = 9000\n[accounts.budgets]\nmails = 7\n[mail]\nbatch = \"many\"\n");
        let bad = installed.run(&["config", "check", "--config", &path], "").await;
        assert!(!bad.success && bad.out.is_empty());
        let mut lines: Vec<&str> = bad.err.trim_start_matches("cargoextra: ").lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, [
            "accounts.budgets.mails: there is no such key; see config.default.toml",
            "mail.batch: must be integer, not string",
            "nonsense: there is no such key; see config.default.toml",
            "server.listen: must be array, not string",
            "server.port: there is no such key; see config.default.toml",
        ]);

        let path = file(&installed, "[server]\npublic_origin = \"https://www.example.com/\"\nallowed_origins = [\"*\"]\n[hash]\nmemory_kib = 64\n[accounts.reset]\ncode_life = \"1h\"\n[secrets]\nkeys = [{ id = \"a\", value = \"short\" }]\n");
        let bad = installed.run(&["--config", &path, "config", "check"], "").await;
        for part in ["server.public_origin:", "server.allowed_origins:", "hash:", "accounts.reset:", "secrets:", "mail.transport:"] {
            assert!(bad.err.lines().any(|line| line.trim_start_matches("cargoextra: ").starts_with(part)), "{part} {}", bad.err);
        }
        assert!(!bad.success && !bad.err.contains("short\""));

        installed.set("server.colour", "red");
        installed.set("mail.batch", "many");
        let bad = installed.run(&["config", "check"], "").await;
        let mut lines: Vec<&str> = bad.err.trim_start_matches("cargoextra: ").lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["CARGOEXTRA_MAIL__BATCH: `many` is not a whole number", "CARGOEXTRA_SERVER__COLOUR: there is no key `colour`"]);
        let missing = installed.run(&["config", "check", "--config", "/nonexistent.toml"], "").await;
        assert!(!missing.success && missing.err.contains("/nonexistent.toml: can't be read"), "{}", missing.err);
    }

    async fn what_config_check_refuses_serve_refuses_too(database) {
        let mut installed = Installation::new(database).await;
        installed.set("server.public_origin", "https://www.example.com");
        installed.set("mail.transport", "smtp");
        installed.set("secrets.keys", "[{ id = \"a\", value = \"0123456789abcdef0123456789abcdef\" }]");
        for arguments in [&["config", "check"][..], &["serve"], &[]] {
            let refused = installed.run(arguments, "").await;
            assert!(!refused.success && refused.out.is_empty(), "{arguments:?}");
            assert!(refused.err.starts_with("cargoextra: accounts.reset.proof: with same-client, a public origin and only loopback listeners"), "{}", refused.err);
        }
        installed.set("accounts.reset.proof", "grant");
        assert!(installed.run(&["config", "check"], "").await.success);
        installed.set("guard.bans.mode", "observe");
        let refused = installed.run(&["config", "check"], "").await;
        assert_eq!((refused.success, refused.err.as_str()), (false, "cargoextra: guard.bans.mode: with a public origin and only loopback listeners, a ban would be everybody's behind your proxy; name the proxy in server.trusted_proxies\n"));
        installed.set("server.trusted_proxies", "127.0.0.1/32");
        assert!(installed.run(&["config", "check"], "").await.success);
        installed.set("server.trusted_proxies", "");
        installed.set("guard.bans.mode", "off");
        installed.set("secrets.keys", "");
        let refused = installed.run(&["config", "check"], "").await;
        assert!(!refused.success && refused.err.contains("secrets.keys: set at least one"), "{}", refused.err);
    }

    async fn config_show_masks_secrets(database) {
        let mut installed = Installation::new(database).await;
        installed.set("secrets.keys", "[{ id = \"now\", value = \"0123456789abcdef-the-first-secret\" }, { id = \"old\", value = \"0123456789abcdef-the-second-secret\" }]");
        installed.set("secrets.peppers", "[{ id = \"p\", value = \"0123456789abcdef-the-pepper-secret\" }]");
        installed.set("mail.smtp_password", "the-mail-secret");
        installed.set("mail.smtp_url", "smtps://user:the-url-secret@mail.example.com:465");
        installed.set("limits.redis_url", "redis://:the-redis-secret@127.0.0.1/0");
        installed.set("database.url", "postgres://gateway:the-database-secret@db.example.com/gateway");
        for arguments in [&["config", "show"][..], &["config", "show", "--json"], &["--json", "config", "show"]] {
            let shown = installed.run(arguments, "").await;
            assert!(shown.success, "{}", shown.err);
            assert!(!shown.out.contains("-secret") && !shown.err.contains("-secret"), "{}", shown.out);
            assert!(shown.out.contains("now") && shown.out.contains("smtps://user:***@mail.example.com:465") && shown.out.contains("postgres://gateway:***@db.example.com/gateway"), "{}", shown.out);
        }
        let shown = installed.run(&["config", "show"], "").await.out;
        let table: toml::Table = shown.parse().expect("TOML");
        assert_eq!(table["accounts"]["reset"]["proof"].as_str(), Some("same-client"));
        let as_json = json_of(&installed.run(&["config", "show", "--json"], "").await);
        assert_eq!(as_json["server"]["body_limit"], 65_536);
    }

    async fn accounts_from_the_command_line(database) {
        let installed = Installation::new(database).await;
        let process = installed.serve().await;
        let login = async |password: &str| process.public.post("login", json!({ "email": ADA, "password": password })).await;
        create(&installed, "Ada@Example.com").await;
        let signed_in = login(PASSWORD).await;
        assert_eq!((signed_in.status, &signed_in.body()["user"]["email"]), (200, &json!("Ada@Example.com")));
        let session = process.public.clone().header("cookie", &format!("customerToken={}", signed_in.cookie("customerToken").expect("one")));

        for (arguments, input, said) in [
            (&["account", "create", "no address"][..], PASSWORD, "cargoextra: Invalid email address\n"),
            (&["account", "create", "new@example.com"], "short", "cargoextra: Use at least 8 characters.\n"),
            (&["account", "create", "ADA@example.com"], NEW_PASSWORD, "cargoextra: Account already exists\n"),
            (&["account", "show", "nobody@example.com"], "", "cargoextra: there is no account with this address\n"),
            (&["account", "lock", "nobody@example.com"], "", "cargoextra: there is no account with this address\n"),
            (&["account", "unlock", ADA], "", "cargoextra: it is so already; nothing was changed\n"),
            (&["account", "delete", "nobody@example.com"], "", "cargoextra: there is no account with this address\n"),
            (&["account", "reset-link", "nobody@example.com"], "", "cargoextra: there is no account with this address\n"),
            (&["outbox", "drop", "nothing"], "", "cargoextra: no waiting or dead mail has this id\n"),
            (&["audit", "--email", "nobody@example.com"], "", "cargoextra: there is no account with this address\n"),
        ] {
            let refused = installed.run(arguments, input).await;
            assert_eq!((refused.success, refused.out.as_str(), refused.err.as_str()), (false, "", said), "{arguments:?}");
        }
        assert_eq!(login(PASSWORD).await.status, 200, "nothing changed");

        let listed = json_of(&installed.run(&["account", "list", "--json"], "").await);
        let shown = json_of(&installed.run(&["account", "show", " ada@EXAMPLE.com ", "--json"], "").await);
        assert_eq!(listed, shown);
        let account = shown[0].clone();
        assert_eq!(account, json!({
            "id": account["id"], "email": "Ada@Example.com", "firstName": null, "lastName": null, "phone": null,
            "createdAt": account["createdAt"], "verifiedAt": account["verifiedAt"], "lockedAt": null,
        }));
        assert!(account["verifiedAt"].is_string(), "the operator vouches for the address");

        assert!(installed.run(&["account", "lock", ADA], "").await.success);
        assert_eq!(session.get("/api/v1/user/check").await.status, 401, "its sessions end");
        assert_eq!(login(PASSWORD).await.body()["code"], "invalid_credentials");
        let again = installed.run(&["account", "lock", ADA], "").await;
        assert_eq!(again.err, "cargoextra: it is so already; nothing was changed\n");
        let text = installed.run(&["account", "list"], "").await.out;
        assert!(text.contains("locked") && text.contains("Ada@Example.com"), "{text}");
        assert!(installed.run(&["account", "unlock", ADA], "").await.success);
        assert_eq!(login(PASSWORD).await.status, 200);
        assert_eq!(session.get("/api/v1/user/check").await.status, 401, "an ended session stays ended");

        let link = installed.run(&["account", "reset-link", ADA], "").await.out;
        let code = link.trim().strip_prefix("http://localhost:9000/account/confirm#code=").expect("a link").to_owned();
        assert_eq!(process.public.post("confirm-otp-reset", json!({ "resetToken": code })).await.status, 200);
        assert_eq!(process.public.post("password-reset", json!({ "email": ADA, "password": NEW_PASSWORD })).await.status, 200);
        assert_eq!(login(NEW_PASSWORD).await.status, 200);

        let audit = json_of(&installed.run(&["audit", "--email", ADA, "--json"], "").await);
        let events: Vec<&str> = audit.as_array().expect("a list").iter().map(|entry| entry["event"].as_str().expect("text")).collect();
        assert_eq!(events, ["login", "password_reset", "reset_confirmed", "reset_link_made", "login", "account_unlocked", "account_locked", "login", "login", "account_created"]);
        let made = audit.as_array().expect("a list").last().expect("an entry");
        assert_eq!((&made["actor"], &made["network"], &made["requestId"]), (&json!("operator"), &Value::Null, &Value::Null));
        assert_eq!((&audit[0]["actor"], &audit[0]["network"]), (&json!("client"), &json!("127.0.0.1")));
        assert!(audit[0]["requestId"].as_str().is_some_and(|id| id.len() == 26));
        let few = json_of(&installed.run(&["audit", "--limit", "2", "--json"], "").await);
        assert_eq!(few.as_array().map(Vec::len), Some(2));

        let gone = installed.run(&["account", "delete", ADA], "").await;
        assert_eq!((gone.success, gone.out.as_str()), (true, "Deleted Ada@Example.com.\n"));
        assert_eq!(login(NEW_PASSWORD).await.body()["code"], "invalid_credentials");
        assert_eq!(json_of(&installed.run(&["account", "list", "--json"], "").await), json!([]));
        let audit = json_of(&installed.run(&["audit", "--limit", "2", "--json"], "").await);
        assert_eq!(audit[1]["event"], "account_deleted", "the audit rows stay: {audit}");
        assert!(process.stop().await);
    }

    async fn migrate_after_restore_ends_what_was_open(database) {
        let installed = Installation::new(database).await;
        assert_eq!(installed.run(&["migrate"], "").await.out, "The schema is up to date.\n");
        assert_eq!(installed.run(&["migrate"], "").await.out, "The schema is up to date.\n", "twice is fine");
        create(&installed, ADA).await;
        let process = installed.serve().await;
        let login = process.public.post("login", json!({ "email": ADA, "password": PASSWORD })).await;
        let session = process.public.clone().header("cookie", &format!("customerToken={}", login.cookie("customerToken").expect("one")));
        assert_eq!(process.public.post("forgot-password", json!({ "email": ADA })).await.status, 200);
        let code = process.code(ADA, 1).await;
        process.public.post("register", json!({ "email": "new@example.com", "password": PASSWORD })).await;
        let verify = process.code("new@example.com", 1).await;
        let restored = installed.run(&["migrate", "--after-restore"], "").await;
        assert_eq!(restored.out, "Ended 3 sessions and open flows.\nThe schema is up to date.\n", "{}", restored.err);
        assert_eq!(session.get("/api/v1/user/check").await.status, 401);
        assert_eq!(process.public.post("confirm-otp-reset", json!({ "resetToken": code })).await.body()["code"], "invalid_otp");
        assert_eq!(process.public.post("verify-email", json!({ "verifyToken": verify })).await.body()["code"], "invalid_otp");
        assert_eq!(process.public.post("login", json!({ "email": ADA, "password": PASSWORD })).await.status, 200, "accounts are as they were");
    }

    async fn the_outbox_from_the_command_line(database) {
        let mut installed = Installation::new(database).await;
        let sink = crate::process::Sink::start(&["--refuse", "550"]).await;
        installed.set("mail.transport", "smtp");
        installed.set("mail.smtp_url", &format!("smtp://127.0.0.1:{}", sink.port));
        let process = installed.serve().await;
        assert_eq!(process.public.post("register", json!({ "email": ADA, "password": PASSWORD })).await.status, 201);
        // The worker empties its queue before it stops.
        assert!(process.stop().await);
        let list = async || json_of(&installed.run(&["outbox", "list", "--json"], "").await);
        let mail = list().await[0].clone();
        let id = mail["id"].as_str().expect("an id").to_owned();
        assert_eq!(mail, json!({
            "id": id, "kind": "verify_code", "to": "a…@example.com", "state": "dead", "at": mail["at"], "causedAt": mail["causedAt"], "attempts": 1, "reason": mail["reason"],
        }));
        assert!(mail["reason"].as_str().is_some_and(|reason| reason.contains("550")), "{mail}");
        let text = installed.run(&["outbox", "list"], "").await.out;
        assert!(text.contains("dead") && text.contains("550") && !text.contains(ADA), "{text}");
        assert!(installed.run(&["outbox", "retry", &id], "").await.success);
        assert_eq!(list().await[0]["state"], "waiting");
        assert!(installed.run(&["outbox", "drop", &id], "").await.success);
        let mail = list().await[0].clone();
        assert_eq!((&mail["state"], &mail["to"], &mail["reason"]), (&json!("dropped"), &json!("(forgotten)"), &json!("dropped by the operator")));
        for command in ["retry", "drop"] {
            assert!(!installed.run(&["outbox", command, &id], "").await.success, "{command}: it is out of the queue");
        }
    }

    /// A database that a newer program has changed is left alone.
    async fn a_newer_schema_is_refused(database) {
        let installed = Installation::new(database).await;
        assert!(installed.run(&["migrate"], "").await.success);
        let db = cargoextra::store::db::Db::connect(&installed.database, 1, std::time::Duration::from_secs(5)).await.expect("it connects");
        let mut tx = db.begin().await.expect("a transaction");
        const NEWER: &str = "insert into _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
            select version + 1, 'newer', installed_on, success, checksum, 0 from _sqlx_migrations order by version desc limit 1";
        assert_eq!(tx.execute(NEWER, &[]).await.expect("it works"), 1);
        tx.commit().await.expect("it commits");
        db.close().await;
        for arguments in [&["serve"][..], &["migrate"], &["account", "list"]] {
            let refused = installed.run(arguments, "").await;
            assert!(!refused.success && refused.err.contains("is newer than this program; install the newer program or restore an older database"), "{arguments:?}: {}", refused.err);
        }
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_stops_the_start() {
    let mut installed = Installation::new(crate::app::Database::Sqlite).await;
    installed.set("database.acquire_timeout", "500ms");
    for (url, said) in [
        (
            "mysql://root@127.0.0.1/x",
            "database.url: must begin with sqlite:// or postgres://",
        ),
        (
            "postgres://nobody:a-secret@127.0.0.1:1/x",
            "the database can't be reached; check database.url and that it is running",
        ),
        (
            "sqlite:///proc/nothing/x.db",
            "database.url: the folder /proc/nothing can't be made",
        ),
    ] {
        installed.set("database.url", url);
        let refused = installed.run(&["serve"], "").await;
        assert!(
            !refused.success && refused.err.contains(said),
            "{url}: {}",
            refused.err
        );
        assert!(!refused.err.contains("a-secret"), "{}", refused.err);
    }
}

#[tokio::test]
async fn the_description_and_the_help_need_no_database() {
    let mut installed = Installation::new(crate::app::Database::Sqlite).await;
    installed.set("database.url", "postgres://127.0.0.1:1/nothing");
    let described = json_of(&installed.run(&["openapi"], "").await);
    assert_eq!(
        described,
        cargoextra::web::openapi::document("http://localhost:9000")
    );
    let help = installed.run(&["--help"], "").await;
    assert!(
        help.success && help.out.contains("accounts.reset.proof = \"grant\""),
        "{}",
        help.out
    );
    let wrong = installed.run(&["explode"], "").await;
    assert!(!wrong.success && wrong.err.contains("explode"));
    let version = installed.run(&["--version"], "").await;
    assert_eq!(
        version.out,
        format!("cargoextra {}\n", env!("CARGO_PKG_VERSION"))
    );
}

/// Generated secrets are for their owner's eyes only, and stay what they were.
#[tokio::test]
async fn generated_secrets_are_private_and_made_once() {
    use std::os::unix::fs::PermissionsExt;
    let installed = Installation::new(crate::app::Database::Sqlite).await;
    let read = || {
        ["secrets.key", "admin.token"].map(|name| {
            let path = installed.folder.path().join("data").join(name);
            let mode = std::fs::metadata(&path)
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
            std::fs::read_to_string(path).expect("text")
        })
    };
    assert!(installed.serve().await.stop().await);
    let first = read();
    assert!(installed.serve().await.stop().await);
    assert_eq!(read(), first);
    std::fs::write(installed.folder.path().join("data/secrets.key"), "short")
        .expect("it can be written");
    let refused = installed.run(&["serve"], "").await;
    assert!(
        !refused.success
            && refused
                .err
                .contains("the file is shorter than 32 characters"),
        "{}",
        refused.err
    );
}
