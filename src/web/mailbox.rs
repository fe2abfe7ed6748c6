//! The developer's mailbox: mail that was captured instead of sent, for programs and for people.

use std::convert::Infallible;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, RawQuery, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{Stream, stream};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::answer::{Answer, json_response};
use super::pages::POLICY;
use super::pages::assets::Assets;
use super::server::{Stop, stopped};
use super::views::words::{code_in, text_parts};
use super::views::{MailRow, Mailbox, OpenMail, Shell};
use crate::accounts::email::canonical_or_nobody;
use crate::app::App;
use crate::clock::rfc3339;
use crate::error::Error;
use crate::mail::transport::{Captured, Mailroom};

/// A mail may look as it likes, but it loads nothing, runs nothing and leads nowhere.
const MAIL_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'self'; base-uri 'none'";

/// What the mailbox stands on.
struct Desk {
    app: Arc<App>,
    shell: Shell,
    assets: Assets,
    stop: Stop,
}

#[derive(Debug, Deserialize)]
struct Filter {
    to: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Look {
    #[serde(default)]
    to: String,
    id: Option<String>,
    #[serde(default)]
    view: String,
}

pub fn router(app: Arc<App>, stop: Stop) -> Router {
    let assets = Assets::of_mailbox(&app);
    let home = format!("{}/", app.config.server.public_origin);
    let mut shell = assets.shell("/dev/mailbox/assets", "mailbox.js", &app, &home);
    // Whoever reads this page is who would be written to.
    shell.support.clear();
    let desk = Arc::new(Desk {
        app,
        shell,
        assets,
        stop,
    });
    Router::new()
        .route("/dev/mailbox", get(page))
        .route("/dev/mailbox/messages", get(messages).delete(clear))
        .route("/dev/mailbox/messages/{id}/html", get(html))
        .route("/dev/mailbox/events", get(events))
        .route("/dev/mailbox/assets/{name}", get(asset))
        .with_state(desk)
}

/// JSON: newest first, of one address or of all.
async fn messages(
    State(desk): State<Arc<Desk>>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(filter) = filter.map_err(|_| Error::InvalidField("to"))?;
    let mails = mails_to(&desk.app, filter.to.as_deref())?;
    let list: Vec<Value> = mails.iter().map(json_of).collect();
    Ok(json_response(StatusCode::OK, &Value::Array(list)))
}

async fn clear(State(desk): State<Arc<Desk>>) -> Result<Answer, Error> {
    room(&desk.app)?.clear();
    Ok(Answer::ok("Mailbox cleared"))
}

/// The page: the list, and the chosen mail or the newest.
async fn page(State(desk): State<Arc<Desk>>, Query(look): Query<Look>) -> Result<Response, Error> {
    let to = look.to.trim();
    let mails = mails_to(&desk.app, Some(to).filter(|to| !to.is_empty()))?;
    let wanted = look.id.as_deref();
    let chosen = mails.iter().find(|mail| Some(mail.id.as_str()) == wanted);
    let open = chosen.or(mails.first());
    let rows: Vec<MailRow> = mails
        .iter()
        .map(|mail| row(mail, open.is_some_and(|open| open.id == mail.id)))
        .collect();
    let page = Mailbox {
        shell: &desk.shell,
        mails: &rows,
        to,
        open: open.map(opened),
        chosen: chosen.is_some(),
        view: match look.view.as_str() {
            "html" => "html",
            "source" => "source",
            _ => "text",
        },
    };
    let html = page
        .render()
        .map_err(|error| Error::Internal(Box::new(error)))?;
    Ok(html_under(&format!("{POLICY}; frame-src 'self'"), html))
}

/// The mail as its receiver's program would show it.
async fn html(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> Result<Response, Error> {
    let mails = room(&desk.app)?.list();
    let mail = mails.into_iter().find(|mail| mail.id == id);
    let mail = mail.ok_or(Error::NotFound)?;
    Ok(html_under(MAIL_POLICY, mail.html))
}

/// `event: mail` whenever the mailbox has changed.
async fn events(
    State(desk): State<Arc<Desk>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Error> {
    let changes = room(&desk.app)?.watch();
    // It ends when the process is to stop: an open page must not hold up the end.
    let listening = (changes, desk.stop.clone());
    let stream = stream::unfold(listening, async |(mut changes, mut stop)| {
        let change = tokio::select! {
            () = stopped(&mut stop) => return None,
            change = changes.recv() => change,
        };
        match change {
            Ok(()) | Err(RecvError::Lagged(_)) => {
                let event = Event::default().event("mail").data("{}");
                Some((Ok(event), (changes, stop)))
            }
            Err(RecvError::Closed) => None,
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

async fn asset(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Error> {
    desk.assets.answer(&name, query.as_deref())
}

fn room(app: &App) -> Result<&Mailroom, Error> {
    app.mail.mailroom().ok_or(Error::NotFound)
}

/// Newest first; addresses are compared in their canonical form.
fn mails_to(app: &App, to: Option<&str>) -> Result<Vec<Captured>, Error> {
    let mut mails = room(app)?.list();
    if let Some(to) = to {
        let wanted = canonical_or_nobody(to);
        mails.retain(|mail| canonical_or_nobody(&mail.to) == wanted);
    }
    Ok(mails)
}

fn html_under(policy: &str, html: String) -> Response {
    let policy = HeaderValue::try_from(policy).expect("a policy is plain text");
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    let mut response = (headers, html).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

fn row(mail: &Captured, current: bool) -> MailRow {
    MailRow {
        id: mail.id.clone(),
        to: mail.to.clone(),
        subject: mail.subject.clone(),
        sent_at: rfc3339(mail.sent_at),
        time: time(mail),
        current,
    }
}

fn opened(mail: &Captured) -> OpenMail {
    let headers = mail.headers.iter();
    let lines: String = headers
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    OpenMail {
        id: mail.id.clone(),
        from: mail.from.clone(),
        to: mail.to.clone(),
        subject: mail.subject.clone(),
        sent_at: rfc3339(mail.sent_at),
        time: time(mail),
        code: code_in(&mail.text).unwrap_or_default().to_owned(),
        text: text_parts(&mail.text),
        source: format!("{lines}\n{}", mail.text),
    }
}

/// `14:03:22 UTC`; the script shows the reader's own time.
fn time(mail: &Captured) -> String {
    let at = rfc3339(mail.sent_at);
    let clock = at.split('T').nth(1).unwrap_or_default();
    format!("{} UTC", clock.trim_end_matches('Z'))
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
