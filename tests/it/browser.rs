//! The pages in a real Chromium: each script in `tests/browser` drives a product of its own, on free ports, with a clock that it moves.
//! Pictures of every page, theme and width are left in `target/screenshots`.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cargoextra::app::App;
use cargoextra::cli::listeners::Listeners;
use cargoextra::cli::serve::{Prepared, run_with};
use cargoextra::clock::Clock;
use cargoextra::random::Random;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::app::{Database, START, TestApp};

/// A script that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_life_with_javascript() {
    play("recovery.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recovery_without_javascript() {
    play("noscript.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recovery_by_keyboard_alone() {
    play("keyboard.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tabs_back_reload_too_late_and_no_cookies() {
    play("detours.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_codes_until_limited() {
    play("limited.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_seen_and_ended() {
    play("sessions.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mailbox() {
    play("mailbox.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_calls_another_host_fails() {
    play("guard.mjs").await;
}

/// Runs one script against a product of its own.
async fn play(script: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let public = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let admin = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = |listener: &TcpListener| listener.local_addr().expect("it has an address");
    let (public_at, admin_at) = (at(&public), at(&admin));
    let origin = format!("http://localhost:{}", public_at.port());
    let config = TestApp::config(Database::Sqlite, &folder, |config| {
        config.server.listen = vec![public_at];
        config.server.public_origin.clone_from(&origin);
        config.admin.listen = admin_at;
        config.mail.support = "help@cargoextra.example".to_owned();
    })
    .await;
    let app = App::build(config, Clock::manual(START), Random::system()).await;
    let app = Arc::new(app.expect("the app builds"));
    let (stop, stopped) = watch::channel(false);
    let listeners = Listeners {
        public: vec![public],
        tls: Vec::new(),
        admin,
    };
    let running = tokio::spawn(run_with(
        app.clone(),
        Prepared::new(&app).expect("it is prepared"),
        listeners,
        stopped,
    ));
    let mailbox = format!("http://{admin_at}");
    let (ended, log) = tokio::time::timeout(LONGEST, drive(&app, script, &origin, &mailbox))
        .await
        .unwrap_or_else(|_| panic!("{script} hangs"));
    let _ = stop.send(true);
    running
        .await
        .expect("the product runs")
        .expect("the product stops");
    assert!(ended, "{script}:\n{log}");
    println!("{script}: {log}");
}

/// Starts the script and does what it asks for until it ends. Whether it ended well, and what it said.
async fn drive(app: &App, script: &str, origin: &str, mailbox: &str) -> (bool, String) {
    let mut child = start(script, origin, mailbox);
    let mut asks = child.stdin.take().expect("a pipe");
    let output = child.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(output).lines();
    let mut log = String::new();
    while let Some(line) = lines.next_line().await.expect("text") {
        if let Some(by) = line.strip_prefix("::advance ") {
            app.clock.advance(by.parse().expect("milliseconds"));
            asks.write_all(b"done\n").await.expect("it reads");
        } else {
            log += &line;
            log.push('\n');
        }
    }
    let ended = child.wait_with_output().await.expect("it ends");
    log += &String::from_utf8_lossy(&ended.stderr);
    (ended.status.success(), log)
}

fn start(script: &str, origin: &str, mailbox: &str) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join("target/tools/browser/node_modules");
    assert!(
        modules.exists(),
        "scripts/setup installs what the browser tests need"
    );
    Command::new("node")
        .arg(root.join("tests/browser").join(script))
        .env("CARGOEXTRA_TEST_MODULES", modules)
        .env("CARGOEXTRA_TEST_ORIGIN", origin)
        .env("CARGOEXTRA_TEST_MAILBOX", mailbox)
        .env("CARGOEXTRA_TEST_PICTURES", root.join("target/screenshots"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Node.js starts")
}
