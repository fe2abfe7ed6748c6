//! What one line of a head may hold: request line, field line, and the fields that frame a message.

use std::net::Ipv6Addr;

use super::refusal::Reason;

const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
const HOST: u8 = 8;

/// Longer than every method in the IANA registry (`UPDATEREDIRECTREF`, 17).
const METHOD_MAX: usize = 32;
/// DNS allows 253; a port comes on top.
const HOST_MAX: usize = 260;

/// One bit per class of bytes.
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = class_of(byte as u8);
        byte += 1;
    }
    table
}

const fn class_of(byte: u8) -> u8 {
    let mut class = 0;
    let alphanumeric = byte.is_ascii_alphanumeric();
    // RFC 9110 §5.6.2.
    if alphanumeric
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
    {
        class |= TOKEN;
    }
    // RFC 3986 §3.3 and §3.4 plus what browsers send unescaped. It must stay within what the crate
    // `http` takes, or hyper would answer in our stead.
    if !matches!(byte, b'#' | b'\\' | b'<' | b'>') {
        if !matches!(byte, b'`' | b'?') {
            class |= PATH;
        }
        if byte != b'"' {
            class |= QUERY;
        }
    }
    if alphanumeric || matches!(byte, b'-' | b'.' | b'_' | b'~') {
        class |= HOST;
    }
    class
}

#[inline]
const fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

#[inline]
fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&byte| is(byte, class))
}

/// Checks a request line (RFC 9112 §3) and says whether it is HTTP/1.1.
pub(super) fn request_line(line: &[u8]) -> Result<bool, Reason> {
    let method_end = memchr::memchr(b' ', line).ok_or(Reason::RequestLine)?;
    let (method, rest) = (&line[..method_end], &line[method_end + 1..]);
    check_method(method)?;
    let target_end = memchr::memrchr(b' ', rest).ok_or(Reason::RequestLine)?;
    let (target, version) = (&rest[..target_end], &rest[target_end + 1..]);
    // The version first: `PRI * HTTP/2.0` is best told that.
    let http11 = check_version(version)?;
    check_target(method, target)?;
    Ok(http11)
}

pub(super) fn check_method(method: &[u8]) -> Result<(), Reason> {
    if method.is_empty() || !all(method, TOKEN) {
        return Err(Reason::Method);
    }
    if method.len() > METHOD_MAX {
        return Err(Reason::MethodTooLong);
    }
    // Methods are case-sensitive, yet not for every downstream.
    if method.eq_ignore_ascii_case(b"CONNECT") || method.eq_ignore_ascii_case(b"TRACE") {
        return Err(Reason::MethodNotAllowed);
    }
    Ok(())
}

fn check_version(version: &[u8]) -> Result<bool, Reason> {
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Reason::Version)
        }
        _ => Err(Reason::RequestLine),
    }
}

/// Origin form only, or `*` for OPTIONS (RFC 9112 §3.2).
pub(super) fn check_target(method: &[u8], target: &[u8]) -> Result<(), Reason> {
    match target {
        [b'/', ..] => {}
        b"*" if method == b"OPTIONS" => return Ok(()),
        _ => return Err(Reason::TargetForm),
    }
    let path_end = target
        .iter()
        .position(|&byte| !is(byte, PATH))
        .unwrap_or(target.len());
    match &target[path_end..] {
        [] => Ok(()),
        [b'?', query @ ..] if all(query, QUERY) => Ok(()),
        _ => Err(Reason::TargetCharacter),
    }
}

/// A checked field line.
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    /// Without the white space around it.
    pub(super) value: &'a [u8],
}

/// Splits and checks a field line (RFC 9112 §5). `line` is not empty.
#[inline]
pub(super) fn field(line: &[u8]) -> Result<Field<'_>, Reason> {
    let name_end = line
        .iter()
        .position(|&byte| !is(byte, TOKEN))
        .ok_or(Reason::FieldName)?;
    match (line[name_end], name_end) {
        (b':', 1..) => {}
        (b' ' | b'\t', 0) => return Err(Reason::ObsoleteFold),
        (b' ' | b'\t', _) => return Err(Reason::SpaceBeforeColon),
        _ => return Err(Reason::FieldName),
    }
    let raw = &line[name_end + 1..];
    if has_control(raw) {
        return Err(Reason::FieldValue);
    }
    Ok(Field {
        name: &line[..name_end],
        value: trim(raw),
    })
}

/// Whether there is a control character other than HTAB (RFC 9110 §5.5). Bytes from 0x80 on pass.
///
/// Reads all bytes instead of stopping at the first, so that the compiler can use SIMD.
#[inline]
pub(super) fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, &byte| {
        found | ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f)
    })
}

/// Without optional white space (RFC 9110 §5.6.3) on both ends.
#[inline]
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Content-Length: 1 to 19 digits, which always fit (RFC 9110 §8.6).
pub(super) fn content_length(value: &[u8]) -> Result<u64, Reason> {
    if value.is_empty() || value.len() > 19 {
        return Err(Reason::Length);
    }
    value.iter().try_fold(0u64, |sum, &byte| match byte {
        b'0'..=b'9' => Ok(sum * 10 + u64::from(byte - b'0')),
        _ => Err(Reason::Length),
    })
}

/// Transfer-Encoding: `chunked`, once (RFC 9112 §6.1).
pub(super) fn transfer_encoding(value: &[u8]) -> Result<(), Reason> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value
        .split(|&byte| byte == b',')
        .map(trim)
        .filter(|coding| !coding.is_empty());
    match codings.any(|coding| !coding.eq_ignore_ascii_case(b"chunked")) {
        true => Err(Reason::UnknownEncoding),
        false => Err(Reason::Encoding),
    }
}

/// Connection: tokens that name nothing which framing, routing or the guard needs (RFC 9110 §7.6.1).
pub(super) fn connection(value: &[u8]) -> Result<(), Reason> {
    for option in value.split(|&byte| byte == b',').map(trim) {
        if !all(option, TOKEN) || named_in(option, END_TO_END) {
            return Err(Reason::Connection);
        }
    }
    Ok(())
}

/// Fields that no hop may strip: named in Connection, they would vanish behind a checker's back.
const END_TO_END: &[&str] = &[
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "origin",
    "sec-fetch-site",
    "transfer-encoding",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// Fields that mean something before the body and nothing behind it (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: &[&str] = &[
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Checks the name of a trailer field.
pub(super) fn trailer_name(name: &[u8]) -> Result<(), Reason> {
    // Identity and client address are always told in fields that begin thus.
    let ours = [
        "x-account",
        "x-forwarded",
        "x-real",
        "x-reset",
        "x-request",
        "if-",
        "sec-",
    ];
    let begins = |prefix: &&str| {
        name.get(..prefix.len())
            .is_some_and(|start| same_name(start, prefix))
    };
    match named_in(name, NOT_IN_TRAILERS) || ours.iter().any(begins) {
        true => Err(Reason::ForbiddenTrailer),
        false => Ok(()),
    }
}

fn named_in(name: &[u8], list: &[&str]) -> bool {
    list.iter().any(|entry| same_name(name, entry))
}

/// Whether the names are the same to a downstream that also folds `_` and `-` (CGI and its heirs).
fn same_name(name: &[u8], lower: &str) -> bool {
    let fold = |byte: &u8| {
        if *byte == b'_' {
            b'-'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    name.len() == lower.len() && name.iter().map(fold).eq(lower.bytes())
}

/// Host: a name, an IPv4 address or a bracketed IPv6 address, and perhaps a port (RFC 9110 §7.2).
///
/// Stricter than RFC 3986 `reg-name`: no escapes, no sub-delimiters, no user information.
pub(super) fn host(value: &[u8]) -> Result<(), Reason> {
    let port = match value {
        [b'[', rest @ ..] => {
            let close = memchr::memchr(b']', rest).ok_or(Reason::Host)?;
            let address = std::str::from_utf8(&rest[..close]).map_err(|_| Reason::Host)?;
            address.parse::<Ipv6Addr>().map_err(|_| Reason::Host)?;
            &rest[close + 1..]
        }
        _ => {
            let end = memchr::memchr(b':', value).unwrap_or(value.len());
            if end == 0 || !all(&value[..end], HOST) {
                return Err(Reason::Host);
            }
            &value[end..]
        }
    };
    match port {
        [] if value.len() <= HOST_MAX => Ok(()),
        [b':', digits @ ..] if value.len() <= HOST_MAX && is_port(digits) => Ok(()),
        _ => Err(Reason::Host),
    }
}

fn is_port(digits: &[u8]) -> bool {
    matches!(digits.len(), 1..=5) && content_length(digits).is_ok_and(|port| port <= 65_535)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_crate_http_takes_every_target_that_we_take() {
        for byte in 0..=255u8 {
            for target in [vec![b'/', byte, b'x'], vec![b'/', b'?', byte, b'x']] {
                if check_target(b"GET", &target).is_ok() {
                    let uri = std::str::from_utf8(&target).expect("we take ASCII only");
                    assert!(uri.parse::<http::Uri>().is_ok(), "{uri}");
                }
            }
        }
    }

    #[test]
    fn tokens_are_those_of_rfc_9110() {
        let specials = b"!#$%&'*+-.^_`|~";
        for byte in 0..=255u8 {
            let expected = byte.is_ascii_alphanumeric() || specials.contains(&byte);
            assert_eq!(is(byte, TOKEN), expected, "{byte:#x}");
        }
    }

    #[test]
    fn hosts() {
        for good in [
            "a",
            "localhost",
            "127.0.0.1:9000",
            "[::1]",
            "[::1]:9000",
            "a_b-c.example:65535",
        ] {
            assert_eq!(host(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:x",
            "a:65536",
            "a:000001",
            "a@b",
            "a b",
            "a,b",
            "[::1",
            "[::g]",
            "[]",
            "::1",
            "[::1]x",
            "a/b",
            "a?b",
            "a%41",
            "[fe80::1%eth0]",
            "a:1:2",
            "é",
        ] {
            assert_eq!(host(bad.as_bytes()), Err(Reason::Host), "{bad}");
        }
        for (length, port, good) in [
            (260, "", true),
            (261, "", false),
            (258, ":1", true),
            (259, ":1", false),
        ] {
            assert_eq!(
                host(("a".repeat(length) + port).as_bytes()).is_ok(),
                good,
                "{length}{port}"
            );
        }
    }
}
