//! The signed-in page: profile, sessions, signing out.

use axum::response::Response;
use http::StatusCode;

use super::enter::LOGIN;
use super::refusal::Refusal;
use super::visit::{Answered, Form, Visit};
use crate::accounts::session::{self as sessions, Credential, SignedIn};
use crate::clock::{for_people, rfc3339};
use crate::error::Error;
use crate::web::session as cookies;
use crate::web::views::words::{ago, device};
use crate::web::views::{Account, SessionRow};

pub const ACCOUNT: &str = "/account";

pub async fn page(mut visit: Visit) -> Answered {
    let Some((credential, caller)) = visit.signed_in().await? else {
        return Ok(turn_away(visit));
    };
    if let Credential::Cookie(secret) = &credential {
        // As with `check`: who comes back stays signed in.
        let fresh = cookies::customer(visit.app(), secret);
        visit.set([fresh]);
    }
    let told = visit.told(ACCOUNT);
    show(visit, &caller, &Refusal::default(), &told.text).await
}

pub async fn act(visit: Visit, form: Form) -> Answered {
    let Some((_, caller)) = visit.signed_in().await? else {
        return Ok(turn_away(visit));
    };
    match form.text("action") {
        "sign-out" => {
            sessions::logout(visit.app(), &visit.client, &caller).await?;
            Ok(leave(visit, "You are signed out."))
        }
        "sign-out-everywhere" => {
            sessions::logout_all(visit.app(), &visit.client, &caller.account.id).await?;
            Ok(leave(visit, "You are signed out everywhere."))
        }
        "end-session" => end(visit, &caller, form.text("session")).await,
        _ => Err(Error::MissingParameters),
    }
}

async fn end(mut visit: Visit, caller: &SignedIn, id: &str) -> Answered {
    let live = sessions::list(visit.app(), &caller.account.id).await?;
    let named = live.iter().find(|session| session.id == id);
    let name = named.map_or_else(String::new, |session| device(&session.user_agent));
    match sessions::end_one(visit.app(), &visit.client, &caller.account.id, id).await {
        Ok(()) if id == caller.session.id => Ok(leave(visit, "You are signed out.")),
        Ok(()) => {
            let text = format!("The session on {name} was ended.");
            visit.tell(ACCOUNT, &text, "");
            Ok(visit.go(ACCOUNT))
        }
        Err(Error::NotFound) => {
            let mut refusal = Refusal {
                status: StatusCode::NOT_FOUND,
                ..Refusal::default()
            };
            refusal.errors.problem = "That session had ended already.".to_owned();
            show(visit, caller, &refusal, "").await
        }
        Err(error) => Err(error),
    }
}

/// To the sign-in page; who had a session that has ended is told so.
fn turn_away(visit: Visit) -> Response {
    if visit.has_session_cookie() {
        leave(visit, "You were signed out. Sign in again.")
    } else {
        visit.go(LOGIN)
    }
}

fn leave(mut visit: Visit, words: &str) -> Response {
    let lines = cookies::forget(visit.app());
    visit.set(lines);
    visit.tell(LOGIN, words, "");
    visit.go(LOGIN)
}

async fn show(mut visit: Visit, caller: &SignedIn, refusal: &Refusal, notice: &str) -> Answered {
    let csrf = visit.csrf();
    let now = visit.app().clock.now();
    let live = sessions::list(visit.app(), &caller.account.id).await?;
    let rows = live.iter().map(|session| SessionRow {
        id: session.id.clone(),
        device: device(&session.user_agent),
        network: session.network.clone(),
        seen: ago(now - session.seen_at),
        seen_at: rfc3339(session.seen_at),
        current: session.id == caller.session.id,
    });
    let mut rows: Vec<SessionRow> = rows.collect();
    rows.sort_by_key(|row| !row.current);
    let account = &caller.account;
    let names = [&account.first_name, &account.last_name];
    let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
    let since = for_people(account.created_at);
    let page = Account {
        shell: visit.shell(),
        csrf: &csrf,
        errors: &refusal.errors,
        notice,
        email: &account.email,
        name: &names.join(" "),
        phone: account.phone.as_deref().unwrap_or_default(),
        since: since.split(',').next().unwrap_or_default(),
        sessions: &rows,
    };
    visit.show(refusal, &page)
}
