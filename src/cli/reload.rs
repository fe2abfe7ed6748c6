//! `config reload`: asks the running process, through its admin listener, to read its configuration again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::config::Config;

/// How long the running process may take to answer. Compiling the largest guard takes about a second.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(config: &Config, json: bool) -> Result<(), String> {
    let at = reachable(config.admin.listen);
    let answered = tokio::time::timeout(PATIENCE, ask(config, at)).await;
    let (status, body) = answered
        .map_err(|_| format!("{at} has not answered within {} s", PATIENCE.as_secs()))??;
    match status {
        StatusCode::OK if json => super::print_json(&body),
        StatusCode::OK => {
            println!("{}", told(&body));
            Ok(())
        }
        StatusCode::UNAUTHORIZED => Err(format!(
            "the process at {at} has another admin token; use the server.data_dir that it was started with"
        )),
        _ => Err(refused(&body)),
    }
}

/// `POST /reload` with the token of `server.data_dir`.
async fn ask(config: &Config, at: SocketAddr) -> Result<(StatusCode, Value), String> {
    let nobody = |error: &dyn std::fmt::Display| {
        format!(
            "no process answers at admin.listen, {at} ({error}); if that address was changed, it needs a restart"
        )
    };
    let stream = TcpStream::connect(at).await.map_err(|e| nobody(&e))?;
    let path = config.server.data_dir.join("admin.token");
    let token = std::fs::read_to_string(&path)
        .map_err(|error| format!("{}: can't be read: {error}", path.display()))?;
    let request = Request::post("/reload")
        .header(header::HOST, at.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
        .body(Empty::<Bytes>::new())
        .map_err(|_| format!("{}: holds no token", path.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| nobody(&e))?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| nobody(&e))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|e| nobody(&e))?;
    let body = serde_json::from_slice(&body.to_bytes())
        .map_err(|_| format!("what listens at {at} is no cargoextra"))?;
    Ok((status, body))
}

/// Who listens on all addresses is reached on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn told(body: &Value) -> String {
    let mut text = format!("Reloaded: configuration {}", body["generation"]);
    let changed = list(&body["changed"], ", ");
    text += &if changed.is_empty() {
        "; nothing had changed in guard, limits and routes.".to_owned()
    } else {
        format!("; in force now: {changed}.")
    };
    let needs_restart = list(&body["needsRestart"], ", ");
    if !needs_restart.is_empty() {
        text += &format!("\nNot in force before a restart: {needs_restart}.");
    }
    text
}

fn refused(body: &Value) -> String {
    let message = body["message"].as_str().unwrap_or("refused");
    match list(&body["problems"], "\n") {
        problems if problems.is_empty() => message.to_owned(),
        problems => format!("{message}\n{problems}"),
    }
}

fn list(value: &Value, between: &str) -> String {
    let words = value.as_array().into_iter().flatten();
    words
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(between)
}
