//! `/api/v1/user/…`: the calls of the contract. Each reads its fields in the contract's order, calls one flow, and writes the answer.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};

use super::answer::Answer;
use super::fields::Fields;
use super::limits::{self, Asked};
use super::session as cookies;
use crate::accounts::reset_password::{self, Grant};
use crate::accounts::session::{Credential, SignedIn, authenticate};
use crate::accounts::{Account, Client, login as sign_in, register as registering, session};
use crate::app::App;
use crate::clock::rfc3339;
use crate::error::Error;

type Call = (State<Arc<App>>, Extension<Client>, Request<Body>);
type Outcome = Result<Answer, Error>;

/// The same in both disclosure modes and for every address.
const CODE_ON_ITS_WAY: &str = "If there is an account for this address, a code is on its way to it";

pub async fn forgot_password(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Outcome {
    let fields = Fields::read(&app, request).await?;
    let asked = reset_password::forgot(&app, &client, fields.address(&app)?).await?;
    Ok(Answer::ok(CODE_ON_ITS_WAY)
        .with("reference", asked.reference)
        .with("expiresIn", asked.expires_in)
        .with("resendAfter", asked.resend_after))
}

pub async fn confirm_otp_reset(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Outcome {
    let fields = Fields::read(&app, request).await?;
    let code = fields.required("resetToken")?;
    let grant_only = match fields.optional("proof")?.as_deref() {
        None => false,
        Some("grant") => true,
        Some(_) => return Err(Error::InvalidField("proof")),
    };
    let confirmed = reset_password::confirm(&app, &client, code, grant_only).await?;
    Ok(Answer::ok("Code confirmed; choose a new password")
        .with("email", confirmed.email)
        .with("resetGrant", confirmed.grant.reveal().as_str())
        .cookie(cookies::grant(&app, &confirmed.grant))
        .no_store())
}

pub async fn password_reset(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Outcome {
    let headers = request.headers().clone();
    let fields = Fields::read(&app, request).await?;
    let (password, email) = (fields.required_secret("password")?, fields.address(&app)?);
    let grant = grant(&fields, &headers);
    reset_password::reset(&app, &client, email, password.reveal(), &grant).await?;
    let done = Answer::ok("Password changed; sign in with the new one").no_store();
    Ok(cookies::forget(&app).into_iter().fold(done, Answer::cookie))
}

/// Body field if the key is present at all, else header, else cookie. Whatever is sent and is no single string is a wrong grant.
fn grant(fields: &Fields, headers: &HeaderMap) -> Grant {
    if let Some(value) = fields.raw("resetGrant") {
        return Grant::Sent(value.as_str().map(str::to_owned));
    }
    let mut lines = headers.get_all("x-reset-grant").iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => return Grant::Sent(line.to_str().ok().map(str::to_owned)),
        (Some(_), Some(_)) => return Grant::Sent(None),
        (None, _) => {}
    }
    match cookies::cookie(headers, cookies::GRANT) {
        cookies::Sent::Nothing => Grant::NotSent,
        cookies::Sent::Once(value) => Grant::Sent(Some(value.to_owned())),
        cookies::Sent::Twice => Grant::Sent(None),
    }
}

pub async fn register(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Outcome {
    let fields = Fields::read(&app, request).await?;
    let form = registering::Form {
        email: fields.required("email")?.to_owned(),
        password: fields.required_secret("password")?,
        first_name: fields.optional("firstName")?,
        last_name: fields.optional("lastName")?,
        phone: fields.optional("phone")?,
    };
    fields.address(&app)?;
    let reference = registering::register(&app, &client, &form).await?;
    Ok(
        Answer::ok("Registered; a code to confirm the address is on its way to it")
            .status(StatusCode::CREATED)
            .with("reference", reference),
    )
}

pub async fn resend_verification(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Outcome {
    let fields = Fields::read(&app, request).await?;
    let reference = registering::resend(&app, &client, fields.address(&app)?).await?;
    Ok(
        Answer::ok("If a registration waits for this address, a code is on its way to it")
            .with("reference", reference),
    )
}

pub async fn verify_email(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Outcome {
    let fields = Fields::read(&app, request).await?;
    let email = registering::verify(&app, &client, fields.required("verifyToken")?).await?;
    Ok(Answer::ok("Address confirmed; you can sign in now")
        .with("email", email)
        .no_store())
}

pub async fn login(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Outcome {
    let fields = Fields::read(&app, request).await?;
    let (password, email) = (fields.required_secret("password")?, fields.address(&app)?);
    let (account, begun) = sign_in::login(&app, &client, email, password.reveal()).await?;
    let token = session::token(&app, &begun.session);
    let answer = Answer::ok("Signed in")
        .with("token", token.reveal().as_str())
        .with("user", user(&account))
        .no_store();
    Ok(cookies::begun(&app, &begun)
        .into_iter()
        .fold(answer, Answer::cookie))
}

pub async fn check((State(app), _, request): Call) -> Outcome {
    let (credential, caller) = signed_in(&app, request).await?;
    let token = session::token(&app, &caller.session);
    let answer = Answer::ok("Signed in")
        .with("token", token.reveal().as_str())
        .with("user", user(&caller.account))
        .no_store();
    Ok(match credential {
        Credential::Cookie(secret) => answer.cookie(cookies::customer(&app, &secret)),
        _ => answer,
    })
}

pub async fn logout((State(app), Extension(client), request): Call) -> Outcome {
    let (_, caller) = signed_in(&app, request).await?;
    session::logout(&app, &client, &caller).await?;
    let done = Answer::ok("Signed out");
    Ok(cookies::forget(&app).into_iter().fold(done, Answer::cookie))
}

pub async fn logout_all((State(app), Extension(client), request): Call) -> Outcome {
    let (_, caller) = signed_in(&app, request).await?;
    session::logout_all(&app, &client, &caller.account.id).await?;
    let done = Answer::ok("Signed out everywhere");
    Ok(cookies::forget(&app).into_iter().fold(done, Answer::cookie))
}

pub async fn sessions((State(app), _, request): Call) -> Outcome {
    let (_, caller) = signed_in(&app, request).await?;
    let live = session::list(&app, &caller.account.id).await?;
    let shown = live.iter().map(|session| {
        json!({
            "id": session.id,
            "device": session.user_agent,
            "network": session.network,
            "createdAt": rfc3339(session.created_at),
            "lastSeenAt": rfc3339(session.seen_at),
            "current": session.id == caller.session.id,
        })
    });
    let list: Vec<Value> = shown.collect();
    Ok(Answer::ok("Your sessions")
        .with("sessions", list)
        .no_store())
}

pub async fn end_session(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    id: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Outcome {
    let (_, caller) = signed_in(&app, request).await?;
    let Path(id) = id.map_err(|_| Error::NotFound)?;
    session::end_one(&app, &client, &caller.account.id, &id).await?;
    let done = Answer::ok("Session ended");
    Ok(if id == caller.session.id {
        cookies::forget(&app).into_iter().fold(done, Answer::cookie)
    } else {
        done
    })
}

async fn signed_in(app: &App, request: Request<Body>) -> Result<(Credential, SignedIn), Error> {
    let credential = cookies::credential(request.headers());
    let asked = Asked::of(&request);
    // The body, which these calls have no use for, is not carried along.
    drop(request);
    let caller = authenticate(app, &credential).await?;
    limits::charge_signed_in(app, &asked, &caller)?;
    Ok((credential, caller))
}

/// `user` of the contract.
fn user(account: &Account) -> Value {
    json!({
        "id": account.id,
        "email": account.email,
        "emailVerified": account.verified_at.is_some(),
        "firstName": account.first_name,
        "lastName": account.last_name,
        "phone": account.phone,
        "createdAt": rfc3339(account.created_at),
    })
}
