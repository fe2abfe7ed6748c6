//! Reading the configuration again: by command, by signal, refused, by strangers.

use std::path::PathBuf;

use serde_json::json;

use crate::app::Database;
use crate::process::{Installation, Printed, Process};

const RULE: &str =
    "[[guard.rules]]\nname = \"no-x\"\naction = \"deny\"\nwhen = { path = \"/x\" }\n";

/// An installation with a configuration file, and a process that runs with it. SQLite only: a reload does not touch the database.
async fn running(text: &str) -> (Installation, Process, PathBuf) {
    let mut installed = Installation::new(Database::Sqlite).await;
    let path = installed.folder.path().join("cargoextra.toml");
    std::fs::write(&path, text).expect("it can be written");
    let shown = path.display().to_string();
    let ports = (crate::process::free_port(), crate::process::free_port());
    let started = installed
        .serve_at(ports, &["serve", "--config", &shown])
        .await;
    let process = started.expect("it serves");
    installed.set_ports(ports);
    (installed, process, path)
}

async fn status(process: &Process, path: &str) -> u16 {
    process.public.get(path).await.status
}

async fn reload(installed: &Installation) -> Printed {
    installed.run(&["config", "reload"], "").await
}

/// How many reloads the metrics tell, and the generation.
async fn counted(process: &Process) -> Vec<String> {
    let text = process.admin.get("/metrics").await.text;
    let ours = |line: &&str| {
        let name = line.strip_prefix("cargoextra_configuration_");
        name.is_some_and(|name| name.starts_with("reloads_total") || name.starts_with("gen"))
            && !line.ends_with(" 0")
    };
    let mut lines: Vec<String> = text.lines().filter(ours).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_says_what_is_in_force_and_what_is_not() {
    let (installed, process, path) = running("").await;
    assert_eq!(status(&process, "/x").await, 404);
    let same = reload(&installed).await;
    assert_eq!(
        (same.success, same.out.as_str(), same.err.as_str()),
        (
            true,
            "Reloaded: configuration 2; nothing had changed in guard, limits and routes.\n",
            ""
        )
    );
    let text = format!("[server]\nmax_headers = 50\n[limits]\nmax_keys = 2000\n{RULE}");
    std::fs::write(&path, text).expect("it can be written");
    let done = reload(&installed).await;
    assert_eq!(
        (done.success, done.out.as_str()),
        (
            true,
            "Reloaded: configuration 3; in force now: guard.rules.\nNot in force before a restart: limits.max_keys, server.max_headers.\n"
        )
    );
    assert_eq!(status(&process, "/x").await, 403);
    // What waits for a restart is named each time; what is in force already is not.
    let again = installed.run(&["--json", "config", "reload"], "").await;
    let again: serde_json::Value = serde_json::from_str(&again.out).expect("JSON");
    assert_eq!(
        again,
        json!({
            "message": "Reloaded", "generation": 4, "changed": [], "needsRestart": ["limits.max_keys", "server.max_headers"],
        })
    );
    assert_eq!(
        counted(&process).await,
        [
            "cargoextra_configuration_generation 4",
            "cargoextra_configuration_reloads_total{outcome=\"applied\"} 3",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_reload_changes_nothing_and_names_every_problem() {
    let (installed, process, path) = running(RULE).await;
    assert_eq!(status(&process, "/x").await, 403);
    let cases = [
        (
            "[guard]\nenabled = false\n[server]\nport = 1\n[limits]\nenabeld = false\n",
            vec![
                "limits.enabeld: there is no such key; see config.default.toml",
                "server.port: there is no such key; see config.default.toml",
            ],
        ),
        (
            "[guard]\nenabled = false\n[[limits.rules]]\nname = \"a\"\nroute = \"GET /a\"\nkey = \"network\"\nrate = \"often\"\nburst = 1\n",
            vec![
                "limits.rules \"a\": rate \"often\" is none; write a count and a unit, like 10/min (s, min, h, day)",
            ],
        ),
    ];
    for (text, problems) in cases {
        std::fs::write(&path, text).expect("it can be written");
        let refused = reload(&installed).await;
        assert!(!refused.success && refused.out.is_empty(), "{refused:?}");
        let (head, rest) = refused.err.split_once('\n').expect("several lines");
        assert_eq!(
            head,
            "cargoextra: The configuration has errors; all stays as it was"
        );
        let mut lines: Vec<&str> = rest.lines().collect();
        lines.sort_unstable();
        for problem in &problems {
            assert!(
                lines.iter().any(|line| line.starts_with(problem)),
                "{problem}: {lines:?}"
            );
        }
        assert_eq!(status(&process, "/x").await, 403, "the old guard stands");
    }
    std::fs::write(&path, "[guard\n").expect("it can be written");
    let broken = reload(&installed).await;
    assert!(
        !broken.success && broken.err.contains("cargoextra.toml: line 1: "),
        "{broken:?}"
    );
    std::fs::remove_file(&path).expect("it is there");
    let gone = reload(&installed).await;
    assert_eq!(
        gone.err,
        format!(
            "cargoextra: The configuration has errors; all stays as it was\n{}: can't be read: No such file or directory (os error 2)\n",
            path.display()
        )
    );
    assert_eq!(status(&process, "/x").await, 403);
    assert_eq!(
        counted(&process).await,
        [
            "cargoextra_configuration_generation 1",
            "cargoextra_configuration_reloads_total{outcome=\"refused\"} 4",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signal_reloads_too() {
    let (_installed, process, path) = running("").await;
    std::fs::write(&path, RULE).expect("it can be written");
    process.signal("-HUP").await;
    let applied = async { while status(&process, "/x").await != 403 {} };
    tokio::time::timeout(crate::process::PATIENCE, applied)
        .await
        .expect("the rule comes into force");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reloads_without_the_token() {
    let (mut installed, process, path) = running("").await;
    std::fs::write(&path, RULE).expect("it can be written");
    let unauthorized = (
        401,
        json!({ "message": "Unauthorized", "code": "unauthorized" }),
    );
    assert_eq!(
        process.admin.send("POST", "/reload", None).await.shown(),
        unauthorized
    );
    let wrong = process.admin.clone().header("authorization", "Bearer x");
    assert_eq!(
        wrong.send("POST", "/reload", None).await.shown(),
        unauthorized
    );
    assert_eq!(process.admin.get("/reload").await.status, 405);
    assert_eq!(
        process.public.send("POST", "/reload", None).await.status,
        404
    );
    assert_eq!(status(&process, "/x").await, 404, "nothing was reloaded");

    // The command of another installation has another token.
    let other = installed.folder.path().join("other");
    std::fs::create_dir(&other).expect("a folder");
    std::fs::write(other.join("admin.token"), "0".repeat(43)).expect("it can be written");
    installed.set("server.data_dir", &other.display().to_string());
    let refused = reload(&installed).await;
    assert_eq!(
        (refused.success, refused.err),
        (
            false,
            format!(
                "cargoextra: the process at 127.0.0.1:{} has another admin token; use the server.data_dir that it was started with\n",
                process.ports.1
            )
        )
    );

    let port = process.ports.1;
    assert!(process.stop().await);
    let nobody = reload(&installed).await;
    assert_eq!(
        (nobody.success, nobody.err),
        (
            false,
            format!(
                "cargoextra: no process answers at admin.listen, 127.0.0.1:{port} (Connection refused (os error 111)); if that address was changed, it needs a restart\n"
            )
        )
    );
}
