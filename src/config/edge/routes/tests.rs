#![allow(
    clippy::too_many_lines,
    reason = "tables of cases may be as long as there are cases"
)]
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn check(route: &str) -> (Vec<RouteSettings>, Vec<String>) {
    let mut problems = Vec::new();
    let routes = toml::from_str::<RawGateway>(&format!("[[routes]]\n{route}"))
        .unwrap()
        .validate(&mut problems);
    (routes, problems)
}

#[test]
fn the_shape_of_the_contract_passes() {
    let (routes, problems) = check(
        "prefix = \"/api/v1/shipment\"\nupstreams = [\"http://127.0.0.1:9100\"]\nauth = \"none\"",
    );
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(routes[0].name, "api-v1-shipment");
    assert_eq!(
        routes[0].timeouts,
        Timeouts {
            connect_ms: 1_000,
            response_ms: 15_000,
            idle_ms: 60_000,
            total_ms: None
        }
    );
    let all = "name = \"x\"\nprefix = \"/x/\"\nhost = \"*.Example.com\"\nmethods = [\"GET\"]\nrewrite = { strip_prefix = true }\n\
             upstreams = [{ url = \"http://a:1\", weight = 3 }, \"http://[::1]:2/\"]\nauth = \"optional\"\nretries = 0\n\
             balance = \"least_connections\"\nhealth = { path = \"/healthz\" }\nmax_connections = 10\nprotocol = \"h2c\"";
    let (routes, problems) = check(all);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(
        (
            routes[0].prefix.as_str(),
            routes[0].replace_prefix.as_deref()
        ),
        ("/x", Some(""))
    );
}

#[test]
fn every_mistake_is_named() {
    let route = |text: &str| {
        let good = [
            ("prefix", "\"/x\""),
            ("upstreams", "[\"http://a:1\"]"),
            ("auth", "\"none\""),
        ];
        let key = text.split(' ').next().unwrap();
        let rest = good
            .iter()
            .filter(|(k, _)| *k != key)
            .map(|(k, v)| format!("{k} = {v}\n"))
            .collect::<String>();
        check(&format!("{rest}{text}")).1
    };
    for (text, part) in [
        ("prefix = \"x\"", "begin with a slash"),
        ("prefix = \"/x/*\"", "needs no *"),
        ("prefix = \"/docs/x\"", "belongs to the gateway"),
        ("prefix = \"/healthz/\"", "belongs to the gateway"),
        ("auth = \"staff\"", "not built yet"),
        ("auth = \"any\"", "auth is \"any\""),
        ("upstreams = []", "at least one upstream"),
        ("upstreams = [\"ftp://a\"]", "http:// or https://"),
        ("upstreams = [\"a:1\"]", "begin with http"),
        ("upstreams = [\"http://a/b\"]", "rewrite.replace_prefix"),
        ("upstreams = [\"http://u@a\"]", "no user"),
        ("upstreams = [\"http://a:99999\"]", "port"),
        ("upstreams = [\"http://a\", \"http://a\"]", "stands twice"),
        (
            "upstreams = [{ url = \"http://a\", weight = 0 }]",
            "weight is 0",
        ),
        ("methods = []", "empty list"),
        ("methods = [\"get\"]", "in capitals"),
        ("host = \"a b\"", "host \"a b\""),
        (
            "rewrite = { strip_prefix = true, replace_prefix = \"/y\" }",
            "choose one",
        ),
        ("retries = 9", "from 0 to 3"),
        ("balance = \"random\"", "round_robin"),
        ("protocol = \"h2\"", "h2c"),
        ("protocol = \"h3\"", "http1, h2 or h2c"),
        ("health = {}", "health.path"),
        ("health = { path = \"/h\", timeout_ms = 9000 }", "shorter"),
        ("connect_timeout_ms = 0", "connect_timeout_ms is 0"),
        (
            "name = \"a\"\n[[routes]]\nprefix = \"/x\"\nupstreams = [\"http://b\"]\nauth = \"none\"",
            "same requests",
        ),
        (
            "name = \"a\"\n[[routes]]\nname = \"a\"\nprefix = \"/y\"\nupstreams = [\"http://b\"]\nauth = \"none\"",
            "stands twice",
        ),
    ] {
        let found = route(text);
        assert!(found.iter().any(|p| p.contains(part)), "{text}: {found:?}");
    }
    assert!(route("prefix = \"/accounts\"").is_empty());
    assert!(route("prefix = \"/\"").is_empty());
}
