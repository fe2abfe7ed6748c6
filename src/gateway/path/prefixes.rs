//! The longest of many path prefixes, found in a sorted list.

use std::cmp::Ordering;

use super::pattern::begins;
use super::without_trailing_slash;

/// A map from literal path prefixes to values; [`PathPrefixes::longest`] takes `O(log n)` and allocates nothing.
///
/// A literal that ends with a slash covers whole segments: `/a/` covers `/a`, `/a/` and `/a/b`, and not `/ab`.
#[derive(Debug, Clone)]
pub struct PathPrefixes<T> {
    /// Sorted by literal.
    entries: Box<[Entry<T>]>,
}

#[derive(Debug, Clone)]
struct Entry<T> {
    literal: Box<str>,
    /// The longest other literal that this one begins with.
    parent: Option<usize>,
    value: T,
}

impl<T> PathPrefixes<T> {
    /// Sorts the prefixes; of equal literals the last one stays.
    pub fn new(prefixes: impl IntoIterator<Item = (String, T)>) -> Self {
        let sorted: std::collections::BTreeMap<String, T> = prefixes.into_iter().collect();
        let mut entries: Vec<Entry<T>> = Vec::with_capacity(sorted.len());
        for (literal, value) in sorted {
            let mut parent = entries.len().checked_sub(1);
            while let Some(at) = parent {
                if literal.starts_with(&*entries[at].literal) {
                    break;
                }
                parent = entries[at].parent;
            }
            entries.push(Entry {
                literal: literal.into(),
                parent,
                value,
            });
        }
        Self {
            entries: entries.into(),
        }
    }

    /// The value of the longest prefix that covers a normalised path.
    pub fn longest(&self, path: &str) -> Option<&T> {
        let path = without_trailing_slash(path);
        let after = self
            .entries
            .partition_point(|entry| order(&entry.literal, path) != Ordering::Greater);
        let mut candidate = after.checked_sub(1);
        while let Some(at) = candidate {
            let entry = &self.entries[at];
            if begins(path, &entry.literal) {
                return Some(&entry.value);
            }
            candidate = entry.parent;
        }
        None
    }

    /// All values, by literal.
    pub fn values_mut(&mut self) -> impl Iterator<Item = (&str, &mut T)> {
        self.entries
            .iter_mut()
            .map(|entry| (&*entry.literal, &mut entry.value))
    }
}

/// Orders a literal against `path` plus one slash; a literal that goes on behind that slash counts as equal.
fn order(literal: &str, path: &str) -> Ordering {
    let (literal, path) = (literal.as_bytes(), path.as_bytes());
    let shared = literal.len().min(path.len());
    let next = || {
        literal
            .get(path.len())
            .map_or(Ordering::Less, |byte| byte.cmp(&b'/'))
    };
    literal[..shared].cmp(&path[..shared]).then_with(next)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_whole_segment_prefix_wins() {
        let map = PathPrefixes::new(
            ["/", "/a/", "/a/b/", "/a/b/c/d/", "/ab/", "/wp-"].map(|p| (p.to_owned(), p)),
        );
        for (path, want) in [
            ("/", "/"),
            ("/x", "/"),
            ("/a", "/a/"),
            ("/a/", "/a/"),
            ("/a/x", "/a/"),
            ("/a/b/c", "/a/b/"),
            ("/a/b/c/d", "/a/b/c/d/"),
            ("/a/b/c/d/e", "/a/b/c/d/"),
            ("/ab", "/ab/"),
            ("/abc", "/"),
            ("/A", "/"),
            ("/wp-login", "/wp-"),
        ] {
            assert_eq!(map.longest(path), Some(&want), "{path}");
        }
        assert_eq!(PathPrefixes::<()>::new([]).longest("/"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_trying_them_all(
            literals in prop::collection::vec("(/[ab!0]{1,2}){0,3}/?", 0..12),
            path in "(/[ab!0]{1,2}){0,4}/?",
        ) {
            let map = PathPrefixes::new(literals.iter().map(|l| (l.clone(), l.clone())));
            let virtual_path = format!("{}/", without_trailing_slash(&path));
            let naive = literals.iter().filter(|l| virtual_path.starts_with(l.as_str())).max_by_key(|l| l.len());
            prop_assert_eq!(map.longest(&path), naive);
        }
    }
}
