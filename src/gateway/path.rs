//! One reading of a request target, shared by guard, limits, router and upstream.
//!
//! What could be read in two ways is refused; what has several spellings gets one. Whoever looks at a path looks at
//! the result of [`normalize`], so that no part can be shown another path than its neighbour.

use std::borrow::Cow;
use std::fmt;

pub mod pattern;
pub mod prefixes;

/// A request target after [`normalize`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// Absolute, without dot segments, empty segments, or escapes of unreserved characters.
    pub path: Cow<'a, str>,
    /// What follows the first `?`, byte for byte as it came.
    pub query: Option<&'a str>,
}

/// Why a request target is refused (all of them answer 400).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadTarget {
    /// The path does not begin with `/` (absolute-form, authority-form and `*` are the caller's business).
    NotAbsolute,
    /// A `#`, which a client must never send.
    Fragment,
    /// A space or a control character, in the path or the query.
    Control,
    /// `%00`.
    Nul,
    /// A backslash, plain or as `%5c`: some servers read it as a slash.
    Backslash,
    /// `%2f`: servers disagree whether it separates segments.
    EncodedSlash,
    /// A `%` that is not followed by two hexadecimal digits.
    BadEscape,
    /// `//`.
    EmptySegment,
    /// `.` or `..` as a segment, plain, escaped, or with `;parameters` behind it.
    DotSegment,
}

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not begin with a slash",
            Self::Fragment => "the target has a fragment",
            Self::Control => "the target has a space or control character",
            Self::Nul => "the path has an escaped NUL",
            Self::Backslash => "the path has a backslash",
            Self::EncodedSlash => "the path has an escaped slash",
            Self::BadEscape => "the path has a broken escape",
            Self::EmptySegment => "the path has an empty segment",
            Self::DotSegment => "the path has a dot segment",
        })
    }
}

impl std::error::Error for BadTarget {}

/// Brings the path of an origin-form target into its one spelling, or refuses it.
///
/// Escapes of unreserved characters are decoded once, all other escapes get upper-case digits, and characters that
/// RFC 3986 does not allow in a path are escaped. Allocates only when the path was not in that form already.
pub fn normalize(target: &str) -> Result<Target<'_>, BadTarget> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if !path.starts_with('/') {
        return Err(BadTarget::NotAbsolute);
    }
    if let Some(query) = query {
        check_query(query)?;
    }
    let path = match first_change(path.as_bytes())? {
        None => Cow::Borrowed(path),
        Some(at) => Cow::Owned(rewrite(path, at)?),
    };
    check_segments(&path)?;
    Ok(Target { path, query })
}

/// The path without one trailing slash; the root becomes the empty string.
pub fn without_trailing_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

/// What to do with the bytes at one place of a path.
enum Step {
    /// These many bytes are in their one spelling.
    Keep(usize),
    /// An escape that stands for this unreserved byte.
    Decode(u8),
    /// An escape whose digits must be upper-case.
    Upper,
    /// A raw byte that must be escaped.
    Encode,
}

/// The place of the first byte that is not in its one spelling.
fn first_change(path: &[u8]) -> Result<Option<usize>, BadTarget> {
    let mut at = 0;
    while at < path.len() {
        if PLAIN[usize::from(path[at])] {
            at += 1;
            continue;
        }
        match step(path, at)? {
            Step::Keep(length) => at += length,
            _ => return Ok(Some(at)),
        }
    }
    Ok(None)
}

fn rewrite(path: &str, from: usize) -> Result<String, BadTarget> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(bytes.len() + 16);
    out.push_str(&path[..from]);
    let mut at = from;
    while at < bytes.len() {
        match step(bytes, at)? {
            Step::Keep(length) => {
                out.extend(bytes[at..at + length].iter().map(|&byte| char::from(byte)));
                at += length;
            }
            Step::Decode(byte) => {
                out.push(char::from(byte));
                at += 3;
            }
            Step::Upper => {
                out.extend(
                    bytes[at..at + 3]
                        .iter()
                        .map(|byte| char::from(byte.to_ascii_uppercase())),
                );
                at += 3;
            }
            Step::Encode => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                let byte = usize::from(bytes[at]);
                out.extend(['%', char::from(HEX[byte >> 4]), char::from(HEX[byte & 15])]);
                at += 1;
            }
        }
    }
    Ok(out)
}

fn step(path: &[u8], at: usize) -> Result<Step, BadTarget> {
    match path[at] {
        b'%' => escape(path.get(at + 1..at + 3).ok_or(BadTarget::BadEscape)?),
        b'\\' => Err(BadTarget::Backslash),
        b'#' => Err(BadTarget::Fragment),
        0..=b' ' | 0x7f => Err(BadTarget::Control),
        byte if PLAIN[usize::from(byte)] => Ok(Step::Keep(1)),
        _ => Ok(Step::Encode),
    }
}

fn escape(digits: &[u8]) -> Result<Step, BadTarget> {
    let value = |digit: u8| char::from(digit).to_digit(16).ok_or(BadTarget::BadEscape);
    // Two hexadecimal digits always fit a byte.
    let byte = (value(digits[0])? * 16 + value(digits[1])?) as u8;
    match byte {
        0 => Err(BadTarget::Nul),
        b'/' => Err(BadTarget::EncodedSlash),
        b'\\' => Err(BadTarget::Backslash),
        byte if is_unreserved(byte) => Ok(Step::Decode(byte)),
        _ if digits.iter().any(u8::is_ascii_lowercase) => Ok(Step::Upper),
        _ => Ok(Step::Keep(3)),
    }
}

fn check_query(query: &str) -> Result<(), BadTarget> {
    for byte in query.bytes() {
        match byte {
            b'#' => return Err(BadTarget::Fragment),
            0..=b' ' | 0x7f => return Err(BadTarget::Control),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses empty and dot segments; expects escapes of unreserved characters to be decoded.
fn check_segments(path: &str) -> Result<(), BadTarget> {
    let bytes = path.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        if byte != b'/' {
            continue;
        }
        match bytes.get(at + 1) {
            Some(b'/') => return Err(BadTarget::EmptySegment),
            Some(b'.') if is_dot_segment(&bytes[at + 1..]) => return Err(BadTarget::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the first segment of `rest` is `.` or `..`, alone or with `;parameters`, which servlet containers cut off.
fn is_dot_segment(rest: &[u8]) -> bool {
    let dots = rest.iter().take_while(|&&byte| byte == b'.').count();
    let after = &rest[dots..];
    dots <= 2
        && (after.is_empty() || after[0] == b'/' || after[0] == b';' || after.starts_with(b"%3B"))
}

/// RFC 3986, section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Bytes that stand for themselves in a path: `pchar` of RFC 3986 without escapes, and the slash.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = is_unreserved(b)
            || matches!(
                b,
                b'!' | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
                    | b'/'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_targets_are_borrowed() {
        for target in [
            "/",
            "/a/b",
            "/a/",
            "/a.b/..c/.d/...",
            "/%C3%BC",
            "/a;x=1/b",
            "/%25",
            "/%2541",
            "/a?b=//../%2f\\",
        ] {
            let got = normalize(target).unwrap();
            assert!(matches!(got.path, Cow::Borrowed(_)), "{target}");
            assert_eq!(got.path, target.split('?').next().unwrap());
        }
    }

    #[test]
    fn other_spellings_become_one() {
        for (raw, path) in [
            ("/%61pi/v1", "/api/v1"),
            ("/api/v1/user/%6Cogin", "/api/v1/user/login"),
            ("/%c3%bc", "/%C3%BC"),
            ("/ü", "/%C3%BC"),
            ("/a%7Eb%2D%5f", "/a~b-_"),
            ("/{id}|x", "/%7Bid%7D%7Cx"),
            ("/a%3bb%3f", "/a%3Bb%3F"),
            ("/a%2Ejs", "/a.js"),
        ] {
            assert_eq!(normalize(raw).unwrap().path, path, "{raw}");
        }
    }

    #[test]
    fn ambiguous_targets_are_refused() {
        use BadTarget::*;
        for (raw, why) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("http://h/", NotAbsolute),
            ("?a", NotAbsolute),
            ("//", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/.", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/..", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/.%2e", DotSegment),
            ("/a/%2e/b", DotSegment),
            ("/a/..;x=1/b", DotSegment),
            ("/a/..%3bx/b", DotSegment),
            ("/a/.;/b", DotSegment),
            ("/a%2fb", EncodedSlash),
            ("/a%2Fb", EncodedSlash),
            ("/a%5cb", Backslash),
            ("/a\\b", Backslash),
            ("/a%00", Nul),
            ("/%", BadEscape),
            ("/%4", BadEscape),
            ("/%zz", BadEscape),
            ("/%+1", BadEscape),
            ("/%%34%31", BadEscape),
            ("/a#b", Fragment),
            ("/a?b#c", Fragment),
            ("/a b", Control),
            ("/a\tb", Control),
            ("/a?b\r\nc", Control),
            ("/a?b\u{7f}", Control),
        ] {
            assert_eq!(normalize(raw), Err(why), "{raw}");
        }
    }

    /// What a lenient server would make of a path: decode everything once, then split.
    fn lenient_segments(path: &str) -> Vec<Vec<u8>> {
        let bytes = path.as_bytes();
        let mut out = vec![Vec::new()];
        let mut at = 0;
        while at < bytes.len() {
            let hex = bytes
                .get(at + 1..at + 3)
                .and_then(|h| std::str::from_utf8(h).ok());
            let escaped = (bytes[at] == b'%')
                .then(|| hex.and_then(|h| u8::from_str_radix(h, 16).ok()))
                .flatten();
            let byte = escaped.unwrap_or(bytes[at]);
            at += if escaped.is_some() { 3 } else { 1 };
            if byte == b'/' || byte == b'\\' {
                out.push(Vec::new())
            } else {
                out.last_mut().unwrap().push(byte)
            }
        }
        out
    }

    proptest! {
        #[test]
        fn is_idempotent_and_borrows_its_own_result(raw in "/[a-z./%2eEfF5cC0;?~ü{\\\\ ]{0,24}") {
            if let Ok(first) = normalize(&raw) {
                let again = normalize(&first.path).unwrap();
                prop_assert!(matches!(again.path, Cow::Borrowed(_)));
                prop_assert_eq!(&again.path, &first.path);
            }
        }

        #[test]
        fn every_reader_sees_the_same_segments(raw in "/[a-z./%2eEfF5cC0;~ü]{0,24}") {
            if let Ok(target) = normalize(&raw) {
                prop_assert_eq!(lenient_segments(&raw), lenient_segments(&target.path));
                for segment in &lenient_segments(&target.path)[1..] {
                    prop_assert!(!matches!(segment.as_slice(), b"." | b".."));
                }
                prop_assert_eq!(target.path.matches('/').count() + 1, lenient_segments(&raw).len());
            }
        }

        #[test]
        fn never_panics(raw in "\\PC*") { let _ = normalize(&raw); }
    }

    proptest! {
        #[test]
        fn a_path_that_a_rule_may_name_is_its_own_normal_form(text in "/[a-zA-F0-9./%;~{ü*]{0,16}") {
            let normal = normalize(&text).map(|target| target.path.into_owned());
            if crate::config::edge::check_path(&text).is_ok() {
                prop_assert_eq!(normal, Ok(text));
            } else {
                prop_assert_ne!(normal, Ok(text));
            }
        }
    }
}
