//! The demo's downstream service: a few shipments, and what a service behind the gateway gets to know about who asks.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use http::{HeaderMap, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Between two positions of a shipment that is followed.
const STEP: Duration = Duration::from_millis(700);
const STOPS: [&str; 4] = ["Hamburg", "Bremen", "Venlo", "Rotterdam"];

/// Starts it on a free port of this machine.
///
/// # Errors
/// One sentence.
pub async fn start() -> Result<SocketAddr, String> {
    let no_port = |error: std::io::Error| format!("the demo's service gets no port: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(no_port)?;
    let address = listener.local_addr().map_err(no_port)?;
    let router = Router::new()
        .route("/api/v1/shipment", get(list))
        .route("/api/v1/shipment/{id}", get(one))
        .route("/api/v1/shipment/{id}/positions", get(positions));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn list(headers: HeaderMap) -> Json<Value> {
    let shipments = ["4711", "4712"].map(shipment);
    Json(
        json!({ "message": "Your shipments", "shipments": shipments, "toldByTheGateway": told(&headers) }),
    )
}

async fn one(Path(id): Path<String>, headers: HeaderMap) -> Json<Value> {
    Json(
        json!({ "message": "Your shipment", "shipment": shipment(&id), "toldByTheGateway": told(&headers) }),
    )
}

fn shipment(id: &str) -> Value {
    json!({ "id": id, "from": STOPS[0], "to": STOPS[3], "state": "in transit" })
}

/// What the gateway adds to a request: it can't be sent by a client.
fn told(headers: &HeaderMap) -> Value {
    let ours = |name: &str| {
        name.starts_with("x-account") || name.starts_with("x-forwarded") || name == "x-request-id"
    };
    let told = headers.iter().filter(|(name, _)| ours(name.as_str()));
    told.map(|(name, value)| {
        (
            name.to_string(),
            Value::from(String::from_utf8_lossy(value.as_bytes())),
        )
    })
    .collect::<serde_json::Map<String, Value>>()
    .into()
}

/// An event stream: one event a stop.
async fn positions(Path(id): Path<String>) -> Response {
    let events = stream::unfold(0, move |at| {
        let id = id.clone();
        async move {
            let stop = STOPS.get(at)?;
            if at > 0 {
                let _ = tokio::time::timeout(STEP, std::future::pending::<()>()).await;
            }
            let event = format!(
                "event: position\ndata: {}\n\n",
                json!({ "id": id, "at": stop })
            );
            Some((Ok::<_, Infallible>(Bytes::from(event)), at + 1))
        }
    });
    (
        [(header::CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(events),
    )
        .into_response()
}
