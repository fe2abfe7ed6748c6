//! OTLP over HTTP in its JSON encoding (opentelemetry.io/docs/specs/otlp): ids in hexadecimal, 64-bit numbers as text, enums as numbers.
//! Names of attributes are those of the semantic conventions for HTTP spans, 1.23 and later.

use std::borrow::Cow;

use http::{Method, StatusCode, Uri, Version};
use serde_json::{Value, json};

use super::{Attempt, End, Record};
use crate::clock::Nanos;

const SERVER: u8 = 2;
const CLIENT: u8 = 3;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;
/// W3C: sampled. And that we know, that the parent is not remote.
const FLAGS: u32 = 0x01 | 0x100;

/// The body of one export.
pub fn body(service: &str, records: &[Record]) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let spans: Vec<Value> = records.iter().flat_map(spans).collect();
    let resource = [
        text("service.name", service),
        text("service.version", version),
    ];
    let scope = json!({ "name": "cargoextra", "version": version });
    let body = json!({
        "resourceSpans": [{
            "resource": { "attributes": resource },
            "scopeSpans": [{ "scope": scope, "spans": spans }],
        }],
    });
    body.to_string().into_bytes()
}

fn spans(record: &Record) -> Vec<Value> {
    let attempts = record.attempts.iter().enumerate();
    let attempts = attempts.map(|(resent, it)| attempt(record, it, resent));
    std::iter::once(request(record)).chain(attempts).collect()
}

fn request(record: &Record) -> Value {
    let mut attributes = method(&record.method);
    attributes.extend([
        text("url.path", &without_addresses(&record.path)),
        text("url.scheme", record.scheme),
        text("http.route", &record.route),
        text("network.protocol.version", version(record.version)),
        whole("http.response.status_code", record.status.into()),
    ]);
    if record.status >= 500 {
        attributes.push(text("error.type", &record.status.to_string()));
    }
    // Not one of the conventions' names: the guard's rule, or the error's code.
    if let Some(why) = &record.why {
        attributes.push(text("cargoextra.refused", why));
    }
    let name = format!("{} {}", known(&record.method), record.route);
    let is_error = record.status >= 500;
    let times = (record.began, record.took);
    span(
        record,
        record.trace.span,
        SERVER,
        &name,
        times,
        attributes,
        is_error,
    )
}

fn attempt(record: &Record, attempt: &Attempt, resent: usize) -> Value {
    let mut attributes = method(&record.method);
    attributes.extend([
        text("server.address", host(&attempt.upstream)),
        whole("server.port", port(&attempt.upstream).into()),
        text("url.full", &full(&attempt.upstream, &attempt.path)),
    ]);
    if resent > 0 {
        attributes.push(whole("http.request.resend_count", resent as u64));
    }
    let is_error = match attempt.end {
        End::Answered(status) => {
            attributes.push(whole("http.response.status_code", status.as_u16().into()));
            if is_error(status) {
                attributes.push(text("error.type", status.as_str()));
            }
            is_error(status)
        }
        End::Failed(why) => {
            attributes.push(text("error.type", why));
            true
        }
        End::Unknown => false,
    };
    let (name, times) = (known(&record.method), (attempt.began, attempt.took));
    let mut made = span(
        record,
        attempt.span,
        CLIENT,
        name,
        times,
        attributes,
        is_error,
    );
    made["parentSpanId"] = hex(record.trace.span).into();
    made
}

/// For a client, 4xx is an error too.
fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

fn span(
    record: &Record,
    id: u64,
    kind: u8,
    name: &str,
    (began, took): (Nanos, Nanos),
    attributes: Vec<Value>,
    is_error: bool,
) -> Value {
    // One reading of the day's time for a trace; all else by the clock that nobody sets, so that no child begins before its parent.
    let zero = record.started.max(0) as Nanos * 1_000_000;
    let start = zero + began.saturating_sub(record.began);
    let mut span = json!({
        "traceId": record.trace.id(),
        "spanId": hex(id),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": start.to_string(),
        "endTimeUnixNano": (start + took).to_string(),
        "attributes": attributes,
        "flags": FLAGS,
    });
    if is_error {
        span["status"] = json!({ "code": ERROR });
    }
    span
}

/// A method that nobody knows is not told by its name, of which there could be any number.
fn method(method: &Method) -> Vec<Value> {
    vec![text("http.request.method", known(method))]
}

fn known(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS
        | Method::CONNECT
        | Method::TRACE => method.as_str(),
        _ => "_OTHER",
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

fn host(uri: &Uri) -> &str {
    let host = uri.host().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']')
}

fn port(uri: &Uri) -> u16 {
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    uri.port_u16().unwrap_or(default)
}

fn full(upstream: &Uri, path: &str) -> String {
    let scheme = upstream.scheme_str().unwrap_or("http");
    let authority = upstream.authority().map_or("", |it| it.as_str());
    format!("{scheme}://{authority}{}", without_addresses(path))
}

/// A downstream service may have people's addresses in its paths. They are nothing for a collector.
fn without_addresses(path: &str) -> Cow<'_, str> {
    let is_address = |segment: &str| segment.contains('@') || segment.contains("%40");
    if !is_address(path) {
        return Cow::Borrowed(path);
    }
    let kept = |segment| if is_address(segment) { "-" } else { segment };
    Cow::Owned(path.split('/').map(kept).collect::<Vec<_>>().join("/"))
}

fn hex(id: u64) -> String {
    format!("{id:016x}")
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn whole(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}
