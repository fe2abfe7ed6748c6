#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

fn check(rule: &str) -> Vec<String> {
    let raw: RawGuard = toml::from_str(&format!(
        "[[rules]]\nname = \"r\"\naction = \"deny\"\n{rule}"
    ))
    .unwrap();
    let mut problems = Vec::new();
    raw.validate(&mut problems);
    problems
}

#[test]
fn the_shapes_of_the_contract_pass() {
    for when in [
        "network = [\"203.0.113.0/24\"]",
        "path = \"/api/v1/x/*\"",
        "method = [\"PUT\"]",
        "header = { name = \"user-agent\", contains = \"sqlmap\" }",
        "header = { name = \"accept\", missing = true }",
        "method = \"GET\", not = { host = \"*.example.com\" }",
        "any = [{ path = \"/a/*/b\" }, { all = [{ body_larger_than = 10 }, { method = \"POST\" }] }]",
        "header = { name = \"user-agent\", regex = \"^bot/[0-9]+\" }",
    ] {
        assert_eq!(
            check(&format!("when = {{ {when} }}")),
            Vec::<String>::new(),
            "{when}"
        );
    }
}

#[test]
fn every_mistake_is_named() {
    let deep = (0..MAX_DEPTH).fold("path = \"/x\"".to_owned(), |inner, _| {
        format!("not = {{ {inner} }}")
    });
    for (when, part) in [
        ("", "would hit everything"),
        ("network = []", "empty list"),
        ("network = \"10.0.0.0/33\"", "no address or network"),
        ("country = \"DEU\"", "two letters"),
        ("method = \"put\"", "in capitals"),
        ("path = \"x\"", "begin with a slash"),
        ("path = \"/a//b\"", "empty segment"),
        ("path = \"/a/../b\"", "dot segment"),
        ("path = \"/a%2e\"", "upper-case digits"),
        ("path = \"/*.php\"", "inside a segment"),
        ("path = \"/a b\"", "percent-escaped"),
        ("host = \"a:80\"", "without port"),
        ("header = { contains = \"x\" }", "needs the name"),
        ("header = { name = \"a\" }", "exactly one of"),
        (
            "header = { name = \"a\", contains = \"x\", missing = true }",
            "exactly one of",
        ),
        ("header = { name = \"a\", contains = \"\" }", "empty text"),
        (
            "header = { name = \"a\", regex = \"(\" }",
            "does not compile",
        ),
        (
            "header = { name = \"a\", regex = \"(a{1000}){1000}\" }",
            "does not compile",
        ),
        ("any = []", "empty all or any"),
        (&deep, "nest deeper"),
    ] {
        let found = check(&format!("when = {{ {when} }}"));
        assert!(found.iter().any(|p| p.contains(part)), "{when}: {found:?}");
    }
    assert!(
        check("when = { path = \"/x\" }\n[builtin]\nscanner_paths = \"on\"")[0]
            .contains("deny, observe or off")
    );
    assert!(check("when = { path = \"/x\" }\n[[rules]]\nname = \"r\"")[2].contains("stands twice"));
}

#[test]
fn a_rule_by_country_needs_the_file() {
    let problem = "guard.rules \"r\": asks for the country; name a file of the MaxMind format in guard.country_file";
    for when in ["country = \"DE\"", "not = { any = [{ country = \"DE\" }] }"] {
        assert_eq!(check(&format!("when = {{ {when} }}")), [problem], "{when}");
        let off = format!("when = {{ {when} }}\nenabled = false");
        assert_eq!(check(&off), [""; 0], "{when}");
    }
}

#[test]
fn a_list_of_networks_is_read_as_strictly_as_an_inline_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocked.txt");
    let when = format!(
        "when = {{ network_file = {:?} }}",
        path.display().to_string()
    );
    let problems = |text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        let at = format!("guard.rules \"r\": network_file: {}", path.display());
        let found = check(&when).into_iter();
        found
            .map(|problem| {
                problem
                    .strip_prefix(&at)
                    .expect("it names the file")
                    .to_owned()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        problems(b"# blocked\n203.0.113.0/24 # them\r\n\n 2001:db8::1\n"),
        [""; 0]
    );
    assert_eq!(
        problems(b"10.0.0.1\n10.0.0.1/8\n#\nthem\n"),
        [
            ", line 2: \"10.0.0.1/8\" has bits behind its prefix length; write 10.0.0.0/8",
            ", line 4: \"them\" is no address or network; write one like 203.0.113.0/24 or 2001:db8::/32",
        ]
    );
    assert_eq!(
        problems(b"# nobody\n"),
        [" holds no network; fill it or remove the rule"]
    );
    assert_eq!(
        problems(b"10.0.0.1\xff"),
        [" is no text; write a network a line"]
    );
    let wrong = problems("them\n".repeat(25).as_bytes());
    assert_eq!(
        (wrong.len(), wrong[10].as_str()),
        (11, " has 15 more lines like these")
    );
    let many = |count: u32| {
        let line = |nth| format!("{}\n", std::net::Ipv4Addr::from_bits(nth));
        problems((0..count).map(line).collect::<String>().as_bytes())
    };
    assert_eq!(many(100_000), [""; 0]);
    assert_eq!(
        many(100_001),
        [" has 100001 entries; at most 100000 are allowed"]
    );
    assert_eq!(
        problems(&vec![b'#'; 10_000_001]),
        [" is larger than 10000000 bytes; use a smaller one"]
    );
    std::fs::remove_file(&path).unwrap();
    assert!(
        check(&when)[0]
            .ends_with("can't be read: No such file or directory (os error 2); correct the path")
    );
}
