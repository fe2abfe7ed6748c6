//! The fields that tell a client about a limit: `RateLimit-Policy`, `RateLimit` (draft-ietf-httpapi-ratelimit-headers,
//! as structured fields) and `Retry-After` (RFC 9110).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::gcra::{Decision, Quota};

/// `RateLimit`.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// `RateLimit-Policy`.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// `"name";q=BURST;w=SECONDS`: so many at once, and as many again within the window.
///
/// Names are validated by `config_edge`; one that is not fit for a header gives an empty value.
pub(super) fn policy(name: &str, quota: Quota) -> HeaderValue {
    let window = quota.refill_ns().div_ceil(1_000_000_000);
    value(&format!("\"{name}\";q={};w={window}", quota.burst()))
}

/// `"name";r=REMAINING;t=SECONDS`: `t` is when a refused client may come again (the moment of `Retry-After`), and when
/// an allowed one has its whole burst again.
pub(super) fn state(name: &str, decision: Decision) -> HeaderValue {
    let seconds = if decision.allowed {
        decision.reset_s
    } else {
        decision.retry_after_s
    };
    value(&format!("\"{name}\";r={};t={seconds}", decision.remaining))
}

/// Adds `Retry-After` for a refused request.
pub(super) fn put_retry_after(headers: &mut HeaderMap, decision: Decision) {
    if !decision.allowed {
        headers.insert(
            http::header::RETRY_AFTER,
            HeaderValue::from(decision.retry_after_s.max(1)),
        );
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
