//! Which headers pass, which are ours to set, and which never pass.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Version};

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

/// RFC 9110 section 7.6.1, and the old ones that still go about.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];
/// Names that we alone set; a client's own are dropped in every spelling.
const OURS: [&str; 4] = ["x-request-id", "traceparent", "tracestate", "x-reset-grant"];
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

/// The protocol that a request wants to switch to.
pub fn upgrade(method: &Method, headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    let named = headers.get_all(header::CONNECTION).iter().any(|line| {
        let text = line.to_str().unwrap_or_default();
        text.split(',')
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
    });
    (named && *method == Method::GET && version == Version::HTTP_11).then(|| wanted.clone())
}

/// Makes a client's headers those that a downstream service gets.
pub fn towards_downstream(
    headers: &mut HeaderMap,
    context: &Context<'_>,
    upgrade: Option<&HeaderValue>,
) {
    let host = headers.get(header::HOST).cloned();
    remove_hop_by_hop(headers);
    headers.remove(header::HOST);
    remove_spoofed(headers);
    remove_cookies(headers);
    if context.consumed_authorization {
        headers.remove(header::AUTHORIZATION);
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-request-id", context.request_id);
    set("x-forwarded-for", &context.client.to_string());
    set("x-forwarded-proto", context.scheme);
    if let Some(identity) = &context.identity {
        set("x-account-id", &identity.account_id);
        set("x-account-email", &identity.email);
        set("x-account-role", identity.role);
        set("x-account-assertion", identity.assertion.reveal());
    }
    if let Some(host) = host {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 cargoextra"));
}

/// Makes a downstream service's headers those that the client gets.
pub fn towards_client(headers: &mut HeaderMap, switching: bool) {
    let upgrade = headers.get(header::UPGRADE).cloned();
    remove_hop_by_hop(headers);
    if let (true, Some(protocol)) = (switching, upgrade) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    let is_ours = |line: &HeaderValue| {
        let name = line
            .as_bytes()
            .split(|byte| *byte == b'=')
            .next()
            .unwrap_or_default();
        COOKIES
            .iter()
            .any(|ours| ours.as_bytes() == name.trim_ascii())
    };
    if headers.get_all(header::SET_COOKIE).iter().any(is_ours) {
        let theirs: Vec<HeaderValue> = headers
            .get_all(header::SET_COOKIE)
            .iter()
            .filter(|line| !is_ours(line))
            .cloned()
            .collect();
        headers.remove(header::SET_COOKIE);
        for line in theirs {
            headers.append(header::SET_COOKIE, line);
        }
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 cargoextra"));
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|token| HeaderName::try_from(token.trim()).ok())
        .filter(|name| *name != header::HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Identity and tracing that a client made up. Some servers read `_` as `-`, so both count.
fn remove_spoofed(headers: &mut HeaderMap) {
    let spoofed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_spoofed(name.as_str()))
        .cloned()
        .collect();
    for name in spoofed {
        headers.remove(name);
    }
}

fn is_spoofed(name: &str) -> bool {
    if !matches!(name.as_bytes().first(), Some(b'x' | b't' | b'c')) {
        return false;
    }
    let plain = name.replace('_', "-");
    plain.starts_with("x-account")
        || OURS.contains(&plain.as_str())
        // `Content_Length` and `Transfer_Encoding` would be a second framing to a server that folds them.
        || name.contains('_') && matches!(plain.as_str(), "content-length" | "transfer-encoding")
}

fn remove_cookies(headers: &mut HeaderMap) {
    let is_ours = |pair: &str| {
        let name = pair.trim().split('=').next().unwrap_or_default();
        COOKIES.contains(&name)
    };
    let lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    if lines.is_empty() {
        return;
    }
    headers.remove(header::COOKIE);
    for line in lines {
        // A line that is not text can't be read, so nobody can say whether one of ours is in it.
        let Ok(text) = line.to_str() else { continue };
        let kept: Vec<&str> = text
            .split(';')
            .filter(|pair| !is_ours(pair))
            .map(str::trim)
            .collect();
        if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::try_from(kept.join("; "))) {
            headers.append(header::COOKIE, value);
        }
    }
}
