//! Host names of requests and the patterns that the configuration compares them with.

/// A host pattern: `api.example.com`, or `*.example.com` for every name below it (not itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// This very name.
    Exact(Box<str>),
    /// Any name that ends so; begins with a dot.
    Below(Box<str>),
}

impl HostPattern {
    /// Reads a pattern; `config_edge` refuses what cannot be one.
    pub fn new(text: &str) -> Self {
        match text.strip_prefix('*') {
            Some(suffix) => Self::Below(suffix.to_ascii_lowercase().into()),
            None => Self::Exact(text.to_ascii_lowercase().into()),
        }
    }

    /// Whether a bare host name (see [`bare_name`]) matches; case does not matter.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(want) => name.eq_ignore_ascii_case(want),
            Self::Below(suffix) => {
                let at = name.len().checked_sub(suffix.len());
                at.is_some_and(|at| {
                    at > 0 && name.as_bytes()[at..].eq_ignore_ascii_case(suffix.as_bytes())
                })
            }
        }
    }
}

/// The host of an authority without port and without the trailing dot of an absolute name.
pub fn bare_name(authority: &str) -> &str {
    let name = match authority.rfind(':') {
        // The last colon of a bracketed IPv6 address is not a port's.
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    };
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_without_port_case_and_dot() {
        for (pattern, host, want) in [
            ("api.example.com", "API.example.com:9000", true),
            ("api.example.com", "api.example.com.", true),
            ("api.example.com", "xapi.example.com", false),
            ("*.example.com", "a.b.Example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "badexample.com", false),
            ("[::1]", "[::1]:9000", true),
            ("[::1]", "[::1]", true),
            ("localhost", "localhost:", true),
            ("localhost", "ü", false),
            ("*.a", "ü.a", true),
        ] {
            assert_eq!(
                HostPattern::new(pattern).matches(bare_name(host)),
                want,
                "{pattern} {host}"
            );
        }
    }
}
