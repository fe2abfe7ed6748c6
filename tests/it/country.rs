//! The guard by country, and by networks from a file. No database takes part.

use cargoextra::config::ClientAddress;
use cargoextra::config::edge::{Edge, RawEdge};
use serde_json::json;

use crate::app::{Database, TestApp};
use crate::downstream::edge;
use crate::mmdb;
use crate::process::Installation;

/// Where Kosovo, Switzerland and nobody are; codes that no rule of ours has elsewhere.
const WORLD: [(&str, Option<&str>); 4] = [
    ("198.51.100.0/24", Some("XK")),
    ("203.0.113.128/25", Some("CH")),
    ("203.0.113.0/25", None),
    ("2001:db8:1::/48", Some("XK")),
];

fn rules(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("world.mmdb");
    std::fs::write(&path, mmdb::countries(&WORLD)).expect("it can be written");
    format!(
        r#"
        [guard]
        country_file = {path:?}
        [[guard.rules]]
        name = "seen"
        action = "observe"
        when = {{ country = "CH" }}
        [[guard.rules]]
        name = "closed"
        action = "deny"
        when = {{ country = ["XK"], path = "/healthz" }}
        [[guard.rules]]
        name = "at-home"
        action = "deny"
        when = {{ not = {{ country = ["XK", "CH"] }}, path = "/readyz" }}
        "#
    )
}

fn validated(text: &str) -> Result<Edge, Vec<String>> {
    toml::from_str::<RawEdge>(text).expect("TOML").validate()
}

async fn behind_proxies(text: &str) -> TestApp {
    let edge = edge(text);
    TestApp::with(Database::Sqlite, |config| {
        config.edge = edge;
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        config.server.client_address = ClientAddress::XForwardedFor;
    })
    .await
}

#[tokio::test]
async fn a_rule_asks_for_the_country() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = behind_proxies(&rules(&folder)).await;
    let get = async |client: &str, path: &str| {
        let caller = app.caller().header("x-forwarded-for", client);
        caller.get(path).await
    };
    let denied = json!({ "message": "Access denied", "code": "access_denied" });
    for (client, closed, at_home) in [
        ("198.51.100.7", true, false),
        ("::ffff:198.51.100.7", true, false),
        ("2001:db8:1:2::9", true, false),
        ("203.0.113.200", false, false),
        // Known, but in no country; not known; not known either. An unknown country is none.
        ("203.0.113.7", false, true),
        ("192.0.2.1", false, true),
        ("2001:db8:2::1", false, true),
        ("127.0.0.1", false, true),
    ] {
        for (path, refused) in [("/healthz", closed), ("/readyz", at_home)] {
            let reply = get(client, path).await;
            if refused {
                assert_eq!(reply.shown(), (403, denied.clone()), "{client} {path}");
            } else {
                assert_eq!(reply.status, 200, "{client} {path}");
            }
        }
    }
    app.app.reload_edge(&edge(""));
    assert_eq!(get("198.51.100.7", "/healthz").await.status, 200);
}

#[tokio::test]
async fn a_bad_file_of_countries_is_refused_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = rules(&folder);
    let path = folder.path().join("world.mmdb");
    let whole = mmdb::countries(&WORLD);
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("it can be written");
        let problems = validated(&good).expect_err("it is bad");
        let named = format!("guard.country_file: {} ", path.display());
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0]
            .strip_prefix(&named)
            .expect("it names the file")
            .to_owned()
    };
    let format = "is no file of the MaxMind format";
    assert!(refused(b"").starts_with(format));
    assert!(refused(&whole[..whole.len() / 2]).starts_with(format));
    assert!(refused(&whole[whole.len() / 2..]).starts_with(format));
    let nowhere = mmdb::countries(&[("198.51.100.0/24", None)]);
    assert_eq!(
        refused(&nowhere),
        "names no countries; use an edition that does, such as Country"
    );
    std::fs::remove_file(&path).expect("it is there");
    let problems = validated(&good).expect_err("it is not there");
    assert!(
        problems[0]
            .ends_with("can't be read: No such file or directory (os error 2); correct the path")
    );
}

#[tokio::test]
async fn a_reload_reads_the_files_again_or_changes_nothing() {
    let mut installed = Installation::new(Database::Sqlite).await;
    let folder = installed.folder.path().to_owned();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).expect("it can be written");
    };
    write(
        "world.mmdb",
        &mmdb::countries(&[("192.0.2.0/24", Some("XK"))]),
    );
    write("blocked.txt", b"127.0.0.3\n");
    installed.set("guard.country_file", "world.mmdb");
    installed.set(
        "guard.rules",
        r#"[{ name = "closed", action = "deny", when = { any = [{ country = "XK" }, { network_file = "blocked.txt" }] } }]"#,
    );
    let process = installed.serve().await;
    let status = async |from: &str| {
        let caller = process.public.clone().from(from);
        caller.get("/healthz").await.status
    };
    assert_eq!(
        (status("127.0.0.2").await, status("127.0.0.3").await),
        (200, 403)
    );

    write(
        "world.mmdb",
        &mmdb::countries(&[("127.0.0.2/32", Some("XK"))]),
    );
    write("blocked.txt", b"127.0.0.4\nnonsense\n");
    process.hang_up().await;
    installed
        .until_logged("not reloaded; all stays as it was")
        .await;
    assert!(
        installed
            .logged()
            .contains("blocked.txt, line 2: \"nonsense\" is no address"),
        "{}",
        installed.logged()
    );
    assert_eq!(
        (status("127.0.0.2").await, status("127.0.0.3").await),
        (200, 403)
    );

    write("blocked.txt", b"127.0.0.4\n");
    process.hang_up().await;
    installed.until_logged("reloaded guard").await;
    assert_eq!(
        (status("127.0.0.2").await, status("127.0.0.3").await),
        (403, 200)
    );
    assert_eq!(status("127.0.0.4").await, 403);
    assert!(process.stop().await);
}

#[tokio::test]
async fn explain_knows_the_country_and_the_start_is_refused_without_a_file() {
    let mut installed = Installation::new(Database::Sqlite).await;
    installed.set(
        "guard.rules",
        r#"[{ name = "seen", action = "observe", when = { country = "CH" } }, { name = "closed", action = "deny", when = { country = ["XK"] } }]"#,
    );
    let ask = ["explain", "GET /healthz", "--from", "198.51.100.7"];
    let said = "cargoextra: guard.rules \"seen\": asks for the country; name a file of the MaxMind format in guard.country_file\n\
        guard.rules \"closed\": asks for the country; name a file of the MaxMind format in guard.country_file\n";
    for command in [&["serve"][..], &["config", "check"], &ask] {
        let refused = installed.run(command, "").await;
        assert_eq!((refused.success, refused.err.as_str()), (false, said));
    }
    let path = installed.folder.path().join("world.mmdb");
    std::fs::write(path, mmdb::countries(&WORLD)).expect("it can be written");
    installed.set("guard.country_file", "world.mmdb");
    let whole = |lines: &str| format!("{lines}goes to ourselves (404 if we have no such path)\n");
    let explained = installed.run(&ask, "").await;
    let lines = "guard   closed decides: Deny, because country XK is in the list\n";
    assert_eq!(explained.out, whole(lines), "{}", explained.err);
    let explained = installed
        .run(&["explain", "GET /healthz", "--from", "203.0.113.200"], "")
        .await;
    let lines = "guard   seen matches: Observe, because country CH is in the list\n";
    assert_eq!(explained.out, whole(lines), "{}", explained.err);
    let unknown = installed
        .run(&["explain", "GET /healthz", "--from", "192.0.2.1"], "")
        .await;
    assert_eq!(
        unknown.out,
        whole("guard   no rule matches: it passes\n"),
        "{}",
        unknown.err
    );
}
