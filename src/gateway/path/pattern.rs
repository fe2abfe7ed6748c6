//! Path patterns of the configuration: `/a/b`, `/a/*` (all below, and `/a` itself), `/wp-*`, `/a/*/c`.

use super::without_trailing_slash;

/// A path pattern. Case-sensitive; one trailing slash of the path is ignored.
///
/// `*` at the end matches any rest (none included); `*` as a whole segment elsewhere matches exactly one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The text is the path.
    Exact,
    /// The text, without its last byte, begins the path.
    Prefix,
    /// Some inner segment is `*`; `open` when a `*` ends the text, too.
    Segments { open: bool },
}

impl Pattern {
    /// Reads a pattern; any text is one, `config_edge` refuses those that cannot match.
    pub fn new(text: &str) -> Self {
        let open = text.ends_with('*');
        let inner = text.strip_suffix('*').unwrap_or(text);
        let kind = if inner.split('/').any(|segment| segment == "*") {
            Kind::Segments { open }
        } else if open {
            Kind::Prefix
        } else {
            Kind::Exact
        };
        let text = if open {
            text
        } else {
            without_trailing_slash(text)
        };
        Self {
            text: text.into(),
            kind,
        }
    }

    /// The pattern as it was written (without a trailing slash).
    pub fn as_str(&self) -> &str {
        if self.text.is_empty() {
            "/"
        } else {
            &self.text
        }
    }

    /// Whether a normalised path matches. Allocates nothing.
    pub fn matches(&self, path: &str) -> bool {
        let path = without_trailing_slash(path);
        match self.kind {
            Kind::Exact => path == &*self.text,
            Kind::Prefix => begins(path, &self.text[..self.text.len() - 1]),
            Kind::Segments { open } => matches_segments(&self.text, path, open),
        }
    }
}

/// Whether `path` (without its trailing slash) plus one slash begins with `literal`.
pub(super) fn begins(path: &str, literal: &str) -> bool {
    path.starts_with(literal) || literal.strip_suffix('/') == Some(path)
}

fn matches_segments(pattern: &str, path: &str, open: bool) -> bool {
    let mut want = pattern.split('/').peekable();
    let mut rest = Some(path);
    while let Some(segment) = want.next() {
        let last = want.peek().is_none();
        if last && open {
            return match rest {
                Some(rest) => rest.starts_with(&segment[..segment.len() - 1]),
                None => segment == "*",
            };
        }
        let Some(text) = rest else { return false };
        let (have, next) = match text.split_once('/') {
            Some((have, next)) => (have, Some(next)),
            None => (text, None),
        };
        if !(segment == have || (segment == "*" && !have.is_empty())) {
            return false;
        }
        rest = next;
    }
    rest.is_none()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_documented() {
        for (pattern, yes, no) in [
            ("/", vec!["/"], vec!["/a"]),
            ("/*", vec!["/", "/a", "/a/b"], vec![]),
            (
                "/a/b",
                vec!["/a/b", "/a/b/"],
                vec!["/a", "/a/bc", "/a/b/c", "/A/b"],
            ),
            ("/a/b/", vec!["/a/b", "/a/b/"], vec!["/a/b/c"]),
            (
                "/a/*",
                vec!["/a", "/a/", "/a/b", "/a/b/c"],
                vec!["/ab", "/", "/b/a"],
            ),
            (
                "/wp-*",
                vec!["/wp-", "/wp-admin", "/wp-content/x"],
                vec!["/wp", "/x/wp-admin"],
            ),
            (
                "/a/*/c",
                vec!["/a/b/c", "/a/x/c/"],
                vec!["/a/c", "/a/b/d/c", "/a/b/c/d", "/a/b"],
            ),
            (
                "/a/*/c/*",
                vec!["/a/b/c", "/a/b/c/d", "/a/b/c/d/e"],
                vec!["/a/b", "/a/b/cd", "/a/c"],
            ),
            (
                "/a/*/c*",
                vec!["/a/b/c", "/a/b/cd/e"],
                vec!["/a/b", "/a/b/d"],
            ),
            ("/*/x", vec!["/a/x"], vec!["/x", "/a/b/x"]),
            ("/*/*", vec!["/a", "/a/b", "/a/b/c"], vec!["/"]),
        ] {
            let compiled = Pattern::new(pattern);
            for path in yes {
                assert!(compiled.matches(path), "{pattern} should match {path}");
            }
            for path in no {
                assert!(!compiled.matches(path), "{pattern} should not match {path}");
            }
        }
    }
}
