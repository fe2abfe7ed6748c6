//! Laying the three sources over one another.

use std::path::Path;

use toml::{Table, Value};

use super::{DEFAULT, Problems};

const PREFIX: &str = "CARGOEXTRA_";

/// Default file, then `file`, then the environment.
pub fn merged(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Table, Problems> {
    let mut table: Table = DEFAULT
        .parse()
        .expect("the compiled-in default is valid TOML");
    let mut problems = Vec::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problems(vec![format!("{}: can't be read: {error}", path.display())])
        })?;
        let over: Table = text.parse().map_err(|error: toml::de::Error| {
            // Not the line itself, which the error would show: it may hold a secret.
            let before = error.span().map_or("", |span| &text[..span.start]);
            Problems(vec![format!(
                "{}: line {}: {}",
                path.display(),
                before.matches('\n').count() + 1,
                error.message()
            )])
        })?;
        lay_over(&mut table, over, "", &mut problems);
    }
    for (name, text) in environment {
        // The test harness and the service manager have variables of their own; only SECTION__KEY is configuration.
        let Some(path) = name.strip_prefix(PREFIX).filter(|path| path.contains("__")) else {
            continue;
        };
        let keys: Vec<String> = path.to_lowercase().split("__").map(str::to_owned).collect();
        if let Err(problem) = set_from_environment(&mut table, &keys, &text) {
            problems.push(format!("{name}: {problem}"));
        }
    }
    if problems.is_empty() {
        Ok(table)
    } else {
        Err(Problems(problems))
    }
}

fn lay_over(base: &mut Table, over: Table, path: &str, problems: &mut Vec<String>) {
    for (key, value) in over {
        let name = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match (base.get_mut(&key), value) {
            (None, _) => problems.push(format!(
                "{name}: there is no such key; see config.default.toml"
            )),
            (Some(Value::Table(base)), Value::Table(over)) => lay_over(base, over, &name, problems),
            (Some(old), value) if old.same_type(&value) => *old = value,
            // `1` is a share as good as `1.0`.
            (Some(old @ Value::Float(_)), Value::Integer(whole)) => {
                *old = Value::Float(whole as f64);
            }
            (Some(old), value) => problems.push(format!(
                "{name}: must be {}, not {}",
                old.type_str(),
                value.type_str()
            )),
        }
    }
}

/// A value from the environment takes the type that the key has.
fn set_from_environment(table: &mut Table, keys: &[String], text: &str) -> Result<(), String> {
    let (last, sections) = keys.split_last().expect("a split has at least one part");
    let mut table = table;
    for section in sections {
        table = table
            .get_mut(section)
            .and_then(Value::as_table_mut)
            .ok_or_else(|| format!("there is no section `{section}`"))?;
    }
    let old = table
        .get_mut(last)
        .ok_or_else(|| format!("there is no key `{last}`"))?;
    *old = match old {
        Value::String(_) => Value::String(text.to_owned()),
        Value::Boolean(_) => Value::Boolean(
            text.parse()
                .map_err(|_| format!("`{text}` is not true or false"))?,
        ),
        Value::Integer(_) => Value::Integer(
            text.parse()
                .map_err(|_| format!("`{text}` is not a whole number"))?,
        ),
        Value::Float(_) => Value::Float(
            text.parse()
                .map_err(|_| format!("`{text}` is not a number"))?,
        ),
        Value::Array(_) => Value::Array(list(text)?),
        _ => return Err("this key can't be set from the environment".to_owned()),
    };
    Ok(())
}

/// `a,b` or an inline TOML array.
fn list(text: &str) -> Result<Vec<Value>, String> {
    if text.trim_start().starts_with('[') {
        let table: Table = format!("list = {text}")
            .parse()
            .map_err(|error| format!("{error}"))?;
        return Ok(table["list"].as_array().cloned().unwrap_or_default());
    }
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    Ok(parts.map(|part| Value::String(part.to_owned())).collect())
}

/// Replaces what must not be shown: keys, passwords, and the password part of addresses.
pub fn mask(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        match value {
            Value::Table(inner) => mask(inner),
            Value::Array(items) => {
                items
                    .iter_mut()
                    .filter_map(Value::as_table_mut)
                    .for_each(mask_named);
            }
            Value::String(text) if key == "smtp_password" && !text.is_empty() => {
                *text = "***".to_owned();
            }
            Value::String(text) if key == "url" || key.ends_with("_url") => *text = mask_url(text),
            _ => {}
        }
    }
}

fn mask_named(table: &mut Table) {
    if let Some(value) = table.get_mut("value") {
        *value = Value::String("***".to_owned());
    }
}

fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match rest.rsplit_once('@') {
        None => url.to_owned(),
        Some((user, host)) => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}:***@{host}")
        }
    }
}
