//! Recovery in four pages: the address, the code, the new password, done.

use http::StatusCode;

use super::kept::{DONE, Flow, GRANT, Grant, RECOVERY};
use super::refusal::{NO_ADDRESS, NOT_AN_ADDRESS, Refusal};
use super::visit::{Answered, Form, Visit};
use crate::accounts::email::Email;
use crate::accounts::reset_password::{self as recovery, Forgot as Asked};
use crate::error::Error;
use crate::random::Code;
use crate::web::session;
use crate::web::views::{Confirm, Done, Forgot, Reset};

pub const FORGOT: &str = "/account/forgot";
const CONFIRM: &str = "/account/confirm";
const RESET: &str = "/account/reset";

const TIME_IS_UP: &str = "Your time ran out. Ask for a new code; nothing was changed.";
const NO_LONGER: &str =
    "That step was finished or replaced already. If you still need a new password, begin again.";

// ------------------------------------------------------------------- the address

pub async fn page(mut visit: Visit) -> Answered {
    let told = visit.told(FORGOT);
    show(&mut visit, &Refusal::default(), &told.text, &told.email)
}

pub async fn ask(mut visit: Visit, form: Form) -> Answered {
    let email = form.text("email").trim();
    if let Some(refusal) = Refusal::of_fields([("email", wrong_address(email))]) {
        return show(&mut visit, &refusal, "", email);
    }
    match recovery::forgot(visit.app(), &visit.client, email).await {
        Ok(asked) => {
            let flow = flow(&visit, email, asked);
            visit.keep(&RECOVERY, &flow);
            Ok(visit.go(CONFIRM))
        }
        Err(error) => show(&mut visit, &Refusal::of(error, "")?, "", email),
    }
}

fn show(visit: &mut Visit, refusal: &Refusal, notice: &str, email: &str) -> Answered {
    let csrf = visit.csrf();
    let page = Forgot {
        shell: visit.shell(),
        csrf: &csrf,
        errors: &refusal.errors,
        notice,
        email,
    };
    visit.show(refusal, &page)
}

/// What is wrong with an address as such. It tells nothing of whether anybody has it.
pub fn wrong_address(email: &str) -> String {
    let wrong = match email {
        "" => NO_ADDRESS,
        _ if Email::parse(email).is_none() => NOT_AN_ADDRESS,
        _ => "",
    };
    wrong.to_owned()
}

fn flow(visit: &Visit, email: &str, asked: Asked) -> Flow {
    let now = visit.app().clock.now();
    Flow {
        email: email.to_owned(),
        reference: asked.reference,
        expires_at: now + 1000 * asked.expires_in,
        resend_at: now + 1000 * asked.resend_after,
    }
}

// ---------------------------------------------------------------------- the code

pub async fn code_page(mut visit: Visit) -> Answered {
    let Some(flow) = visit.read(&RECOVERY) else {
        return Ok(visit.go(FORGOT));
    };
    // Back from the next page: this code has done its work.
    let now = visit.app().clock.now();
    let confirmed = visit.read(&GRANT);
    if confirmed.is_some_and(|grant| grant.reference == flow.reference && grant.until > now) {
        return Ok(visit.go(RESET));
    }
    let told = visit.told(CONFIRM);
    show_code(&mut visit, &flow, &Refusal::default(), &told.text, "")
}

pub async fn confirm(mut visit: Visit, form: Form) -> Answered {
    let Some(flow) = visit.read(&RECOVERY) else {
        return Ok(visit.go(FORGOT));
    };
    if form.text("action") == "resend" {
        return resend(visit, flow).await;
    }
    let code = form.text("code");
    match recovery::confirm(visit.app(), &visit.client, code, true).await {
        Ok(confirmed) => {
            let life = visit.app().config.accounts.reset.confirmed_life.0;
            let grant = Grant {
                email: confirmed.email,
                grant: confirmed.grant.reveal().to_owned(),
                until: visit.app().clock.now() + life,
                reference: flow.reference,
            };
            visit.keep(&GRANT, &grant);
            Ok(visit.go(RESET))
        }
        Err(error) => {
            let refusal = Refusal::of(error, &wrong_code(code, &flow.reference))?;
            show_code(&mut visit, &flow, &refusal, "", code)
        }
    }
}

async fn resend(mut visit: Visit, flow: Flow) -> Answered {
    match recovery::forgot(visit.app(), &visit.client, &flow.email).await {
        Ok(asked) => {
            let text = resent(&flow.reference, &asked.reference, asked.resend_after);
            let flow = self::flow(&visit, &flow.email, asked);
            visit.keep(&RECOVERY, &flow);
            visit.tell(CONFIRM, &text, "");
            Ok(visit.go(CONFIRM))
        }
        Err(error) => {
            let refusal = Refusal::of(error, "")?;
            show_code(&mut visit, &flow, &refusal, "", "")
        }
    }
}

/// A new reference means that a mail was asked for; the old one, that the last mail counts.
pub fn resent(old: &str, new: &str, wait: i64) -> String {
    if old == new {
        let wait = crate::web::views::words::wait(wait.max(1) as u64);
        format!("No new mail yet: use the one that says {new}. You can ask again in {wait}.")
    } else {
        format!("Asked again. Use the mail that says {new}.")
    }
}

/// What to say of a code that does not work. Whether it was wrong, used or too old is not told, only whether it can be one at all.
pub fn wrong_code(code: &str, reference: &str) -> String {
    if code.trim().is_empty() {
        "Enter the code from the mail.".to_owned()
    } else if Code::parse(code).is_none() {
        "A code has ten letters and digits, like 7K3QM-X9T2B.".to_owned()
    } else {
        format!(
            "This code is wrong, used, or too old. Use the mail that says {reference}, or ask for another one."
        )
    }
}

fn show_code(
    visit: &mut Visit,
    flow: &Flow,
    refusal: &Refusal,
    notice: &str,
    code: &str,
) -> Answered {
    let csrf = visit.csrf();
    let now = visit.app().clock.now();
    let page = Confirm {
        shell: visit.shell(),
        csrf: &csrf,
        errors: &refusal.errors,
        notice,
        email: &flow.email,
        reference: &flow.reference,
        code,
        minutes: minutes_left(flow, refusal, now),
        resend_after: seconds_until(flow.resend_at, now),
    };
    visit.show(refusal, &page)
}

/// Minutes that are left of a flow's code. A refusal keeps the form that was refused, whatever the time.
pub fn minutes_left(flow: &Flow, refusal: &Refusal, now: i64) -> i64 {
    let least = i64::from(refusal.status != StatusCode::OK);
    (seconds_until(flow.expires_at, now) + 59)
        .div_euclid(60)
        .max(least)
}

pub fn seconds_until(at: i64, now: i64) -> i64 {
    ((at - now + 999) / 1000).max(0)
}

// ------------------------------------------------------------- the new password

pub async fn password_page(mut visit: Visit) -> Answered {
    let now = visit.app().clock.now();
    match visit.read(&GRANT) {
        Some(grant) if grant.until > now => show_reset(&mut visit, &grant, &Refusal::default()),
        Some(grant) => Ok(begin_again(visit, &grant)),
        None => Ok(visit.go(FORGOT)),
    }
}

pub async fn reset(mut visit: Visit, form: Form) -> Answered {
    let Some(grant) = visit.read(&GRANT) else {
        return Ok(visit.go(FORGOT));
    };
    let password = form.text("password");
    if password.is_empty() {
        let missing = [("password", "Choose a password.".to_owned())];
        let refusal = Refusal::of_fields(missing).unwrap_or_default();
        return show_reset(&mut visit, &grant, &refusal);
    }
    let proof = recovery::Grant::Sent(Some(grant.grant.clone()));
    let reset = recovery::reset(visit.app(), &visit.client, &grant.email, password, &proof);
    match reset.await {
        Ok(()) => {
            let lines = session::forget(visit.app());
            visit.set(lines);
            visit.forget(&GRANT);
            visit.forget(&RECOVERY);
            visit.keep(&DONE, &true);
            Ok(visit.go("/account/done"))
        }
        Err(Error::InvalidRequest) => Ok(begin_again(visit, &grant)),
        Err(error) => show_reset(&mut visit, &grant, &Refusal::of(error, "")?),
    }
}

fn begin_again(mut visit: Visit, grant: &Grant) -> axum::response::Response {
    let text = if grant.until <= visit.app().clock.now() {
        TIME_IS_UP
    } else {
        NO_LONGER
    };
    visit.forget(&GRANT);
    visit.tell(FORGOT, text, &grant.email);
    visit.go(FORGOT)
}

fn show_reset(visit: &mut Visit, grant: &Grant, refusal: &Refusal) -> Answered {
    let csrf = visit.csrf();
    let left = grant.until - visit.app().clock.now();
    let policy = &visit.app().config.accounts.password;
    let page = Reset {
        shell: visit.shell(),
        csrf: &csrf,
        errors: &refusal.errors,
        email: &grant.email,
        minutes: ((left + 59_999) / 60_000).max(1),
        min: policy.min_length,
        max: policy.max_length,
    };
    visit.show(refusal, &page)
}

pub async fn done(visit: Visit) -> Answered {
    match visit.read(&DONE) {
        Some(true) => visit.show(
            &Refusal::default(),
            &Done {
                shell: visit.shell(),
            },
        ),
        _ => Ok(visit.go(FORGOT)),
    }
}
