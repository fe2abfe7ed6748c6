//! The developer's mailbox: mail that was captured instead of sent.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{Html, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::{Answer, json_response};
use crate::accounts::email::canonical_or_nobody;
use crate::app::App;
use crate::clock::rfc3339;
use crate::error::Error;
use crate::mail::transport::{Captured, Mailroom};

#[derive(Debug, Deserialize)]
pub struct Filter {
    to: Option<String>,
}

/// JSON: newest first, of one address or of all.
pub async fn messages(
    State(app): State<Arc<App>>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(filter) = filter.map_err(|_| Error::InvalidField("to"))?;
    let mut mails = room(&app)?.list();
    if let Some(to) = &filter.to {
        let wanted = canonical_or_nobody(to);
        mails.retain(|mail| canonical_or_nobody(&mail.to) == wanted);
    }
    let list: Vec<Value> = mails.iter().map(json_of).collect();
    Ok(json_response(StatusCode::OK, &Value::Array(list)))
}

pub async fn clear(State(app): State<Arc<App>>) -> Result<Answer, Error> {
    room(&app)?.clear();
    Ok(Answer::ok("Mailbox cleared"))
}

/// The page: what was captured, newest first, as text.
pub async fn page(State(app): State<Arc<App>>) -> Result<Html<String>, Error> {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Mailbox</title><h1>Mailbox</h1>",
    );
    for mail in room(&app)?.list() {
        let parts = [&mail.subject, &mail.to, &mail.text].map(|part| escape(part));
        let [subject, to, text] = parts;
        page += &format!("<article><h2>{subject}</h2><p>to {to}</p><pre>{text}</pre></article>");
    }
    Ok(Html(page))
}

fn room(app: &App) -> Result<&Mailroom, Error> {
    app.mail.mailroom().ok_or(Error::NotFound)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

fn json_of(mail: &Captured) -> Value {
    let headers: Map<String, Value> = mail
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    json!({
        "id": mail.id,
        "to": mail.to,
        "from": mail.from,
        "subject": mail.subject,
        "text": mail.text,
        "html": mail.html,
        "headers": headers,
        "sentAt": rfc3339(mail.sent_at),
    })
}
