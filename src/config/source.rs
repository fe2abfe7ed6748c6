//! Where a configuration came from: so that it can be read again, and so that two of them can be compared key by key.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The file, and what the three sources gave together.
#[derive(Clone, Default)]
pub struct Source {
    file: Option<PathBuf>,
    table: Table,
}

impl Source {
    pub(super) fn new(file: Option<&Path>, table: Table) -> Self {
        Self {
            file: file.map(Path::to_owned),
            table,
        }
    }

    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The names of the keys whose values differ, in the order of the file. Never a value: it may be a secret.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        compare(&self.table, &other.table, "", &mut found);
        found
    }
}

/// The table holds secrets.
impl fmt::Debug for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Source")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Both tables hold every key: the default file does, and unknown ones are refused.
fn compare(old: &Table, new: &Table, path: &str, found: &mut Vec<String>) {
    for (key, value) in new {
        let name = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match (old.get(key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => compare(old, new, &name, found),
            (Some(old), new) if old == new => {}
            _ => found.push(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_are_named_and_values_are_not() {
        let source = |text: &str| Source::new(None, text.parse().expect("TOML"));
        let old = source("[a]\nx = 1\ny = [1]\n[a.b]\nz = 's1'\n[c]\nw = true\n");
        let new = source("[a]\nx = 1\ny = [2]\n[a.b]\nz = 's2'\n[c]\nw = true\n");
        assert_eq!(old.differences(&new), ["a.b.z", "a.y"]);
        assert!(old.differences(&old).is_empty());
        assert_eq!(format!("{new:?}"), "Source { file: None, .. }");
    }
}
