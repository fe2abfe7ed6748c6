//! A new account: the form, then the code that proves the address.

use super::kept::{Flow, REGISTRATION};
use super::recover::{FORGOT, minutes_left, resent, seconds_until, wrong_address, wrong_code};
use super::refusal::Refusal;
use super::visit::{Answered, Form, Visit};
use crate::accounts::password;
use crate::accounts::register as registering;
use crate::error::Error;
use crate::random::Secret;
use crate::web::views::{Register, Verify};

const VERIFY: &str = "/account/verify";

/// What stands in the form's fields.
#[derive(Debug, Default)]
struct Typed {
    email: String,
    first_name: Option<String>,
    last_name: Option<String>,
    phone: Option<String>,
}

impl Typed {
    fn of(form: &Form) -> Self {
        Self {
            email: form.text("email").trim().to_owned(),
            first_name: form.optional("firstName"),
            last_name: form.optional("lastName"),
            phone: form.optional("phone"),
        }
    }

    /// As people write them, with spaces and dashes.
    fn bare_phone(&self) -> Option<String> {
        let bare = |phone: &String| phone.replace([' ', '-', '/', '.', '(', ')', '\u{a0}'], "");
        self.phone.as_ref().map(bare)
    }
}

pub async fn page(mut visit: Visit) -> Answered {
    show(&mut visit, &Refusal::default(), &Typed::default())
}

pub async fn register(mut visit: Visit, form: Form) -> Answered {
    let typed = Typed::of(&form);
    let chosen = form.text("password");
    // The flow checks the same and stops at the first thing; a person is told of both at once.
    let wrong = [
        ("email", wrong_address(&typed.email)),
        ("password", wrong_password(&visit, chosen, &typed).await),
    ];
    if let Some(refusal) = Refusal::of_fields(wrong) {
        return show(&mut visit, &refusal, &typed);
    }
    let form = registering::Form {
        email: typed.email.clone(),
        password: Secret::new(chosen.to_owned()),
        first_name: typed.first_name.clone(),
        last_name: typed.last_name.clone(),
        phone: typed.bare_phone(),
    };
    match registering::register(visit.app(), &visit.client, &form).await {
        Ok(reference) => {
            let flow = flow(&visit, &typed.email, reference);
            visit.keep(&REGISTRATION, &flow);
            Ok(visit.go(VERIFY))
        }
        Err(error) => show(&mut visit, &Refusal::of(error, "")?, &typed),
    }
}

async fn wrong_password(visit: &Visit, chosen: &str, typed: &Typed) -> String {
    if chosen.is_empty() {
        return "Choose a password.".to_owned();
    }
    let names = [&typed.first_name, &typed.last_name, &typed.phone];
    let mut own = vec![typed.email.as_str()];
    own.extend(names.into_iter().flatten().map(String::as_str));
    match password::check(visit.app(), chosen, &own).await {
        Err(Error::WeakPassword(reasons)) => reasons.join(" "),
        _ => String::new(),
    }
}

fn flow(visit: &Visit, email: &str, reference: String) -> Flow {
    let now = visit.app().clock.now();
    let settings = &visit.app().config.accounts.reset;
    Flow {
        email: email.to_owned(),
        reference,
        expires_at: now + settings.code_life.0,
        resend_at: now + settings.resend_after.0,
    }
}

fn show(visit: &mut Visit, refusal: &Refusal, typed: &Typed) -> Answered {
    let csrf = visit.csrf();
    let policy = &visit.app().config.accounts.password;
    let page = Register {
        shell: visit.shell(),
        csrf: &csrf,
        errors: &refusal.errors,
        email: &typed.email,
        first_name: typed.first_name.as_deref().unwrap_or_default(),
        last_name: typed.last_name.as_deref().unwrap_or_default(),
        phone: typed.phone.as_deref().unwrap_or_default(),
        min: policy.min_length,
        max: policy.max_length,
    };
    visit.show(refusal, &page)
}

/// Only where the registration was begun: whoever is sent a link to a code must not confirm what somebody else registered (the page on
/// which they land says what to do instead).
pub async fn code_page(mut visit: Visit) -> Answered {
    let Some(flow) = visit.read(&REGISTRATION) else {
        return Ok(visit.go(FORGOT));
    };
    let told = visit.told(VERIFY);
    show_code(&mut visit, &flow, &Refusal::default(), &told.text, "")
}

pub async fn verify(mut visit: Visit, form: Form) -> Answered {
    let Some(flow) = visit.read(&REGISTRATION) else {
        return Ok(visit.go(FORGOT));
    };
    if form.text("action") == "resend" {
        return resend(visit, flow).await;
    }
    let code = form.text("code");
    match registering::verify(visit.app(), &visit.client, code).await {
        Ok(email) => {
            visit.forget(&REGISTRATION);
            let text = "Your address is confirmed. Sign in now.";
            visit.tell(super::enter::LOGIN, text, &email);
            Ok(visit.go(super::enter::LOGIN))
        }
        Err(error) => {
            let refusal = Refusal::of(error, &wrong_code(code, &flow.reference))?;
            show_code(&mut visit, &flow, &refusal, "", code)
        }
    }
}

async fn resend(mut visit: Visit, flow: Flow) -> Answered {
    match registering::resend(visit.app(), &visit.client, &flow.email).await {
        Ok(reference) => {
            let left = seconds_until(flow.resend_at, visit.app().clock.now());
            let text = resent(&flow.reference, &reference, left);
            if reference != flow.reference {
                let flow = self::flow(&visit, &flow.email, reference);
                visit.keep(&REGISTRATION, &flow);
            }
            visit.tell(VERIFY, &text, "");
            Ok(visit.go(VERIFY))
        }
        Err(error) => {
            let refusal = Refusal::of(error, "")?;
            show_code(&mut visit, &flow, &refusal, "", "")
        }
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
    let page = Verify {
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
