//! The admin listener: metrics, reload, and in development the captured mail. Not for strangers, and not for web pages of strangers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, Method, Request, header};
use tower::ServiceExt;

use super::answer::Answer;
use super::server::Stop;
use super::{answer, mailbox};
use crate::app::App;
use crate::error::Error;
use crate::random::{Secret, same, sha256};

/// Everything that answers on `admin.listen`.
pub struct Admin {
    app: Arc<App>,
    router: Router,
    /// Where we listen: what a `Host` may say.
    address: SocketAddr,
    token: Secret<String>,
}

impl Admin {
    pub fn new(app: Arc<App>, address: SocketAddr, token: Secret<String>, stop: Stop) -> Self {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/reload", post(reload))
            .with_state(app.clone())
            .merge(mailbox::router(app.clone(), stop))
            .fallback(async || Error::NotFound)
            .method_not_allowed_fallback(async || Error::MethodNotAllowed);
        Self {
            app,
            router,
            address,
            token,
        }
    }

    pub async fn answer(&self, _peer: SocketAddr, request: Request<Body>) -> Response {
        let request_id = self.app.id();
        let response = match self.judge(&request) {
            Ok(()) => match self.router.clone().oneshot(request).await {
                Ok(response) => response,
            },
            Err(error) => error.into_response(),
        };
        let mut response = answer::finish(response, &request_id);
        let no_store = HeaderValue::from_static("no-store");
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, no_store);
        response
    }

    /// Against rebinding: a page that made its own name point at us still sends its own name as `Host` and `Origin`.
    fn judge(&self, request: &Request<Body>) -> Result<(), Error> {
        let headers = request.headers();
        let host = one(headers, header::HOST).ok_or(Error::AccessDenied)?;
        if !self.is_our_host(host) {
            return Err(Error::AccessDenied);
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let ours = origin
                .to_str()
                .ok()
                .and_then(|text| text.strip_prefix("http://"));
            if ours != Some(host) {
                return Err(Error::AccessDenied);
            }
        }
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        if changes && !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(Error::AccessDenied);
        }
        let is_dev = request.uri().path().starts_with("/dev/");
        if (changes && !is_dev || !self.address.ip().is_loopback()) && !self.has_token(headers) {
            return Err(Error::Unauthorized);
        }
        Ok(())
    }

    fn is_our_host(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (host, Some(80)),
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let loopback =
            bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let own = bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip == self.address.ip());
        port == Some(self.address.port()) && (loopback || own)
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let sent =
            one(headers, header::AUTHORIZATION).and_then(|line| line.strip_prefix("Bearer "));
        // Hashed first, so that the comparison tells nothing of the length either.
        sent.is_some_and(|sent| {
            same(
                &sha256(sent.as_bytes()),
                &sha256(self.token.reveal().as_bytes()),
            )
        })
    }
}

fn one(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.to_str().ok(),
        _ => None,
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.scrape()).into_response()
}

/// Reads the configuration again, as SIGHUP does, and tells what came of it.
async fn reload(State(app): State<Arc<App>>) -> Result<Answer, Error> {
    // On a thread that may block: it reads files and compiles rules.
    let reloading = tokio::task::spawn_blocking(move || app.reload_from_source());
    let done = reloading
        .await
        .map_err(|error| Error::Internal(error.into()))?
        .map_err(|problems| Error::InvalidConfiguration(problems.0))?;
    Ok(Answer::ok("Reloaded")
        .with("generation", done.generation)
        .with("changed", done.changed)
        .with("needsRestart", done.needs_restart))
}
