//! The house rules that no compiler checks: who may use whom, how long a function or a file may be,
//! what must not stand in `src/`, and what a column may be.
//!
//! The checks read text. They can, because rustfmt has been there before, and because comments and
//! string contents are blanked first, so that whatever is found is code. Each check also sees a bad
//! sample at the end of this file: a check that has never failed proves nothing.

use std::fs;
use std::path::Path;

/// Who may use whom, beside itself and the `LEAVES`.
const WALLS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "accounts",
            "app",
            "config",
            "gateway",
            "hash",
            "keys",
            "mail",
            "store",
            "telemetry",
            "web",
        ],
    ),
    (
        "web",
        &[
            "accounts",
            "app",
            "config",
            "gateway",
            "keys",
            "mail",
            "telemetry",
        ],
    ),
    (
        "accounts",
        &["app", "config", "hash", "keys", "mail", "store"],
    ),
    (
        "app",
        &[
            "config",
            "gateway",
            "hash",
            "keys",
            "mail",
            "store",
            "telemetry",
            "token",
        ],
    ),
    ("mail", &["config", "keys", "store"]),
    ("gateway", &["config"]),
    ("telemetry", &["config"]),
    ("store", &[]),
    ("config", &[]),
    ("hash", &[]),
    ("keys", &[]),
    ("token", &["keys"]),
    ("random", &["clock"]),
    ("lib", &[]),
];

/// Whom anyone may use; they themselves use nobody but whom a row of `WALLS` names.
const LEAVES: &[&str] = &["clock", "cores", "random", "error", "metrics", "private"];

const MAX_FUNCTION_LINES: usize = 70;
const MAX_FILE_LINES: usize = 600;

/// Names that say nothing, and so collect everything.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "helper", "helpers", "manager", "managers", "misc", "common",
];

/// The only file that knows there are two databases.
const DATABASE_DOOR: &str = "src/store/db.rs";

/// What both databases understand alike.
const COLUMN_TYPES: &[&str] = &["text", "bigint", "bytea"];
const TABLE_CONSTRAINTS: &[&str] = &["primary", "foreign", "unique", "check", "constraint"];

#[test]
fn modules_use_only_whom_they_may() {
    pass(sources().iter().flat_map(walls));
}

#[test]
fn functions_and_files_stay_short() {
    pass(sources().iter().flat_map(sizes));
}

#[test]
fn modules_stand_where_they_are_looked_for() {
    let paths: Vec<String> = sources().into_iter().map(|source| source.path).collect();
    pass(layout(&paths));
}

#[test]
fn nothing_unfinished_is_left() {
    pass(sources().iter().flat_map(leftovers));
}

#[test]
fn only_the_database_door_names_the_driver() {
    pass(sources().iter().flat_map(driver));
}

#[test]
fn columns_have_portable_types() {
    let migrations = files_below("migrations", "sql");
    pass(
        migrations
            .iter()
            .flat_map(|(path, text)| columns(&Source::sql(path, text))),
    );
}

// ---------------------------------------------------------------------------------- the checks

fn walls(source: &Source) -> Vec<String> {
    let module = source.module();
    let row = WALLS
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, allowed)| *allowed);
    let Some(allowed) = row.or(LEAVES.contains(&module).then_some(&[])) else {
        let advice = format!("`{module}` has no row; say in WALLS of tests/tidy.rs who it may use");
        return vec![source.at(&source.code, &advice)];
    };
    let may = |used: &str| {
        used == module
            || allowed.contains(&used)
            || LEAVES.contains(&used) && !LEAVES.contains(&module)
    };
    let mut problems = climbs(source);
    // `main.rs` is a crate of its own and sees the library under its name.
    let root = if module == "main" {
        "cargoextra"
    } else {
        "crate"
    };
    for place in source.words(root).flat_map(heads) {
        let used = identifier(place);
        if !may(used) {
            let advice = format!(
                "`{module}` may not use `{used}`; move the code to a module that may, or, if the \
                 cut is better so, change WALLS in tests/tidy.rs and ARCHITECTURE.md with it"
            );
            problems.push(source.at(place, &advice));
        }
    }
    problems
}

/// `super` that leads out of a top-level module would pass the walls unseen.
fn climbs(source: &Source) -> Vec<String> {
    let top_level = source.path.matches('/').count() == 1;
    let inline: Vec<&str> = source
        .words("mod")
        .map(item)
        .filter(|m| m.ends_with('}'))
        .collect();
    let is_inline = |place: &str| inline.iter().any(|module| contains(module, place));
    let leads_out =
        |place: &&str| place.starts_with("super::super") || top_level && !is_inline(place);
    let advice = "`super` leads out of the module here; write the path from `crate::`";
    source
        .words("super")
        .filter(leads_out)
        .map(|place| source.at(place, advice))
        .collect()
}

fn sizes(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = source.code.lines().count();
    if lines > MAX_FILE_LINES {
        let advice = format!("{lines} lines, {MAX_FILE_LINES} are allowed; cut the module in two");
        problems.push(source.at(&source.code, &advice));
    }
    // Tables of cases may be as long as there are cases.
    if source.path.ends_with("/tests.rs") {
        return problems;
    }
    // `fn name`, and not the type `fn(…)`.
    for function in source.words("fn").filter(|rest| rest.starts_with("fn ")) {
        let name = identifier(&function["fn ".len()..]);
        let lines = item(function).lines().count();
        if lines > MAX_FUNCTION_LINES {
            let advice = format!(
                "`{name}` has {lines} lines, {MAX_FUNCTION_LINES} are allowed; give a step of it a name"
            );
            problems.push(source.at(function, &advice));
        }
    }
    problems
}

fn layout(paths: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for path in paths {
        let names = path.trim_start_matches("src/").trim_end_matches(".rs");
        for name in names.split('/').filter(|name| EMPTY_NAMES.contains(name)) {
            problems.push(format!(
                "{path}:1: `{name}` says nothing; name it after what it does"
            ));
        }
        let Some((folder, file)) = path.rsplit_once('/') else {
            continue;
        };
        let parent = format!("{folder}.rs");
        if file == "mod.rs" {
            problems.push(format!("{path}:1: no mod.rs here; move it to {parent}"));
        } else if folder != "src" && !paths.contains(&parent) {
            problems.push(format!(
                "{path}:1: {parent} is missing; it is where a reader begins"
            ));
        }
    }
    problems
}

fn leftovers(source: &Source) -> Vec<String> {
    let tests: Vec<&str> = source
        .code
        .match_indices("#[cfg(test)]")
        .map(|(i, attribute)| item(&source.code[i + attribute.len()..]))
        .collect();
    let in_tests = |place: &str| {
        source.path.ends_with("/tests.rs") || tests.iter().any(|test| contains(test, place))
    };
    let mut problems = Vec::new();
    for name in ["todo", "unimplemented", "dbg"] {
        let advice = format!("`{name}!` is a note to oneself; finish the work or take it out");
        let calls = source
            .words(name)
            .filter(|rest| rest[name.len()..].starts_with('!'));
        problems.extend(calls.map(|place| source.at(place, &advice)));
    }
    let advice = "`unwrap` gives no reason; return the error, or `expect(\"why it can't be\")`";
    let unwraps = source.words("unwrap").filter(|place| !in_tests(place));
    problems.extend(unwraps.map(|place| source.at(place, advice)));
    problems
}

fn driver(source: &Source) -> Vec<String> {
    if source.path == DATABASE_DOOR {
        return Vec::new();
    }
    let advice = format!("only {DATABASE_DOOR} may name sqlx; call what it offers, or add to it");
    source
        .words("sqlx")
        .map(|place| source.at(place, &advice))
        .collect()
}

fn columns(migration: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    for statement in migration.code.split(';') {
        let words: Vec<&str> = statement.split_whitespace().take(2).collect();
        let definitions = match words[..] {
            ["create", "table"] => statement
                .find('(')
                .map(|i| entries(&statement[i..]))
                .unwrap_or_default(),
            ["alter", "table"] => statement
                .split_once(" add ")
                .map(|(_, column)| column.trim_start().trim_start_matches("column "))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        };
        for definition in definitions {
            let name = identifier(definition);
            let kind = definition.split_whitespace().nth(1).unwrap_or("no type");
            if !TABLE_CONSTRAINTS.contains(&name) && !COLUMN_TYPES.contains(&kind) {
                let advice = format!(
                    "column `{name}` is `{kind}`; both databases agree only on {}",
                    COLUMN_TYPES.join(", ")
                );
                problems.push(migration.at(definition, &advice));
            }
        }
    }
    problems
}

// ------------------------------------------------------------------------------ reading code

/// One file, with everything blanked that is not code. Whatever the checks hand around are slices
/// of `code`, so that each knows its line.
struct Source {
    path: String,
    code: String,
}

impl Source {
    fn rust(path: &str, text: &str) -> Self {
        Source {
            path: path.to_owned(),
            code: blank(text, opaque_rust),
        }
    }

    fn sql(path: &str, text: &str) -> Self {
        Source {
            path: path.to_owned(),
            code: blank(&text.to_lowercase(), opaque_sql),
        }
    }

    /// The top-level module that the file belongs to: `web` for `src/web/api.rs`.
    fn module(&self) -> &str {
        let names = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        names.split('/').next().unwrap_or(names)
    }

    /// Each place where `word` stands whole, with the code after it.
    fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        let whole = move |at: &usize| {
            !self.code[..*at].ends_with(in_identifier)
                && !self.code[at + word.len()..].starts_with(in_identifier)
        };
        self.code
            .match_indices(word)
            .map(|(at, _)| at)
            .filter(whole)
            .map(|at| &self.code[at..])
    }

    fn at(&self, place: &str, advice: &str) -> String {
        let before = place.as_ptr().addr() - self.code.as_ptr().addr();
        let line = 1 + self.code[..before].matches('\n').count();
        format!("{}:{line}: {advice}", self.path)
    }
}

/// Spaces in place of everything that is no code; the lines stay where they are.
fn blank(text: &str, opaque: fn(&str) -> usize) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hidden = opaque(rest);
        if hidden == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (dark, light) = rest.split_at(hidden);
            code.extend(
                dark.bytes()
                    .map(|byte| if byte == b'\n' { '\n' } else { ' ' }),
            );
            rest = light;
        }
    }
    code
}

/// The length of the comment, string or character that `rest` begins with, or 0.
fn opaque_rust(rest: &str) -> usize {
    let raw = rest
        .strip_prefix('r')
        .map(|rest| rest.trim_start_matches('#'));
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        rest.find("*/").map_or(rest.len(), |i| i + 2)
    } else if rest.starts_with('"') {
        closing(rest, 1, '"')
    } else if raw.is_some_and(|raw| raw.starts_with('"')) {
        let opening = rest.find('"').expect("just seen") + 1;
        let end = format!("\"{}", "#".repeat(opening - 2));
        rest[opening..]
            .find(&end)
            .map_or(rest.len(), |i| opening + i + end.len())
    } else if rest.starts_with("'\\") {
        closing(rest, 1, '\'')
    } else if rest.starts_with('\'') && rest.chars().nth(2) == Some('\'') {
        rest.chars().take(3).map(char::len_utf8).sum()
    } else {
        0 // a lifetime too: 'a
    }
}

fn opaque_sql(rest: &str) -> usize {
    if rest.starts_with("--") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        rest.find("*/").map_or(rest.len(), |i| i + 2)
    } else if let Some(text) = rest.strip_prefix('\'') {
        text.find('\'').map_or(rest.len(), |i| i + 2)
    } else {
        0
    }
}

/// The length up to and with the first `quote` after `from` that no backslash escapes.
fn closing(rest: &str, from: usize, quote: char) -> usize {
    let mut escaped = false;
    for (at, next) in rest.char_indices().skip(from) {
        if next == quote && !escaped {
            return at + 1;
        }
        escaped = next == '\\' && !escaped;
    }
    rest.len()
}

/// The item that `rest` begins with: to its `;`, or to the brace that closes its body.
fn item(rest: &str) -> &str {
    let mut depth = 0;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth <= 0 && (byte == b'}' || byte == b';') {
            return &rest[..=at];
        }
    }
    rest
}

/// What stands directly below a path's root: `a` and `b` for `crate::{a::X, b}`, `a` for `crate::a::X`.
fn heads(root: &str) -> Vec<&str> {
    let Some((_, path)) = root
        .split_once("::")
        .filter(|(root, _)| root.chars().all(in_identifier))
    else {
        return Vec::new(); // `pub(crate)`
    };
    if path.starts_with('{') {
        entries(path)
    } else {
        vec![path]
    }
}

/// The entries of the bracketed list that `list` begins with; a comma deeper inside parts nothing.
fn entries(list: &str) -> Vec<&str> {
    let mut entries = Vec::new();
    let (mut depth, mut start) = (0, 1);
    for (at, next) in list.char_indices() {
        match next {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || depth == 1 && next == ',' {
            entries.push(list[start..at].trim());
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    entries.retain(|entry| !entry.is_empty());
    entries
}

fn identifier(rest: &str) -> &str {
    rest.split(|c| !in_identifier(c)).next().unwrap_or(rest)
}

fn in_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `part` is a slice that begins within the slice `whole`.
fn contains(whole: &str, part: &str) -> bool {
    whole.as_bytes().as_ptr_range().contains(&part.as_ptr())
}

// ------------------------------------------------------------------------------- the work tree

fn sources() -> Vec<Source> {
    files_below("src", "rs")
        .iter()
        .map(|(path, text)| Source::rust(path, text))
        .collect()
}

/// Path and text of every file below `folder` that ends so.
fn files_below(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.expect("a folder that can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                let text = fs::read_to_string(&path).expect("text in UTF-8");
                let short = path
                    .strip_prefix(env!("CARGO_MANIFEST_DIR"))
                    .expect("found below it");
                found.push((short.to_string_lossy().into_owned(), text));
            }
        }
    }
    assert!(
        !found.is_empty(),
        "no .{extension} file below {folder}/: what is there to check?"
    );
    found.sort();
    found
}

fn pass(problems: impl IntoIterator<Item = String>) {
    let problems: Vec<String> = problems.into_iter().collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

// -------------------------------------------------------------------- the checks, seen failing

/// Where the problems are, without the advice.
fn places(problems: &[String]) -> Vec<String> {
    problems
        .iter()
        .map(|it| it.splitn(3, ':').take(2).collect::<Vec<_>>().join(":"))
        .collect()
}

#[test]
fn a_breach_of_the_walls_is_seen() {
    let breach = |path, text| places(&walls(&Source::rust(path, text)));
    let plain = "use crate::app::App;\nuse crate::store;\nfn f() { crate::hash::x() }";
    assert_eq!(
        breach("src/web/api.rs", plain),
        ["src/web/api.rs:2", "src/web/api.rs:3"]
    );
    let grouped = "use crate::{\n    app::{App, store},\n    error::Error,\n    hash,\n};";
    assert_eq!(breach("src/web.rs", grouped), ["src/web.rs:4"]);
    assert_eq!(breach("src/web.rs", "use crate::*;"), ["src/web.rs:1"]);
    assert_eq!(
        breach("src/main.rs", "use cargoextra::{cli, store};"),
        ["src/main.rs:1"]
    );
    assert_eq!(
        breach("src/clock.rs", "use crate::random::Id;"),
        ["src/clock.rs:1"]
    );
    assert_eq!(breach("src/novel.rs", ""), ["src/novel.rs:1"]);
    let climbing =
        "use super::store;\nmod tests {\n    use super::*;\n    use super::super::store;\n}";
    assert_eq!(
        breach("src/web.rs", climbing),
        ["src/web.rs:1", "src/web.rs:4"]
    );

    let good =
        "/// See [`crate::store`].\npub(crate) fn f() -> crate::error::Error {}\nuse super::X;";
    assert_eq!(breach("src/web/api.rs", good), [""; 0]);
}

#[test]
fn a_long_function_and_a_long_file_are_seen() {
    let function = |lines: usize| {
        let body = "    let brace = '{'; // {\n".repeat(lines - 2);
        Source::rust(
            "src/web.rs",
            &format!("type F = fn(u8);\n\nfn f(a: [u8; 2]) {{\n{body}}}\n"),
        )
    };
    assert_eq!(places(&sizes(&function(71))), ["src/web.rs:3"]);
    assert_eq!(places(&sizes(&function(70))), [""; 0]);
    let file = |lines| Source::rust("src/web.rs", &"//\n".repeat(lines));
    assert_eq!(places(&sizes(&file(601))), ["src/web.rs:1"]);
    assert_eq!(places(&sizes(&file(600))), [""; 0]);
}

#[test]
fn a_misplaced_or_unnamed_module_is_seen() {
    let misplaced = |paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        places(&layout(&paths))
    };
    assert_eq!(misplaced(&["src/web/mod.rs"]), ["src/web/mod.rs:1"]);
    assert_eq!(misplaced(&["src/web/api.rs"]), ["src/web/api.rs:1"]);
    assert_eq!(misplaced(&["src/utils.rs"]), ["src/utils.rs:1"]);
    assert_eq!(
        misplaced(&["src/lib.rs", "src/web.rs", "src/web/api.rs"]),
        [""; 0]
    );
}

#[test]
fn unfinished_work_is_seen() {
    let found = |text| places(&leftovers(&Source::rust("src/web.rs", text)));
    let bad =
        "fn f() {\n    todo!();\n    dbg!(1);\n    x.unwrap();\n    y.map(Result::unwrap);\n}";
    assert_eq!(
        found(bad),
        [
            "src/web.rs:2",
            "src/web.rs:3",
            "src/web.rs:4",
            "src/web.rs:5"
        ]
    );
    let after_tests =
        "#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap() }\n}\nfn g() { x.unwrap() }";
    assert_eq!(found(after_tests), ["src/web.rs:5"]);
    let good = "// todo!()\nfn f() {\n    x.expect(\"unwrap\").unwrap_or(0)\n}";
    assert_eq!(found(good), [""; 0]);
}

#[test]
fn a_second_door_to_the_database_is_seen() {
    let text = "// sqlx::query\nuse sqlx::Row;";
    assert_eq!(
        places(&driver(&Source::rust("src/store/sessions.rs", text))),
        ["src/store/sessions.rs:2"]
    );
    assert_eq!(places(&driver(&Source::rust(DATABASE_DOOR, text))), [""; 0]);
}

#[test]
fn an_unportable_column_is_seen() {
    let found = |text| places(&columns(&Source::sql("migrations/1.sql", text)));
    let created = "-- boolean, here\ncreate table a (\n  id text primary key,\n  b BOOLEAN,\n  c varchar(3)\n);";
    assert_eq!(found(created), ["migrations/1.sql:4", "migrations/1.sql:5"]);
    assert_eq!(
        found("alter table a add column b jsonb;"),
        ["migrations/1.sql:1"]
    );
    assert_eq!(found("create table a (untyped);"), ["migrations/1.sql:1"]);
    let good = "create table if not exists a (\n  id text not null default ',',\n  b bytea, c bigint\n    \
                check (c in (1, 2)),\n  primary key (id, b)\n);\ncreate index i on a (c);\n\
                alter table a add d bigint;";
    assert_eq!(found(good), [""; 0]);
}

#[test]
fn strings_and_comments_are_no_code() {
    let text = "a /* { \n } */ r#\"{\"#; b\"\\\"{\" '\\'' '{' 'é' &'a r\"{\" \"{\n{\" // {\nz";
    let code = blank(text, opaque_rust);
    assert_eq!(code.split_whitespace().collect::<String>(), "a;b&'az");
    assert_eq!(code.len(), text.len());
    assert_eq!(code.lines().count(), text.lines().count());
}
