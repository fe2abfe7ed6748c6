//! Whether the process lives, and whether it can do its work.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::answer::{Answer, json_response};
use crate::app::App;

/// The process answers: that is all it says.
pub async fn alive() -> Answer {
    Answer::ok("alive").no_store()
}

/// Per part. Mail that waits or is dead is told, but does not make us unready: people can still sign in.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let depth = app.mail_depth().await;
    let database = depth.is_ok();
    let mail = depth.map_or_else(
        |_| json!({ "status": "unknown" }),
        |depth| json!({ "status": "ok", "waiting": depth.waiting, "dead": depth.dead }),
    );
    let (status, message) = if database {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let body = json!({
        "message": message,
        "parts": {
            "database": { "status": if database { "ok" } else { "unreachable" } },
            "limits": { "status": "ok", "store": "memory" },
            "mail": mail,
        },
    });
    json_response(status, &body)
}
