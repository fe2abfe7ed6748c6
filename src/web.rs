//! What people and programs reach: the stack that every request passes, our own calls, the admin listener.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use tower::ServiceExt;

use crate::accounts::Client;
use crate::app::App;
use crate::error::Error;
use crate::gateway::client_ip::{self, Network};
use pages::{ErrorFor, Pages};

pub mod admin;
mod answer;
mod docs;
mod fields;
mod mailbox;
pub mod openapi;
mod origin;
mod pages;
pub mod server;
mod session;
mod status;
mod user;
mod views;

/// Everything that answers on the public listeners.
pub struct Front {
    pub app: Arc<App>,
    pages: Arc<Pages>,
    router: Router,
}

impl Front {
    pub fn new(app: Arc<App>) -> Self {
        let pages = Arc::new(Pages::new(app.clone()));
        let router = router(app.clone(), &pages);
        Self { app, pages, router }
    }

    /// THE STACK: what happens to a request, outermost first.
    pub async fn answer(&self, peer: SocketAddr, mut request: Request<Body>) -> Response {
        let app = &*self.app;
        let started = app.clock.now();
        // Ours, whatever the client sent: an id that a stranger chooses would let him write into our log.
        let request_id = app.id();
        // Who calls, found out once; everything after uses this and never looks at the socket or the headers again.
        let client = identify(app, peer, request.headers_mut(), &request_id);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let origin = request.headers().get(header::ORIGIN).cloned();
        let network = client.network.clone();
        let error_for = ErrorFor::of(&request);
        request.extensions_mut().insert(client);
        // Before any body is read: a page of somebody else's must not be able to act for its visitor.
        let response = match origin::judge(app, &request) {
            Ok(()) if origin::is_preflight(app, &request) => StatusCode::NO_CONTENT.into_response(),
            Ok(()) => self.route(request).await,
            Err(error) => error.into_response(),
        };
        let is_error = answer::is_error(&response);
        let mut response = answer::finish(response, &request_id);
        // A browser that asked for a page gets one; its visitor could do nothing with JSON.
        if let Some(error_for) = error_for.filter(|_| is_error) {
            response = self.pages.error(&response, &error_for, &request_id);
        }
        origin::allow(app, origin.as_ref(), response.headers_mut());
        let nosniff = HeaderValue::from_static("nosniff");
        response
            .headers_mut()
            .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        let (status, millis) = (response.status().as_u16(), app.clock.now() - started);
        tracing::info!(request = request_id, network, %method, path, status, millis, "answered");
        response
    }

    /// Our own calls. A panic is an error of ours like any other: answered, logged, and the connection lives on.
    async fn route(&self, request: Request<Body>) -> Response {
        let answered = AssertUnwindSafe(self.router.clone().oneshot(request))
            .catch_unwind()
            .await;
        match answered {
            Ok(Ok(response)) => response,
            Err(_) => Error::internal("a handler panicked").into_response(),
        }
    }
}

fn identify(app: &App, peer: SocketAddr, headers: &mut HeaderMap, request_id: &str) -> Client {
    let config = &app.config.server;
    let source = app.config.client_address();
    let trusted = client_ip::is_trusted(&config.trusted_proxies, peer.ip());
    let forwarded = !trusted && client_ip::carries_forwarding(headers);
    let address = client_ip::resolve(source, &config.trusted_proxies, peer.ip(), headers);
    client_ip::strip(headers, source);
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let network = Network::from(address);
    Client {
        network: network.to_string(),
        loopback: network.is_loopback(),
        forwarded,
        user_agent: text(header::USER_AGENT).unwrap_or_default().to_owned(),
        device: match session::cookie(headers, session::DEVICE) {
            session::Sent::Once(value) => Some(value.to_owned()),
            _ => None,
        },
        request_id: request_id.to_owned(),
        page: false,
    }
}

/// Every route of ours in one list. `web::openapi` describes the API's; a test holds the two together.
fn router(app: Arc<App>, pages: &Arc<Pages>) -> Router {
    let user = Router::new()
        .route("/forgot-password", post(user::forgot_password))
        .route("/confirm-otp-reset", post(user::confirm_otp_reset))
        .route("/password-reset", post(user::password_reset))
        .route("/register", post(user::register))
        .route("/verify-email", post(user::verify_email))
        .route("/resend-verification", post(user::resend_verification))
        .route("/login", post(user::login))
        .route("/check", get(user::check))
        .route("/logout", post(user::logout))
        .route("/logout-all", post(user::logout_all))
        .route("/sessions", get(user::sessions))
        .route("/sessions/{id}", delete(user::end_session));
    Router::new()
        .nest("/api/v1/user", user)
        .route("/api/v1/openapi.json", get(docs::openapi))
        .route("/.well-known/jwks.json", get(docs::jwks))
        .route("/docs", get(docs::page))
        .route("/docs/", get(docs::page))
        .route("/docs/{file}", get(docs::file))
        .route("/healthz", get(status::alive))
        .route("/readyz", get(status::ready))
        .with_state(app)
        .merge(pages.router())
        .fallback(async || Error::NotFound)
        .method_not_allowed_fallback(async || Error::MethodNotAllowed)
}
