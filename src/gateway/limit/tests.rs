#![allow(
    clippy::too_many_lines,
    reason = "tables of cases may be as long as there are cases"
)]
#![allow(clippy::unwrap_used, reason = "tests")]
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::counters::Counters;
use super::*;
use crate::config::edge::RawEdge;

const S: u64 = 1_000_000_000;

fn limits(text: &str) -> Limits {
    let settings = toml::from_str::<RawEdge>(text)
        .unwrap()
        .validate()
        .unwrap()
        .limits;
    Limits::compile(
        &settings,
        Arc::new(Counters::new(settings.max_keys, [9; 16])),
    )
}

fn rule(name: &str, rest: &str) -> String {
    format!("[[limits.rules]]\nname = \"{name}\"\n{rest}\n")
}

fn network(last: u32) -> Key<'static> {
    Key::Network(Network::from(IpAddr::from(Ipv4Addr::from_bits(
        0xcb00_7100 + last,
    ))))
}

fn names<'l>(limits: &'l Limits, method: &str, path: &str) -> Vec<&'l str> {
    let ids = limits.rules_for(&method.parse().unwrap(), path);
    ids.iter().map(|id| limits.rule(*id).name()).collect()
}

#[test]
fn every_rule_whose_route_matches_is_met() {
    let base = "key = \"network\"\nrate = \"1/s\"\nburst = 1";
    let text: String = [
        ("all", "\"* /*\""),
        ("api", "\"* /api/*\""),
        ("login", "[\"POST /api/login\", \"POST /account/login\"]"),
        ("read", "\"GET /api/x/*\""),
        ("wp", "\"* /wp-*\""),
        ("exact-any", "\"* /api/x/\""),
    ]
    .map(|(name, route)| rule(name, &format!("route = {route}\n{base}")))
    .concat();
    let limits = limits(&text);
    for (method, path, want) in [
        ("GET", "/", vec!["all"]),
        ("GET", "/api", vec!["all", "api"]),
        ("GET", "/apis", vec!["all"]),
        ("POST", "/api/login", vec!["all", "api", "login"]),
        ("POST", "/api/login/", vec!["all", "api", "login"]),
        ("GET", "/api/login", vec!["all", "api"]),
        ("POST", "/account/login", vec!["all", "login"]),
        ("POST", "/API/login", vec!["all"]),
        ("GET", "/api/x/y", vec!["all", "api", "read"]),
        ("HEAD", "/api/x/y", vec!["all", "api", "read"]),
        ("PUT", "/api/x/y", vec!["all", "api"]),
        ("GET", "/api/x", vec!["all", "api", "read", "exact-any"]),
        ("PROPFIND", "/api/x/", vec!["all", "api", "exact-any"]),
        ("GET", "/wp-admin", vec!["all", "wp"]),
    ] {
        assert_eq!(names(&limits, method, path), want, "{method} {path}");
    }
    let off = super::tests::limits(&format!("limits.enabled = false\n{text}"));
    assert!(off.rules_for(&Method::GET, "/api").is_empty());
}

proptest! {
    /// The precomputed sets are what trying every rule gives.
    #[test]
    fn rule_sets_agree_with_trying_every_rule(
        routes in prop::collection::vec(("(GET|POST|[*])", "(/[ab]{1,2}){1,3}/?[*]?"), 1..10),
        method in "(GET|POST|PUT)",
        path in "(/[ab]{1,2}){1,4}/?",
    ) {
        let patterns: Vec<(String, String)> = routes;
        let text: String = patterns.iter().enumerate().map(|(i, (method, path))| {
            rule(&format!("r{i}"), &format!("route = \"{method} {path}\"\nkey = \"network\"\nrate = \"1/s\"\nburst = 1"))
        }).collect();
        let limits = limits(&text);
        let want: Vec<String> = patterns.iter().enumerate().filter(|(_, (m, pattern))| {
            (m == "*" || *m == method) && crate::gateway::path::pattern::Pattern::new(pattern).matches(&path)
        }).map(|(i, _)| format!("r{i}")).collect();
        prop_assert_eq!(names(&limits, &method, &path), want);
    }
}

const TWO: &str = r#"
[[limits.rules]]
name = "tight"
route = "* /*"
key = "account"
rate = "1/s"
burst = 2
[[limits.rules]]
name = "wide"
route = "* /*"
key = "network"
rate = "1/s"
burst = 5
[[limits.rules]]
name = "watch"
route = "* /*"
key = "route"
rate = "1/min"
burst = 1
mode = "observe"
"#;

#[test]
fn the_strictest_rule_answers_and_a_refusal_drains_nothing() {
    let limits = limits(TWO);
    let ids = limits.rules_for(&Method::GET, "/x");
    let keys = |kind| match kind {
        KeyKind::Account => Some(Key::Account("ada")),
        KeyKind::Network => Some(network(7)),
        KeyKind::Route => Some(Key::Route),
        _ => None,
    };
    let mut seen = Vec::new();
    let mut ask = |now| limits.check_all(ids, keys, now, |id| seen.push(limits.rule(id).name()));
    let name = |outcome: Outcome| limits.rule(outcome.rule.unwrap()).name();
    assert_eq!((name(ask(0)), ask(0).decision.remaining), ("tight", 0));
    for _ in 0..10 {
        let refused = ask(0);
        assert_eq!(
            (
                name(refused),
                refused.decision.allowed,
                refused.decision.retry_after_s
            ),
            ("tight", false, 1)
        );
    }
    assert_eq!(
        seen,
        ["watch"],
        "the second of two allowed requests; refused ones are not shown to observers"
    );
    let left = limits.peek(ids[1], network(7), 0).remaining;
    assert_eq!(
        left, 2,
        "five less the two that passed, less the one looked at"
    );
    let phase_one = |kind| {
        if kind == KeyKind::Network {
            Some(network(7))
        } else {
            None
        }
    };
    assert_eq!(name(limits.check_all(ids, phase_one, 0, |_| {})), "wide");
    assert_eq!(
        limits.check_all(ids, |_| None, 0, |_| {}),
        Outcome {
            rule: None,
            decision: Decision::UNLIMITED
        }
    );
}

#[test]
fn of_several_refusals_the_longest_answers_and_observers_are_not_charged() {
    let by = |key: &str, rate: &str| {
        format!("route = \"* /*\"\nkey = \"{key}\"\nrate = \"{rate}\"\nburst = 1")
    };
    let text = rule(
        "watch",
        &format!("{}\nmode = \"observe\"", by("session", "1/s")),
    );
    let limits = limits(
        &(text + &rule("short", &by("account", "1/s")) + &rule("long", &by("network", "1/min"))),
    );
    let ids = limits.rules_for(&Method::GET, "/x");
    (1..3).for_each(|at| {
        assert!(
            limits
                .check(ids[at], [Key::Account("a"), network(1)][at - 1], 0)
                .allowed
        )
    });
    let keys = |kind| match kind {
        KeyKind::Session => Some(Key::Session("s")),
        KeyKind::Account => Some(Key::Account("a")),
        _ => Some(network(1)),
    };
    let refused = limits.check_all(ids, keys, 0, |_| {});
    assert_eq!(
        (refused.rule, refused.decision.retry_after_s),
        (Some(ids[2]), 60)
    );
    assert!(limits.peek(ids[0], Key::Session("s"), 0).allowed);
}

#[test]
fn when_another_request_comes_between_everything_is_given_back() {
    // wide (taken), watch (refuses, and so lets us in between), tight (just taken away).
    let by = |key: &str, burst: u32| {
        format!("route = \"* /*\"\nkey = \"{key}\"\nrate = \"1/min\"\nburst = {burst}")
    };
    let watch = rule("watch", &format!("{}\nmode = \"observe\"", by("route", 1)));
    let limits =
        limits(&(rule("wide", &by("network", 5)) + &watch + &rule("tight", &by("account", 1))));
    let ids = limits.rules_for(&Method::GET, "/x");
    limits.check(ids[1], Key::Route, 0);
    let keys = |kind| match kind {
        KeyKind::Network => Some(network(1)),
        KeyKind::Route => Some(Key::Route),
        _ => Some(Key::Account("a")),
    };
    let refused = limits.check_all(ids, keys, 0, |_| {
        assert!(limits.check(ids[2], Key::Account("a"), 0).allowed)
    });
    assert_eq!(
        (refused.rule, refused.decision.allowed),
        (Some(ids[2]), false)
    );
    assert!(
        limits.check_n(ids[0], network(1), 5, 0).allowed,
        "the wide rule has its whole burst again"
    );
}

#[test]
fn give_back_and_costs() {
    let limits = limits(TWO);
    let wide = limits.rules_for(&Method::GET, "/x")[1];
    assert!(!limits.check_n(wide, network(1), 6, S).allowed);
    assert!(limits.check_n(wide, network(1), 5, S).allowed);
    assert!(!limits.check(wide, network(1), S).allowed);
    limits.give_back(wide, network(1), 2, S);
    assert!(limits.check_n(wide, network(1), 2, S).allowed);
    assert!(!limits.check(wide, network(1), S).allowed);
    limits.give_back(wide, network(1), 100, S);
    assert!(
        limits.check_n(wide, network(1), 5, S).allowed
            && !limits.check(wide, network(1), S).allowed
    );
}

#[test]
fn fields_are_structured_and_agree() {
    let limits = limits(&rule(
        "login-by-network",
        "route = \"POST /l\"\nkey = \"network\"\nrate = \"10/min\"\nburst = 5",
    ));
    let ids = limits.rules_for(&Method::POST, "/l");
    let mut headers = HeaderMap::new();
    limits.put_fields(
        &mut headers,
        &limits.check_all(ids, |_| Some(network(1)), 0, |_| {}),
    );
    assert_eq!(headers["ratelimit-policy"], "\"login-by-network\";q=5;w=30");
    assert_eq!(headers["ratelimit"], "\"login-by-network\";r=4;t=6");
    assert!(!headers.contains_key("retry-after"));
    let mut last = None;
    (0..5).for_each(|_| last = Some(limits.check_all(ids, |_| Some(network(1)), 0, |_| {})));
    let last = last.unwrap();
    limits.put_fields(&mut headers, &last);
    assert_eq!(headers["ratelimit"], "\"login-by-network\";r=0;t=6");
    assert_eq!(headers["retry-after"], "6");
    let mut none = HeaderMap::new();
    limits.put_fields(
        &mut none,
        &Outcome {
            rule: None,
            decision: Decision::UNLIMITED,
        },
    );
    assert!(none.is_empty());
}

/// A-09.
#[test]
fn fifty_people_behind_one_address_are_all_served_by_the_default_set() {
    let limits = default_limits();
    let calls = [
        ("POST", "/api/v1/user/register"),
        ("POST", "/api/v1/user/verify-email"),
        ("POST", "/api/v1/user/resend-verification"),
        ("POST", "/api/v1/user/login"),
        ("POST", "/api/v1/user/forgot-password"),
        ("POST", "/api/v1/user/confirm-otp-reset"),
        ("POST", "/api/v1/user/password-reset"),
        ("GET", "/api/v1/user/check"),
        ("POST", "/account/forgot"),
        ("GET", "/api/v1/shipment/7"),
    ];
    for (method, path) in calls {
        let fresh = default_limits();
        let ids = fresh.rules_for(&method.parse().unwrap(), path);
        assert!(!ids.is_empty(), "{path}");
        let by_network = |kind| {
            if kind == KeyKind::Network {
                Some(network(1))
            } else {
                None
            }
        };
        for person in 0..50 {
            assert!(
                fresh.check_all(ids, by_network, 0, |_| {}).decision.allowed,
                "{method} {path} {person}"
            );
        }
        let flood = (0..2_000)
            .filter(|_| fresh.check_all(ids, by_network, 0, |_| {}).decision.allowed)
            .count();
        assert!(flood < 1_000, "{path} is limited");
    }
    assert!(
        limits
            .rules()
            .iter()
            .all(|rule| rule.kind() != KeyKind::Address),
        "no lock-out by somebody else's requests"
    );
}

#[test]
fn the_hosted_pages_are_no_second_door() {
    let limits = limits("");
    for (api, page) in [
        ("login", "login"),
        ("forgot-password", "forgot"),
        ("confirm-otp-reset", "confirm"),
        ("password-reset", "reset"),
        ("register", "register"),
        ("verify-email", "verify"),
    ] {
        let tightest = |path: String| {
            limits
                .rules_for(&Method::POST, &path)
                .first()
                .map(|id| limits.rule(*id).name().to_owned())
        };
        assert_eq!(
            tightest(format!("/api/v1/user/{api}")),
            tightest(format!("/account/{page}"))
        );
    }
}

#[test]
fn a_reload_keeps_the_counts() {
    let old = limits(TWO);
    let id = old.rules_for(&Method::GET, "/x")[0];
    (0..2).for_each(|_| assert!(old.check(id, Key::Account("ada"), 0).allowed));
    let settings = toml::from_str::<RawEdge>(&TWO.replace("burst = 5", "burst = 9"))
        .unwrap()
        .validate()
        .unwrap()
        .limits;
    let new = Limits::compile(&settings, Arc::clone(old.counters()));
    assert!(!new.check(id, Key::Account("ada"), 0).allowed);
}

#[test]
fn parallel_requests_never_get_more_than_the_burst() {
    let limits = limits(TWO);
    let ids = limits.rules_for(&Method::GET, "/x");
    let passed: usize = std::thread::scope(|scope| {
        let ask = || {
            (0..500)
                .filter(|_| {
                    let keys = |kind| {
                        if kind == KeyKind::Network {
                            Some(network(1))
                        } else {
                            None
                        }
                    };
                    limits.check_all(ids, keys, S, |_| {}).decision.allowed
                })
                .count()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(passed, 5);
}

/// The rules of the compiled-in default file.
fn default_limits() -> Limits {
    let config = crate::config::Config::load(None, std::iter::empty()).unwrap();
    Limits::compile(&config.edge.limits, Arc::new(Counters::new(1_000, [7; 16])))
}
