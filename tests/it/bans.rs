//! Escalating bans: who is kept out, for how long, what never counts, and who is slowed instead.

use cargoextra::accounts::sweep;
use cargoextra::app::bans::{add, lift, step};
use cargoextra::config::{ClientAddress, Config};
use cargoextra::gateway::client_ip::Network;
use serde_json::{Value, json};

use crate::app::{Caller, MINUTE, PASSWORD, TestApp, on_both};
use crate::downstream::edge;
use crate::process::Installation;

const ADA: &str = "ada@example.com";
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const ROWS: &str = "select count(*) as n from bans";

/// Three denials ban, unless `more` says otherwise.
fn bans(more: &str) -> cargoextra::config::edge::Edge {
    edge(&format!("[guard.bans]\nmode = \"enforce\"\n{more}\n"))
}

fn after_three(config: &mut Config) {
    config.edge = bans("denials = 3");
}

/// Behind proxies on this machine, which say who calls.
fn behind_proxies(config: &mut Config) {
    after_three(config);
    config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    config.server.client_address = ClientAddress::XForwardedFor;
}

fn denied() -> (u16, Value) {
    let body = json!({ "message": "Access denied", "code": "access_denied" });
    (403, body)
}

fn too_many() -> (u16, Value) {
    let body = json!({ "message": "Too many requests", "code": "too_many_requests" });
    (429, body)
}

/// Asks so many times for what the guard denies; then the rows are kept, as the program's own loop would.
async fn provoke(app: &TestApp, caller: &Caller, times: usize) {
    for _ in 0..times {
        assert_eq!(caller.get("/.env").await.shown(), denied());
    }
    step(&app.app).await.expect("the rows are kept");
}

async fn status(caller: &Caller) -> u16 {
    caller.get("/healthz").await.status
}

fn network(text: &str) -> Network {
    text.parse().expect("a client network")
}

fn metric(app: &TestApp, line: &str) -> bool {
    app.app.scrape().lines().any(|found| found == line)
}

on_both! {
    async fn so_many_denials_ban_a_network_for_a_while(database) {
        let app = TestApp::with(database, after_three).await;
        let eve = app.caller().from("127.0.0.66");
        provoke(&app, &eve, 2).await;
        assert_eq!(status(&eve).await, 200);
        provoke(&app, &eve, 1).await;
        let refused = eve.get("/healthz").await;
        assert_eq!(refused.shown(), denied());
        assert_eq!(eve.post("login", json!({})).await.shown(), denied(), "before the body is looked at");
        assert_eq!(eve.get("/a/../b").await.shown(), denied(), "before the path is");
        assert_eq!(status(&app.caller()).await, 200, "nobody else");
        assert!(metric(&app, "cargoextra_bans_total{verdict=\"counted\"} 3"));
        assert!(metric(&app, "cargoextra_bans_total{verdict=\"begun_ban\"} 1"));
        assert!(metric(&app, "cargoextra_bans_total{verdict=\"refused\"} 3"));
        assert!(metric(&app, "cargoextra_bans_active{verdict=\"banned\"} 1"));
        const AUDIT: &str = "select count(*) as n from audit where event = 'ban_begun' and actor = 'system' and network = '127.0.0.66'
            and detail = 'ban 1 in a row, until 2026-11-23T12:10:00Z, because of builtin-scanner-paths'";
        assert_eq!(app.count(AUDIT).await, 1);
        app.advance(10 * MINUTE - 1);
        assert_eq!(status(&eve).await, 403);
        app.advance(1);
        assert_eq!(status(&eve).await, 200, "without another look at the rows");
        step(&app.app).await.expect("the rows are kept");
        assert!(metric(&app, "cargoextra_bans_active{verdict=\"banned\"} 0"));
    }

    /// In a row they grow; the ban's own refusals add nothing; good behaviour is remembered, and then bad behaviour forgotten.
    async fn bans_grow_and_are_forgotten(database) {
        let app = TestApp::with(database, after_three).await;
        let eve = app.caller().from("127.0.0.66");
        for length in [10 * MINUTE, HOUR, 4 * HOUR, DAY, DAY] {
            provoke(&app, &eve, 3).await;
            for _ in 0..9 {
                assert_eq!(status(&eve).await, 403);
            }
            step(&app.app).await.expect("the rows are kept");
            app.advance(length - 1);
            assert_eq!(status(&eve).await, 403, "{length}");
            app.advance(1);
            assert_eq!(status(&eve).await, 200, "{length}");
        }
        app.advance(7 * DAY - 1);
        sweep::step(&app.app).await.expect("it sweeps");
        assert_eq!(app.count(ROWS).await, 1);
        provoke(&app, &eve, 3).await;
        app.advance(DAY - 1);
        assert_eq!(status(&eve).await, 403, "a moment too early to be forgotten");
        app.advance(7 * DAY + 1);
        provoke(&app, &eve, 3).await;
        app.advance(10 * MINUTE);
        assert_eq!(status(&eve).await, 200, "forgotten, though the row was there");
        app.advance(7 * DAY + 1);
        sweep::step(&app.app).await.expect("it sweeps");
        assert_eq!(app.count(ROWS).await, 0);
    }

    async fn a_ban_survives_a_restart_and_holds_on_every_node(database) {
        let app = TestApp::with(database, after_three).await;
        let other = app.again().await;
        let eve = app.caller().from("127.0.0.66");
        let elsewhere = eve.clone().at(other.address);
        // Found by both at once: one ban.
        for node in [&eve, &elsewhere] {
            for _ in 0..3 {
                assert_eq!(node.get("/.env").await.shown(), denied());
            }
        }
        let (one, two) = tokio::join!(step(&app.app), step(&other.app));
        one.and(two).expect("the rows are kept");
        assert_eq!(app.count("select max(times) as n from bans").await, 1);
        assert_eq!(app.count("select count(*) as n from audit where event = 'ban_begun'").await, 1);
        step(&other.app).await.expect("the rows are kept");
        step(&app.app).await.expect("the rows are kept");
        assert_eq!((status(&eve).await, status(&elsewhere).await), (403, 403));
        let restarted = app.again().await;
        assert_eq!(status(&eve.clone().at(restarted.address)).await, 403);
    }

    async fn a_lifted_network_is_let_in_everywhere_and_starts_anew(database) {
        let app = TestApp::with(database, after_three).await;
        let other = app.again().await;
        let eve = app.caller().from("127.0.0.66");
        provoke(&app, &eve, 3).await;
        step(&other.app).await.expect("the rows are kept");
        assert_eq!(status(&eve.clone().at(other.address)).await, 403);
        assert!(lift(&app.app, network("127.0.0.66")).await.expect("it can be lifted"));
        assert!(!lift(&app.app, network("127.0.0.66")).await.expect("it answers"), "nothing is left");
        for node in [&app, &other] {
            step(&node.app).await.expect("the rows are kept");
            assert_eq!(status(&eve.clone().at(node.address)).await, 200);
        }
        const AUDIT: &str = "select count(*) as n from audit where event = 'ban_lifted' and actor = 'operator' and network = '127.0.0.66'";
        assert_eq!(app.count(AUDIT).await, 1);
        provoke(&app, &eve, 2).await;
        assert_eq!(status(&eve).await, 200, "what was counted before is forgotten");
        provoke(&app, &eve, 1).await;
        app.advance(10 * MINUTE);
        assert_eq!(status(&eve).await, 200, "it was the first in a row");
    }

    /// What a stranger can make others do, and what people do by mistake.
    async fn only_the_guards_denials_of_the_networks_own_requests_count(database) {
        let app = TestApp::with(database, |config| {
            config.edge = edge(
                "[guard.bans]\nmode = \"enforce\"\ndenials = 2\n[[limits.rules]]\nname = \"one\"\nroute = \"GET /healthz\"\nkey = \"network\"\nrate = \"1/h\"\nburst = 1\n",
            );
        }).await;
        app.account(ADA).await;
        let ada = app.caller().from("127.0.0.5");
        let safari = ada.clone().header("user-agent", "Mozilla/5.0 (Macintosh) Safari/605").header("accept-language", "de");
        // A page elsewhere that shows pictures from here, in browsers that say so and in those that don't.
        for caller in [
            ada.clone().header("sec-fetch-site", "cross-site"),
            ada.clone().header("sec-fetch-site", "same-site"),
            safari.clone(),
        ] {
            provoke(&app, &caller, 10).await;
        }
        for _ in 0..10 {
            let limited = ada.get("/healthz").await.status;
            assert!([200, 429].contains(&limited), "{limited}");
            let foreign = ada.clone().header("origin", "https://evil.example");
            assert_eq!(foreign.post("logout", json!({})).await.shown(), denied());
            assert_eq!(ada.get("/nothing").await.status, 404);
        }
        for nth in 0..25 {
            let wrong = ada.post("confirm-otp-reset", json!({ "resetToken": "7K3QMX9T2B" })).await.status;
            assert_eq!(wrong, if nth < 20 { 400 } else { 429 });
            let wrong = ada.post("login", json!({ "email": ADA, "password": "wrong" })).await.status;
            assert_eq!(wrong, if nth < 10 { 401 } else { 429 });
        }
        step(&app.app).await.expect("the rows are kept");
        assert_eq!(app.count(ROWS).await, 0);
        let scraped = app.app.scrape();
        let mut counted = scraped.lines().filter(|line| line.starts_with("cargoextra_bans_total"));
        assert!(counted.all(|line| line.ends_with(" 0")), "{scraped}");
        // And what is the network's own doing counts, in a browser, too.
        provoke(&app, &safari.header("sec-fetch-site", "none"), 2).await;
        assert_eq!(ada.get("/nothing").await.shown(), denied());
    }

    async fn where_a_customer_signed_in_the_network_is_slowed(database) {
        let app = TestApp::with(database, |config| config.edge = bans("denials = 3\nslow_burst = 2")).await;
        app.account(ADA).await;
        assert_eq!(app.login(ADA, PASSWORD).await.status, 200);
        app.advance(DAY - 1);
        let home = app.caller();
        provoke(&app, &home, 3).await;
        for _ in 0..2 {
            assert_eq!(status(&home).await, 200);
            assert_eq!(status(&home).await, 200);
            let refused = home.get("/healthz").await;
            assert_eq!(refused.header("retry-after"), Some("1"));
            assert_eq!(refused.shown(), too_many());
            app.advance(2_000);
        }
        assert_eq!(app.count("select count(*) as n from bans where kind = 'slow'").await, 1);
        assert!(metric(&app, "cargoextra_bans_total{verdict=\"begun_slow\"} 1"));
        assert!(metric(&app, "cargoextra_bans_total{verdict=\"slowed\"} 2"));
        assert!(metric(&app, "cargoextra_bans_active{verdict=\"slowed\"} 1"));
        // Denials while it is slowed do not make it longer; after it the sign-in is more than a day old.
        for _ in 0..9 {
            app.advance(MINUTE);
            provoke(&app, &home, 1).await;
        }
        app.advance(MINUTE);
        for _ in 0..5 {
            assert_eq!(status(&home).await, 200, "it is over");
        }
        provoke(&app, &home, 3).await;
        assert_eq!(home.get("/healthz").await.shown(), denied());
        assert_eq!(app.count("select times as n from bans where kind = 'ban'").await, 2);
    }

    async fn observing_refuses_nobody_and_counts_all(database) {
        let app = TestApp::with(database, |config| {
            config.edge = edge("[guard.bans]\nmode = \"observe\"\ndenials = 3\n");
        }).await;
        let eve = app.caller().from("127.0.0.66");
        provoke(&app, &eve, 3).await;
        assert_eq!((status(&eve).await, status(&eve).await), (200, 200));
        provoke(&app, &eve, 9).await;
        assert_eq!(app.count("select max(times) as n from bans").await, 1, "as if it had been refused");
        for line in ["bans_total{verdict=\"counted\"} 3", "bans_total{verdict=\"begun_ban\"} 1", "bans_total{verdict=\"observed\"} 11", "bans_active{verdict=\"banned\"} 1"] {
            assert!(metric(&app, &format!("cargoextra_{line}")), "{line}");
        }
    }

    async fn a_reload_applies_the_settings(database) {
        let app = TestApp::with(database, |config| config.edge = edge("[guard.bans]\ndenials = 3\n")).await;
        let eve = app.caller().from("127.0.0.66");
        provoke(&app, &eve, 9).await;
        assert_eq!((status(&eve).await, app.count(ROWS).await), (200, 0), "off is the default");
        app.app.reload_edge(&bans("denials = 2\nlengths = [\"1min\"]"));
        provoke(&app, &eve, 2).await;
        assert_eq!(status(&eve).await, 403);
        app.app.reload_edge(&edge(""));
        assert_eq!(status(&eve).await, 200, "at once");
        step(&app.app).await.expect("the rows are kept");
        app.app.reload_edge(&bans("denials = 2"));
        step(&app.app).await.expect("the rows are kept");
        assert_eq!(status(&eve).await, 403, "the row is still there");
        app.advance(MINUTE);
        assert_eq!(status(&eve).await, 200);
    }

    async fn a_64_is_one_network_and_a_proxys_is_never_banned(database) {
        let app = TestApp::with(database, |config| {
            behind_proxies(config);
            config.server.trusted_proxies.push("2001:db8:9:9::1/128".parse().expect("a network"));
        }).await;
        let client = |address: &str| app.caller().header("x-forwarded-for", address);
        for nth in 1..=3 {
            provoke(&app, &client(&format!("2001:db8:1:2::{nth}")), 1).await;
        }
        assert_eq!(status(&client("2001:db8:1:2:ffff::9")).await, 403);
        assert_eq!(status(&client("2001:db8:1:3::1")).await, 200);
        assert_eq!(app.count("select count(*) as n from bans where network = '2001:db8:1:2::/64'").await, 1);
        // A proxy of ours itself, and what shares a network with one.
        for caller in [app.caller(), client("127.0.0.9"), client("2001:db8:9:9::1"), client("2001:db8:9:9::2")] {
            provoke(&app, &caller, 9).await;
            assert_eq!(status(&caller).await, 200);
        }
        assert!(add(&app.app, network("2001:db8:9:9::/64"), HOUR).await.is_err());
        assert_eq!(app.count(ROWS).await, 1);
        // A network that became a proxy's after its ban is let in, too.
        let trusting = app.again_with(|config| {
            config.server.trusted_proxies.push("2001:db8:1::/48".parse().expect("a network"));
        }).await;
        assert_eq!(status(&client("2001:db8:1:2::1").at(trusting.address)).await, 200);
    }

    async fn the_list_is_bounded_and_who_is_free_soonest_gives_way(database) {
        let app = TestApp::with(database, |config| config.edge = bans("denials = 3\nmax_banned = 2")).await;
        let callers: Vec<Caller> = (1..=4).map(|nth| app.caller().from(&format!("127.0.0.{nth}"))).collect();
        for caller in &callers {
            for _ in 0..3 {
                assert_eq!(caller.get("/.env").await.shown(), denied());
            }
        }
        step(&app.app).await.expect("the rows are kept");
        let mut banned = 0;
        for caller in &callers {
            banned += i32::from(status(caller).await == 403);
        }
        assert_eq!((banned, app.count(ROWS).await), (2, 2), "all at once");
        app.advance(1);
        for caller in callers.iter().rev() {
            if status(caller).await == 200 {
                provoke(&app, caller, 3).await;
                assert_eq!((status(caller).await, app.count(ROWS).await), (403, 2), "the newest stays");
            }
        }
        add(&app.app, network("127.0.0.9"), 30 * DAY).await.expect("it can be banned");
        app.advance(1);
        provoke(&app, &app.caller().from("127.0.0.10"), 3).await;
        assert_eq!(status(&app.caller().from("127.0.0.9")).await, 403);
        assert_eq!(app.count(ROWS).await, 2);
    }

    /// The real binary: what the command line changes, a running process notices by itself.
    async fn bans_from_the_command_line(database) {
        let mut installed = Installation::new(database).await;
        let off = installed.run(&["ban", "add", "127.0.0.66", "--for", "1h"], "").await;
        assert_eq!((off.success, off.err.as_str()), (false, "cargoextra: guard.bans.mode is off; set it to enforce or observe\n"));
        installed.set("guard.bans.mode", "enforce");
        installed.set("guard.bans.denials", "2");
        installed.set("guard.bans.refresh", "100ms");
        let process = installed.serve().await;
        let eve = process.public.clone().from("127.0.0.66");
        let becomes = async |wanted: u16| {
            let waiting = async {
                while status(&eve).await != wanted {}
            };
            let waited = tokio::time::timeout(crate::downstream::PATIENCE, waiting).await;
            assert!(waited.is_ok(), "never {wanted}: {}", installed.logged());
        };
        let list = async || {
            let listed = installed.run(&["ban", "list", "--json"], "").await;
            assert!(listed.success, "{}", listed.err);
            serde_json::from_str::<Value>(&listed.out).expect("JSON")
        };
        for _ in 0..2 {
            assert_eq!(eve.get("/.env").await.status, 403);
        }
        becomes(403).await;
        let listed = list().await;
        let (began, until) = (&listed[0]["beganAt"], &listed[0]["until"]);
        let ban = json!({ "network": "127.0.0.66", "kind": "ban", "times": 1, "beganAt": began, "until": until, "why": "builtin-scanner-paths" });
        assert_eq!(listed, json!([ban]));
        let until = until.as_str().expect("a time");
        let told = installed.run(&["explain", "GET /healthz", "--from", "127.0.0.66"], "").await;
        assert_eq!(told.out, format!("ban     127.0.0.66 is banned until {until}, ban 1 in a row, because of builtin-scanner-paths\nguard   no rule matches: it passes\ngoes to ourselves (404 if we have no such path)\n"));
        let told = installed.run(&["explain", "GET /healthz", "--from", "127.0.0.66", "--json"], "").await;
        assert_eq!(serde_json::from_str::<Value>(&told.out).expect("JSON")["ban"], ban);
        let told = installed.run(&["explain", "GET /healthz", "--from", "127.0.0.67"], "").await;
        assert_eq!(told.out, "guard   no rule matches: it passes\ngoes to ourselves (404 if we have no such path)\n");

        let lifted = installed.run(&["ban", "lift", "127.0.0.66"], "").await;
        assert_eq!((lifted.success, lifted.out.as_str()), (true, ""), "{}", lifted.err);
        becomes(200).await;
        assert_eq!(list().await, json!([]));
        let added = installed.run(&["ban", "add", "127.0.0.66", "--for", "1h"], "").await;
        assert!(added.success && added.out.contains("operator"), "{} {}", added.out, added.err);
        becomes(403).await;
        installed.set("guard.bans.mode", "observe");
        let told = installed.run(&["explain", "GET /healthz", "--from", "127.0.0.66"], "").await;
        assert!(told.out.starts_with("ban     127.0.0.66 would be kept out, but guard.bans only observes, until "), "{}", told.out);
        for (arguments, said) in [
            (&["ban", "lift", "127.0.0.67"][..], "nothing is known against this network"),
            (&["ban", "lift", "127.0.0.0/8"], "not a client network; write an address like 203.0.113.7 or 2001:db8:1:2::/64"),
            (&["ban", "add", "127.0.0.1", "--for", "soon"], "`soon` is not a duration"),
        ] {
            let refused = installed.run(arguments, "").await;
            assert!(!refused.success && refused.err.contains(said), "{arguments:?}: {}", refused.err);
        }
        let audit = installed.run(&["audit", "--json"], "").await.out;
        let audit: Value = serde_json::from_str(&audit).expect("JSON");
        let events: Vec<(&str, &str)> = audit.as_array().expect("a list").iter()
            .map(|entry| (entry["event"].as_str().expect("text"), entry["actor"].as_str().expect("text"))).collect();
        assert_eq!(events, [("ban_begun", "operator"), ("ban_lifted", "operator"), ("ban_begun", "system")]);
        assert!(process.stop().await);
        let again = installed.serve().await;
        assert_eq!(status(&again.public.clone().from("127.0.0.66")).await, 200, "only observed now");
        assert!(again.stop().await);
        installed.set("guard.bans.mode", "enforce");
        let again = installed.serve().await;
        assert_eq!(status(&again.public.clone().from("127.0.0.66")).await, 403, "from the first request on");
        assert!(again.stop().await);
    }
}
