//! The origin rule (contract, "Everywhere") and CORS. A page on another origin can't act for its visitor.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Request, header};

use crate::app::App;
use crate::error::Error;

/// Refuses a call that a foreign page makes. Neither `Origin` nor `Sec-Fetch-Site` means that no browser calls.
///
/// # Errors
/// [`Error::AccessDenied`]
pub fn judge(app: &App, request: &Request<Body>) -> Result<(), Error> {
    if matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) {
        return Ok(());
    }
    let headers = request.headers();
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let allowed = match (origins.next(), origins.next()) {
        (Some(origin), None) => is_ours(app, origin) || is_listed(app, origin),
        (Some(_), Some(_)) => false,
        (None, _) => headers
            .get_all("sec-fetch-site")
            .iter()
            .all(|site| matches!(site.as_bytes(), b"same-origin" | b"none")),
    };
    if allowed {
        Ok(())
    } else {
        Err(Error::AccessDenied)
    }
}

/// CORS answers, for listed origins only and never `*`.
pub fn allow(app: &App, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin.filter(|origin| is_listed(app, origin)) else {
        return;
    };
    let fixed = [
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            "GET, POST, PUT, PATCH, DELETE",
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, x-reset-grant",
        ),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "x-request-id, retry-after, ratelimit, ratelimit-policy",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Whether this is the preflight of a listed origin, which gets 204.
pub fn is_preflight(app: &App, request: &Request<Body>) -> bool {
    *request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        && request
            .headers()
            .get(header::ORIGIN)
            .is_some_and(|origin| is_listed(app, origin))
}

fn is_listed(app: &App, origin: &HeaderValue) -> bool {
    app.config
        .server
        .allowed_origins
        .iter()
        .any(|listed| listed.as_bytes() == origin.as_bytes())
}

fn is_ours(app: &App, origin: &HeaderValue) -> bool {
    let ours = &app.config.server.public_origin;
    if origin.as_bytes() == ours.as_bytes() {
        return true;
    }
    // On a developer's machine the three names of loopback are one.
    app.config.public_origin_is_loopback()
        && origin.to_str().ok().and_then(loopback_port) == loopback_port(ours)
        && loopback_port(ours).is_some()
}

/// Scheme and port of `http://localhost:9000` and its twins: those of the listener that `public_origin` names, so that a page that came in
/// clear is foreign to one under TLS.
fn loopback_port(origin: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = origin.split_once("://")?;
    let usual = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return None,
    };
    let names = ["localhost", "127.0.0.1", "[::1]"];
    let port = names.iter().find_map(|name| rest.strip_prefix(name))?;
    match port.strip_prefix(':') {
        Some(port) => Some((scheme, port)),
        None => port.is_empty().then_some((scheme, usual)),
    }
}
