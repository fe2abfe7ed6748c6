//! Whether the process lives, and whether it can do its work.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::answer::{Answer, json_response};
use crate::app::App;
use crate::clock::Millis;

/// A mail that waits longer is late.
pub const DELAYED: Millis = 5 * 60_000;

/// The process answers: that is all it says.
pub async fn alive() -> Answer {
    Answer::ok("alive").no_store()
}

/// Per part. Mail that waits is told, but does not make us unready: people can still sign in. How much waits is the operator's business
/// (`/metrics`): whoever could watch the queue grow by one would learn whether an address has an account.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let depth = app.mail_depth().await;
    let database = depth.is_ok();
    let mail = depth.map_or("unknown", |depth| {
        let late = depth
            .oldest
            .is_some_and(|oldest| app.clock.now() - oldest > DELAYED);
        if late { "delayed" } else { "ok" }
    });
    let (status, message) = if app.draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if database {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let body = json!({
        "message": message,
        "parts": {
            "database": { "status": if database { "ok" } else { "unreachable" } },
            "limits": { "status": "ok", "store": "memory" },
            "mail": { "status": mail },
        },
    });
    json_response(status, &body)
}
