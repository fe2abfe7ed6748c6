//! The start page, and the small things that browsers and their owners look for.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode, header};

use super::Pages;
use super::recover::FORGOT;
use super::refusal::Refusal;
use super::visit::{Answered, Visit};
use crate::accounts::password;
use crate::app::App;
use crate::clock::rfc3339;
use crate::error::Error;
use crate::web::answer::Answer;
use crate::web::fields::Fields;
use crate::web::views::{Start, StatusPart};

/// RFC 9116 recommends less than a year.
const SECURITY_TXT_LIFE: i64 = 180 * 86_400_000;

pub async fn page(visit: Visit) -> Answered {
    let app = visit.app();
    let status = status(app).await;
    // With the database down there is still a page that says so.
    let signed_in = visit.signed_in().await.is_ok_and(|caller| caller.is_some());
    let captured = app.mail.mailroom().is_some() && visit.client.loopback;
    let mailbox = if captured {
        format!("http://{}/dev/mailbox", app.config.admin.listen)
    } else {
        String::new()
    };
    let page = Start {
        shell: visit.shell(),
        signed_in,
        mailbox: &mailbox,
        status: &status,
        version: env!("CARGO_PKG_VERSION"),
    };
    visit.show(&Refusal::default(), &page)
}

async fn status(app: &App) -> [StatusPart; 2] {
    let depth = app.mail_depth().await;
    let database = depth.is_ok();
    // No counts: whoever could watch the queue grow by one would learn whether an address has an account.
    let late = |oldest| app.clock.now() - oldest > crate::web::status::DELAYED;
    let mail = match depth {
        Err(_) => "Unknown",
        Ok(depth) if depth.oldest.is_some_and(late) => "Delayed",
        Ok(_) => "Working",
    };
    [
        StatusPart {
            name: "Database",
            works: database,
            text: if database { "Working" } else { "Not reachable" }.to_owned(),
        },
        StatusPart {
            name: "Mail",
            works: mail == "Working",
            text: mail.to_owned(),
        },
    ]
}

/// The server's own words on a password, while it is typed. Nothing is kept of it.
pub async fn password_check(
    State(pages): State<Arc<Pages>>,
    request: Request<Body>,
) -> Result<Answer, Error> {
    let app = &pages.app;
    let fields = Fields::read(app, request).await?;
    let typed = fields.required_secret("password")?;
    let email = fields.optional("email")?.unwrap_or_default();
    let (ok, words) = match password::check(app, typed.reveal(), &[&email]).await {
        Ok(_) => (true, "Good: hard to guess.".to_owned()),
        Err(Error::WeakPassword(reasons)) => (false, reasons.join(" ")),
        Err(error) => return Err(error),
    };
    Ok(Answer::ok(&words).with("ok", ok).no_store())
}

/// Where password managers send people (W3C, "A Well-Known URL for Changing Passwords").
pub async fn change_password() -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, FORGOT)]).into_response()
}

/// RFC 9116.
pub async fn security_txt(State(pages): State<Arc<Pages>>) -> Result<Response, Error> {
    let app = &pages.app;
    let contact = &app.config.pages.security_contact;
    if contact.is_empty() {
        return Err(Error::NotFound);
    }
    let expires = rfc3339(app.clock.now() + SECURITY_TXT_LIFE);
    let origin = &app.config.server.public_origin;
    let text = format!(
        "Contact: {contact}\nExpires: {expires}\nPreferred-Languages: en\nCanonical: {origin}/.well-known/security.txt\n"
    );
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
