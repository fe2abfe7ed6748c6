//! Which fields pass, which are ours to set, and which never pass.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Version};
use http_body::Frame;

use super::Context;
use crate::random::Secret;

/// Who is signed in, as a downstream service is told.
#[derive(Clone, Debug)]
pub struct Identity {
    pub account_id: String,
    pub email: String,
    pub role: &'static str,
    /// A signed, short-lived statement of the same for this very route.
    pub assertion: Secret<String>,
}

/// Our cookies: no downstream service sees or sets them.
const COOKIES: [&str; 9] = [
    "customerToken",
    "userToken",
    "cxDevice",
    "resetGrant",
    "cxGrant",
    "cxFlow",
    "cxNotice",
    "cxCsrf",
    "cxBrowser",
];

/// How we sign what we hand on: with the protocol that it came by (RFC 9110 section 7.6.3).
fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2.0 cargoextra",
        Version::HTTP_10 => "1.0 cargoextra",
        _ => "1.1 cargoextra",
    }
}

/// The protocol that a request wants to switch to.
pub fn upgrade(method: &Method, headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let mut lines = headers.get_all(header::UPGRADE).iter();
    let wanted = lines.next().filter(|_| lines.next().is_none())?;
    // Another HTTP inside a tunnel would ask for any path, past guard, routes and limits (h2c smuggling), and so would TLS.
    let is_other_http = |protocol: &str| {
        let protocol = protocol.trim().to_ascii_lowercase();
        ["h2", "http", "tls"]
            .iter()
            .any(|other| protocol.starts_with(other))
    };
    if wanted.to_str().ok()?.split(',').any(is_other_http) {
        return None;
    }
    let named = options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    (named && *method == Method::GET && version == Version::HTTP_11).then(|| wanted.clone())
}

/// What the fields of `Connection` list.
fn options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

/// Tells `put` each field that a downstream service gets, but for those that frame the message: `Host`, `Content-Length`,
/// `Transfer-Encoding`, `Connection`, `Upgrade`, `TE`.
pub fn towards_downstream(
    headers: &HeaderMap,
    context: &Context<'_>,
    traceparent: &HeaderValue,
    mut put: impl FnMut(&str, &[u8]),
) {
    for (name, value) in headers {
        match reaches_downstream(name) {
            Reaches::Never => {}
            // Many servers read `_` as `-`: it may be the twin of a field that they trust.
            _ if !context.underscores && name.as_str().contains('_') => {}
            _ if is_for_this_hop(headers, name) => {}
            Reaches::Always => put(name.as_str(), value.as_bytes()),
            Reaches::Unconsumed if context.consumed_authorization => {}
            Reaches::Unconsumed => put(name.as_str(), value.as_bytes()),
            Reaches::Sifted => {
                if let Some(kept) = without_our_cookies(value) {
                    put(name.as_str(), kept.as_bytes());
                }
            }
        }
    }
    put("x-request-id", context.request_id.as_bytes());
    put("traceparent", traceparent.as_bytes());
    // The longest IPv6 address has 45 characters.
    let mut address = [0; 48];
    let mut rest = &mut address[..];
    let written = write!(rest, "{}", context.client).map(|()| 48 - rest.len());
    put("x-forwarded-for", &address[..written.unwrap_or_default()]);
    put("x-forwarded-proto", context.scheme.as_bytes());
    if let Some(host) = headers.get(header::HOST) {
        put("x-forwarded-host", host.as_bytes());
    }
    if let Some(identity) = &context.identity {
        put("x-account-id", identity.account_id.as_bytes());
        put("x-account-email", identity.email.as_bytes());
        put("x-account-role", identity.role.as_bytes());
        put(
            "x-account-assertion",
            identity.assertion.reveal().as_bytes(),
        );
    }
    put("via", via(context.version).as_bytes());
}

/// What becomes of a client's field.
enum Reaches {
    Always,
    Never,
    /// Unless it was a credential of ours.
    Unconsumed,
    /// Without our cookies.
    Sifted,
}

fn reaches_downstream(name: &HeaderName) -> Reaches {
    let text = name.as_str();
    // Some servers read `_`, or whatever is neither letter nor digit, as `-`: every spelling counts.
    let odd = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    let folded: Cow<'_, str> = match text.contains(odd) {
        true => text.replace(odd, "-").into(),
        false => text.into(),
    };
    match &*folded {
        "cookie" if text == "cookie" => Reaches::Sifted,
        "authorization" => Reaches::Unconsumed,
        // RFC 9110 section 7.6.1, and the old ones that still go about; framing is ours to write. We have answered `Expect` ourselves.
        "connection"
        | "keep-alive"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "upgrade"
        | "transfer-encoding"
        | "content-length"
        | "host"
        | "expect"
        | "http2-settings" => Reaches::Never,
        // Identity and tracing that a client made up. Where the client's address comes from one of these, it was read before.
        "x-request-id" | "traceparent" | "tracestate" | "x-reset-grant" | "forwarded" => {
            Reaches::Never
        }
        name if name.starts_with("x-account") || name.starts_with("x-forwarded") => Reaches::Never,
        _ => Reaches::Always,
    }
}

/// Whether `Connection` names it. (The gate has refused names that mean something from end to end.)
fn is_for_this_hop(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.contains_key(header::CONNECTION)
        && options(headers).any(|option| option.eq_ignore_ascii_case(name.as_str()))
}

/// A `Cookie` line without ours; none if nothing is left. A line that is not text can't be read, so nobody can say whether one of
/// ours is in it: nothing of it passes.
fn without_our_cookies(line: &HeaderValue) -> Option<Cow<'_, str>> {
    let text = line.to_str().ok()?;
    let is_ours = |pair: &&str| {
        let name = pair.trim().split('=').next().unwrap_or_default();
        COOKIES.contains(&name)
    };
    let mut pairs = text.split(';');
    if !pairs.any(|pair| is_ours(&pair)) {
        return Some(text.into());
    }
    let kept: Vec<&str> = text
        .split(';')
        .filter(|pair| !is_ours(pair))
        .map(str::trim)
        .collect();
    (!kept.is_empty()).then(|| kept.join("; ").into())
}

/// Whether a downstream service's field reaches the client. `Connection` and `Upgrade` do only with the switch that was asked for.
pub fn reaches_client(name: &HeaderName, value: &[u8], switching: bool) -> bool {
    match name.as_str() {
        "connection" | "upgrade" => switching,
        "keep-alive" | "proxy-authenticate" | "proxy-connection" | "te" | "transfer-encoding" => {
            false
        }
        "set-cookie" => {
            let name = value.split(|byte| *byte == b'=').next().unwrap_or_default();
            let name = name.trim_ascii();
            // One without a name would be sent back as its value alone, which may read like one of ours (RFC 6265bis).
            !name.is_empty() && !COOKIES.iter().any(|ours| ours.as_bytes() == name)
        }
        _ => true,
    }
}

/// Whether a field may stand behind an answer's body (RFC 9110 section 6.5.1): nothing that frames, routes, authorises or sets state.
pub fn may_trail(name: &HeaderName) -> bool {
    let text = name.as_str();
    let banned = [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::TRANSFER_ENCODING,
        header::TRAILER,
        header::TE,
        header::UPGRADE,
        header::CONNECTION,
        header::HOST,
        header::SET_COOKIE,
        header::LOCATION,
        header::CACHE_CONTROL,
        header::AUTHORIZATION,
    ];
    !banned.contains(name) && !text.starts_with("x-account") && text != "x-request-id"
}

/// Makes the fields of an answer over HTTP/2 those that the client gets.
pub fn sift_answer(headers: &mut HeaderMap) {
    let refused: Vec<HeaderName> = headers
        .keys()
        .filter(|name| *name != header::SET_COOKIE && !reaches_client(name, b"", false))
        .cloned()
        .collect();
    for name in refused {
        headers.remove(name);
    }
    let cookies: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|line| reaches_client(&header::SET_COOKIE, line.as_bytes(), false))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for line in cookies {
        headers.append(header::SET_COOKIE, line);
    }
}

/// Takes out of a trailer section over HTTP/2 what must not be in it.
pub fn sift_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => {
            let kept = trailers.iter().filter(|(name, _)| may_trail(name));
            Frame::trailers(
                kept.map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            )
        }
        Err(frame) => frame,
    }
}

/// Names us as one of those that handed the answer on.
pub fn put_via(headers: &mut HeaderMap, version: Version) {
    headers.append(header::VIA, HeaderValue::from_static(via(version)));
}

/// An identity that several requests of a session are told by.
pub type Told = Arc<Identity>;
