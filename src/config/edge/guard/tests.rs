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
        "country = \"de\", not = { host = \"*.example.com\" }",
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
