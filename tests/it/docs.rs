//! What `docs/` promises: the configuration reference is that of `config.default.toml`, and the samples recover a password.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::app::{Database, TestApp};

const ADA: &str = "ada@example.com";

/// A sample that takes longer hangs; compilers start slowly.
const LONGEST: Duration = Duration::from_secs(120);

/// What JSON must escape, and what is not ASCII.
const TRICKY_PASSWORD: &str = "Zwölf \"Boxkämpfer\" \\ jagen";

/// Language, program, what stands before the file, file.
const SAMPLES: &[(&str, &str, &[&str], &str)] = &[
    ("Python", "python3", &[], "recover.py"),
    ("JavaScript", "node", &[], "recover.mjs"),
    ("Go", "go", &["run"], "recover.go"),
    ("Ruby", "ruby", &[], "recover.rb"),
    ("Java", "java", &[], "Recover.java"),
    ("PHP", "php", &[], "recover.php"),
    ("C#", "dotnet", &["run"], "recover.cs"),
    ("Swift", "swift", &[], "recover.swift"),
];

/// `scripts/setup` installs these; the others are run where somebody else did. `integrating.md` says the same.
const ALWAYS_RUN: &[&str] = &["Python", "JavaScript"];

#[test]
fn the_configuration_reference_is_that_of_the_default() {
    let fresh = reference(&text("config.default.toml"));
    if text("docs/src/configuration.md") != fresh {
        let left = root().join("target/configuration.md");
        std::fs::write(&left, fresh).expect("target/ can be written");
        panic!(
            "docs/src/configuration.md is stale; look at the new one, then: cp target/configuration.md docs/src/configuration.md"
        );
    }
}

#[test]
fn every_key_is_in_the_reference() {
    let parsed: toml::Table = text("config.default.toml").parse().expect("TOML");
    let page = reference(&text("config.default.toml"));
    let mut missing = Vec::new();
    let mut open: Vec<(String, &toml::Table)> = vec![(String::new(), &parsed)];
    while let Some((prefix, table)) = open.pop() {
        for (key, value) in table {
            let name = format!("{prefix}{key}");
            if let Some(inner) = value.as_table() {
                open.push((format!("{name}."), inner));
            } else if name != "limits.rules" && !page.contains(&format!("| `{name}` |")) {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
    let rules = parsed["limits"]["rules"].as_array().expect("a list");
    for rule in rules {
        let name = rule["name"].as_str().expect("text");
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn the_summary_names_every_page_and_the_pages_include_every_sample() {
    let summary = text("docs/src/SUMMARY.md");
    let named: BTreeSet<String> = between(&summary, "](", ")");
    let mut pages = files("docs/src");
    assert!(pages.remove("SUMMARY.md"));
    assert_eq!(named, pages);
    let page = text("docs/src/integrating.md");
    let included: BTreeSet<String> = between(&page, "{{#include ../samples/", "}}");
    assert_eq!(included, files("docs/samples"));
    for (language, ..) in SAMPLES {
        let run = if ALWAYS_RUN.contains(language) {
            "yes |"
        } else {
            "where it is installed;"
        };
        let said = format!("| {language} | {run}");
        assert!(page.contains(&said), "integrating.md lacks: {said}");
    }
}

/// The store is not what is tested here, so one database is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_samples_recover_a_password() {
    let mut not_run = Vec::new();
    for (language, program, before, file) in SAMPLES {
        if !is_here(program) {
            assert!(
                !ALWAYS_RUN.contains(language),
                "{program} is missing; scripts/setup installs it"
            );
            not_run.push(*language);
            continue;
        }
        let app = TestApp::with(Database::Sqlite, |config| {
            config.accounts.reset.proof = cargoextra::config::Proof::Grant;
        })
        .await;
        app.account(ADA).await;
        let wrong = play(&app, program, before, file, Some("0000000000")).await;
        assert_eq!(
            (wrong.0, wrong.1.contains("Invalid OTP")),
            (false, true),
            "{language}: {}",
            wrong.1
        );
        let right = play(&app, program, before, file, None).await;
        assert!(right.0, "{language}: {}", right.1);
        assert!(app.signs_in(ADA, TRICKY_PASSWORD).await, "{language}");
    }
    println!("samples not run, their programs are not here: {not_run:?}");
}

/// Runs a sample, types the code of the mail, or another. Whether it ended well, and all that it said.
async fn play(
    app: &TestApp,
    program: &str,
    before: &[&str],
    file: &str,
    code: Option<&str>,
) -> (bool, String) {
    let mut child = Command::new(program)
        .args(before)
        .arg(root().join("docs/samples").join(file))
        .args([&format!("http://{}", app.address), ADA])
        .env("NEW_PASSWORD", TRICKY_PASSWORD)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it is installed");
    let mut input = child.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let run = async {
        let mut said = String::new();
        if let Some(asks) = lines.next_line().await.expect("text") {
            said += &asks;
            let typed = match code {
                Some(code) => code.to_owned(),
                None => app.code(ADA).await,
            };
            let typed = format!("{typed}\n");
            input.write_all(typed.as_bytes()).await.expect("it reads");
        }
        while let Some(line) = lines.next_line().await.expect("text") {
            said += &line;
        }
        let ended = child.wait_with_output().await.expect("it ends");
        said += &String::from_utf8_lossy(&ended.stderr);
        (ended.status.success(), said)
    };
    tokio::time::timeout(LONGEST, run)
        .await
        .unwrap_or_else(|_| panic!("{file} hangs"))
}

fn is_here(program: &str) -> bool {
    let asked = std::process::Command::new("which").arg(program).output();
    asked.expect("`which` runs").status.success()
}

// --------------------------------------------------------------------- the configuration reference

/// The page that `config.default.toml` makes: a chapter a section, a row a key, what stands in comments as text.
fn reference(default: &str) -> String {
    let (head, rest) = default
        .split_once("\n\n")
        .expect("a head, then the sections");
    let mut page = format!(
        "# Configuration reference\n\n<!-- Made from config.default.toml; tests/it/docs.rs says how to refresh it. -->\n\nThis is what `config.default.toml` says.\n\n{}\n",
        head.lines().map(comment).collect::<Vec<_>>().join("\n")
    );
    let (rest, rules) = (rest.to_owned() + "\n", rules(default));
    let mut section = String::new();
    let mut in_table = false;
    let mut remarks: Vec<&str> = Vec::new();
    for line in rest.lines() {
        if line.starts_with('#') {
            remarks.push(comment(line));
            continue;
        }
        put_remarks(&mut page, &mut remarks, &mut in_table);
        let (code, remark) = split(line);
        if code == "[[limits.rules]]" {
            section = "limits.rules".to_owned();
        } else if let Some(name) = code.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            write!(page, "\n## {section}\n").expect("memory");
            if !remark.is_empty() {
                write!(page, "\n{remark}\n").expect("memory");
            }
            in_table = false;
        } else if let Some((key, value)) = code.split_once(" = ")
            && section != "limits.rules"
        {
            if !in_table {
                page += "\n| key | default | |\n|---|---|---|\n";
                in_table = true;
            }
            let value = cell(value);
            writeln!(page, "| `{section}.{key}` | `{value}` | {} |", cell(remark)).expect("memory");
        }
        if code == "[telemetry]" {
            let at = page.rfind("\n## telemetry").expect("just written");
            page.insert_str(at, &rules);
        }
    }
    page
}

/// Comments: a sample in TOML as such, all else as a paragraph.
fn put_remarks(page: &mut String, remarks: &mut Vec<&str>, in_table: &mut bool) {
    if remarks.is_empty() {
        return;
    }
    let text = remarks.join("\n");
    let made = if text.contains("[[") {
        format!("\n```toml\n{text}\n```\n")
    } else {
        format!("\n{text}\n")
    };
    *page += &made;
    *in_table = false;
    remarks.clear();
}

/// The default limits, a row each.
fn rules(default: &str) -> String {
    let parsed: toml::Table = default.parse().expect("TOML");
    let mut made =
        "\n### limits.rules\n\n| name | route | key | rate | burst |\n|---|---|---|---|---|\n"
            .to_owned();
    for rule in parsed["limits"]["rules"].as_array().expect("a list") {
        let routes = match &rule["route"] {
            toml::Value::Array(routes) => {
                routes.iter().filter_map(|route| route.as_str()).collect()
            }
            route => vec![route.as_str().expect("text")],
        };
        let field = |name: &str| rule[name].as_str().expect("text");
        writeln!(
            made,
            "| `{}` | `{}` | {} | {} | {} |",
            field("name"),
            routes.join("`, `"),
            field("key"),
            field("rate"),
            rule["burst"]
        )
        .expect("memory");
    }
    made
}

/// A line's code and its comment.
fn split(line: &str) -> (&str, &str) {
    let in_text = |at: usize| line[..at].matches('"').count() % 2 == 1;
    let comment = line.match_indices('#').find(|(at, _)| !in_text(*at));
    comment.map_or((line.trim(), ""), |(at, _)| {
        (line[..at].trim(), line[at + 1..].trim())
    })
}

fn comment(line: &str) -> &str {
    let text = line.trim_start_matches('#');
    text.strip_prefix(' ').unwrap_or(text)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

// ------------------------------------------------------------------------------------------- files

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn text(path: &str) -> String {
    let read = std::fs::read_to_string(root().join(path));
    read.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of the files in a folder.
fn files(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join(folder)).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("UTF-8"))
        .collect()
}

/// What stands between each `open` and the next `close`.
fn between(text: &str, open: &str, close: &str) -> BTreeSet<String> {
    text.split(open)
        .skip(1)
        .filter_map(|rest| rest.split_once(close))
        .map(|(inner, _)| inner.to_owned())
        .collect()
}
