//! The hosted pages: the whole life of an account in a browser, with and without JavaScript.
//!
//! They call the very flows that the JSON calls use, always uniformly: no page tells whether an address is registered. A form that was
//! taken answers 303 to the next page; one that was refused is shown again, with the words at its field and the refusal's status.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::views::Shell;
use crate::app::App;
use assets::Assets;

mod account;
pub mod assets;
mod enter;
mod join;
mod kept;
mod recover;
mod refusal;
mod start;
mod visit;

/// What the stylesheet, the scripts and the forms need, and nothing else: no other host, nothing inline, no frame around us.
pub const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What all pages share.
#[derive(Debug)]
pub struct Pages {
    pub app: Arc<App>,
    pub shell: Shell,
    assets: Assets,
}

impl Pages {
    pub fn new(app: Arc<App>) -> Self {
        let assets = Assets::of_pages(&app);
        let shell = assets.shell("/account/assets", "script.js", &app, "/");
        Self { app, shell, assets }
    }

    /// Every page, to be merged into the router of our own calls.
    pub fn router(self: &Arc<Self>) -> Router {
        let pages = self.clone();
        Router::new()
            .route("/", get(start::page))
            .route("/account", get(account::page).post(account::act))
            .route("/account/register", get(join::page).post(join::register))
            .route("/account/verify", get(join::code_page).post(join::verify))
            .route("/account/login", get(enter::page).post(enter::sign_in))
            .route("/account/forgot", get(recover::page).post(recover::ask))
            .route(
                "/account/confirm",
                get(recover::code_page).post(recover::confirm),
            )
            .route(
                "/account/reset",
                get(recover::password_page).post(recover::reset),
            )
            .route("/account/done", get(recover::done))
            .route("/account/password-check", post(start::password_check))
            .route("/account/assets/{name}", get(assets::serve))
            .route("/.well-known/change-password", get(start::change_password))
            .route("/.well-known/security.txt", get(start::security_txt))
            .layer(map_response(armoured))
            .with_state(pages)
    }
}

async fn armoured(mut response: Response) -> Response {
    armour(response.headers_mut());
    response
}

/// The headers of every page, refusals included.
fn armour(headers: &mut HeaderMap) {
    let mut set = |name: HeaderName, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    // The pages say it again in a weaker form (templates/pages/layout.html), so that their own forms carry an origin.
    set(header::REFERRER_POLICY, "no-referrer");
    set(
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    );
    set(
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=()",
    );
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// The page that an error is shown on: the path to open again, if whoever asks is a browser that shows a page.
#[derive(Debug)]
pub struct ErrorFor {
    back: String,
}

impl ErrorFor {
    /// `None` where a program asks: no `text/html` in `Accept`, or a call of the API.
    pub fn of(request: &Request<Body>) -> Option<Self> {
        let path = request.uri().path();
        let accepts = request.headers().get_all(header::ACCEPT).iter();
        let is_browser = accepts
            .filter_map(|line| line.to_str().ok())
            .any(|line| line.contains("text/html"));
        let is_page = path.starts_with("/account/") || path == "/account";
        let back = if is_page { path } else { "" };
        (is_browser && !path.starts_with("/api/")).then(|| Self {
            back: back.to_owned(),
        })
    }
}
